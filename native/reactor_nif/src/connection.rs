//! One socket: read demand, write queue, deadlines, close.
//!
//! Knows neither the BEAM nor Python. Whoever owns the bytes is the type
//! parameter `O`, which these files store and never look into.
//!
//! Edge-triggered: `readable` and `writable` remember what the kernel last
//! said. Each stays true until a system call came back short or would block;
//! only then may the loop wait for the next edge.
//!
//! Here is what it is made of; what it does is in the submodules, by what it is about.

mod deadlines;
mod ending;
mod greeting;
mod medium;
mod moving;
mod opening;
mod reading;
mod secure;
#[cfg(test)]
mod tests;
mod writing;

use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Instant;

use socket2::Socket;

use crate::address::Address;
use crate::command::LoopHandle;
use crate::counters;
use crate::deadline::{Deadlines, Watch};
use crate::error::{Cause, Reason};
use crate::framing::Framing;
use crate::group::{Group, Slot};
use crate::proxy::Header;
use crate::queue::Queue;
use crate::tls::Tls;

pub use ending::LINGER;
pub use greeting::{Failure, Greeted, Greeting, Handshake, Preface};
pub use medium::{Handed, Medium};
pub use moving::{Parted, Spare};
pub use opening::{next_id, Parts};
pub use reading::Pull;
pub use writing::Level;

/// A token that no loop has given out: the connection is not adopted yet.
const NO_TOKEN: usize = usize::MAX;

/// What a connection is made with; accepted sockets inherit their listener's.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How the stream is cut into messages.
    pub framing: Framing,
    /// The most bytes of a packet's body; 0 means [`crate::framing::MAX_PACKET`].
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
    /// It goes on somewhere else, and no loop here has begun with it.
    pub withdrawn: bool,
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

impl<O> Connection<O> {
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
}
