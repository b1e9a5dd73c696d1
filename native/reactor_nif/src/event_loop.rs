//! A Rust thread with one poll, one command queue, and many sockets.
//!
//! A turn: poll; note what each socket is ready for; take the commands;
//! advance every connection something happened to; let the owners finish.
//! The loop blocks nowhere but in poll.

mod accept;
mod datagrams;
mod portal;

use std::collections::{HashSet, VecDeque};
use std::io;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustler::{Env, LocalPid, ResourceArc};
use slab::Slab;

use accept::ACCEPTS;

use crate::arrival::GREETINGS;
use crate::command::{Command, LoopHandle, WAKER};
use crate::error::Cause;
use crate::group::Group;
use crate::lend::{GRUDGE, LONGEST_GRUDGE};
use crate::listener::sockets::Sockets;
use crate::listener::Listener;
use crate::mail::Mail;
use crate::owner::{self, Conn, LoopIo, Next, Owner, READ_SIZE};
use crate::process::{self, ListenerHandle};
use crate::python::context::Reporter;
use crate::python::datagram::Served;
use crate::python::protocol::Turn;
use crate::report::{self, Reports};
use crate::runtime;
use crate::timer::Wheel;

/// How many events a turn takes from the poll at once.
const EVENTS: usize = 1024;
/// Likewise on a scheduler's thread, which has other things to do.
const FEW_EVENTS: usize = 32;
/// How many messages a connection may deliver there.
const FEW_DELIVERIES: usize = 2;
/// How many connections a listener may bring there.
const FEW_ACCEPTS: usize = 4;
/// How many commands are taken there.
const FEW_COMMANDS: usize = 32;
/// How many timers fire in one turn: many that are due at once must not keep others from being served.
const FIRES: usize = 16;
/// The token of a context's asyncio loop.
const TASKS: Token = Token(usize::MAX - 1);
/// How soon a loop looks for what it was told without being woken.
const QUIET: Duration = Duration::from_millis(50);
/// How long a context runs calls before it looks for anything else, if each takes little.
const ROUND: Duration = Duration::from_micros(100);
/// How many handlers a turn must have woken for the loop to be lent to them.
const LEND_FROM: usize = 1;
enum Entry {
    Connection(Arc<Conn>),
    Listener(Arc<Listener>),
    /// A listener that this context's loop accepts from: it has its own memory of the last edge.
    Served(Arc<Listener>, bool),
    /// A datagram socket that this context has.
    Datagrams(Arc<Served>),
}

