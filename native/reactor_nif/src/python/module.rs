//! `_reactor`: the native side of `erlang.reactor`.
//!
//! Made through the C API with multi-phase initialisation, and without
//! process-globals, so that every interpreter gets its own.
//!
//! A connection's handle is a capsule that owns a reference to the
//! connection: it can outlive it, and is never mistaken for another one.

mod context;
mod datagrams;
mod handle;
mod socket;

use std::ffi::{c_int, c_void, CStr};
use std::panic::{catch_unwind, AssertUnwindSafe};

use pyo3::exceptions::{PySystemError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;

use crate::python::{ask, buffer, flow, reports, send};

use context::{context, factory_set, task_put};

pub use context::{context_name, enter_context, enter_intake, knows_factory, take_task_put};
pub(super) use handle::connection;
pub use handle::{make_datagram_handle, make_handle};

/// The module's init function, for `PyImport_AppendInittab`.
pub unsafe extern "C" fn init() -> *mut ffi::PyObject {
    // SAFETY: the definition is never moved or freed; CPython alone writes to it, under the GIL.
    unsafe { ffi::PyModuleDef_Init(&raw mut DEFINITION) }
}

/// What CPython calls for a function of ours that takes so many arguments.
macro_rules! function {
    ($body:path, $expected:literal) => {{
        unsafe extern "C" fn function(
            _module: *mut ffi::PyObject,
            args: *mut *mut ffi::PyObject,
            count: ffi::Py_ssize_t,
        ) -> *mut ffi::PyObject {
            // SAFETY: CPython's calling convention: `count` borrowed arguments, and the GIL.
            unsafe { entry(args, count, $expected, $body) }
        }
        function
    }};
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
    method(
        c"read",
        function!(socket::read, 2),
        c"read(handle, size) -> bytes",
    ),
    method(
        c"write",
        function!(socket::write, 2),
        c"write(handle, data) -> int",
    ),
    method(
        c"signal_write_ready",
        function!(socket::signal_write_ready, 1),
        c"signal_write_ready(handle) -> bool",
    ),
    method(c"close", function!(socket::close, 1), c"close(handle)"),
    method(
        c"send_to",
        function!(datagrams::send_to, 3),
        c"send_to(handle, data, (host, port)) -> bool",
    ),
    method(
        c"close_datagrams",
        function!(datagrams::close_datagrams, 1),
        c"close_datagrams(handle)",
    ),
    method(
        c"pause_reading",
        function!(flow::pause_reading, 1),
        c"pause_reading(handle)",
    ),
    method(
        c"resume_reading",
        function!(flow::resume_reading, 1),
        c"resume_reading(handle)",
    ),
    method(
        c"write_eof",
        function!(flow::write_eof, 1),
        c"write_eof(handle)",
    ),
    method(
        c"log",
        function!(reports::log, 7),
        c"log(level, logger, message, file, line, module, function)",
    ),
    method(
        c"log_level",
        function!(reports::log_level, 0),
        c"The lowest level that Logger takes, as a number of Python's.",
    ),
    method(
        c"call",
        function!(ask::call, 3),
        c"call(name, args, timeout)",
    ),
    method(
        c"has_function",
        function!(ask::has_function, 1),
        c"has_function(name) -> bool",
    ),
    method(c"send", function!(send::send, 2), c"send(to, term)"),
    method(
        c"whereis",
        function!(send::whereis, 1),
        c"whereis(name) -> Pid or None",
    ),
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

/// Runs the body of a native function: checks the number of arguments, turns errors and panics
/// into exceptions.
///
/// # Safety
/// `args` points to `count` live objects, and the GIL is held.
unsafe fn entry<F>(
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
