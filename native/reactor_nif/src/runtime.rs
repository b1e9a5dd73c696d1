//! The threads: made when first needed, ended together.

use std::io;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::{bounded, Receiver, RecvTimeoutError, Sender};
use once_cell::sync::Lazy;
use rustler::LocalPid;

use crate::command::{Command, LoopHandle};
use crate::event_loop::EventLoop;
use crate::listener::keep_reserve;
use crate::python::watchdog;

/// How many loops there are unless somebody says otherwise: see docs/architecture.md for the figures.
pub const DEFAULT_LOOPS: usize = 1;

static RUNTIME: Lazy<RwLock<Runtime>> = Lazy::new(|| RwLock::new(Runtime::new()));
static NEXT: AtomicUsize = AtomicUsize::new(0);

struct Runtime {
    /// Who wants to know how busy the loops are.
    report_to: Option<LocalPid>,
    /// Loops for processes.
    loops: Vec<Arc<LoopHandle>>,
    /// Every loop there is, of contexts too, as long as its thread runs.
    threads: Vec<Weak<LoopHandle>>,
    /// Each thread holds a sender and never sends: when all are gone, all threads are.
    alive: Option<Sender<()>>,
    ended: Receiver<()>,
}

impl Runtime {
    fn new() -> Self {
        let (alive, ended) = bounded(0);
        Runtime {
            report_to: None,
            loops: Vec::new(),
            threads: Vec::new(),
            alive: Some(alive),
            ended,
        }
    }
}

/// Shows, as long as it lives, that a thread of ours runs.
pub struct Alive {
    _sender: Option<Sender<()>>,
    _home: Arc<LoopHandle>,
}

/// Starts the loops unless they run; reports about them go to that process from now on.
pub fn start(loops: usize, report_to: LocalPid) -> io::Result<()> {
    keep_reserve();
    let mut runtime = RUNTIME.write().unwrap_or_else(PoisonError::into_inner);
    runtime.report_to = Some(report_to);
    if runtime.loops.iter().any(|home| !home.closed()) {
        // The process was started anew: what it was asked before is lost.
        let loops = runtime.loops.clone();
        drop(runtime);
        for home in loops {
            home.tell(Command::Relieve);
        }
        return Ok(());
    }
    let mut started = Vec::new();
    let count = if loops == 0 { DEFAULT_LOOPS } else { loops };
    for index in 0..count {
        let name = format!("reactor-{index}");
        let (event_loop, home) = EventLoop::new(name.clone())?;
        let alive = register(&mut runtime, Arc::clone(&home));
        thread::Builder::new().name(name).spawn(move || {
            run(event_loop);
            drop(alive);
        })?;
        started.push(home);
    }
    runtime.loops = started;
    Ok(())
}

fn run(event_loop: EventLoop) {
    match catch_unwind(AssertUnwindSafe(|| event_loop.run())) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%error, "an event loop died"),
        Err(_) => tracing::error!("an event loop died: it panicked"),
    }
}

fn register(runtime: &mut Runtime, home: Arc<LoopHandle>) -> Alive {
    runtime.threads.retain(|thread| thread.strong_count() > 0);
    runtime.threads.push(Arc::downgrade(&home));
    Alive {
        _sender: runtime.alive.clone(),
        _home: home,
    }
}

/// Notes a context's thread.
pub fn enter(home: Arc<LoopHandle>) -> Alive {
    let mut runtime = RUNTIME.write().unwrap_or_else(PoisonError::into_inner);
    register(&mut runtime, home)
}

/// Who wants to know how busy the loops are.
pub fn report_to() -> Option<LocalPid> {
    let runtime = RUNTIME.read().unwrap_or_else(PoisonError::into_inner);
    runtime.report_to
}

/// The loop for the next connection.
pub fn next_loop(current: &Arc<LoopHandle>) -> Arc<LoopHandle> {
    pick().unwrap_or_else(|| Arc::clone(current))
}

/// A loop, in turn; none before the runtime is started.
pub fn pick() -> Option<Arc<LoopHandle>> {
    let runtime = RUNTIME.read().unwrap_or_else(PoisonError::into_inner);
    let count = runtime.loops.len();
    let first = NEXT.fetch_add(1, Ordering::Relaxed);
    let mut turn = (0..count).map(|i| &runtime.loops[(first.wrapping_add(i)) % count]);
    turn.find(|home| !home.closed()).map(Arc::clone)
}

/// Tells every loop something.
pub fn tell_all(command: impl Fn() -> Command) {
    let runtime = RUNTIME.read().unwrap_or_else(PoisonError::into_inner);
    let loops: Vec<_> = runtime.threads.iter().filter_map(Weak::upgrade).collect();
    drop(runtime);
    for home in loops {
        home.tell(command());
    }
}

/// Ends all threads: false when some are still busy after `timeout`. Blocks: not for schedulers.
pub fn stop(timeout: Duration) -> bool {
    let mut runtime = RUNTIME.write().unwrap_or_else(PoisonError::into_inner);
    let stopped = std::mem::replace(&mut *runtime, Runtime::new());
    drop(runtime);
    for home in stopped.threads.iter().filter_map(Weak::upgrade) {
        home.tell(Command::Stop(0));
    }
    drop(stopped.alive);
    // What Python is busy with must end in time to be told so.
    watchdog::hurry_all(timeout / 4);
    let deadline = Instant::now() + timeout;
    matches!(
        stopped.ended.recv_deadline(deadline),
        Err(RecvTimeoutError::Disconnected)
    )
}
