//! The asyncio loop of a context: made when the first coroutine comes, watched by the context's own
//! loop like a socket, and run when something is ready, due, or was put into it.
//!
//! `erlang.aio` is its other half.

use std::collections::HashMap;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use pyo3::ffi;
use pyo3::prelude::*;

use crate::python::calls::in_words;
use crate::python::context::Reporter;
use crate::python::job::Job;
use crate::python::module;
use crate::python::turn::Turn;
use crate::python::watch::Callback;

/// How long tasks may take to end once they are cancelled, in seconds.
const END: f64 = 0.5;

/// What a turn knows of its context's asyncio loop.
#[derive(Default)]
pub struct Tasks {
    /// The `erlang.aio.Tasks` of the context.
    object: Option<Py<PyAny>>,
    /// Calls that have become tasks, by number.
    calls: HashMap<u64, Job>,
    number: u64,
    /// Its selector's, to be watched.
    fd: Option<RawFd>,
    /// One of its descriptors may be ready.
    pub ready: bool,
    /// It has more to do at once.
    more: bool,
    /// When it has something to do by itself.
    due: Option<Instant>,
}

impl Tasks {
    /// True when it is not to be waited for.
    pub fn is_busy(&self) -> bool {
        self.more || self.ready
    }

    /// How long may be waited for other things.
    pub fn sleep(&self, now: Instant) -> Option<Duration> {
        self.due.map(|due| due.saturating_duration_since(now))
    }

    /// True when somebody waits for one of its tasks.
    pub fn are_awaited(&self) -> bool {
        !self.calls.is_empty()
    }

    /// What is to be watched from now on, once.
    pub fn take_fd(&mut self) -> Option<RawFd> {
        self.fd.take()
    }

    /// After a panic what belongs to Python is left to it.
    pub fn forget(&mut self) {
        std::mem::forget(self.object.take());
    }

    fn object<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if let Some(object) = &self.object {
            return Ok(object.bind(py).clone());
        }
        let object = py.import("erlang.reactor.context")?.call_method0("tasks")?;
        self.fd = Some(object.call_method0("fileno")?.extract()?);
        self.object = Some(object.clone().unbind());
        Ok(object)
    }
}

/// True for what `await` takes.
pub fn is_awaitable(value: &Bound<'_, PyAny>) -> bool {
    // SAFETY: with the GIL; a type outlives its object, and its slots do not change here.
    unsafe {
        let slots = (*ffi::Py_TYPE(value.as_ptr())).tp_as_async;
        !slots.is_null() && (*slots).am_await.is_some()
    }
}

impl Turn {
    /// Has a call go on as a task.
    pub(super) fn start_task(
        &mut self,
        py: Python<'_>,
        job: Job,
        awaitable: &Bound<'_, PyAny>,
    ) -> Result<(), (Job, PyErr)> {
        let number = self.tasks.number + 1;
        let start =
            |tasks: &mut Tasks| tasks.object(py)?.call_method1("start", (number, awaitable));
        match start(&mut self.tasks) {
            Ok(_) => {
                self.tasks.number = number;
                self.tasks.calls.insert(number, job);
                Ok(())
            }
            Err(error) => Err((job, error)),
        }
    }

    /// Lets the tasks go on, if there is something for them, and answers the calls that have ended.
    pub fn run_tasks(&mut self, reporter: &mut Reporter) {
        let due = self.tasks.due.is_some_and(|due| due <= Instant::now());
        let put = module::take_task_put();
        if !(put || due || self.tasks.is_busy()) {
            return;
        }
        let Some(mut thread) = self.thread.take() else {
            return;
        };
        thread.with(|py| {
            if let Err(error) = self.pump(py, reporter) {
                let error = self.in_words(py, 0, error);
                tracing::error!(context = %self.name, "the tasks of a context cannot go on\n{}", error.traceback.trim_end());
            }
        });
        self.thread = Some(thread);
    }

    fn pump(&mut self, py: Python<'_>, reporter: &mut Reporter) -> PyResult<()> {
        self.tasks.ready = false;
        self.tasks.more = false;
        self.tasks.due = None;
        let object = self.tasks.object(py)?;
        let pump = || object.call_method0("pump");
        let pumped = self.timed(py, Callback::Task, 0, pump, |error| error);
        // It was one step of a task that was interrupted, and that knows it.
        self.overdue.set(false);
        let (more, left, ended): (bool, Option<f64>, Vec<(u64, bool, Py<PyAny>)>) =
            pumped?.extract()?;
        self.tasks.more = more;
        self.tasks.due =
            left.and_then(|left| Instant::now().checked_add(Duration::from_secs_f64(left)));
        for (number, returned, value) in ended {
            let Some(job) = self.tasks.calls.remove(&number) else {
                continue;
            };
            let value = value.into_bound(py);
            let outcome = if returned {
                Ok(value)
            } else {
                Err(PyErr::from_value(value))
            };
            self.answer(py, reporter, &job, outcome);
        }
        Ok(())
    }

    /// Cancels what goes on, and closes what it has open.
    pub(super) fn end_tasks(&mut self, py: Python<'_>) {
        self.tasks.calls.clear();
        let Some(object) = self.tasks.object.take() else {
            return;
        };
        let number = self.watch.begin(Callback::Task, 0);
        let ended = object.call_method1(py, "end", (END,));
        self.watch.end(number);
        if let Err(error) = ended {
            let error = in_words(&self.watch, py, 0, error);
            tracing::warn!(context = %self.name, "the tasks of a context did not end well\n{}", error.traceback.trim_end());
        }
    }
}
