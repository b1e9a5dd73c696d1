//! The functions of `Reactor.Native`: terms in, terms out, nothing else.
//!
//! All run on normal schedulers and never block, but those that are marked as dirty.

mod calls;
pub mod contexts;
mod datagrams;
mod dial;
mod handoff;
mod listeners;
mod options;
mod proxy;
mod socket_options;
mod sockets;
mod terms;
pub mod tls;

pub use terms::{encode_socket_address, peer};

use std::time::Duration;

use rustler::{Atom, Encoder, Env, Error, LocalPid, NifResult, Term};

use crate::counters::{self, live};
use crate::nif::terms::get;
use crate::{log, runtime};

mod atoms {
    rustler::atoms! {
        buffers,
        connections,
        contexts,
        error,
        fds_closed,
        fds_opened,
        handles,
        listeners,
        loops,
        ok,
        report_to,
        timeout,
    }
}

#[rustler::nif]
fn runtime_start(options: Term) -> NifResult<Atom> {
    let loops: usize = get(options, atoms::loops())?;
    let pid: LocalPid = get(options, atoms::report_to())?;
    runtime::start(loops, pid).map_err(|error| Error::RaiseTerm(Box::new(error.to_string())))?;
    Ok(atoms::ok())
}

/// What is logged goes to the caller from now on.
#[rustler::nif]
fn log_start(env: Env, level: Atom) -> NifResult<Atom> {
    let level = level.to_term(env).atom_to_string()?;
    log::forward_to(env.pid(), &level)
        .map_err(|error| Error::RaiseTerm(Box::new(error.to_string())))?;
    Ok(atoms::ok())
}

/// A message of the log was taken out of the mailbox that it went to.
#[rustler::nif]
fn log_taken() -> Atom {
    log::taken();
    atoms::ok()
}

#[rustler::nif(schedule = "DirtyIo")]
fn runtime_stop(env: Env, timeout: u64) -> Term {
    if runtime::stop(Duration::from_millis(timeout)) {
        atoms::ok().encode(env)
    } else {
        (atoms::error(), atoms::timeout()).encode(env)
    }
}

#[rustler::nif]
fn counters(env: Env) -> Term {
    let connections = live(&counters::CONNECTIONS_MADE, &counters::CONNECTIONS_FREED);
    let listeners = live(&counters::LISTENERS_MADE, &counters::LISTENERS_FREED);
    let contexts = live(&counters::CONTEXTS_MADE, &counters::CONTEXTS_ENDED);
    let handles = live(&counters::HANDLES_MADE, &counters::HANDLES_FREED);
    rustler::term_map!(env, {
        atoms::fds_opened() => counters::FDS_OPENED.get(),
        atoms::fds_closed() => counters::FDS_CLOSED.get(),
        atoms::connections() => connections,
        atoms::listeners() => listeners,
        atoms::contexts() => contexts,
        atoms::handles() => handles,
        atoms::buffers() => live(&counters::BUFFERS_TAKEN, &counters::BUFFERS_BACK),
    })
}
