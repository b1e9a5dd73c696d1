//! Connections owned by a Python protocol: what can be done about them without Python.
//!
//! A context's loop reads what is ready without the GIL and collects calls; `turn.rs` makes them.

use std::sync::Arc;

use pyo3::ffi;

use crate::connection::{Level, Phase, Pull, State};
use crate::error::{Cause, Reason};
use crate::handoff::Handover;
use crate::owner::{Conn, LoopIo, Next, Owner};
use crate::pool::{Pool, PooledBuf, SizeClass};
use crate::python::flow::{end_outflow, Inflow, Outflow, Room};
use crate::python::metadata::Metadata;
use crate::python::turn::{Call, Kind};

pub use crate::python::turn::Turn;

/// What makes the protocol of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FactoryKey {
    /// The factory that was last loaded under this number, which is given out once.
    Listener(u64),
    /// The one of this name, `"module:factory"`, which is loaded when it is first needed.
    Named(Arc<str>),
    /// The context's own, at the time.
    Current,
}

/// What a connection's protocol waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// To be made.
    New,
    /// For something to read.
    Reading,
    /// For room to write.
    Writing,
    /// For `signal_write_ready`.
    Waiting,
    /// For its end.
    Ending,
}

/// What a protocol does when its server goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// Nothing: it does not override `going_away`. It ends as soon as it is idle.
    Never,
    /// It has not been called yet.
    Due,
    /// It was called, and ends as soon as it is idle.
    Said,
    /// It was called, and waits for something from its peer: it ends by itself, or is cut.
    Stays,
}

/// The owner of a connection, when it is a Python protocol.
pub struct ProtocolOwner {
    pub(super) key: FactoryKey,
    /// A reference of ours; null until the protocol is made. Released with the GIL, by the turn.
    pub(super) object: *mut ffi::PyObject,
    pub(super) mode: Mode,
    /// Neither `write_ready` nor `write` is overridden: `write_buffer` is flushed here.
    pub(super) native: bool,
    /// More of `write_buffer` is to come than the queue had room for.
    pub(super) more: bool,
    pub(super) signalled: bool,
    /// A call for it is in the batch: at most one at a time.
    pub(super) called: bool,
    pub(super) farewell: Farewell,
    /// What there is of one that was handed over.
    pub(super) handover: Option<Box<Handover>>,
    /// It does not want to be given data.
    pub(super) paused: bool,
    pub(super) inflow: Inflow,
    pub(super) outflow: Outflow,
    pub(super) room: Room,
    class: SizeClass,
}

// SAFETY: `object` is only dereferenced with the GIL, by the thread of the context that owns the
// connection.
unsafe impl Send for ProtocolOwner {}

impl ProtocolOwner {
    /// The owner of a connection whose protocol that factory is to make.
    pub fn new(key: FactoryKey) -> Self {
        ProtocolOwner {
            key,
            object: std::ptr::null_mut(),
            mode: Mode::New,
            native: false,
            more: false,
            signalled: false,
            called: false,
            farewell: Farewell::Never,
            handover: None,
            paused: false,
            inflow: Inflow::Whole,
            outflow: Outflow::Open,
            room: Room::EMPTY,
            class: SizeClass::Small,
        }
    }

    /// Likewise of one that was handed over.
    pub fn handed(key: FactoryKey, handover: Box<Handover>) -> Self {
        ProtocolOwner {
            handover: Some(handover),
            ..ProtocolOwner::new(key)
        }
    }

    /// The protocol has put something into its write buffer: from any thread.
    pub fn signal(&mut self) {
        self.signalled = true;
        self.room.stale = true;
    }

    /// The connection is to end: from any thread. `connection_lost` is called in the loop's next
    /// look at it, or after the call that is being made.
    pub fn end(&mut self) {
        self.mode = Mode::Ending;
    }

    /// What makes the protocol.
    pub fn key(&self) -> &FactoryKey {
        &self.key
    }

