//! How a turn gets its Python, on the context's own thread, and gives it back there.

use std::sync::Arc;

use pyo3::prelude::*;

use crate::command::LoopHandle;
use crate::python::calls::in_words;
use crate::python::context::Environment;
use crate::python::desk::Desk;
use crate::python::held::Held;
use crate::python::interpreter::PythonError;
use crate::python::isolation::Isolation;
use crate::python::module;
use crate::python::names::Names;
use crate::python::protocol::FactoryKey;
use crate::python::thread::ThreadState;
use crate::python::turn::Turn;
use crate::python::watch::{Callback, Exceptions};

impl Turn {
    /// On the context's own thread, once Python runs. `python_dir` is where our own package is, `home` the
    /// context's loop.
    pub fn attach(
        &mut self,
        id: u64,
        isolation: Isolation,
        python_dir: &str,
        home: &Arc<LoopHandle>,
    ) -> Result<(), PythonError> {
        self.id = id;
        module::enter_context(id, &self.name);
        let thread = self.thread.insert(ThreadState::new(isolation, python_dir)?);
        let held = Held::new(thread.interpreter(), Arc::clone(home));
        self.held = Some(Arc::clone(&held));
        let ready = thread.with(|py| {
            let names = Names::new(py)?;
            let (inbox, watch) = (Arc::clone(&self.inbox), Arc::clone(&self.watch));
            Desk::open(py, id, inbox, watch, held)?;
            let number = py.import("_thread")?.call_method0("get_ident")?.extract()?;
            Ok((names, number))
        });
        let (names, number) =
            ready.map_err(|error| thread.with(|py| PythonError::from_raised(py, error)))?;
        let exceptions = Exceptions {
            call: names.call_timeout.as_ptr(),
            callback: names.callback_timeout.as_ptr(),
        };
        self.watch.open(thread.interpreter(), number, exceptions);
        self.names = Some(names);
        Ok(())
    }

    /// Makes ready what connections and calls find in the context.
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

    /// Resolves a factory: from now on it makes the protocols of that listener. If that fails, the
    /// one that made them before goes on.
    pub fn load(&mut self, listener: u64, spec: &str) -> Result<(), PythonError> {
        let (Some(thread), Some(names)) = (&mut self.thread, &self.names) else {
            return Err(PythonError::startup("the context has no thread"));
        };
        let paths = &self.paths;
        let factories = &mut self.factories;
        let latest = &mut self.latest;
        let watch = &self.watch;
        thread.with(|py| {
            let number = watch.begin(Callback::Import, 0);
            let resolved = names.resolve.call1(py, (spec, paths.clone()));
            watch.end(number);
            match resolved {
                Ok(factory) => {
                    *latest = Some(factory.clone_ref(py));
                    module::knows_factory();
                    factories.insert(FactoryKey::Listener(listener), factory);
                    Ok(())
                }
                Err(error) => Err(in_words(watch, py, 0, error)),
            }
        })
    }

    /// Gives everything that belongs to Python back.
    pub fn detach(mut self) {
        if let Some(mut thread) = self.thread.take() {
            thread.with(|py| self.end_tasks(py));
            let names = self.names.take();
            let factories = std::mem::take(&mut self.factories);
            let latest = self.latest.take();
            let held = self.held.take();
            let id = self.id;
            let watch = &self.watch;
            let outgoing = &mut self.outgoing;
            thread.with(|py| {
                // What is forgotten may have code of its own for that.
                let number = watch.begin(Callback::Import, 0);
                if let Some(names) = &names {
                    // It only forgets a number.
                    let _ = names.end_context.call1(py, (id,));
                }
                if let Some(held) = &held {
                    held.close(py);
                }
                drop(factories);
                drop(latest);
                Desk::close(py);
                outgoing.reclaim(py);
                watch.end(number);
            });
            watch.close();
            // After that: what interrupts calls is among them.
            thread.with(|_| drop(names));
            if !thread.end() {
                tracing::warn!(
                    context = %self.name,
                    "threads that its code started still run, and keep its Python interpreter"
                );
            }
        }
    }
}

impl Drop for Turn {
    /// After a panic what belongs to Python is left to it: nothing can be said about its interpreter.
    fn drop(&mut self) {
        // The call that it panicked in is never seen to end: nobody goes on interrupting it.
        self.watch.close();
        self.outgoing.abandon();
        std::mem::forget(self.names.take());
        std::mem::forget(self.latest.take());
        std::mem::forget(std::mem::take(&mut self.factories));
        Desk::forget();
    }
}
