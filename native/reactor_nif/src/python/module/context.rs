//! The context whose thread Python runs on, as the module and the native side know it.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use pyo3::ffi;

use crate::handoff::{self, Intake};

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

/// The number of that context; 0 for none.
pub(super) fn number() -> u64 {
    CONTEXT.get()
}

pub(super) unsafe extern "C" fn task_put(
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

pub(super) unsafe extern "C" fn context(
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

pub(super) unsafe extern "C" fn factory_set(
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
