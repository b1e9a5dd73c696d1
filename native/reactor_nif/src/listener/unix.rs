//! Unix sockets in the file system: whose path it is, and who may connect there.
//!
//! All of this waits for the file system: not for normal schedulers.

use std::fs::{self, File, FileType, Metadata, TryLockError};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::stat::{fchmodat, FchmodatFlags, Mode};
use nix::unistd::{Group, User};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::listener::open::{Refusal, Wrong};

/// How often a path may be taken by somebody else while we clear it.
const ATTEMPTS: usize = 8;
/// How long to wait for others who clear a path, and for how long at a time.
const PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(1);

/// Who may connect: what is not said stays as the kernel makes it, by the umask.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// The permissions of the path.
    pub mode: Option<u32>,
    /// Its user.
    pub owner: Option<Id>,
    /// Its group.
    pub group: Option<Id>,
}

/// A user or a group.
#[derive(Clone, Debug)]
pub enum Id {
    /// By its number.
    Number(u32),
    /// By its name.
    Name(String),
}

/// A path that one of our sockets is bound to, as long as that is open.
pub struct Claim {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Claim {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(Claim {
            path: path.to_owned(),
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }

    /// Removes the path, unless somebody has put something else there.
    pub fn release(self) {
        let same = |metadata: Metadata| (metadata.dev(), metadata.ino());
        match fs::symlink_metadata(&self.path).map(same) {
            Ok(found) if found == (self.device, self.inode) => {
                if let Err(error) = fs::remove_file(&self.path) {
                    let path = self.path.display();
                    tracing::warn!(%path, %error, "the path of a Unix socket could not be removed");
                }
            }
            _ => {}
        }
    }
}

/// Binds a socket to a path. What a dead server has left there is replaced; nobody can connect before
/// the socket listens, and by then the path is as `access` says.
pub fn bind(socket: &Socket, path: &Path, access: &Access) -> Result<Claim, Refusal> {
    let address = SockAddr::unix(path)?;
    let owner = access.owner.as_ref().map(user).transpose()?;
    let group = access.group.as_ref().map(group).transpose()?;
    for _ in 0..ATTEMPTS {
        match socket.bind(&address) {
            Ok(()) => {
                let claim = Claim::of(path)?;
                return match admit(path, access.mode, owner, group) {
                    Ok(()) => Ok(claim),
                    Err(refusal) => {
                        claim.release();
                        Err(refusal)
                    }
                };
            }
            Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) => clear(path)?,
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::Error::from_raw_os_error(libc::EADDRINUSE).into())
}

fn user(id: &Id) -> Result<u32, Refusal> {
    match id {
        Id::Number(uid) => Ok(*uid),
        Id::Name(name) => match User::from_name(name).map_err(io::Error::from)? {
            Some(user) => Ok(user.uid.as_raw()),
            None => Err(unknown("owner", "user", name)),
        },
    }
}

fn group(id: &Id) -> Result<u32, Refusal> {
    match id {
        Id::Number(gid) => Ok(*gid),
        Id::Name(name) => match Group::from_name(name).map_err(io::Error::from)? {
            Some(group) => Ok(group.gid.as_raw()),
            None => Err(unknown("group", "group", name)),
        },
    }
}

fn unknown(option: &str, kind: &str, name: &str) -> Refusal {
    let text = format!("options whose :{option} exists (there is no {kind} {name:?})");
    Refusal::Option(Wrong::Unix, text)
}

/// Sets the permissions of what was bound there; never of what a link points to.
fn admit(
    path: &Path,
    mode: Option<u32>,
    owner: Option<u32>,
    group: Option<u32>,
) -> Result<(), Refusal> {
    let refused = |what: &str, error: io::Error| {
        let text = format!("options that this process may set (to {what} {path:?}: {error})");
        Refusal::Option(Wrong::Unix, text)
    };
    if let Some(mode) = mode {
        set_mode(path, mode).map_err(|error| refused("change the mode of", error))?;
    }
    if owner.is_some() || group.is_some() {
        std::os::unix::fs::lchown(path, owner, group)
            .map_err(|error| refused("change the owner of", error))?;
    }
    Ok(())
}

fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    let bits = Mode::from_bits_truncate(mode as libc::mode_t);
    let flag = FchmodatFlags::NoFollowSymlink;
    match fchmodat(nix::fcntl::AT_FDCWD, path, bits, flag) {
        // Older C libraries cannot, nor newer ones without /proc. Nobody listens there yet.
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS)
            if fs::symlink_metadata(path)?.file_type().is_socket() =>
        {
            fs::set_permissions(path, fs::Permissions::from_mode(mode))
        }
        result => result.map_err(io::Error::from),
    }
}

/// Makes room at a path where a bind found something: only for what is a socket, and dead.
fn clear(path: &Path) -> Result<(), Refusal> {
    // What is found dead must still be there when it is removed, and not what another server, that
    // clears it too, has put in its place.
    let _lock = lock(path)?;
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?.file_type(),
    };
    if !found.is_socket() {
        let kind = kind(found);
        let text = format!(
            "a path that is free, or a Unix socket's (there is {kind}, which is left alone)"
        );
        return Err(Refusal::Option(Wrong::Ip, text));
    }
    if alive(path)? {
        return Err(io::Error::from_raw_os_error(libc::EADDRINUSE).into());
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Keeps other servers of this package from clearing a path in the same directory, as long as it is
/// held. None where the directory may not be read: then they cannot be kept away.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let Ok(directory) = File::open(parent.unwrap_or(Path::new("."))) else {
        return Ok(None);
    };
    let until = Instant::now() + PATIENCE;
    loop {
        match directory.try_lock() {
            Ok(()) => return Ok(Some(directory)),
            // A lock tells nobody when it is free.
            Err(TryLockError::WouldBlock) if Instant::now() < until => thread::sleep(PAUSE),
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::from_raw_os_error(libc::EADDRINUSE));
            }
            // Not every file system has locks.
            Err(TryLockError::Error(_)) => return Ok(None),
        }
    }
}

/// True when a socket is bound there, listening or about to. One of another type than its own is asked
/// for: so nobody's listener sees a client that is none.
fn alive(path: &Path) -> io::Result<bool> {
    let probe = Socket::new(Domain::UNIX, Type::DGRAM.nonblocking().cloexec(), None)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Ok(()) => Ok(true),
        Err(error) => match error.raw_os_error() {
            Some(libc::ECONNREFUSED | libc::ENOENT) => Ok(false),
            Some(libc::EACCES | libc::EPERM) => Err(error),
            _ => Ok(true),
        },
    }
}

/// What something is that is no socket.
pub fn kind(file: FileType) -> &'static str {
    if file.is_dir() {
        "a directory"
    } else if file.is_symlink() {
        "a symbolic link"
    } else if file.is_fifo() {
        "a pipe"
    } else if file.is_char_device() || file.is_block_device() {
        "a device"
    } else if file.is_file() {
        "a regular file"
    } else {
        "a file of another kind"
    }
}

#[cfg(test)]
mod tests {
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
}
