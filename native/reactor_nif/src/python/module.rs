//! `_reactor`: the native side of `erlang.reactor`.
//!
//! Made through the C API with multi-phase initialisation, and without
//! process-globals, so that every interpreter gets its own.
//!
//! A connection's handle is a capsule that owns a reference to the
//! connection: it can outlive it, and is never mistaken for another one.

use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void, CStr};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;

use pyo3::exceptions::{
    PyBlockingIOError, PyConnectionError, PyOSError, PySystemError, PyTypeError, PyValueError,
};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyTuple};

use crate::connection::Pull;
use crate::error::{Cause, Reason};
use crate::handoff::{self, Intake};
use crate::owner::{kick, Conn, Owner};
use crate::python::buffer;
use crate::python::datagram::Served;
use crate::python::{ask, flow, reports, send};

const CAPSULE: &CStr = c"_reactor.connection";
const DATAGRAMS: &CStr = c"_reactor.datagrams";
/// The most that one `read` returns, in bytes.
const MAX_READ: usize = 1024 * 1024;

thread_local! {
    /// The context whose thread this is; 0 for none.
    static CONTEXT: Cell<u64> = const { Cell::new(0) };
    /// Its name.
    static NAME: RefCell<String> = const { RefCell::new(String::new()) };
    /// Something was put into its asyncio loop.
    static TASK_PUT: Cell<bool> = const { Cell::new(false) };
    /// What that is handed.
    static INTAKE: RefCell<Option<Arc<Intake>>> = const { RefCell::new(None) };
}

/// Says what the calling thread's context is handed.
pub fn enter_intake(intake: Arc<Intake>) {
    INTAKE.set(Some(intake));
}

/// A factory was set: in the calling thread's context, or for those that have none of their own.
pub fn knows_factory() {
    INTAKE.with_borrow(|intake| match intake {
        Some(intake) => intake.knows_factory(),
        None => handoff::some_factory_is_for_all(),
    });
}

/// Marks the calling thread as that of a context with this name.
pub fn enter_context(id: u64, name: &str) {
    CONTEXT.set(id);
    NAME.set(name.to_owned());
}

/// True when something was put into the asyncio loop of the calling thread's context since this was last asked.
pub fn take_task_put() -> bool {
    TASK_PUT.replace(false)
}

/// The name of the context whose thread this is; empty for none.
pub fn context_name() -> String {
    NAME.with_borrow(String::clone)
}

/// The module's init function, for `PyImport_AppendInittab`.
pub unsafe extern "C" fn init() -> *mut ffi::PyObject {
    // SAFETY: the definition is never moved or freed; CPython alone writes to it, under the GIL.
    unsafe { ffi::PyModuleDef_Init(&raw mut DEFINITION) }
}

static mut METHODS: [ffi::PyMethodDef; 19] = [
    method(
        c"context",
        context,
        c"The number of the calling thread's context, or None.",
    ),
    method(
        c"factory_set",
        factory_set,
        c"Says that the calling thread's context has a factory.",
    ),
    method(
        c"task_put",
        task_put,
        c"Says that the calling thread's context has something to do for its asyncio loop.",
    ),
    method(c"read", read, c"read(handle, size) -> bytes"),
    method(c"write", write, c"write(handle, data) -> int"),
    method(
        c"signal_write_ready",
        signal_write_ready,
        c"signal_write_ready(handle) -> bool",
    ),
    method(c"close", close, c"close(handle)"),
    method(
        c"send_to",
        send_to,
        c"send_to(handle, data, (host, port)) -> bool",
    ),
    method(
        c"close_datagrams",
        close_datagrams,
        c"close_datagrams(handle)",
    ),
    method(
        c"pause_reading",
        flow::pause_reading,
        c"pause_reading(handle)",
    ),
    method(
        c"resume_reading",
        flow::resume_reading,
        c"resume_reading(handle)",
    ),
    method(c"write_eof", flow::write_eof, c"write_eof(handle)"),
    method(
        c"log",
        reports::log,
        c"log(level, logger, message, file, line, module, function)",
    ),
    method(
        c"log_level",
        reports::log_level,
        c"The lowest level that Logger takes, as a number of Python's.",
    ),
    method(c"call", ask::call, c"call(name, args, timeout)"),
    method(
        c"has_function",
        ask::has_function,
        c"has_function(name) -> bool",
    ),
    method(c"send", send::send, c"send(to, term)"),
    method(c"whereis", send::whereis, c"whereis(name) -> Pid or None"),
    ffi::PyMethodDef::zeroed(),
];

