//! A thread's own state in an interpreter: the main one, or one that it makes for itself.

use pyo3::ffi;
use pyo3::prelude::*;

use crate::python::interpreter::PythonError;
use crate::python::isolation::Isolation;

/// A context's thread state: attached only inside [`ThreadState::with`].
pub struct ThreadState {
    state: *mut ffi::PyThreadState,
    /// The interpreter was made for it.
    own: bool,
}

// SAFETY: the pointer is used by the thread that made it alone; it is `Send` only so that the
// loop around it can be built before its thread runs.
unsafe impl Send for ThreadState {}

impl ThreadState {
    /// A thread state for the calling thread, once Python runs. Where this Python has no such place
    /// it is refused: see [`Isolation::refusal`]. `python_dir` is where our own package is.
    pub fn new(isolation: Isolation, python_dir: &str) -> Result<Self, PythonError> {
        match isolation {
            Isolation::Shared => Ok(Self::main()),
            Isolation::Own => own::new(python_dir),
        }
    }

    fn main() -> Self {
        // SAFETY: Python runs (ensure_started came before); making a thread state needs no GIL.
        let state = unsafe { ffi::PyThreadState_New(ffi::PyInterpreterState_Main()) };
        ThreadState { state, own: false }
    }

    /// Its interpreter.
    pub fn interpreter(&self) -> *mut ffi::PyInterpreterState {
        // SAFETY: a live thread state knows its interpreter, which never changes.
        unsafe { ffi::PyThreadState_GetInterpreter(self.state) }
    }

    /// Takes the GIL, runs `f`, releases it, also when `f` panics.
    pub fn with<R>(&mut self, f: impl FnOnce(Python<'_>) -> R) -> R {
        struct Detach<'a>(&'a mut ThreadState);
        impl Drop for Detach<'_> {
            fn drop(&mut self) {
                // SAFETY: attached below by the same thread.
                self.0.state = unsafe { ffi::PyEval_SaveThread() };
            }
        }
        // SAFETY: our own thread state, detached since it was made or since the last `with`.
        unsafe { ffi::PyEval_RestoreThread(self.state) };
        let _detach = Detach(self);
        // Nested, so that pyo3 counts us as attached and frees objects here and now.
        Python::attach(f)
    }

    /// Ends the thread state, and the interpreter if it was made for it; the calling thread can make
    /// no more Python calls. False if threads that its code started still run: they keep their interpreter.
    pub fn end(mut self) -> bool {
        if self.own {
            let left = self.with(own::end_threads);
            if let Err(error) = left {
                tracing::warn!(%error, "threads of a Python interpreter that ends could not be told");
            }
        }
        // SAFETY: attach, then clear and delete what is current, as CPython's documentation orders;
        // an interpreter is ended only by its last thread, which is this one.
        unsafe {
            ffi::PyEval_RestoreThread(self.state);
            let alone = self.own && own::is_alone(self.state);
            if alone {
                ffi::Py_EndInterpreter(self.state);
            } else {
                ffi::PyThreadState_Clear(self.state);
                ffi::PyThreadState_DeleteCurrent();
            }
            alone || !self.own
        }
    }
}

#[cfg(Py_3_12)]
mod own {
    //! Interpreters with a GIL of their own.

    use std::ffi::CStr;
    use std::ptr;
    use std::sync::{Mutex, PoisonError};

    use pyo3::ffi;
    use pyo3::prelude::*;
    use pyo3::types::PyList;

    use super::ThreadState;
    use crate::python::interpreter::PythonError;
    use crate::python::isolation::Isolation;

    /// How long threads that a context's code started may take to end with it, in seconds.
    const THREADS_END: f64 = 1.0;

    /// C modules that keep state of the process: the main interpreter makes it, before others can.
    const FIRST: [&str; 28] = [
        "_asyncio",
        "_bisect",
        "_bz2",
        "_contextvars",
        "_csv",
        "_ctypes",
        "_datetime",
        "_decimal",
        "_elementtree",
        "_hashlib",
        "_heapq",
        "_interpreters",
        "_json",
        "_lzma",
        "_multiprocessing",
        "_pickle",
        "_posixsubprocess",
        "_queue",
        "_random",
        "_socket",
        "_sqlite3",
        "_ssl",
        "_struct",
        "_uuid",
        "_zoneinfo",
        "array",
        "datetime",
        "pyexpat",
    ];

