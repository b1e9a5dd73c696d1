//! Terms as Python objects, and back.
//!
//! | term | Python | and back |
//! |---|---|---|
//! | `nil`, `true`, `false` | `None`, `True`, `False` | likewise |
//! | any other atom | `str` | a binary |
//! | integer, float | `int`, `float` | likewise; not `inf` and `nan`, which no term is |
//! | binary | `str` if it is UTF-8, else `bytes` | a binary; `bytearray` too |
//! | list, tuple, map | `list`, `tuple`, `dict` | likewise |
//!
//! What has no counterpart is a `TypeError` that names it.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{
    PyBool, PyByteArray, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple,
};
use rustler::types::tuple::{get_tuple, make_tuple};
use rustler::{Binary, Encoder, Env, MapIterator, NewBinary, Term, TermType};

/// How many containers may be in each other.
const DEPTH: usize = 64;

/// Of the external term format: the version, and integers of up to 255 bytes, or more.
const VERSION: u8 = 131;
const SMALL_BIG: u8 = 110;
const LARGE_BIG: u8 = 111;

mod atoms {
    rustler::atoms! { nil }
}

/// A term as a Python object.
pub fn to_python<'py>(py: Python<'py>, term: Term) -> PyResult<Bound<'py, PyAny>> {
    object(py, term, DEPTH)
}

/// A Python object as a term.
pub fn from_python<'a>(env: Env<'a>, value: &Bound<'_, PyAny>) -> PyResult<Term<'a>> {
    term(env, value, DEPTH)
}

fn object<'py>(py: Python<'py>, term: Term, depth: usize) -> PyResult<Bound<'py, PyAny>> {
    match term.get_type() {
        TermType::Atom => atom(py, term),
        TermType::Integer => match term.decode::<i64>() {
            Ok(number) => Ok(number.into_pyobject(py)?.into_any()),
            Err(_) => large_int(py, term),
        },
        TermType::Float => Ok(PyFloat::new(py, float(term)?).into_any()),
        TermType::Binary => {
            let binary: Result<Binary, _> = term.decode();
            let binary = binary.map_err(|_| unsuitable("a bitstring"))?;
            Ok(match std::str::from_utf8(binary.as_slice()) {
                Ok(text) => PyString::new(py, text).into_any(),
                Err(_) => PyBytes::new(py, binary.as_slice()).into_any(),
            })
        }
        TermType::List => {
            let depth = deeper(depth)?;
            let list = PyList::empty(py);
            let mut rest = term;
            while !rest.is_empty_list() {
                let Ok((head, tail)) = rest.list_get_cell() else {
                    return Err(unsuitable("an improper list"));
                };
                list.append(object(py, head, depth)?)?;
                rest = tail;
            }
            Ok(list.into_any())
        }
        TermType::Tuple => {
            let depth = deeper(depth)?;
            let items = get_tuple(term).map_err(|_| unsuitable("this tuple"))?;
            let items = items.into_iter().map(|item| object(py, item, depth));
            Ok(PyTuple::new(py, items.collect::<PyResult<Vec<_>>>()?)?.into_any())
        }
        TermType::Map => {
            let depth = deeper(depth)?;
            let dict = PyDict::new(py);
            for (key, value) in MapIterator::new(term).into_iter().flatten() {
                dict.set_item(object(py, key, depth)?, object(py, value, depth)?)?;
            }
            Ok(dict.into_any())
        }
        TermType::Pid => Err(unsuitable("a pid")),
        TermType::Port => Err(unsuitable("a port")),
        TermType::Ref => Err(unsuitable("a reference")),
        TermType::Fun => Err(unsuitable("a function")),
        TermType::Unknown => Err(unsuitable("this term")),
    }
}

fn atom<'py>(py: Python<'py>, term: Term) -> PyResult<Bound<'py, PyAny>> {
    if let Ok(value) = term.decode::<bool>() {
        return Ok(PyBool::new(py, value).to_owned().into_any());
    }
    if atoms::nil() == term {
        return Ok(py.None().into_bound(py));
    }
    let text = term.atom_to_string().map_err(|_| unsuitable("this atom"))?;
    Ok(PyString::new(py, &text).into_any())
}

/// An integer of more than 64 bits: terms show its bytes only in the external format.
fn large_int<'py>(py: Python<'py>, term: Term) -> PyResult<Bound<'py, PyAny>> {
    let external = term.to_binary();
    let (negative, bytes) = match external.as_slice() {
        [VERSION, SMALL_BIG, _, sign, bytes @ ..] => (*sign != 0, bytes),
        [VERSION, LARGE_BIG, _, _, _, _, sign, bytes @ ..] => (*sign != 0, bytes),
        _ => return Err(unsuitable("this integer")),
    };
    let int = py.get_type::<PyInt>();
    let number = int.call_method1("from_bytes", (PyBytes::new(py, bytes), "little"))?;
    if negative {
        number.neg()
    } else {
        Ok(number)
    }
}

