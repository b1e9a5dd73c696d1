//! Making one call, with the GIL: which method it is, and what becomes of its connection if it raises.

use std::sync::Arc;

use pyo3::prelude::*;

use crate::error::Cause;
use crate::owner::{Conn, Owner};
use crate::python::names::Action;
use crate::python::turn::{Call, Kind, Turn};
use crate::python::watch::Callback;

impl Turn {
    pub(super) fn make(&mut self, py: Python<'_>, call: Call, again: &mut Vec<Arc<Conn>>) {
        let Call {
            conn,
            object,
            native,
            kind,
        } = call;
        let away = matches!(kind, Kind::GoingAway);
        let (callback, outcome) = match kind {
            Kind::Idle => {
                // The calls before this one took their time.
                if !self.is_busy_again(&conn) {
                    self.lose(py, &conn, Cause::Drained, None);
                }
                again.push(conn);
                return;
            }
            Kind::Lost => {
                self.lose(py, &conn, Cause::Local, None);
                again.push(conn);
                return;
            }
            Kind::Open => ("connection_made", self.open(py, &conn)),
            Kind::Data(data) if self.puts_back(&conn, &data) => return,
            Kind::Data(data) => {
                let call = || self.data_received(py, object, data);
                let fail = |error| ("data_received", error);
                let outcome = self.timed(py, Callback::DataReceived, conn.id, call, fail);
                ("data_received", outcome)
            }
            Kind::Write if native => ("write_ready", Ok(Action::WritePending)),
            Kind::Write => {
                let call = || self.write_ready(py, object);
                let fail = |error| ("write_ready", error);
                let outcome = self.timed(py, Callback::WriteReady, conn.id, call, fail);
                ("write_ready", outcome)
            }
            Kind::GoingAway => {
                let call = || self.going_away(py, object);
                let fail = |error| ("going_away", error);
                let outcome = self.timed(py, Callback::GoingAway, conn.id, call, fail);
                ("going_away", outcome)
            }
            Kind::Eof => {
                let settled = self.end_inflow(py, &conn, object, native);
                return self.conclude(py, conn, again, "eof_received", settled);
            }
            Kind::Measure => {
                let settled = self.measure(py, &conn, object);
                return self.conclude(py, conn, again, "write_buffer", settled);
            }
            Kind::Room(full) => {
                let callback = if full {
                    "pause_writing"
                } else {
                    "resume_writing"
                };
                let settled = self.tell_room(py, &conn, object, native, full);
                return self.conclude(py, conn, again, callback, settled);
            }
        };
        let (callback, settled) = match outcome {
            Ok(action) if away => {
                let settled = self.settle_farewell(py, &conn, object, native, action);
                (callback, settled)
            }
            Ok(action) => (callback, self.settle(py, &conn, object, native, action)),
            Err((callback, error)) => (callback, Err(error)),
        };
        self.conclude(py, conn, again, callback, settled);
    }

    /// The call is over: what is to be done about its connection.
    fn conclude(
        &mut self,
        py: Python<'_>,
        conn: Arc<Conn>,
        again: &mut Vec<Arc<Conn>>,
        callback: &'static str,
        settled: PyResult<bool>,
    ) {
        match settled {
            Ok(true) => again.push(conn),
            Ok(false) => {}
            Err(error) => {
                let cause = if self.overdue.take() {
                    Cause::CallbackTimeout
                } else {
                    Cause::Exception
                };
                self.report(py, &conn, callback, error.clone_ref(py));
                self.lose(py, &conn, cause, Some(error));
                again.push(conn);
            }
        }
    }

    /// True when something came for an idle connection, which is not ended then.
    fn is_busy_again(&self, conn: &Arc<Conn>) -> bool {
        let mut state = conn.lock();
        let came = state.has_come();
        match &mut state.owner {
            Owner::Protocol(owner) if came || owner.paused => {
                owner.called = false;
                true
            }
            _ => false,
        }
    }
}
