//! Connections that are dialed.

use std::sync::Arc;

use rustler::{Encoder, Env, Term};
use socket2::{Socket, Type};

use crate::address::Address;
use crate::command::Command;
use crate::connection::{Connection, Greeting, Parts, Phase, Preface};
use crate::error::Reason;
use crate::listener::SocketOptions;
use crate::nif::options::{decode_settings, decode_socket_options};
use crate::nif::proxy::decode_announced;
use crate::nif::terms::{decode_address, get, refused, Answered};
use crate::nif::tls::decode_dialed;
use crate::owner::Owner;
use crate::{process, runtime};

mod atoms {
    rustler::atoms! {
        address,
        port,
        proxy,
        tls,
        wait,
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
