//! What a loop watches, and the tokens by which the poll and the timers name it.
//!
//! A token of something that is gone names nothing: whoever has its place since has another generation.

use std::sync::Arc;

use crate::event_loop::EventLoop;
use crate::listener::Listener;
use crate::owner::Conn;
use crate::python::datagram::Served;

/// What has a token.
pub(super) enum Entry {
    Connection(Arc<Conn>),
    Listener(Arc<Listener>),
    /// A listener that this context's loop accepts from: it has its own memory of the last edge.
    Served(Arc<Listener>, bool),
    /// A datagram socket that this context has.
    Datagrams(Arc<Served>),
}

/// What a timer wakes.
pub(super) enum Timed {
    /// What has this token then.
    Token(usize),
    /// The loop itself, which is to end.
    Deadline,
}

impl EventLoop {
    pub(super) fn lookup(&mut self, token: usize) -> Option<&mut Entry> {
        let (index, generation) = split(token);
        match self.entries.get_mut(index) {
            Some((current, entry)) if *current == generation => Some(entry),
            _ => None,
        }
    }

    pub(super) fn insert(&mut self, entry: Entry) -> usize {
        self.generation = self.generation.wrapping_add(1) & (u32::MAX >> 1);
        let listens = !matches!(entry, Entry::Connection(_));
        let index = self.entries.insert((self.generation, entry));
        let token = join(index, self.generation);
        if listens {
            self.listeners.push(token);
        }
        token
    }

    /// Removes it: false if it is not there any more.
    pub(super) fn remove(&mut self, token: usize) -> bool {
        let (index, generation) = split(token);
        let found = matches!(self.entries.get(index), Some((current, _)) if *current == generation);
        if found && !matches!(self.entries.remove(index).1, Entry::Connection(_)) {
            self.listeners.retain(|other| *other != token);
        }
        found
    }
}

fn join(index: usize, generation: u32) -> usize {
    (generation as usize) << 32 | index
}

pub(super) fn split(token: usize) -> (usize, u32) {
    (token & 0xffff_ffff, (token >> 32) as u32)
}

// Tokens hold an index and a generation, 32 bits each.
const _: () = assert!(usize::BITS == 64);
