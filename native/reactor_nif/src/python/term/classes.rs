//! The Python classes that conversions need.
//!
//! Each interpreter has its own. They are looked up once, and kept as a tuple in the dictionary that
//! CPython has for each interpreter, and frees with it.

use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

/// Where they are in that dictionary.
const KEY: &str = "_reactor.classes";

/// One of them: its place in the tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Atom,
    Pid,
    Port,
    Reference,
    Fun,
    ImproperList,
    BitString,
    Date,
    Time,
    DateTime,
    TimeDelta,
    TimeZone,
    Enum,
    ReactorBuffer,
}

/// In the same order.
const WHERE: [(Class, &str, &str); 14] = [
    (Class::Atom, "erlang.terms", "Atom"),
    (Class::Pid, "erlang.terms", "Pid"),
    (Class::Port, "erlang.terms", "Port"),
    (Class::Reference, "erlang.terms", "Reference"),
    (Class::Fun, "erlang.terms", "Fun"),
    (Class::ImproperList, "erlang.terms", "ImproperList"),
    (Class::BitString, "erlang.terms", "BitString"),
    (Class::Date, "datetime", "date"),
    (Class::Time, "datetime", "time"),
    (Class::DateTime, "datetime", "datetime"),
    (Class::TimeDelta, "datetime", "timedelta"),
    (Class::TimeZone, "datetime", "timezone"),
    (Class::Enum, "enum", "Enum"),
    (Class::ReactorBuffer, "_reactor", "ReactorBuffer"),
];

/// Those of the calling thread's interpreter.
pub struct Classes<'py>(Bound<'py, PyTuple>);

impl<'py> Classes<'py> {
    /// Looks them up.
    pub fn new(py: Python<'py>) -> PyResult<Self> {
        // SAFETY: the calling thread is attached to that interpreter; the dictionary is borrowed from it.
        let dict = unsafe {
            let dict = ffi::PyInterpreterState_GetDict(ffi::PyInterpreterState_Get());
            Bound::from_borrowed_ptr_or_opt(py, dict)
        };
        let dict = dict
            .ok_or_else(|| PyRuntimeError::new_err("this interpreter has no dictionary"))?
            .cast_into::<PyDict>()?;
        if let Some(known) = dict.get_item(KEY)? {
            return Ok(Classes(known.cast_into::<PyTuple>()?));
        }
        let found = WHERE.map(|(_, module, name)| py.import(module)?.getattr(name));
        let found: PyResult<Vec<_>> = found.into_iter().collect();
        let classes = PyTuple::new(py, found?)?;
        dict.set_item(KEY, &classes)?;
        Ok(Classes(classes))
    }

    /// That class.
    pub fn get(&self, class: Class) -> PyResult<Bound<'py, PyAny>> {
        self.0.get_item(class as usize)
    }

    /// True of an instance of it, or of a class that is derived from it; without code of either.
    pub fn is(&self, value: &Bound<'py, PyAny>, class: Class) -> bool {
        self.get(class).is_ok_and(|class| {
            let class: *mut ffi::PyTypeObject = class.as_ptr().cast();
            // SAFETY: both are alive, and what is in the tuple are types.
            unsafe { ffi::PyType_IsSubtype(ffi::Py_TYPE(value.as_ptr()), class) != 0 }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_is_at_its_place() {
        for (place, (class, _, _)) in WHERE.into_iter().enumerate() {
            assert_eq!(class as usize, place);
        }
    }
}
