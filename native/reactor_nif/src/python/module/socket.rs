//! What a protocol does with its connection: read, write, close, and say that it has something to write.

use pyo3::exceptions::{
    PyBlockingIOError, PyConnectionError, PyOSError, PyTypeError, PyValueError,
};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes};

use crate::connection::Pull;
use crate::error::{Cause, Reason};
use crate::owner::{kick, Owner};
use crate::python::module::connection;

/// The most that one `read` returns, in bytes.
const MAX_READ: usize = 1024 * 1024;

pub(super) fn read<'py>(
    py: Python<'py>,
    args: &[Bound<'py, PyAny>],
) -> PyResult<Bound<'py, PyAny>> {
    let conn = connection(&args[0])?;
    let size: i64 = args[1].extract()?;
    let size = usize::try_from(size)
        .map_err(|_| PyValueError::new_err("size is a number of bytes, 0 or more"))?
        .min(MAX_READ);
    if size == 0 {
        // That the kernel gives nothing would look like the end.
        return Ok(PyBytes::new(py, b"").into_any());
    }
    if !py.detach(|| conn.lock().reads()) {
        let text = "cannot read: it is open for writing only";
        return Err(PyOSError::new_err((libc::EBADF, text)));
    }
    let mut into = vec![0; size];
    let pulled = py.detach(|| {
        let mut state = conn.lock();
        let result = state.read_bytes(&mut into);
        if matches!(result, Err(Pull::End(_))) {
            // The loop has to find the end too.
            state.readable = true;
        }
        result
    });
    match pulled {
        // A datagram that is larger is cut, as by recv.
        Ok(n) => Ok(PyBytes::new(py, &into[..n.min(size)]).into_any()),
        Err(Pull::Blocked) => Err(PyBlockingIOError::new_err((
            libc::EAGAIN,
            "nothing to read yet",
        ))),
        Err(_) => Ok(PyBytes::new(py, b"").into_any()),
    }
}

pub(super) fn write<'py>(
    py: Python<'py>,
    args: &[Bound<'py, PyAny>],
) -> PyResult<Bound<'py, PyAny>> {
    let conn = connection(&args[0])?;
    let view = View::of(&args[1])?;
    let bytes = view.bytes();
    let written = if args[1].is_instance_of::<PyByteArray>() {
        // Other threads may put more into it, which they could not while it is looked at.
        conn.lock().write_now(bytes)
    } else {
        py.detach(|| conn.lock().write_now(bytes))
    };
    match written {
        Ok(n) => Ok(n.into_pyobject(py)?.into_any()),
        Err(Reason::Errno(code)) => {
            let text = std::io::Error::from_raw_os_error(code).to_string();
            Err(PyOSError::new_err((code, text)))
        }
        Err(reason) => Err(PyConnectionError::new_err(format!(
            "cannot write: the connection is {reason}"
        ))),
    }
}

pub(super) fn signal_write_ready<'py>(
    py: Python<'py>,
    args: &[Bound<'py, PyAny>],
) -> PyResult<Bound<'py, PyAny>> {
    let conn = connection(&args[0])?;
    let live = py.detach(|| {
        let mut state = conn.lock();
        match &mut state.owner {
            Owner::Protocol(owner) => {
                owner.signal();
                drop(state);
                kick(&conn);
                true
            }
            _ => false,
        }
    });
    Ok(live.into_pyobject(py)?.to_owned().into_any())
}

pub(super) fn close<'py>(
    py: Python<'py>,
    args: &[Bound<'py, PyAny>],
) -> PyResult<Bound<'py, PyAny>> {
    let conn = connection(&args[0])?;
    py.detach(|| {
        let mut state = conn.lock();
        if let Owner::Protocol(owner) = &mut state.owner {
            owner.end();
            state.because(Cause::Local);
        }
        drop(state);
        kick(&conn);
    });
    Ok(py.None().into_bound(py))
}

/// A borrowed view of a bytes-like object.
pub(super) struct View(ffi::Py_buffer);

impl View {
    pub(super) fn of(object: &Bound<'_, PyAny>) -> PyResult<View> {
        let mut view = std::mem::MaybeUninit::<ffi::Py_buffer>::zeroed();
        // SAFETY: fills `view`, or raises and leaves it alone.
        let got = unsafe {
            ffi::PyObject_GetBuffer(object.as_ptr(), view.as_mut_ptr(), ffi::PyBUF_SIMPLE)
        };
        if got != 0 {
            return Err(PyErr::take(object.py())
                .unwrap_or_else(|| PyTypeError::new_err("a bytes-like object is required")));
        }
        // SAFETY: PyObject_GetBuffer succeeded.
        Ok(View(unsafe { view.assume_init() }))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        if self.0.len == 0 {
            return &[];
        }
        // SAFETY: the exporter keeps `len` bytes at `buf` in place until the view is released.
        unsafe { std::slice::from_raw_parts(self.0.buf.cast(), self.0.len as usize) }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: released once, with the GIL: a view lives only inside a native function.
        unsafe { ffi::PyBuffer_Release(&mut self.0) };
    }
}
