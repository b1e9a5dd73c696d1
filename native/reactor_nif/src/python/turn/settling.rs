//! What a call answered is put into effect, with the GIL: what its connection does next, and what is
//! to be written for it.

use std::sync::Arc;

use pyo3::exceptions::PyOSError;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::connection::Phase;
use crate::error::{Cause, Reason};
use crate::owner::{Conn, Owner};
use crate::python::flow::{self, end_outflow, Outflow};
use crate::python::names::Action;
use crate::python::outgoing::Part;
use crate::python::protocol::{note_waiting, Farewell, Mode};
use crate::python::turn::{Turn, Write};

impl Turn {
    /// Puts the action into effect; true when there is more to do at once.
    pub(in crate::python) fn settle(
        &mut self,
        py: Python<'_>,
        conn: &Arc<Conn>,
        object: *mut ffi::PyObject,
        native: bool,
        action: Action,
    ) -> PyResult<bool> {
        if action == Action::Close {
            // Not the call's own: connection_made may say it too.
            let (object, native) = match &conn.lock().owner {
                Owner::Protocol(owner) => (owner.object, owner.native),
                _ => (object, native),
            };
            if native && !object.is_null() {
                self.send_last(py, conn, object)?;
            }
            self.lose(py, conn, Cause::Local, None);
            return Ok(true);
        }
        if action == Action::WritePending && native && !object.is_null() {
            let (limit, refused) = {
                let state = conn.lock();
                (state.write_limit(), state.cannot_write())
            };
            let (part, length, left) = self.take_write_buffer(py, object, limit)?;
            if let (1.., Some(reason)) = (length, refused) {
                self.outgoing.drop_last(py, part, length);
                return Err(cannot_write(reason));
            }
            if length > 0 {
                return self.write_later(py, conn, part, length, left);
            }
            found_empty(conn);
        }
        let ending = self.stopping || conn.draining();
        let mut state = conn.lock();
        let queued = state.queued();
        let high = state.settings.high_watermark;
        let low = state.settings.low_watermark;
        let readable = state.may_read();
        let writable = state.writable;
        let open = state.phase == Phase::Open;
        let Owner::Protocol(owner) = &mut state.owner else {
            return Ok(false);
        };
        owner.called = false;
        owner.mode = match action {
            // Somebody ended it meanwhile.
            _ if owner.mode == Mode::Ending || !open => Mode::Ending,
            // A buffer that is empty has been written.
            Action::WritePending if native => Mode::Reading,
            Action::WritePending => Mode::Writing,
            Action::ReadPending => Mode::Reading,
            Action::AsyncPending => Mode::Waiting,
            Action::Continue if owner.mode == Mode::New => Mode::Reading,
            Action::Continue | Action::Close => owner.mode,
        };
        owner.more = false;
        let writes_itself = !owner.native;
        let look = owner.signalled
            || owner.goes_on(readable, ending)
            || owner.room.turns(queued, high, low)
            || (owner.mode == Mode::Writing && writable);
        // Of one that the loop writes for, only what was looked at is known to be empty.
        if action == Action::WritePending || writes_itself {
            end_outflow(&mut state);
        }
        note_waiting(&mut state);
        Ok(look)
    }

    /// Likewise for the answer to `going_away`. Whatever the protocol waited for, it waits for still.
    pub(super) fn settle_farewell(
        &mut self,
        py: Python<'_>,
        conn: &Arc<Conn>,
        object: *mut ffi::PyObject,
        native: bool,
        action: Action,
    ) -> PyResult<bool> {
        if action == Action::Close {
            return self.settle(py, conn, object, native, action);
        }
        if action == Action::WritePending && native {
            if waits_behind_a_message(conn) {
                return Ok(true);
            }
            // All of it, so that nothing of it has to be waited for in another way than before.
            let (part, length, left) = self.take_write_buffer(py, object, usize::MAX)?;
            if length > 0 {
                return self.write_later(py, conn, part, length, left);
            }
            found_empty(conn);
        }
        if let Owner::Protocol(owner) = &mut conn.lock().owner {
            owner.called = false;
            match (action, owner.mode) {
                (Action::WritePending, Mode::Reading | Mode::Waiting) if !native => {
                    owner.mode = Mode::Writing;
                }
                (Action::ReadPending, _) => owner.farewell = Farewell::Stays,
                (Action::AsyncPending, Mode::Reading) => owner.mode = Mode::Waiting,
                _ => {}
            }
        }
        Ok(true)
    }

    /// Has what was taken last written once the GIL is released. Until then the call is not over.
    fn write_later(
        &mut self,
        py: Python<'_>,
        conn: &Arc<Conn>,
        part: Part,
        length: usize,
        left: usize,
    ) -> PyResult<bool> {
        if let Owner::Protocol(owner) = &mut conn.lock().owner {
            if owner.outflow == Outflow::Closed {
                self.outgoing.drop_last(py, part, length);
                return Err(flow::too_late(length + left));
            }
            owner.room.left = left;
            owner.room.stale = false;
            // One that waits for its own signal goes on doing so.
            if !matches!(owner.mode, Mode::Ending | Mode::Waiting) {
                owner.mode = Mode::Writing;
            }
        }
        self.writes.push(Write {
            conn: Arc::clone(conn),
            part,
            more: left > 0,
        });
        Ok(false)
    }
}

/// Its write buffer was looked at, and nothing was in it.
fn found_empty(conn: &Conn) {
    if let Owner::Protocol(owner) = &mut conn.lock().owner {
        owner.room.left = 0;
        owner.room.stale = false;
    }
}

/// True when a message is queued, behind which no other can be: what is in the write buffer is then
/// taken when that is sent.
fn waits_behind_a_message(conn: &Conn) -> bool {
    let mut state = conn.lock();
    let waits = state.has_messages() && state.queued() > 0;
    match &mut state.owner {
        Owner::Protocol(owner) if waits => {
            owner.called = false;
            if owner.mode != Mode::Ending {
                owner.mode = Mode::Writing;
                owner.more = true;
            }
            true
        }
        _ => false,
    }
}

/// For a descriptor that nothing can be written to.
fn cannot_write(reason: Reason) -> PyErr {
    let (code, text) = match reason {
        Reason::Errno(libc::EBADF) => (libc::EBADF, "it is open for reading only".into()),
        Reason::Errno(code) => (code, std::io::Error::from_raw_os_error(code).to_string()),
        other => (libc::EPIPE, other.to_string()),
    };
    PyOSError::new_err((code, format!("cannot send what is in write_buffer: {text}")))
}
