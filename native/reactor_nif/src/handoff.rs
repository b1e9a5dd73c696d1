//! Taking descriptors over: what may be, and what a context that takes them keeps of it.
//!
//! What is refused stays as it was, blocking mode included: everything is looked at, and room is found,
//! before anything is changed.

use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Poll, Token};
use rustler::LocalPid;
use socket2::{Socket, Type};

use crate::address::Address;
use crate::command::{Command, LoopHandle};
use crate::connection::{Active, Connection, Handed, Medium, Parts, Phase, Settings};
use crate::deadline::Deadlines;
use crate::error::Reason;
use crate::fds;
use crate::framing::Framing;
use crate::group::{Admission, Group, Limits, UNLIMITED};
use crate::owner::Owner;
use crate::python::metadata::Metadata;
use crate::python::protocol::{FactoryKey, ProtocolOwner};

/// Below this are standard input, output and error.
const FIRST_FD: RawFd = 3;
/// So many may wait for a context to take them up.
const MOST_WAITING: usize = 1024;
/// How long one waits for its place among those.
const PATIENCE: Duration = Duration::from_secs(1);
/// The high-water mark of what was handed over, in bytes, as that of a listener's connections.
const HIGH_WATERMARK: usize = 64 * 1024;
const LOW_WATERMARK: usize = 16 * 1024;

/// Some interpreter has a factory for contexts without one of their own: whether those have one is known
/// when it is needed.
static FACTORY_FOR_ALL: AtomicBool = AtomicBool::new(false);

/// A factory was set that belongs to no context.
pub fn some_factory_is_for_all() {
    FACTORY_FOR_ALL.store(true, Ordering::Relaxed);
}

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

/// What a context has been handed.
pub struct Intake {
    /// Those who wait to be taken up.
    waiting: Mutex<usize>,
    room: Condvar,
    /// Those who are there, the waiting ones included.
    live: AtomicUsize,
    max: usize,
    total: AtomicU64,
    /// A factory was set.
    has_factory: AtomicBool,
    /// What was no connection of a listener's belongs to this.
    group: Arc<Group>,
}

/// A place among those who wait, given up when it is dropped.
pub struct Ticket(Arc<Intake>);

/// A place among those who are there, likewise.
pub struct Place(Arc<Intake>);

/// What a protocol is told of a descriptor that was handed over, and what its context counts of it.
pub struct Handover {
    /// What the caller said.
    pub metadata: Metadata,
    /// Until the protocol is made.
    pub ticket: Option<Ticket>,
    _place: Place,
}

impl Intake {
    /// Of a context that takes so many at most, and has events told to that process.
    pub fn new(max: Option<usize>, settings: Option<Settings>, to: Option<LocalPid>) -> Arc<Self> {
        let unlimited = Limits {
            connections: UNLIMITED,
            reject: false,
            per_ip: UNLIMITED,
            rate: 0,
        };
        Arc::new(Intake {
            waiting: Mutex::new(0),
            room: Condvar::new(),
            live: AtomicUsize::new(0),
            max: max.unwrap_or(UNLIMITED),
            total: AtomicU64::new(0),
            has_factory: AtomicBool::new(false),
            group: Group::new(&unlimited, settings.unwrap_or_else(usual), to),
        })
    }

    /// A factory was set in the context.
    pub fn knows_factory(&self) {
        self.has_factory.store(true, Ordering::Relaxed);
    }

    /// How many are there, wait to be taken up, and were handed over in all.
    pub fn counts(&self) -> (usize, usize, u64) {
        let waiting = *self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let live = self.live.load(Ordering::Relaxed);
        (live, waiting, self.total.load(Ordering::Relaxed))
    }

