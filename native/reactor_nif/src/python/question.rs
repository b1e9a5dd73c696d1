//! What Python asks outside: a function of Elixir's is to be called, in a process made for that.
//!
//! The thread that asks waits here, without the GIL. A context's thread runs what descends from its question
//! meanwhile: see [`super::inbox`].
//!
//! Out of a process that Python has for itself a question goes to the VM, where it is one of the same kind, for whose
//! answer nobody waits: it is passed on. See `elsewhere`, and `portal/questions.rs` for the other end.

mod elsewhere;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use rustler::env::SavedTerm;
use rustler::{Encoder, Env, LocalPid, OwnedEnv, Resource, ResourceArc, Term};

use crate::mail::Mail;
use crate::python::inbox::Inbox;
use crate::python::job::Job;

pub use elsewhere::{answered, answered_there, refused};

mod atoms {
    rustler::atoms! {
        cancel = "$reactor_cancel",
        nobody,
        question = "$reactor_question",
    }
}

/// Who has questions answered.
#[derive(Clone, Copy)]
enum Answerer {
    /// A process here, which makes one for each.
    Here(LocalPid),
    /// The VM, where this is the place for them.
    There(LocalPid),
}

/// Those that do; each takes the questions of some contexts.
static ANSWERERS: RwLock<Vec<Option<Answerer>>> = RwLock::new(Vec::new());

fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// From now on that process has questions answered, as one of several.
pub fn answered_by(index: usize, pid: LocalPid) {
    put_answerer(index, Answerer::Here(pid));
}

fn put_answerer(index: usize, answerer: Answerer) {
    let mut answerers = ANSWERERS.write().unwrap_or_else(PoisonError::into_inner);
    if answerers.len() <= index {
        answerers.resize(index + 1, None);
    }
    answerers[index] = Some(answerer);
}

fn answerer(number: u64) -> Option<Answerer> {
    let answerers = ANSWERERS.read().unwrap_or_else(PoisonError::into_inner);
    let count = answerers.len().max(1) as u64;
    *answerers.get((number % count) as usize)?
}

/// Whose thread waits for an answer.
enum Asker {
    /// One of this process.
    Here,
    /// One of the process that the context with this inbox has for itself.
    There(Arc<Inbox>),
}

/// One question.
pub struct Question {
    /// Of those of the process that asks.
    number: u64,
    asker: Asker,
    /// Whoever asks is a context's thread, which runs what descends from it meanwhile.
    nests: bool,
    name: String,
    /// What the function is called with. Without any at all the question is whether there is one.
    arguments: Mutex<Option<(OwnedEnv, SavedTerm)>>,
    /// On whose behalf it is asked, nearest first.
    callers: Vec<LocalPid>,
    answerer: Answerer,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The process that answers it.
    executor: Option<LocalPid>,
    answer: Option<Answer>,
    /// Nobody waits for it any more.
    given_up: bool,
    /// Whoever waits is to look what there is.
    disturbed: bool,
    /// Calls that descend from it, for the context's thread.
    calls: VecDeque<Arc<Job>>,
}

/// What came back.
pub enum Answer {
    /// `{:ok, value}`, or `{:error, {kind, type, reason, stacktrace}}`.
    Term(OwnedEnv, SavedTerm),
    /// Nobody is left who could answer.
    Nobody,
    /// It could not be asked, or not be answered, for this reason.
    Refused(String),
}

impl Answer {
    /// One that this process has for good.
    fn kept(answer: Term) -> Self {
        let (env, saved) = save(answer);
        Answer::Term(env, saved)
    }

    /// As another process gets it.
    pub fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        match self {
            Answer::Term(own, saved) => own.run(|own| saved.load(own).in_env(env)),
            Answer::Nobody => atoms::nobody().encode(env),
            Answer::Refused(why) => why.encode(env),
        }
    }
}

/// Why a wait is over.
pub enum Event {
    Answered(Answer),
    /// A call that descends from the question is to be run.
    Call(Arc<Job>),
    Disturbed,
    TimeOver,
}

impl Question {
    /// One of a context's thread, with the context's number, or of another thread. Nobody answers before
    /// the application has started. For threads that the emulator does not manage.
    pub fn ask(
        name: String,
        arguments: (OwnedEnv, SavedTerm),
        callers: Vec<LocalPid>,
        context: Option<u64>,
    ) -> Option<Arc<Self>> {
        Some(Question::make(
            next_number(),
            Asker::Here,
            context.is_some(),
            name,
            Some(arguments),
            callers,
            answerer(context.unwrap_or_default())?,
        ))
    }

    /// One with this number of the process that the context with this inbox has for itself; `context` is the context's
    /// number.
    pub fn passed_on(
        number: u64,
        calls: Arc<Inbox>,
        nests: bool,
        name: String,
        arguments: Term,
        callers: Vec<LocalPid>,
        context: u64,
    ) -> Option<Arc<Self>> {
        Some(Question::make(
            number,
            Asker::There(calls),
            nests,
            name,
            Some(save(arguments)),
            callers,
            answerer(context)?,
        ))
    }

