//! TLS on one connection, by rustls: ciphertext in, plaintext out, and back.
//!
//! Knows no sockets. What comes from the peer is fed in; what is for the peer is either sealed into
//! a buffer of the caller's, or, where TLS itself has something to say, queued in `sealed`. rustls'
//! unbuffered interface is used, which keeps nothing of its own: a connection that is idle holds no
//! buffer at all.

pub mod alert;
pub mod config;
pub mod facts;
mod identity;
mod verify;

use std::ops::Deref;
use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::ServerName;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, UnbufferedConnectionCommon, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, ServerConfig};

use crate::queue::Queue;
use alert::Alert;

/// How much ciphertext is read at once, in bytes: 64 KiB of plaintext come at once.
pub const CIPHER_SIZE: usize = 64 * 1024 + 128;
/// The most ciphertext that may wait for the rest of its record, or of its handshake message. A record
/// has at most 18 KiB; longer chains of certificates than this nobody has.
const MAX_PARTIAL: usize = 48 * 1024;
/// How much plaintext is sealed at once, in bytes.
pub const CHUNK: usize = 64 * 1024;
/// How much room that takes: each record of 16 KiB grows by at most 29 bytes, and an update of the
/// keys, or what is left of a handshake, may go in front of it.
pub const SEALED_SIZE: usize = CHUNK + 8 * 1024;

/// One side of a TLS connection.
pub struct Tls {
    session: Session,
    /// The start of a record of which the rest has not come.
    partial: Vec<u8>,
    /// What TLS has to say to the peer, and what was sealed and the kernel did not take.
    pub sealed: Queue,
    /// The peer has said that it will send no more.
    closed: bool,
    /// We have said so, or may not any more.
    silent: bool,
    /// What ended it.
    failed: Option<Alert>,
    /// The name that a client asked for.
    sni: Option<Box<str>>,
}

enum Session {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection, ServerName<'static>),
}

/// What is ahead of a connection that will be secure.
#[derive(Clone)]
pub enum Offer {
    /// A client may come.
    Server(Arc<ServerConfig>),
    /// A server of that name is expected.
    Client(Arc<ClientConfig>, ServerName<'static>),
}

/// What the two sides of rustls have in common, which it has no trait for.
trait Records: Deref<Target = CommonState> {
    type Side;

    /// `incoming` is all that was not yet taken, also where only something is to be sent.
    fn records<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Side>;
}

impl Records for UnbufferedConnectionCommon<ServerConnectionData> {
    type Side = ServerConnectionData;

    fn records<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Side> {
        self.process_tls_records(incoming)
    }
}

impl Records for UnbufferedConnectionCommon<ClientConnectionData> {
    type Side = ClientConnectionData;

    fn records<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Side> {
        self.process_tls_records(incoming)
    }
}

/// Where plaintext goes: into a buffer, and what does not fit behind it.
pub struct Plain<'a> {
    into: &'a mut [u8],
    len: usize,
    rest: &'a mut Queue,
}

impl<'a> Plain<'a> {
    /// Nothing yet.
    pub fn new(into: &'a mut [u8], rest: &'a mut Queue) -> Self {
        Plain { into, len: 0, rest }
    }

    /// How many bytes are in the buffer.
    pub fn len(&self) -> usize {
        self.len
    }

    fn push(&mut self, bytes: &[u8]) {
        let fits = bytes.len().min(self.into.len() - self.len);
        let (now, later) = bytes.split_at(fits);
        self.into[self.len..self.len + fits].copy_from_slice(now);
        self.len += fits;
        if !later.is_empty() {
            self.rest.push(later);
        }
    }
}

impl Tls {
    /// Begins: a client has its first message queued.
    pub fn new(offer: Offer) -> Result<Self, Alert> {
        let session = match offer {
            Offer::Server(config) => Session::Server(UnbufferedServerConnection::new(config)?),
            Offer::Client(config, name) => {
                let session = UnbufferedClientConnection::new(config, name.clone())?;
                Session::Client(session, name)
            }
        };
        let mut tls = Tls {
            session,
            partial: Vec::new(),
            sealed: Queue::default(),
            closed: false,
            silent: false,
            failed: None,
            sni: None,
        };
        if matches!(tls.session, Session::Client(..)) {
            tls.process(&mut [], &mut Plain::new(&mut [], &mut Queue::default()));
        }
        Ok(tls)
    }

    /// True until both sides may speak.
    pub fn is_greeting(&self) -> bool {
        self.common().is_handshaking()
    }

    /// True when the peer has ended its stream.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// What ended it, if anything has.
    pub fn failed(&self) -> Option<&Alert> {
        self.failed.as_ref()
    }

    /// Takes nothing more from the peer, because of this.
    pub fn refuse(&mut self, text: &str) {
        self.failed = Some(Alert::decode_error(text));
    }

    fn common(&self) -> &CommonState {
        match &self.session {
            Session::Server(session) => session,
            Session::Client(session, _) => session,
        }
    }

    // ---- from the peer ----------------------------------------------------------

    /// How many bytes of an unfinished record wait: what is read next goes so far into the buffer.
    pub fn partial(&self) -> usize {
        self.partial.len()
    }

    /// Takes ciphertext: the first `filled` bytes of `cipher`, of which the first
    /// [`Tls::partial`] are still to be filled in. What it says is in `plain`; what it leads to is
    /// seen in [`Tls::is_closed`] and [`Tls::failed`], and in `sealed`.
    pub fn feed(&mut self, cipher: &mut [u8], filled: usize, plain: &mut Plain) {
        if self.failed.is_some() || self.closed {
            return;
        }
        cipher[..self.partial.len()].copy_from_slice(&self.partial);
        self.partial = Vec::new();
        let used = self.process(&mut cipher[..filled], plain);
        let rest = &cipher[used..filled];
        if self.failed.is_some() || self.closed {
            return;
        }
        if rest.len() > MAX_PARTIAL {
            self.failed = Some(Alert::decode_error("a handshake message is too long"));
        } else if !rest.is_empty() {
            self.partial = rest.to_vec();
        }
    }

