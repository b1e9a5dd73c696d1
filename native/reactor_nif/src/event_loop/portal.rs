//! A loop whose Python is in another process: see `portal.rs`.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Token};
use rustler::{LocalPid, ResourceArc};

use crate::command::LoopHandle;
use crate::event_loop::{split, Entry, EventLoop, Timed, EVENTS};
use crate::owner::Conn;
use crate::portal::{News, Portal};
use crate::process::ListenerHandle;
use crate::python::context::Reporter;
use crate::python::interpreter::PythonError;
use crate::report;

/// The token of the control socket, and of what the process prints.
pub(super) const PORTAL: Token = Token(usize::MAX - 2);
/// How long a process that is to end may take when the time of its connections is over.
pub(super) const LAST: Duration = Duration::from_millis(300);

impl EventLoop {
    /// Runs for a process, until that has ended. An error says how, unless it was told to.
    pub fn run_portal(
        mut self,
        portal: Portal,
        reporter: &mut Reporter,
        report_to: Option<LocalPid>,
    ) -> io::Result<()> {
        self.report_to = report_to;
        for fd in portal.fds() {
            let interest = Interest::READABLE | Interest::WRITABLE;
            let registry = self.poll.registry();
            registry.register(&mut SourceFd(&fd), PORTAL, interest)?;
        }
        self.io.portal = Some(Box::new(portal));
        let mut events = Events::with_capacity(EVENTS);
        let ran = loop {
            match self.turn(&mut events, Some(reporter)) {
                Ok(true) if self.io.portal.is_some() => {}
                Ok(true) => {
                    self.end();
                    break Ok(());
                }
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        match (self.ended.take(), ran) {
            (Some(how), Ok(())) => Err(io::Error::other(how)),
            (_, ran) => ran,
        }
    }

    /// Sends and takes what there is for the process, or from it.
    pub(super) fn pass_portal(&mut self, reporter: &mut Option<&mut Reporter>) {
        let (Some(portal), Some(reporter)) = (&mut self.io.portal, reporter) else {
            return;
        };
        let mut all = Vec::new();
        let was_full = portal.is_full();
        let goes_on = portal.turn(reporter, &mut all).is_some();
        if portal.is_due(self.io.now) {
            let handle = &self.handle;
            let next = portal.look(self.io.now, |conn| another(conn, handle).is_some());
            if let Some(at) = next {
                self.wheel.arm(at, Timed::Deadline);
            }
        }
        self.handle.set_deaf(portal.is_deaf());
        let has_room = was_full && !portal.is_full();
        for news in all {
            match news {
                News::Serve(listener) => self.accept_from(&listener, reporter),
                News::Look(conn) => self.ready.push(conn),
                News::Return(conn) => self.give_to_another(&conn),
                News::Load(event) => {
                    for pid in self.report_to() {
                        report::pass_load(&mut self.io.mail, &pid, &event);
                    }
                }
            }
        }
        if has_room {
            self.accepting.extend(self.listeners.iter().copied());
        }
        if !goes_on {
            self.close_portal();
        }
    }

    /// A context that comes to it serves a connection that this one did not come to. If there is none any more,
    /// it is this one's still.
    fn give_to_another(&mut self, conn: &Arc<Conn>) {
        match another(conn, &self.handle) {
            Some(home) => self.move_out(conn, home),
            None => self.send_on(conn),
        }
    }

    /// Has the process serve a connection, if there is one, and looks after a while whether it has begun.
    pub(super) fn send_on(&mut self, conn: &Arc<Conn>) {
        let Some(portal) = &mut self.io.portal else {
            return;
        };
        portal.adopt(conn, others(conn, &self.handle).next().is_some());
        // Those of its listener's that the process had were told before it came.
        if let Some(group) = conn.group().filter(|group| group.draining()) {
            portal.drain(group);
        }
        if let Some(at) = portal.first_look() {
            self.wheel.arm(at, Timed::Deadline);
        }
    }

    /// The process has ended, or has no more time: so have its connections.
    pub(super) fn close_portal(&mut self) {
        let Some(mut portal) = self.io.portal.take() else {
            return;
        };
        self.ended = portal.end().err();
        for (_, (_, entry)) in &self.entries {
            if let Entry::Connection(conn) = entry {
                conn.lock().close_fd();
            }
        }
        let listeners = std::mem::take(&mut self.listeners);
        for token in listeners {
            if let Entry::Served(listener, _) = &self.entries[split(token).0].1 {
                let listener = Arc::clone(listener);
                for fd in listener.lock().fds() {
                    // Others may go on accepting from it: only this loop looks away.
                    let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
                }
            }
            self.remove(token);
        }
    }

    /// Accepts from a listener when its factory is there, in the process.
    pub(super) fn load_elsewhere(
        &mut self,
        handle: &ResourceArc<ListenerHandle>,
        factory: &str,
        reporter: &mut Reporter,
    ) {
        if handle.0.is_datagram {
            let text = "a socket for datagrams cannot be served by a process of its own";
            return reporter.failed(&PythonError::startup(text));
        }
        if let Some(portal) = &mut self.io.portal {
            portal.load(handle.clone(), factory);
        }
    }
}

/// The loops of the other contexts of its listener's. One that a route gave has none.
fn others<'a>(
    conn: &Conn,
    own: &'a Arc<LoopHandle>,
) -> impl Iterator<Item = Arc<LoopHandle>> + use<'a> {
    let contexts = conn.group().map(|group| group.contexts());
    let contexts = contexts.into_iter().flatten();
    contexts.filter(|context| !Arc::ptr_eq(context, own) && !context.closed())
}

/// One of them that comes to new connections.
fn another(conn: &Conn, own: &Arc<LoopHandle>) -> Option<Arc<LoopHandle>> {
    let others: Vec<_> = others(conn, own)
        .filter(|context| !context.is_deaf())
        .collect();
    // One after the other.
    let at = conn.id as usize % others.len().max(1);
    others.into_iter().nth(at)
}
