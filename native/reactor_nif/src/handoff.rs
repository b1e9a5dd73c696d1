//! Taking descriptors over: what may be.
//!
//! What is refused stays as it was, blocking mode included: everything is looked at, and room is found,
//! before anything is changed.

mod intake;

use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::sync::Arc;

use mio::unix::SourceFd;
use mio::{Interest, Poll, Token};
use socket2::{Socket, Type};

use crate::address::Address;
use crate::command::{Command, LoopHandle};
use crate::connection::{Connection, Handed, Medium, Parts, Phase};
use crate::error::Reason;
use crate::fds;
use crate::group::Admission;
use crate::owner::Owner;
use crate::python::metadata::Metadata;
use crate::python::protocol::{FactoryKey, ProtocolOwner};

pub use intake::{announce_factories, some_factory_is_for_all, Handover, Intake};

/// Below this are standard input, output and error.
const FIRST_FD: RawFd = 3;

/// Why a descriptor is not taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No event comes from such a thing.
    NotPollable(Kind),
    /// It listens: its connections are to be handed over.
    Listening,
    /// It is the VM's standard input, output or error.
    Standard,
    /// A loop has it already.
    InUse,
    /// No factory was ever set in the context, so nothing could make a protocol for it.
    NoFactory,
    /// Too many wait to be taken up.
    Overloaded,
    /// The context has as many as it may have.
    Full,
    /// What the operating system said; or that the context has ended.
    Other(Reason),
}

/// What kind of thing cannot be polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Regular,
    Directory,
    Device,
    /// One without a name: what epoll, timers and so on are.
    Anonymous,
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Refusal::Other(error.into())
    }
}

/// The mark of a descriptor that is about to be taken over, until it is or that has failed.
struct Claim(RawFd);

