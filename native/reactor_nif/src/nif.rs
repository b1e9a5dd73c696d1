//! The functions of `Reactor.Native`: terms in, terms out, nothing else.
//!
//! All run on normal schedulers and never block, except `runtime_stop`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustler::types::tuple::get_tuple;
use rustler::{Atom, Binary, Encoder, Env, Error, LocalPid, NifResult, ResourceArc, Term};
use socket2::{Domain, Protocol, Socket, Type};

use crate::command::Command;
use crate::connection::{Active, Connection, Phase, Settings};
use crate::counters::{self, live};
use crate::error::Reason;
use crate::event_loop::{close_listener, kick_listener};
use crate::framing::Framing;
use crate::listener::{Accepted, Listener, SocketOptions};
use crate::owner::{kick, Acceptor, Owner};
use crate::process::{self, atom, outcome, Answer, Handle, ListenerHandle};
use crate::python::context::{self, ContextHandle};
use crate::python::interpreter;
use crate::{log, runtime};

mod atoms {
    rustler::atoms! {
        ok,
        error,
        wait,
        again,
        sent,
        nil,
        raw,
        line,
        once,
        read,
        write,
        read_write,
        badarg,
        timeout,
        // options
        ip,
        address,
        port,
        backlog,
        reuseaddr,
        nodelay,
        keepalive,
        recbuf,
        sndbuf,
        packet,
        packet_size,
        active,
        high_watermark,
        low_watermark,
        loops,
        log_to,
        log_level,
        name,
        paths,
        python_dir,
        // counters and reports
        fds_opened,
        fds_closed,
        connections,
        listeners,
        contexts,
        handles,
        buffers,
        version,
        executable,
        libpython,
    }
}

/// So many waiting acceptors call for a look at who is still alive.
const MANY_WAITERS: usize = 4096;

type Answered<'a> = NifResult<Term<'a>>;

fn refused<'a>(env: Env<'a>, reason: Reason) -> Term<'a> {
    (atoms::error(), atom(env, reason)).encode(env)
}

fn ok_or_reason<'a, T: Encoder>(env: Env<'a>, result: Result<T, Reason>) -> Term<'a> {
    match result {
        Ok(value) => (atoms::ok(), value).encode(env),
        Err(reason) => refused(env, reason),
    }
}

// ---- runtime ------------------------------------------------------------------

#[rustler::nif]
fn runtime_start(options: Term) -> NifResult<Atom> {
    let loops: usize = get(options, atoms::loops())?;
    let pid: LocalPid = get(options, atoms::log_to())?;
    let level: Atom = get(options, atoms::log_level())?;
    let level = level.to_term(options.get_env()).atom_to_string()?;
    let started = log::forward_to(pid, &level).and_then(|()| runtime::start(loops));
    started.map_err(|error| Error::RaiseTerm(Box::new(error.to_string())))?;
    Ok(atoms::ok())
}

#[rustler::nif(schedule = "DirtyIo")]
fn runtime_stop(env: Env, timeout: u64) -> Term {
    if runtime::stop(Duration::from_millis(timeout)) {
        atoms::ok().encode(env)
    } else {
        (atoms::error(), atoms::timeout()).encode(env)
    }
}

#[rustler::nif]
fn counters(env: Env) -> Term {
    let connections = live(&counters::CONNECTIONS_MADE, &counters::CONNECTIONS_FREED);
    let listeners = live(&counters::LISTENERS_MADE, &counters::LISTENERS_FREED);
    let contexts = live(&counters::CONTEXTS_MADE, &counters::CONTEXTS_ENDED);
    let handles = live(&counters::HANDLES_MADE, &counters::HANDLES_FREED);
    rustler::term_map!(env, {
        atoms::fds_opened() => counters::FDS_OPENED.get(),
        atoms::fds_closed() => counters::FDS_CLOSED.get(),
        atoms::connections() => connections,
        atoms::listeners() => listeners,
        atoms::contexts() => contexts,
        atoms::handles() => handles,
        atoms::buffers() => live(&counters::BUFFERS_TAKEN, &counters::BUFFERS_BACK),
    })
}

