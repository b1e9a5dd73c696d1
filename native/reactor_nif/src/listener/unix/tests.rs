//! Paths of Unix sockets: whose they are, and who takes them over.

use super::*;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

/// A directory that is removed with everything in it.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("reactor-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Dir(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn socket() -> Socket {
    Socket::new(Domain::UNIX, Type::STREAM, None).unwrap()
}

fn bound(path: &Path) -> (Socket, Claim) {
    let socket = socket();
    let claim = bind(&socket, path, &Access::default()).unwrap_or_else(|e| panic!("{e:?}"));
    (socket, claim)
}

fn refusal(path: &Path, access: &Access) -> Refusal {
    bind(&socket(), path, access).map(|_| ()).unwrap_err()
}

fn in_use(path: &Path) -> bool {
    let refusal = refusal(path, &Access::default());
    matches!(refusal, Refusal::Reason(reason) if reason.name() == "eaddrinuse")
}

#[test]
fn what_a_dead_server_left_is_replaced_and_what_lives_is_not() {
    let dir = Dir::new("stale");
    let path = dir.path("a.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let (ours, claim) = bound(&path);
    // Bound and not yet listening: nobody can connect, and it counts as alive.
    assert!(UnixStream::connect(&path).is_err());
    assert!(in_use(&path));
    ours.listen(1).unwrap();
    UnixStream::connect(&path).unwrap();
    assert!(in_use(&path));
    claim.release();
    assert!(!path.exists());

    let datagrams = dir.path("b.sock");
    let other = UnixDatagram::bind(&datagrams).unwrap();
    assert!(in_use(&datagrams));
    drop(other);
    bound(&datagrams);
}

#[test]
fn many_that_replace_the_same_one_leave_exactly_one() {
    let dir = Dir::new("race");
    let path = dir.path("a.sock");
    for _ in 0..50 {
        drop(UnixListener::bind(&path).unwrap());
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let path = path.clone();
                std::thread::spawn(move || {
                    let socket = socket();
                    let claim = bind(&socket, &path, &Access::default()).ok();
                    claim.map(|claim| (socket, claim))
                })
            })
            .collect();
        let won: Vec<_> = threads
            .into_iter()
            .filter_map(|thread| thread.join().unwrap())
            .collect();
        assert_eq!(won.len(), 1);
        for (socket, claim) in won {
            socket.listen(1).unwrap();
            UnixStream::connect(&path).unwrap();
            claim.release();
        }
        assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 0);
    }
}

#[test]
fn what_is_no_socket_is_never_removed() {
    let dir = Dir::new("file");
    let file = dir.path("file");
    fs::write(&file, "precious").unwrap();
    let link = dir.path("link");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    for (path, kind) in [
        (&file, "a regular file"),
        (&link, "a symbolic link"),
        (&dir.0, "a directory"),
    ] {
        match refusal(path, &Access::default()) {
            Refusal::Option(Wrong::Ip, text) => assert!(text.contains(kind), "{text}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(fs::read_to_string(&link).unwrap(), "precious");
}

#[test]
fn a_path_that_is_somebody_elses_by_now_stays() {
    let dir = Dir::new("theirs");
    let path = dir.path("a.sock");
    let (_ours, claim) = bound(&path);
    fs::remove_file(&path).unwrap();
    let _theirs = UnixListener::bind(&path).unwrap();
    claim.release();
    UnixStream::connect(&path).unwrap();
}

#[test]
fn the_mode_is_that_which_was_asked_for_whatever_the_umask() {
    let dir = Dir::new("mode");
    for (index, mode) in [0o600, 0o666, 0o777].into_iter().enumerate() {
        let path = dir.path(&format!("{index}.sock"));
        let access = Access {
            mode: Some(mode),
            ..Access::default()
        };
        bind(&socket(), &path, &access).unwrap_or_else(|e| panic!("{e:?}"));
        let found = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(found & 0o777, mode);
    }
}

#[test]
fn an_unknown_owner_is_named_and_nothing_is_left_behind() {
    let dir = Dir::new("owner");
    let path = dir.path("a.sock");
    let nobody = || Some(Id::Name("no such one".to_owned()));
    let owner = Access {
        owner: nobody(),
        ..Access::default()
    };
    let group = Access {
        group: nobody(),
        ..Access::default()
    };
    for (access, kind) in [(owner, "user"), (group, "group")] {
        match refusal(&path, &access) {
            Refusal::Option(Wrong::Unix, text) => {
                assert!(
                    text.contains(&format!("no {kind} \"no such one\"")),
                    "{text}"
                );
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(!path.exists());
}
