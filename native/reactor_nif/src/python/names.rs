//! The Python objects that a context calls with, and what the answers mean.

use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyString;

/// What a protocol method asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Continue,
    WritePending,
    ReadPending,
    Close,
    AsyncPending,
}

const ACTIONS: [(&str, Action); 5] = [
    ("continue", Action::Continue),
    ("write_pending", Action::WritePending),
    ("read_pending", Action::ReadPending),
    ("close", Action::Close),
    ("async_pending", Action::AsyncPending),
];

/// What is looked up once per context.
pub struct Names {
    pub connection_made: Py<PyString>,
    pub data_received: Py<PyString>,
    pub write_ready: Py<PyString>,
    pub going_away: Py<PyString>,
    pub eof_received: Py<PyString>,
    pub pause_writing: Py<PyString>,
    pub resume_writing: Py<PyString>,
    pub write_buffer: Py<PyString>,
    pub addr: Py<PyString>,
    pub port: Py<PyString>,
    pub kind: Py<PyString>,
    pub tcp: Py<PyString>,
    pub tls: Py<PyString>,
    pub proxy: Py<PyString>,
    pub buffer_type: Py<PyAny>,
    pub resolve: Py<PyAny>,
    pub own_factory: Py<PyAny>,
    pub instance: Py<PyAny>,
    pub open: Py<PyAny>,
    pub lost: Py<PyAny>,
    pub end_context: Py<PyAny>,
    pub datagram_received: Py<PyString>,
    pub error_received: Py<PyString>,
    pub datagram_instance: Py<PyAny>,
    pub datagram_open: Py<PyAny>,
    pub datagram_lost: Py<PyAny>,
    /// What a callback that takes too long is interrupted with.
    pub callback_timeout: Py<PyAny>,
    /// What a call is interrupted with that nobody waits for any more.
    pub call_timeout: Py<PyAny>,
    actions: Vec<Py<PyString>>,
    checked: Py<PyAny>,
    write: Py<PyString>,
    function: Py<PyString>,
    /// The functions of the base class, to see what is overridden.
    base_write_ready: Py<PyAny>,
    base_write: Py<PyAny>,
    base_going_away: Py<PyAny>,
    base_eof_received: Py<PyAny>,
    base_pause_writing: Py<PyAny>,
    base_resume_writing: Py<PyAny>,
}

impl Names {
    /// Imports what they belong to.
    pub fn new(py: Python<'_>) -> PyResult<Names> {
        let native = py.import("_reactor")?;
        let reactor = py.import("erlang.reactor")?;
        // What this interpreter has to say goes to Logger from now on.
        py.import("erlang.reactor.reports")?
            .call_method0("install")?;
        let base = reactor.getattr("Protocol")?;
        let interned = |text: &str| PyString::intern(py, text).unbind();
        Ok(Names {
            connection_made: interned("connection_made"),
            data_received: interned("data_received"),
            write_ready: interned("write_ready"),
            going_away: interned("going_away"),
            eof_received: interned("eof_received"),
            pause_writing: interned("pause_writing"),
            resume_writing: interned("resume_writing"),
            write_buffer: interned("write_buffer"),
            addr: interned("addr"),
            port: interned("port"),
            kind: interned("type"),
            tcp: interned("tcp"),
            tls: interned("tls"),
            proxy: interned("proxy"),
            write: interned("write"),
            function: interned("__func__"),
            buffer_type: native.getattr("ReactorBuffer")?.unbind(),
            resolve: reactor.getattr("_resolve")?.unbind(),
            own_factory: reactor.getattr("_own_factory")?.unbind(),
            instance: reactor.getattr("_instance")?.unbind(),
            open: reactor.getattr("_open")?.unbind(),
            lost: reactor.getattr("_lost")?.unbind(),
            end_context: py
                .import("erlang.reactor.context")?
                .getattr("end")?
                .unbind(),
            datagram_received: interned("datagram_received"),
            error_received: interned("error_received"),
            datagram_instance: reactor.getattr("_datagram_instance")?.unbind(),
            datagram_open: reactor.getattr("_datagram_open")?.unbind(),
            datagram_lost: reactor.getattr("_datagram_lost")?.unbind(),
            callback_timeout: reactor.getattr("CallbackTimeout")?.unbind(),
            call_timeout: reactor.getattr("CallTimeout")?.unbind(),
            actions: ACTIONS.iter().map(|(text, _)| interned(text)).collect(),
            checked: reactor.getattr("_checked")?.unbind(),
            base_write_ready: base.getattr("write_ready")?.unbind(),
            base_write: base.getattr("write")?.unbind(),
            base_going_away: base.getattr("going_away")?.unbind(),
            base_eof_received: base.getattr("eof_received")?.unbind(),
            base_pause_writing: base.getattr("pause_writing")?.unbind(),
            base_resume_writing: base.getattr("resume_writing")?.unbind(),
        })
    }

    /// True when the protocol writes in the way of the base class.
    pub fn is_native(&self, protocol: &Bound<'_, PyAny>) -> PyResult<bool> {
        Ok(
            self.inherits(protocol, &self.write_ready, &self.base_write_ready)?
                && self.inherits(protocol, &self.write, &self.base_write)?,
        )
    }

    /// True when the protocol wants to know that its server goes away.
    pub fn hears_of_the_end(&self, protocol: &Bound<'_, PyAny>) -> PyResult<bool> {
        Ok(!self.inherits(protocol, &self.going_away, &self.base_going_away)?)
    }

    /// True when the protocol wants to know that its peer sends no more.
    pub fn hears_of_eof(&self, protocol: &Bound<'_, PyAny>) -> PyResult<bool> {
        Ok(!self.inherits(protocol, &self.eof_received, &self.base_eof_received)?)
    }

    /// True when the protocol wants to know whether there is room to write.
    pub fn hears_of_room(&self, protocol: &Bound<'_, PyAny>) -> PyResult<bool> {
        Ok(
            !(self.inherits(protocol, &self.pause_writing, &self.base_pause_writing)?
                && self.inherits(protocol, &self.resume_writing, &self.base_resume_writing)?),
        )
    }

    fn inherits(
        &self,
        protocol: &Bound<'_, PyAny>,
        name: &Py<PyString>,
        base: &Py<PyAny>,
    ) -> PyResult<bool> {
        let py = protocol.py();
        let method = protocol.getattr(name.bind(py))?;
        let function = method.getattr(self.function.bind(py));
        Ok(function.is_ok_and(|function| function.is(base)))
    }

    /// What `method` of the protocol asked for.
    pub fn action(
        &self,
        protocol: *mut ffi::PyObject,
        method: &Py<PyString>,
        result: &Bound<'_, PyAny>,
    ) -> PyResult<Action> {
        for (name, (_, action)) in self.actions.iter().zip(ACTIONS) {
            if result.is(name) {
                return Ok(action);
            }
        }
        // Not an interned string: Python compares, or says what is wrong with it.
        let py = result.py();
        // SAFETY: with the GIL; the connection keeps the protocol alive.
        let protocol = unsafe { Bound::from_borrowed_ptr(py, protocol) };
        let text: String = self
            .checked
            .call1(py, (protocol, method, result))?
            .extract(py)?;
        let found = ACTIONS.iter().find(|(name, _)| *name == text);
        found
            .map(|(_, action)| *action)
            .ok_or_else(|| PyTypeError::new_err(format!("no such action: {text}")))
    }
}
