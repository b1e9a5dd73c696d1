//! The calls of datagram protocols: what a context tells them, with the GIL.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Instant;

use pyo3::exceptions::PyOSError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::{Call, Phase, Served, What};
use crate::address::Address;
use crate::error::{Cause, Reason};
use crate::pool::PooledBuf;
use crate::python::buffer;
use crate::python::calls::{method, names};
use crate::python::module;
use crate::python::protocol::FactoryKey;
use crate::python::turn::Turn;
use crate::python::watch::Callback;

impl Turn {
    /// Sends what the protocols answered, without the GIL, and has the loop look at their sockets again.
    pub(in crate::python) fn send_datagrams(&mut self, calls: Vec<Call>) {
        for call in calls {
            let mut state = call.served.lock();
            call.served.send_answers(&mut state);
            state.called = false;
            drop(state);
            self.look.push(call.served.token.load(Ordering::Relaxed));
        }
    }

    /// Ends protocols whatever they are doing.
    pub fn lose_datagrams(&mut self, all: &[Arc<Served>]) {
        let Some(mut thread) = self.thread.take() else {
            return;
        };
        thread.with(|py| {
            for served in all {
                self.lose_datagram(py, served, Cause::Cut);
            }
        });
        self.thread = Some(thread);
        for served in all {
            let mut state = served.lock();
            served.send_answers(&mut state);
            state.called = false;
        }
    }

    // ---- with the GIL -----------------------------------------------------------

    pub(in crate::python) fn call_datagrams(&mut self, py: Python<'_>, call: &mut Call) {
        let served = &call.served;
        match &mut call.what {
            What::Open => {
                if let Err((callback, error)) = self.open_datagrams(py, served) {
                    self.report_datagram(py, served, callback, error);
                    let mut state = served.lock();
                    state.phase = Phase::Over(Cause::Exception);
                    state.pauses.ended(false, Instant::now());
                }
            }
            What::Received(data, errors) => {
                let (data, errors) = (std::mem::take(data), std::mem::take(errors));
                let object = served.lock().object;
                let id = served.lock().id;
                let fail = |error| error;
                for reason in errors {
                    let call = || self.error_received(py, object, reason);
                    if let Err(error) = self.timed(py, Callback::ErrorReceived, id, call, fail) {
                        self.report_datagram(py, served, "error_received", error);
                    }
                }
                for (from, data) in data {
                    let call = || self.datagram_received(py, object, from, data);
                    if let Err(error) = self.timed(py, Callback::DatagramReceived, id, call, fail) {
                        self.report_datagram(py, served, "datagram_received", error);
                    }
                }
            }
            What::Lost(cause) => {
                let cause = *cause;
                self.lose_datagram(py, served, cause);
            }
        }
    }

    fn open_datagrams(
        &mut self,
        py: Python<'_>,
        served: &Arc<Served>,
    ) -> Result<(), (&'static str, PyErr)> {
        let key = FactoryKey::Listener(served.listener.group.id);
        let made = || -> PyResult<_> {
            let names = names(&self.names)?;
            let factory = self.factories.get(&key).map(|known| known.clone_ref(py));
            names.datagram_instance.call1(py, (factory,))
        };
        let id = served.lock().id;
        let protocol = self
            .timed(py, Callback::Factory, id, made, |error| error)
            .map_err(|error| ("factory", error))?;
        let connect = || -> PyResult<()> {
            let names = names(&self.names)?;
            let address = served.listener.lock().address();
            let address = match address {
                Ok(Address::Net(address)) => Some(tuple(py, address)?),
                _ => None,
            };
            // SAFETY: with the GIL; a null is turned into the exception that is set.
            let handle = unsafe {
                let handle = module::make_datagram_handle(served);
                Bound::from_owned_ptr_or_err(py, handle)?
            };
            names
                .datagram_open
                .call1(py, (handle, address, protocol.clone_ref(py)))?;
            Ok(())
        };
        self.timed(py, Callback::ConnectionMade, id, connect, |error| error)
            .map_err(|error| ("connection_made", error))?;
        let mut state = served.lock();
        state.object = protocol.into_ptr();
        state.phase = Phase::Open;
        Ok(())
    }

    fn datagram_received(
        &self,
        py: Python<'_>,
        object: *mut ffi::PyObject,
        from: SocketAddr,
        data: PooledBuf,
    ) -> PyResult<()> {
        let names = names(&self.names)?;
        // SAFETY: with the GIL; the type is the one that the module made, and a null carries an
        // exception.
        let buffer = unsafe {
            let buffer = buffer::wrap(names.buffer_type.as_ptr().cast(), data);
            Bound::from_owned_ptr_or_err(py, buffer)?
        };
        let from = tuple(py, from)?;
        let args = [object, buffer.as_ptr(), from.as_ptr()];
        method(py, &names.datagram_received, &args)?;
        Ok(())
    }

    fn error_received(
        &self,
        py: Python<'_>,
        object: *mut ffi::PyObject,
        reason: Reason,
    ) -> PyResult<()> {
        let names = names(&self.names)?;
        let code = match reason {
            Reason::Errno(code) => code,
            Reason::MessageSize => libc::EMSGSIZE,
            _ => libc::EIO,
        };
        // Python chooses the subclass, as ConnectionRefusedError.
        let error =
            PyErr::new::<PyOSError, _>((code, std::io::Error::from_raw_os_error(code).to_string()));
        let error = error.into_value(py);
        method(py, &names.error_received, &[object, error.as_ptr()])?;
        Ok(())
    }

    fn lose_datagram(&mut self, py: Python<'_>, served: &Arc<Served>, cause: Cause) {
        let mut state = served.lock();
        if state.phase != Phase::Open {
            return;
        }
        let object = std::mem::replace(&mut state.object, std::ptr::null_mut());
        let received = state.traffic.reads > 0;
        let id = state.id;
        drop(state);
        if let (false, Some(names)) = (object.is_null(), &self.names) {
            // SAFETY: the socket's own reference, taken out of it above.
            let object = unsafe { Bound::from_owned_ptr(py, object) };
            let call = || names.datagram_lost.call1(py, (object,)).map(drop);
            let lost = self.timed(py, Callback::ConnectionLost, id, call, |error| error);
            if let Err(error) = lost {
                self.report_datagram(py, served, "connection_lost", error);
            }
        }
        let mut state = served.lock();
        state.phase = Phase::Over(cause);
        if cause == Cause::Local {
            state.pauses.ended(received, Instant::now());
        }
    }

    fn report_datagram(
        &mut self,
        py: Python<'_>,
        served: &Arc<Served>,
        callback: &'static str,
        error: PyErr,
    ) {
        // Its socket stays open whatever it was.
        self.overdue.set(false);
        let id = served.lock().id;
        let error = self.in_words(py, id, error);
        tracing::error!(
            context = %self.name,
            connection = id,
            "a Python datagram protocol failed in {callback}, its socket stays open\n{}",
            error.traceback.trim_end()
        );
        let exception = (Arc::clone(served), id, error, callback);
        self.datagram_exceptions.push(exception);
    }
}

/// An address as Python's `socket` writes it.
fn tuple(py: Python<'_>, address: SocketAddr) -> PyResult<Bound<'_, PyTuple>> {
    let host = address.ip().to_string();
    match address {
        SocketAddr::V4(address) => (host, address.port()).into_pyobject(py),
        SocketAddr::V6(address) => {
            let (flow, scope) = (address.flowinfo(), address.scope_id());
            (host, address.port(), flow, scope).into_pyobject(py)
        }
    }
}
