//! What happens on a connection before its owner may speak: a PROXY header comes, or is sent, and then
//! there is the TLS handshake.

use std::io::IoSlice;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::address::Address;
use crate::connection::{Phase, Pull, State};
use crate::deadline::Watch;
use crate::error::{Cause, Reason};
use crate::proxy::{Announced, Gathered, Header, DEFAULT_LIMIT};
use crate::tls::alert::Alert;
use crate::tls::{Offer, Tls};

/// What has to be done before the owner may speak.
pub struct Greeting {
    /// What comes first.
    pub preface: Preface,
    /// Then there is this.
    pub handshake: Option<Handshake>,
}

/// A TLS handshake.
#[derive(Clone)]
pub struct Handshake {
    /// With what.
    pub offer: Offer,
    /// How long it may take, in ms; 0 for as long as it takes.
    pub timeout: u32,
    /// What a server's configuration is made of, for processes that need one of their own.
    pub recipe: Option<Arc<[u8]>>,
}

/// A PROXY header, or what is left of it.
pub enum Preface {
    /// There is none, or it is done with.
    Nothing,
    /// It has to come, within so long; so much has.
    Expected(Gathered, Duration),
    /// It is to be sent.
    Announced(Announced),
    /// So much of it has not been taken by the kernel.
    Sending(Vec<u8>),
}

impl Greeting {
    /// When what comes first has failed, if it begins now.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        match (&self.preface, &self.handshake) {
            (Preface::Expected(_, timeout), _) => Some(now + *timeout),
            (_, Some(handshake)) => handshake.deadline(now),
            (_, None) => None,
        }
    }
}

impl Handshake {
    fn deadline(&self, now: Instant) -> Option<Instant> {
        (self.timeout > 0).then(|| now + Duration::from_millis(u64::from(self.timeout)))
    }
}

/// Where a greeting stands.
pub enum Greeted {
    /// It is over: the connection is open.
    Done,
    /// The peer has to say more.
    Waiting,
    /// It failed. What there is to say to the peer about that has been said.
    Failed(Cause, Failure),
}

/// Why a greeting failed, for who waits for it.
pub enum Failure {
    /// The connection did.
    Reason(Reason),
    /// One side had something against the other.
    Alert(Alert),
}

impl<O> State<O> {
    /// Goes on with the greeting, as far as that goes now.
    pub fn greet(&mut self, now: Instant) -> Greeted {
        let cause = match self.preface() {
            Some(Preface::Expected(..)) => Cause::ProxyTimeout,
            _ => Cause::HandshakeTimeout,
        };
        let done = match self.pass_preface(now) {
            Ok(true) => self.shake_hands(),
            other => other,
        };
        match done {
            Ok(true) => {
                self.greeted();
                Greeted::Done
            }
            Ok(false) if self.deadline.is_some_and(|deadline| deadline <= now) => {
                Greeted::Failed(cause, Failure::Reason(Reason::Timeout))
            }
            Ok(false) => Greeted::Waiting,
            Err((cause, failure)) => Greeted::Failed(cause, failure),
        }
    }

    fn preface(&self) -> Option<&Preface> {
        self.greeting.as_ref().map(|greeting| &greeting.preface)
    }

    /// Why a peer that is gone now is: it left in the middle of this.
    pub(super) fn left_greeting(&self) -> Cause {
        match self.preface() {
            Some(Preface::Nothing) | None => Cause::Handshake,
            Some(_) => Cause::Proxy,
        }
    }

    /// Receives or sends the PROXY header, if there is to be one: true when that is done.
    fn pass_preface(&mut self, now: Instant) -> Result<bool, (Cause, Failure)> {
        let Some(greeting) = &mut self.greeting else {
            return Ok(true);
        };
        match &mut greeting.preface {
            Preface::Nothing => Ok(true),
            Preface::Expected(gathered, _) => {
                let gathered = std::mem::take(gathered);
                self.hear_header(gathered, now)
            }
            Preface::Announced(announced) => {
                let announced = announced.clone();
                let bytes = self.header_of(&announced)?;
                self.say_header(bytes)
            }
            Preface::Sending(rest) => {
                let rest = std::mem::take(rest);
                self.say_header(rest)
            }
        }
    }

    fn hear_header(
        &mut self,
        mut gathered: Gathered,
        now: Instant,
    ) -> Result<bool, (Cause, Failure)> {
        let mut piece = [0; 1024];
        loop {
            let n = match self.readable.then(|| self.read_socket(&mut piece)) {
                Some(Ok(n)) => n,
                Some(Err(Pull::Blocked)) | None => {
                    self.keep(gathered);
                    return Ok(false);
                }
                Some(Err(Pull::End(reason))) => {
                    return Err((Cause::Proxy, Failure::Reason(reason.folded())));
                }
                Some(Err(Pull::Data(_))) => return Ok(false),
            };
            match gathered.take(&piece[..n], DEFAULT_LIMIT) {
                Ok(None) => {}
                Ok(Some((header, rest))) => {
                    self.header = Some(Box::new(header));
                    self.set_preface(Preface::Nothing);
                    self.after_header(&rest, now)?;
                    return Ok(true);
                }
                Err(why) => {
                    tracing::debug!("a PROXY header is none: {why}");
                    return Err((Cause::Proxy, Failure::Reason(Reason::Closed)));
                }
            }
        }
    }

