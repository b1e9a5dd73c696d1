//! What a context has been handed: how many wait for it, how many are there, and what they start with.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use once_cell::sync::OnceCell;
use rustler::LocalPid;

use crate::command::LoopHandle;
use crate::connection::{Active, Settings};
use crate::deadline::Deadlines;
use crate::error::Reason;
use crate::framing::Framing;
use crate::group::{Group, Limits, UNLIMITED};
use crate::handoff::Refusal;
use crate::python::metadata::Metadata;

/// So many may wait for a context to take them up.
const MOST_WAITING: usize = 1024;
/// How long one waits for its place among those: so many at a time. They wait on schedulers of which there
/// are few, and other contexts need those too.
const PATIENT: usize = 2;
const PATIENCE: Duration = Duration::from_secs(1);
/// The high-water mark of what was handed over, in bytes, as that of a listener's connections.
const HIGH_WATERMARK: usize = 64 * 1024;
const LOW_WATERMARK: usize = 16 * 1024;

/// Some interpreter has a factory for contexts without one of their own: whether those have one is known
/// when it is needed.
static FACTORY_FOR_ALL: AtomicBool = AtomicBool::new(false);

/// A factory was set that belongs to no context.
pub fn some_factory_is_for_all() {
    if !FACTORY_FOR_ALL.swap(true, Ordering::Relaxed) {
        announce();
    }
}

/// In a process that Python has for itself: how the VM, which hands over from there, learns of a factory.
static HERALD: OnceCell<fn()> = OnceCell::new();

/// From now on somebody else has to know it when there is a first factory.
pub fn announce_factories(tell: fn()) {
    // Set once, when the process starts.
    let _ = HERALD.set(tell);
}

fn announce() {
    if let Some(tell) = HERALD.get() {
        tell();
    }
}

/// What a context has been handed.
pub struct Intake {
    line: Mutex<Line>,
    room: Condvar,
    /// Those who are there, the waiting ones included.
    live: AtomicUsize,
    max: usize,
    total: AtomicU64,
    /// A factory was set.
    has_factory: AtomicBool,
    /// What was no connection of a listener's belongs to this.
    pub(super) group: Arc<Group>,
}

#[derive(Default)]
struct Line {
    /// Those who wait to be taken up.
    waiting: usize,
    /// Those who wait for a place among these.
    patient: usize,
}

/// A place among those who wait, given up when it is dropped.
pub struct Ticket(Arc<Intake>);

/// A place among those who are there, likewise.
pub struct Place(Arc<Intake>);

/// What a protocol is told of a descriptor that was handed over, and what its context counts of it.
pub struct Handover {
    /// What the caller said.
    pub metadata: Metadata,
    /// Until the protocol is made.
    pub ticket: Option<Ticket>,
    _place: Place,
}

impl Intake {
    /// Of a context that takes so many at most, and has events told to that process.
    pub fn new(max: Option<usize>, settings: Option<Settings>, to: Option<LocalPid>) -> Arc<Self> {
        let unlimited = Limits {
            connections: UNLIMITED,
            reject: false,
            per_ip: UNLIMITED,
            rate: 0,
        };
        Arc::new(Intake {
            line: Mutex::default(),
            room: Condvar::new(),
            live: AtomicUsize::new(0),
            max: max.unwrap_or(UNLIMITED),
            total: AtomicU64::new(0),
            has_factory: AtomicBool::new(false),
            group: Group::new(&unlimited, settings.unwrap_or_else(usual), to),
        })
    }

    /// A factory was set in the context.
    pub fn knows_factory(&self) {
        if !self.has_factory.swap(true, Ordering::Relaxed) {
            announce();
        }
    }

