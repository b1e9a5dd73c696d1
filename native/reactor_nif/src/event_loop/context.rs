//! The loop of a context: calls of processes, and the context's asyncio loop, between the turns of its
//! connections.

use std::io;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Token};
use rustler::LocalPid;

use crate::event_loop::{EventLoop, EVENTS};
use crate::python::context::Reporter;
use crate::python::protocol::Turn;

/// The token of a context's asyncio loop.
pub(super) const TASKS: Token = Token(usize::MAX - 1);
/// How long a context runs calls before it looks for anything else, if each takes little.
const ROUND: Duration = Duration::from_micros(100);

impl EventLoop {
    /// Runs for a context, until it is told to stop and has nothing left, or its time is over; gives back what
    /// belongs to Python.
    pub fn run_context(
        mut self,
        turn: Turn,
        reporter: &mut Reporter,
        report_to: Option<LocalPid>,
    ) -> io::Result<Turn> {
        self.report_to = report_to;
        self.io.turn = Some(Box::new(turn));
        let mut events = Events::with_capacity(EVENTS);
        while self.turn(&mut events, Some(reporter))? {}
        match self.io.turn.take() {
            Some(turn) => Ok(*turn),
            None => Err(io::Error::other("the turn is gone")),
        }
    }

    /// Runs the calls of processes, and lets go of what they have let go of. More are taken without another
    /// turn while they come in quick succession: what there is besides is looked for soon.
    pub(super) fn run_calls(&mut self) {
        let Some(turn) = &mut self.io.turn else {
            return;
        };
        turn.let_go();
        if !turn.has_calls() {
            return;
        }
        let home = &self.handle;
        let until = self.io.now + ROUND;
        turn.run_calls();
        while !home.has_commands() && Instant::now() < until {
            // Nobody has to wake it from here on: the next turn looks before it sleeps.
            home.ring();
            if !turn.linger(|| home.has_commands()) {
                break;
            }
            turn.run_calls();
        }
    }

    pub(super) fn run_tasks(&mut self) {
        let Some(turn) = &mut self.io.turn else {
            return;
        };
        if let Some(fd) = turn.run_tasks() {
            // It is an epoll or a kqueue, and ends with the loop of asyncio that it belongs to.
            let registry = self.poll.registry();
            let watched = registry.register(&mut SourceFd(&fd), TASKS, Interest::READABLE);
            if let Err(error) = watched {
                tracing::error!(%error, "the asyncio loop of a context could not be watched");
            }
        }
    }
}
