//! Connections owned by a process: demand, delivery, waiting senders.
//!
//! Messages are sent by loop threads only, while they hold the connection's
//! lock: so what the owner sees is in the order of the stream.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

use rustler::{
    Atom, Binary, Encoder, Env, LocalPid, Monitor, NewBinary, Resource, ResourceArc, Term,
};

use crate::connection::{Active, Level, Phase, Pull, State};
use crate::counters;
use crate::error::Reason;
use crate::listener::Listener;
use crate::owner::{flush_last, kick, Conn, LoopIo, Next, Owner, READ_SIZE};

mod atoms {
    rustler::atoms! {
        ok,
        error,
        tcp,
        tcp_closed,
        tcp_error,
        tcp_passive,
        data = "$reactor_data",
        recv_error = "$reactor_recv_error",
        sent = "$reactor_sent",
        connect = "$reactor_connect",
    }
}

/// How many messages one connection may deliver in one turn of its loop.
pub const DELIVERIES: usize = 16;

/// The owner of a connection, when it is a process.
pub struct ProcessOwner {
    /// Who it is.
    pub pid: LocalPid,
    monitor: Monitor,
    /// Kept so that messages can name the socket; let go when the connection ends.
    handle: ResourceArc<Handle>,
    /// It was given data and has not come back for more.
    at_work: Option<u32>,
    /// Who waits in `recv`.
    reader: Option<LocalPid>,
    /// Who waits for the write queue to shrink.
    senders: Vec<LocalPid>,
}

/// A process that waits in `accept`.
pub struct Acceptor {
    /// Who it is.
    pub pid: LocalPid,
    /// The listener's term in the answer.
    pub handle: ResourceArc<ListenerHandle>,
}

/// What Elixir holds of a connection.
pub struct Handle(pub Arc<Conn>);

/// What Elixir holds of a listener.
pub struct ListenerHandle(pub Arc<Listener>);

impl Handle {
    fn new(conn: &Arc<Conn>) -> ResourceArc<Handle> {
        counters::HANDLES_MADE.add();
        ResourceArc::new(Handle(Arc::clone(conn)))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        counters::HANDLES_FREED.add();
    }
}

#[rustler::resource_impl]
impl Resource for Handle {
    fn down<'a>(&'a self, _env: Env<'a>, _pid: LocalPid, monitor: Monitor) {
        let mut state = self.0.lock();
        let current = matches!(&state.owner, Owner::Process(owner) if owner.monitor == monitor);
        if current {
            // The loop flushes what is queued and closes. It also drops the
            // owner: the handle in it may be the last one, and this is it.
            state.close(Instant::now());
            drop(state);
            kick(&self.0);
        }
    }
}

impl ListenerHandle {
    /// Wraps a listener for Elixir.
    pub fn make(listener: Arc<Listener>) -> ResourceArc<ListenerHandle> {
        counters::HANDLES_MADE.add();
        ResourceArc::new(ListenerHandle(listener))
    }
}

impl Drop for ListenerHandle {
    fn drop(&mut self) {
        // Nobody can ask for its connections any more.
        crate::event_loop::close_listener(&self.0);
        counters::HANDLES_FREED.add();
    }
}

#[rustler::resource_impl]
impl Resource for ListenerHandle {
    fn down<'a>(&'a self, _env: Env<'a>, _pid: LocalPid, _monitor: Monitor) {
        crate::event_loop::close_listener(&self.0);
    }
}

/// Gives a connection to a process. `None` when that process is dead: then nobody owns it.
pub fn give(conn: &Arc<Conn>, env: Option<Env>, pid: LocalPid) -> Option<ResourceArc<Handle>> {
    let handle = Handle::new(conn);
    // Under the lock, so that a `down` that comes at once finds the owner set.
    let mut state = conn.lock();
    let monitor = handle.monitor(env, &pid)?;
    state.owner = Owner::Process(Box::new(ProcessOwner {
        pid,
        monitor,
        handle: handle.clone(),
        at_work: None,
        reader: None,
        senders: Vec::new(),
    }));
    drop(state);
    Some(handle)
}