static mut SLOTS: [ffi::PyModuleDef_Slot; SLOT_COUNT] = [
    ffi::PyModuleDef_Slot {
        slot: ffi::Py_mod_exec,
        value: exec as *mut c_void,
    },
    #[cfg(Py_3_12)]
    ffi::PyModuleDef_Slot {
        slot: ffi::Py_mod_multiple_interpreters,
        value: ffi::Py_MOD_PER_INTERPRETER_GIL_SUPPORTED,
    },
    ffi::PyModuleDef_Slot {
        slot: 0,
        value: std::ptr::null_mut(),
    },
];

const SLOT_COUNT: usize = if cfg!(Py_3_12) { 3 } else { 2 };

static mut DEFINITION: ffi::PyModuleDef = ffi::PyModuleDef {
    m_base: ffi::PyModuleDef_HEAD_INIT,
    m_name: c"_reactor".as_ptr(),
    m_doc: c"The native side of erlang.reactor.".as_ptr(),
    m_size: 0,
    m_methods: (&raw mut METHODS).cast(),
    m_slots: (&raw mut SLOTS).cast(),
    m_traverse: None,
    m_clear: None,
    m_free: None,
};

const fn method(name: &'static CStr, function: Function, doc: &'static CStr) -> ffi::PyMethodDef {
    ffi::PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: ffi::PyMethodDefPointer {
            PyCFunctionFast: function,
        },
        ml_flags: ffi::METH_FASTCALL,
        ml_doc: doc.as_ptr(),
    }
}

type Function = unsafe extern "C" fn(
    *mut ffi::PyObject,
    *mut *mut ffi::PyObject,
    ffi::Py_ssize_t,
) -> *mut ffi::PyObject;

unsafe extern "C" fn exec(module: *mut ffi::PyObject) -> c_int {
    // SAFETY: CPython calls this with the new module and the GIL.
    unsafe {
        let kind = buffer::make_type(module);
        if kind.is_null() {
            return -1;
        }
        // The module's dictionary takes the reference.
        if ffi::PyModule_AddObject(module, c"ReactorBuffer".as_ptr(), kind) != 0 {
            ffi::Py_DECREF(kind);
            return -1;
        }
    }
    0
}

unsafe extern "C" fn task_put(
    _module: *mut ffi::PyObject,
    _args: *mut *mut ffi::PyObject,
    _count: ffi::Py_ssize_t,
) -> *mut ffi::PyObject {
    TASK_PUT.set(true);
    // SAFETY: called by CPython, with the GIL.
    unsafe {
        ffi::Py_INCREF(ffi::Py_None());
        ffi::Py_None()
    }
}

unsafe extern "C" fn context(
    _module: *mut ffi::PyObject,
    _args: *mut *mut ffi::PyObject,
    _count: ffi::Py_ssize_t,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython, with the GIL.
    unsafe {
        match CONTEXT.get() {
            0 => {
                ffi::Py_INCREF(ffi::Py_None());
                ffi::Py_None()
            }
            id => ffi::PyLong_FromUnsignedLongLong(id),
        }
    }
}

unsafe extern "C" fn factory_set(
    _module: *mut ffi::PyObject,
    _args: *mut *mut ffi::PyObject,
    _count: ffi::Py_ssize_t,
) -> *mut ffi::PyObject {
    knows_factory();
    // SAFETY: called by CPython, with the GIL.
    unsafe {
        ffi::Py_INCREF(ffi::Py_None());
        ffi::Py_None()
    }
}

