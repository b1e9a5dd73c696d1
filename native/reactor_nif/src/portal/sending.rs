//! What the VM sends a Python process: connections, calls, and what becomes of them.

use std::sync::Arc;

use rustler::{Encoder, Env, ResourceArc, Term};
use rustls::ServerConfig;

use crate::connection::{Parted, Preface};
use crate::error::Cause;
use crate::group::Group;
use crate::owner::{Conn, Owner};
use crate::portal::deafness::OnItsWay;
use crate::portal::passage::{binary, Passage};
use crate::portal::{Asked, Portal, Sent};
use crate::process::ListenerHandle;
use crate::python::context::encode_error;
use crate::python::interpreter::PythonError;
use crate::python::term::Returned;
use crate::tls::Offer;

mod atoms {
    rustler::atoms! {
        abandon,
        adopt,
        call,
        cut,
        drain,
        error,
        load,
        stop,
        tls,
        traffic,
        unasked,
    }
}

/// So many connections may be on their way.
const MOST_ON_THEIR_WAY: usize = 64;
/// While so many bytes wait to be sent, calls wait where they can be given up without a trace.
const MOST_UNSENT: usize = 1024 * 1024;

impl Portal {
    /// False while the process does not read what it was sent before.
    pub(super) fn takes_calls(&self) -> bool {
        self.outbox.waiting() < MOST_UNSENT
    }

    /// True while it is to be sent nothing more.
    pub fn is_full(&self) -> bool {
        self.is_deaf() || self.on_their_way >= MOST_ON_THEIR_WAY
    }

