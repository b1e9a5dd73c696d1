//! What a connection is, on its way from the VM into a process of its own: everything but its descriptor,
//! which travels with it.

use std::net::SocketAddr;

use rustler::{Atom, Binary, Encoder, Env, Error, NewBinary, NifResult, Term};

use crate::address::Address;
use crate::connection::{Active, Settings, Traffic};
use crate::deadline::Deadlines;
use crate::framing::Framing;
use crate::python::protocol::FactoryKey;

mod atoms {
    rustler::atoms! {
        current,
        listener,
        local,
        named,
        net,
        nil,
    }
}

/// One that goes.
pub struct Passage<'a> {
    /// Its number in the VM, which it keeps.
    pub id: u64,
    /// That of its group.
    pub group: u64,
    /// What makes its protocol.
    pub key: FactoryKey,
    /// Who is at the other end.
    pub peer: Option<Address>,
    /// What it starts with.
    pub settings: Settings,
    /// How long a PROXY header may take, in ms, if one has to come.
    pub header: Option<u64>,
    /// The number of the TLS configuration, and how long the handshake may take, in ms.
    pub handshake: Option<(u64, u32)>,
    /// Whether it was handed over, and may be anything that can be polled.
    pub handed: bool,
    /// What the caller said of it then.
    pub metadata: Option<Term<'a>>,
    /// What was read and nobody has seen.
    pub unread: Vec<u8>,
    /// What is to be written first.
    pub unsent: Vec<u8>,
    /// What has gone through it.
    pub traffic: Traffic,
}

impl<'a> Passage<'a> {
    /// As a term.
    pub fn encode(&self, env: Env<'a>) -> Term<'a> {
        let key = match &self.key {
            FactoryKey::Listener(number) => (atoms::listener(), *number).encode(env),
            FactoryKey::Named(name) => (atoms::named(), &**name).encode(env),
            FactoryKey::Current => atoms::current().encode(env),
        };
        let deadlines = self.settings.deadlines;
        let settings = [
            self.settings.high_watermark as u64,
            self.settings.low_watermark as u64,
            deadlines.first_byte.into(),
            deadlines.idle.into(),
            deadlines.stall.into(),
            deadlines.life.into(),
            deadlines.rate_bytes.into(),
            deadlines.rate_time.into(),
        ];
        let parts = [
            self.id.encode(env),
            self.group.encode(env),
            key,
            encode_peer(env, self.peer.as_ref()),
            settings.to_vec().encode(env),
            self.header.encode(env),
            self.handshake.encode(env),
            self.handed.encode(env),
            self.metadata.unwrap_or_else(|| atoms::nil().encode(env)),
            binary(env, &self.unread),
            binary(env, &self.unsent),
            (self.traffic.received, self.traffic.sent).encode(env),
        ];
        rustler::types::tuple::make_tuple(env, &parts)
    }

    /// From that term.
    pub fn decode(term: Term<'a>) -> NifResult<Self> {
        let parts = rustler::types::tuple::get_tuple(term)?;
        let [id, group, key, peer, settings, header, handshake, handed, metadata, unread, unsent, traffic] =
            parts[..]
        else {
            return Err(Error::BadArg);
        };
        let (received, sent) = traffic.decode()?;
        let nil = metadata
            .decode::<Atom>()
            .is_ok_and(|atom| atom == atoms::nil());
        Ok(Passage {
            id: id.decode()?,
            group: group.decode()?,
            key: decode_key(key)?,
            peer: decode_peer(peer)?,
            settings: decode_settings(settings)?,
            header: header.decode()?,
            handshake: handshake.decode()?,
            handed: handed.decode()?,
            metadata: (!nil).then_some(metadata),
            unread: unread.decode::<Binary>()?.to_vec(),
            unsent: unsent.decode::<Binary>()?.to_vec(),
            traffic: Traffic {
                received,
                sent,
                ..Traffic::default()
            },
        })
    }
}

fn decode_key(term: Term) -> NifResult<FactoryKey> {
    if let Ok((kind, number)) = term.decode::<(Atom, u64)>() {
        if kind == atoms::listener() {
            return Ok(FactoryKey::Listener(number));
        }
    }
    match term.decode::<(Atom, String)>() {
        Ok((_, name)) => Ok(FactoryKey::Named(name.into())),
        Err(_) => Ok(FactoryKey::Current),
    }
}

fn decode_settings(term: Term) -> NifResult<Settings> {
    let numbers: Vec<u64> = term.decode()?;
    let [high, low, first_byte, idle, stall, life, rate_bytes, rate_time] = numbers[..] else {
        return Err(Error::BadArg);
    };
    Ok(Settings {
        framing: Framing::Raw,
        packet_size: 0,
        active: Active::Off,
        high_watermark: high as usize,
        low_watermark: low as usize,
        deadlines: Deadlines {
            first_byte: first_byte as u32,
            idle: idle as u32,
            stall: stall as u32,
            life: life as u32,
            rate_bytes: rate_bytes as u32,
            rate_time: rate_time as u32,
        },
        send_timeout: 0,
        send_timeout_close: false,
    })
}

fn encode_peer<'a>(env: Env<'a>, peer: Option<&Address>) -> Term<'a> {
    match peer {
        None => atoms::nil().encode(env),
        Some(Address::Net(address)) => (atoms::net(), address.to_string()).encode(env),
        Some(Address::Local(name)) => (atoms::local(), binary(env, name)).encode(env),
    }
}

fn decode_peer(term: Term) -> NifResult<Option<Address>> {
    let Ok((kind, name)) = term.decode::<(Atom, Binary)>() else {
        return Ok(None);
    };
    if kind == atoms::local() {
        return Ok(Some(Address::Local(name.as_slice().into())));
    }
    let text = std::str::from_utf8(&name).map_err(|_| Error::BadArg)?;
    let address: SocketAddr = text.parse().map_err(|_| Error::BadArg)?;
    Ok(Some(address.into()))
}

/// Bytes as a term.
pub fn binary<'a>(env: Env<'a>, bytes: &[u8]) -> Term<'a> {
    let mut binary = NewBinary::new(env, bytes.len());
    binary.copy_from_slice(bytes);
    binary.into()
}
