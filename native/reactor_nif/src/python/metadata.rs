//! What the caller says of a descriptor that it hands over: `client_info`, on its way to Python.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};
use rustler::{Binary, Encoder, Env, Error, MapIterator, NewBinary, NifResult, Term, TermType};

mod atoms {
    rustler::atoms! {
        nil,
    }
}

/// Lists, tuples and maps within each other.
const DEEPEST: usize = 64;

/// Keys and values.
#[derive(Default)]
pub struct Metadata(Vec<(String, Value)>);

enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Bytes(Vec<u8>),
    List(Vec<Value>),
    Tuple(Vec<Value>),
    Map(Vec<(Value, Value)>),
}

impl Metadata {
    /// A map whose keys are text, as `Reactor.Python.ClientInfo` makes it.
    pub fn decode(map: Term) -> NifResult<Self> {
        let pairs = map.decode::<MapIterator>()?.map(|(key, value)| {
            let key: String = key.decode()?;
            Ok((key, decode(value, DEEPEST)?))
        });
        Ok(Metadata(pairs.collect::<NifResult<_>>()?))
    }

    /// Adds it to what is known already, in whose place it comes.
    pub fn tell(self, client_info: &Bound<'_, PyDict>) -> PyResult<()> {
        for (key, value) in self.0 {
            client_info.set_item(key, value.into_python(client_info.py())?)?;
        }
        Ok(())
    }
}

impl Encoder for Metadata {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        let pairs: Vec<_> = self
            .0
            .iter()
            .map(|(key, value)| (key.encode(env), value.encode(env)))
            .collect();
        Term::map_from_pairs(env, &pairs).unwrap_or_else(|_| Term::map_new(env))
    }
}

impl Encoder for Value {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        match self {
            Value::None => atoms::nil().encode(env),
            Value::Bool(value) => value.encode(env),
            Value::Int(value) => value.encode(env),
            Value::Float(value) => value.encode(env),
            Value::Text(value) => value.encode(env),
            Value::Bytes(value) => {
                let mut binary = NewBinary::new(env, value.len());
                binary.copy_from_slice(value);
                binary.into()
            }
            Value::List(values) => values.encode(env),
            Value::Tuple(values) => {
                let values: Vec<_> = values.iter().map(|value| value.encode(env)).collect();
                rustler::types::tuple::make_tuple(env, &values)
            }
            Value::Map(pairs) => {
                let pairs: Vec<_> = pairs
                    .iter()
                    .map(|(key, value)| (key.encode(env), value.encode(env)))
                    .collect();
                Term::map_from_pairs(env, &pairs).unwrap_or_else(|_| Term::map_new(env))
            }
        }
    }
}

fn decode(term: Term, depth: usize) -> NifResult<Value> {
    let depth = depth.checked_sub(1).ok_or(Error::BadArg)?;
    let all = |terms: Vec<Term>| -> NifResult<Vec<Value>> {
        terms.into_iter().map(|term| decode(term, depth)).collect()
    };
    Ok(match term.get_type() {
        TermType::Atom => match term.decode::<bool>() {
            Ok(value) => Value::Bool(value),
            Err(_) if atoms::nil() == term => Value::None,
            Err(_) => Value::Text(term.atom_to_string()?),
        },
        TermType::Integer => Value::Int(term.decode()?),
        TermType::Float => Value::Float(term.decode()?),
        TermType::Binary => {
            let bytes = term.decode::<Binary>()?;
            match std::str::from_utf8(&bytes) {
                Ok(text) => Value::Text(text.into()),
                Err(_) => Value::Bytes(bytes.to_vec()),
            }
        }
        TermType::List => Value::List(all(term.decode()?)?),
        TermType::Tuple => Value::Tuple(all(rustler::types::tuple::get_tuple(term)?)?),
        TermType::Map => {
            let pairs = term.decode::<MapIterator>()?;
            let pairs = pairs.map(|(key, value)| Ok((decode(key, depth)?, decode(value, depth)?)));
            Value::Map(pairs.collect::<NifResult<_>>()?)
        }
        _ => return Err(Error::BadArg),
    })
}

impl Value {
    fn into_python(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        let all = |values: Vec<Value>| -> PyResult<Vec<_>> {
            let values = values.into_iter();
            values.map(|value| value.into_python(py)).collect()
        };
        Ok(match self {
            Value::None => py.None().into_bound(py),
            Value::Bool(value) => value.into_pyobject(py)?.to_owned().into_any(),
            Value::Int(value) => value.into_pyobject(py)?.into_any(),
            Value::Float(value) => value.into_pyobject(py)?.into_any(),
            Value::Text(value) => value.into_pyobject(py)?.into_any(),
            Value::Bytes(value) => PyBytes::new(py, &value).into_any(),
            Value::List(values) => PyList::new(py, all(values)?)?.into_any(),
            Value::Tuple(values) => PyTuple::new(py, all(values)?)?.into_any(),
            Value::Map(pairs) => {
                let dict = PyDict::new(py);
                for (key, value) in pairs {
                    dict.set_item(key.into_python(py)?, value.into_python(py)?)?;
                }
                dict.into_any()
            }
        })
    }
}
