//! Datagram sockets.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Instant;

use rustler::{Atom, Encoder, Env, Error, LocalPid, ResourceArc, Term};

use crate::connection::Traffic;
use crate::error::Reason;
use crate::listener::Listener;
use crate::nif::options::{decode_active, decode_time, encode_active, encode_time, SocketWish};
use crate::nif::sockets::flat;
use crate::nif::terms::{
    decode_ip, encode_address, encode_socket_address, ok_or_reason, refused, Answered,
};
use crate::process::datagrams::{self, with_session, DatagramHandle};
use crate::process::{outcome, Answer};
use crate::python::datagram::Served;
use crate::report::unix_ms;

mod atoms {
    rustler::atoms! {
        active,
        again,
        age,
        badarg,
        error,
        id,
        nil,
        ok,
        open,
        owner,
        python,
        queued,
        reads,
        recbuf,
        received,
        remote,
        send_timeout,
        sent,
        since,
        sndbuf,
        state,
        writes,
    }
}

type Socket = ResourceArc<DatagramHandle>;

#[rustler::nif]
fn datagram_id(socket: Socket) -> u64 {
    socket.id
}

#[rustler::nif]
fn datagram_recv(env: Env, socket: Socket) -> Term {
    match datagrams::recv(&socket, env, env.pid()) {
        Ok(Answer::Done((from, data))) => {
            (atoms::ok(), encode_socket_address(env, from), data).encode(env)
        }
        // The number that the message will name.
        Ok(_) => socket.id.encode(env),
        Err(reason) => refused(env, reason),
    }
}

#[rustler::nif]
fn datagram_recv_cancel(env: Env, socket: Socket) -> Atom {
    ok_or_sent(datagrams::recv_cancel(&socket, env.pid()))
}

#[rustler::nif]
fn datagram_send<'a>(
    env: Env<'a>,
    socket: Socket,
    ip: Term<'a>,
    port: u16,
    data: Term<'a>,
) -> Answered<'a> {
    let to = SocketAddr::new(decode_ip(ip)?, port);
    let data = flat(data)?;
    Ok(match datagrams::send(&socket, env.pid(), to, &data) {
        Ok(Answer::Done(())) => atoms::ok().encode(env),
        Ok(_) => atoms::again().encode(env),
        Err(reason) => refused(env, reason),
    })
}

#[rustler::nif]
fn datagram_send_cancel(env: Env, socket: Socket) -> Atom {
    ok_or_sent(datagrams::send_cancel(&socket, env.pid()))
}

fn ok_or_sent(forgotten: bool) -> Atom {
    if forgotten {
        atoms::ok()
    } else {
        atoms::sent()
    }
}

/// How long a sender is to wait.
#[rustler::nif]
fn datagram_send_timeout(env: Env, socket: Socket) -> Term {
    let time = with_session(&socket, |session| session.send_timeout);
    encode_time(env, time.unwrap_or_default())
}

#[rustler::nif]
fn datagram_setopts<'a>(env: Env<'a>, socket: Socket, options: Term<'a>) -> Answered<'a> {
    let mut wish = SocketWish::default();
    let mut mode = None;
    let mut send_timeout = None;
    for (key, value) in options.decode::<rustler::MapIterator>()? {
        let key: Atom = key.decode()?;
        if key == atoms::active() {
            mode = Some(decode_active(value)?);
        } else if key == atoms::send_timeout() {
            send_timeout = Some(decode_time(value)?);
        } else if key == atoms::recbuf() || key == atoms::sndbuf() {
            wish.decode(key, value)?;
        } else {
            return Err(Error::BadArg);
        }
    }
    let set = || -> Result<(), Reason> {
        with_session(&socket, |session| {
            session.send_timeout = send_timeout.unwrap_or(session.send_timeout);
        })?;
        let state = socket.listener.lock();
        let applied = state.with_sockets(|fd| wish.apply_sizes(fd));
        drop(state);
        applied.map_err(Reason::from)?;
        match mode {
            Some(mode) => datagrams::set_active(&socket, mode),
            None => Ok(()),
        }
    };
    Ok(outcome(env, set()))
}

