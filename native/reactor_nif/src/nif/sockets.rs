//! Connections, what is kept with them, and files that are sent on them.

use std::os::fd::AsFd;

use rustler::{Atom, Binary, Encoder, Env, Error, LocalPid, NifResult, ResourceArc, Term};

use crate::address;
use crate::cell::{Cell, CellHandle};
use crate::error::Reason;
use crate::file::FileHandle;
use crate::nif::proxy::encode_header;
use crate::nif::terms::{encode_address, ok_or_reason, refused, Answered};
use crate::owner::kick;
use crate::process;
use crate::process::{outcome, Answer, Handle};

mod atoms {
    rustler::atoms! {
        again,
        age,
        badarg,
        error,
        gid,
        ok,
        pid,
        queued,
        read,
        read_write,
        reads,
        received,
        sent,
        uid,
        unset,
        wait,
        write,
        writes,
    }
}

#[rustler::nif]
fn recv(env: Env, socket: ResourceArc<Handle>, length: usize) -> Term {
    match process::recv(&socket.conn, env, env.pid(), length) {
        Ok(Answer::Done(data)) => (atoms::ok(), data).encode(env),
        // The number that the message will name.
        Ok(_) => socket.conn.id.encode(env),
        Err(reason) => refused(env, reason),
    }
}

#[rustler::nif]
fn recv_cancel(env: Env, socket: ResourceArc<Handle>) -> Atom {
    ok_or_sent(process::recv_cancel(&socket.conn, env.pid()))
}

#[rustler::nif]
fn send<'a>(env: Env<'a>, socket: ResourceArc<Handle>, data: Term<'a>) -> Answered<'a> {
    let data = flat(data)?;
    Ok(match process::send(&socket.conn, env.pid(), &data) {
        Ok(Answer::Done(())) => atoms::ok().encode(env),
        Ok(Answer::Wait) => atoms::wait().encode(env),
        Ok(Answer::Again) => atoms::again().encode(env),
        Err(reason) => refused(env, reason),
    })
}

/// The bytes of an iolist; a binary is not copied.
pub fn flat(data: Term) -> NifResult<Binary> {
    Binary::from_term(data).or_else(|_| Binary::from_iolist(data))
}

#[rustler::nif]
fn send_cancel(env: Env, socket: ResourceArc<Handle>) -> Atom {
    ok_or_sent(process::send_cancel(&socket.conn, env.pid()))
}

fn ok_or_sent(forgotten: bool) -> Atom {
    if forgotten {
        atoms::ok()
    } else {
        atoms::sent()
    }
}

#[rustler::nif]
fn controlling_process<'a>(env: Env<'a>, socket: ResourceArc<Handle>, pid: LocalPid) -> Term<'a> {
    match process::transfer(&socket, env, env.pid(), pid) {
        Err(Reason::Invalid) => (atoms::error(), atoms::badarg()).encode(env),
        other => outcome(env, other),
    }
}

#[rustler::nif]
fn local(env: Env, socket: ResourceArc<Handle>) -> Term {
    let address = socket.conn.lock().local();
    encode_address(env, address)
}

#[rustler::nif]
fn remote(env: Env, socket: ResourceArc<Handle>) -> Term {
    let address = socket.conn.lock().remote();
    encode_address(env, address)
}

/// Who is at the other end of a Unix socket.
#[rustler::nif]
fn peer_credentials(env: Env, socket: ResourceArc<Handle>) -> Term {
    let state = socket.conn.lock();
    let credentials = state.socket().and_then(address::peer_credentials);
    drop(state);
    let map = credentials.map(|credentials| {
        rustler::term_map!(env, {
            atoms::pid() => credentials.pid,
            atoms::uid() => credentials.uid,
            atoms::gid() => credentials.gid,
        })
    });
    ok_or_reason(env, map)
}

/// What a proxy said of the connection: a map, or nil.
#[rustler::nif]
fn proxy_header(env: Env, socket: ResourceArc<Handle>) -> Term {
    let state = socket.conn.lock();
    state
        .header()
        .map(|header| encode_header(env, header))
        .encode(env)
}

