//! The sockets of one listener: mostly one; several on one port if it wants to share that.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};

use socket2::{SockAddr, Socket};

use crate::address::Address;
use crate::counters;
use crate::error::Reason;
use crate::fds;
use crate::listener::unix::Claim;

/// Open listening sockets, at least one. Dropping them removes the path that they have, if it is still
/// theirs, and then closes them: a system call on the file system, so not for normal schedulers if
/// there is a path.
pub struct Sockets {
    list: Vec<Socket>,
    /// Who is asked first for the next connection.
    next: usize,
    claim: Option<Claim>,
}

impl Sockets {
    /// Takes sockets over, and the path at which the first one is bound.
    pub fn new(list: Vec<Socket>, claim: Option<Claim>) -> Self {
        for socket in &list {
            counters::FDS_OPENED.add();
            fds::own(socket.as_raw_fd());
        }
        Sockets {
            list,
            next: 0,
            claim,
        }
    }

    /// Their descriptors, for registration alone.
    pub fn fds(&self) -> impl Iterator<Item = RawFd> + '_ {
        self.list.iter().map(AsRawFd::as_raw_fd)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Socket> {
        self.list.iter()
    }

    /// True when they have a place in the file system, from which dropping them removes it.
    pub fn have_path(&self) -> bool {
        self.claim.is_some()
    }

    /// Where they listen.
    pub fn local(&self) -> Result<Address, Reason> {
        let first = self.list.first().ok_or(Reason::Closed)?;
        let address = first.local_addr().map_err(Reason::from)?;
        Address::from_kernel(&address).ok_or(Reason::Invalid)
    }

    /// Takes a connection from the socket whose turn it is, or from the next that has one: so a busy
    /// one starves nobody. It would block only when none has any.
    pub fn accept(&mut self) -> io::Result<(Socket, SockAddr)> {
        let mut blocked = io::Error::from_raw_os_error(libc::EAGAIN);
        for _ in 0..self.list.len() {
            let index = self.next;
            self.next = (index + 1) % self.list.len();
            match accept_nonblocking(&self.list[index]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => blocked = error,
                result => return result,
            }
        }
        Err(blocked)
    }

    /// True when somebody is in a backlog.
    pub fn pending(&self) -> bool {
        let mut polls: Vec<_> = self
            .fds()
            .map(|fd| libc::pollfd {
                fd,
                events: libc::POLLIN,
                revents: 0,
            })
            .collect();
        let count = polls.len() as libc::nfds_t;
        // SAFETY: so many valid pollfds for the length of the call, which does not wait.
        unsafe { libc::poll(polls.as_mut_ptr(), count, 0) > 0 }
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        // While the socket is open its inode is not given to another.
        if let Some(claim) = self.claim.take() {
            claim.release();
        }
        for socket in &self.list {
            counters::FDS_CLOSED.add();
            fds::release(socket.as_raw_fd());
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    use socket2::{Domain, Type};

    fn listening() -> (Socket, TcpStream, TcpStream) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None).unwrap();
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(&any.into()).unwrap();
        socket.listen(8).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let connect = || TcpStream::connect(address).unwrap();
        let (one, two) = (connect(), connect());
        (socket, one, two)
    }

    #[test]
    fn they_are_asked_in_turn_and_none_is_forgotten() {
        let (first, a, b) = listening();
        let (second, c, d) = listening();
        let mut sockets = Sockets::new(vec![first, second], None);
        assert!(sockets.pending());
        let mut peers = Vec::new();
        while let Ok((_socket, peer)) = sockets.accept() {
            peers.push(peer.as_socket().unwrap());
        }
        let expected = [&a, &c, &b, &d].map(|client| client.local_addr().unwrap());
        assert_eq!(peers, expected);
        assert!(!sockets.pending());
        let blocked = sockets.accept().map(|_| ()).unwrap_err();
        assert_eq!(blocked.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn one_that_is_busy_does_not_hide_the_other() {
        let (first, _a, _b) = listening();
        let (second, c, _d) = listening();
        let address = first.local_addr().unwrap().as_socket().unwrap();
        let mut sockets = Sockets::new(vec![first, second], None);
        let mut crowd = Vec::new();
        for turn in 0.. {
            crowd.push(TcpStream::connect(address).unwrap());
            let (_socket, peer) = sockets.accept().unwrap();
            if peer.as_socket().unwrap() == c.local_addr().unwrap() {
                break;
            }
            assert!(turn < 2, "the second socket was not asked");
        }
    }
}
