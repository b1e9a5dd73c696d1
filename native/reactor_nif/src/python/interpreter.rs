//! The main interpreter: started once, on a thread of its own, never ended.
//!
//! Python is left unfinalised at exit on purpose: finalising it under threads
//! that still run is what crashes.

use std::ffi::{c_char, c_int, c_void, CStr, CString};
use std::mem::MaybeUninit;
use std::sync::mpsc;
use std::thread;

use once_cell::sync::OnceCell;
use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::python::{module, venv};

/// An exception, in words.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{kind}: {message}")]
pub struct PythonError {
    /// The exception's class.
    pub kind: String,
    /// Its `str()`.
    pub message: String,
    /// What `traceback.format_exception` makes of it, lines joined.
    pub traceback: String,
}

impl PythonError {
    /// An error of our own, before there is a Python to raise it.
    pub fn startup(message: impl Into<String>) -> Self {
        let message = message.into();
        PythonError {
            kind: "RuntimeError".into(),
            traceback: format!("RuntimeError: {message}\n"),
            message,
        }
    }

    /// Puts a raised exception into words.
    pub fn from_raised(py: Python<'_>, error: PyErr) -> Self {
        let kind = error
            .get_type(py)
            .getattr("__name__")
            .and_then(|name| name.extract::<String>())
            .unwrap_or_else(|_| "Exception".into());
        let message = error.value(py).str().map_or_else(
            |_| String::from("(its __str__ raised)"),
            |text| text.to_string_lossy().into_owned(),
        );
        let traceback =
            format_traceback(py, &error).unwrap_or_else(|_| format!("{kind}: {message}\n"));
        PythonError {
            kind,
            message,
            traceback,
        }
    }
}

fn format_traceback(py: Python<'_>, error: &PyErr) -> PyResult<String> {
    let lines = py.import("traceback")?.call_method1(
        "format_exception",
        (error.get_type(py), error.value(py), error.traceback(py)),
    )?;
    Ok(lines.extract::<Vec<String>>()?.concat())
}

/// What was started.
#[derive(Clone, Debug)]
pub struct Info {
    /// As in `sys.version`, first word.
    pub version: String,
    /// As in `sys.executable`.
    pub executable: String,
    /// The file libpython was loaded from.
    pub libpython: String,
}

static MAIN: OnceCell<Result<Info, PythonError>> = OnceCell::new();

/// Starts Python unless it runs already, in that virtual environment if one is given; else, in the
/// active one. Blocks for as long as that takes: not for schedulers.
pub fn ensure_started(python_dir: &str, venv: Option<&str>) -> Result<Info, PythonError> {
    let asked = venv.map(venv::python).transpose();
    let asked = asked.map_err(PythonError::startup)?;
    MAIN.get_or_init(|| {
        let executable = asked.unwrap_or_else(default_executable);
        let (report, started) = mpsc::channel();
        let dir = python_dir.to_owned();
        let spawned = thread::Builder::new()
            .name("py-main".into())
            .spawn(move || {
                let outcome = start(&dir, &executable);
                let started = outcome.is_ok();
                let _ = report.send(outcome);
                if started {
                    // `threading.main_thread()` is this one, so it stays.
                    loop {
                        thread::park();
                    }
                }
            });
        match spawned {
            Ok(_) => started
                .recv()
                .unwrap_or_else(|_| Err(PythonError::startup("the main Python thread died"))),
            Err(error) => Err(PythonError::startup(format!(
                "no thread for Python: {error}"
            ))),
        }
    })
    .clone()
}

/// What was started, if it was.
pub fn info() -> Option<Info> {
    MAIN.get().and_then(|outcome| outcome.clone().ok())
}

fn start(python_dir: &str, executable: &str) -> Result<Info, PythonError> {
    let libpython = make_symbols_global()?;
    configure(executable)?;
    let outcome = Python::attach(|py| prepare(py, python_dir, libpython));
    // From here on the GIL is free for the contexts.
    // SAFETY: this thread holds the GIL since Py_InitializeFromConfig; its thread state stays
    // allocated for the life of the process and is never used again.
    unsafe { ffi::PyEval_SaveThread() };
    outcome
}

/// Extension modules look libpython's symbols up globally, but a NIF's dependencies are local.
fn make_symbols_global() -> Result<String, PythonError> {
    let mut found = MaybeUninit::<libc::Dl_info>::zeroed();
    let symbol = ffi::Py_IsInitialized as *const c_void;
    // SAFETY: dladdr only fills `found`, and `symbol` is an address in a loaded library.
    let known = unsafe { libc::dladdr(symbol, found.as_mut_ptr()) };
    // SAFETY: it was zeroed, so it is initialised whatever dladdr did.
    let found = unsafe { found.assume_init() };
    if known == 0 || found.dli_fname.is_null() {
        return Err(PythonError::startup(
            "libpython is not a shared library here",
        ));
    }
    // SAFETY: dladdr gave a NUL-terminated path that lives as long as the library.
    let path = unsafe { CStr::from_ptr(found.dli_fname) };
    // SAFETY: opens a library that is already loaded; the handle is kept for good.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    let path = path.to_string_lossy().into_owned();
    if handle.is_null() {
        return Err(PythonError::startup(format!(
            "{path} could not be made global"
        )));
    }
    Ok(path)
}

