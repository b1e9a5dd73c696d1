//! Threads that share the connections, begin together, and add up what they found.

use std::io;
use std::sync::{Barrier, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use crate::failure::Tally;
use crate::histogram::Histogram;
use crate::options::Options;
use crate::pattern::Pattern;
use crate::report;
use crate::tls::{Agreed, Secure};

/// How long an answer that is under way when the time is over may still take.
const GRACE: Duration = Duration::from_secs(10);

/// The longest wait in `poll`, so that boundaries are met closely.
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// What all workers share.
pub struct Crew<'a> {
    /// The command line.
    pub options: &'a Options,
    /// The bytes that are sent.
    pub pattern: Pattern,
    /// What TLS is spoken with, if it is.
    pub secure: Option<Secure>,
    ready: Barrier,
    window: OnceLock<Window>,
}

/// A worker's part of the connections.
#[derive(Clone, Copy)]
pub struct Part {
    /// Number of its first connection.
    pub first: usize,
    /// How many it has.
    pub count: usize,
}

/// When requests are made, and when they are measured.
#[derive(Clone, Copy)]
pub struct Window {
    from: Instant,
    /// None where a count of messages ends the run.
    to: Option<Instant>,
    give_up: Instant,
}

impl Window {
    fn new(options: &Options) -> Self {
        let begin = Instant::now();
        if options.messages.is_some() {
            return Self {
                from: begin,
                to: None,
                give_up: begin + options.limit,
            };
        }
        let to = begin + options.warmup + options.measured;
        Self {
            from: begin + options.warmup,
            to: Some(to),
            give_up: to + GRACE,
        }
    }

    /// Whether a new request may begin.
    #[inline]
    pub fn open(&self, now: Instant) -> bool {
        self.to.is_none_or(|to| now < to)
    }

    /// Whether nothing is waited for any longer.
    pub fn over(&self, now: Instant) -> bool {
        now >= self.give_up
    }

    /// How long to wait for readiness at most.
    pub fn patience(&self, now: Instant) -> Duration {
        [Some(self.from), self.to, Some(self.give_up)]
            .into_iter()
            .flatten()
            .map(|boundary| boundary.saturating_duration_since(now))
            .filter(|left| !left.is_zero())
            .min()
            .map_or(LONGEST_WAIT, |left| left.min(LONGEST_WAIT))
    }
}

/// Announces on standard output that the measured time begins and ends, for whoever reads the
/// server's CPU time. Only the first worker does.
pub struct Marker {
    window: Window,
    due: Vec<&'static str>,
}

impl Marker {
    /// A marker for the worker that has `part`.
    pub fn new(crew: &Crew, part: Part, window: Window) -> Self {
        let due = match crew.options.mark && part.first == 0 {
            true => vec!["measured", "measuring"],
            false => vec![],
        };
        Self { window, due }
    }

    /// Announces what is due by `now`.
    pub fn tick(&mut self, now: Instant) {
        if self.due.len() == 2 && now >= self.window.from {
            self.announce();
        }
        if self.due.len() == 1 && !self.window.open(now) {
            self.announce();
        }
    }

    /// Announces what is left, after the last request.
    pub fn finish(&mut self) {
        while !self.due.is_empty() {
            self.announce();
        }
    }

    fn announce(&mut self) {
        if let Some(name) = self.due.pop() {
            report::event(name, &[]);
        }
    }
}

