//! What a protocol and its loop tell each other about the flow: reading that is paused, queues that are full,
//! and streams of which one half has ended.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::connection::State;
use crate::error::Cause;
use crate::owner::{kick, Conn, Owner};
use crate::pool::PooledBuf;
use crate::python::calls::{method, names};
use crate::python::module::connection;
use crate::python::names::Action;
use crate::python::protocol::{Mode, ProtocolOwner};
use crate::python::turn::Turn;
use crate::python::watch::Callback;

/// How often reading was paused, of all connections: by this a turn finds out that what it has read may
/// have to wait, without a look at each connection.
static PAUSES: AtomicU64 = AtomicU64::new(0);

/// How often reading was paused so far.
pub fn pauses() -> u64 {
    PAUSES.load(Ordering::Relaxed)
}

/// Where a protocol is with the end of what its peer sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inflow {
    /// It does not override `eof_received`: the end of the stream is the end of the connection.
    Whole,
    /// It is told when the stream ends.
    Open,
    /// It was told, and ends as soon as it would wait for data.
    Over,
    /// It was told, and ends by itself.
    Kept,
}

/// Where a protocol is with the end of what it sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outflow {
    Open,
    /// It called `write_eof`: the stream ends behind what is in `write_buffer`.
    Closing,
    /// Nothing more can be sent.
    Closed,
}

/// What is known of how much a protocol has to send.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// It overrides `pause_writing` or `resume_writing`.
    pub heard: bool,
    /// It was told to pause, and not to resume since.
    pub full: bool,
    /// What was in `write_buffer` when it was last looked at, and not taken, in bytes.
    pub left: usize,
    /// The protocol has signalled since that there is more.
    pub stale: bool,
}

impl Room {
    /// Nothing was sent yet.
    pub const EMPTY: Room = Room {
        heard: false,
        full: false,
        left: 0,
        stale: false,
    };

    /// True when the protocol is to be told, with so many bytes queued: above the high-water mark for the
    /// first time, or below the low one again.
    pub fn turns(&self, queued: usize, high: usize, low: usize) -> bool {
        let waiting = queued + self.left;
        self.heard
            && if self.full {
                waiting <= low
            } else {
                // As long as the kernel takes everything, nothing waits.
                queued > 0 && waiting > high
            }
    }
}

/// Ends what is sent, behind what is queued, once the protocol has nothing left to give.
pub(super) fn end_outflow(state: &mut State<Owner>) {
    let Owner::Protocol(owner) = &mut state.owner else {
        return;
    };
    if owner.outflow != Outflow::Closing || owner.more {
        return;
    }
    // One that writes by itself may be in the middle of that.
    if !owner.native && (owner.signalled || matches!(owner.mode, Mode::New | Mode::Writing)) {
        return;
    }
    owner.outflow = Outflow::Closed;
    // Where it fails the connection is broken, and ends by that.
    let _ = state.shutdown(false, true);
}

impl Turn {
    /// True when reading was paused after this was read, so that it waits where it came from.
    pub(super) fn puts_back(&self, conn: &Arc<Conn>, data: &PooledBuf) -> bool {
        if pauses() == self.pauses {
            return false;
        }
        let mut state = conn.lock();
        match &mut state.owner {
            Owner::Protocol(owner) if owner.paused && owner.mode != Mode::Ending => {
                owner.called = false;
                state.unread(data.as_slice());
                true
            }
            _ => false,
        }
    }

    /// The peer sends no more: true when there is more to do at once.
    pub(super) fn end_inflow(
        &mut self,
        py: Python<'_>,
        conn: &Arc<Conn>,
        object: *mut ffi::PyObject,
        native: bool,
    ) -> PyResult<bool> {
        let names = names(&self.names)?;
        // It is not over yet: what ends it may be something else.
        conn.lock().cause = None;
        let call = || method(py, &names.eof_received, &[object]);
        let result = self.timed(py, Callback::EofReceived, conn.id, call, |error| error)?;
        if result.is_none() {
            self.lose(py, conn, Cause::Remote, None);
            return Ok(true);
        }
        let action = names.action(object, &names.eof_received, &result)?;
        let mut state = conn.lock();
        if action == Action::Close {
            state.because(Cause::Remote);
        } else if let Owner::Protocol(owner) = &mut state.owner {
            owner.inflow = match action {
                Action::WritePending | Action::AsyncPending => Inflow::Over,
                _ => Inflow::Kept,
            };
        }
        drop(state);
        self.settle(py, conn, object, native, action)
    }

