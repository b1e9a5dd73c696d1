//! Datagram sockets that a process has: one after the other, each as long as it likes.
//!
//! A session is one process's time with the socket. What is called with the handle of one that is over
//! finds it closed, though the socket is open for the next one.

use std::net::SocketAddr;
use std::sync::{Arc, MutexGuard};
use std::time::Instant;

use rustler::{Binary, Encoder, Env, LocalPid, Monitor, Resource, ResourceArc, Term};

use crate::command::Command;
use crate::connection::{next_id, Active, Traffic};
use crate::counters;
use crate::datagram::{is_of_a_peer, receive, transmit, Datagrams, Sent};
use crate::error::{Cause, Reason};
use crate::event_loop::kick_listener;
use crate::group::Slot;
use crate::listener::{ListenState, Listener};
use crate::nif::encode_socket_address;
use crate::owner::LoopIo;
use crate::process::mailbox::Mailbox;
use crate::process::{atom, outcome, to_binary, Answer, ListenerHandle, SCRATCH};
use crate::runtime;

mod atoms {
    rustler::atoms! {
        udp,
        udp_closed,
        udp_error,
        udp_passive,
        accept = "$reactor_accept",
        datagram = "$reactor_datagram",
        pressure = "$reactor_pressure",
        recv_error = "$reactor_recv_error",
        sent = "$reactor_sent",
    }
}

/// One process's time with a socket.
pub struct Session {
    /// Unique in this VM, as that of a connection.
    pub id: u64,
    /// Who has it.
    pub pid: LocalPid,
    /// Since when.
    pub born: Instant,
    /// What went through in that time. Reads and writes are datagrams.
    pub traffic: Traffic,
    /// What it wants to be sent unasked.
    pub active: Active,
    /// How long a sender waits for room, in ms; 0 for as long as it takes. Kept for the sender.
    pub send_timeout: u32,
    monitor: Monitor,
    handle: ResourceArc<DatagramHandle>,
    /// Given up with the session.
    _slot: Slot,
    reader: Option<LocalPid>,
    senders: Vec<LocalPid>,
    mailbox: Mailbox,
    /// It is to end, or has; the loop sees to it.
    over: Option<Cause>,
    /// It was told that nothing comes any more.
    told: bool,
}

/// What Elixir holds of a session.
pub struct DatagramHandle {
    /// Whose socket it is.
    pub listener: Arc<Listener>,
    /// Which session.
    pub id: u64,
}

impl DatagramHandle {
    fn kick(&self) {
        kick_listener(&self.listener);
    }
}

impl Drop for DatagramHandle {
    fn drop(&mut self) {
        counters::HANDLES_FREED.add();
    }
}

#[rustler::resource_impl]
impl Resource for DatagramHandle {
    fn down<'a>(&'a self, _env: Env<'a>, _pid: LocalPid, monitor: Monitor) {
        let mut state = self.listener.lock();
        let session = state.datagrams().and_then(|(_, own, _)| own.of(self.id));
        if let Some(session) = session {
            if session.monitor == monitor {
                session.over = Some(Cause::OwnerDown);
                drop(state);
                self.kick();
            }
        }
    }
}

/// The socket's term in messages and answers.
pub fn socket_term<'a>(env: Env<'a>, handle: &ResourceArc<DatagramHandle>) -> Term<'a> {
    (atoms::udp(), handle).encode(env)
}

impl Datagrams {
    /// The session of that number, while it goes on.
    pub fn of(&mut self, id: u64) -> Option<&mut Session> {
        let session = self.session.as_deref_mut();
        session.filter(|session| session.id == id && session.over.is_none())
    }
}

/// Does something with a session that goes on, or finds it closed.
pub fn with_session<T>(
    handle: &DatagramHandle,
    run: impl FnOnce(&mut Session) -> T,
) -> Result<T, Reason> {
    let mut state = handle.listener.lock();
    let (_, own, _) = state.datagrams().ok_or(Reason::Closed)?;
    own.of(handle.id).map(run).ok_or(Reason::Closed)
}

