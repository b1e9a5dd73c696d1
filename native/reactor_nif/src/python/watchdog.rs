//! One thread for the process, which looks after calls into Python that take too long. It never touches
//! Python itself, which may keep it waiting: a call is interrupted by a thread made for that.

use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use crate::python::watch::{now, Look, Watch};

/// The clock is no finer.
const TICK: Duration = Duration::from_millis(5);

struct Dog {
    watches: Vec<Weak<Watch>>,
    runs: bool,
    /// There is something new to look at.
    called: bool,
}

static DOG: Mutex<Dog> = Mutex::new(Dog {
    watches: Vec::new(),
    runs: false,
    called: false,
});
static CALL: Condvar = Condvar::new();

/// From now on this context's calls are looked after, until it is gone.
pub fn watch(watch: &Arc<Watch>) {
    let mut dog = DOG.lock().unwrap_or_else(PoisonError::into_inner);
    dog.watches.retain(|watch| watch.strong_count() > 0);
    dog.watches.push(Arc::downgrade(watch));
    dog.called = true;
    if !dog.runs {
        let thread = thread::Builder::new().name("py-watchdog".into());
        match thread.spawn(run) {
            Ok(_) => dog.runs = true,
            Err(error) => tracing::error!(%error, "no thread for callback_timeout"),
        }
    }
    drop(dog);
    CALL.notify_one();
}

/// Something has changed about one of them.
pub fn look() {
    DOG.lock().unwrap_or_else(PoisonError::into_inner).called = true;
    CALL.notify_one();
}

/// All contexts are to end: calls have so much time left.
pub fn hurry_all(grace: Duration) {
    for watch in watches() {
        watch.hurry(grace);
    }
}

fn watches() -> Vec<Arc<Watch>> {
    let dog = DOG.lock().unwrap_or_else(PoisonError::into_inner);
    dog.watches.iter().filter_map(Weak::upgrade).collect()
}

fn interrupt(watch: &Arc<Watch>, look: Look) {
    let watch = Arc::clone(watch);
    let thread = thread::Builder::new().name("py-interrupt".into());
    let spawned = thread.spawn(move || match look {
        Look::Interrupt(number) => watch.interrupt(number),
        Look::InterruptTask(number) => watch.interrupt_task(number),
        Look::At(_) => {}
    });
    if let Err(error) = spawned {
        tracing::error!(%error, "no thread to interrupt a callback");
    }
}

fn run() {
    loop {
        let mut next: Option<u64> = None;
        for watch in watches() {
            let mut look = watch.look(now());
            if !matches!(look, Look::At(_)) {
                interrupt(&watch, look);
                look = Look::At(Some(now()));
            }
            if let Look::At(Some(at)) = look {
                next = Some(next.map_or(at, |next| next.min(at)));
            }
        }
        let dog = DOG.lock().unwrap_or_else(PoisonError::into_inner);
        let mut dog = match next {
            _ if dog.called => dog,
            None => CALL.wait(dog).unwrap_or_else(PoisonError::into_inner),
            Some(at) => {
                let left = Duration::from_nanos(at.saturating_sub(now())).max(TICK);
                let waited = CALL.wait_timeout(dog, left);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        dog.called = false;
    }
}
