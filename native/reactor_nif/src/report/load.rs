//! What a loop, or Python in it, did with its time: added up for a second, then told.

use std::time::{Duration, Instant};

use rustler::{Atom, Encoder, LocalPid, Term};

use crate::mail::Mail;
use crate::report::{wanted, Reports};

mod atoms {
    rustler::atoms! {
        report = "$reactor_report",
        load,
        elixir,
        python,
        kind,
        name,
        turns,
        calls,
        busy_ns,
        longest_ns,
        gil_wait_ns,
        gil_longest_ns,
        loop_busy_ns,
        lag_ns,
    }
}

/// How long loads are added up before they are told.
const LOAD_TIME: Duration = Duration::from_secs(1);

/// What a loop, or Python in it, did with its time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    /// How often it looked.
    pub turns: u64,
    /// Calls of Python.
    pub calls: u64,
    /// What the turns took ...
    pub busy: Duration,
    /// ... and the longest of them.
    pub longest: Duration,
    /// What taking the GIL took ...
    pub gil_wait: Duration,
    /// ... and the longest of those waits.
    pub gil_longest: Duration,
    /// Of Python: what the turns of its loop took, reads, waits and writes included ...
    pub loop_busy: Duration,
    /// ... and the longest of them.
    pub lag: Duration,
}

impl Load {
    /// One more turn: so many calls, the wait for the GIL, and the time it took.
    pub fn add(&mut self, calls: u64, gil_wait: Duration, busy: Duration) {
        self.turns += 1;
        self.calls += calls;
        self.busy += busy;
        self.longest = self.longest.max(busy);
        self.gil_wait += gil_wait;
        self.gil_longest = self.gil_longest.max(gil_wait);
    }
}
impl Reports {
    /// A turn took from then until now.
    pub fn turn(&mut self, from: Instant, now: Instant) {
        let took = now.saturating_duration_since(from);
        self.load.add(0, Duration::ZERO, took);
        self.load_since.get_or_insert(from);
    }

    /// What the loop did with the last second, once it is over.
    pub fn take_load(&mut self, now: Instant) -> Option<Load> {
        let since = self.load_since?;
        if now.saturating_duration_since(since) < LOAD_TIME {
            return None;
        }
        self.load_since = None;
        let load = std::mem::take(&mut self.load);
        wanted().then_some(load)
    }
}

/// True for what [`send_load`] tells of a context.
pub fn is_load(event: Term) -> bool {
    let Ok((_, load)) = event.decode::<(Atom, Term)>() else {
        return false;
    };
    let numbers = [
        atoms::turns(),
        atoms::calls(),
        atoms::busy_ns(),
        atoms::longest_ns(),
        atoms::gil_wait_ns(),
        atoms::gil_longest_ns(),
        atoms::loop_busy_ns(),
        atoms::lag_ns(),
    ];
    let is_number = |key| load.map_get(key).is_ok_and(|n| n.decode::<u64>().is_ok());
    let kind = load.map_get(atoms::kind());
    kind.is_ok_and(|kind| atoms::python() == kind)
        && load.map_get(atoms::name()).is_ok_and(Term::is_binary)
        && numbers.into_iter().all(is_number)
}

/// Sends what a loop in another process did with its time: `event` in external format.
pub fn pass_load(mail: &mut Mail, to: &LocalPid, event: &[u8]) {
    if wanted() {
        mail.send(to, |env| {
            let event = env.binary_to_term(event).map(|(term, _)| term);
            let events: Vec<Term> = event.into_iter().collect();
            (atoms::report(), events).encode(env)
        });
    }
}

/// Sends what a loop did with its time.
pub fn send_load(mail: &mut Mail, to: &LocalPid, name: &str, python: bool, load: &Load) {
    mail.send(to, |env| {
        let kind = if python {
            atoms::python()
        } else {
            atoms::elixir()
        };
        let map = rustler::term_map!(env, {
            atoms::kind() => kind,
            atoms::name() => name,
            atoms::turns() => load.turns,
            atoms::calls() => load.calls,
            atoms::busy_ns() => nanos(load.busy),
            atoms::longest_ns() => nanos(load.longest),
            atoms::gil_wait_ns() => nanos(load.gil_wait),
            atoms::gil_longest_ns() => nanos(load.gil_longest),
            atoms::loop_busy_ns() => nanos(load.loop_busy),
            atoms::lag_ns() => nanos(load.lag),
        });
        (atoms::report(), vec![(atoms::load(), map)]).encode(env)
    });
}

pub(super) fn nanos(time: Duration) -> u64 {
    time.as_nanos() as u64
}
