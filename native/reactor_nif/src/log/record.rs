//! What is logged: how serious it is, what it says, and its fields; out of a `tracing` event, and into a term.

use std::borrow::Cow;
use std::fmt::{Debug, Write as _};

use rustler::{Encoder, Env, Term};
use tracing::field::{Field, Visit};
use tracing::Level;

mod atoms {
    rustler::atoms! {
        log = "$reactor_log",
        critical,
        error,
        warning,
        info,
        debug,
    }
}

/// How serious something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Debug,
    Info,
    Warning,
    Error,
    Critical,
}

impl Severity {
    pub(super) fn rank(self) -> usize {
        match self {
            Severity::Critical | Severity::Error => 1,
            Severity::Warning => 2,
            Severity::Info => 3,
            Severity::Debug => 4,
        }
    }
}

impl From<Level> for Severity {
    fn from(level: Level) -> Self {
        match level {
            Level::ERROR => Severity::Error,
            Level::WARN => Severity::Warning,
            Level::INFO => Severity::Info,
            _ => Severity::Debug,
        }
    }
}

/// One message.
pub(super) struct Record {
    pub severity: Severity,
    pub target: String,
    pub message: String,
    pub fields: Vec<(Cow<'static, str>, Value)>,
}

/// One field of what is logged.
pub enum Value {
    Text(String),
    Signed(i64),
    Unsigned(u64),
    Flag(bool),
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::Text(text)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Value::Unsigned(number)
    }
}

impl Record {
    fn text(&mut self, field: &Field, text: String) {
        if field.name() == "message" {
            self.message = text;
        } else {
            self.fields.push((field.name().into(), Value::Text(text)));
        }
    }
}

impl Visit for Record {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = String::new();
        // Writing to a String cannot fail; a Debug that does leaves what it wrote.
        let _ = write!(text, "{value:?}");
        self.text(field, text);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value.to_owned());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.fields
            .push((field.name().into(), Value::Signed(value)));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.fields
            .push((field.name().into(), Value::Unsigned(value)));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.fields.push((field.name().into(), Value::Flag(value)));
    }
}

impl Encoder for Record {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        let level = match self.severity {
            Severity::Critical => atoms::critical(),
            Severity::Error => atoms::error(),
            Severity::Warning => atoms::warning(),
            Severity::Info => atoms::info(),
            Severity::Debug => atoms::debug(),
        };
        let fields: Vec<(Term<'a>, Term<'a>)> = self
            .fields
            .iter()
            .map(|(name, value)| (name.encode(env), value.encode(env)))
            .collect();
        let fields = Term::map_from_pairs(env, &fields).unwrap_or_else(|_| Term::map_new(env));
        (atoms::log(), level, &self.target, &self.message, fields).encode(env)
    }
}

impl Encoder for Value {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        match self {
            Value::Text(text) => text.encode(env),
            Value::Signed(number) => number.encode(env),
            Value::Unsigned(number) => number.encode(env),
            Value::Flag(flag) => flag.encode(env),
        }
    }
}
