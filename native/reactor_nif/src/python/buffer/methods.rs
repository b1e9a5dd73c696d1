//! The method table of `ReactorBuffer`, and the methods and operators that make a temporary
//! `bytes` object and let it do the work: their result needs new memory anyway, or they are rare.
//!
//! The contract of the module above holds here too: attached, and `slf` a live `ReactorBuffer`.

use std::ffi::{c_char, c_int, c_void, CStr};
use std::ptr;

use pyo3::ffi;

use super::{bytes_of, is_buffer, search, to_bytes, Object};

/// Passes `value` through after it gave up the reference to `object`.
unsafe fn release<T>(object: *mut ffi::PyObject, value: T) -> T {
    // SAFETY: by the caller's promise the reference is its own.
    unsafe { ffi::Py_DECREF(object) };
    value
}

/// Calls the method `name` of a `bytes` object with the same bytes.
unsafe fn delegate(
    slf: *mut ffi::PyObject,
    name: &CStr,
    args: *const *mut ffi::PyObject,
    nargs: isize,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the arguments are passed through from CPython, and each reference that is made
    // here is given up here.
    unsafe {
        let bytes = to_bytes(bytes_of(slf));
        if bytes.is_null() {
            return ptr::null_mut();
        }
        let method = release(bytes, ffi::PyObject_GetAttrString(bytes, name.as_ptr()));
        if method.is_null() {
            return ptr::null_mut();
        }
        release(method, call(method, args, nargs, names))
    }
}

/// Calls `method`, with a `bytes` object for each argument that is a buffer: some methods take no
/// other bytes-like object.
unsafe fn call(
    method: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    nargs: isize,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: as in `delegate`; CPython passes `nargs` positional and then as many keyword arguments
    // as there are names, if any.
    unsafe {
        let keywords = if names.is_null() {
            0
        } else {
            ffi::PyTuple_Size(names)
        };
        let given = match nargs + keywords {
            0 => &[],
            count => std::slice::from_raw_parts(args, count as usize),
        };
        if !given.iter().any(|arg| is_buffer(*arg)) {
            return ffi::PyObject_Vectorcall(method, args, nargs as usize, names);
        }
        let mut with_bytes = Vec::with_capacity(given.len());
        let mut made = Vec::new();
        for arg in given {
            if is_buffer(*arg) {
                made.push(to_bytes(bytes_of(*arg)));
            }
            with_bytes.push(match made.last() {
                Some(bytes) if is_buffer(*arg) => *bytes,
                _ => *arg,
            });
        }
        let result = if made.iter().any(|bytes| bytes.is_null()) {
            ptr::null_mut()
        } else {
            ffi::PyObject_Vectorcall(method, with_bytes.as_ptr(), nargs as usize, names)
        };
        for bytes in made {
            ffi::Py_XDECREF(bytes);
        }
        result
    }
}

/// Calls the static or class method `name` of `bytes`.
unsafe fn delegate_to_type(
    name: &CStr,
    args: *const *mut ffi::PyObject,
    nargs: isize,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: as in `delegate`; PyBytes_Type is static in every interpreter.
    unsafe {
        let ty = (&raw mut ffi::PyBytes_Type).cast();
        let method = ffi::PyObject_GetAttrString(ty, name.as_ptr());
        if method.is_null() {
            return ptr::null_mut();
        }
        release(method, call(method, args, nargs, names))
    }
}

/// Lets `work` have a temporary `bytes` object.
unsafe fn with_bytes(
    slf: *mut ffi::PyObject,
    work: impl FnOnce(*mut ffi::PyObject) -> *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: `slf` is a live ReactorBuffer, and the reference made here is given up here.
    unsafe {
        match to_bytes(bytes_of(slf)) {
            bytes if bytes.is_null() => bytes,
            bytes => release(bytes, work(bytes)),
        }
    }
}

pub(super) unsafe extern "C" fn repr(slf: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: `bytes` is a live object.
    unsafe { with_bytes(slf, |bytes| ffi::PyObject_Repr(bytes)) }
}

/// The same as `repr`, except that `python -b` warns of it.
pub(super) unsafe extern "C" fn str(slf: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: `bytes` is a live object.
    unsafe { with_bytes(slf, |bytes| ffi::PyObject_Str(bytes)) }
}

pub(super) unsafe extern "C" fn repeat(
    slf: *mut ffi::PyObject,
    times: isize,
) -> *mut ffi::PyObject {
    // SAFETY: `bytes` is a live object.
    unsafe { with_bytes(slf, |bytes| ffi::PySequence_Repeat(bytes, times)) }
}

