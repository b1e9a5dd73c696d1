//! Opening the sockets of a listener.

use std::io;
use std::os::fd::RawFd;

use socket2::{Protocol, Socket, Type};

use crate::address::Address;
use crate::error::Reason;
use crate::listener::sockets::Sockets;
use crate::listener::unix::{self, Access};
use crate::listener::{inherit, SocketOptions};

/// Where to listen, and how.
pub struct Spec {
    /// Where.
    pub place: Place,
    /// For datagrams, and not for connections.
    pub datagram: bool,
    /// How many connections the kernel keeps waiting.
    pub backlog: i32,
    /// Take the port though old connections linger.
    pub reuseaddr: bool,
    /// Let other sockets have the same port, of this process and others of its user.
    pub reuseport: bool,
    /// How many sockets, on the same port.
    pub count: usize,
    /// Whether an IPv6 socket keeps IPv4 away; if it is not said, as the kernel has it.
    pub v6only: Option<bool>,
    /// Who may connect to a path.
    pub access: Access,
    /// What its connections inherit.
    pub options: SocketOptions,
}

impl Spec {
    /// True when the same can be opened again while it is open.
    pub fn shared(&self) -> bool {
        self.reuseport || matches!(self.place, Place::Inherited(_))
    }
}

/// Where to listen.
pub enum Place {
    /// At an address.
    Address(Address),
    /// On a socket that listens already.
    Inherited(RawFd),
}

/// Why there is no socket.
#[derive(Debug)]
pub enum Refusal {
    /// The operating system's reason.
    Reason(Reason),
    /// An option that is wrong, and what it would have to be.
    Option(Wrong, String),
}

/// Which option is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// The address.
    Ip,
    /// Who may connect to a path.
    Unix,
    /// The descriptor.
    Fd,
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Refusal::Reason(reason)
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Refusal::Reason(error.into())
    }
}

/// Opens sockets that listen. With a path it waits for the file system: not for normal schedulers.
pub fn open(spec: &Spec) -> Result<Sockets, Refusal> {
    let address = match &spec.place {
        Place::Inherited(fd) => {
            let socket = inherit::take(*fd)?;
            spec.options.apply(&socket)?;
            return Ok(Sockets::new(vec![socket], None));
        }
        Place::Address(address) => address,
    };
    let first = make(spec, address)?;
    let sockets = if let Some(path) = address.path() {
        let claim = unix::bind(&first, path, &spec.access)?;
        Sockets::new(vec![first], Some(claim))
    } else {
        first.bind(&address.to_kernel()?)?;
        let mut sockets = vec![first];
        while sockets.len() < spec.count {
            // The port that the kernel has chosen for the first, if it was to choose one.
            let bound = sockets[0].local_addr()?;
            let next = make(spec, address)?;
            next.bind(&bound)?;
            sockets.push(next);
        }
        Sockets::new(sockets, None)
    };
    if !spec.datagram {
        for socket in sockets.iter() {
            socket.listen(spec.backlog)?;
        }
    }
    Ok(sockets)
}

fn make(spec: &Spec, address: &Address) -> io::Result<Socket> {
    let (kind, protocol) = if spec.datagram {
        (Type::DGRAM, Some(Protocol::UDP))
    } else {
        (Type::STREAM, address.protocol())
    };
    let socket = Socket::new(address.domain(), kind.nonblocking().cloexec(), protocol)?;
    if !spec.datagram {
        // For datagrams it would let two servers have one port.
        socket.set_reuse_address(spec.reuseaddr)?;
    }
    if spec.reuseport {
        socket.set_reuse_port(true)?;
    }
    if let Some(only) = spec.v6only {
        socket.set_only_v6(only)?;
    }
    if spec.datagram {
        spec.options.apply_sizes(&socket)?;
    } else {
        spec.options.apply(&socket)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{SocketAddr, TcpListener, TcpStream};

    fn spec(ip: &str) -> Spec {
        Spec {
            place: Place::Address(SocketAddr::new(ip.parse().unwrap(), 0).into()),
            datagram: false,
            backlog: 8,
            reuseaddr: true,
            reuseport: false,
            count: 1,
            v6only: None,
            access: Access::default(),
            options: SocketOptions {
                nodelay: true,
                keepalive: false,
                recbuf: None,
                sndbuf: None,
            },
        }
    }

    fn opened(spec: &Spec) -> (Sockets, u16) {
        let sockets = open(spec).unwrap_or_else(|refusal| panic!("{refusal:?}"));
        match sockets.local() {
            Ok(Address::Net(address)) => (sockets, address.port()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn several_have_the_port_that_the_first_was_given() {
        let shared = Spec {
            reuseport: true,
            count: 4,
            ..spec("127.0.0.1")
        };
        let (sockets, port) = opened(&shared);
        let ports = sockets.iter().map(|socket| {
            let address = socket.local_addr().unwrap();
            address.as_socket().unwrap().port()
        });
        assert_eq!(ports.collect::<Vec<_>>(), [port; 4]);
        assert_eq!(sockets.fds().count(), 4);
    }

    #[test]
    fn a_port_that_is_not_shared_is_taken() {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = Spec {
            place: Place::Address(first.local_addr().unwrap().into()),
            reuseport: true,
            ..spec("127.0.0.1")
        };
        match open(&taken).map(|_| ()) {
            Err(Refusal::Reason(reason)) => assert_eq!(reason.name(), "eaddrinuse"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn ipv6_keeps_ipv4_away_or_does_not() {
        for (only, reached) in [(true, false), (false, true)] {
            let both = Spec {
                v6only: Some(only),
                ..spec("::")
            };
            let (_sockets, port) = opened(&both);
            assert!(TcpStream::connect(("::1", port)).is_ok());
            assert_eq!(TcpStream::connect(("127.0.0.1", port)).is_ok(), reached);
        }
    }
}