fn configure(executable: &str) -> Result<(), PythonError> {
    // SAFETY: no Python runs yet, and this is the only thread that will ever start it. Every
    // structure is initialised by the function that CPython has for it before it is read.
    unsafe {
        if ffi::PyImport_AppendInittab(c"_reactor".as_ptr(), Some(module::init)) != 0 {
            return Err(PythonError::startup("no memory for the native module"));
        }
        let mut before = MaybeUninit::<ffi::PyPreConfig>::zeroed();
        ffi::PyPreConfig_InitIsolatedConfig(before.as_mut_ptr());
        let mut before = before.assume_init();
        // Else LANG=C would make the file system encoding ASCII.
        before.utf8_mode = 1;
        check(ffi::Py_PreInitialize(&before))?;

        let mut config = MaybeUninit::<ffi::PyConfig>::zeroed();
        ffi::PyConfig_InitIsolatedConfig(config.as_mut_ptr());
        let mut config = config.assume_init();
        // Signals are the BEAM's.
        config.install_signal_handlers = 0;
        config.parse_argv = 0;
        // Nobody flushes a buffer at exit.
        config.buffered_stdio = 0;
        let executable = CString::new(executable).unwrap_or_default();
        let field = std::ptr::addr_of_mut!(config.executable);
        let mut status = ffi::PyConfig_SetBytesString(&mut config, field, executable.as_ptr());
        if ffi::PyStatus_Exception(status) == 0 {
            status = ffi::Py_InitializeFromConfig(&config);
        }
        ffi::PyConfig_Clear(&mut config);
        check(status)
    }
}

fn check(status: ffi::PyStatus) -> Result<(), PythonError> {
    // SAFETY: only reads the status.
    if unsafe { ffi::PyStatus_Exception(status) } == 0 {
        return Ok(());
    }
    let text = if status.err_msg.is_null() {
        "unknown".into()
    } else {
        // SAFETY: a status carries static NUL-terminated text.
        unsafe { CStr::from_ptr(status.err_msg) }.to_string_lossy()
    };
    Err(PythonError::startup(format!(
        "Python did not start: {text}"
    )))
}

/// The python to be: the active virtual environment's, else the one we were built for.
fn default_executable() -> String {
    let active = std::env::var("VIRTUAL_ENV").ok();
    match active
        .filter(|dir| !dir.is_empty())
        .map(|dir| venv::python(&dir))
    {
        Some(Ok(python)) => return python,
        Some(Err(why)) => tracing::warn!("VIRTUAL_ENV is not used: {why}"),
        None => {}
    }
    env!("REACTOR_PYTHON").to_owned()
}

fn prepare(py: Python<'_>, python_dir: &str, libpython: String) -> Result<Info, PythonError> {
    let ready = || -> PyResult<Info> {
        // pyo3 makes its panic type at the first error it fetches: that has to be here, in main.
        drop(PyErr::fetch_or(py));
        let sys = py.import("sys")?;
        let path = sys.getattr("path")?.cast_into::<PyList>()?;
        path.insert(0, python_dir)?;
        py.import("threading")?;
        // Its definition is made ready here, before another interpreter can come to it.
        py.import("_reactor")?;
        // OpenSSL registers its exit handler when it is loaded; ours has to come after it.
        if py.import("ssl").is_ok() && py.import("hashlib").is_ok() {
            leave_quickly();
        }
        let version: String = sys.getattr("version")?.extract()?;
        Ok(Info {
            version: version.split(' ').next().unwrap_or_default().to_owned(),
            executable: sys.getattr("executable")?.extract()?,
            libpython,
        })
    };
    ready().map_err(|error| PythonError::from_raised(py, error))
}

trait FetchOr {
    fn fetch_or(py: Python<'_>) -> PyErr;
}

impl FetchOr for PyErr {
    fn fetch_or(py: Python<'_>) -> PyErr {
        PyRuntimeError::new_err("probe").restore(py);
        PyErr::take(py).unwrap_or_else(|| PyRuntimeError::new_err("probe"))
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn leave_quickly() {
    extern "C" {
        fn on_exit(handler: extern "C" fn(c_int, *mut c_void), arg: *mut c_void) -> c_int;
    }
    /// Runs before the exit handlers of libraries that would free what other threads still use.
    extern "C" fn leave(status: c_int, _arg: *mut c_void) {
        // SAFETY: both may be called at exit; _exit does not return.
        unsafe {
            libc::fflush(std::ptr::null_mut());
            libc::_exit(status);
        }
    }
    // SAFETY: `leave` is a plain function in a library that is never unloaded.
    unsafe { on_exit(leave, std::ptr::null_mut()) };
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn leave_quickly() {}

/// Keeps the library mapped: threads run in it until the process is gone.
pub fn pin_library() {
    let mut found = MaybeUninit::<libc::Dl_info>::zeroed();
    let symbol = pin_library as *const c_void;
    // SAFETY: as in make_symbols_global.
    let known = unsafe { libc::dladdr(symbol, found.as_mut_ptr()) };
    // SAFETY: zeroed before.
    let found = unsafe { found.assume_init() };
    if known != 0 && !found.dli_fname.is_null() {
        let flags = libc::RTLD_NOW | libc::RTLD_NOLOAD | libc::RTLD_NODELETE;
        let path: *const c_char = found.dli_fname;
        // SAFETY: marks an already loaded library.
        unsafe { libc::dlopen(path, flags) };
    }
}
