//! Connections owned by a process: demand, delivery, waiting senders.
//!
//! Messages are sent by loop threads only, while they hold the connection's
//! lock: so what the owner sees is in the order of the stream.

pub mod datagrams;
pub mod mailbox;

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, MutexGuard};
use std::time::Instant;

use rustler::{
    Atom, Binary, Encoder, Env, LocalPid, Monitor, NewBinary, Resource, ResourceArc, Term,
};

use crate::cell::Cell;
use crate::connection::{Active, Failure, Level, Phase, Pull, State};
use crate::counters;
use crate::error::{Cause, Reason};
use crate::file;
use crate::listener::Listener;
use crate::owner::{flush_last, kick, kick_quietly, Conn, LoopIo, Next, Owner, READ_SIZE};
use crate::python::protocol::ProtocolOwner;
use crate::tls::CHUNK;

use mailbox::Mailbox;

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
        accept_error = "$reactor_accept_error",
        retired,
        tls_alert,
    }
}

/// How many messages one connection may deliver in one turn of its loop.
pub const DELIVERIES: usize = 16;
/// The most of a file that one call sends through TLS, in bytes.
const FILE_PART: usize = 1024 * 1024;

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
    /// What waits for it, if it is in active mode.
    mailbox: Mailbox,
}

/// A process that waits in `accept`.
pub struct Acceptor {
    /// Who it is.
    pub pid: LocalPid,
    /// The listener's term in the answer.
    pub handle: ResourceArc<ListenerHandle>,
}

/// What Elixir holds of a connection.
pub struct Handle {
    /// The connection.
    pub conn: Arc<Conn>,
    /// What its users keep with it.
    pub cell: Cell,
}

/// What Elixir holds of a listener.
pub struct ListenerHandle(pub Arc<Listener>);

impl Handle {
    fn new(conn: &Arc<Conn>) -> ResourceArc<Handle> {
        counters::HANDLES_MADE.add();
        ResourceArc::new(Handle {
            conn: Arc::clone(conn),
            cell: Cell::default(),
        })
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
        let mut state = self.conn.lock();
        let current = match &state.owner {
            Owner::Process(owner) => owner.monitor == monitor,
            // Closed already, or a protocol's.
            _ => {
                drop(state);
                return self.cell.clear();
            }
        };
        if !current {
            return;
        }
        // The loop flushes what is queued and closes. It also drops the
        // owner: the handle in it may be the last one, and this is it.
        state.because(Cause::OwnerDown);
        close_and_kick(&self.conn, state);
        // What it kept may name this connection, and would keep it for ever.
        self.cell.clear();
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
        crate::event_loop::close_listener_at_once(&self.0);
        counters::HANDLES_FREED.add();
    }
}

#[rustler::resource_impl]
impl Resource for ListenerHandle {
    fn down<'a>(&'a self, _env: Env<'a>, _pid: LocalPid, _monitor: Monitor) {
        crate::event_loop::close_listener_at_once(&self.0);
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
        mailbox: Mailbox::new(),
    }));
    drop(state);
    Some(handle)
}

/// Gives a connection that nobody has accepted yet to the calling process. `None` when it is over.
pub fn take(conn: &Arc<Conn>, env: Env, pid: LocalPid) -> Option<ResourceArc<Handle>> {
    let waits = {
        let state = conn.lock();
        state.phase == Phase::Open && matches!(state.owner, Owner::Arriving(_))
    };
    if waits {
        give(conn, Some(env), pid)
    } else {
        None
    }
}

/// Tells acceptors that they are not needed any more: which ones were told.
pub fn retire(env: Env, mut retired: Vec<Acceptor>) -> Vec<LocalPid> {
    retired.retain(|acceptor| {
        let handle = &acceptor.handle;
        let message = (atoms::accept_error(), handle, atoms::retired()).encode(env);
        env.send(&acceptor.pid, message).is_ok()
    });
    retired.iter().map(|acceptor| acceptor.pid).collect()
}

