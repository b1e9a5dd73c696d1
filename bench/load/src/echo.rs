//! The closed loop: every connection sends a message, waits for exactly its bytes, sends the next, at
//! once or at a time of its own.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};

use crate::crew::{self, Crew, Marker, Outcome, Part, Window};
use crate::dial;
use crate::exchange::{Exchange, READ_BUFFER};
use crate::failure::Failure;
use crate::options::Options;
use crate::pattern::{base, Sizes};
use crate::report;
use crate::stream::{Stream, Streams};

/// How long the server may take to close its side after the client's half-close.
const CLOSING: Duration = Duration::from_secs(10);

/// Runs the closed loop and prints what was measured.
pub fn run(options: &Options) -> io::Result<ExitCode> {
    let outcome = crew::run(options, |crew, part| {
        let opened = Worker::open(crew, part);
        let window = crew.begin_together();
        opened?.run(&window)
    })?;
    Ok(report::requests(options, &outcome))
}

struct Slot {
    stream: Stream,
    exchange: Exchange,
    sizes: Sizes,
    size: u64,
    started: Instant,
    left: u64,
    busy: bool,
    /// The time of the last message, or of the next one while it waits for that.
    due: Instant,
    waiting: bool,
}

struct Worker<'a> {
    crew: &'a Crew<'a>,
    part: Part,
    poll: Poll,
    slots: Vec<Option<Slot>>,
    busy: usize,
    /// When which place sends its next message.
    due: BinaryHeap<Reverse<(Instant, usize)>>,
    outcome: Outcome,
    buffer: Vec<u8>,
}

impl<'a> Worker<'a> {
    fn open(crew: &'a Crew, part: Part) -> io::Result<Self> {
        let mut poll = Poll::new()?;
        let mut outcome = Outcome::new();
        let tally = &mut outcome.tally;
        let options = crew.options;
        let sockets = dial::open_all(&mut poll, options, part.first, part.count, tally)?;
        let streams = Streams::new(crew);
        let slot = |place, socket| -> io::Result<Slot> {
            Ok(Slot {
                stream: streams.on(socket)?,
                exchange: Exchange::new(base(part.first + place)),
                sizes: Sizes::new(options.size, options.random, part.first + place),
                size: 0,
                started: Instant::now(),
                left: options.messages.unwrap_or(u64::MAX),
                busy: false,
                due: Instant::now(),
                waiting: false,
            })
        };
        let slots = sockets
            .into_iter()
            .enumerate()
            .map(|(place, socket)| socket.map(|socket| slot(place, socket)).transpose())
            .collect::<io::Result<_>>()?;
        let mut worker = Self {
            crew,
            part,
            poll,
            slots,
            busy: 0,
            due: BinaryHeap::new(),
            outcome,
            buffer: vec![0; READ_BUFFER],
        };
        worker.greet()?;
        Ok(worker)
    }

    /// Makes the TLS handshakes, all at the same time. Where there are none it is over at once.
    fn greet(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + self.crew.options.limit;
        let mut events = Events::with_capacity(1024);
        let mut left = self.slots.iter().flatten().count();
        (0..self.slots.len()).for_each(|place| left -= usize::from(self.greeted(place)));
        while left > 0 {
            let patience = deadline.saturating_duration_since(Instant::now());
            if patience.is_zero() {
                self.give_up(|slot| slot.stream.is_greeting());
                break;
            }
            dial::wait(&mut self.poll, &mut events, patience)?;
            for event in &events {
                let Token(place) = event.token();
                let slot = self.slots[place].as_ref();
                if slot.is_some_and(|slot| slot.stream.is_greeting()) {
                    left -= usize::from(self.greeted(place));
                }
            }
        }
        Ok(())
    }

    /// Goes on with a handshake: whether it is over, for better or worse.
    fn greeted(&mut self, place: usize) -> bool {
        let Some(slot) = &mut self.slots[place] else {
            return false;
        };
        match slot.stream.greet() {
            Ok(false) => return false,
            Ok(true) => {
                if let Some(agreed) = slot.stream.agreed() {
                    self.outcome.agree(agreed);
                }
            }
            Err(error) => self.fail(place, &Failure::Refused(error)),
        }
        true
    }

    fn run(mut self, window: &Window) -> io::Result<Outcome> {
        let mut marker = Marker::new(self.crew, self.part, *window);
        marker.tick(Instant::now());
        self.first_messages(window);
        let mut events = Events::with_capacity(1024);
        while self.busy > 0 {
            let now = Instant::now();
            marker.tick(now);
            if window.over(now) {
                break;
            }
            let next = self.due.peek().map_or(Duration::MAX, |Reverse((due, _))| {
                due.saturating_duration_since(now)
            });
            dial::wait(&mut self.poll, &mut events, window.patience(now).min(next))?;
            for event in &events {
                let Token(place) = event.token();
                self.advance(place, window);
            }
            self.send_due(window);
        }
        marker.finish();
        self.give_up(|slot| slot.busy);
        self.close(&mut events)?;
        Ok(self.outcome)
    }

