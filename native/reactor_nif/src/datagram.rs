//! Datagram sockets: what waits to be sent, when the next owner gets the socket, and the calls.
//!
//! A datagram socket is a listener's: it has no connections, but it is given to one process, and after
//! that to the next one; or to the contexts of Python, which read from it side by side. All of it is
//! under the listener's lock.

use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::sync::Weak;
use std::time::{Duration, Instant};

use socket2::Socket;

use crate::error::Reason;
use crate::process::datagrams::Session;
use crate::python::datagram::Served;

/// So many datagrams wait for room in the kernel, at most. A sender that comes then waits.
const MOST_QUEUED: usize = 256;
/// So many are left when it may go on.
const FEW_QUEUED: usize = MOST_QUEUED / 2;
/// The most that a datagram can carry, in bytes: over IPv6. The kernel says where it is less.
const MOST_BYTES: usize = 65_527;

/// The first pause, and the longest, before a socket whose owner did nothing with it is given away again.
const PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What a listener has whose socket is one for datagrams.
#[derive(Default)]
pub struct Datagrams {
    /// What waits to be sent.
    pub outbox: Outbox,
    /// The process that has the socket.
    pub session: Option<Box<Session>>,
    /// Nothing is read any more, and the socket closes when nobody has it.
    pub draining: bool,
    /// When it is given to the next process.
    pub pauses: Pauses,
    /// The contexts that have the socket.
    pub contexts: Vec<Weak<Served>>,
    /// How often all who had it were cut: one who had it before is over.
    pub cuts: usize,
}

