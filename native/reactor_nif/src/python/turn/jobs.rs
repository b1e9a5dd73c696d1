//! The calls of processes, between those of connections: what waits in the inbox is run, a few at once.

use std::time::{Duration, Instant};

use crate::python::desk;
use crate::python::turn::Turn;
use crate::python::watch::Callback;

/// How many calls of processes a turn runs: the connections have to get theirs.
const CALLS_AT_ONCE: usize = 16;
/// A call that comes so soon after the last one makes the thread wait for the next without sleeping.
const QUICK: Duration = Duration::from_micros(200);
/// For so long.
const LINGER: Duration = Duration::from_micros(50);
/// How often it looks before it looks at the clock.
const LOOKS: usize = 32;

impl Turn {
    /// True when a call waits to be run.
    pub fn has_calls(&self) -> bool {
        self.inbox.has_queued()
    }

    /// Waits for the next call a moment, without sleeping, if they come in quick succession: to be woken takes
    /// longer than most calls. True if there is one.
    pub fn linger(&mut self, disturbed: impl Fn() -> bool) -> bool {
        if !self.quick {
            return false;
        }
        let until = Instant::now() + LINGER;
        loop {
            for _ in 0..LOOKS {
                if self.has_calls() {
                    return true;
                }
                if disturbed() {
                    return false;
                }
                // Whoever calls may need this processor.
                std::thread::yield_now();
            }
            if Instant::now() >= until {
                self.quick = false;
                return false;
            }
        }
    }

    /// Lets go of objects that Elixir does not hold any more.
    pub fn let_go(&mut self) {
        let Some(held) = self.held.as_ref().filter(|held| held.is_due()) else {
            return;
        };
        if let Some(thread) = &mut self.thread {
            thread.with(|py| {
                // What is freed may have code of its own for that.
                let number = self.watch.begin(Callback::Import, 0);
                held.let_go(py);
                self.watch.end(number);
            });
        }
    }

    /// Runs the next calls, and answers them.
    pub fn run_calls(&mut self) {
        if !self.has_calls() {
            return;
        }
        self.quick = self.called.elapsed() < QUICK;
        let (Some(thread), Some(desk)) = (&mut self.thread, desk::here()) else {
            return;
        };
        thread.with(|py| {
            for _ in 0..CALLS_AT_ONCE {
                match self.inbox.next() {
                    Some(job) => desk.run_first(py, &job),
                    None => break,
                }
            }
        });
        self.called = Instant::now();
    }
}
