//! Listening sockets.

use std::collections::HashSet;
use std::os::fd::RawFd;
use std::sync::Arc;

use rustler::{Atom, Encoder, Env, Error, LocalPid, NifResult, ResourceArc, Term};
use socket2::Socket;

use crate::command::Command;
use crate::connection::{Connection, Phase};
use crate::error::{Cause, Reason};
use crate::event_loop::{close_listener, kick_listener};
use crate::group::Group;
use crate::listener::open::{open, Place, Refusal, Spec, Wrong};
use crate::listener::{Accepted, Listener};
use crate::nif::datagrams;
use crate::nif::options::{
    decode_access, decode_limits, decode_setting, decode_settings, decode_socket_options, is_limit,
    SocketWish,
};
use crate::nif::proxy::{decode_expected, encode_header};
use crate::nif::terms::{decode_address, encode_address, get, peer, refused, Answered};
use crate::nif::tls::decode_handshake;
use crate::owner::{kick, Acceptor, Conn, Owner};
use crate::process::ListenerHandle;
use crate::report::unix_ms;
use crate::{process, runtime};

mod atoms {
    rustler::atoms! {
        accepted,
        backlog,
        closed,
        closing,
        connections,
        error,
        fd,
        going_away,
        greeting,
        id,
        ip,
        ipv6_v6only,
        keep,
        nil,
        num_listen_sockets,
        ok,
        open,
        owner,
        port,
        previous,
        protocol,
        proxy,
        python,
        queued,
        received,
        rejected,
        remote,
        report_to,
        reuseaddr,
        reuseport,
        sent,
        since,
        state,
        tls,
        udp,
        unix,
        wait,
        waiting,
    }
}

/// So many waiting acceptors call for a look at who is still alive.
const MANY_WAITERS: usize = 4096;

/// What is opened may be in the file system: on a dirty scheduler.
#[rustler::nif(schedule = "DirtyIo")]
fn listen<'a>(env: Env<'a>, options: Term<'a>) -> Answered<'a> {
    let spec = decode_spec(options)?;
    let Some(home) = runtime::pick() else {
        return Ok(refused(env, Reason::Closed));
    };
    let settings = decode_settings(options)?;
    let limits = decode_limits(options, None)?;
    let tls = options.map_get(atoms::tls()).ok();
    let previous: Option<ResourceArc<ListenerHandle>> = get(options, atoms::previous())?;
    let group = match previous {
        Some(previous) => {
            // Of others the kernel says that the address is taken, until they are closed.
            if spec.shared() {
                close_listener(&previous.0);
            }
            let group = Arc::clone(&previous.0.group);
            group.limit(&limits);
            group.set_settings(settings);
            group.set_report_to(get(options, atoms::report_to())?);
            group
        }
        None => Group::new(&limits, settings, get(options, atoms::report_to())?),
    };
    group.set_farewell(get(options, atoms::going_away())?);
    // Its new certificates may be bad: then those that it had stay.
    if tls.is_none_or(|tls| tls.decode::<Atom>().ok() != Some(atoms::keep())) {
        group.set_handshake(tls.map_or(Ok(None), decode_handshake)?);
    }
    let header = options.map_get(atoms::proxy()).ok();
    group.set_header(header.map_or(Ok(None), decode_expected)?);
    Ok(match open(&spec) {
        Ok(sockets) => {
            let handle = ListenerHandle::make(Listener::new(sockets, spec.datagram, group, home));
            handle.monitor(Some(env), &env.pid());
            (atoms::ok(), handle).encode(env)
        }
        Err(Refusal::Reason(reason)) => refused(env, reason),
        Err(Refusal::Option(wrong, expected)) => {
            let option = match wrong {
                Wrong::Ip => atoms::ip(),
                Wrong::Unix => atoms::unix(),
                Wrong::Fd => atoms::fd(),
            };
            (atoms::error(), (option, expected)).encode(env)
        }
    })
}

