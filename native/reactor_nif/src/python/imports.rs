//! Whether a thread is importing.
//!
//! An import that is interrupted leaves those submodules of a package behind that it had finished, but not the
//! package. When that is imported again, it does not find them as its own any more, and fails from then on.

use std::ffi::c_long;

use pyo3::ffi;
use pyo3::prelude::*;

/// What runs imports, wherever Python is installed.
const IMPORTER: &str = "<frozen importlib._bootstrap>";

/// True if that thread of the interpreter that is attached is in an import. Runs no code of Python's, so the
/// GIL is not given away.
pub fn is_importing(thread: c_long) -> bool {
    Python::attach(|py| look(py, thread).unwrap_or(false))
}

fn look(py: Python<'_>, thread: c_long) -> PyResult<bool> {
    // SAFETY: with the GIL; borrowed from the interpreter, which has it as long as it lives.
    let frames = unsafe {
        let frames = ffi::PySys_GetObject(c"_current_frames".as_ptr());
        Bound::from_borrowed_ptr_or_opt(py, frames)
    };
    let Some(frames) = frames else {
        return Ok(false);
    };
    let mut frame = frames.call0()?.get_item(thread as u64)?;
    while !frame.is_none() {
        let file = frame.getattr("f_code")?.getattr("co_filename")?;
        if file.extract::<String>()? == IMPORTER {
            return Ok(true);
        }
        frame = frame.getattr("f_back")?;
    }
    Ok(false)
}
