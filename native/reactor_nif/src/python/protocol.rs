//! Connections owned by a Python protocol: the turn of a context's loop.
//!
//! What is ready is read without the GIL and collected as calls; the GIL is
//! taken once for all of them; what they want written is written without it.
//! No connection's lock is held while Python runs: Python may come back for it.

use std::collections::HashMap;
use std::ffi::c_char;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use pyo3::exceptions::{PyConnectionError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyDict, PyString};

use crate::connection::{Level, Phase, Pull, State};
use crate::owner::{Conn, LoopIo, Next, Owner};
use crate::pool::{Pool, PooledBuf, SizeClass};
use crate::python::buffer;
use crate::python::interpreter::{PythonError, ThreadState};
use crate::python::module;

/// How many free read buffers a context keeps, by size class.
const KEEP: [usize; SizeClass::ALL.len()] = [256, 64, 32];
/// A write arena larger than this is given back after the turn, in bytes.
const ARENA_KEPT: usize = 1024 * 1024;

/// What a connection's protocol waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// To be made.
    New,
    /// For something to read.
    Reading,
    /// For room to write.
    Writing,
    /// For `signal_write_ready`.
    Waiting,
    /// For its end.
    Ending,
}

/// The owner of a connection, when it is a Python protocol.
pub struct ProtocolOwner {
    listener: usize,
    peer: Option<SocketAddr>,
    /// A reference of ours; null until the protocol is made. Released with the GIL, by the turn.
    object: *mut ffi::PyObject,
    mode: Mode,
    /// Neither `write_ready` nor `write` is overridden: `write_buffer` is flushed here.
    native: bool,
    /// More of `write_buffer` is to come than the queue had room for.
    more: bool,
    signalled: bool,
    /// A call for it is in the batch: at most one at a time.
    called: bool,
    class: SizeClass,
}

// SAFETY: `object` is only dereferenced with the GIL, by the thread of the context that owns the
// connection.
unsafe impl Send for ProtocolOwner {}

impl ProtocolOwner {
    /// The owner of a connection that `listener` accepted from `peer`.
    pub fn new(listener: usize, peer: Option<SocketAddr>) -> Self {
        ProtocolOwner {
            listener,
            peer,
            object: std::ptr::null_mut(),
            mode: Mode::New,
            native: false,
            more: false,
            signalled: false,
            called: false,
            class: SizeClass::Small,
        }
    }

    /// The protocol has put something into its write buffer: from any thread.
    pub fn signal(&mut self) {
        self.signalled = true;
    }

    /// The connection is to end: from any thread.
    pub fn end(&mut self) {
        self.mode = Mode::Ending;
    }
}

enum Kind {
    Open,
    Data(PooledBuf),
    /// Call `write_ready`, or take what is in `write_buffer`.
    Write,
    Lost,
}

struct Call {
    conn: Arc<Conn>,
    object: *mut ffi::PyObject,
    native: bool,
    kind: Kind,
}

/// What a protocol method asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    Continue,
    WritePending,
    ReadPending,
    Close,
    AsyncPending,
}

const ACTIONS: [(&str, Action); 5] = [
    ("continue", Action::Continue),
    ("write_pending", Action::WritePending),
    ("read_pending", Action::ReadPending),
    ("close", Action::Close),
    ("async_pending", Action::AsyncPending),
];

/// The Python objects a context calls with.
struct Names {
    connection_made: Py<PyString>,
    data_received: Py<PyString>,
    write_ready: Py<PyString>,
    write_buffer: Py<PyString>,
    actions: Vec<Py<PyString>>,
    buffer_type: Py<PyAny>,
    open: Py<PyAny>,
    lost: Py<PyAny>,
    resolve: Py<PyAny>,
    checked: Py<PyAny>,
    end_context: Py<PyAny>,
    /// The functions of the base class, to see what is overridden.
    base_write_ready: Py<PyAny>,
    base_write: Py<PyAny>,
}

/// The Python side of a context's loop.
pub struct Turn {
    id: u64,
    name: String,
    paths: Vec<String>,
    thread: Option<ThreadState>,
    names: Option<Names>,
    factories: HashMap<usize, Py<PyAny>>,
    pool: Pool,
    calls: Vec<Call>,
    /// What is to be written after the GIL is released: where in the arena, for whom, and whether
    /// more is to come.
    writes: Vec<(Arc<Conn>, Range<usize>, bool)>,
    arena: Vec<u8>,
    /// The context is ending: what becomes idle is closed.
    pub stopping: bool,
}

