//! Code that a context is given to run, on its own thread, between the turns of its loop.

use std::time::Instant;

use pyo3::prelude::*;
use pyo3::types::{PyList, PyListMethods};
use rustler::env::SavedTerm;
use rustler::{Atom, Encoder, Env, OwnedEnv, Term};

use crate::python::calls::in_words;
use crate::python::context::{encode_error, Environment, Reporter};
use crate::python::interpreter::PythonError;
use crate::python::term::{from_python, to_python};
use crate::python::turn::Turn;
use crate::python::watch::Callback;

/// How many of them a turn runs: the connections have to get theirs.
const AT_ONCE: usize = 16;

mod atoms {
    rustler::atoms! {
        answer,
        error,
        ok,
        timeout,
    }
}

/// One of them.
pub struct Job {
    env: OwnedEnv,
    /// What names it in the answer.
    reference: SavedTerm,
    /// A function of `erlang.reactor.context`, and a list of its arguments.
    operation: String,
    arguments: SavedTerm,
    /// Nobody waits for it any more then.
    until: Option<Instant>,
}

impl Job {
    /// Copies what it needs of these terms.
    pub fn new(
        reference: Term,
        operation: String,
        arguments: Term,
        until: Option<Instant>,
    ) -> Self {
        let env = OwnedEnv::new();
        Job {
            reference: env.save(reference),
            arguments: env.save(arguments),
            env,
            operation,
            until,
        }
    }

    fn call<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let arguments = self
            .env
            .run(|env| Ok::<_, PyErr>(to_python(py, self.arguments.load(env))?.unbind()))?;
        let arguments = arguments.into_bound(py).cast_into::<PyList>()?.to_tuple();
        let function = py
            .import("erlang.reactor.context")?
            .getattr(self.operation.as_str())?;
        function.call1(arguments)
    }

    /// `{:answer, reference, {:ok, value} | {:error, error}}`.
    fn answer<'a>(&self, env: Env<'a>, answer: Term<'a>) -> Term<'a> {
        let reference = self.env.run(|own| self.reference.load(own).in_env(env));
        (atoms::answer(), reference, answer).encode(env)
    }
}

/// What somebody waits for who is known by a reference.
pub struct Asked {
    env: OwnedEnv,
    reference: SavedTerm,
}

impl Asked {
    /// Copies the reference.
    pub fn new(reference: Term) -> Self {
        let env = OwnedEnv::new();
        Asked {
            reference: env.save(reference),
            env,
        }
    }

    /// The reference.
    pub fn reference<'a>(&self, env: Env<'a>) -> Term<'a> {
        self.env.run(|own| self.reference.load(own).in_env(env))
    }
}

impl Job {
    /// What another process needs to run it: `{kind, reference, operation, arguments, ms | nil}`.
    pub fn passage<'a>(&self, env: Env<'a>, kind: Atom) -> Term<'a> {
        let left = self.until.map(|until| {
            let left = until.saturating_duration_since(Instant::now());
            left.as_millis() as u64
        });
        self.env.run(|own| {
            let reference = self.reference.load(own).in_env(env);
            let arguments = self.arguments.load(own).in_env(env);
            (kind, reference, &self.operation, arguments, left).encode(env)
        })
    }

    /// Its answer when it cannot be run.
    pub fn refusal<'a>(&self, env: Env<'a>, error: &PythonError) -> Term<'a> {
        let answer = (atoms::error(), encode_error(env, error)).encode(env);
        self.answer(env, answer)
    }

    /// Likewise, for what has that reference, in external format.
    pub fn refuse<'a>(env: Env<'a>, reference: &[u8], error: &PythonError) -> Term<'a> {
        let reference = env.binary_to_term(reference).map(|(term, _)| term);
        let answer = (atoms::error(), encode_error(env, error));
        (atoms::answer(), reference, answer).encode(env)
    }

    /// The reference in an answer that cannot be read as a whole, in external format.
    pub fn reference_in(message: &[u8]) -> Option<Vec<u8>> {
        const ANSWER: &[u8] = b"\x77\x06answer";
        let at = message
            .windows(ANSWER.len())
            .position(|found| found == ANSWER)?;
        let reference = &message[at + ANSWER.len()..];
        // A tag and how many words of 4 bytes; the node, an atom; its creation.
        let [90, high, low, tag, rest @ ..] = reference else {
            return None;
        };
        let words = 4 * usize::from(u16::from_be_bytes([*high, *low]));
        let node = match (tag, rest) {
            (115 | 119, [length, ..]) => 1 + usize::from(*length),
            (100 | 118, [high, low, ..]) => 2 + usize::from(u16::from_be_bytes([*high, *low])),
            _ => return None,
        };
        let whole = reference.get(..4 + node + 4 + words)?;
        Some([&[131], whole].concat())
    }
}

impl Turn {
    /// Makes ready what connections and jobs find in the context.
    pub fn prepare(&mut self, environment: &Environment) -> Result<(), PythonError> {
        let paths = self.paths.clone();
        let Some(thread) = &mut self.thread else {
            return Err(PythonError::startup("the context has no thread"));
        };
        let watch = &self.watch;
        thread.with(|py| {
            let number = watch.begin(Callback::Import, 0);
            let begin = || {
                py.import("erlang.reactor.context")?.call_method1(
                    "begin",
                    (
                        paths,
                        environment.venv.as_deref(),
                        environment.requirements.clone(),
                        environment.setup.clone(),
                    ),
                )
            };
            let begun = begin();
            watch.end(number);
            begun
                .map(drop)
                .map_err(|error| in_words(watch, py, 0, error))
        })
    }

    /// Runs the next jobs, and tells the context's process what they came to.
    pub fn run_jobs(&mut self, reporter: &mut Reporter) {
        if self.jobs.is_empty() {
            return;
        }
        let Some(mut thread) = self.thread.take() else {
            return;
        };
        for _ in 0..AT_ONCE {
            let Some(job) = self.jobs.pop_front() else {
                break;
            };
            if job.until.is_some_and(|until| until <= Instant::now()) {
                reporter.tell(|env| {
                    let answer = (atoms::error(), atoms::timeout()).encode(env);
                    job.answer(env, answer)
                });
                continue;
            }
            thread.with(|py| {
                // It may take as long as it likes, until the context is to end.
                let number = self.watch.begin(Callback::Import, 0);
                let outcome = job.call(py);
                self.watch.end(number);
                reporter.tell(|env| {
                    // What it returned may have code of its own for this, and is dropped here.
                    let number = self.watch.begin(Callback::Import, 0);
                    let encoded = outcome.and_then(|value| from_python(env, &value));
                    self.watch.end(number);
                    let answer = match encoded {
                        Ok(value) => (atoms::ok(), value).encode(env),
                        Err(error) => {
                            let error = self.in_words(py, 0, error);
                            (atoms::error(), encode_error(env, &error)).encode(env)
                        }
                    };
                    job.answer(env, answer)
                });
            });
        }
        self.thread = Some(thread);
    }
}
