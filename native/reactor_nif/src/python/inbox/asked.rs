//! What a context's thread has asked outside of Python, and waits for; the calls that descend from that are
//! run meanwhile.

use std::sync::atomic::Ordering;
use std::sync::Arc;

use crate::mail::Mail;
use crate::python::inbox::{Inbox, MOST};
use crate::python::job::Job;
use crate::python::question::Question;
use crate::python::watch::Frame;

/// So many questions may wait within each other.
pub const DEEPEST: usize = 400;

/// What the thread has asked.
pub(super) struct Asked {
    pub(super) question: Arc<Question>,
    /// The call that asked.
    frame: Frame,
    /// Whoever answers was ended.
    withdrawn: bool,
}

impl Inbox {
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
}

/// Puts a call into the innermost question that it descends from: false if too many wait for that. It is given
/// back if it descends from none.
pub(super) fn put_within(asked: &[Asked], job: Arc<Job>) -> Result<bool, Arc<Job>> {
    let mut job = job;
    for asked in asked.iter().rev() {
        match asked.question.put(job, MOST) {
            Err(back) => job = back,
            put => return put,
        }
    }
    Err(job)
}
