//! A listening socket. It accepts only what somebody waits for: the rest
//! stays in the kernel's backlog.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::command::LoopHandle;
use crate::connection::Settings;
use crate::counters;
use crate::error::Reason;
use crate::owner::Acceptor;

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
        socket.set_tcp_nodelay(self.nodelay)?;
        socket.set_keepalive(self.keepalive)?;
        if let Some(size) = self.recbuf {
            socket.set_recv_buffer_size(size)?;
        }
        if let Some(size) = self.sndbuf {
            socket.set_send_buffer_size(size)?;
        }
        Ok(())
    }
}

/// The connections of one listener: how many, and whether they are to end.
#[derive(Default)]
pub struct Group {
    live: AtomicUsize,
    draining: AtomicBool,
}

impl Group {
    /// One more.
    pub fn enter(&self) {
        self.live.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub fn leave(&self) {
        self.live.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many there are.
    pub fn live(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    /// True once the listener is drained: idle connections end.
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// From now on idle connections end.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }
}

/// A listening socket, shared by the loops and the acceptors.
pub struct Listener {
    /// The connections it accepted.
    pub group: Arc<Group>,
    /// What its connections start with.
    pub settings: Settings,
    home: Arc<LoopHandle>,
    kicked: AtomicBool,
    state: Mutex<ListenState>,
}

/// What the lock protects.
pub struct ListenState {
    socket: Option<Socket>,
    /// The kernel may have a connection for us.
    pub readable: bool,
    /// The home loop watches the socket.
    pub watched: bool,
    /// Processes that wait in accept, oldest first; bounded by the acceptors there are.
    pub waiters: VecDeque<Acceptor>,
    /// Loops of contexts that accept from it.
    contexts: Vec<Weak<LoopHandle>>,
    /// Out of descriptors: said once per episode.
    pub starved: bool,
}

/// What a call to `accept` brought.
pub enum Accepted {
    /// A connection and its peer.
    Socket(Socket, Option<SocketAddr>),
    /// None is there now.
    Blocked,
    /// The listening socket is closed.
    Closed,
    /// Out of file descriptors or memory: try again later.
    Starved(io::Error),
}

impl Listener {
    /// Binds and listens.
    pub fn bind(
        address: SocketAddr,
        backlog: i32,
        reuseaddr: bool,
        options: &SocketOptions,
        settings: Settings,
        home: Arc<LoopHandle>,
    ) -> Result<Arc<Self>, Reason> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM.nonblocking().cloexec(),
            Some(Protocol::TCP),
        )
        .map_err(Reason::from)?;
        socket.set_reuse_address(reuseaddr).map_err(Reason::from)?;
        options.apply(&socket).map_err(Reason::from)?;
        socket.bind(&address.into()).map_err(Reason::from)?;
        socket.listen(backlog).map_err(Reason::from)?;
        counters::FDS_OPENED.add();
        counters::LISTENERS_MADE.add();
        Ok(Arc::new(Listener {
            group: Arc::new(Group::default()),
            settings,
            home,
            kicked: AtomicBool::new(false),
            state: Mutex::new(ListenState {
                socket: Some(socket),
                readable: true,
                watched: false,
                waiters: VecDeque::new(),
                contexts: Vec::new(),
                starved: false,
            }),
        }))
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
        self.lock().close();
        counters::LISTENERS_FREED.add();
    }
}

impl ListenState {
    /// The fd while it listens.
    pub fn fd(&self) -> Option<RawFd> {
        self.socket.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// The address it listens on.
    pub fn local(&self) -> Result<SocketAddr, Reason> {
        let socket = self.socket.as_ref().ok_or(Reason::Closed)?;
        let address = socket.local_addr().map_err(Reason::from)?;
        address.as_socket().ok_or(Reason::Invalid)
    }

    /// A context's loop accepts from now on; it is told when the listener closes.
    pub fn add_context(&mut self, handle: &Arc<LoopHandle>) {
        self.contexts.retain(|other| other.strong_count() > 0);
        self.contexts.push(Arc::downgrade(handle));
    }

    /// Stops listening: gives the loops that have to be told.
    pub fn close(&mut self) -> Vec<Arc<LoopHandle>> {
        if self.socket.take().is_some() {
            counters::FDS_CLOSED.add();
        }
        self.readable = false;
        let contexts = std::mem::take(&mut self.contexts);
        contexts.iter().filter_map(Weak::upgrade).collect()
    }

    /// Takes one connection from the backlog.
    pub fn accept(&mut self) -> Accepted {
        let Some(listening) = self.socket.as_ref() else {
            return Accepted::Closed;
        };
        let mut failed = 0;
        loop {
            match accept_nonblocking(listening) {
                Ok((socket, peer)) => {
                    self.starved = false;
                    return Accepted::Socket(socket, peer.as_socket());
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => {
                        self.readable = false;
                        return Accepted::Blocked;
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
                    _ => return Accepted::Starved(error),
                },
            }
        }
    }
}

#[cfg(target_os = "linux")]
fn accept_nonblocking(listening: &Socket) -> io::Result<(Socket, SockAddr)> {
    let accept = |storage: *mut socket2::SockAddrStorage, len: *mut libc::socklen_t| {
        // SAFETY: `listening` is open for the length of the call, and `storage` and `len` point to
        // a buffer and its size, as socket2 promises.
        let fd = unsafe {
            libc::accept4(
                listening.as_raw_fd(),
                storage.cast(),
                len,
                libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given us this fd; nobody else knows it.
        Ok(unsafe { Socket::from_raw_fd(fd) })
    };
    // SAFETY: on success accept4 has written an address of `len` bytes to `storage`.
    unsafe { SockAddr::try_init(accept) }
}

#[cfg(not(target_os = "linux"))]
fn accept_nonblocking(listening: &Socket) -> io::Result<(Socket, SockAddr)> {
    let (socket, peer) = listening.accept()?;
    socket.set_nonblocking(true)?;
    Ok((socket, peer))
}
