//! The turn of a context's loop: the calls that were collected are made with the GIL, which is taken
//! once for all of them; what they want written is written without it.
//!
//! No connection's lock is held while Python runs: Python may come back for it.

mod attach;
mod jobs;
mod making;
mod settling;

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use pyo3::ffi;
use pyo3::prelude::*;

use crate::connection::Level;
use crate::error::Cause;
use crate::owner::{Conn, Owner};
use crate::pool::{Pool, PooledBuf, SizeClass};
use crate::python::datagram;
use crate::python::flow::{self, end_outflow};
use crate::python::held::Held;
use crate::python::inbox::Inbox;
use crate::python::interpreter::PythonError;
use crate::python::names::Names;
use crate::python::outgoing::{Outgoing, Part};
use crate::python::protocol::{note_waiting, FactoryKey, Mode};
use crate::python::thread::ThreadState;
use crate::python::watch::Watch;
use crate::report::Load;

/// How many free read buffers a context keeps, by size class.
const KEEP: [usize; SizeClass::ALL.len()] = [256, 64, 16, 16];
/// So much was read, or is to be written, in one go: then the calls are made, or the GIL is released to
/// write, in bytes. More would leave the processor's cache before it is used again.
const BATCH: usize = 64 * 1024;

/// What is to be called.
pub enum Kind {
    Open,
    Data(PooledBuf),
    /// Call `write_ready`, or take what is in `write_buffer`.
    Write,
    GoingAway,
    /// The peer sends no more.
    Eof,
    /// Look how much is in `write_buffer`.
    Measure,
    /// Say that too much waits to be sent, or that it does not any more.
    Room(bool),
    /// End it, since it has nothing left to do for a server that goes away.
    Idle,
    Lost,
}

/// One call.
pub struct Call {
    pub conn: Arc<Conn>,
    pub object: *mut ffi::PyObject,
    pub native: bool,
    pub kind: Kind,
}