// ---- called by NIFs ---------------------------------------------------------

/// Receives one datagram on the calling thread, or leaves word with the loop.
pub fn recv<'a>(
    handle: &DatagramHandle,
    env: Env<'a>,
    pid: LocalPid,
) -> Result<Answer<(SocketAddr, Binary<'a>)>, Reason> {
    let mut state = handle.listener.lock();
    let (socket, own, readable) = state.datagrams().ok_or(Reason::Closed)?;
    let draining = own.draining;
    let session = own.of(handle.id).ok_or(Reason::Closed)?;
    if draining {
        return Err(Reason::Closed);
    }
    if session.active != Active::Off {
        return Err(Reason::Invalid);
    }
    let waits = |reader: LocalPid| reader != pid && reader.is_alive(env);
    if session.reader.is_some_and(waits) {
        return Err(Reason::Already);
    }
    session.reader = None;
    if *readable {
        let got = SCRATCH.with_borrow_mut(|scratch| {
            let got = receive(socket, scratch)?;
            Ok(got.map(|(n, from)| (from, to_binary(env, &scratch[..n]))))
        });
        match got {
            Ok(Some((from, data))) => {
                session.received(data.len());
                return Ok(Answer::Done((from, data)));
            }
            Ok(None) => *readable = false,
            Err(reason) => return Err(reason),
        }
    }
    session.reader = Some(pid);
    Ok(Answer::Wait)
}

/// Forgets a waiting `recv`; false when its message is already on its way.
pub fn recv_cancel(handle: &DatagramHandle, pid: LocalPid) -> bool {
    let cancelled = with_session(handle, |session| {
        session.reader.take_if(|reader| *reader == pid).is_some()
    });
    cancelled.unwrap_or(false)
}

/// Sends one datagram: from the calling thread, or by way of the queue. `Again` when that is full: a message
/// comes when there is room.
pub fn send(
    handle: &DatagramHandle,
    pid: LocalPid,
    to: SocketAddr,
    data: &[u8],
) -> Result<Answer<()>, Reason> {
    let mut state = handle.listener.lock();
    let (socket, own, _) = state.datagrams().ok_or(Reason::Closed)?;
    own.of(handle.id).ok_or(Reason::Closed)?;
    let sent = own
        .outbox
        .send(to, data, |to, data| transmit(socket, to, data))?;
    let session = own.of(handle.id).ok_or(Reason::Closed)?;
    match sent {
        Sent::Now => session.sent(data.len()),
        Sent::Queued => {}
        Sent::Full => {
            session.senders.push(pid);
            return Ok(Answer::Again);
        }
    }
    Ok(Answer::Done(()))
}

/// Forgets that a process waits to send; false when its message is already on its way.
pub fn send_cancel(handle: &DatagramHandle, pid: LocalPid) -> bool {
    let cancelled = with_session(handle, |session| {
        let before = session.senders.len();
        session.senders.retain(|sender| *sender != pid);
        before != session.senders.len()
    });
    cancelled.unwrap_or(false)
}

/// Changes the mode.
pub fn set_active(handle: &DatagramHandle, active: Active) -> Result<(), Reason> {
    let set = with_session(handle, |session| {
        if session.reader.is_some() && active != Active::Off {
            return Err(Reason::Invalid);
        }
        session.active = active;
        Ok(())
    });
    set??;
    handle.kick();
    Ok(())
}

/// Makes another process the owner.
pub fn transfer(
    handle: &ResourceArc<DatagramHandle>,
    env: Env,
    from: LocalPid,
    to: LocalPid,
) -> Result<(), Reason> {
    let moved = with_session(handle, |session| {
        if session.pid != from {
            return Err(Reason::NotOwner);
        }
        let monitor = handle.monitor(Some(env), &to).ok_or(Reason::Invalid)?;
        handle.demonitor(Some(env), &session.monitor);
        session.pid = to;
        session.monitor = monitor;
        session.mailbox = Mailbox::new();
        Ok(())
    });
    moved??;
    handle.kick();
    Ok(())
}

