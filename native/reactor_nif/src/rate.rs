//! How many connections a second: the generic cell rate algorithm, without a lock.
//!
//! Kept is the time at which the next connection would come if all came evenly. One may come
//! early by [`BURST`], so that a short rush needs not wait.
//! Source: ITU-T I.371, annex A.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How far ahead of an even flow connections may be.
pub const BURST: Duration = Duration::from_millis(100);

/// A limit on how often something happens.
pub struct Rate {
    start: Instant,
    /// Times a second; 0 for any number.
    per_second: AtomicU32,
    /// When the next one is due, in ns after `start`.
    due: AtomicU64,
}

impl Rate {
    /// No limit yet.
    pub fn new(start: Instant) -> Self {
        Rate {
            start,
            per_second: AtomicU32::new(0),
            due: AtomicU64::new(0),
        }
    }

    /// So many a second from now on; 0 for any number.
    pub fn set(&self, per_second: u32) {
        if self.per_second.swap(per_second, Ordering::Relaxed) != per_second {
            self.due.store(0, Ordering::Relaxed);
        }
    }

    /// How many a second.
    pub fn get(&self) -> u32 {
        self.per_second.load(Ordering::Relaxed)
    }

    /// One more: or when it may come.
    pub fn take(&self) -> Result<(), Instant> {
        match self.interval() {
            None => Ok(()),
            Some(interval) => self.take_at(Instant::now(), interval),
        }
    }

    fn interval(&self) -> Option<u64> {
        let per_second = u64::from(self.get());
        (per_second > 0).then(|| 1_000_000_000 / per_second)
    }

    fn take_at(&self, now: Instant, interval: u64) -> Result<(), Instant> {
        let elapsed = now.saturating_duration_since(self.start).as_nanos() as u64;
        // With a slow rate at least one is let in at once.
        let ahead = (BURST.as_nanos() as u64).max(interval);
        let taken = self
            .due
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |due| {
                let next = due.max(elapsed) + interval;
                (next <= elapsed + ahead).then_some(next)
            });
        taken.map(|_| ()).map_err(|due| {
            let wait = due + interval - ahead;
            self.start + Duration::from_nanos(wait)
        })
    }

    /// The last one did not happen.
    pub fn give_back(&self) {
        if let Some(interval) = self.interval() {
            let less = |due: u64| Some(due.saturating_sub(interval));
            // Never fails: the closure always gives a value.
            let _ = self
                .due
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(rate: &Rate, now: Instant) -> usize {
        let interval = rate.interval().unwrap();
        (0..10_000)
            .take_while(|_| rate.take_at(now, interval).is_ok())
            .count()
    }

    #[test]
    fn a_rush_is_a_tenth_of_a_second_and_then_the_flow_is_even() {
        let start = Instant::now();
        let rate = Rate::new(start);
        rate.set(1_000);
        assert_eq!(taken(&rate, start), 100);
        assert_eq!(taken(&rate, start + Duration::from_millis(50)), 50);
        assert_eq!(taken(&rate, start + Duration::from_millis(51)), 1);
        // A pause saves up no more than one rush.
        assert_eq!(taken(&rate, start + Duration::from_secs(60)), 100);
    }

    #[test]
    fn who_is_too_early_learns_when_to_come() {
        let start = Instant::now();
        let rate = Rate::new(start);
        rate.set(10);
        assert_eq!(taken(&rate, start), 1);
        let at = rate.take_at(start, rate.interval().unwrap()).unwrap_err();
        assert_eq!(at, start + Duration::from_millis(100));
        assert_eq!(taken(&rate, at), 1);
    }

    #[test]
    fn one_that_did_not_happen_does_not_count() {
        let start = Instant::now();
        let rate = Rate::new(start);
        rate.set(1);
        assert_eq!(taken(&rate, start), 1);
        rate.give_back();
        assert_eq!(taken(&rate, start), 1);
    }
}
