//! Random headers, and what becomes of them on a bad way.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::*;

/// Numbers that are others in each run; the seed is in the message of a failure.
struct Random(u64);

impl Random {
    fn new() -> Self {
        Random(RandomState::new().build_hasher().finish() | 1)
    }

    /// xorshift64, of Marsaglia.
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn bytes(&mut self, longest: usize) -> Vec<u8> {
        let n = self.below(longest + 1);
        (0..n).map(|_| self.next() as u8).collect()
    }

    fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.below(2) == 0).then(|| make(self))
    }

    fn text(&mut self) -> String {
        let n = self.below(40);
        (0..n)
            .map(|_| (b' ' + self.below(95) as u8) as char)
            .collect()
    }

    fn ip(&mut self, four: bool) -> SocketAddr {
        let bits = u128::from(self.next()) << 64 | u128::from(self.next());
        let ip = if four {
            IpAddr::V4(Ipv4Addr::from_bits(bits as u32))
        } else {
            // Short and long forms.
            let bits = bits >> self.below(128) & !(u128::MAX >> 1 >> self.below(128));
            IpAddr::V6(Ipv6Addr::from_bits(bits))
        };
        SocketAddr::new(ip, self.next() as u16)
    }

    fn path(&mut self) -> Vec<u8> {
        let mut path = self.bytes(107);
        path.retain(|byte| *byte != 0);
        if self.below(3) == 0 && !path.is_empty() {
            path.insert(0, 0);
        }
        path
    }

    fn tlvs(&mut self) -> Tlvs {
        Tlvs {
            alpn: self.maybe(|r| r.bytes(255)),
            authority: self.maybe(Self::text),
            unique_id: self.maybe(|r| r.bytes(128)),
            ssl: self.maybe(|r| {
                Box::new(Ssl {
                    tls: r.below(2) == 0,
                    cert_in_connection: r.below(2) == 0,
                    cert_in_session: r.below(2) == 0,
                    verify: r.next() as u32,
                    version: r.maybe(Self::text),
                    cn: r.maybe(Self::text),
                    cipher: r.maybe(Self::text),
                    sig_alg: r.maybe(Self::text),
                    key_alg: r.maybe(Self::text),
                    group: r.maybe(Self::text),
                    sig_scheme: r.maybe(Self::text),
                    client_cert: r.maybe(|r| r.bytes(1500)),
                })
            }),
            netns: self.maybe(Self::text),
            crc32c: self.below(2) == 0,
            others: (0..self.below(4))
                .map(|_| (0xe0 + self.below(16) as u8, self.bytes(60)))
                .collect(),
        }
    }

    fn header(&mut self) -> Header {
        let four = self.below(2) == 0;
        let proxied = Header::proxied(Version::One, self.ip(four), self.ip(four));
        if self.below(3) == 0 {
            return proxied;
        }
        let unix = self.below(3) == 0;
        Header {
            version: Version::Two,
            transport: [Transport::Stream, Transport::Datagram][self.below(2)],
            addresses: if unix {
                Addresses::Unix {
                    source: self.path(),
                    destination: self.path(),
                }
            } else {
                proxied.addresses
            },
            tlvs: self.tlvs(),
            command: Command::Proxy,
        }
    }
}

#[test]
fn random_headers_come_back_and_their_truncations_are_partial() {
    let mut random = Random::new();
    for _ in 0..2_000 {
        let seed = random.0;
        let header = random.header();
        let mut bytes = header.encode();
        let length = bytes.len();
        let cut = random.below(length);
        assert_eq!(
            parse(&bytes[..cut], DEFAULT_LIMIT),
            Parsed::Partial,
            "{seed}"
        );
        bytes.extend(random.bytes(50));
        let parsed = parse(&bytes, DEFAULT_LIMIT);
        assert_eq!(parsed, Parsed::Complete(Box::new(header), length), "{seed}");
    }
}

#[test]
fn damaged_headers_and_garbage_are_refused_or_read_within_their_bytes() {
    let mut random = Random::new();
    for _ in 0..20_000 {
        let mut bytes = match random.below(4) {
            0 => random.bytes(300),
            _ => random.header().encode(),
        };
        for _ in 0..random.below(4) {
            if !bytes.is_empty() {
                let at = random.below(bytes.len());
                bytes[at] = random.next() as u8;
            }
        }
        let at = random.below(bytes.len() + 1);
        bytes.truncate(at.max(bytes.len() / 2));
        if let Parsed::Complete(_, used) = parse(&bytes, DEFAULT_LIMIT) {
            assert!(used <= bytes.len());
        }
    }
}
