//! Terms as Python objects, and back. docs/python_terms.md has the table of what becomes what.
//!
//! The classes that it takes belong to the calling thread's interpreter (`classes.rs`); nothing here is
//! kept for longer than one conversion.

mod atom;
mod calendar;
mod classes;
mod conversion;
mod external;
mod failure;
mod from_python;
mod integer;
mod mapset;
mod opaque;
mod size;
mod to_python;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};
use rustler::{Encoder, Env, NifResult, Term};

pub use conversion::{Conversion, Returned};
pub use failure::type_name;
pub use mapset::{learn as learn_mapset, learned as learned_mapset};

use failure::Failure;
use from_python::Outgoing;
use to_python::Incoming;

/// A term as a Python object. What cannot be is an exception that says where in it, as `value["rows"][3]`.
pub fn to_python<'py>(
    py: Python<'py>,
    term: Term,
    conversion: &Conversion,
) -> PyResult<Bound<'py, PyAny>> {
    Incoming::new(py, conversion)
        .object(term)
        .map_err(|failure| failure.raise(py, "value"))
}

/// A list as that of a call's arguments, where the first is `argument 0`.
pub fn arguments_to_python<'py>(
    py: Python<'py>,
    terms: Term,
    conversion: &Conversion,
) -> PyResult<Bound<'py, PyList>> {
    // To decode one that is improper panics.
    let terms: NifResult<Vec<Term>> = terms.list_length().and_then(|_| terms.decode());
    let terms =
        terms.map_err(|_| Failure::kind("they are no proper list").raise(py, "arguments"))?;
    let mut incoming = Incoming::new(py, conversion);
    let arguments = PyList::empty(py);
    for (index, term) in terms.into_iter().enumerate() {
        let argument = incoming
            .object(term)
            .map_err(|failure| failure.raise(py, &format!("argument {index}")))?;
        arguments.append(argument)?;
    }
    Ok(arguments)
}

/// A map as one of names, which are `str` whatever becomes of other atoms and binaries. `what` they are
/// the names of is said in errors.
pub fn names_to_python<'py>(
    py: Python<'py>,
    map: Term,
    what: &str,
    conversion: &Conversion,
) -> PyResult<Bound<'py, PyDict>> {
    let mut incoming = Incoming::new(py, conversion);
    incoming.names(map, what)
}

/// A Python object as a term, likewise.
pub fn from_python<'a>(
    env: Env<'a>,
    value: &Bound<'_, PyAny>,
    _conversion: &Conversion,
) -> PyResult<Term<'a>> {
    let py = value.py();
    Outgoing::new(env, py)
        .term(value)
        .map_err(|failure| failure.raise(py, "value"))
}

/// The arguments of a call as a list, where the first is `argument 0`.
pub fn arguments_from_python<'a>(
    env: Env<'a>,
    arguments: &Bound<'_, PyTuple>,
) -> PyResult<Term<'a>> {
    let py = arguments.py();
    let mut outgoing = Outgoing::new(env, py);
    let mut terms = Vec::with_capacity(arguments.len());
    for (index, argument) in arguments.iter().enumerate() {
        let term = outgoing
            .term(&argument)
            .map_err(|failure| failure.raise(py, &format!("argument {index}")))?;
        terms.push(term);
    }
    Ok(terms.encode(env))
}

/// What one value comes to.
type Converted<T> = Result<T, Failure>;