// SAFETY: everything in it that belongs to Python is used by the context's thread alone; the
// loop is built before that thread has put anything in.
unsafe impl Send for Turn {}

/// Does what can be done for a protocol's connection without Python, and notes what cannot.
pub fn advance(conn: &Arc<Conn>, state: &mut State<Owner>, io: &mut LoopIo) -> Next {
    let Some(turn) = &mut io.turn else {
        return Next::Idle;
    };
    let ending = io.stopping || conn.draining();
    let flushed = if state.may_flush() {
        state.flush()
    } else {
        Ok(Level::Empty)
    };
    let queued = state.queued();
    let may_read = state.readable;
    let writable = state.writable;
    let open = state.phase == Phase::Open;
    let failed = state.failed;
    let Owner::Protocol(owner) = &mut state.owner else {
        return Next::Idle;
    };
    if owner.called {
        return Next::Idle;
    }
    if flushed.is_err() || !open {
        owner.mode = Mode::Ending;
    }
    if failed && owner.mode == Mode::Waiting {
        owner.mode = Mode::Ending;
    }
    if owner.mode == Mode::Writing && queued == 0 && owner.native && !owner.more {
        owner.mode = Mode::Reading;
    }
    // After the line above: what was signalled while an earlier write drained is still to be taken.
    if owner.signalled && matches!(owner.mode, Mode::Waiting | Mode::Reading) {
        owner.mode = Mode::Writing;
        owner.more = true;
    }
    let kind = match owner.mode {
        Mode::New => Kind::Open,
        Mode::Ending => Kind::Lost,
        Mode::Reading if may_read => {
            let mut buf = turn.pool.get(owner.class);
            let class = owner.class;
            match state.read_raw(buf.spare_mut()) {
                Ok(n) => {
                    let full = n == buf.capacity();
                    buf.set_len(n);
                    let Owner::Protocol(owner) = &mut state.owner else {
                        return Next::Idle;
                    };
                    owner.class = next_class(class, n, full);
                    Kind::Data(buf)
                }
                Err(Pull::Blocked) if !ending => return Next::Idle,
                Err(_) => Kind::Lost,
            }
        }
        Mode::Reading if ending => Kind::Lost,
        Mode::Reading | Mode::Waiting => return Next::Idle,
        Mode::Writing if queued > 0 || !writable => return Next::Idle,
        Mode::Writing => {
            owner.signalled = false;
            Kind::Write
        }
    };
    let Owner::Protocol(owner) = &mut state.owner else {
        return Next::Idle;
    };
    owner.called = true;
    turn.calls.push(Call {
        conn: Arc::clone(conn),
        object: owner.object,
        native: owner.native,
        kind,
    });
    Next::Idle
}

/// A buffer that was filled calls for a larger one, one that was mostly empty for a smaller.
fn next_class(class: SizeClass, n: usize, full: bool) -> SizeClass {
    match class {
        SizeClass::Small if full => SizeClass::Medium,
        SizeClass::Medium if full => SizeClass::Large,
        SizeClass::Large if full => SizeClass::Large,
        _ => SizeClass::fitting(n),
    }
}

impl Turn {
    /// For the context of that name; `paths` is where its modules are looked for.
    pub fn new(name: String, paths: Vec<String>) -> Self {
        Turn {
            id: 0,
            name,
            paths,
            thread: None,
            names: None,
            factories: HashMap::new(),
            pool: Pool::new(KEEP),
            calls: Vec::new(),
            writes: Vec::new(),
            arena: Vec::new(),
            stopping: false,
        }
    }

    /// On the context's own thread, once Python runs.
    pub fn attach(&mut self, id: u64) -> Result<(), PythonError> {
        self.id = id;
        module::enter_context(id);
        let mut thread = ThreadState::main();
        let names =
            thread.with(|py| Names::new(py).map_err(|error| PythonError::from_raised(py, error)));
        self.thread = Some(thread);
        self.names = Some(names?);
        Ok(())
    }

    /// Resolves a factory for a listener.
    pub fn load(&mut self, listener: usize, spec: &str) -> Result<(), PythonError> {
        let (Some(thread), Some(names)) = (&mut self.thread, &self.names) else {
            return Err(PythonError::startup("the context has no thread"));
        };
        let paths = &self.paths;
        let factories = &mut self.factories;
        thread.with(|py| match names.resolve.call1(py, (spec, paths.clone())) {
            Ok(factory) => {
                factories.insert(listener, factory);
                Ok(())
            }
            Err(error) => Err(PythonError::from_raised(py, error)),
        })
    }

