//! What Python asks outside: a function of Elixir's is to be called, in a process made for that.
//!
//! The thread that asks waits here, without the GIL. A context's thread runs what descends from its question
//! meanwhile: see [`super::inbox`].

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use rustler::env::SavedTerm;
use rustler::{Encoder, Env, LocalPid, OwnedEnv, Resource, ResourceArc, Term};

use crate::mail::Mail;
use crate::python::job::Job;

mod atoms {
    rustler::atoms! {
        cancel = "$reactor_cancel",
        question = "$reactor_question",
    }
}

/// The processes that have questions answered; each takes those of some contexts.
static ANSWERERS: RwLock<Vec<Option<LocalPid>>> = RwLock::new(Vec::new());

/// From now on that process has questions answered, as one of several.
pub fn answered_by(index: usize, pid: LocalPid) {
    let mut answerers = ANSWERERS.write().unwrap_or_else(PoisonError::into_inner);
    if answerers.len() <= index {
        answerers.resize(index + 1, None);
    }
    answerers[index] = Some(pid);
}

fn answerer(number: u64) -> Option<LocalPid> {
    let answerers = ANSWERERS.read().unwrap_or_else(PoisonError::into_inner);
    let count = answerers.len().max(1) as u64;
    *answerers.get((number % count) as usize)?
}

/// One question.
pub struct Question {
    name: String,
    arguments: Mutex<Option<(OwnedEnv, SavedTerm)>>,
    /// On whose behalf it is asked, nearest first.
    callers: Vec<LocalPid>,
    answerer: LocalPid,
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
    /// Has it answered; `number` is that of the context, or of nothing in particular. Nobody answers before
    /// the application has started. For threads that the emulator does not manage.
    pub fn ask(
        name: String,
        arguments: (OwnedEnv, SavedTerm),
        callers: Vec<LocalPid>,
        number: u64,
    ) -> Option<Arc<Self>> {
        let answerer = answerer(number)?;
        Some(Arc::new(Question {
            name,
            arguments: Mutex::new(Some(arguments)),
            callers,
            answerer,
            state: Mutex::default(),
            changed: Condvar::new(),
        }))
    }

    /// Has a process made that answers it. Whoever that is has the handle: when that is gone, nobody answers.
    pub fn send(self: &Arc<Self>, mail: &mut Mail) {
        let handle = ResourceArc::new(QuestionHandle(Arc::clone(self)));
        mail.send(&self.answerer, |env| {
            (atoms::question(), handle).encode(env)
        });
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
        self.cancel(mail);
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
        if let Some(executor) = executor {
            mail.send(&self.answerer, |env| {
                (atoms::cancel(), executor).encode(env)
            });
            mail.clear();
        }
    }

    /// Whoever waits is to look what there is.
    pub fn disturb(&self) {
        self.lock().disturbed = true;
        self.changed.notify_all();
    }

    /// Puts a call in that descends from it; gives it back if it does not. False if too many wait already.
    pub fn put(&self, job: Arc<Job>, most: usize) -> Result<bool, Arc<Job>> {
        let mut state = self.lock();
        match state.executor {
            Some(executor) if job.chain.contains(&executor) => {}
            _ => return Err(job),
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
        if state.answer.is_none() && !state.given_up {
            state.answer = Some(answer);
            drop(state);
            self.changed.notify_all();
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
        let env = OwnedEnv::new();
        let saved = env.save(answer);
        self.0.answer(Answer::Term(env, saved));
    }
}

impl Drop for QuestionHandle {
    fn drop(&mut self) {
        self.0.answer(Answer::Nobody);
    }
}

#[rustler::resource_impl]
impl Resource for QuestionHandle {}
