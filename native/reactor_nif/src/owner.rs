//! Who gets the bytes of a connection: a process, or a Python protocol.
//!
//! The only file that knows both. A loop calls [`advance`] for every
//! connection something happened to, then [`finish_turn`] once.

use std::sync::Arc;
use std::time::Instant;

use crate::command::{Command, LoopHandle};
use crate::connection::{Connection, State};
use crate::mail::Mail;
use crate::process::{self, ProcessOwner};
use crate::python::protocol::{self, ProtocolOwner, Turn};

pub use crate::process::Acceptor;

/// A connection as the loops know it.
pub type Conn = Connection<Owner>;

/// How large one read from a socket may be, in bytes.
pub const READ_SIZE: usize = 64 * 1024;

/// The owner of a connection.
pub enum Owner {
    /// Gone: what is queued is flushed, then the connection ends.
    Nobody,
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
    /// How many messages a connection may deliver in this turn.
    pub deliveries: usize,
    /// How many waiting readers this turn has served.
    pub delivered: usize,
    /// The loop is ending: idle connections are closed.
    pub stopping: bool,
}

/// What the loop has to do about a connection it has advanced.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Wait for the next event.
    Idle,
    /// Look again soon: its share of this turn is used up.
    Again,
    /// Flushing its last bytes: look again at this time.
    Linger(Instant),
    /// The fd is closed: forget it.
    Gone,
}

/// Does what can be done for a connection now.
pub fn advance(conn: &Arc<Conn>, io: &mut LoopIo) -> Next {
    let mut state = conn.lock();
    match &state.owner {
        Owner::Process(_) => process::advance(conn, &mut state, io),
        Owner::Protocol(_) => protocol::advance(conn, &mut state, io),
        Owner::Nobody => flush_last(&mut state, io.now),
    }
}

/// Ends the turn: in a context's loop, calls the protocols that have something to do.
/// Gives the connections that are to be looked at again.
pub fn finish_turn(io: &mut LoopIo, again: &mut Vec<Arc<Conn>>) {
    if let Some(turn) = &mut io.turn {
        turn.run(again);
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
        return Next::Gone;
    }
    match state.deadline {
        Some(deadline) if !std::mem::replace(&mut state.armed, true) => Next::Linger(deadline),
        _ => Next::Idle,
    }
}

/// Asks a connection's loop to look at it, from any thread.
pub fn kick(conn: &Arc<Conn>) {
    if conn.mark_kicked() {
        let home: &Arc<LoopHandle> = conn.home();
        home.tell(Command::Kick(Arc::clone(conn)));
    }
}