/// Gives the socket up; the next one gets it.
pub fn close(handle: &DatagramHandle) {
    // One that is over is closed already.
    if with_session(handle, |session| session.over = Some(Cause::Local)).is_ok() {
        handle.kick();
    }
}

/// The owner takes what it is sent.
pub fn relieve(handle: &DatagramHandle) {
    if with_session(handle, |session| session.mailbox.relieved()) == Ok(true) {
        handle.kick();
    }
}

/// Nobody looks any more whether the owner takes what it is sent.
pub fn relieve_owner(listener: &Arc<Listener>) {
    let mut state = listener.lock();
    let own = state.datagrams.as_deref_mut();
    let session = own.and_then(|own| own.session.as_deref_mut());
    let look = session.is_some_and(|session| session.mailbox.relieved());
    drop(state);
    if look {
        kick_listener(listener);
    }
}

/// Stops reading: who has the socket is told, and may still send. Nobody gets it any more, and it closes
/// with its last user.
pub fn drain(listener: &Arc<Listener>) {
    let mut state = listener.lock();
    if let Some(own) = &mut state.datagrams {
        own.draining = true;
        if own.session.is_none() && own.contexts.is_empty() {
            state.close();
        }
    }
    drop(state);
    tell_users(listener);
}

/// Ends whoever has the socket, and forgets what it still had to send.
pub fn cut(listener: &Arc<Listener>) {
    if let Some(own) = &mut listener.lock().datagrams {
        own.outbox.clear();
        own.cuts += 1;
        if let Some(session) = &mut own.session {
            session.over = Some(Cause::Cut);
        }
    }
    tell_users(listener);
}

/// Has every loop that has the socket look at it.
fn tell_users(listener: &Arc<Listener>) {
    for handle in listener.group.contexts() {
        handle.tell(Command::KickListener(Arc::clone(listener)));
    }
    kick_listener(listener);
}

impl Session {
    fn received(&mut self, bytes: usize) {
        self.traffic.received += bytes as u64;
        self.traffic.reads += 1;
    }

    fn sent(&mut self, bytes: usize) {
        self.traffic.sent += bytes as u64;
        self.traffic.writes += 1;
    }
}

// ---- called by the loop -----------------------------------------------------

/// What the loop has to do about a socket that it has advanced.
pub enum Step {
    /// Wait for the next event.
    Idle,
    /// Look again soon.
    Again,
    /// Look again then.
    Later(Instant),
    /// It is closed: forget it.
    Gone,
}

/// Does what can be done for a socket.
pub fn advance(listener: &Arc<Listener>, io: &mut LoopIo) -> Step {
    let mut state = listener.lock();
    flush(&mut state, io);
    if let Some(ended) = end(listener, &mut state, io) {
        // Giving up its place may kick this listener: not under the lock.
        drop(state);
        drop(ended);
        state = listener.lock();
    }
    let Some((_, own, _)) = state.datagrams() else {
        return Step::Gone;
    };
    if own.draining {
        return leave(&mut state, io, listener.group.farewell());
    }
    if own.session.is_none() {
        if let Some(later) = own.pauses.left(io.now) {
            return Step::Later(later);
        }
        state = hand_out(listener, state, io);
    }
    deliver(&mut state, io)
}

/// Sends what waits, and tells those who wait for room.
fn flush(state: &mut ListenState, io: &mut LoopIo) {
    let Some((socket, own, _)) = state.datagrams() else {
        return;
    };
    let Datagrams {
        outbox, session, ..
    } = own;
    let mut failed = Vec::new();
    outbox.flush(
        |to, data| transmit(socket, to, data),
        |bytes, result| match (result, session.as_deref_mut()) {
            (Ok(()), Some(session)) => session.sent(bytes),
            (Err(reason), _) => failed.push(reason),
            (Ok(()), None) => {}
        },
    );
    let Some(session) = session else {
        return;
    };
    for reason in failed {
        session.tell_error(io, reason);
    }
    if !outbox.is_full() {
        session.tell_senders(io, Ok(()));
    }
}