    /// What was said of one that was handed over; to be taken once.
    pub fn metadata(&mut self) -> Option<Metadata> {
        let handover = self.handover.as_mut();
        handover.map(|handover| std::mem::take(&mut handover.metadata))
    }

    /// Its context, in another process, has it.
    pub fn taken_up(&mut self) {
        if let Some(handover) = &mut self.handover {
            handover.ticket = None;
        }
    }

    /// True once after [`ProtocolOwner::end`], for whoever ends it in another process.
    pub fn take_end(&mut self) -> bool {
        let ends = self.mode == Mode::Ending;
        if ends {
            self.mode = Mode::Waiting;
        }
        ends
    }

    /// True when it has nothing left to do for a server that goes away.
    pub(super) fn may_go(&self) -> bool {
        self.reads() && self.farewell != Farewell::Stays
    }

    /// True when it has more to send than is known, and wants to be told if that is too much.
    fn measures(&self) -> bool {
        self.room.heard && self.room.stale && !self.room.full && self.native
    }

    /// True when it waits for data.
    pub fn reads(&self) -> bool {
        self.mode == Mode::Reading && !self.paused && !self.has_no_inflow()
    }

    /// True when nothing is read, by which it would learn that its connection has failed.
    fn hears_nothing(&self) -> bool {
        self.mode == Mode::Waiting || (self.mode == Mode::Reading && self.has_no_inflow())
    }

    fn has_no_inflow(&self) -> bool {
        matches!(self.inflow, Inflow::Over | Inflow::Kept)
    }

    /// True when it would go on if it were looked at now: it has to be, after a call that changed it.
    pub(super) fn goes_on(&self, readable: bool, ending: bool) -> bool {
        match self.mode {
            Mode::Reading if self.has_no_inflow() => self.inflow == Inflow::Over || ending,
            Mode::Reading => ending || (readable && !self.paused),
            Mode::Ending => true,
            _ => false,
        }
    }
}

/// Does what can be done for a protocol's connection without Python, and notes what cannot.
pub fn advance(conn: &Arc<Conn>, state: &mut State<Owner>, io: &mut LoopIo) -> Next {
    collect(conn, state, io);
    note_waiting(state);
    Next::Idle
}

/// Notes what the peer is waited for, for the deadlines.
pub(super) fn note_waiting(state: &mut State<Owner>) {
    let Owner::Protocol(owner) = &state.owner else {
        return;
    };
    let native = owner.native;
    let reads = owner.reads() && !owner.called;
    let writes = owner.mode == Mode::Writing && !owner.called;
    state.awaiting(reads);
    // Of one that does not write by itself the state knows it: something is queued.
    if !native {
        let full = !state.writable;
        state.awaiting_room(writes && full);
    }
}

