//! Files that are sent from the kernel's cache, without passing through here.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use rustler::Resource;

use crate::counters;

/// The most that is sent in one call, in bytes.
#[cfg(target_os = "linux")]
const PART: usize = 4 * 1024 * 1024;

/// An open file, for Elixir to hold: it closes when nobody does.
pub struct FileHandle(pub File);

impl FileHandle {
    /// Opens a file for reading, and tells its size in bytes. It must be a regular one: others may
    /// have to be waited for.
    pub fn open(path: &str) -> io::Result<(FileHandle, u64)> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)?;
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(io::Error::from_raw_os_error(libc::EISDIR));
        }
        if !metadata.is_file() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        counters::HANDLES_MADE.add();
        Ok((FileHandle(file), metadata.len()))
    }
}

impl Drop for FileHandle {
    fn drop(&mut self) {
        counters::HANDLES_FREED.add();
    }
}

#[rustler::resource_impl]
impl Resource for FileHandle {}

/// Reads from `offset` on: how much, 0 at the end.
pub fn read(file: BorrowedFd<'_>, offset: u64, into: &mut [u8]) -> io::Result<usize> {
    let Ok(offset) = libc::off_t::try_from(offset) else {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    };
    loop {
        // SAFETY: the descriptor is open for the length of the call, and `into` is as long as is said.
        let n = unsafe {
            libc::pread(
                file.as_raw_fd(),
                into.as_mut_ptr().cast(),
                into.len(),
                offset,
            )
        };
        if n >= 0 {
            return Ok(n as usize);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Sends up to `count` bytes from `offset` on: how many the socket took, and what stopped it if that
/// was neither the end of the file nor `count`.
#[cfg(target_os = "linux")]
pub fn send(
    socket: BorrowedFd<'_>,
    file: BorrowedFd<'_>,
    offset: u64,
    count: usize,
) -> (usize, Option<io::Error>) {
    let mut sent = 0;
    // In parts, so that an end of the connection is noticed between them.
    let count = count.min(PART);
    while sent < count {
        let Ok(mut at) = libc::off_t::try_from(offset + sent as u64) else {
            return (sent, Some(io::Error::from_raw_os_error(libc::EINVAL)));
        };
        // SAFETY: both descriptors are open for the length of the call, and `at` is a valid offset.
        let n =
            unsafe { libc::sendfile(socket.as_raw_fd(), file.as_raw_fd(), &mut at, count - sent) };
        match n {
            0 => break,
            n if n > 0 => sent += n as usize,
            _ => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return (sent, Some(error));
                }
            }
        }
    }
    (sent, None)
}

/// Likewise, through a buffer.
#[cfg(not(target_os = "linux"))]
pub fn send(
    socket: BorrowedFd<'_>,
    file: BorrowedFd<'_>,
    offset: u64,
    count: usize,
) -> (usize, Option<io::Error>) {
    use std::os::unix::fs::FileExt;
    let run = || -> io::Result<usize> {
        let file = File::from(file.try_clone_to_owned()?);
        let socket = socket2::Socket::from(socket.try_clone_to_owned()?);
        let mut buffer = vec![0; count.min(64 * 1024)];
        let n = file.read_at(&mut buffer, offset)?;
        socket.send(&buffer[..n])
    };
    match run() {
        Ok(sent) => (sent, None),
        Err(error) => (0, Some(error)),
    }
}
