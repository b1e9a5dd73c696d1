//! What a caller may choose about conversions: `Reactor.Python.Conversion`.

use rustler::{Atom, Decoder, Encoder, Env, Error, NifResult, Term};

mod atoms {
    rustler::atoms! {
        auto,
        binaries,
        bytes,
        object,
        r#return = "return",
        text,
        value,
    }
}

/// The choices of one call.
#[derive(Clone, Copy, Debug, Default)]
pub struct Conversion {
    pub binaries: Binaries,
    pub returned: Returned,
}

/// What binaries become.
#[derive(Clone, Copy, Debug, Default)]
pub enum Binaries {
    /// `str` if they are UTF-8, else `bytes`.
    #[default]
    Auto,
    /// `str`, or an error.
    Text,
    Bytes,
}

/// What the answer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Returned {
    /// What a value is outside Python.
    #[default]
    Value,
    /// The Python object, whatever it is, as something to hold on to.
    Object,
}

impl Encoder for Conversion {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        let binaries = match self.binaries {
            Binaries::Auto => atoms::auto(),
            Binaries::Text => atoms::text(),
            Binaries::Bytes => atoms::bytes(),
        };
        let returned = match self.returned {
            Returned::Value => atoms::value(),
            Returned::Object => atoms::object(),
        };
        rustler::term_map!(env, {
            atoms::binaries() => binaries,
            atoms::r#return() => returned,
        })
    }
}

impl<'a> Decoder<'a> for Conversion {
    fn decode(term: Term<'a>) -> NifResult<Self> {
        let choice = |name: Atom| term.map_get(name)?.decode::<Atom>();
        let binaries = choice(atoms::binaries())?;
        let returned = choice(atoms::r#return())?;
        Ok(Conversion {
            binaries: if binaries == atoms::auto() {
                Binaries::Auto
            } else if binaries == atoms::text() {
                Binaries::Text
            } else if binaries == atoms::bytes() {
                Binaries::Bytes
            } else {
                return Err(Error::BadArg);
            },
            returned: if returned == atoms::value() {
                Returned::Value
            } else if returned == atoms::object() {
                Returned::Object
            } else {
                return Err(Error::BadArg);
            },
        })
    }
}
