//! The options of listeners and connections, as terms.

use rustler::{Atom, Encoder, Env, Error, NifResult, Term};
use socket2::Socket;

use crate::address;
use crate::connection::{Active, Settings};
use crate::deadline::Deadlines;
use crate::framing::Framing;
use crate::group::{Limits, UNLIMITED};
use crate::listener::unix::{Access, Id};
use crate::listener::SocketOptions;
use crate::nif::terms::get;

mod atoms {
    rustler::atoms! {
        accept_rate,
        active,
        first_byte_timeout,
        group,
        high_watermark,
        idle_timeout,
        infinity,
        keepalive,
        line,
        low_watermark,
        max_connections,
        max_connections_per_ip,
        max_lifetime,
        min_rate,
        mode,
        nodelay,
        once,
        overload,
        owner,
        packet,
        packet_size,
        raw,
        recbuf,
        reject,
        send_timeout,
        send_timeout_close,
        sndbuf,
        stall_timeout,
    }
}

/// True for the options that a listener keeps, and not its connections.
pub fn is_limit(key: Atom) -> bool {
    [
        atoms::max_connections(),
        atoms::max_connections_per_ip(),
        atoms::overload(),
        atoms::accept_rate(),
    ]
    .contains(&key)
}

/// The limits in `options`; what is not there is as in `before`, or an error without that.
pub fn decode_limits(options: Term, before: Option<Limits>) -> NifResult<Limits> {
    let find = |key: Atom| match options.map_get(key) {
        Ok(term) => Ok(Some(term)),
        Err(_) if before.is_some() => Ok(None),
        Err(error) => Err(error),
    };
    let mut limits = before.clone().unwrap_or(Limits {
        connections: UNLIMITED,
        reject: false,
        per_ip: UNLIMITED,
        rate: 0,
    });
    let number = |term: Term| -> NifResult<Option<usize>> {
        match term.decode::<Atom>() {
            Ok(atom) if atom == atoms::infinity() => Ok(None),
            _ => term.decode().map(Some),
        }
    };
    if let Some(term) = find(atoms::max_connections())? {
        limits.connections = number(term)?.unwrap_or(UNLIMITED);
    }
    if let Some(term) = find(atoms::max_connections_per_ip())? {
        limits.per_ip = number(term)?.unwrap_or(UNLIMITED);
    }
    if let Some(term) = find(atoms::accept_rate())? {
        let rate = number(term)?.unwrap_or(0);
        limits.rate = u32::try_from(rate).map_err(|_| Error::BadArg)?;
    }
    if let Some(term) = find(atoms::overload())? {
        limits.reject = term.decode::<Atom>()? == atoms::reject();
    }
    Ok(limits)
}

/// Who may connect to a path: a map with all of it, where nil leaves it as it is.
pub fn decode_access(options: Term) -> NifResult<Access> {
    let id = |key: Atom| -> NifResult<Option<Id>> {
        let term = options.map_get(key)?;
        Ok(match term.decode::<String>() {
            Ok(name) => Some(Id::Name(name)),
            Err(_) => term.decode::<Option<u32>>()?.map(Id::Number),
        })
    };
    Ok(Access {
        mode: get(options, atoms::mode())?,
        owner: id(atoms::owner())?,
        group: id(atoms::group())?,
    })
}

/// What the kernel is told about a new socket: all of it.
pub fn decode_socket_options(options: Term) -> NifResult<SocketOptions> {
    Ok(SocketOptions {
        nodelay: get(options, atoms::nodelay())?,
        keepalive: get(options, atoms::keepalive())?,
        recbuf: get(options, atoms::recbuf())?,
        sndbuf: get(options, atoms::sndbuf())?,
    })
}