// ---- listeners ------------------------------------------------------------------

#[rustler::nif]
fn listen<'a>(env: Env<'a>, options: Term<'a>) -> Answered<'a> {
    let address = SocketAddr::new(
        decode_ip(get(options, atoms::ip())?)?,
        get(options, atoms::port())?,
    );
    let Some(home) = runtime::pick() else {
        return Ok(refused(env, Reason::Closed));
    };
    let bound = Listener::bind(
        address,
        get(options, atoms::backlog())?,
        get(options, atoms::reuseaddr())?,
        &decode_socket_options(options)?,
        decode_settings(options)?,
        home,
    );
    let handle = bound.map(ListenerHandle::make);
    if let Ok(handle) = &handle {
        handle.monitor(Some(env), &env.pid());
    }
    Ok(ok_or_reason(env, handle))
}

#[rustler::nif]
fn listener_address(env: Env, listener: ResourceArc<ListenerHandle>) -> Term {
    let address = listener.0.lock().local();
    encode_address(env, address)
}

#[rustler::nif]
fn accept(env: Env, listener: ResourceArc<ListenerHandle>) -> Term {
    let shared = &listener.0;
    let pid = env.pid();
    let mut state = shared.lock();
    if state.fd().is_none() {
        return refused(env, Reason::Closed);
    }
    // Those who came first are served first, by the loop.
    if state.readable && state.watched && state.waiters.is_empty() {
        if let Accepted::Socket(socket, _) = state.accept() {
            drop(state);
            let home = runtime::next_loop(shared.home());
            let conn = Connection::new(
                socket,
                Phase::Open,
                shared.settings.clone(),
                Owner::Nobody,
                home,
                Some(Arc::clone(&shared.group)),
            );
            return match process::give(&conn, Some(env), pid) {
                Some(handle) => {
                    conn.home().tell(Command::Adopt(Arc::clone(&conn)));
                    (atoms::ok(), handle).encode(env)
                }
                None => refused(env, Reason::Closed),
            };
        }
    }
    if state.waiters.len() >= MANY_WAITERS {
        // Those that died while nobody connected.
        state.waiters.retain(|waiter| waiter.pid.is_alive(env));
    }
    state.waiters.push_back(Acceptor {
        pid,
        handle: listener.clone(),
    });
    let unwatched = !std::mem::replace(&mut state.watched, true);
    let pending = state.readable;
    drop(state);
    if unwatched {
        shared.home().tell(Command::Listen(Arc::clone(shared)));
    } else if pending {
        // Out of descriptors, or others wait too: the loop knows when to go on.
        kick_listener(shared);
    }
    atoms::wait().encode(env)
}

#[rustler::nif]
fn accept_cancel(env: Env, listener: ResourceArc<ListenerHandle>) -> Atom {
    let pid = env.pid();
    let mut state = listener.0.lock();
    let before = state.waiters.len();
    state.waiters.retain(|waiter| waiter.pid != pid);
    if state.waiters.len() < before {
        atoms::ok()
    } else {
        atoms::sent()
    }
}

#[rustler::nif]
fn listener_connections(listener: ResourceArc<ListenerHandle>) -> usize {
    listener.0.group.live()
}

#[rustler::nif]
fn listener_drain(listener: ResourceArc<ListenerHandle>) -> Atom {
    listener.0.group.drain();
    close_listener(&listener.0);
    runtime::tell_all(|| Command::Drain(Arc::clone(&listener.0.group)));
    atoms::ok()
}

#[rustler::nif]
fn listener_close(listener: ResourceArc<ListenerHandle>) -> Atom {
    close_listener(&listener.0);
    atoms::ok()
}

// ---- connections ----------------------------------------------------------------

