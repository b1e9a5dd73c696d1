//! What Elixir holds of a call.

use std::sync::atomic::Ordering;
use std::sync::Arc;

use rustler::{Env, LocalPid, Monitor, Resource, ResourceArc, Term};

use crate::python::inbox::Inbox;
use crate::python::job::{Abandoned, Claim, Job, RUNS, WAITS};

/// What the caller holds of its call. When that is gone, because the caller is, so is the call that it waits
/// for; one that goes on by itself is given up when its caller ends.
pub struct JobHandle {
    job: Arc<Job>,
    inbox: Arc<Inbox>,
    waited_for: bool,
}

impl JobHandle {
    /// Of a call that was put into this inbox, and that the caller waits for.
    pub fn new(job: Arc<Job>, inbox: Arc<Inbox>) -> ResourceArc<Self> {
        ResourceArc::new(JobHandle {
            job,
            inbox,
            waited_for: true,
        })
    }

    /// Of one that goes on by itself; `env` is that of its caller.
    pub fn of_its_own(env: Env, job: Arc<Job>, inbox: Arc<Inbox>) -> ResourceArc<Self> {
        let handle = ResourceArc::new(JobHandle {
            job: Arc::clone(&job),
            inbox,
            waited_for: false,
        });
        if handle.monitor(Some(env), &env.pid()).is_none() {
            handle.abandon();
            return handle;
        }
        let mut reply = job.reply();
        // It may be over already.
        if job.waits() || job.state.load(Ordering::Acquire) == RUNS {
            reply.handle = Some(handle.clone());
        }
        drop(reply);
        handle
    }

    /// Its caller.
    pub fn owner(&self) -> Option<LocalPid> {
        self.job.caller
    }

    /// See [`Job::claim`].
    pub fn claim<'a>(&self, env: Env<'a>, reference: Term<'a>) -> Claim<'a> {
        self.job.claim(env, reference)
    }

    /// Gives it up, and has it interrupted if it runs. False when it is over: its answer is there, or on its
    /// way.
    pub fn abandon(&self) -> bool {
        match self.job.abandon() {
            None => return false,
            Some(Abandoned::Waiting) => self.inbox.is_settled(),
            Some(Abandoned::Running) => {
                self.inbox.is_settled();
                self.inbox.cut(&self.job);
            }
        }
        true
    }

    /// True when its answer is sent, or nobody wants one.
    pub fn is_over(&self) -> bool {
        !matches!(self.job.state.load(Ordering::Acquire), WAITS | RUNS)
    }
}

impl Drop for JobHandle {
    fn drop(&mut self) {
        if self.waited_for {
            self.abandon();
        }
    }
}

#[rustler::resource_impl]
impl Resource for JobHandle {
    fn down<'a>(&'a self, _env: Env<'a>, _pid: LocalPid, _monitor: Monitor) {
        self.abandon();
    }
}
