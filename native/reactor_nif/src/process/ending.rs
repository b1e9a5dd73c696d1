//! How a process's connection ends, and how the owner and those who wait are told: in the way they read.

use crate::connection::{Active, Failure, Phase, State};
use crate::error::{Cause, Reason};
use crate::owner::{Conn, LoopIo, Owner};
use crate::process::delivery::{connected, message, tell_senders};
use crate::process::{atom, came_back, goes, mailbox};

use rustler::Encoder;

mod atoms {
    rustler::atoms! {
        tcp_closed,
        tcp_error,
        recv_error = "$reactor_recv_error",
    }
}

/// Ends a connection whose loop ends: whoever waits is told.
pub fn abandon(conn: &Conn, state: &mut State<Owner>, io: &mut LoopIo) {
    cut(conn, state, io, Cause::Local);
}

/// Ends a connection now: whoever waits is told why, and what is queued is lost.
pub fn cut(conn: &Conn, state: &mut State<Owner>, io: &mut LoopIo, cause: Cause) {
    state.because(cause);
    let reason = cause.reason();
    if matches!(state.phase, Phase::Connecting | Phase::Greeting) {
        connected(state, io, Err(Failure::Reason(reason)));
    }
    if state.phase == Phase::Open {
        tell_active_end(state, io, reason);
        tell_reader_end(conn, state, io, reason);
    }
    tell_senders(state, io, Err(reason));
    came_back(conn, state);
    state.close_fd();
    state.owner = Owner::Nobody;
}

/// Tells the owner, in the way it reads, that no more will come. Unless the connection is broken, it
/// may still answer what has come before: then it is the owner that closes.
pub(super) fn end_stream(conn: &Conn, state: &mut State<Owner>, io: &mut LoopIo, reason: Reason) {
    let answerable = reason == Reason::Closed && !io.stopping;
    let reason = reason.folded();
    let active = tell_active_end(state, io, reason);
    tell_reader_end(conn, state, io, reason);
    match (answerable, active) {
        (true, true) => state.end(io.now),
        (true, false) => {
            state.end_reading();
            if !std::mem::replace(&mut state.awaited, true) {
                io.awaited += 1;
            }
        }
        (false, _) => {
            state.close(io.now);
        }
    }
}

/// True when the server goes away, and the owner is done and has nothing to say about that.
pub(super) fn ends_idle(conn: &Conn, state: &mut State<Owner>, io: &mut LoopIo) -> bool {
    let Some(group) = conn.group().filter(|group| group.draining()) else {
        return false;
    };
    let speaks = state.settings.active != Active::Off && group.farewell();
    !speaks && mailbox::is_done(state, io)
}

/// Ends a connection whose server goes away, and which owes nothing that we know of.
pub(super) fn end_idle(conn: &Conn, state: &mut State<Owner>, io: &mut LoopIo) {
    state.because(Cause::Drained);
    let done = matches!(&state.owner, Owner::Process(owner) if owner.mailbox.is_done());
    if tell_active_end(state, io, Reason::Closed) && !done && !io.stopping {
        // It, or somebody for it, may be at work on an answer.
        state.end(io.now);
        return;
    }
    tell_reader_end(conn, state, io, Reason::Closed);
    state.close(io.now);
}

/// Tells an owner in active mode: true when it is in that.
pub(super) fn tell_active_end(state: &mut State<Owner>, io: &mut LoopIo, reason: Reason) -> bool {
    if state.settings.active == Active::Off {
        return false;
    }
    if reason != Reason::Closed {
        message(state, io, |env, socket| {
            (atoms::tcp_error(), socket, atom(env, reason)).encode(env)
        });
    }
    message(state, io, |env, socket| {
        (atoms::tcp_closed(), socket).encode(env)
    });
    true
}

pub(super) fn tell_reader_end(
    conn: &Conn,
    state: &mut State<Owner>,
    io: &mut LoopIo,
    reason: Reason,
) {
    let Owner::Process(owner) = &mut state.owner else {
        return;
    };
    let Some(reader) = owner.reader.take() else {
        return;
    };
    state.wanted = None;
    io.delivered += 1;
    goes(conn, state);
    let id = conn.id;
    io.mail.send(&reader, |env| {
        (atoms::recv_error(), id, atom(env, reason)).encode(env)
    });
}
