//! One hashed timer wheel per loop: O(1) to arm, and nothing to cancel.
//!
//! An entry that is no longer wanted is recognised when it fires: the loop
//! compares the connection's own deadline with the present.

use std::time::{Duration, Instant};

/// How fine deadlines are. A deadline fires at most this late, and never early.
pub const TICK: Duration = Duration::from_millis(10);
const SLOTS: usize = 1024;

/// Timers of things named by `T`.
pub struct Wheel<T> {
    slots: Vec<Vec<(u64, T)>>,
    start: Instant,
    /// The tick that was last fired.
    now: u64,
    /// No timer is due before this tick.
    next: u64,
    len: usize,
}

impl<T> Wheel<T> {
    /// A wheel whose time starts at `start`.
    pub fn new(start: Instant) -> Self {
        Wheel {
            slots: (0..SLOTS).map(|_| Vec::new()).collect(),
            start,
            now: 0,
            next: 0,
            len: 0,
        }
    }

    /// Fires `item` at `deadline` or up to one tick later.
    pub fn arm(&mut self, deadline: Instant, item: T) {
        let due = deadline.saturating_duration_since(self.start);
        let tick = (due.as_nanos().div_ceil(TICK.as_nanos()) as u64).max(self.now + 1);
        self.slots[tick as usize % SLOTS].push((tick, item));
        self.next = if self.len == 0 {
            tick
        } else {
            self.next.min(tick)
        };
        self.len += 1;
    }

    /// How long the loop may sleep: `None` when nothing is armed.
    pub fn sleep(&self, now: Instant) -> Option<Duration> {
        if self.len == 0 {
            return None;
        }
        let next = self.start + Duration::from_millis(TICK.as_millis() as u64 * self.next);
        Some(next.saturating_duration_since(now))
    }

    /// Moves time to `now` and gives everything that is due to `fire`.
    pub fn advance(&mut self, now: Instant, mut fire: impl FnMut(T)) {
        let ticks = now.saturating_duration_since(self.start).as_millis() / TICK.as_millis();
        let target = ticks as u64;
        if target <= self.now {
            return;
        }
        if self.len == 0 || target < self.next {
            self.now = target;
            return;
        }
        // After a long pause one round over the slots finds everything that is due.
        let first = self.next.max(self.now + 1);
        let rounds = (target + 1 - first).min(SLOTS as u64);
        for step in 0..rounds {
            let slot = &mut self.slots[(first + step) as usize % SLOTS];
            let mut index = 0;
            while index < slot.len() {
                if slot[index].0 <= target {
                    let (_, item) = slot.swap_remove(index);
                    self.len -= 1;
                    fire(item);
                } else {
                    index += 1;
                }
            }
        }
        self.now = target;
        // What is there may be of a later round: then this is looked for again.
        let occupied = (1..=SLOTS as u64)
            .map(|step| target + step)
            .find(|tick| !self.slots[*tick as usize % SLOTS].is_empty());
        self.next = occupied.unwrap_or(target + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fired(wheel: &mut Wheel<u32>, now: Instant) -> Vec<u32> {
        let mut out = Vec::new();
        wheel.advance(now, |item| out.push(item));
        out.sort_unstable();
        out
    }

    #[test]
    fn fires_when_due_and_not_before() {
        let start = Instant::now();
        let mut wheel = Wheel::new(start);
        wheel.arm(start + Duration::from_millis(100), 1);
        wheel.arm(start + Duration::from_millis(260), 2);
        assert!(fired(&mut wheel, start + Duration::from_millis(99)).is_empty());
        assert_eq!(
            fired(&mut wheel, start + Duration::from_millis(100)),
            vec![1]
        );
        assert!(fired(&mut wheel, start + Duration::from_millis(259)).is_empty());
        assert_eq!(
            fired(&mut wheel, start + Duration::from_millis(260)),
            vec![2]
        );
        assert_eq!(wheel.sleep(start), None);
    }

    #[test]
    fn a_deadline_just_after_a_tick_does_not_fire_early() {
        let start = Instant::now();
        let mut wheel = Wheel::new(start);
        let deadline = start + TICK * 2 + Duration::from_nanos(1);
        wheel.arm(deadline, 4);
        assert!(fired(&mut wheel, start + TICK * 2).is_empty());
        assert_eq!(fired(&mut wheel, start + TICK * 3), [4]);
    }

    #[test]
    fn a_deadline_beyond_one_turn_of_the_wheel_waits_its_turn() {
        let start = Instant::now();
        let mut wheel = Wheel::new(start);
        let turn = TICK * SLOTS as u32;
        wheel.arm(start + turn + TICK, 7);
        assert!(fired(&mut wheel, start + TICK).is_empty());
        assert!(fired(&mut wheel, start + turn).is_empty());
        assert_eq!(fired(&mut wheel, start + turn + TICK), [7]);
    }

    #[test]
    fn a_long_pause_fires_everything_that_was_missed() {
        let start = Instant::now();
        let mut wheel = Wheel::new(start);
        for i in 0..2000 {
            wheel.arm(start + TICK * i, i);
        }
        assert_eq!(fired(&mut wheel, start + TICK * 5000).len(), 2000);
    }

    #[test]
    fn a_deadline_in_the_past_fires_at_the_next_tick() {
        let start = Instant::now();
        let mut wheel = Wheel::new(start);
        fired(&mut wheel, start + TICK * 10);
        wheel.arm(start, 3);
        assert!(wheel.sleep(start + TICK * 10).unwrap() <= TICK);
        assert_eq!(fired(&mut wheel, start + TICK * 11), [3]);
    }
    #[test]
    fn it_sleeps_until_the_first_timer() {
        let start = Instant::now();
        let mut wheel = Wheel::new(start);
        wheel.arm(start + TICK * 700, 1);
        assert_eq!(wheel.sleep(start), Some(TICK * 700));
        wheel.arm(start + TICK * 40, 2);
        assert_eq!(wheel.sleep(start + TICK), Some(TICK * 39));
        assert_eq!(fired(&mut wheel, start + TICK * 50), [2]);
        assert_eq!(wheel.sleep(start + TICK * 50), Some(TICK * 650));
        assert_eq!(fired(&mut wheel, start + TICK * 700), [1]);
        assert_eq!(wheel.sleep(start + TICK * 700), None);
    }

    #[test]
    fn none_is_lost_and_none_is_early_whatever_the_steps() {
        let start = Instant::now();
        let mut wheel = Wheel::new(start);
        // Steps and delays that share no factor with the wheel.
        let mut now = 0u64;
        let mut left = Vec::new();
        for i in 0..3_000u64 {
            let due = now + i * 7_919 % 25_013;
            wheel.arm(start + Duration::from_millis(due), i as u32);
            left.push((due, i as u32));
            now += i * 31 % 97;
            let at = start + Duration::from_millis(now);
            for item in fired(&mut wheel, at) {
                let place = left.iter().position(|(_, other)| *other == item).unwrap();
                assert!(left.swap_remove(place).0 <= now);
            }
            let late = left.iter().filter(|(due, _)| due + 20 < now).count();
            assert_eq!(late, 0, "at {now} ms");
        }
        let end = start + Duration::from_millis(now) + TICK * 3_000;
        assert_eq!(fired(&mut wheel, end).len(), left.len());
    }
}
