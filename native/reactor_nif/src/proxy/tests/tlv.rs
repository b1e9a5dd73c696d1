//! What a header of version 2 says besides the addresses.

use super::*;
use crate::proxy::tlv::{crc32c, CRC32C, NOOP, UNIQUE_ID};

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
