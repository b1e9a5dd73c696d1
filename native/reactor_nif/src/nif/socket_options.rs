//! The options of a connection, once it is there.

use rustler::{Atom, Encoder, Env, Error, ResourceArc, Term};

use crate::address;
use crate::connection::Active;
use crate::error::Reason;
use crate::nif::options::{
    decode_setting, encode_active, encode_framing, encode_rate, encode_time, SocketWish,
};
use crate::nif::terms::{ok_or_reason, refused, Answered};
use crate::owner::kick;
use crate::process::{self, Handle};

mod atoms {
    rustler::atoms! {
        active,
        first_byte_timeout,
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
        recbuf,
        send_timeout,
        send_timeout_close,
        sndbuf,
        stall_timeout,
    }
}

/// How long a sender is to wait, and whether the connection closes then.
#[rustler::nif]
fn send_timeout(env: Env, socket: ResourceArc<Handle>) -> Term {
    let state = socket.conn.lock();
    let time = encode_time(env, state.settings.send_timeout);
    (time, state.settings.send_timeout_close).encode(env)
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