/// What a worker found.
pub struct Outcome {
    /// Latencies of the measured requests.
    pub latencies: Histogram,
    /// Bytes that came back in measured requests.
    pub bytes: u64,
    /// Requests before and after the measured time.
    pub unmeasured: u64,
    /// What went wrong.
    pub tally: Tally,
    /// What was agreed on in TLS handshakes, each different one once.
    pub agreed: Vec<Agreed>,
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Outcome {
    /// Nothing found yet.
    pub fn new() -> Self {
        Self {
            latencies: Histogram::new(),
            bytes: 0,
            unmeasured: 0,
            tally: Tally::default(),
            agreed: Vec::new(),
            first: None,
            last: None,
        }
    }

    /// Counts a request of `size` bytes that took from `started` to `now`.
    #[inline]
    pub fn record(&mut self, window: &Window, started: Instant, now: Instant, size: u64) {
        if now < window.from || !window.open(now) {
            self.unmeasured += 1;
            return;
        }
        self.latencies.record((now - started).as_nanos() as u64);
        self.bytes += size;
        self.first.get_or_insert(window.from);
        self.last = Some(now);
    }

    /// Remembers what a connection agreed on.
    pub fn agree(&mut self, agreed: Agreed) {
        if !self.agreed.contains(&agreed) {
            self.agreed.push(agreed);
        }
    }

    fn merge(&mut self, other: &Outcome) {
        self.latencies.merge(&other.latencies);
        self.bytes += other.bytes;
        self.unmeasured += other.unmeasured;
        self.tally.merge(&other.tally);
        other.agreed.iter().for_each(|&agreed| self.agree(agreed));
        self.first = self.first.min(other.first).or(self.first).or(other.first);
        self.last = self.last.max(other.last);
    }

    /// The measured time: as asked for, or until the last of a count of messages was answered.
    pub fn measured(&self, options: &Options) -> Duration {
        match (options.messages, self.first, self.last) {
            (Some(_), Some(first), Some(last)) => last - first,
            _ => options.measured,
        }
    }
}

impl Crew<'_> {
    /// Waits until every worker is here; all get the same window, which begins now.
    pub fn begin_together(&self) -> Window {
        self.ready.wait();
        *self.window.get_or_init(|| Window::new(self.options))
    }
}

/// Runs `work` once per thread and adds up the outcomes. Every worker must call
/// [`Crew::begin_together`] exactly once, whatever fails before it: the others wait for it.
pub fn run(
    options: &Options,
    work: impl Fn(&Crew, Part) -> io::Result<Outcome> + Sync,
) -> io::Result<Outcome> {
    let threads = options.threads.min(options.connections);
    let crew = Crew {
        options,
        pattern: Pattern::new(),
        secure: options.tls.as_deref().map(Secure::to).transpose()?,
        ready: Barrier::new(threads),
        window: OnceLock::new(),
    };
    let (crew, work) = (&crew, &work);
    thread::scope(|scope| {
        let part = |index: usize| {
            let begin = |index: usize| index * options.connections / threads;
            Part {
                first: begin(index),
                count: begin(index + 1) - begin(index),
            }
        };
        let others: Vec<_> = (1..threads)
            .map(|index| scope.spawn(move || work(crew, part(index))))
            .collect();
        let mut outcome = work(crew, part(0));
        for other in others {
            let found = other
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("a worker panicked")));
            outcome = outcome.and_then(|mut sum| {
                sum.merge(&found?);
                Ok(sum)
            });
        }
        outcome
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn options(line: &str) -> Options {
        let words = format!("echo 127.0.0.1:1 {line}");
        Options::parse(words.split_whitespace().map(String::from)).expect("valid options")
    }

    #[test]
    fn every_connection_has_one_worker() {
        let options = options("--connections 10 --threads 3");
        let total = AtomicUsize::new(0);
        run(&options, |crew, part| {
            crew.begin_together();
            (part.first..part.first + part.count).for_each(|number| {
                total.fetch_add(1 << (3 * number), Ordering::Relaxed);
            });
            Ok(Outcome::new())
        })
        .expect("runs");
        assert_eq!(total.into_inner(), 0o1_111_111_111);
    }

    #[test]
    fn requests_outside_the_window_are_not_measured() {
        let window = Window::new(&options("--warmup 1 --seconds 1"));
        let mut outcome = Outcome::new();
        for tenths in [1, 9, 11, 15, 19, 21] {
            let now = window.from - Duration::from_secs(1) + Duration::from_millis(100 * tenths);
            outcome.record(&window, now, now, 10);
        }
        assert_eq!((outcome.latencies.total(), outcome.bytes), (3, 30));
        assert_eq!(outcome.unmeasured, 3);
    }
}
