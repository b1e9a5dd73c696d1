//! A connection whose bytes go through TLS.
//!
//! The outbox holds plaintext. It is sealed in chunks when the kernel takes them; what it did not take
//! of a chunk waits, sealed, in the session, and goes first. Above this file nothing of that is seen
//! but in `queued`.

use std::cell::RefCell;
use std::io::IoSlice;

use crate::connection::{Pull, State};
use crate::error::{Cause, Reason};
use crate::tls::{Plain, Tls, CHUNK, CIPHER_SIZE, SEALED_SIZE};

/// The most that one look at a connection, or one send, seals, in bytes.
const SEAL_BUDGET: usize = 256 * 1024;

/// How many reads in a row, each as large as [`CIPHER_SIZE`], may bring no plaintext.
const FRUITLESS: usize = 4;

thread_local! {
    /// What is read into, before it is opened.
    static CIPHER: RefCell<Vec<u8>> = RefCell::new(vec![0; CIPHER_SIZE]);
    /// What is sealed into, on its way to the kernel.
    static SEALED: RefCell<Vec<u8>> = RefCell::new(vec![0; SEALED_SIZE]);
    /// Where a header and what follows it become one record.
    static STAGE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl<O> State<O> {
    /// The TLS session of an open connection that has one.
    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_deref()
    }

    // ---- reading ----------------------------------------------------------------

    /// Reads until there is some plaintext, or nothing to read. What `into` has no room for is in the
    /// inbox, behind what was there.
    pub(super) fn read_secure(&mut self, into: &mut [u8]) -> Result<usize, Pull<'static>> {
        let mut fruitless = 0;
        loop {
            self.ended_secure()?;
            let before = self.inbox.len();
            let waiting = self.tls.as_ref().is_some_and(|tls| tls.sealed.len() > 0);
            let n = self.feed_secure(into)?;
            // It may have led to an answer of TLS's own: new keys, or an alert. What waited before is
            // for a flush, which knows who waits for that.
            if !waiting {
                self.flush_sealed();
            }
            if let Some(tls) = &self.tls {
                // The end is to be seen by the next read, whatever the kernel has.
                self.readable |= tls.is_closed() || tls.failed().is_some();
            }
            if n > 0 || self.inbox.len() > before {
                return Ok(n);
            }
            if !self.readable {
                return Err(Pull::Blocked);
            }
            // So much of TLS's own, and nothing to read: that is there to keep us busy.
            fruitless += 1;
            if let Some(tls) = self.tls.as_mut().filter(|_| fruitless == FRUITLESS) {
                tls.refuse("too many records without data");
            }
        }
    }

    /// The end of the stream, if what was read so far had it.
    fn ended_secure(&mut self) -> Result<(), Pull<'static>> {
        let Some(tls) = &self.tls else {
            return Err(Pull::End(Reason::Closed));
        };
        let (cause, reason) = if tls.failed().is_some() {
            (Cause::Tls, Reason::Tls)
        } else if tls.is_closed() {
            (Cause::Remote, Reason::Closed)
        } else {
            return Ok(());
        };
        self.readable = false;
        self.because(cause);
        Err(Pull::End(reason))
    }

    /// One system call: how much plaintext came of it. What `into` has no room for is in the inbox.
    pub(super) fn feed_secure(&mut self, into: &mut [u8]) -> Result<usize, Pull<'static>> {
        CIPHER.with_borrow_mut(|cipher| {
            let from = self.tls.as_ref().map_or(0, |tls| tls.partial());
            let n = self.read_socket(&mut cipher[from..])?;
            let Some(tls) = &mut self.tls else {
                return Ok(0);
            };
            let mut plain = Plain::new(into, &mut self.inbox);
            tls.feed(cipher, from + n, &mut plain);
            Ok(plain.len())
        })
    }

    /// Takes what came before the session began: less than [`CIPHER_SIZE`]. What it says is in the inbox.
    pub(super) fn feed_early(&mut self, early: &[u8]) {
        CIPHER.with_borrow_mut(|cipher| {
            let Some(tls) = self.tls.as_mut().filter(|_| !early.is_empty()) else {
                return;
            };
            let from = tls.partial();
            cipher[from..from + early.len()].copy_from_slice(early);
            let mut plain = Plain::new(&mut [], &mut self.inbox);
            tls.feed(cipher, from + early.len(), &mut plain);
        });
    }

    // ---- writing ----------------------------------------------------------------

    /// Seals what is given, in chunks, while the kernel takes them all: how much was sealed. What the
    /// kernel did not take is in the session.
    pub(super) fn send_secure(
        &mut self,
        slices: &[IoSlice<'_>],
        total: usize,
    ) -> Result<usize, Reason> {
        self.send_sealed()?;
        let mut done = 0;
        let mut rest = slices;
        let mut at = 0;
        while self.writable && done < total.min(SEAL_BUDGET) {
            let Some((slice, others)) = rest.split_first() else {
                break;
            };
            if at == slice.len() {
                (rest, at) = (others, 0);
                continue;
            }
            let sealed = match others {
                // A short header would be a record of its own.
                [next] if slice.len() - at < CHUNK => STAGE.with_borrow_mut(|stage| {
                    let head = slice.len() - at;
                    let body = next.len().min(CHUNK - head);
                    stage.clear();
                    stage.extend_from_slice(&slice[at..]);
                    stage.extend_from_slice(&next[..body]);
                    (rest, at) = (others, body);
                    self.seal_and_send(stage)
                }),
                _ => {
                    let until = slice.len().min(at + CHUNK);
                    let chunk = &slice[at..until];
                    at = until;
                    self.seal_and_send(chunk)
                }
            };
            done += sealed?;
        }
        Ok(done)
    }

    fn seal_and_send(&mut self, plain: &[u8]) -> Result<usize, Reason> {
        SEALED.with_borrow_mut(|out| {
            let tls = self.tls.as_mut().ok_or(Reason::Closed)?;
            let Some(len) = tls.seal(plain, out) else {
                self.broken = Some(Reason::Closed);
                return Err(Reason::Closed);
            };
            let sent = self.send_socket(&[IoSlice::new(&out[..len])], len)?;
            if let Some(tls) = self.tls.as_mut().filter(|_| sent < len) {
                tls.sealed.push(&out[sent..len]);
            }
            Ok(plain.len())
        })
    }

    /// Hands to the kernel what is sealed already, if there is room.
    fn send_sealed(&mut self) -> Result<(), Reason> {
        let Some(tls) = self.tls.as_mut() else {
            return Ok(());
        };
        if !self.writable || tls.sealed.len() == 0 {
            return Ok(());
        }
        let queue = std::mem::take(&mut tls.sealed);
        let sent = self.send_socket(&[IoSlice::new(queue.as_slice())], queue.len());
        if let Some(tls) = &mut self.tls {
            tls.sealed = queue;
            tls.sealed.consume(sent?);
        }
        Ok(())
    }

    /// Likewise, where nobody asks what became of it: a failure is noted, and is the next write's.
    pub(super) fn flush_sealed(&mut self) {
        if !self.filing && self.send_sealed().is_err() {
            if let Some(tls) = &mut self.tls {
                tls.fall_silent();
            }
        }
    }

    // ---- ends -------------------------------------------------------------------

    /// Says to the peer that no more will come: true when that is with the kernel, or need not be said.
    pub(super) fn say_goodbye(&mut self) -> bool {
        let Some(tls) = &mut self.tls else {
            return true;
        };
        tls.say_goodbye();
        self.flush_sealed();
        self.tls.as_ref().is_none_or(|tls| tls.sealed.len() == 0)
    }

    /// The fd is about to be closed: says so, if all was sent that was to be.
    pub(super) fn end_secure(&mut self) {
        if self.outbox.len() == 0 && self.broken.is_none() {
            self.say_goodbye();
        }
        self.tls = None;
    }
}
