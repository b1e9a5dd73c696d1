//! From a listening socket to the owner: connections that greet, and those that have and wait for a
//! process to accept them.
//!
//! No acceptor waits for a greeting: a listener's loop accepts while somebody waits for a connection,
//! and whoever has greeted first is handed over first.

use std::sync::{Arc, Weak};

use crate::connection::{Failure, Greeted, State};
use crate::error::{Cause, Reason};
use crate::event_loop::kick_listener;
use crate::listener::Listener;
use crate::owner::{Conn, LoopIo, Next, Owner};
use crate::process;

/// How many connections of one listener may be on their way.
pub const MAX_ARRIVING: usize = 8192;
/// How many greetings a loop goes on with in one turn: each may cost as much as a signature.
pub const GREETINGS: usize = 8;

/// The owner of a connection until a process accepts it. Counted by its listener.
pub struct Arrival(Weak<Listener>);

impl Arrival {
    /// Of a connection that this listener has accepted.
    pub fn new(listener: &Arc<Listener>) -> Self {
        listener.arrives();
        Arrival(Arc::downgrade(listener))
    }

    /// Its listener, if that is still there.
    pub fn listener(&self) -> Option<Arc<Listener>> {
        self.0.upgrade()
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        let Some(listener) = self.listener() else {
            return;
        };
        let before = listener.arrived();
        // There is room for one again. Or it was the last that those who still waited on a closed
        // listener waited for.
        if before >= MAX_ARRIVING || (before == 1 && listener.lock().fd().is_none()) {
            kick_listener(&listener);
        }
    }
}

/// Goes on with a greeting. `None` when it is over, and the owner has its turn.
pub fn advance(conn: &Arc<Conn>, state: &mut State<Owner>, io: &mut LoopIo) -> Option<Next> {
    if io.stopping || conn.draining() {
        return Some(fail(
            conn,
            state,
            io,
            Cause::Drained,
            Failure::Reason(Reason::Closed),
        ));
    }
    if state.readable && io.greetings == 0 {
        io.behind = true;
        return Some(Next::Again);
    }
    let before = state.traffic.received;
    let greeted = state.greet(io.now);
    // To hear nothing costs nothing.
    io.greetings -= usize::from(state.traffic.received > before);
    match greeted {
        Greeted::Waiting => Some(Next::Idle),
        Greeted::Failed(cause, failure) => Some(fail(conn, state, io, cause, failure)),
        Greeted::Done => {
            match &state.owner {
                Owner::Arriving(_) => io.arrived.push(Arc::clone(conn)),
                Owner::Process(_) => process::connected(state, io, Ok(())),
                _ => {}
            }
            None
        }
    }
}

/// Looks at one that has greeted and that nobody has accepted yet.
pub fn wait(conn: &Arc<Conn>, state: &mut State<Owner>, io: &mut LoopIo) -> Next {
    if io.stopping || conn.draining() {
        state.because(Cause::Drained);
        state.close_fd();
        state.owner = Owner::Nobody;
        return Next::Gone;
    }
    if state.may_flush() {
        // A failure is found again by who gets it.
        let _ = state.flush();
    }
    Next::Idle
}

fn fail(
    conn: &Conn,
    state: &mut State<Owner>,
    io: &mut LoopIo,
    cause: Cause,
    failure: Failure,
) -> Next {
    state.because(cause);
    if let Failure::Alert(alert) = &failure {
        tracing::debug!(
            connection = conn.id,
            alert = alert.name,
            "a TLS handshake failed: {}",
            alert.text
        );
    }
    process::connected(state, io, Err(failure));
    state.close_fd();
    state.owner = Owner::Nobody;
    Next::Gone
}
