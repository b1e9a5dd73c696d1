//! The calls that wait for a context's thread, and those that it runs.
//!
//! Calls are run in order, one at a time. One that asks something outside of Python waits for that, and then
//! the calls that descend from its question are run within it, on the same thread: they could not be waited for
//! otherwise. A call descends from a question if the process that answers it is the caller, or one of those
//! on whose behalf the caller runs. All others wait for their turn.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use once_cell::sync::OnceCell;

use crate::command::LoopHandle;
use crate::mail::Mail;
use crate::python::job::Job;
use crate::python::question::Question;
use crate::python::watch::{now, Frame};
use crate::python::watchdog;

/// So many calls may wait for their turn, the one that runs included.
const MOST: usize = 1_024;

/// So many questions may wait within each other.
pub const DEEPEST: usize = 400;

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
    /// How many questions wait.
    asking: AtomicUsize,
    /// Of a context whose Python is in another process: the loop that passes calls on.
    gate: OnceCell<Arc<LoopHandle>>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Arc<Job>>,
    /// Those that run, the innermost last.
    running: Vec<Arc<Job>>,
    cuts: Vec<Cut>,
    /// What the thread has asked, the innermost last: the one that it waits for.
    asked: Vec<Asked>,
    /// The context drains: nobody else's turn comes.
    refuses: bool,
    closed: bool,
}

struct Asked {
    question: Arc<Question>,
    /// The call that asked.
    frame: Frame,
    /// Whoever answers was ended.
    withdrawn: bool,
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
            asking: AtomicUsize::new(0),
            gate: OnceCell::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a call in: true if it waits for the loop, which has to be woken then.
    pub fn put(&self, job: Arc<Job>) -> Result<bool, Refused> {
        let mut state = self.lock();
        if state.closed {
            return Err(Refused::Closed);
        }
        let job = match put_within(&state.asked, job) {
            Ok(true) => {
                self.unanswered.fetch_add(1, Ordering::Relaxed);
                return Ok(false);
            }
            Ok(false) => return Err(Refused::Overloaded),
            Err(job) => job,
        };
        if state.refuses {
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
        Ok(true)
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
        for asked in &state.asked {
            left.extend(asked.question.take_calls());
        }
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

    /// From now on calls are passed on by that loop, with [`Inbox::hand_out`].
    pub fn is_passed_on_by(&self, home: &Arc<LoopHandle>) {
        // It has one loop.
        let _ = self.gate.set(Arc::clone(home));
    }

    /// The next call, which is run in another process.
    pub fn hand_out(&self) -> Option<Arc<Job>> {
        if !self.has_queued() {
            return None;
        }
        let mut state = self.lock();
        let job = state.queue.pop_front();
        self.queued.store(state.queue.len(), Ordering::SeqCst);
        job
    }

    /// A call that descends from what the thread waits for is run now. It runs until [`Inbox::leave`].
    pub fn enter(&self, job: &Arc<Job>) {
        self.lock().running.push(Arc::clone(job));
    }

    /// The call that runs; none while a protocol is called.
    pub fn current(&self) -> Option<Arc<Job>> {
        self.lock().running.last().cloned()
    }

    /// The thread asks, and is going to wait: false if it waits for too much already.
    pub fn ask(&self, question: &Arc<Question>, frame: Frame) -> bool {
        let mut state = self.lock();
        if state.asked.len() >= DEEPEST {
            return false;
        }
        state.asked.push(Asked {
            question: Arc::clone(question),
            frame,
            withdrawn: false,
        });
        self.asking.store(state.asked.len(), Ordering::Release);
        true
    }

    /// It does not wait for what it asked last any more. The calls that descend from that wait for what they
    /// descend from besides, or for their turn.
    pub fn answered(&self, question: &Question) {
        let mut state = self.lock();
        state.asked.pop();
        self.asking.store(state.asked.len(), Ordering::Release);
        for job in question.take_calls() {
            if let Err(job) = put_within(&state.asked, job) {
                state.queue.push_back(job);
            }
        }
        self.queued.store(state.queue.len(), Ordering::SeqCst);
    }

    /// The call that began last does not run any more.
    pub fn leave(&self) {
        let job = self.lock().running.pop();
        if let Some(job) = job {
            job.ends();
        }
    }

    // ---- for the watchdog ------------------------------------------------------------

    /// Has whoever answers a question ended, if whoever asked it is to be.
    pub fn withdraw(&self, is_over: impl Fn(&Frame) -> bool) {
        if self.asking.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut withdrawn = Vec::new();
        for asked in &mut self.lock().asked {
            if !asked.withdrawn && is_over(&asked.frame) {
                asked.withdrawn = true;
                withdrawn.push(Arc::clone(&asked.question));
            }
        }
        let mut mail = Mail::new();
        for question in withdrawn {
            question.cancel(&mut mail);
        }
    }

    /// The thread is to look what there is, if it waits.
    pub fn disturb(&self) {
        if let Some(asked) = self.lock().asked.last() {
            asked.question.disturb();
        }
    }

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
        match self.gate.get() {
            Some(home) => home.nudge(),
            None => watchdog::look(),
        }
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

/// Puts a call into the innermost question that it descends from: false if too many wait for that. It is given
/// back if it descends from none.
fn put_within(asked: &[Asked], job: Arc<Job>) -> Result<bool, Arc<Job>> {
    let mut job = job;
    for asked in asked.iter().rev() {
        match asked.question.put(job, MOST) {
            Err(back) => job = back,
            put => return put,
        }
    }
    Err(job)
}
