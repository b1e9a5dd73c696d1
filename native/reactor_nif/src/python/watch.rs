//! Who calls into Python, since when, and for how long it may: what a context shows the watchdog.
//!
//! The context's own thread alone begins and ends calls, and writes four words for each. A call may have others
//! within it; the innermost is shown. Whoever interrupts one does so with the interpreter's GIL, so the call that
//! it meant cannot end meanwhile, and none begins within it.

use std::ffi::c_long;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::Duration;

use pyo3::ffi;
use pyo3::prelude::*;
use rustler::{Encoder, Env, LocalPid, ResourceArc, Term};

use crate::mail::Mail;
use crate::python::context::ContextHandle;
use crate::python::imports::is_importing;
use crate::python::inbox::{Cut, Inbox};
use crate::python::watchdog;

mod atoms {
    rustler::atoms! {
        context = "$reactor_context",
        stuck,
        given_up,
        callback,
        connection,
        duration_ms,
        nil,
    }
}

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Callback {
    /// Code that may take as long as it likes: an import, setup code.
    Import,
    /// A call of a process's, which may take as long as that waits.
    Call,
    Factory,
    ConnectionMade,
    DataReceived,
    EofReceived,
    WriteReady,
    PauseWriting,
    ResumeWriting,
    GoingAway,
    ConnectionLost,
    DatagramReceived,
    ErrorReceived,
    /// Steps of coroutines.
    Task,
    /// What an exception says of itself.
    Report,
}

const ALL: [Callback; 15] = [
    Callback::Import,
    Callback::Call,
    Callback::Factory,
    Callback::ConnectionMade,
    Callback::DataReceived,
    Callback::EofReceived,
    Callback::WriteReady,
    Callback::PauseWriting,
    Callback::ResumeWriting,
    Callback::GoingAway,
    Callback::ConnectionLost,
    Callback::DatagramReceived,
    Callback::ErrorReceived,
    Callback::Task,
    Callback::Report,
];

impl Callback {
    /// As the protocol's author knows it.
    pub fn name(self) -> &'static str {
        match self {
            Callback::Import => "import",
            Callback::Call => "call",
            Callback::Factory => "factory",
            Callback::ConnectionMade => "connection_made",
            Callback::DataReceived => "data_received",
            Callback::EofReceived => "eof_received",
            Callback::WriteReady => "write_ready",
            Callback::PauseWriting => "pause_writing",
            Callback::ResumeWriting => "resume_writing",
            Callback::GoingAway => "going_away",
            Callback::ConnectionLost => "connection_lost",
            Callback::DatagramReceived => "datagram_received",
            Callback::ErrorReceived => "error_received",
            Callback::Task => "task",
            Callback::Report => "traceback",
        }
    }
}

/// No limit, in ns.
const NEVER: u64 = u64::MAX;
/// What the clock may be behind, in ns: no call is interrupted before its time.
const TICK: u64 = 10_000_000;
/// What each call of a context that is to end gets, in ns.
const LAST_CALLS: u64 = 100_000_000;
/// How soon calls that nobody waits for are looked at again, in ns.
const CUTS: u64 = 50_000_000;
/// An import that has begun may go on for so long, in ns, unless the context is to end.
const IMPORT: u64 = 5_000_000_000;
/// A call that goes on for so long after it was interrupted is stuck, in ns.
const STUCK: u64 = 500_000_000;
/// The first pause before a call is interrupted again, and the longest.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

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

/// What the watchdog is to do about a context.
pub enum Look {
    /// Nothing before then; `None`: before it is told something.
    At(Option<u64>),
    /// Interrupt this call, then look again.
    Interrupt(u64),
    /// This call runs tasks: interrupt the one that is running if nobody waits for it, then look again.
    InterruptTask(u64),
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
        self.show(begun.number, now(), what as u8, connection);
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

    /// What there is to do at that time.
    pub fn look(&self, now: u64) -> Look {
        if self.orphaned.swap(false, Ordering::AcqRel) {
            self.inbox.close();
        }
        let cuts = self.inbox.cuts();
        let cut = self.look_at_cuts(now, cuts);
        match (cut, self.look_at_time(now)) {
            (Look::Interrupt(number), _) | (_, Look::Interrupt(number)) => Look::Interrupt(number),
            (Look::InterruptTask(number), _) | (_, Look::InterruptTask(number)) => {
                Look::InterruptTask(number)
            }
            (Look::At(Some(one)), Look::At(Some(other))) => Look::At(Some(one.min(other))),
            (Look::At(one), Look::At(other)) => Look::At(one.or(other)),
        }
    }

