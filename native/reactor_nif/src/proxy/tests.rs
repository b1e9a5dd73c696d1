use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::tlv::{crc32c, CRC32C, NOOP, UNIQUE_ID};
use super::*;

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn ip(source: &str, destination: &str) -> Addresses {
    Addresses::Ip {
        source: addr(source),
        destination: addr(destination),
    }
}

fn complete(bytes: &[u8]) -> (Header, usize) {
    match parse(bytes, DEFAULT_LIMIT) {
        Parsed::Complete(header, used) => (*header, used),
        other => panic!("{other:?} of {bytes:?}"),
    }
}

fn invalid(bytes: &[u8]) -> &'static str {
    match parse(bytes, DEFAULT_LIMIT) {
        Parsed::Invalid(why) => why,
        other => panic!("{other:?} of {bytes:?}"),
    }
}

/// A header of version 2 with these bytes after the signature, and this block.
fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let mut bytes = v2::SIGNATURE.to_vec();
    bytes.extend([command, family]);
    bytes.extend((block.len() as u16).to_be_bytes());
    bytes.extend(block);
    bytes
}

const INET: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 2, 0x30, 0x39, 0x01, 0xbb];

fn inet(tlvs: &[u8]) -> Vec<u8> {
    v2(0x21, 0x11, &[&INET[..], tlvs].concat())
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend((value.len() as u16).to_be_bytes());
    bytes.extend(value);
    bytes
}

fn full() -> Header {
    let text = |text: &str| Some(text.to_owned());
    Header {
        tlvs: Tlvs {
            alpn: Some(b"h2".to_vec()),
            authority: text("example.org"),
            unique_id: Some(vec![7; 128]),
            ssl: Some(Box::new(Ssl {
                tls: true,
                cert_in_connection: true,
                cert_in_session: false,
                verify: 0,
                version: text("TLSv1.3"),
                cn: text("jörg"),
                cipher: text("TLS_AES_128_GCM_SHA256"),
                sig_alg: text("SHA256"),
                key_alg: text("RSA2048"),
                group: text("X25519"),
                sig_scheme: text("rsa_pss_rsae_sha256"),
                client_cert: Some(vec![0x30, 0x82, 1, 2]),
            })),
            netns: text("blue"),
            crc32c: true,
            others: vec![(0xea, b"one".to_vec()), (0xea, Vec::new())],
        },
        ..Header::proxied(
            Version::Two,
            addr("192.0.2.1:12345"),
            addr("198.51.100.2:443"),
        )
    }
}

#[test]
fn version_1_is_read_as_specified() {
    let (header, used) = complete(b"PROXY TCP4 192.0.2.1 198.51.100.2 12345 443\r\nGET /");
    assert_eq!(used, 45);
    assert_eq!(
        header,
        Header::proxied(
            Version::One,
            addr("192.0.2.1:12345"),
            addr("198.51.100.2:443")
        )
    );
    let (header, _) = complete(b"PROXY TCP6 2001:DB8::1 ::1 0 65535\r\n");
    assert_eq!(header.addresses, ip("[2001:db8::1]:0", "[::1]:65535"));
    for line in [
        &b"PROXY UNKNOWN\r\n"[..],
        b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n",
        b"PROXY UNKNOWN \0\xff\n\r\r\n",
    ] {
        let (header, used) = complete(line);
        assert_eq!(used, line.len());
        assert_eq!(header.addresses, Addresses::Unknown);
        assert_eq!(header.transport, Transport::Unspecified);
    }
}

#[test]
fn version_1_is_refused_in_any_other_form() {
    for line in [
        "PROXY TCP4 192.0.2.1 198.51.100.2 12345\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 12345 443 \r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 12345 443 9\r\n",
        "PROXY TCP4  192.0.2.1 198.51.100.2 12345 443\r\n",
        "PROXY TCP4 192.0.2.1\t198.51.100.2 12345 443\r\n",
        "PROXY TCP4 192.0.2.01 198.51.100.2 12345 443\r\n",
        "PROXY TCP4 192.0.2 198.51.100.2 12345 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.256 12345 443\r\n",
        "PROXY TCP4 ::1 ::1 12345 443\r\n",
        "PROXY TCP6 192.0.2.1 198.51.100.2 12345 443\r\n",
        "PROXY TCP6 fe80::1%lo ::1 12345 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 +12345 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 012345 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 65536 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 12345 \r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 12345 443\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 12345 443\rx",
        "PROXY TCP5 ",
        "PROXY UNKNOWNX\r\n",
        "PROXY tcp4 ",
        "PROXY\tTCP4",
        "proxy TCP4",
        "PROXX",
    ] {
        let why = invalid(line.as_bytes());
        assert!(!why.is_empty() && !why.contains("192"), "{line:?}: {why}");
    }
}

