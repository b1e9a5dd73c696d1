//! A process that Python has for itself: what its main thread does, which is to take what the VM sends.
//!
//! The context and its loop are the same as in the VM. What the native side tells Elixir goes through the
//! emulator's functions there; here whoever links this library has to have them: see
//! `src/bin/reactor_python`.

mod connections;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::time::Duration;

use nix::sys::resource::{setrlimit, Resource};
use rustler::{
    Atom, Binary, Encoder, Env, Error, LocalPid, NifResult, OwnedEnv, ResourceArc, Term,
};
use rustls::ServerConfig;

use crate::command::Command;
use crate::control::{Filled, Inbox};
use crate::error::Cause;
use crate::group::Group;
use crate::mail::Mail;
use crate::nif::contexts::decode_options;
use crate::nif::tls::decode_server;
use crate::owner::{kick, Conn};
use crate::portal::passage::Passage;
use crate::portal::{CALLERS, CONTEXT, LOG, QUESTIONS, RELAY};
use crate::python::context::{self, ContextHandle};
use crate::python::inbox::Refused;
use crate::python::interpreter;
use crate::python::job::{Job, JobHandle};
use crate::python::question;
use crate::python::send;
use crate::python::term::{learn_mapset, Conversion};
use crate::tls::config;
use crate::{handoff, log, report};

mod atoms {
    rustler::atoms! {
        address_space = "as",
        abandon,
        adopt,
        answered,
        call,
        closed,
        context = "$reactor_context",
        cpu,
        cut,
        drain,
        error,
        factory_set,
        give_back,
        interpreter,
        load,
        named,
        nil,
        nofile,
        overloaded,
        refused,
        rlimit,
        rouse,
        start,
        stop,
        tls,
        traffic,
        unasked,
    }
}
/// What the VM sends, and what it came to.
struct Child {
    names: fn(u64, Option<LocalPid>),
    context: Option<ResourceArc<ContextHandle>>,
    /// By the number of a listener's group in the VM.
    groups: HashMap<u64, Arc<Group>>,
    /// By their number in the VM. Some have ended.
    conns: HashMap<u64, Weak<Conn>>,
    /// So many were open when those that had ended were forgotten last.
    open: usize,
    /// Calls, by number. Some are over.
    calls: HashMap<u64, ResourceArc<JobHandle>>,
    /// So many were not when those that were over were forgotten last.
    waiting: usize,
    /// By the number that the VM gave it.
    configs: HashMap<u64, Arc<ServerConfig>>,
}

/// Takes what comes on the control socket, until that is closed: the VM, or what it keeps this process
/// for, is gone. An error says what it was that came.
/// `names` is told which process has the name that was asked for under a number.
pub fn run(control: OwnedFd, names: fn(u64, Option<LocalPid>)) -> Result<(), String> {
    report::want(true);
    handoff::announce_factories(|| tell_context(|env| atoms::factory_set().encode(env)));
    let mut child = Child::new(names);
    let mut inbox = Inbox::with_fds();
    let mut env = OwnedEnv::new();
    loop {
        match inbox.fill(control.as_fd()) {
            Ok(Filled::Closed) => return Ok(()),
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
        while let Some(frame) = inbox.frame().map_err(|error| error.to_string())? {
            let frame = frame.to_vec();
            env.run(|env| {
                let (message, _) = env.binary_to_term(&frame).ok_or("a frame is no term")?;
                let obeyed = child.obey(message, &mut inbox);
                obeyed.map_err(|_| "a message was not understood")
            })?;
            env.clear();
        }
    }
}

/// What has been written to the log's place was taken: the control socket holds back who writes too much.
pub fn log_taken() {
    log::taken();
}

/// What has been written to the relay's place was sent on, likewise.
pub fn relayed() {
    send::was_relayed();
}

/// A process of the VM's, by its place.
fn process(env: Env, place: u8) -> NifResult<LocalPid> {
    place.encode(env).decode()
}

fn tell<F>(place: u8, build: F)
where
    F: for<'a> FnOnce(Env<'a>) -> Term<'a>,
{
    let mut mail = Mail::new();
    let pid = OwnedEnv::new().run(|env| process(env, place));
    if let Ok(pid) = pid {
        mail.send(&pid, build);
    }
}

