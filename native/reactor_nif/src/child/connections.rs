//! Connections that the VM sends on: what comes with each, and what has gone through it.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustler::{Encoder, Error, NifResult, OwnedEnv, ResourceArc, Term};
use socket2::Socket;

use crate::child::{process, tell, tell_context, Child};
use crate::command::Command;
use crate::connection::{Connection, Greeting, Handed, Handshake, Parts, Phase, Preface};
use crate::group::{Admission, Group, Limits, UNLIMITED};
use crate::handoff;
use crate::owner::{Conn, Owner};
use crate::portal::passage::Passage;
use crate::portal::WATCHER;
use crate::proxy::Gathered;
use crate::python::context::ContextHandle;
use crate::python::metadata::Metadata;
use crate::python::protocol::ProtocolOwner;
use crate::tls::Offer;

mod atoms {
    rustler::atoms! {
        closed,
        nil,
        report = "$reactor_report",
        reset,
        returned,
        traffic,
    }
}

impl Child {
    fn group(&mut self, passage: &Passage) -> Arc<Group> {
        let new = || {
            let watcher = OwnedEnv::new().run(|env| process(env, WATCHER));
            // Limits are kept where connections are accepted.
            let unlimited = Limits {
                connections: UNLIMITED,
                reject: false,
                per_ip: UNLIMITED,
                rate: 0,
            };
            Group::new(&unlimited, passage.settings.clone(), watcher.ok())
        };
        Arc::clone(self.groups.entry(passage.group).or_insert_with(new))
    }

    pub(super) fn adopt(&mut self, passage: Passage, fd: Option<OwnedFd>) -> NifResult<()> {
        let id = passage.id;
        let adopted = match fd {
            Some(fd) => self.make(passage, fd),
            // There was no free number for it.
            None => Err(Error::BadArg),
        };
        match adopted {
            Ok((conn, context)) => {
                self.remember(&conn);
                context.home().tell(Command::Adopt(conn));
            }
            Err(_) => tell(WATCHER, |env| {
                let traffic = (0, 0, 0);
                let closed = (
                    atoms::closed(),
                    id,
                    atoms::nil(),
                    atoms::reset(),
                    traffic.0,
                    traffic.1,
                    traffic.2,
                );
                (atoms::report(), vec![closed]).encode(env)
            }),
        }
        Ok(())
    }

    fn make(
        &mut self,
        passage: Passage,
        fd: OwnedFd,
    ) -> NifResult<(Arc<Conn>, ResourceArc<ContextHandle>)> {
        let context = self.context.clone().ok_or(Error::BadArg)?;
        let home = Arc::clone(context.home());
        let medium = match passage.handed {
            true => Some(handoff::medium(fd.as_raw_fd()).map_err(|_| Error::BadArg)?),
            false => None,
        };
        let owner = match passage.metadata {
            Some(metadata) => {
                let metadata = Metadata::decode(metadata)?;
                let handover = context.intake().enter(&home, metadata);
                ProtocolOwner::handed(passage.key.clone(), handover.map_err(|_| Error::BadArg)?)
            }
            None => ProtocolOwner::new(passage.key.clone()),
        };
        let handshake = match passage.handshake {
            Some((number, timeout)) => Some(Handshake {
                offer: Offer::Server(self.configs.get(&number).ok_or(Error::BadArg)?.clone()),
                timeout,
                recipe: None,
            }),
            None => None,
        };
        let preface = match passage.header {
            Some(ms) => Preface::Expected(Gathered::default(), Duration::from_millis(ms)),
            None => Preface::Nothing,
        };
        let greets = handshake.is_some() || passage.header.is_some();
        let Admission::Free(slot) = self.group(&passage).admit() else {
            return Err(Error::BadArg);
        };
        let parts = Parts {
            socket: Socket::from(fd),
            phase: Phase::Open,
            greeting: greets.then(|| Box::new(Greeting { preface, handshake })),
            settings: passage.settings,
            slot: Some(slot),
            peer: passage.peer,
        };
        let conn =
            Connection::numbered(passage.id, parts, Owner::Protocol(owner), Arc::clone(&home));
        let mut state = conn.lock();
        if let Some(medium) = medium {
            state.hand(Handed::new(medium, home));
        }
        if !passage.unread.is_empty() {
            state.unread(&passage.unread);
        }
        if !passage.unsent.is_empty() {
            // Its failure is found again by who reads.
            let _ = state.write(&[], &passage.unsent);
        }
        state.traffic = passage.traffic;
        drop(state);
        conn.enter();
        Ok((conn, context))
    }

    fn remember(&mut self, conn: &Arc<Conn>) {
        if self.conns.len() > 2 * self.open + 1024 {
            self.conns.retain(|_, conn| conn.strong_count() > 0);
            self.open = self.conns.len();
        }
        self.conns.insert(conn.id, Arc::downgrade(conn));
    }

    /// Gives back those that the loop has not begun with.
    pub(super) fn give_back(&mut self, mut ids: Vec<u64>) {
        ids.retain(|id| {
            let conn = self.conns.get(id).and_then(Weak::upgrade);
            conn.is_some_and(|conn| conn.lock().withdraw())
        });
        tell_context(|env| (atoms::returned(), ids).encode(env));
    }

    pub(super) fn tell_traffic(&self, reference: Term) {
        let conns = self.conns.values().filter_map(Weak::upgrade);
        let all: Vec<(u64, u64, u64)> = conns
            .map(|conn| {
                let traffic = conn.lock().traffic;
                (conn.id, traffic.received, traffic.sent)
            })
            .collect();
        tell_context(|env| (atoms::traffic(), reference.in_env(env), all).encode(env));
    }
}