    /// False for what is too long to be sent.
    pub(super) fn tell<F>(&mut self, build: F) -> bool
    where
        F: for<'a> FnOnce(Env<'a>) -> Term<'a>,
    {
        self.send(build, None)
    }

    fn send<F>(&mut self, build: F, socket: Option<Parted>) -> bool
    where
        F: for<'a> FnOnce(Env<'a>) -> Term<'a>,
    {
        let outbox = &mut self.outbox;
        let pushed = self.env.run(|env| {
            let frame = build(env).to_binary();
            outbox.push(&frame, socket.map(|socket| Box::new(socket) as _))
        });
        self.env.clear();
        self.stirred = true;
        pushed
    }

    /// Has the process make a factory ready for this listener.
    pub fn load(&mut self, handle: ResourceArc<ListenerHandle>, factory: &str) {
        let group = handle.0.group.id;
        self.loading.push_back(handle);
        self.tell(|env| (atoms::load(), group, factory).encode(env));
    }

    /// Has the process run what waits for that, and not go on with what nobody waits for any more.
    pub(super) fn pass_calls(&mut self) {
        while self.takes_calls() {
            let Some(job) = self.waiting.hand_out() else {
                break;
            };
            let Some(request) = job.begin() else {
                continue;
            };
            if job.is_unasked() {
                self.tell(|env| request.passage(env, atoms::unasked(), 0, &job));
                continue;
            }
            let number = self.next_call;
            self.next_call += 1;
            let error = if job.conversion.returned == Returned::Object {
                "an object of a process of its own cannot be held outside of it: return: :object is for other isolations"
            } else if self.tell(|env| request.passage(env, atoms::call(), number, &job)) {
                self.calls.insert(number, job);
                continue;
            } else {
                "what is to be run, with its arguments, is longer than 256 MiB"
            };
            let error = PythonError::startup(error);
            job.answer(&self.waiting, &mut self.mail, |env| {
                Some((atoms::error(), encode_error(env, &error)).encode(env))
            });
        }
        for cut in self.waiting.cuts() {
            let mut calls = self.calls.iter();
            let found = calls.find(|(_, job)| Arc::ptr_eq(job, &cut.job));
            if let Some(number) = found.map(|(number, _)| *number) {
                self.calls.remove(&number);
                self.tell(|env| (atoms::abandon(), number).encode(env));
            }
            cut.job.ends();
        }
    }

    /// Has the process end; what is open has `grace` milliseconds.
    pub fn stop(&mut self, grace: u64) {
        self.stopping = true;
        self.tell(|env| (atoms::stop(), grace).encode(env));
    }

    /// Has the process close what is idle of this listener's.
    pub fn drain(&mut self, group: &Group) {
        let number = group.id;
        self.tell(|env| (atoms::drain(), number).encode(env));
    }

    /// Has the process say what has gone through its connections; the context's process is answered.
    pub fn ask_for_traffic(&mut self, asked: &Asked) {
        self.tell(|env| (atoms::traffic(), asked.reference(env)).encode(env));
    }

    /// Sends a connection on. What is left of it here has no descriptor, but for a spare one where others
    /// might be given it.
    pub fn adopt(&mut self, conn: &Arc<Conn>, others: bool) {
        let mut state = conn.lock();
        let Some(mut parted) = state.part() else {
            return;
        };
        let Owner::Protocol(owner) = &mut state.owner else {
            return;
        };
        let key = owner.key().clone();
        let metadata = owner.metadata();
        let traffic = state.traffic;
        drop(state);
        let spare = others.then(|| parted.spare()).flatten();
        let greeting = parted.greeting.take();
        let (preface, handshake) = match greeting.map(|greeting| *greeting) {
            Some(greeting) => (Some(greeting.preface), greeting.handshake),
            None => (None, None),
        };
        let header = match preface {
            Some(Preface::Expected(_, timeout)) => Some(timeout.as_millis() as u64),
            _ => None,
        };
        let handshake = handshake.and_then(|handshake| match &handshake.offer {
            Offer::Server(config) => {
                let number = self.config(config, handshake.recipe.as_deref()?);
                Some((number, handshake.timeout))
            }
            Offer::Client(..) => None,
        });
        let passage = Passage {
            id: conn.id,
            group: conn.group().map_or(0, |group| group.id),
            key,
            peer: conn.peer.clone(),
            settings: parted.settings.clone(),
            header,
            handshake,
            handed: parted.handed,
            metadata: None,
            unread: std::mem::take(&mut parted.unread),
            unsent: std::mem::take(&mut parted.unsent),
            traffic,
        };
        let sent = Sent {
            conn: Arc::clone(conn),
            on_its_way: Some(OnItsWay::new(spare)),
        };
        self.sent.insert(conn.id, sent);
        self.on_their_way += 1;
        let goes = self.send(
            |env| {
                let metadata = metadata.map(|metadata| metadata.encode(env));
                let passage = Passage {
                    metadata,
                    ..passage
                };
                (atoms::adopt(), passage.encode(env)).encode(env)
            },
            Some(parted),
        );
        if !goes {
            tracing::error!(
                context = self.name,
                connection = conn.id,
                "a connection is closed: what it has read and has to write is too long for a Python process"
            );
            self.sent.remove(&conn.id);
            self.on_their_way -= 1;
        }
    }

    /// The number under which the process knows what TLS is spoken with; it is told that first.
    fn config(&mut self, config: &Arc<ServerConfig>, recipe: &[u8]) -> u64 {
        let known = self.configs.iter();
        if let Some(at) = known.clone().position(|other| Arc::ptr_eq(other, config)) {
            return at as u64;
        }
        let number = known.len() as u64;
        self.configs.push(Arc::clone(config));
        self.tell(|env| (atoms::tls(), number, binary(env, recipe)).encode(env));
        number
    }

    /// True as long as the process has it.
    pub fn knows(&self, id: u64) -> bool {
        self.sent.contains_key(&id)
    }

    /// Has the process close a connection.
    pub fn cut(&mut self, id: u64, cause: Option<Cause>) {
        let Some(sent) = self.sent.get_mut(&id) else {
            return;
        };
        let cause = cause.unwrap_or(Cause::Cut);
        if let Some(way) = &mut sent.on_its_way {
            way.cut = Some(cause);
        }
        self.tell(|env| (atoms::cut(), id, cause.name()).encode(env));
    }
}