/// Ends a session that is over, or whose socket is closed. What it sent stays queued.
fn end(listener: &Arc<Listener>, state: &mut ListenState, io: &mut LoopIo) -> Option<Box<Session>> {
    let closed = state.fd().is_none();
    let own = state.datagrams.as_deref_mut()?;
    let session = own.session.as_deref_mut()?;
    let cause = match session.over {
        Some(cause) => cause,
        None if closed => Cause::Drained,
        None => return None,
    };
    let mut session = own.session.take()?;
    // Who closed it knows.
    let knows = matches!(cause, Cause::Local | Cause::OwnerDown) && !closed;
    session.tell_closed(io, knows);
    session.tell_senders(io, Err(Reason::Closed));
    own.pauses.ended(session.traffic.reads > 0, io.now);
    let traffic = session.traffic;
    let group = &listener.group;
    group.add_traffic(traffic.received, traffic.sent);
    let cause = if own.draining && cause != Cause::Cut {
        Cause::Drained
    } else {
        cause
    };
    io.reports
        .ended(group, session.id, cause, traffic, session.born);
    Some(session)
}

/// Closes a socket that nobody gets any more, when nobody has it.
fn leave(state: &mut ListenState, io: &mut LoopIo, farewell: bool) -> Step {
    let Some((_, own, _)) = state.datagrams() else {
        return Step::Gone;
    };
    match own.session.as_deref_mut() {
        Some(session) => {
            session.tell_closed(io, farewell);
            Step::Idle
        }
        None if !own.contexts.is_empty() => Step::Idle,
        // What the kernel does not take now, nobody waits for.
        None => {
            state.close();
            Step::Gone
        }
    }
}

/// Gives the socket to the oldest process that waits for it, and lives.
fn hand_out<'a>(
    listener: &'a Arc<Listener>,
    mut state: MutexGuard<'a, ListenState>,
    io: &mut LoopIo,
) -> MutexGuard<'a, ListenState> {
    let settings = listener.group.settings();
    while let Some(waiter) = state.waiters.pop_front() {
        counters::HANDLES_MADE.add();
        let handle = ResourceArc::new(DatagramHandle {
            listener: Arc::clone(listener),
            id: next_id(),
        });
        let monitor = io.mail.with_caller(|env| handle.monitor(env, &waiter.pid));
        let Some(monitor) = monitor else {
            continue;
        };
        let session = Session {
            id: handle.id,
            pid: waiter.pid,
            born: Instant::now(),
            traffic: Traffic::default(),
            active: settings.active,
            send_timeout: settings.send_timeout,
            monitor,
            handle,
            _slot: listener.group.enter(),
            reader: None,
            senders: Vec::new(),
            mailbox: Mailbox::new(),
            over: None,
            told: false,
        };
        io.reports
            .began(&listener.group, session.id, None, session.born);
        announce(io, waiter.pid, &waiter.handle, &session);
        if let Some(own) = &mut state.datagrams {
            own.session = Some(Box::new(session));
        }
        break;
    }
    state
}

fn announce(
    io: &mut LoopIo,
    pid: LocalPid,
    listener: &ResourceArc<ListenerHandle>,
    session: &Session,
) {
    io.mail.send(&pid, |env| {
        let socket = socket_term(env, &session.handle);
        (atoms::accept(), listener, socket).encode(env)
    });
}

fn deliver(state: &mut ListenState, io: &mut LoopIo) -> Step {
    for _ in 0..io.deliveries {
        let Some((socket, own, readable)) = state.datagrams() else {
            return Step::Gone;
        };
        let full = own.outbox.is_full();
        let Some(session) = own.session.as_deref_mut() else {
            return Step::Idle;
        };
        if !session.wants(io, full) || !*readable {
            return Step::Idle;
        }
        match receive(socket, &mut io.scratch) {
            Ok(Some((n, from))) => {
                let scratch = std::mem::take(&mut io.scratch);
                session.received(n);
                session.tell(io, from, &scratch[..n]);
                io.scratch = scratch;
            }
            Ok(None) => *readable = false,
            Err(reason) => {
                session.tell_error(io, reason);
                if !is_of_a_peer(reason) {
                    // It may be so again at once: the next event tells.
                    *readable = false;
                }
            }
        }
    }
    Step::Again
}