/// An exception that ended a connection, or that its end raised, and which method it was that raised
/// it: of the protocol, or `"factory"`.
pub type Exception = (Arc<Conn>, PythonError, &'static str);

/// A write that waits for the GIL to be released.
struct Write {
    conn: Arc<Conn>,
    part: Part,
    /// More of the protocol's buffer is to come.
    more: bool,
}

/// The Python side of a context's loop.
pub struct Turn {
    /// What exceptions there were; for the loop to take.
    pub exceptions: Vec<Exception>,
    /// What the turns took; for the loop to take.
    pub measured: Load,
    /// The context is ending: what becomes idle is closed.
    pub stopping: bool,
    pub(super) pool: Pool,
    calls: Vec<Call>,
    /// So many bytes were read for them.
    collected: usize,
    /// What datagram protocols are to be told.
    pub(super) datagrams: Vec<datagram::Call>,
    /// What exceptions those raised; for the loop to take.
    pub datagram_exceptions: Vec<datagram::Exception>,
    /// Datagram sockets to be looked at again, by token; for the loop to take.
    pub look: Vec<usize>,
    /// Objects that Elixir holds, once there is an interpreter to have them.
    held: Option<Arc<Held>>,
    /// Calls that wait to be run.
    inbox: Arc<Inbox>,
    /// When the last of them was over.
    called: Instant,
    /// They come in quick succession.
    quick: bool,
    id: u64,
    pub(super) name: String,
    pub(super) paths: Vec<String>,
    pub(super) thread: Option<ThreadState>,
    pub(super) names: Option<Names>,
    pub(super) factories: HashMap<FactoryKey, Py<PyAny>>,
    /// The factory that was loaded last.
    pub(super) latest: Option<Py<PyAny>>,
    writes: Vec<Write>,
    pub(super) outgoing: Outgoing,
    pub(super) watch: Arc<Watch>,
    /// The call that failed last was interrupted.
    pub(super) overdue: Cell<bool>,
    /// How often reading had been paused at the end of the last turn.
    pub(super) pauses: u64,
}

// SAFETY: everything in it that belongs to Python is used by the context's thread alone; the
// loop is built before that thread has put anything in.
unsafe impl Send for Turn {}

impl Turn {
    /// For the context of that name; `paths` is where its modules are looked for. Its calls are shown
    /// to `watch`.
    pub fn new(name: String, paths: Vec<String>, watch: Arc<Watch>, inbox: Arc<Inbox>) -> Self {
        Turn {
            exceptions: Vec::new(),
            measured: Load::default(),
            stopping: false,
            pool: Pool::new(KEEP),
            calls: Vec::new(),
            collected: 0,
            datagrams: Vec::new(),
            datagram_exceptions: Vec::new(),
            look: Vec::new(),
            held: None,
            inbox,
            called: Instant::now(),
            quick: false,
            id: 0,
            name,
            paths,
            thread: None,
            names: None,
            factories: HashMap::new(),
            latest: None,
            writes: Vec::new(),
            outgoing: Outgoing::default(),
            watch,
            overdue: Cell::new(false),
            pauses: flow::pauses(),
        }
    }

    /// Collects a call.
    pub(super) fn collect(&mut self, call: Call) {
        if let Kind::Data(data) = &call.kind {
            self.collected += data.as_slice().len();
        }
        self.calls.push(call);
    }

    /// True when another context is in the place of this one, which has come back too late.
    pub fn is_given_up(&self) -> bool {
        self.watch.is_given_up()
    }

    /// True when the calls that have been collected are to be made before there are more.
    pub fn is_full(&self) -> bool {
        self.collected >= BATCH
    }

    /// Makes the calls that have been collected; gives the connections to look at again at once.
    pub fn run(&mut self, again: &mut Vec<Arc<Conn>>) {
        if self.calls.is_empty() && self.datagrams.is_empty() {
            return;
        }
        let Some(mut thread) = self.thread.take() else {
            return;
        };
        self.collected = 0;
        // What is paused from here on is known when the next turn reads.
        let pauses = flow::pauses();
        let mut calls = std::mem::take(&mut self.calls);
        let mut left = calls.drain(..);
        while left.len() > 0 {
            let before = left.len();
            let asked = Instant::now();
            let (got, done) = thread.with(|py| {
                let got = Instant::now();
                self.outgoing.reclaim(py);
                for call in left.by_ref() {
                    self.make(py, call, again);
                    if self.outgoing.len() >= BATCH {
                        break;
                    }
                }
                (got, Instant::now())
            });
            let made = (before - left.len()) as u64;
            self.measured.add(made, got - asked, done - got);
            self.write(again);
        }
        drop(left);
        self.pauses = pauses;
        self.calls = calls;
        self.run_datagrams(&mut thread);
        self.thread = Some(thread);
    }

    fn run_datagrams(&mut self, thread: &mut ThreadState) {
        if self.datagrams.is_empty() {
            return;
        }
        let mut datagrams = std::mem::take(&mut self.datagrams);
        let asked = Instant::now();
        let (got, done) = thread.with(|py| {
            let got = Instant::now();
            for call in &mut datagrams {
                self.call_datagrams(py, call);
            }
            (got, Instant::now())
        });
        let count = datagrams.len() as u64;
        self.measured.add(count, got - asked, done - got);
        self.send_datagrams(datagrams);
    }

    fn write(&mut self, again: &mut Vec<Arc<Conn>>) {
        for Write { conn, part, more } in self.writes.drain(..) {
            let ending = self.stopping || conn.draining();
            let mut state = conn.lock();
            let written = state.write(&[], self.outgoing.bytes(&part));
            let queued = state.queued();
            let high = state.settings.high_watermark;
            let low = state.settings.low_watermark;
            let readable = state.may_read();
            let unsealed = state.may_flush();
            let Owner::Protocol(owner) = &mut state.owner else {
                continue;
            };
            owner.called = false;
            owner.more = more;
            match written {
                Ok(Level::Empty) if !more && owner.mode == Mode::Writing => {
                    owner.mode = Mode::Reading;
                }
                Ok(_) => {}
                Err(_) => owner.mode = Mode::Ending,
            }
            let look = owner.goes_on(readable, ending)
                || owner.signalled
                || unsealed
                || owner.room.turns(queued, high, low)
                || (more && queued == 0);
            end_outflow(&mut state);
            note_waiting(&mut state);
            if look {
                drop(state);
                again.push(conn);
            }
        }
        self.outgoing.written();
    }

    /// Ends connections whatever they are doing.
    pub fn lose_all(&mut self, conns: Vec<Arc<Conn>>) {
        let Some(mut thread) = self.thread.take() else {
            return;
        };
        thread.with(|py| {
            for conn in &conns {
                self.lose(py, conn, Cause::Cut, None);
            }
        });
        self.thread = Some(thread);
    }
}