/// What a connection is made with: all of it.
pub fn decode_settings(options: Term) -> NifResult<Settings> {
    let mut settings = Settings {
        framing: Framing::Raw,
        packet_size: 0,
        active: Active::Off,
        high_watermark: 0,
        low_watermark: 0,
        deadlines: Deadlines::default(),
        send_timeout: 0,
        send_timeout_close: false,
    };
    for key in [
        atoms::send_timeout(),
        atoms::send_timeout_close(),
        atoms::first_byte_timeout(),
        atoms::idle_timeout(),
        atoms::stall_timeout(),
        atoms::max_lifetime(),
        atoms::min_rate(),
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
pub fn decode_setting(settings: &mut Settings, key: Atom, value: Term) -> NifResult<bool> {
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
    } else if key == atoms::first_byte_timeout() {
        settings.deadlines.first_byte = decode_time(value)?;
    } else if key == atoms::idle_timeout() {
        settings.deadlines.idle = decode_time(value)?;
    } else if key == atoms::stall_timeout() {
        settings.deadlines.stall = decode_time(value)?;
    } else if key == atoms::max_lifetime() {
        settings.deadlines.life = decode_time(value)?;
    } else if key == atoms::send_timeout() {
        settings.send_timeout = decode_time(value)?;
    } else if key == atoms::send_timeout_close() {
        settings.send_timeout_close = value.decode()?;
    } else if key == atoms::min_rate() {
        let rate: Option<(u32, u32)> = value.decode()?;
        let (bytes, time) = rate.unwrap_or_default();
        settings.deadlines.rate_bytes = bytes;
        settings.deadlines.rate_time = time;
    } else {
        return Ok(false);
    }
    Ok(true)
}

/// Milliseconds; `infinity` is 0.
pub fn decode_time(term: Term) -> NifResult<u32> {
    match term.decode::<Atom>() {
        Ok(atom) if atom == atoms::infinity() => Ok(0),
        Ok(_) => Err(Error::BadArg),
        Err(_) => term.decode(),
    }
}

/// Options of the kernel's that are to be set.
#[derive(Default)]
pub struct SocketWish {
    nodelay: Option<bool>,
    keepalive: Option<bool>,
    recbuf: Option<usize>,
    sndbuf: Option<usize>,
}

impl SocketWish {
    /// Notes one option of the kernel's; false when the key is not one.
    pub fn decode(&mut self, key: Atom, value: Term) -> NifResult<bool> {
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

    /// Sets what was noted.
    pub fn apply(&self, socket: &Socket) -> std::io::Result<()> {
        if let Some(nodelay) = self.nodelay {
            address::set_nodelay(socket, nodelay)?;
        }
        if let Some(keepalive) = self.keepalive {
            socket.set_keepalive(keepalive)?;
        }
        self.apply_sizes(socket)
    }

    /// Sets those that a socket for datagrams has too.
    pub fn apply_sizes(&self, socket: &Socket) -> std::io::Result<()> {
        if let Some(size) = self.recbuf {
            socket.set_recv_buffer_size(size)?;
        }
        if let Some(size) = self.sndbuf {
            socket.set_send_buffer_size(size)?;
        }
        Ok(())
    }
}

/// Milliseconds; 0 is `infinity`.
pub fn encode_time(env: Env, time: u32) -> Term {
    match time {
        0 => atoms::infinity().encode(env),
        time => time.encode(env),
    }
}

/// `{bytes, ms}` or nil.
pub fn encode_rate(deadlines: Deadlines) -> Option<(u32, u32)> {
    (deadlines.rate_time > 0).then_some((deadlines.rate_bytes, deadlines.rate_time))
}

/// `packet` from a term.
pub fn decode_framing(term: Term) -> NifResult<Framing> {
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

/// `packet` as a term.
pub fn encode_framing(env: Env, framing: Framing) -> Term {
    match framing {
        Framing::Raw => atoms::raw().encode(env),
        Framing::Line => atoms::line().encode(env),
        Framing::Length(width) => width.encode(env),
    }
}

/// `active` from a term.
pub fn decode_active(term: Term) -> NifResult<Active> {
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

/// `active` as a term.
pub fn encode_active(env: Env, active: Active) -> Term {
    match active {
        Active::Off => false.encode(env),
        Active::On => true.encode(env),
        Active::Once => atoms::once().encode(env),
        Active::Count(count) => count.encode(env),
    }
}
