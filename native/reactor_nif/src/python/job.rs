//! Code that a context is given to run, on its own thread, between the turns of its loop.

use std::time::Instant;

use pyo3::prelude::*;
use pyo3::types::PyList;
use rustler::env::SavedTerm;
use rustler::{Encoder, Env, OwnedEnv, Term, TermType};

use crate::python::calls::in_words;
use crate::python::context::{encode_error, Environment, Reporter};
use crate::python::interpreter::PythonError;
use crate::python::term::{
    arguments_to_python, from_python, names_to_python, to_python, Conversion, Returned,
};
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
    /// What becomes of the values among these, and of the answer.
    conversion: Conversion,
    /// Nobody waits for it any more then.
    until: Option<Instant>,
}

impl Job {
    /// Copies what it needs of these terms.
    pub fn new(
        reference: Term,
        operation: String,
        arguments: Term,
        conversion: Conversion,
        until: Option<Instant>,
    ) -> Self {
        let env = OwnedEnv::new();
        Job {
            reference: env.save(reference),
            arguments: env.save(arguments),
            env,
            operation,
            conversion,
            until,
        }
    }

    fn call<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let arguments = PyList::empty(py);
        self.env.run(|env| {
            let given: Vec<Term> = self.arguments.load(env).decode().unwrap_or_default();
            for given in given {
                arguments.append(self.argument(py, given)?)?;
            }
            Ok::<_, PyErr>(())
        })?;
        let function = py
            .import("erlang.reactor.context")?
            .getattr(self.operation.as_str())?;
        function.call1(arguments.to_tuple())
    }

    /// Of the operation: text of its own, or the caller's values in a list, or in a map by names.
    fn argument<'py>(&self, py: Python<'py>, given: Term) -> PyResult<Bound<'py, PyAny>> {
        let conversion = &self.conversion;
        match given.get_type() {
            TermType::List => Ok(arguments_to_python(py, given, conversion)?.into_any()),
            TermType::Map => {
                let what = if self.operation == "evaluate" {
                    "variable"
                } else {
                    "argument"
                };
                Ok(names_to_python(py, given, what, conversion)?.into_any())
            }
            _ => to_python(py, given, &Conversion::default()),
        }
    }

    /// `{:answer, reference, {:ok, value} | {:error, error}}`.
    fn answer<'a>(&self, env: Env<'a>, answer: Term<'a>) -> Term<'a> {
        let reference = self.env.run(|own| self.reference.load(own).in_env(env));
        (atoms::answer(), reference, answer).encode(env)
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

    /// Lets go of objects that Elixir does not hold any more.
    fn let_go(&mut self) {
        let Some(held) = self.held.as_ref().filter(|held| held.is_due()) else {
            return;
        };
        if let Some(thread) = &mut self.thread {
            thread.with(|py| {
                // What is freed may have code of its own for that.
                let number = self.watch.begin(Callback::Import, 0);
                held.let_go(py);
                self.watch.end(number);
            });
        }
    }

    /// Runs the next jobs, and tells the context's process what they came to.
    pub fn run_jobs(&mut self, reporter: &mut Reporter) {
        self.let_go();
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
                let (conversion, held) = (job.conversion, self.held.as_ref());
                self.watch.end(number);
                reporter.tell(|env| {
                    // What it returned may have code of its own for this, and is dropped here.
                    let number = self.watch.begin(Callback::Import, 0);
                    let encoded = outcome.and_then(|value| match (conversion.returned, held) {
                        (Returned::Object, Some(held)) => Ok(held.hold(env, &value)),
                        _ => from_python(env, &value, &conversion),
                    });
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