    fn process(&mut self, cipher: &mut [u8], plain: &mut Plain) -> usize {
        let greets = self.is_greeting();
        let Tls {
            session, sealed, ..
        } = self;
        let (used, end) = match session {
            Session::Server(session) => drive(&mut **session, cipher, sealed, plain),
            Session::Client(session, _) => drive(&mut **session, cipher, sealed, plain),
        };
        match end {
            End::Blocked => {}
            End::Closed => self.closed = true,
            End::Failed(alert) => {
                // rustls has queued what is to be said about it, and says nothing after that.
                self.silent = true;
                self.failed = Some(alert);
            }
        }
        if greets {
            // Always: it must not be left for the next one.
            self.sni = identity::take_name().or(self.sni.take());
        }
        used
    }

    // ---- to the peer --------------------------------------------------------------

    /// Seals up to [`CHUNK`] bytes into `out`, which has [`SEALED_SIZE`]: how many bytes it became.
    /// `None` when nothing can be said any more. What is in `sealed` has to go first.
    pub fn seal(&mut self, plain: &[u8], out: &mut [u8]) -> Option<usize> {
        if self.silent {
            return None;
        }
        let partial = &mut self.partial[..];
        match &mut self.session {
            Session::Server(session) => encrypt(&mut **session, partial, plain, out),
            Session::Client(session, _) => encrypt(&mut **session, partial, plain, out),
        }
    }

    /// Queues the word that we send no more, once.
    pub fn say_goodbye(&mut self) {
        if std::mem::replace(&mut self.silent, true) || self.failed.is_some() {
            return;
        }
        let mut out = [0; 1024];
        let partial = &mut self.partial[..];
        let said = match &mut self.session {
            Session::Server(session) => close_notify(&mut **session, partial, &mut out),
            Session::Client(session, _) => close_notify(&mut **session, partial, &mut out),
        };
        self.sealed.push(&out[..said]);
    }

    /// Says nothing more: what was lost must not look like an end.
    pub fn fall_silent(&mut self) {
        self.silent = true;
        self.sealed = Queue::default();
    }
}

enum End {
    Blocked,
    Closed,
    Failed(Alert),
}

/// Has rustls take what it can: how many bytes it took, and what stopped it.
fn drive<C: Records + ?Sized>(
    session: &mut C,
    cipher: &mut [u8],
    sealed: &mut Queue,
    plain: &mut Plain,
) -> (usize, End) {
    let mut at = 0;
    let mut end = End::Blocked;
    loop {
        let UnbufferedStatus { discard, state, .. } = session.records(&mut cipher[at..]);
        let mut more = 0;
        let stop = match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(Ok(record)) = traffic.next_record() {
                    plain.push(record.payload);
                    more += record.discard;
                }
                false
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                push_encoded(sealed, |out| data.encode(out));
                false
            }
            Ok(ConnectionState::TransmitTlsData(data)) => {
                // It is queued: that is as good as sent.
                data.done();
                false
            }
            Ok(ConnectionState::PeerClosed) => {
                end = End::Closed;
                false
            }
            Ok(_) => true,
            Err(error) => {
                push_alert(session, sealed);
                return (cipher.len(), End::Failed(Alert::from(error)));
            }
        };
        at += discard + more;
        if stop {
            return (at, end);
        }
    }
}

/// Queues the alert that goes with an error. What came is not looked at again.
fn push_alert<C: Records + ?Sized>(session: &mut C, sealed: &mut Queue) {
    while session.wants_write() {
        match session.records(&mut []).state {
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                push_encoded(sealed, |out| data.encode(out));
            }
            _ => return,
        }
    }
}

/// Queues what rustls encodes, however long it is.
fn push_encoded(
    sealed: &mut Queue,
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, rustls::unbuffered::EncodeError>,
) {
    use rustls::unbuffered::{EncodeError, InsufficientSizeError};
    let mut out = [0; 2048];
    match encode(&mut out) {
        Ok(n) => sealed.push(&out[..n]),
        Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size, .. })) => {
            let mut out = vec![0; required_size];
            if let Ok(n) = encode(&mut out) {
                sealed.push(&out[..n]);
            }
        }
        Err(EncodeError::AlreadyEncoded) => {}
    }
}

fn encrypt<C: Records + ?Sized>(
    session: &mut C,
    partial: &mut [u8],
    plain: &[u8],
    out: &mut [u8],
) -> Option<usize> {
    let mut at = 0;
    loop {
        match session.records(partial).state {
            Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                return Some(at + traffic.encrypt(plain, &mut out[at..]).ok()?);
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                at += data.encode(&mut out[at..]).ok()?;
            }
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            Ok(ConnectionState::PeerClosed) => {}
            _ => return None,
        }
    }
}

fn close_notify<C: Records + ?Sized>(session: &mut C, partial: &mut [u8], out: &mut [u8]) -> usize {
    let mut at = 0;
    loop {
        match session.records(partial).state {
            Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                return at + traffic.queue_close_notify(&mut out[at..]).unwrap_or(0);
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => match data.encode(&mut out[at..]) {
                Ok(n) => at += n,
                Err(_) => return at,
            },
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            Ok(ConnectionState::PeerClosed) => {}
            // In the middle of a handshake there is nothing to end.
            _ => return at,
        }
    }
}

#[cfg(test)]
mod tests;
