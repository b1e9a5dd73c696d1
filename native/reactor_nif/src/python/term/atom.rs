//! Atoms: `None`, `True`, `False`, and `erlang.Atom` for all others.

use pyo3::prelude::*;
use pyo3::types::{PyBool, PyString};
use rustler::{Atom, Encoder, Env, Error, NifResult, Term};

use super::classes::Class;
use super::external::{self, ATOM, SMALL_ATOM, VERSION};
use super::failure::Failure;
use super::from_python::{utf8, Outgoing};
use super::to_python::Incoming;
use super::Converted;

mod atoms {
    rustler::atoms! { nil }
}

impl<'py> Incoming<'py, '_> {
    pub(super) fn atom(&mut self, term: Term) -> Converted<Bound<'py, PyAny>> {
        let py = self.py;
        if let Ok(value) = term.decode::<bool>() {
            return Ok(PyBool::new(py, value).to_owned().into_any());
        }
        if atoms::nil() == term {
            return Ok(py.None().into_bound(py));
        }
        let unknown = |_| Failure::kind("this atom cannot be given to Python");
        let name = Atom::from_term(term).map_err(unknown)?;
        if let Some(known) = self.atoms.get(&name) {
            return Ok(known.clone());
        }
        let text = text(term).map_err(unknown)?;
        let atom = self.classes()?.get(Class::Atom)?.call1((text,))?;
        self.atoms.insert(name, atom.clone());
        Ok(atom)
    }
}

impl<'a, 'py> Outgoing<'a, 'py> {
    pub(super) fn atom(&self, value: &Bound<'py, PyString>) -> Converted<Term<'a>> {
        let text = utf8(value)?;
        existing(self.env, text).ok_or_else(|| {
            Failure::value(format!(
                "the atom {text:?} does not exist outside Python, and is not made there"
            ))
        })
    }
}

/// `nil`.
pub fn nil(env: Env) -> Term {
    atoms::nil().encode(env)
}

/// What an atom says. The emulator's function knows only Latin-1 before OTP 26.
pub fn text(term: Term) -> NifResult<String> {
    if let Ok(text) = term.atom_to_string() {
        return Ok(text);
    }
    let bytes = match external::encode(term).as_slice() {
        [SMALL_ATOM, _, bytes @ ..] | [ATOM, _, _, bytes @ ..] => bytes.to_vec(),
        _ => return Err(Error::BadArg),
    };
    String::from_utf8(bytes).map_err(|_| Error::BadArg)
}

/// The atom that says this, if there is one already.
fn existing<'a>(env: Env<'a>, text: &str) -> Option<Term<'a>> {
    if text.is_ascii() {
        let atom = Atom::existing_from_bytes(env, text.as_bytes()).ok()?;
        return Some(atom.to_term(env));
    }
    let mut bytes = vec![VERSION];
    match (u8::try_from(text.len()), u16::try_from(text.len())) {
        (Ok(length), _) => bytes.extend([SMALL_ATOM, length]),
        (_, Ok(length)) => {
            bytes.push(ATOM);
            bytes.extend(length.to_be_bytes());
        }
        _ => return None,
    }
    bytes.extend(text.as_bytes());
    external::decode(env, &bytes)
}
