//! Where a context's thread runs the calls of processes: between the turns of its loop, or within a call that
//! waits for something outside of Python.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyList, PyListMethods};
use rustler::{Atom, Encoder, Env, NifResult, Term, TermType};

use crate::mail::Mail;
use crate::python::context::encode_error;
use crate::python::held::Held;
use crate::python::inbox::Inbox;
use crate::python::interpreter::PythonError;
use crate::python::job::{Job, Request};
use crate::python::tasks::{is_awaitable, Tasks};
use crate::python::term::{
    arguments_to_python, from_python, names_to_python, to_python, Conversion, Returned,
};
use crate::python::watch::{Callback, Watch};

mod atoms {
    rustler::atoms! {
        error,
        ok,
    }
}

thread_local! {
    /// That of the context whose thread this is.
    static DESK: RefCell<Option<Rc<Desk>>> = const { RefCell::new(None) };
}

/// The calling thread's, if it is a context's.
pub fn here() -> Option<Rc<Desk>> {
    DESK.with_borrow(Option::clone)
}

/// What is at hand there.
pub struct Desk {
    pub(super) inbox: Arc<Inbox>,
    pub(super) watch: Arc<Watch>,
    /// The context's.
    pub(super) number: u64,
    /// What Elixir holds of its objects.
    held: Arc<Held>,
    call_timeout: Py<PyAny>,
    callback_timeout: Py<PyAny>,
    /// `erlang.reactor.context`.
    module: Py<PyAny>,
    /// Its functions that were asked for.
    operations: RefCell<HashMap<Atom, Py<PyAny>>>,
    /// Where messages are built; not there while one is.
    mail: RefCell<Option<Mail>>,
    /// Calls that go on as tasks of asyncio.
    pub(super) tasks: RefCell<Tasks>,
    /// Nothing of Python's waits for the call that begins next.
    first: Cell<bool>,
}

impl Desk {
    /// Makes that of the calling thread, which is the context's.
    pub fn open(
        py: Python<'_>,
        number: u64,
        inbox: Arc<Inbox>,
        watch: Arc<Watch>,
        held: Arc<Held>,
    ) -> PyResult<()> {
        let reactor = py.import("erlang.reactor")?;
        let desk = Desk {
            inbox,
            watch,
            number,
            held,
            call_timeout: reactor.getattr("CallTimeout")?.unbind(),
            callback_timeout: reactor.getattr("CallbackTimeout")?.unbind(),
            module: py.import("erlang.reactor.context")?.into_any().unbind(),
            operations: RefCell::default(),
            mail: RefCell::new(Some(Mail::new())),
            tasks: RefCell::default(),
            first: Cell::new(false),
        };
        DESK.set(Some(Rc::new(desk)));
        Ok(())
    }

    /// Gives back what belongs to Python. With the GIL.
    pub fn close(_py: Python<'_>) {
        DESK.set(None);
    }

    /// After a panic what belongs to Python is left to it.
    pub fn forget() {
        std::mem::forget(DESK.take());
    }

    /// Runs a call that was taken from the inbox, between the turns of the loop: see [`Desk::run`].
    pub fn run_first(&self, py: Python<'_>, job: &Job) {
        self.first.set(true);
        self.run(py, job);
        self.first.set(false);
    }

    /// Runs a call that was taken from the inbox, and answers it. One that has to be awaited goes on as a task
    /// when it comes first; within another one, which waits for it, it is run to its end.
    pub fn run(&self, py: Python<'_>, job: &Job) {
        let first = self.first.replace(false);
        let mut parked = false;
        if let Some(request) = job.begin() {
            let begun = self.watch.begin(Callback::Call, 0);
            job.runs_as(begun.number);
            let mut mail = self.mail.take().unwrap_or_else(Mail::new);
            job.answer(&self.inbox, &mut mail, |env| {
                let mut outcome = self.call(py, &request, &job.conversion);
                if let Some(awaitable) = outcome.as_ref().ok().filter(|value| is_awaitable(value)) {
                    if first {
                        let started = self.start_task(py, begun.number, awaitable);
                        parked = started.is_ok();
                        outcome = started;
                    } else {
                        outcome = self.run_to_its_end(py, awaitable);
                    }
                }
                let answer = (!parked).then(|| self.encode(env, py, job, outcome));
                // From here on it is not interrupted, and what it had left to do is done.
                self.watch.end(begun);
                answer
            });
            mail.clear();
            self.mail.replace(Some(mail));
        }
        if parked {
            self.inbox.park();
        } else {
            self.inbox.leave();
        }
    }

