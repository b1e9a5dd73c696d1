//! Who calls into Python, since when, and for how long it may: what a context shows the watchdog.
//!
//! The context's own thread alone begins and ends calls, and writes a few words for each. A call may have others
//! within it; the innermost is shown. Whoever interrupts one does so with the interpreter's GIL, so the call that
//! it meant cannot end meanwhile, and none begins within it.

mod callback;
mod interrupt;
mod overdue;

use std::ffi::c_long;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::Duration;

use pyo3::ffi;
use rustler::{LocalPid, ResourceArc};

use crate::python::context::ContextHandle;
use crate::python::inbox::Inbox;
use crate::python::watchdog;

pub use callback::Callback;
pub use overdue::Look;

/// No limit, in ns.
const NEVER: u64 = u64::MAX;

/// The time in ns, as precise as a tick of the kernel: that is cheap, and will do.
pub fn now() -> u64 {
    #[cfg(target_os = "linux")]
    const CLOCK: libc::clockid_t = libc::CLOCK_MONOTONIC_COARSE;
    #[cfg(not(target_os = "linux"))]
    const CLOCK: libc::clockid_t = libc::CLOCK_MONOTONIC;
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: fills `time`.
    unsafe { libc::clock_gettime(CLOCK, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Whom to interrupt, and how.
struct Target {
    interpreter: *mut ffi::PyInterpreterState,
    /// The context's thread, as Python numbers it.
    thread: c_long,
    exceptions: Exceptions,
}

/// The classes of the exceptions; whoever opened the watch keeps them alive.
#[derive(Clone, Copy)]
pub struct Exceptions {
    /// For a call of a process's.
    pub call: *mut ffi::PyObject,
    /// For everything else.
    pub callback: *mut ffi::PyObject,
}

// SAFETY: used with the interpreter's GIL alone, and only while the gate is open.
unsafe impl Send for Target {}

/// What a context shows of the call that it makes.
pub struct Watch {
    name: String,
    /// Another one for each call; 0 while none runs.
    number: AtomicU64,
    /// The one that was given away last.
    last: AtomicU64,
    since: AtomicU64,
    /// When the outermost one began.
    busy_since: AtomicU64,
    what: AtomicU8,
    connection: AtomicU64,
    /// How long a call may take, in ns.
    limit: u64,
    /// How long one may go on after it was interrupted, in ns.
    patience: u64,
    /// The context was given up.
    given_up: AtomicBool,
    /// Its `erlang.aio.Tasks`, or null: shown and hidden with the GIL.
    tasks: AtomicPtr<ffi::PyObject>,
    /// From then on calls get little time, since the context is to end.
    hurry: AtomicU64,
    /// How often the innermost call was interrupted.
    interrupts: AtomicU64,
    /// The call that somebody is interrupting.
    hunted: AtomicU64,
    /// The call that nobody waits for any more which somebody is interrupting.
    cut: AtomicU64,
    /// The call that was reported as stuck.
    stuck: AtomicU64,
    /// Open while there is an interpreter to interrupt. Never waited for with a GIL.
    gate: Mutex<Option<Target>>,
    over: AtomicBool,
    ended: Condvar,
    asleep: Mutex<()>,
    pid: LocalPid,
    handle: ResourceArc<ContextHandle>,
    inbox: Arc<Inbox>,
    /// The context's process is gone, and those who wait have not been told.
    orphaned: AtomicBool,
}

/// A call that has begun, and what was shown before.
#[derive(Clone, Copy)]
#[must_use]
pub struct Begun {
    /// The call's own.
    pub number: u64,
    outer: u64,
    since: u64,
    what: u8,
    connection: u64,
    interrupts: u64,
}

/// A call that waits for something outside of Python.
#[derive(Clone, Copy)]
pub struct Frame {
    /// The call's own; 0 if it is none that can be interrupted.
    pub number: u64,
    /// When it began.
    pub since: u64,
    pub what: Callback,
}

impl Watch {
    /// For a context of that name and process. `limit` is what a call may take, and `patience` what it may take
    /// after it was interrupted, before the context is given up; there is none if `None`.
    pub fn new(
        name: String,
        limit: Option<Duration>,
        patience: Option<Duration>,
        pid: LocalPid,
        handle: ResourceArc<ContextHandle>,
        inbox: Arc<Inbox>,
    ) -> Arc<Watch> {
        let in_ns = |time: Duration| time.as_nanos().min(NEVER.into()) as u64;
        let limit = limit.map_or(NEVER, in_ns);
        let patience = patience.map_or(NEVER, in_ns);
        Arc::new(Watch {
            name,
            number: AtomicU64::new(0),
            last: AtomicU64::new(0),
            since: AtomicU64::new(0),
            busy_since: AtomicU64::new(0),
            what: AtomicU8::new(0),
            connection: AtomicU64::new(0),
            limit,
            patience,
            given_up: AtomicBool::new(false),
            tasks: AtomicPtr::new(std::ptr::null_mut()),
            hurry: AtomicU64::new(NEVER),
            interrupts: AtomicU64::new(0),
            hunted: AtomicU64::new(0),
            cut: AtomicU64::new(0),
            stuck: AtomicU64::new(0),
            gate: Mutex::new(None),
            over: AtomicBool::new(false),
            ended: Condvar::new(),
            asleep: Mutex::new(()),
            pid,
            handle,
            inbox,
            orphaned: AtomicBool::new(false),
        })
    }

    // ---- for the context's own thread -------------------------------------------

    /// From now on its calls can be interrupted: `thread` is its number in this interpreter.
    /// The exceptions' classes must live until the gate is closed.
    pub fn open(
        self: &Arc<Self>,
        interpreter: *mut ffi::PyInterpreterState,
        thread: u64,
        exceptions: Exceptions,
    ) {
        let target = Target {
            interpreter,
            thread: thread as c_long,
            exceptions,
        };
        *self.gate.lock().unwrap_or_else(PoisonError::into_inner) = Some(target);
        watchdog::watch(self);
    }

    /// From now on nobody touches its interpreter. Not with the GIL, which somebody may be waiting for.
    pub fn close(&self) {
        self.over.store(true, Ordering::Release);
        *self.gate.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Shows the tasks of the context, so that one of them can be interrupted; null hides them. With the GIL.
    pub fn show_tasks(&self, tasks: *mut ffi::PyObject) {
        self.tasks.store(tasks, Ordering::Release);
    }

    /// A call begins, on behalf of a connection, within another one if there is one.
    pub fn begin(&self, what: Callback, connection: u64) -> Begun {
        let begun = Begun {
            number: self.last.load(Ordering::Relaxed) + 1,
            outer: self.number.load(Ordering::Relaxed),
            since: self.since.load(Ordering::Relaxed),
            what: self.what.load(Ordering::Relaxed),
            connection: self.connection.load(Ordering::Relaxed),
            interrupts: self.interrupts.swap(0, Ordering::Relaxed),
        };
        self.last.store(begun.number, Ordering::Relaxed);
        let now = now();
        if begun.outer == 0 {
            self.busy_since.store(now, Ordering::Relaxed);
        }
        self.show(begun.number, now, what as u8, connection);
        begun
    }

    fn show(&self, number: u64, since: u64, what: u8, connection: u64) {
        self.since.store(since, Ordering::Relaxed);
        self.what.store(what, Ordering::Relaxed);
        self.connection.store(connection, Ordering::Relaxed);
        self.number.store(number, Ordering::Release);
    }

    /// It is over: true if it was interrupted. With the GIL, which nobody gave up since the call's last
    /// line: an exception that comes too late reaches nobody.
    pub fn end(&self, begun: Begun) -> bool {
        // What is shown in between belongs to no call: that of the outer one began earlier.
        self.number.store(0, Ordering::Release);
        if begun.outer != 0 {
            self.show(begun.outer, begun.since, begun.what, begun.connection);
        }
        if self.interrupts.swap(begun.interrupts, Ordering::Relaxed) == 0 {
            return false;
        }
        self.take_back();
        self.ended.notify_all();
        true
    }

    /// The innermost call.
    pub fn frame(&self) -> Frame {
        Frame {
            number: self.number.load(Ordering::Relaxed),
            since: self.since.load(Ordering::Relaxed),
            what: self.what(),
        }
    }

    /// How often the innermost call was interrupted.
    pub fn interrupts(&self) -> u64 {
        self.interrupts.load(Ordering::Relaxed)
    }

    /// True if it was interrupted again since then. What was not raised yet is taken back: the caller does it.
    /// With the GIL.
    pub fn take_back_since(&self, interrupts: u64) -> bool {
        let again = self.interrupts() != interrupts;
        if again {
            self.take_back();
        }
        again
    }

    /// Takes back what was not raised yet. With the GIL.
    fn take_back(&self) {
        // SAFETY: with the GIL, on the context's own thread.
        unsafe {
            let thread = ffi::PyThread_get_thread_ident() as c_long;
            ffi::PyThreadState_SetAsyncExc(thread, std::ptr::null_mut());
        }
    }

    // ---- for others -----------------------------------------------------------

    /// True while the outermost call has gone on for longer than that.
    pub fn is_busy(&self, longer: Duration) -> bool {
        let runs = self.number.load(Ordering::Acquire) != 0;
        let since = self.busy_since.load(Ordering::Relaxed);
        runs && u128::from(now().saturating_sub(since)) > longer.as_nanos()
    }

    fn what(&self) -> Callback {
        Callback::of(self.what.load(Ordering::Relaxed))
    }

    /// The context is to end: calls have so much time left, and those to come very little.
    pub fn hurry(&self, grace: Duration) {
        let at = now().saturating_add(grace.as_nanos() as u64);
        self.hurry.fetch_min(at, Ordering::Relaxed);
        watchdog::look();
    }

    /// The context's process is gone: nobody is to wait for it.
    pub fn orphan(&self) {
        self.orphaned.store(true, Ordering::Release);
        watchdog::look();
    }
}

/// What a context's handle has of it: nothing once the thread is gone.
pub type WeakWatch = Weak<Watch>;