impl Session {
    /// True when there is somebody for the next datagram.
    fn wants(&mut self, io: &LoopIo, full: bool) -> bool {
        if let Some(reader) = self.reader {
            // One that was killed while it waited leaves it to the next.
            if reader == self.pid || io.mail.is_alive(&reader) {
                return true;
            }
            self.reader = None;
        }
        // Who answers and waits for room must not pile up its input.
        self.active != Active::Off && !full && !self.mailbox.is_watched()
    }

    fn tell(&mut self, io: &mut LoopIo, from: SocketAddr, data: &[u8]) {
        if let Some(reader) = self.reader.take() {
            let id = self.id;
            io.mail.send(&reader, |env| {
                let data = to_binary(env, data);
                (
                    atoms::datagram(),
                    id,
                    encode_socket_address(env, from),
                    data,
                )
                    .encode(env)
            });
            return;
        }
        self.message(io, |env, socket| {
            let data = to_binary(env, data);
            (atoms::udp(), socket, encode_socket_address(env, from), data).encode(env)
        });
        match self.active {
            Active::Once => self.active = Active::Off,
            Active::Count(1) => {
                self.active = Active::Off;
                self.message(io, |env, socket| (atoms::udp_passive(), socket).encode(env));
            }
            Active::Count(n) => self.active = Active::Count(n - 1),
            Active::On => self.watch(io, data.len()),
            Active::Off => {}
        }
    }

    /// Nothing slows down who sends to an owner in `active: true` but this.
    fn watch(&mut self, io: &mut LoopIo, bytes: usize) {
        self.mailbox.sent(bytes);
        let Some(runtime) = runtime::report_to() else {
            return;
        };
        if self.mailbox.is_due() {
            let (pid, handle) = (self.pid, &self.handle);
            io.mail.send(&runtime, |env| {
                (atoms::pressure(), pid, socket_term(env, handle)).encode(env)
            });
        }
    }

    fn tell_error(&mut self, io: &mut LoopIo, reason: Reason) {
        if self.active != Active::Off {
            self.message(io, |env, socket| {
                (atoms::udp_error(), socket, atom(env, reason)).encode(env)
            });
        } else {
            self.tell_reader(io, reason);
        }
    }

    /// Nothing comes any more. An owner in active mode that hears of that in another way is not told.
    fn tell_closed(&mut self, io: &mut LoopIo, farewell: bool) {
        self.tell_reader(io, Reason::Closed);
        if self.told || farewell || self.active == Active::Off {
            return;
        }
        self.told = true;
        self.message(io, |env, socket| (atoms::udp_closed(), socket).encode(env));
    }

    fn tell_reader(&mut self, io: &mut LoopIo, reason: Reason) {
        let Some(reader) = self.reader.take() else {
            return;
        };
        let id = self.id;
        io.mail.send(&reader, |env| {
            (atoms::recv_error(), id, atom(env, reason)).encode(env)
        });
    }

    fn tell_senders(&mut self, io: &mut LoopIo, result: Result<(), Reason>) {
        for sender in std::mem::take(&mut self.senders) {
            let handle = &self.handle;
            io.mail.send(&sender, |env| {
                let socket = socket_term(env, handle);
                (atoms::sent(), socket, outcome(env, result)).encode(env)
            });
        }
    }

    fn message<F>(&self, io: &mut LoopIo, build: F)
    where
        F: for<'a> FnOnce(Env<'a>, Term<'a>) -> Term<'a>,
    {
        io.mail
            .send(&self.pid, |env| build(env, socket_term(env, &self.handle)));
    }
}