/// Moves a connection from the calling owner to another process.
pub fn transfer(
    handle: &ResourceArc<Handle>,
    env: Env,
    from: LocalPid,
    to: LocalPid,
) -> Result<(), Reason> {
    let mut state = handle.conn.lock();
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
    // Whatever is being found out is about the other one.
    owner.mailbox = Mailbox::new();
    came_back(&handle.conn, &mut state);
    drop(state);
    kick(&handle.conn);
    Ok(())
}

/// Gives a connection of the calling owner's to a protocol, if nothing is under way on it. Its loop
/// has to move it to that protocol's.
pub fn give_up(conn: &Conn, from: LocalPid, to: ProtocolOwner) -> Result<(), Reason> {
    let mut state = conn.lock();
    state.socket()?;
    match &state.owner {
        Owner::Process(owner) if owner.pid != from => return Err(Reason::NotOwner),
        Owner::Process(_) => {}
        _ => return Err(Reason::Closed),
    }
    if state.phase != Phase::Open || state.ended {
        return Err(Reason::Closed);
    }
    let raw = state.settings.framing == crate::framing::Framing::Raw;
    let waits = matches!(&state.owner, Owner::Process(owner) if !owner.senders.is_empty());
    let busy = state.wanted.is_some() || waits || state.filing();
    if busy || state.settings.active != Active::Off || !raw {
        return Err(Reason::Invalid);
    }
    came_back(conn, &mut state);
    let before = std::mem::replace(&mut state.owner, Owner::Protocol(to));
    // The handle in it may be the last one: not under the lock.
    drop(state);
    drop(before);
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
        _ if is_protocols(&state) => return Err(Reason::Closed),
        Phase::Open => {}
        Phase::Connecting | Phase::Greeting => return Err(Reason::Errno(libc::ENOTCONN)),
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
            Err(Reason::Closed) => {
                state.end_reading();
                return Err(Reason::Closed);
            }
            Err(reason) => {
                close_and_kick(conn, state);
                return Err(reason.folded());
            }
        }
    }
    let Owner::Process(owner) = &mut state.owner else {
        return Err(Reason::Closed);
    };
    owner.reader = Some(pid);
    state.wanted = Some(length);
    state.awaiting(true);
    // So much is there already that it was not read in one go.
    let more = state.readable;
    drop(state);
    if more || conn.draining() {
        kick(conn);
    }
    conn.home().counter.help(env);
    Ok(Answer::Wait)
}

/// It counts as a handler that will come for more.
pub fn goes(conn: &Conn, state: &mut State<Owner>) {
    if let Owner::Process(owner) = &mut state.owner {
        if owner.at_work.is_none() {
            owner.at_work = Some(conn.home().counter.went());
        }
    }
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
        state.awaiting(false);
    }
    waiting
}

/// `send`: writes on the calling thread; what the kernel does not take is queued.
pub fn send(conn: &Arc<Conn>, pid: LocalPid, data: &[u8]) -> Result<Answer<()>, Reason> {
    let mut state = conn.lock();
    if is_protocols(&state) {
        return Err(Reason::Closed);
    }
    let full = state.congested();
    if full && state.phase == Phase::Open {
        came_back(conn, &mut state);
        wait_to_send(&mut state, pid)?;
        return Ok(Answer::Again);
    }
    let level = state.send(data).map_err(Reason::folded)?;
    if let Owner::Process(owner) = &mut state.owner {
        owner.mailbox.answered();
    }
    let answer = match level {
        Level::Empty | Level::Below => Answer::Done(()),
        Level::Above => {
            // Its peer decides when it comes for more.
            came_back(conn, &mut state);
            wait_to_send(&mut state, pid)?;
            Answer::Wait
        }
    };
    // What would take long to seal is left to the loop.
    let look = state.may_flush();
    drop(state);
    if look {
        kick(conn);
    }
    Ok(answer)
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
    let left = owner.senders.len();
    if left == 0 && state.queued() == 0 {
        state.awaiting_room(false);
    }
    before != left
}

/// `close`: the queue is flushed, then the fd is closed. Waiting callers are told by the loop.
pub fn close(conn: &Arc<Conn>) {
    let mut state = conn.lock();
    if is_protocols(&state) || (state.phase == Phase::Closed && !is_owned(&state)) {
        return;
    }
    state.because(Cause::Local);
    came_back(conn, &mut state);
    close_and_kick(conn, state);
}

