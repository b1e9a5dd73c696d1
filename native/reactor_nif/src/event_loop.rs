//! A Rust thread with one poll, one command queue, and many sockets.
//!
//! A turn: poll; note what each socket is ready for; take the commands;
//! advance every connection something happened to; let the owners finish.
//! The loop blocks nowhere but in poll.

use std::collections::HashSet;
use std::io;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustler::{Encoder, Env, LocalPid, ResourceArc};
use slab::Slab;

use crate::command::{Command, LoopHandle, WAKER};
use crate::connection::{Connection, Phase};
use crate::error::Reason;
use crate::lend::GRUDGE;
use crate::listener::{Accepted, Group, Listener};
use crate::mail::Mail;
use crate::owner::{self, Conn, LoopIo, Next, Owner, READ_SIZE};
use crate::process::{self, Handle, ListenerHandle};
use crate::python::context::Reporter;
use crate::python::protocol::{ProtocolOwner, Turn};
use crate::runtime;
use crate::timer::Wheel;

mod atoms {
    rustler::atoms! {
        accept = "$reactor_accept",
        accept_error = "$reactor_accept_error",
    }
}

/// How many connections a listener may bring in one turn, so that the others get theirs.
const ACCEPTS: usize = 64;
/// How many events a turn takes from the poll at once.
const EVENTS: usize = 1024;
/// Likewise on a scheduler's thread, which has other things to do.
const FEW_EVENTS: usize = 32;
/// How many messages a connection may deliver there.
const FEW_DELIVERIES: usize = 2;
/// How many handlers a turn must have woken for the loop to be lent to them.
const LEND_FROM: usize = 1;
/// How long a loop that is out of descriptors waits before it tries again.
const STARVED_PAUSE: Duration = Duration::from_millis(100);

enum Entry {
    Connection(Arc<Conn>),
    Listener(Arc<Listener>),
    /// A listener that this context's loop accepts from: it has its own memory of the last edge.
    Served(Arc<Listener>, bool),
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
    io: LoopIo,
    /// To be advanced in this turn, and in the next one without waiting.
    ready: Vec<Arc<Conn>>,
    again: Vec<Arc<Conn>>,
    /// Listeners to be looked at in the next turn without waiting.
    accepting: Vec<usize>,
    stop_at: Option<Instant>,
    /// What a turn on a scheduler's thread takes at once.
    few: Events,
    /// Not to be lent before.
    keep_until: Instant,
    /// Listeners that wait for descriptors to come free.
    resting: HashSet<usize>,
}

