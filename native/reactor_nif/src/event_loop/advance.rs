//! Advancing the connections that something happened to, until none is left for this turn.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;

use crate::event_loop::{EventLoop, Timed};
use crate::owner::{self, Conn, LoopIo, Next, Owner, READ_SIZE};
use crate::process;

impl EventLoop {
    pub(super) fn advance_ready(&mut self) {
        while !self.ready.is_empty() {
            for conn in std::mem::take(&mut self.ready) {
                match advance_alone(&conn, &mut self.io) {
                    Next::Idle => {}
                    Next::Again => self.again.push(conn),
                    Next::Gone => {
                        if let Some(token) = conn.token() {
                            self.forget(token, &conn);
                        }
                    }
                }
                if self.io.turn.as_ref().is_some_and(|turn| turn.is_full()) {
                    owner::finish_turn(&mut self.io, &mut self.again);
                }
            }
            self.welcome();
        }
        owner::finish_turn(&mut self.io, &mut self.again);
        if let Some(turn) = &mut self.io.turn {
            self.accepting.append(&mut turn.look);
        }
        for (at, token) in self.io.timers.drain(..) {
            self.wheel.arm(at, Timed::Token(token));
        }
        self.io.reports.send(&mut self.io.mail);
        self.io.mail.clear();
    }

    /// Forgets a connection that is over, unless that was done before.
    fn forget(&mut self, token: usize, conn: &Conn) {
        if self.remove(token) {
            self.io.awaited -= usize::from(conn.lock().awaited);
            self.io.reports.closed(conn);
            if self.io.reports.are_many() {
                self.io.reports.send(&mut self.io.mail);
            }
        }
    }
}

/// A bug that shows on one connection must not take the others along.
fn advance_alone(conn: &Arc<Conn>, io: &mut LoopIo) -> Next {
    let advanced = catch_unwind(AssertUnwindSafe(|| owner::advance(conn, io)));
    advanced.unwrap_or_else(|_| {
        tracing::error!(
            connection = conn.id,
            "a bug in the loop: it panicked; the connection is closed"
        );
        // What was being read into may have been lost on the way out.
        io.scratch.resize(READ_SIZE, 0);
        let mut state = conn.lock();
        if matches!(state.owner, Owner::Protocol(_)) {
            state.close_fd();
        } else {
            process::abandon(conn, &mut state, io);
        }
        Next::Again
    })
}
