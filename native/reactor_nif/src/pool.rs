//! Read buffers that are used again.
//!
//! An event loop reads into memory from here before it takes the GIL, and the memory lives for
//! as long as somebody, often a Python object, still looks at it. Each [`SizeClass`] has a
//! bounded free list: a burst may allocate more than the list holds, and what does not fit when
//! it comes back goes to the allocator, so a burst never stays resident.

use std::fmt;
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::counters;

/// How large a buffer is. Small ones serve requests, large ones serve bulk transfers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SizeClass {
    /// 2 KiB
    Small,
    /// 16 KiB
    Medium,
    /// 64 KiB
    Large,
    /// 128 KiB
    Huge,
}

impl SizeClass {
    /// Every class, smallest first.
    pub const ALL: [SizeClass; 4] = [
        SizeClass::Small,
        SizeClass::Medium,
        SizeClass::Large,
        SizeClass::Huge,
    ];

    /// The capacity of a buffer of this class, in bytes.
    pub const fn bytes(self) -> usize {
        match self {
            SizeClass::Small => 2 << 10,
            SizeClass::Medium => 16 << 10,
            SizeClass::Large => 64 << 10,
            SizeClass::Huge => 128 << 10,
        }
    }

    /// The smallest class that holds `len` bytes; `Huge` if none does.
    pub const fn fitting(len: usize) -> SizeClass {
        if len <= SizeClass::Small.bytes() {
            SizeClass::Small
        } else if len <= SizeClass::Medium.bytes() {
            SizeClass::Medium
        } else if len <= SizeClass::Large.bytes() {
            SizeClass::Large
        } else {
            SizeClass::Huge
        }
    }
}

/// A pool of read buffers. Cloning it makes another handle on the same pool.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
}

struct Free {
    idle: Vec<Box<[u8]>>,
    bound: usize,
}

struct Shared {
    /// The one that came back last goes out first: its memory is likely in a cache still.
    free: [Mutex<Free>; SizeClass::ALL.len()],
    live: AtomicUsize,
}

impl Shared {
    fn free(&self, class: SizeClass) -> MutexGuard<'_, Free> {
        let free = self.free[class as usize].lock();
        free.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool {
    /// A pool that keeps at most `keep[class]` idle buffers of each class (at least one).
    pub fn new(keep: [usize; SizeClass::ALL.len()]) -> Pool {
        Pool {
            shared: Arc::new(Shared {
                free: keep.map(|n| {
                    Mutex::new(Free {
                        idle: Vec::new(),
                        bound: n.max(1),
                    })
                }),
                live: AtomicUsize::new(0),
            }),
        }
    }

    /// An empty buffer, used again if one is idle.
    pub fn get(&self, class: SizeClass) -> PooledBuf {
        // Zeroed once, when the memory is new: the rest of the program may then treat it as
        // plain initialised bytes, and a buffer that comes back is not cleared again.
        let memory = self
            .shared
            .free(class)
            .idle
            .pop()
            .unwrap_or_else(|| vec![0; class.bytes()].into_boxed_slice());
        self.shared.live.fetch_add(1, Ordering::Relaxed);
        counters::BUFFERS_TAKEN.add();
        PooledBuf {
            memory,
            len: 0,
            class,
            shared: Arc::clone(&self.shared),
        }
    }

    /// How many buffers of this pool exist outside it.
    #[cfg(test)]
    pub fn live(&self) -> usize {
        self.shared.live.load(Ordering::Relaxed)
    }

    /// How many idle buffers of `class` the pool holds.
    #[cfg(test)]
    pub fn idle(&self, class: SizeClass) -> usize {
        self.shared.free(class).idle.len()
    }
}

impl Default for Pool {
    /// Keeps at most 12 MiB: 2 MiB each of small and medium buffers, 4 MiB each of the others.
    fn default() -> Pool {
        Pool::new([1024, 128, 64, 32])
    }
}

/// A buffer out of a [`Pool`]. Dropping it, on any thread, gives its memory back.
pub struct PooledBuf {
    memory: Box<[u8]>,
    len: u32,
    class: SizeClass,
    shared: Arc<Shared>,
}

impl PooledBuf {
    /// How many bytes fit.
    pub fn capacity(&self) -> usize {
        self.memory.len()
    }

    /// The part after the bytes that are held, to read into. What stands there is left over
    /// from earlier use: say with [`set_len`](Self::set_len) how much of it was overwritten.
    pub fn spare_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.len as usize..]
    }

    /// Says that the first `len` bytes are held. More than the capacity counts as the capacity.
    pub fn set_len(&mut self, len: usize) {
        self.len = len.min(self.memory.len()) as u32;
    }

    /// The bytes that are held.
    pub fn as_slice(&self) -> &[u8] {
        &self.memory[..self.len as usize]
    }
}

