//! What happens on a connection before its owner may speak: the TLS handshake.
//!
//! Whatever else comes before it, as a header that says who the peer is, belongs in front of it here:
//! in [`Greeting`], and at the start of [`State::greet`].

use std::time::{Duration, Instant};

use crate::connection::{Phase, Pull, State};
use crate::deadline::Watch;
use crate::error::{Cause, Reason};
use crate::tls::alert::Alert;
use crate::tls::{Offer, Tls};

/// What has to be done before the owner may speak.
#[derive(Clone)]
pub struct Greeting {
    /// The handshake.
    pub tls: Offer,
    /// How long it may take, in ms; 0 for as long as it takes.
    pub timeout: u32,
}

impl Greeting {
    /// When one that begins now has failed.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
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
        match self.shake_hands() {
            Ok(true) => {
                self.greeted();
                Greeted::Done
            }
            Ok(false) if self.deadline.is_some_and(|deadline| deadline <= now) => {
                let cause = Cause::HandshakeTimeout;
                Greeted::Failed(cause, Failure::Reason(Reason::Timeout))
            }
            Ok(false) => Greeted::Waiting,
            Err((cause, failure)) => Greeted::Failed(cause, failure),
        }
    }

    fn shake_hands(&mut self) -> Result<bool, (Cause, Failure)> {
        if self.tls.is_none() {
            let Some(greeting) = &self.greeting else {
                return Ok(true);
            };
            let tls = Tls::new(greeting.tls.clone())
                .map_err(|alert| (Cause::Handshake, Failure::Alert(alert)))?;
            self.tls = Some(Box::new(tls));
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

    /// The owner may speak. Its deadlines run from now on.
    fn greeted(&mut self) {
        self.phase = Phase::Open;
        self.greeting = None;
        self.deadline = None;
        self.overture = self.traffic.received;
        // What ended with the greeting is still to be seen.
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
