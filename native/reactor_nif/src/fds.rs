//! Which descriptors the loops own, and which are being handed to them: so that none is given to them
//! twice.
//!
//! A bit for each number, set and cleared without a lock; above a million, which takes a `ulimit` that
//! few have, a set.

use std::collections::BTreeSet;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How many numbers have a bit.
const BITS: usize = 1 << 20;

/// The numbers of which something is true.
struct Numbers {
    // 128 KiB that are mapped when they are touched.
    bits: [AtomicU64; BITS / 64],
    beyond: Mutex<BTreeSet<RawFd>>,
}

static OWNED: Numbers = Numbers::new();
/// Whether such a number is open is not known yet: what it names may be closed, and the number be a
/// loop's own, before it is taken.
static CLAIMED: Numbers = Numbers::new();

impl Numbers {
    const fn new() -> Self {
        Numbers {
            bits: [const { AtomicU64::new(0) }; BITS / 64],
            beyond: Mutex::new(BTreeSet::new()),
        }
    }

    /// Where the bit of a number is.
    fn place(&self, fd: RawFd) -> Option<(&AtomicU64, u64)> {
        let index = usize::try_from(fd).ok()?;
        let word = self.bits.get(index / 64)?;
        Some((word, 1 << (index % 64)))
    }

    fn beyond(&self) -> MutexGuard<'_, BTreeSet<RawFd>> {
        self.beyond.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has(&self, fd: RawFd) -> bool {
        match self.place(fd) {
            Some((word, bit)) => word.load(Ordering::Acquire) & bit != 0,
            None => self.beyond().contains(&fd),
        }
    }

    /// False if it was there.
    fn add(&self, fd: RawFd) -> bool {
        match self.place(fd) {
            Some((word, bit)) => word.fetch_or(bit, Ordering::AcqRel) & bit == 0,
            None => self.beyond().insert(fd),
        }
    }

    fn remove(&self, fd: RawFd) {
        match self.place(fd) {
            Some((word, bit)) => {
                word.fetch_and(!bit, Ordering::AcqRel);
            }
            None => {
                self.beyond().remove(&fd);
            }
        }
    }
}

/// Somebody hands this descriptor over from now on: false if somebody does already, or a loop owns it.
pub fn claim(fd: RawFd) -> bool {
    if !CLAIMED.add(fd) {
        return false;
    }
    // After that: whoever owns it by now was faster.
    let free = !is_owned(fd);
    if !free {
        unclaim(fd);
    }
    free
}

/// Nobody does any more. Who owns it is as it was.
pub fn unclaim(fd: RawFd) {
    CLAIMED.remove(fd);
}

/// True while a loop owns this descriptor.
pub fn is_owned(fd: RawFd) -> bool {
    OWNED.has(fd)
}

/// A loop owns this descriptor from now on, which is open.
pub fn own(fd: RawFd) {
    OWNED.add(fd);
}

/// None does any more: to be said before it is closed, since the number is used again after that.
pub fn release(fd: RawFd) {
    OWNED.remove(fd);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_handed_over_by_one_at_a_time() {
        // Numbers that no test opens.
        for fd in [900_000, 900_001, RawFd::MAX] {
            assert!(claim(fd));
            assert!(!claim(fd));
            unclaim(fd);
            assert!(claim(fd));
            unclaim(fd);
        }
    }

    #[test]
    fn what_a_loop_owns_is_handed_over_by_nobody() {
        for fd in [900_003, RawFd::MAX - 1] {
            own(fd);
            assert!(!claim(fd));
            release(fd);
            assert!(claim(fd));
            unclaim(fd);
        }
    }

    #[test]
    fn a_claim_that_fails_leaves_the_owner_that_the_number_has_meanwhile() {
        for fd in [900_004, RawFd::MAX - 2] {
            assert!(claim(fd));
            own(fd);
            unclaim(fd);
            assert!(is_owned(fd));
            assert!(!claim(fd));
            release(fd);
        }
    }

    #[test]
    fn of_many_threads_one_gets_it() {
        let threads: Vec<_> = (0..8)
            .map(|_| std::thread::spawn(|| claim(900_002)))
            .collect();
        let got = threads.into_iter().filter(|_| true);
        let got = got.map(|thread| thread.join().unwrap()).filter(|got| *got);
        assert_eq!(got.count(), 1);
        unclaim(900_002);
    }
}