impl EventLoop {
    /// Makes a loop, and the handle by which it is reached.
    pub fn new() -> io::Result<(Self, Arc<LoopHandle>)> {
        let poll = Poll::new()?;
        let handle = Arc::new(LoopHandle::new(&poll)?);
        let now = Instant::now();
        let this = EventLoop {
            poll,
            handle: Arc::clone(&handle),
            entries: Slab::new(),
            generation: 0,
            wheel: Wheel::new(now),
            io: LoopIo {
                mail: Mail::new(),
                scratch: vec![0; READ_SIZE],
                now,
                turn: None,
                stopping: false,
                delivered: 0,
                deliveries: process::DELIVERIES,
            },
            ready: Vec::new(),
            again: Vec::new(),
            accepting: Vec::new(),
            stop_at: None,
            few: Events::with_capacity(FEW_EVENTS),
            keep_until: now,
            resting: HashSet::new(),
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
                    this.keep_until = Instant::now() + GRUDGE;
                }
            }
        }
        Ok(())
    }

    /// Runs for a context, likewise; gives back what belongs to Python.
    pub fn run_context(mut self, turn: Turn, reporter: &mut Reporter) -> io::Result<Turn> {
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
        let busy = !self.again.is_empty() || !self.accepting.is_empty();
        let timeout = if busy || self.handle.ringing() {
            Some(Duration::ZERO)
        } else {
            self.wheel.sleep(Instant::now())
        };
        self.poll(events, timeout)?;
        self.io.now = Instant::now();
        self.io.delivered = 0;
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
        self.advance_ready();
        if self.finished() {
            self.end();
            return Ok(false);
        }
        Ok(true)
    }

    /// True when the handlers that this turn has woken may take the next ones.
    fn lendable(&self) -> bool {
        self.io.delivered >= LEND_FROM
            && self.again.is_empty()
            && self.accepting.is_empty()
            && self.stop_at.is_none()
            && self.keep_until <= self.io.now
    }

    /// A short turn on a scheduler's thread: delivers what has arrived, and leaves everything else
    /// to the loop's own thread. False when nothing was delivered.
    pub fn turn_for(&mut self, env: Env) -> bool {
        let mut few = std::mem::replace(&mut self.few, Events::with_capacity(0));
        let polled = self.poll(&mut few, Some(Duration::ZERO));
        self.io.now = Instant::now();
        self.io.delivered = 0;
        let due = self.wheel.sleep(self.io.now);
        let mut rest = polled.is_err() || due.is_some_and(|left| left.is_zero());
        for event in &few {
            match self.lookup(event.token().0) {
                Some(Entry::Connection(_)) => self.note(event),
                Some(Entry::Listener(listener)) => {
                    listener.lock().readable = true;
                    self.accepting.push(event.token().0);
                    rest = true;
                }
                _ => rest = true,
            }
        }
        self.few = few;
        self.io.deliveries = FEW_DELIVERIES;
        self.io.mail.begin_for(env);
        let advanced = catch_unwind(AssertUnwindSafe(|| self.advance_ready()));
        self.io.mail.end_for();
        self.io.deliveries = process::DELIVERIES;
        rest |= advanced.is_err();
        if rest || !self.again.is_empty() {
            self.handle.counter.recall();
        }
        self.io.delivered > 0
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
        match self.lookup(token.0) {
            Some(Entry::Connection(conn)) => {
                let conn = Arc::clone(conn);
                let hangup = event.is_read_closed() || event.is_error();
                let mut state = conn.lock();
                state.on_event(event.is_readable() || hangup, event.is_writable(), hangup);
                state.failed |= event.is_error() || event.is_write_closed();
                drop(state);
                self.ready.push(conn);
            }
            Some(Entry::Listener(listener)) => {
                listener.lock().readable = true;
                self.accept(token.0);
            }
            Some(Entry::Served(_, readable)) => {
                *readable = true;
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
        let index = self.entries.insert((self.generation, entry));
        join(index, self.generation)
    }

    fn remove(&mut self, token: usize) {
        let (index, generation) = split(token);
        if matches!(self.entries.get(index), Some((current, _)) if *current == generation) {
            self.entries.remove(index);
        }
    }

    fn fire_timers(&mut self) {
        let mut due = Vec::new();
        self.wheel.advance(self.io.now, |item| due.push(item));
        for item in due {
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
        while let Some(command) = self.handle.next() {
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
                Command::Drain(group) => self.drain(&group),
                Command::Serve(listener, factory) => {
                    if let Some(reporter) = reporter {
                        self.serve(&listener, &factory, reporter);
                    }
                }
                Command::Stop(grace) => self.stop(Duration::from_millis(grace)),
            }
        }
    }

    fn adopt(&mut self, conn: Arc<Conn>) {
        let token = self.insert(Entry::Connection(Arc::clone(&conn)));
        conn.set_token(token);
        let mut state = conn.lock();
        // Closed before it arrived: advancing it will remove it again.
        if let Some(fd) = state.fd() {
            let interest = Interest::READABLE | Interest::WRITABLE;
            let registered =
                self.poll
                    .registry()
                    .register(&mut SourceFd(&fd), Token(token), interest);
            if let Err(error) = registered {
                tracing::error!(%error, "a socket could not be watched; it is closed");
                state.close_fd();
            }
        }
        drop(state);
        self.ready.push(conn);
    }

    fn advance_ready(&mut self) {
        while !self.ready.is_empty() {
            for conn in std::mem::take(&mut self.ready) {
                match advance_alone(&conn, &mut self.io) {
                    Next::Idle => {}
                    Next::Again => self.again.push(conn),
                    Next::Linger(until) => {
                        if let Some(token) = conn.token() {
                            self.wheel.arm(until, Timed::Token(token));
                        }
                    }
                    Next::Gone => {
                        if let Some(token) = conn.token() {
                            self.remove(token);
                        }
                    }
                }
            }
        }
        owner::finish_turn(&mut self.io, &mut self.again);
        self.io.mail.clear();
    }

    // ---- listeners ----------------------------------------------------------

    fn watch(&mut self, listener: Arc<Listener>) {
        let token = self.insert(Entry::Listener(Arc::clone(&listener)));
        self.register_listener(&listener, token);
        self.accept(token);
    }

    fn register_listener(&mut self, listener: &Arc<Listener>, token: usize) {
        let state = listener.lock();
        let Some(fd) = state.fd() else {
            return;
        };
        let registered =
            self.poll
                .registry()
                .register(&mut SourceFd(&fd), Token(token), Interest::READABLE);
        if let Err(error) = registered {
            tracing::error!(%error, "a listening socket could not be watched");
        }
    }

    fn look_at_listener(&mut self, listener: &Arc<Listener>) {
        let found = self
            .entries
            .iter()
            .find_map(|(index, (generation, entry))| {
                let same = match entry {
                    Entry::Listener(other) | Entry::Served(other, _) => {
                        Arc::ptr_eq(other, listener)
                    }
                    Entry::Connection(_) => false,
                };
                same.then(|| join(index, *generation))
            });
        let closed = listener.lock().fd().is_none();
        match (found, self.lookup(found.unwrap_or(usize::MAX - 1))) {
            (Some(token), Some(Entry::Served(..))) if closed => self.remove(token),
            (Some(token), Some(_)) => self.accept(token),
            _ => {}
        }
    }

    /// Accepts for those who wait, as far as there is somebody.
    fn accept(&mut self, token: usize) {
        match self.lookup(token) {
            Some(Entry::Listener(listener)) => {
                let listener = Arc::clone(listener);
                self.accept_for_processes(token, &listener);
            }
            Some(Entry::Served(listener, true)) => {
                let listener = Arc::clone(listener);
                self.accept_for_context(token, &listener);
            }
            _ => {}
        }
    }

    fn accept_for_processes(&mut self, token: usize, listener: &Arc<Listener>) {
        for _ in 0..ACCEPTS {
            let mut state = listener.lock();
            if state.fd().is_none() {
                drop(state);
                self.remove(token);
                self.turn_away(listener);
                return;
            }
            if !state.readable || state.waiters.is_empty() {
                return;
            }
            let accepted = state.accept();
            match accepted {
                Accepted::Socket(socket, _) => {
                    drop(state);
                    let home = runtime::next_loop(&self.handle);
                    let conn = Connection::new(
                        socket,
                        Phase::Open,
                        listener.settings.clone(),
                        Owner::Nobody,
                        home,
                        Some(Arc::clone(&listener.group)),
                    );
                    self.hand_to_waiter(listener, conn);
                }
                Accepted::Blocked | Accepted::Closed => {}
                Accepted::Starved(error) => {
                    report_starved(&mut state.starved, &error);
                    drop(state);
                    self.rest(token);
                    return;
                }
            }
        }
        self.accepting.push(token);
    }

    /// Tells those who wait that there will be no connection.
    fn turn_away(&mut self, listener: &Arc<Listener>) {
        let waiters = std::mem::take(&mut listener.lock().waiters);
        for waiter in waiters {
            let handle = waiter.handle;
            self.io.mail.send(&waiter.pid, |env| {
                let closed = process::atom(env, Reason::Closed);
                (atoms::accept_error(), &handle, closed).encode(env)
            });
        }
    }

    /// Tries again after a pause, however many ask for it meanwhile.
    fn rest(&mut self, token: usize) {
        if self.resting.insert(token) {
            let until = self.io.now + STARVED_PAUSE;
            self.wheel.arm(until, Timed::Token(token));
        }
    }

    /// The oldest waiter that is still alive gets it.
    fn hand_to_waiter(&mut self, listener: &Arc<Listener>, conn: Arc<Conn>) {
        loop {
            let waiter = listener.lock().waiters.pop_front();
            let Some(waiter) = waiter else {
                // All of them died while we accepted: a connection nobody takes is closed.
                conn.lock().close_fd();
                return;
            };
            let Some(handle) = process::give(&conn, None, waiter.pid) else {
                continue;
            };
            self.place(&conn);
            self.announce(waiter.pid, &waiter.handle, &handle);
            return;
        }
    }

    fn place(&mut self, conn: &Arc<Conn>) {
        if Arc::ptr_eq(conn.home(), &self.handle) {
            self.adopt(Arc::clone(conn));
        } else {
            conn.home().tell(Command::Adopt(Arc::clone(conn)));
        }
    }

    fn announce(
        &mut self,
        pid: LocalPid,
        listener: &ResourceArc<ListenerHandle>,
        handle: &ResourceArc<Handle>,
    ) {
        // If it has died, its monitor closes the connection.
        self.io
            .mail
            .send(&pid, |env| (atoms::accept(), listener, handle).encode(env));
    }

    fn accept_for_context(&mut self, token: usize, listener: &Arc<Listener>) {
        for _ in 0..ACCEPTS {
            let mut state = listener.lock();
            match state.accept() {
                Accepted::Socket(socket, peer) => {
                    drop(state);
                    let conn = Connection::new(
                        socket,
                        Phase::Open,
                        listener.settings.clone(),
                        Owner::Protocol(ProtocolOwner::new(Arc::as_ptr(listener) as usize, peer)),
                        Arc::clone(&self.handle),
                        Some(Arc::clone(&listener.group)),
                    );
                    self.adopt(conn);
                }
                Accepted::Blocked => {
                    if let Some(Entry::Served(_, readable)) = self.lookup(token) {
                        *readable = false;
                    }
                    return;
                }
                Accepted::Closed => {
                    drop(state);
                    self.remove(token);
                    return;
                }
                Accepted::Starved(error) => {
                    report_starved(&mut state.starved, &error);
                    drop(state);
                    self.rest(token);
                    return;
                }
            }
        }
        self.accepting.push(token);
    }

    fn serve(
        &mut self,
        handle: &ResourceArc<ListenerHandle>,
        factory: &str,
        reporter: &mut Reporter,
    ) {
        let Some(turn) = &mut self.io.turn else {
            return;
        };
        let listener = Arc::clone(&handle.0);
        if let Err(error) = turn.load(Arc::as_ptr(&listener) as usize, factory) {
            reporter.failed(&error);
            return;
        }
        listener.lock().add_context(&self.handle);
        let token = self.insert(Entry::Served(Arc::clone(&listener), true));
        self.register_listener(&listener, token);
        reporter.serving(handle);
        self.accept(token);
    }

    // ---- ends -----------------------------------------------------------------

    fn drain(&mut self, group: &Arc<Group>) {
        for (_, (_, entry)) in &self.entries {
            if let Entry::Connection(conn) = entry {
                if conn.group().is_some_and(|other| Arc::ptr_eq(other, group)) {
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
        self.wheel.arm(until, Timed::Deadline);
        let mut listeners = Vec::new();
        for (index, (generation, entry)) in &self.entries {
            match entry {
                Entry::Connection(conn) => self.ready.push(Arc::clone(conn)),
                _ => listeners.push(join(index, *generation)),
            }
        }
        for token in listeners {
            match self.lookup(token) {
                Some(Entry::Served(listener, _)) => {
                    let listener = Arc::clone(listener);
                    let fd = listener.lock().fd();
                    if let Some(fd) = fd {
                        // Others may go on accepting from it: only this loop looks away.
                        let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
                    }
                }
                Some(Entry::Listener(listener)) => {
                    let listener = Arc::clone(listener);
                    listener.lock().close();
                    self.turn_away(&listener);
                }
                _ => {}
            }
            self.remove(token);
        }
    }

    fn finished(&mut self) -> bool {
        match self.stop_at {
            None => false,
            Some(until) => self.entries.is_empty() || until <= Instant::now(),
        }
    }

    /// Ends what is left, each connection in its owner's way.
    fn end(&mut self) {
        if let Some(turn) = &mut self.io.turn {
            let left = self
                .entries
                .iter()
                .filter_map(|(_, (_, entry))| match entry {
                    Entry::Connection(conn) => Some(Arc::clone(conn)),
                    _ => None,
                });
            turn.lose_all(left.collect());
        }
        for (_, (_, entry)) in &self.entries {
            if let Entry::Connection(conn) = entry {
                let mut state = conn.lock();
                match state.owner {
                    Owner::Protocol(_) => {}
                    _ => process::abandon(conn, &mut state, &mut self.io),
                }
            }
        }
        self.io.mail.clear();
    }
}

impl Drop for EventLoop {
    /// However it ended: no fd stays open, and nobody waits for it.
    fn drop(&mut self) {
        self.handle.close();
        for (_, (_, entry)) in &self.entries {
            if let Entry::Connection(conn) = entry {
                conn.lock().close_fd();
            }
        }
    }
}

/// Closes a listening socket; its connections go on.
pub fn close_listener(listener: &Arc<Listener>) {
    let contexts = listener.lock().close();
    for handle in contexts {
        handle.tell(Command::KickListener(Arc::clone(listener)));
    }
    kick_listener(listener);
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

fn report_starved(starved: &mut bool, error: &io::Error) {
    if !std::mem::replace(starved, true) {
        tracing::warn!(%error, "cannot accept: out of resources; trying again until there are some");
    }
}

fn join(index: usize, generation: u32) -> usize {
    (generation as usize) << 32 | index
}

fn split(token: usize) -> (usize, u32) {
    (token & 0xffff_ffff, (token >> 32) as u32)
}

// Tokens hold an index and a generation, 32 bits each.
const _: () = assert!(usize::BITS == 64);
