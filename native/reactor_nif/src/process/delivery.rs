//! What a loop does for a process's connection: it is told of the outcome of a connection attempt, it gets
//! messages as it has asked for them, and those who wait to send get room.
//!
//! The connection's lock is held throughout.

use std::sync::Arc;

use rustler::{Atom, Encoder, Env, Term};

use crate::connection::{Active, Failure, Level, Phase, Pull, State};
use crate::error::Reason;
use crate::owner::{flush_last, Conn, LoopIo, Next, Owner};
use crate::process::ending::{end_idle, end_stream, ends_idle, tell_active_end, tell_reader_end};
use crate::process::{came_back, goes, mailbox, outcome, to_binary};

mod atoms {
    rustler::atoms! {
        error,
        tcp,
        tcp_passive,
        data = "$reactor_data",
        sent = "$reactor_sent",
        connect = "$reactor_connect",
        tls_alert,
    }
}

/// How many messages one connection may deliver in one turn of its loop.
pub const DELIVERIES: usize = 16;

/// Does what can be done for a process's connection.
pub fn advance(conn: &Arc<Conn>, state: &mut State<Owner>, io: &mut LoopIo) -> Next {
    if state.phase == Phase::Connecting {
        if !finish_connect(state, io) {
            return Next::Idle;
        }
        if state.phase == Phase::Greeting {
            return Next::Again;
        }
    }
    if state.may_flush() {
        let flushed = state.flush();
        match flushed {
            Ok(Level::Above) => {}
            Ok(_) => tell_senders(state, io, Ok(())),
            Err(reason) => tell_senders(state, io, Err(reason.folded())),
        }
    } else if state.has_room() {
        // Who waits with a file has nothing in the queue.
        tell_senders(state, io, Ok(()));
        state.awaiting_room(false);
    }
    if state.phase == Phase::Open && state.ended {
        if tell_active_end(state, io, Reason::Closed) {
            state.settings.active = Active::Off;
        }
        let over = state.deadline.is_some_and(|deadline| deadline <= io.now);
        if !over && !io.stopping {
            return Next::Idle;
        }
        state.close(io.now);
    }
    if state.phase == Phase::Open {
        let next = deliver(conn, state, io);
        if state.phase == Phase::Open {
            return next;
        }
    }
    tell_reader_end(conn, state, io, Reason::Closed);
    tell_senders(state, io, Err(Reason::Closed));
    came_back(conn, state);
    state.owner = Owner::Nobody;
    flush_last(state, io.now)
}

/// True when the connection is established or has failed, and the owner knows.
fn finish_connect(state: &mut State<Owner>, io: &mut LoopIo) -> bool {
    if !state.writable {
        return false;
    }
    let result = state.finish_connect();
    if result.is_err() {
        state.close_fd();
    }
    if state.phase != Phase::Greeting {
        connected(state, io, result.map_err(Failure::Reason));
    }
    true
}

/// Tells who has dialed what became of it.
pub fn connected(state: &State<Owner>, io: &mut LoopIo, result: Result<(), Failure>) {
    message(state, io, |env, socket| {
        let result = match &result {
            Err(Failure::Alert(alert)) => {
                // As `:ssl` has it: a charlist.
                let text: Vec<u32> = alert.text.chars().map(u32::from).collect();
                let name = Atom::from_str(env, alert.name).unwrap_or_else(|_| atoms::error());
                (atoms::error(), (atoms::tls_alert(), (name, text))).encode(env)
            }
            Err(Failure::Reason(reason)) => outcome(env, Err(*reason)),
            Ok(()) => outcome(env, Ok(())),
        };
        (atoms::connect(), socket, result).encode(env)
    });
}

