//! What the process that has a datagram socket is told, by the loop.

use std::net::SocketAddr;

use rustler::{Encoder, Env, Term};

use super::{socket_term, Session};
use crate::connection::Active;
use crate::error::Reason;
use crate::nif::encode_socket_address;
use crate::owner::LoopIo;
use crate::process::{atom, outcome, to_binary};
use crate::runtime;

mod atoms {
    rustler::atoms! {
        udp,
        udp_closed,
        udp_error,
        udp_passive,
        datagram = "$reactor_datagram",
        pressure = "$reactor_pressure",
        recv_error = "$reactor_recv_error",
        sent = "$reactor_sent",
    }
}

impl Session {
    /// True when there is somebody for the next datagram.
    pub(super) fn wants(&mut self, io: &LoopIo, full: bool) -> bool {
        if let Some(reader) = self.reader {
            // One that was killed while it waited leaves it to the next.
            if reader == self.pid || io.mail.is_alive(&reader) {
                return true;
            }
            self.reader = None;
        }
        // Who answers and waits for room must not pile up its input.
        self.active != Active::Off && !full && !self.mailbox.is_watched()
    }

    pub(super) fn tell(&mut self, io: &mut LoopIo, from: SocketAddr, data: &[u8]) {
        if let Some(reader) = self.reader.take() {
            let id = self.id;
            io.mail.send(&reader, |env| {
                let data = to_binary(env, data);
                (
                    atoms::datagram(),
                    id,
                    encode_socket_address(env, from),
                    data,
                )
                    .encode(env)
            });
            return;
        }
        self.message(io, |env, socket| {
            let data = to_binary(env, data);
            (atoms::udp(), socket, encode_socket_address(env, from), data).encode(env)
        });
        match self.active {
            Active::Once => self.active = Active::Off,
            Active::Count(1) => {
                self.active = Active::Off;
                self.message(io, |env, socket| (atoms::udp_passive(), socket).encode(env));
            }
            Active::Count(n) => self.active = Active::Count(n - 1),
            Active::On => self.watch(io, data.len()),
            Active::Off => {}
        }
    }

    /// Nothing slows down who sends to an owner in `active: true` but this.
    fn watch(&mut self, io: &mut LoopIo, bytes: usize) {
        self.mailbox.sent(bytes);
        let Some(runtime) = runtime::report_to() else {
            return;
        };
        if self.mailbox.is_due() {
            let (pid, handle) = (self.pid, &self.handle);
            io.mail.send(&runtime, |env| {
                (atoms::pressure(), pid, socket_term(env, handle)).encode(env)
            });
        }
    }

    pub(super) fn tell_error(&mut self, io: &mut LoopIo, reason: Reason) {
        if self.active != Active::Off {
            self.message(io, |env, socket| {
                (atoms::udp_error(), socket, atom(env, reason)).encode(env)
            });
        } else {
            self.tell_reader(io, reason);
        }
    }

    /// Nothing comes any more. An owner in active mode that hears of that in another way is not told.
    pub(super) fn tell_closed(&mut self, io: &mut LoopIo, farewell: bool) {
        self.tell_reader(io, Reason::Closed);
        if self.told || farewell || self.active == Active::Off {
            return;
        }
        self.told = true;
        self.message(io, |env, socket| (atoms::udp_closed(), socket).encode(env));
    }

    fn tell_reader(&mut self, io: &mut LoopIo, reason: Reason) {
        let Some(reader) = self.reader.take() else {
            return;
        };
        let id = self.id;
        io.mail.send(&reader, |env| {
            (atoms::recv_error(), id, atom(env, reason)).encode(env)
        });
    }

    pub(super) fn tell_senders(&mut self, io: &mut LoopIo, result: Result<(), Reason>) {
        for sender in std::mem::take(&mut self.senders) {
            let handle = &self.handle;
            io.mail.send(&sender, |env| {
                let socket = socket_term(env, handle);
                (atoms::sent(), socket, outcome(env, result)).encode(env)
            });
        }
    }

    fn message<F>(&self, io: &mut LoopIo, build: F)
    where
        F: for<'a> FnOnce(Env<'a>, Term<'a>) -> Term<'a>,
    {
        io.mail
            .send(&self.pid, |env| build(env, socket_term(env, &self.handle)));
    }
}