unsafe extern "C" fn read(
    _module: *mut ffi::PyObject,
    args: *mut *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
) -> *mut ffi::PyObject {
    // SAFETY: CPython's calling convention: `count` borrowed arguments, and the GIL.
    unsafe {
        entry(args, count, 2, |py, args| {
            let conn = connection(&args[0])?;
            let size: i64 = args[1].extract()?;
            let size = usize::try_from(size)
                .map_err(|_| PyValueError::new_err("size is a number of bytes, 0 or more"))?
                .min(MAX_READ);
            if size == 0 {
                // That the kernel gives nothing would look like the end.
                return Ok(PyBytes::new(py, b"").into_any());
            }
            if !py.detach(|| conn.lock().reads()) {
                let text = "cannot read: it is open for writing only";
                return Err(PyOSError::new_err((libc::EBADF, text)));
            }
            let mut into = vec![0; size];
            let pulled = py.detach(|| {
                let mut state = conn.lock();
                let result = state.read_bytes(&mut into);
                if matches!(result, Err(Pull::End(_))) {
                    // The loop has to find the end too.
                    state.readable = true;
                }
                result
            });
            match pulled {
                // A datagram that is larger is cut, as by recv.
                Ok(n) => Ok(PyBytes::new(py, &into[..n.min(size)]).into_any()),
                Err(Pull::Blocked) => Err(PyBlockingIOError::new_err((
                    libc::EAGAIN,
                    "nothing to read yet",
                ))),
                Err(_) => Ok(PyBytes::new(py, b"").into_any()),
            }
        })
    }
}

unsafe extern "C" fn write(
    _module: *mut ffi::PyObject,
    args: *mut *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
) -> *mut ffi::PyObject {
    // SAFETY: as for `read`.
    unsafe {
        entry(args, count, 2, |py, args| {
            let conn = connection(&args[0])?;
            let view = View::of(&args[1])?;
            let bytes = view.bytes();
            let written = if args[1].is_instance_of::<PyByteArray>() {
                // Other threads may put more into it, which they could not while it is looked at.
                conn.lock().write_now(bytes)
            } else {
                py.detach(|| conn.lock().write_now(bytes))
            };
            match written {
                Ok(n) => Ok(n.into_pyobject(py)?.into_any()),
                Err(Reason::Errno(code)) => {
                    let text = std::io::Error::from_raw_os_error(code).to_string();
                    Err(PyOSError::new_err((code, text)))
                }
                Err(reason) => Err(PyConnectionError::new_err(format!(
                    "cannot write: the connection is {reason}"
                ))),
            }
        })
    }
}

unsafe extern "C" fn signal_write_ready(
    _module: *mut ffi::PyObject,
    args: *mut *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
) -> *mut ffi::PyObject {
    // SAFETY: as for `read`.
    unsafe {
        entry(args, count, 1, |py, args| {
            let conn = connection(&args[0])?;
            let live = py.detach(|| {
                let mut state = conn.lock();
                match &mut state.owner {
                    Owner::Protocol(owner) => {
                        owner.signal();
                        drop(state);
                        kick(&conn);
                        true
                    }
                    _ => false,
                }
            });
            Ok(live.into_pyobject(py)?.to_owned().into_any())
        })
    }
}

unsafe extern "C" fn close(
    _module: *mut ffi::PyObject,
    args: *mut *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
) -> *mut ffi::PyObject {
    // SAFETY: as for `read`.
    unsafe {
        entry(args, count, 1, |py, args| {
            let conn = connection(&args[0])?;
            py.detach(|| {
                let mut state = conn.lock();
                if let Owner::Protocol(owner) = &mut state.owner {
                    owner.end();
                    state.because(Cause::Local);
                }
                drop(state);
                kick(&conn);
            });
            Ok(py.None().into_bound(py))
        })
    }
}

unsafe extern "C" fn send_to(
    _module: *mut ffi::PyObject,
    args: *mut *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
) -> *mut ffi::PyObject {
    // SAFETY: as for `read`.
    unsafe {
        entry(args, count, 3, |py, args| {
            let served: Arc<Served> = owned(&args[0], DATAGRAMS)?;
            let view = View::of(&args[1])?;
            let to = address(&args[2])?;
            let bytes = view.bytes();
            let within_a_call = CONTEXT.get() != 0;
            let sent = py.detach(|| served.send(to, bytes, within_a_call));
            Ok(sent.into_pyobject(py)?.to_owned().into_any())
        })
    }
}

