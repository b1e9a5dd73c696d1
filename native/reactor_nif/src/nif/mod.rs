//! The functions of `Reactor.Native`: terms in, terms out, nothing else.
//!
//! All run on normal schedulers and never block, but those that are marked as dirty.

mod contexts;
mod datagrams;
mod handoff;
mod listeners;
mod options;
mod proxy;
mod sockets;
mod terms;
mod tls;

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
        log_level,
        log_to,
        loops,
        ok,
        timeout,
    }
}

#[rustler::nif]
fn runtime_start(options: Term) -> NifResult<Atom> {
    let loops: usize = get(options, atoms::loops())?;
    let pid: LocalPid = get(options, atoms::log_to())?;
    let level: Atom = get(options, atoms::log_level())?;
    let level = level.to_term(options.get_env()).atom_to_string()?;
    let started = log::forward_to(pid, &level).and_then(|()| runtime::start(loops, pid));
    started.map_err(|error| Error::RaiseTerm(Box::new(error.to_string())))?;
    Ok(atoms::ok())
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