/// What a timer wakes.
enum Timed {
    /// What has this token then.
    Token(usize),
    /// The loop itself, which is to end.
    Deadline,
}

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

    /// Runs for a context, likewise; gives back what belongs to Python.
    pub fn run_context(
        mut self,
        turn: Turn,
        reporter: &mut Reporter,
        report_to: Option<LocalPid>,
    ) -> io::Result<Turn> {
        self.report_to = report_to;
        self.io.turn = Some(Box::new(turn));
        let mut events = Events::with_capacity(EVENTS);
        while self.turn(&mut events, Some(reporter))? {}
        match self.io.turn.take() {
            Some(turn) => Ok(*turn),
            None => Err(io::Error::other("the turn is gone")),
        }
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

    /// True when the handlers that this turn has woken may take the next ones.
    fn lendable(&self) -> bool {
        self.io.delivered >= LEND_FROM
            && self.again.is_empty()
            && self.accepting.is_empty()
            && self.due.is_empty()
            && self.stop_at.is_none()
            && self.keep_until <= self.io.now
    }

    /// A short turn on a scheduler's thread: delivers what has arrived, and leaves what may take
    /// longer to the loop's own thread. False when nobody got anything.
    pub fn turn_for(&mut self, env: Env) -> bool {
        let mut few = std::mem::replace(&mut self.few, Events::with_capacity(0));
        let polled = self.poll(&mut few, Some(Duration::ZERO));
        self.io.now = Instant::now();
        self.io.delivered = 0;
        // They would hold a scheduler up.
        self.io.greetings = 0;
        let due = self.wheel.sleep(self.io.now);
        self.ready.append(&mut self.again);
        self.io.deliveries = FEW_DELIVERIES;
        self.accepts = FEW_ACCEPTS;
        self.io.mail.begin_for(env);
        let turned = catch_unwind(AssertUnwindSafe(|| {
            let accepting = std::mem::take(&mut self.accepting);
            for event in &few {
                self.note(event);
            }
            for token in accepting {
                self.accept(token);
            }
            self.take_few_commands();
            self.advance_ready();
        }));
        self.io.mail.end_for();
        self.accepts = ACCEPTS;
        self.io.deliveries = process::DELIVERIES;
        self.few = few;
        self.io.reports.turn(self.io.now, Instant::now());
        let found = self.io.delivered > 0;
        let urgent = polled.is_err()
            || turned.is_err()
            || due.is_some_and(|left| left.is_zero())
            || std::mem::take(&mut self.io.behind)
            || !self.deferred.is_empty();
        // Whoever got something comes again.
        let left = !self.again.is_empty() || !self.accepting.is_empty();
        if urgent || (left && !found) {
            self.handle.counter.recall();
        }
        found
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

    fn lookup(&mut self, token: usize) -> Option<&mut Entry> {
        let (index, generation) = split(token);
        match self.entries.get_mut(index) {
            Some((current, entry)) if *current == generation => Some(entry),
            _ => None,
        }
    }

    fn insert(&mut self, entry: Entry) -> usize {
        self.generation = self.generation.wrapping_add(1) & (u32::MAX >> 1);
        let listens = !matches!(entry, Entry::Connection(_));
        let index = self.entries.insert((self.generation, entry));
        let token = join(index, self.generation);
        if listens {
            self.listeners.push(token);
        }
        token
    }

    /// Removes it: false if it is not there any more.
    fn remove(&mut self, token: usize) -> bool {
        let (index, generation) = split(token);
        let found = matches!(self.entries.get(index), Some((current, _)) if *current == generation);
        if found && !matches!(self.entries.remove(index).1, Entry::Connection(_)) {
            self.listeners.retain(|other| *other != token);
        }
        found
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

    fn take_commands(&mut self, reporter: &mut Option<&mut Reporter>) {
        self.handle.heard();
        loop {
            // Those that were left come first.
            let command = self.deferred.pop_front().or_else(|| self.handle.next());
            match command {
                Some(command) => self.obey(command, reporter),
                None => return,
            }
        }
    }

    /// Runs the calls of processes, and lets go of what they have let go of. More are taken without another turn while they come in quick succession:
    /// what there is besides is looked for soon.
    fn run_calls(&mut self) {
        let Some(turn) = &mut self.io.turn else {
            return;
        };
        turn.let_go();
        if !turn.has_calls() {
            return;
        }
        let home = &self.handle;
        let until = self.io.now + ROUND;
        turn.run_calls();
        while !home.has_commands() && Instant::now() < until {
            // Nobody has to wake it from here on: the next turn looks before it sleeps.
            home.ring();
            if !turn.linger(|| home.has_commands()) {
                break;
            }
            turn.run_calls();
        }
    }

    fn run_tasks(&mut self) {
        let Some(turn) = &mut self.io.turn else {
            return;
        };
        if let Some(fd) = turn.run_tasks() {
            // It is an epoll or a kqueue, and ends with the loop of asyncio that it belongs to.
            let registry = self.poll.registry();
            let watched = registry.register(&mut SourceFd(&fd), TASKS, Interest::READABLE);
            if let Err(error) = watched {
                tracing::error!(%error, "the asyncio loop of a context could not be watched");
            }
        }
    }

    /// Likewise on a scheduler's thread: only what is soon done, and in order.
    fn take_few_commands(&mut self) {
        if !self.deferred.is_empty() {
            return;
        }
        self.handle.heard();
        for _ in 0..FEW_COMMANDS {
            match self.handle.next() {
                Some(
                    command @ (Command::Adopt(_) | Command::Kick(_) | Command::KickListener(_)),
                ) => self.obey(command, &mut None),
                Some(command) => return self.deferred.push_back(command),
                None => return,
            }
        }
        // There may be more.
        self.handle.ring();
    }

    fn obey(&mut self, command: Command, reporter: &mut Option<&mut Reporter>) {
        match command {
            Command::Adopt(conn) => self.adopt(conn),
            Command::Kick(conn) => {
                conn.clear_kicked();
                self.ready.push(conn);
            }
            Command::Listen(listener) => self.watch(listener),
            Command::KickListener(listener) => {
                listener.clear_kicked();
                self.look_at_listener(&listener);
            }
            Command::Drain(group) => {
                if let Some(portal) = &mut self.io.portal {
                    portal.drain(&group);
                }
                self.drain(&group);
            }
            Command::Drained(group) => report::tell_drained(&group, &mut self.io.mail),
            Command::Move(conn, target) => self.move_out(&conn, target),
            Command::Load(group, factory) => {
                if let (Some(turn), Some(reporter)) = (&mut self.io.turn, reporter) {
                    match turn.load(group, &factory) {
                        Ok(()) => reporter.loaded(),
                        Err(error) => reporter.failed(&error),
                    }
                }
            }
            Command::Survey(asked) => {
                if let Some(portal) = &mut self.io.portal {
                    portal.ask_for_traffic(&asked);
                }
            }
            Command::Relieve => self.relieve(),
            Command::Serve(listener, factory) => {
                if let Some(reporter) = reporter {
                    self.serve(&listener, &factory, reporter);
                }
            }
            Command::Stop(grace) => self.stop(Duration::from_millis(grace)),
        }
    }

    fn adopt(&mut self, conn: Arc<Conn>) {
        let token = self.insert(Entry::Connection(Arc::clone(&conn)));
        conn.set_token(token);
        if let Some(portal) = &mut self.io.portal {
            portal.adopt(&conn);
        }
        let mut state = conn.lock();
        let new = !std::mem::replace(&mut state.opened, true);
        if conn.group().is_some_and(|group| group.is_cut()) {
            state.condemned = Some(Cause::Cut);
        }
        // Closed before it arrived: advancing it will remove it again.
        if let Some(fd) = state.fd() {
            let interest = Interest::READABLE | Interest::WRITABLE;
            let registered =
                self.poll
                    .registry()
                    .register(&mut SourceFd(&fd), Token(token), interest);
            if let Err(error) = registered {
                tracing::error!(%error, "a socket could not be watched; it is closed");
                state.condemned = Some(Cause::Local);
            }
        }
        drop(state);
        if new {
            self.io.reports.opened(&conn);
        }
        self.ready.push(conn);
    }

    /// Gives a connection that was accepted for a process to a context's loop.
    fn move_out(&mut self, conn: &Arc<Conn>, target: Arc<LoopHandle>) {
        let state = conn.lock();
        if let Some(fd) = state.fd() {
            // Its registration belongs to the open socket, not to the number.
            let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
        }
        drop(state);
        match conn.move_to(Arc::clone(&target), Owner::Nobody) {
            Some(moved) => {
                if let Some(token) = conn.token() {
                    self.remove(token);
                }
                if let Some(slot) = moved.lock().slot() {
                    slot.list(&moved);
                }
                target.tell(Command::Adopt(moved));
            }
            // It was closed meanwhile: advancing it removes it.
            None => self.ready.push(Arc::clone(conn)),
        }
    }

    fn advance_ready(&mut self) {
        while !self.ready.is_empty() {
            for conn in std::mem::take(&mut self.ready) {
                match advance_alone(&conn, &mut self.io) {
                    Next::Idle => {}
                    Next::Again => self.again.push(conn),
                    Next::Gone => {
                        if let Some(token) = conn.token() {
                            self.forget(token, &conn);
                        }
                    }
                }
                if self.io.turn.as_ref().is_some_and(|turn| turn.is_full()) {
                    owner::finish_turn(&mut self.io, &mut self.again);
                }
            }
            self.welcome();
        }
        owner::finish_turn(&mut self.io, &mut self.again);
        if let Some(turn) = &mut self.io.turn {
            self.accepting.append(&mut turn.look);
        }
        for (at, token) in self.io.timers.drain(..) {
            self.wheel.arm(at, Timed::Token(token));
        }
        self.io.reports.send(&mut self.io.mail);
        self.io.mail.clear();
    }

    /// Forgets a connection that is over, unless that was done before.
    fn forget(&mut self, token: usize, conn: &Conn) {
        if self.remove(token) {
            self.io.awaited -= usize::from(conn.lock().awaited);
            self.io.reports.closed(conn);
            if self.io.reports.are_many() {
                self.io.reports.send(&mut self.io.mail);
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

    // ---- listeners ----------------------------------------------------------

    fn watch(&mut self, listener: Arc<Listener>) {
        let token = self.insert(Entry::Listener(Arc::clone(&listener)));
        self.register_listener(&listener, token);
        self.accept(token);
    }

    fn register_listener(&mut self, listener: &Arc<Listener>, token: usize) {
        let state = listener.lock();
        let interest = if listener.is_datagram {
            Interest::READABLE | Interest::WRITABLE
        } else {
            Interest::READABLE
        };
        for fd in state.fds() {
            let registered =
                self.poll
                    .registry()
                    .register(&mut SourceFd(&fd), Token(token), interest);
            if let Err(error) = registered {
                tracing::error!(%error, "a listening socket could not be watched");
            }
        }
    }

    fn look_at_listener(&mut self, listener: &Arc<Listener>) {
        let closed = listener.lock().fd().is_none();
        let Some(token) = self.find_listener(listener) else {
            return;
        };
        if closed && matches!(self.lookup(token), Some(Entry::Served(..))) {
            self.remove(token);
        } else {
            self.accept(token);
        }
    }

    fn find_listener(&self, listener: &Arc<Listener>) -> Option<usize> {
        let mut tokens = self.listeners.iter().copied();
        tokens.find(|token| match &self.entries[split(*token).0].1 {
            Entry::Listener(other) | Entry::Served(other, _) => Arc::ptr_eq(other, listener),
            Entry::Datagrams(served) => Arc::ptr_eq(&served.listener, listener),
            Entry::Connection(_) => false,
        })
    }

    fn serve(
        &mut self,
        handle: &ResourceArc<ListenerHandle>,
        factory: &str,
        reporter: &mut Reporter,
    ) {
        if self.io.portal.is_some() {
            return self.load_elsewhere(handle, factory, reporter);
        }
        let Some(turn) = &mut self.io.turn else {
            return;
        };
        let listener = Arc::clone(&handle.0);
        if let Err(error) = turn.load(listener.group.id, factory) {
            reporter.failed(&error);
            return;
        }
        if listener.is_datagram {
            self.serve_datagrams(listener);
            reporter.serving(handle);
            return;
        }
        self.accept_from(handle, reporter);
    }

    /// Its factory is there: whoever connects from now on comes here.
    fn accept_from(&mut self, handle: &ResourceArc<ListenerHandle>, reporter: &mut Reporter) {
        let listener = Arc::clone(&handle.0);
        if self.find_listener(&listener).is_some() {
            // Only the factory is another one, for connections to come.
            reporter.serving(handle);
            return;
        }
        listener.group.add_context(&self.handle);
        let token = self.insert(Entry::Served(Arc::clone(&listener), true));
        self.register_listener(&listener, token);
        reporter.serving(handle);
        self.accept(token);
    }

    // ---- ends -----------------------------------------------------------------

    fn relieve(&mut self) {
        for (_, (_, entry)) in &self.entries {
            match entry {
                Entry::Connection(conn) => process::mailbox::relieve(conn),
                Entry::Listener(listener) => process::datagrams::relieve_owner(listener),
                _ => {}
            }
        }
    }

    fn drain(&mut self, group: &Arc<Group>) {
        for (_, (_, entry)) in &self.entries {
            if let Entry::Connection(conn) = entry {
                if conn.group().is_some_and(|other| Arc::ptr_eq(other, group)) {
                    // What has come in the meantime is still answered.
                    conn.lock().readable = true;
                    self.ready.push(Arc::clone(conn));
                }
            }
        }
    }

    fn stop(&mut self, grace: Duration) {
        let until = self.io.now + grace;
        self.stop_at = Some(until);
        self.io.stopping = true;
        if let Some(turn) = &mut self.io.turn {
            turn.stopping = true;
        }
        if let Some(portal) = &mut self.io.portal {
            portal.stop(grace.as_millis() as u64);
            self.wheel.arm(until + portal::LAST, Timed::Deadline);
        }
        self.wheel.arm(until, Timed::Deadline);
        for (_, (_, entry)) in &self.entries {
            if let Entry::Connection(conn) = entry {
                self.ready.push(Arc::clone(conn));
            }
        }
        for token in std::mem::take(&mut self.listeners) {
            match self.lookup(token) {
                Some(Entry::Served(listener, _)) => {
                    let listener = Arc::clone(listener);
                    for fd in listener.lock().fds() {
                        // Others may go on accepting from it: only this loop looks away.
                        let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
                    }
                }
                Some(Entry::Listener(listener)) => {
                    let listener = Arc::clone(listener);
                    let closed = listener.lock().close();
                    drop(closed);
                    if listener.is_datagram {
                        self.datagrams_of_a_process(token, &listener);
                    }
                    self.turn_away(&listener, 0);
                }
                Some(Entry::Datagrams(_)) => {
                    // Its protocol is told first.
                    self.listeners.push(token);
                    self.accepting.push(token);
                    continue;
                }
                _ => {}
            }
            self.remove(token);
        }
    }

    fn finished(&mut self) -> bool {
        match (self.stop_at, &self.io.portal) {
            (None, _) => false,
            // It says when it has ended.
            (Some(until), Some(portal)) => {
                portal.has_stopped() || until + portal::LAST <= Instant::now()
            }
            (Some(until), None) => {
                let awaited = self
                    .io
                    .turn
                    .as_ref()
                    .is_some_and(|turn| turn.awaits_tasks());
                (self.entries.is_empty() && !awaited) || until <= Instant::now()
            }
        }
    }

    /// Ends what is left, each connection in its owner's way.
    fn end(&mut self) {
        self.close_portal();
        if let Some(turn) = &mut self.io.turn {
            let left = self
                .entries
                .iter()
                .filter_map(|(_, (_, entry))| match entry {
                    Entry::Connection(conn) => Some(Arc::clone(conn)),
                    _ => None,
                });
            turn.lose_all(left.collect());
            datagrams::lose(&self.entries, turn);
            owner::report_exceptions(turn, &mut self.io.reports);
        }
        self.end_datagrams();
        for (_, entry) in std::mem::take(&mut self.entries)
            .into_iter()
            .map(|(_, entry)| entry)
        {
            if let Entry::Connection(conn) = &entry {
                let mut state = conn.lock();
                match state.owner {
                    Owner::Protocol(_) => {}
                    _ => process::abandon(conn, &mut state, &mut self.io),
                }
                drop(state);
                self.io.reports.closed(conn);
            }
        }
        self.io.reports.send(&mut self.io.mail);
        self.io.mail.clear();
    }
}

impl Drop for EventLoop {
    /// However it ended: no fd stays open, and nobody waits for it.
    fn drop(&mut self) {
        self.handle.close();
        for (_, (_, entry)) in &self.entries {
            match entry {
                Entry::Connection(conn) => {
                    let mut state = conn.lock();
                    state.close_fd();
                    // Its listener counts those that are on their way: told without the lock.
                    let arriving = match state.owner {
                        Owner::Arriving(_) => std::mem::replace(&mut state.owner, Owner::Nobody),
                        _ => Owner::Nobody,
                    };
                    drop(state);
                    drop(arriving);
                    if let Some(group) = conn.group() {
                        group.forgotten();
                    }
                }
                Entry::Datagrams(served) if served.is_in_use() => {
                    served.listener.group.forgotten();
                }
                _ => {}
            }
        }
    }
}

/// Closes a listening socket; its connections go on. Not for normal schedulers: see [`Sockets`].
pub fn close_listener(listener: &Arc<Listener>) {
    let sockets = stop_listening(listener);
    drop(sockets);
}

/// Likewise, for normal schedulers.
pub fn close_listener_at_once(listener: &Arc<Listener>) {
    let sockets = stop_listening(listener);
    if sockets.as_ref().is_some_and(Sockets::have_path) {
        // If there can be no thread they are dropped here.
        let _ = thread::Builder::new().spawn(move || drop(sockets));
    }
}

/// Nothing is accepted from now on. The sockets are open until they are dropped.
fn stop_listening(listener: &Arc<Listener>) -> Option<Sockets> {
    let sockets = listener.lock().close();
    let contexts = listener.group.contexts();
    for fd in sockets.iter().flat_map(Sockets::fds) {
        listener.home().unwatch(fd);
        contexts.iter().for_each(|context| context.unwatch(fd));
    }
    for context in contexts {
        context.tell(Command::KickListener(Arc::clone(listener)));
    }
    kick_listener(listener);
    sockets
}

/// Asks the home loop to look at a listener.
pub fn kick_listener(listener: &Arc<Listener>) {
    if listener.mark_kicked() {
        listener
            .home()
            .tell(Command::KickListener(Arc::clone(listener)));
    }
}

/// A bug that shows on one connection must not take the others along.
fn advance_alone(conn: &Arc<Conn>, io: &mut LoopIo) -> Next {
    let advanced = catch_unwind(AssertUnwindSafe(|| owner::advance(conn, io)));
    advanced.unwrap_or_else(|_| {
        tracing::error!(
            connection = conn.id,
            "a bug in the loop: it panicked; the connection is closed"
        );
        // What was being read into may have been lost on the way out.
        io.scratch.resize(READ_SIZE, 0);
        let mut state = conn.lock();
        if matches!(state.owner, Owner::Protocol(_)) {
            state.close_fd();
        } else {
            process::abandon(conn, &mut state, io);
        }
        Next::Again
    })
}

fn join(index: usize, generation: u32) -> usize {
    (generation as usize) << 32 | index
}

fn split(token: usize) -> (usize, u32) {
    (token & 0xffff_ffff, (token >> 32) as u32)
}

// Tokens hold an index and a generation, 32 bits each.
const _: () = assert!(usize::BITS == 64);