    /// How many are there, wait to be taken up, and were handed over in all.
    pub fn counts(&self) -> (usize, usize, u64) {
        let waiting = self.line().waiting;
        let live = self.live.load(Ordering::Relaxed);
        (live, waiting, self.total.load(Ordering::Relaxed))
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds room for one more: blocks for a while if too many wait.
    pub fn enter(
        self: &Arc<Self>,
        home: &LoopHandle,
        metadata: Metadata,
    ) -> Result<Box<Handover>, Refusal> {
        if home.closed() {
            return Err(Refusal::Other(Reason::Closed));
        }
        let known = self.has_factory.load(Ordering::Relaxed);
        if !known && !FACTORY_FOR_ALL.load(Ordering::Relaxed) {
            return Err(Refusal::NoFactory);
        }
        let taken = self
            .live
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |live| {
                (live < self.max).then_some(live + 1)
            });
        if taken.is_err() {
            return Err(Refusal::Full);
        }
        let place = Place(Arc::clone(self));
        let ticket = self.wait_for_room().ok_or(Refusal::Overloaded)?;
        if home.closed() {
            return Err(Refusal::Other(Reason::Closed));
        }
        Ok(Box::new(Handover {
            metadata,
            ticket: Some(ticket),
            _place: place,
        }))
    }

    fn wait_for_room(self: &Arc<Self>) -> Option<Ticket> {
        let mut line = self.line();
        if line.waiting >= MOST_WAITING {
            if line.patient >= PATIENT {
                return None;
            }
            line.patient += 1;
            let full = |line: &mut Line| line.waiting >= MOST_WAITING;
            let waited = self.room.wait_timeout_while(line, PATIENCE, full);
            line = waited.unwrap_or_else(PoisonError::into_inner).0;
            line.patient -= 1;
            if line.waiting >= MOST_WAITING {
                return None;
            }
        }
        line.waiting += 1;
        Some(Ticket(Arc::clone(self)))
    }

    /// One was handed over.
    pub fn count(&self) {
        self.total.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.line().waiting -= 1;
        self.0.room.notify_one();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, Ordering::AcqRel);
    }
}

fn usual() -> Settings {
    Settings {
        framing: Framing::Raw,
        packet_size: 0,
        active: Active::Off,
        high_watermark: HIGH_WATERMARK,
        low_watermark: LOW_WATERMARK,
        deadlines: Deadlines::default(),
        send_timeout: 0,
        send_timeout_close: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::Poll;

    #[test]
    fn who_finds_no_room_waits_until_there_is_some() {
        let home = LoopHandle::new(&Poll::new().unwrap()).unwrap();
        let intake = Intake::new(None, None, None);
        let none = intake.enter(&home, Metadata::default());
        assert_eq!(none.map(|_| ()).unwrap_err(), Refusal::NoFactory);
        intake.knows_factory();
        let enter = || intake.enter(&home, Metadata::default());
        let mut all: Vec<_> = (0..MOST_WAITING).map(|_| enter().unwrap()).collect();
        assert_eq!(enter().map(|_| ()).unwrap_err(), Refusal::Overloaded);
        assert_eq!(intake.counts().0, MOST_WAITING);
        std::thread::scope(|scope| {
            let waits = scope.spawn(enter);
            all[0].ticket = None;
            all.push(waits.join().unwrap().unwrap());
        });
        std::thread::scope(|scope| {
            let patient: Vec<_> = (0..PATIENT).map(|_| scope.spawn(enter)).collect();
            while intake.line().patient < PATIENT {
                std::thread::yield_now();
            }
            // One more is refused at once: the others wait still.
            assert_eq!(enter().map(|_| ()).unwrap_err(), Refusal::Overloaded);
            assert!(patient.iter().all(|waits| !waits.is_finished()));
            for waits in patient {
                let waited = waits.join().unwrap().map(|_| ());
                assert_eq!(waited.unwrap_err(), Refusal::Overloaded);
            }
        });
        all.clear();
        assert_eq!(intake.counts(), (0, 0, 0));
    }

    #[test]
    fn there_are_never_more_than_there_may_be() {
        let home = LoopHandle::new(&Poll::new().unwrap()).unwrap();
        let intake = Intake::new(Some(2), None, None);
        intake.knows_factory();
        let enter = || intake.enter(&home, Metadata::default());
        let two = (enter().unwrap(), enter().unwrap());
        assert_eq!(enter().map(|_| ()).unwrap_err(), Refusal::Full);
        drop(two.0);
        assert!(enter().is_ok());
        home.close();
        let closed = Refusal::Other(Reason::Closed);
        assert_eq!(enter().map(|_| ()).unwrap_err(), closed);
    }
}
