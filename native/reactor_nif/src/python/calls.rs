//! The calls themselves: what a context asks of Python, with the GIL.

use std::sync::Arc;
use std::time::Instant;

use pyo3::exceptions::{PyConnectionError, PyRuntimeError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyDict, PyString};

use crate::address::Address;
use crate::connection::Phase;
use crate::error::Cause;
use crate::owner::{Conn, Owner};
use crate::pool::PooledBuf;
use crate::python::buffer;
use crate::python::client_info::{tell_address, tls_info};
use crate::python::flow::Inflow;
use crate::python::interpreter::PythonError;
use crate::python::metadata::Metadata;
use crate::python::module;
use crate::python::names::{Action, Names};
use crate::python::outgoing::Part;
use crate::python::protocol::{FactoryKey, Farewell, Mode};
use crate::python::proxy;
use crate::python::turn::Turn;
use crate::python::watch::{Callback, Watch};

/// What a call came to: an action, or which method raised what.
pub type Outcome = Result<Action, (&'static str, PyErr)>;

impl Turn {
    pub(super) fn open(&mut self, py: Python<'_>, conn: &Arc<Conn>) -> Outcome {
        let (key, fd, metadata) = {
            let mut state = conn.lock();
            let fd = state.fd();
            let (Owner::Protocol(owner), Some(fd)) = (&mut state.owner, fd) else {
                return Ok(Action::Close);
            };
            let metadata = owner.handover.as_mut().map(|handover| {
                handover.ticket = None;
                std::mem::take(&mut handover.metadata)
            });
            (owner.key.clone(), fd, metadata)
        };
        let factory = self
            .factory_by(py, &key)
            .map_err(|error| ("factory", error))?;
        let make = || {
            let names = names(&self.names)?;
            Ok(names.instance.call1(py, (factory,))?.into_bound(py))
        };
        let protocol = self
            .timed(py, Callback::Factory, conn.id, make, |error| error)
            .map_err(|error| ("factory", error))?;
        let connect = || self.connect(py, conn, &protocol, fd, metadata);
        self.timed(py, Callback::ConnectionMade, conn.id, connect, |error| {
            error
        })
        .map_err(|error| ("connection_made", error))
    }

    /// The factory that belongs to a key, imported if that was not done yet.
    fn factory_by(&mut self, py: Python<'_>, key: &FactoryKey) -> PyResult<Py<PyAny>> {
        let names = names(&self.names)?;
        let loaded = self.factories.get(key).map(|known| known.clone_ref(py));
        match (loaded, key) {
            (Some(factory), _) => Ok(factory),
            (None, FactoryKey::Named(spec)) => {
                let number = self.watch.begin(Callback::Import, 0);
                let resolved = names.resolve.call1(py, (&**spec, self.paths.clone()));
                self.watch.end(number);
                let factory = resolved?;
                self.factories.insert(key.clone(), factory.clone_ref(py));
                Ok(factory)
            }
            (None, FactoryKey::Current) => {
                let latest = self.latest.as_ref().map(|latest| latest.clone_ref(py));
                names.own_factory.call1(py, (latest,))
            }
            (None, FactoryKey::Listener(_)) => {
                let text = "no factory was loaded for this listener";
                Err(PyRuntimeError::new_err(text))
            }
        }
    }

    fn connect(
        &self,
        py: Python<'_>,
        conn: &Arc<Conn>,
        protocol: &Bound<'_, PyAny>,
        fd: i32,
        metadata: Option<Metadata>,
    ) -> PyResult<Action> {
        let names = names(&self.names)?;
        let client_info = PyDict::new(py);
        tell_address(names, &client_info, conn)?;
        client_info.set_item(&names.tls, tls_info(py, conn)?)?;
        let header = conn.lock().header().cloned();
        let header = header
            .map(|header| proxy::to_dict(py, &header))
            .transpose()?;
        client_info.set_item(&names.proxy, header)?;
        if let Some(metadata) = metadata {
            metadata.tell(&client_info)?;
        }
        // SAFETY: with the GIL; a null is turned into the exception that is set.
        let handle = unsafe { Bound::from_owned_ptr_or_err(py, module::make_handle(conn))? };
        let action = names.open.call1(py, (handle, fd, client_info, protocol))?;
        let native = names.is_native(protocol);
        let hears = names.hears_of_the_end(protocol);
        let eof = names.hears_of_eof(protocol);
        let room = names.hears_of_room(protocol);
        if let Owner::Protocol(owner) = &mut conn.lock().owner {
            // From here on it is told of the end, whatever happens.
            owner.object = protocol.clone().into_ptr();
            owner.native = *native.as_ref().unwrap_or(&false);
            if *hears.as_ref().unwrap_or(&false) {
                owner.farewell = Farewell::Due;
            }
            if *eof.as_ref().unwrap_or(&false) {
                owner.inflow = Inflow::Open;
            }
            // One that writes by itself finds out when it does, whatever waits to be sealed.
            owner.room.heard = owner.native && *room.as_ref().unwrap_or(&false);
        }
        let native = native?;
        hears?;
        eof?;
        room?;
        if action.is_none(py) {
            return Ok(Action::Continue);
        }
        let action = action.into_bound(py);
        let action = names.action(protocol.as_ptr(), &names.connection_made, &action)?;
        if action == Action::WritePending && native {
            // Settled as a write of its own, now that the object is known.
            if let Owner::Protocol(owner) = &mut conn.lock().owner {
                if owner.mode == Mode::New {
                    owner.mode = Mode::Reading;
                    owner.signal();
                }
            }
            return Ok(Action::Continue);
        }
        Ok(action)
    }

    pub(super) fn data_received(
        &self,
        py: Python<'_>,
        object: *mut ffi::PyObject,
        data: PooledBuf,
    ) -> Outcome {
        let call = || {
            let names = names(&self.names)?;
            // SAFETY: with the GIL; the type is the one that the module made, and a null carries an
            // exception.
            let buffer = unsafe {
                let buffer = buffer::wrap(names.buffer_type.as_ptr().cast(), data);
                Bound::from_owned_ptr_or_err(py, buffer)?
            };
            let result = method(py, &names.data_received, &[object, buffer.as_ptr()])?;
            names.action(object, &names.data_received, &result)
        };
        call().map_err(|error| ("data_received", error))
    }

    pub(super) fn write_ready(&self, py: Python<'_>, object: *mut ffi::PyObject) -> Outcome {
        let call = || {
            let names = names(&self.names)?;
            let result = method(py, &names.write_ready, &[object])?;
            names.action(object, &names.write_ready, &result)
        };
        call().map_err(|error| ("write_ready", error))
    }

    pub(super) fn going_away(&self, py: Python<'_>, object: *mut ffi::PyObject) -> Outcome {
        let call = || {
            let names = names(&self.names)?;
            let result = method(py, &names.going_away, &[object])?;
            if result.is_none() {
                return Ok(Action::Continue);
            }
            names.action(object, &names.going_away, &result)
        };
        call().map_err(|error| ("going_away", error))
    }

    /// Queues what a closing protocol still has in its `write_buffer`: it is flushed before the fd
    /// is closed.
    pub(super) fn send_last(
        &mut self,
        py: Python<'_>,
        conn: &Arc<Conn>,
        object: *mut ffi::PyObject,
    ) -> PyResult<()> {
        let (part, bytes, _) = self.take_write_buffer(py, object, usize::MAX)?;
        if bytes > 0 {
            let mut state = conn.lock();
            let waits = state.has_messages() && state.queued() > 0;
            // A peer that is gone does not get it.
            let written = state.write(&[], self.outgoing.bytes(&part));
            drop(state);
            if waits && written.is_err() {
                tracing::warn!(
                    context = %self.name,
                    connection = conn.id,
                    bytes,
                    "a protocol closed its connection while an earlier message waited for room: its \
                     last one is lost"
                );
            }
            self.outgoing.drop_last(py, part, bytes);
        }
        Ok(())
    }

    /// Takes up to `limit` bytes out of `write_buffer`: what was taken, how much that is, and how much is
    /// left.
    pub(super) fn take_write_buffer(
        &mut self,
        py: Python<'_>,
        object: *mut ffi::PyObject,
        limit: usize,
    ) -> PyResult<(Part, usize, usize)> {
        let names = names(&self.names)?;
        // SAFETY: with the GIL; a null is turned into the exception that is set.
        let buffer = unsafe {
            let buffer = ffi::PyObject_GetAttr(object, names.write_buffer.as_ptr());
            Bound::from_owned_ptr_or_err(py, buffer)?
        };
        match buffer.cast::<PyByteArray>() {
            Ok(buffer) => self.outgoing.take(buffer, limit),
            Err(_) => Err(PyTypeError::new_err(format!(
                "write_buffer must be a bytearray, not {}",
                buffer.get_type().getattr("__name__")?
            ))),
        }
    }

    /// Ends a connection, for this cause unless another is known: the protocol is told, the fd is
    /// closed once what is queued is flushed. The loop has to look at it once more. `error` is what one
    /// of its methods raised, if that ended it.
    pub(super) fn lose(
        &mut self,
        py: Python<'_>,
        conn: &Arc<Conn>,
        cause: Cause,
        error: Option<PyErr>,
    ) {
        let mut state = conn.lock();
        state.because(cause);
        let cause = state.cause.unwrap_or(cause).name();
        let object = match &mut state.owner {
            Owner::Protocol(owner) => {
                owner.end();
                owner.called = true;
                std::mem::replace(&mut owner.object, std::ptr::null_mut())
            }
            _ => return,
        };
        drop(state);
        if let (false, Some(names)) = (object.is_null(), &self.names) {
            // SAFETY: the connection's own reference, taken out of it above.
            let object = unsafe { Bound::from_owned_ptr(py, object) };
            let error = error.map(|error| error.into_value(py));
            let call = || names.lost.call1(py, (object, cause, error)).map(drop);
            let lost = self.timed(py, Callback::ConnectionLost, conn.id, call, |error| error);
            // It ends in any case.
            self.overdue.set(false);
            if let Err(error) = lost {
                self.report(py, conn, "connection_lost", error);
            }
        }
        let mut state = conn.lock();
        state.owner = Owner::Nobody;
        state.close(Instant::now());
    }

    pub(super) fn report(
        &mut self,
        py: Python<'_>,
        conn: &Arc<Conn>,
        callback: &'static str,
        error: PyErr,
    ) {
        let peer = conn.peer.as_ref().map(Address::to_string);
        let peer = peer.unwrap_or_default();
        let state = conn.lock();
        let lost = state.cause.is_some() || state.phase != Phase::Open;
        drop(state);
        // Of another connection, as one to a database, it would be a failure like any other.
        let common = lost && error.is_instance_of::<PyConnectionError>(py);
        let error = self.in_words(py, conn.id, error);
        if common {
            tracing::debug!(context = %self.name, %peer, %error, "a Python protocol lost its peer");
            return;
        }
        tracing::error!(
            context = %self.name,
            %peer,
            connection = conn.id,
            "a Python protocol failed, its connection is closed\n{}",
            error.traceback.trim_end()
        );
        self.exceptions.push((Arc::clone(conn), error, callback));
    }
}

impl Turn {
    /// Makes a call that may be interrupted. If it was, it failed, whatever it returned: `fail` makes
    /// an outcome of the exception.
    pub(super) fn timed<T, E>(
        &self,
        py: Python<'_>,
        what: Callback,
        connection: u64,
        call: impl FnOnce() -> Result<T, E>,
        fail: impl FnOnce(PyErr) -> E,
    ) -> Result<T, E> {
        let number = self.watch.begin(what, connection);
        let outcome = call();
        if !self.watch.end(number) {
            return outcome;
        }
        self.overdue.set(true);
        outcome.and_then(|_| Err(fail(self.interrupted(py))))
    }

    /// What interrupts a call.
    pub(super) fn interrupted(&self, py: Python<'_>) -> PyErr {
        let made = names(&self.names).and_then(|names| names.callback_timeout.call0(py));
        made.map_or_else(
            |error| error,
            |exception| PyErr::from_value(exception.into_bound(py)),
        )
    }

    /// An exception in words: it may have code of its own for them.
    pub(super) fn in_words(&self, py: Python<'_>, connection: u64, error: PyErr) -> PythonError {
        in_words(&self.watch, py, connection, error)
    }
}

/// Likewise, for a context that shows its calls to that watch.
pub(super) fn in_words(
    watch: &Watch,
    py: Python<'_>,
    connection: u64,
    error: PyErr,
) -> PythonError {
    let number = watch.begin(Callback::Report, connection);
    let error = PythonError::from_raised(py, error);
    watch.end(number);
    error
}

pub(super) fn names(names: &Option<Names>) -> PyResult<&Names> {
    names
        .as_ref()
        .ok_or_else(|| PyRuntimeError::new_err("the context has no names"))
}

/// Calls a method; the object comes first.
pub(super) fn method<'py>(
    py: Python<'py>,
    name: &Py<PyString>,
    args: &[*mut ffi::PyObject],
) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: with the GIL; the object is kept alive by the connection's reference, the others by
    // the caller, and a null result carries an exception.
    unsafe {
        let result = ffi::PyObject_VectorcallMethod(
            name.as_ptr(),
            args.as_ptr(),
            args.len(),
            std::ptr::null_mut(),
        );
        Bound::from_owned_ptr_or_err(py, result)
    }
}