    /// Whether those are imported. One interpreter is made at a time. Never waited for with a GIL.
    static MAKING: Mutex<bool> = Mutex::new(false);

    /// A new interpreter, and the calling thread's state in it.
    pub fn new(python_dir: &str) -> Result<ThreadState, PythonError> {
        // Whoever asks was asked whether experiments are wanted.
        if let Some(why) = Isolation::Own.refusal(true) {
            return Err(PythonError::startup(why));
        }
        let mut prepared = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
        let mut main = ThreadState::main();
        if !std::mem::replace(&mut *prepared, true) {
            main.with(|py| {
                for name in FIRST {
                    // What this Python was built without, no other interpreter has either.
                    drop(py.import(name));
                }
            });
        }
        let mut thread = make(main)?;
        drop(prepared);
        let ready = thread.with(|py| {
            let add = || -> PyResult<()> {
                let path = py.import("sys")?.getattr("path")?.cast_into::<PyList>()?;
                path.insert(0, python_dir)?;
                // Here, so that what ends it later has nothing to import.
                py.import("threading")?;
                Ok(())
            };
            add().map_err(|error| PythonError::from_raised(py, error))
        });
        match ready {
            Ok(()) => Ok(thread),
            Err(error) => {
                thread.end();
                Err(error)
            }
        }
    }

    fn make(main: ThreadState) -> Result<ThreadState, PythonError> {
        let config = ffi::PyInterpreterConfig {
            use_main_obmalloc: 0,
            allow_fork: 0,
            allow_exec: 0,
            allow_threads: 1,
            allow_daemon_threads: 0,
            check_multi_interp_extensions: 1,
            gil: ffi::PyInterpreterConfig_OWN_GIL,
        };
        let mut state = ptr::null_mut();
        // SAFETY: the main interpreter's thread state is attached while the other is made, as CPython
        // asks for, then deleted; the new one is attached and detached by its own thread. After a
        // failure the first is attached still.
        let status = unsafe {
            ffi::PyEval_RestoreThread(main.state);
            let status = ffi::Py_NewInterpreterFromConfig(&mut state, &config);
            if !state.is_null() {
                ffi::PyThreadState_Swap(main.state);
            }
            ffi::PyThreadState_Clear(main.state);
            ffi::PyThreadState_DeleteCurrent();
            status
        };
        if state.is_null() {
            let why = if status.err_msg.is_null() {
                "no reason given".into()
            } else {
                // SAFETY: a status carries static NUL-terminated text.
                unsafe { CStr::from_ptr(status.err_msg) }.to_string_lossy()
            };
            let text = format!("Python made no interpreter: {why}");
            return Err(PythonError::startup(text));
        }
        Ok(ThreadState { state, own: true })
    }

    /// Has the threads that its code started end, and waits for them for a while.
    pub fn end_threads(py: Python<'_>) -> Result<(), PythonError> {
        let end = || -> PyResult<()> {
            let reactor = py.import("erlang.reactor")?;
            reactor.getattr("_end_threads")?.call1((THREADS_END,))?;
            Ok(())
        };
        end().map_err(|error| PythonError::from_raised(py, error))
    }

    /// True when its interpreter has no other thread.
    ///
    /// # Safety
    /// `state` is attached.
    pub unsafe fn is_alone(state: *mut ffi::PyThreadState) -> bool {
        // SAFETY: the caller's promise; threads come and go in an interpreter with its GIL alone.
        unsafe {
            let first =
                ffi::PyInterpreterState_ThreadHead(ffi::PyThreadState_GetInterpreter(state));
            first == state && ffi::PyThreadState_Next(first).is_null()
        }
    }
}

#[cfg(not(Py_3_12))]
mod own {
    //! Python before 3.12 has one GIL.

    use pyo3::ffi;
    use pyo3::prelude::*;

    use super::ThreadState;
    use crate::python::interpreter::PythonError;
    use crate::python::isolation::Isolation;

    /// Refused.
    pub fn new(_python_dir: &str) -> Result<ThreadState, PythonError> {
        let why = Isolation::Own.refusal(true);
        Err(PythonError::startup(why.unwrap_or_default()))
    }

    /// There are none.
    pub fn end_threads(_py: Python<'_>) -> Result<(), PythonError> {
        Ok(())
    }

    /// Never asked for.
    ///
    /// # Safety
    /// None is needed.
    pub unsafe fn is_alone(_state: *mut ffi::PyThreadState) -> bool {
        false
    }
}
