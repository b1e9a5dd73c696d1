//! A listening socket that somebody else has opened: what started this VM, as systemd does.

use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;

use socket2::{Domain, Socket, Type};

use crate::address::Address;
use crate::listener::open::{Refusal, Wrong};
use crate::listener::unix::kind;

/// Below this are standard input, output and error.
const FIRST_FD: RawFd = 3;

/// A descriptor of our own for the listening socket behind another, which stays whoever's it is. What
/// is no such socket is refused, by saying what it is.
///
/// Both share whether they block: from now on neither does.
pub fn take(fd: RawFd) -> Result<Socket, Refusal> {
    // SAFETY: the kernel looks whether the number is an open descriptor; nothing is done to it.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, FIRST_FD) };
    if copy < 0 {
        let error = io::Error::last_os_error();
        return Err(match error.raw_os_error() {
            Some(libc::EBADF) => refused("it is not open"),
            _ => error.into(),
        });
    }
    // SAFETY: the kernel has just given us this fd; nobody else knows it.
    let copy = unsafe { OwnedFd::from_raw_fd(copy) };
    let file = File::from(copy);
    let found = file.metadata()?.file_type();
    if !found.is_socket() {
        return Err(refused(&format!("it is {}", kind(found))));
    }
    let socket = Socket::from(OwnedFd::from(file));
    check(&socket)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn check(socket: &Socket) -> Result<(), Refusal> {
    let domain = socket.domain()?;
    if ![Domain::IPV4, Domain::IPV6, Domain::UNIX].contains(&domain) {
        let family = i32::from(domain);
        let text = format!("it is a socket of the address family {family}, not IPv4, IPv6 or Unix");
        return Err(refused(&text));
    }
    let kind = socket.r#type()?;
    if kind != Type::STREAM {
        let name = match kind {
            Type::DGRAM => "a datagram socket",
            Type::SEQPACKET => "a socket of sequenced packets",
            _ => "a raw socket",
        };
        return Err(refused(&format!("it is {name}")));
    }
    if socket.is_listener()? {
        return Ok(());
    }
    let text = match socket
        .peer_addr()
        .ok()
        .as_ref()
        .and_then(Address::from_kernel)
    {
        Some(_) => "it is a connection, it does not listen",
        None => "it is a stream socket that does not listen",
    };
    Err(refused(text))
}

fn refused(text: &str) -> Refusal {
    let text = format!("a descriptor of a listening stream socket ({text})");
    Refusal::Option(Wrong::Fd, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixListener;

    fn refusal(fd: &impl AsRawFd) -> String {
        match take(fd.as_raw_fd()).map(|_| ()) {
            Err(Refusal::Option(Wrong::Fd, text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_no_listening_stream_socket_is_named() {
        let file = File::open("/dev/null").unwrap();
        assert!(refusal(&file).contains("it is a device"));
        let directory = File::open("/").unwrap();
        assert!(refusal(&directory).contains("it is a directory"));
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(refusal(&udp).contains("it is a datagram socket"));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(refusal(&stream).contains("it is a connection"));
        let idle = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        assert!(refusal(&idle).contains("that does not listen"));
        let netlink = Socket::new(Domain::from(16), Type::DGRAM, None).unwrap();
        assert!(refusal(&netlink).contains("address family 16"));
        assert!(refusal(&1_000_000).contains("it is not open"));
    }

    #[test]
    fn the_original_stays_open() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = take(listener.as_raw_fd()).unwrap_or_else(|e| panic!("{e:?}"));
        assert_ne!(ours.as_raw_fd(), listener.as_raw_fd());
        drop(ours);
        TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        drop(take(listener.as_raw_fd()));
    }

    #[test]
    fn a_unix_socket_is_taken_too() {
        let path = std::env::temp_dir().join(format!("reactor-fd-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let taken = take(listener.as_raw_fd()).map(|_| ());
        std::fs::remove_file(&path).unwrap();
        assert!(taken.is_ok());
    }
}
