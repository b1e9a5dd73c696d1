//! Unix sockets in the file system: whose path it is, and who may connect there.
//!
//! All of this waits for the file system: not for normal schedulers.

#[cfg(test)]
mod tests;

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
