//! How a connection ends: one direction or both, once what is queued is flushed or at once.
//!
//! Whatever the way, `close_fd` is the last step: the descriptor is closed there and nowhere else.

use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use crate::connection::{Active, Phase, State};
use crate::counters;
use crate::error::{Cause, Reason};
use crate::fds;
use crate::queue::Queue;

/// How long a closed connection may take to hand its last bytes to the kernel.
pub const LINGER: Duration = Duration::from_secs(30);

impl<O> State<O> {
    /// Stops one or both directions. Writing stops once the queue is flushed.
    pub fn shutdown(&mut self, read: bool, write: bool) -> Result<(), Reason> {
        self.socket()?;
        if self.phase != Phase::Open {
            return Err(Reason::Errno(libc::ENOTCONN));
        }
        if write && !self.shut_write {
            self.shut_write = true;
            if self.queued() == 0 {
                self.shutdown_write_now()?;
            }
        }
        if read {
            self.hangup = true;
            self.readable = true;
            match self.socket()?.shutdown(std::net::Shutdown::Read) {
                // A peer that was told of the end may have reset the connection since.
                Err(error) if self.shut_write && error.kind() == io::ErrorKind::NotConnected => {}
                outcome => outcome.map_err(Reason::from)?,
            }
        }
        Ok(())
    }

    pub(super) fn shutdown_write_now(&mut self) -> Result<(), Reason> {
        if !self.say_goodbye() {
            // The end comes behind it, once the kernel has taken it.
            return Ok(());
        }
        self.socket()?
            .shutdown(std::net::Shutdown::Write)
            .map_err(Reason::from)
    }

    /// Ends the connection as soon as its queue is flushed, which may be at
    /// once: then true, and the fd is closed.
    pub fn close(&mut self, now: Instant) -> bool {
        if self.phase == Phase::Closed {
            return true;
        }
        self.wanted = None;
        self.settings.active = Active::Off;
        let early = matches!(self.phase, Phase::Connecting | Phase::Greeting);
        let lost = early || self.broken.is_some();
        if lost || (self.queued() == 0 && self.say_goodbye()) {
            self.close_fd();
            return true;
        }
        if self.phase == Phase::Open {
            self.phase = Phase::Closing;
            self.deadline = Some(now + LINGER);
            self.inbox = Queue::default();
        }
        false
    }

    /// The stream has ended and an active owner was told. What it was sent before, it may still be
    /// answering: so the connection stays open for that, for as long as a linger.
    pub fn end(&mut self, now: Instant) {
        self.end_reading();
        self.deadline = Some(now + LINGER);
    }

    /// The stream has ended and whoever read was told. It may still answer; it is to close.
    pub fn end_reading(&mut self) {
        self.ended = true;
        self.readable = false;
        self.wanted = None;
        self.settings.active = Active::Off;
        self.inbox = Queue::default();
        self.awaiting(false);
    }

    /// Ends the connection at once, for this cause: what is queued is lost. The owner has to be told.
    pub fn condemn(&mut self, cause: Cause) {
        self.because(cause);
        let lossy = self.queued() > 0;
        if let Some(tls) = self.tls.as_mut().filter(|_| lossy) {
            tls.fall_silent();
        }
        self.outbox = Queue::default();
        self.congested = false;
        self.shut_write = true;
    }

    /// Closes the fd now, whatever is queued.
    pub fn close_fd(&mut self) {
        if self.tls.is_some() {
            self.end_secure();
        }
        self.greeting = None;
        self.phase = Phase::Closed;
        self.deadline = None;
        self.watch = None;
        self.inbox = Queue::default();
        self.outbox = Queue::default();
        self.congested = false;
        if let Some(socket) = self.socket.take() {
            counters::FDS_CLOSED.add();
            if let Some(handed) = &self.handed {
                handed.home.unwatch(socket.as_raw_fd());
            }
            fds::release(socket.as_raw_fd());
            if self.filing {
                // Whoever sends the file has the socket open too: it ends there as well.
                let _ = socket.shutdown(std::net::Shutdown::Both);
            }
        }
        if let Some(slot) = self.slot.take() {
            slot.group()
                .add_traffic(self.traffic.received, self.traffic.sent);
        }
    }
}
