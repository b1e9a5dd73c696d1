//! What the PROXY protocol is told, and tells, as terms. `Reactor.Proxy` documents them.

use std::net::SocketAddr;
use std::time::Duration;

use rustler::{Atom, Binary, Encoder, Env, Error, NewBinary, NifResult, Term};

use crate::nif::terms::{decode_ip, encode_socket_address, Answered};
use crate::proxy::{
    self, Addresses, Announced, Command, Expected, Header, Network, Networks, Parsed, Ssl, Tlvs,
    Transport, Version, DEFAULT_LIMIT,
};

mod atoms {
    rustler::atoms! {
        alpn,
        authority,
        certificate,
        certificate_in_session,
        cipher,
        client_cert,
        cn,
        command,
        datagram,
        destination,
        error,
        group,
        key_alg,
        local,
        netns,
        nil,
        ok,
        others,
        partial,
        proxy,
        sig_alg,
        sig_scheme,
        source,
        ssl,
        stream,
        tls,
        tlvs,
        transport,
        unique_id,
        verified,
        verify,
        version,
    }
}

/// `{:ok, header, rest}`, `:partial` or `{:error, why}`.
#[rustler::nif]
fn proxy_parse<'a>(env: Env<'a>, bytes: Binary<'a>) -> Answered<'a> {
    Ok(match proxy::parse(&bytes, DEFAULT_LIMIT) {
        Parsed::Complete(header, used) => {
            let rest = bytes.make_subbinary(used, bytes.len() - used)?;
            (atoms::ok(), encode_header(env, &header), rest).encode(env)
        }
        Parsed::Partial => atoms::partial().encode(env),
        Parsed::Invalid(why) => (atoms::error(), why).encode(env),
    })
}

/// `:proxy` of a listener: `{networks, local, timeout}` with networks as `{ip, bits}`, or nil.
pub fn decode_expected(term: Term) -> NifResult<Option<Expected>> {
    let Some((list, local, timeout)) = term.decode::<Option<(Vec<(Term, u32)>, bool, u64)>>()?
    else {
        return Ok(None);
    };
    let network = |(ip, bits): (Term, u32)| Network::new(decode_ip(ip)?, bits).ok_or(Error::BadArg);
    let networks: NifResult<Vec<_>> = list.into_iter().map(network).collect();
    Ok(Some(Expected {
        trusted: Networks::new(networks?, local),
        timeout: Duration::from_millis(timeout),
    }))
}

/// `:proxy` of a connection that is dialed: `{version, source, destination}`, whose addresses are
/// `{ip, port}` or nil; or nil.
pub fn decode_announced(term: Term) -> NifResult<Option<Announced>> {
    type Address<'a> = Option<(Term<'a>, u16)>;
    let Some((version, source, destination)) = term.decode::<Option<(u8, Address, Address)>>()?
    else {
        return Ok(None);
    };
    let address = |address: Address| match address {
        Some((ip, port)) => Ok::<_, Error>(Some(SocketAddr::new(decode_ip(ip)?, port))),
        None => Ok(None),
    };
    Ok(Some(Announced {
        version: match version {
            1 => Version::One,
            2 => Version::Two,
            _ => return Err(Error::BadArg),
        },
        source: address(source)?,
        destination: address(destination)?,
    }))
}

/// A header as the map `t:Reactor.Proxy.t/0`.
pub fn encode_header<'a>(env: Env<'a>, header: &Header) -> Term<'a> {
    let (source, destination) = match &header.addresses {
        Addresses::Unknown => (atoms::nil().encode(env), atoms::nil().encode(env)),
        Addresses::Ip {
            source,
            destination,
        } => (
            encode_socket_address(env, *source),
            encode_socket_address(env, *destination),
        ),
        Addresses::Unix {
            source,
            destination,
        } => (encode_path(env, source), encode_path(env, destination)),
    };
    rustler::term_map!(env, {
        atoms::version() => number(header.version),
        atoms::command() => match header.command {
            Command::Local => atoms::local(),
            Command::Proxy => atoms::proxy(),
        },
        atoms::transport() => match header.transport {
            Transport::Unspecified => atoms::nil(),
            Transport::Stream => atoms::stream(),
            Transport::Datagram => atoms::datagram(),
        },
        atoms::source() => source,
        atoms::destination() => destination,
        atoms::tlvs() => encode_tlvs(env, &header.tlvs),
    })
}

/// 1 or 2.
pub fn number(version: Version) -> u8 {
    match version {
        Version::One => 1,
        Version::Two => 2,
    }
}

fn encode_path<'a>(env: Env<'a>, path: &[u8]) -> Term<'a> {
    (atoms::local(), binary(env, path)).encode(env)
}

fn binary<'a>(env: Env<'a>, bytes: &[u8]) -> Term<'a> {
    let mut binary = NewBinary::new(env, bytes.len());
    binary.as_mut_slice().copy_from_slice(bytes);
    Binary::from(binary).encode(env)
}

/// Only what there is.
fn map<'a>(env: Env<'a>, pairs: Vec<(Atom, Option<Term<'a>>)>) -> Term<'a> {
    let empty = Term::map_new(env);
    pairs.into_iter().fold(empty, |map, (key, value)| {
        let put = |value| map.map_put(key, value).ok();
        // A map is one, so putting something into it does not fail.
        value.and_then(put).unwrap_or(map)
    })
}

fn encode_tlvs<'a>(env: Env<'a>, tlvs: &Tlvs) -> Term<'a> {
    let bytes = |value: &Option<Vec<u8>>| value.as_ref().map(|value| binary(env, value));
    let text = |value: &Option<String>| value.as_ref().map(|value| value.encode(env));
    let others: Vec<_> = tlvs
        .others
        .iter()
        .map(|(kind, value)| (*kind, binary(env, value)))
        .collect();
    let pairs = vec![
        (atoms::alpn(), bytes(&tlvs.alpn)),
        (atoms::authority(), text(&tlvs.authority)),
        (atoms::unique_id(), bytes(&tlvs.unique_id)),
        (atoms::netns(), text(&tlvs.netns)),
        (
            atoms::ssl(),
            tlvs.ssl.as_ref().map(|ssl| encode_ssl(env, ssl)),
        ),
        (
            atoms::others(),
            (!others.is_empty()).then(|| others.encode(env)),
        ),
    ];
    map(env, pairs)
}

fn encode_ssl<'a>(env: Env<'a>, ssl: &Ssl) -> Term<'a> {
    let text = |value: &Option<String>| value.as_ref().map(|value| value.encode(env));
    let flag = |flag: bool| Some(flag.encode(env));
    let cert = ssl.client_cert.as_ref().map(|cert| binary(env, cert));
    let pairs = vec![
        (atoms::tls(), flag(ssl.tls)),
        (atoms::certificate(), flag(ssl.cert_in_connection)),
        (atoms::certificate_in_session(), flag(ssl.cert_in_session)),
        (atoms::verified(), flag(ssl.verified())),
        (atoms::verify(), Some(ssl.verify.encode(env))),
        (atoms::version(), text(&ssl.version)),
        (atoms::cn(), text(&ssl.cn)),
        (atoms::cipher(), text(&ssl.cipher)),
        (atoms::sig_alg(), text(&ssl.sig_alg)),
        (atoms::key_alg(), text(&ssl.key_alg)),
        (atoms::group(), text(&ssl.group)),
        (atoms::sig_scheme(), text(&ssl.sig_scheme)),
        (atoms::client_cert(), cert),
    ];
    map(env, pairs)
}
