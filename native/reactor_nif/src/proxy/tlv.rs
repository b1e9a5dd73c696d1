//! What else a header of version 2 may say: type, length, value.

use std::fmt;

use super::v2::{Why, FIXED};

pub const ALPN: u8 = 0x01;
pub const AUTHORITY: u8 = 0x02;
pub const CRC32C: u8 = 0x03;
pub const NOOP: u8 = 0x04;
pub const UNIQUE_ID: u8 = 0x05;
pub const SSL: u8 = 0x20;
pub const NETNS: u8 = 0x30;

pub const SSL_VERSION: u8 = 0x21;
pub const SSL_CN: u8 = 0x22;
pub const SSL_CIPHER: u8 = 0x23;
pub const SSL_SIG_ALG: u8 = 0x24;
pub const SSL_KEY_ALG: u8 = 0x25;
pub const SSL_GROUP: u8 = 0x26;
pub const SSL_SIG_SCHEME: u8 = 0x27;
pub const SSL_CLIENT_CERT: u8 = 0x28;

/// The longest unique id, in bytes.
const LONGEST_ID: usize = 128;

const CLIENT_SSL: u8 = 0x01;
const CLIENT_CERT_CONN: u8 = 0x02;
const CLIENT_CERT_SESS: u8 = 0x04;

/// What a header says besides addresses. Each is there once at most.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Tlvs {
    /// The protocol that was agreed on with the client.
    pub alpn: Option<Vec<u8>>,
    /// The name of the host that the client asked for.
    pub authority: Option<String>,
    /// The proxy's id for this connection.
    pub unique_id: Option<Vec<u8>>,
    /// The client spoke TLS with the proxy.
    pub ssl: Option<Box<Ssl>>,
    /// The network namespace that the proxy was reached in.
    pub netns: Option<String>,
    /// There was a checksum, and it was right. When a header is encoded: it is to have one.
    pub crc32c: bool,
    /// Those of other types, as those of users of their own, in order.
    pub others: Vec<(u8, Vec<u8>)>,
}

/// What the proxy says about the client's TLS.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Ssl {
    /// The client connected over TLS.
    pub tls: bool,
    /// It showed a certificate in this connection ...
    pub cert_in_connection: bool,
    /// ... or in one that has the same TLS session.
    pub cert_in_session: bool,
    /// What came of verifying it: 0 if it showed one that is good.
    pub verify: u32,
    /// As `TLSv1.3`.
    pub version: Option<String>,
    /// The common name of its subject.
    pub cn: Option<String>,
    /// Of the session.
    pub cipher: Option<String>,
    /// How the proxy's certificate was signed.
    pub sig_alg: Option<String>,
    /// What key the proxy's certificate has.
    pub key_alg: Option<String>,
    /// Of the key exchange.
    pub group: Option<String>,
    /// What the proxy signed the handshake with.
    pub sig_scheme: Option<String>,
    /// The client's certificate, DER-encoded.
    pub client_cert: Option<Vec<u8>>,
}

impl Ssl {
    /// As a byte of the wire.
    pub fn client(&self) -> u8 {
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        bit(self.tls, CLIENT_SSL)
            | bit(self.cert_in_connection, CLIENT_CERT_CONN)
            | bit(self.cert_in_session, CLIENT_CERT_SESS)
    }

    /// The client showed a certificate that is good.
    pub fn verified(&self) -> bool {
        self.verify == 0 && (self.cert_in_connection || self.cert_in_session)
    }

    /// Its texts, with their types.
    pub fn texts(&self) -> [(u8, &Option<String>); 7] {
        [
            (SSL_VERSION, &self.version),
            (SSL_CN, &self.cn),
            (SSL_CIPHER, &self.cipher),
            (SSL_SIG_ALG, &self.sig_alg),
            (SSL_KEY_ALG, &self.key_alg),
            (SSL_GROUP, &self.group),
            (SSL_SIG_SCHEME, &self.sig_scheme),
        ]
    }
}

// What a client is called, and the like, is for nobody's log.
impl fmt::Debug for Tlvs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tlvs")
    }
}

impl fmt::Debug for Ssl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ssl")
    }
}

