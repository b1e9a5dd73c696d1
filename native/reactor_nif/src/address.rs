//! Where a socket is: on a network, or on this machine alone.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use socket2::{Domain, Protocol, SockAddr, Socket};

use crate::error::Reason;

/// The address of a socket, or of its peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// IPv4 or IPv6, and a port.
    Net(SocketAddr),
    /// A Unix socket's: a path; a NUL byte and an abstract name; nothing for one that was never bound.
    Local(Box<[u8]>),
}

/// Who was at the other end of a Unix socket when it was connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Its process.
    pub pid: i32,
    /// The effective user of that.
    pub uid: u32,
    /// The effective group.
    pub gid: u32,
}

impl Address {
    /// What the kernel says, if it is one of those that we know.
    pub fn from_kernel(address: &SockAddr) -> Option<Self> {
        if let Some(address) = address.as_socket() {
            return Some(Address::Net(address));
        }
        if !address.is_unix() {
            return None;
        }
        if let Some(name) = address.as_abstract_namespace() {
            return Some(Address::Local([&[0], name].concat().into()));
        }
        let path = address.as_pathname().unwrap_or(Path::new(""));
        Some(Address::Local(path.as_os_str().as_bytes().into()))
    }

    /// As the kernel takes it. An error for a name that is too long.
    pub fn to_kernel(&self) -> io::Result<SockAddr> {
        match self {
            Address::Net(address) => Ok((*address).into()),
            Address::Local(name) => SockAddr::unix(Path::new(std::ffi::OsStr::from_bytes(name))),
        }
    }

    /// The family of its sockets.
    pub fn domain(&self) -> Domain {
        match self {
            Address::Net(address) => Domain::for_address(*address),
            Address::Local(_) => Domain::UNIX,
        }
    }

    /// The protocol of stream sockets there.
    pub fn protocol(&self) -> Option<Protocol> {
        match self {
            Address::Net(_) => Some(Protocol::TCP),
            Address::Local(_) => None,
        }
    }

    /// The host, on a network.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Address::Net(address) => Some(address.ip()),
            Address::Local(_) => None,
        }
    }

    /// Its place in the file system, for a Unix socket that has one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Address::Local(name) if !matches!(**name, [] | [0, ..]) => {
                Some(Path::new(std::ffi::OsStr::from_bytes(name)))
            }
            _ => None,
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Address::Net(address)
    }
}

impl fmt::Display for Address {
    /// As in a URL; an abstract name begins with `@`, as Linux shows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Net(address) => address.fmt(f),
            Address::Local(name) => match &**name {
                [] => f.write_str("a local client"),
                [0, name @ ..] => write!(f, "@{}", name.escape_ascii()),
                path => String::from_utf8_lossy(path).escape_debug().fmt(f),
            },
        }
    }
}

/// Tells the kernel to send small pieces at once. A Unix socket always does.
pub fn set_nodelay(socket: &Socket, nodelay: bool) -> io::Result<()> {
    match socket.set_tcp_nodelay(nodelay) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
        result => result,
    }
}

/// Whether it does.
pub fn nodelay(socket: &Socket) -> io::Result<bool> {
    match socket.tcp_nodelay() {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(true),
        result => result,
    }
}

/// Who is at the other end of a Unix socket. `EOPNOTSUPP` for others.
pub fn peer_credentials(socket: &Socket) -> Result<Credentials, Reason> {
    if socket.domain().map_err(Reason::from)? != Domain::UNIX {
        return Err(Reason::Errno(libc::EOPNOTSUPP));
    }
    read_credentials(socket)
}

#[cfg(target_os = "linux")]
fn read_credentials(socket: &Socket) -> Result<Credentials, Reason> {
    use nix::sys::socket::{getsockopt, sockopt};

    let credentials = getsockopt(socket, sockopt::PeerCredentials)
        .map_err(|errno| Reason::Errno(errno as i32))?;
    Ok(Credentials {
        pid: credentials.pid(),
        uid: credentials.uid(),
        gid: credentials.gid(),
    })
}

#[cfg(not(target_os = "linux"))]
fn read_credentials(_socket: &Socket) -> Result<Credentials, Reason> {
    Err(Reason::Errno(libc::EOPNOTSUPP))
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::Type;

    fn local(name: &[u8]) -> Address {
        Address::Local(name.into())
    }

    #[test]
    fn goes_to_the_kernel_and_back() {
        for address in [
            Address::from(SocketAddr::from(([127, 0, 0, 1], 80))),
            Address::from(SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 80))),
            local(b"/run/a.sock"),
            local(b"\0abstract\0name"),
            local(b""),
        ] {
            let kernel = address.to_kernel().unwrap();
            assert_eq!(Address::from_kernel(&kernel), Some(address));
        }
        assert!(local(&[b'a'; 108]).to_kernel().is_err());
    }

    #[test]
    fn only_a_path_is_in_the_file_system() {
        assert_eq!(local(b"/run/a.sock").path(), Some(Path::new("/run/a.sock")));
        assert_eq!(local(b"\0name").path(), None);
        assert_eq!(local(b"").path(), None);
        assert_eq!(Address::from(SocketAddr::from(([1; 4], 1))).path(), None);
    }

    #[test]
    fn shows_what_people_write() {
        let net = Address::from(SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 80)));
        assert_eq!(net.to_string(), "[::1]:80");
        assert_eq!(local(b"/run/a\nb").to_string(), "/run/a\\nb");
        assert_eq!(local(b"\0name\xff").to_string(), "@name\\xff");
        assert_eq!(local(b"").to_string(), "a local client");
    }

    #[test]
    fn a_unix_socket_takes_options_of_tcp_and_says_who_is_there() {
        let (one, _other) = Socket::pair(Domain::UNIX, Type::STREAM, None).unwrap();
        set_nodelay(&one, false).unwrap();
        assert!(nodelay(&one).unwrap());
        let credentials = peer_credentials(&one).unwrap();
        assert_eq!(credentials.pid, std::process::id() as i32);

        let tcp = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        assert_eq!(peer_credentials(&tcp), Err(Reason::Errno(libc::EOPNOTSUPP)));
    }
}
