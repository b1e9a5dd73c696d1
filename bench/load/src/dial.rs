//! Making connections: from as many source addresses as it takes, a few at a time.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Protocol, Socket, Type};

use crate::failure::{Failure, Tally};
use crate::options::Options;

/// Connections from one source address before the next is taken. An address has some 28,000
/// ports by default, those of closed connections stay taken for a while, and the kernel's search
/// for a free one becomes slow (milliseconds) well before half of them are.
const PER_SOURCE: usize = 8_000;

/// Source addresses are 127.0.0.1 to 127.0.0.200.
const SOURCES: usize = 200;

/// Handshakes under way at the same time, and begun in one [`PACE`]. A made connection waits in the
/// server's backlog, unseen from here; where that overflows, the kernel makes the next one wait
/// for a second. 6,400 in a second is less than any server here accepts.
const HANDSHAKES: usize = 64;

/// See [`HANDSHAKES`].
const PACE: Duration = Duration::from_millis(10);

/// Starts connection number `number` to `server`; it is made when the stream becomes writable.
pub fn dial(server: SocketAddr, number: usize) -> io::Result<TcpStream> {
    let socket = Socket::new(
        Domain::for_address(server),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    socket.set_tcp_nodelay(true)?;
    if let Some(source) = source(server, number) {
        bind_address_without_port(&socket)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    match socket.connect(&server.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) => return Err(error),
    }
    Ok(TcpStream::from_std(socket.into()))
}

/// Whether a stream that became ready is connected; an error if it never will be.
pub fn connected(stream: &TcpStream) -> io::Result<bool> {
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    match stream.peer_addr() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
        Err(error) => Err(error),
    }
}

/// Opens the connections numbered from `first`, registered with `poll` under their place in the
/// result. One that cannot be made is counted in `tally` and has no stream.
pub fn open_all(
    poll: &mut Poll,
    options: &Options,
    first: usize,
    count: usize,
    tally: &mut Tally,
) -> io::Result<Vec<Option<TcpStream>>> {
    let deadline = Instant::now() + options.limit;
    let mut events = Events::with_capacity(HANDSHAKES);
    let mut streams: Vec<Option<TcpStream>> = Vec::with_capacity(count);
    let mut waiting = vec![false; count];
    let mut under_way = 0;
    let (mut pace_ends, mut begun_in_pace) = (Instant::now() + PACE, 0);
    while streams.len() < count || under_way > 0 {
        if Instant::now() >= pace_ends {
            (pace_ends, begun_in_pace) = (Instant::now() + PACE, 0);
        }
        while streams.len() < count && under_way < HANDSHAKES && begun_in_pace < HANDSHAKES {
            begun_in_pace += 1;
            let place = streams.len();
            match dial_registered(poll, options.server, first + place, Token(place)) {
                Ok(stream) => {
                    streams.push(Some(stream));
                    waiting[place] = true;
                    under_way += 1;
                }
                Err(error) => {
                    tally.count(first + place, &Failure::Refused(error));
                    streams.push(None);
                }
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let patience = match streams.len() < count {
            true => pace_ends.saturating_duration_since(Instant::now()),
            false => left,
        };
        wait(poll, &mut events, patience.min(left))?;
        for event in &events {
            let Token(place) = event.token();
            let Some(stream) = streams[place].as_ref().filter(|_| waiting[place]) else {
                continue;
            };
            match connected(stream) {
                Ok(false) => continue,
                Ok(true) => {}
                Err(error) => {
                    tally.count(first + place, &Failure::Refused(error));
                    streams[place] = None;
                }
            }
            waiting[place] = false;
            under_way -= 1;
        }
    }
    // The time is over for what is still under way, and for what was never begun.
    let begun = streams.len();
    streams.resize_with(count, || None);
    for (place, stream) in streams.iter_mut().enumerate() {
        if waiting[place] || place >= begun {
            *stream = None;
            tally.count(first + place, &Failure::Unanswered);
        }
    }
    Ok(streams)
}

/// Dials and registers for readiness in both directions.
pub fn dial_registered(
    poll: &Poll,
    server: SocketAddr,
    number: usize,
    token: Token,
) -> io::Result<TcpStream> {
    let mut stream = dial(server, number)?;
    let interest = Interest::READABLE | Interest::WRITABLE;
    poll.registry().register(&mut stream, token, interest)?;
    Ok(stream)
}

/// Polls once; an interrupted wait is an empty one.
pub fn wait(poll: &mut Poll, events: &mut Events, most: Duration) -> io::Result<()> {
    match poll.poll(events, Some(most)) {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}

fn source(server: SocketAddr, number: usize) -> Option<IpAddr> {
    match server.ip() {
        IpAddr::V4(_) if number >= PER_SOURCE => {
            let host = (number / PER_SOURCE % SOURCES + 1) as u8;
            Some(Ipv4Addr::new(127, 0, 0, host).into())
        }
        // IPv6 has a single loopback address: the kernel's range of ports is the limit.
        _ => None,
    }
}

/// Lets `connect` choose the port: an early choice would be one of 28,000 whatever the address.
fn bind_address_without_port(socket: &Socket) -> io::Result<()> {
    let yes: libc::c_int = 1;
    // SAFETY: the socket is open, and the pointer and length describe a live c_int.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            std::ptr::from_ref(&yes).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_connection_beyond_one_addresss_share_gets_another_loopback_source() {
        let server: SocketAddr = "127.0.0.1:9".parse().expect("an address");
        assert_eq!(source(server, PER_SOURCE - 1), None);
        for number in (PER_SOURCE..PER_SOURCE * 1_000).step_by(PER_SOURCE) {
            let source = source(server, number).expect("a source");
            assert!(source.is_loopback());
        }
        let second: IpAddr = Ipv4Addr::new(127, 0, 0, 2).into();
        assert_eq!(source(server, PER_SOURCE), Some(second));
    }

    #[test]
    fn a_connection_from_a_chosen_source_arrives() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("listens");
        let server = listener.local_addr().expect("an address");
        let _stream = dial(server, PER_SOURCE * 3).expect("dials");
        let (_accepted, peer) = listener.accept().expect("accepts");
        assert_eq!(peer.ip(), IpAddr::from(Ipv4Addr::new(127, 0, 0, 4)));
    }
}
