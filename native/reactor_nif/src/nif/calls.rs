//! Calls of processes into Python.

use rustler::{Atom, Encoder, Env, LocalPid, ResourceArc, Term};

use crate::nif::terms::Answered;
use crate::python::ask;
use crate::python::context::ContextHandle;
use crate::python::inbox::Refused;
use crate::python::job::{Job, JobHandle};
use crate::python::question::{self, QuestionHandle};
use crate::python::send;

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

/// From now on the caller has processes made that answer what Python asks, as one of several.
#[rustler::nif]
fn questions_to(env: Env, index: usize) -> Atom {
    question::answered_by(index, env.pid());
    atoms::ok()
}

/// The caller answers a question: what is asked, or nil if nobody waits any more.
#[rustler::nif]
fn question_begin(env: Env, question: ResourceArc<QuestionHandle>) -> Option<Term> {
    question.begin(env)
}

/// What a question comes to; the first answer counts.
#[rustler::nif]
fn question_answer<'a>(question: ResourceArc<QuestionHandle>, answer: Term<'a>) -> Atom {
    question.answer(answer);
    atoms::ok()
}

/// From now on the caller sends what Python has to say to other nodes.
#[rustler::nif]
fn relay_to(env: Env) -> Atom {
    send::relayed_by(env.pid());
    atoms::ok()
}

/// One of these messages was sent.
#[rustler::nif]
fn relayed() -> Atom {
    send::was_relayed();
    atoms::ok()
}

/// There is a function that Python may call, or there is not any more.
#[rustler::nif]
fn function_known(name: String, known: bool) -> Atom {
    ask::knows(name, known);
    atoms::ok()
}

/// There is none.
#[rustler::nif]
fn functions_unknown() -> Atom {
    ask::knows_none();
    atoms::ok()
}
