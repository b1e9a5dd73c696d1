//! From terms to Python objects: what each kind of term becomes.

use std::cell::OnceCell;
use std::collections::HashMap;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyFloat, PyList, PyString, PyTuple};
use rustler::types::tuple::get_tuple;
use rustler::{Atom, Binary, MapIterator, ResourceArc, Term, TermType};

use super::classes::{Class, Classes};
use super::conversion::{Binaries, Conversion};
use super::failure::{at, show_term, type_name, under_term, Failure};
use super::size::Size;
use super::{atom, calendar, integer, Converted};
use crate::python::held::ObjectHandle;

mod atoms {
    rustler::atoms! {
        binary,
        map,
        map_set = "Elixir.MapSet",
        of_bytes = "Elixir.Reactor.Python.Bytes",
        of_object = "Elixir.Reactor.Python.Object",
        resource,
        r#struct = "__struct__",
    }
}

/// One conversion.
pub struct Incoming<'py, 'c> {
    pub(super) py: Python<'py>,
    pub(super) size: Size,
    conversion: &'c Conversion,
    /// Looked up when they are needed first.
    classes: OnceCell<Classes<'py>>,
    /// Those that were made already: keys of many maps are the same.
    pub(super) atoms: HashMap<Atom, Bound<'py, PyAny>>,
}

impl<'py, 'c> Incoming<'py, 'c> {
    /// In the interpreter of the calling thread.
    pub fn new(py: Python<'py>, conversion: &'c Conversion) -> Self {
        Incoming {
            py,
            size: Size::new(),
            conversion,
            classes: OnceCell::new(),
            atoms: HashMap::new(),
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

    /// Any term.
    pub fn object(&mut self, term: Term) -> Converted<Bound<'py, PyAny>> {
        self.size.count()?;
        match term.get_type() {
            TermType::Atom => self.atom(term),
            TermType::Integer => integer::to_python(self.py, term),
            TermType::Float => {
                let number = term
                    .decode()
                    .map_err(|_| Failure::kind("this float cannot be given to Python"))?;
                Ok(PyFloat::new(self.py, number).into_any())
            }
            TermType::Binary => match term.decode::<Binary>() {
                Ok(binary) => self.binary(&binary),
                Err(_) => self.bits(term),
            },
            TermType::List => self.list(term),
            TermType::Tuple => self.tuple(term),
            TermType::Map => self.map(term),
            TermType::Pid => self.opaque(term, Class::Pid),
            TermType::Port => self.opaque(term, Class::Port),
            TermType::Ref => self.opaque(term, Class::Reference),
            TermType::Fun => self.opaque(term, Class::Fun),
            TermType::Unknown => Err(Failure::kind("this term cannot be given to Python")),
        }
    }

    /// What is in a container that is not entered by itself.
    pub(super) fn nested(&mut self, term: Term) -> Converted<Bound<'py, PyAny>> {
        self.size.enter()?;
        let object = self.object(term)?;
        self.size.leave();
        Ok(object)
    }

