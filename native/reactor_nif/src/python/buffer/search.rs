//! What `ReactorBuffer` finds and decodes in place, without a copy of its bytes: `in`, `find`
//! and its kin, `count`, `startswith`, `endswith`, `decode`.
//!
//! The contract of the module above holds here too: attached, and `slf` a live `ReactorBuffer`.

use std::ffi::{c_int, c_void, CStr};
use std::ptr;
use std::slice;

use pyo3::ffi;

use super::{bytes_of, View};

/// What is looked for: bytes, or one byte that was given as an integer.
struct Needle {
    view: View,
    byte: [u8; 1],
}

impl Needle {
    fn new() -> Needle {
        Needle {
            view: View::empty(),
            byte: [0],
        }
    }

    /// The bytes of `object`; `None` with an exception set if it is neither bytes nor a byte.
    unsafe fn fill(&mut self, object: *mut ffi::PyObject) -> Option<&[u8]> {
        // SAFETY: `object` is a live object.
        unsafe {
            if ffi::PyIndex_Check(object) != 0 && ffi::PyObject_CheckBuffer(object) == 0 {
                self.fill_byte(object)
            } else {
                self.view.fill(object)
            }
        }
    }

    /// The byte that `object`, an integer, stands for.
    unsafe fn fill_byte(&mut self, object: *mut ffi::PyObject) -> Option<&[u8]> {
        // SAFETY: `object` is a live object; the text is a C string.
        unsafe {
            let number = ffi::PyNumber_AsSsize_t(object, ptr::null_mut());
            if number == -1 && !ffi::PyErr_Occurred().is_null() {
                return None;
            }
            self.set_byte(number)
        }
    }

    fn set_byte(&mut self, number: isize) -> Option<&[u8]> {
        let Ok(byte) = u8::try_from(number) else {
            let text = c"byte must be in range(0, 256)";
            // SAFETY: attached, as everywhere; the text is a C string.
            unsafe { ffi::PyErr_SetString(ffi::PyExc_ValueError, text.as_ptr()) };
            return None;
        };
        self.byte = [byte];
        Some(&self.byte)
    }
}

fn position(hay: &[u8], needle: &[u8]) -> Option<usize> {
    let start = hay.as_ptr().cast::<c_void>();
    let found = match needle {
        [] => start,
        // SAFETY: pointer and length come from a slice.
        [byte] => unsafe { libc::memchr(start, (*byte).into(), hay.len()) },
        // SAFETY: both pointers and lengths come from slices.
        _ => unsafe { libc::memmem(start, hay.len(), needle.as_ptr().cast(), needle.len()) },
    };
    (!found.is_null()).then(|| found as usize - start as usize)
}

fn last_position(hay: &[u8], needle: &[u8]) -> Option<usize> {
    let Some((first, rest)) = needle.split_first() else {
        return Some(hay.len());
    };
    let mut end = (hay.len() + 1).checked_sub(needle.len())?;
    loop {
        // `end` bounds where the needle may start, so it fits behind every candidate.
        end = hay.get(..end)?.iter().rposition(|byte| byte == first)?;
        if hay.get(end + 1..end + needle.len()) == Some(rest) {
            return Some(end);
        }
    }
}

fn occurrences(mut hay: &[u8], needle: &[u8]) -> usize {
    match needle {
        [] => hay.len() + 1,
        [byte] => hay.iter().filter(|other| *other == byte).count(),
        _ => {
            let mut count = 0;
            while let Some(at) = position(hay, needle) {
                count += 1;
                hay = hay.get(at + needle.len()..).unwrap_or(&[]);
            }
            count
        }
    }
}

pub(super) unsafe extern "C" fn contains(
    slf: *mut ffi::PyObject,
    object: *mut ffi::PyObject,
) -> c_int {
    let mut needle = Needle::new();
    // SAFETY: both are live objects.
    unsafe {
        let needle = if ffi::PyIndex_Check(object) != 0 {
            let number = ffi::PyNumber_AsSsize_t(object, ptr::null_mut());
            if number == -1 && !ffi::PyErr_Occurred().is_null() {
                // As in bytes: what is no number after all has to be bytes-like.
                ffi::PyErr_Clear();
                needle.view.fill(object)
            } else {
                needle.set_byte(number)
            }
        } else {
            needle.view.fill(object)
        };
        needle.map_or(-1, |needle| {
            position(bytes_of(slf), needle).is_some().into()
        })
    }
}