fn tell_context<F>(build: F)
where
    F: for<'a> FnOnce(Env<'a>) -> Term<'a>,
{
    tell(CONTEXT, |env| {
        let news = build(env);
        (atoms::context(), atoms::nil(), news).encode(env)
    });
}

impl Child {
    fn new(names: fn(u64, Option<LocalPid>)) -> Self {
        Child {
            names,
            context: None,
            groups: HashMap::new(),
            conns: HashMap::new(),
            open: 0,
            calls: HashMap::new(),
            waiting: 0,
            configs: HashMap::new(),
        }
    }

    fn obey(&mut self, message: Term, inbox: &mut Inbox) -> NifResult<()> {
        if let Ok(kind) = message.decode::<Atom>() {
            if kind == atoms::interpreter() {
                return tell_interpreter();
            }
            if kind == atoms::rouse() {
                return self.context(|context| {
                    context.home().tell(Command::Rouse);
                    Ok(())
                });
            }
            return Err(Error::BadArg);
        }
        let parts = rustler::types::tuple::get_tuple(message)?;
        let kind: Atom = parts.first().ok_or(Error::BadArg)?.decode()?;
        match parts[1..] {
            [options, level, _, sets] if kind == atoms::start() => {
                let sets: Binary = sets.decode()?;
                if let Some((empty, _)) = message.get_env().binary_to_term(&sets) {
                    learn_mapset(empty);
                }
                self.start(options, level)
            }
            [group, factory] if kind == atoms::load() => {
                let group: u64 = group.decode()?;
                // It may have been drained, and have been resumed since.
                self.groups.remove(&group);
                self.context(|context| {
                    let factory = factory.decode()?;
                    context.home().tell(Command::Load(group, factory));
                    Ok(())
                })
            }
            [passage] if kind == atoms::adopt() => {
                let fd = inbox.fd();
                self.adopt(Passage::decode(passage)?, fd)
            }
            [number, recipe] if kind == atoms::tls() => {
                let env = message.get_env();
                let recipe: Binary = recipe.decode()?;
                let (options, _) = env.binary_to_term(&recipe).ok_or(Error::BadArg)?;
                // It was made of the same once.
                let made = config::server(decode_server(options)?).map_err(|_| Error::BadArg)?;
                self.configs.insert(number.decode()?, made);
                Ok(())
            }
            [number, operation, arguments, callers, within, conversion]
                if kind == atoms::call() =>
            {
                let (operation, conversion) = (operation.decode()?, conversion.decode()?);
                self.call(number, operation, arguments, callers, within, conversion)
            }
            [number, answer] if kind == atoms::answered() => {
                question::answered(number.decode()?, answer);
                Ok(())
            }
            [number, why] if kind == atoms::refused() => {
                question::refused(number.decode()?, why.decode()?);
                Ok(())
            }
            [_, operation, arguments, _, _, _] if kind == atoms::unasked() => {
                let operation = operation.decode()?;
                self.context(|context| {
                    context.run_unasked(Job::unasked(operation, arguments));
                    Ok(())
                })
            }
            [number] if kind == atoms::abandon() => {
                self.calls.remove(&number.decode::<u64>()?);
                Ok(())
            }
            [grace] if kind == atoms::stop() => {
                let grace = grace.decode()?;
                self.context(|context| {
                    context.stop(grace);
                    context.hurry(Duration::from_millis(grace));
                    Ok(())
                })
            }
            [group] if kind == atoms::drain() => {
                // What comes later is not meant, or is told again: the listener may have been resumed.
                let Some(group) = self.groups.remove(&group.decode::<u64>()?) else {
                    return Ok(());
                };
                group.drain();
                self.context(|context| {
                    context.home().tell(Command::Drain(group));
                    Ok(())
                })
            }
            [ids] if kind == atoms::give_back() => {
                self.give_back(ids.decode()?);
                Ok(())
            }
            [id, cause] if kind == atoms::cut() => {
                let conn = self.conns.get(&id.decode::<u64>()?);
                if let Some(conn) = conn.and_then(Weak::upgrade) {
                    conn.lock().condemned = Some(Cause::named(cause.decode()?));
                    kick(&conn);
                }
                Ok(())
            }
            [number, process] if kind == atoms::named() => {
                (self.names)(number.decode()?, process.decode().ok());
                Ok(())
            }
            [reference] if kind == atoms::traffic() => {
                self.tell_traffic(reference);
                Ok(())
            }
            _ => Err(Error::BadArg),
        }
    }

