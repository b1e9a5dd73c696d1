//! Slow clients: connections that send one byte in every period, and are replaced when they are cut.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Poll, Token};

use crate::command::Commands;
use crate::dial;
use crate::failure::{Failure, Tally};
use crate::options::Options;
use crate::report;

/// In which all of them come. At once, they would be cut at once too, and come again at once.
const ARRIVAL: Duration = Duration::from_secs(1);

/// The longest wait in `poll`, so that the end of standard input is noticed.
const LONGEST_WAIT: Duration = Duration::from_millis(50);

/// Opens the connections, and keeps as many open until the end of standard input. What the server
/// cuts is counted, and no failure: cutting is what it is there for.
pub fn run(options: &Options) -> io::Result<ExitCode> {
    let mut slow = Slow::new(options)?;
    slow.arrive()?;
    let commands = Commands::new(options.limit);
    report::event("connected", &[("open", slow.open_count().to_string())]);
    while !commands.ended() {
        slow.turn(LONGEST_WAIT)?;
    }
    let fields = [
        ("open", slow.open_count().to_string()),
        ("cut", slow.cut.to_string()),
        ("sent", slow.sent.to_string()),
    ];
    Ok(report::result(options, &slow.tally, &fields))
}

struct Slot {
    stream: TcpStream,
    /// Which connection it is, of all that were ever dialed.
    number: usize,
}

struct Slow<'a> {
    options: &'a Options,
    poll: Poll,
    events: Events,
    slots: Vec<Option<Slot>>,
    /// When which connection sends its next byte: the time, its place, its number.
    due: BinaryHeap<Reverse<(Instant, usize, usize)>>,
    dialed: usize,
    cut: u64,
    sent: u64,
    tally: Tally,
}

impl<'a> Slow<'a> {
    fn new(options: &'a Options) -> io::Result<Self> {
        Ok(Self {
            options,
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            slots: (0..options.connections).map(|_| None).collect(),
            due: BinaryHeap::new(),
            dialed: 0,
            cut: 0,
            sent: 0,
            tally: Tally::default(),
        })
    }

    fn arrive(&mut self) -> io::Result<()> {
        let (start, count) = (Instant::now(), self.slots.len());
        for place in 0..count {
            let due = start + ARRIVAL * place as u32 / count as u32;
            loop {
                let left = due.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                self.turn(left)?;
            }
            self.dial(place);
        }
        Ok(())
    }

    fn open_count(&self) -> usize {
        self.slots.iter().flatten().count()
    }

    /// Waits for what comes next, but not for longer than this: somebody's time to send, or
    /// somebody's end.
    fn turn(&mut self, most: Duration) -> io::Result<()> {
        let next = self.due.peek().map_or(most, |Reverse((due, ..))| {
            due.saturating_duration_since(Instant::now())
        });
        dial::wait(&mut self.poll, &mut self.events, next.min(most))?;
        let places: Vec<usize> = self.events.iter().map(|event| event.token().0).collect();
        places.iter().for_each(|&place| self.read(place));
        let now = Instant::now();
        while self
            .due
            .peek()
            .is_some_and(|Reverse((due, ..))| *due <= now)
        {
            if let Some(Reverse((due, place, number))) = self.due.pop() {
                self.send(due, place, number);
            }
        }
        Ok(())
    }

    fn send(&mut self, due: Instant, place: usize, number: usize) {
        let slot = self.slots[place].as_mut();
        let Some(slot) = slot.filter(|slot| slot.number == number) else {
            return;
        };
        // What is wrong with the connection is seen by reading.
        self.sent += u64::from(matches!(slot.stream.write(b"."), Ok(1)));
        let next = due + self.options.period;
        self.due.push(Reverse((next, place, number)));
    }

    /// Takes the echo of what was sent; at the end of the stream dials anew.
    fn read(&mut self, place: usize) {
        let Some(slot) = &mut self.slots[place] else {
            return;
        };
        let mut buffer = [0; 256];
        let ended = loop {
            match slot.stream.read(&mut buffer) {
                Ok(0) => break true,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The handshake of a new one is not over.
                Err(error) if error.kind() == io::ErrorKind::NotConnected => break false,
                Err(_) => break true,
            }
        };
        if ended {
            self.cut += 1;
            self.dial(place);
        }
    }

    /// Every second one sends its first byte at once, the others after a period.
    fn dial(&mut self, place: usize) {
        let number = self.dialed;
        self.dialed += 1;
        let server = self.options.server;
        self.slots[place] = dial::dial_registered(&self.poll, server, number, Token(place))
            .map(|stream| Slot { stream, number })
            .map_err(|error| self.tally.count(number, &Failure::Refused(error)))
            .ok();
        let wait = self.options.period * (place % 2) as u32;
        self.due
            .push(Reverse((Instant::now() + wait, place, number)));
    }
}
