//! A context: what Elixir holds of it, what it is started with, and how its process hears of it. Its life, on a
//! thread of its own, is in `context/life.rs`.

mod life;

use std::sync::Arc;
use std::time::Duration;

use once_cell::sync::OnceCell;
use rustler::{Encoder, Env, LocalPid, Monitor, Resource, ResourceArc, Term};

use crate::command::{Command, LoopHandle};
use crate::connection::Settings;
use crate::handoff::Intake;
use crate::mail::Mail;
use crate::portal::{Asked, Interpreter, PATIENCE};
use crate::process::ListenerHandle;
use crate::python::inbox::{Gate, Inbox, Refused};
use crate::python::interpreter::PythonError;
use crate::python::isolation::Isolation;
use crate::python::job::Job;
use crate::python::watch::WeakWatch;

pub use life::start;

mod atoms {
    rustler::atoms! {
        context = "$reactor_context",
        awake,
        failed,
        loaded,
        serving,
        r#type = "type",
        message,
        traceback,
    }
}

/// What Elixir holds of a context.
pub struct ContextHandle {
    home: Arc<LoopHandle>,
    watch: OnceCell<WeakWatch>,
    intake: Arc<Intake>,
    /// What runs in its process, once that is ready, if it has one of its own.
    elsewhere: OnceCell<Interpreter>,
    /// It has one.
    is_elsewhere: bool,
    inbox: Arc<Inbox>,
}

#[rustler::resource_impl]
impl Resource for ContextHandle {
    fn down<'a>(&'a self, _env: Env<'a>, _pid: LocalPid, _monitor: Monitor) {
        self.home.tell(Command::Stop(0));
        self.inbox.refuse();
        // Nobody waits for what it is doing.
        if let Some(watch) = self.watch.get().and_then(WeakWatch::upgrade) {
            watch.orphan();
        }
        self.hurry(ORPHANED);
    }
}

/// How long a call may go on whose context's process is gone.
const ORPHANED: Duration = Duration::from_secs(1);

impl ContextHandle {
    /// Its loop.
    pub fn home(&self) -> &Arc<LoopHandle> {
        &self.home
    }

    /// What it has been handed.
    pub fn intake(&self) -> &Arc<Intake> {
        &self.intake
    }

    /// What Python it is that runs in a process of its own, if it does.
    pub fn interpreter(&self) -> Option<&Interpreter> {
        self.elsewhere.get()
    }

    /// True when its Python is in a process of its own.
    pub fn is_elsewhere(&self) -> bool {
        self.is_elsewhere
    }

    /// Has a process of its own say what went through its connections: the context's process is told
    /// `{:traffic, reference}` then.
    pub fn survey(&self, asked: Asked) {
        self.home.tell(Command::Survey(Box::new(asked)));
    }

    /// Loads a factory, and accepts from the listener if it does not yet. New connections are the
    /// factory's from then on.
    pub fn serve(&self, listener: ResourceArc<ListenerHandle>, factory: String) {
        self.home.tell(Command::Serve(listener, factory));
    }

    /// Has a call run on the context's thread: gives the inbox that has it now.
    pub fn call(&self, job: &Arc<Job>) -> Result<Arc<Inbox>, Refused> {
        if self.inbox.put(Arc::clone(job))? {
            self.home.nudge();
        }
        Ok(Arc::clone(&self.inbox))
    }

    /// Has it do something that nobody waits for.
    pub fn run_unasked(&self, job: Arc<Job>) {
        self.inbox.put_unasked(job);
    }

    /// True when it takes no more calls.
    pub fn takes_no_calls(&self) -> bool {
        self.inbox.is_closed()
    }

    /// True while it does not come to what it is given: it has been in one call for long, or has a process of
    /// its own that has not begun with a connection for as long.
    pub fn is_deaf(&self) -> bool {
        let watch = self.watch.get().and_then(WeakWatch::upgrade);
        self.home.is_deaf() || watch.is_some_and(|watch| watch.is_busy(PATIENCE))
    }

    /// How many calls have no answer yet.
    pub fn calls_waiting(&self) -> usize {
        self.inbox.unanswered()
    }

