//! Datagram sockets that a process has: one after the other, each as long as it likes.
//!
//! A session is one process's time with the socket. What is called with the handle of one that is over
//! finds it closed, though the socket is open for the next one.

mod mail;
mod turn;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use rustler::{Binary, Encoder, Env, LocalPid, Monitor, Resource, ResourceArc, Term};

use crate::command::Command;
use crate::connection::{Active, Traffic};
use crate::counters;
use crate::datagram::{receive, transmit, Datagrams, Sent};
use crate::error::{Cause, Reason};
use crate::event_loop::kick_listener;
use crate::group::Slot;
use crate::listener::Listener;
use crate::process::mailbox::Mailbox;
use crate::process::{to_binary, Answer, SCRATCH};

mod atoms {
    rustler::atoms! {
        udp,
    }
}

pub use turn::{advance, Step};

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