    /// Calls that nobody waits for any more.
    fn look_at_cuts(&self, now: u64, cuts: Vec<Cut>) -> Look {
        if cuts.is_empty() || self.over.load(Ordering::Acquire) {
            return Look::At(None);
        }
        let number = self.number.load(Ordering::Acquire);
        for cut in cuts {
            if cut.job.is_parked() {
                // A task that waits is cancelled by the context's thread, if that comes to it.
                let runs = number != 0 && self.what() == Callback::Task;
                if runs
                    && now >= cut.at.saturating_add(LAST_CALLS)
                    && self.cut.swap(number, Ordering::AcqRel) != number
                {
                    return Look::InterruptTask(number);
                }
                continue;
            }
            if cut.job.number() != number || number == 0 {
                self.inbox
                    .withdraw(|frame| frame.number == cut.job.number());
                continue;
            }
            if self.cut.swap(number, Ordering::AcqRel) != number {
                return Look::Interrupt(number);
            }
            if now >= cut.at.saturating_add(self.patience) {
                self.give_up(Callback::Call);
            }
            if !cut.reported && now >= cut.at.saturating_add(STUCK) {
                self.inbox.was_reported(&cut.job);
                let since = self.since.load(Ordering::Relaxed);
                self.report_stuck(Callback::Call, now.saturating_sub(since) / 1_000_000);
            }
        }
        Look::At(Some(now.saturating_add(CUTS)))
    }

    /// The innermost call, which may take too long.
    fn look_at_time(&self, now: u64) -> Look {
        let number = self.number.load(Ordering::Acquire);
        let since = self.since.load(Ordering::Relaxed);
        let hurry = self.hurry.load(Ordering::Relaxed);
        let what = self.what();
        if self.over.load(Ordering::Acquire) {
            return Look::At(None);
        }
        // Those that wait while another call runs within them: that is ended first.
        self.inbox.withdraw(|frame| {
            let due = due(frame.what, frame.since, self.limit, hurry);
            frame.number != number && due.is_some_and(|due| due <= now)
        });
        if number == 0 {
            return Look::At(due(Callback::DataReceived, now, self.limit, hurry));
        }
        let Some(due) = due(what, since, self.limit, hurry) else {
            // Other calls have a limit.
            return Look::At((self.limit != NEVER).then(|| now.saturating_add(self.limit)));
        };
        if now < due {
            return Look::At(Some(due));
        }
        if self.hunted.swap(number, Ordering::Relaxed) != number {
            return Look::Interrupt(number);
        }
        if now >= due.saturating_add(self.patience) {
            self.give_up(what);
        }
        if now < due.saturating_add(STUCK) {
            return Look::At(Some(due.saturating_add(STUCK.min(self.patience))));
        }
        if self.stuck.swap(number, Ordering::Relaxed) != number {
            self.report_stuck(what, now.saturating_sub(since) / 1_000_000);
        }
        Look::At(Some(now.saturating_add(self.limit.min(STUCK))))
    }

    fn what(&self) -> Callback {
        let index = usize::from(self.what.load(Ordering::Relaxed));
        ALL.get(index).copied().unwrap_or(Callback::Import)
    }

    fn report_stuck(&self, what: Callback, ms: u64) {
        let connection = self.connection.load(Ordering::Relaxed);
        tracing::warn!(
            context = %self.name,
            connection,
            "{} has not returned for {ms} ms, and cannot be interrupted: it waits outside of Python. \
             Its context serves nobody else",
            what.name()
        );
        let mut mail = Mail::new();
        let handle = &self.handle;
        mail.send(&self.pid, |env: Env| {
            let connection: Term = match connection {
                0 => atoms::nil().encode(env),
                id => id.encode(env),
            };
            let map = rustler::term_map!(env, {
                atoms::callback() => what.name(),
                atoms::connection() => connection,
                atoms::duration_ms() => ms,
            });
            (atoms::context(), handle, (atoms::stuck(), map)).encode(env)
        });
        mail.clear();
    }

    /// Has the context's process end: somebody starts another one in its place.
    fn give_up(&self, what: Callback) {
        if self.given_up.swap(true, Ordering::Relaxed) {
            return;
        }
        tracing::error!(
            context = %self.name,
            "{} does not come back: the context is given up, and its thread ends when it does",
            what.name()
        );
        let mut mail = Mail::new();
        let handle = &self.handle;
        mail.send(&self.pid, |env: Env| {
            (atoms::context(), handle, (atoms::given_up(), what.name())).encode(env)
        });
        mail.clear();
    }

    /// Interrupts a call, again and again until it is over.
    pub fn interrupt(&self, number: u64) {
        self.interrupt_while(number, |patient| {
            self.fire(number, patient, self.exception_of_call())
        });
    }

    /// Likewise a task that never waits, of a call that nobody waits for any more: as long as tasks run, and
    /// that is the one which does.
    pub fn interrupt_task(&self, number: u64) {
        self.interrupt_while(number, |patient| {
            self.fire(number, patient, self.exception_of_task())
        });
    }