/// Moves a connection from the calling owner to another process.
pub fn transfer(
    handle: &ResourceArc<Handle>,
    env: Env,
    from: LocalPid,
    to: LocalPid,
) -> Result<(), Reason> {
    let mut state = handle.0.lock();
    state.socket()?;
    let Owner::Process(owner) = &mut state.owner else {
        return Err(Reason::Closed);
    };
    if owner.pid != from {
        return Err(Reason::NotOwner);
    }
    let monitor = handle.monitor(Some(env), &to).ok_or(Reason::Invalid)?;
    handle.demonitor(Some(env), &owner.monitor);
    owner.pid = to;
    owner.monitor = monitor;
    came_back(&handle.0, &mut state);
    Ok(())
}

// ---- called by NIFs ---------------------------------------------------------

thread_local! {
    /// What a scheduler thread reads into.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_SIZE]);
}

/// What a call from Elixir brought.
pub enum Answer<T> {
    /// Done.
    Done(T),
    /// A message will come.
    Wait,
    /// Nothing was taken: a message will come, then try again.
    Again,
}

/// `recv`: reads what is there on the calling thread, or leaves word with the loop.
pub fn recv<'a>(
    conn: &Arc<Conn>,
    env: Env<'a>,
    pid: LocalPid,
    length: usize,
) -> Result<Answer<Binary<'a>>, Reason> {
    let mut state = conn.lock();
    state.socket()?;
    match state.phase {
        Phase::Open => {}
        Phase::Connecting => return Err(Reason::Errno(libc::ENOTCONN)),
        _ => return Err(Reason::Closed),
    }
    let framed = state.settings.framing != crate::framing::Framing::Raw;
    if state.settings.active != Active::Off || (framed && length > 0) {
        return Err(Reason::Invalid);
    }
    if length > crate::framing::MAX_PACKET {
        return Err(Reason::Errno(libc::ENOMEM));
    }
    if let (Some(_), Owner::Process(owner)) = (state.wanted, &state.owner) {
        // One that died while it waited does not keep the others from reading.
        let waits = |reader: LocalPid| reader == pid || reader.is_alive(env);
        if owner.reader.is_some_and(waits) {
            return Err(Reason::Already);
        }
    }
    came_back(conn, &mut state);
    if state.ended {
        state.close(Instant::now());
        drop(state);
        kick(conn);
        return Err(Reason::Closed);
    }
    if state.may_read() {
        let pulled = SCRATCH.with_borrow_mut(|scratch| match state.pull(length, scratch) {
            Pull::Data(data) => Ok(Some(to_binary(env, data))),
            Pull::Blocked => Ok(None),
            Pull::End(reason) => Err(reason),
        });
        match pulled {
            Ok(Some(binary)) => return Ok(Answer::Done(binary)),
            Ok(None) => {}
            Err(reason) => {
                state.close(Instant::now());
                drop(state);
                kick(conn);
                return Err(reason.folded());
            }
        }
    }
    let Owner::Process(owner) = &mut state.owner else {
        return Err(Reason::Closed);
    };
    owner.reader = Some(pid);
    state.wanted = Some(length);
    drop(state);
    if conn.draining() {
        kick(conn);
    }
    conn.home().counter.help(env);
    Ok(Answer::Wait)
}

/// It does not count as a handler that will come for more any longer.
pub fn came_back(conn: &Conn, state: &mut State<Owner>) {
    if let Owner::Process(owner) = &mut state.owner {
        if let Some(era) = owner.at_work.take() {
            conn.home().counter.came_back(era);
        }
    }
}

/// Forgets a waiting `recv`; false when its message is already on its way.
pub fn recv_cancel(conn: &Conn, pid: LocalPid) -> bool {
    let mut state = conn.lock();
    let waiting = match &mut state.owner {
        Owner::Process(owner) => owner.reader.take_if(|reader| *reader == pid).is_some(),
        _ => false,
    };
    if waiting {
        state.wanted = None;
    }
    waiting
}

/// `send`: writes on the calling thread; what the kernel does not take is queued.
pub fn send(conn: &Arc<Conn>, pid: LocalPid, data: &[u8]) -> Result<Answer<()>, Reason> {
    let mut state = conn.lock();
    let full = state.congested();
    if full && state.phase == Phase::Open {
        came_back(conn, &mut state);
        wait_to_send(&mut state, pid)?;
        return Ok(Answer::Again);
    }
    match state.send(data).map_err(Reason::folded)? {
        Level::Empty | Level::Below => Ok(Answer::Done(())),
        Level::Above => {
            // Its peer decides when it comes for more.
            came_back(conn, &mut state);
            wait_to_send(&mut state, pid)?;
            Ok(Answer::Wait)
        }
    }
}

