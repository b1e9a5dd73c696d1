//! What a descriptor is that was handed over, and how it is read and written.
//!
//! Accepted and dialed connections are stream sockets and have none of this.

use std::fs::File;
use std::io::{self, IoSlice, IsTerminal, Read, Write};
use std::mem::{ManuallyDrop, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, FromRawFd};
use std::os::unix::fs::FileTypeExt;
use std::sync::Arc;

use socket2::{Domain, SockAddr, Socket};

use crate::command::LoopHandle;
use crate::connection::State;
use crate::datagram::is_of_a_peer;
use crate::error::Reason;

/// What a descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// A connected stream socket.
    Stream,
    /// A socket of datagrams: each read is one, and so is each write. One that is not connected
    /// answers whoever sent the last.
    Datagrams {
        /// It has one peer.
        connected: bool,
    },
    /// A connected socket of sequenced packets: likewise, and there is an end.
    Packets,
    /// A pipe or a terminal.
    File {
        /// It is open for reading.
        reads: bool,
        /// It is open for writing.
        writes: bool,
    },
}

/// What there is of a descriptor that others may know.
pub struct Handed {
    /// What it is.
    pub medium: Medium,
    /// Its loop, whose poll has to forget the descriptor before it is closed: a duplicate keeps the
    /// open file, and what the poll knows of it, alive.
    pub home: Arc<LoopHandle>,
    /// Who sent the last datagram.
    from: Option<SockAddr>,
}

impl Handed {
    /// For a descriptor that this loop is to drive.
    pub fn new(medium: Medium, home: Arc<LoopHandle>) -> Self {
        Handed {
            medium,
            home,
            from: None,
        }
    }

    /// One system call: how much came, which for a message may be more than there was room for.
    pub(super) fn read(&mut self, socket: &Socket, into: &mut [u8]) -> io::Result<usize> {
        match self.medium {
            Medium::Stream => (&mut &*socket).read(into),
            Medium::Packets => receive(socket, into).map(|(n, _)| n),
            Medium::Datagrams { connected } => loop {
                match receive(socket, into) {
                    Ok((n, from)) => {
                        if !connected {
                            self.from = Some(from);
                        }
                        return Ok(n);
                    }
                    // What the network said of an earlier one; the next call says something else.
                    Err(error) if concerns_one(&error) => continue,
                    Err(error) => return Err(error),
                }
            },
            Medium::File { .. } => match with_file(socket, |mut file| file.read(into)) {
                // A terminal whose other side is gone.
                Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(0),
                result => result,
            },
        }
    }

    /// One system call.
    pub(super) fn write(&mut self, socket: &Socket, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let total = slices.iter().map(|slice| slice.len()).sum();
        match (self.medium, &self.from) {
            (Medium::File { .. }, _) => with_file(socket, |mut file| file.write_vectored(slices)),
            (Medium::Datagrams { connected: false }, Some(to)) => {
                let sent = socket.send_to_vectored_with_flags(slices, to, libc::MSG_NOSIGNAL);
                match sent {
                    // The receiver's queue is full, of which no event tells us when it is not.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock && to.is_unix() => {
                        Ok(total)
                    }
                    sent => forgive(sent, total),
                }
            }
            (Medium::Datagrams { connected: false }, None) => {
                Err(io::Error::from_raw_os_error(libc::EDESTADDRREQ))
            }
            (Medium::Datagrams { connected: true }, _) => {
                let sent = socket.send_vectored_with_flags(slices, libc::MSG_NOSIGNAL);
                forgive(sent, total)
            }
            (Medium::Stream | Medium::Packets, _) => {
                socket.send_vectored_with_flags(slices, libc::MSG_NOSIGNAL)
            }
        }
    }
}

/// A datagram that the network lost is lost, and the next may not be.
fn forgive(sent: io::Result<usize>, total: usize) -> io::Result<usize> {
    match sent {
        Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
            tracing::error!(
                bytes = total,
                "a datagram is too large to be sent, its socket is closed"
            );
            Err(error)
        }
        Err(error) if concerns_one(&error) => Ok(total),
        sent => sent,
    }
}

fn concerns_one(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    code.is_some_and(|code| is_of_a_peer(Reason::Errno(code)))
}

/// One message: its whole length, and from whom.
fn receive(socket: &Socket, into: &mut [u8]) -> io::Result<(usize, SockAddr)> {
    // Where the kernel can, it says how long the message was.
    let flags = if cfg!(target_os = "linux") {
        libc::MSG_TRUNC
    } else {
        0
    };
    // SAFETY: the same memory, as bytes that need not be initialised: recvfrom only writes to it.
    let into = unsafe { &mut *(std::ptr::from_mut(into) as *mut [MaybeUninit<u8>]) };
    socket.recv_from_with_flags(into, flags)
}

/// The descriptor as a file, which is what read and write are for.
fn with_file<T>(socket: &Socket, run: impl FnOnce(&File) -> T) -> T {
    // SAFETY: the descriptor is open as long as `socket` is borrowed, and is not closed here.
    let file = ManuallyDrop::new(unsafe { File::from_raw_fd(socket.as_raw_fd()) });
    run(&file)
}

fn is_pipe(socket: &Socket) -> bool {
    let kind = with_file(socket, File::metadata);
    kind.is_ok_and(|kind| kind.file_type().is_fifo())
}