#[rustler::nif]
fn shutdown(env: Env, socket: ResourceArc<Handle>, how: Atom) -> Answered {
    let both = how == atoms::read_write();
    let read = both || how == atoms::read();
    let write = both || how == atoms::write();
    if !read && !write {
        return Err(Error::BadArg);
    }
    let mut state = socket.conn.lock();
    let result = if process::is_protocols(&state) {
        Err(Reason::Closed)
    } else {
        state.shutdown(read, write)
    };
    drop(state);
    if read {
        kick(&socket.conn);
    }
    Ok(outcome(env, result))
}

#[rustler::nif]
fn close(env: Env, socket: ResourceArc<Handle>) -> Atom {
    process::close(&socket.conn);
    socket.conn.home().counter.help(env);
    atoms::ok()
}

/// The owner of this connection has taken what it was sent.
#[rustler::nif]
fn relieve(socket: ResourceArc<Handle>) -> Atom {
    process::mailbox::relieve(&socket.conn);
    atoms::ok()
}

/// The owner of this connection has nothing to do.
#[rustler::nif]
fn is_quiet(socket: ResourceArc<Handle>, surely: bool) -> Atom {
    process::mailbox::done(&socket.conn, surely);
    atoms::ok()
}

#[rustler::nif]
fn id(socket: ResourceArc<Handle>) -> u64 {
    socket.conn.id
}

/// An id for a connection that is not ours.
#[rustler::nif]
fn next_id() -> u64 {
    crate::connection::next_id()
}

/// True while the listener of this connection drains.
#[rustler::nif]
fn going_away(socket: ResourceArc<Handle>) -> bool {
    socket.conn.draining()
}

#[rustler::nif]
fn statistics(env: Env, socket: ResourceArc<Handle>) -> Term {
    let state = socket.conn.lock();
    let traffic = state.traffic;
    let open = state.socket().map(|_| ());
    let queued = state.queued();
    drop(state);
    let age = socket.conn.born.elapsed().as_millis() as u64;
    let map = open.map(|()| {
        rustler::term_map!(env, {
            atoms::received() => traffic.received,
            atoms::sent() => traffic.sent,
            atoms::reads() => traffic.reads,
            atoms::writes() => traffic.writes,
            atoms::queued() => queued,
            atoms::age() => age,
        })
    });
    ok_or_reason(env, map)
}

// ---- terms that live as long as a connection --------------------------------------

#[rustler::nif]
fn cell_new() -> ResourceArc<CellHandle> {
    ResourceArc::new(CellHandle::new())
}

#[rustler::nif]
fn cell_put<'a>(holder: Term<'a>, term: Term<'a>) -> NifResult<Atom> {
    with_cell(holder, |cell| cell.put(term))?;
    Ok(atoms::ok())
}

#[rustler::nif]
fn cell_get<'a>(env: Env<'a>, holder: Term<'a>) -> Answered<'a> {
    let kept = with_cell(holder, |cell| cell.get(env))?;
    Ok(match kept {
        Some(term) => (atoms::ok(), term).encode(env),
        None => atoms::unset().encode(env),
    })
}

fn with_cell<T>(holder: Term, run: impl FnOnce(&Cell) -> T) -> NifResult<T> {
    if let Ok(socket) = holder.decode::<ResourceArc<Handle>>() {
        return Ok(run(&socket.cell));
    }
    let handle: ResourceArc<CellHandle> = holder.decode()?;
    Ok(run(&handle.0))
}

// ---- files ------------------------------------------------------------------------

#[rustler::nif(schedule = "DirtyIo")]
fn file_open(env: Env, path: String) -> Term {
    match FileHandle::open(&path) {
        Ok((file, size)) => (atoms::ok(), ResourceArc::new(file), size).encode(env),
        Err(error) => refused(env, error.into()),
    }
}

#[rustler::nif(schedule = "DirtyIo")]
fn file_send(
    env: Env,
    socket: ResourceArc<Handle>,
    file: ResourceArc<FileHandle>,
    offset: u64,
    count: usize,
) -> Term {
    let file = file.0.as_fd();
    loop {
        return match process::send_file(&socket.conn, env.pid(), file, offset, count) {
            Ok(Answer::Done(sent)) => (atoms::ok(), sent).encode(env),
            Ok(Answer::Wait) => atoms::wait().encode(env),
            Ok(Answer::Again) => continue,
            Err(reason) => refused(env, reason.folded()),
        };
    }
}
