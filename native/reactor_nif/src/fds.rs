//! Which descriptors the loops own: so that none is given to them twice.
//!
//! A bit for each number, set and cleared without a lock; above a million, which takes a `ulimit` that
//! few have, a set.

use std::collections::HashSet;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use once_cell::sync::Lazy;

/// How many numbers have a bit.
const BITS: usize = 1 << 20;

// 128 KiB that are mapped when they are touched.
static OWNED: [AtomicU64; BITS / 64] = [const { AtomicU64::new(0) }; BITS / 64];
static BEYOND: Lazy<Mutex<HashSet<RawFd>>> = Lazy::new(Mutex::default);

/// Where the bit of a number is.
fn place(fd: RawFd) -> Option<(&'static AtomicU64, u64)> {
    let index = usize::try_from(fd).ok()?;
    let word = OWNED.get(index / 64)?;
    Some((word, 1 << (index % 64)))
}

fn beyond() -> MutexGuard<'static, HashSet<RawFd>> {
    BEYOND.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A loop owns this descriptor from now on: false if one does already.
pub fn claim(fd: RawFd) -> bool {
    match place(fd) {
        Some((word, bit)) => word.fetch_or(bit, Ordering::AcqRel) & bit == 0,
        None => beyond().insert(fd),
    }
}

/// None does any more: to be said before it is closed, since the number is used again after that.
pub fn release(fd: RawFd) {
    match place(fd) {
        Some((word, bit)) => {
            word.fetch_and(!bit, Ordering::AcqRel);
        }
        None => {
            beyond().remove(&fd);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_belongs_to_one_at_a_time() {
        // Numbers that no test opens.
        for fd in [900_000, 900_001, RawFd::MAX] {
            assert!(claim(fd));
            assert!(!claim(fd));
            release(fd);
            assert!(claim(fd));
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
        release(900_002);
    }
}