#[rustler::nif]
fn connect<'a>(env: Env<'a>, options: Term<'a>) -> Answered<'a> {
    let address = SocketAddr::new(
        decode_ip(get(options, atoms::address())?)?,
        get(options, atoms::port())?,
    );
    let socket_options = decode_socket_options(options)?;
    let settings = decode_settings(options)?;
    let Some(home) = runtime::pick() else {
        return Ok(refused(env, Reason::Closed));
    };
    let socket = match dial(address, &socket_options) {
        Ok(socket) => socket,
        Err(error) => return Ok(refused(env, error.into())),
    };
    let conn = Connection::new(
        socket,
        Phase::Connecting,
        settings,
        Owner::Nobody,
        home,
        None,
    );
    Ok(match process::give(&conn, Some(env), env.pid()) {
        Some(handle) => {
            conn.home().tell(Command::Adopt(Arc::clone(&conn)));
            (atoms::wait(), handle).encode(env)
        }
        None => refused(env, Reason::Closed),
    })
}

fn dial(address: SocketAddr, options: &SocketOptions) -> std::io::Result<Socket> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    options.apply(&socket)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket),
    }
}

#[rustler::nif]
fn recv(env: Env, socket: ResourceArc<Handle>, length: usize) -> Term {
    match process::recv(&socket.0, env, env.pid(), length) {
        Ok(Answer::Done(data)) => (atoms::ok(), data).encode(env),
        // The number that the message will name.
        Ok(_) => socket.0.id.encode(env),
        Err(reason) => refused(env, reason),
    }
}

#[rustler::nif]
fn recv_cancel(env: Env, socket: ResourceArc<Handle>) -> Atom {
    ok_or_sent(process::recv_cancel(&socket.0, env.pid()))
}

#[rustler::nif]
fn send<'a>(env: Env<'a>, socket: ResourceArc<Handle>, data: Term<'a>) -> Answered<'a> {
    let data = Binary::from_iolist(data)?;
    Ok(match process::send(&socket.0, env.pid(), &data) {
        Ok(Answer::Done(())) => atoms::ok().encode(env),
        Ok(Answer::Wait) => atoms::wait().encode(env),
        Ok(Answer::Again) => atoms::again().encode(env),
        Err(reason) => refused(env, reason),
    })
}

#[rustler::nif]
fn send_cancel(env: Env, socket: ResourceArc<Handle>) -> Atom {
    ok_or_sent(process::send_cancel(&socket.0, env.pid()))
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
    let conn = &socket.0;
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
    let applied = state
        .socket()
        .and_then(|socket| wish.apply(socket).map_err(Reason::from));
    if let Err(reason) = applied {
        return Ok(refused(env, reason));
    }
    state.settings = settings;
    if state.settings.active != Active::Off {
        process::came_back(conn, &mut state);
    }
    let look = state.settings.active != Active::Off && (state.may_read() || conn.draining());
    drop(state);
    if look {
        kick(conn);
    }
    Ok(atoms::ok().encode(env))
}

