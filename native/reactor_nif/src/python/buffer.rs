//! `ReactorBuffer`: the bytes that an event loop read, as a Python object.
//!
//! It holds a [`PooledBuf`], shows it read-only through the buffer protocol, and gives it back
//! to its pool when the last reference, memoryviews included, is gone. In all else it behaves
//! like `bytes`: what a parser does most is done in place here and in [`search`], and what is
//! left works on a temporary `bytes` object (see [`methods`]).
//!
//! The type is a heap type, one per interpreter, and nothing here is global but tables of
//! function pointers, so it is fit for subinterpreters and for free-threaded builds: after
//! [`wrap`] an object changes in its cached hash alone, which is atomic.
//!
//! Every function that is not safe to call here asks for the same: the caller holds the GIL (is
//! attached), and `slf` is a live `ReactorBuffer`. CPython guarantees both for slots.

mod methods;
mod search;

use std::ffi::{c_int, c_void, CStr};
use std::ptr;
use std::slice;
use std::sync::atomic::{AtomicIsize, Ordering};

use pyo3::ffi;

use crate::pool::PooledBuf;

const DOC: &CStr = c"The bytes of one read: an immutable, bytes-like object.

It supports every method and operator of bytes, and the buffer protocol without a copy.
Slices are bytes. The reactor makes these objects; programs cannot.";

#[repr(C)]
struct Object {
    base: ffi::PyObject,
    /// -1 until it is asked for, as in `bytes`.
    hash: AtomicIsize,
    buf: PooledBuf,
}

/// Makes the type for the interpreter that `module` belongs to. A new reference, or null with
/// an exception set.
///
/// # Safety
/// The calling thread is attached to an interpreter, and `module` is a module of it.
pub unsafe fn make_type(module: *mut ffi::PyObject) -> *mut ffi::PyObject {
    let slot = |slot: c_int, pfunc: *mut c_void| ffi::PyType_Slot { slot, pfunc };
    let mut slots = [
        slot(ffi::Py_tp_doc, DOC.as_ptr().cast_mut().cast()),
        slot(ffi::Py_tp_dealloc, dealloc as *mut c_void),
        slot(ffi::Py_tp_methods, methods::table().cast()),
        slot(ffi::Py_tp_getset, methods::properties().cast()),
        slot(ffi::Py_tp_repr, methods::repr as *mut c_void),
        slot(ffi::Py_tp_str, methods::str as *mut c_void),
        slot(ffi::Py_tp_hash, hash as *mut c_void),
        slot(ffi::Py_tp_richcompare, compare as *mut c_void),
        slot(ffi::Py_tp_iter, ffi::PySeqIter_New as *mut c_void),
        slot(ffi::Py_bf_getbuffer, export as *mut c_void),
        slot(ffi::Py_sq_length, length as *mut c_void),
        slot(ffi::Py_sq_item, item as *mut c_void),
        slot(ffi::Py_sq_contains, search::contains as *mut c_void),
        slot(ffi::Py_sq_concat, concat as *mut c_void),
        slot(ffi::Py_sq_repeat, methods::repeat as *mut c_void),
        slot(ffi::Py_mp_length, length as *mut c_void),
        slot(ffi::Py_mp_subscript, subscript as *mut c_void),
        slot(ffi::Py_nb_remainder, methods::remainder as *mut c_void),
        // Python 3.9 has no flag that says it.
        #[cfg(not(Py_3_10))]
        slot(ffi::Py_tp_new, refuse_new as *mut c_void),
        slot(0, ptr::null_mut()),
    ];
    #[cfg(Py_3_10)]
    let flags = ffi::Py_TPFLAGS_DEFAULT
        | ffi::Py_TPFLAGS_IMMUTABLETYPE
        | ffi::Py_TPFLAGS_DISALLOW_INSTANTIATION;
    #[cfg(not(Py_3_10))]
    let flags = ffi::Py_TPFLAGS_DEFAULT;
    let mut spec = ffi::PyType_Spec {
        name: c"erlang.reactor.ReactorBuffer".as_ptr(),
        basicsize: size_of::<Object>() as c_int,
        itemsize: 0,
        flags: flags as _,
        slots: slots.as_mut_ptr(),
    };
    // SAFETY: the slots end with a zero and name functions of the types that CPython expects;
    // CPython copies the array, and what it keeps pointers to (name, methods) is static.
    unsafe { ffi::PyType_FromModuleAndSpec(module, &mut spec, ptr::null_mut()) }
}

/// Makes a `ReactorBuffer` of `buf`. A new reference, or null with `MemoryError` set.
///
/// # Safety
/// The calling thread is attached, and `ty` came from [`make_type`] in the same interpreter.
pub unsafe fn wrap(ty: *mut ffi::PyTypeObject, buf: PooledBuf) -> *mut ffi::PyObject {
    // SAFETY: the type's basicsize is that of Object; PyObject_New takes a reference to the type.
    let object = unsafe { ffi::PyObject_New::<Object>(ty) };
    if !object.is_null() {
        // SAFETY: the allocation is ours alone; `base` is initialised, the other fields are not,
        // so they are written without dropping what was there.
        unsafe {
            (&raw mut (*object).hash).write(AtomicIsize::new(-1));
            (&raw mut (*object).buf).write(buf);
        }
    }
    object.cast()
}