    fn interrupt_while(&self, number: u64, fire: impl Fn(bool) -> bool) {
        let mut pause = PAUSE;
        let until = now().saturating_add(IMPORT);
        let patient = || self.hurry.load(Ordering::Relaxed) == NEVER && now() < until;
        while self.number.load(Ordering::Acquire) == number && fire(patient()) {
            let asleep = self.asleep.lock().unwrap_or_else(PoisonError::into_inner);
            // A call that ends between the two is found ended after the pause.
            drop(self.ended.wait_timeout(asleep, pause));
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        // Whoever finds it running again, with others within it that have ended, interrupts it again.
        let _ = self
            .cut
            .compare_exchange(number, 0, Ordering::AcqRel, Ordering::Relaxed);
        let _ = self
            .hunted
            .compare_exchange(number, 0, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Once; false when there is nothing to interrupt any more. Waits for the GIL. With patience an import goes on.
    fn fire(
        &self,
        number: u64,
        patient: bool,
        exception: impl FnOnce(&Exceptions) -> Option<*mut ffi::PyObject>,
    ) -> bool {
        let runs = self.set_exception(number, patient, exception);
        // It may wait for something outside of Python.
        self.inbox.disturb();
        runs
    }

    fn exception_of_call(&self) -> impl FnOnce(&Exceptions) -> Option<*mut ffi::PyObject> + '_ {
        |exceptions| match self.what() {
            Callback::Call => Some(exceptions.call),
            _ => Some(exceptions.callback),
        }
    }

    fn exception_of_task(&self) -> impl FnOnce(&Exceptions) -> Option<*mut ffi::PyObject> + '_ {
        |exceptions| self.runs_in_vain().then_some(exceptions.call)
    }

    /// True if the task that is running is of a call that nobody waits for any more. With the GIL.
    fn runs_in_vain(&self) -> bool {
        let tasks = self.tasks.load(Ordering::Acquire);
        if tasks.is_null() {
            return false;
        }
        let cuts = self.inbox.cuts();
        let numbers: Vec<_> = cuts.iter().map(|cut| cut.job.number()).collect();
        Python::attach(|py| {
            // SAFETY: it lives as long as it is shown here, which only changes with the GIL.
            let tasks = unsafe { Bound::from_borrowed_ptr(py, tasks) };
            let runs = tasks.call_method1("runs_one_of", (numbers,));
            // What cannot say so is not interrupted.
            runs.and_then(|runs| runs.extract()).unwrap_or(false)
        })
    }

    fn set_exception(
        &self,
        number: u64,
        patient: bool,
        exception: impl FnOnce(&Exceptions) -> Option<*mut ffi::PyObject>,
    ) -> bool {
        let gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(target) = &*gate else {
            return false;
        };
        // SAFETY: the gate is open and held, so the interpreter lives; a thread state of this thread's
        // own is made, attached, cleared and deleted in it. With its GIL the call cannot end before the
        // exception is set, and the exception's class is alive.
        unsafe {
            let state = ffi::PyThreadState_New(target.interpreter);
            if state.is_null() {
                return true;
            }
            ffi::PyEval_RestoreThread(state);
            let runs = self.number.load(Ordering::Acquire) == number;
            let spared = runs && patient && is_importing(target.thread);
            let exception = if runs && !spared {
                exception(&target.exceptions)
            } else {
                None
            };
            if let Some(exception) = exception {
                self.interrupts.fetch_add(1, Ordering::Relaxed);
                ffi::PyThreadState_SetAsyncExc(target.thread, exception);
            }
            ffi::PyThreadState_Clear(state);
            ffi::PyThreadState_DeleteCurrent();
            runs
        }
    }
}

/// When a call that began then is overdue.
fn due(what: Callback, since: u64, limit: u64, hurry: u64) -> Option<u64> {
    let limit = if matches!(what, Callback::Import | Callback::Call) {
        NEVER
    } else {
        limit.saturating_add(TICK)
    };
    let last = if hurry == NEVER {
        NEVER
    } else {
        hurry.max(since.saturating_add(LAST_CALLS))
    };
    let due = since.saturating_add(limit).min(last);
    (due != NEVER).then_some(due)
}

/// What a context's handle has of it: nothing once the thread is gone.
pub type WeakWatch = Weak<Watch>;

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_call_is_due_when_its_time_is_over() {
        let limit = 100 * MS;
        assert_eq!(
            due(Callback::DataReceived, 5, limit, NEVER),
            Some(5 + limit + TICK)
        );
        assert_eq!(due(Callback::DataReceived, 5, NEVER, NEVER), None);
    }

    #[test]
    fn an_import_takes_its_time_unless_its_context_is_to_end() {
        assert_eq!(due(Callback::Import, 5, 100 * MS, NEVER), None);
        let hurry = 1_000 * MS;
        assert_eq!(due(Callback::Import, 5, 100 * MS, hurry), Some(hurry));
    }

    #[test]
    fn what_begins_when_the_context_is_to_end_gets_a_little_time() {
        let hurry = 1_000 * MS;
        let since = 2_000 * MS;
        let last = Some(since + LAST_CALLS);
        assert_eq!(due(Callback::ConnectionLost, since, NEVER, hurry), last);
        let sooner = Some(since + MS + TICK);
        assert_eq!(due(Callback::ConnectionLost, since, MS, hurry), sooner);
    }

    #[test]
    fn every_call_has_its_name() {
        for (index, what) in ALL.into_iter().enumerate() {
            assert_eq!(index, what as usize);
        }
    }
}
