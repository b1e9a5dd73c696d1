//! How long a connection may make us wait.
//!
//! Every deadline but that of the whole life runs only while we wait for the peer: its owner wants
//! to read and nothing comes, or something is queued and the peer does not take it. A connection
//! without deadlines keeps nothing and asks no clock.

use std::time::{Duration, Instant};

use crate::error::Cause;

/// What a connection is allowed; 0 stands for no limit. Times are in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deadlines {
    /// Until the first byte comes.
    pub first_byte: u32,
    /// Between bytes.
    pub idle: u32,
    /// Until the peer takes something of what is queued.
    pub stall: u32,
    /// Altogether.
    pub life: u32,
    /// So many bytes must move ...
    pub rate_bytes: u32,
    /// ... in so long.
    pub rate_time: u32,
}

impl Deadlines {
    /// True when there is any.
    pub fn any(&self) -> bool {
        *self != Deadlines::default()
    }
}

/// One direction.
#[derive(Default)]
struct Flow {
    /// We wait for the peer since then.
    since: Option<Instant>,
    /// When it last moved anything.
    moved_at: Option<Instant>,
    /// How long we have waited since then, before `since`.
    patience: Duration,
    /// Of the present stretch of `rate_time`: how long we have waited before `since`, ...
    waited: Duration,
    /// ... and what has moved.
    moved: u64,
}

impl Flow {
    fn wait(&mut self, waiting: bool, now: Instant, other: Option<Instant>) {
        match (self.since, waiting) {
            (None, true) => self.since = Some(now),
            (Some(since), false) => {
                let waited = now.saturating_duration_since(since);
                self.waited += waited;
                // Only what came after something moved last.
                let moved = self.moved_at.max(other);
                let from = moved.map_or(since, |moved| moved.max(since));
                self.patience += now.saturating_duration_since(from);
                self.since = None;
            }
            _ => {}
        }
    }

    fn moved(&mut self, bytes: usize, now: Instant) {
        self.moved += bytes as u64;
        self.moved_at = Some(now);
        self.patience = Duration::ZERO;
    }

    /// Since when nothing has moved, as if all the waiting since then had been at one stretch; `None`
    /// while we do not wait. `other` is when something last moved the other way, if that counts.
    fn still(&self, other: Option<Instant>) -> Option<Instant> {
        let since = self.since?;
        match self.moved_at.max(other) {
            Some(moved) if moved >= since => Some(moved),
            _ => Some(since.checked_sub(self.patience).unwrap_or(since)),
        }
    }

    /// When too little will have moved, unless it does until then.
    fn too_slow(&mut self, deadlines: &Deadlines, now: Instant) -> Result<Instant, Cause> {
        let stretch = millis(deadlines.rate_time);
        let current = self
            .since
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        if self.waited + current < stretch {
            return Ok(now + (stretch - self.waited - current));
        }
        if self.moved < u64::from(deadlines.rate_bytes) {
            return Err(Cause::Rate);
        }
        self.moved = 0;
        self.waited = Duration::ZERO;
        self.since = self.since.map(|_| now);
        Ok(now + stretch)
    }
}

/// What a connection with deadlines remembers.
pub struct Watch {
    born: Instant,
    heard: bool,
    reading: Flow,
    writing: Flow,
}

fn millis(time: u32) -> Duration {
    Duration::from_millis(u64::from(time))
}

impl Watch {
    /// For a connection that exists since `born`; `heard` if it has received anything yet.
    pub fn new(born: Instant, heard: bool) -> Self {
        Watch {
            born,
            heard,
            reading: Flow::default(),
            writing: Flow::default(),
        }
    }

    /// The owner wants to read, or does not.
    pub fn wants(&mut self, waiting: bool, now: Instant) {
        let sent_at = self.writing.moved_at;
        self.reading.wait(waiting, now, sent_at);
    }

    /// True while the owner wants to read.
    pub fn reads(&self) -> bool {
        self.reading.since.is_some()
    }

    /// Something is queued, or nothing is.
    pub fn queued(&mut self, waiting: bool, now: Instant) {
        self.writing.wait(waiting, now, None);
    }

    /// Bytes came.
    pub fn received(&mut self, bytes: usize, now: Instant) {
        self.heard = true;
        self.reading.moved(bytes, now);
    }

    /// The peer took bytes.
    pub fn sent(&mut self, bytes: usize, now: Instant) {
        self.writing.moved(bytes, now);
        self.reading.patience = Duration::ZERO;
    }

