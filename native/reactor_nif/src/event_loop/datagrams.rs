//! Datagram sockets in a loop: of a process, or of a context.

use std::sync::Arc;

use slab::Slab;

use crate::event_loop::{Entry, EventLoop};
use crate::listener::Listener;
use crate::process::datagrams as processes;
use crate::python::datagram::{self as contexts, Served};
use crate::python::protocol::Turn;

impl EventLoop {
    /// Gives the socket to a process that waits for it, and that process what has come.
    pub(super) fn datagrams_of_a_process(&mut self, token: usize, listener: &Arc<Listener>) {
        use processes::Step;
        match processes::advance(listener, &mut self.io) {
            Step::Idle => {}
            Step::Again => self.accepting.push(token),
            Step::Later(at) => self.rest(token, at),
            Step::Gone => {
                self.remove(token);
            }
        }
        if !listener.lock().is_open() {
            self.turn_away(listener, 0);
        }
    }

    /// Makes the protocol of this context, and gives it what has come.
    pub(super) fn datagrams_of_a_context(&mut self, token: usize, served: &Arc<Served>) {
        use contexts::Step;
        match contexts::advance(served, &mut self.io) {
            Step::Idle => {}
            Step::Later(at) => self.rest(token, at),
            Step::Gone => {
                self.remove(token);
            }
        }
    }

    /// Takes a datagram socket into a context's loop. If it is there already, its factory is another one:
    /// a protocol of that takes the place of the one that is there.
    pub(super) fn serve_datagrams(&mut self, listener: Arc<Listener>) {
        let known = served(&self.entries).find(|served| Arc::ptr_eq(&served.listener, &listener));
        if let Some(served) = known {
            served.replace(true);
            self.look_at_listener(&listener);
            return;
        }
        listener.group.add_context(&self.handle);
        let served = Served::new(Arc::clone(&listener), Arc::clone(&self.handle));
        let token = self.insert(Entry::Datagrams(Arc::clone(&served)));
        served.set_token(token);
        self.register_listener(&listener, token);
        self.accept(token);
    }

    /// Forgets those of a context that ends, whose protocols were told.
    pub(super) fn end_datagrams(&mut self) {
        let all: Vec<_> = served(&self.entries).map(Arc::clone).collect();
        for served in all {
            contexts::advance(&served, &mut self.io);
        }
    }
}

/// Ends the protocols of a context that ends.
pub(super) fn lose(entries: &Slab<(u32, Entry)>, turn: &mut Turn) {
    let all: Vec<_> = served(entries).map(Arc::clone).collect();
    if !all.is_empty() {
        turn.lose_datagrams(&all);
    }
}

fn served(entries: &Slab<(u32, Entry)>) -> impl Iterator<Item = &Arc<Served>> {
    entries.iter().filter_map(|(_, (_, entry))| match entry {
        Entry::Datagrams(served) => Some(served),
        _ => None,
    })
}
