//! A call that a process has made to a context: what is asked, and what became of it.
//!
//! Exactly one of those who want it over has it: the context's thread with the answer, whoever closes the
//! context, or the caller that gives up. So a caller that gave up is sent nothing, and one that did not is sent
//! one answer.

mod handle;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustler::env::SavedTerm;
use rustler::{Atom, Encoder, Env, LocalPid, OwnedEnv, ResourceArc, Term};

use crate::mail::Mail;
use crate::python::inbox::Inbox;
use crate::python::term::Conversion;

pub use handle::JobHandle;

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
    /// What another process needs to run it: `{kind, number, operation, arguments, chain, conversion}`.
    pub fn passage<'a>(&self, env: Env<'a>, kind: Atom, number: u64, job: &Job) -> Term<'a> {
        let arguments = self.env.run(|own| self.arguments.load(own).in_env(env));
        let (chain, conversion) = (&job.chain, job.conversion);
        (
            kind,
            number,
            self.operation,
            arguments,
            chain.as_slice(),
            conversion,
        )
            .encode(env)
    }

    /// Shows the list of arguments.
    pub fn with_arguments<T>(&self, show: impl FnOnce(Term) -> T) -> T {
        self.env.run(|env| show(self.arguments.load(env)))
    }
}

/// Where the answer goes.
#[derive(Default)]
struct Reply {
    /// What names the call in the message that answers it; `None` as long as nobody waits for one.
    reference: Option<(OwnedEnv, SavedTerm)>,
    /// The answer, as long as nobody waits.
    kept: Option<(OwnedEnv, SavedTerm)>,
    /// It was given out.
    taken: bool,
    /// Of a call that goes on without being waited for: it lives as long as that.
    handle: Option<ResourceArc<JobHandle>>,
}

/// What a caller gets that comes for its answer.
pub enum Claim<'a> {
    Answer(Term<'a>),
    /// It comes as a message.
    Later,
    Abandoned,
    /// It was given out before.
    Taken,
}

/// One call.
pub struct Job {
    state: AtomicU8,
    /// Nobody, of what the context does by itself.
    caller: Option<LocalPid>,
    /// The caller, and those on whose behalf it runs, nearest first.
    pub chain: Vec<LocalPid>,
    /// What becomes of the values among its arguments, and of its answer.
    pub conversion: Conversion,
    reply: Mutex<Reply>,
    request: Mutex<Option<Request>>,
    /// The watch's number for it, once it has begun.
    number: AtomicU64,
    /// It goes on as a task.
    parked: AtomicBool,
    /// The context's thread is through with it.
    over: AtomicBool,
}

impl Job {
    /// Copies what it needs of these terms. Without a reference its answer is kept.
    pub fn new(
        caller: LocalPid,
        callers: Vec<LocalPid>,
        reference: Option<Term>,
        operation: Atom,
        arguments: Term,
        conversion: Conversion,
    ) -> Arc<Self> {
        let mut chain = callers;
        chain.insert(0, caller);
        let caller = Some(caller);
        Job::make(caller, chain, reference, operation, arguments, conversion)
    }

    /// What the context does by itself, in its turn: nobody waits for it.
    pub fn unasked(operation: Atom, arguments: Term) -> Arc<Self> {
        let conversion = Conversion::default();
        Job::make(None, Vec::new(), None, operation, arguments, conversion)
    }

    fn make(
        caller: Option<LocalPid>,
        chain: Vec<LocalPid>,
        reference: Option<Term>,
        operation: Atom,
        arguments: Term,
        conversion: Conversion,
    ) -> Arc<Self> {
        let reply = Reply {
            reference: reference.map(save),
            ..Reply::default()
        };
        let env = OwnedEnv::new();
        let request = Request {
            arguments: env.save(arguments),
            operation,
            env,
        };
        Arc::new(Job {
            state: AtomicU8::new(WAITS),
            caller,
            chain,
            conversion,
            reply: Mutex::new(reply),
            request: Mutex::new(Some(request)),
            number: AtomicU64::new(0),
            parked: AtomicBool::new(false),
            over: AtomicBool::new(false),
        })
    }

