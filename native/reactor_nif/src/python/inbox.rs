//! The calls that wait for a context's thread, and those that it runs.
//!
//! Calls are run in order, one at a time. One that asks something outside of Python waits for that, and then
//! the calls that descend from its question are run within it, on the same thread: they could not be waited for
//! otherwise. A call descends from a question if the process that answers it is the caller, or one of those
//! on whose behalf the caller runs. All others wait for their turn.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::mail::Mail;
use crate::python::job::Job;
use crate::python::watch::now;
use crate::python::watchdog;

/// So many calls may wait for their turn, the one that runs included.
const MOST: usize = 1_024;

/// Why a call is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The context ends.
    Closed,
    /// Too many wait already.
    Overloaded,
}

/// Of one context.
pub struct Inbox {
    state: Mutex<State>,
    /// How many wait for the loop.
    queued: AtomicUsize,
    /// How many have no answer yet.
    unanswered: AtomicUsize,
    /// Calls that were given up while they ran go on.
    cutting: AtomicUsize,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Arc<Job>>,
    /// Those that run, the innermost last.
    running: Vec<Arc<Job>>,
    cuts: Vec<Cut>,
    /// The context drains: nobody else's turn comes.
    refuses: bool,
    closed: bool,
}

/// A call that was given up while it ran.
#[derive(Clone)]
pub struct Cut {
    pub job: Arc<Job>,
    /// When, as the watch has it.
    pub at: u64,
    /// It was reported as stuck.
    pub reported: bool,
}

impl Inbox {
    /// An empty one.
    pub fn new() -> Arc<Self> {
        Arc::new(Inbox {
            state: Mutex::default(),
            queued: AtomicUsize::new(0),
            unanswered: AtomicUsize::new(0),
            cutting: AtomicUsize::new(0),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a call in; the loop has to be woken then.
    pub fn put(&self, job: Arc<Job>) -> Result<(), Refused> {
        let mut state = self.lock();
        if state.closed || state.refuses {
            return Err(Refused::Closed);
        }
        let busy = usize::from(!state.running.is_empty());
        if state.queue.len() + busy >= MOST {
            // Those that were given up take no room.
            state.queue.retain(|job| job.waits());
            if state.queue.len() + busy >= MOST {
                self.queued.store(state.queue.len(), Ordering::SeqCst);
                return Err(Refused::Overloaded);
            }
        }
        state.queue.push_back(job);
        self.unanswered.fetch_add(1, Ordering::Relaxed);
        self.queued.store(state.queue.len(), Ordering::SeqCst);
        Ok(())
    }

    /// How many have no answer yet.
    pub fn unanswered(&self) -> usize {
        self.unanswered.load(Ordering::Relaxed)
    }

    /// One of them is over.
    pub fn is_settled(&self) {
        self.unanswered.fetch_sub(1, Ordering::Relaxed);
    }

    /// Its callers are told that it is closed, and others from now on. Not for schedulers.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let mut left: Vec<_> = state.queue.drain(..).collect();
        left.extend(state.running.iter().cloned());
        self.queued.store(0, Ordering::SeqCst);
        drop(state);
        let mut mail = Mail::new();
        for job in left {
            if job.close(&mut mail) {
                self.is_settled();
            }
        }
        mail.clear();
    }

    /// Nobody's turn comes any more, after those who wait for it already.
    pub fn refuse(&self) {
        self.lock().refuses = true;
    }

    // ---- for the context's thread --------------------------------------------------

    /// True when somebody waits for the loop.
    pub fn has_queued(&self) -> bool {
        self.queued.load(Ordering::SeqCst) > 0
    }

    /// The next call whose turn it is. It runs until [`Inbox::leave`].
    pub fn next(&self) -> Option<Arc<Job>> {
        if !self.has_queued() {
            return None;
        }
        let mut state = self.lock();
        let job = state.queue.pop_front()?;
        self.queued.store(state.queue.len(), Ordering::SeqCst);
        state.running.push(Arc::clone(&job));
        Some(job)
    }

    /// The call that began last does not run any more.
    pub fn leave(&self) {
        let job = self.lock().running.pop();
        if let Some(job) = job {
            job.ends();
        }
    }

    // ---- for the watchdog ------------------------------------------------------------

    /// Has a call that runs, and that nobody waits for any more, interrupted.
    pub fn cut(&self, job: &Arc<Job>) {
        let mut state = self.lock();
        state.cuts.push(Cut {
            job: Arc::clone(job),
            at: now(),
            reported: false,
        });
        self.cutting.store(state.cuts.len(), Ordering::Release);
        drop(state);
        watchdog::look();
    }

    /// Those calls which go on.
    pub fn cuts(&self) -> Vec<Cut> {
        if self.cutting.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let mut state = self.lock();
        state.cuts.retain(|cut| !cut.job.is_over());
        self.cutting.store(state.cuts.len(), Ordering::Release);
        state.cuts.clone()
    }

    /// That one was reported as stuck.
    pub fn was_reported(&self, job: &Arc<Job>) {
        let mut state = self.lock();
        let mut cuts = state.cuts.iter_mut();
        if let Some(cut) = cuts.find(|cut| Arc::ptr_eq(&cut.job, job)) {
            cut.reported = true;
        }
    }
}
