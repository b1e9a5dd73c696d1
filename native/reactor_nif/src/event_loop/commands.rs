//! What a loop is told by other threads: see [`Command`].

use std::sync::Arc;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Token};

use crate::command::{Command, LoopHandle};
use crate::error::Cause;
use crate::event_loop::{Entry, EventLoop};
use crate::group::Group;
use crate::owner::{Conn, Owner};
use crate::process;
use crate::python::context::Reporter;
use crate::report;

impl EventLoop {
    pub(super) fn take_commands(&mut self, reporter: &mut Option<&mut Reporter>) {
        self.handle.heard();
        loop {
            // Those that were left come first.
            let command = self.deferred.pop_front().or_else(|| self.handle.next());
            match command {
                Some(command) => self.obey(command, reporter),
                None => return,
            }
        }
    }

    pub(super) fn obey(&mut self, command: Command, reporter: &mut Option<&mut Reporter>) {
        match command {
            Command::Adopt(conn) => self.adopt(conn),
            Command::Kick(conn) => {
                conn.clear_kicked();
                self.ready.push(conn);
            }
            Command::Listen(listener) => self.watch(listener),
            Command::KickListener(listener) => {
                listener.clear_kicked();
                self.look_at_listener(&listener);
            }
            Command::Drain(group) => {
                if let Some(portal) = &mut self.io.portal {
                    portal.drain(&group);
                }
                self.drain(&group);
            }
            Command::Drained(group) => report::tell_drained(&group, &mut self.io.mail),
            Command::Move(conn, target) => self.move_out(&conn, target),
            Command::Load(group, factory) => {
                if let (Some(turn), Some(reporter)) = (&mut self.io.turn, reporter) {
                    match turn.load(group, &factory) {
                        Ok(()) => reporter.loaded(),
                        Err(error) => reporter.failed(&error),
                    }
                }
            }
            Command::Survey(asked) => {
                if let Some(portal) = &mut self.io.portal {
                    portal.ask_for_traffic(&asked);
                }
            }
            Command::Rouse => {
                if let Some(reporter) = reporter {
                    reporter.awake();
                }
            }
            Command::Relieve => self.relieve(),
            Command::Serve(listener, factory) => {
                if let Some(reporter) = reporter {
                    self.serve(&listener, &factory, reporter);
                }
            }
            Command::Stop(grace) => self.stop(Duration::from_millis(grace)),
        }
    }

    pub(super) fn adopt(&mut self, conn: Arc<Conn>) {
        let mut state = conn.lock();
        if state.withdrawn {
            drop(state);
            if let Some(group) = conn.group() {
                group.forgotten();
            }
            return;
        }
        // In one go: what has begun is not withdrawn any more.
        let new = !std::mem::replace(&mut state.opened, true);
        drop(state);
        let token = self.insert(Entry::Connection(Arc::clone(&conn)));
        conn.set_token(token);
        self.send_on(&conn);
        let mut state = conn.lock();
        if conn.group().is_some_and(|group| group.is_cut()) {
            state.condemned = Some(Cause::Cut);
        }
        // Closed before it arrived: advancing it will remove it again.
        if let Some(fd) = state.fd() {
            let interest = Interest::READABLE | Interest::WRITABLE;
            let registered =
                self.poll
                    .registry()
                    .register(&mut SourceFd(&fd), Token(token), interest);
            if let Err(error) = registered {
                tracing::error!(%error, "a socket could not be watched; it is closed");
                state.condemned = Some(Cause::Local);
            }
        }
        drop(state);
        if new {
            self.io.reports.opened(&conn);
        }
        self.ready.push(conn);
    }

    /// Gives a connection that was accepted for a process to a context's loop.
    pub(super) fn move_out(&mut self, conn: &Arc<Conn>, target: Arc<LoopHandle>) {
        let state = conn.lock();
        if let Some(fd) = state.fd() {
            // Its registration belongs to the open socket, not to the number.
            let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
        }
        drop(state);
        match conn.move_to(Arc::clone(&target), Owner::Nobody) {
            Some(moved) => {
                if let Some(token) = conn.token() {
                    self.remove(token);
                }
                if let Some(slot) = moved.lock().slot() {
                    slot.list(&moved);
                }
                target.tell(Command::Adopt(moved));
            }
            // It was closed meanwhile: advancing it removes it.
            None => self.ready.push(Arc::clone(conn)),
        }
    }

    fn relieve(&mut self) {
        for (_, (_, entry)) in &self.entries {
            match entry {
                Entry::Connection(conn) => process::mailbox::relieve(conn),
                Entry::Listener(listener) => process::datagrams::relieve_owner(listener),
                _ => {}
            }
        }
    }

    fn drain(&mut self, group: &Arc<Group>) {
        for (_, (_, entry)) in &self.entries {
            if let Entry::Connection(conn) = entry {
                if conn.group().is_some_and(|other| Arc::ptr_eq(other, group)) {
                    // What has come in the meantime is still answered.
                    conn.lock().readable = true;
                    self.ready.push(Arc::clone(conn));
                }
            }
        }
    }
}