impl Claim {
    fn new(fd: RawFd) -> Result<Self, Refusal> {
        if fds::claim(fd) {
            Ok(Claim(fd))
        } else {
            Err(Refusal::InUse)
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        fds::unclaim(self.0);
    }
}

/// Takes a descriptor over for the context of that loop; or, if it is somebody else's to close, a
/// `duplicate` of it. Makes system calls, and may wait for a second.
pub fn take(
    fd: RawFd,
    duplicate: bool,
    home: &Arc<LoopHandle>,
    intake: &Arc<Intake>,
    metadata: Metadata,
) -> Result<(), Refusal> {
    if fd < 0 {
        return Err(Refusal::Other(Reason::Errno(libc::EBADF)));
    }
    if !duplicate && fd < FIRST_FD {
        return Err(Refusal::Standard);
    }
    let _claim = if duplicate {
        None
    } else {
        Some(Claim::new(fd)?)
    };
    let (medium, peer) = look(fd)?;
    let handover = intake.enter(home, metadata)?;
    let Admission::Free(slot) = intake.group.admit() else {
        return Err(Refusal::Full);
    };
    let socket = own(fd, duplicate)?;
    let parts = Parts {
        socket,
        phase: Phase::Open,
        greeting: None,
        settings: intake.group.settings(),
        slot: Some(slot),
        peer,
    };
    let owner = Owner::Protocol(ProtocolOwner::handed(FactoryKey::Current, handover));
    let conn = Connection::new(parts, owner, Arc::clone(home));
    conn.lock().hand(Handed::new(medium, Arc::clone(home)));
    conn.enter();
    intake.count();
    home.tell(Command::Adopt(conn));
    Ok(())
}

/// A duplicate, which is the caller's to close.
pub fn duplicate(fd: RawFd) -> Result<RawFd, Reason> {
    // SAFETY: the kernel looks whether the number is an open descriptor; nothing is done to it.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, FIRST_FD) };
    if copy < 0 {
        return Err(io::Error::last_os_error().into());
    }
    Ok(copy)
}

/// Somebody's descriptor, to be looked at.
fn lent(fd: RawFd) -> ManuallyDrop<Socket> {
    // SAFETY: what is done with the number are system calls that say so if it is not open, and it is
    // not closed here. Whoever unwraps it is its owner.
    ManuallyDrop::new(unsafe { Socket::from_raw_fd(fd) })
}

/// The descriptor, or a duplicate of it, as ours, which does not block: the last thing that can fail.
fn own(fd: RawFd, duplicate: bool) -> Result<Socket, Refusal> {
    if duplicate {
        let copy = self::duplicate(fd).map_err(Refusal::Other)?;
        // SAFETY: the kernel has just given us this fd; nobody else knows it.
        let socket = Socket::from(unsafe { OwnedFd::from_raw_fd(copy) });
        socket.set_nonblocking(true)?;
        return Ok(socket);
    }
    if fds::is_owned(fd) {
        // What it was has been closed meanwhile, and a loop has the number now.
        return Err(Refusal::InUse);
    }
    let socket = lent(fd);
    socket.set_nonblocking(true)?;
    Ok(ManuallyDrop::into_inner(socket))
}

/// What a descriptor is that another process was handed, and has looked at.
pub fn medium(fd: RawFd) -> Result<Medium, Refusal> {
    Ok(look(fd)?.0)
}

/// What a descriptor is, and who is at the other end; changes nothing.
fn look(fd: RawFd) -> Result<(Medium, Option<Address>), Refusal> {
    // SAFETY: as in `lent`; only read from.
    let file = ManuallyDrop::new(unsafe { File::from_raw_fd(fd) });
    let kind = file.metadata()?.file_type();
    if kind.is_socket() {
        return look_at_socket(fd);
    }
    let refused = |kind| Err(Refusal::NotPollable(kind));
    if kind.is_file() {
        return refused(Kind::Regular);
    }
    if kind.is_dir() {
        return refused(Kind::Directory);
    }
    if kind.is_block_device() || (kind.is_char_device() && !is_pollable(fd)) {
        return refused(Kind::Device);
    }
    if !kind.is_fifo() && !kind.is_char_device() {
        return refused(Kind::Anonymous);
    }
    // SAFETY: asks for a number.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    if flags < 0 {
        return Err(io::Error::last_os_error().into());
    }
    let mode = flags & libc::O_ACCMODE;
    let medium = Medium::File {
        reads: mode != libc::O_WRONLY,
        writes: mode != libc::O_RDONLY,
    };
    Ok((medium, None))
}

fn look_at_socket(fd: RawFd) -> Result<(Medium, Option<Address>), Refusal> {
    let socket = lent(fd);
    let kind = socket.r#type()?;
    if matches!(kind, Type::STREAM | Type::SEQPACKET) && socket.is_listener()? {
        return Err(Refusal::Listening);
    }
    let peer = socket.peer_addr();
    let address = peer.as_ref().ok().and_then(Address::from_kernel);
    let medium = match kind {
        Type::STREAM => peer.map(|_| Medium::Stream)?,
        Type::SEQPACKET => peer.map(|_| Medium::Packets)?,
        _ => Medium::Datagrams {
            connected: peer.is_ok(),
        },
    };
    Ok((medium, address))
}

