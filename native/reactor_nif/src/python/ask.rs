//! `_reactor.call`: a Python thread asks something outside, and waits.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use pyo3::exceptions::{
    PyRecursionError, PyRuntimeError, PyTimeoutError, PyTypeError, PyValueError,
};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use rustler::types::tuple::get_tuple;
use rustler::{LocalPid, OwnedEnv, Term};

use crate::mail::Mail;
use crate::python::desk::{self, Desk};
use crate::python::inbox::{Inbox, DEEPEST};
use crate::python::question::{Answer, Event, Question};
use crate::python::send::refuse_emulator;
use crate::python::term::{arguments_from_python, to_python, Conversion};

mod atoms {
    rustler::atoms! { ok }
}

/// So many threads of Python programs may wait at once, besides those of contexts.
const MOST_THREADS: usize = 1_024;
/// Those that do.
static THREADS: AtomicUsize = AtomicUsize::new(0);

/// `call(name, args, timeout)`: `timeout` in seconds, or None.
pub fn call<'py>(py: Python<'py>, args: &[Bound<'py, PyAny>]) -> PyResult<Bound<'py, PyAny>> {
    let name: String = args[0].extract()?;
    let arguments = args[1].cast::<PyTuple>()?;
    let until = deadline(&args[2])?;
    refuse_emulator()?;
    let env = OwnedEnv::new();
    let saved = env.run(|own| Ok::<_, PyErr>(env.save(arguments_from_python(own, arguments)?)))?;
    let ask = |callers: Vec<LocalPid>, number| {
        Question::ask(name, (env, saved), callers, number).ok_or_else(|| {
            PyRuntimeError::new_err(
                "nobody answers: the application :reactor does not run, or this context has a process \
                 of its own, out of which there are no calls",
            )
        })
    };
    let answer = match desk::here() {
        Some(desk) => desk.ask(py, ask, until)?,
        None => wait_alone(py, &ask(Vec::new(), 0)?, until)?,
    };
    decode(py, answer)
}

/// The names of the functions that are registered outside.
static FUNCTIONS: RwLock<BTreeSet<String>> = RwLock::new(BTreeSet::new());

/// There is a function of that name, or there is not any more.
pub fn knows(name: String, known: bool) {
    let mut functions = FUNCTIONS.write().unwrap_or_else(PoisonError::into_inner);
    if known {
        functions.insert(name);
    } else {
        functions.remove(&name);
    }
}

/// There is none.
pub fn knows_none() {
    let mut functions = FUNCTIONS.write().unwrap_or_else(PoisonError::into_inner);
    functions.clear();
}

/// `has_function(name)`.
pub fn has_function<'py>(
    py: Python<'py>,
    args: &[Bound<'py, PyAny>],
) -> PyResult<Bound<'py, PyAny>> {
    let name: String = args[0].extract()?;
    let functions = FUNCTIONS.read().unwrap_or_else(PoisonError::into_inner);
    let known = functions.contains(&name);
    Ok(known.into_pyobject(py)?.to_owned().into_any())
}

fn deadline(timeout: &Bound<'_, PyAny>) -> PyResult<Option<Instant>> {
    const EXPECTED: &str = "timeout is a number of seconds, 0 or more, or None";
    if timeout.is_none() {
        return Ok(None);
    }
    let seconds: f64 = timeout
        .extract()
        .map_err(|_| PyTypeError::new_err(EXPECTED))?;
    let left = Duration::try_from_secs_f64(seconds);
    let left = left.map_err(|_| PyValueError::new_err(EXPECTED))?;
    Ok(Instant::now().checked_add(left))
}

fn time_over() -> PyErr {
    PyTimeoutError::new_err("there was no answer from outside of Python in time")
}

impl Desk {
    /// Asks on behalf of the call that runs, and waits. Calls that descend from the question are run meanwhile.
    fn ask(
        &self,
        py: Python<'_>,
        ask: impl FnOnce(Vec<LocalPid>, u64) -> PyResult<Arc<Question>>,
        until: Option<Instant>,
    ) -> PyResult<Answer> {
        // What interrupts it from here on is noticed here.
        let interrupts = self.watch.interrupts();
        let callers = self.inbox.current().map(|job| job.chain.clone());
        let question = ask(callers.unwrap_or_default(), self.number)?;
        let frame = self.watch.frame();
        if !self.inbox.ask(&question, frame) {
            return Err(PyRecursionError::new_err(format!(
                "calls into Elixir that call Python again are more than {DEEPEST} deep"
            )));
        }
        let asked = Asked(&self.inbox, &question);
        let mut mail = Mail::new();
        py.detach(|| question.send(&mut mail));
        let outcome = loop {
            let event = py.detach(|| question.wait(until));
            // Nobody interrupts it from here until the GIL is released.
            if self.watch.take_back_since(interrupts) {
                if let Event::Call(job) = event {
                    question.put_back(job);
                }
                break Err(self.interrupt(py, frame.what));
            }
            match event {
                Event::Answered(answer) => break Ok(answer),
                Event::Call(job) => {
                    self.inbox.enter(&job);
                    self.run(py, &job);
                }
                Event::Disturbed => {}
                Event::TimeOver => break Err(time_over()),
            }
        };
        drop(asked);
        if outcome.is_err() {
            question.give_up(&mut mail);
        }
        outcome
    }
}

/// The innermost question of a context's thread, as long as it waits.
struct Asked<'a>(&'a Inbox, &'a Question);

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.0.answered(self.1);
    }
}

/// For a thread that is not a context's.
fn wait_alone(
    py: Python<'_>,
    question: &Arc<Question>,
    until: Option<Instant>,
) -> PyResult<Answer> {
    struct Waiting;
    impl Drop for Waiting {
        fn drop(&mut self) {
            THREADS.fetch_sub(1, Ordering::Relaxed);
        }
    }
    let waiting = THREADS.fetch_add(1, Ordering::Relaxed);
    let _waiting = Waiting;
    if waiting >= MOST_THREADS {
        return Err(PyRuntimeError::new_err(format!(
            "{MOST_THREADS} threads wait for answers from outside of Python already"
        )));
    }
    py.detach(|| {
        let mut mail = Mail::new();
        question.send(&mut mail);
        loop {
            match question.wait(until) {
                Event::Answered(answer) => return Ok(answer),
                Event::TimeOver => break,
                Event::Call(_) | Event::Disturbed => {}
            }
        }
        question.give_up(&mut mail);
        Err(time_over())
    })
}

/// The value, or the exception.
fn decode<'py>(py: Python<'py>, answer: Answer) -> PyResult<Bound<'py, PyAny>> {
    let failure = match answer {
        Answer::Term(env, saved) => env.run(|env| {
            let parts = get_tuple(saved.load(env)).unwrap_or_default();
            match parts[..] {
                [outcome, value] if outcome == atoms::ok().to_term(env) => {
                    Ok(Ok(to_python(py, value, &Conversion::default())?.unbind()))
                }
                [_, failure] => Ok(Err(texts(failure))),
                _ => Ok(Err(Vec::new())),
            }
        }),
        Answer::Nobody => Ok::<_, PyErr>(Err(Vec::new())),
    }?;
    match failure {
        Ok(value) => Ok(value.into_bound(py)),
        Err(texts) => {
            let make = py.import("erlang.calls")?.getattr("_failure")?;
            Err(PyErr::from_value(make.call1(PyTuple::new(py, texts)?)?))
        }
    }
}

fn texts(failure: Term) -> Vec<Option<String>> {
    let parts = get_tuple(failure).unwrap_or_default();
    parts.into_iter().map(|text| text.decode().ok()).collect()
}