/// True when it was given to a protocol: then it is closed for whoever had it before.
pub fn is_protocols(state: &State<Owner>) -> bool {
    matches!(state.owner, Owner::Protocol(_))
}

/// True when that process owns it.
pub fn is_owner(state: &State<Owner>, pid: LocalPid) -> bool {
    matches!(&state.owner, Owner::Process(owner) if owner.pid == pid)
}

fn is_owned(state: &State<Owner>) -> bool {
    matches!(state.owner, Owner::Process(_))
}

fn close_and_kick(conn: &Arc<Conn>, mut state: MutexGuard<'_, State<Owner>>) {
    let quietly = state.close(Instant::now()) && state.awaited;
    drop(state);
    if quietly {
        // Only to be forgotten, for which nobody has to be woken.
        kick_quietly(conn);
    } else {
        kick(conn);
    }
}

/// `file`: what the kernel takes now of `count` bytes of a file from `offset` on, or fewer at its
/// end. Reads from the disk: not for normal schedulers. No lock is held meanwhile.
pub fn send_file(
    conn: &Arc<Conn>,
    pid: LocalPid,
    file: BorrowedFd<'_>,
    offset: u64,
    count: usize,
) -> Result<Answer<usize>, Reason> {
    let mut state = conn.lock();
    if is_protocols(&state) {
        return Err(Reason::Closed);
    }
    if state.tls().is_some() {
        return send_file_secure(conn, state, pid, file, offset, count);
    }
    let Some((socket, room)) = state.begin_file()? else {
        wait_to_send(&mut state, pid)?;
        state.awaiting_room(true);
        return Ok(Answer::Wait);
    };
    drop(state);
    let (sent, error) = file::send(socket.as_fd(), file, offset, count);
    drop(socket);
    let mut state = conn.lock();
    let full = matches!(&error, Some(error) if error.kind() == std::io::ErrorKind::WouldBlock);
    let others = state.end_file(sent, full, room);
    let answer = match error {
        Some(error) if sent == 0 && !full => Err(Reason::from(error)),
        Some(_) if sent == 0 && !state.writable => {
            wait_to_send(&mut state, pid)?;
            state.awaiting_room(true);
            Ok(Answer::Wait)
        }
        // There was no room, and now there is.
        Some(_) if sent == 0 => Ok(Answer::Again),
        _ => Ok(Answer::Done(sent)),
    };
    // Whoever came meanwhile waits for this to be over.
    let waits = matches!(&state.owner, Owner::Process(owner) if !owner.senders.is_empty());
    let look = others || (waits && state.has_room());
    drop(state);
    if look {
        kick(conn);
    }
    answer
}

/// Likewise through TLS, which the kernel does not speak: read here, and sealed.
fn send_file_secure<'a>(
    conn: &'a Arc<Conn>,
    mut state: MutexGuard<'a, State<Owner>>,
    pid: LocalPid,
    file: BorrowedFd<'_>,
    offset: u64,
    count: usize,
) -> Result<Answer<usize>, Reason> {
    let mut part = vec![0; count.min(CHUNK)];
    let mut sent = 0;
    while sent < count.min(FILE_PART) {
        if !state.may_send_file()? {
            if sent > 0 {
                break;
            }
            wait_to_send(&mut state, pid)?;
            state.awaiting_room(true);
            return Ok(Answer::Wait);
        }
        drop(state);
        let wish = part.len().min(count - sent);
        let n = file::read(file, offset + sent as u64, &mut part[..wish]).map_err(Reason::from)?;
        state = conn.lock();
        if n == 0 {
            break;
        }
        // Whoever came meanwhile is before it. What the kernel does not take is queued.
        state.write(&[], &part[..n])?;
        sent += n;
    }
    let look = state.may_flush();
    drop(state);
    if look {
        kick(conn);
    }
    Ok(Answer::Done(sent))
}

// ---- called by the loop -----------------------------------------------------

