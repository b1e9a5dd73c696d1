//! Handing descriptors and connections over to contexts. All of it makes system calls, and may wait.

use std::os::fd::RawFd;
use std::sync::Arc;

use rustler::{Encoder, Env, ResourceArc, Term};

use crate::command::Command;
use crate::connection::{Handed, Medium};
use crate::error::Reason;
use crate::handoff::{self, Kind, Refusal};
use crate::nif::terms::{ok_or_reason, refused, Answered};
use crate::process::{self, Handle};
use crate::python::context::ContextHandle;
use crate::python::metadata::Metadata;
use crate::python::protocol::{FactoryKey, ProtocolOwner};

mod atoms {
    rustler::atoms! {
        calls_waiting,
        anonymous,
        connections,
        device,
        directory,
        error,
        handed_over,
        in_use,
        listening,
        max_connections,
        no_factory,
        not_pollable,
        ok,
        overloaded,
        regular,
        standard_io,
        tls,
        waiting,
    }
}

/// Gives a descriptor to a context, or a duplicate of it.
#[rustler::nif(schedule = "DirtyIo")]
fn context_handoff<'a>(
    env: Env<'a>,
    context: ResourceArc<ContextHandle>,
    fd: RawFd,
    duplicate: bool,
    metadata: Term<'a>,
) -> Answered<'a> {
    let metadata = Metadata::decode(metadata)?;
    let taken = handoff::take(fd, duplicate, context.home(), context.intake(), metadata);
    Ok(answer(env, taken))
}

/// Gives a connection of the caller's to a context.
#[rustler::nif(schedule = "DirtyIo")]
fn context_take<'a>(
    env: Env<'a>,
    context: ResourceArc<ContextHandle>,
    socket: ResourceArc<Handle>,
    metadata: Term<'a>,
) -> Answered<'a> {
    let metadata = Metadata::decode(metadata)?;
    let conn = &socket.conn;
    let target = Arc::clone(context.home());
    if conn.secure && context.is_elsewhere() {
        return Ok((atoms::error(), atoms::tls()).encode(env));
    }
    let entered = context.intake().enter(&target, metadata);
    let taken = entered.and_then(|handover| {
        let owner = ProtocolOwner::handed(FactoryKey::Current, handover);
        process::give_up(conn, env.pid(), owner).map_err(Refusal::Other)
    });
    if taken.is_ok() {
        context.intake().count();
        conn.home().tell(Command::Move(Arc::clone(conn), target));
    }
    Ok(answer(env, taken))
}

fn answer(env: Env, taken: Result<(), Refusal>) -> Term {
    let reason = match taken {
        Ok(()) => return atoms::ok().encode(env),
        Err(Refusal::Other(reason)) => return refused(env, reason),
        Err(Refusal::NotPollable(kind)) => {
            let kind = match kind {
                Kind::Regular => atoms::regular(),
                Kind::Directory => atoms::directory(),
                Kind::Device => atoms::device(),
                Kind::Anonymous => atoms::anonymous(),
            };
            return (atoms::error(), (atoms::not_pollable(), kind)).encode(env);
        }
        Err(Refusal::Listening) => atoms::listening(),
        Err(Refusal::Standard) => atoms::standard_io(),
        Err(Refusal::InUse) => atoms::in_use(),
        Err(Refusal::NoFactory) => atoms::no_factory(),
        Err(Refusal::Overloaded) => atoms::overloaded(),
        Err(Refusal::Full) => atoms::max_connections(),
    };
    (atoms::error(), reason).encode(env)
}

/// What a context has been handed.
#[rustler::nif]
fn context_counts(env: Env, context: ResourceArc<ContextHandle>) -> Term {
    let (connections, waiting, handed_over) = context.intake().counts();
    rustler::term_map!(env, {
        atoms::connections() => connections,
        atoms::waiting() => waiting,
        atoms::handed_over() => handed_over,
        atoms::calls_waiting() => context.calls_waiting(),
    })
}

/// A duplicate of a descriptor.
#[rustler::nif(schedule = "DirtyIo")]
fn fd_duplicate(env: Env, fd: RawFd) -> Term {
    ok_or_reason(env, handoff::duplicate(fd))
}

/// A duplicate of a connection's descriptor: of one of the caller's, without TLS.
#[rustler::nif(schedule = "DirtyIo")]
fn socket_duplicate(env: Env, socket: ResourceArc<Handle>) -> Term {
    let conn = &socket.conn;
    if conn.secure {
        return (atoms::error(), atoms::tls()).encode(env);
    }
    let mut state = conn.lock();
    if !process::is_owner(&state, env.pid()) {
        return refused(env, Reason::NotOwner);
    }
    let Some(fd) = state.fd() else {
        return refused(env, Reason::Closed);
    };
    let copy = handoff::duplicate(fd);
    if copy.is_ok() {
        state.hand(Handed::new(Medium::Stream, Arc::clone(conn.home())));
    }
    drop(state);
    ok_or_reason(env, copy)
}