#[rustler::nif]
fn datagram_getopts(env: Env, socket: Socket) -> Term {
    let read = || -> Result<Term, Reason> {
        let kept = with_session(&socket, |session| (session.active, session.send_timeout))?;
        let mut state = socket.listener.lock();
        let (fd, _, _) = state.datagrams().ok_or(Reason::Closed)?;
        let recbuf = fd.recv_buffer_size().map_err(Reason::from)?;
        let sndbuf = fd.send_buffer_size().map_err(Reason::from)?;
        Ok(rustler::term_map!(env, {
            atoms::active() => encode_active(env, kept.0),
            atoms::send_timeout() => encode_time(env, kept.1),
            atoms::recbuf() => recbuf,
            atoms::sndbuf() => sndbuf,
        }))
    };
    ok_or_reason(env, read())
}

#[rustler::nif]
fn datagram_controlling_process<'a>(env: Env<'a>, socket: Socket, pid: LocalPid) -> Term<'a> {
    match datagrams::transfer(&socket, env, env.pid(), pid) {
        Err(Reason::Invalid) => (atoms::error(), atoms::badarg()).encode(env),
        other => outcome(env, other),
    }
}

#[rustler::nif]
fn datagram_local(env: Env, socket: Socket) -> Term {
    let here = with_session(&socket, |_| ());
    let address = here.and_then(|()| socket.listener.lock().address());
    encode_address(env, address)
}

#[rustler::nif]
fn datagram_statistics(env: Env, socket: Socket) -> Term {
    let kept = with_session(&socket, |session| (session.traffic, session.born.elapsed()));
    let queued = socket
        .listener
        .lock()
        .datagrams()
        .map(|own| own.1.outbox.bytes());
    let map = kept.map(|(traffic, age)| {
        rustler::term_map!(env, {
            atoms::received() => traffic.received,
            atoms::sent() => traffic.sent,
            atoms::reads() => traffic.reads,
            atoms::writes() => traffic.writes,
            atoms::queued() => queued.unwrap_or_default(),
            atoms::age() => age.as_millis() as u64,
        })
    });
    ok_or_reason(env, map)
}

#[rustler::nif]
fn datagram_close(socket: Socket) -> Atom {
    datagrams::close(&socket);
    atoms::ok()
}

/// The owner has taken what it was sent.
#[rustler::nif]
fn datagram_relieve(socket: Socket) -> Atom {
    datagrams::relieve(&socket);
    atoms::ok()
}

/// What those who have a listener's socket now have received and sent.
pub fn traffic(listener: &Arc<Listener>) -> (u64, u64) {
    let mut total = (0, 0);
    for served in contexts(listener) {
        let traffic = served.lock().traffic;
        total.0 += traffic.received;
        total.1 += traffic.sent;
    }
    let mut state = listener.lock();
    let session = state
        .datagrams
        .as_mut()
        .and_then(|own| own.session.as_ref());
    let traffic = session.map(|session| session.traffic).unwrap_or_default();
    (total.0 + traffic.received, total.1 + traffic.sent)
}

/// The contexts that have a listener's socket. Their locks come before the listener's.
fn contexts(listener: &Arc<Listener>) -> Vec<Arc<Served>> {
    let state = listener.lock();
    let own = state.datagrams.iter();
    own.flat_map(|own| own.contexts.iter().filter_map(Weak::upgrade))
        .collect()
}

/// Those who have a listener's socket now.
pub fn describe<'a>(env: Env<'a>, listener: &Arc<Listener>) -> Vec<Term<'a>> {
    let one = |id: u64, born: Instant, traffic: Traffic, queued: usize, owner: Term<'a>| {
        rustler::term_map!(env, {
            atoms::id() => id,
            atoms::remote() => atoms::nil(),
            atoms::since() => unix_ms(born),
            atoms::received() => traffic.received,
            atoms::sent() => traffic.sent,
            atoms::queued() => queued,
            atoms::owner() => owner,
            atoms::state() => atoms::open(),
        })
    };
    let contexts = contexts(listener);
    let mut state = listener.lock();
    let Some((_, own, _)) = state.datagrams() else {
        return Vec::new();
    };
    // What waits to be sent is the socket's, whoever sent it.
    let queued = own.outbox.bytes();
    let session = own.session.iter().map(|session| {
        let pid = session.pid.encode(env);
        one(session.id, session.born, session.traffic, queued, pid)
    });
    let session: Vec<_> = session.collect();
    drop(state);
    let contexts = contexts.iter().map(|served| {
        let state = served.lock();
        let python = atoms::python().encode(env);
        one(state.id, state.born, state.traffic, queued, python)
    });
    session.into_iter().chain(contexts).collect()
}
