//! What cannot be converted: why, and where in the value.

use pyo3::exceptions::{PyException, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use pyo3::types::{PyBool, PyFloat, PyInt, PyString};
use rustler::{Binary, Term, TermType};

/// How many characters of a text that is a key are shown.
const SHOWN: usize = 40;

/// One failure. It is rare, so it is kept small for all that does not fail.
pub struct Failure(Box<Inner>);

struct Inner {
    cause: Cause,
    /// From the inside to the outside.
    path: Vec<String>,
}

enum Cause {
    Type(String),
    Value(String),
    /// Python raised it.
    Raised(PyErr),
}

impl Failure {
    fn new(cause: Cause) -> Self {
        Failure(Box::new(Inner {
            cause,
            path: Vec::new(),
        }))
    }

    /// Its type is not one that can be converted.
    pub fn kind(text: impl Into<String>) -> Self {
        Self::new(Cause::Type(text.into()))
    }

    /// Its type could be, but not this one.
    pub fn value(text: impl Into<String>) -> Self {
        Self::new(Cause::Value(text.into()))
    }

    /// It happened there, in what is converted.
    pub fn within(mut self, step: String) -> Self {
        self.0.path.push(step);
        self
    }

    /// As an exception. `root` names the whole value.
    pub fn raise(self, py: Python<'_>, root: &str) -> PyErr {
        let Inner { cause, path } = *self.0;
        let path: String = path.into_iter().rev().collect();
        match cause {
            Cause::Type(text) => PyTypeError::new_err(format!("{root}{path}: {text}")),
            Cause::Value(text) => PyValueError::new_err(format!("{root}{path}: {text}")),
            // Not what interrupts a call.
            Cause::Raised(error) if !error.is_instance_of::<PyException>(py) => error,
            Cause::Raised(error) => {
                let kind = type_name(error.value(py));
                let text = error.value(py).str();
                let text = text
                    .as_ref()
                    .map_or("".into(), |text| text.to_string_lossy());
                let raised = PyValueError::new_err(format!("{root}{path}: {kind}: {text}"));
                raised.set_cause(py, Some(error));
                raised
            }
        }
    }
}

impl From<PyErr> for Failure {
    fn from(error: PyErr) -> Self {
        Self::new(Cause::Raised(error))
    }
}

/// The name of an object's type with its module, but for those of `builtins`.
pub fn type_name(value: &Bound<'_, PyAny>) -> String {
    let kind = value.get_type();
    let text = |name: &str| kind.getattr(name)?.extract::<String>();
    match (text("__module__"), text("__qualname__")) {
        (Ok(module), Ok(name)) if module == "builtins" => name,
        (Ok(module), Ok(name)) => format!("{module}.{name}"),
        // Its metaclass hides them.
        _ => "object".into(),
    }
}

/// The step into a list or a tuple.
pub fn at(index: usize) -> String {
    format!("[{index}]")
}

/// The step to what a dict has under that key.
pub fn under(key: &Bound<'_, PyAny>) -> String {
    format!("[{}]", show(key))
}

/// A key in words, without code of its own.
pub fn show(key: &Bound<'_, PyAny>) -> String {
    if let Ok(text) = key.cast::<PyString>() {
        quoted(&text.to_string_lossy())
    } else if let Ok(bytes) = key.cast::<PyBytes>() {
        format!("b{}", quoted(&String::from_utf8_lossy(bytes.as_bytes())))
    } else if key.is_exact_instance_of::<PyInt>() && key.extract::<i64>().is_ok()
        || key.is_exact_instance_of::<PyFloat>()
        || key.is_exact_instance_of::<PyBool>()
        || key.is_none()
    {
        key.to_string()
    } else {
        format!("<{}>", type_name(key))
    }
}

/// The step to what a map has under that key.
pub fn under_term(key: Term) -> String {
    format!("[{}]", show_term(key))
}

/// A key in words.
pub fn show_term(key: Term) -> String {
    let named = |kind: &str| format!("<{kind}>");
    match key.get_type() {
        TermType::Atom => match super::atom::text(key) {
            Ok(text) if matches!(text.as_str(), "nil" | "true" | "false") => text,
            Ok(text) => format!(":{text}"),
            Err(_) => named("atom"),
        },
        TermType::Binary => match key.decode::<Binary>() {
            Ok(binary) => quoted(&String::from_utf8_lossy(&binary)),
            Err(_) => named("bitstring"),
        },
        TermType::Integer => key
            .decode::<i64>()
            .map_or_else(|_| named("integer"), |number| number.to_string()),
        TermType::Float => key
            .decode::<f64>()
            .map_or_else(|_| named("float"), |number| format!("{number:?}")),
        TermType::Fun => named("function"),
        TermType::List => named("list"),
        TermType::Map => named("map"),
        TermType::Pid => named("pid"),
        TermType::Port => named("port"),
        TermType::Ref => named("reference"),
        TermType::Tuple => named("tuple"),
        TermType::Unknown => named("term"),
    }
}

/// In quotes, shortened. It may be long, and not fit for a terminal.
fn quoted(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_keys_are_shortened_between_characters() {
        assert_eq!(quoted("a\n"), r#""a\n""#);
        assert_eq!(
            quoted(&"ü".repeat(SHOWN)),
            format!("\"{}\"", "ü".repeat(SHOWN))
        );
        assert_eq!(
            quoted(&"ü".repeat(SHOWN + 1)),
            format!("\"{}\"...", "ü".repeat(SHOWN))
        );
    }
}
