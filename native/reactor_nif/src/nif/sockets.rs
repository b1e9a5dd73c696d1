//! Connections, what is kept with them, and files that are sent on them.

use std::os::fd::AsFd;
use std::sync::Arc;

use rustler::{Atom, Binary, Encoder, Env, Error, LocalPid, NifResult, ResourceArc, Term};
use socket2::{Socket, Type};

use crate::address::{self, Address};
use crate::cell::{Cell, CellHandle};
use crate::command::Command;
use crate::connection::{Active, Connection, Greeting, Parts, Phase, Preface};
use crate::error::Reason;
use crate::file::FileHandle;
use crate::listener::SocketOptions;
use crate::nif::options::{
    decode_setting, decode_settings, decode_socket_options, encode_active, encode_framing,
    encode_rate, encode_time, SocketWish,
};
use crate::nif::proxy::{decode_announced, encode_header};
use crate::nif::terms::{decode_address, encode_address, get, ok_or_reason, refused, Answered};
use crate::nif::tls::decode_dialed;
use crate::owner::{kick, Owner};
use crate::process::{outcome, Answer, Handle};
use crate::{process, runtime};

mod atoms {
    rustler::atoms! {
        active,
        address,
        again,
        age,
        badarg,
        error,
        first_byte_timeout,
        gid,
        high_watermark,
        idle_timeout,
        keepalive,
        low_watermark,
        max_lifetime,
        min_rate,
        nodelay,
        ok,
        packet,
        packet_size,
        pid,
        port,
        proxy,
        queued,
        read,
        read_write,
        reads,
        recbuf,
        received,
        send_timeout,
        send_timeout_close,
        sent,
        sndbuf,
        stall_timeout,
        tls,
        uid,
        unset,
        wait,
        write,
        writes,
    }
}

#[rustler::nif]
fn connect<'a>(env: Env<'a>, options: Term<'a>) -> Answered<'a> {
    start_connect(env, options)
}

/// To a Unix socket: the kernel looks for it in the file system.
#[rustler::nif(schedule = "DirtyIo")]
fn connect_local<'a>(env: Env<'a>, options: Term<'a>) -> Answered<'a> {
    start_connect(env, options)
}

fn start_connect<'a>(env: Env<'a>, options: Term<'a>) -> Answered<'a> {
    let port = get(options, atoms::port())?;
    let address = decode_address(options.map_get(atoms::address())?, port)?;
    let socket_options = decode_socket_options(options)?;
    let settings = decode_settings(options)?;
    let tls = options.map_get(atoms::tls()).ok();
    let handshake = tls.map_or(Ok(None), decode_dialed)?;
    let announced = options.map_get(atoms::proxy()).ok();
    let preface = match announced.map_or(Ok(None), decode_announced)? {
        Some(announced) => Preface::Announced(announced),
        None => Preface::Nothing,
    };
    let greets = handshake.is_some() || !matches!(preface, Preface::Nothing);
    let greeting = greets.then(|| Box::new(Greeting { preface, handshake }));
    let Some(home) = runtime::pick() else {
        return Ok(refused(env, Reason::Closed));
    };
    let socket = match dial(&address, &socket_options) {
        Ok(socket) => socket,
        Err(error) => return Ok(refused(env, error.into())),
    };
    let parts = Parts {
        socket,
        phase: Phase::Connecting,
        greeting,
        settings,
        slot: None,
        peer: Some(address),
    };
    let conn = Connection::new(parts, Owner::Nobody, home);
    Ok(match process::give(&conn, Some(env), env.pid()) {
        Some(handle) => {
            conn.home().tell(Command::Adopt(Arc::clone(&conn)));
            (atoms::wait(), handle).encode(env)
        }
        None => refused(env, Reason::Closed),
    })
}

fn dial(address: &Address, options: &SocketOptions) -> std::io::Result<Socket> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(address.domain(), kind, address.protocol())?;
    options.apply(&socket)?;
    match socket.connect(&address.to_kernel()?) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket),
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

/// How long a sender is to wait, and whether the connection closes then.
#[rustler::nif]
fn send_timeout(env: Env, socket: ResourceArc<Handle>) -> Term {
    let state = socket.conn.lock();
    let time = encode_time(env, state.settings.send_timeout);
    (time, state.settings.send_timeout_close).encode(env)
}

fn ok_or_sent(forgotten: bool) -> Atom {
    if forgotten {
        atoms::ok()
    } else {
        atoms::sent()
    }
}

#[rustler::nif]
fn setopts<'a>(env: Env<'a>, socket: ResourceArc<Handle>, options: Term<'a>) -> Answered<'a> {
    let conn = &socket.conn;
    let mut state = conn.lock();
    let mut settings = state.settings.clone();
    let mut wish = SocketWish::default();
    for (key, value) in options.decode::<rustler::MapIterator>()? {
        let key: Atom = key.decode()?;
        if !decode_setting(&mut settings, key, value)? && !wish.decode(key, value)? {
            return Err(Error::BadArg);
        }
    }
    if state.wanted.is_some() && settings.active != Active::Off {
        return Ok(refused(env, Reason::Invalid));
    }
    if process::is_protocols(&state) {
        return Ok(refused(env, Reason::Closed));
    }
    let applied = state
        .socket()
        .and_then(|socket| wish.apply(socket).map_err(Reason::from));
    if let Err(reason) = applied {
        return Ok(refused(env, reason));
    }
    let deadlines = settings.deadlines;
    let changed = deadlines != state.settings.deadlines;
    state.settings = settings;
    if changed {
        state.set_deadlines(deadlines);
    }
    let active = state.settings.active != Active::Off;
    if active {
        process::came_back(conn, &mut state);
    }
    let waiting = active || state.wanted.is_some();
    state.awaiting(waiting);
    let look = changed || (active && (state.ended || state.may_read() || conn.draining()));
    drop(state);
    if look {
        kick(conn);
    }
    Ok(atoms::ok().encode(env))
}

#[rustler::nif]
fn getopts(env: Env, socket: ResourceArc<Handle>) -> Term {
    let state = socket.conn.lock();
    let settings = &state.settings;
    let read = || -> Result<Term, Reason> {
        let socket = state.socket()?;
        Ok(rustler::term_map!(env, {
            atoms::nodelay() => address::nodelay(socket).map_err(Reason::from)?,
            atoms::keepalive() => socket.keepalive().map_err(Reason::from)?,
            atoms::recbuf() => socket.recv_buffer_size().map_err(Reason::from)?,
            atoms::sndbuf() => socket.send_buffer_size().map_err(Reason::from)?,
            atoms::packet() => encode_framing(env, settings.framing),
            atoms::packet_size() => settings.packet_size,
            atoms::active() => encode_active(env, settings.active),
            atoms::high_watermark() => settings.high_watermark,
            atoms::low_watermark() => settings.low_watermark,
            atoms::first_byte_timeout() => encode_time(env, settings.deadlines.first_byte),
            atoms::idle_timeout() => encode_time(env, settings.deadlines.idle),
            atoms::stall_timeout() => encode_time(env, settings.deadlines.stall),
            atoms::max_lifetime() => encode_time(env, settings.deadlines.life),
            atoms::min_rate() => encode_rate(settings.deadlines),
            atoms::send_timeout() => encode_time(env, settings.send_timeout),
            atoms::send_timeout_close() => settings.send_timeout_close,
        }))
    };
    ok_or_reason(env, read())
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
