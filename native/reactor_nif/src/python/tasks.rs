//! The asyncio loop of a context: made when the first coroutine comes, watched by the context's own
//! loop like a socket, and run when something is ready, due, or was put into it.
//!
//! `erlang.aio` is its other half.

use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use pyo3::ffi;
use pyo3::prelude::*;

use crate::python::desk::{self, Desk};
use crate::python::interpreter::PythonError;
use crate::python::module;
use crate::python::turn::Turn;
use crate::python::watch::Callback;

/// How long tasks may take to end once they are cancelled, in seconds.
const END: f64 = 0.5;

/// What a context's thread knows of its asyncio loop.
#[derive(Default)]
pub struct Tasks {
    /// The `erlang.aio.Tasks` of the context.
    object: Option<Py<PyAny>>,
    /// Its selector's, to be watched.
    fd: Option<RawFd>,
    /// One of its descriptors may be ready.
    ready: bool,
    /// It has more to do at once.
    more: bool,
    /// When it has something to do by itself.
    due: Option<Instant>,
}

/// What a pump says: whether there is more, when there will be, and the calls that are over.
type Pumped = (bool, Option<f64>, Vec<(u64, bool, Py<PyAny>)>);

impl Desk {
    /// Has a call go on as a task. What it returns is nobody's answer.
    pub(super) fn start_task<'py>(
        &self,
        py: Python<'py>,
        number: u64,
        awaitable: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let tasks = self.tasks(py)?;
        tasks.call_method1("start", (number, awaitable))
    }

    /// Awaits what another call waits for, here and now.
    pub(super) fn run_to_its_end<'py>(
        &self,
        py: Python<'py>,
        awaitable: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.module(py).call_method1("run_to_its_end", (awaitable,))
    }

    fn tasks<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if let Some(object) = &self.tasks.borrow().object {
            return Ok(object.bind(py).clone());
        }
        let object = self.module(py).call_method0("tasks")?;
        let fd = object.call_method0("fileno")?.extract()?;
        let mut tasks = self.tasks.borrow_mut();
        tasks.fd = Some(fd);
        // It is not watched before it has been run.
        tasks.ready = true;
        tasks.object = Some(object.clone().unbind());
        self.watch.show_tasks(object.as_ptr());
        Ok(object)
    }

    /// True when there is something for the tasks to do.
    fn wants_pump(&self, now: Instant) -> bool {
        let tasks = self.tasks.borrow();
        tasks.more
            || tasks.ready
            || tasks.due.is_some_and(|due| due <= now)
            || self.inbox.has_cancelled()
    }

    fn pump(&self, py: Python<'_>) -> PyResult<()> {
        let object = self.tasks(py)?;
        for number in self.inbox.take_cancelled() {
            object.call_method1("cancel", (number,))?;
        }
        {
            let mut tasks = self.tasks.borrow_mut();
            tasks.ready = false;
            tasks.more = false;
            tasks.due = None;
        }
        let begun = self.watch.begin(Callback::Task, 0);
        let pumped = object.call_method0("pump");
        // If it was interrupted, that was a step of a task, which knows it.
        self.watch.end(begun);
        let (more, left, ended): Pumped = pumped?.extract()?;
        {
            let mut tasks = self.tasks.borrow_mut();
            tasks.more = more;
            let left = left.map(Duration::from_secs_f64);
            tasks.due = left.and_then(|left| Instant::now().checked_add(left));
        }
        for (number, returned, value) in ended {
            let value = value.into_bound(py);
            let outcome = if returned {
                Ok(value)
            } else {
                Err(PyErr::from_value(value))
            };
            self.conclude(py, number, outcome);
        }
        Ok(())
    }

    fn end_tasks(&self, py: Python<'_>) {
        let Some(object) = self.tasks.borrow_mut().object.take() else {
            return;
        };
        self.watch.show_tasks(std::ptr::null_mut());
        let begun = self.watch.begin(Callback::Task, 0);
        let ended = object.call_method1(py, "end", (END,));
        self.watch.end(begun);
        if let Err(error) = ended {
            let error = PythonError::from_raised(py, error);
            tracing::warn!(
                "the tasks of a context did not end well\n{}",
                error.traceback.trim_end()
            );
        }
    }
}

impl Turn {
    /// True when tasks have something to do at once.
    pub fn has_tasks(&self) -> bool {
        desk::here().is_some_and(|desk| {
            let tasks = desk.tasks.borrow();
            tasks.more || tasks.ready
        })
    }

    /// How long they have nothing to do by themselves.
    pub fn tasks_sleep(&self, now: Instant) -> Option<Duration> {
        let due = desk::here()?.tasks.borrow().due?;
        Some(due.saturating_duration_since(now))
    }

    /// One of their descriptors may be ready.
    pub fn tasks_are_ready(&self) {
        if let Some(desk) = desk::here() {
            desk.tasks.borrow_mut().ready = true;
        }
    }

    /// True while calls go on as tasks.
    pub fn awaits_tasks(&self) -> bool {
        desk::here().is_some_and(|desk| desk.inbox.has_parked())
    }

    /// Lets the tasks go on, if there is something for them to do, and answers the calls that are over. Gives a
    /// descriptor that is to be watched from now on.
    pub fn run_tasks(&mut self) -> Option<RawFd> {
        let (Some(thread), Some(desk)) = (&mut self.thread, desk::here()) else {
            return None;
        };
        if !module::take_task_put() && !desk.wants_pump(Instant::now()) {
            return None;
        }
        thread.with(|py| {
            if let Err(error) = desk.pump(py) {
                let error = PythonError::from_raised(py, error);
                tracing::error!(
                    context = %self.name,
                    "the tasks of a context cannot go on\n{}",
                    error.traceback.trim_end()
                );
            }
        });
        let fd = desk.tasks.borrow_mut().fd.take();
        fd
    }

    /// Cancels what goes on, and closes what it has open.
    pub(super) fn end_tasks(&self, py: Python<'_>) {
        if let Some(desk) = desk::here() {
            desk.end_tasks(py);
        }
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
