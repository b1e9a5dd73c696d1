//! The turn of a context's loop: the calls that were collected are made with the GIL, which is taken
//! once for all of them; what they want written is written without it.
//!
//! No connection's lock is held while Python runs: Python may come back for it.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pyo3::exceptions::PyOSError;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::command::LoopHandle;
use crate::connection::{Level, Phase};
use crate::error::{Cause, Reason};
use crate::owner::{Conn, Owner};
use crate::pool::{Pool, PooledBuf, SizeClass};
use crate::python::calls::in_words;
use crate::python::context::Environment;
use crate::python::datagram;
use crate::python::desk::{self, Desk};
use crate::python::flow::{self, end_outflow, Outflow};
use crate::python::held::Held;
use crate::python::inbox::Inbox;
use crate::python::interpreter::PythonError;
use crate::python::isolation::Isolation;
use crate::python::module;
use crate::python::names::{Action, Names};
use crate::python::outgoing::{Outgoing, Part};
use crate::python::protocol::{note_waiting, FactoryKey, Farewell, Mode};
use crate::python::thread::ThreadState;
use crate::python::watch::{Callback, Exceptions, Watch};
use crate::report::Load;

/// How many free read buffers a context keeps, by size class.
const KEEP: [usize; SizeClass::ALL.len()] = [256, 64, 16, 16];
/// So much was read, or is to be written, in one go: then the calls are made, or the GIL is released to
/// write, in bytes. More would leave the processor's cache before it is used again.
const BATCH: usize = 128 * 1024;
/// How many calls of processes a turn runs: the connections have to get theirs.
const CALLS_AT_ONCE: usize = 16;
/// A call that comes so soon after the last one makes the thread wait for the next without sleeping.
const QUICK: Duration = Duration::from_micros(200);
/// For so long.
const LINGER: Duration = Duration::from_micros(50);
/// How often it looks before it looks at the clock.
const LOOKS: usize = 32;

/// What is to be called.
pub enum Kind {
    Open,
    Data(PooledBuf),
    /// Call `write_ready`, or take what is in `write_buffer`.
    Write,
    GoingAway,
    /// The peer sends no more.
    Eof,
    /// Look how much is in `write_buffer`.
    Measure,
    /// Say that too much waits to be sent, or that it does not any more.
    Room(bool),
    /// End it, since it has nothing left to do for a server that goes away.
    Idle,
    Lost,
}

/// One call.
pub struct Call {
    pub conn: Arc<Conn>,
    pub object: *mut ffi::PyObject,
    pub native: bool,
    pub kind: Kind,
}