    /// Finds room for one more: blocks for a while if too many wait.
    pub fn enter(
        self: &Arc<Self>,
        home: &LoopHandle,
        metadata: Metadata,
    ) -> Result<Box<Handover>, Refusal> {
        if home.closed() {
            return Err(Refusal::Other(Reason::Closed));
        }
        let known = self.has_factory.load(Ordering::Relaxed);
        if !known && !FACTORY_FOR_ALL.load(Ordering::Relaxed) {
            return Err(Refusal::NoFactory);
        }
        let taken = self
            .live
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |live| {
                (live < self.max).then_some(live + 1)
            });
        if taken.is_err() {
            return Err(Refusal::Full);
        }
        let place = Place(Arc::clone(self));
        let ticket = self.wait_for_room().ok_or(Refusal::Overloaded)?;
        if home.closed() {
            return Err(Refusal::Other(Reason::Closed));
        }
        Ok(Box::new(Handover {
            metadata,
            ticket: Some(ticket),
            _place: place,
        }))
    }

    fn wait_for_room(self: &Arc<Self>) -> Option<Ticket> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |waiting: &mut usize| *waiting >= MOST_WAITING;
        let waited = self.room.wait_timeout_while(waiting, PATIENCE, full);
        let (mut waiting, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() {
            return None;
        }
        *waiting += 1;
        Some(Ticket(Arc::clone(self)))
    }

    /// One was handed over.
    pub fn count(&self) {
        self.total.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut waiting = self
            .0
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *waiting -= 1;
        drop(waiting);
        self.0.room.notify_one();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The mark of a descriptor that is about to be taken over; taken away again if that fails.
struct Claim(RawFd);

impl Claim {
    fn new(fd: RawFd) -> Result<Self, Refusal> {
        if fds::claim(fd) {
            Ok(Claim(fd))
        } else {
            Err(Refusal::InUse)
        }
    }

    /// The connection that is made of it has the mark from now on.
    fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        fds::release(self.0);
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
    let claim = if duplicate {
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
    if let Some(claim) = claim {
        claim.keep();
    }
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

fn usual() -> Settings {
    Settings {
        framing: Framing::Raw,
        packet_size: 0,
        active: Active::Off,
        high_watermark: HIGH_WATERMARK,
        low_watermark: LOW_WATERMARK,
        deadlines: Deadlines::default(),
        send_timeout: 0,
        send_timeout_close: false,
    }
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
    let socket = lent(fd);
    socket.set_nonblocking(true)?;
    Ok(ManuallyDrop::into_inner(socket))
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
        fds::release(fd);
    }

    #[test]
    fn to_look_changes_nothing() {
        let (reads, _writes) = io::pipe().unwrap();
        medium(&reads);
        let flags = OFlag::from_bits_retain(fcntl(&reads, FcntlArg::F_GETFL).unwrap());
        assert!(!flags.contains(OFlag::O_NONBLOCK));
    }

    #[test]
    fn who_finds_no_room_waits_until_there_is_some() {
        let home = LoopHandle::new(&Poll::new().unwrap()).unwrap();
        let intake = Intake::new(None, None, None);
        let none = intake.enter(&home, Metadata::default());
        assert_eq!(none.map(|_| ()).unwrap_err(), Refusal::NoFactory);
        intake.knows_factory();
        let enter = || intake.enter(&home, Metadata::default());
        let mut all: Vec<_> = (0..MOST_WAITING).map(|_| enter().unwrap()).collect();
        assert_eq!(enter().map(|_| ()).unwrap_err(), Refusal::Overloaded);
        assert_eq!(intake.counts().0, MOST_WAITING);
        std::thread::scope(|scope| {
            let waits = scope.spawn(enter);
            all[0].ticket = None;
            assert!(waits.join().unwrap().is_ok());
        });
        all.clear();
        assert_eq!(intake.counts(), (0, 0, 0));
    }

    #[test]
    fn there_are_never_more_than_there_may_be() {
        let home = LoopHandle::new(&Poll::new().unwrap()).unwrap();
        let intake = Intake::new(Some(2), None, None);
        intake.knows_factory();
        let enter = || intake.enter(&home, Metadata::default());
        let two = (enter().unwrap(), enter().unwrap());
        assert_eq!(enter().map(|_| ()).unwrap_err(), Refusal::Full);
        drop(two.0);
        assert!(enter().is_ok());
        home.close();
        let closed = Refusal::Other(Reason::Closed);
        assert_eq!(enter().map(|_| ()).unwrap_err(), closed);
    }
}