    /// What waits to be sent is to be known, though there is no room for it.
    pub(super) fn measure(
        &self,
        py: Python<'_>,
        conn: &Arc<Conn>,
        object: *mut ffi::PyObject,
    ) -> PyResult<bool> {
        let names = names(&self.names)?;
        // SAFETY: with the GIL; the connection keeps the protocol alive.
        let protocol = unsafe { Bound::from_borrowed_ptr(py, object) };
        let left = protocol.getattr(names.write_buffer.bind(py))?.len()?;
        if let Owner::Protocol(owner) = &mut conn.lock().owner {
            owner.called = false;
            owner.room.left = left;
            owner.room.stale = false;
        }
        Ok(true)
    }

    /// More waits to be sent than should, or little enough again.
    pub(super) fn tell_room(
        &mut self,
        py: Python<'_>,
        conn: &Arc<Conn>,
        object: *mut ffi::PyObject,
        native: bool,
        full: bool,
    ) -> PyResult<bool> {
        let names = names(&self.names)?;
        let (name, what) = if full {
            (&names.pause_writing, Callback::PauseWriting)
        } else {
            (&names.resume_writing, Callback::ResumeWriting)
        };
        let call = || method(py, name, &[object]);
        let result = self.timed(py, what, conn.id, call, |error| error)?;
        let action = if result.is_none() {
            Action::Continue
        } else {
            names.action(object, name, &result)?
        };
        if action == Action::Close {
            return self.settle(py, conn, object, native, action);
        }
        let mut state = conn.lock();
        if let Owner::Protocol(owner) = &mut state.owner {
            owner.called = false;
            // Whatever else it waits for, it waits for still.
            if action == Action::WritePending {
                owner.signal();
            }
        }
        Ok(true)
    }
}

/// Runs `change` on the protocol of the handle, if it is connected, and has its loop look at it.
fn change<'py>(
    py: Python<'py>,
    handle: &Bound<'py, PyAny>,
    change: fn(&mut ProtocolOwner),
) -> PyResult<Bound<'py, PyAny>> {
    let conn = connection(handle)?;
    py.detach(|| {
        let mut state = conn.lock();
        if let Owner::Protocol(owner) = &mut state.owner {
            change(owner);
            drop(state);
            kick(&conn);
        }
    });
    Ok(py.None().into_bound(py))
}

pub(super) fn pause_reading<'py>(
    py: Python<'py>,
    args: &[Bound<'py, PyAny>],
) -> PyResult<Bound<'py, PyAny>> {
    change(py, &args[0], |owner| {
        owner.paused = true;
        PAUSES.fetch_add(1, Ordering::Relaxed);
    })
}

pub(super) fn resume_reading<'py>(
    py: Python<'py>,
    args: &[Bound<'py, PyAny>],
) -> PyResult<Bound<'py, PyAny>> {
    change(py, &args[0], |owner| owner.paused = false)
}

pub(super) fn write_eof<'py>(
    py: Python<'py>,
    args: &[Bound<'py, PyAny>],
) -> PyResult<Bound<'py, PyAny>> {
    change(py, &args[0], |owner| {
        if owner.outflow == Outflow::Open {
            owner.outflow = Outflow::Closing;
            // What is in the write buffer goes first. One that writes by itself says when it has.
            owner.signalled |= owner.native || owner.mode == Mode::New;
        }
    })
}

/// What is left in a write buffer of which nothing can be sent any more.
pub(super) fn too_late(bytes: usize) -> PyErr {
    PyRuntimeError::new_err(format!(
        "write_buffer has {bytes} more bytes after write_eof(), which ended what is sent"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_turns_once_above_the_high_mark_and_once_below_the_low_one() {
        let mut room = Room {
            heard: true,
            ..Room::EMPTY
        };
        assert!(!room.turns(100, 100, 20));
        assert!(room.turns(101, 100, 20));
        room.left = 101;
        assert!(!room.turns(0, 100, 20), "the kernel takes all");
        assert!(room.turns(1, 100, 20));
        room.full = true;
        assert!(!room.turns(0, 100, 20));
        room.left = 0;
        assert!(!room.turns(21, 100, 20));
        assert!(room.turns(20, 100, 20));
        room.heard = false;
        assert!(!room.turns(0, 100, 20));
    }
}