fn wait_to_send(state: &mut State<Owner>, pid: LocalPid) -> Result<(), Reason> {
    match &mut state.owner {
        Owner::Process(owner) => {
            owner.senders.push(pid);
            Ok(())
        }
        _ => Err(Reason::Closed),
    }
}

/// Forgets that a process waits to send; false when its message is already on its way.
pub fn send_cancel(conn: &Conn, pid: LocalPid) -> bool {
    let mut state = conn.lock();
    let Owner::Process(owner) = &mut state.owner else {
        return false;
    };
    let before = owner.senders.len();
    owner.senders.retain(|sender| *sender != pid);
    before != owner.senders.len()
}

/// `close`: the queue is flushed, then the fd is closed. Waiting callers are told by the loop.
pub fn close(conn: &Arc<Conn>) {
    let mut state = conn.lock();
    state.close(Instant::now());
    drop(state);
    kick(conn);
}

// ---- called by the loop -----------------------------------------------------

/// Does what can be done for a process's connection.
pub fn advance(conn: &Arc<Conn>, state: &mut State<Owner>, io: &mut LoopIo) -> Next {
    if state.phase == Phase::Connecting && !finish_connect(state, io) {
        return Next::Idle;
    }
    if state.may_flush() {
        let flushed = state.flush();
        match flushed {
            Ok(Level::Above) => {}
            Ok(_) => tell_senders(state, io, Ok(())),
            Err(reason) => tell_senders(state, io, Err(reason.folded())),
        }
    }
    if state.phase == Phase::Open && state.ended {
        let over = state.deadline.is_some_and(|deadline| deadline <= io.now);
        if !over && !io.stopping && !conn.draining() {
            return Next::Idle;
        }
        state.close(io.now);
    }
    if state.phase == Phase::Open {
        let next = deliver(conn, state, io);
        if let (true, Some(deadline)) = (state.ended, state.deadline) {
            state.armed = true;
            return Next::Linger(deadline);
        }
        if state.phase == Phase::Open {
            return next;
        }
    }
    tell_reader_end(conn, state, io, Reason::Closed);
    tell_senders(state, io, Err(Reason::Closed));
    came_back(conn, state);
    state.owner = Owner::Nobody;
    flush_last(state, io.now)
}

/// Ends a connection whose loop ends: whoever waits is told.
pub fn abandon(conn: &Conn, state: &mut State<Owner>, io: &mut LoopIo) {
    if state.phase == Phase::Connecting {
        message(state, io, |env, socket| {
            (atoms::connect(), socket, outcome(env, Err(Reason::Closed))).encode(env)
        });
    }
    if state.phase == Phase::Open {
        end_stream(conn, state, io, Reason::Closed);
    }
    tell_senders(state, io, Err(Reason::Closed));
    came_back(conn, state);
    state.close_fd();
    state.owner = Owner::Nobody;
}

/// True when the connection is established or has failed, and the owner knows.
fn finish_connect(state: &mut State<Owner>, io: &mut LoopIo) -> bool {
    if !state.writable {
        return false;
    }
    let result = state.finish_connect();
    if result.is_err() {
        state.close_fd();
    }
    message(state, io, |env, socket| {
        (atoms::connect(), socket, outcome(env, result)).encode(env)
    });
    true
}

fn deliver(conn: &Arc<Conn>, state: &mut State<Owner>, io: &mut LoopIo) -> Next {
    for _ in 0..io.deliveries {
        let asked = state.wanted;
        // A sender that waits reads no more: an owner that echoes must not pile up its input.
        let unasked = state.settings.active != Active::Off && !state.congested();
        if asked.is_none() && !unasked {
            return Next::Idle;
        }
        let mut scratch = std::mem::take(&mut io.scratch);
        let end = deliver_one(conn, state, io, asked, &mut scratch);
        io.scratch = scratch;
        match end {
            Ok(true) => {}
            Ok(false) => {
                if (conn.draining() || io.stopping) && state.idle() {
                    end_stream(conn, state, io, Reason::Closed);
                }
                return Next::Idle;
            }
            Err(reason) => {
                end_stream(conn, state, io, reason);
                return Next::Idle;
            }
        }
    }
    Next::Again
}