/// One end of the range that a search is limited to: `default` if it is missing or None.
unsafe fn bound(object: Option<&*mut ffi::PyObject>, default: isize) -> Option<isize> {
    // SAFETY: the object, if any, is live.
    unsafe {
        let Some(object) = object.copied().filter(|object| *object != ffi::Py_None()) else {
            return Some(default);
        };
        if ffi::PyIndex_Check(object) == 0 {
            let text = c"slice indices must be integers or None or have an __index__ method";
            ffi::PyErr_SetString(ffi::PyExc_TypeError, text.as_ptr());
            return None;
        }
        // Without an exception to raise, what does not fit is clipped.
        let index = ffi::PyNumber_AsSsize_t(object, ptr::null_mut());
        (index != -1 || ffi::PyErr_Occurred().is_null()).then_some(index)
    }
}

/// The arguments that all of these methods take: what to look for, and where.
struct Arguments<'a> {
    subject: *mut ffi::PyObject,
    /// The part of the buffer that lies in the range; `None` if it ends before it starts.
    part: Option<&'a [u8]>,
    /// Where that part starts in the buffer.
    offset: usize,
}

impl<'a> Arguments<'a> {
    unsafe fn parse(
        name: &CStr,
        slf: *mut ffi::PyObject,
        args: *const *mut ffi::PyObject,
        nargs: isize,
    ) -> Option<Arguments<'a>> {
        // SAFETY: CPython passes `nargs` live objects at `args`, or null if there is none.
        unsafe {
            let args = if nargs > 0 {
                slice::from_raw_parts(args, nargs as usize)
            } else {
                &[]
            };
            let (Some(subject), true) = (args.first(), args.len() <= 3) else {
                let format = c"%s expected 1 to 3 arguments, got %zd";
                ffi::PyErr_Format(ffi::PyExc_TypeError, format.as_ptr(), name.as_ptr(), nargs);
                return None;
            };
            let bytes = bytes_of(slf);
            let len = bytes.len() as isize;
            let absolute = |index: isize| (if index < 0 { index + len } else { index }).max(0);
            let start = absolute(bound(args.get(1), 0)?) as usize;
            let end = absolute(bound(args.get(2), len)?).min(len) as usize;
            Some(Arguments {
                subject: *subject,
                part: bytes.get(start..end),
                offset: start,
            })
        }
    }
}

type Search = fn(&[u8], &[u8]) -> Option<usize>;

/// The outer `None` is a Python exception, the inner one "not found".
unsafe fn locate(
    name: &CStr,
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    nargs: isize,
    search: Search,
) -> Option<Option<usize>> {
    let mut needle = Needle::new();
    // SAFETY: passed through from CPython.
    unsafe {
        let arguments = Arguments::parse(name, slf, args, nargs)?;
        let needle = needle.fill(arguments.subject)?;
        let found = arguments.part.and_then(|part| search(part, needle));
        Some(found.map(|at| at + arguments.offset))
    }
}

unsafe fn find_with(
    name: &CStr,
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    nargs: isize,
    search: Search,
) -> *mut ffi::PyObject {
    // SAFETY: passed through from CPython.
    unsafe {
        match locate(name, slf, args, nargs, search) {
            Some(found) => ffi::PyLong_FromSsize_t(found.map_or(-1, |at| at as isize)),
            None => ptr::null_mut(),
        }
    }
}

unsafe fn index_with(
    name: &CStr,
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    nargs: isize,
    search: Search,
) -> *mut ffi::PyObject {
    // SAFETY: passed through from CPython; the text is a C string.
    unsafe {
        match locate(name, slf, args, nargs, search) {
            Some(Some(at)) => ffi::PyLong_FromSsize_t(at as isize),
            Some(None) => {
                let text = c"subsection not found";
                ffi::PyErr_SetString(ffi::PyExc_ValueError, text.as_ptr());
                ptr::null_mut()
            }
            None => ptr::null_mut(),
        }
    }
}