/// An exception that ended a connection, or that its end raised, and which method it was that raised
/// it: of the protocol, or `"factory"`.
pub type Exception = (Arc<Conn>, PythonError, &'static str);

/// A write that waits for the GIL to be released.
struct Write {
    conn: Arc<Conn>,
    part: Part,
    /// More of the protocol's buffer is to come.
    more: bool,
}

/// The Python side of a context's loop.
pub struct Turn {
    /// What exceptions there were; for the loop to take.
    pub exceptions: Vec<Exception>,
    /// What the turns took; for the loop to take.
    pub measured: Load,
    /// The context is ending: what becomes idle is closed.
    pub stopping: bool,
    pub(super) pool: Pool,
    calls: Vec<Call>,
    /// So many bytes were read for them.
    collected: usize,
    /// What datagram protocols are to be told.
    pub(super) datagrams: Vec<datagram::Call>,
    /// What exceptions those raised; for the loop to take.
    pub datagram_exceptions: Vec<datagram::Exception>,
    /// Datagram sockets to be looked at again, by token; for the loop to take.
    pub look: Vec<usize>,
    /// Objects that Elixir holds, once there is an interpreter to have them.
    held: Option<Arc<Held>>,
    /// Calls that wait to be run.
    inbox: Arc<Inbox>,
    /// When the last of them was over.
    called: Instant,
    /// They come in quick succession.
    quick: bool,
    id: u64,
    pub(super) name: String,
    pub(super) paths: Vec<String>,
    pub(super) thread: Option<ThreadState>,
    pub(super) names: Option<Names>,
    pub(super) factories: HashMap<FactoryKey, Py<PyAny>>,
    /// The factory that was loaded last.
    pub(super) latest: Option<Py<PyAny>>,
    writes: Vec<Write>,
    pub(super) outgoing: Outgoing,
    pub(super) watch: Arc<Watch>,
    /// The call that failed last was interrupted.
    pub(super) overdue: Cell<bool>,
    /// How often reading had been paused at the end of the last turn.
    pub(super) pauses: u64,
}

// SAFETY: everything in it that belongs to Python is used by the context's thread alone; the
// loop is built before that thread has put anything in.
unsafe impl Send for Turn {}

impl Turn {
    /// For the context of that name; `paths` is where its modules are looked for. Its calls are shown
    /// to `watch`.
    pub fn new(name: String, paths: Vec<String>, watch: Arc<Watch>, inbox: Arc<Inbox>) -> Self {
        Turn {
            exceptions: Vec::new(),
            measured: Load::default(),
            stopping: false,
            pool: Pool::new(KEEP),
            calls: Vec::new(),
            collected: 0,
            datagrams: Vec::new(),
            datagram_exceptions: Vec::new(),
            look: Vec::new(),
            held: None,
            inbox,
            called: Instant::now(),
            quick: false,
            id: 0,
            name,
            paths,
            thread: None,
            names: None,
            factories: HashMap::new(),
            latest: None,
            writes: Vec::new(),
            outgoing: Outgoing::default(),
            watch,
            overdue: Cell::new(false),
            pauses: flow::pauses(),
        }
    }

    /// On the context's own thread, once Python runs. `python_dir` is where our own package is, `home` the
    /// context's loop.
    pub fn attach(
        &mut self,
        id: u64,
        isolation: Isolation,
        python_dir: &str,
        home: &Arc<LoopHandle>,
    ) -> Result<(), PythonError> {
        self.id = id;
        module::enter_context(id, &self.name);
        let thread = self.thread.insert(ThreadState::new(isolation, python_dir)?);
        let held = Held::new(thread.interpreter(), Arc::clone(home));
        self.held = Some(Arc::clone(&held));
        let ready = thread.with(|py| {
            let names = Names::new(py)?;
            let (inbox, watch) = (Arc::clone(&self.inbox), Arc::clone(&self.watch));
            Desk::open(py, id, inbox, watch, held)?;
            let number = py.import("_thread")?.call_method0("get_ident")?.extract()?;
            Ok((names, number))
        });
        let (names, number) =
            ready.map_err(|error| thread.with(|py| PythonError::from_raised(py, error)))?;
        let exceptions = Exceptions {
            call: names.call_timeout.as_ptr(),
            callback: names.callback_timeout.as_ptr(),
        };
        self.watch.open(thread.interpreter(), number, exceptions);
        self.names = Some(names);
        Ok(())
    }

    /// Makes ready what connections and calls find in the context.
    pub fn prepare(&mut self, environment: &Environment) -> Result<(), PythonError> {
        let paths = self.paths.clone();
        let Some(thread) = &mut self.thread else {
            return Err(PythonError::startup("the context has no thread"));
        };
        let watch = &self.watch;
        thread.with(|py| {
            let number = watch.begin(Callback::Import, 0);
            let begin = || {
                py.import("erlang.reactor.context")?.call_method1(
                    "begin",
                    (
                        paths,
                        environment.venv.as_deref(),
                        environment.requirements.clone(),
                        environment.setup.clone(),
                    ),
                )
            };
            let begun = begin();
            watch.end(number);
            begun
                .map(drop)
                .map_err(|error| in_words(watch, py, 0, error))
        })
    }

    /// True when a call waits to be run.
    pub fn has_calls(&self) -> bool {
        self.inbox.has_queued()
    }

    /// Waits for the next call a moment, without sleeping, if they come in quick succession: to be woken takes
    /// longer than most calls. True if there is one.
    pub fn linger(&mut self, disturbed: impl Fn() -> bool) -> bool {
        if !self.quick {
            return false;
        }
        let until = Instant::now() + LINGER;
        loop {
            for _ in 0..LOOKS {
                if self.has_calls() {
                    return true;
                }
                if disturbed() {
                    return false;
                }
                // Whoever calls may need this processor.
                std::thread::yield_now();
            }
            if Instant::now() >= until {
                self.quick = false;
                return false;
            }
        }
    }

    /// Lets go of objects that Elixir does not hold any more.
    pub fn let_go(&mut self) {
        let Some(held) = self.held.as_ref().filter(|held| held.is_due()) else {
            return;
        };
        if let Some(thread) = &mut self.thread {
            thread.with(|py| {
                // What is freed may have code of its own for that.
                let number = self.watch.begin(Callback::Import, 0);
                held.let_go(py);
                self.watch.end(number);
            });
        }
    }

    /// Runs the next calls, and answers them.
    pub fn run_calls(&mut self) {
        if !self.has_calls() {
            return;
        }
        self.quick = self.called.elapsed() < QUICK;
        let (Some(thread), Some(desk)) = (&mut self.thread, desk::here()) else {
            return;
        };
        thread.with(|py| {
            for _ in 0..CALLS_AT_ONCE {
                match self.inbox.next() {
                    Some(job) => desk.run_first(py, &job),
                    None => break,
                }
            }
        });
        self.called = Instant::now();
    }

    /// Resolves a factory: from now on it makes the protocols of that listener. If that fails, the
    /// one that made them before goes on.
    pub fn load(&mut self, listener: u64, spec: &str) -> Result<(), PythonError> {
        let (Some(thread), Some(names)) = (&mut self.thread, &self.names) else {
            return Err(PythonError::startup("the context has no thread"));
        };
        let paths = &self.paths;
        let factories = &mut self.factories;
        let latest = &mut self.latest;
        let watch = &self.watch;
        thread.with(|py| {
            let number = watch.begin(Callback::Import, 0);
            let resolved = names.resolve.call1(py, (spec, paths.clone()));
            watch.end(number);
            match resolved {
                Ok(factory) => {
                    *latest = Some(factory.clone_ref(py));
                    module::knows_factory();
                    factories.insert(FactoryKey::Listener(listener), factory);
                    Ok(())
                }
                Err(error) => Err(in_words(watch, py, 0, error)),
            }
        })
    }

    /// Collects a call.
    pub(super) fn collect(&mut self, call: Call) {
        if let Kind::Data(data) = &call.kind {
            self.collected += data.as_slice().len();
        }
        self.calls.push(call);
    }

    /// True when the calls that have been collected are to be made before there are more.
    pub fn is_full(&self) -> bool {
        self.collected >= BATCH
    }

    /// Makes the calls that have been collected; gives the connections to look at again at once.
    pub fn run(&mut self, again: &mut Vec<Arc<Conn>>) {
        if self.calls.is_empty() && self.datagrams.is_empty() {
            return;
        }
        let Some(mut thread) = self.thread.take() else {
            return;
        };
        self.collected = 0;
        // What is paused from here on is known when the next turn reads.
        let pauses = flow::pauses();
        let mut calls = std::mem::take(&mut self.calls);
        let mut left = calls.drain(..);
        while left.len() > 0 {
            let before = left.len();
            let asked = Instant::now();
            let (got, done) = thread.with(|py| {
                let got = Instant::now();
                self.outgoing.reclaim(py);
                for call in left.by_ref() {
                    self.make(py, call, again);
                    if self.outgoing.len() >= BATCH {
                        break;
                    }
                }
                (got, Instant::now())
            });
            let made = (before - left.len()) as u64;
            self.measured.add(made, got - asked, done - got);
            self.write(again);
        }
        drop(left);
        self.pauses = pauses;
        self.calls = calls;
        self.run_datagrams(&mut thread);
        self.thread = Some(thread);
    }

    fn run_datagrams(&mut self, thread: &mut ThreadState) {
        if self.datagrams.is_empty() {
            return;
        }
        let mut datagrams = std::mem::take(&mut self.datagrams);
        let asked = Instant::now();
        let (got, done) = thread.with(|py| {
            let got = Instant::now();
            for call in &mut datagrams {
                self.call_datagrams(py, call);
            }
            (got, Instant::now())
        });
        let count = datagrams.len() as u64;
        self.measured.add(count, got - asked, done - got);
        self.send_datagrams(datagrams);
    }

    fn write(&mut self, again: &mut Vec<Arc<Conn>>) {
        for Write { conn, part, more } in self.writes.drain(..) {
            let ending = self.stopping || conn.draining();
            let mut state = conn.lock();
            let written = state.write(&[], self.outgoing.bytes(&part));
            let queued = state.queued();
            let high = state.settings.high_watermark;
            let low = state.settings.low_watermark;
            let readable = state.may_read();
            let unsealed = state.may_flush();
            let Owner::Protocol(owner) = &mut state.owner else {
                continue;
            };
            owner.called = false;
            owner.more = more;
            match written {
                Ok(Level::Empty) if !more && owner.mode == Mode::Writing => {
                    owner.mode = Mode::Reading;
                }
                Ok(_) => {}
                Err(_) => owner.mode = Mode::Ending,
            }
            let look = owner.goes_on(readable, ending)
                || owner.signalled
                || unsealed
                || owner.room.turns(queued, high, low)
                || (more && queued == 0);
            end_outflow(&mut state);
            note_waiting(&mut state);
            if look {
                drop(state);
                again.push(conn);
            }
        }
        self.outgoing.written();
    }

    /// Ends connections whatever they are doing.
    pub fn lose_all(&mut self, conns: Vec<Arc<Conn>>) {
        let Some(mut thread) = self.thread.take() else {
            return;
        };
        thread.with(|py| {
            for conn in &conns {
                self.lose(py, conn, Cause::Cut, None);
            }
        });
        self.thread = Some(thread);
    }

    /// Gives everything that belongs to Python back.
    pub fn detach(mut self) {
        if let Some(mut thread) = self.thread.take() {
            thread.with(|py| self.end_tasks(py));
            let names = self.names.take();
            let factories = std::mem::take(&mut self.factories);
            let latest = self.latest.take();
            let held = self.held.take();
            let id = self.id;
            let watch = &self.watch;
            let outgoing = &mut self.outgoing;
            thread.with(|py| {
                // What is forgotten may have code of its own for that.
                let number = watch.begin(Callback::Import, 0);
                if let Some(names) = &names {
                    // It only forgets a number.
                    let _ = names.end_context.call1(py, (id,));
                }
                if let Some(held) = &held {
                    held.close(py);
                }
                drop(factories);
                drop(latest);
                Desk::close(py);
                outgoing.release(py);
                watch.end(number);
            });
            watch.close();
            // After that: what interrupts calls is among them.
            thread.with(|_| drop(names));
            if !thread.end() {
                tracing::warn!(
                    context = %self.name,
                    "threads that its code started still run, and keep its Python interpreter"
                );
            }
        }
    }

    // ---- with the GIL -----------------------------------------------------------

    fn make(&mut self, py: Python<'_>, call: Call, again: &mut Vec<Arc<Conn>>) {
        let Call {
            conn,
            object,
            native,
            kind,
        } = call;
        let away = matches!(kind, Kind::GoingAway);
        let (callback, outcome) = match kind {
            Kind::Idle => {
                // The calls before this one took their time.
                if !self.is_busy_again(&conn) {
                    self.lose(py, &conn, Cause::Drained, None);
                }
                again.push(conn);
                return;
            }
            Kind::Lost => {
                self.lose(py, &conn, Cause::Local, None);
                again.push(conn);
                return;
            }
            Kind::Open => ("connection_made", self.open(py, &conn)),
            Kind::Data(data) if self.puts_back(&conn, &data) => return,
            Kind::Data(data) => {
                let call = || self.data_received(py, object, data);
                let fail = |error| ("data_received", error);
                let outcome = self.timed(py, Callback::DataReceived, conn.id, call, fail);
                ("data_received", outcome)
            }
            Kind::Write if native => ("write_ready", Ok(Action::WritePending)),
            Kind::Write => {
                let call = || self.write_ready(py, object);
                let fail = |error| ("write_ready", error);
                let outcome = self.timed(py, Callback::WriteReady, conn.id, call, fail);
                ("write_ready", outcome)
            }
            Kind::GoingAway => {
                let call = || self.going_away(py, object);
                let fail = |error| ("going_away", error);
                let outcome = self.timed(py, Callback::GoingAway, conn.id, call, fail);
                ("going_away", outcome)
            }
            Kind::Eof => {
                let settled = self.end_inflow(py, &conn, object, native);
                return self.conclude(py, conn, again, "eof_received", settled);
            }
            Kind::Measure => {
                let settled = self.measure(py, &conn, object);
                return self.conclude(py, conn, again, "write_buffer", settled);
            }
            Kind::Room(full) => {
                let callback = if full {
                    "pause_writing"
                } else {
                    "resume_writing"
                };
                let settled = self.tell_room(py, &conn, object, native, full);
                return self.conclude(py, conn, again, callback, settled);
            }
        };
        let (callback, settled) = match outcome {
            Ok(action) if away => {
                let settled = self.settle_farewell(py, &conn, object, native, action);
                (callback, settled)
            }
            Ok(action) => (callback, self.settle(py, &conn, object, native, action)),
            Err((callback, error)) => (callback, Err(error)),
        };
        self.conclude(py, conn, again, callback, settled);
    }

    /// The call is over: what is to be done about its connection.
    fn conclude(
        &mut self,
        py: Python<'_>,
        conn: Arc<Conn>,
        again: &mut Vec<Arc<Conn>>,
        callback: &'static str,
        settled: PyResult<bool>,
    ) {
        match settled {
            Ok(true) => again.push(conn),
            Ok(false) => {}
            Err(error) => {
                let cause = if self.overdue.take() {
                    Cause::CallbackTimeout
                } else {
                    Cause::Exception
                };
                self.report(py, &conn, callback, error.clone_ref(py));
                self.lose(py, &conn, cause, Some(error));
                again.push(conn);
            }
        }
    }

    /// True when something came for an idle connection, which is not ended then.
    fn is_busy_again(&self, conn: &Arc<Conn>) -> bool {
        let mut state = conn.lock();
        let came = state.has_come();
        match &mut state.owner {
            Owner::Protocol(owner) if came || owner.paused => {
                owner.called = false;
                true
            }
            _ => false,
        }
    }

    /// Puts the action into effect; true when there is more to do at once.
    pub(super) fn settle(
        &mut self,
        py: Python<'_>,
        conn: &Arc<Conn>,
        object: *mut ffi::PyObject,
        native: bool,
        action: Action,
    ) -> PyResult<bool> {
        if action == Action::Close {
            // Not the call's own: connection_made may say it too.
            let (object, native) = match &conn.lock().owner {
                Owner::Protocol(owner) => (owner.object, owner.native),
                _ => (object, native),
            };
            if native && !object.is_null() {
                self.send_last(py, conn, object)?;
            }
            self.lose(py, conn, Cause::Local, None);
            return Ok(true);
        }
        if action == Action::WritePending && native && !object.is_null() {
            let (limit, refused) = {
                let state = conn.lock();
                (state.write_limit(), state.cannot_write())
            };
            let (part, length, left) = self.take_write_buffer(py, object, limit)?;
            if let (1.., Some(reason)) = (length, refused) {
                self.outgoing.drop_last(py, part, length);
                return Err(cannot_write(reason));
            }
            if length > 0 {
                return self.write_later(py, conn, part, length, left);
            }
            found_empty(conn);
        }
        let ending = self.stopping || conn.draining();
        let mut state = conn.lock();
        let queued = state.queued();
        let high = state.settings.high_watermark;
        let low = state.settings.low_watermark;
        let readable = state.may_read();
        let writable = state.writable;
        let open = state.phase == Phase::Open;
        let Owner::Protocol(owner) = &mut state.owner else {
            return Ok(false);
        };
        owner.called = false;
        owner.mode = match action {
            // Somebody ended it meanwhile.
            _ if owner.mode == Mode::Ending || !open => Mode::Ending,
            // A buffer that is empty has been written.
            Action::WritePending if native => Mode::Reading,
            Action::WritePending => Mode::Writing,
            Action::ReadPending => Mode::Reading,
            Action::AsyncPending => Mode::Waiting,
            Action::Continue if owner.mode == Mode::New => Mode::Reading,
            Action::Continue | Action::Close => owner.mode,
        };
        owner.more = false;
        let writes_itself = !owner.native;
        let look = owner.signalled
            || owner.goes_on(readable, ending)
            || owner.room.turns(queued, high, low)
            || (owner.mode == Mode::Writing && writable);
        // Of one that the loop writes for, only what was looked at is known to be empty.
        if action == Action::WritePending || writes_itself {
            end_outflow(&mut state);
        }
        note_waiting(&mut state);
        Ok(look)
    }

    /// Likewise for the answer to `going_away`. Whatever the protocol waited for, it waits for still.
    fn settle_farewell(
        &mut self,
        py: Python<'_>,
        conn: &Arc<Conn>,
        object: *mut ffi::PyObject,
        native: bool,
        action: Action,
    ) -> PyResult<bool> {
        if action == Action::Close {
            return self.settle(py, conn, object, native, action);
        }
        if action == Action::WritePending && native {
            if waits_behind_a_message(conn) {
                return Ok(true);
            }
            // All of it, so that nothing of it has to be waited for in another way than before.
            let (part, length, left) = self.take_write_buffer(py, object, usize::MAX)?;
            if length > 0 {
                return self.write_later(py, conn, part, length, left);
            }
            found_empty(conn);
        }
        if let Owner::Protocol(owner) = &mut conn.lock().owner {
            owner.called = false;
            match (action, owner.mode) {
                (Action::WritePending, Mode::Reading | Mode::Waiting) if !native => {
                    owner.mode = Mode::Writing;
                }
                (Action::ReadPending, _) => owner.farewell = Farewell::Stays,
                (Action::AsyncPending, Mode::Reading) => owner.mode = Mode::Waiting,
                _ => {}
            }
        }
        Ok(true)
    }

    /// Has what was taken last written once the GIL is released. Until then the call is not over.
    fn write_later(
        &mut self,
        py: Python<'_>,
        conn: &Arc<Conn>,
        part: Part,
        length: usize,
        left: usize,
    ) -> PyResult<bool> {
        if let Owner::Protocol(owner) = &mut conn.lock().owner {
            if owner.outflow == Outflow::Closed {
                self.outgoing.drop_last(py, part, length);
                return Err(flow::too_late(length + left));
            }
            owner.room.left = left;
            owner.room.stale = false;
            // One that waits for its own signal goes on doing so.
            if !matches!(owner.mode, Mode::Ending | Mode::Waiting) {
                owner.mode = Mode::Writing;
            }
        }
        self.writes.push(Write {
            conn: Arc::clone(conn),
            part,
            more: left > 0,
        });
        Ok(false)
    }
}

impl Drop for Turn {
    /// After a panic what belongs to Python is left to it: nothing can be said about its interpreter.
    fn drop(&mut self) {
        // The call that it panicked in is never seen to end: nobody goes on interrupting it.
        self.watch.close();
        self.outgoing.abandon();
        std::mem::forget(self.names.take());
        std::mem::forget(self.latest.take());
        std::mem::forget(std::mem::take(&mut self.factories));
        Desk::forget();
    }
}

/// Its write buffer was looked at, and nothing was in it.
fn found_empty(conn: &Conn) {
    if let Owner::Protocol(owner) = &mut conn.lock().owner {
        owner.room.left = 0;
        owner.room.stale = false;
    }
}

/// True when a message is queued, behind which no other can be: what is in the write buffer is then
/// taken when that is sent.
fn waits_behind_a_message(conn: &Conn) -> bool {
    let mut state = conn.lock();
    let waits = state.has_messages() && state.queued() > 0;
    match &mut state.owner {
        Owner::Protocol(owner) if waits => {
            owner.called = false;
            if owner.mode != Mode::Ending {
                owner.mode = Mode::Writing;
                owner.more = true;
            }
            true
        }
        _ => false,
    }
}

/// For a descriptor that nothing can be written to.
fn cannot_write(reason: Reason) -> PyErr {
    let (code, text) = match reason {
        Reason::Errno(libc::EBADF) => (libc::EBADF, "it is open for reading only".into()),
        Reason::Errno(code) => (code, std::io::Error::from_raw_os_error(code).to_string()),
        other => (libc::EPIPE, other.to_string()),
    };
    PyOSError::new_err((code, format!("cannot send what is in write_buffer: {text}")))
}