/// Whether `object` is a `ReactorBuffer`, of whatever interpreter.
unsafe fn is_buffer(object: *mut ffi::PyObject) -> bool {
    // The method table is one static, so its address identifies the type without a global
    // that would have to hold a Python object. There are no subclasses.
    // SAFETY: by the caller's promise `object` is a live object, so it has a type.
    unsafe { (*ffi::Py_TYPE(object)).tp_methods == methods::table() }
}

/// The bytes that `slf` holds. The caller keeps `slf` alive for as long as it uses them.
unsafe fn bytes_of<'a>(slf: *mut ffi::PyObject) -> &'a [u8] {
    // SAFETY: `slf` is a live ReactorBuffer, and its bytes never move or change.
    unsafe { (*slf.cast::<Object>()).buf.as_slice() }
}

/// A new `bytes` object, or null with `MemoryError` set.
unsafe fn to_bytes(bytes: &[u8]) -> *mut ffi::PyObject {
    // SAFETY: pointer and length come from a slice.
    unsafe { ffi::PyBytes_FromStringAndSize(bytes.as_ptr().cast(), bytes.len() as isize) }
}

/// Another object's bytes, seen through the buffer protocol until this is dropped.
struct View(ffi::Py_buffer);

impl View {
    fn empty() -> View {
        View(ffi::Py_buffer::new())
    }

    /// Exports `object`; `None`, with an exception set, if it is not bytes-like. It fills `self`
    /// in place because some exporters point into the structure itself.
    unsafe fn fill(&mut self, object: *mut ffi::PyObject) -> Option<&[u8]> {
        // SAFETY: `object` is live, and self.0 is released before it could be filled again,
        // since every View is filled at most once.
        if unsafe { ffi::PyObject_GetBuffer(object, &mut self.0, ffi::PyBUF_SIMPLE) } != 0 {
            return None;
        }
        if self.0.len <= 0 {
            return Some(&[]); // where an empty export points to is nobody's business
        }
        // SAFETY: the exporter guarantees `len` readable bytes at `buf` until the release.
        Some(unsafe { slice::from_raw_parts(self.0.buf.cast::<u8>(), self.0.len as usize) })
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: releasing one that was never filled does nothing (its obj is null).
        unsafe { ffi::PyBuffer_Release(&mut self.0) }
    }
}

unsafe extern "C" fn dealloc(slf: *mut ffi::PyObject) {
    // SAFETY: nobody holds `slf` any more. An object of a heap type owns a reference to its
    // type, which goes last, since freeing the memory still belongs to the object.
    unsafe {
        let ty = ffi::Py_TYPE(slf);
        ptr::drop_in_place(&raw mut (*slf.cast::<Object>()).buf);
        ffi::PyObject_Free(slf.cast());
        ffi::Py_DECREF(ty.cast());
    }
}

#[cfg(not(Py_3_10))]
unsafe extern "C" fn refuse_new(
    _ty: *mut ffi::PyTypeObject,
    _args: *mut ffi::PyObject,
    _kwargs: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    let text = c"cannot create 'erlang.reactor.ReactorBuffer' instances";
    // SAFETY: the text is a C string.
    unsafe { ffi::PyErr_SetString(ffi::PyExc_TypeError, text.as_ptr()) };
    ptr::null_mut()
}

unsafe extern "C" fn export(
    slf: *mut ffi::PyObject,
    view: *mut ffi::Py_buffer,
    flags: c_int,
) -> c_int {
    // SAFETY: the view takes a reference to `slf`, so the bytes outlive it.
    unsafe {
        let bytes = bytes_of(slf);
        let start = bytes.as_ptr().cast_mut().cast();
        ffi::PyBuffer_FillInfo(view, slf, start, bytes.len() as isize, 1, flags)
    }
}

unsafe extern "C" fn length(slf: *mut ffi::PyObject) -> isize {
    // SAFETY: `slf` is a live ReactorBuffer.
    unsafe { bytes_of(slf) }.len() as isize
}

/// CPython has added the length to a negative index before it calls this.
unsafe extern "C" fn item(slf: *mut ffi::PyObject, index: isize) -> *mut ffi::PyObject {
    // SAFETY: `slf` is a live ReactorBuffer.
    let byte = usize::try_from(index)
        .ok()
        .and_then(|index| unsafe { bytes_of(slf) }.get(index));
    match byte {
        // SAFETY: attached, as everywhere.
        Some(byte) => unsafe { ffi::PyLong_FromLong((*byte).into()) },
        None => {
            let text = c"index out of range";
            // SAFETY: the text is a C string.
            unsafe { ffi::PyErr_SetString(ffi::PyExc_IndexError, text.as_ptr()) };
            ptr::null_mut()
        }
    }
}

