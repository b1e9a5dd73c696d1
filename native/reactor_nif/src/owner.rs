//! Who gets the bytes of a connection: a process, or a Python protocol.
//!
//! The only file that knows both. A loop calls [`advance`] for every
//! connection something happened to, then [`finish_turn`] once.

use std::sync::Arc;
use std::time::Instant;

use crate::arrival::{self, Arrival};
use crate::command::{Command, LoopHandle};
use crate::connection::{Connection, Phase, State};
use crate::error::Cause;
use crate::mail::Mail;
use crate::portal::Portal;
use crate::process::{self, ProcessOwner};
use crate::python::protocol::{self, ProtocolOwner, Turn};
use crate::report::Reports;

pub use crate::process::Acceptor;

/// A connection as the loops know it.
pub type Conn = Connection<Owner>;

impl Conn {
    /// Counts and lists it among those of its listener, before any loop has it.
    pub fn enter(self: &Arc<Self>) {
        if let (Some(slot), Some(group)) = (self.lock().slot(), self.group()) {
            slot.list(self);
            group.known();
        }
    }
}

/// How large one read from a socket may be, in bytes.
pub const READ_SIZE: usize = 64 * 1024;

/// The owner of a connection.
pub enum Owner {
    /// Gone: what is queued is flushed, then the connection ends.
    Nobody,
    /// Nobody yet: it greets, or waits for a process to accept it.
    Arriving(Arrival),
    /// An Elixir process.
    Process(Box<ProcessOwner>),
    /// A Python protocol object, driven by the context whose loop this is.
    Protocol(ProtocolOwner),
}

/// What a loop has at hand for its connections.
pub struct LoopIo {
    /// Where messages to processes are built.
    pub mail: Mail,
    /// What the kernel reads into.
    pub scratch: Vec<u8>,
    /// The time at the start of the turn.
    pub now: Instant,
    /// For a context's loop: the calls that wait for the GIL.
    pub turn: Option<Box<Turn>>,
    /// For a loop whose Python is in another process: the way there.
    pub portal: Option<Box<Portal>>,
    /// How many messages a connection may deliver in this turn.
    pub deliveries: usize,
    /// How many waiting readers this turn has served.
    pub delivered: usize,
    /// How many greetings this turn may still go on with.
    pub greetings: usize,
    /// There are greetings to go on with that this turn had no time for.
    pub behind: bool,
    /// Who has greeted, and is to be handed to a process that accepts.
    pub arrived: Vec<Arc<Conn>>,
    /// The loop is ending: idle connections are closed.
    pub stopping: bool,
    /// How many connections are about to be closed by their owners, who do not wake the loop for that.
    pub awaited: usize,
    /// Timers to be armed, and what they wake.
    pub timers: Vec<(Instant, usize)>,
    /// What is to be told to those who watch.
    pub reports: Reports,
}

/// What the loop has to do about a connection it has advanced.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Wait for the next event.
    Idle,
    /// Look again soon: its share of this turn is used up.
    Again,
    /// The fd is closed: forget it.
    Gone,
}

/// Does what can be done for a connection now.
pub fn advance(conn: &Arc<Conn>, io: &mut LoopIo) -> Next {
    let mut state = conn.lock();
    let mut next = step(conn, &mut state, io);
    if next == Next::Gone {
        return next;
    }
    let now = io.now;
    let mut cause = state.condemned.take();
    if cause.is_none() {
        cause = state.overdue(now);
        // A loop that is late has not heard of everything: it looks before it judges.
        if cause.is_some() && state.has_moved(now) {
            return Next::Again;
        }
    }
    if let Some(cause) = cause {
        next = cut(conn, &mut state, io, cause);
    }
    if next == Next::Idle && state.may_flush() {
        // Only so much is sealed at a time.
        next = Next::Again;
    }
    if let (Some(at), Some(token)) = (state.timer(now), conn.token()) {
        io.timers.push((at, token));
    }
    next
}

fn step(conn: &Arc<Conn>, state: &mut State<Owner>, io: &mut LoopIo) -> Next {
    if state.phase == Phase::Greeting {
        if let Some(next) = arrival::advance(conn, state, io) {
            return next;
        }
    }
    match &state.owner {
        Owner::Process(_) => process::advance(conn, state, io),
        Owner::Protocol(_) if io.portal.is_some() => elsewhere(conn, state, io),
        Owner::Protocol(_) => protocol::advance(conn, state, io),
        Owner::Arriving(_) => arrival::wait(conn, state, io),
        Owner::Nobody => flush_last(state, io.now),
    }
}

/// Looks at one whose protocol is in another process.
fn elsewhere(conn: &Arc<Conn>, state: &mut State<Owner>, io: &mut LoopIo) -> Next {
    let (Owner::Protocol(owner), Some(portal)) = (&mut state.owner, &mut io.portal) else {
        return Next::Idle;
    };
    if owner.take_end() {
        portal.cut(conn.id, state.cause);
    }
    if portal.knows(conn.id) {
        return Next::Idle;
    }
    // It has ended there; or there is no way that it could go.
    state.close_fd();
    Next::Gone
}

/// Ends a connection for a reason of ours; its owner learns of it.
fn cut(conn: &Arc<Conn>, state: &mut State<Owner>, io: &mut LoopIo, cause: Cause) -> Next {
    state.condemn(cause);
    match &mut state.owner {
        Owner::Process(_) => process::cut(conn, state, io, cause),
        // One that greets has no protocol yet.
        Owner::Protocol(owner) if state.phase != Phase::Greeting => owner.end(),
        _ => {
            state.close_fd();
            state.owner = Owner::Nobody;
        }
    }
    step(conn, state, io)
}

/// Ends the turn: in a context's loop, calls the protocols that have something to do.
/// Gives the connections that are to be looked at again.
pub fn finish_turn(io: &mut LoopIo, again: &mut Vec<Arc<Conn>>) {
    if let Some(turn) = &mut io.turn {
        turn.run(again);
        report_exceptions(turn, &mut io.reports);
    }
}

/// Tells what protocols have raised.
pub fn report_exceptions(turn: &mut Turn, reports: &mut Reports) {
    for (conn, error, callback) in turn.exceptions.drain(..) {
        reports.exception(&conn, error, callback);
    }
    for (served, id, error, callback) in turn.datagram_exceptions.drain(..) {
        let group = &served.listener.group;
        reports.exception_of(group, id, None, error, callback);
    }
}

/// Flushes a connection that nobody owns any more.
pub fn flush_last(state: &mut State<Owner>, now: Instant) -> Next {
    // A failed flush empties the queue: there is nobody left to tell.
    let _ = state.flush();
    let late = state.deadline.is_some_and(|deadline| deadline <= now);
    if late {
        state.close_fd();
    }
    if state.close(now) {
        Next::Gone
    } else {
        Next::Idle
    }
}

/// Has a connection's loop look at it when it is awake.
pub fn kick_quietly(conn: &Arc<Conn>) {
    if conn.mark_kicked() {
        conn.home().tell_quietly(Command::Kick(Arc::clone(conn)));
    }
}

/// Asks a connection's loop to look at it, from any thread.
pub fn kick(conn: &Arc<Conn>) {
    if conn.mark_kicked() {
        let home: &Arc<LoopHandle> = conn.home();
        home.tell(Command::Kick(Arc::clone(conn)));
    }
}
