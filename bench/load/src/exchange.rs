//! One connection's side of an echo: what it has sent, and what it has had back.

use std::io::{self, Read, Write};

use crate::failure::Failure;
use crate::pattern::Pattern;

/// Bytes that one `read` may bring. Larger than any usual message, so that an answer of the right
/// size never fills it, and a surplus shows.
pub const READ_BUFFER: usize = 256 * 1024;

/// Positions in a connection's stream. Knows nothing of sockets' readiness: its methods go on
/// until the socket would block, as edge-triggered readiness requires.
pub struct Exchange {
    base: u64,
    asked: u64,
    sent: u64,
    received: u64,
}

impl Exchange {
    /// A connection that has sent nothing, whose stream begins at `base` of the pattern.
    pub fn new(base: u64) -> Self {
        Self {
            base,
            asked: 0,
            sent: 0,
            received: 0,
        }
    }

    /// Makes the next `size` bytes of the stream due to be sent.
    pub fn ask(&mut self, size: u64) {
        self.asked += size;
    }

    /// Bytes of the stream that have been taken from here.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Whether everything due has been sent.
    pub fn all_sent(&self) -> bool {
        self.sent == self.asked
    }

    /// Makes due what has been sent, and no more: what is unsent will not be.
    pub fn take_back(&mut self) {
        self.asked = self.sent;
    }

    /// Whether everything due has been sent and has come back.
    pub fn complete(&self) -> bool {
        self.received == self.asked
    }

    /// Writes what is due until all is sent or the socket would block. What a stream has taken and
    /// keeps back is flushed.
    #[inline]
    pub fn write(&mut self, stream: &mut impl Write, pattern: &Pattern) -> Result<(), Failure> {
        while self.sent < self.asked {
            let bytes = pattern.slice(self.base + self.sent, self.asked - self.sent);
            match stream.write(bytes) {
                Ok(0) => return Err(Failure::Lost(None)),
                Ok(written) => self.sent += written as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Failure::Lost(Some(error))),
            }
        }
        match stream.flush() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                Err(Failure::Lost(Some(error)))
            }
            _ => Ok(()),
        }
    }

    /// Reads and checks until the socket is empty; true when everything due has come back.
    ///
    /// A read that does not fill the buffer has emptied the socket, and the next byte to arrive
    /// is a new edge: asking once more, only to be told so, would cost a system call per request.
    #[inline]
    pub fn read(
        &mut self,
        stream: &mut impl Read,
        pattern: &Pattern,
        buffer: &mut [u8],
    ) -> Result<bool, Failure> {
        loop {
            match stream.read(buffer) {
                Ok(0) => return Err(Failure::Lost(None)),
                Ok(count) => {
                    let expected = self.sent - self.received;
                    if count as u64 > expected {
                        return Err(Failure::Surplus);
                    }
                    let position = self.base + self.received;
                    if let Some(wrong) = pattern.first_difference(position, &buffer[..count]) {
                        return Err(Failure::Wrong(wrong - self.base));
                    }
                    self.received += count as u64;
                    if count < buffer.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Failure::Lost(Some(error))),
            }
        }
        Ok(self.complete())
    }

    /// After the client's half-close: true at the server's own close, false when it is yet to come.
    pub fn read_end(&self, stream: &mut impl Read, buffer: &mut [u8]) -> Result<bool, Failure> {
        loop {
            match stream.read(buffer) {
                Ok(0) => return Ok(true),
                Ok(_) => return Err(Failure::Surplus),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Failure::Lost(Some(error))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// A socket whose other side echoes, and which takes and gives only a few bytes at a time.
    struct Loop {
        bytes: VecDeque<u8>,
        room: usize,
        ended: bool,
    }

    impl Write for Loop {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.room - self.bytes.len());
            if count == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.bytes.extend(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Read for Loop {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.bytes.is_empty() && !self.ended {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let count = buffer.len().min(self.bytes.len());
            for (place, byte) in buffer.iter_mut().zip(self.bytes.drain(..count)) {
                *place = byte;
            }
            Ok(count)
        }
    }

    fn socket(room: usize) -> Loop {
        Loop {
            bytes: VecDeque::new(),
            room,
            ended: false,
        }
    }

    #[test]
    fn a_message_larger_than_the_socket_comes_back_in_pieces() {
        let (pattern, mut buffer) = (Pattern::new(), vec![0; 100]);
        let (mut socket, mut exchange) = (socket(999), Exchange::new(17));
        for size in [1, 5_000, 600_000] {
            exchange.ask(size);
            while !exchange.complete() {
                exchange.write(&mut socket, &pattern).expect("writes");
                exchange
                    .read(&mut socket, &pattern, &mut buffer)
                    .expect("reads");
            }
        }
        assert_eq!(exchange.sent(), 605_001);
    }

    #[test]
    fn swapped_bytes_a_surplus_and_an_early_end_are_told_apart() {
        let (pattern, mut buffer) = (Pattern::new(), vec![0; 100]);
        let mut attempt = |spoil: fn(&mut Loop)| {
            let (mut socket, mut exchange) = (socket(999), Exchange::new(0));
            exchange.ask(10);
            exchange.write(&mut socket, &pattern).expect("writes");
            spoil(&mut socket);
            exchange.read(&mut socket, &pattern, &mut buffer)
        };
        assert!(matches!(attempt(|_| ()), Ok(true)));
        assert!(matches!(
            attempt(|socket| socket.bytes.truncate(9)),
            Ok(false)
        ));
        assert!(matches!(
            attempt(|socket| socket.bytes.swap(4, 6)),
            Err(Failure::Wrong(4))
        ));
        assert!(matches!(
            attempt(|socket| socket.bytes.push_back(0)),
            Err(Failure::Surplus)
        ));
        assert!(matches!(
            attempt(|socket| {
                socket.bytes.clear();
                socket.ended = true;
            }),
            Err(Failure::Lost(None))
        ));
    }
}
