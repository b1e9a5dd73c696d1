//! Reading: what a connection's socket has is cut into messages.
//!
//! A read that is short, or would block, makes `readable` false: the next edge makes it true. What was read
//! and is not a whole message waits in the inbox.

use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::time::Instant;

use socket2::Socket;

use crate::connection::{medium, Medium, Phase, State};
use crate::error::{Cause, Reason};
use crate::framing::{Frame, Framing, MAX_PACKET};

/// The most that one look for a long message reads, in bytes, and what one read more brings.
pub(super) const READ_BUDGET: usize = 512 * 1024;

/// What a read brought.
pub enum Pull<'a> {
    /// One message.
    Data(&'a [u8]),
    /// Nothing is there now.
    Blocked,
    /// The stream has ended.
    End(Reason),
}

impl<O> State<O> {
    /// True when a read may bring something, or the end.
    pub fn may_read(&self) -> bool {
        self.readable || self.inbox.len() > 0
    }

    /// True when neither side owes the other anything that we know of.
    pub fn idle(&self) -> bool {
        !self.readable && self.inbox.len() == 0 && self.queued() == 0
    }

    /// Looks whether something has come since: the poll's word may be as old as its last turn.
    pub fn has_come(&mut self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        let came = match (self.socket(), self.medium()) {
            (Ok(socket), Medium::File { reads, .. }) => reads && medium::has_come(socket),
            (Ok(socket), _) => socket.peek(&mut byte).is_ok(),
            (Err(_), _) => false,
        };
        self.readable |= came;
        came
    }

    /// One system call, whose bytes are in `into`; through TLS perhaps more than one, and what `into` has
    /// no room for is in the inbox.
    pub fn read_raw(&mut self, into: &mut [u8]) -> Result<usize, Pull<'static>> {
        if self.tls.is_some() {
            return self.read_secure(into);
        }
        self.read_socket(into)
    }

    /// One system call into `into`. Short means drained, unless the peer has hung up.
    pub(super) fn read_socket(&mut self, into: &mut [u8]) -> Result<usize, Pull<'static>> {
        let Some(socket) = self.socket.as_ref() else {
            return Err(Pull::End(Reason::Closed));
        };
        let mut reader: &Socket = socket;
        let datagrams = matches!(
            self.handed.as_ref().map(|handed| handed.medium),
            Some(Medium::Datagrams { .. })
        );
        loop {
            let result = match &mut self.handed {
                None => reader.read(into),
                Some(handed) => handed.read(socket, into),
            };
            match result {
                Ok(0) if !datagrams => {
                    self.readable = false;
                    self.because(match self.phase {
                        Phase::Greeting => self.left_greeting(),
                        _ if self.tls.is_some() => Cause::Truncated,
                        _ => Cause::Remote,
                    });
                    return Err(Pull::End(Reason::Closed));
                }
                Ok(n) => {
                    self.readable = n == into.len() || self.hangup || self.has_messages();
                    self.traffic.received += n as u64;
                    self.traffic.reads += 1;
                    if let Some(watch) = &mut self.watch {
                        watch.received(n, Instant::now());
                    }
                    return Ok(n);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.readable = false;
                    return Err(Pull::Blocked);
                }
                Err(error) => {
                    self.readable = false;
                    self.because(Cause::Reset);
                    return Err(Pull::End(error.into()));
                }
            }
        }
    }

    /// What is here already, or else one system call into `into`.
    pub fn read_bytes(&mut self, into: &mut [u8]) -> Result<usize, Pull<'static>> {
        let n = self.inbox.len().min(into.len());
        if n == 0 {
            return self.read_raw(into);
        }
        into[..n].copy_from_slice(&self.inbox.as_slice()[..n]);
        self.inbox.consume(n);
        Ok(n)
    }

    /// Puts back what was read: the next read finds it first.
    pub fn unread(&mut self, bytes: &[u8]) {
        let later = std::mem::take(&mut self.inbox);
        self.inbox.push(bytes);
        self.inbox.push(later.as_slice());
    }

    /// Takes the next message: a packet, or exactly `length` bytes, or (raw and 0) whatever there is.
    /// `scratch` is what the kernel reads into. If it is `Blocked` and the state still `readable`, so much
    /// was read that it has to be called again.
    pub fn pull<'a>(&'a mut self, length: usize, scratch: &'a mut [u8]) -> Pull<'a> {
        if self.settings.framing == Framing::Raw && length == 0 && self.inbox.len() == 0 {
            if !self.readable {
                return Pull::Blocked;
            }
            return match self.read_raw(scratch) {
                Ok(n) => Pull::Data(&scratch[..n]),
                Err(pull) => pull,
            };
        }
        // A packet that was too large for `scratch` was lent from the queue: now it can go.
        self.inbox.consume(0);
        let before = self.inbox.len();
        loop {
            match self.find(length) {
                Err(reason) => return Pull::End(reason),
                Ok(Frame::Whole { from, total }) => {
                    // Copied out, so that the queue can forget it (and its memory) at once.
                    let body = &self.inbox.as_slice()[from..total];
                    if body.len() <= scratch.len() {
                        let len = body.len();
                        scratch[..len].copy_from_slice(body);
                        self.inbox.consume(total);
                        return Pull::Data(&scratch[..len]);
                    }
                    let start = self.inbox.start;
                    self.inbox.start += total;
                    self.inbox.searched = 0;
                    return Pull::Data(&self.inbox.bytes[start + from..start + total]);
                }
                // The rest of what is there is for another time: it may be on a scheduler's thread.
                Ok(Frame::Partial)
                    if !self.readable || self.inbox.len() - before >= READ_BUDGET =>
                {
                    self.note_searched();
                    return Pull::Blocked;
                }
                Ok(Frame::Partial) => {
                    self.note_searched();
                    // Through TLS it goes to the inbox by itself.
                    let read = match self.tls {
                        None => self.read_socket(scratch),
                        Some(_) => self.read_secure(&mut []),
                    };
                    match read {
                        Ok(n) => self.inbox.push(&scratch[..n]),
                        Err(pull) => return pull,
                    }
                }
            }
        }
    }

    fn note_searched(&mut self) {
        if self.settings.framing == Framing::Line {
            self.inbox.searched = self.inbox.len();
        }
    }

    fn find(&self, length: usize) -> Result<Frame, Reason> {
        let buffer = self.inbox.as_slice();
        match (self.settings.framing, length) {
            (Framing::Raw, 0) => Framing::Raw.find(buffer, 0, usize::MAX),
            (Framing::Raw, length) if buffer.len() >= length => Ok(Frame::Whole {
                from: 0,
                total: length,
            }),
            (Framing::Raw, _) => Ok(Frame::Partial),
            (framing, _) => framing.find(buffer, self.inbox.searched, self.packet_limit()),
        }
    }

    fn packet_limit(&self) -> usize {
        match self.settings.packet_size {
            0 => MAX_PACKET,
            size => size.min(MAX_PACKET),
        }
    }
}
