//! TLS: what it is spoken with, and what was agreed on.

use std::sync::Arc;

use rustler::{
    Atom, Binary, Encoder, Env, Error, NewBinary, NifResult, Resource, ResourceArc, Term,
};
use rustls::pki_types::{IpAddr, ServerName};

use crate::connection::{Handshake, State};
use crate::nif::options::decode_time;
use crate::nif::terms::{get, refused, Answered};
use crate::owner::Owner;
use crate::process::Handle;
use crate::tls::config::{
    self, ClientOptions, Common, Credential, KeyFormat, ServerOptions, Wrong,
};
use crate::tls::facts::Facts;
use crate::tls::Offer;

mod atoms {
    rustler::atoms! {
        alpn,
        cacerts,
        cipher,
        credentials,
        ec = "ECPrivateKey",
        error,
        names,
        nil,
        ok,
        pkcs8 = "PrivateKeyInfo",
        required,
        resumed,
        resumption,
        rsa = "RSAPrivateKey",
        server_name,
        sni,
        tls12 = "tlsv1.2",
        tls13 = "tlsv1.3",
        verify,
        version,
        versions,
    }
}

/// What Elixir holds of a configuration: keys are in it, and cannot be taken out again.
pub struct Config(Kind);

enum Kind {
    /// And what it is made of, in external format: a Python process makes one of its own.
    Server(Arc<rustls::ServerConfig>, Arc<[u8]>),
    Client(Arc<rustls::ClientConfig>),
}

#[rustler::resource_impl]
impl Resource for Config {}

/// Checks keys against certificates: on a dirty scheduler.
#[rustler::nif(schedule = "DirtyCpu")]
fn tls_server<'a>(env: Env<'a>, options: Term<'a>) -> Answered<'a> {
    let recipe = options.to_binary().as_slice().into();
    let made = config::server(decode_server(options)?);
    Ok(answer(env, made.map(|made| Kind::Server(made, recipe))))
}

/// What a server is told.
pub fn decode_server(options: Term) -> NifResult<ServerOptions> {
    let named: Vec<(String, Term)> = get(options, atoms::names())?;
    let mut names = Vec::with_capacity(named.len());
    for (name, credentials) in named {
        names.push((name, decode_credentials(credentials)?));
    }
    Ok(ServerOptions {
        common: decode_common(options)?,
        names,
        required: get(options, atoms::required())?,
    })
}

/// Reads the certificates of every authority there is: on a dirty scheduler.
#[rustler::nif(schedule = "DirtyCpu")]
fn tls_client<'a>(env: Env<'a>, options: Term<'a>) -> Answered<'a> {
    let made = config::client(ClientOptions {
        common: decode_common(options)?,
        name: get(options, atoms::server_name())?,
    });
    Ok(answer(env, made.map(Kind::Client)))
}

fn answer(env: Env, made: Result<Kind, Wrong>) -> Term {
    match made {
        Ok(kind) => (atoms::ok(), ResourceArc::new(Config(kind))).encode(env),
        Err(Wrong { option, expected }) => {
            let option = Atom::from_str(env, option).unwrap_or_else(|_| atoms::error());
            (atoms::error(), (option, expected)).encode(env)
        }
    }
}

fn decode_common(options: Term) -> NifResult<Common> {
    let versions: Vec<Atom> = get(options, atoms::versions())?;
    Ok(Common {
        credentials: decode_credentials(get(options, atoms::credentials())?)?,
        authorities: decode_binaries(get(options, atoms::cacerts())?)?,
        verify: get(options, atoms::verify())?,
        alpn: decode_binaries(get(options, atoms::alpn())?)?,
        versions: (
            versions.contains(&atoms::tls12()),
            versions.contains(&atoms::tls13()),
        ),
        resumption: get(options, atoms::resumption())?,
    })
}

fn decode_binaries(list: Term) -> NifResult<Vec<Vec<u8>>> {
    let list: Vec<Binary> = list.decode()?;
    Ok(list.iter().map(|binary| binary.to_vec()).collect())
}