unsafe extern "C" fn close_datagrams(
    _module: *mut ffi::PyObject,
    args: *mut *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
) -> *mut ffi::PyObject {
    // SAFETY: as for `read`.
    unsafe {
        entry(args, count, 1, |py, args| {
            let served: Arc<Served> = owned(&args[0], DATAGRAMS)?;
            served.replace(false);
            served.kick();
            Ok(py.None().into_bound(py))
        })
    }
}

/// `(host, port)`, or with the flow and scope of IPv6, as Python's `socket` has it. The host is an
/// address: a name would have to be looked up, which takes time.
fn address(tuple: &Bound<'_, PyAny>) -> PyResult<SocketAddr> {
    const EXPECTED: &str = "an address is (host, port), or (host, port, flowinfo, scope_id)";
    let tuple = tuple
        .cast::<PyTuple>()
        .map_err(|_| PyTypeError::new_err(EXPECTED))?;
    if !matches!(tuple.len(), 2..=4) {
        return Err(PyTypeError::new_err(EXPECTED));
    }
    let host = tuple.get_item(0)?;
    let host: &str = host
        .extract()
        .map_err(|_| PyTypeError::new_err("a host is a str with an IP address"))?;
    let port: u16 = tuple.get_item(1)?.extract().map_err(|_| {
        let text = "a port is an integer from 0 to 65535";
        PyValueError::new_err(text)
    })?;
    let number = |at: usize| match tuple.get_item(at) {
        Ok(item) => item.extract::<u32>(),
        Err(_) => Ok(0),
    };
    match host.parse() {
        Ok(IpAddr::V4(ip)) => Ok(SocketAddr::new(ip.into(), port)),
        Ok(IpAddr::V6(ip)) => Ok(SocketAddrV6::new(ip, port, number(2)?, number(3)?).into()),
        Err(_) => Err(PyValueError::new_err(format!(
            "a host is an IP address, not {host:?}: look names up first"
        ))),
    }
}

