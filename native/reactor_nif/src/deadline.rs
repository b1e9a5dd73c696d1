//! How long a connection may make us wait.
//!
//! Every deadline but that of the whole life runs only while we wait for the peer: its owner wants
//! to read and nothing comes, or something is queued and the peer does not take it. A connection
//! without deadlines keeps nothing and asks no clock.

#[cfg(test)]
mod tests;

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