fn deliver(conn: &Arc<Conn>, state: &mut State<Owner>, io: &mut LoopIo) -> Next {
    for _ in 0..io.deliveries {
        let asked = state.wanted;
        // A sender that waits reads no more: an owner that echoes must not pile up its input.
        let unasked =
            state.settings.active != Active::Off && !state.congested() && !is_watched(state);
        state.awaiting(asked.is_some() || unasked);
        if asked.is_none() && !unasked {
            return Next::Idle;
        }
        let mut scratch = std::mem::take(&mut io.scratch);
        let end = deliver_one(conn, state, io, asked, &mut scratch);
        io.scratch = scratch;
        match end {
            Ok(true) => {}
            Ok(false) => {
                if state.idle() && (io.stopping || ends_idle(conn, state, io)) {
                    if state.has_come() {
                        continue;
                    }
                    end_idle(conn, state, io);
                }
                if state.readable && state.phase == Phase::Open {
                    return Next::Again;
                }
                return Next::Idle;
            }
            Err(reason) => {
                end_stream(conn, state, io, reason);
                return Next::Idle;
            }
        }
    }
    Next::Again
}

/// Delivers one message: false when there is none.
fn deliver_one(
    conn: &Conn,
    state: &mut State<Owner>,
    io: &mut LoopIo,
    asked: Option<usize>,
    scratch: &mut [u8],
) -> Result<bool, Reason> {
    let (pid, handle) = match &state.owner {
        Owner::Process(owner) if asked.is_some() => (owner.reader.unwrap_or(owner.pid), None),
        Owner::Process(owner) => (owner.pid, Some(owner.handle.clone())),
        _ => return Err(Reason::Closed),
    };
    let owners = matches!(&state.owner, Owner::Process(owner) if owner.pid == pid);
    if asked.is_some() && !owners && !io.mail.is_alive(&pid) {
        // It was killed while it waited: what has come is for the next one.
        state.wanted = None;
        state.awaiting(false);
        if let Owner::Process(owner) = &mut state.owner {
            owner.reader = None;
        }
        return Ok(false);
    }
    let id = conn.id;
    let bytes;
    match state.pull(asked.unwrap_or(0), scratch) {
        Pull::Data(data) => {
            bytes = data.len();
            io.mail.send(&pid, |env| match &handle {
                Some(handle) => (atoms::tcp(), handle, to_binary(env, data)).encode(env),
                // Named by its number, which costs less in a message than a handle.
                None => (atoms::data(), id, to_binary(env, data)).encode(env),
            });
        }
        Pull::Blocked => return Ok(false),
        Pull::End(reason) => return Err(reason),
    }
    if asked.is_some() {
        state.wanted = None;
        state.awaiting(false);
        io.delivered += 1;
        if let Owner::Process(owner) = &mut state.owner {
            owner.reader = None;
        }
        goes(conn, state);
        return Ok(true);
    }
    if let Owner::Process(owner) = &mut state.owner {
        owner.mailbox.sent(bytes);
    }
    match state.settings.active {
        Active::Count(n) if n > 1 => state.settings.active = Active::Count(n - 1),
        Active::Count(_) => {
            state.settings.active = Active::Off;
            message(state, io, |env, socket| {
                (atoms::tcp_passive(), socket).encode(env)
            });
        }
        Active::Once => state.settings.active = Active::Off,
        Active::On => mailbox::watch(state, io),
        Active::Off => {}
    }
    if state.settings.active == Active::Off {
        state.awaiting(false);
    }
    Ok(true)
}

fn is_watched(state: &State<Owner>) -> bool {
    matches!(&state.owner, Owner::Process(owner) if owner.mailbox.is_watched())
}

pub(super) fn tell_senders(state: &mut State<Owner>, io: &mut LoopIo, result: Result<(), Reason>) {
    let Owner::Process(owner) = &mut state.owner else {
        return;
    };
    for sender in std::mem::take(&mut owner.senders) {
        let handle = &owner.handle;
        io.mail.send(&sender, |env| {
            (atoms::sent(), handle, outcome(env, result)).encode(env)
        });
    }
}

pub(super) fn message<F>(state: &State<Owner>, io: &mut LoopIo, build: F)
where
    F: for<'a> FnOnce(Env<'a>, Term<'a>) -> Term<'a>,
{
    if let Owner::Process(owner) = &state.owner {
        io.mail
            .send(&owner.pid, |env| build(env, owner.handle.encode(env)));
    }
}
