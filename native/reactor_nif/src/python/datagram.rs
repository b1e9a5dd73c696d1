//! Datagram sockets that contexts have: each context a protocol, which reads beside those of the others.
//!
//! What has come is read without the GIL, and given to the protocol with it, in one call of
//! the turn; what it answers is sent when the GIL is let go.

mod calls;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use pyo3::ffi;

use crate::command::{Command, LoopHandle};
use crate::connection::{next_id, Traffic};
use crate::datagram::{is_of_a_peer, receive, transmit, Pauses, Sent};
use crate::error::{Cause, Reason};
use crate::group::Slot;
use crate::listener::{ListenState, Listener};
use crate::owner::LoopIo;
use crate::pool::{Pool, PooledBuf, SizeClass};
use crate::python::interpreter::PythonError;

/// How many datagrams one call of the turn brings, at most.
const MOST: usize = 64;
/// So many answers wait for the GIL to be let go; the next ones let it go by themselves.
const MOST_ANSWERS: usize = 256;

/// A datagram socket, as one context has it.
pub struct Served {
    /// Whose socket it is.
    pub listener: Arc<Listener>,
    /// The context's loop.
    pub home: Arc<LoopHandle>,
    token: AtomicUsize,
    state: Mutex<State>,
}

/// What the lock protects. It is taken before the listener's, never after it.
pub struct State {
    /// The session's number, as that of a connection.
    pub id: u64,
    /// Since when it is there.
    pub born: Instant,
    /// What went through since then. Reads and writes are datagrams.
    pub traffic: Traffic,
    /// The kernel may have something to read.
    pub readable: bool,
    phase: Phase,
    /// A reference of ours; null unless there is a protocol. Released with the GIL.
    object: *mut ffi::PyObject,
    slot: Option<Slot>,
    pauses: Pauses,
    /// How often the listener's users had been cut when it began.
    cuts: usize,
    /// A call for it is in the batch.
    called: bool,
    /// The protocol is to end, though the socket is open: the next one follows.
    closing: bool,
    /// What is to be sent when the GIL is let go.
    answers: Vec<(SocketAddr, Box<[u8]>)>,
    /// What the protocol is still to be told.
    errors: Vec<Reason>,
}

// SAFETY: `object` is only dereferenced with the GIL, by the context's thread.
unsafe impl Send for State {}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// There is no protocol.
    New,
    /// There is one.
    Open,
    /// It was told that it is over, because of this.
    Over(Cause),
}

/// One call: what a protocol is to be told.
pub struct Call {
    served: Arc<Served>,
    what: What,
}

enum What {
    Open,
    Received(Vec<(SocketAddr, PooledBuf)>, Vec<Reason>),
    Lost(Cause),
}