/// `buffer % values`. CPython also asks the right operand, which is not ours to answer.
pub(super) unsafe extern "C" fn remainder(
    left: *mut ffi::PyObject,
    right: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: both are live objects, and so is `bytes`.
    unsafe {
        if !is_buffer(left) {
            if ffi::PyBytes_Check(left) != 0 && is_buffer(right) {
                // Only when __rmod__ is called by its name: else bytes has done it.
                return with_bytes(right, |right| ffi::PyNumber_Remainder(left, right));
            }
            return ffi::compat::Py_NewRef(ffi::Py_NotImplemented());
        }
        with_bytes(left, |bytes| {
            if is_buffer(right) {
                // It would pass for a dict, whose items need not all be used.
                return with_bytes(right, |right| ffi::PyNumber_Remainder(bytes, right));
            }
            ffi::PyNumber_Remainder(bytes, right)
        })
    }
}

unsafe extern "C" fn copy(slf: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: `slf` is a live ReactorBuffer.
    unsafe { to_bytes(bytes_of(slf)) }
}

unsafe extern "C" fn memoryview(
    slf: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: `slf` exports the buffer protocol.
    unsafe { ffi::PyMemoryView_FromObject(slf) }
}

unsafe extern "C" fn new_arguments(
    slf: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: PyTuple_Pack takes as many objects as it is told.
    unsafe { with_bytes(slf, |bytes| ffi::PyTuple_Pack(1, bytes)) }
}

/// Pickles and copies as `bytes`: pooled memory does not travel.
unsafe extern "C" fn reduce(slf: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: each reference that is made here is given up here; PyTuple_Pack takes its own.
    unsafe {
        let arguments = new_arguments(slf, ptr::null_mut());
        if arguments.is_null() {
            return ptr::null_mut();
        }
        let ty = &raw mut ffi::PyBytes_Type;
        release(arguments, ffi::PyTuple_Pack(2, ty, arguments))
    }
}

unsafe extern "C" fn memory_size(
    slf: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: `slf` is a live ReactorBuffer.
    unsafe {
        let size = size_of::<Object>() + (*slf.cast::<Object>()).buf.capacity();
        ffi::PyLong_FromSize_t(size)
    }
}

/// The default would list the names of `__class__`, which is `bytes`.
unsafe extern "C" fn dir(slf: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: a live object has a type.
    unsafe { ffi::PyObject_Dir(ffi::Py_TYPE(slf).cast()) }
}

/// `bytes`, so that `isinstance(data, bytes)` holds, on which json.loads and much other code
/// insists before it uses nothing but methods. `type(data)` tells the truth.
unsafe extern "C" fn class(_: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    // SAFETY: PyBytes_Type is static in every interpreter.
    unsafe { ffi::compat::Py_NewRef((&raw mut ffi::PyBytes_Type).cast()) }
}

/// A table that CPython keeps a pointer to, and never writes.
struct Table<T, const N: usize>([T; N]);

// SAFETY: nobody writes it, and it points to functions and literals alone.
unsafe impl<T, const N: usize> Sync for Table<T, N> {}

pub(super) fn table() -> *mut ffi::PyMethodDef {
    METHODS.0.as_ptr().cast_mut()
}

pub(super) fn properties() -> *mut ffi::PyGetSetDef {
    PROPERTIES.0.as_ptr().cast_mut()
}

static PROPERTIES: Table<ffi::PyGetSetDef, 2> = Table([
    ffi::PyGetSetDef {
        name: c"__class__".as_ptr(),
        get: Some(class),
        set: None,
        doc: ptr::null(),
        closure: ptr::null_mut(),
    },
    ffi::PyGetSetDef {
        name: ptr::null(),
        get: None,
        set: None,
        doc: ptr::null(),
        closure: ptr::null_mut(),
    },
]);

const fn method(
    name: *const c_char,
    call: ffi::PyMethodDefPointer,
    flags: c_int,
    doc: &'static CStr,
) -> ffi::PyMethodDef {
    ffi::PyMethodDef {
        ml_name: name,
        ml_meth: call,
        ml_flags: flags,
        ml_doc: doc.as_ptr(),
    }
}

/// A C string, made while compiling, of text that ends with a zero byte.
macro_rules! c_literal {
    ($text:expr) => {
        match CStr::from_bytes_with_nul($text.as_bytes()) {
            Ok(text) => text,
            Err(_) => c"",
        }
    };
}

