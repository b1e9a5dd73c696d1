//! What TLS is spoken with: certificates, keys, authorities, versions.
//!
//! Everything comes as DER. An error names the option that is wrong, and never shows what is in a key.

use std::sync::Arc;

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{aws_lc_rs, CryptoProvider};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer,
};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};

use crate::tls::identity::{Identities, Names, Own};
use crate::tls::verify::Lenient;

/// An option that cannot be used, and why.
#[derive(Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Its name.
    pub option: &'static str,
    /// What it has to be, in words.
    pub expected: String,
}

impl Wrong {
    fn new(option: &'static str, expected: impl Into<String>) -> Self {
        Wrong {
            option,
            expected: expected.into(),
        }
    }
}

/// How a private key is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyFormat {
    /// `RSAPrivateKey`
    Pkcs1,
    /// `ECPrivateKey`
    Sec1,
    /// `PrivateKeyInfo`
    Pkcs8,
}

/// A chain of certificates, its owner's first, and the key of the first.
pub struct Credential {
    /// DER.
    pub chain: Vec<Vec<u8>>,
    /// How `key` is encoded.
    pub format: KeyFormat,
    /// DER.
    pub key: Vec<u8>,
}

/// What both sides may be told.
#[derive(Default)]
pub struct Common {
    /// Who we are; the best first.
    pub credentials: Vec<Credential>,
    /// Whose word counts about the peer, as DER.
    pub authorities: Vec<Vec<u8>>,
    /// Whether the peer is asked who it is.
    pub verify: bool,
    /// The protocols that we speak; the best first.
    pub alpn: Vec<Vec<u8>>,
    /// Versions, without which others: TLS 1.2 and 1.3.
    pub versions: (bool, bool),
    /// Whether sessions may be resumed.
    pub resumption: bool,
}

/// What a server is told.
#[derive(Default)]
pub struct ServerOptions {
    /// What a client may be told too.
    pub common: Common,
    /// Other credentials, by the name that the client asks for.
    pub names: Vec<(String, Vec<Credential>)>,
    /// A client must say who it is.
    pub required: bool,
}

/// What a client is told.
#[derive(Default)]
pub struct ClientOptions {
    /// What a server may be told too.
    pub common: Common,
    /// The server is told its name, which its certificate must have.
    pub name: bool,
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn versions((v12, v13): (bool, bool)) -> Vec<&'static SupportedProtocolVersion> {
    let mut versions = Vec::new();
    if v13 {
        versions.push(&TLS13);
    }
    if v12 {
        versions.push(&TLS12);
    }
    versions
}

fn no_versions(_: rustls::Error) -> Wrong {
    Wrong::new("versions", r#"a list of :"tlsv1.2" and :"tlsv1.3""#)
}

fn chain(ders: Vec<Vec<u8>>) -> Vec<CertificateDer<'static>> {
    ders.into_iter().map(CertificateDer::from).collect()
}

fn identity(credential: Credential, provider: &CryptoProvider) -> Result<CertifiedKey, Wrong> {
    let key = match credential.format {
        KeyFormat::Pkcs1 => PrivateKeyDer::Pkcs1(PrivatePkcs1KeyDer::from(credential.key)),
        KeyFormat::Sec1 => PrivateKeyDer::Sec1(PrivateSec1KeyDer::from(credential.key)),
        KeyFormat::Pkcs8 => PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(credential.key)),
    };
    CertifiedKey::from_der(chain(credential.chain), key, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            Wrong::new("keyfile", "the key of the certificate (it is of another one)")
        }
        rustls::Error::InvalidCertificate(_) => {
            Wrong::new("certfile", "a certificate that can be read")
        }
        // What it says of a key may be about its contents.
        _ => Wrong::new(
            "keyfile",
            "a key that the native transport takes: RSA of 2048 to 8192 bits, ECDSA on P-256, P-384 \
             or P-521, or Ed25519",
        ),
    })
}

fn identities(
    credentials: Vec<Credential>,
    provider: &CryptoProvider,
) -> Result<Identities, Wrong> {
    credentials
        .into_iter()
        .map(|credential| identity(credential, provider).map(Arc::new))
        .collect()
}

fn authorities(ders: Vec<Vec<u8>>) -> Result<Arc<RootCertStore>, Wrong> {
    let mut roots = RootCertStore::empty();
    // A system may have some that are not understood; one that can be used is enough.
    roots.add_parsable_certificates(ders.into_iter().map(CertificateDer::from));
    if roots.is_empty() {
        let expected = "the certificates of authorities (none of these can be used)";
        return Err(Wrong::new("cacertfile", expected));
    }
    Ok(Arc::new(roots))
}

/// Makes what a server speaks TLS with.
pub fn server(options: ServerOptions) -> Result<Arc<ServerConfig>, Wrong> {
    let ServerOptions {
        common,
        names,
        required,
    } = options;
    let provider = provider();
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions(common.versions))
        .map_err(no_versions)?;
    let builder = if common.verify {
        let roots = authorities(common.authorities)?;
        let mut verifier =
            WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider));
        if !required {
            verifier = verifier.allow_unauthenticated();
        }
        let verifier = verifier
            .build()
            .map_err(|error| Wrong::new("cacertfile", error.to_string()))?;
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let mut resolver = Names::new(identities(common.credentials, &provider)?);
    for (name, credentials) in names {
        resolver.add(&name, identities(credentials, &provider)?);
    }
    let mut config = builder.with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = common.alpn;
    // Tickets alone: nothing is kept for a client that may never come back.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    if common.resumption {
        config.ticketer = aws_lc_rs::Ticketer::new()
            .map_err(|_| Wrong::new("session_tickets", "possible: there is no randomness"))?;
    } else {
        config.send_tls13_tickets = 0;
    }
    Ok(Arc::new(config))
}

/// Makes what a client speaks TLS with.
pub fn client(options: ClientOptions) -> Result<Arc<ClientConfig>, Wrong> {
    let ClientOptions { common, name } = options;
    let provider = provider();
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions(common.versions))
        .map_err(no_versions)?;
    let builder = if common.verify {
        let roots = authorities(common.authorities)?;
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .build()
            .map_err(|error| Wrong::new("cacertfile", error.to_string()))?;
        if name {
            builder.with_webpki_verifier(verifier)
        } else {
            let verifier = Lenient::any_name(Arc::clone(&provider), verifier);
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier))
        }
    } else {
        let verifier = Lenient::anything(Arc::clone(&provider));
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
    };
    let own = Own(identities(common.credentials, &provider)?);
    let mut config = builder.with_client_cert_resolver(Arc::new(own));
    config.alpn_protocols = common.alpn;
    config.enable_sni = name;
    if !common.resumption {
        config.resumption = Resumption::disabled();
    }
    Ok(Arc::new(config))
}
