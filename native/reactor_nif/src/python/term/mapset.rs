//! `MapSet` as `set`, and `set` and `frozenset` as `MapSet`.

use once_cell::sync::OnceCell;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyFrozenSet, PySet};
use rustler::{Encoder, MapIterator, Term};

use super::external;
use super::failure::Failure;
use super::from_python::Outgoing;
use super::to_python::Incoming;
use super::Converted;

mod atoms {
    rustler::atoms! { map }
}

/// `MapSet.new()` in the external format. What is in it differs between versions of Elixir.
static EMPTY: OnceCell<Vec<u8>> = OnceCell::new();

/// Learns from an empty one what a `MapSet` has; from anything else, nothing.
pub fn learn(empty: Term) {
    if empty.is_map() {
        EMPTY.get_or_init(|| empty.to_binary().as_slice().to_vec());
    }
}

/// What was learned, for another process to learn from.
pub fn learned() -> &'static [u8] {
    EMPTY.get().map_or(&[], Vec::as_slice)
}

impl<'py> Incoming<'py, '_> {
    /// A `MapSet`, whose elements are the keys of this map.
    pub(super) fn set(&mut self, map: MapIterator) -> Converted<Bound<'py, PyAny>> {
        self.size.enter()?;
        let set = PySet::empty(self.py)?;
        for (element, _) in map {
            let item = self
                .object(element)
                .map_err(|failure| failure.within("<element>".into()))?;
            let before = set.len();
            self.hashed(&item, set.add(&item))?;
            if set.len() == before {
                return Err(self.equal(element, "element"));
            }
        }
        self.size.leave();
        Ok(set.into_any())
    }
}

impl<'a, 'py> Outgoing<'a, 'py> {
    /// A `set` or a `frozenset`.
    pub(super) fn set(&mut self, value: &Bound<'py, PyAny>) -> Converted<Term<'a>> {
        // Of its own: what is asked of an element may change the set.
        // SAFETY: with the GIL; of a set the items are taken without code of its class.
        let items = unsafe {
            let items = ffi::PyFrozenSet_New(value.as_ptr());
            Bound::from_owned_ptr_or_err(value.py(), items)?
        };
        let items = items.cast::<PyFrozenSet>().map_err(PyErr::from)?;
        let mut elements = Vec::with_capacity(items.len());
        for item in items.try_iter()? {
            let element = self
                .term(&item?)
                .map_err(|failure| failure.within("<element>".into()))?;
            elements.push(element);
        }
        let nothing = Vec::<Term>::new().encode(self.env);
        let values = vec![nothing; elements.len()];
        let map = self.map(&elements, &values, "element")?;
        let empty = EMPTY.get().map(Vec::as_slice).unwrap_or_default();
        external::decode(self.env, empty)
            .and_then(|empty| empty.map_put(atoms::map(), map).ok())
            .ok_or_else(|| Failure::kind("there is no MapSet here"))
    }
}
