//! How long the peer may make us wait, and when the loop has to look whether it has.
//!
//! What is waited for, and since when, is in [`Watch`]; reads and writes note what they moved there.

use std::time::Instant;

use crate::connection::{Phase, State, LINGER};
use crate::deadline::{Deadlines, Watch};
use crate::error::Cause;

impl<O> State<O> {
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
}
