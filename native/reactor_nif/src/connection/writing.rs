//! Writing: what the kernel does not take now waits in the outbox, whose bounds are the two marks.
//!
//! A write that the kernel took a part of, or nothing, makes `writable` false: the next edge makes it
//! true. A file goes past the outbox, and what is written meanwhile waits in it.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use crate::connection::{Phase, State};
use crate::error::{Cause, Reason};
use crate::queue::Queue;

/// Where the write queue stands after a write or a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Nothing is queued.
    Empty,
    /// Something is queued, less than the high-water mark.
    Below,
    /// The sender should wait.
    Above,
}

impl<O> State<O> {
    /// True while senders have to wait.
    pub fn congested(&self) -> bool {
        self.congested
    }

    /// True when there is something to flush and the kernel may take it.
    pub fn may_flush(&self) -> bool {
        self.writable && !self.filing && self.queued() > 0
    }

    /// True while a file is being sent.
    pub fn filing(&self) -> bool {
        self.filing
    }

    /// True when a write would go to the kernel at once.
    pub fn has_room(&self) -> bool {
        self.writable && !self.filing && self.queued() == 0
    }

    /// How many bytes wait to be written.
    pub fn queued(&self) -> usize {
        self.outbox.len() + self.tls.as_ref().map_or(0, |tls| tls.sealed.len())
    }

    /// Sends one message with its framing. What the kernel does not take now is queued, whole:
    /// the bound of the queue is the high-water mark and one message.
    pub fn send(&mut self, message: &[u8]) -> Result<Level, Reason> {
        let (header, used) = self.settings.framing.header(message.len())?;
        self.write(&header[..used], message)
    }

    /// Writes bytes as they are.
    pub fn write(&mut self, head: &[u8], body: &[u8]) -> Result<Level, Reason> {
        match self.phase {
            Phase::Open if !self.shut_write => {}
            Phase::Connecting | Phase::Greeting => return Err(Reason::Errno(libc::ENOTCONN)),
            _ => return Err(Reason::Closed),
        }
        if let Some(reason) = self.broken.or_else(|| self.cannot_write()) {
            return Err(reason);
        }
        if self.has_messages() && self.queued() > 0 {
            // Two that wait would become one.
            return Err(Reason::Errno(libc::EAGAIN));
        }
        let total = head.len() + body.len();
        let mut done = 0;
        if self.has_room() && total > 0 {
            let written = if head.is_empty() {
                self.send_once(&[IoSlice::new(body)], total)
            } else {
                self.send_once(&[IoSlice::new(head), IoSlice::new(body)], total)
            };
            done = written?;
        }
        if done < head.len() {
            self.outbox.push(&head[done..]);
            self.outbox.push(body);
        } else if done < total {
            self.outbox.push(&body[done - head.len()..]);
        }
        Ok(self.level())
    }

    /// Writes what the kernel takes now and queues nothing: 0 when it is full, or when bytes that
    /// were written earlier still wait.
    pub fn write_now(&mut self, bytes: &[u8]) -> Result<usize, Reason> {
        if self.phase != Phase::Open || self.shut_write {
            return Err(Reason::Closed);
        }
        if let Some(reason) = self.broken.or_else(|| self.cannot_write()) {
            return Err(reason);
        }
        if !self.has_room() || bytes.is_empty() {
            return Ok(0);
        }
        self.send_once(&[IoSlice::new(bytes)], bytes.len())
    }

    /// Hands the queue to the kernel, as far as that takes it.
    pub fn flush(&mut self) -> Result<Level, Reason> {
        while self.may_flush() {
            let queue = std::mem::take(&mut self.outbox);
            let written = self.send_once(&[IoSlice::new(queue.as_slice())], queue.len());
            self.outbox = queue;
            match written {
                Ok(n) => self.outbox.consume(n),
                Err(reason) => {
                    self.outbox = Queue::default();
                    if let Some(tls) = &mut self.tls {
                        tls.fall_silent();
                    }
                    self.congested = false;
                    self.awaiting_room(false);
                    return Err(reason);
                }
            }
            if self.tls.is_some() {
                // To seal costs time: others have their turn before there is more.
                break;
            }
        }
        if self.queued() <= self.settings.low_watermark {
            self.congested = false;
        }
        if self.queued() == 0 && self.shut_write {
            self.shutdown_write_now()?;
        }
        Ok(self.level())
    }

    /// The kernel takes what it can: 0 when it is full.
    fn send_once(&mut self, slices: &[IoSlice<'_>], total: usize) -> Result<usize, Reason> {
        if self.tls.is_some() {
            return self.send_secure(slices, total);
        }
        self.send_socket(slices, total)
    }

    pub(super) fn send_socket(
        &mut self,
        slices: &[IoSlice<'_>],
        total: usize,
    ) -> Result<usize, Reason> {
        let Some(socket) = self.socket.as_ref() else {
            return Err(Reason::Closed);
        };
        let result = loop {
            let sent = match (&mut self.handed, slices) {
                (Some(handed), slices) => handed.write(socket, slices),
                (None, [one]) => socket.send_with_flags(one, libc::MSG_NOSIGNAL),
                (None, many) => socket.send_vectored_with_flags(many, libc::MSG_NOSIGNAL),
            };
            match sent {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => break other,
            }
        };
        match result {
            Ok(n) => {
                self.writable = n == total;
                self.count_sent(n);
                Ok(n)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.writable = false;
                Ok(0)
            }
            Err(error) => {
                let reason = Reason::from(error);
                self.broken = Some(reason);
                self.because(Cause::Reset);
                Err(reason)
            }
        }
    }

    fn count_sent(&mut self, bytes: usize) {
        self.traffic.sent += bytes as u64;
        self.traffic.writes += 1;
        if let Some(watch) = &mut self.watch {
            watch.sent(bytes, Instant::now());
        }
    }

    fn level(&mut self) -> Level {
        let queued = self.queued();
        if let Some(watch) = &mut self.watch {
            watch.queued(queued > 0, Instant::now());
        }
        if queued >= self.settings.high_watermark {
            self.congested = true;
        }
        match queued {
            _ if self.congested => Level::Above,
            0 => Level::Empty,
            _ => Level::Below,
        }
    }

    // ---- files --------------------------------------------------------------

    /// True when a part of a file would go to the kernel at once.
    pub fn may_send_file(&self) -> Result<bool, Reason> {
        if matches!(self.phase, Phase::Connecting | Phase::Greeting) {
            return Err(Reason::Errno(libc::ENOTCONN));
        }
        if self.phase != Phase::Open || self.shut_write {
            return Err(Reason::Closed);
        }
        match self.broken {
            Some(reason) => Err(reason),
            None => Ok(self.has_room()),
        }
    }

    /// Begins to send a file past the queue: a descriptor to do that with, unlocked, or `None` when
    /// there is no room, or others are before it. What is written meanwhile waits in the queue.
    pub fn begin_file(&mut self) -> Result<Option<(OwnedFd, u32)>, Reason> {
        if !self.may_send_file()? {
            return Ok(None);
        }
        let fd = self.socket()?.as_fd().try_clone_to_owned();
        let fd = fd.map_err(Reason::from)?;
        self.filing = true;
        Ok(Some((fd, self.room)))
    }

    /// Ends what [`State::begin_file`] began: so many bytes were sent, and the kernel was `full`
    /// since the poll last said that there is room. True when others can go on.
    pub fn end_file(&mut self, sent: usize, full: bool, room: u32) -> bool {
        self.filing = false;
        if sent > 0 {
            self.count_sent(sent);
        }
        if full && room == self.room {
            self.writable = false;
        }
        self.may_flush()
    }
}