/// One datagram, from whom; `None` when none is there.
pub fn receive(socket: &Socket, into: &mut [u8]) -> Result<Option<(usize, SocketAddr)>, Reason> {
    // SAFETY: `u8` and `MaybeUninit<u8>` have one layout, and recv_from only writes initialised bytes.
    let into = unsafe { &mut *(std::ptr::from_mut(into) as *mut [MaybeUninit<u8>]) };
    loop {
        match socket.recv_from(into) {
            Ok((n, from)) => match from.as_socket() {
                Some(from) => return Ok(Some((n, from))),
                // Of no address that there could be an answer to.
                None => continue,
            },
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Gives one to the kernel: false when that has no room.
pub fn transmit(socket: &Socket, to: SocketAddr, data: &[u8]) -> Result<bool, Reason> {
    loop {
        match socket.send_to_with_flags(data, &to.into(), libc::MSG_NOSIGNAL) {
            Ok(_) => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}

/// True for what the network says about one peer, after which there is nothing wrong with the socket.
pub fn is_of_a_peer(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::Errno(
            libc::ECONNREFUSED
                | libc::ECONNRESET
                | libc::EHOSTUNREACH
                | libc::EHOSTDOWN
                | libc::ENETUNREACH
                | libc::ENETDOWN
                | libc::EPROTO
                | libc::EMSGSIZE
        )
    )
}

/// Datagrams that wait for room in the kernel, oldest first.
#[derive(Default)]
pub struct Outbox {
    queue: VecDeque<(SocketAddr, Box<[u8]>)>,
    bytes: usize,
    /// It was full, and has not come down to [`FEW_QUEUED`] since.
    full: bool,
}

/// What became of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The kernel has it.
    Now,
    /// It is queued.
    Queued,
    /// It was not taken: there are too many.
    Full,
}

impl Outbox {
    /// True while senders have to wait.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// True when nothing waits.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// How many bytes wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Sends one, by `transmit`, behind those that wait. An error is about this datagram.
    pub fn send(
        &mut self,
        to: SocketAddr,
        data: &[u8],
        transmit: impl FnOnce(SocketAddr, &[u8]) -> Result<bool, Reason>,
    ) -> Result<Sent, Reason> {
        if self.full {
            return Ok(Sent::Full);
        }
        if data.len() > MOST_BYTES {
            return Err(Reason::MessageSize);
        }
        if self.queue.is_empty() && transmit(to, data)? {
            return Ok(Sent::Now);
        }
        self.queue.push_back((to, data.into()));
        self.bytes += data.len();
        self.full = self.queue.len() >= MOST_QUEUED;
        Ok(Sent::Queued)
    }

    /// Hands them to the kernel, as far as that takes them; tells of each how many bytes it had and whether
    /// it went. One that cannot be sent is dropped.
    pub fn flush(
        &mut self,
        mut transmit: impl FnMut(SocketAddr, &[u8]) -> Result<bool, Reason>,
        mut gone: impl FnMut(usize, Result<(), Reason>),
    ) {
        while let Some((to, data)) = self.queue.front() {
            let result = match transmit(*to, data) {
                Ok(false) => break,
                Ok(true) => Ok(()),
                Err(reason) => Err(reason),
            };
            let n = data.len();
            self.bytes -= n;
            self.queue.pop_front();
            gone(n, result);
        }
        if self.queue.len() <= FEW_QUEUED {
            self.full = false;
        }
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
    }

    /// Forgets them all.
    pub fn clear(&mut self) {
        *self = Outbox::default();
    }
}

/// How long a socket waits for its next owner: not at all after one that took a datagram; longer each
/// time after those that ended without one, so that a handler that fails at once does not spin.
#[derive(Default)]
pub struct Pauses {
    failures: u32,
    until: Option<Instant>,
}

impl Pauses {
    /// Its owner has ended, and had received something or nothing.
    pub fn ended(&mut self, received: bool, now: Instant) {
        if received {
            *self = Pauses::default();
            return;
        }
        let pause = PAUSE * 2u32.pow(self.failures.min(10));
        self.failures += 1;
        self.until = Some(now + pause.min(LONGEST_PAUSE));
    }

    /// When the next one may have it, if not now.
    pub fn left(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn no_room(_: SocketAddr, _: &[u8]) -> Result<bool, Reason> {
        Ok(false)
    }

    /// Fills it; how many it took.
    fn fill(outbox: &mut Outbox) -> usize {
        let taken = |_: &usize| outbox.send(peer(1), b"data", no_room) != Ok(Sent::Full);
        (0..10 * MOST_QUEUED).take_while(taken).count()
    }

    /// A kernel that takes so many; gives what went, by port.
    fn flush(outbox: &mut Outbox, mut room: usize) -> Vec<u16> {
        let mut went = Vec::new();
        let transmit = |to: SocketAddr, _: &[u8]| {
            if room == 0 {
                return Ok(false);
            }
            room -= 1;
            went.push(to.port());
            Ok(true)
        };
        outbox.flush(transmit, |_, _| {});
        went
    }

    #[test]
    fn a_datagram_goes_at_once_while_none_waits() {
        let mut outbox = Outbox::default();
        assert_eq!(outbox.send(peer(1), b"", |_, _| Ok(true)), Ok(Sent::Now));
        assert_eq!(outbox.send(peer(2), b"two", no_room), Ok(Sent::Queued));
        let never = |_: SocketAddr, _: &[u8]| panic!("it would overtake");
        assert_eq!(outbox.send(peer(3), b"three", never), Ok(Sent::Queued));
        assert_eq!(outbox.bytes(), 8);
        assert_eq!(flush(&mut outbox, 1), [2]);
        assert_eq!(flush(&mut outbox, 5), [3]);
        assert!(outbox.is_empty() && outbox.bytes() == 0);
    }

    #[test]
    fn it_is_full_until_half_of_it_went() {
        let mut outbox = Outbox::default();
        assert_eq!(fill(&mut outbox), MOST_QUEUED);
        flush(&mut outbox, MOST_QUEUED - FEW_QUEUED - 1);
        assert!(outbox.is_full());
        assert_eq!(outbox.send(peer(1), b"data", no_room), Ok(Sent::Full));
        flush(&mut outbox, 1);
        assert!(!outbox.is_full());
        assert_eq!(outbox.send(peer(1), b"data", no_room), Ok(Sent::Queued));
        assert_eq!(fill(&mut outbox), MOST_QUEUED - FEW_QUEUED - 1);
    }

    #[test]
    fn one_that_cannot_be_sent_is_told_and_does_not_hold_up_the_others() {
        let mut outbox = Outbox::default();
        for port in 1..=3 {
            outbox.send(peer(port), b"data", no_room).unwrap();
        }
        let mut told = Vec::new();
        let refused = Reason::Errno(libc::ECONNREFUSED);
        let transmit = |to: SocketAddr, _: &[u8]| match to.port() {
            2 => Err(refused),
            _ => Ok(true),
        };
        outbox.flush(transmit, |n, result| told.push((n, result)));
        assert_eq!(told, [(4, Ok(())), (4, Err(refused)), (4, Ok(()))]);
        assert_eq!(outbox.bytes(), 0);
    }

    #[test]
    fn an_error_at_once_is_the_senders() {
        let mut outbox = Outbox::default();
        let reason = Reason::Errno(libc::ENETUNREACH);
        assert_eq!(outbox.send(peer(1), b"x", |_, _| Err(reason)), Err(reason));
        assert!(outbox.is_empty());
        let large = vec![0; MOST_BYTES + 1];
        assert_eq!(
            outbox.send(peer(1), &large, |_, _| Ok(true)),
            Err(Reason::MessageSize)
        );
    }

    #[test]
    fn owners_that_received_nothing_are_followed_later_each_time() {
        let mut pauses = Pauses::default();
        let now = Instant::now();
        assert_eq!(pauses.left(now), None);
        let mut last = Duration::ZERO;
        for _ in 0..7 {
            pauses.ended(false, now);
            let pause = pauses.left(now).unwrap() - now;
            assert!(pause > last && pause <= LONGEST_PAUSE);
            last = pause;
        }
        for _ in 0..100 {
            pauses.ended(false, now);
        }
        assert_eq!(pauses.left(now), Some(now + LONGEST_PAUSE));
        assert_eq!(pauses.left(now + LONGEST_PAUSE), None);
        pauses.ended(true, now);
        assert_eq!(pauses.left(now), None);
    }
}