/// Does what can be done for a process's connection.
pub fn advance(conn: &Arc<Conn>, state: &mut State<Owner>, io: &mut LoopIo) -> Next {
    if state.phase == Phase::Connecting {
        if !finish_connect(state, io) {
            return Next::Idle;
        }
        if state.phase == Phase::Greeting {
            return Next::Again;
        }
    }
    if state.may_flush() {
        let flushed = state.flush();
        match flushed {
            Ok(Level::Above) => {}
            Ok(_) => tell_senders(state, io, Ok(())),
            Err(reason) => tell_senders(state, io, Err(reason.folded())),
        }
    } else if state.has_room() {
        // Who waits with a file has nothing in the queue.
        tell_senders(state, io, Ok(()));
        state.awaiting_room(false);
    }
    if state.phase == Phase::Open && state.ended {
        if tell_active_end(state, io, Reason::Closed) {
            state.settings.active = Active::Off;
        }
        let over = state.deadline.is_some_and(|deadline| deadline <= io.now);
        if !over && !io.stopping {
            return Next::Idle;
        }
        state.close(io.now);
    }
    if state.phase == Phase::Open {
        let next = deliver(conn, state, io);
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
    cut(conn, state, io, Cause::Local);
}

/// Ends a connection now: whoever waits is told why, and what is queued is lost.
pub fn cut(conn: &Conn, state: &mut State<Owner>, io: &mut LoopIo, cause: Cause) {
    state.because(cause);
    let reason = cause.reason();
    if matches!(state.phase, Phase::Connecting | Phase::Greeting) {
        connected(state, io, Err(Failure::Reason(reason)));
    }
    if state.phase == Phase::Open {
        tell_active_end(state, io, reason);
        tell_reader_end(conn, state, io, reason);
    }
    tell_senders(state, io, Err(reason));
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
    if state.phase != Phase::Greeting {
        connected(state, io, result.map_err(Failure::Reason));
    }
    true
}

/// Tells who has dialed what became of it.
pub fn connected(state: &State<Owner>, io: &mut LoopIo, result: Result<(), Failure>) {
    message(state, io, |env, socket| {
        let result = match &result {
            Err(Failure::Alert(alert)) => {
                // As `:ssl` has it: a charlist.
                let text: Vec<u32> = alert.text.chars().map(u32::from).collect();
                let name = Atom::from_str(env, alert.name).unwrap_or_else(|_| atoms::error());
                (atoms::error(), (atoms::tls_alert(), (name, text))).encode(env)
            }
            Err(Failure::Reason(reason)) => outcome(env, Err(*reason)),
            Ok(()) => outcome(env, Ok(())),
        };
        (atoms::connect(), socket, result).encode(env)
    });
}

fn deliver(conn: &Arc<Conn>, state: &mut State<Owner>, io: &mut LoopIo) -> Next {
    for _ in 0..io.deliveries {
        let asked = state.wanted;
        // A sender that waits reads no more: an owner that echoes must not pile up its input.
        let unasked =
            state.settings.active != Active::Off && !state.congested() && !is_watched(state);
        state.awaiting(asked.is_some() || unasked);
        if asked.is_none() && !unasked {
            return Next::Idle;
        }
        let mut scratch = std::mem::take(&mut io.scratch);
        let end = deliver_one(conn, state, io, asked, &mut scratch);
        io.scratch = scratch;
        match end {
            Ok(true) => {}
            Ok(false) => {
                if state.idle() && (io.stopping || ends_idle(conn, state, io)) {
                    if state.has_come() {
                        continue;
                    }
                    end_idle(conn, state, io);
                }
                if state.readable && state.phase == Phase::Open {
                    return Next::Again;
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
    let (pid, handle) = match &state.owner {
        Owner::Process(owner) if asked.is_some() => (owner.reader.unwrap_or(owner.pid), None),
        Owner::Process(owner) => (owner.pid, Some(owner.handle.clone())),
        _ => return Err(Reason::Closed),
    };
    let owners = matches!(&state.owner, Owner::Process(owner) if owner.pid == pid);
    if asked.is_some() && !owners && !io.mail.is_alive(&pid) {
        // It was killed while it waited: what has come is for the next one.
        state.wanted = None;
        state.awaiting(false);
        if let Owner::Process(owner) = &mut state.owner {
            owner.reader = None;
        }
        return Ok(false);
    }
    let id = conn.id;
    let bytes;
    match state.pull(asked.unwrap_or(0), scratch) {
        Pull::Data(data) => {
            bytes = data.len();
            io.mail.send(&pid, |env| match &handle {
                Some(handle) => (atoms::tcp(), handle, to_binary(env, data)).encode(env),
                // Named by its number, which costs less in a message than a handle.
                None => (atoms::data(), id, to_binary(env, data)).encode(env),
            });
        }
        Pull::Blocked => return Ok(false),
        Pull::End(reason) => return Err(reason),
    }
    if asked.is_some() {
        state.wanted = None;
        state.awaiting(false);
        io.delivered += 1;
        if let Owner::Process(owner) = &mut state.owner {
            owner.reader = None;
        }
        goes(conn, state);
        return Ok(true);
    }
    if let Owner::Process(owner) = &mut state.owner {
        owner.mailbox.sent(bytes);
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
        Active::On => mailbox::watch(state, io),
        Active::Off => {}
    }
    if state.settings.active == Active::Off {
        state.awaiting(false);
    }
    Ok(true)
}

/// Tells the owner, in the way it reads, that no more will come. Unless the connection is broken, it
/// may still answer what has come before: then it is the owner that closes.
fn end_stream(conn: &Conn, state: &mut State<Owner>, io: &mut LoopIo, reason: Reason) {
    let answerable = reason == Reason::Closed && !io.stopping;
    let reason = reason.folded();
    let active = tell_active_end(state, io, reason);
    tell_reader_end(conn, state, io, reason);
    match (answerable, active) {
        (true, true) => state.end(io.now),
        (true, false) => {
            state.end_reading();
            if !std::mem::replace(&mut state.awaited, true) {
                io.awaited += 1;
            }
        }
        (false, _) => {
            state.close(io.now);
        }
    }
}

fn is_watched(state: &State<Owner>) -> bool {
    matches!(&state.owner, Owner::Process(owner) if owner.mailbox.is_watched())
}

/// True when the server goes away, and the owner is done and has nothing to say about that.
fn ends_idle(conn: &Conn, state: &mut State<Owner>, io: &mut LoopIo) -> bool {
    let Some(group) = conn.group().filter(|group| group.draining()) else {
        return false;
    };
    let speaks = state.settings.active != Active::Off && group.farewell();
    !speaks && mailbox::is_done(state, io)
}

/// Ends a connection whose server goes away, and which owes nothing that we know of.
fn end_idle(conn: &Conn, state: &mut State<Owner>, io: &mut LoopIo) {
    state.because(Cause::Drained);
    let done = matches!(&state.owner, Owner::Process(owner) if owner.mailbox.is_done());
    if tell_active_end(state, io, Reason::Closed) && !done && !io.stopping {
        // It, or somebody for it, may be at work on an answer.
        state.end(io.now);
        return;
    }
    tell_reader_end(conn, state, io, Reason::Closed);
    state.close(io.now);
}

/// Tells an owner in active mode: true when it is in that.
fn tell_active_end(state: &mut State<Owner>, io: &mut LoopIo, reason: Reason) -> bool {
    if state.settings.active == Active::Off {
        return false;
    }
    if reason != Reason::Closed {
        message(state, io, |env, socket| {
            (atoms::tcp_error(), socket, atom(env, reason)).encode(env)
        });
    }
    message(state, io, |env, socket| {
        (atoms::tcp_closed(), socket).encode(env)
    });
    true
}

fn tell_reader_end(conn: &Conn, state: &mut State<Owner>, io: &mut LoopIo, reason: Reason) {
    let Owner::Process(owner) = &mut state.owner else {
        return;
    };
    let Some(reader) = owner.reader.take() else {
        return;
    };
    state.wanted = None;
    io.delivered += 1;
    goes(conn, state);
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

/// The cause as an atom.
pub fn cause(env: Env, cause: Cause) -> Atom {
    // As above.
    Atom::from_str(env, cause.name()).unwrap_or_else(|_| atoms::error())
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
