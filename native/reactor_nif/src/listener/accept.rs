//! Accepting from a listening socket, as far as its group's limits let newcomers in.

use std::fs::File;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use socket2::Socket;

use crate::address::Address;
use crate::connection::{Parts, Phase};
use crate::group::{Admission, Slot};
use crate::listener::{ListenState, Listener};

/// A descriptor that is given up for a moment when there is no other, so that somebody who cannot be
/// served can be told so.
static RESERVE: Mutex<Option<File>> = Mutex::new(None);

/// How often a connection that there is no slot for is looked at again, while another loop has a slot in
/// hand that it may not need: as long as a system call takes.
const READMISSIONS: usize = 64;
/// So many connections in a row may be gone before we look; then it is the machine that fails.
const FAILURES: usize = 64;

/// What a call to `accept` brought.
pub enum Accepted {
    /// A connection that may come in.
    Connection(Parts),
    /// One that was closed at once: there are too many, or too many from its address.
    Rejected(Rejected),
    /// None is there now.
    Blocked,
    /// The listening socket is closed.
    Closed,
    /// There are as many as may be: the loop is kicked when one goes.
    Full,
    /// The next one may come then.
    Later(Instant),
    /// Out of file descriptors or memory: try again later.
    Starved(io::Error),
}

/// What the kernel gave.
enum Taken {
    Socket(Socket, Option<Address>),
    Blocked,
    Closed,
    Starved(io::Error),
}

/// Why a connection was closed at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// There were as many as may be.
    Connections,
    /// There were as many from its address as may be.
    PerIp,
    /// Out of file descriptors, or of what this code says.
    Errno(i32),
}

impl Taken {
    /// Why there is no connection.
    fn nothing(self) -> Accepted {
        match self {
            Taken::Closed => Accepted::Closed,
            Taken::Starved(error) => Accepted::Starved(error),
            Taken::Blocked | Taken::Socket(..) => Accepted::Blocked,
        }
    }
}

impl Listener {
    /// Takes one connection from the backlog, if the limits let it in.
    pub fn accept(&self) -> Accepted {
        self.group.hesitate(1);
        let accepted = match self.group.admit() {
            Admission::Free(slot) => Some(self.accept_into(slot)),
            Admission::Later(at) => Some(Accepted::Later(at)),
            Admission::Full => None,
        };
        self.group.hesitate(-1);
        match accepted {
            Some(accepted) => accepted,
            None if self.group.rejects() => self.accept_or_reject(),
            None => Accepted::Full,
        }
    }

    /// Closes the next one, if there is no slot for it still: another loop may have had the last one
    /// for a connection that did not come, and has given it back since.
    fn accept_or_reject(&self) -> Accepted {
        let taken = self.lock().accept();
        let Taken::Socket(socket, peer) = taken else {
            return taken.nothing();
        };
        for _ in 0..READMISSIONS {
            if let Admission::Free(slot) = self.group.admit() {
                return self.let_in(slot, socket, peer);
            }
            if !self.group.hesitates() {
                break;
            }
            thread::yield_now();
        }
        Accepted::Rejected(Rejected::Connections)
    }

    fn accept_into(&self, slot: Slot) -> Accepted {
        // The lock is let go before the slot: giving that up may kick this listener.
        let taken = self.lock().accept();
        match taken {
            Taken::Socket(socket, peer) => self.let_in(slot, socket, peer),
            other => {
                slot.unused();
                other.nothing()
            }
        }
    }

    fn let_in(&self, mut slot: Slot, socket: Socket, peer: Option<Address>) -> Accepted {
        let ip = peer.as_ref().and_then(Address::ip);
        if ip.is_some_and(|ip| !slot.from(ip)) {
            return Accepted::Rejected(Rejected::PerIp);
        }
        Accepted::Connection(Parts {
            socket,
            phase: Phase::Open,
            greeting: self.group.greeting(ip),
            settings: self.group.settings(),
            slot: Some(slot),
            peer,
        })
    }

    /// Closes the connection that waits longest, though there is no descriptor for it: false when
    /// there is none, or not even that works.
    pub fn refuse_one(&self) -> bool {
        let mut state = self.lock();
        let Some(listening) = state.sockets.as_mut() else {
            return false;
        };
        let mut reserve = RESERVE.lock().unwrap_or_else(PoisonError::into_inner);
        drop(reserve.take());
        let accepted = listening.accept();
        let refused = accepted.is_ok();
        drop(accepted);
        *reserve = open_reserve();
        refused
    }
}

impl ListenState {
    fn accept(&mut self) -> Taken {
        let Some(listening) = self.sockets.as_mut() else {
            return Taken::Closed;
        };
        let mut failed = 0;
        loop {
            match listening.accept() {
                Ok((socket, peer)) => {
                    return Taken::Socket(socket, Address::from_kernel(&peer));
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => {
                        self.readable = false;
                        return Taken::Blocked;
                    }
                    // The peer was gone before we looked, or its network is: the next one may be well.
                    Some(
                        libc::EINTR
                        | libc::ECONNABORTED
                        | libc::EPROTO
                        | libc::ENETDOWN
                        | libc::ENETUNREACH
                        | libc::EHOSTDOWN
                        | libc::EHOSTUNREACH
                        | libc::EPERM,
                    ) if failed < FAILURES => failed += 1,
                    _ => return Taken::Starved(error),
                },
            }
        }
    }
}

/// Sets a descriptor aside for [`Listener::refuse_one`].
pub fn keep_reserve() {
    let mut reserve = RESERVE.lock().unwrap_or_else(PoisonError::into_inner);
    if reserve.is_none() {
        *reserve = open_reserve();
    }
}

/// None left now: then there will be one next time.
fn open_reserve() -> Option<File> {
    File::open("/dev/null").ok()
}