    /// A call that went on as a task is over.
    pub(super) fn conclude(
        &self,
        py: Python<'_>,
        number: u64,
        outcome: PyResult<Bound<'_, PyAny>>,
    ) {
        let Some(job) = self.inbox.unpark(number) else {
            return;
        };
        let begun = self.watch.begin(Callback::Report, 0);
        let mut mail = self.mail.take().unwrap_or_else(Mail::new);
        job.answer(&self.inbox, &mut mail, |env| {
            let answer = self.encode(env, py, &job, outcome);
            self.watch.end(begun);
            Some(answer)
        });
        mail.clear();
        self.mail.replace(Some(mail));
    }

    /// What a call, or a callback, is interrupted with.
    pub(super) fn interrupt(&self, py: Python<'_>, what: Callback) -> PyErr {
        let class = match what {
            Callback::Call => &self.call_timeout,
            _ => &self.callback_timeout,
        };
        class.call0(py).map_or_else(
            |error| error,
            |exception| PyErr::from_value(exception.into_bound(py)),
        )
    }

    fn call<'py>(
        &self,
        py: Python<'py>,
        request: &Request,
        conversion: &Conversion,
    ) -> PyResult<Bound<'py, PyAny>> {
        let operation = self.operation(py, request.operation)?;
        let arguments = PyList::empty(py);
        request.with_arguments(|given| put_arguments(&arguments, given, conversion))?;
        operation.call1(arguments.to_tuple())
    }

    /// What a call came to, as its caller gets it. Whatever Python does for that may be interrupted.
    fn encode<'a>(
        &self,
        env: Env<'a>,
        py: Python<'_>,
        job: &Job,
        outcome: PyResult<Bound<'_, PyAny>>,
    ) -> Term<'a> {
        let conversion = &job.conversion;
        let term = outcome.and_then(|value| match conversion.returned {
            Returned::Value => from_python(env, &value, conversion),
            Returned::Object => Ok(self.held.hold(env, &value)),
        });
        match term {
            Ok(value) => (atoms::ok(), value).encode(env),
            // Nobody gets it.
            Err(_) if job.is_abandoned() => atoms::error().encode(env),
            Err(error) => {
                let error = PythonError::from_raised(py, error);
                (atoms::error(), encode_error(env, &error)).encode(env)
            }
        }
    }

    pub(super) fn module<'py>(&self, py: Python<'py>) -> &Bound<'py, PyAny> {
        self.module.bind(py)
    }

    fn operation<'py>(&self, py: Python<'py>, name: Atom) -> PyResult<Bound<'py, PyAny>> {
        if let Some(known) = self.operations.borrow().get(&name) {
            return Ok(known.bind(py).clone());
        }
        let text = rustler::OwnedEnv::new()
            .run(|env| name.to_term(env).atom_to_string())
            .unwrap_or_default();
        let function = self.module.bind(py).getattr(text.as_str())?;
        self.operations
            .borrow_mut()
            .insert(name, function.clone().unbind());
        Ok(function)
    }
}

/// The arguments of an operation: what is its own, and the caller's values, which are in a list, or in a map
/// by their names.
fn put_arguments(
    arguments: &Bound<'_, PyList>,
    given: Term,
    conversion: &Conversion,
) -> PyResult<()> {
    let py = arguments.py();
    let given: NifResult<Vec<Term>> = given.decode();
    let given = given.unwrap_or_default();
    let is_call = given.iter().any(|each| each.get_type() == TermType::List);
    for each in given {
        let argument = match each.get_type() {
            TermType::List => arguments_to_python(py, each, conversion)?.into_any(),
            TermType::Map => {
                let what = if is_call { "argument" } else { "variable" };
                names_to_python(py, each, what, conversion)?.into_any()
            }
            _ => to_python(py, each, &Conversion::default())?,
        };
        arguments.append(argument)?;
    }
    Ok(())
}