    fn make(
        number: u64,
        asker: Asker,
        nests: bool,
        name: String,
        arguments: Option<(OwnedEnv, SavedTerm)>,
        callers: Vec<LocalPid>,
        answerer: Answerer,
    ) -> Arc<Self> {
        Arc::new(Question {
            number,
            asker,
            nests,
            name,
            arguments: Mutex::new(arguments),
            callers,
            answerer,
            state: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// Has a process made that answers it. Whoever that is has the handle: when that is gone, nobody answers.
    pub fn send(self: &Arc<Self>, mail: &mut Mail) {
        let answerer = match &self.answerer {
            Answerer::Here(answerer) => answerer,
            Answerer::There(place) => return self.send_there(place, mail),
        };
        let handle = ResourceArc::new(QuestionHandle(Arc::clone(self)));
        mail.send(answerer, |env| (atoms::question(), handle).encode(env));
        mail.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- for the thread that asked -----------------------------------------------

    /// Waits until there is something to do.
    pub fn wait(&self, until: Option<Instant>) -> Event {
        let mut state = self.lock();
        loop {
            if std::mem::take(&mut state.disturbed) {
                return Event::Disturbed;
            }
            if let Some(answer) = state.answer.take() {
                return Event::Answered(answer);
            }
            if let Some(job) = state.calls.pop_front() {
                return Event::Call(job);
            }
            state = match until {
                None => self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Event::TimeOver;
                    }
                    let waited = self.changed.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Nobody waits for it any more: whoever answers it is ended.
    pub fn give_up(&self, mail: &mut Mail) {
        let mut state = self.lock();
        state.given_up = true;
        drop(state);
        match &self.answerer {
            Answerer::Here(_) => self.cancel(mail),
            Answerer::There(place) => self.give_up_there(place, mail),
        }
    }

    /// A call that descends from it is not run now after all.
    pub fn put_back(&self, job: Arc<Job>) {
        self.lock().calls.push_front(job);
    }

    /// The calls that descend from it and were not run.
    pub fn take_calls(&self) -> VecDeque<Arc<Job>> {
        std::mem::take(&mut self.lock().calls)
    }

    // ---- for others ----------------------------------------------------------------

    /// Ends whoever answers it. Not for schedulers.
    pub fn cancel(&self, mail: &mut Mail) {
        let executor = self.lock().executor;
        match (&self.answerer, executor) {
            (Answerer::Here(answerer), Some(executor)) => {
                mail.send(answerer, |env| (atoms::cancel(), executor).encode(env));
                mail.clear();
            }
            // It has not begun.
            (Answerer::Here(_), None) => {}
            (Answerer::There(place), _) => self.cancel_there(place, mail),
        }
    }

    /// What it came to, for whoever passes that on: once.
    pub fn take_answer(&self) -> Option<Answer> {
        let mut state = self.lock();
        state.given_up = true;
        state.answer.take()
    }

    /// Whoever waits is to look what there is.
    pub fn disturb(&self) {
        self.lock().disturbed = true;
        self.changed.notify_all();
    }

    /// Puts a call in that descends from it; gives it back if it does not. False if too many wait already.
    pub fn put(&self, job: Arc<Job>, most: usize) -> Result<bool, Arc<Job>> {
        let mut state = self.lock();
        let is_executors = |executor| job.chain.contains(&executor);
        if !state.executor.is_some_and(is_executors) && !job.within().contains(&self.number) {
            return Err(job);
        }
        if state.calls.len() >= most {
            state.calls.retain(|job| job.waits());
            if state.calls.len() >= most {
                return Ok(false);
            }
        }
        state.calls.push_back(job);
        drop(state);
        self.changed.notify_all();
        Ok(true)
    }

    fn answer(&self, answer: Answer) {
        let mut state = self.lock();
        if state.answer.is_some() || state.given_up {
            return;
        }
        state.answer = Some(answer);
        match &self.asker {
            Asker::Here => {
                drop(state);
                self.changed.notify_all();
            }
            // While it cannot be given up.
            Asker::There(calls) => calls.has_answer(self.number),
        }
    }
}

/// What the process that answers a question holds of it, and whoever looks after that process.
pub struct QuestionHandle(Arc<Question>);

impl QuestionHandle {
    /// That process begins: the function's name, its arguments, and on whose behalf; `None` if nobody waits
    /// any more.
    pub fn begin<'a>(&self, env: Env<'a>) -> Option<Term<'a>> {
        let question = &self.0;
        let mut state = question.lock();
        if state.given_up || state.executor.is_some() {
            return None;
        }
        state.executor = Some(env.pid());
        if let (Asker::There(calls), true) = (&question.asker, question.nests) {
            // While it cannot be given up, or be answered.
            calls.is_answered_by(question.number, env.pid());
        }
        drop(state);
        let mut arguments = question
            .arguments
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (own, saved) = arguments.take()?;
        let arguments = own.run(|own| saved.load(own).in_env(env));
        Some((&question.name, arguments, &question.callers).encode(env))
    }

    /// It has an answer.
    pub fn answer(&self, answer: Term) {
        self.0.answer(Answer::kept(answer));
    }
}

impl Drop for QuestionHandle {
    fn drop(&mut self) {
        self.0.answer(Answer::Nobody);
    }
}

#[rustler::resource_impl]
impl Resource for QuestionHandle {}

fn save(term: Term) -> (OwnedEnv, SavedTerm) {
    let env = OwnedEnv::new();
    let saved = env.save(term);
    (env, saved)
}