fn float(term: Term) -> PyResult<f64> {
    term.decode().map_err(|_| unsuitable("this term"))
}

fn unsuitable(what: &str) -> PyErr {
    PyTypeError::new_err(format!("{what} cannot be given to Python"))
}

fn deeper(depth: usize) -> PyResult<usize> {
    depth
        .checked_sub(1)
        .ok_or_else(|| PyValueError::new_err(format!("nested more than {DEPTH} deep")))
}

fn term<'a>(env: Env<'a>, value: &Bound<'_, PyAny>, depth: usize) -> PyResult<Term<'a>> {
    if value.is_none() {
        Ok(atoms::nil().encode(env))
    } else if let Ok(value) = value.cast::<PyBool>() {
        Ok(value.is_true().encode(env))
    } else if let Ok(value) = value.cast::<PyInt>() {
        match value.extract::<i64>() {
            Ok(number) => Ok(number.encode(env)),
            Err(_) => large_integer(env, value),
        }
    } else if let Ok(value) = value.cast::<PyFloat>() {
        match value.value() {
            number if number.is_finite() => Ok(number.encode(env)),
            number => Err(PyValueError::new_err(format!(
                "{number} has no counterpart outside Python"
            ))),
        }
    } else if let Ok(value) = value.cast::<PyString>() {
        let bytes = value.encode_utf8()?;
        Ok(binary(env, bytes.as_bytes()))
    } else if let Ok(value) = value.cast::<PyBytes>() {
        Ok(binary(env, value.as_bytes()))
    } else if let Ok(value) = value.cast::<PyByteArray>() {
        Ok(binary(env, &value.to_vec()))
    } else if let Ok(value) = value.cast::<PyList>() {
        let depth = deeper(depth)?;
        let items = value.iter().map(|item| term(env, &item, depth));
        Ok(items.collect::<PyResult<Vec<_>>>()?.encode(env))
    } else if let Ok(value) = value.cast::<PyTuple>() {
        let depth = deeper(depth)?;
        let items = value.iter().map(|item| term(env, &item, depth));
        Ok(make_tuple(env, &items.collect::<PyResult<Vec<_>>>()?))
    } else if let Ok(value) = value.cast::<PyDict>() {
        let depth = deeper(depth)?;
        let mut map = Term::map_new(env);
        // Of its own: what is asked of a key or a value may change the dict.
        for (key, value) in value.copy()?.iter() {
            let (key, value) = (term(env, &key, depth)?, term(env, &value, depth)?);
            map = map
                .map_put(key, value)
                .map_err(|_| PyValueError::new_err("no map can be made of this dict"))?;
        }
        Ok(map)
    } else {
        let kind = value.get_type();
        let name = kind.getattr("__qualname__")?;
        let module = kind.getattr("__module__")?;
        Err(PyTypeError::new_err(format!(
            "an instance of {module}.{name} has no counterpart outside Python"
        )))
    }
}

fn binary<'a>(env: Env<'a>, bytes: &[u8]) -> Term<'a> {
    let mut binary = NewBinary::new(env, bytes.len());
    binary.copy_from_slice(bytes);
    binary.into()
}

fn large_integer<'a>(env: Env<'a>, value: &Bound<'_, PyInt>) -> PyResult<Term<'a>> {
    let negative = value.lt(0)?;
    let magnitude = value.abs()?;
    let bits: usize = magnitude.call_method0("bit_length")?.extract()?;
    let length = bits.div_ceil(8);
    let bytes = magnitude.call_method1("to_bytes", (length, "little"))?;
    let bytes = bytes.cast::<PyBytes>()?.as_bytes();
    let mut external = vec![VERSION];
    match (u8::try_from(length), u32::try_from(length)) {
        (Ok(length), _) => external.extend([SMALL_BIG, length]),
        (_, Ok(length)) => {
            external.push(LARGE_BIG);
            external.extend(length.to_be_bytes());
        }
        _ => return Err(too_large(bits)),
    }
    external.push(u8::from(negative));
    external.extend(bytes);
    env.binary_to_term(&external)
        .map(|(term, _)| term)
        .ok_or_else(|| too_large(bits))
}

fn too_large(bits: usize) -> PyErr {
    PyValueError::new_err(format!(
        "an integer of {bits} bits is too large outside Python"
    ))
}