#[rustler::nif]
fn getopts(env: Env, socket: ResourceArc<Handle>) -> Term {
    let state = socket.0.lock();
    let settings = &state.settings;
    let read = || -> Result<Term, Reason> {
        let socket = state.socket()?;
        Ok(rustler::term_map!(env, {
            atoms::nodelay() => socket.tcp_nodelay().map_err(Reason::from)?,
            atoms::keepalive() => socket.keepalive().map_err(Reason::from)?,
            atoms::recbuf() => socket.recv_buffer_size().map_err(Reason::from)?,
            atoms::sndbuf() => socket.send_buffer_size().map_err(Reason::from)?,
            atoms::packet() => encode_framing(env, settings.framing),
            atoms::packet_size() => settings.packet_size,
            atoms::active() => encode_active(env, settings.active),
            atoms::high_watermark() => settings.high_watermark,
            atoms::low_watermark() => settings.low_watermark,
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
    let address = socket.0.lock().local();
    encode_address(env, address)
}

#[rustler::nif]
fn remote(env: Env, socket: ResourceArc<Handle>) -> Term {
    let address = socket.0.lock().remote();
    encode_address(env, address)
}

#[rustler::nif]
fn shutdown(env: Env, socket: ResourceArc<Handle>, how: Atom) -> Answered {
    let both = how == atoms::read_write();
    let read = both || how == atoms::read();
    let write = both || how == atoms::write();
    if !read && !write {
        return Err(Error::BadArg);
    }
    let result = socket.0.lock().shutdown(read, write);
    if read {
        kick(&socket.0);
    }
    Ok(outcome(env, result))
}

#[rustler::nif]
fn close(socket: ResourceArc<Handle>) -> Atom {
    process::close(&socket.0);
    atoms::ok()
}

// ---- Python ---------------------------------------------------------------------

#[rustler::nif]
fn context_start<'a>(env: Env<'a>, options: Term<'a>) -> Answered<'a> {
    let options = context::Options {
        name: get(options, atoms::name())?,
        paths: get(options, atoms::paths())?,
        python_dir: get(options, atoms::python_dir())?,
    };
    let started = match context::start(options, env.pid(), env) {
        Ok(Some(handle)) => Ok(handle),
        Ok(None) => Err(Reason::Closed),
        Err(error) => Err(error.into()),
    };
    Ok(ok_or_reason(env, started))
}

#[rustler::nif]
fn context_serve(
    context: ResourceArc<ContextHandle>,
    listener: ResourceArc<ListenerHandle>,
    factory: String,
) -> Atom {
    context.serve(listener, factory);
    atoms::ok()
}

#[rustler::nif]
fn context_stop(context: ResourceArc<ContextHandle>, grace: u64) -> Atom {
    context.stop(grace);
    atoms::ok()
}

#[rustler::nif]
fn python_info(env: Env) -> Term {
    match interpreter::info() {
        None => atoms::nil().encode(env),
        Some(info) => rustler::term_map!(env, {
            atoms::version() => info.version,
            atoms::executable() => info.executable,
            atoms::libpython() => info.libpython,
        }),
    }
}

// ---- terms ----------------------------------------------------------------------

fn get<'a, T: rustler::Decoder<'a>>(map: Term<'a>, key: Atom) -> NifResult<T> {
    map.map_get(key)?.decode()
}

fn decode_ip(term: Term) -> NifResult<IpAddr> {
    let parts = get_tuple(term)?;
    match parts.len() {
        4 => {
            let mut bytes = [0u8; 4];
            for (byte, part) in bytes.iter_mut().zip(parts) {
                *byte = part.decode()?;
            }
            Ok(IpAddr::from(bytes))
        }
        8 => {
            let mut words = [0u16; 8];
            for (word, part) in words.iter_mut().zip(parts) {
                *word = part.decode()?;
            }
            Ok(IpAddr::from(words))
        }
        _ => Err(Error::BadArg),
    }
}

fn encode_address(env: Env, address: Result<SocketAddr, Reason>) -> Term {
    let encoded = address.map(|address| {
        let ip = match address.ip() {
            IpAddr::V4(ip) => {
                let [a, b, c, d] = ip.octets();
                (a, b, c, d).encode(env)
            }
            IpAddr::V6(ip) => {
                let parts = ip.segments().map(|part| part.encode(env));
                rustler::types::tuple::make_tuple(env, &parts)
            }
        };
        (ip, address.port())
    });
    ok_or_reason(env, encoded)
}

fn decode_socket_options(options: Term) -> NifResult<SocketOptions> {
    Ok(SocketOptions {
        nodelay: get(options, atoms::nodelay())?,
        keepalive: get(options, atoms::keepalive())?,
        recbuf: get(options, atoms::recbuf())?,
        sndbuf: get(options, atoms::sndbuf())?,
    })
}

fn decode_settings(options: Term) -> NifResult<Settings> {
    let mut settings = Settings {
        framing: Framing::Raw,
        packet_size: 0,
        active: Active::Off,
        high_watermark: 0,
        low_watermark: 0,
    };
    for key in [
        atoms::packet(),
        atoms::packet_size(),
        atoms::active(),
        atoms::high_watermark(),
        atoms::low_watermark(),
    ] {
        decode_setting(&mut settings, key, options.map_get(key)?)?;
    }
    Ok(settings)
}

/// Sets one option of ours; false when the key is not one.
fn decode_setting(settings: &mut Settings, key: Atom, value: Term) -> NifResult<bool> {
    if key == atoms::packet() {
        settings.framing = decode_framing(value)?;
    } else if key == atoms::packet_size() {
        settings.packet_size = value.decode()?;
    } else if key == atoms::active() {
        settings.active = decode_active(value)?;
    } else if key == atoms::high_watermark() {
        settings.high_watermark = value.decode()?;
    } else if key == atoms::low_watermark() {
        settings.low_watermark = value.decode()?;
    } else {
        return Ok(false);
    }
    Ok(true)
}

/// Options of the kernel's that are to be set.
#[derive(Default)]
struct SocketWish {
    nodelay: Option<bool>,
    keepalive: Option<bool>,
    recbuf: Option<usize>,
    sndbuf: Option<usize>,
}

impl SocketWish {
    fn decode(&mut self, key: Atom, value: Term) -> NifResult<bool> {
        if key == atoms::nodelay() {
            self.nodelay = Some(value.decode()?);
        } else if key == atoms::keepalive() {
            self.keepalive = Some(value.decode()?);
        } else if key == atoms::recbuf() {
            self.recbuf = value.decode()?;
        } else if key == atoms::sndbuf() {
            self.sndbuf = value.decode()?;
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    fn apply(&self, socket: &Socket) -> std::io::Result<()> {
        if let Some(nodelay) = self.nodelay {
            socket.set_tcp_nodelay(nodelay)?;
        }
        if let Some(keepalive) = self.keepalive {
            socket.set_keepalive(keepalive)?;
        }
        if let Some(size) = self.recbuf {
            socket.set_recv_buffer_size(size)?;
        }
        if let Some(size) = self.sndbuf {
            socket.set_send_buffer_size(size)?;
        }
        Ok(())
    }
}

fn decode_framing(term: Term) -> NifResult<Framing> {
    if let Ok(atom) = term.decode::<Atom>() {
        if atom == atoms::raw() {
            return Ok(Framing::Raw);
        }
        if atom == atoms::line() {
            return Ok(Framing::Line);
        }
        return Err(Error::BadArg);
    }
    match term.decode::<u8>()? {
        width @ (1 | 2 | 4) => Ok(Framing::Length(width)),
        0 => Ok(Framing::Raw),
        _ => Err(Error::BadArg),
    }
}

fn encode_framing(env: Env, framing: Framing) -> Term {
    match framing {
        Framing::Raw => atoms::raw().encode(env),
        Framing::Line => atoms::line().encode(env),
        Framing::Length(width) => width.encode(env),
    }
}

fn decode_active(term: Term) -> NifResult<Active> {
    if let Ok(flag) = term.decode::<bool>() {
        return Ok(if flag { Active::On } else { Active::Off });
    }
    if let Ok(atom) = term.decode::<Atom>() {
        return if atom == atoms::once() {
            Ok(Active::Once)
        } else {
            Err(Error::BadArg)
        };
    }
    match term.decode::<u32>()? {
        0 => Err(Error::BadArg),
        count => Ok(Active::Count(count)),
    }
}

fn encode_active(env: Env, active: Active) -> Term {
    match active {
        Active::Off => false.encode(env),
        Active::On => true.encode(env),
        Active::Once => atoms::once().encode(env),
        Active::Count(count) => count.encode(env),
    }
}
