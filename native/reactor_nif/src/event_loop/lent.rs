//! A loop that is lent to a scheduler's thread, where handlers wait for what it brings.
//!
//! A turn there is short: what may take longer than a moment is left to the loop's own thread.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::time::{Duration, Instant};

use mio::Events;
use rustler::Env;

use crate::command::Command;
use crate::event_loop::accept::ACCEPTS;
use crate::event_loop::EventLoop;
use crate::process;

/// How many events a turn takes there from the poll at once.
pub(super) const FEW_EVENTS: usize = 32;
/// How many messages a connection may deliver there.
const FEW_DELIVERIES: usize = 2;
/// How many connections a listener may bring there.
const FEW_ACCEPTS: usize = 4;
/// How many commands are taken there.
const FEW_COMMANDS: usize = 32;
/// How many handlers a turn must have woken for the loop to be lent to them.
const LEND_FROM: usize = 1;

impl EventLoop {
    /// True when the handlers that this turn has woken may take the next ones.
    pub(super) fn lendable(&self) -> bool {
        self.io.delivered >= LEND_FROM
            && self.again.is_empty()
            && self.accepting.is_empty()
            && self.due.is_empty()
            && self.stop_at.is_none()
            && self.keep_until <= self.io.now
    }

    /// A short turn on a scheduler's thread: delivers what has arrived, and leaves what may take
    /// longer to the loop's own thread. False when nobody got anything.
    pub fn turn_for(&mut self, env: Env) -> bool {
        let mut few = std::mem::replace(&mut self.few, Events::with_capacity(0));
        let polled = self.poll(&mut few, Some(Duration::ZERO));
        self.io.now = Instant::now();
        self.io.delivered = 0;
        // They would hold a scheduler up.
        self.io.greetings = 0;
        let due = self.wheel.sleep(self.io.now);
        self.ready.append(&mut self.again);
        self.io.deliveries = FEW_DELIVERIES;
        self.accepts = FEW_ACCEPTS;
        self.io.mail.begin_for(env);
        let turned = catch_unwind(AssertUnwindSafe(|| {
            let accepting = std::mem::take(&mut self.accepting);
            for event in &few {
                self.note(event);
            }
            for token in accepting {
                self.accept(token);
            }
            self.take_few_commands();
            self.advance_ready();
        }));
        self.io.mail.end_for();
        self.accepts = ACCEPTS;
        self.io.deliveries = process::DELIVERIES;
        self.few = few;
        self.io.reports.turn(self.io.now, Instant::now());
        let found = self.io.delivered > 0;
        let urgent = polled.is_err()
            || turned.is_err()
            || due.is_some_and(|left| left.is_zero())
            || std::mem::take(&mut self.io.behind)
            || !self.deferred.is_empty();
        // Whoever got something comes again.
        let left = !self.again.is_empty() || !self.accepting.is_empty();
        if urgent || (left && !found) {
            self.handle.counter.recall();
        }
        found
    }

    /// Takes commands there: only what is soon done, and in order.
    fn take_few_commands(&mut self) {
        if !self.deferred.is_empty() {
            return;
        }
        self.handle.heard();
        for _ in 0..FEW_COMMANDS {
            match self.handle.next() {
                Some(
                    command @ (Command::Adopt(_) | Command::Kick(_) | Command::KickListener(_)),
                ) => self.obey(command, &mut None),
                Some(command) => return self.deferred.push_back(command),
                None => return,
            }
        }
        // There may be more.
        self.handle.ring();
    }
}
