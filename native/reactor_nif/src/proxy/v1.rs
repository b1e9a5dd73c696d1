//! Version 1: one line of text.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{begins, Addresses, Command, Header, Parsed, Tlvs, Transport, Version};

/// What every header begins with.
pub const PREFIX: &[u8] = b"PROXY ";
/// The longest header, its CRLF included.
const LONGEST: usize = 107;
const FAMILIES: [&[u8]; 3] = [b"TCP4 ", b"TCP6 ", b"UNKNOWN"];

pub fn parse(bytes: &[u8]) -> Parsed {
    if !begins(bytes, PREFIX) {
        return Parsed::Invalid("it does not begin as a PROXY header");
    }
    let rest = bytes.get(PREFIX.len()..).unwrap_or_default();
    if !FAMILIES.iter().any(|family| begins(rest, family)) {
        return Parsed::Invalid("its protocol is not TCP4, TCP6 or UNKNOWN");
    }
    let head = &bytes[..bytes.len().min(LONGEST)];
    let Some(end) = head.windows(2).position(|pair| pair == b"\r\n") else {
        return unfinished(bytes, rest);
    };
    match line(&head[PREFIX.len()..end]) {
        Ok((transport, addresses)) => {
            let header = Header {
                version: Version::One,
                command: Command::Proxy,
                transport,
                addresses,
                tlvs: Tlvs::default(),
            };
            Parsed::Complete(Box::new(header), end + 2)
        }
        Err(why) => Parsed::Invalid(why),
    }
}

/// There is no end yet. What cannot become a header is not waited for.
fn unfinished(bytes: &[u8], rest: &[u8]) -> Parsed {
    if bytes.len() >= LONGEST {
        return Parsed::Invalid("its line is longer than 107 bytes");
    }
    let text = rest.strip_suffix(b"\r").unwrap_or(rest);
    // What follows UNKNOWN may be anything.
    let known = !rest.starts_with(b"U");
    if known && rest.len() > 5 && !text[5..].iter().all(|byte| in_an_address(*byte)) {
        return Parsed::Invalid("its line has a character that is in no address");
    }
    Parsed::Partial
}

fn in_an_address(byte: u8) -> bool {
    byte.is_ascii_hexdigit() || matches!(byte, b'.' | b':' | b' ')
}

fn line(line: &[u8]) -> Result<(Transport, Addresses), &'static str> {
    if line == b"UNKNOWN" || line.starts_with(b"UNKNOWN ") {
        // "The receiver must ignore anything presented before the CRLF is found."
        return Ok((Transport::Unspecified, Addresses::Unknown));
    }
    let line =
        std::str::from_utf8(line).map_err(|_| "its line has a character that is in no address")?;
    let mut words = line.split(' ');
    let family = words.next();
    let mut next = || words.next().ok_or("its line has too few words");
    let (source, destination) = (next()?, next()?);
    let (source_port, destination_port) = (next()?, next()?);
    if words.next().is_some() {
        return Err("its line has too many words");
    }
    let ip = |text| match family {
        Some("TCP4") => ipv4(text),
        Some("TCP6") => ipv6(text),
        _ => Err("its protocol is not TCP4, TCP6 or UNKNOWN"),
    };
    let (source, destination) = (ip(source)?, ip(destination)?);
    let addresses = Addresses::Ip {
        source: SocketAddr::new(source, port(source_port)?),
        destination: SocketAddr::new(destination, port(destination_port)?),
    };
    Ok((Transport::Stream, addresses))
}

fn ipv4(text: &str) -> Result<IpAddr, &'static str> {
    let ip: Result<Ipv4Addr, _> = text.parse();
    ip.map(IpAddr::V4)
        .map_err(|_| "an address of it is not an IPv4 address")
}

fn ipv6(text: &str) -> Result<IpAddr, &'static str> {
    let ip: Result<Ipv6Addr, _> = text.parse();
    ip.map(IpAddr::V6)
        .map_err(|_| "an address of it is not an IPv6 address")
}

/// Decimal, without a sign or leading zeroes, which the standard library would take.
fn port(text: &str) -> Result<u16, &'static str> {
    const WRONG: &str = "a port of it is not a number from 0 to 65535";
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    if !plain || (text.len() > 1 && text.starts_with('0')) {
        return Err(WRONG);
    }
    text.parse().map_err(|_| WRONG)
}