/// Whether events come from it: only some devices have them.
fn is_pollable(fd: RawFd) -> bool {
    let interest = Interest::READABLE;
    Poll::new().is_ok_and(|poll| {
        let registered = poll
            .registry()
            .register(&mut SourceFd(&fd), Token(0), interest);
        registered.is_ok() && poll.registry().deregister(&mut SourceFd(&fd)).is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use nix::fcntl::{fcntl, FcntlArg, OFlag};

    fn refusal(file: &impl AsRawFd) -> Refusal {
        look(file.as_raw_fd()).map(|_| ()).unwrap_err()
    }

    fn medium(file: &impl AsRawFd) -> Medium {
        look(file.as_raw_fd()).unwrap().0
    }

    #[test]
    fn what_no_event_comes_from_is_named() {
        let file = File::open("Cargo.toml").unwrap();
        assert_eq!(refusal(&file), Refusal::NotPollable(Kind::Regular));
        let directory = File::open("/").unwrap();
        assert_eq!(refusal(&directory), Refusal::NotPollable(Kind::Directory));
        let null = File::open("/dev/null").unwrap();
        assert_eq!(refusal(&null), Refusal::NotPollable(Kind::Device));
        let closed = refusal(&900_100);
        assert_eq!(closed, Refusal::Other(Reason::Errno(libc::EBADF)));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(refusal(&listener), Refusal::Listening);
        let idle = Socket::new(socket2::Domain::IPV4, Type::STREAM, None).unwrap();
        let unconnected = Refusal::Other(Reason::Errno(libc::ENOTCONN));
        assert_eq!(refusal(&idle), unconnected);
    }

    #[test]
    fn the_others_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(medium(&stream), Medium::Stream);
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(medium(&udp), Medium::Datagrams { connected: false });
        udp.connect(udp.local_addr().unwrap()).unwrap();
        assert_eq!(medium(&udp), Medium::Datagrams { connected: true });
        let (unix, _other) = UnixStream::pair().unwrap();
        assert_eq!(medium(&unix), Medium::Stream);
        let (unix, _other) = UnixDatagram::pair().unwrap();
        assert_eq!(medium(&unix), Medium::Datagrams { connected: true });
        let (packets, _other) = Socket::pair(socket2::Domain::UNIX, Type::SEQPACKET, None).unwrap();
        assert_eq!(medium(&packets), Medium::Packets);
        let (reads, writes) = io::pipe().unwrap();
        let file = |reads, writes| Medium::File { reads, writes };
        assert_eq!(medium(&reads), file(true, false));
        assert_eq!(medium(&writes), file(false, true));
    }

    #[test]
    fn a_number_below_zero_is_no_descriptor() {
        let home = Arc::new(LoopHandle::new(&Poll::new().unwrap()).unwrap());
        let intake = Intake::new(None, None, None);
        for copies in [false, true] {
            let taken = take(-1, copies, &home, &intake, Metadata::default());
            assert_eq!(taken, Err(Refusal::Other(Reason::Errno(libc::EBADF))));
        }
        assert_eq!(duplicate(-1), Err(Reason::Errno(libc::EBADF)));
    }

    #[test]
    fn what_is_refused_is_as_it_was_and_may_be_tried_again() {
        let home = Arc::new(LoopHandle::new(&Poll::new().unwrap()).unwrap());
        let intake = Intake::new(Some(1), None, None);
        let (reads, _writes) = io::pipe().unwrap();
        let fd = reads.as_raw_fd();
        let take = || take(fd, false, &home, &intake, Metadata::default());
        assert_eq!(take(), Err(Refusal::NoFactory));
        intake.knows_factory();
        let other = intake.enter(&home, Metadata::default()).unwrap();
        assert_eq!(take(), Err(Refusal::Full));
        let flags = OFlag::from_bits_retain(fcntl(&reads, FcntlArg::F_GETFL).unwrap());
        assert!(!flags.contains(OFlag::O_NONBLOCK));
        drop(other);
        assert_eq!(take(), Ok(()));
        assert_eq!(take(), Err(Refusal::InUse));
        // The connection is closed with the loop that never took it.
        std::mem::forget(reads);
        home.close();
        assert_eq!(intake.counts().0, 0);
        assert!(fds::claim(fd));
        fds::unclaim(fd);
    }

    #[test]
    fn to_look_changes_nothing() {
        let (reads, _writes) = io::pipe().unwrap();
        medium(&reads);
        let flags = OFlag::from_bits_retain(fcntl(&reads, FcntlArg::F_GETFL).unwrap());
        assert!(!flags.contains(OFlag::O_NONBLOCK));
    }
}
