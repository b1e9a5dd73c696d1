//! From Python objects to terms: what each kind of object becomes.

use std::cell::OnceCell;

use pyo3::exceptions::PyUnicodeEncodeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{
    PyBool, PyByteArray, PyBytes, PyDict, PyFloat, PyFrozenSet, PyInt, PyList, PyMemoryView, PySet,
    PyString, PyTuple,
};
use rustler::types::tuple::make_tuple;
use rustler::{Encoder, Env, NewBinary, Term};

use super::classes::{Class, Classes};
use super::failure::{at, show_term, type_name, under, Failure};
use super::size::Size;
use super::{atom, calendar, integer, Converted};

/// One conversion.
pub struct Outgoing<'a, 'py> {
    pub(super) env: Env<'a>,
    pub(super) py: Python<'py>,
    size: Size,
    /// Looked up when they are needed first.
    classes: OnceCell<Classes<'py>>,
    /// The containers that are being converted, each in the one before.
    open: Vec<*mut ffi::PyObject>,
}

impl<'a, 'py> Outgoing<'a, 'py> {
    /// In the interpreter of the calling thread.
    pub fn new(env: Env<'a>, py: Python<'py>) -> Self {
        Outgoing {
            env,
            py,
            size: Size::new(),
            classes: OnceCell::new(),
            open: Vec::new(),
        }
    }