#[test]
fn version_1_is_at_most_107_bytes_long() {
    let line = |n: usize| {
        let mut line = b"PROXY UNKNOWN ".to_vec();
        line.resize(n - 2, b'x');
        line.extend(b"\r\n");
        line
    };
    assert_eq!(complete(&line(107)).1, 107);
    assert_eq!(invalid(&line(108)), "its line is longer than 107 bytes");
    assert_eq!(parse(&line(108)[..106], 0), Parsed::Partial);
    assert_eq!(
        invalid(&line(108)[..107]),
        "its line is longer than 107 bytes"
    );
}

#[test]
fn version_2_is_read_as_specified() {
    let (header, used) = complete(&[&inet(&[])[..], b"GET /"].concat());
    assert_eq!(used, 28);
    assert_eq!(
        header,
        Header::proxied(
            Version::Two,
            addr("192.0.2.1:12345"),
            addr("198.51.100.2:443")
        )
    );
    let (header, _) = complete(&v2(0x21, 0x12, &INET));
    assert_eq!(header.transport, Transport::Datagram);
    let mut block = [[0x11; 16], [0x22; 16]].concat();
    block.extend([0, 1, 0, 2]);
    let (header, _) = complete(&v2(0x21, 0x21, &block));
    assert_eq!(
        header.addresses,
        ip(
            "[1111:1111:1111:1111:1111:1111:1111:1111]:1",
            "[2222:2222:2222:2222:2222:2222:2222:2222]:2"
        )
    );
    let mut block = vec![0; 216];
    block[..5].copy_from_slice(b"/a\0xx");
    block[108..114].copy_from_slice(b"\0ab\0cd");
    let (header, _) = complete(&v2(0x21, 0x31, &block));
    assert_eq!(
        header.addresses,
        Addresses::Unix {
            source: b"/a".to_vec(),
            destination: b"\0ab\0cd".to_vec(),
        }
    );
}

#[test]
fn a_local_or_unspecified_header_tells_nothing_whatever_is_in_it() {
    for (header, command) in [
        (v2(0x20, 0, &[]), Command::Local),
        (v2(0x20, 0xff, &[1, 2, 3]), Command::Local),
        (v2(0x20, 0x11, &INET), Command::Local),
        (v2(0x21, 0, &[1, 0xff, 0xff]), Command::Proxy),
    ] {
        let (parsed, used) = complete(&header);
        assert_eq!(used, header.len());
        assert_eq!(parsed.command, command);
        assert_eq!(parsed.addresses, Addresses::Unknown);
        assert_eq!(parsed.tlvs, Tlvs::default());
    }
}

#[test]
fn version_2_is_refused_in_any_other_form() {
    for command in (0..=255).filter(|byte| ![0x20, 0x21].contains(byte)) {
        invalid(&v2(command, 0x11, &INET));
    }
    let known = [0x00, 0x11, 0x12, 0x21, 0x22, 0x31, 0x32];
    for family in (0..=255).filter(|byte| !known.contains(byte)) {
        invalid(&v2(0x21, family, &[0; 300]));
    }
    for (family, size) in [(0x11, 12), (0x21, 36), (0x31, 216)] {
        complete(&v2(0x21, family, &vec![0; size]));
        assert_eq!(
            invalid(&v2(0x21, family, &vec![0; size - 1])),
            "it is shorter than its addresses"
        );
        // Not a whole TLV.
        invalid(&v2(0x21, family, &vec![0; size + 2]));
    }
    for at in 0..12 {
        let mut wrong = inet(&[]);
        wrong[at] ^= 0x20;
        assert_eq!(invalid(&wrong), "it does not begin as a PROXY header");
    }
}