    fn context(
        &self,
        run: impl FnOnce(&ResourceArc<ContextHandle>) -> NifResult<()>,
    ) -> NifResult<()> {
        run(self.context.as_ref().ok_or(Error::BadArg)?)
    }

    fn call(
        &mut self,
        number: Term,
        operation: Atom,
        arguments: Term,
        callers: Term,
        within: Term,
        conversion: Conversion,
    ) -> NifResult<()> {
        let context = self.context.clone().ok_or(Error::BadArg)?;
        let env = number.get_env();
        let callers: Vec<Term> = callers.decode()?;
        // Who was somewhere else when this VM had another name cannot be known again.
        let callers = callers.iter().filter_map(|pid| pid.decode().ok()).collect();
        let answers_to = process(env, CALLERS)?;
        let job = Job::passed_on(
            answers_to, callers, number, operation, arguments, conversion,
        );
        job.descends_from(within.decode()?);
        let id: u64 = number.decode()?;
        match context.call(&job) {
            Ok(inbox) => {
                if self.calls.len() > 2 * self.waiting + 1024 {
                    self.calls.retain(|_, call| !call.is_over());
                    self.waiting = self.calls.len();
                }
                self.calls.insert(id, JobHandle::new(job, inbox));
            }
            Err(refused) => tell(CALLERS, |env| {
                let why = match refused {
                    Refused::Closed => atoms::closed(),
                    Refused::Overloaded => atoms::overloaded(),
                };
                (id, (atoms::error(), why)).encode(env)
            }),
        }
        Ok(())
    }

    fn start(&mut self, options: Term, level: Term) -> NifResult<()> {
        let env = options.get_env();
        let options: Binary = options.decode()?;
        let (options, _) = env.binary_to_term(&options).ok_or(Error::BadArg)?;
        send::relayed_by(process(env, RELAY)?);
        question::answered_there(process(env, QUESTIONS)?);
        let started = log::forward_to(process(env, LOG)?, level.decode()?)
            .and_then(|()| limit(options))
            .and_then(|()| {
                let options = decode_options(options, None)
                    .map_err(|_| io::Error::other("its options were not understood"))?;
                let pid = process(env, CONTEXT).map_err(|_| io::Error::other("no place"))?;
                context::start(options, pid, None)
            });
        match started {
            Ok(context) => self.context = context,
            Err(error) => {
                let error = interpreter::PythonError::startup(error.to_string());
                tell_context(|env| context::failure(env, &error));
            }
        }
        Ok(())
    }
}

fn tell_interpreter() -> NifResult<()> {
    let info = interpreter::info().ok_or(Error::BadArg)?;
    tell_context(|env| {
        (
            atoms::interpreter(),
            info.version,
            info.executable,
            info.libpython,
        )
            .encode(env)
    });
    Ok(())
}

/// What the kernel lets this process have at most.
fn limit(options: Term) -> io::Result<()> {
    let limits = options.map_get(atoms::rlimit());
    let limits = limits.and_then(|limits| limits.decode::<Vec<(Atom, u64)>>());
    for (name, value) in limits.unwrap_or_default() {
        let resource = match name {
            name if name == atoms::address_space() => Resource::RLIMIT_AS,
            name if name == atoms::cpu() => Resource::RLIMIT_CPU,
            name if name == atoms::nofile() => Resource::RLIMIT_NOFILE,
            _ => continue,
        };
        // The signal that says why comes first.
        let last = value.saturating_add(u64::from(resource == Resource::RLIMIT_CPU));
        setrlimit(resource, value, last)?;
    }
    Ok(())
}