fn collect(conn: &Arc<Conn>, state: &mut State<Owner>, io: &mut LoopIo) {
    let Some(turn) = &mut io.turn else {
        return;
    };
    let ending = io.stopping || conn.draining();
    let flushed = if state.may_flush() {
        state.flush()
    } else {
        Ok(Level::Empty)
    };
    end_outflow_unless_called(state);
    if matches!(flushed, Err(Reason::Errno(_))) {
        state.because(Cause::Reset);
    }
    let queued = state.queued();
    let high = state.settings.high_watermark;
    let low = state.settings.low_watermark;
    let may_read = state.may_read();
    let writable = state.writable;
    let open = state.phase == Phase::Open;
    // Of what is not read it is the only sign of the end.
    let over = state.failed && !state.reads();
    if over {
        state.because(Cause::Remote);
    }
    let failed = state.failed;
    let Owner::Protocol(owner) = &mut state.owner else {
        return;
    };
    if owner.called {
        return;
    }
    if flushed.is_err() || !open || over {
        owner.mode = Mode::Ending;
    } else if failed && owner.hears_nothing() && owner.outflow != Outflow::Closed {
        owner.mode = Mode::Ending;
        note_failure(state);
    }
    let Owner::Protocol(owner) = &mut state.owner else {
        return;
    };
    if owner.mode == Mode::Writing && queued == 0 && owner.native && !owner.more {
        owner.mode = Mode::Reading;
    }
    // After the line above: what was signalled while an earlier write drained is still to be taken.
    if owner.signalled && matches!(owner.mode, Mode::Waiting | Mode::Reading) {
        owner.mode = Mode::Writing;
        owner.more = true;
    }
    let kind = match owner.mode {
        Mode::New => Kind::Open,
        Mode::Ending => Kind::Lost,
        _ if ending && owner.farewell == Farewell::Due => {
            owner.farewell = Farewell::Said;
            Kind::GoingAway
        }
        _ if owner.room.turns(queued, high, low) => {
            owner.room.full = !owner.room.full;
            Kind::Room(owner.room.full)
        }
        Mode::Reading if owner.inflow == Inflow::Over => {
            state.because(Cause::Remote);
            Kind::Lost
        }
        Mode::Reading if owner.inflow == Inflow::Kept => {
            if !ending || queued > 0 {
                return;
            }
            state.because(Cause::Drained);
            Kind::Lost
        }
        Mode::Reading if owner.paused => return,
        // Before an idle one ends it is read once more: what was received is answered.
        Mode::Reading if may_read || (ending && owner.may_go()) => {
            let ends = ending && owner.may_go();
            let class = owner.class;
            let hears_eof = owner.inflow == Inflow::Open;
            let read = if state.has_messages() {
                read_message(state, &mut io.scratch, &turn.pool)
            } else {
                let mut buf = turn.pool.get(class);
                let read = state.read_bytes(buf.spare_mut());
                read.map(|n| {
                    buf.set_len(n);
                    buf
                })
            };
            match read {
                Ok(buf) => {
                    let n = buf.as_slice().len();
                    let Owner::Protocol(owner) = &mut state.owner else {
                        return;
                    };
                    // One that was filled calls for a larger one.
                    owner.class = SizeClass::fitting(n + 1);
                    Kind::Data(buf)
                }
                Err(Pull::Blocked) if !ends => return,
                Err(Pull::Blocked) => Kind::Idle,
                Err(_) if hears_eof && state.cause == Some(Cause::Remote) => Kind::Eof,
                Err(_) => Kind::Lost,
            }
        }
        Mode::Reading | Mode::Waiting => return,
        Mode::Writing if queued > 0 && owner.measures() => Kind::Measure,
        Mode::Writing if queued > 0 || !writable => return,
        Mode::Writing => {
            owner.signalled = false;
            Kind::Write
        }
    };
    let Owner::Protocol(owner) = &mut state.owner else {
        return;
    };
    owner.called = true;
    turn.collect(Call {
        conn: Arc::clone(conn),
        object: owner.object,
        native: owner.native,
        kind,
    });
}

/// Reads one message, whose length nobody knows before, into a buffer that is not larger than it needs.
fn read_message(
    state: &mut State<Owner>,
    scratch: &mut [u8],
    pool: &Pool,
) -> Result<PooledBuf, Pull<'static>> {
    loop {
        let n = state.read_bytes(scratch)?;
        let Some(message) = scratch.get(..n) else {
            tracing::warn!(
                bytes = n,
                "a datagram larger than 64 KiB was dropped: it is too large for a read"
            );
            continue;
        };
        let mut buf = pool.get(SizeClass::fitting(n));
        buf.spare_mut()[..n].copy_from_slice(message);
        buf.set_len(n);
        return Ok(buf);
    }
}

fn end_outflow_unless_called(state: &mut State<Owner>) {
    let due = match &state.owner {
        Owner::Protocol(owner) => {
            owner.outflow == Outflow::Closing && !owner.called && !owner.native
        }
        _ => false,
    };
    if due {
        end_outflow(state);
    }
}

/// Notes why a connection failed of which nothing is read.
fn note_failure(state: &mut State<Owner>) {
    let error = state.socket().map(|socket| socket.take_error());
    state.because(match error {
        // The peer of a Unix socket has closed it.
        Ok(Ok(None)) => Cause::Remote,
        _ => Cause::Reset,
    });
}