    /// The context is to end: a call has so much time left.
    pub fn hurry(&self, grace: Duration) {
        if let Some(watch) = self.watch.get().and_then(WeakWatch::upgrade) {
            watch.hurry(grace);
        }
    }

    /// Ends the context; busy connections have `grace` milliseconds.
    pub fn stop(&self, grace: u64) {
        self.inbox.refuse();
        self.home.tell(Command::Stop(grace));
    }
}

/// What a context is started with.
pub struct Options {
    /// For log lines and the thread's name.
    pub name: String,
    /// Where modules are looked for first.
    pub paths: Vec<String>,
    /// Where our own Python package is.
    pub python_dir: String,
    /// What its Python finds.
    pub environment: Environment,
    /// Who wants to know how busy it is, if it has no listener that says so.
    pub report_to: Option<LocalPid>,
    /// Which interpreter it lives in.
    pub isolation: Isolation,
    /// The process that it has for itself, if it does.
    pub process: Option<Elsewhere>,
    /// That one may be an experiment.
    pub experimental: bool,
    /// What a callback may take before it is interrupted; as long as it likes if `None`.
    pub callback_timeout: Option<Duration>,
    /// What it may take after that before the context is given up; as long as it likes if `None`.
    pub stuck_timeout: Option<Duration>,
    /// What its calls have to pass, together with those of other contexts.
    pub gate: Option<ResourceArc<Gate>>,
    /// How many connections it takes that are handed over.
    pub max_connections: Option<usize>,
    /// What these start with, if not with what is usual.
    pub settings: Option<Settings>,
}

/// How a process is started that a context has for itself.
pub struct Elsewhere {
    /// Which program that is.
    pub program: String,
    /// What its context starts with, in external format.
    pub options: Vec<u8>,
}

/// What a context's Python finds besides the modules of its paths.
pub struct Environment {
    /// The directory of a virtual environment.
    pub venv: Option<String>,
    /// What has to be installed, as pip writes it.
    pub requirements: Vec<String>,
    /// Code to be run before anything else.
    pub setup: Vec<String>,
}

/// Tells a context's process what happens to it; from the context's own thread.
pub struct Reporter {
    mail: Mail,
    pid: LocalPid,
    handle: ResourceArc<ContextHandle>,
}

impl Reporter {
    /// Something else.
    pub fn tell<F>(&mut self, build: F)
    where
        F: for<'a> FnOnce(Env<'a>) -> Term<'a>,
    {
        let handle = &self.handle;
        self.mail.send(&self.pid, |env| {
            let news = build(env);
            (atoms::context(), handle, news).encode(env)
        });
        self.mail.clear();
    }

    /// It accepts from this listener.
    pub fn serving(&mut self, listener: &ResourceArc<ListenerHandle>) {
        self.tell(|env| (atoms::serving(), listener).encode(env));
    }

    /// A factory is there, of a listener that accepts elsewhere.
    pub fn loaded(&mut self) {
        self.tell(|env| atoms::loaded().encode(env));
    }

    /// It goes on, and takes what it is sent.
    pub fn awake(&mut self) {
        self.tell(|env| atoms::awake().encode(env));
    }

    /// This runs in its process.
    pub fn found(&mut self, interpreter: Interpreter) {
        // Said once.
        let _ = self.handle.elsewhere.set(interpreter);
    }

    /// Python refused.
    pub fn failed(&mut self, error: &PythonError) {
        self.tell(|env| failure(env, error));
    }
}

/// What a context's process is told when Python refused.
pub fn failure<'a>(env: Env<'a>, error: &PythonError) -> Term<'a> {
    (atoms::failed(), encode_error(env, error)).encode(env)
}

/// An exception as a map: type, message, traceback.
pub fn encode_error<'a>(env: Env<'a>, error: &PythonError) -> Term<'a> {
    rustler::term_map!(env, {
        atoms::r#type() => error.kind.as_str(),
        atoms::message() => error.message.as_str(),
        atoms::traceback() => error.traceback.as_str(),
    })
}