unsafe fn count_in(
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    nargs: isize,
) -> *mut ffi::PyObject {
    let mut needle = Needle::new();
    // SAFETY: passed through from CPython.
    unsafe {
        let Some(arguments) = Arguments::parse(c"count", slf, args, nargs) else {
            return ptr::null_mut();
        };
        let Some(needle) = needle.fill(arguments.subject) else {
            return ptr::null_mut();
        };
        let count = arguments.part.map_or(0, |part| occurrences(part, needle));
        ffi::PyLong_FromSsize_t(count as isize)
    }
}

/// Whether the range begins, or ends, with the subject or with one of a tuple of them.
unsafe fn affix(
    name: &CStr,
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    nargs: isize,
    test: fn(&[u8], &[u8]) -> bool,
) -> *mut ffi::PyObject {
    // SAFETY: passed through from CPython. A tuple keeps what it borrows out alive, and `args`
    // keeps the tuple.
    unsafe {
        let Some(Arguments { subject, part, .. }) = Arguments::parse(name, slf, args, nargs) else {
            return ptr::null_mut();
        };
        let one = |subject| {
            let mut view = View::empty();
            let subject = view.fill(subject)?;
            Some(part.is_some_and(|part| test(part, subject)))
        };
        if ffi::PyTuple_Check(subject) == 0 {
            return match one(subject) {
                Some(holds) => ffi::PyBool_FromLong(holds.into()),
                None => ptr::null_mut(),
            };
        }
        for n in 0..ffi::PyTuple_Size(subject) {
            match one(ffi::PyTuple_GetItem(subject, n)) {
                Some(false) => {}
                Some(true) => return ffi::PyBool_FromLong(1),
                None => return ptr::null_mut(),
            }
        }
        ffi::PyBool_FromLong(0)
    }
}

/// `decode(encoding="utf-8", errors="strict")`.
pub(super) unsafe extern "C" fn decode(
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    nargs: isize,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: CPython passes `nargs` positional and then as many keyword arguments as there are
    // names, if any; `names` is a tuple or null.
    unsafe {
        let keywords = if names.is_null() {
            0
        } else {
            ffi::PyTuple_Size(names)
        };
        let total = nargs + keywords;
        if total == 0 {
            let bytes = bytes_of(slf);
            let (start, len) = (bytes.as_ptr().cast(), bytes.len() as isize);
            return ffi::PyUnicode_DecodeUTF8(start, len, ptr::null());
        }
        if total > 2 {
            let format = c"decode() takes at most 2 arguments (%zd given)";
            return ffi::PyErr_Format(ffi::PyExc_TypeError, format.as_ptr(), total);
        }
        // str(buffer, encoding, errors) does the same, by the same names.
        let args = slice::from_raw_parts(args, total as usize);
        let mut with_self = [slf, ptr::null_mut(), ptr::null_mut()];
        for (to, from) in with_self.iter_mut().skip(1).zip(args) {
            *to = *from;
        }
        let str = (&raw mut ffi::PyUnicode_Type).cast();
        ffi::PyObject_Vectorcall(str, with_self.as_ptr(), nargs as usize + 1, names)
    }
}

/// Defines methods that CPython calls with an array of positional arguments.
macro_rules! positional {
    ($($name:ident($slf:ident, $args:ident, $n:ident) => $body:expr;)*) => {$(
        pub(super) unsafe extern "C" fn $name(
            $slf: *mut ffi::PyObject,
            $args: *mut *mut ffi::PyObject,
            $n: isize,
        ) -> *mut ffi::PyObject {
            // SAFETY: passed through from CPython.
            unsafe { $body }
        }
    )*};
}

positional! {
    find(slf, args, n) => find_with(c"find", slf, args, n, position);
    rfind(slf, args, n) => find_with(c"rfind", slf, args, n, last_position);
    index(slf, args, n) => index_with(c"index", slf, args, n, position);
    rindex(slf, args, n) => index_with(c"rindex", slf, args, n, last_position);
    count(slf, args, n) => count_in(slf, args, n);
    startswith(slf, args, n) => affix(c"startswith", slf, args, n, |part, x| part.starts_with(x));
    endswith(slf, args, n) => affix(c"endswith", slf, args, n, |part, x| part.ends_with(x));
}
