//! The PROXY protocol, versions 1 and 2: what a proxy says in front of a connection about whose
//! it is. From HAProxy's "The PROXY protocol" (doc/proxy-protocol.txt).
//!
//! Pure: bytes in, a header out. A header that is not exactly as that text says is refused.

mod encode;
mod networks;
mod tlv;
mod v1;
mod v2;

use std::net::SocketAddr;
use std::time::Duration;

pub use networks::{Network, Networks};
pub use tlv::{Ssl, Tlvs};

/// The most that a header of version 2 may say follows its first 16 bytes, unless somebody says
/// otherwise. The protocol allows 65,535. nginx takes 4,096 for the whole header; that is room for
/// Unix addresses (216 bytes), all names and ids, and most client certificates. So what a peer can make us
/// keep before it has said anything stays below one page or two.
pub const DEFAULT_LIMIT: usize = 4096;

/// A listener expects headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// From whom: they have to send one. What others send is never taken for one.
    pub trusted: Networks,
    /// How long a header may take.
    pub timeout: Duration,
}

/// A header to be sent when a connection is dialed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announced {
    /// In which version.
    pub version: Version,
    /// Whose connection it is; the socket's own address if that is not said.
    pub source: Option<SocketAddr>,
    /// To whom it was made; the socket's peer if that is not said.
    pub destination: Option<SocketAddr>,
}

impl Announced {
    /// The bytes to be sent before all others, on a socket with these addresses.
    pub fn bytes(&self, local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
        let source = self.source.unwrap_or(local);
        let destination = self.destination.unwrap_or(remote);
        Header::proxied(self.version, source, destination).encode()
    }
}

/// Which version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A line of text.
    One,
    /// Binary.
    Two,
}

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// The proxy's own, as for a health check: the socket's addresses are the true ones.
    Local,
    /// Somebody else's.
    Proxy,
}

/// How the proxy was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// It does not say.
    Unspecified,
    /// A stream, as TCP.
    Stream,
    /// Datagrams, as UDP.
    Datagram,
}

/// Between whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// The proxy does not know, or does not say.
    Unknown,
    /// IPv4, or IPv6: both of one family.
    Ip {
        /// Who connected to the proxy.
        source: SocketAddr,
        /// To what address.
        destination: SocketAddr,
    },
    /// Unix sockets: paths, or abstract names, which begin with a NUL byte. Empty for one without a name.
    Unix {
        /// Who connected to the proxy.
        source: Vec<u8>,
        /// To what address.
        destination: Vec<u8>,
    },
}

/// What a proxy says about a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Of the protocol.
    pub version: Version,
    /// Whose connection it is.
    pub command: Command,
    /// How the proxy was reached.
    pub transport: Transport,
    /// Between whom.
    pub addresses: Addresses,
    /// What else version 2 may say.
    pub tlvs: Tlvs,
}

/// What the bytes so far are.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A header, in so many of them.
    Complete(Box<Header>, usize),
    /// The beginning of one.
    Partial,
    /// Not one, and why.
    Invalid(&'static str),
}

impl Header {
    /// One that says that a stream between these two goes through a proxy.
    pub fn proxied(version: Version, source: SocketAddr, destination: SocketAddr) -> Self {
        Header {
            version,
            command: Command::Proxy,
            transport: Transport::Stream,
            addresses: Addresses::Ip {
                source,
                destination,
            },
            tlvs: Tlvs::default(),
        }
    }
}

/// Looks at the bytes that have come so far. To be called again with more of them while they are
/// [`Parsed::Partial`]; they are then fewer than 107, or than `16 + limit` where they are of version 2.
pub fn parse(bytes: &[u8], limit: usize) -> Parsed {
    match bytes.first() {
        None => Parsed::Partial,
        Some(first) if *first == v1::PREFIX[0] => v1::parse(bytes),
        Some(first) if *first == v2::SIGNATURE[0] => v2::parse(bytes, limit),
        Some(_) => Parsed::Invalid("it does not begin as a PROXY header"),
    }
}

/// A header that comes in pieces.
#[derive(Default)]
pub struct Gathered(Vec<u8>);

impl Gathered {
    /// Takes the next piece. When the header is whole: that, and what came behind it, which is not
    /// part of it. An error says why it is none, and may be logged: nothing of the bytes is in it.
    pub fn take(
        &mut self,
        piece: &[u8],
        limit: usize,
    ) -> Result<Option<(Header, Vec<u8>)>, &'static str> {
        self.0.extend_from_slice(piece);
        match parse(&self.0, limit) {
            Parsed::Complete(header, used) => {
                let rest = self.0.split_off(used);
                self.0 = Vec::new();
                Ok(Some((*header, rest)))
            }
            Parsed::Partial => Ok(None),
            Parsed::Invalid(why) => Err(why),
        }
    }
}

/// True if `bytes`, all or as many as there are, are those of `expected`.
fn begins(bytes: &[u8], expected: &[u8]) -> bool {
    let n = bytes.len().min(expected.len());
    bytes[..n] == expected[..n]
}

#[cfg(test)]
mod tests;
