//! What Elixir calls on a connection: read, write, close.
//!
//! It is done on the calling thread as far as that goes without waiting; what is left, the loop does, and
//! sends a message.

use std::cell::RefCell;
use std::sync::{Arc, MutexGuard};
use std::time::Instant;

use rustler::{Binary, Env, LocalPid};

use crate::connection::{Active, Level, Phase, Pull, State};
use crate::error::{Cause, Reason};
use crate::owner::{kick, kick_quietly, Conn, Owner, READ_SIZE};
use crate::process::{came_back, is_owned, is_protocols, to_binary};

thread_local! {
    /// What a scheduler thread reads into.
    pub(super) static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_SIZE]);
}

/// What a call from Elixir brought.
pub enum Answer<T> {
    /// Done.
    Done(T),
    /// A message will come.
    Wait,
    /// Nothing was taken: a message will come, then try again.
    Again,
}

/// `recv`: reads what is there on the calling thread, or leaves word with the loop.
pub fn recv<'a>(
    conn: &Arc<Conn>,
    env: Env<'a>,
    pid: LocalPid,
    length: usize,
) -> Result<Answer<Binary<'a>>, Reason> {
    let mut state = conn.lock();
    state.socket()?;
    match state.phase {
        _ if is_protocols(&state) => return Err(Reason::Closed),
        Phase::Open => {}
        Phase::Connecting | Phase::Greeting => return Err(Reason::Errno(libc::ENOTCONN)),
        _ => return Err(Reason::Closed),
    }
    let framed = state.settings.framing != crate::framing::Framing::Raw;
    if state.settings.active != Active::Off || (framed && length > 0) {
        return Err(Reason::Invalid);
    }
    if length > crate::framing::MAX_PACKET {
        return Err(Reason::Errno(libc::ENOMEM));
    }
    if let (Some(_), Owner::Process(owner)) = (state.wanted, &state.owner) {
        // One that died while it waited does not keep the others from reading.
        let waits = |reader: LocalPid| reader == pid || reader.is_alive(env);
        if owner.reader.is_some_and(waits) {
            return Err(Reason::Already);
        }
    }
    came_back(conn, &mut state);
    if state.ended {
        return Err(Reason::Closed);
    }
    if state.may_read() {
        let pulled = SCRATCH.with_borrow_mut(|scratch| match state.pull(length, scratch) {
            Pull::Data(data) => Ok(Some(to_binary(env, data))),
            Pull::Blocked => Ok(None),
            Pull::End(reason) => Err(reason),
        });
        match pulled {
            Ok(Some(binary)) => return Ok(Answer::Done(binary)),
            Ok(None) => {}
            Err(Reason::Closed) => {
                state.end_reading();
                return Err(Reason::Closed);
            }
            Err(reason) => {
                close_and_kick(conn, state);
                return Err(reason.folded());
            }
        }
    }
    let Owner::Process(owner) = &mut state.owner else {
        return Err(Reason::Closed);
    };
    owner.reader = Some(pid);
    state.wanted = Some(length);
    state.awaiting(true);
    // So much is there already that it was not read in one go.
    let more = state.readable;
    drop(state);
    if more || conn.draining() {
        kick(conn);
    }
    conn.home().counter.help(env);
    Ok(Answer::Wait)
}

/// Forgets a waiting `recv`; false when its message is already on its way.
pub fn recv_cancel(conn: &Conn, pid: LocalPid) -> bool {
    let mut state = conn.lock();
    let waiting = match &mut state.owner {
        Owner::Process(owner) => owner.reader.take_if(|reader| *reader == pid).is_some(),
        _ => false,
    };
    if waiting {
        state.wanted = None;
        state.awaiting(false);
    }
    waiting
}

/// `send`: writes on the calling thread; what the kernel does not take is queued.
pub fn send(conn: &Arc<Conn>, pid: LocalPid, data: &[u8]) -> Result<Answer<()>, Reason> {
    let mut state = conn.lock();
    if is_protocols(&state) {
        return Err(Reason::Closed);
    }
    let full = state.congested();
    if full && state.phase == Phase::Open {
        came_back(conn, &mut state);
        wait_to_send(&mut state, pid)?;
        return Ok(Answer::Again);
    }
    let level = state.send(data).map_err(Reason::folded)?;
    if let Owner::Process(owner) = &mut state.owner {
        owner.mailbox.answered();
    }
    let answer = match level {
        Level::Empty | Level::Below => Answer::Done(()),
        Level::Above => {
            // Its peer decides when it comes for more.
            came_back(conn, &mut state);
            wait_to_send(&mut state, pid)?;
            Answer::Wait
        }
    };
    // What would take long to seal is left to the loop.
    let look = state.may_flush();
    drop(state);
    if look {
        kick(conn);
    }
    Ok(answer)
}

pub(super) fn wait_to_send(state: &mut State<Owner>, pid: LocalPid) -> Result<(), Reason> {
    match &mut state.owner {
        Owner::Process(owner) => {
            owner.senders.push(pid);
            Ok(())
        }
        _ => Err(Reason::Closed),
    }
}

/// Forgets that a process waits to send; false when its message is already on its way.
pub fn send_cancel(conn: &Conn, pid: LocalPid) -> bool {
    let mut state = conn.lock();
    let Owner::Process(owner) = &mut state.owner else {
        return false;
    };
    let before = owner.senders.len();
    owner.senders.retain(|sender| *sender != pid);
    let left = owner.senders.len();
    if left == 0 && state.queued() == 0 {
        state.awaiting_room(false);
    }
    before != left
}

/// `close`: the queue is flushed, then the fd is closed. Waiting callers are told by the loop.
pub fn close(conn: &Arc<Conn>) {
    let mut state = conn.lock();
    if is_protocols(&state) || (state.phase == Phase::Closed && !is_owned(&state)) {
        return;
    }
    state.because(Cause::Local);
    came_back(conn, &mut state);
    close_and_kick(conn, state);
}

pub(super) fn close_and_kick(conn: &Arc<Conn>, mut state: MutexGuard<'_, State<Owner>>) {
    let quietly = state.close(Instant::now()) && state.awaited;
    drop(state);
    if quietly {
        // Only to be forgotten, for which nobody has to be woken.
        kick_quietly(conn);
    } else {
        kick(conn);
    }
}
