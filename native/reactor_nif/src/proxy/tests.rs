//! PROXY headers, as they are read and written.

mod random;
mod tlv;

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
