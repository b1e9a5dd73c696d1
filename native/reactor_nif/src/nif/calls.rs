//! Calls of processes into Python.

use rustler::{Atom, Encoder, Env, LocalPid, ResourceArc, Term};

use crate::nif::terms::Answered;
use crate::python::ask;
use crate::python::context::ContextHandle;
use crate::python::inbox::{Gate, Refused};
use crate::python::job::{Claim, Job, JobHandle};
use crate::python::question::{self, QuestionHandle};
use crate::python::send;
use crate::python::term::Conversion;

mod atoms {
    rustler::atoms! {
        cancelled,
        closed,
        error,
        forget,
        noproc,
        later,
        not_owner,
        ok,
        overloaded,
        taken,
    }
}

/// Has a context run a function of `erlang.reactor.context`: the caller gets `{reference, answer}`, unless it
/// gives up before. Where the reference is nil, the answer is kept for [`call_await`].
#[rustler::nif]
fn call_start<'a>(
    env: Env<'a>,
    context: ResourceArc<ContextHandle>,
    reference: Term<'a>,
    operation: Atom,
    arguments: Term<'a>,
    callers: Vec<LocalPid>,
    conversion: Conversion,
) -> Answered<'a> {
    let reference = reference.is_ref().then_some(reference);
    let waits = reference.is_some();
    let job = Job::new(
        env.pid(),
        callers,
        reference,
        operation,
        arguments,
        conversion,
    );
    Ok(match context.call(&job) {
        Ok(inbox) if waits => (atoms::ok(), JobHandle::new(job, inbox)).encode(env),
        Ok(inbox) => (atoms::ok(), JobHandle::of_its_own(env, job, inbox)).encode(env),
        Err(Refused::Closed) => (atoms::error(), atoms::closed()).encode(env),
        Err(Refused::Overloaded) => (atoms::error(), atoms::overloaded()).encode(env),
    })
}

/// Bounds how many calls of several contexts have no answer yet.
#[rustler::nif]
fn gate_new(most: usize) -> ResourceArc<Gate> {
    ResourceArc::new(Gate::new(most))
}

/// How many that are.
#[rustler::nif]
fn gate_taken(gate: ResourceArc<Gate>) -> usize {
    gate.taken()
}

/// The index of the context with the fewest calls, of those that take any.
#[rustler::nif]
fn context_idlest(env: Env, contexts: Vec<(u64, ResourceArc<ContextHandle>)>) -> Term {
    let open = contexts
        .iter()
        .filter(|(_, context)| !context.takes_no_calls());
    match open.min_by_key(|(_, context)| context.calls_waiting()) {
        Some((index, _)) => (atoms::ok(), index).encode(env),
        None => (atoms::error(), atoms::noproc()).encode(env),
    }
}

/// Has a context forget what these processes had in it, after the calls that wait already.
#[rustler::nif]
fn context_forget<'a>(context: ResourceArc<ContextHandle>, processes: Term<'a>) -> Atom {
    let arguments = vec![processes].encode(processes.get_env());
    context.run_unasked(Job::unasked(atoms::forget(), arguments));
    atoms::ok()
}

/// The answer of a call that goes on by itself, for its owner: `{:ok, answer}`, or `:later` as a message
/// `{reference, answer}`, or why there is none.
#[rustler::nif]
fn call_await<'a>(env: Env<'a>, call: ResourceArc<JobHandle>, reference: Term<'a>) -> Term<'a> {
    if call.owner() != Some(env.pid()) {
        return atoms::not_owner().encode(env);
    }
    match call.claim(env, reference) {
        Claim::Answer(answer) => (atoms::ok(), answer).encode(env),
        Claim::Later => atoms::later().encode(env),
        Claim::Abandoned => atoms::cancelled().encode(env),
        Claim::Taken => atoms::taken().encode(env),
    }
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
