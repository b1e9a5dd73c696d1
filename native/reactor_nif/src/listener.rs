//! A listening socket. It accepts only what somebody waits for: the rest
//! stays in the kernel's backlog.

mod accept;
pub mod inherit;
pub mod open;
pub mod sockets;
pub mod unix;

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use socket2::Socket;

use crate::address::{self, Address};
use crate::command::LoopHandle;
use crate::counters;
use crate::datagram::Datagrams;
use crate::error::Reason;
use crate::group::Group;
use crate::owner::{Acceptor, Conn};

use sockets::Sockets;

pub use accept::{keep_reserve, Accepted, Rejected};

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
}