macro_rules! name {
    ($name:ident) => {
        const { c_literal!(concat!(stringify!($name), "\0")) }
    };
}

macro_rules! about {
    ($name:ident) => {
        const { c_literal!(concat!("As bytes.", stringify!($name), ".\0")) }
    };
}

/// The table: methods of this file, of `search`, and those that `bytes` does as they are.
macro_rules! methods {
    (
        plain { $($plain:ident: $call:path, $doc:literal;)* }
        positional { $($positional:ident: $positional_doc:literal;)* }
        delegated { $($delegated:ident)* }
        of_type { $($of_type:ident)* }
    ) => {
        mod delegated {
            use super::*;
            $(pub(super) unsafe extern "C" fn $delegated(
                slf: *mut ffi::PyObject,
                args: *const *mut ffi::PyObject,
                nargs: isize,
                names: *mut ffi::PyObject,
            ) -> *mut ffi::PyObject {
                // SAFETY: passed through from CPython.
                unsafe { delegate(slf, name!($delegated), args, nargs, names) }
            })*
            $(pub(super) unsafe extern "C" fn $of_type(
                _: *mut ffi::PyObject,
                args: *const *mut ffi::PyObject,
                nargs: isize,
                names: *mut ffi::PyObject,
            ) -> *mut ffi::PyObject {
                // SAFETY: passed through from CPython.
                unsafe { delegate_to_type(name!($of_type), args, nargs, names) }
            })*
        }

        const COUNT: usize = 2 + [$($doc),*].len() + [$($positional_doc),*].len()
            + [$(stringify!($delegated)),*].len() + [$(stringify!($of_type)),*].len();

        static METHODS: Table<ffi::PyMethodDef, COUNT> = Table([
            $(method(
                name!($plain).as_ptr(),
                ffi::PyMethodDefPointer { PyCFunction: $call },
                ffi::METH_NOARGS,
                $doc,
            ),)*
            $(method(
                name!($positional).as_ptr(),
                ffi::PyMethodDefPointer { PyCFunctionFast: search::$positional },
                ffi::METH_FASTCALL,
                $positional_doc,
            ),)*
            method(
                name!(decode).as_ptr(),
                ffi::PyMethodDefPointer { PyCFunctionFastWithKeywords: search::decode },
                ffi::METH_FASTCALL | ffi::METH_KEYWORDS,
                c"decode(encoding='utf-8', errors='strict'): the text that the bytes encode.",
            ),
            $(method(
                name!($delegated).as_ptr(),
                ffi::PyMethodDefPointer { PyCFunctionFastWithKeywords: delegated::$delegated },
                ffi::METH_FASTCALL | ffi::METH_KEYWORDS,
                about!($delegated),
            ),)*
            $(method(
                name!($of_type).as_ptr(),
                ffi::PyMethodDefPointer { PyCFunctionFastWithKeywords: delegated::$of_type },
                ffi::METH_FASTCALL | ffi::METH_KEYWORDS | ffi::METH_STATIC,
                about!($of_type),
            ),)*
            ffi::PyMethodDef::zeroed(),
        ]);
    };
}

methods! {
    plain {
        memoryview: memoryview, c"A read-only memoryview of the bytes, without a copy.";
        __bytes__: copy, c"A copy of the bytes.";
        __getnewargs__: new_arguments, c"As bytes.__getnewargs__.";
        __reduce__: reduce, c"Pickles as bytes.";
        __sizeof__: memory_size, c"Memory in bytes, that of the pooled buffer included.";
        __dir__: dir, c"The names that the object has.";
    }
    positional {
        find: c"find(sub[, start[, end]]): the lowest index, or -1.";
        rfind: c"rfind(sub[, start[, end]]): the highest index, or -1.";
        index: c"index(sub[, start[, end]]): the lowest index, or ValueError.";
        rindex: c"rindex(sub[, start[, end]]): the highest index, or ValueError.";
        count: c"count(sub[, start[, end]]): how often sub occurs without overlap.";
        startswith: c"startswith(prefix or tuple of them[, start[, end]])";
        endswith: c"endswith(suffix or tuple of them[, start[, end]])";
    }
    delegated {
        capitalize center expandtabs hex isalnum isalpha isascii isdigit islower isspace istitle
        isupper join ljust lower lstrip partition removeprefix removesuffix replace rjust
        rpartition rsplit rstrip split splitlines strip swapcase title translate upper zfill
    }
    of_type { fromhex maketrans }
}
