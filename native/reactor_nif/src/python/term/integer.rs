//! Integers, of any size.

use std::ffi::c_int;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyInt};
use rustler::{Encoder, Env, Term};

use super::external::{self, LARGE_BIG, SMALL_BIG, VERSION};
use super::failure::Failure;
use super::Converted;

/// A term that is an integer.
pub fn to_python<'py>(py: Python<'py>, term: Term) -> Converted<Bound<'py, PyAny>> {
    match term.decode::<i64>() {
        Ok(number) => Ok(number.into_pyobject(py).map_err(PyErr::from)?.into_any()),
        Err(_) => large_to_python(py, term),
    }
}

/// Terms show the bytes of an integer of more than 64 bits only in the external format.
fn large_to_python<'py>(py: Python<'py>, term: Term) -> Converted<Bound<'py, PyAny>> {
    let external = external::encode(term);
    let (negative, bytes) = match external.as_slice() {
        [SMALL_BIG, _, sign, bytes @ ..] => (*sign != 0, bytes),
        [LARGE_BIG, _, _, _, _, sign, bytes @ ..] => (*sign != 0, bytes),
        _ => return Err(Failure::kind("this integer cannot be given to Python")),
    };
    let int = py.get_type::<PyInt>();
    let number = int.call_method1("from_bytes", (PyBytes::new(py, bytes), "little"))?;
    Ok(if negative { number.neg()? } else { number })
}

/// An `int`, whatever a class that is derived from it makes of it.
pub fn from_python<'a>(env: Env<'a>, value: &Bound<'_, PyInt>) -> Converted<Term<'a>> {
    let mut overflow: c_int = 0;
    // SAFETY: it is an int, so this does not raise: it says when 64 bits are too few.
    let number = unsafe { ffi::PyLong_AsLongLongAndOverflow(value.as_ptr(), &mut overflow) };
    if overflow == 0 {
        return Ok(number.encode(env));
    }
    large_from_python(env, value, overflow < 0)
}

fn large_from_python<'a>(
    env: Env<'a>,
    value: &Bound<'_, PyInt>,
    negative: bool,
) -> Converted<Term<'a>> {
    let int = value.py().get_type::<PyInt>();
    let magnitude = int.getattr("__abs__")?.call1((value,))?;
    let bits: usize = magnitude.call_method0("bit_length")?.extract()?;
    let length = bits.div_ceil(8);
    let too_large = || Failure::value(format!("an int of {bits} bits is too large outside Python"));
    let mut external = vec![VERSION];
    match (u8::try_from(length), u32::try_from(length)) {
        (Ok(length), _) => external.extend([SMALL_BIG, length]),
        (_, Ok(length)) => {
            external.push(LARGE_BIG);
            external.extend(length.to_be_bytes());
        }
        _ => return Err(too_large()),
    }
    external.push(u8::from(negative));
    let bytes = magnitude.call_method1("to_bytes", (length, "little"))?;
    external.extend(bytes.cast::<PyBytes>().map_err(PyErr::from)?.as_bytes());
    external::decode(env, &external).ok_or_else(too_large)
}
