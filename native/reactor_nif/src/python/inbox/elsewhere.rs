//! What the process asks that a context has for itself: calls that descend from that are passed on at once, and say
//! so, since its thread waits for them.

use std::sync::atomic::Ordering;

use rustler::LocalPid;

use crate::python::inbox::Inbox;
use crate::python::job::Job;

/// Its questions.
#[derive(Default)]
pub(super) struct Elsewhere {
    /// The numbers of those that its context's thread waits for, and who answers them, the innermost last.
    executors: Vec<(u64, LocalPid)>,
    /// Those that have an answer, which is to be passed on.
    answered: Vec<u64>,
}

impl Elsewhere {
    /// How many its context's thread waits for.
    pub(super) fn len(&self) -> usize {
        self.executors.len()
    }

    /// True for a call that descends from one of them, or more; it knows those from now on.
    pub(super) fn enter(&self, job: &Job) -> bool {
        let executors = self.executors.iter();
        let within: Vec<u64> = executors
            .filter(|(_, executor)| job.chain.contains(executor))
            .map(|(number, _)| *number)
            .collect();
        let enters = !within.is_empty();
        if enters {
            job.descends_from(within);
        }
        enters
    }

    fn forget(&mut self, number: u64) {
        self.executors.retain(|(other, _)| *other != number);
    }
}

impl Inbox {
    /// That process answers the question of this number.
    pub fn is_answered_by(&self, number: u64, executor: LocalPid) {
        self.lock().elsewhere.executors.push((number, executor));
    }

    /// There is an answer to be passed on.
    pub fn has_answer(&self, number: u64) {
        let mut state = self.lock();
        state.elsewhere.forget(number);
        state.elsewhere.answered.push(number);
        self.answering.store(true, Ordering::Release);
        drop(state);
        self.home.nudge();
    }

    /// Nobody waits for an answer any more.
    pub fn question_was_given_up(&self, number: u64) {
        self.lock().elsewhere.forget(number);
    }

    /// True when there are answers.
    pub fn has_answers(&self) -> bool {
        self.answering.load(Ordering::Acquire)
    }

    /// The numbers of the questions that have one.
    pub fn take_answered(&self) -> Vec<u64> {
        if !self.has_answers() {
            return Vec::new();
        }
        let mut state = self.lock();
        self.answering.store(false, Ordering::Release);
        std::mem::take(&mut state.elsewhere.answered)
    }
}