/// Delivers one message: false when there is none.
fn deliver_one(
    conn: &Conn,
    state: &mut State<Owner>,
    io: &mut LoopIo,
    asked: Option<usize>,
    scratch: &mut [u8],
) -> Result<bool, Reason> {
    let (owner_pid, reader) = match &state.owner {
        Owner::Process(owner) => (owner.pid, owner.reader),
        _ => return Err(Reason::Closed),
    };
    let length = asked.unwrap_or(0);
    if asked.is_some() {
        let id = conn.id;
        match state.pull(length, scratch) {
            Pull::Data(data) => io.mail.send(&reader.unwrap_or(owner_pid), |env| {
                // Named by its number, which costs less in a message than a handle.
                (atoms::data(), id, to_binary(env, data)).encode(env)
            }),
            Pull::Blocked => return Ok(false),
            Pull::End(reason) => return Err(reason),
        }
        state.wanted = None;
        io.delivered += 1;
        if let Owner::Process(owner) = &mut state.owner {
            owner.reader = None;
            if owner.at_work.is_none() {
                owner.at_work = Some(conn.home().counter.went());
            }
        }
        return Ok(true);
    }
    let handle = match &state.owner {
        Owner::Process(owner) => owner.handle.clone(),
        _ => return Err(Reason::Closed),
    };
    match state.pull(length, scratch) {
        Pull::Data(data) => io.mail.send(&owner_pid, |env| {
            (atoms::tcp(), &handle, to_binary(env, data)).encode(env)
        }),
        Pull::Blocked => return Ok(false),
        Pull::End(reason) => return Err(reason),
    }
    match state.settings.active {
        Active::Count(n) if n > 1 => state.settings.active = Active::Count(n - 1),
        Active::Count(_) => {
            state.settings.active = Active::Off;
            message(state, io, |env, socket| {
                (atoms::tcp_passive(), socket).encode(env)
            });
        }
        Active::Once => state.settings.active = Active::Off,
        Active::On | Active::Off => {}
    }
    Ok(true)
}

/// Tells the owner, in the way it reads, that no more will come, and closes.
fn end_stream(conn: &Conn, state: &mut State<Owner>, io: &mut LoopIo, reason: Reason) {
    let reason = reason.folded();
    if state.settings.active != Active::Off {
        if reason != Reason::Closed {
            message(state, io, |env, socket| {
                (atoms::tcp_error(), socket, atom(env, reason)).encode(env)
            });
        }
        message(state, io, |env, socket| {
            (atoms::tcp_closed(), socket).encode(env)
        });
        if reason == Reason::Closed && !io.stopping && !conn.draining() {
            state.end(io.now);
            return;
        }
    }
    tell_reader_end(conn, state, io, reason);
    state.close(io.now);
}

fn tell_reader_end(conn: &Conn, state: &mut State<Owner>, io: &mut LoopIo, reason: Reason) {
    let Owner::Process(owner) = &mut state.owner else {
        return;
    };
    let Some(reader) = owner.reader.take() else {
        return;
    };
    state.wanted = None;
    let id = conn.id;
    io.mail.send(&reader, |env| {
        (atoms::recv_error(), id, atom(env, reason)).encode(env)
    });
}

fn tell_senders(state: &mut State<Owner>, io: &mut LoopIo, result: Result<(), Reason>) {
    let Owner::Process(owner) = &mut state.owner else {
        return;
    };
    for sender in std::mem::take(&mut owner.senders) {
        let handle = &owner.handle;
        io.mail.send(&sender, |env| {
            (atoms::sent(), handle, outcome(env, result)).encode(env)
        });
    }
}

fn message<F>(state: &State<Owner>, io: &mut LoopIo, build: F)
where
    F: for<'a> FnOnce(Env<'a>, Term<'a>) -> Term<'a>,
{
    if let Owner::Process(owner) = &state.owner {
        io.mail
            .send(&owner.pid, |env| build(env, owner.handle.encode(env)));
    }
}

// ---- terms ------------------------------------------------------------------

/// The reason as an atom.
pub fn atom(env: Env, reason: Reason) -> Atom {
    // The names are a fixed set of short ASCII words.
    Atom::from_str(env, reason.name()).unwrap_or_else(|_| atoms::error())
}

/// `:ok` or `{:error, reason}`.
pub fn outcome<'a>(env: Env<'a>, result: Result<(), Reason>) -> Term<'a> {
    match result {
        Ok(()) => atoms::ok().encode(env),
        Err(reason) => (atoms::error(), atom(env, reason)).encode(env),
    }
}

fn to_binary<'a>(env: Env<'a>, data: &[u8]) -> Binary<'a> {
    let mut binary = NewBinary::new(env, data.len());
    binary.as_mut_slice().copy_from_slice(data);
    binary.into()
}