    pub(super) fn classes(&self) -> Converted<&Classes<'py>> {
        if self.classes.get().is_none() {
            // It was empty.
            let _ = self.classes.set(Classes::new(self.py)?);
        }
        self.classes
            .get()
            .ok_or_else(|| Failure::kind("there are no classes here"))
    }

    /// Any object.
    pub fn term(&mut self, value: &Bound<'py, PyAny>) -> Converted<Term<'a>> {
        self.size.count()?;
        if is_of_a_class(value) {
            // These may be text or numbers too.
            if self.classes()?.is(value, Class::Atom) {
                return self.atom(value.cast().map_err(PyErr::from)?);
            }
            if self.classes()?.is(value, Class::Enum) {
                return self.within(value, |this, member| this.term(&member.getattr("value")?));
            }
        }
        if let Some(term) = self.builtin(value)? {
            return Ok(term);
        }
        if let Some(term) = calendar::from_python(self, value)? {
            return Ok(term);
        }
        if let Some(term) = self.of_terms(value)? {
            return Ok(term);
        }
        if value.is_instance_of::<PyMemoryView>() || self.classes()?.is(value, Class::ReactorBuffer)
        {
            // SAFETY: with the GIL; it copies what the buffer protocol shows, or raises.
            let bytes = unsafe {
                let bytes = ffi::PyBytes_FromObject(value.as_ptr());
                Bound::from_owned_ptr_or_err(self.py, bytes)?
            };
            let bytes = bytes.cast::<PyBytes>().map_err(PyErr::from)?;
            return Ok(self.binary(bytes.as_bytes()));
        }
        let kind = value.get_type();
        if kind.getattr_opt("__dataclass_fields__")?.is_some() {
            return self.within(value, Self::dataclass);
        }
        Err(Failure::kind(format!(
            "an instance of {} has no counterpart outside Python",
            type_name(value)
        )))
    }

    /// What is of a type of Python's own, or of a class that is derived from one.
    fn builtin(&mut self, value: &Bound<'py, PyAny>) -> Converted<Option<Term<'a>>> {
        let term = if value.is_none() {
            atom::nil(self.env)
        } else if let Ok(value) = value.cast::<PyBool>() {
            value.is_true().encode(self.env)
        } else if let Ok(value) = value.cast::<PyInt>() {
            integer::from_python(self.env, value)?
        } else if let Ok(value) = value.cast::<PyString>() {
            self.binary(utf8(value)?.as_bytes())
        } else if let Ok(value) = value.cast::<PyFloat>() {
            match value.value() {
                number if number.is_finite() => number.encode(self.env),
                number => {
                    let name = if number.is_nan() { "nan" } else { "inf" };
                    let text = format!("the float {name} has no counterpart outside Python");
                    return Err(Failure::value(text));
                }
            }
        } else if let Ok(value) = value.cast::<PyBytes>() {
            self.binary(value.as_bytes())
        } else if let Ok(value) = value.cast::<PyByteArray>() {
            self.binary(&value.to_vec())
        } else if value.is_instance_of::<PyList>() {
            self.within(value, Self::list)?
        } else if value.is_instance_of::<PyTuple>() {
            self.within(value, Self::tuple)?
        } else if value.is_instance_of::<PyDict>() {
            self.within(value, Self::dict)?
        } else if value.is_instance_of::<PySet>() || value.is_instance_of::<PyFrozenSet>() {
            self.within(value, Self::set)?
        } else {
            return Ok(None);
        };
        Ok(Some(term))
    }

    /// Converts what is in a container.
    pub(super) fn within(
        &mut self,
        value: &Bound<'py, PyAny>,
        convert: impl FnOnce(&mut Self, &Bound<'py, PyAny>) -> Converted<Term<'a>>,
    ) -> Converted<Term<'a>> {
        self.size.enter()?;
        if self.open.contains(&value.as_ptr()) {
            return Err(Failure::value("it contains itself"));
        }
        self.open.push(value.as_ptr());
        let term = convert(self, value)?;
        self.open.pop();
        self.size.leave();
        Ok(term)
    }

    pub(super) fn binary(&self, bytes: &[u8]) -> Term<'a> {
        let mut binary = NewBinary::new(self.env, bytes.len());
        binary.copy_from_slice(bytes);
        binary.into()
    }

    fn list(&mut self, value: &Bound<'py, PyAny>) -> Converted<Term<'a>> {
        let list = value.cast::<PyList>().map_err(PyErr::from)?;
        let mut terms = Vec::with_capacity(list.len());
        // It may change meanwhile, and is then what it was at each item.
        for (index, item) in list.iter().enumerate() {
            let term = self.term(&item);
            terms.push(term.map_err(|failure| failure.within(at(index)))?);
        }
        Ok(terms.encode(self.env))
    }

    fn tuple(&mut self, value: &Bound<'py, PyAny>) -> Converted<Term<'a>> {
        let tuple = value.cast::<PyTuple>().map_err(PyErr::from)?;
        let mut terms = Vec::with_capacity(tuple.len());
        for (index, item) in tuple.iter().enumerate() {
            let term = self.term(&item);
            terms.push(term.map_err(|failure| failure.within(at(index)))?);
        }
        Ok(make_tuple(self.env, &terms))
    }

    fn dict(&mut self, value: &Bound<'py, PyAny>) -> Converted<Term<'a>> {
        // Of its own: what is asked of a key or a value may change the dict.
        let dict = value.cast::<PyDict>().map_err(PyErr::from)?;
        let items: Vec<_> = dict.iter().collect();
        let mut keys = Vec::with_capacity(items.len());
        let mut values = Vec::with_capacity(items.len());
        for (key, value) in items {
            let term = self.term(&key);
            keys.push(term.map_err(|failure| failure.within("<key>".into()))?);
            let term = self.term(&value);
            values.push(term.map_err(|failure| failure.within(under(&key)))?);
        }
        self.map(&keys, &values, "key")
    }

    fn dataclass(&mut self, value: &Bound<'py, PyAny>) -> Converted<Term<'a>> {
        let dataclasses = self.py.import("dataclasses")?;
        let fields = dataclasses.call_method1("fields", (value,))?;
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for field in fields.try_iter()? {
            let name = field?.getattr("name")?;
            let name = name.cast::<PyString>().map_err(PyErr::from)?;
            let text = utf8(name)?;
            let field = value.getattr(name).map_err(Failure::from);
            let term = field.and_then(|field| self.term(&field));
            values.push(term.map_err(|failure| failure.within(format!(".{text}")))?);
            keys.push(self.binary(text.as_bytes()));
        }
        self.map(&keys, &values, "field")
    }

    /// A map, unless keys that differ in Python are the same outside.
    pub(super) fn map(
        &self,
        keys: &[Term<'a>],
        values: &[Term<'a>],
        what: &str,
    ) -> Converted<Term<'a>> {
        let map = Term::map_from_term_arrays(self.env, keys, values).ok();
        // Before OTP 26 a large map is made although keys are missing.
        let whole = map.filter(|map| map.map_size().is_ok_and(|size| size == keys.len()));
        whole.ok_or_else(|| {
            let mut sorted = keys.to_vec();
            sorted.sort_unstable();
            let twice = sorted.windows(2).find(|pair| pair[0] == pair[1]);
            let key = twice.map_or("the same".into(), |pair| show_term(pair[0]));
            Failure::value(format!("two {what}s are {key} outside Python"))
        })
    }
}

/// True unless its type is one that is compiled into Python.
fn is_of_a_class(value: &Bound<'_, PyAny>) -> bool {
    // SAFETY: a live object has a type, whose flags can always be read.
    unsafe { ffi::PyType_HasFeature(ffi::Py_TYPE(value.as_ptr()), ffi::Py_TPFLAGS_HEAPTYPE) != 0 }
}

/// What a `str` says.
pub fn utf8<'s>(text: &'s Bound<'_, PyString>) -> Converted<&'s str> {
    text.to_str().map_err(|error| {
        let py = text.py();
        let start = error.value(py).getattr("start");
        match start.and_then(|start| start.extract::<usize>()) {
            Ok(start) if error.is_instance_of::<PyUnicodeEncodeError>(py) => {
                let what = "has half of a surrogate pair";
                let text = format!("a str {what} at {start}, which is not UTF-8 outside Python");
                Failure::value(text)
            }
            _ => Failure::from(error),
        }
    })
}
