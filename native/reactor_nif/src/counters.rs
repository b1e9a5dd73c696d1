//! Live counts of what the native side holds. Tests compare them before and
//! after; a difference is a leak.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
pub struct Counter(AtomicU64);

impl Counter {
    const fn new() -> Self {
        Counter(AtomicU64::new(0))
    }

    /// Counts one more.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// What has been counted so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Socket descriptors that came under our ownership.
pub static FDS_OPENED: Counter = Counter::new();
/// Socket descriptors that we closed.
pub static FDS_CLOSED: Counter = Counter::new();
/// Connections made, and gone with their memory.
pub static CONNECTIONS_MADE: Counter = Counter::new();
pub static CONNECTIONS_FREED: Counter = Counter::new();
/// Listeners made, and gone with their memory.
pub static LISTENERS_MADE: Counter = Counter::new();
pub static LISTENERS_FREED: Counter = Counter::new();
/// Handles (NIF resources) given to the BEAM, and collected by it.
pub static HANDLES_MADE: Counter = Counter::new();
pub static HANDLES_FREED: Counter = Counter::new();
/// Read buffers handed out by a pool, and given back.
pub static BUFFERS_TAKEN: Counter = Counter::new();
pub static BUFFERS_BACK: Counter = Counter::new();
/// Python contexts whose thread was started, and has ended.
pub static CONTEXTS_MADE: Counter = Counter::new();
pub static CONTEXTS_ENDED: Counter = Counter::new();

/// How many are alive of something counted in and out.
pub fn live(made: &Counter, gone: &Counter) -> u64 {
    // `gone` first: something that ends between the two loads must not make
    // the difference negative.
    let gone = gone.get();
    made.get().saturating_sub(gone)
}