/// An exception, of which session, and which method raised it.
pub type Exception = (Arc<Served>, u64, PythonError, &'static str);

/// What the loop has to do about a socket that it has looked at.
pub enum Step {
    /// Wait for the next event, or for the call that was noted.
    Idle,
    /// Look again then.
    Later(Instant),
    /// Forget it.
    Gone,
}

impl Served {
    /// For a context's loop.
    pub fn new(listener: Arc<Listener>, home: Arc<LoopHandle>) -> Arc<Self> {
        Arc::new(Served {
            listener,
            home,
            token: AtomicUsize::new(0),
            state: Mutex::new(State {
                id: 0,
                born: Instant::now(),
                traffic: Traffic::default(),
                readable: true,
                phase: Phase::New,
                object: std::ptr::null_mut(),
                slot: None,
                pauses: Pauses::default(),
                cuts: 0,
                called: false,
                closing: false,
                answers: Vec::new(),
                errors: Vec::new(),
            }),
        })
    }

    /// The lock.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the loop keeps it; for the loop alone.
    pub fn set_token(&self, token: usize) {
        self.token.store(token, Ordering::Relaxed);
    }

    /// Has its loop look at it.
    pub fn kick(&self) {
        let listener = Arc::clone(&self.listener);
        self.home.tell(Command::KickListener(listener));
    }

    /// Ends the protocol, so that the next one follows: at once if it was told to by others.
    pub fn replace(&self, at_once: bool) {
        let mut state = self.lock();
        state.closing = true;
        if at_once {
            state.pauses = Pauses::default();
        }
    }

    /// True while there is a protocol, or is about to be.
    pub fn is_in_use(&self) -> bool {
        self.lock().slot.is_some()
    }

    /// Sends a datagram of the protocol's: false if there was no room for it. Within a call it is sent when
    /// that is over.
    pub fn send(&self, to: SocketAddr, data: &[u8], within_a_call: bool) -> bool {
        let mut state = self.lock();
        if within_a_call && state.called && state.answers.len() < MOST_ANSWERS {
            state.answers.push((to, data.into()));
            return true;
        }
        // Those that wait go first.
        self.send_answers(&mut state);
        let sent = self.send_now(&mut state, to, data);
        let look = !state.errors.is_empty() && !state.called;
        drop(state);
        if look {
            self.kick();
        }
        sent
    }

    fn send_answers(&self, state: &mut State) {
        for (to, data) in std::mem::take(&mut state.answers) {
            self.send_now(state, to, &data);
        }
    }

    fn send_now(&self, state: &mut State, to: SocketAddr, data: &[u8]) -> bool {
        let mut listen = self.listener.lock();
        let Some((socket, own, _)) = listen.datagrams() else {
            return false;
        };
        match own
            .outbox
            .send(to, data, |to, data| transmit(socket, to, data))
        {
            Ok(Sent::Now) => {
                state.traffic.sent += data.len() as u64;
                state.traffic.writes += 1;
                true
            }
            Ok(Sent::Queued) => true,
            Ok(Sent::Full) => false,
            Err(reason) => {
                if state.errors.len() < MOST {
                    state.errors.push(reason);
                }
                true
            }
        }
    }
}

/// Does what can be done without Python, and notes what cannot.
pub fn advance(served: &Arc<Served>, io: &mut LoopIo) -> Step {
    let mut state = served.lock();
    if state.called {
        return Step::Idle;
    }
    let mut listen = served.listener.lock();
    flush(&mut listen, &mut state);
    let end = why_end(&listen, &state, io.stopping);
    match state.phase {
        Phase::Over(cause) => {
            let slot = finish(served, &mut state, &mut listen, io, cause);
            close_if_unused(&mut listen);
            drop(listen);
            drop(state);
            // Giving it up may kick the listener: not under a lock.
            drop(slot);
            advance(served, io)
        }
        Phase::New if end.is_some_and(|cause| cause != Cause::Local) => {
            close_if_unused(&mut listen);
            Step::Gone
        }
        Phase::New => {
            if let Some(at) = state.pauses.left(io.now) {
                return Step::Later(at);
            }
            begin(served, &mut state, &mut listen, io);
            note(io, served, &mut state, What::Open);
            Step::Idle
        }
        Phase::Open => {
            let what = match end {
                Some(cause) => What::Lost(cause),
                None => match io.turn.as_ref().map(|turn| turn.pool.clone()) {
                    Some(pool) => read(&mut listen, &mut state, &mut io.scratch, &pool),
                    None => return Step::Idle,
                },
            };
            if matches!(&what, What::Received(data, errors) if data.is_empty() && errors.is_empty())
            {
                return Step::Idle;
            }
            note(io, served, &mut state, what);
            Step::Idle
        }
    }
}

/// Why its protocol is to end; `Local` if another is to follow it.
fn why_end(listen: &ListenState, state: &State, stopping: bool) -> Option<Cause> {
    let own = listen.datagrams.as_ref()?;
    if state.slot.is_some() && own.cuts != state.cuts {
        Some(Cause::Cut)
    } else if own.draining || stopping || listen.fd().is_none() {
        Some(Cause::Drained)
    } else {
        state.closing.then_some(Cause::Local)
    }
}

fn note(io: &mut LoopIo, served: &Arc<Served>, state: &mut State, what: What) {
    if let Some(turn) = &mut io.turn {
        state.called = true;
        turn.datagrams.push(Call {
            served: Arc::clone(served),
            what,
        });
    }
}

fn begin(served: &Arc<Served>, state: &mut State, listen: &mut ListenState, io: &mut LoopIo) {
    let group = &served.listener.group;
    state.id = next_id();
    state.born = Instant::now();
    state.traffic = Traffic::default();
    state.slot = Some(group.enter());
    state.closing = false;
    if let Some(own) = &mut listen.datagrams {
        state.cuts = own.cuts;
        own.contexts.push(Arc::downgrade(served));
    }
    io.reports.began(group, state.id, None, state.born);
}

fn finish(
    served: &Arc<Served>,
    state: &mut State,
    listen: &mut ListenState,
    io: &mut LoopIo,
    cause: Cause,
) -> Option<Slot> {
    let group = &served.listener.group;
    let traffic = state.traffic;
    group.add_traffic(traffic.received, traffic.sent);
    io.reports
        .ended(group, state.id, cause, traffic, state.born);
    state.phase = Phase::New;
    state.traffic = Traffic::default();
    if let Some(own) = &mut listen.datagrams {
        own.contexts
            .retain(|other| !std::ptr::eq(other.as_ptr(), Arc::as_ptr(served)));
    }
    state.slot.take()
}

/// The last one of those who had a socket that nobody gets any more closes it.
fn close_if_unused(listen: &mut ListenState) {
    let own = listen.datagrams.as_ref();
    if own.is_some_and(|own| own.draining && own.contexts.is_empty()) {
        listen.close();
    }
}

fn flush(listen: &mut ListenState, state: &mut State) {
    let Some((socket, own, _)) = listen.datagrams() else {
        return;
    };
    own.outbox.flush(
        |to, data| transmit(socket, to, data),
        |bytes, result| match result {
            Ok(()) => {
                state.traffic.sent += bytes as u64;
                state.traffic.writes += 1;
            }
            Err(reason) if state.errors.len() < MOST => state.errors.push(reason),
            Err(_) => {}
        },
    );
}

fn read(listen: &mut ListenState, state: &mut State, scratch: &mut [u8], pool: &Pool) -> What {
    let mut data = Vec::new();
    let mut errors = std::mem::take(&mut state.errors);
    while let Some((socket, own, _)) = listen.datagrams() {
        // Who cannot answer does not need more to answer.
        if !state.readable || data.len() >= MOST || own.outbox.is_full() {
            break;
        }
        match receive(socket, scratch) {
            Ok(Some((n, from))) => {
                let mut buf = pool.get(SizeClass::fitting(n));
                buf.spare_mut()[..n].copy_from_slice(&scratch[..n]);
                buf.set_len(n);
                state.traffic.received += n as u64;
                state.traffic.reads += 1;
                data.push((from, buf));
            }
            Ok(None) => state.readable = false,
            Err(reason) => {
                errors.push(reason);
                if !is_of_a_peer(reason) || errors.len() >= MOST {
                    state.readable = false;
                }
            }
        }
    }
    What::Received(data, errors)
}
