//! Answers and addresses, as terms.

use std::net::{IpAddr, SocketAddr};

use rustler::types::tuple::get_tuple;
use rustler::{Atom, Binary, Encoder, Env, Error, NewBinary, NifResult, Term};

use crate::address::Address;
use crate::error::Reason;
use crate::process::atom;

mod atoms {
    rustler::atoms! {
        error,
        local,
        nil,
        ok,
    }
}

/// What a function returns that may have been called wrongly.
pub type Answered<'a> = NifResult<Term<'a>>;

/// `{:error, reason}`.
pub fn refused<'a>(env: Env<'a>, reason: Reason) -> Term<'a> {
    (atoms::error(), atom(env, reason)).encode(env)
}

/// `{:ok, value}` or `{:error, reason}`.
pub fn ok_or_reason<'a, T: Encoder>(env: Env<'a>, result: Result<T, Reason>) -> Term<'a> {
    match result {
        Ok(value) => (atoms::ok(), value).encode(env),
        Err(reason) => refused(env, reason),
    }
}

/// What a map has under that key.
pub fn get<'a, T: rustler::Decoder<'a>>(map: Term<'a>, key: Atom) -> NifResult<T> {
    map.map_get(key)?.decode()
}

/// An address as `:inet` writes it.
pub fn decode_ip(term: Term) -> NifResult<IpAddr> {
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

/// An address as `:inet` writes it, with a port, or `{:local, path}`.
pub fn decode_address(term: Term, port: u16) -> NifResult<Address> {
    match term.decode::<(Atom, Binary)>() {
        Ok((kind, path)) if kind == atoms::local() => Ok(Address::Local(path.as_slice().into())),
        _ => Ok(SocketAddr::new(decode_ip(term)?, port).into()),
    }
}

/// `{:ok, {ip, port}}`, `{:ok, {:local, path}}` or `{:error, reason}`.
pub fn encode_address(env: Env, address: Result<Address, Reason>) -> Term {
    let encoded = address.map(|address| encode_place(env, &address));
    ok_or_reason(env, encoded)
}

/// The address of a peer, or nil.
pub fn peer<'a>(env: Env<'a>, address: Option<&Address>) -> Term<'a> {
    match address {
        Some(address) => encode_place(env, address),
        None => atoms::nil().encode(env),
    }
}

fn encode_place<'a>(env: Env<'a>, address: &Address) -> Term<'a> {
    match address {
        Address::Net(address) => encode_socket_address(env, *address),
        Address::Local(path) => {
            let mut binary = NewBinary::new(env, path.len());
            binary.copy_from_slice(path);
            (atoms::local(), Term::from(binary)).encode(env)
        }
    }
}

/// `{ip, port}`.
pub fn encode_socket_address(env: Env, address: SocketAddr) -> Term {
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
    (ip, address.port()).encode(env)
}
