//! A process that does not come to the connections that it was given, because it is busy with one of those that
//! it has: what it has not begun with is given to other contexts, and nothing more to it until it comes to that.
//!
//! The main thread of the process can give back what its loop has not begun with, whatever Python is doing. As
//! long as the loop may not have begun, another descriptor of each stays here.

use std::time::{Duration, Instant};

use rustler::Encoder;

use crate::address::Address;
use crate::connection::{Spare, Traffic};
use crate::error::Cause;
use crate::owner::Conn;
use crate::portal::{News, Portal};

mod atoms {
    rustler::atoms! { give_back, rouse }
}

/// How long a context may take until it begins with a connection, or comes to it.
pub const PATIENCE: Duration = Duration::from_millis(500);

/// What is kept of a connection that a process has not begun with.
pub(super) struct OnItsWay {
    since: Instant,
    /// With what it could go on somewhere else.
    spare: Option<Spare>,
    /// It was asked to give it back.
    asked: bool,
    /// It was told to close it, for this cause: nobody goes on with it.
    pub(super) cut: Option<Cause>,
}

impl OnItsWay {
    /// From now on.
    pub(super) fn new(spare: Option<Spare>) -> Self {
        OnItsWay {
            since: Instant::now(),
            spare,
            asked: false,
            cut: None,
        }
    }
}

impl Portal {
    /// True while the process does not come to what it was given.
    pub fn is_deaf(&self) -> bool {
        self.deaf
    }

    /// When it is to be looked at, if nobody waits for that yet.
    pub fn first_look(&mut self) -> Option<Instant> {
        if self.look_at.is_some() || self.on_their_way == 0 {
            return None;
        }
        self.look_at = Some(Instant::now() + PATIENCE);
        self.look_at
    }

    /// True when it is time to.
    pub fn is_due(&self, now: Instant) -> bool {
        self.look_at.is_some_and(|at| at <= now)
    }

    /// Looks whether the process comes to what it was given, and asks it to give back what it does not come to
    /// and others would. When it is to be looked at again.
    pub fn look(&mut self, now: Instant, others: impl Fn(&Conn) -> bool) -> Option<Instant> {
        let mut ways = self
            .sent
            .values()
            .filter_map(|sent| sent.on_its_way.as_ref());
        if !self.deaf && ways.any(|way| now.saturating_duration_since(way.since) >= PATIENCE) {
            self.deaf = true;
            // It answers when its loop comes to that.
            self.tell(|env| atoms::rouse().encode(env));
        }
        if self.deaf {
            self.ask_back(others);
        }
        self.look_at = (self.on_their_way > 0).then(|| now + PATIENCE);
        self.look_at
    }

    fn ask_back(&mut self, others: impl Fn(&Conn) -> bool) {
        let mut ids = Vec::new();
        for (id, sent) in &mut self.sent {
            let Some(way) = &mut sent.on_its_way else {
                continue;
            };
            if way.spare.is_some() && !way.asked && others(&sent.conn) {
                way.asked = true;
                ids.push(*id);
            }
        }
        if !ids.is_empty() {
            tracing::info!(
                context = self.name,
                connections = ids.len(),
                "a Python process does not come to its new connections: others have them"
            );
            self.tell(|env| (atoms::give_back(), ids).encode(env));
        }
    }

    /// Its loop comes to what it is sent.
    pub(super) fn hears(&mut self) {
        self.deaf = false;
    }

    /// It has not begun with this one, and gives it back.
    pub(super) fn take_back(&mut self, id: u64, news: &mut Vec<News>) {
        let known = self.sent.get(&id);
        let way = known.and_then(|sent| sent.on_its_way.as_ref());
        let Some(way) = way.filter(|way| way.asked) else {
            return;
        };
        let cut = way.cut;
        self.on_their_way -= 1;
        if let Some(cause) = cut {
            return self.close(id, cause, Traffic::default(), news);
        }
        let Some(sent) = self.sent.remove(&id) else {
            return;
        };
        let conn = sent.conn;
        if let Some(spare) = sent.on_its_way.and_then(|way| way.spare) {
            let greeting = conn.group().filter(|_| spare.greets).and_then(|group| {
                let ip = conn.peer.as_ref().and_then(Address::ip);
                group.greeting(ip)
            });
            conn.lock().restore(spare, greeting);
        }
        news.push(News::Return(conn));
    }
}