    /// True when nobody waits for it, nor ever did.
    pub fn is_unasked(&self) -> bool {
        self.caller.is_none()
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

    /// It goes on as a task: false if nobody wants it any more.
    pub fn park(&self) -> bool {
        self.parked.store(true, Ordering::SeqCst);
        // Whoever gives it up from here on finds it parked.
        self.state.load(Ordering::SeqCst) == RUNS
    }

    /// True when it goes on as a task.
    pub fn is_parked(&self) -> bool {
        self.parked.load(Ordering::SeqCst)
    }

    /// Sends `{reference, answer}` if there is an answer, or keeps it, unless it is over otherwise.
    pub fn answer<F>(&self, inbox: &Inbox, mail: &mut Mail, build: F)
    where
        F: for<'a> FnOnce(Env<'a>) -> Option<Term<'a>>,
    {
        let Some(caller) = &self.caller else {
            OwnedEnv::new().run(|env| {
                let _ = build(env);
            });
            return;
        };
        mail.send_if(caller, |env| {
            // What takes time comes before: an answer that is waited for is on its way.
            let answer = build(env)?;
            if !self.change(RUNS, ANSWERED) {
                return None;
            }
            inbox.is_settled();
            self.give(env, answer)
        });
    }

    // ---- for others --------------------------------------------------------------

    /// Its context is closed: the caller is told so, unless the call is over otherwise.
    pub fn close(&self, inbox: &Inbox, mail: &mut Mail) {
        let Some(caller) = &self.caller else {
            return;
        };
        if !self.change(WAITS, ANSWERED) && !self.change(RUNS, ANSWERED) {
            return;
        }
        inbox.is_settled();
        mail.send_if(caller, |env| {
            self.give(env, (atoms::error(), atoms::closed()).encode(env))
        });
        drop(self.take_request());
    }

    /// Its caller does not want it any more. `None` if it is over already: its answer is there, or on its way.
    fn abandon(&self) -> Option<Abandoned> {
        let abandoned = if self.change(WAITS, ABANDONED) {
            drop(self.take_request());
            Abandoned::Waiting
        } else if self.change(RUNS, ABANDONED) {
            Abandoned::Running
        } else {
            return None;
        };
        let handle = self.reply().handle.take();
        drop(handle);
        Some(abandoned)
    }

    /// The caller wants its answer: now, or in a message `{reference, answer}`.
    pub fn claim<'a>(&self, env: Env<'a>, reference: Term<'a>) -> Claim<'a> {
        let mut reply = self.reply();
        if reply.taken {
            return Claim::Taken;
        }
        if self.is_abandoned() {
            return Claim::Abandoned;
        }
        reply.taken = true;
        match reply.kept.take() {
            Some((own, saved)) => Claim::Answer(own.run(|own| saved.load(own).in_env(env))),
            None => {
                reply.reference = Some(save(reference));
                Claim::Later
            }
        }
    }

    /// The message that answers it; none if the answer is kept.
    fn give<'a>(&self, env: Env<'a>, answer: Term<'a>) -> Option<Term<'a>> {
        let mut reply = self.reply();
        let handle = reply.handle.take();
        let message = match &reply.reference {
            Some((own, saved)) => {
                let reference = own.run(|own| saved.load(own).in_env(env));
                Some((reference, answer).encode(env))
            }
            None => {
                reply.kept = Some(save(answer));
                None
            }
        };
        drop(reply);
        drop(handle);
        message
    }

    fn reply(&self) -> MutexGuard<'_, Reply> {
        self.reply.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, from: u8, to: u8) -> bool {
        let changed = self
            .state
            .compare_exchange(from, to, Ordering::SeqCst, Ordering::Acquire);
        changed.is_ok()
    }

    fn take_request(&self) -> Option<Request> {
        let mut request = self.request.lock().unwrap_or_else(PoisonError::into_inner);
        request.take()
    }
}

fn save(term: Term) -> (OwnedEnv, SavedTerm) {
    let env = OwnedEnv::new();
    let saved = env.save(term);
    (env, saved)
}

/// What was given up.
enum Abandoned {
    Waiting,
    Running,
}