    /// At once, or where messages have their times spread over what is between two.
    fn first_messages(&mut self, window: &Window) {
        let (now, every, count) = (Instant::now(), self.crew.options.every, self.slots.len());
        for place in 0..count {
            if every.is_zero() {
                self.first_message(place, window);
            } else if let Some(slot) = &mut self.slots[place] {
                (slot.busy, slot.waiting) = (true, true);
                slot.due = now + every * place as u32 / count as u32;
                self.busy += 1;
                self.due.push(Reverse((slot.due, place)));
            }
        }
    }

    fn first_message(&mut self, place: usize, window: &Window) {
        let Some(slot) = &mut self.slots[place] else {
            return;
        };
        self.busy += 1;
        slot.busy = true;
        if let Err(failure) = slot.next_message(self.crew, Instant::now()) {
            self.fail(place, &failure);
        }
        // The edge of an answer that is already here may have been used up by opening.
        self.advance(place, window);
    }

    #[inline]
    fn advance(&mut self, place: usize, window: &Window) {
        let Some(slot) = &mut self.slots[place] else {
            return;
        };
        if let Err(failure) = slot.advance(self.crew, &mut self.buffer) {
            return self.fail(place, &failure);
        }
        if !slot.busy || slot.waiting || !slot.exchange.complete() {
            return;
        }
        // The end of one request is the beginning of the next: one reading of the clock each.
        let now = Instant::now();
        self.outcome.record(window, slot.started, now, slot.size);
        if slot.left == 0 || !window.open(now) {
            slot.busy = false;
            self.busy -= 1;
            return;
        }
        let every = self.crew.options.every;
        let due = if every.is_zero() {
            now
        } else {
            slot.due + every
        };
        slot.due = due;
        if due > now {
            slot.waiting = true;
            self.due.push(Reverse((due, place)));
        // What is late has waited for this answer since its time.
        } else if let Err(failure) = slot.next_message(self.crew, due) {
            self.fail(place, &failure);
        }
    }

    fn send_due(&mut self, window: &Window) {
        let now = Instant::now();
        while self.due.peek().is_some_and(|Reverse((due, _))| *due <= now) {
            let Some(Reverse((_, place))) = self.due.pop() else {
                return;
            };
            let Some(slot) = &mut self.slots[place] else {
                continue;
            };
            slot.waiting = false;
            if !window.open(now) {
                slot.busy = false;
                self.busy -= 1;
            } else if let Err(failure) = slot.next_message(self.crew, now) {
                self.fail(place, &failure);
            }
        }
    }

    fn fail(&mut self, place: usize, failure: &Failure) {
        if let Some(slot) = self.slots[place].take() {
            self.busy -= usize::from(slot.busy);
            let number = self.part.first + place;
            self.outcome.tally.count(number, failure);
        }
    }

    fn give_up(&mut self, unfinished: impl Fn(&Slot) -> bool) {
        for place in 0..self.slots.len() {
            if self.slots[place].as_ref().is_some_and(&unfinished) {
                self.fail(place, &Failure::Unanswered);
            }
        }
    }

    /// Half-closes every connection; the server must then close its side, and send nothing more.
    fn close(&mut self, events: &mut Events) -> io::Result<()> {
        let deadline = Instant::now() + CLOSING;
        for place in 0..self.slots.len() {
            let Some(slot) = &mut self.slots[place] else {
                continue;
            };
            match slot.stream.half_close() {
                Ok(()) => self.read_end(place),
                Err(error) => self.fail(place, &Failure::Lost(Some(error))),
            }
        }
        while self.slots.iter().any(Option::is_some) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            dial::wait(&mut self.poll, events, left)?;
            for event in &*events {
                let Token(place) = event.token();
                self.read_end(place);
            }
        }
        self.give_up(|_| true);
        Ok(())
    }

    fn read_end(&mut self, place: usize) {
        let Some(slot) = &mut self.slots[place] else {
            return;
        };
        match slot.exchange.read_end(&mut slot.stream, &mut self.buffer) {
            Ok(false) => {}
            Ok(true) => self.slots[place] = None,
            Err(failure) => self.fail(place, &failure),
        }
    }
}

impl Slot {
    fn next_message(&mut self, crew: &Crew, started: Instant) -> Result<(), Failure> {
        self.left -= 1;
        self.size = self.sizes.next();
        self.started = started;
        self.exchange.ask(self.size);
        self.exchange.write(&mut self.stream, &crew.pattern)
    }

    #[inline]
    fn advance(&mut self, crew: &Crew, buffer: &mut [u8]) -> Result<(), Failure> {
        self.exchange.write(&mut self.stream, &crew.pattern)?;
        self.exchange
            .read(&mut self.stream, &crew.pattern, buffer)?;
        Ok(())
    }
}
