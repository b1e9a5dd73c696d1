//! One socket: read demand, write queue, deadlines, close.
//!
//! Knows neither the BEAM nor Python. Whoever owns the bytes is the type
//! parameter `O`, which this file stores and never looks into.
//!
//! Edge-triggered: `readable` and `writable` remember what the kernel last
//! said. Each stays true until a system call came back short or would block;
//! only then may the loop wait for the next edge.

mod greeting;
mod medium;
mod secure;

use std::io::{self, IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use socket2::Socket;

use crate::address::Address;
use crate::command::LoopHandle;
use crate::counters;
use crate::deadline::{Deadlines, Watch};
use crate::error::{Cause, Reason};
use crate::fds;
use crate::framing::{Frame, Framing, MAX_PACKET};
use crate::group::{Group, Slot};
use crate::proxy::Header;
use crate::queue::Queue;
use crate::tls::Tls;

pub use greeting::{Failure, Greeted, Greeting, Handshake, Preface};
pub use medium::{Handed, Medium};

/// How long a closed connection may take to hand its last bytes to the kernel.
pub const LINGER: Duration = Duration::from_secs(30);
/// A token that no loop has given out: the connection is not adopted yet.
const NO_TOKEN: usize = usize::MAX;

/// The most that one look for a long message reads, in bytes, and what one read more brings.
const READ_BUDGET: usize = 512 * 1024;

/// What a connection is made with; accepted sockets inherit their listener's.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How the stream is cut into messages.
    pub framing: Framing,
    /// The most bytes of a packet's body; 0 means [`MAX_PACKET`].
    pub packet_size: usize,
    /// What the owner wants to be sent unasked.
    pub active: Active,
    /// Write queue size, in bytes, from which on a sender waits.
    pub high_watermark: usize,
    /// Write queue size, in bytes, at which it may go on.
    pub low_watermark: usize,
    /// How long the peer may make us wait.
    pub deadlines: Deadlines,
    /// How long a sender waits for room, in ms; 0 for as long as it takes. Kept for the sender.
    pub send_timeout: u32,
    /// The connection closes when a sender has waited for so long.
    pub send_timeout_close: bool,
}

/// How many messages the owner wants to be sent unasked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Active {
    /// None: it calls `recv`.
    Off,
    /// One.
    Once,
    /// So many.
    Count(u32),
    /// All.
    On,
}

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for the peer to answer our SYN.
    Connecting,
    /// Doing what has to be done before the owner may speak: see [`Greeting`].
    Greeting,
    /// In use.
    Open,
    /// No more reads; the write queue is being flushed.
    Closing,
    /// The fd is closed.
    Closed,
}

/// What a read brought.
pub enum Pull<'a> {
    /// One message.
    Data(&'a [u8]),
    /// Nothing is there now.
    Blocked,
    /// The stream has ended.
    End(Reason),
}

/// Where the write queue stands after a write or a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Nothing is queued.
    Empty,
    /// Something is queued, less than the high-water mark.
    Below,
    /// The sender should wait.
    Above,
}

/// What has gone through a connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traffic {
    /// Bytes that came.
    pub received: u64,
    /// Bytes that the kernel took.
    pub sent: u64,
    /// Reads that brought something.
    pub reads: u64,
    /// Writes of which the kernel took something.
    pub writes: u64,
}

/// A socket and everything about it, shared by its loop and its users.
pub struct Connection<O> {
    /// Unique in this VM.
    pub id: u64,
    /// Since when it exists.
    pub born: Instant,
    /// Who is at the other end, if that was said when it was accepted.
    pub peer: Option<Address>,
    /// What goes over it is encrypted.
    pub secure: bool,
    home: Arc<LoopHandle>,
    token: AtomicUsize,
    kicked: AtomicBool,
    group: Option<Arc<Group>>,
    state: Mutex<State<O>>,
}

/// What a connection is made of.
pub struct Parts {
    /// Open and non-blocking; the connection is its owner from now on.
    pub socket: Socket,
    /// Where it is in its life. What is connected and has a greeting ahead is in that.
    pub phase: Phase,
    /// What comes before the owner may speak.
    pub greeting: Option<Box<Greeting>>,
    /// What it starts with.
    pub settings: Settings,
    /// Its place among those of its listener.
    pub slot: Option<Slot>,
    /// Who is at the other end, if that is known.
    pub peer: Option<Address>,
}

