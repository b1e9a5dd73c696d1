//! A connection that goes on somewhere else: in another loop of this process, with all that it has, or in
//! another process, and back from there if that has not begun with it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use socket2::Socket;

use crate::command::LoopHandle;
use crate::connection::{Connection, Greeting, Parts, Phase, Settings, State};
use crate::counters;
use crate::deadline::Deadlines;
use crate::fds;

/// What goes to another process of a connection's: its socket, which is closed here when this is dropped.
pub struct Parted {
    socket: Socket,
    /// What comes before the owner may speak.
    pub greeting: Option<Box<Greeting>>,
    /// What it starts with.
    pub settings: Settings,
    /// Whether it is a descriptor that others may know.
    pub handed: bool,
    /// What was read and the owner has not seen.
    pub unread: Vec<u8>,
    /// What is to be written first.
    pub unsent: Vec<u8>,
}

/// What stays here of what has gone to another process, until that has begun with it.
pub struct Spare {
    socket: Socket,
    deadlines: Deadlines,
    /// Something comes before the owner may speak.
    pub greets: bool,
}

impl Parted {
    /// Another descriptor of the socket, with which it could go on here. `None` where bytes have gone too, or
    /// somebody else may know the descriptor, or there is none left.
    pub fn spare(&self) -> Option<Spare> {
        let plain = !self.handed && self.unread.is_empty() && self.unsent.is_empty();
        let socket = plain.then(|| self.socket.try_clone().ok()).flatten()?;
        Some(Spare {
            socket,
            deadlines: self.settings.deadlines,
            greets: self.greeting.is_some(),
        })
    }
}

impl AsFd for Parted {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Parted {
    fn drop(&mut self) {
        counters::FDS_CLOSED.add();
        fds::release(self.socket.as_raw_fd());
    }
}

impl<O> Connection<O> {
    /// Moves the socket, with all that it has, to another loop. The loop that had it has to forget it;
    /// `nobody` is what owns what is left. `None` if it is not open, or what it has cannot move.
    pub fn move_to(&self, home: Arc<LoopHandle>, nobody: O) -> Option<Arc<Self>> {
        let mut state = self.lock();
        let owner = std::mem::replace(&mut state.owner, nobody);
        if state.phase != Phase::Open {
            return None;
        }
        let parts = Parts {
            socket: state.socket.take()?,
            phase: Phase::Open,
            greeting: state.greeting.take(),
            settings: state.settings.clone(),
            slot: state.slot.take(),
            peer: self.peer.clone(),
        };
        state.phase = Phase::Closed;
        let moved = Self::make(parts, owner, home, self.id, self.born, self.secure);
        let mut new = moved.lock();
        if let Some(mut handed) = state.handed.take() {
            handed.home = Arc::clone(&moved.home);
            new.handed = Some(handed);
        }
        new.traffic = state.traffic;
        new.cause = state.cause;
        new.opened = state.opened;
        new.condemned = state.condemned.take();
        if let (Some(_), Some(watch)) = (&new.watch, state.watch.take()) {
            new.watch = Some(watch);
        }
        new.inbox = std::mem::take(&mut state.inbox);
        new.outbox = std::mem::take(&mut state.outbox);
        new.tls = state.tls.take();
        new.header = state.header.take();
        new.overture = state.overture;
        new.hangup = state.hangup;
        new.broken = state.broken;
        new.shut_write = state.shut_write;
        drop(new);
        Some(moved)
    }
}

impl<O> State<O> {
    /// Takes out what another process needs to go on with it: its place among those of its listener stays,
    /// until [`State::close_fd`]. `None` if it is closed, or its TLS session has begun, which cannot move.
    pub fn part(&mut self) -> Option<Parted> {
        if self.tls.is_some() {
            return None;
        }
        let socket = self.socket.take()?;
        let settings = self.settings.clone();
        self.settings.deadlines = Deadlines::default();
        self.watch = None;
        self.check_at = None;
        self.deadline = None;
        self.phase = Phase::Open;
        self.readable = false;
        self.writable = false;
        Some(Parted {
            socket,
            greeting: self.greeting.take(),
            settings,
            handed: self.handed.take().is_some(),
            unread: std::mem::take(&mut self.inbox).as_slice().to_vec(),
            unsent: std::mem::take(&mut self.outbox).as_slice().to_vec(),
        })
    }

    /// Goes on with what another process has not begun with, and gives back. `greeting` is what comes before
    /// the owner may speak.
    pub fn restore(&mut self, spare: Spare, greeting: Option<Box<Greeting>>) {
        if self.phase != Phase::Open || self.socket.is_some() {
            return;
        }
        counters::FDS_OPENED.add();
        fds::own(spare.socket.as_raw_fd());
        self.socket = Some(spare.socket);
        self.settings.deadlines = spare.deadlines;
        self.greeting = greeting;
    }

    /// Gives up a connection that no loop has begun with, so that none will: false if one has.
    pub fn withdraw(&mut self) -> bool {
        if self.opened || self.phase == Phase::Closed {
            return false;
        }
        self.withdrawn = true;
        self.close_fd();
        true
    }
}
