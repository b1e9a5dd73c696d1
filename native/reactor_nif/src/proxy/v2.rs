//! Version 2: binary.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{begins, tlv, Addresses, Command, Header, Parsed, Tlvs, Transport, Version};

/// What every header begins with.
pub const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The signature, version and command, family and transport, and the length of the rest.
pub const FIXED: usize = 16;
/// How long the path of a Unix socket is in a header.
pub const UNIX_PATH: usize = 108;

/// Why a header is none.
pub type Why = &'static str;

pub fn parse(bytes: &[u8], limit: usize) -> Parsed {
    match find(bytes, limit) {
        Ok(Some((header, used))) => Parsed::Complete(Box::new(header), used),
        Ok(None) => Parsed::Partial,
        Err(why) => Parsed::Invalid(why),
    }
}

fn find(bytes: &[u8], limit: usize) -> Result<Option<(Header, usize)>, Why> {
    if !begins(bytes, SIGNATURE) {
        return Err("it does not begin as a PROXY header");
    }
    // Each byte is looked at as soon as it is there.
    let command = match bytes.get(12) {
        None => return Ok(None),
        Some(byte) => command(*byte)?,
    };
    let family = match bytes.get(13) {
        None => return Ok(None),
        Some(byte) => *byte,
    };
    let (transport, family) = match command {
        // "The receiver must discard the protocol block including the family which is ignored."
        Command::Local => (Transport::Unspecified, Family::Unspecified),
        Command::Proxy => transport_and_family(family)?,
    };
    let (Some(high), Some(low)) = (bytes.get(14), bytes.get(15)) else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if length > limit {
        return Err("it is longer than a header may be");
    }
    if length < family.size() {
        return Err("it is shorter than its addresses");
    }
    let total = FIXED + length;
    let Some(whole) = bytes.get(..total) else {
        return Ok(None);
    };
    let (addresses, rest) = whole[FIXED..].split_at(family.size());
    let tlvs = match family {
        Family::Unspecified => Tlvs::default(),
        _ => tlv::parse(whole, rest)?,
    };
    let header = Header {
        version: Version::Two,
        command,
        transport,
        addresses: family.addresses(addresses),
        tlvs,
    };
    Ok(Some((header, total)))
}

fn command(byte: u8) -> Result<Command, Why> {
    match (byte >> 4, byte & 0xf) {
        (2, 0) => Ok(Command::Local),
        (2, 1) => Ok(Command::Proxy),
        (2, _) => Err("its command is neither LOCAL nor PROXY"),
        _ => Err("its version is not 2"),
    }
}

/// The combinations that the specification lists; receivers must refuse all others.
fn transport_and_family(byte: u8) -> Result<(Transport, Family), Why> {
    match byte {
        0x00 => Ok((Transport::Unspecified, Family::Unspecified)),
        0x11 => Ok((Transport::Stream, Family::Inet)),
        0x12 => Ok((Transport::Datagram, Family::Inet)),
        0x21 => Ok((Transport::Stream, Family::Inet6)),
        0x22 => Ok((Transport::Datagram, Family::Inet6)),
        0x31 => Ok((Transport::Stream, Family::Unix)),
        0x32 => Ok((Transport::Datagram, Family::Unix)),
        _ => Err("its family and transport are none that there are"),
    }
}

#[derive(Clone, Copy)]
enum Family {
    /// What follows is not looked at: nobody says how long addresses of no family are.
    Unspecified,
    Inet,
    Inet6,
    Unix,
}

impl Family {
    /// How long the addresses are.
    fn size(self) -> usize {
        match self {
            Family::Unspecified => 0,
            Family::Inet => 12,
            Family::Inet6 => 36,
            Family::Unix => 2 * UNIX_PATH,
        }
    }

    /// The addresses in `block`, which has their size.
    fn addresses(self, block: &[u8]) -> Addresses {
        match self {
            Family::Unspecified => Addresses::Unknown,
            Family::Inet => {
                let ip = |at| Ipv4Addr::from(array::<4>(block, at));
                Addresses::Ip {
                    source: SocketAddr::new(ip(0).into(), port(block, 8)),
                    destination: SocketAddr::new(ip(4).into(), port(block, 10)),
                }
            }
            Family::Inet6 => {
                let ip = |at| Ipv6Addr::from(array::<16>(block, at));
                Addresses::Ip {
                    source: SocketAddr::new(ip(0).into(), port(block, 32)),
                    destination: SocketAddr::new(ip(16).into(), port(block, 34)),
                }
            }
            Family::Unix => {
                let (source, destination) = block.split_at(UNIX_PATH);
                Addresses::Unix {
                    source: path(source),
                    destination: path(destination),
                }
            }
        }
    }
}

fn array<const N: usize>(block: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&block[at..at + N]);
    array
}

fn port(block: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(array(block, at))
}

/// A path ends at its first NUL byte. An abstract name begins with one and may hold others; those that fill
/// the field after it are not part of it.
fn path(block: &[u8]) -> Vec<u8> {
    let zero = |byte: &u8| *byte == 0;
    let end = match block.iter().position(zero) {
        Some(0) => block
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |at| at + 1),
        Some(end) => end,
        None => block.len(),
    };
    block[..end].to_vec()
}
