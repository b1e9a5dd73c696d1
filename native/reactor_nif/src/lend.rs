//! A loop lends itself to the schedulers while they keep it busy.
//!
//! A handler that has answered and asks for more is the one that knows that there is nothing to
//! do: it then takes a turn of the loop right there, in its NIF, instead of going to sleep, waking
//! the loop's thread, and being woken by it. Under load the thread stays parked, which saves its
//! wake-ups, those of the schedulers, and the way of messages between allocators: see
//! docs/architecture.md for the figures.
//!
//! The thread takes its loop back when a scheduler finds nothing to do, when there is something that a
//! scheduler leaves to it, after [`LOAN`], or when no handler came by for [`PATIENCE`]: then they are
//! busy with other things, and it keeps the loop for a while. Where they came [`OFTEN`] it waits for
//! [`TRUST`]: who is that quick and does not come has lost its core, and would only be kept from
//! getting it back by one more thread that wants to run.

use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use once_cell::sync::{Lazy, OnceCell};
use rustler::Env;

use crate::event_loop::EventLoop;

/// The longest that an event waits for a scheduler before the thread sees to it.
const PATIENCE: Duration = Duration::from_micros(500);
/// The same where handlers are quick.
const TRUST: Duration = Duration::from_millis(2);
/// How often they come by within [`PATIENCE`] if they are.
const OFTEN: u64 = 10;
/// The longest that a loop is lent in one go: its timers are its thread's.
const LOAN: Duration = Duration::from_millis(10);
/// How long the thread keeps the loop after it had to wait in vain; twice as long each time that it
/// happens again ...
pub const GRUDGE: Duration = Duration::from_millis(1);
/// ... up to this.
pub const LONGEST_GRUDGE: Duration = Duration::from_millis(50);
/// How often a scheduler that would be idle looks again before it gives the loop back.
const GLANCES: usize = 10;
/// What share of a scheduler's timeslice a turn costs the process that takes it, in percent.
const TIMESLICE: i32 = 5;

/// With fewer handlers than this at work, a scheduler is about to run dry.
static FEW: Lazy<isize> = Lazy::new(|| {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    isize::try_from(cores).unwrap_or(1)
});

/// The place where a loop can be borrowed.
#[derive(Default)]
pub struct Counter {
    lent: Mutex<Option<Box<EventLoop>>>,
    is_lent: AtomicBool,
    recalled: AtomicBool,
    thread: OnceCell<Thread>,
    /// How often a handler came, to take a turn or for something else.
    visits: AtomicU64,
    /// Handlers that were given data and have not asked for more yet.
    at_work: AtomicIsize,
    /// Counts anew from time to time: whoever is at work on something long is not waited for.
    era: AtomicU32,
}

impl Counter {
    /// A handler was given data. Gives what it has to show when it comes back.
    pub fn went(&self) -> u32 {
        self.at_work.fetch_add(1, Ordering::Relaxed);
        self.era.load(Ordering::Relaxed)
    }

    /// It asked for more, or will not soon.
    pub fn came_back(&self, era: u32) {
        self.visits.fetch_add(1, Ordering::Relaxed);
        // Counted anew in between: then there is nothing to take it from.
        if era == self.era.load(Ordering::Relaxed)
            && self.at_work.fetch_sub(1, Ordering::Relaxed) <= 0
        {
            self.at_work.store(0, Ordering::Relaxed);
        }
    }

    /// Lends the loop until it is needed: true when that was in vain.
    pub fn lend(&self, event_loop: Box<EventLoop>) -> (Box<EventLoop>, bool) {
        self.thread.get_or_init(thread::current);
        let mut slot = self.lent.lock().unwrap_or_else(PoisonError::into_inner);
        *slot = Some(event_loop);
        drop(slot);
        self.is_lent.store(true, Ordering::SeqCst);
        let until = Instant::now() + LOAN;
        let mut patience = PATIENCE;
        let vain = loop {
            let before = self.visits.load(Ordering::Relaxed);
            let since = Instant::now();
            thread::park_timeout(patience);
            if self.recalled.swap(false, Ordering::Acquire) {
                break false;
            }
            let now = Instant::now();
            let visits = self.visits.load(Ordering::Relaxed).wrapping_sub(before);
            // It may have been woken for what is over, and whoever has the loop just now has come.
            let waited = now - since >= patience && self.lent.try_lock().is_ok();
            if waited && visits == 0 {
                self.era.fetch_add(1, Ordering::Relaxed);
                self.at_work.store(0, Ordering::Relaxed);
                break true;
            }
            if now >= until {
                break false;
            }
            patience = if is_often(visits, now - since) {
                TRUST
            } else {
                PATIENCE
            };
        };
        self.is_lent.store(false, Ordering::SeqCst);
        let mut slot = self.lent.lock().unwrap_or_else(PoisonError::into_inner);
        match slot.take() {
            Some(event_loop) => (event_loop, vain),
            None => unreachable!("only the loop's own thread takes it from here"),
        }
    }

    /// True when the loop is lent, and some handler is about to come and take a turn. If none does, its
    /// thread is back within [`TRUST`], and looks for commands first.
    pub fn is_expected(&self) -> bool {
        self.is_lent.load(Ordering::SeqCst) && self.at_work.load(Ordering::Relaxed) > 0
    }

    /// The loop's thread is needed.
    pub fn recall(&self) {
        if self.is_lent.load(Ordering::Acquire) && !self.recalled.swap(true, Ordering::AcqRel) {
            if let Some(thread) = self.thread.get() {
                thread.unpark();
            }
        }
    }

    /// To be called by a handler that waits for more: takes a turn if the loop is to be had and
    /// nearly everybody else waits too. Never blocks.
    pub fn help(&self, env: Env) {
        if !self.is_lent.load(Ordering::Acquire) || self.at_work.load(Ordering::Relaxed) >= *FEW {
            return;
        }
        let Ok(mut slot) = self.lent.try_lock() else {
            return;
        };
        let Some(event_loop) = slot.as_mut() else {
            return;
        };
        let mut found = false;
        for glance in 0..GLANCES {
            if glance > 0 {
                // This scheduler would be idle; the peers may need its core to send more.
                thread::yield_now();
            }
            found |= event_loop.turn_for(env);
            self.visits.fetch_add(1, Ordering::Relaxed);
            // Whom it has woken may have come, and found the loop taken. Or there is something for its
            // own thread.
            if self.at_work.load(Ordering::Relaxed) > 0 || self.recalled.load(Ordering::Relaxed) {
                break;
            }
        }
        drop(slot);
        rustler::schedule::consume_timeslice(env, if found { TIMESLICE } else { 1 });
        if self.at_work.load(Ordering::Relaxed) <= 0 {
            self.recall();
        }
    }
}

fn is_often(visits: u64, within: Duration) -> bool {
    u128::from(visits) * PATIENCE.as_nanos() >= u128::from(OFTEN) * within.as_nanos()
}