    /// Makes the calls that have been collected; gives the connections to look at again at once.
    pub fn run(&mut self, again: &mut Vec<Arc<Conn>>) {
        if self.calls.is_empty() {
            return;
        }
        let Some(mut thread) = self.thread.take() else {
            return;
        };
        let mut calls = std::mem::take(&mut self.calls);
        thread.with(|py| {
            for call in calls.drain(..) {
                self.make(py, call, again);
            }
        });
        self.thread = Some(thread);
        self.calls = calls;
        self.write(again);
    }

    fn write(&mut self, again: &mut Vec<Arc<Conn>>) {
        for (conn, range, more) in self.writes.drain(..) {
            let ending = self.stopping || conn.draining();
            let mut state = conn.lock();
            let written = state.write(&[], &self.arena[range]);
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
                || (owner.mode == Mode::Reading && (state.readable || ending))
                || (more && state.queued() == 0);
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
                self.lose(py, conn);
            }
        });
        self.thread = Some(thread);
    }

    /// Gives everything that belongs to Python back.
    pub fn detach(mut self) {
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
            thread.end();
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
        let outcome = match kind {
            Kind::Lost => {
                self.lose(py, &conn);
                again.push(conn);
                return;
            }
            Kind::Open => self.open(py, &conn),
            Kind::Data(data) => self.data_received(py, object, data),
            Kind::Write if native => Ok(Action::WritePending),
            Kind::Write => self.write_ready(py, object),
        };
        let settled = outcome.and_then(|action| self.settle(py, &conn, object, native, action));
        match settled {
            Ok(true) => again.push(conn),
            Ok(false) => {}
            Err(error) => {
                self.report(py, &conn, error);
                self.lose(py, &conn);
                again.push(conn);
            }
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
            self.lose(py, conn);
            return Ok(true);
        }
        if action == Action::WritePending && native && !object.is_null() {
            let limit = conn.lock().settings.high_watermark;
            let (range, more) = self.take_write_buffer(py, object, limit)?;
            if !range.is_empty() {
                if let Owner::Protocol(owner) = &mut conn.lock().owner {
                    if owner.mode != Mode::Ending {
                        owner.mode = Mode::Writing;
                    }
                }
                self.writes.push((Arc::clone(conn), range, more));
                return Ok(false);
            }
        }
        let mut state = conn.lock();
        let readable = state.readable;
        let writable = state.writable;
        let Owner::Protocol(owner) = &mut state.owner else {
            return Ok(false);
        };
        owner.called = false;
        owner.mode = match action {
            // Somebody ended it meanwhile.
            _ if owner.mode == Mode::Ending => Mode::Ending,
            // A buffer that is empty has been written.
            Action::WritePending if native => Mode::Reading,
            Action::WritePending => Mode::Writing,
            Action::ReadPending => Mode::Reading,
            Action::AsyncPending => Mode::Waiting,
            Action::Continue if owner.mode == Mode::New => Mode::Reading,
            Action::Continue | Action::Close => owner.mode,
        };
        owner.more = false;
        Ok(owner.signalled
            || match owner.mode {
                Mode::Reading => readable || self.stopping || conn.draining(),
                Mode::Writing => writable,
                Mode::Ending => true,
                _ => false,
            })
    }

    fn open(&mut self, py: Python<'_>, conn: &Arc<Conn>) -> PyResult<Action> {
        let Some(names) = &self.names else {
            return Err(PyTypeError::new_err("the context has no names"));
        };
        let (listener, peer, fd) = {
            let state = conn.lock();
            let (listener, peer) = match &state.owner {
                Owner::Protocol(owner) => (owner.listener, owner.peer),
                _ => return Ok(Action::Close),
            };
            match state.fd() {
                Some(fd) => (listener, peer, fd),
                None => return Ok(Action::Close),
            }
        };
        let Some(factory) = self.factories.get(&listener) else {
            return Err(PyTypeError::new_err(
                "no factory was loaded for this listener",
            ));
        };
        let client_info = PyDict::new(py);
        client_info.set_item("addr", peer.map(|peer| peer.ip().to_string()))?;
        client_info.set_item("port", peer.map(|peer| peer.port()))?;
        client_info.set_item("type", "tcp")?;
        // SAFETY: with the GIL; a null is turned into the exception that is set.
        let handle = unsafe { Bound::from_owned_ptr_or_err(py, module::make_handle(conn))? };
        let opened = names.open.call1(py, (handle, fd, client_info, factory))?;
        let (protocol, action): (Bound<'_, PyAny>, Bound<'_, PyAny>) = opened.extract(py)?;
        // From here on it is told of the end, whatever happens.
        if let Owner::Protocol(owner) = &mut conn.lock().owner {
            owner.object = protocol.clone().into_ptr();
        }
        let native = names.is_native(&protocol)?;
        if let Owner::Protocol(owner) = &mut conn.lock().owner {
            owner.native = native;
        }
        if action.is_none() {
            return Ok(Action::Continue);
        }
        let action = names.action(protocol.as_ptr(), &names.connection_made, &action)?;
        if action == Action::WritePending && native {
            // Settled as a write of its own, now that the object is known.
            if let Owner::Protocol(owner) = &mut conn.lock().owner {
                if owner.mode == Mode::New {
                    owner.mode = Mode::Reading;
                    owner.signal();
                }
            }
            return Ok(Action::Continue);
        }
        Ok(action)
    }

    fn data_received(
        &self,
        py: Python<'_>,
        object: *mut ffi::PyObject,
        data: PooledBuf,
    ) -> PyResult<Action> {
        let Some(names) = &self.names else {
            return Ok(Action::Close);
        };
        // SAFETY: with the GIL; the object is kept alive by the connection's reference, the type is
        // the one that the module made, and null results carry an exception.
        let result = unsafe {
            let buffer = buffer::wrap(names.buffer_type.as_ptr().cast(), data);
            let buffer = Bound::from_owned_ptr_or_err(py, buffer)?;
            let args = [object, buffer.as_ptr()];
            let result = ffi::PyObject_VectorcallMethod(
                names.data_received.as_ptr(),
                args.as_ptr(),
                2,
                std::ptr::null_mut(),
            );
            Bound::from_owned_ptr_or_err(py, result)?
        };
        names.action(object, &names.data_received, &result)
    }

    fn write_ready(&self, py: Python<'_>, object: *mut ffi::PyObject) -> PyResult<Action> {
        let Some(names) = &self.names else {
            return Ok(Action::Close);
        };
        // SAFETY: as for data_received.
        let result = unsafe {
            let args = [object];
            let result = ffi::PyObject_VectorcallMethod(
                names.write_ready.as_ptr(),
                args.as_ptr(),
                1,
                std::ptr::null_mut(),
            );
            Bound::from_owned_ptr_or_err(py, result)?
        };
        names.action(object, &names.write_ready, &result)
    }

    /// Queues what a closing protocol still has in its `write_buffer`: it is flushed before the fd
    /// is closed.
    fn send_last(
        &mut self,
        py: Python<'_>,
        conn: &Arc<Conn>,
        object: *mut ffi::PyObject,
    ) -> PyResult<()> {
        let (range, _) = self.take_write_buffer(py, object, usize::MAX)?;
        if !range.is_empty() {
            let start = range.start;
            // A peer that is gone does not get it.
            let _ = conn.lock().write(&[], &self.arena[range]);
            self.arena.truncate(start);
        }
        Ok(())
    }

    /// Moves up to `limit` bytes of `write_buffer` into the arena.
    fn take_write_buffer(
        &mut self,
        py: Python<'_>,
        object: *mut ffi::PyObject,
        limit: usize,
    ) -> PyResult<(Range<usize>, bool)> {
        let start = self.arena.len();
        let Some(names) = &self.names else {
            return Ok((start..start, false));
        };
        // SAFETY: with the GIL; the bytes are copied before anything else can run, and the bytearray
        // is resized (or has its front cut off) through its own functions.
        unsafe {
            let buffer = ffi::PyObject_GetAttr(object, names.write_buffer.as_ptr());
            let buffer = Bound::from_owned_ptr_or_err(py, buffer)?;
            if !buffer.is_instance_of::<PyByteArray>() {
                return Err(PyTypeError::new_err(format!(
                    "write_buffer must be a bytearray, not {}",
                    buffer.get_type().getattr("__name__")?
                )));
            }
            let raw = buffer.as_ptr();
            let size = ffi::PyByteArray_Size(raw) as usize;
            let taken = size.min(limit.max(1));
            let bytes: *const c_char = ffi::PyByteArray_AsString(raw);
            let bytes = std::slice::from_raw_parts(bytes.cast::<u8>(), taken);
            self.arena.extend_from_slice(bytes);
            let cut = if taken == size {
                ffi::PyByteArray_Resize(raw, 0)
            } else {
                ffi::PySequence_DelSlice(raw, 0, taken as ffi::Py_ssize_t)
            };
            if cut != 0 {
                self.arena.truncate(start);
                return Err(PyErr::fetch(py));
            }
            Ok((start..start + taken, taken < size))
        }
    }

    /// Ends a connection: the protocol is told, the fd is closed once what is queued is flushed.
    /// The loop has to look at it once more.
    fn lose(&self, py: Python<'_>, conn: &Arc<Conn>) {
        let mut state = conn.lock();
        let object = match &mut state.owner {
            Owner::Protocol(owner) => {
                owner.mode = Mode::Ending;
                owner.called = true;
                std::mem::replace(&mut owner.object, std::ptr::null_mut())
            }
            _ => return,
        };
        drop(state);
        if let (false, Some(names)) = (object.is_null(), &self.names) {
            // SAFETY: the connection's own reference, taken out of it above.
            let object = unsafe { Bound::from_owned_ptr(py, object) };
            if let Err(error) = names.lost.call1(py, (object,)) {
                self.report(py, conn, error);
            }
        }
        let mut state = conn.lock();
        state.owner = Owner::Nobody;
        state.close(Instant::now());
    }

    fn report(&self, py: Python<'_>, conn: &Arc<Conn>, error: PyErr) {
        let peer = match &conn.lock().owner {
            Owner::Protocol(owner) => owner.peer.map(|peer| peer.to_string()),
            _ => None,
        };
        let peer = peer.unwrap_or_default();
        if error.is_instance_of::<PyConnectionError>(py) {
            tracing::debug!(context = %self.name, %peer, %error, "a Python protocol lost its peer");
            return;
        }
        let error = PythonError::from_raised(py, error);
        tracing::error!(
            context = %self.name,
            %peer,
            connection = conn.id,
            "a Python protocol failed, its connection is closed\n{}",
            error.traceback.trim_end()
        );
    }
}

