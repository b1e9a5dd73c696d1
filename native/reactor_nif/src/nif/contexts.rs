//! Python contexts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustler::{Atom, Encoder, Env, ResourceArc, Term};

use crate::command::Command;
use crate::error::Reason;
use crate::nif::terms::{get, ok_or_reason, refused, Answered};
use crate::process::{outcome, Handle, ListenerHandle};
use crate::python::context::ContextHandle;
use crate::python::job::Job;
use crate::python::protocol::{FactoryKey, ProtocolOwner};
use crate::python::{context, interpreter};
use crate::{process, report};

mod atoms {
    rustler::atoms! {
        executable,
        libpython,
        name,
        nil,
        ok,
        paths,
        python_dir,
        report_to,
        requirements,
        setup,
        venv,
        version,
    }
}

#[rustler::nif]
fn context_start<'a>(env: Env<'a>, options: Term<'a>) -> Answered<'a> {
    let options = context::Options {
        name: get(options, atoms::name())?,
        paths: get(options, atoms::paths())?,
        python_dir: get(options, atoms::python_dir())?,
        environment: context::Environment {
            venv: get(options, atoms::venv())?,
            requirements: get(options, atoms::requirements())?,
            setup: get::<Option<_>>(options, atoms::setup())?.unwrap_or_default(),
        },
        report_to: get(options, atoms::report_to())?,
    };
    let started = match context::start(options, env.pid(), env) {
        Ok(Some(handle)) => Ok(handle),
        Ok(None) => Err(Reason::Closed),
        Err(error) => Err(error.into()),
    };
    Ok(ok_or_reason(env, started))
}

#[rustler::nif]
fn context_serve(
    context: ResourceArc<ContextHandle>,
    listener: ResourceArc<ListenerHandle>,
    factory: String,
) -> Atom {
    context.serve(listener, factory);
    atoms::ok()
}

/// Gives a connection of the caller's to a context.
#[rustler::nif]
fn context_adopt(
    env: Env,
    context: ResourceArc<ContextHandle>,
    socket: ResourceArc<Handle>,
    factory: String,
) -> Term {
    let target = Arc::clone(context.home());
    if target.closed() {
        return refused(env, Reason::Closed);
    }
    let conn = &socket.conn;
    let owner = ProtocolOwner::new(FactoryKey::Named(factory.into()));
    let moved = process::give_up(conn, env.pid(), owner);
    if moved.is_ok() {
        conn.home().tell(Command::Move(Arc::clone(conn), target));
    }
    outcome(env, moved)
}

/// Has a context run something: it tells its process `{:answer, reference, answer}`.
#[rustler::nif]
fn context_run<'a>(
    context: ResourceArc<ContextHandle>,
    reference: Term<'a>,
    operation: Atom,
    arguments: Term<'a>,
    timeout: Option<u64>,
) -> Answered<'a> {
    let env = reference.get_env();
    let operation = operation.to_term(env).atom_to_string()?;
    let until =
        timeout.and_then(|timeout| Instant::now().checked_add(Duration::from_millis(timeout)));
    if context.home().closed() {
        return Ok(refused(env, Reason::Closed));
    }
    context.run(Job::new(reference, operation, arguments, until));
    Ok(atoms::ok().encode(env))
}

#[rustler::nif]
fn context_stop(context: ResourceArc<ContextHandle>, grace: u64) -> Atom {
    context.stop(grace);
    atoms::ok()
}

/// Whether reports are wanted at all.
#[rustler::nif]
fn reporting(wanted: bool) -> Atom {
    report::want(wanted);
    atoms::ok()
}

#[rustler::nif]
fn python_info(env: Env) -> Term {
    match interpreter::info() {
        None => atoms::nil().encode(env),
        Some(info) => rustler::term_map!(env, {
            atoms::version() => info.version,
            atoms::executable() => info.executable,
            atoms::libpython() => info.libpython,
        }),
    }
}
