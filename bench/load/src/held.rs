//! Connections that are opened and held: idle ones, and readers that never read.

use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Poll};

use crate::command::Commands;
use crate::dial;
use crate::exchange::{Exchange, READ_BUFFER};
use crate::failure::{Failure, Tally};
use crate::options::Options;
use crate::pattern::{base, Pattern};
use crate::report;

/// Opens the connections and holds them; the command `echo` makes one echo on each.
pub fn idle(options: &Options) -> io::Result<ExitCode> {
    let mut held = Held::open(options)?;
    report::event("connected", &[("open", held.open_count().to_string())]);
    let commands = Commands::new(options.limit);
    let mut rounds = 0u64;
    while let Some(command) = commands.next() {
        if command != "echo" {
            return Err(unknown(&command));
        }
        held.ask(options.size);
        held.exchange_until(Instant::now() + options.limit, None)?;
        held.give_up_incomplete();
        rounds += 1;
        report::event("echoed", &[("open", held.open_count().to_string())]);
    }
    held.find_lost()?;
    let fields = [
        ("open", held.open_count().to_string()),
        ("echoes", rounds.to_string()),
    ];
    Ok(report::result(options, &held.tally, &fields))
}

/// Writes on every connection, reading nothing, until none has taken a byte for a while; the
/// command `read` reads back all that was taken, and checks it.
pub fn stuck(options: &Options) -> io::Result<ExitCode> {
    let mut held = Held::open(options)?;
    held.ask(options.most_bytes);
    let until = Instant::now() + options.limit;
    held.exchange_until(until, Some(options.blocked))?;
    let mut fields = held.accepted();
    report::event("blocked", &fields);
    let commands = Commands::new(options.limit);
    let mut read_back = false;
    while let Some(command) = commands.next() {
        if command != "read" {
            return Err(unknown(&command));
        }
        held.only_what_was_sent();
        held.exchange_until(Instant::now() + options.limit, None)?;
        held.give_up_incomplete();
        read_back = true;
        report::event("read", &[("open", held.open_count().to_string())]);
    }
    fields.push(("read_back", read_back.to_string()));
    Ok(report::result(options, &held.tally, &fields))
}

struct Slot {
    stream: TcpStream,
    exchange: Exchange,
}

struct Held {
    poll: Poll,
    events: Events,
    pattern: Pattern,
    slots: Vec<Option<Slot>>,
    tally: Tally,
    buffer: Vec<u8>,
}

impl Held {
    fn open(options: &Options) -> io::Result<Self> {
        let mut poll = Poll::new()?;
        let mut tally = Tally::default();
        let streams = dial::open_all(&mut poll, options, 0, options.connections, &mut tally)?;
        let slot = |(number, stream)| Slot {
            stream,
            exchange: Exchange::new(base(number)),
        };
        let slots = streams
            .into_iter()
            .enumerate()
            .map(|(number, stream)| stream.map(|stream| slot((number, stream))))
            .collect();
        Ok(Self {
            poll,
            events: Events::with_capacity(1024),
            pattern: Pattern::new(),
            slots,
            tally,
            buffer: vec![0; READ_BUFFER],
        })
    }

    fn ask(&mut self, size: u64) {
        for slot in self.slots.iter_mut().flatten() {
            slot.exchange.ask(size);
        }
    }

    fn only_what_was_sent(&mut self) {
        for slot in self.slots.iter_mut().flatten() {
            slot.exchange.take_back();
        }
    }

    fn open_count(&self) -> usize {
        self.slots.iter().flatten().count()
    }

    /// Writes, and reads unless `blocked` is given, until everything due is done, `until`, or
    /// nothing could be written for as long as `blocked`.
    fn exchange_until(&mut self, until: Instant, blocked: Option<Duration>) -> io::Result<()> {
        let reading = blocked.is_none();
        // Whatever edges came before this were used up: every connection is tried once.
        (0..self.slots.len()).for_each(|place| self.advance(place, reading));
        let (mut progress, mut written) = (Instant::now(), self.written());
        while self.slots.iter().flatten().any(|slot| !slot.done(reading)) {
            let stop = blocked.map_or(until, |blocked| until.min(progress + blocked));
            let left = stop.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            dial::wait(&mut self.poll, &mut self.events, left)?;
            let places: Vec<usize> = self.events.iter().map(|event| event.token().0).collect();
            places
                .iter()
                .for_each(|&place| self.advance(place, reading));
            if self.written() > written {
                (progress, written) = (Instant::now(), self.written());
            }
        }
        Ok(())
    }

    fn advance(&mut self, place: usize, reading: bool) {
        let Some(slot) = &mut self.slots[place] else {
            return;
        };
        let mut advanced = slot.exchange.write(&mut slot.stream, &self.pattern);
        if reading && advanced.is_ok() {
            let (stream, buffer) = (&mut slot.stream, &mut self.buffer);
            advanced = slot.exchange.read(stream, &self.pattern, buffer).map(drop);
        }
        if let Err(failure) = advanced {
            self.fail(place, &failure);
        }
    }

    /// Connections that the server closed while they were held.
    fn find_lost(&mut self) -> io::Result<()> {
        dial::wait(&mut self.poll, &mut self.events, Duration::ZERO)?;
        for place in 0..self.slots.len() {
            self.advance(place, true);
        }
        Ok(())
    }

    fn give_up_incomplete(&mut self) {
        for place in 0..self.slots.len() {
            if self.slots[place]
                .as_ref()
                .is_some_and(|slot| !slot.exchange.complete())
            {
                self.fail(place, &Failure::Unanswered);
            }
        }
    }

    fn fail(&mut self, place: usize, failure: &Failure) {
        self.slots[place] = None;
        self.tally.count(place, failure);
    }

    fn written(&self) -> u64 {
        self.slots
            .iter()
            .flatten()
            .map(|slot| slot.exchange.sent())
            .sum()
    }

    fn accepted(&self) -> Vec<(&'static str, String)> {
        let sent = || self.slots.iter().flatten().map(|slot| slot.exchange.sent());
        let bounded = self
            .slots
            .iter()
            .flatten()
            .all(|slot| !slot.exchange.all_sent());
        vec![
            ("open", self.open_count().to_string()),
            ("accepted_bytes", sent().sum::<u64>().to_string()),
            ("most_accepted_bytes", sent().max().unwrap_or(0).to_string()),
            ("bounded", bounded.to_string()),
        ]
    }
}

impl Slot {
    fn done(&self, reading: bool) -> bool {
        match reading {
            true => self.exchange.complete(),
            false => self.exchange.all_sent(),
        }
    }
}

fn unknown(command: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("unknown command {command:?}"),
    )
}
