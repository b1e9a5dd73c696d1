//! Accepting: for processes that wait, and for a context's own loop.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustler::{Encoder, LocalPid, ResourceArc};

use crate::arrival::{Arrival, MAX_ARRIVING};
use crate::command::Command;
use crate::connection::Connection;
use crate::error::{Cause, Reason};
use crate::event_loop::{Entry, EventLoop, Timed};
use crate::listener::{Accepted, Listener, Rejected};
use crate::owner::{kick, Conn, Owner};
use crate::process::{self, Handle, ListenerHandle};
use crate::python::protocol::{FactoryKey, ProtocolOwner};
use crate::report::Limit;
use crate::runtime;

mod atoms {
    rustler::atoms! {
        accept = "$reactor_accept",
        accept_error = "$reactor_accept_error",
    }
}

/// How many connections a listener may bring in one turn of the loop's own thread.
pub(super) const ACCEPTS: usize = 16;
/// How many are refused at once, so that other connections get their turn.
const REFUSALS: usize = 256;
/// How long a loop that is out of descriptors waits before it tries again.
const STARVED_PAUSE: Duration = Duration::from_millis(100);

impl EventLoop {
    /// Accepts for those who wait, as far as there is somebody.
    pub(super) fn accept(&mut self, token: usize) {
        match self.lookup(token) {
            Some(Entry::Listener(listener)) if listener.is_datagram => {
                let listener = Arc::clone(listener);
                self.datagrams_of_a_process(token, &listener);
            }
            Some(Entry::Listener(listener)) => {
                let listener = Arc::clone(listener);
                self.accept_for_processes(token, &listener);
            }
            Some(Entry::Served(listener, true)) => {
                let listener = Arc::clone(listener);
                self.accept_for_context(token, &listener);
            }
            Some(Entry::Datagrams(served)) => {
                let served = Arc::clone(served);
                self.datagrams_of_a_context(token, &served);
            }
            _ => {}
        }
    }

    fn accept_for_processes(&mut self, token: usize, listener: &Arc<Listener>) {
        for _ in 0..self.accepts {
            let mut state = listener.lock();
            if state.fd().is_none() {
                drop(state);
                self.shut(token, listener);
                return;
            }
            // Nothing is accepted for somebody who died while he waited.
            let mail = &self.io.mail;
            while state
                .waiters
                .front()
                .is_some_and(|waiter| !mail.is_alive(&waiter.pid))
            {
                state.waiters.pop_front();
            }
            if !state.readable || state.waiters.is_empty() || listener.arriving() >= MAX_ARRIVING {
                return;
            }
            drop(state);
            match listener.accept() {
                Accepted::Connection(parts) => {
                    let home = runtime::next_loop(&self.handle);
                    let greets = parts.greeting.is_some();
                    let owner = if greets {
                        Owner::Arriving(Arrival::new(listener))
                    } else {
                        Owner::Nobody
                    };
                    let conn = Connection::new(parts, owner, home);
                    conn.enter();
                    if greets {
                        self.place(&conn);
                    } else {
                        self.hand_to_waiter(listener, conn);
                    }
                }
                Accepted::Blocked | Accepted::Closed => {}
                other => {
                    if self.held_up(token, listener, other) {
                        return;
                    }
                }
            }
        }
        self.accepting.push(token);
    }

    /// What keeps a connection from coming in. True when the loop has to wait until that changes.
    fn held_up(&mut self, token: usize, listener: &Arc<Listener>, accepted: Accepted) -> bool {
        let group = &listener.group;
        match accepted {
            Accepted::Rejected(why) => {
                if why == Rejected::Connections && group.saturated(self.io.now) {
                    self.io.reports.saturated(group, Limit::Connections);
                }
                self.io.reports.rejected(group, why, 1);
                return false;
            }
            Accepted::Full => {
                if listener.lock().pending() && group.saturated(self.io.now) {
                    self.io.reports.saturated(group, Limit::Connections);
                }
            }
            Accepted::Later(at) => {
                if listener.lock().pending() && group.saturated(self.io.now) {
                    self.io.reports.saturated(group, Limit::Rate);
                }
                self.rest(token, at);
            }
            Accepted::Starved(_) if !listener.lock().pending() => {
                // The kernel says so before it looks for a connection: there is none.
                self.calm(token);
            }
            Accepted::Starved(error) => {
                let reason = Reason::from(error);
                if group.starved(self.io.now) {
                    tracing::warn!(%reason, "cannot accept: out of resources; trying again until there are some");
                    self.io.reports.starved(group, reason);
                }
                self.refuse(listener, reason);
                self.rest(token, self.io.now + STARVED_PAUSE);
            }
            Accepted::Connection(_) | Accepted::Blocked | Accepted::Closed => {}
        }
        true
    }

    /// Nothing is in the backlog: the next event tells.
    fn calm(&mut self, token: usize) {
        match self.lookup(token) {
            Some(Entry::Served(_, readable)) => *readable = false,
            Some(Entry::Listener(listener)) => listener.lock().readable = false,
            _ => {}
        }
    }

    /// Closes those who wait for a descriptor that is not there, if their listener wants that.
    fn refuse(&mut self, listener: &Arc<Listener>, reason: Reason) {
        let Reason::Errno(code) = reason else {
            return;
        };
        if !listener.group.rejects() {
            return;
        }
        // On a scheduler's thread fewer.
        let most = REFUSALS.min(self.accepts * 16);
        let refused = (0..most).take_while(|_| listener.refuse_one()).count();
        if refused > 0 {
            let why = Rejected::Errno(code);
            self.io
                .reports
                .rejected(&listener.group, why, refused as u64);
        }
    }

