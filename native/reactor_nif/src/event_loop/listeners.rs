//! The listeners of a loop, and how their sockets are closed, from any thread.

use std::sync::Arc;
use std::thread;

use mio::unix::SourceFd;
use mio::{Interest, Token};
use rustler::ResourceArc;

use crate::command::Command;
use crate::event_loop::{split, Entry, EventLoop};
use crate::listener::sockets::Sockets;
use crate::listener::Listener;
use crate::process::ListenerHandle;
use crate::python::context::Reporter;

impl EventLoop {
    pub(super) fn watch(&mut self, listener: Arc<Listener>) {
        let token = self.insert(Entry::Listener(Arc::clone(&listener)));
        self.register_listener(&listener, token);
        self.accept(token);
    }

    pub(super) fn register_listener(&mut self, listener: &Arc<Listener>, token: usize) {
        let state = listener.lock();
        let interest = if listener.is_datagram {
            Interest::READABLE | Interest::WRITABLE
        } else {
            Interest::READABLE
        };
        for fd in state.fds() {
            let registered =
                self.poll
                    .registry()
                    .register(&mut SourceFd(&fd), Token(token), interest);
            if let Err(error) = registered {
                tracing::error!(%error, "a listening socket could not be watched");
            }
        }
    }

    pub(super) fn look_at_listener(&mut self, listener: &Arc<Listener>) {
        let closed = listener.lock().fd().is_none();
        let Some(token) = self.find_listener(listener) else {
            return;
        };
        if closed && matches!(self.lookup(token), Some(Entry::Served(..))) {
            self.remove(token);
        } else {
            self.accept(token);
        }
    }

    fn find_listener(&self, listener: &Arc<Listener>) -> Option<usize> {
        let mut tokens = self.listeners.iter().copied();
        tokens.find(|token| match &self.entries[split(*token).0].1 {
            Entry::Listener(other) | Entry::Served(other, _) => Arc::ptr_eq(other, listener),
            Entry::Datagrams(served) => Arc::ptr_eq(&served.listener, listener),
            Entry::Connection(_) => false,
        })
    }

    pub(super) fn serve(
        &mut self,
        handle: &ResourceArc<ListenerHandle>,
        factory: &str,
        reporter: &mut Reporter,
    ) {
        if self.io.portal.is_some() {
            return self.load_elsewhere(handle, factory, reporter);
        }
        let Some(turn) = &mut self.io.turn else {
            return;
        };
        let listener = Arc::clone(&handle.0);
        if let Err(error) = turn.load(listener.group.id, factory) {
            reporter.failed(&error);
            return;
        }
        if listener.is_datagram {
            self.serve_datagrams(listener);
            reporter.serving(handle);
            return;
        }
        self.accept_from(handle, reporter);
    }

    /// Its factory is there: whoever connects from now on comes here.
    pub(super) fn accept_from(
        &mut self,
        handle: &ResourceArc<ListenerHandle>,
        reporter: &mut Reporter,
    ) {
        let listener = Arc::clone(&handle.0);
        if self.find_listener(&listener).is_some() {
            // Only the factory is another one, for connections to come.
            reporter.serving(handle);
            return;
        }
        listener.group.add_context(&self.handle);
        let token = self.insert(Entry::Served(Arc::clone(&listener), true));
        self.register_listener(&listener, token);
        reporter.serving(handle);
        self.accept(token);
    }
}

/// Closes a listening socket; its connections go on. Not for normal schedulers: see [`Sockets`].
pub fn close_listener(listener: &Arc<Listener>) {
    let sockets = stop_listening(listener);
    drop(sockets);
}

/// Likewise, for normal schedulers.
pub fn close_listener_at_once(listener: &Arc<Listener>) {
    let sockets = stop_listening(listener);
    if sockets.as_ref().is_some_and(Sockets::have_path) {
        // If there can be no thread they are dropped here.
        let _ = thread::Builder::new().spawn(move || drop(sockets));
    }
}

/// Nothing is accepted from now on. The sockets are open until they are dropped.
fn stop_listening(listener: &Arc<Listener>) -> Option<Sockets> {
    let sockets = listener.lock().close();
    let contexts = listener.group.contexts();
    for fd in sockets.iter().flat_map(Sockets::fds) {
        listener.home().unwatch(fd);
        contexts.iter().for_each(|context| context.unwatch(fd));
    }
    for context in contexts {
        context.tell(Command::KickListener(Arc::clone(listener)));
    }
    kick_listener(listener);
    sockets
}

/// Asks the home loop to look at a listener.
pub fn kick_listener(listener: &Arc<Listener>) {
    if listener.mark_kicked() {
        listener
            .home()
            .tell(Command::KickListener(Arc::clone(listener)));
    }
}
