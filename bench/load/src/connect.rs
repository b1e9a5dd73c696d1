//! Connection rate: connect, one echo, close, and again in the same place.
//!
//! A connection costs the client one wait: on loopback the handshake is over when `connect` returns,
//! so the message is sent at once, and what is waited for is its echo. With TLS there is one wait more,
//! for what the server has to say in the handshake; the message goes out with the end of that.

use std::io;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use mio::{Events, Interest, Poll, Token};

use crate::crew::{self, Crew, Marker, Outcome, Part, Window};
use crate::dial;
use crate::exchange::{Exchange, READ_BUFFER};
use crate::failure::Failure;
use crate::options::Options;
use crate::pattern::{base, Sizes};
use crate::report;
use crate::stream::{Stream, Streams};

/// Runs connections one after another in each place; a request is a whole connection.
pub fn run(options: &Options) -> io::Result<ExitCode> {
    let dialed = AtomicUsize::new(0);
    let outcome = crew::run(options, |crew, part| {
        let poll = Poll::new();
        let window = crew.begin_together();
        Worker::new(crew, part, poll?, &dialed).run(&window)
    })?;
    Ok(report::requests(options, &outcome))
}

struct Slot {
    stream: Stream,
    exchange: Exchange,
    size: u64,
    started: Instant,
}

struct Worker<'a> {
    crew: &'a Crew<'a>,
    part: Part,
    poll: Poll,
    dialed: &'a AtomicUsize,
    slots: Vec<Option<Slot>>,
    sizes: Vec<Sizes>,
    left: Vec<u64>,
    outcome: Outcome,
    buffer: Vec<u8>,
    streams: Streams<'a>,
}

impl<'a> Worker<'a> {
    fn new(crew: &'a Crew, part: Part, poll: Poll, dialed: &'a AtomicUsize) -> Self {
        let options = crew.options;
        let sizes = |place| Sizes::new(options.size, options.random, part.first + place);
        Self {
            crew,
            part,
            poll,
            dialed,
            slots: (0..part.count).map(|_| None).collect(),
            sizes: (0..part.count).map(sizes).collect(),
            left: vec![options.messages.unwrap_or(u64::MAX); part.count],
            outcome: Outcome::new(),
            buffer: vec![0; READ_BUFFER],
            streams: Streams::new(crew),
        }
    }

    fn run(mut self, window: &Window) -> io::Result<Outcome> {
        let mut marker = Marker::new(self.crew, self.part, *window);
        (0..self.part.count).for_each(|place| self.dial(place, Instant::now()));
        let mut events = Events::with_capacity(1024);
        while self.slots.iter().any(Option::is_some) {
            let now = Instant::now();
            marker.tick(now);
            if window.over(now) {
                break;
            }
            dial::wait(&mut self.poll, &mut events, window.patience(now))?;
            for event in &events {
                let Token(place) = event.token();
                self.advance(place, window);
            }
        }
        marker.finish();
        for place in 0..self.part.count {
            if self.slots[place].take().is_some() {
                self.count(place, &Failure::Unanswered);
            }
        }
        Ok(self.outcome)
    }

    fn dial(&mut self, place: usize, now: Instant) {
        let number = self.dialed.fetch_add(1, Ordering::Relaxed);
        let mut exchange = Exchange::new(base(number));
        let size = self.sizes[place].next();
        exchange.ask(size);
        self.left[place] -= 1;
        let begun = dial::dial(self.crew.options.server, number)
            .and_then(|socket| self.streams.on(socket))
            .map(|stream| Slot {
                stream,
                exchange,
                size,
                started: now,
            })
            .map_err(Failure::Refused)
            .and_then(|slot| slot.begin(self.crew, &self.poll, Token(place)));
        match begun {
            Ok(slot) => self.slots[place] = Some(slot),
            Err(failure) => self.count(place, &failure),
        }
    }

    fn advance(&mut self, place: usize, window: &Window) {
        let Some(slot) = &mut self.slots[place] else {
            return;
        };
        match slot.advance(self.crew, &mut self.buffer) {
            Ok(false) => return,
            Ok(true) => {}
            // A place that failed is not used again: failures are as many as places, at most.
            Err(failure) => {
                self.slots[place] = None;
                return self.count(place, &failure);
            }
        }
        let (started, size) = (slot.started, slot.size);
        if let Some(agreed) = slot.stream.agreed() {
            self.outcome.agree(agreed);
        }
        // Closing is part of what is timed. Where the last words cannot be said the server has gone.
        let _ = slot.stream.say_goodbye();
        self.slots[place] = None;
        let now = Instant::now();
        self.outcome.record(window, started, now, size);
        if self.left[place] > 0 && window.open(now) {
            self.dial(place, now);
        }
    }

    fn count(&mut self, place: usize, failure: &Failure) {
        self.outcome.tally.count(self.part.first + place, failure);
    }
}

impl Slot {
    /// Sends at once, where the handshake is over. Only what could not be sent waits for room.
    fn begin(mut self, crew: &Crew, poll: &Poll, token: Token) -> Result<Self, Failure> {
        self.write(crew)?;
        let interest = match self.exchange.all_sent() && !self.stream.keeps_back() {
            true => Interest::READABLE,
            false => Interest::READABLE | Interest::WRITABLE,
        };
        poll.registry()
            .register(self.stream.socket(), token, interest)
            .map_err(Failure::Refused)?;
        Ok(self)
    }

    fn advance(&mut self, crew: &Crew, buffer: &mut [u8]) -> Result<bool, Failure> {
        self.write(crew)?;
        if self.exchange.sent() == 0 {
            return Ok(false);
        }
        let read = self.exchange.read(&mut self.stream, &crew.pattern, buffer);
        read.map_err(|failure| self.in_handshake(failure))
    }

    fn write(&mut self, crew: &Crew) -> Result<(), Failure> {
        let written = self.exchange.write(&mut self.stream, &crew.pattern);
        written.map_err(|failure| self.in_handshake(failure))
    }

    /// An error before the first byte, or before the end of a TLS handshake, is that of the handshake.
    fn in_handshake(&self, failure: Failure) -> Failure {
        match failure {
            Failure::Lost(Some(error))
                if self.exchange.sent() == 0 || self.stream.is_greeting() =>
            {
                Failure::Refused(error)
            }
            failure => failure,
        }
    }
}