/// Runs the body of a native function: checks the number of arguments, turns errors and panics
/// into exceptions.
///
/// # Safety
/// `args` points to `count` live objects, and the GIL is held.
pub(super) unsafe fn entry<F>(
    args: *mut *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    expected: usize,
    body: F,
) -> *mut ffi::PyObject
where
    F: for<'py> FnOnce(Python<'py>, &[Bound<'py, PyAny>]) -> PyResult<Bound<'py, PyAny>>,
{
    let run = || {
        Python::attach(|py| {
            let args: Vec<_> = (0..count)
                // SAFETY: the caller's promise.
                .map(|i| unsafe { Bound::from_borrowed_ptr(py, *args.offset(i)) })
                .collect();
            let result = if args.len() == expected {
                body(py, &args)
            } else {
                let text = format!("expected {expected} arguments, got {}", args.len());
                Err(PyTypeError::new_err(text))
            };
            match result {
                Ok(value) => value.into_ptr(),
                Err(error) => {
                    error.restore(py);
                    std::ptr::null_mut()
                }
            }
        })
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| {
        Python::attach(|py| PySystemError::new_err("a bug in _reactor: it panicked").restore(py));
        std::ptr::null_mut()
    })
}

/// A borrowed view of a bytes-like object.
struct View(ffi::Py_buffer);

impl View {
    fn of(object: &Bound<'_, PyAny>) -> PyResult<View> {
        let mut view = std::mem::MaybeUninit::<ffi::Py_buffer>::zeroed();
        // SAFETY: fills `view`, or raises and leaves it alone.
        let got = unsafe {
            ffi::PyObject_GetBuffer(object.as_ptr(), view.as_mut_ptr(), ffi::PyBUF_SIMPLE)
        };
        if got != 0 {
            return Err(PyErr::take(object.py())
                .unwrap_or_else(|| PyTypeError::new_err("a bytes-like object is required")));
        }
        // SAFETY: PyObject_GetBuffer succeeded.
        Ok(View(unsafe { view.assume_init() }))
    }

    fn bytes(&self) -> &[u8] {
        if self.0.len == 0 {
            return &[];
        }
        // SAFETY: the exporter keeps `len` bytes at `buf` in place until the view is released.
        unsafe { std::slice::from_raw_parts(self.0.buf.cast(), self.0.len as usize) }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: released once, with the GIL: a view lives only inside a native function.
        unsafe { ffi::PyBuffer_Release(&mut self.0) };
    }
}

/// Makes the handle of a connection: a new reference, or null with an exception set.
///
/// # Safety
/// The GIL is held.
pub unsafe fn make_handle(conn: &Arc<Conn>) -> *mut ffi::PyObject {
    // SAFETY: the caller's promise; the destructor is that of this type.
    unsafe { make_capsule(conn, CAPSULE, free_handle) }
}

/// Likewise of a datagram socket.
///
/// # Safety
/// The GIL is held.
pub unsafe fn make_datagram_handle(served: &Arc<Served>) -> *mut ffi::PyObject {
    // SAFETY: as above.
    unsafe { make_capsule(served, DATAGRAMS, free_datagram_handle) }
}

/// A capsule that owns a reference.
///
/// # Safety
/// The GIL is held, and `free` drops a reference of this type.
unsafe fn make_capsule<T>(
    owned: &Arc<T>,
    name: &'static CStr,
    free: unsafe extern "C" fn(*mut ffi::PyObject),
) -> *mut ffi::PyObject {
    let raw = Arc::into_raw(Arc::clone(owned)).cast_mut();
    // SAFETY: the capsule takes the reference that into_raw gave up; `free` drops it.
    unsafe {
        let capsule = ffi::PyCapsule_New(raw.cast::<c_void>(), name.as_ptr(), Some(free));
        if capsule.is_null() {
            drop(Arc::from_raw(raw));
        }
        capsule
    }
}

unsafe extern "C" fn free_handle(capsule: *mut ffi::PyObject) {
    // SAFETY: only capsules made by make_handle have this destructor, and it runs once.
    unsafe { free_capsule::<Conn>(capsule, CAPSULE) }
}

unsafe extern "C" fn free_datagram_handle(capsule: *mut ffi::PyObject) {
    // SAFETY: likewise of make_datagram_handle.
    unsafe { free_capsule::<Served>(capsule, DATAGRAMS) }
}

/// Drops the reference that a capsule owns.
///
/// # Safety
/// The capsule was made with this type and name, and is not used again.
unsafe fn free_capsule<T>(capsule: *mut ffi::PyObject, name: &'static CStr) {
    // SAFETY: the caller's promise.
    unsafe {
        let raw = ffi::PyCapsule_GetPointer(capsule, name.as_ptr());
        if !raw.is_null() {
            drop(Arc::from_raw(raw.cast::<T>()));
        }
    }
}

/// The connection that a handle is of.
pub(super) fn connection(handle: &Bound<'_, PyAny>) -> PyResult<Arc<Conn>> {
    // SAFETY: capsules of this name own a Conn.
    unsafe { owned(handle, CAPSULE) }
}

/// What a capsule owns.
///
/// # Safety
/// Capsules of this name own a `T`.
unsafe fn owned<T>(handle: &Bound<'_, PyAny>, name: &'static CStr) -> PyResult<Arc<T>> {
    // SAFETY: PyCapsule_GetPointer checks type and name; a capsule of that name owns one reference
    // to a T, so one more can be counted while the capsule is alive, which the argument is.
    unsafe {
        if ffi::PyCapsule_IsValid(handle.as_ptr(), name.as_ptr()) == 0 {
            return Err(PyTypeError::new_err(
                "the handle is not that of a connection",
            ));
        }
        let raw = ffi::PyCapsule_GetPointer(handle.as_ptr(), name.as_ptr()).cast::<T>();
        Arc::increment_strong_count(raw);
        Ok(Arc::from_raw(raw))
    }
}
