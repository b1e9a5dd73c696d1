//! What Python cannot look into, and the lists and bits that it has no type for: the other classes of
//! `erlang.terms`.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};
use rustler::{Term, TermType};

use super::classes::Class;
use super::external::{self, BITS, VERSION};
use super::failure::{at, Failure};
use super::from_python::Outgoing;
use super::to_python::Incoming;
use super::Converted;

/// Each with what it is called, and what its term is.
const OPAQUE: [(Class, &str, TermType); 4] = [
    (Class::Pid, "Pid", TermType::Pid),
    (Class::Port, "Port", TermType::Port),
    (Class::Reference, "Reference", TermType::Ref),
    (Class::Fun, "Fun", TermType::Fun),
];

impl<'py> Incoming<'py, '_> {
    /// A pid, a port, a reference or a function.
    pub(super) fn opaque(&mut self, term: Term, class: Class) -> Converted<Bound<'py, PyAny>> {
        let bytes = PyBytes::new(self.py, &external::encode(term));
        Ok(self.classes()?.get(class)?.call1((bytes,))?)
    }

    /// Bits that do not fill a byte.
    pub(super) fn bits(&mut self, term: Term) -> Converted<Bound<'py, PyAny>> {
        match external::encode(term).as_slice() {
            [BITS, _, _, _, _, bits, bytes @ ..] => {
                let bytes = PyBytes::new(self.py, bytes);
                Ok(self
                    .classes()?
                    .get(Class::BitString)?
                    .call1((bytes, *bits))?)
            }
            _ => Err(Failure::kind("this term cannot be given to Python")),
        }
    }

    /// A list with that tail.
    pub(super) fn improper_list(
        &mut self,
        items: Bound<'py, PyAny>,
        tail: Term,
    ) -> Converted<Bound<'py, PyAny>> {
        let tail = self
            .nested(tail)
            .map_err(|failure| failure.within(".tail".into()))?;
        Ok(self
            .classes()?
            .get(Class::ImproperList)?
            .call1((items, tail))?)
    }
}

impl<'a, 'py> Outgoing<'a, 'py> {
    /// One of these, if it is one.
    pub(super) fn of_terms(&mut self, value: &Bound<'py, PyAny>) -> Converted<Option<Term<'a>>> {
        for (class, name, kind) in OPAQUE {
            if self.classes()?.is(value, class) {
                return self.opaque(value, name, kind).map(Some);
            }
        }
        if self.classes()?.is(value, Class::BitString) {
            return self.bits(value).map(Some);
        }
        if self.classes()?.is(value, Class::ImproperList) {
            return self.within(value, Self::improper_list).map(Some);
        }
        Ok(None)
    }

    fn opaque(&self, value: &Bound<'py, PyAny>, name: &str, kind: TermType) -> Converted<Term<'a>> {
        let wrong = || Failure::value(format!("the bytes of this erlang.{name} are those of none"));
        let bytes = value.getattr("external")?;
        let bytes = bytes.cast::<PyBytes>().map_err(|_| wrong())?.as_bytes();
        let external = [&[VERSION], bytes].concat();
        let term = external::decode(self.env, &external).ok_or_else(wrong)?;
        if term.get_type() != kind {
            return Err(wrong());
        }
        Ok(term)
    }

    fn bits(&self, value: &Bound<'py, PyAny>) -> Converted<Term<'a>> {
        let wrong = || {
            let text = "an erlang.BitString has bytes, and 1 to 7 bits of their last";
            Failure::value(text)
        };
        let bits: u8 = value.getattr("bits")?.extract().map_err(|_| wrong())?;
        let data = value.getattr("data")?;
        let data = data.cast::<PyBytes>().map_err(|_| wrong())?.as_bytes();
        let length = u32::try_from(data.len()).map_err(|_| wrong())?;
        if data.is_empty() || !(1..=7).contains(&bits) {
            return Err(wrong());
        }
        let mut external = vec![VERSION, BITS];
        external.extend(length.to_be_bytes());
        external.push(bits);
        external.extend(data);
        external::decode(self.env, &external).ok_or_else(wrong)
    }

    fn improper_list(&mut self, value: &Bound<'py, PyAny>) -> Converted<Term<'a>> {
        let items = value.getattr("items")?;
        let items = items
            .cast::<PyTuple>()
            .map_err(|_| Failure::value("the items of an erlang.ImproperList are a tuple"))?;
        let tail = self
            .term(&value.getattr("tail")?)
            .map_err(|failure| failure.within(".tail".into()))?;
        let mut terms = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            terms.push(
                self.term(&item)
                    .map_err(|failure| failure.within(at(index)))?,
            );
        }
        let list = terms.into_iter().rev();
        Ok(list.fold(tail, |tail, item| tail.list_prepend(item)))
    }
}