    /// The listener is closed. Who still greets on it is waited for.
    fn shut(&mut self, token: usize, listener: &Arc<Listener>) {
        // Not under its lock: a connection that ends here may be the last that was waited for.
        let arrived = std::mem::take(&mut listener.lock().arrived);
        for conn in arrived {
            self.welcome_one(&conn);
        }
        let left = listener.arriving();
        if left == 0 {
            self.remove(token);
        }
        self.turn_away(listener, left);
    }

    /// Hands those who have greeted to those who wait for them.
    pub(super) fn welcome(&mut self) {
        for conn in std::mem::take(&mut self.io.arrived) {
            self.welcome_one(&conn);
        }
    }

    fn welcome_one(&mut self, conn: &Arc<Conn>) {
        let listener = match &conn.lock().owner {
            Owner::Arriving(arrival) => arrival.listener(),
            _ => return,
        };
        while let Some(listener) = &listener {
            let mut state = listener.lock();
            let Some(waiter) = state.waiters.pop_front() else {
                if state.fd().is_none() {
                    break;
                }
                state.arrived.push_back(Arc::clone(conn));
                return;
            };
            drop(state);
            let mail = &self.io.mail;
            if let Some(handle) = mail.with_caller(|env| process::give(conn, env, waiter.pid)) {
                self.comes(conn);
                self.announce(waiter.pid, &waiter.handle, &handle);
                if Arc::ptr_eq(conn.home(), &self.handle) {
                    self.ready.push(Arc::clone(conn));
                } else {
                    kick(conn);
                }
                return;
            }
        }
        // A connection nobody takes is closed.
        conn.lock().condemned = Some(Cause::Local);
        kick(conn);
    }

    /// Tells those who wait that there will be no connection, but for so many that came first.
    pub(super) fn turn_away(&mut self, listener: &Arc<Listener>, but: usize) {
        let mut state = listener.lock();
        let but = but.min(state.waiters.len());
        let waiters = state.waiters.split_off(but);
        drop(state);
        for waiter in waiters {
            let handle = waiter.handle;
            self.io.mail.send(&waiter.pid, |env| {
                let closed = process::atom(env, Reason::Closed);
                (atoms::accept_error(), &handle, closed).encode(env)
            });
        }
    }

    /// Tries again then, however many ask for it meanwhile.
    pub(super) fn rest(&mut self, token: usize, until: Instant) {
        if self.resting.insert(token) {
            self.wheel.arm(until, Timed::Token(token));
        }
    }

    /// The oldest waiter that is still alive gets it.
    fn hand_to_waiter(&mut self, listener: &Arc<Listener>, conn: Arc<Conn>) {
        loop {
            let waiter = listener.lock().waiters.pop_front();
            let Some(waiter) = waiter else {
                // All of them died while we accepted: it is for the next one.
                conn.lock().owner = Owner::Arriving(Arrival::new(listener));
                self.place(&conn);
                return self.welcome_one(&conn);
            };
            let mail = &self.io.mail;
            let given = mail.with_caller(|env| process::give(&conn, env, waiter.pid));
            let Some(handle) = given else {
                continue;
            };
            self.comes(&conn);
            self.place(&conn);
            self.announce(waiter.pid, &waiter.handle, &handle);
            return;
        }
    }

    /// Whoever has it comes for what the peer sends.
    fn comes(&mut self, conn: &Arc<Conn>) {
        process::goes(conn, &mut conn.lock());
        self.io.delivered += 1;
    }

    fn place(&mut self, conn: &Arc<Conn>) {
        if Arc::ptr_eq(conn.home(), &self.handle) {
            self.adopt(Arc::clone(conn));
        } else {
            conn.home().tell(Command::Adopt(Arc::clone(conn)));
        }
    }

    fn announce(
        &mut self,
        pid: LocalPid,
        listener: &ResourceArc<ListenerHandle>,
        handle: &ResourceArc<Handle>,
    ) {
        // If it has died, its monitor closes the connection.
        self.io
            .mail
            .send(&pid, |env| (atoms::accept(), listener, handle).encode(env));
    }

    fn accept_for_context(&mut self, token: usize, listener: &Arc<Listener>) {
        let turn = self.io.turn.as_ref();
        if turn.is_some_and(|turn| turn.is_given_up()) {
            // It is about to be told to end, and would take with it what belongs to the other one.
            return;
        }
        for _ in 0..self.accepts {
            if self
                .io
                .portal
                .as_ref()
                .is_some_and(|portal| portal.is_full())
            {
                // It is looked at again when one of those is taken up.
                return;
            }
            match listener.accept() {
                Accepted::Connection(parts) => {
                    let key = FactoryKey::Listener(listener.group.id);
                    let owner = Owner::Protocol(ProtocolOwner::new(key));
                    let conn = Connection::new(parts, owner, Arc::clone(&self.handle));
                    conn.enter();
                    self.adopt(conn);
                }
                Accepted::Blocked => {
                    if let Some(Entry::Served(_, readable)) = self.lookup(token) {
                        *readable = false;
                    }
                    return;
                }
                Accepted::Closed => {
                    self.remove(token);
                    return;
                }
                other => {
                    if self.held_up(token, listener, other) {
                        return;
                    }
                }
            }
        }
        self.accepting.push(token);
    }
}
