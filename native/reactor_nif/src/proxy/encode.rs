//! Headers as bytes.

use std::net::IpAddr;

use super::tlv::{self, Tlvs};
use super::v2::{FIXED, SIGNATURE, UNIX_PATH};
use super::{Addresses, Command, Header, Transport, Version};

impl Header {
    /// Its bytes. Two addresses of different families are both written as IPv6. Of Unix sockets, and of
    /// whatever is not a stream, version 1 says that it is unknown; it has nothing to say that a connection
    /// is the proxy's own but that too.
    pub fn encode(&self) -> Vec<u8> {
        match self.version {
            Version::One => self.line().into_bytes(),
            Version::Two => self.binary(),
        }
    }

    fn line(&self) -> String {
        let stream = self.command == Command::Proxy && self.transport == Transport::Stream;
        match &self.addresses {
            Addresses::Ip {
                source,
                destination,
            } if stream => {
                let (from, to) = of_one_family(source.ip(), destination.ip());
                let family = if from.is_ipv4() { 4 } else { 6 };
                let (from, to) = (text(from), text(to));
                let (source, destination) = (source.port(), destination.port());
                format!("PROXY TCP{family} {from} {to} {source} {destination}\r\n")
            }
            _ => "PROXY UNKNOWN\r\n".to_owned(),
        }
    }

    fn binary(&self) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.push(match self.command {
            Command::Local => 0x20,
            Command::Proxy => 0x21,
        });
        let mut block = Vec::new();
        bytes.push(self.put_addresses(&mut block));
        if !block.is_empty() {
            put_tlvs(&mut block, &self.tlvs);
        }
        put_length(&mut bytes, block.len());
        bytes.extend_from_slice(&block);
        if self.tlvs.crc32c && bytes.len() > FIXED {
            // It is the last, with zeroes in its place.
            let at = bytes.len() - 4;
            let sum = tlv::crc32c(&[&bytes]);
            bytes[at..].copy_from_slice(&sum.to_be_bytes());
        }
        bytes
    }

    /// The byte that says what they are.
    fn put_addresses(&self, block: &mut Vec<u8>) -> u8 {
        let transport = match (self.command, self.transport) {
            (Command::Local, _) | (_, Transport::Unspecified) => return 0,
            (_, Transport::Stream) => 1,
            (_, Transport::Datagram) => 2,
        };
        match &self.addresses {
            Addresses::Unknown => 0,
            Addresses::Ip {
                source,
                destination,
            } => {
                let (from, to) = of_one_family(source.ip(), destination.ip());
                put_ip(block, from);
                put_ip(block, to);
                for end in [source, destination] {
                    block.extend_from_slice(&end.port().to_be_bytes());
                }
                transport | if from.is_ipv4() { 0x10 } else { 0x20 }
            }
            Addresses::Unix {
                source,
                destination,
            } => {
                for path in [source, destination] {
                    let mut field = [0; UNIX_PATH];
                    let n = path.len().min(UNIX_PATH);
                    field[..n].copy_from_slice(&path[..n]);
                    block.extend_from_slice(&field);
                }
                transport | 0x30
            }
        }
    }
}

/// Both IPv4, or both IPv6.
fn of_one_family(one: IpAddr, other: IpAddr) -> (IpAddr, IpAddr) {
    let wide = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => IpAddr::V6(ip.to_ipv6_mapped()),
        ip => ip,
    };
    if one.is_ipv4() == other.is_ipv4() {
        (one, other)
    } else {
        (wide(one), wide(other))
    }
}

/// As hexadecimal numbers only, which is all that the specification has.
fn text(ip: IpAddr) -> String {
    match ip {
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => {
            let [.., high, low] = ip.segments();
            format!("::ffff:{high:x}:{low:x}")
        }
        ip => ip.to_string(),
    }
}

fn put_ip(block: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => block.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => block.extend_from_slice(&ip.octets()),
    }
}

fn put_length(bytes: &mut Vec<u8>, length: usize) {
    // No caller has more: addresses, and what a header with a limit brought.
    let length = u16::try_from(length).unwrap_or(u16::MAX);
    bytes.extend_from_slice(&length.to_be_bytes());
}

fn put(block: &mut Vec<u8>, kind: u8, value: &[u8]) {
    block.push(kind);
    put_length(block, value.len());
    block.extend_from_slice(value);
}

fn put_tlvs(block: &mut Vec<u8>, tlvs: &Tlvs) {
    let texts = [(tlv::AUTHORITY, &tlvs.authority), (tlv::NETNS, &tlvs.netns)];
    for (kind, text) in texts {
        if let Some(text) = text {
            put(block, kind, text.as_bytes());
        }
    }
    let values = [(tlv::ALPN, &tlvs.alpn), (tlv::UNIQUE_ID, &tlvs.unique_id)];
    for (kind, value) in values {
        if let Some(value) = value {
            put(block, kind, value);
        }
    }
    if let Some(ssl) = &tlvs.ssl {
        let mut inner = vec![ssl.client()];
        inner.extend_from_slice(&ssl.verify.to_be_bytes());
        for (kind, text) in ssl.texts() {
            if let Some(text) = text {
                put(&mut inner, kind, text.as_bytes());
            }
        }
        if let Some(cert) = &ssl.client_cert {
            put(&mut inner, tlv::SSL_CLIENT_CERT, cert);
        }
        put(block, tlv::SSL, &inner);
    }
    for (kind, value) in &tlvs.others {
        put(block, *kind, value);
    }
    if tlvs.crc32c {
        put(block, tlv::CRC32C, &[0; 4]);
    }
}
