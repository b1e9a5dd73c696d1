//! A loop's look at a datagram socket that processes have.

use std::sync::{Arc, MutexGuard};
use std::time::Instant;

use rustler::{Encoder, LocalPid, ResourceArc};

use super::{socket_term, DatagramHandle, Session};
use crate::connection::{next_id, Traffic};
use crate::counters;
use crate::datagram::{is_of_a_peer, receive, transmit, Datagrams};
use crate::error::{Cause, Reason};
use crate::listener::{ListenState, Listener};
use crate::owner::LoopIo;
use crate::process::mailbox::Mailbox;
use crate::process::ListenerHandle;

mod atoms {
    rustler::atoms! {
        accept = "$reactor_accept",
    }
}

/// What the loop has to do about a socket that it has advanced.
pub enum Step {
    /// Wait for the next event.
    Idle,
    /// Look again soon.
    Again,
    /// Look again then.
    Later(Instant),
    /// It is closed: forget it.
    Gone,
}

/// Does what can be done for a socket.
pub fn advance(listener: &Arc<Listener>, io: &mut LoopIo) -> Step {
    let mut state = listener.lock();
    flush(&mut state, io);
    if let Some(ended) = end(listener, &mut state, io) {
        // Giving up its place may kick this listener: not under the lock.
        drop(state);
        drop(ended);
        state = listener.lock();
    }
    let Some((_, own, _)) = state.datagrams() else {
        return Step::Gone;
    };
    if own.draining {
        return leave(&mut state, io, listener.group.farewell());
    }
    if own.session.is_none() {
        if let Some(later) = own.pauses.left(io.now) {
            return Step::Later(later);
        }
        state = hand_out(listener, state, io);
    }
    deliver(&mut state, io)
}

/// Sends what waits, and tells those who wait for room.
fn flush(state: &mut ListenState, io: &mut LoopIo) {
    let Some((socket, own, _)) = state.datagrams() else {
        return;
    };
    let Datagrams {
        outbox, session, ..
    } = own;
    let mut failed = Vec::new();
    outbox.flush(
        |to, data| transmit(socket, to, data),
        |bytes, result| match (result, session.as_deref_mut()) {
            (Ok(()), Some(session)) => session.sent(bytes),
            (Err(reason), _) => failed.push(reason),
            (Ok(()), None) => {}
        },
    );
    let Some(session) = session else {
        return;
    };
    for reason in failed {
        session.tell_error(io, reason);
    }
    if !outbox.is_full() {
        session.tell_senders(io, Ok(()));
    }
}

/// Ends a session that is over, or whose socket is closed. What it sent stays queued.
fn end(listener: &Arc<Listener>, state: &mut ListenState, io: &mut LoopIo) -> Option<Box<Session>> {
    let closed = state.fd().is_none();
    let own = state.datagrams.as_deref_mut()?;
    let session = own.session.as_deref_mut()?;
    let cause = match session.over {
        Some(cause) => cause,
        None if closed => Cause::Drained,
        None => return None,
    };
    let mut session = own.session.take()?;
    // Who closed it knows.
    let knows = matches!(cause, Cause::Local | Cause::OwnerDown) && !closed;
    session.tell_closed(io, knows);
    session.tell_senders(io, Err(Reason::Closed));
    own.pauses.ended(session.traffic.reads > 0, io.now);
    let traffic = session.traffic;
    let group = &listener.group;
    group.add_traffic(traffic.received, traffic.sent);
    let cause = if own.draining && cause != Cause::Cut {
        Cause::Drained
    } else {
        cause
    };
    io.reports
        .ended(group, session.id, cause, traffic, session.born);
    Some(session)
}

/// Closes a socket that nobody gets any more, when nobody has it.
fn leave(state: &mut ListenState, io: &mut LoopIo, farewell: bool) -> Step {
    let Some((_, own, _)) = state.datagrams() else {
        return Step::Gone;
    };
    match own.session.as_deref_mut() {
        Some(session) => {
            session.tell_closed(io, farewell);
            Step::Idle
        }
        None if !own.contexts.is_empty() => Step::Idle,
        // What the kernel does not take now, nobody waits for.
        None => {
            state.close();
            Step::Gone
        }
    }
}

/// Gives the socket to the oldest process that waits for it, and lives.
fn hand_out<'a>(
    listener: &'a Arc<Listener>,
    mut state: MutexGuard<'a, ListenState>,
    io: &mut LoopIo,
) -> MutexGuard<'a, ListenState> {
    let settings = listener.group.settings();
    while let Some(waiter) = state.waiters.pop_front() {
        counters::HANDLES_MADE.add();
        let handle = ResourceArc::new(DatagramHandle {
            listener: Arc::clone(listener),
            id: next_id(),
        });
        let monitor = io.mail.with_caller(|env| handle.monitor(env, &waiter.pid));
        let Some(monitor) = monitor else {
            continue;
        };
        let session = Session {
            id: handle.id,
            pid: waiter.pid,
            born: Instant::now(),
            traffic: Traffic::default(),
            active: settings.active,
            send_timeout: settings.send_timeout,
            monitor,
            handle,
            _slot: listener.group.enter(),
            reader: None,
            senders: Vec::new(),
            mailbox: Mailbox::new(),
            over: None,
            told: false,
        };
        io.reports
            .began(&listener.group, session.id, None, session.born);
        announce(io, waiter.pid, &waiter.handle, &session);
        if let Some(own) = &mut state.datagrams {
            own.session = Some(Box::new(session));
        }
        break;
    }
    state
}

fn announce(
    io: &mut LoopIo,
    pid: LocalPid,
    listener: &ResourceArc<ListenerHandle>,
    session: &Session,
) {
    io.mail.send(&pid, |env| {
        let socket = socket_term(env, &session.handle);
        (atoms::accept(), listener, socket).encode(env)
    });
}

fn deliver(state: &mut ListenState, io: &mut LoopIo) -> Step {
    for _ in 0..io.deliveries {
        let Some((socket, own, readable)) = state.datagrams() else {
            return Step::Gone;
        };
        let full = own.outbox.is_full();
        let Some(session) = own.session.as_deref_mut() else {
            return Step::Idle;
        };
        if !session.wants(io, full) || !*readable {
            return Step::Idle;
        }
        match receive(socket, &mut io.scratch) {
            Ok(Some((n, from))) => {
                let scratch = std::mem::take(&mut io.scratch);
                session.received(n);
                session.tell(io, from, &scratch[..n]);
                io.scratch = scratch;
            }
            Ok(None) => *readable = false,
            Err(reason) => {
                session.tell_error(io, reason);
                if !is_of_a_peer(reason) {
                    // It may be so again at once: the next event tells.
                    *readable = false;
                }
            }
        }
    }
    Step::Again
}