fn decode_spec(options: Term) -> NifResult<Spec> {
    let fd: Option<RawFd> = get(options, atoms::fd())?;
    let place = match fd {
        Some(fd) => Place::Inherited(fd),
        None => {
            let port = get(options, atoms::port())?;
            Place::Address(decode_address(options.map_get(atoms::ip())?, port)?)
        }
    };
    let protocol: Atom = get(options, atoms::protocol())?;
    Ok(Spec {
        place,
        datagram: protocol == atoms::udp(),
        backlog: get(options, atoms::backlog())?,
        reuseaddr: get(options, atoms::reuseaddr())?,
        reuseport: get(options, atoms::reuseport())?,
        count: get(options, atoms::num_listen_sockets())?,
        v6only: get(options, atoms::ipv6_v6only())?,
        access: decode_access(options.map_get(atoms::unix())?)?,
        options: decode_socket_options(options)?,
    })
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
    let state = shared.lock();
    if !state.is_open() {
        return refused(env, Reason::Closed);
    }
    // Those who came first are served first, and limits are kept, by the loop.
    let at_once = state.readable && state.watched && state.waiters.is_empty();
    drop(state);
    let at_once = at_once && !shared.group.greets() && !shared.is_datagram;
    if at_once && shared.group.plain() {
        if let Accepted::Connection(parts) = shared.accept() {
            let home = runtime::next_loop(shared.home());
            let conn = Connection::new(parts, Owner::Nobody, home);
            conn.enter();
            return match process::give(&conn, Some(env), pid) {
                Some(handle) => {
                    conn.home().tell(Command::Adopt(Arc::clone(&conn)));
                    (atoms::ok(), handle).encode(env)
                }
                None => refused(env, Reason::Closed),
            };
        }
    }
    let mut state = shared.lock();
    if !state.is_open() {
        return refused(env, Reason::Closed);
    }
    while let Some(conn) = state.arrived.pop_front() {
        // Not under the lock of the listener, which is told that it is on its way no more.
        drop(state);
        if let Some(handle) = process::take(&conn, env, pid) {
            kick(&conn);
            return (atoms::ok(), handle).encode(env);
        }
        // It may be the last to know it, and then the listener is told.
        drop(conn);
        state = shared.lock();
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
    // A socket for datagrams is given away as it is.
    let pending = state.readable || shared.is_datagram;
    drop(state);
    if unwatched {
        shared.home().tell(Command::Listen(Arc::clone(shared)));
    } else if pending {
        // Out of descriptors, or others wait too: the loop knows when to go on.
        kick_listener(shared);
    }
    shared.home().counter.help(env);
    atoms::wait().encode(env)
}

/// Limits at once, everything else for connections to come.
#[rustler::nif]
fn listener_update<'a>(
    listener: ResourceArc<ListenerHandle>,
    options: Term<'a>,
) -> NifResult<Atom> {
    let group = &listener.0.group;
    let limits = decode_limits(options, Some(group.limits()))?;
    let mut settings = group.settings();
    let mut wish = SocketWish::default();
    for (key, value) in options.decode::<rustler::MapIterator>()? {
        let key: Atom = key.decode()?;
        let known = decode_setting(&mut settings, key, value)? || wish.decode(key, value)?;
        if key == atoms::going_away() {
            group.set_farewell(value.decode()?);
        } else if key == atoms::tls() {
            group.set_handshake(decode_handshake(value)?);
        } else if !known && !is_limit(key) {
            return Err(Error::BadArg);
        }
    }
    // Accepted sockets have them from the listening one. A closed one gets them when it is resumed.
    let apply = |socket: &Socket| match listener.0.is_datagram {
        true => wish.apply_sizes(socket),
        false => wish.apply(socket),
    };
    let applied = listener.0.lock().with_sockets(apply);
    applied.map_err(|_| Error::BadArg)?;
    group.set_settings(settings);
    group.limit(&limits);
    Ok(atoms::ok())
}