#[test]
fn what_cannot_become_a_header_is_refused_at_its_first_wrong_byte() {
    let refused_from = |bytes: &[u8]| {
        let partial = |n: &usize| parse(&bytes[..*n], DEFAULT_LIMIT) == Parsed::Partial;
        (0..=bytes.len()).take_while(partial).count()
    };
    assert_eq!(refused_from(b"GET / HTTP/1.1\r\n"), 1);
    assert_eq!(refused_from(b"PRI * HTTP/2.0\r\n"), 3);
    assert_eq!(refused_from(b"PROXY TCPX"), 10);
    assert_eq!(refused_from(b"PROXY TCP4 192.0.2.1 \n"), 22);
    assert_eq!(refused_from(b"\r\n\r\n\0\r\nQUIT\n\x11"), 13);
    assert_eq!(refused_from(b"\r\n\r\n\0\r\nQUIT\n\x21\x33"), 14);
    assert_eq!(refused_from(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"), 16);
    assert_eq!(refused_from(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x03"), 16);
}

#[test]
fn a_header_is_no_longer_than_the_limit() {
    let long = inet(&tlv(0xee, &[0; 100]));
    let length = long.len() - v2::FIXED;
    assert!(matches!(parse(&long, length), Parsed::Complete(..)));
    let refused = Parsed::Invalid("it is longer than a header may be");
    assert_eq!(parse(&long, length - 1), refused);
    // It is known as soon as it is said.
    assert_eq!(parse(&long[..v2::FIXED], length - 1), refused);
    assert_eq!(parse(&v2(0x20, 0, &[0; 5000]), DEFAULT_LIMIT), refused);
}

#[test]
fn everything_that_can_be_said_comes_back() {
    let header = full();
    let bytes = header.encode();
    assert_eq!(complete(&bytes), (header, bytes.len()));
}

#[test]
fn each_truncation_of_a_header_is_its_beginning() {
    for bytes in [
        full().encode(),
        v2(0x20, 0, &[1, 2, 3]),
        v2(0x21, 0x31, &[0; 216]),
        b"PROXY TCP4 192.0.2.1 198.51.100.2 12345 443\r\n".to_vec(),
        b"PROXY TCP6 2001:db8::1 ::ffff:1.2.3.4 1 443\r\n".to_vec(),
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN \r\r \xff x\r\n".to_vec(),
    ] {
        for n in 0..bytes.len() {
            assert_eq!(parse(&bytes[..n], DEFAULT_LIMIT), Parsed::Partial, "{n}");
        }
        assert_eq!(complete(&bytes).1, bytes.len());
    }
}

#[test]
fn a_header_may_come_in_pieces_and_what_is_behind_it_is_left() {
    for header in [
        full(),
        complete(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n").0,
    ] {
        let bytes = [&header.encode()[..], b"GET /"].concat();
        for size in [1, 7, 106, 2000] {
            let mut gathered = Gathered::default();
            let mut pieces = bytes.chunks(size);
            let (found, mut rest) = loop {
                let piece = pieces.next().unwrap();
                if let Some(found) = gathered.take(piece, DEFAULT_LIMIT).unwrap() {
                    break found;
                }
            };
            pieces.for_each(|piece| rest.extend_from_slice(piece));
            assert_eq!((found, &rest[..]), (header.clone(), &b"GET /"[..]));
        }
    }
    let mut gathered = Gathered::default();
    assert_eq!(gathered.take(b"PRO", DEFAULT_LIMIT), Ok(None));
    assert!(gathered.take(b"S", DEFAULT_LIMIT).is_err());
}

#[test]
fn a_part_that_is_longer_than_the_whole_is_refused() {
    let whole = tlv(0xee, b"value");
    for n in 1..whole.len() {
        assert_eq!(
            invalid(&inet(&whole[..n])),
            "a part of it is longer than the whole"
        );
    }
    // Likewise within what is said about TLS.
    let inner = tlv(0x22, b"name");
    for n in 1..inner.len() {
        let ssl = [&[1, 0, 0, 0, 0][..], &inner[..n]].concat();
        assert_eq!(
            invalid(&inet(&tlv(0x20, &ssl))),
            "a part of it is longer than the whole"
        );
    }
    for n in 0..5 {
        assert_eq!(
            invalid(&inet(&tlv(0x20, &[0; 5][..n]))),
            "what it says about TLS is too short"
        );
    }
}

#[test]
fn a_checksum_is_verified() {
    // RFC 3720, B.4.
    assert_eq!(crc32c(&[&[0; 32]]), 0x8a91_36aa);
    assert_eq!(crc32c(&[&[0xff; 20], &[0xff; 12]]), 0x62a8_ab43);
    let good = full().encode();
    assert!(complete(&good).0.tlvs.crc32c);
    // Any bit that is another is found, in the header or in the checksum.
    // But that which makes it a LOCAL one, of which the rest does not count.
    for at in (0..good.len()).filter(|at| *at != 12) {
        let mut bad = good.clone();
        bad[at] ^= 0x01;
        assert!(
            !matches!(parse(&bad, DEFAULT_LIMIT), Parsed::Complete(..)),
            "{at}"
        );
    }
    assert_eq!(
        invalid(&inet(&tlv(CRC32C, &[0; 4]))),
        "its checksum is wrong"
    );
    for n in [0, 3, 5] {
        assert_eq!(
            invalid(&inet(&tlv(CRC32C, &[0; 5][..n]))),
            "its checksum does not have four bytes"
        );
    }
}

#[test]
fn a_checksum_may_be_anywhere() {
    let mut bytes = inet(&[tlv(CRC32C, &[0; 4]), tlv(NOOP, b"padding")].concat());
    let sum = crc32c(&[&bytes]);
    let at = v2::FIXED + INET.len() + 3;
    bytes[at..at + 4].copy_from_slice(&sum.to_be_bytes());
    assert!(complete(&bytes).0.tlvs.crc32c);
}

#[test]
fn what_is_said_is_bounded_and_said_once() {
    complete(&inet(&tlv(UNIQUE_ID, &[0; 128])));
    assert_eq!(
        invalid(&inet(&tlv(UNIQUE_ID, &[0; 129]))),
        "its unique id is longer than 128 bytes"
    );
    assert_eq!(
        invalid(&inet(&tlv(0x02, b"\xff"))),
        "a name in it is not UTF-8"
    );
    assert_eq!(
        invalid(&inet(&tlv(0x30, "ö".as_bytes()))),
        "a name in it is not ASCII"
    );
    for kind in [0x01, 0x02, 0x05, 0x30] {
        assert_eq!(
            invalid(&inet(&[tlv(kind, b"a"), tlv(kind, b"a")].concat())),
            "it says something twice that can be said once"
        );
    }
    // Padding, and what others have defined, may come again.
    let rest = [
        tlv(NOOP, b"a"),
        tlv(NOOP, b""),
        tlv(0xea, b"a"),
        tlv(0xea, b"b"),
    ];
    let (header, _) = complete(&inet(&rest.concat()));
    assert_eq!(header.tlvs.others.len(), 2);
}

#[test]
fn what_it_says_does_not_show() {
    let shown = format!("{:?}", full());
    assert!(
        !shown.contains("example.org") && !shown.contains("rg"),
        "{shown}"
    );
}

#[test]
fn addresses_of_two_families_are_both_written_as_ipv6() {
    for (version, start) in [
        (
            Version::One,
            &b"PROXY TCP6 ::ffff:c000:201 2001:db8::1 1 2\r\n"[..],
        ),
        (Version::Two, &v2::SIGNATURE[..]),
    ] {
        let announced = Announced {
            version,
            source: Some(addr("192.0.2.1:1")),
            destination: None,
        };
        let bytes = announced.bytes(addr("127.0.0.1:7"), addr("[2001:db8::1]:2"));
        assert!(bytes.starts_with(start));
        assert_eq!(
            complete(&bytes).0.addresses,
            ip("[::ffff:192.0.2.1]:1", "[2001:db8::1]:2")
        );
    }
}

#[test]
fn what_version_1_cannot_say_it_does_not_say() {
    let local = Header {
        command: Command::Local,
        ..Header::proxied(Version::One, addr("192.0.2.1:1"), addr("192.0.2.2:2"))
    };
    assert_eq!(local.encode(), b"PROXY UNKNOWN\r\n");
    let local = Header {
        version: Version::Two,
        ..local
    };
    assert_eq!(local.encode(), v2(0x20, 0, &[]));
}

// ---- random headers -------------------------------------------------------------

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
