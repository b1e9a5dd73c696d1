//! How other threads reach a loop: a queue, and a waker that is rung once.
//!
//! The queue is bounded by what it speaks of: a connection is in it at most three times (adopted once,
//! moved once, kicked at most once at a time); a listener once for each time that one of its slots comes
//! free; everything else once for each time that somebody asks for it.

use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::Arc;

use crossbeam::queue::SegQueue;
use mio::unix::SourceFd;
use mio::{Poll, Registry, Token, Waker};
use rustler::ResourceArc;

use crate::group::Group;
use crate::lend::Counter;
use crate::listener::Listener;
use crate::owner::Conn;
use crate::portal::Asked;
use crate::process::ListenerHandle;

/// The token under which a loop's own waker is registered.
pub const WAKER: Token = Token(usize::MAX);

/// What a loop can be told.
pub enum Command {
    /// Take this socket into the loop.
    Adopt(Arc<Conn>),
    /// Something changed about this connection: look at it again.
    Kick(Arc<Conn>),
    /// Watch this listening socket.
    Listen(Arc<Listener>),
    /// Somebody waits on this listener, or it closed: look at it again.
    KickListener(Arc<Listener>),
    /// Close what is idle of this listener's connections.
    Drain(Arc<Group>),
    /// The last of this listener's connections is gone: tell those who wait for that.
    Drained(Arc<Group>),
    /// Give this connection, which a protocol owns already, to that context.
    Move(Arc<Conn>, Arc<LoopHandle>),
    /// For a context: load a factory and accept from this listener.
    Serve(ResourceArc<ListenerHandle>, String),
    /// For a context in a process of its own: load a factory for the listener with that number, which
    /// accepts elsewhere.
    Load(u64, String),
    /// For a context whose Python is in another process: have that say what went through its connections.
    Survey(Box<Asked>),
    /// For a context in a process of its own: say that it goes on.
    Rouse,
    /// Whoever looked at the owners' mailboxes is gone: none is being looked at.
    Relieve,
    /// Stop accepting, close what is idle, the rest after these milliseconds, then end.
    Stop(u64),
}

/// The other threads' end of a loop.
pub struct LoopHandle {
    queue: SegQueue<Command>,
    waker: Waker,
    /// Of the loop's poll.
    registry: Registry,
    /// True while a wake-up is on its way, so that a burst of commands makes one system call.
    rung: AtomicBool,
    /// Where schedulers borrow the loop.
    pub counter: Counter,
    /// The loop has ended: nobody will hear.
    closed: AtomicBool,
    /// Its context has not come to its new connections for long.
    deaf: AtomicBool,
}

impl LoopHandle {
    /// Makes the handle of the loop that owns `poll`.
    pub fn new(poll: &Poll) -> io::Result<Self> {
        Ok(LoopHandle {
            queue: SegQueue::new(),
            waker: Waker::new(poll.registry(), WAKER)?,
            registry: poll.registry().try_clone()?,
            rung: AtomicBool::new(false),
            counter: Counter::default(),
            closed: AtomicBool::new(false),
            deaf: AtomicBool::new(false),
        })
    }

    /// Tells the loop something, from any thread.
    pub fn tell(&self, command: Command) {
        self.queue.push(command);
        if self.closed() {
            return self.discard();
        }
        self.nudge();
    }

    /// Wakes the loop, which looks for what there is by itself.
    pub fn nudge(&self) {
        // A handler that comes for more, with the loop lent to it, takes the command then.
        if !self.rung.swap(true, SeqCst) && !self.counter.is_expected() {
            if let Err(error) = self.waker.wake() {
                // Only a full eventfd counter or a closed fd could do this; the loop is awake or gone.
                tracing::warn!(%error, "a loop could not be woken");
            }
            self.counter.recall();
        }
    }

    /// Tells the loop something that it need not wake up for: it looks soon by itself.
    pub fn tell_quietly(&self, command: Command) {
        self.queue.push(command);
        if self.closed() {
            self.discard();
        }
    }

    /// Has the loop's poll forget a descriptor that is about to be closed, if it knows it: from any
    /// thread. Closing is not enough where others have the same socket.
    pub fn unwatch(&self, fd: RawFd) {
        let _ = self.registry.deregister(&mut SourceFd(&fd));
    }

    /// The next command; for the loop alone. `None` means: wait in poll.
    pub fn next(&self) -> Option<Command> {
        self.queue.pop()
    }

    /// To be called by the loop before it empties the queue: whoever pushes
    /// from now on rings again.
    pub fn heard(&self) {
        self.rung.swap(false, SeqCst);
    }

    /// There may be more commands: for whoever took some of them.
    pub fn ring(&self) {
        self.rung.store(true, SeqCst);
    }

    /// True when commands may wait: a scheduler that borrowed the loop may have taken the wake-up
    /// out of the poll.
    pub fn ringing(&self) -> bool {
        self.rung.load(SeqCst)
    }

    /// True when a command waits.
    pub fn has_commands(&self) -> bool {
        !self.queue.is_empty()
    }

    /// True when the loop has ended.
    pub fn closed(&self) -> bool {
        self.closed.load(SeqCst)
    }

    /// True while its context does not come to its new connections: others are to have them.
    pub fn is_deaf(&self) -> bool {
        self.deaf.load(SeqCst)
    }

    /// Whether it does; for the loop alone.
    pub fn set_deaf(&self, deaf: bool) {
        self.deaf.store(deaf, SeqCst);
    }

    /// To be called by the loop when it ends: what comes from now on is for nobody.
    pub fn close(&self) {
        self.closed.store(true, SeqCst);
        self.discard();
    }

    /// Closes the connections that nobody will look at any more. Whoever tells may hold the lock of
    /// one of them: that one closes with its last user.
    fn discard(&self) {
        while let Some(command) = self.queue.pop() {
            match command {
                Command::Adopt(conn) => {
                    if let Some(group) = conn.group() {
                        group.forgotten();
                    }
                    close(&conn);
                }
                Command::Kick(conn) | Command::Move(conn, _) => close(&conn),
                _ => {}
            }
        }
    }
}

fn close(conn: &Conn) {
    if let Some(mut state) = conn.try_lock() {
        state.close_fd();
    }
}
