//! A Rust thread with one poll, one command queue, and many sockets.
//!
//! A turn: poll; note what each socket is ready for; take the commands;
//! advance every connection something happened to; let the owners finish.
//! The loop blocks nowhere but in poll.
//!
//! Here are the loop and its turn; the steps of a turn are in the submodules.

mod accept;
mod advance;
mod commands;
mod context;
mod datagrams;
mod ending;
mod entries;
mod lent;
mod listeners;
mod portal;

use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Events, Poll};
use rustler::LocalPid;
use slab::Slab;

use accept::ACCEPTS;
use context::TASKS;
use entries::{split, Entry, Timed};
use lent::FEW_EVENTS;

use crate::arrival::GREETINGS;
use crate::command::{Command, LoopHandle, WAKER};
use crate::lend::{GRUDGE, LONGEST_GRUDGE};
use crate::mail::Mail;
use crate::owner::{Conn, LoopIo, Owner, READ_SIZE};
use crate::process;
use crate::python::context::Reporter;
use crate::report::{self, Reports};
use crate::runtime;
use crate::timer::Wheel;

pub use listeners::{close_listener, close_listener_at_once, kick_listener};

/// How many events a turn takes from the poll at once.
const EVENTS: usize = 1024;
/// How many timers fire in one turn: many that are due at once must not keep others from being served.
const FIRES: usize = 16;
/// How soon a loop looks for what it was told without being woken.
const QUIET: Duration = Duration::from_millis(50);

/// One loop; lives on its thread.
pub struct EventLoop {
    poll: Poll,
    handle: Arc<LoopHandle>,
    entries: Slab<(u32, Entry)>,
    generation: u32,
    wheel: Wheel<Timed>,
    /// Timers that are due, and wait for their turn.
    due: VecDeque<Timed>,
    io: LoopIo,
    /// To be advanced in this turn, and in the next one without waiting.
    ready: Vec<Arc<Conn>>,
    again: Vec<Arc<Conn>>,
    /// Listeners to be looked at in the next turn without waiting.
    accepting: Vec<usize>,
    /// How many connections a listener may bring in this turn, so that the others get theirs.
    accepts: usize,
    /// Commands that a scheduler's thread has left to this loop's own.
    deferred: VecDeque<Command>,
    /// Where the listeners are among the entries.
    listeners: Vec<usize>,
    stop_at: Option<Instant>,
    /// What a turn on a scheduler's thread takes at once.
    few: Events,
    /// Not to be lent before.
    keep_until: Instant,
    /// How long it is not to be lent when that was in vain.
    grudge: Duration,
    /// Listeners that wait for a timer: for descriptors to come free, or for their next connection.
    resting: HashSet<usize>,
    /// In log lines and reports.
    name: String,
    /// Who wants reports about a context that serves no listener of its own.
    report_to: Option<LocalPid>,
    /// How the process ended that Python was in, if it was not told to.
    ended: Option<String>,
}

impl EventLoop {
    /// Makes a loop, and the handle by which it is reached.
    pub fn new(name: String) -> io::Result<(Self, Arc<LoopHandle>)> {
        let poll = Poll::new()?;
        let handle = Arc::new(LoopHandle::new(&poll)?);
        let now = Instant::now();
        let this = EventLoop {
            poll,
            handle: Arc::clone(&handle),
            entries: Slab::new(),
            generation: 0,
            wheel: Wheel::new(now),
            due: VecDeque::new(),
            io: LoopIo {
                mail: Mail::new(),
                scratch: vec![0; READ_SIZE],
                now,
                turn: None,
                portal: None,
                stopping: false,
                delivered: 0,
                deliveries: process::DELIVERIES,
                awaited: 0,
                greetings: 0,
                behind: false,
                arrived: Vec::new(),
                timers: Vec::new(),
                reports: Reports::new(),
            },
            ready: Vec::new(),
            again: Vec::new(),
            accepting: Vec::new(),
            accepts: ACCEPTS,
            deferred: VecDeque::new(),
            listeners: Vec::new(),
            stop_at: None,
            few: Events::with_capacity(FEW_EVENTS),
            keep_until: now,
            grudge: GRUDGE,
            resting: HashSet::new(),
            name,
            report_to: None,
            ended: None,
        };
        Ok((this, handle))
    }

    /// Runs for processes, until it is told to stop and has nothing left, or its time is over.
    pub fn run(self) -> io::Result<()> {
        let mut this = Box::new(self);
        let home = Arc::clone(&this.handle);
        let mut events = Events::with_capacity(EVENTS);
        while this.turn(&mut events, None)? {
            if this.lendable() {
                let (back, vain) = home.counter.lend(this);
                this = back;
                if vain {
                    this.keep_until = Instant::now() + this.grudge;
                    this.grudge = (this.grudge * 2).min(LONGEST_GRUDGE);
                } else {
                    this.grudge = GRUDGE;
                }
            }
        }
        Ok(())
    }