unsafe extern "C" fn subscript(
    slf: *mut ffi::PyObject,
    key: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: `slf` is a live ReactorBuffer and `key` a live object.
    unsafe {
        if ffi::PyIndex_Check(key) != 0 {
            let index = ffi::PyNumber_AsSsize_t(key, ffi::PyExc_IndexError);
            if index == -1 && !ffi::PyErr_Occurred().is_null() {
                return ptr::null_mut();
            }
            let from_end = if index < 0 { length(slf) } else { 0 };
            return item(slf, index + from_end);
        }
        if ffi::PySlice_Check(key) != 0 {
            let (mut start, mut stop, mut step) = (0, 0, 0);
            if ffi::PySlice_Unpack(key, &mut start, &mut stop, &mut step) < 0 {
                return ptr::null_mut();
            }
            let count = ffi::PySlice_AdjustIndices(length(slf), &mut start, &mut stop, step);
            return slice(bytes_of(slf), start, step, count);
        }
        ffi::PyErr_Format(
            ffi::PyExc_TypeError,
            c"byte indices must be integers or slices, not %.200s".as_ptr(),
            (*ffi::Py_TYPE(key)).tp_name,
        )
    }
}

/// `count` bytes from `start` on, `step` apart, all of which lie within `bytes`.
unsafe fn slice(bytes: &[u8], start: isize, step: isize, count: isize) -> *mut ffi::PyObject {
    if step == 1 || count <= 0 {
        let start = start as usize;
        let part = bytes
            .get(start..start + count.max(0) as usize)
            .unwrap_or(&[]);
        // SAFETY: attached, as everywhere.
        return unsafe { to_bytes(part) };
    }
    // SAFETY: attached; the new object is ours alone until it is returned, and it has `count`
    // bytes of room.
    unsafe {
        let object = ffi::PyBytes_FromStringAndSize(ptr::null(), count);
        if !object.is_null() {
            let to = ffi::PyBytes_AS_STRING(object).cast_mut().cast::<u8>();
            for n in 0..count {
                let byte = bytes.get((start + n * step) as usize);
                to.offset(n).write(*byte.unwrap_or(&0));
            }
        }
        object
    }
}

unsafe extern "C" fn concat(
    slf: *mut ffi::PyObject,
    other: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    let mut view = View::empty();
    // SAFETY: both are live objects. The new object is ours alone until it is returned, and has
    // room for both parts.
    unsafe {
        let head = bytes_of(slf);
        let Some(tail) = view.fill(other) else {
            let other = (*ffi::Py_TYPE(other)).tp_name;
            let format = c"can't concat %.100s to ReactorBuffer";
            return ffi::PyErr_Format(ffi::PyExc_TypeError, format.as_ptr(), other);
        };
        let Some(len) = head
            .len()
            .checked_add(tail.len())
            .filter(|n| *n <= isize::MAX as usize)
        else {
            return ffi::PyErr_NoMemory();
        };
        let object = ffi::PyBytes_FromStringAndSize(ptr::null(), len as isize);
        if !object.is_null() {
            let to = ffi::PyBytes_AS_STRING(object).cast_mut().cast::<u8>();
            ptr::copy_nonoverlapping(head.as_ptr(), to, head.len());
            ptr::copy_nonoverlapping(tail.as_ptr(), to.add(head.len()), tail.len());
        }
        object
    }
}

/// With a `bytearray` or a `memoryview` Python asks the other operand next, which compares
/// through the buffer protocol: thus the outcome is the one that `bytes` would have.
unsafe extern "C" fn compare(
    slf: *mut ffi::PyObject,
    other: *mut ffi::PyObject,
    op: c_int,
) -> *mut ffi::PyObject {
    // SAFETY: both are live objects; a bytes object's memory is as long as its size says.
    unsafe {
        let other = if is_buffer(other) {
            bytes_of(other)
        } else if ffi::PyBytes_Check(other) != 0 {
            let start = ffi::PyBytes_AS_STRING(other).cast::<u8>();
            slice::from_raw_parts(start, ffi::Py_SIZE(other) as usize)
        } else {
            return ffi::compat::Py_NewRef(ffi::Py_NotImplemented());
        };
        let slf = bytes_of(slf);
        let holds = match op {
            ffi::Py_EQ => slf == other,
            ffi::Py_NE => slf != other,
            ffi::Py_LT => slf < other,
            ffi::Py_LE => slf <= other,
            ffi::Py_GT => slf > other,
            _ => slf >= other,
        };
        ffi::PyBool_FromLong(holds.into())
    }
}

/// The same hash as `bytes` has: equal keys have to find each other in a dict.
unsafe extern "C" fn hash(slf: *mut ffi::PyObject) -> isize {
    // SAFETY: `slf` is a live ReactorBuffer.
    unsafe {
        let cached = &(*slf.cast::<Object>()).hash;
        let mut hash = cached.load(Ordering::Relaxed);
        if hash == -1 {
            let bytes = bytes_of(slf);
            hash = ffi::compat::Py_HashBuffer(bytes.as_ptr().cast(), bytes.len() as isize);
            cached.store(hash, Ordering::Relaxed);
        }
        hash
    }
}
