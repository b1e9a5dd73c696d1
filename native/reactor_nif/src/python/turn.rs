//! The turn of a context's loop: the calls that were collected are made with the GIL, which is taken
//! once for all of them; what they want written is written without it.
//!
//! No connection's lock is held while Python runs: Python may come back for it.

use std::cell::Cell;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use pyo3::ffi;
use pyo3::prelude::*;

use crate::connection::{Level, Phase};
use crate::error::Cause;
use crate::owner::{Conn, Owner};
use crate::pool::{Pool, PooledBuf, SizeClass};
use crate::python::datagram;
use crate::python::interpreter::PythonError;
use crate::python::isolation::Isolation;
use crate::python::module;
use crate::python::names::{Action, Names};
use crate::python::protocol::{note_waiting, FactoryKey, Farewell, Mode};
use crate::python::thread::ThreadState;
use crate::python::watch::{Callback, Watch};
use crate::report::Load;

/// How many free read buffers a context keeps, by size class.
const KEEP: [usize; SizeClass::ALL.len()] = [256, 64, 32];
/// A write arena larger than this is given back after the turn, in bytes.
const ARENA_KEPT: usize = 1024 * 1024;

/// What is to be called.
pub enum Kind {
    Open,
    Data(PooledBuf),
    /// Call `write_ready`, or take what is in `write_buffer`.
    Write,
    GoingAway,
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
    /// Where in the arena.
    range: Range<usize>,
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
    pub(super) calls: Vec<Call>,
    /// What datagram protocols are to be told.
    pub(super) datagrams: Vec<datagram::Call>,
    /// What exceptions those raised; for the loop to take.
    pub datagram_exceptions: Vec<datagram::Exception>,
    /// Datagram sockets to be looked at again, by token; for the loop to take.
    pub look: Vec<usize>,
    id: u64,
    pub(super) name: String,
    pub(super) paths: Vec<String>,
    pub(super) thread: Option<ThreadState>,
    pub(super) names: Option<Names>,
    pub(super) factories: HashMap<FactoryKey, Py<PyAny>>,
    writes: Vec<Write>,
    pub(super) arena: Vec<u8>,
    pub(super) watch: Arc<Watch>,
    /// The call that failed last was interrupted.
    pub(super) overdue: Cell<bool>,
}

// SAFETY: everything in it that belongs to Python is used by the context's thread alone; the
// loop is built before that thread has put anything in.
unsafe impl Send for Turn {}

impl Turn {
    /// For the context of that name; `paths` is where its modules are looked for. Its calls are shown
    /// to `watch`.
    pub fn new(name: String, paths: Vec<String>, watch: Arc<Watch>) -> Self {
        Turn {
            exceptions: Vec::new(),
            measured: Load::default(),
            stopping: false,
            pool: Pool::new(KEEP),
            calls: Vec::new(),
            datagrams: Vec::new(),
            datagram_exceptions: Vec::new(),
            look: Vec::new(),
            id: 0,
            name,
            paths,
            thread: None,
            names: None,
            factories: HashMap::new(),
            writes: Vec::new(),
            arena: Vec::new(),
            watch,
            overdue: Cell::new(false),
        }
    }

    /// On the context's own thread, once Python runs. `python_dir` is where our own package is.
    pub fn attach(
        &mut self,
        id: u64,
        isolation: Isolation,
        python_dir: &str,
    ) -> Result<(), PythonError> {
        self.id = id;
        module::enter_context(id);
        let thread = self.thread.insert(ThreadState::new(isolation, python_dir)?);
        let ready = thread.with(|py| {
            let names = Names::new(py)?;
            let number = py.import("_thread")?.call_method0("get_ident")?.extract()?;
            Ok((names, number))
        });
        let (names, number) =
            ready.map_err(|error| thread.with(|py| PythonError::from_raised(py, error)))?;
        let exception = names.callback_timeout.as_ptr();
        self.watch.open(thread.interpreter(), number, exception);
        self.names = Some(names);
        Ok(())
    }

    /// Resolves a factory: from now on it makes the protocols of that listener. If that fails, the
    /// one that made them before goes on.
    pub fn load(&mut self, listener: u64, spec: &str) -> Result<(), PythonError> {
        let (Some(thread), Some(names)) = (&mut self.thread, &self.names) else {
            return Err(PythonError::startup("the context has no thread"));
        };
        let paths = &self.paths;
        let factories = &mut self.factories;
        let watch = &self.watch;
        thread.with(|py| {
            let number = watch.begin(Callback::Import, 0);
            let resolved = names.resolve.call1(py, (spec, paths.clone()));
            watch.end(number);
            match resolved {
                Ok(factory) => {
                    factories.insert(FactoryKey::Listener(listener), factory);
                    Ok(())
                }
                Err(error) => Err(PythonError::from_raised(py, error)),
            }
        })
    }

