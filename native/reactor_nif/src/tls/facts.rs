//! What two sides have agreed on.

use rustls::{HandshakeKind, ProtocolVersion};

use crate::tls::{Session, Tls};

/// What there is to know about a connection once both sides have greeted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// `"TLSv1.3"`, `"TLSv1.2"`, as OpenSSL spells it.
    pub version: &'static str,
    /// As IANA spells it.
    pub cipher: String,
    /// The protocol that was agreed on by ALPN.
    pub alpn: Option<Vec<u8>>,
    /// The name of the server that the client asked for.
    pub sni: Option<String>,
    /// The keys are those of an earlier connection.
    pub resumed: bool,
}

impl Tls {
    /// What was agreed on.
    pub fn facts(&self) -> Facts {
        let common = self.common();
        let version = match common.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => "",
        };
        let cipher = common.negotiated_cipher_suite().map(|suite| {
            let name = format!("{:?}", suite.suite());
            // rustls spells those of TLS 1.3 with the version that they are of.
            match name.strip_prefix("TLS13_") {
                Some(rest) => format!("TLS_{rest}"),
                None => name,
            }
        });
        let sni = match &self.session {
            Session::Server(_) => self.sni.as_deref().map(str::to_string),
            Session::Client(_, name) => match name {
                rustls::pki_types::ServerName::DnsName(name) => Some(name.as_ref().to_string()),
                _ => None,
            },
        };
        Facts {
            version,
            cipher: cipher.unwrap_or_default(),
            alpn: self.alpn().map(<[u8]>::to_vec),
            sni,
            resumed: common.handshake_kind() == Some(HandshakeKind::Resumed),
        }
    }

    /// The protocol that was agreed on by ALPN.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.common().alpn_protocol()
    }

    /// The peer's certificates, its own first, as DER.
    pub fn peer_chain(&self) -> impl Iterator<Item = &[u8]> {
        let chain = self.common().peer_certificates().unwrap_or_default();
        chain.iter().map(AsRef::as_ref)
    }
}