    /// Looks at every deadline: which one has passed, or when to look again.
    pub fn check(&mut self, deadlines: &Deadlines, now: Instant) -> Result<Instant, Cause> {
        let mut next = None;
        let mut running = |since: Option<Instant>, time: u32, cause: Cause| {
            if time == 0 {
                return Ok(());
            }
            // One that does not run may begin to at once.
            let due = since.unwrap_or(now) + millis(time);
            if since.is_some() && due <= now {
                return Err(cause);
            }
            next = Some(next.map_or(due, |next: Instant| next.min(due)));
            Ok(())
        };
        running(Some(self.born), deadlines.life, Cause::Life)?;
        if !self.heard {
            let nothing = self.reading.still(None);
            running(nothing, deadlines.first_byte, Cause::FirstByte)?;
        }
        let quiet = self.reading.still(self.writing.moved_at);
        running(quiet, deadlines.idle, Cause::Idle)?;
        let stuck = self.writing.still(None);
        running(stuck, deadlines.stall, Cause::Stall)?;
        if deadlines.rate_time > 0 {
            let reading = self.reading.too_slow(deadlines, now)?;
            let writing = self.writing.too_slow(deadlines, now)?;
            let due = reading.min(writing);
            next = Some(next.map_or(due, |next| next.min(due)));
        }
        // Without any deadline nobody would have asked.
        Ok(next.unwrap_or(now + millis(60_000)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn the_first_byte_has_its_own_deadline_and_only_while_we_want_it() {
        let start = Instant::now();
        let deadlines = Deadlines {
            first_byte: 100,
            ..Deadlines::default()
        };
        let mut watch = Watch::new(start, false);
        assert_eq!(watch.check(&deadlines, at(start, 500)), Ok(at(start, 600)));
        watch.wants(true, at(start, 550));
        assert_eq!(watch.check(&deadlines, at(start, 600)), Ok(at(start, 650)));
        assert_eq!(
            watch.check(&deadlines, at(start, 650)),
            Err(Cause::FirstByte)
        );
        watch.received(1, at(start, 649));
        assert!(watch.check(&deadlines, at(start, 5_000)).is_ok());
    }

    #[test]
    fn idle_counts_from_the_last_byte_either_way_or_from_when_we_began_to_wait() {
        let start = Instant::now();
        let deadlines = Deadlines {
            idle: 100,
            ..Deadlines::default()
        };
        let mut watch = Watch::new(start, false);
        watch.wants(true, start);
        watch.received(1, at(start, 50));
        assert_eq!(watch.check(&deadlines, at(start, 100)), Ok(at(start, 150)));
        // At work on it: the peer has time.
        watch.wants(false, at(start, 60));
        assert!(watch.check(&deadlines, at(start, 1_000)).is_ok());
        watch.sent(1, at(start, 1_000));
        watch.wants(true, at(start, 1_001));
        assert_eq!(
            watch.check(&deadlines, at(start, 1_100)),
            Ok(at(start, 1_101))
        );
        assert_eq!(watch.check(&deadlines, at(start, 1_101)), Err(Cause::Idle));
    }

    #[test]
    fn an_owner_that_asks_again_and_again_has_waited_all_the_time() {
        let start = Instant::now();
        let deadlines = Deadlines {
            idle: 100,
            ..Deadlines::default()
        };
        let mut watch = Watch::new(start, false);
        for i in 0..3 {
            watch.wants(true, at(start, 1_000 * i));
            assert!(watch.check(&deadlines, at(start, 1_000 * i)).is_ok());
            watch.wants(false, at(start, 1_000 * i + 30));
        }
        watch.wants(true, at(start, 3_000));
        assert_eq!(
            watch.check(&deadlines, at(start, 3_009)),
            Ok(at(start, 3_010))
        );
        assert_eq!(watch.check(&deadlines, at(start, 3_010)), Err(Cause::Idle));
        // An answer begins a new wait.
        watch.sent(1, at(start, 3_010));
        assert!(watch.check(&deadlines, at(start, 3_050)).is_ok());
    }

    #[test]
    fn a_peer_that_takes_something_now_and_then_is_not_stalled() {
        let start = Instant::now();
        let deadlines = Deadlines {
            stall: 100,
            ..Deadlines::default()
        };
        let mut watch = Watch::new(start, false);
        watch.queued(true, start);
        watch.sent(1, at(start, 90));
        assert_eq!(watch.check(&deadlines, at(start, 100)), Ok(at(start, 190)));
        watch.queued(false, at(start, 95));
        assert!(watch.check(&deadlines, at(start, 1_000)).is_ok());
        watch.queued(true, at(start, 2_000));
        assert_eq!(watch.check(&deadlines, at(start, 2_100)), Err(Cause::Stall));
    }

    #[test]
    fn a_life_ends_whatever_moves() {
        let start = Instant::now();
        let deadlines = Deadlines {
            life: 100,
            ..Deadlines::default()
        };
        let mut watch = Watch::new(start, true);
        watch.received(1_000, at(start, 99));
        assert_eq!(watch.check(&deadlines, at(start, 99)), Ok(at(start, 100)));
        assert_eq!(watch.check(&deadlines, at(start, 100)), Err(Cause::Life));
    }

    #[test]
    fn the_rate_counts_only_the_time_that_we_waited() {
        let start = Instant::now();
        let deadlines = Deadlines {
            rate_bytes: 10,
            rate_time: 1_000,
            ..Deadlines::default()
        };
        let mut watch = Watch::new(start, false);
        watch.wants(true, start);
        watch.received(4, at(start, 400));
        // Ten seconds of our own work are not the peer's.
        watch.wants(false, at(start, 400));
        watch.wants(true, at(start, 10_400));
        assert_eq!(
            watch.check(&deadlines, at(start, 10_500)),
            Ok(at(start, 11_000))
        );
        watch.received(6, at(start, 10_900));
        assert_eq!(
            watch.check(&deadlines, at(start, 11_000)),
            Ok(at(start, 12_000))
        );
        watch.received(9, at(start, 11_500));
        assert_eq!(watch.check(&deadlines, at(start, 12_000)), Err(Cause::Rate));
    }

    #[test]
    fn what_is_queued_has_a_rate_of_its_own() {
        let start = Instant::now();
        let deadlines = Deadlines {
            rate_bytes: 10,
            rate_time: 1_000,
            ..Deadlines::default()
        };
        let mut watch = Watch::new(start, false);
        watch.wants(true, start);
        watch.queued(true, start);
        watch.received(1_000_000, at(start, 500));
        watch.sent(9, at(start, 500));
        assert_eq!(watch.check(&deadlines, at(start, 1_000)), Err(Cause::Rate));
    }
}
