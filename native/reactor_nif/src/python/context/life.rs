//! The life of a context: a thread with a loop, and the protocols it drives, or with that of a process that Python has
//! for itself.

use std::io;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use once_cell::sync::OnceCell;
use rustler::{Encoder, Env, LocalPid, ResourceArc};

use crate::counters;
use crate::event_loop::EventLoop;
use crate::handoff::Intake;
use crate::mail::Mail;
use crate::portal::Portal;
use crate::python::context::{ContextHandle, Elsewhere, Options, Reporter};
use crate::python::inbox::Inbox;
use crate::python::interpreter::{self, PythonError};
use crate::python::module;
use crate::python::turn::Turn;
use crate::python::watch::Watch;
use crate::{log, runtime};

mod atoms {
    rustler::atoms! {
        ready,
        stopped,
        died,
    }
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Calls out of Python and into it again are on one stack, in bytes. What is not used costs nothing.
const STACK: usize = 16 * 1024 * 1024;
/// How long what a context has logged may take to be sent before it says that it has stopped.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Starts a context for that process, which is the caller if its environment is given.
pub fn start(
    options: Options,
    pid: LocalPid,
    env: Option<Env>,
) -> io::Result<Option<ResourceArc<ContextHandle>>> {
    let (event_loop, home) = EventLoop::new(options.name.clone())?;
    let settings = options.settings.clone();
    let inbox = Inbox::new(Arc::clone(&home), options.gate.clone());
    let handle = ResourceArc::new(ContextHandle {
        home: Arc::clone(&home),
        watch: OnceCell::new(),
        intake: Intake::new(options.max_connections, settings, options.report_to),
        elsewhere: OnceCell::new(),
        is_elsewhere: options.process.is_some(),
        inbox: Arc::clone(&inbox),
    });
    if handle.monitor(env, &pid).is_none() {
        return Ok(None);
    }
    let watch = Watch::new(
        options.name.clone(),
        options.callback_timeout,
        options.stuck_timeout,
        pid,
        handle.clone(),
        Arc::clone(&inbox),
    );
    // It was empty.
    let _ = handle.watch.set(Arc::downgrade(&watch));
    let reporter = Reporter {
        mail: Mail::new(),
        pid,
        handle: handle.clone(),
    };
    let ended = runtime::enter(home);
    counters::CONTEXTS_MADE.add();
    let spawned = thread::Builder::new()
        .name(format!("py-{}", options.name))
        .stack_size(STACK)
        .spawn(move || {
            let _ended = Ended(ended, inbox);
            live(event_loop, options, watch, reporter);
        });
    if let Err(error) = spawned {
        counters::CONTEXTS_ENDED.add();
        return Err(error);
    }
    Ok(Some(handle))
}

/// Counts a context as ended when its thread is over, however that ends.
struct Ended<T>(T, Arc<Inbox>);

impl<T> Drop for Ended<T> {
    fn drop(&mut self) {
        self.1.close();
        counters::CONTEXTS_ENDED.add();
    }
}

fn live(event_loop: EventLoop, options: Options, watch: Arc<Watch>, mut reporter: Reporter) {
    let lived = AssertUnwindSafe(|| match options.process {
        Some(_) => run_elsewhere(event_loop, options, &mut reporter),
        None => run(event_loop, options, watch, &mut reporter),
    });
    match catch_unwind(lived) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => died(&mut reporter, &error.to_string()),
        // What belonged to Python is left to it: after a panic nothing can be said about it.
        Err(_) => died(&mut reporter, "its loop panicked"),
    }
}

/// From its start to its end, of which its process is told.
fn run(
    event_loop: EventLoop,
    options: Options,
    watch: Arc<Watch>,
    reporter: &mut Reporter,
) -> io::Result<()> {
    if let Some(why) = options.isolation.refusal(options.experimental) {
        let text = format!("isolation :subinterpreter cannot be had, :shared can: {why}");
        reporter.failed(&PythonError::startup(text));
        return Ok(());
    }
    let venv = options.environment.venv.as_deref();
    if let Err(error) = interpreter::ensure_started(&options.python_dir, venv) {
        reporter.failed(&error);
        return Ok(());
    }
    module::enter_intake(Arc::clone(&reporter.handle.intake));
    let report_to = options.report_to;
    let inbox = Arc::clone(&reporter.handle.inbox);
    let mut turn = Turn::new(options.name, options.paths, watch, Arc::clone(&inbox));
    let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
    if let Err(error) = turn
        .attach(
            id,
            options.isolation,
            &options.python_dir,
            &reporter.handle.home,
        )
        .and_then(|()| turn.prepare(&options.environment))
    {
        turn.detach();
        reporter.failed(&error);
        return Ok(());
    }
    reporter.tell(|env| atoms::ready().encode(env));
    let turn = event_loop.run_context(turn, reporter, report_to)?;
    inbox.close();
    turn.detach();
    // A process of its own is gone as soon as it has said that it has stopped.
    log::settle(LAST_WORDS);
    reporter.tell(|env| atoms::stopped().encode(env));
    Ok(())
}

/// Likewise, with its Python in a process of its own.
fn run_elsewhere(
    event_loop: EventLoop,
    options: Options,
    reporter: &mut Reporter,
) -> io::Result<()> {
    let Some(Elsewhere {
        program,
        options: own,
    }) = options.process
    else {
        return Ok(());
    };
    let handle = reporter.handle.clone();
    handle.inbox.passes_on();
    let (intake, inbox) = (Arc::clone(&handle.intake), Arc::clone(&handle.inbox));
    match Portal::start(options.name, &program, &own, intake, inbox, reporter.pid) {
        Ok(portal) => event_loop.run_portal(portal, reporter, options.report_to)?,
        Err(error) => {
            let text = format!("no process for Python: {program}: {error}");
            reporter.failed(&PythonError::startup(text));
            return Ok(());
        }
    }
    reporter.tell(|env| atoms::stopped().encode(env));
    Ok(())
}

fn died(reporter: &mut Reporter, why: &str) {
    tracing::error!("a Python context died: {why}");
    reporter.tell(|env| (atoms::died(), why).encode(env));
}
