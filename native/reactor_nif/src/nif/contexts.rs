//! Python contexts.

use std::sync::Arc;
use std::time::Duration;

use rustler::{Atom, Encoder, Env, Error, NifResult, ResourceArc, Term};

use crate::command::Command;
use crate::error::Reason;
use crate::nif::options::decode_settings;
use crate::nif::terms::{get, ok_or_reason, refused, Answered};
use crate::portal::{Asked, WATCHER};
use crate::process::{outcome, Handle, ListenerHandle};
use crate::python::context::{ContextHandle, Elsewhere};
use crate::python::isolation::Isolation;
use crate::python::protocol::{FactoryKey, ProtocolOwner};
use crate::python::{context, doctor, interpreter};
use crate::{process, report};

mod atoms {
    rustler::atoms! {
        callback_timeout,
        error,
        executable,
        experimental,
        facts,
        gate,
        isolation,
        high_watermark,
        libpython,
        max_connections,
        name,
        nil,
        ok,
        os_pid,
        packages,
        paths,
        process,
        python_dir,
        report_to,
        shared,
        stuck_timeout,
        subinterpreter,
        requirements,
        setup,
        tls,
        venv,
        version,
    }
}

#[rustler::nif]
fn context_start<'a>(env: Env<'a>, options: Term<'a>) -> Answered<'a> {
    let process = match options.map_get(atoms::process()) {
        Ok(program) => Some(Elsewhere {
            program: program.decode()?,
            options: options_there(options)?,
        }),
        Err(_) => None,
    };
    let options = decode_options(options, process)?;
    let started = match context::start(options, env.pid(), Some(env)) {
        Ok(Some(handle)) => Ok(handle),
        Ok(None) => Err(Reason::Closed),
        Err(error) => Err(error.into()),
    };
    Ok(ok_or_reason(env, started))
}

/// What a context starts with in a process of its own, in external format: limits are kept here.
fn options_there(options: Term) -> NifResult<Vec<u8>> {
    let options = options
        .map_put(atoms::isolation(), atoms::shared())?
        .map_put(atoms::gate(), None::<u64>)?
        .map_put(atoms::max_connections(), None::<u64>)?
        .map_put(atoms::report_to(), WATCHER)?;
    Ok(options.to_binary().to_vec())
}

/// The options of a context: of one in this process if `process` is none.
pub fn decode_options(options: Term, process: Option<Elsewhere>) -> NifResult<context::Options> {
    // What a listener's context is handed starts as usual.
    let settings = if options.map_get(atoms::high_watermark()).is_ok() {
        Some(decode_settings(options)?)
    } else {
        None
    };
    let max_connections = match options.map_get(atoms::max_connections()) {
        Ok(max) => max.decode()?,
        Err(_) => None,
    };
    let gate = match options.map_get(atoms::gate()) {
        Ok(gate) => gate.decode()?,
        Err(_) => None,
    };
    Ok(context::Options {
        process,
        name: get(options, atoms::name())?,
        paths: get(options, atoms::paths())?,
        python_dir: get(options, atoms::python_dir())?,
        environment: context::Environment {
            venv: get(options, atoms::venv())?,
            requirements: get(options, atoms::requirements())?,
            setup: get::<Option<_>>(options, atoms::setup())?.unwrap_or_default(),
        },
        report_to: get(options, atoms::report_to())?,
        isolation: to_isolation(get(options, atoms::isolation())?)?,
        experimental: get(options, atoms::experimental())?,
        callback_timeout: get::<Option<u64>>(options, atoms::callback_timeout())?
            .map(Duration::from_millis),
        stuck_timeout: get::<Option<u64>>(options, atoms::stuck_timeout())?
            .map(Duration::from_millis),
        gate,
        max_connections,
        settings,
    })
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

#[rustler::nif]
fn context_is_deaf(context: ResourceArc<ContextHandle>) -> bool {
    context.is_deaf()
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
    if conn.secure && context.is_elsewhere() {
        return (atoms::error(), atoms::tls()).encode(env);
    }
    let moved = process::give_up(conn, env.pid(), owner);
    if moved.is_ok() {
        conn.home().tell(Command::Move(Arc::clone(conn), target));
    }
    outcome(env, moved)
}

/// Has a context in a process of its own say what went through its connections: its process is told
/// `{:traffic, reference}` then. False for others, which need not be asked.
#[rustler::nif]
fn context_survey(context: ResourceArc<ContextHandle>, reference: Term) -> bool {
    if context.is_elsewhere() {
        context.survey(Asked::new(reference));
    }
    context.is_elsewhere()
}

/// What Python runs in a process of the context's own, and in which; nil if it has none.
#[rustler::nif]
fn context_interpreter(env: Env, context: ResourceArc<ContextHandle>) -> Term {
    match context.interpreter() {
        None => atoms::nil().encode(env),
        Some(found) => rustler::term_map!(env, {
            atoms::version() => found.version.as_str(),
            atoms::executable() => found.executable.as_str(),
            atoms::libpython() => found.libpython.as_str(),
            atoms::os_pid() => found.pid,
        }),
    }
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

fn to_isolation(name: Atom) -> NifResult<Isolation> {
    if name == atoms::shared() {
        Ok(Isolation::Shared)
    } else if name == atoms::subinterpreter() {
        Ok(Isolation::Own)
    } else {
        Err(Error::BadArg)
    }
}

fn isolation_name(isolation: Isolation) -> Atom {
    match isolation {
        Isolation::Shared => atoms::shared(),
        Isolation::Own => atoms::subinterpreter(),
    }
}

/// Why this Python does not have that isolation, or nil.
#[rustler::nif]
fn isolation_refusal(isolation: Atom, experimental: bool) -> NifResult<Option<String>> {
    Ok(to_isolation(isolation)?.refusal(experimental))
}

/// Starts Python unless it runs, and tells about it: takes as long as imports take.
#[rustler::nif(schedule = "DirtyIo")]
fn python_doctor(env: Env, python_dir: String, packages: Vec<String>) -> Term {
    let findings = match doctor::examine(python_dir, packages) {
        Ok(findings) => findings,
        Err(error) => return (atoms::error(), context::encode_error(env, &error)).encode(env),
    };
    let answer = |outcome: &Result<String, String>| match outcome {
        Ok(version) => (atoms::ok(), version).encode(env),
        Err(why) => (atoms::error(), why).encode(env),
    };
    let packages: Vec<_> = findings
        .packages
        .iter()
        .map(|(name, isolation, outcome)| (name, isolation_name(*isolation), answer(outcome)))
        .collect();
    let found = rustler::term_map!(env, {
        atoms::facts() => findings.facts,
        atoms::packages() => packages,
    });
    (atoms::ok(), found).encode(env)
}
