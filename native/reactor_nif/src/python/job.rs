//! A call that a process has made to a context: what is asked, and what became of it.
//!
//! Exactly one of those who want it over has it: the context's thread with the answer, whoever closes the
//! context, or the caller that gives up. So a caller that gave up is sent nothing, and one that did not is sent
//! one answer.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustler::env::SavedTerm;
use rustler::{Atom, Encoder, Env, LocalPid, OwnedEnv, Resource, Term};

use crate::mail::Mail;
use crate::python::inbox::Inbox;

mod atoms {
    rustler::atoms! {
        closed,
        error,
    }
}

/// What became of a call, in its atomic.
const WAITS: u8 = 0;
const RUNS: u8 = 1;
/// The answer is sent, or about to be.
const ANSWERED: u8 = 2;
/// The caller has given up, or is gone.
const ABANDONED: u8 = 3;

/// What is asked: freed when the call is over, or given up before it began.
pub struct Request {
    env: OwnedEnv,
    /// A function of `erlang.reactor.context`.
    pub operation: Atom,
    arguments: SavedTerm,
}

impl Request {
    /// What another process needs to run it: `{kind, number, operation, arguments, chain}`.
    pub fn passage<'a>(
        &self,
        env: Env<'a>,
        kind: Atom,
        number: u64,
        chain: &[LocalPid],
    ) -> Term<'a> {
        let arguments = self.env.run(|own| self.arguments.load(own).in_env(env));
        (kind, number, self.operation, arguments, chain).encode(env)
    }

    /// Shows the list of arguments.
    pub fn with_arguments<T>(&self, show: impl FnOnce(Term) -> T) -> T {
        self.env.run(|env| show(self.arguments.load(env)))
    }
}

/// One call.
pub struct Job {
    state: AtomicU8,
    caller: LocalPid,
    /// The caller, and those on whose behalf it runs, nearest first.
    pub chain: Vec<LocalPid>,
    /// What names the call in its answer.
    reference: Mutex<(OwnedEnv, SavedTerm)>,
    request: Mutex<Option<Request>>,
    /// The watch's number for it, once it has begun.
    number: AtomicU64,
    /// The context's thread is through with it.
    over: AtomicBool,
}

impl Job {
    /// Copies what it needs of these terms.
    pub fn new(
        caller: LocalPid,
        callers: Vec<LocalPid>,
        reference: Term,
        operation: Atom,
        arguments: Term,
    ) -> Arc<Self> {
        let own = OwnedEnv::new();
        let saved = own.save(reference);
        let env = OwnedEnv::new();
        let request = Request {
            arguments: env.save(arguments),
            operation,
            env,
        };
        let mut chain = callers;
        chain.insert(0, caller);
        Arc::new(Job {
            state: AtomicU8::new(WAITS),
            caller,
            chain,
            reference: Mutex::new((own, saved)),
            request: Mutex::new(Some(request)),
            number: AtomicU64::new(0),
            over: AtomicBool::new(false),
        })
    }

    /// True while nobody has begun it or given it up.
    pub fn waits(&self) -> bool {
        self.state.load(Ordering::Acquire) == WAITS
    }

    /// True when its caller has given up.
    pub fn is_abandoned(&self) -> bool {
        self.state.load(Ordering::Acquire) == ABANDONED
    }

    /// True when the context's thread is through with it.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// The watch's number for it; 0 before it has begun.
    pub fn number(&self) -> u64 {
        self.number.load(Ordering::Acquire)
    }

    // ---- for the context's thread ------------------------------------------------

    /// It begins, unless nobody wants it any more.
    pub fn begin(&self) -> Option<Request> {
        self.change(WAITS, RUNS).then(|| self.take_request())?
    }

    /// It is now the watch's call of this number.
    pub fn runs_as(&self, number: u64) {
        self.number.store(number, Ordering::Release);
    }

    /// It does not run any more.
    pub fn ends(&self) {
        self.over.store(true, Ordering::Release);
    }

    /// Sends `{reference, answer}`, unless it is over otherwise. True if it was this that ended it.
    pub fn answer<F>(&self, mail: &mut Mail, build: F) -> bool
    where
        F: for<'a> FnOnce(Env<'a>) -> Term<'a>,
    {
        mail.send_if(&self.caller, |env| {
            // What takes time comes before: an answer that is claimed is on its way.
            let message = (self.reference(env), build(env)).encode(env);
            (self.change(RUNS, ANSWERED)).then_some(message)
        })
    }

    // ---- for others --------------------------------------------------------------

    /// Its context is closed: the caller is told so, unless the call is over otherwise.
    pub fn close(&self, mail: &mut Mail) -> bool {
        if !self.change(WAITS, ANSWERED) && !self.change(RUNS, ANSWERED) {
            return false;
        }
        mail.send(&self.caller, |env| {
            let answer = (atoms::error(), atoms::closed());
            (self.reference(env), answer).encode(env)
        });
        drop(self.take_request());
        true
    }

    /// Its caller does not want it any more. `None` if it is over already: its answer is there, or on its way.
    fn abandon(&self) -> Option<Abandoned> {
        if self.change(WAITS, ABANDONED) {
            drop(self.take_request());
            Some(Abandoned::Waiting)
        } else if self.change(RUNS, ABANDONED) {
            Some(Abandoned::Running)
        } else {
            None
        }
    }

    fn change(&self, from: u8, to: u8) -> bool {
        let changed = self
            .state
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
        changed.is_ok()
    }

    fn take_request(&self) -> Option<Request> {
        let mut request = self.request.lock().unwrap_or_else(PoisonError::into_inner);
        request.take()
    }

    fn reference<'a>(&self, env: Env<'a>) -> Term<'a> {
        let kept = self
            .reference
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (own, saved) = &*kept;
        own.run(|own| saved.load(own).in_env(env))
    }
}

/// What was given up.
enum Abandoned {
    Waiting,
    Running,
}

/// What the caller holds of its call: when that is gone, because the caller is, so is the call.
pub struct JobHandle {
    job: Arc<Job>,
    inbox: Arc<Inbox>,
}

impl JobHandle {
    /// Of a call that was put into this inbox.
    pub fn new(job: Arc<Job>, inbox: Arc<Inbox>) -> Self {
        JobHandle { job, inbox }
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
}

impl JobHandle {
    /// True when its answer is sent, or nobody wants one.
    pub fn is_over(&self) -> bool {
        !matches!(self.job.state.load(Ordering::Acquire), WAITS | RUNS)
    }
}

impl Drop for JobHandle {
    fn drop(&mut self) {
        self.abandon();
    }
}

#[rustler::resource_impl]
impl Resource for JobHandle {}