impl Names {
    fn new(py: Python<'_>) -> PyResult<Names> {
        let native = py.import("_reactor")?;
        let reactor = py.import("erlang.reactor")?;
        let base = reactor.getattr("Protocol")?;
        let interned = |text: &str| PyString::intern(py, text).unbind();
        Ok(Names {
            connection_made: interned("connection_made"),
            data_received: interned("data_received"),
            write_ready: interned("write_ready"),
            write_buffer: interned("write_buffer"),
            actions: ACTIONS.iter().map(|(text, _)| interned(text)).collect(),
            buffer_type: native.getattr("ReactorBuffer")?.unbind(),
            open: reactor.getattr("_open")?.unbind(),
            lost: reactor.getattr("_lost")?.unbind(),
            resolve: reactor.getattr("_resolve")?.unbind(),
            checked: reactor.getattr("_checked")?.unbind(),
            end_context: reactor.getattr("_end_context")?.unbind(),
            base_write_ready: base.getattr("write_ready")?.unbind(),
            base_write: base.getattr("write")?.unbind(),
        })
    }

    /// True when the protocol writes in the way of the base class.
    fn is_native(&self, protocol: &Bound<'_, PyAny>) -> PyResult<bool> {
        let same = |name: &str, base: &Py<PyAny>| -> PyResult<bool> {
            let method = protocol.getattr(name)?;
            let function = method.getattr("__func__");
            Ok(function.is_ok_and(|function| function.is(base)))
        };
        Ok(same("write_ready", &self.base_write_ready)? && same("write", &self.base_write)?)
    }

    /// What `method` of the protocol asked for.
    fn action(
        &self,
        protocol: *mut ffi::PyObject,
        method: &Py<PyString>,
        result: &Bound<'_, PyAny>,
    ) -> PyResult<Action> {
        for (name, (_, action)) in self.actions.iter().zip(ACTIONS) {
            if result.is(name) {
                return Ok(action);
            }
        }
        // Not an interned string: Python compares, or says what is wrong with it.
        let py = result.py();
        // SAFETY: with the GIL; the connection keeps the protocol alive.
        let protocol = unsafe { Bound::from_borrowed_ptr(py, protocol) };
        let text: String = self
            .checked
            .call1(py, (protocol, method, result))?
            .extract(py)?;
        let found = ACTIONS.iter().find(|(name, _)| *name == text);
        found
            .map(|(_, action)| *action)
            .ok_or_else(|| PyTypeError::new_err(format!("no such action: {text}")))
    }
}