/// What the lock protects.
pub struct State<O> {
    /// Who gets the bytes.
    pub owner: O,
    /// Where the connection is in its life.
    pub phase: Phase,
    /// What it was made with, as changed since.
    pub settings: Settings,
    /// The kernel may have something to read.
    pub readable: bool,
    /// The kernel may have room to write.
    pub writable: bool,
    /// A pending passive read: how many bytes, 0 for whatever comes.
    pub wanted: Option<usize>,
    /// The owner knows that the stream has ended; it may still answer, until the deadline.
    pub ended: bool,
    /// When the linger of a closing connection, or of one that has ended, is over.
    pub deadline: Option<Instant>,
    /// What has gone through it.
    pub traffic: Traffic,
    /// Why it is over, or will be.
    pub cause: Option<Cause>,
    /// Its loop looks often, because it is about to be closed by its owner.
    pub awaited: bool,
    /// A loop has reported it as opened.
    pub opened: bool,
    /// It is to end at once, for this cause: the loop sees to it.
    pub condemned: Option<Cause>,
    /// The connection is broken in both directions.
    pub failed: bool,
    /// What is left to be done before the owner may speak.
    greeting: Option<Box<Greeting>>,
    /// What a proxy said of the connection.
    header: Option<Box<Header>>,
    /// What makes plaintext of what comes, and the other way round; nothing does without.
    tls: Option<Box<Tls>>,
    /// What there is of a descriptor that others may know; nothing of an accepted or a dialed one.
    handed: Option<Box<Handed>>,
    /// So many bytes had come when the owner could speak.
    overture: u64,
    socket: Option<Socket>,
    /// Its place among those of its listener, as long as the socket is open.
    slot: Option<Slot>,
    /// When the loop's timer for it fires.
    timer: Option<Instant>,
    /// When the deadlines are to be looked at.
    check_at: Option<Instant>,
    watch: Option<Box<Watch>>,
    born: Instant,
    /// A file is being sent: what else is written waits in the queue.
    filing: bool,
    /// How often the poll has said that there is room.
    room: u32,
    /// The peer has said that it will send no more: a short read does not mean that all is read.
    hangup: bool,
    /// Writing failed: nothing more can be sent.
    broken: Option<Reason>,
    /// Half-close once the queue is flushed.
    shut_write: bool,
    inbox: Queue,
    outbox: Queue,
    /// The queue went above the high-water mark and has not come below the low one since.
    congested: bool,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// A number that no connection has.
pub fn next_id() -> u64 {
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

/// What goes to another process of a connection's: its socket, which is closed here when this is dropped.
pub struct Parted {
    socket: Socket,
    /// What comes before the owner may speak.
    pub greeting: Option<Box<Greeting>>,
    /// What it starts with.
    pub settings: Settings,
    /// Whether it is a descriptor that others may know.
    pub handed: bool,
    /// What was read and the owner has not seen.
    pub unread: Vec<u8>,
    /// What is to be written first.
    pub unsent: Vec<u8>,
}

impl AsFd for Parted {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Parted {
    fn drop(&mut self) {
        counters::FDS_CLOSED.add();
        fds::release(self.socket.as_raw_fd());
    }
}

impl<O> Connection<O> {
    /// Takes ownership of a non-blocking socket.
    pub fn new(parts: Parts, owner: O, home: Arc<LoopHandle>) -> Arc<Self> {
        Self::numbered(next_id(), parts, owner, home)
    }

    /// Likewise, of one that has a number already.
    pub fn numbered(id: u64, parts: Parts, owner: O, home: Arc<LoopHandle>) -> Arc<Self> {
        counters::FDS_OPENED.add();
        fds::own(parts.socket.as_raw_fd());
        let greeting = parts.greeting.as_ref();
        let secure = greeting.is_some_and(|greeting| greeting.handshake.is_some());
        Self::make(parts, owner, home, id, Instant::now(), secure)
    }

    fn make(
        parts: Parts,
        owner: O,
        home: Arc<LoopHandle>,
        id: u64,
        born: Instant,
        secure: bool,
    ) -> Arc<Self> {
        counters::CONNECTIONS_MADE.add();
        let phase = match (parts.phase, &parts.greeting) {
            (Phase::Open, Some(_)) => Phase::Greeting,
            (phase, _) => phase,
        };
        let open = matches!(phase, Phase::Open | Phase::Greeting);
        let deadline = parts.greeting.as_ref().and_then(|greeting| {
            let deadline = greeting.deadline(born);
            deadline.filter(|_| phase == Phase::Greeting)
        });
        let watch = parts.settings.deadlines.any().then(|| {
            let mut watch = Box::new(Watch::new(born, false));
            watch.wants(parts.settings.active != Active::Off, born);
            watch
        });
        Arc::new(Connection {
            id,
            born,
            peer: parts.peer,
            secure,
            home,
            token: AtomicUsize::new(NO_TOKEN),
            kicked: AtomicBool::new(false),
            group: parts.slot.as_ref().map(|slot| Arc::clone(slot.group())),
            state: Mutex::new(State {
                owner,
                phase,
                settings: parts.settings,
                // Data often arrives with the connection, so the first read is tried.
                readable: open,
                writable: open,
                wanted: None,
                ended: false,
                deadline,
                traffic: Traffic::default(),
                cause: None,
                awaited: false,
                opened: false,
                condemned: None,
                failed: false,
                greeting: parts.greeting,
                header: None,
                tls: None,
                handed: None,
                overture: 0,
                socket: Some(parts.socket),
                slot: parts.slot,
                timer: None,
                check_at: watch.is_some().then_some(born),
                watch,
                born,
                filing: false,
                room: 0,
                hangup: false,
                broken: None,
                shut_write: false,
                inbox: Queue::default(),
                outbox: Queue::default(),
                congested: false,
            }),
        })
    }

    /// The lock. A panic while it was held cannot leave half a change behind
    /// that matters more than going on, so poison is ignored.
    pub fn lock(&self) -> MutexGuard<'_, State<O>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock, if nobody has it.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, State<O>>> {
        match self.state.try_lock() {
            Ok(state) => Some(state),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// The loop that drives this connection.
    pub fn home(&self) -> &Arc<LoopHandle> {
        &self.home
    }

    /// Moves the socket, with all that it has, to another loop. The loop that had it has to forget it;
    /// `nobody` is what owns what is left. `None` if it is not open, or what it has cannot move.
    pub fn move_to(&self, home: Arc<LoopHandle>, nobody: O) -> Option<Arc<Self>> {
        let mut state = self.lock();
        let owner = std::mem::replace(&mut state.owner, nobody);
        if state.phase != Phase::Open {
            return None;
        }
        let parts = Parts {
            socket: state.socket.take()?,
            phase: Phase::Open,
            greeting: None,
            settings: state.settings.clone(),
            slot: state.slot.take(),
            peer: self.peer.clone(),
        };
        state.phase = Phase::Closed;
        let moved = Self::make(parts, owner, home, self.id, self.born, self.secure);
        let mut new = moved.lock();
        if let Some(mut handed) = state.handed.take() {
            handed.home = Arc::clone(&moved.home);
            new.handed = Some(handed);
        }
        new.traffic = state.traffic;
        new.cause = state.cause;
        new.opened = state.opened;
        new.condemned = state.condemned.take();
        if let (Some(_), Some(watch)) = (&new.watch, state.watch.take()) {
            new.watch = Some(watch);
        }
        new.inbox = std::mem::take(&mut state.inbox);
        new.outbox = std::mem::take(&mut state.outbox);
        new.tls = state.tls.take();
        new.header = state.header.take();
        new.overture = state.overture;
        new.hangup = state.hangup;
        new.broken = state.broken;
        new.shut_write = state.shut_write;
        drop(new);
        Some(moved)
    }

    /// The listener's group, for an accepted connection.
    pub fn group(&self) -> Option<&Arc<Group>> {
        self.group.as_ref()
    }

    /// True while the listener that accepted this is being drained.
    pub fn draining(&self) -> bool {
        self.group.as_ref().is_some_and(|group| group.draining())
    }

    /// Where the loop keeps it; for the loop alone.
    pub fn token(&self) -> Option<usize> {
        match self.token.load(Ordering::Relaxed) {
            NO_TOKEN => None,
            token => Some(token),
        }
    }

    /// For the loop alone.
    pub fn set_token(&self, token: usize) {
        self.token.store(token, Ordering::Relaxed);
    }

    /// True for the one caller that has to queue a kick.
    pub fn mark_kicked(&self) -> bool {
        !self.kicked.swap(true, Ordering::AcqRel)
    }

    /// For the loop, before it looks at a kicked connection.
    pub fn clear_kicked(&self) {
        self.kicked.store(false, Ordering::Release);
    }
}

impl<O> Drop for Connection<O> {
    fn drop(&mut self) {
        self.lock().close_fd();
        counters::CONNECTIONS_FREED.add();
    }
}

impl<O> State<O> {
    /// The fd, while it is open. Only for registration and for reports: its owner is this state.
    pub fn fd(&self) -> Option<RawFd> {
        self.socket.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// The open socket, or `Closed`.
    pub fn socket(&self) -> Result<&Socket, Reason> {
        self.socket.as_ref().ok_or(Reason::Closed)
    }

    /// Its place among those of its listener, to be listed there.
    pub fn slot(&mut self) -> Option<&mut Slot> {
        self.slot.as_mut()
    }

    /// Notes what the poll said.
    pub fn on_event(&mut self, readable: bool, writable: bool, hangup: bool) {
        self.readable |= readable && self.reads();
        self.writable |= writable && self.writes();
        self.hangup |= hangup;
        self.room = self.room.wrapping_add(u32::from(writable));
    }

    /// Notes why it is over, unless that is known.
    pub fn because(&mut self, cause: Cause) {
        self.cause.get_or_insert(cause);
    }

    // ---- deadlines --------------------------------------------------------

    /// Changes how long the peer may make us wait.
    pub fn set_deadlines(&mut self, deadlines: Deadlines) {
        self.settings.deadlines = deadlines;
        if !deadlines.any() {
            self.watch = None;
            self.check_at = None;
            return;
        }
        let heard = self.traffic.received > self.overture || self.inbox.len() > 0;
        let born = self.born;
        let queued = self.queued() > 0;
        let watch = self
            .watch
            .get_or_insert_with(|| Box::new(Watch::new(born, heard)));
        watch.queued(queued, Instant::now());
        self.check_at = Some(born);
    }

    /// The owner waits for the peer to send something, or does not.
    pub fn awaiting(&mut self, waiting: bool) {
        if let Some(watch) = &mut self.watch {
            watch.wants(waiting, Instant::now());
        }
    }

    /// Somebody waits for room to write, or nobody does: noted by writes and flushes themselves, but
    /// for a file, which is never queued.
    pub fn awaiting_room(&mut self, waiting: bool) {
        if let Some(watch) = &mut self.watch {
            watch.queued(waiting, Instant::now());
        }
    }

    /// Looks at the deadlines if it is time to: the cause, if one has passed.
    pub fn overdue(&mut self, now: Instant) -> Option<Cause> {
        if self.phase != Phase::Open || self.check_at.is_none_or(|at| now < at) {
            return None;
        }
        if self.filing {
            // What a file moves is known when it has.
            return None;
        }
        let watch = self.watch.as_mut()?;
        match watch.check(&self.settings.deadlines, now) {
            Ok(next) => {
                self.check_at = Some(next);
                None
            }
            Err(cause) => Some(cause),
        }
    }

    /// Looks whether the peer has done its part by now, before it is cut for not doing so. If it has,
    /// the deadlines are looked at again after that was seen to.
    pub fn has_moved(&mut self, now: Instant) -> bool {
        let waits_to_read = self.watch.as_ref().is_some_and(|watch| watch.reads());
        let came = waits_to_read && !self.readable && self.has_come();
        let sent = self.traffic.sent;
        if self.queued() > 0 && !self.filing {
            self.writable = true;
            // What fails here fails again in the next look at it.
            let _ = self.flush();
        }
        let moved = came || self.traffic.sent > sent;
        if moved {
            self.check_at = Some(now);
        }
        moved
    }

    /// A timer that the loop has to arm, if any: asked after each look at the connection.
    pub fn timer(&mut self, now: Instant) -> Option<Instant> {
        if self.timer.is_some_and(|at| at <= now) {
            self.timer = None;
        }
        let check = self.check_at.filter(|_| self.phase == Phase::Open);
        let wish = match (self.deadline, check) {
            (Some(deadline), Some(check)) => deadline.min(check),
            (one, other) => one.or(other)?,
        };
        // A timer is not cancelled: those of connections that are gone must not pile up.
        let wish = wish.min(now + LINGER);
        if self.timer.is_some_and(|at| at <= wish) {
            return None;
        }
        self.timer = Some(wish);
        Some(wish)
    }

    /// The address of our end.
    pub fn local(&self) -> Result<Address, Reason> {
        let address = self.socket()?.local_addr().map_err(Reason::from)?;
        Address::from_kernel(&address).ok_or(Reason::Invalid)
    }

    /// The address of the peer.
    pub fn remote(&self) -> Result<Address, Reason> {
        let address = self.socket()?.peer_addr().map_err(Reason::from)?;
        Address::from_kernel(&address).ok_or(Reason::Invalid)
    }

    fn packet_limit(&self) -> usize {
        match self.settings.packet_size {
            0 => MAX_PACKET,
            size => size.min(MAX_PACKET),
        }
    }

    // ---- reading ----------------------------------------------------------

    /// True when a read may bring something, or the end.
    pub fn may_read(&self) -> bool {
        self.readable || self.inbox.len() > 0
    }

    /// True when neither side owes the other anything that we know of.
    pub fn idle(&self) -> bool {
        !self.readable && self.inbox.len() == 0 && self.queued() == 0
    }

    /// Looks whether something has come since: the poll's word may be as old as its last turn.
    pub fn has_come(&mut self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        let came = match (self.socket(), self.medium()) {
            (Ok(socket), Medium::File { reads, .. }) => reads && medium::has_come(socket),
            (Ok(socket), _) => socket.peek(&mut byte).is_ok(),
            (Err(_), _) => false,
        };
        self.readable |= came;
        came
    }

    /// One system call, whose bytes are in `into`; through TLS perhaps more than one, and what `into` has
    /// no room for is in the inbox.
    pub fn read_raw(&mut self, into: &mut [u8]) -> Result<usize, Pull<'static>> {
        if self.tls.is_some() {
            return self.read_secure(into);
        }
        self.read_socket(into)
    }

    /// One system call into `into`. Short means drained, unless the peer has hung up.
    fn read_socket(&mut self, into: &mut [u8]) -> Result<usize, Pull<'static>> {
        let Some(socket) = self.socket.as_ref() else {
            return Err(Pull::End(Reason::Closed));
        };
        let mut reader: &Socket = socket;
        let datagrams = matches!(
            self.handed.as_ref().map(|handed| handed.medium),
            Some(Medium::Datagrams { .. })
        );
        loop {
            let result = match &mut self.handed {
                None => reader.read(into),
                Some(handed) => handed.read(socket, into),
            };
            match result {
                Ok(0) if !datagrams => {
                    self.readable = false;
                    self.because(match self.phase {
                        Phase::Greeting => self.left_greeting(),
                        _ if self.tls.is_some() => Cause::Truncated,
                        _ => Cause::Remote,
                    });
                    return Err(Pull::End(Reason::Closed));
                }
                Ok(n) => {
                    self.readable = n == into.len() || self.hangup || self.has_messages();
                    self.traffic.received += n as u64;
                    self.traffic.reads += 1;
                    if let Some(watch) = &mut self.watch {
                        watch.received(n, Instant::now());
                    }
                    return Ok(n);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.readable = false;
                    return Err(Pull::Blocked);
                }
                Err(error) => {
                    self.readable = false;
                    self.because(Cause::Reset);
                    return Err(Pull::End(error.into()));
                }
            }
        }
    }

    /// What is here already, or else one system call into `into`.
    pub fn read_bytes(&mut self, into: &mut [u8]) -> Result<usize, Pull<'static>> {
        let n = self.inbox.len().min(into.len());
        if n == 0 {
            return self.read_raw(into);
        }
        into[..n].copy_from_slice(&self.inbox.as_slice()[..n]);
        self.inbox.consume(n);
        Ok(n)
    }

    /// Puts back what was read: the next read finds it first.
    pub fn unread(&mut self, bytes: &[u8]) {
        let later = std::mem::take(&mut self.inbox);
        self.inbox.push(bytes);
        self.inbox.push(later.as_slice());
    }

    /// Takes the next message: a packet, or exactly `length` bytes, or (raw and 0) whatever there is.
    /// `scratch` is what the kernel reads into. If it is `Blocked` and the state still `readable`, so much
    /// was read that it has to be called again.
    pub fn pull<'a>(&'a mut self, length: usize, scratch: &'a mut [u8]) -> Pull<'a> {
        if self.settings.framing == Framing::Raw && length == 0 && self.inbox.len() == 0 {
            if !self.readable {
                return Pull::Blocked;
            }
            return match self.read_raw(scratch) {
                Ok(n) => Pull::Data(&scratch[..n]),
                Err(pull) => pull,
            };
        }
        // A packet that was too large for `scratch` was lent from the queue: now it can go.
        self.inbox.consume(0);
        let before = self.inbox.len();
        loop {
            match self.find(length) {
                Err(reason) => return Pull::End(reason),
                Ok(Frame::Whole { from, total }) => {
                    // Copied out, so that the queue can forget it (and its memory) at once.
                    let body = &self.inbox.as_slice()[from..total];
                    if body.len() <= scratch.len() {
                        let len = body.len();
                        scratch[..len].copy_from_slice(body);
                        self.inbox.consume(total);
                        return Pull::Data(&scratch[..len]);
                    }
                    let start = self.inbox.start;
                    self.inbox.start += total;
                    self.inbox.searched = 0;
                    return Pull::Data(&self.inbox.bytes[start + from..start + total]);
                }
                // The rest of what is there is for another time: it may be on a scheduler's thread.
                Ok(Frame::Partial)
                    if !self.readable || self.inbox.len() - before >= READ_BUDGET =>
                {
                    self.note_searched();
                    return Pull::Blocked;
                }
                Ok(Frame::Partial) => {
                    self.note_searched();
                    // Through TLS it goes to the inbox by itself.
                    let read = match self.tls {
                        None => self.read_socket(scratch),
                        Some(_) => self.read_secure(&mut []),
                    };
                    match read {
                        Ok(n) => self.inbox.push(&scratch[..n]),
                        Err(pull) => return pull,
                    }
                }
            }
        }
    }

    fn note_searched(&mut self) {
        if self.settings.framing == Framing::Line {
            self.inbox.searched = self.inbox.len();
        }
    }

    fn find(&self, length: usize) -> Result<Frame, Reason> {
        let buffer = self.inbox.as_slice();
        match (self.settings.framing, length) {
            (Framing::Raw, 0) => Framing::Raw.find(buffer, 0, usize::MAX),
            (Framing::Raw, length) if buffer.len() >= length => Ok(Frame::Whole {
                from: 0,
                total: length,
            }),
            (Framing::Raw, _) => Ok(Frame::Partial),
            (framing, _) => framing.find(buffer, self.inbox.searched, self.packet_limit()),
        }
    }

    // ---- writing ----------------------------------------------------------

    /// True while senders have to wait.
    pub fn congested(&self) -> bool {
        self.congested
    }

    /// True when there is something to flush and the kernel may take it.
    pub fn may_flush(&self) -> bool {
        self.writable && !self.filing && self.queued() > 0
    }

    /// True while a file is being sent.
    pub fn filing(&self) -> bool {
        self.filing
    }

    /// True when a write would go to the kernel at once.
    pub fn has_room(&self) -> bool {
        self.writable && !self.filing && self.queued() == 0
    }

    /// How many bytes wait to be written.
    pub fn queued(&self) -> usize {
        self.outbox.len() + self.tls.as_ref().map_or(0, |tls| tls.sealed.len())
    }

    /// Sends one message with its framing. What the kernel does not take now is queued, whole:
    /// the bound of the queue is the high-water mark and one message.
    pub fn send(&mut self, message: &[u8]) -> Result<Level, Reason> {
        let (header, used) = self.settings.framing.header(message.len())?;
        self.write(&header[..used], message)
    }

    /// Writes bytes as they are.
    pub fn write(&mut self, head: &[u8], body: &[u8]) -> Result<Level, Reason> {
        match self.phase {
            Phase::Open if !self.shut_write => {}
            Phase::Connecting | Phase::Greeting => return Err(Reason::Errno(libc::ENOTCONN)),
            _ => return Err(Reason::Closed),
        }
        if let Some(reason) = self.broken.or_else(|| self.cannot_write()) {
            return Err(reason);
        }
        if self.has_messages() && self.queued() > 0 {
            // Two that wait would become one.
            return Err(Reason::Errno(libc::EAGAIN));
        }
        let total = head.len() + body.len();
        let mut done = 0;
        if self.has_room() && total > 0 {
            let written = if head.is_empty() {
                self.send_once(&[IoSlice::new(body)], total)
            } else {
                self.send_once(&[IoSlice::new(head), IoSlice::new(body)], total)
            };
            done = written?;
        }
        if done < head.len() {
            self.outbox.push(&head[done..]);
            self.outbox.push(body);
        } else if done < total {
            self.outbox.push(&body[done - head.len()..]);
        }
        Ok(self.level())
    }

    /// Writes what the kernel takes now and queues nothing: 0 when it is full, or when bytes that
    /// were written earlier still wait.
    pub fn write_now(&mut self, bytes: &[u8]) -> Result<usize, Reason> {
        if self.phase != Phase::Open || self.shut_write {
            return Err(Reason::Closed);
        }
        if let Some(reason) = self.broken.or_else(|| self.cannot_write()) {
            return Err(reason);
        }
        if !self.has_room() || bytes.is_empty() {
            return Ok(0);
        }
        self.send_once(&[IoSlice::new(bytes)], bytes.len())
    }

    /// Hands the queue to the kernel, as far as that takes it.
    pub fn flush(&mut self) -> Result<Level, Reason> {
        while self.may_flush() {
            let queue = std::mem::take(&mut self.outbox);
            let written = self.send_once(&[IoSlice::new(queue.as_slice())], queue.len());
            self.outbox = queue;
            match written {
                Ok(n) => self.outbox.consume(n),
                Err(reason) => {
                    self.outbox = Queue::default();
                    if let Some(tls) = &mut self.tls {
                        tls.fall_silent();
                    }
                    self.congested = false;
                    self.awaiting_room(false);
                    return Err(reason);
                }
            }
            if self.tls.is_some() {
                // To seal costs time: others have their turn before there is more.
                break;
            }
        }
        if self.queued() <= self.settings.low_watermark {
            self.congested = false;
        }
        if self.queued() == 0 && self.shut_write {
            self.shutdown_write_now()?;
        }
        Ok(self.level())
    }

    /// The kernel takes what it can: 0 when it is full.
    fn send_once(&mut self, slices: &[IoSlice<'_>], total: usize) -> Result<usize, Reason> {
        if self.tls.is_some() {
            return self.send_secure(slices, total);
        }
        self.send_socket(slices, total)
    }

    fn send_socket(&mut self, slices: &[IoSlice<'_>], total: usize) -> Result<usize, Reason> {
        let Some(socket) = self.socket.as_ref() else {
            return Err(Reason::Closed);
        };
        let result = loop {
            let sent = match (&mut self.handed, slices) {
                (Some(handed), slices) => handed.write(socket, slices),
                (None, [one]) => socket.send_with_flags(one, libc::MSG_NOSIGNAL),
                (None, many) => socket.send_vectored_with_flags(many, libc::MSG_NOSIGNAL),
            };
            match sent {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => break other,
            }
        };
        match result {
            Ok(n) => {
                self.writable = n == total;
                self.count_sent(n);
                Ok(n)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.writable = false;
                Ok(0)
            }
            Err(error) => {
                let reason = Reason::from(error);
                self.broken = Some(reason);
                self.because(Cause::Reset);
                Err(reason)
            }
        }
    }

    fn count_sent(&mut self, bytes: usize) {
        self.traffic.sent += bytes as u64;
        self.traffic.writes += 1;
        if let Some(watch) = &mut self.watch {
            watch.sent(bytes, Instant::now());
        }
    }

    fn level(&mut self) -> Level {
        let queued = self.queued();
        if let Some(watch) = &mut self.watch {
            watch.queued(queued > 0, Instant::now());
        }
        if queued >= self.settings.high_watermark {
            self.congested = true;
        }
        match queued {
            _ if self.congested => Level::Above,
            0 => Level::Empty,
            _ => Level::Below,
        }
    }

    // ---- files --------------------------------------------------------------

    /// True when a part of a file would go to the kernel at once.
    pub fn may_send_file(&self) -> Result<bool, Reason> {
        if matches!(self.phase, Phase::Connecting | Phase::Greeting) {
            return Err(Reason::Errno(libc::ENOTCONN));
        }
        if self.phase != Phase::Open || self.shut_write {
            return Err(Reason::Closed);
        }
        match self.broken {
            Some(reason) => Err(reason),
            None => Ok(self.has_room()),
        }
    }

    /// Begins to send a file past the queue: a descriptor to do that with, unlocked, or `None` when
    /// there is no room, or others are before it. What is written meanwhile waits in the queue.
    pub fn begin_file(&mut self) -> Result<Option<(OwnedFd, u32)>, Reason> {
        if !self.may_send_file()? {
            return Ok(None);
        }
        let fd = self.socket()?.as_fd().try_clone_to_owned();
        let fd = fd.map_err(Reason::from)?;
        self.filing = true;
        Ok(Some((fd, self.room)))
    }

    /// Ends what [`State::begin_file`] began: so many bytes were sent, and the kernel was `full`
    /// since the poll last said that there is room. True when others can go on.
    pub fn end_file(&mut self, sent: usize, full: bool, room: u32) -> bool {
        self.filing = false;
        if sent > 0 {
            self.count_sent(sent);
        }
        if full && room == self.room {
            self.writable = false;
        }
        self.may_flush()
    }

    // ---- ends ---------------------------------------------------------------

    /// Stops one or both directions. Writing stops once the queue is flushed.
    pub fn shutdown(&mut self, read: bool, write: bool) -> Result<(), Reason> {
        self.socket()?;
        if self.phase != Phase::Open {
            return Err(Reason::Errno(libc::ENOTCONN));
        }
        if write && !self.shut_write {
            self.shut_write = true;
            if self.queued() == 0 {
                self.shutdown_write_now()?;
            }
        }
        if read {
            self.hangup = true;
            self.readable = true;
            match self.socket()?.shutdown(std::net::Shutdown::Read) {
                // A peer that was told of the end may have reset the connection since.
                Err(error) if self.shut_write && error.kind() == io::ErrorKind::NotConnected => {}
                outcome => outcome.map_err(Reason::from)?,
            }
        }
        Ok(())
    }

    fn shutdown_write_now(&mut self) -> Result<(), Reason> {
        if !self.say_goodbye() {
            // The end comes behind it, once the kernel has taken it.
            return Ok(());
        }
        self.socket()?
            .shutdown(std::net::Shutdown::Write)
            .map_err(Reason::from)
    }

    /// Ends the connection as soon as its queue is flushed, which may be at
    /// once: then true, and the fd is closed.
    pub fn close(&mut self, now: Instant) -> bool {
        if self.phase == Phase::Closed {
            return true;
        }
        self.wanted = None;
        self.settings.active = Active::Off;
        let early = matches!(self.phase, Phase::Connecting | Phase::Greeting);
        let lost = early || self.broken.is_some();
        if lost || (self.queued() == 0 && self.say_goodbye()) {
            self.close_fd();
            return true;
        }
        if self.phase == Phase::Open {
            self.phase = Phase::Closing;
            self.deadline = Some(now + LINGER);
            self.inbox = Queue::default();
        }
        false
    }

    /// The stream has ended and an active owner was told. What it was sent before, it may still be
    /// answering: so the connection stays open for that, for as long as a linger.
    pub fn end(&mut self, now: Instant) {
        self.end_reading();
        self.deadline = Some(now + LINGER);
    }

    /// The stream has ended and whoever read was told. It may still answer; it is to close.
    pub fn end_reading(&mut self) {
        self.ended = true;
        self.readable = false;
        self.wanted = None;
        self.settings.active = Active::Off;
        self.inbox = Queue::default();
        self.awaiting(false);
    }

    /// Ends the connection at once, for this cause: what is queued is lost. The owner has to be told.
    pub fn condemn(&mut self, cause: Cause) {
        self.because(cause);
        let lossy = self.queued() > 0;
        if let Some(tls) = self.tls.as_mut().filter(|_| lossy) {
            tls.fall_silent();
        }
        self.outbox = Queue::default();
        self.congested = false;
        self.shut_write = true;
    }

    /// Closes the fd now, whatever is queued.
    pub fn close_fd(&mut self) {
        if self.tls.is_some() {
            self.end_secure();
        }
        self.greeting = None;
        self.phase = Phase::Closed;
        self.deadline = None;
        self.watch = None;
        self.inbox = Queue::default();
        self.outbox = Queue::default();
        self.congested = false;
        if let Some(socket) = self.socket.take() {
            counters::FDS_CLOSED.add();
            if let Some(handed) = &self.handed {
                handed.home.unwatch(socket.as_raw_fd());
            }
            fds::release(socket.as_raw_fd());
            if self.filing {
                // Whoever sends the file has the socket open too: it ends there as well.
                let _ = socket.shutdown(std::net::Shutdown::Both);
            }
        }
        if let Some(slot) = self.slot.take() {
            slot.group()
                .add_traffic(self.traffic.received, self.traffic.sent);
        }
    }

    /// Takes out what another process needs to go on with it: its place among those of its listener stays,
    /// until [`State::close_fd`]. `None` if it is closed, or its TLS session has begun, which cannot move.
    pub fn part(&mut self) -> Option<Parted> {
        if self.tls.is_some() {
            return None;
        }
        let socket = self.socket.take()?;
        let settings = self.settings.clone();
        self.settings.deadlines = Deadlines::default();
        self.watch = None;
        self.check_at = None;
        self.deadline = None;
        self.phase = Phase::Open;
        self.readable = false;
        self.writable = false;
        Some(Parted {
            socket,
            greeting: self.greeting.take(),
            settings,
            handed: self.handed.take().is_some(),
            unread: std::mem::take(&mut self.inbox).as_slice().to_vec(),
            unsent: std::mem::take(&mut self.outbox).as_slice().to_vec(),
        })
    }

    /// The outcome of a connection attempt, once the poll said writable.
    pub fn finish_connect(&mut self) -> Result<(), Reason> {
        let error = self.socket()?.take_error().map_err(Reason::from)?;
        if let Some(error) = error {
            return Err(error.into());
        }
        self.phase = match &self.greeting {
            None => Phase::Open,
            Some(greeting) => {
                self.deadline = greeting.deadline(Instant::now());
                Phase::Greeting
            }
        };
        self.readable = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use mio::Poll;

    /// A connection with nobody behind it, and its peer.
    fn pair(settings: Settings) -> (Arc<Connection<()>>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (ours, _) = listener.accept().unwrap();
        ours.set_nonblocking(true).unwrap();
        let home = Arc::new(LoopHandle::new(&Poll::new().unwrap()).unwrap());
        let parts = Parts {
            socket: ours.into(),
            phase: Phase::Open,
            greeting: None,
            settings,
            slot: None,
            peer: None,
        };
        (Connection::new(parts, (), home), peer)
    }

    fn settings(framing: Framing) -> Settings {
        Settings {
            framing,
            packet_size: 0,
            active: Active::Off,
            high_watermark: 64 * 1024,
            low_watermark: 16 * 1024,
            deadlines: Deadlines::default(),
            send_timeout: 0,
            send_timeout_close: false,
        }
    }

    /// Waits in the kernel until the peer's bytes are here, and tells the state.
    fn arrive(state: &mut State<()>) {
        let mut fd = libc::pollfd {
            fd: state.fd().unwrap(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one valid pollfd for the length of the call.
        let ready = unsafe { libc::poll(&mut fd, 1, 5_000) };
        assert_eq!(ready, 1, "nothing arrived within 5 s");
        state.on_event(true, false, false);
    }

    fn pulled(state: &mut State<()>, length: usize) -> Option<Vec<u8>> {
        match state.pull(length, &mut [0; 4096]) {
            Pull::Data(data) => Some(data.to_vec()),
            Pull::Blocked => None,
            Pull::End(reason) => panic!("unexpected end: {reason}"),
        }
    }

    #[test]
    fn a_peer_that_was_told_of_the_end_may_reset_before_the_other_direction_ends() {
        let (conn, peer) = pair(settings(Framing::Raw));
        let mut state = conn.lock();
        state.shutdown(false, true).unwrap();
        socket2::SockRef::from(&peer)
            .set_linger(Some(std::time::Duration::ZERO))
            .unwrap();
        drop(peer);
        arrive(&mut state);
        state.shutdown(true, true).unwrap();
    }

    #[test]
    fn a_short_read_waits_for_the_next_edge() {
        let (conn, mut peer) = pair(settings(Framing::Raw));
        let mut state = conn.lock();
        peer.write_all(b"one").unwrap();
        arrive(&mut state);
        assert_eq!(pulled(&mut state, 0).unwrap(), b"one");
        assert!(!state.may_read());
        assert!(pulled(&mut state, 0).is_none());
        peer.write_all(b"two").unwrap();
        arrive(&mut state);
        assert_eq!(pulled(&mut state, 0).unwrap(), b"two");
    }

    #[test]
    fn one_look_for_a_long_message_reads_so_much_and_no_more() {
        const LENGTH: usize = 64 * 1024 * 1024;
        let (conn, mut peer) = pair(settings(Framing::Raw));
        let sender = std::thread::spawn(move || peer.write_all(&vec![7; LENGTH]));
        let mut state = conn.lock();
        let mut scratch = vec![0; 64 * 1024];
        let mut most = 0;
        let all = loop {
            let before = state.inbox.len();
            match state.pull(LENGTH, &mut scratch) {
                Pull::Data(data) => break data.len(),
                Pull::Blocked => {}
                Pull::End(reason) => panic!("unexpected end: {reason}"),
            }
            most = most.max(state.inbox.len() - before);
            if !state.readable {
                arrive(&mut state);
            }
        };
        assert_eq!(all, LENGTH);
        assert!(most > 0 && most < READ_BUDGET + scratch.len(), "{most}");
        sender.join().unwrap().unwrap();
    }

    #[test]
    fn an_exact_length_waits_until_it_is_there_and_leaves_the_rest() {
        let (conn, mut peer) = pair(settings(Framing::Raw));
        let mut state = conn.lock();
        peer.write_all(b"abc").unwrap();
        arrive(&mut state);
        assert!(pulled(&mut state, 5).is_none());
        peer.write_all(b"defg").unwrap();
        arrive(&mut state);
        assert_eq!(pulled(&mut state, 5).unwrap(), b"abcde");
        assert!(state.may_read());
        assert_eq!(pulled(&mut state, 0).unwrap(), b"fg");
        assert!(state.idle());
    }

    #[test]
    fn a_packet_larger_than_the_scratch_buffer_comes_whole_and_its_memory_goes() {
        let (conn, mut peer) = pair(settings(Framing::Length(4)));
        let mut state = conn.lock();
        let body = vec![7u8; 10_000];
        peer.write_all(&(body.len() as u32).to_be_bytes()).unwrap();
        peer.write_all(&body).unwrap();
        let mut got = None;
        while got.is_none() {
            arrive(&mut state);
            got = pulled(&mut state, 0);
        }
        assert_eq!(got.unwrap(), body);
        assert!(pulled(&mut state, 0).is_none());
        assert_eq!(state.inbox.bytes.capacity(), 0);
    }

    #[test]
    fn what_the_kernel_does_not_take_is_queued_up_to_the_mark_and_then_flushed_in_order() {
        let (conn, mut peer) = pair(settings(Framing::Raw));
        let mut state = conn.lock();
        let chunk: Vec<u8> = (0..=255).cycle().take(32 * 1024).collect();
        let mut sent = 0;
        let full = loop {
            let level = state.send(&chunk).unwrap();
            sent += chunk.len();
            if level == Level::Above {
                break state.queued();
            }
        };
        assert!(full >= 64 * 1024 && full < 64 * 1024 + chunk.len());
        assert!(state.congested());
        let reader = std::thread::spawn(move || {
            let mut all = vec![0; sent];
            std::io::Read::read_exact(&mut peer, &mut all).unwrap();
            all
        });
        while state.queued() > 0 {
            let mut fd = libc::pollfd {
                fd: state.fd().unwrap(),
                events: libc::POLLOUT,
                revents: 0,
            };
            // SAFETY: as in `arrive`.
            assert_eq!(unsafe { libc::poll(&mut fd, 1, 5_000) }, 1);
            state.on_event(false, true, false);
            state.flush().unwrap();
        }
        assert!(!state.congested());
        let all = reader.join().unwrap();
        assert!(all.chunks(chunk.len()).all(|got| got == chunk));
    }

    #[test]
    fn what_is_put_back_comes_before_what_came_later() {
        let (conn, mut peer) = pair(settings(Framing::Raw));
        let mut state = conn.lock();
        peer.write_all(b"abc").unwrap();
        arrive(&mut state);
        let mut into = [0; 8];
        assert!(matches!(state.read_bytes(&mut into[..2]), Ok(2)));
        state.unread(b"ab");
        state.unread(b"^");
        assert!(state.may_read());
        assert!(matches!(state.read_bytes(&mut into), Ok(3)));
        assert_eq!(&into[..3], b"^ab");
        assert!(matches!(state.read_bytes(&mut into), Ok(1)));
    }

    #[test]
    fn a_close_with_nothing_queued_closes_the_fd_at_once_and_only_once() {
        let (conn, _peer) = pair(settings(Framing::Raw));
        let mut state = conn.lock();
        assert!(state.close(Instant::now()));
        assert!(state.fd().is_none());
        assert!(state.close(Instant::now()));
        assert_eq!(state.send(b"late"), Err(Reason::Closed));
    }

    #[test]
    fn a_broken_pipe_is_an_error_of_the_write_and_not_a_zero() {
        let (conn, peer) = pair(settings(Framing::Raw));
        drop(peer);
        let mut state = conn.lock();
        let error = loop {
            // The first write may be taken before the reset arrives.
            if let Err(reason) = state.write_now(b"x") {
                break reason;
            }
        };
        assert_eq!(error.folded(), Reason::Closed);
        assert!(state.write_now(b"x").is_err());
    }
}