    /// What came behind the header is for the handshake, or for the owner.
    fn after_header(&mut self, rest: &[u8], now: Instant) -> Result<(), (Cause, Failure)> {
        let handshake = self.greeting.as_ref().and_then(|greeting| {
            let handshake = greeting.handshake.as_ref()?;
            Some((handshake.offer.clone(), handshake.deadline(now)))
        });
        let Some((offer, deadline)) = handshake else {
            self.inbox.push(rest);
            return Ok(());
        };
        self.deadline = deadline;
        self.begin_secure(offer)?;
        self.feed_early(rest);
        Ok(())
    }

    fn header_of(&self, announced: &Announced) -> Result<Vec<u8>, (Cause, Failure)> {
        let ends = (self.local(), self.remote());
        match (announced.source, announced.destination, ends) {
            (Some(source), Some(destination), _) => Ok(announced.bytes(source, destination)),
            (_, _, (Ok(Address::Net(local)), Ok(Address::Net(remote)))) => {
                Ok(announced.bytes(local, remote))
            }
            // Those of a Unix socket say nothing; and a socket without addresses is none any more.
            _ => Err((Cause::Proxy, Failure::Reason(Reason::Invalid))),
        }
    }

    fn say_header(&mut self, bytes: Vec<u8>) -> Result<bool, (Cause, Failure)> {
        let sent = if self.writable {
            self.send_socket(&[IoSlice::new(&bytes)], bytes.len())
                .map_err(|reason| (Cause::Reset, Failure::Reason(reason.folded())))?
        } else {
            0
        };
        if sent < bytes.len() {
            self.set_preface(Preface::Sending(bytes[sent..].to_vec()));
            return Ok(false);
        }
        self.set_preface(Preface::Nothing);
        Ok(true)
    }

    fn keep(&mut self, pieces: Gathered) {
        let preface = self.greeting.as_mut().map(|greeting| &mut greeting.preface);
        if let Some(Preface::Expected(gathered, _)) = preface {
            *gathered = pieces;
        }
    }

    fn set_preface(&mut self, preface: Preface) {
        if let Some(greeting) = &mut self.greeting {
            greeting.preface = preface;
        }
    }

    fn begin_secure(&mut self, offer: Offer) -> Result<(), (Cause, Failure)> {
        let tls = Tls::new(offer).map_err(|alert| (Cause::Handshake, Failure::Alert(alert)))?;
        self.tls = Some(Box::new(tls));
        Ok(())
    }

    fn shake_hands(&mut self) -> Result<bool, (Cause, Failure)> {
        if self.tls.is_none() {
            let handshake = self
                .greeting
                .as_ref()
                .and_then(|greeting| greeting.handshake.clone());
            let Some(handshake) = handshake else {
                return Ok(true);
            };
            self.begin_secure(handshake.offer)?;
        }
        loop {
            self.flush_sealed();
            let Some(tls) = &self.tls else {
                return Err((Cause::Reset, Failure::Reason(Reason::Closed)));
            };
            if !tls.is_greeting() {
                // What has ended since is for the owner to see.
                return Ok(true);
            }
            if let Some(alert) = tls.failed() {
                return Err((Cause::Handshake, Failure::Alert(alert.clone())));
            }
            if tls.is_closed() {
                return Err((Cause::Handshake, Failure::Reason(Reason::Closed)));
            }
            if let Some(reason) = self.broken {
                return Err((Cause::Reset, Failure::Reason(reason.folded())));
            }
            if !self.readable {
                return Ok(false);
            }
            // What the peer says right behind its greeting is for the owner.
            match self.feed_secure(&mut []) {
                Ok(_) | Err(Pull::Blocked) => {}
                Err(Pull::End(Reason::Closed)) => {
                    // Nothing is wrong with a peer that thinks better of it, but it was no greeting.
                    return Err((Cause::Handshake, Failure::Reason(Reason::Closed)));
                }
                Err(Pull::End(reason)) => {
                    return Err((Cause::Reset, Failure::Reason(reason.folded())));
                }
                Err(Pull::Data(_)) => return Ok(false),
            }
        }
    }

    /// What the PROXY header said, if there was one.
    pub fn header(&self) -> Option<&Header> {
        self.header.as_deref()
    }

    /// The owner may speak. Its deadlines run from now on.
    fn greeted(&mut self) {
        self.phase = Phase::Open;
        self.greeting = None;
        self.deadline = None;
        self.overture = self.traffic.received;
        // What came, or ended, with the greeting is still to be seen.
        self.readable |= self
            .tls
            .as_ref()
            .is_some_and(|tls| tls.is_closed() || tls.failed().is_some());
        if let Some(watch) = &mut self.watch {
            let now = Instant::now();
            let active = self.settings.active != crate::connection::Active::Off;
            **watch = Watch::new(now, self.inbox.len() > 0);
            watch.wants(active, now);
            self.check_at = Some(now);
        }
    }
}
