//! Connections owned by a process: what Elixir holds of them, and which process has one.
//!
//! Messages are sent by loop threads only, while they hold the connection's
//! lock: so what the owner sees is in the order of the stream.

mod calls;
pub mod datagrams;
mod delivery;
mod ending;
mod file;
pub mod mailbox;

use std::sync::Arc;

use rustler::{
    Atom, Binary, Encoder, Env, LocalPid, Monitor, NewBinary, Resource, ResourceArc, Term,
};

use crate::cell::Cell;
use crate::connection::{Active, Phase, State};
use crate::counters;
use crate::error::{Cause, Reason};
use crate::listener::Listener;
use crate::owner::{kick, Conn, Owner};
use crate::python::protocol::ProtocolOwner;

use calls::{close_and_kick, SCRATCH};
use mailbox::Mailbox;

pub use calls::{close, recv, recv_cancel, send, send_cancel, Answer};
pub use delivery::{advance, connected, DELIVERIES};
pub use ending::{abandon, cut};
pub use file::send_file;

mod atoms {
    rustler::atoms! {
        ok,
        error,
        accept_error = "$reactor_accept_error",
        retired,
    }
}

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