/// Takes apart what follows the addresses of a header. `rest` is the end of `whole`.
pub fn parse(whole: &[u8], rest: &[u8]) -> Result<Tlvs, Why> {
    let mut tlvs = Tlvs::default();
    let mut walk = Walk(rest);
    while let Some((kind, value)) = walk.next()? {
        match kind {
            ALPN => once(&mut tlvs.alpn, value.to_vec())?,
            AUTHORITY => once(&mut tlvs.authority, utf8(value)?)?,
            NETNS => once(&mut tlvs.netns, ascii(value)?)?,
            NOOP => {}
            UNIQUE_ID if value.len() > LONGEST_ID => {
                return Err("its unique id is longer than 128 bytes")
            }
            UNIQUE_ID => once(&mut tlvs.unique_id, value.to_vec())?,
            SSL => once(&mut tlvs.ssl, Box::new(ssl(value)?))?,
            CRC32C if tlvs.crc32c => return Err(TWICE),
            CRC32C => {
                let at = whole.len() - walk.0.len() - value.len();
                check(whole, at, value)?;
                tlvs.crc32c = true;
            }
            _ => tlvs.others.push((kind, value.to_vec())),
        }
    }
    Ok(tlvs)
}

const TWICE: Why = "it says something twice that can be said once";

fn once<T>(place: &mut Option<T>, value: T) -> Result<(), Why> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(TWICE),
    }
}

fn utf8(value: &[u8]) -> Result<String, Why> {
    let text = std::str::from_utf8(value).map_err(|_| "a name in it is not UTF-8")?;
    Ok(text.to_owned())
}

fn ascii(value: &[u8]) -> Result<String, Why> {
    if !value.is_ascii() {
        return Err("a name in it is not ASCII");
    }
    utf8(value)
}

fn ssl(value: &[u8]) -> Result<Ssl, Why> {
    let (Some(client), Some(verify)) = (value.first(), value.get(1..5)) else {
        return Err("what it says about TLS is too short");
    };
    let mut ssl = Ssl {
        tls: client & CLIENT_SSL != 0,
        cert_in_connection: client & CLIENT_CERT_CONN != 0,
        cert_in_session: client & CLIENT_CERT_SESS != 0,
        verify: verify
            .iter()
            .fold(0, |sum, byte| sum << 8 | u32::from(*byte)),
        ..Ssl::default()
    };
    let mut walk = Walk(&value[5..]);
    while let Some((kind, value)) = walk.next()? {
        match kind {
            SSL_VERSION => once(&mut ssl.version, ascii(value)?)?,
            SSL_CN => once(&mut ssl.cn, utf8(value)?)?,
            SSL_CIPHER => once(&mut ssl.cipher, ascii(value)?)?,
            SSL_SIG_ALG => once(&mut ssl.sig_alg, ascii(value)?)?,
            SSL_KEY_ALG => once(&mut ssl.key_alg, ascii(value)?)?,
            SSL_GROUP => once(&mut ssl.group, ascii(value)?)?,
            SSL_SIG_SCHEME => once(&mut ssl.sig_scheme, ascii(value)?)?,
            SSL_CLIENT_CERT => once(&mut ssl.client_cert, value.to_vec())?,
            // A later version of the protocol may say more.
            _ => {}
        }
    }
    Ok(ssl)
}

/// What is left of a row of them.
struct Walk<'a>(&'a [u8]);

impl<'a> Walk<'a> {
    fn next(&mut self) -> Result<Option<(u8, &'a [u8])>, Why> {
        const LIES: Why = "a part of it is longer than the whole";
        if self.0.is_empty() {
            return Ok(None);
        }
        let Some((head, rest)) = self.0.split_at_checked(3) else {
            return Err(LIES);
        };
        let length = usize::from(u16::from_be_bytes([head[1], head[2]]));
        let (value, rest) = rest.split_at_checked(length).ok_or(LIES)?;
        self.0 = rest;
        Ok(Some((head[0], value)))
    }
}

/// The checksum is that of the whole header with zeroes in its own place, which is `at`.
fn check(whole: &[u8], at: usize, value: &[u8]) -> Result<(), Why> {
    if value.len() != 4 || at < FIXED {
        return Err("its checksum does not have four bytes");
    }
    let sum = crc32c(&[&whole[..at], &[0; 4], &whole[at + 4..]]);
    if sum.to_be_bytes() == value {
        Ok(())
    } else {
        Err("its checksum is wrong")
    }
}

/// CRC-32C (Castagnoli), as of iSCSI, RFC 3720: of these parts, one after the other. A header is short and
/// comes once, so it is done bit by bit.
pub fn crc32c(parts: &[&[u8]]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let bytes = parts.iter().flat_map(|part| part.iter());
    let sum = bytes.fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            let shifted = sum >> 1;
            if sum & 1 == 1 {
                shifted ^ POLYNOMIAL
            } else {
                shifted
            }
        })
    });
    !sum
}