/// `[{[der], format, der}]`
fn decode_credentials(list: Term) -> NifResult<Vec<Credential>> {
    let list: Vec<(Term, Atom, Binary)> = list.decode()?;
    let credential = |(chain, format, key): (Term, Atom, Binary)| {
        let format = match format {
            format if format == atoms::rsa() => KeyFormat::Pkcs1,
            format if format == atoms::ec() => KeyFormat::Sec1,
            format if format == atoms::pkcs8() => KeyFormat::Pkcs8,
            _ => return Err(Error::BadArg),
        };
        Ok(Credential {
            chain: decode_binaries(chain)?,
            format,
            key: key.to_vec(),
        })
    };
    list.into_iter().map(credential).collect()
}

/// What the connections of a listener do first: `nil`, or `{config, handshake_timeout}`.
pub fn decode_handshake(term: Term) -> NifResult<Option<Handshake>> {
    let Some((config, timeout)) = term.decode::<Option<(ResourceArc<Config>, Term)>>()? else {
        return Ok(None);
    };
    let Kind::Server(config, recipe) = &config.0 else {
        return Err(Error::BadArg);
    };
    Ok(Some(Handshake {
        offer: Offer::Server(config.clone()),
        timeout: decode_time(timeout)?,
        recipe: Some(recipe.clone()),
    }))
}

/// What a dialed connection does first: `nil`, or `{config, name}`. Who dials has a timeout of its own.
pub fn decode_dialed(term: Term) -> NifResult<Option<Handshake>> {
    let Some((config, name)) = term.decode::<Option<(ResourceArc<Config>, String)>>()? else {
        return Ok(None);
    };
    let Kind::Client(config) = &config.0 else {
        return Err(Error::BadArg);
    };
    let name = match name.parse::<std::net::IpAddr>() {
        Ok(address) => ServerName::IpAddress(IpAddr::from(address)),
        Err(_) => ServerName::try_from(name).map_err(|_| Error::BadArg)?,
    };
    Ok(Some(Handshake {
        offer: Offer::Client(config.clone(), name),
        timeout: 0,
        recipe: None,
    }))
}

/// True for a name that a server can be asked for.
#[rustler::nif]
fn tls_name(name: String) -> bool {
    ServerName::try_from(name).is_ok()
}

/// `{:ok, map}`, `{:ok, nil}` without TLS, or `{:error, reason}`.
#[rustler::nif]
fn tls_info(env: Env, socket: ResourceArc<Handle>) -> Term {
    let state = socket.conn.lock();
    match state.socket() {
        Err(reason) => refused(env, reason),
        Ok(_) => (atoms::ok(), encode_info(env, &state)).encode(env),
    }
}

fn encode_info<'a>(env: Env<'a>, state: &State<Owner>) -> Option<Term<'a>> {
    let Facts {
        version,
        cipher,
        alpn,
        sni,
        resumed,
    } = state.tls()?.facts();
    let version = if version == "TLSv1.2" {
        atoms::tls12()
    } else {
        atoms::tls13()
    };
    Some(rustler::term_map!(env, {
        atoms::version() => version,
        atoms::cipher() => cipher,
        atoms::alpn() => alpn.map(|name| binary(env, &name)),
        atoms::sni() => sni,
        atoms::resumed() => resumed,
    }))
}

/// `{:ok, [der]}`, the peer's own first; `{:error, :no_peercert}` without.
#[rustler::nif]
fn tls_peer_chain(env: Env, socket: ResourceArc<Handle>) -> Term {
    let state = socket.conn.lock();
    if let Err(reason) = state.socket() {
        return refused(env, reason);
    }
    let chain = state.tls().map(|tls| tls.peer_chain());
    let chain: Vec<_> = chain
        .into_iter()
        .flatten()
        .map(|der| binary(env, der))
        .collect();
    (atoms::ok(), chain).encode(env)
}

/// Likewise for what is asked most often.
#[rustler::nif]
fn tls_alpn(env: Env, socket: ResourceArc<Handle>) -> Term {
    let state = socket.conn.lock();
    match state.tls().and_then(|tls| tls.alpn()) {
        Some(name) => binary(env, name).encode(env),
        None => atoms::nil().encode(env),
    }
}

/// True when what goes over it is encrypted, or was.
#[rustler::nif]
fn is_secure(socket: ResourceArc<Handle>) -> bool {
    socket.conn.secure
}

fn binary<'a>(env: Env<'a>, bytes: &[u8]) -> Binary<'a> {
    let mut binary = NewBinary::new(env, bytes.len());
    binary.as_mut_slice().copy_from_slice(bytes);
    binary.into()
}
