//! The calls that wait for a context's thread, and those that it runs.
//!
//! Calls are run in order, one at a time. One that asks something outside of Python waits for that, and then
//! the calls that descend from its question are run within it, on the same thread: they could not be waited for
//! otherwise. A call descends from a question if the process that answers it is the caller, or one of those
//! on whose behalf the caller runs. All others wait for their turn.

mod asked;
mod gate;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustler::ResourceArc;

use crate::command::LoopHandle;
use crate::mail::Mail;
use crate::python::job::Job;
use crate::python::watch::now;
use crate::python::watchdog;

use asked::{put_within, Asked};

pub use asked::DEEPEST;
pub use gate::Gate;

/// So many calls may wait for their turn, the one that runs and those that are tasks included.
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
    /// There are tasks to be cancelled.
    cancelling: AtomicBool,
    /// The context's loop.
    home: Arc<LoopHandle>,
    /// What it shares with others.
    gate: Option<ResourceArc<Gate>>,
    /// How many questions wait.
    asking: AtomicUsize,
    /// Its loop passes calls on to another process.
    passes_on: AtomicBool,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Arc<Job>>,
    /// How many of them nobody waits for.
    unasked: usize,
    /// Those that run, the innermost last.
    running: Vec<Arc<Job>>,
    cuts: Vec<Cut>,
    /// Those that go on as tasks, by number.
    parked: HashMap<u64, Arc<Job>>,
    /// The numbers of those that nobody waits for any more.
    cancelled: Vec<u64>,
    /// What the thread has asked, the innermost last: the one that it waits for.
    asked: Vec<Asked>,
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
    /// An empty one, of the context that has this loop.
    pub fn new(home: Arc<LoopHandle>, gate: Option<ResourceArc<Gate>>) -> Arc<Self> {
        Arc::new(Inbox {
            state: Mutex::default(),
            queued: AtomicUsize::new(0),
            unanswered: AtomicUsize::new(0),
            cutting: AtomicUsize::new(0),
            cancelling: AtomicBool::new(false),
            home,
            gate,
            asking: AtomicUsize::new(0),
            passes_on: AtomicBool::new(false),
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
        let ticket = self.enter_gate()?;
        let job = match put_within(&state.asked, job) {
            Ok(true) => {
                ticket.keep();
                self.unanswered.fetch_add(1, Ordering::Relaxed);
                return Ok(false);
            }
            Ok(false) => return Err(Refused::Overloaded),
            Err(job) => job,
        };
        if state.refuses {
            return Err(Refused::Closed);
        }
        let busy = usize::from(!state.running.is_empty()) + state.parked.len();
        let passes_on = self.passes_on.load(Ordering::Acquire);
        let full = |state: &State| match passes_on {
            // Those that were passed on are known by their answers alone. Those that were given up before have
            // none, and are here until there is room for them.
            true => self.unanswered() >= MOST || state.queue.len() - state.unasked >= MOST,
            false => state.queue.len() - state.unasked + busy >= MOST,
        };
        if full(&state) {
            // Those that were given up take no room.
            state.queue.retain(|job| job.waits());
            if full(&state) {
                self.queued.store(state.queue.len(), Ordering::SeqCst);
                return Err(Refused::Overloaded);
            }
        }
        ticket.keep();
        state.queue.push_back(job);
        self.unanswered.fetch_add(1, Ordering::Relaxed);
        self.queued.store(state.queue.len(), Ordering::SeqCst);
        Ok(true)
    }

    /// Puts in what nobody waits for. Whoever does bounds it.
    pub fn put_unasked(&self, job: Arc<Job>) {
        let mut state = self.lock();
        if state.closed {
            return;
        }
        state.queue.push_back(job);
        state.unasked += 1;
        self.queued.store(state.queue.len(), Ordering::SeqCst);
        drop(state);
        self.home.nudge();
    }

    /// True when it takes no more calls.
    pub fn is_closed(&self) -> bool {
        let state = self.lock();
        state.closed || state.refuses
    }

    /// How many have no answer yet.
    pub fn unanswered(&self) -> usize {
        self.unanswered.load(Ordering::Relaxed)
    }

    /// One of them is over.
    pub fn is_settled(&self) {
        self.unanswered.fetch_sub(1, Ordering::Relaxed);
        if let Some(gate) = &self.gate {
            gate.leave();
        }
    }

    /// Its callers are told that it is closed, and others from now on. Not for schedulers.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let mut left: Vec<_> = state.queue.drain(..).collect();
        left.extend(state.running.iter().cloned());
        left.extend(state.parked.values().cloned());
        for asked in &state.asked {
            left.extend(asked.question.take_calls());
        }
        self.queued.store(0, Ordering::SeqCst);
        drop(state);
        let mut mail = Mail::new();
        for job in left {
            job.close(self, &mut mail);
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
        state.unasked -= usize::from(job.is_unasked());
        self.queued.store(state.queue.len(), Ordering::SeqCst);
        state.running.push(Arc::clone(&job));
        Some(job)
    }

    /// From now on the loop passes calls on, with [`Inbox::hand_out`].
    pub fn passes_on(&self) {
        self.passes_on.store(true, Ordering::Release);
    }

    /// The next call, which is run in another process.
    pub fn hand_out(&self) -> Option<Arc<Job>> {
        if !self.has_queued() {
            return None;
        }
        let mut state = self.lock();
        let job = state.queue.pop_front()?;
        state.unasked -= usize::from(job.is_unasked());
        self.queued.store(state.queue.len(), Ordering::SeqCst);
        Some(job)
    }

    /// A call that descends from what the thread waits for is run now. It runs until [`Inbox::leave`].
    pub fn enter(&self, job: &Arc<Job>) {
        self.lock().running.push(Arc::clone(job));
    }

    /// The call that runs; none while a protocol is called.
    pub fn current(&self) -> Option<Arc<Job>> {
        self.lock().running.last().cloned()
    }

    /// The call that began last does not run any more.
    pub fn leave(&self) {
        let job = self.lock().running.pop();
        if let Some(job) = job {
            job.ends();
        }
    }

    /// It goes on as a task instead, under its number.
    pub fn park(&self) {
        let mut state = self.lock();
        let Some(job) = state.running.pop() else {
            return;
        };
        let number = job.number();
        if !job.park() {
            state.cancelled.push(number);
            self.cancelling.store(true, Ordering::Release);
        }
        state.parked.insert(number, job);
    }

    /// The task of that number is over.
    pub fn unpark(&self, number: u64) -> Option<Arc<Job>> {
        let job = self.lock().parked.remove(&number)?;
        job.ends();
        Some(job)
    }

    /// True while tasks of calls go on.
    pub fn has_parked(&self) -> bool {
        !self.lock().parked.is_empty()
    }

    /// True when there are tasks to be cancelled.
    pub fn has_cancelled(&self) -> bool {
        self.cancelling.load(Ordering::Acquire)
    }

    /// The numbers of the tasks that are to be cancelled.
    pub fn take_cancelled(&self) -> Vec<u64> {
        if !self.has_cancelled() {
            return Vec::new();
        }
        self.cancelling.store(false, Ordering::Release);
        std::mem::take(&mut self.lock().cancelled)
    }

    // ---- for others, and the watchdog -----------------------------------------------

    /// Has a call that runs, and that nobody waits for any more, interrupted; or its task cancelled.
    pub fn cut(&self, job: &Arc<Job>) {
        let mut state = self.lock();
        if job.is_parked() {
            state.cancelled.push(job.number());
            self.cancelling.store(true, Ordering::Release);
            self.home.nudge();
        }
        state.cuts.push(Cut {
            job: Arc::clone(job),
            at: now(),
            reported: false,
        });
        self.cutting.store(state.cuts.len(), Ordering::Release);
        drop(state);
        if self.passes_on.load(Ordering::Acquire) {
            self.home.nudge();
        } else {
            watchdog::look();
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
