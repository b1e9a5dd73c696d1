//! Handles: capsules that own a reference to a connection, or to a socket for datagrams.

use std::ffi::{c_void, CStr};
use std::sync::Arc;

use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::owner::Conn;
use crate::python::datagram::Served;

const CAPSULE: &CStr = c"_reactor.connection";
const DATAGRAMS: &CStr = c"_reactor.datagrams";

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
pub(in crate::python) fn connection(handle: &Bound<'_, PyAny>) -> PyResult<Arc<Conn>> {
    // SAFETY: capsules of this name own a Conn.
    unsafe { owned(handle, CAPSULE) }
}

/// The socket that a handle is of.
pub(super) fn datagrams(handle: &Bound<'_, PyAny>) -> PyResult<Arc<Served>> {
    // SAFETY: capsules of this name own a Served.
    unsafe { owned(handle, DATAGRAMS) }
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
