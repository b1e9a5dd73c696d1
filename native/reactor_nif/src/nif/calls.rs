//! Calls of processes into Python.

use rustler::{Atom, Encoder, Env, LocalPid, ResourceArc, Term};

use crate::nif::terms::Answered;
use crate::python::context::ContextHandle;
use crate::python::inbox::Refused;
use crate::python::job::{Job, JobHandle};

mod atoms {
    rustler::atoms! {
        closed,
        error,
        ok,
        overloaded,
    }
}

/// Has a context run a function of `erlang.reactor.context`: the caller gets `{reference, answer}`, unless it
/// gives up before.
#[rustler::nif]
fn call_start<'a>(
    env: Env<'a>,
    context: ResourceArc<ContextHandle>,
    reference: Term<'a>,
    operation: Atom,
    arguments: Term<'a>,
    callers: Vec<LocalPid>,
) -> Answered<'a> {
    let job = Job::new(env.pid(), callers, reference, operation, arguments);
    Ok(match context.call(&job) {
        Ok(inbox) => {
            let handle = ResourceArc::new(JobHandle::new(job, inbox));
            (atoms::ok(), handle).encode(env)
        }
        Err(Refused::Closed) => (atoms::error(), atoms::closed()).encode(env),
        Err(Refused::Overloaded) => (atoms::error(), atoms::overloaded()).encode(env),
    })
}

/// Gives a call up, and has it interrupted: false if its answer is there, or on its way.
#[rustler::nif]
fn call_abandon(call: ResourceArc<JobHandle>) -> bool {
    call.abandon()
}