    fn binary(&self, bytes: &[u8]) -> Converted<Bound<'py, PyAny>> {
        let binaries = self.conversion.binaries;
        if matches!(binaries, Binaries::Bytes) {
            return Ok(PyBytes::new(self.py, bytes).into_any());
        }
        match (std::str::from_utf8(bytes), binaries) {
            (Ok(text), _) => Ok(PyString::new(self.py, text).into_any()),
            (Err(_), Binaries::Auto) => Ok(PyBytes::new(self.py, bytes).into_any()),
            (Err(error), _) => Err(Failure::value(format!(
                "a binary is to be text, and is not UTF-8 at byte {}",
                error.valid_up_to()
            ))),
        }
    }

    fn list(&mut self, term: Term) -> Converted<Bound<'py, PyAny>> {
        self.size.enter()?;
        let list = PyList::empty(self.py);
        let mut rest = term;
        while let Ok((head, tail)) = rest.list_get_cell() {
            let item = self
                .object(head)
                .map_err(|failure| failure.within(at(list.len())))?;
            list.append(item)?;
            rest = tail;
        }
        self.size.leave();
        if rest.is_empty_list() {
            Ok(list.into_any())
        } else {
            self.improper_list(list.into_any(), rest)
        }
    }

    fn tuple(&mut self, term: Term) -> Converted<Bound<'py, PyAny>> {
        self.size.enter()?;
        let terms =
            get_tuple(term).map_err(|_| Failure::kind("this tuple cannot be given to Python"))?;
        let mut items = Vec::with_capacity(terms.len());
        for (index, item) in terms.into_iter().enumerate() {
            let item = self.object(item);
            items.push(item.map_err(|failure| failure.within(at(index)))?);
        }
        self.size.leave();
        Ok(PyTuple::new(self.py, items)?.into_any())
    }

    fn map(&mut self, term: Term) -> Converted<Bound<'py, PyAny>> {
        let structure = term.map_get(atoms::r#struct());
        if let Ok(name) = structure.and_then(|name| name.decode::<Atom>()) {
            if let Some(object) = self.structure(name, term)? {
                return Ok(object);
            }
        }
        self.size.enter()?;
        let dict = PyDict::new(self.py);
        for (key, value) in MapIterator::new(term).into_iter().flatten() {
            let object = self
                .object(key)
                .map_err(|failure| failure.within("<key>".into()))?;
            let value = self
                .object(value)
                .map_err(|failure| failure.within(under_term(key)))?;
            let before = dict.len();
            self.hashed(&object, dict.set_item(&object, value))?;
            if dict.len() == before {
                return Err(self.equal(key, "key"));
            }
        }
        self.size.leave();
        Ok(dict.into_any())
    }

    /// Python was given something to find it again by its value.
    pub(super) fn hashed(
        &self,
        object: &Bound<'py, PyAny>,
        outcome: PyResult<()>,
    ) -> Converted<()> {
        outcome.map_err(|error| {
            if error.is_instance_of::<PyTypeError>(self.py) {
                let kind = type_name(object);
                let text = "has no hash in Python, so it is no key of a dict and in no set";
                return Failure::kind(format!("an instance of {kind} {text}"));
            }
            Failure::from(error)
        })
    }

    /// It took the place of another one.
    pub(super) fn equal(&self, key: Term, what: &str) -> Failure {
        let key = show_term(key);
        Failure::value(format!("the {what} {key} equals another one in Python"))
    }

    /// A struct that something of Python's stands for.
    fn structure(&mut self, name: Atom, term: Term) -> Converted<Option<Bound<'py, PyAny>>> {
        if name == atoms::of_bytes() {
            let binary = term.map_get(atoms::binary());
            let binary = binary.and_then(|binary| binary.decode::<Binary>());
            let binary =
                binary.map_err(|_| Failure::kind("a Reactor.Python.Bytes has a binary"))?;
            return Ok(Some(PyBytes::new(self.py, &binary).into_any()));
        }
        if name == atoms::of_object() {
            return self.held(term).map(Some);
        }
        if name == atoms::map_set() {
            let map = term.map_get(atoms::map()).ok().and_then(MapIterator::new);
            return map.map(|map| self.set(map)).transpose();
        }
        calendar::to_python(self, name, term)
    }

    /// The object that Elixir holds.
    fn held(&self, term: Term) -> Converted<Bound<'py, PyAny>> {
        let handle = term.map_get(atoms::resource());
        let handle = handle.and_then(|handle| handle.decode::<ResourceArc<ObjectHandle>>());
        let handle = handle
            .map_err(|_| Failure::kind("this Reactor.Python.Object is of no interpreter here"))?;
        handle.object(self.py).map_err(Failure::value)
    }

    /// A map of names: variables or arguments.
    pub fn names(&mut self, map: Term, what: &str) -> PyResult<Bound<'py, PyDict>> {
        let py = self.py;
        let names = PyDict::new(py);
        for (key, value) in MapIterator::new(map).into_iter().flatten() {
            let name = name(key).ok_or_else(|| {
                let text = format!("names of {what}s are text, not {}", show_term(key));
                Failure::kind(text).raise(py, what)
            })?;
            let value = self
                .object(value)
                .map_err(|failure| failure.raise(py, &format!("{what} {name}")))?;
            if names.contains(name.as_str())? {
                let text = format!("two {what}s have this name, one as an atom and one as text");
                return Err(Failure::value(text).raise(py, &format!("{what} {name}")));
            }
            names.set_item(name, value)?;
        }
        Ok(names)
    }
}

/// An atom or a binary as text.
fn name(key: Term) -> Option<String> {
    if key.is_atom() {
        let text = atom::text(key).ok()?;
        return (!matches!(text.as_str(), "nil" | "true" | "false")).then_some(text);
    }
    key.decode::<String>().ok()
}