/// Locks one connection after the other: on a dirty scheduler.
#[rustler::nif(schedule = "DirtyCpu")]
fn listener_info(env: Env, listener: ResourceArc<ListenerHandle>) -> Term {
    let group = &listener.0.group;
    let mut traffic = group.traffic();
    for conn in group.conns() {
        let state = conn.lock();
        traffic.0 += state.traffic.received;
        traffic.1 += state.traffic.sent;
    }
    let (received, sent) = datagrams::traffic(&listener.0);
    traffic.0 += received;
    traffic.1 += sent;
    let [accepted, closed, rejected] = group.totals();
    let waiting = listener.0.lock().waiters.len();
    rustler::term_map!(env, {
        atoms::connections() => group.live(),
        atoms::accepted() => accepted,
        atoms::closed() => closed,
        atoms::rejected() => rejected,
        atoms::received() => traffic.0,
        atoms::sent() => traffic.1,
        atoms::waiting() => waiting,
    })
}

#[rustler::nif(schedule = "DirtyCpu")]
fn listener_list(env: Env, listener: ResourceArc<ListenerHandle>) -> Vec<Term> {
    let conns = listener.0.group.conns();
    let describe = |conn: &Arc<Conn>| {
        let state = conn.lock();
        let owner = match &state.owner {
            Owner::Process(owner) => owner.pid.encode(env),
            Owner::Protocol(_) => atoms::python().encode(env),
            Owner::Arriving(_) | Owner::Nobody => atoms::nil().encode(env),
        };
        let phase = match state.phase {
            Phase::Open | Phase::Connecting => atoms::open(),
            Phase::Greeting => atoms::greeting(),
            Phase::Closing | Phase::Closed => atoms::closing(),
        };
        rustler::term_map!(env, {
            atoms::id() => conn.id,
            atoms::proxy() => state.header().map(|header| encode_header(env, header)),
            atoms::remote() => peer(env, conn.peer.as_ref()),
            atoms::since() => unix_ms(conn.born),
            atoms::received() => state.traffic.received,
            atoms::sent() => state.traffic.sent,
            atoms::queued() => state.queued(),
            atoms::owner() => owner,
            atoms::state() => phase,
        })
    };
    let sessions = datagrams::describe(env, &listener.0);
    conns.iter().map(describe).chain(sessions).collect()
}

/// Sends away so many of these acceptors, if so many of them wait: which ones.
#[rustler::nif]
fn listener_retire(
    env: Env,
    listener: ResourceArc<ListenerHandle>,
    acceptors: Vec<LocalPid>,
    count: usize,
) -> Vec<LocalPid> {
    let acceptors: HashSet<LocalPid> = acceptors.into_iter().collect();
    let mut retired = Vec::new();
    let mut state = listener.0.lock();
    state.waiters = std::mem::take(&mut state.waiters)
        .into_iter()
        .filter_map(|waiter| {
            if retired.len() == count || !acceptors.contains(&waiter.pid) {
                return Some(waiter);
            }
            retired.push(waiter);
            None
        })
        .collect();
    drop(state);
    process::retire(env, retired)
}

#[rustler::nif]
fn listener_await(env: Env, listener: ResourceArc<ListenerHandle>) -> Atom {
    listener.0.group.wait(env.pid(), listener.clone());
    atoms::ok()
}

/// Ends every connection now: how many there were.
#[rustler::nif(schedule = "DirtyCpu")]
fn listener_cut(listener: ResourceArc<ListenerHandle>) -> usize {
    let group = &listener.0.group;
    // Of one that goes on accepting, who comes from now on is not meant.
    let count = if listener.0.lock().fd().is_some() {
        group.live()
    } else {
        group.cut()
    };
    for conn in group.conns() {
        conn.lock().condemned = Some(Cause::Cut);
        kick(&conn);
    }
    process::datagrams::cut(&listener.0);
    count
}

/// A path that it listens on is removed: on a dirty scheduler.
#[rustler::nif(schedule = "DirtyIo")]
fn listener_drain(listener: ResourceArc<ListenerHandle>) -> Atom {
    listener.0.group.drain();
    if listener.0.is_datagram {
        process::datagrams::drain(&listener.0);
    } else {
        close_listener(&listener.0);
    }
    runtime::tell_all(|| Command::Drain(Arc::clone(&listener.0.group)));
    atoms::ok()
}

/// Likewise.
#[rustler::nif(schedule = "DirtyIo")]
fn listener_close(listener: ResourceArc<ListenerHandle>) -> Atom {
    close_listener(&listener.0);
    atoms::ok()
}