    /// One turn; false after the last one.
    fn turn(
        &mut self,
        events: &mut Events,
        mut reporter: Option<&mut Reporter>,
    ) -> io::Result<bool> {
        let busy = !(self.again.is_empty()
            && self.accepting.is_empty()
            && self.due.is_empty()
            && self.deferred.is_empty()
            && self
                .io
                .portal
                .as_ref()
                .is_none_or(|portal| !portal.is_stirred())
            && self
                .io
                .turn
                .as_ref()
                .is_none_or(|turn| !turn.has_calls() && !turn.has_tasks()));
        let timeout = if busy || self.handle.ringing() {
            Some(Duration::ZERO)
        } else {
            let sleep = self.sleep(Instant::now());
            if self.io.awaited > 0 {
                Some(sleep.map_or(QUIET, |sleep| sleep.min(QUIET)))
            } else {
                sleep
            }
        };
        self.poll(events, timeout)?;
        self.io.now = Instant::now();
        self.io.delivered = 0;
        self.io.greetings = GREETINGS;
        self.ready.append(&mut self.again);
        let accepting = std::mem::take(&mut self.accepting);
        for event in &*events {
            self.note(event);
        }
        for token in accepting {
            self.accept(token);
        }
        self.fire_timers();
        self.take_commands(&mut reporter);
        self.run_calls();
        self.pass_portal(&mut reporter);
        self.advance_ready();
        self.run_tasks();
        self.report_load();
        if self.finished() {
            self.end();
            return Ok(false);
        }
        Ok(true)
    }

    /// How long there is nothing to do by itself.
    fn sleep(&self, now: Instant) -> Option<Duration> {
        let wheel = self.wheel.sleep(now);
        let tasks = self.io.turn.as_ref().and_then(|turn| turn.tasks_sleep(now));
        match (wheel, tasks) {
            (Some(wheel), Some(tasks)) => Some(wheel.min(tasks)),
            (wheel, tasks) => wheel.or(tasks),
        }
    }

    fn poll(&mut self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            other => other,
        }
    }

    fn note(&mut self, event: &mio::event::Event) {
        let token = event.token();
        if token == WAKER {
            return;
        }
        if token == portal::PORTAL {
            if let Some(portal) = &mut self.io.portal {
                portal.stir();
            }
            return;
        }
        if token == TASKS {
            if let Some(turn) = &self.io.turn {
                turn.tasks_are_ready();
            }
            return;
        }
        // Of a socket for datagrams it may also say that there is room to write.
        let readable = event.is_readable() || event.is_read_closed() || event.is_error();
        match self.lookup(token.0) {
            Some(Entry::Connection(conn)) => {
                let conn = Arc::clone(conn);
                let hangup = event.is_read_closed() || event.is_error();
                let mut state = conn.lock();
                state.on_event(readable, event.is_writable(), hangup);
                if event.is_error() || event.is_write_closed() {
                    // What is read finds out by itself.
                    let unread = match &state.owner {
                        Owner::Protocol(owner) => !owner.reads(),
                        _ => true,
                    };
                    state.on_failure(unread);
                }
                drop(state);
                self.ready.push(conn);
            }
            Some(Entry::Listener(listener)) => {
                listener.lock().readable |= readable;
                self.accept(token.0);
            }
            Some(Entry::Served(_, last)) => {
                *last = true;
                self.accept(token.0);
            }
            Some(Entry::Datagrams(served)) => {
                served.lock().readable |= readable;
                self.accept(token.0);
            }
            // An event of something that was closed earlier in this turn.
            None => {}
        }
    }

    fn fire_timers(&mut self) {
        let due = &mut self.due;
        self.wheel.advance(self.io.now, |item| due.push_back(item));
        for _ in 0..FIRES {
            let Some(item) = self.due.pop_front() else {
                return;
            };
            match item {
                Timed::Token(token) => {
                    self.resting.remove(&token);
                    match self.lookup(token) {
                        Some(Entry::Connection(conn)) => {
                            let conn = Arc::clone(conn);
                            self.ready.push(conn);
                        }
                        _ => self.accept(token),
                    }
                }
                Timed::Deadline => {}
            }
        }
    }

    fn report_load(&mut self) {
        let now = Instant::now();
        self.io.reports.turn(self.io.now, now);
        let Some(load) = self.io.reports.take_load(now) else {
            return;
        };
        if self.io.portal.is_some() {
            // That of the process is told instead.
            return;
        }
        let (load, pids) = match &mut self.io.turn {
            Some(turn) => {
                let mut python = std::mem::take(&mut turn.measured);
                python.loop_busy = load.busy;
                python.lag = load.longest;
                (python, self.report_to())
            }
            None => (load, runtime::report_to().into_iter().collect()),
        };
        let python = self.io.turn.is_some();
        for pid in pids {
            report::send_load(&mut self.io.mail, &pid, &self.name, python, &load);
        }
    }

    /// Who wants to know about the listeners that are served here.
    fn report_to(&self) -> Vec<LocalPid> {
        let mut pids: Vec<_> = self.report_to.into_iter().collect();
        for token in &self.listeners {
            match &self.entries[split(*token).0].1 {
                Entry::Served(listener, _) => pids.extend(listener.group.report_to()),
                Entry::Datagrams(served) => pids.extend(served.listener.group.report_to()),
                _ => {}
            }
        }
        pids.dedup();
        pids
    }
}
