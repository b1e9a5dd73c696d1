//! Datagram sockets in a loop.

use std::sync::Arc;

use crate::event_loop::EventLoop;
use crate::listener::Listener;
use crate::process::datagrams::{advance, Step};

impl EventLoop {
    /// Gives the socket to a process that waits for it, and that process what has come.
    pub(super) fn datagrams_of_a_process(&mut self, token: usize, listener: &Arc<Listener>) {
        match advance(listener, &mut self.io) {
            Step::Idle => {}
            Step::Again => self.accepting.push(token),
            Step::Later(at) => self.rest(token, at),
            Step::Gone => {
                self.remove(token);
            }
        }
        if !listener.lock().is_open() {
            self.turn_away(listener);
        }
    }
}