    /// Makes the calls that have been collected; gives the connections to look at again at once.
    pub fn run(&mut self, again: &mut Vec<Arc<Conn>>) {
        if self.calls.is_empty() && self.datagrams.is_empty() {
            return;
        }
        let Some(mut thread) = self.thread.take() else {
            return;
        };
        let mut calls = std::mem::take(&mut self.calls);
        let mut datagrams = std::mem::take(&mut self.datagrams);
        let count = calls.len() + datagrams.len();
        let asked = Instant::now();
        let (got, done) = thread.with(|py| {
            let got = Instant::now();
            for call in calls.drain(..) {
                self.make(py, call, again);
            }
            for call in &mut datagrams {
                self.call_datagrams(py, call);
            }
            (got, Instant::now())
        });
        self.thread = Some(thread);
        self.calls = calls;
        self.measured.add(count as u64, got - asked, done - got);
        self.write(again);
        self.send_datagrams(datagrams);
    }

    fn write(&mut self, again: &mut Vec<Arc<Conn>>) {
        for Write { conn, range, more } in self.writes.drain(..) {
            let ending = self.stopping || conn.draining();
            let mut state = conn.lock();
            let written = state.write(&[], &self.arena[range]);
            let queued = state.queued();
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
            let look = owner.mode == Mode::Ending
                || owner.signalled
                || unsealed
                || (owner.mode == Mode::Reading && (readable || ending))
                || (more && queued == 0);
            note_waiting(&mut state);
            if look {
                drop(state);
                again.push(conn);
            }
        }
        if self.arena.capacity() > ARENA_KEPT {
            self.arena = Vec::new();
        }
        self.arena.clear();
    }

    /// Ends connections whatever they are doing.
    pub fn lose_all(&mut self, conns: Vec<Arc<Conn>>) {
        let Some(mut thread) = self.thread.take() else {
            return;
        };
        thread.with(|py| {
            for conn in &conns {
                self.lose(py, conn, Cause::Cut);
            }
        });
        self.thread = Some(thread);
    }

    /// Gives everything that belongs to Python back.
    pub fn detach(mut self) {
        self.watch.close();
        if let Some(mut thread) = self.thread.take() {
            let names = self.names.take();
            let factories = std::mem::take(&mut self.factories);
            let id = self.id;
            thread.with(|py| {
                if let Some(names) = &names {
                    // It only forgets a number.
                    let _ = names.end_context.call1(py, (id,));
                }
                drop(names);
                drop(factories);
            });
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
                    self.lose(py, &conn, Cause::Drained);
                }
                again.push(conn);
                return;
            }
            Kind::Lost => {
                self.lose(py, &conn, Cause::Local);
                again.push(conn);
                return;
            }
            Kind::Open => ("connection_made", self.open(py, &conn)),
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
        };
        let settled = outcome.and_then(|action| {
            let settled = if away {
                self.settle_farewell(py, &conn, object, native, action)
            } else {
                self.settle(py, &conn, object, native, action)
            };
            settled.map_err(|error| (callback, error))
        });
        match settled {
            Ok(true) => again.push(conn),
            Ok(false) => {}
            Err((callback, error)) => {
                let cause = if self.overdue.take() {
                    Cause::CallbackTimeout
                } else {
                    Cause::Exception
                };
                self.report(py, &conn, callback, error);
                self.lose(py, &conn, cause);
                again.push(conn);
            }
        }
    }

    /// True when something came for an idle connection, which is not ended then.
    fn is_busy_again(&self, conn: &Arc<Conn>) -> bool {
        let mut state = conn.lock();
        let came = state.has_come();
        match &mut state.owner {
            Owner::Protocol(owner) if came => {
                owner.called = false;
                true
            }
            _ => false,
        }
    }

    /// Puts the action into effect; true when there is more to do at once.
    fn settle(
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
            self.lose(py, conn, Cause::Local);
            return Ok(true);
        }
        if action == Action::WritePending && native && !object.is_null() {
            let limit = conn.lock().settings.high_watermark;
            let (range, more) = self.take_write_buffer(py, object, limit)?;
            if !range.is_empty() {
                self.write_later(conn, range, more);
                return Ok(false);
            }
        }
        let mut state = conn.lock();
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
        let look = owner.signalled
            || match owner.mode {
                Mode::Reading => readable || self.stopping || conn.draining(),
                Mode::Writing => writable,
                Mode::Ending => true,
                _ => false,
            };
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
            // All of it, so that nothing of it has to be waited for in another way than before.
            let (range, more) = self.take_write_buffer(py, object, usize::MAX)?;
            if !range.is_empty() {
                self.write_later(conn, range, more);
                return Ok(false);
            }
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

    /// Has a part of the arena written once the GIL is released. Until then the call is not over.
    fn write_later(&mut self, conn: &Arc<Conn>, range: Range<usize>, more: bool) {
        if let Owner::Protocol(owner) = &mut conn.lock().owner {
            // One that waits for its own signal goes on doing so.
            if !matches!(owner.mode, Mode::Ending | Mode::Waiting) {
                owner.mode = Mode::Writing;
            }
        }
        let conn = Arc::clone(conn);
        self.writes.push(Write { conn, range, more });
    }
}

impl Drop for Turn {
    /// After a panic what belongs to Python is left to it: nothing can be said about its interpreter.
    fn drop(&mut self) {
        std::mem::forget(self.names.take());
        std::mem::forget(std::mem::take(&mut self.factories));
    }
}