/// True when there is something to read, or the end.
pub(super) fn has_come(socket: &Socket) -> bool {
    let mut fd = libc::pollfd {
        fd: socket.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one valid pollfd for the length of the call, which does not wait.
    unsafe { libc::poll(&mut fd, 1, 0) > 0 }
}

impl<O> State<O> {
    /// Says that the descriptor was handed over, before a loop has it.
    pub fn hand(&mut self, handed: Handed) {
        if let Medium::File { reads, writes } = handed.medium {
            self.readable &= reads;
            self.writable &= writes;
        }
        self.handed = Some(Box::new(handed));
    }

    /// What it is, unless it is a stream socket.
    pub fn medium(&self) -> Medium {
        let handed = self.handed.as_ref();
        handed.map_or(Medium::Stream, |handed| handed.medium)
    }

    /// What it is called, unless it is an ordinary connection.
    pub fn kind(&self) -> Option<&'static str> {
        let (handed, socket) = (self.handed.as_ref()?, self.socket.as_ref()?);
        let local = || socket.domain().is_ok_and(|domain| domain == Domain::UNIX);
        match handed.medium {
            Medium::Stream => None,
            Medium::File { .. } if socket.as_fd().is_terminal() => Some("tty"),
            Medium::File { .. } if is_pipe(socket) => Some("pipe"),
            Medium::File { .. } => Some("device"),
            Medium::Datagrams { .. } | Medium::Packets if local() => Some("unix"),
            Medium::Datagrams { .. } | Medium::Packets => Some("udp"),
        }
    }

    /// False for a descriptor that is open for writing alone.
    pub fn reads(&self) -> bool {
        !matches!(self.medium(), Medium::File { reads: false, .. })
    }

    /// False for one that is open for reading alone.
    pub fn writes(&self) -> bool {
        !matches!(self.medium(), Medium::File { writes: false, .. })
    }

    /// Notes that the poll said the connection has failed. Of datagrams it says that one was lost, which
    /// concerns no other: if nothing reads, that is taken here, and no later write finds it.
    pub fn on_failure(&mut self, unread: bool) {
        if !matches!(self.medium(), Medium::Datagrams { .. }) {
            // Of what is not written it says no more than that the end will come.
            self.failed |= self.writes();
        } else if unread {
            let _ = self.socket().map(Socket::take_error);
        }
    }

    /// True when each read brings a message, and each write is one.
    pub fn has_messages(&self) -> bool {
        matches!(self.medium(), Medium::Datagrams { .. } | Medium::Packets)
    }

    /// Why nothing can be written, now or ever: of a descriptor that is not open for that, or of a datagram
    /// socket that has no peer yet.
    pub fn cannot_write(&self) -> Option<Reason> {
        let handed = self.handed.as_ref()?;
        match handed.medium {
            Medium::File { writes: false, .. } => Some(Reason::Errno(libc::EBADF)),
            Medium::Datagrams { connected: false } if handed.from.is_none() => {
                Some(Reason::Errno(libc::EDESTADDRREQ))
            }
            _ => None,
        }
    }

    /// How much may be written at once: a message is whole.
    pub fn write_limit(&self) -> usize {
        if self.has_messages() {
            usize::MAX
        } else {
            self.settings.high_watermark
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::time::Duration;

    use mio::Poll;

    use crate::connection::{Active, Connection, Parts, Phase, Settings};
    use crate::deadline::Deadlines;
    use crate::framing::Framing;

    fn handed(socket: Socket, medium: Medium) -> Arc<Connection<()>> {
        socket.set_nonblocking(true).unwrap();
        let home = Arc::new(LoopHandle::new(&Poll::new().unwrap()).unwrap());
        let settings = Settings {
            framing: Framing::Raw,
            packet_size: 0,
            active: Active::Off,
            high_watermark: 64 * 1024,
            low_watermark: 16 * 1024,
            deadlines: Deadlines::default(),
            send_timeout: 0,
            send_timeout_close: false,
        };
        let parts = Parts {
            socket,
            phase: Phase::Open,
            greeting: None,
            settings,
            slot: None,
            peer: None,
        };
        let conn = Connection::new(parts, (), Arc::clone(&home));
        conn.lock().hand(Handed::new(medium, home));
        conn
    }

    #[test]
    fn a_datagram_that_nobody_took_is_no_end_and_takes_no_other_along() {
        let ours = UdpSocket::bind("127.0.0.1:0").unwrap();
        let theirs = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = theirs.local_addr().unwrap();
        ours.connect(to).unwrap();
        let conn = handed(ours.into(), Medium::Datagrams { connected: true });
        let mut state = conn.lock();
        drop(theirs);
        assert_eq!(state.write_now(b"lost"), Ok(4));
        let theirs = UdpSocket::bind(to).unwrap();
        theirs
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        state.on_failure(true);
        assert!(!state.failed);
        assert_eq!(state.write_now(b"not this one"), Ok(12));
        let mut into = [0; 16];
        assert_eq!(theirs.recv(&mut into).unwrap(), 12);
        assert_eq!(&into[..12], b"not this one");
    }

    #[test]
    fn what_else_has_failed_has() {
        let (ours, _theirs) = Socket::pair(Domain::UNIX, socket2::Type::SEQPACKET, None).unwrap();
        let conn = handed(ours, Medium::Packets);
        let mut state = conn.lock();
        state.on_failure(true);
        assert!(state.failed);
    }
}
