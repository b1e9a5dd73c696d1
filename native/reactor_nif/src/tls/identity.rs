//! Which certificate a server shows: by the name that the client asks for, and by what it can check.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::SignatureScheme;

thread_local! {
    /// The name in the last greeting that this thread has read: rustls shows it nowhere else.
    static NAME: RefCell<Option<Box<str>>> = const { RefCell::new(None) };
}

/// The name that a client has asked for in what was just read, once.
pub fn take_name() -> Option<Box<str>> {
    NAME.take()
}

/// Certificates with their keys, the best first.
pub type Identities = Vec<Arc<CertifiedKey>>;

/// All certificates of a server.
#[derive(Debug)]
pub struct Names {
    /// For who asks for no name, or one that is not here.
    default: Identities,
    /// By name, in lower case. A wildcard is under its name without `*`, as `.example.com`.
    named: HashMap<String, Identities>,
}

impl Names {
    /// With these for everybody.
    pub fn new(default: Identities) -> Self {
        Names {
            default,
            named: HashMap::new(),
        }
    }

    /// With these for a name, as `example.com` or `*.example.com`.
    pub fn add(&mut self, name: &str, identities: Identities) {
        let name = name.strip_prefix('*').unwrap_or(name);
        self.named.insert(name.to_ascii_lowercase(), identities);
    }

    /// Those for a name: one that is just so, else the wildcard for its first label, else the default.
    fn find(&self, name: Option<&str>) -> &Identities {
        let Some(name) = name.filter(|_| !self.named.is_empty()) else {
            return &self.default;
        };
        let name = name.to_ascii_lowercase();
        let exact = self.named.get(&name);
        let found = exact.or_else(|| self.named.get(&name[name.find('.')?..]));
        found.unwrap_or(&self.default)
    }
}

impl ResolvesServerCert for Names {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        NAME.set(hello.server_name().map(Box::from));
        let identities = self.find(hello.server_name());
        choose(identities, hello.signature_schemes()).or_else(|| identities.first().cloned())
    }
}

/// The certificates of a client.
#[derive(Debug)]
pub struct Own(pub Identities);

impl ResolvesClientCert for Own {
    fn resolve(
        &self,
        _authorities: &[&[u8]],
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        choose(&self.0, schemes)
    }

    fn has_certs(&self) -> bool {
        !self.0.is_empty()
    }
}

/// The first that the other side can check.
fn choose(identities: &Identities, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
    let usable = |identity: &&Arc<CertifiedKey>| identity.key.choose_scheme(schemes).is_some();
    identities.iter().find(usable).cloned()
}
