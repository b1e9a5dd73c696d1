//! A listening socket. It accepts only what somebody waits for: the rest
//! stays in the kernel's backlog.

pub mod inherit;
pub mod open;
pub mod sockets;
pub mod unix;

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use socket2::Socket;

use crate::address::{self, Address};
use crate::command::LoopHandle;
use crate::connection::{Parts, Phase};
use crate::counters;
use crate::datagram::Datagrams;
use crate::error::Reason;
use crate::group::{Admission, Group, Slot};
use crate::owner::{Acceptor, Conn};

use sockets::Sockets;

/// A descriptor that is given up for a moment when there is no other, so that somebody who cannot be
/// served can be told so.
static RESERVE: Mutex<Option<File>> = Mutex::new(None);

/// How often a connection that there is no slot for is looked at again, while another loop has a slot in
/// hand that it may not need: as long as a system call takes.
const READMISSIONS: usize = 64;
/// So many connections in a row may be gone before we look; then it is the machine that fails.
const FAILURES: usize = 64;

/// What the kernel is told about a socket. Accepted sockets inherit it from the listening one.
#[derive(Clone, Debug)]
pub struct SocketOptions {
    /// Disable Nagle's algorithm.
    pub nodelay: bool,
    /// Probe idle peers.
    pub keepalive: bool,
    /// Kernel receive buffer, in bytes.
    pub recbuf: Option<usize>,
    /// Kernel send buffer, in bytes.
    pub sndbuf: Option<usize>,
}

impl SocketOptions {
    /// Applies them all.
    pub fn apply(&self, socket: &Socket) -> io::Result<()> {
        address::set_nodelay(socket, self.nodelay)?;
        socket.set_keepalive(self.keepalive)?;
        self.apply_sizes(socket)
    }

    /// Applies those that a socket for datagrams has too.
    pub fn apply_sizes(&self, socket: &Socket) -> io::Result<()> {
        if let Some(size) = self.recbuf {
            socket.set_recv_buffer_size(size)?;
        }
        if let Some(size) = self.sndbuf {
            socket.set_send_buffer_size(size)?;
        }
        Ok(())
    }
}

/// A listening socket, shared by the loops and the acceptors.
pub struct Listener {
    /// The connections it accepts.
    pub group: Arc<Group>,
    /// Its socket is one for datagrams.
    pub is_datagram: bool,
    home: Arc<LoopHandle>,
    kicked: AtomicBool,
    /// Connections that greet, or wait to be accepted by a process.
    arriving: AtomicUsize,
    state: Mutex<ListenState>,
}

/// What the lock protects.
pub struct ListenState {
    sockets: Option<Sockets>,
    /// The kernel may have a connection for us.
    pub readable: bool,
    /// The home loop watches the socket.
    pub watched: bool,
    /// Processes that wait in accept, oldest first; bounded by the acceptors there are.
    pub waiters: VecDeque<Acceptor>,
    /// Connections that have greeted while no process waited, oldest first; bounded by how many may
    /// arrive at a time.
    pub arrived: VecDeque<Arc<Conn>>,
    /// What else there is of a socket for datagrams.
    pub datagrams: Option<Box<Datagrams>>,
}

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
    /// Makes one of sockets that listen, or of one for datagrams.
    pub fn new(
        sockets: Sockets,
        is_datagram: bool,
        group: Arc<Group>,
        home: Arc<LoopHandle>,
    ) -> Arc<Self> {
        counters::LISTENERS_MADE.add();
        let listener = Arc::new(Listener {
            group,
            is_datagram,
            home,
            kicked: AtomicBool::new(false),
            arriving: AtomicUsize::new(0),
            state: Mutex::new(ListenState {
                sockets: Some(sockets),
                readable: true,
                watched: false,
                waiters: VecDeque::new(),
                arrived: VecDeque::new(),
                datagrams: is_datagram.then(Box::default),
            }),
        });
        listener.group.open(&listener);
        listener
    }

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

    /// One more greets.
    pub fn arrives(&self) {
        self.arriving.fetch_add(1, Ordering::SeqCst);
    }

    /// One less does, or waits: how many there were before.
    pub fn arrived(&self) -> usize {
        self.arriving.fetch_sub(1, Ordering::SeqCst)
    }

    /// How many greet, or wait to be accepted.
    pub fn arriving(&self) -> usize {
        self.arriving.load(Ordering::SeqCst)
    }

    /// The lock.
    pub fn lock(&self) -> MutexGuard<'_, ListenState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The loop that accepts for waiting processes.
    pub fn home(&self) -> &Arc<LoopHandle> {
        &self.home
    }

    /// True for the one caller that has to queue a kick.
    pub fn mark_kicked(&self) -> bool {
        !self.kicked.swap(true, Ordering::AcqRel)
    }

    /// For the loop, before it looks at a kicked listener.
    pub fn clear_kicked(&self) {
        self.kicked.store(false, Ordering::Release);
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        drop(self.lock().close());
        counters::LISTENERS_FREED.add();
    }
}

impl ListenState {
    /// The first fd while it listens.
    pub fn fd(&self) -> Option<RawFd> {
        self.fds().next()
    }

    /// What there is of a socket for datagrams, while it is open; the last is `readable`.
    pub fn datagrams(&mut self) -> Option<(&Socket, &mut Datagrams, &mut bool)> {
        let own = self.datagrams.as_deref_mut()?;
        let socket = self.sockets.as_ref()?.iter().next()?;
        Some((socket, own, &mut self.readable))
    }

    /// True while it takes newcomers.
    pub fn is_open(&self) -> bool {
        let draining = self.datagrams.as_ref().is_some_and(|own| own.draining);
        self.sockets.is_some() && !draining
    }

    /// All of them.
    pub fn fds(&self) -> impl Iterator<Item = RawFd> + '_ {
        self.sockets.iter().flat_map(Sockets::fds)
    }

    /// Does something with every socket, while it listens.
    pub fn with_sockets(&self, run: impl Fn(&Socket) -> io::Result<()>) -> io::Result<()> {
        self.sockets
            .iter()
            .flat_map(Sockets::iter)
            .try_for_each(run)
    }

    /// The address it listens on, while it takes newcomers.
    pub fn local(&self) -> Result<Address, Reason> {
        if self.is_open() {
            self.address()
        } else {
            Err(Reason::Closed)
        }
    }

    /// The address of its sockets, while they are open.
    pub fn address(&self) -> Result<Address, Reason> {
        self.sockets.as_ref().ok_or(Reason::Closed)?.local()
    }

    /// Stops listening once what it gives is dropped.
    pub fn close(&mut self) -> Option<Sockets> {
        self.readable = false;
        self.sockets.take()
    }

    /// True when somebody is in the backlog.
    pub fn pending(&self) -> bool {
        self.sockets.as_ref().is_some_and(Sockets::pending)
    }

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