impl Drop for PooledBuf {
    fn drop(&mut self) {
        let memory = mem::take(&mut self.memory);
        let mut free = self.shared.free(self.class);
        if free.idle.len() < free.bound {
            free.idle.push(memory);
        } else {
            drop(free);
            drop(memory);
        }
        self.shared.live.fetch_sub(1, Ordering::Relaxed);
        counters::BUFFERS_BACK.add();
    }
}

impl fmt::Debug for PooledBuf {
    // Never the bytes: they are somebody's payload.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PooledBuf")
            .field("len", &self.len)
            .field("class", &self.class)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn filled(pool: &Pool, class: SizeClass, bytes: &[u8]) -> PooledBuf {
        let mut buf = pool.get(class);
        buf.spare_mut()[..bytes.len()].copy_from_slice(bytes);
        buf.set_len(bytes.len());
        buf
    }

    #[test]
    fn a_fresh_buffer_is_empty_and_has_the_size_of_its_class() {
        let pool = Pool::default();
        for class in SizeClass::ALL {
            let mut buf = pool.get(class);
            assert_eq!(buf.capacity(), class.bytes());
            assert_eq!(buf.as_slice(), b"");
            assert_eq!(buf.spare_mut().len(), class.bytes());
        }
    }

    #[test]
    fn the_smallest_class_that_fits_is_chosen() {
        assert_eq!(SizeClass::fitting(0), SizeClass::Small);
        assert_eq!(SizeClass::fitting(2048), SizeClass::Small);
        assert_eq!(SizeClass::fitting(2049), SizeClass::Medium);
        assert_eq!(SizeClass::fitting(16_385), SizeClass::Large);
        assert_eq!(SizeClass::fitting(65_537), SizeClass::Huge);
        assert_eq!(SizeClass::fitting(usize::MAX), SizeClass::Huge);
    }

    #[test]
    fn bytes_are_appended_in_the_spare_part() {
        let pool = Pool::default();
        let mut buf = filled(&pool, SizeClass::Small, b"one ");
        buf.spare_mut()[..3].copy_from_slice(b"two");
        buf.set_len(7);
        assert_eq!(buf.as_slice(), b"one two");
        buf.set_len(usize::MAX);
        assert_eq!(buf.as_slice().len(), buf.capacity());
        assert!(buf.spare_mut().is_empty());
    }

    #[test]
    fn dropped_memory_is_used_again_and_comes_back_empty() {
        let pool = Pool::default();
        let buf = filled(&pool, SizeClass::Medium, b"old bytes");
        let address = buf.as_slice().as_ptr();
        drop(buf);
        assert_eq!(pool.idle(SizeClass::Medium), 1);

        let again = pool.get(SizeClass::Medium);
        assert_eq!(again.as_slice(), b"");
        assert_eq!(again.as_slice().as_ptr(), address);
        assert_eq!(pool.idle(SizeClass::Medium), 0);
    }

    #[test]
    fn what_exceeds_the_bound_is_freed() {
        let pool = Pool::new([2, 1, 0, 1]);
        for (class, kept) in SizeClass::ALL.into_iter().zip([2, 1, 1, 1]) {
            let bufs: Vec<_> = (0..5).map(|_| pool.get(class)).collect();
            assert_eq!(pool.live(), 5);
            drop(bufs);
            assert_eq!(pool.idle(class), kept);
        }
        assert_eq!(pool.live(), 0);
    }

    #[test]
    fn a_buffer_outlives_the_handles_on_its_pool() {
        let pool = Pool::default();
        let buf = filled(&pool, SizeClass::Small, b"still here");
        drop(pool);
        assert_eq!(buf.as_slice(), b"still here");
    }

    #[test]
    fn buffers_may_be_dropped_on_other_threads() {
        let pool = Pool::new([8, 8, 8, 8]);
        let threads: Vec<_> = (0..4u8)
            .map(|n| {
                let pool = pool.clone();
                thread::spawn(move || {
                    for _ in 0..500 {
                        let buf = filled(&pool, SizeClass::Small, &[n; 64]);
                        assert_eq!(buf.as_slice(), &[n; 64]);
                    }
                    filled(&pool, SizeClass::Small, &[n])
                })
            })
            .collect();
        for thread in threads {
            let buf = thread.join().unwrap();
            assert_eq!(buf.as_slice().len(), 1);
        }
        assert_eq!(pool.live(), 0);
        assert!(pool.idle(SizeClass::Small) <= 8);
    }

    #[test]
    fn debug_output_shows_no_payload() {
        let pool = Pool::default();
        let text = format!("{:?}", filled(&pool, SizeClass::Small, b"secret"));
        assert!(!text.contains("secret") && !text.contains("115"), "{text}");
    }
}
