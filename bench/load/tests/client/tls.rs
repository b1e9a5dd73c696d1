//! The client over TLS, against servers that behave and servers that do not.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use rcgen::{CertifiedKey, KeyPair};
use rustls::crypto::aws_lc_rs::{self, Ticketer};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion};

use crate::support::{assert_failed, client, echo, honest, serve};

type Secure = StreamOwned<ServerConnection, TcpStream>;

const AGREED: &str = "\"tls\":[\"TLSv1_3 TLS_AES_128_GCM_SHA256 X25519 Full\"],";

/// A certificate, in a file for as long as this lives.
struct Identity {
    pair: CertifiedKey<KeyPair>,
    file: PathBuf,
}

impl Identity {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("reactor_load-{}-{number}.pem", std::process::id());
        let pair = rcgen::generate_simple_self_signed(["localhost".into()]).expect("a certificate");
        let file = std::env::temp_dir().join(name);
        fs::write(&file, pair.cert.pem()).expect("writes");
        Self { pair, file }
    }

    fn option(&self) -> String {
        format!(" --tls {}", self.file.display())
    }

    /// Serves connections that speak one of the versions, and offers to resume them.
    fn serve(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        handler: impl Fn(Secure) + Send + Sync + Clone + 'static,
    ) -> SocketAddr {
        let key = PrivatePkcs8KeyDer::from(self.pair.signing_key.serialize_der());
        let mut config = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
            .with_protocol_versions(versions)
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![self.pair.cert.der().clone()], key.into())
            .expect("a key that belongs to it");
        config.ticketer = Ticketer::new().expect("a ticketer");
        let config = Arc::new(config);
        serve(move |stream| {
            let session = ServerConnection::new(Arc::clone(&config)).expect("a session");
            handler(StreamOwned::new(session, stream));
        })
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
    }
}

fn honest_too(mut stream: Secure) {
    echo(&mut stream, |_| Some(()));
    stream.conn.send_close_notify();
    let _ = stream.flush();
}

#[test]
fn every_message_of_every_size_comes_back() {
    let identity = Identity::new();
    let server = identity.serve(&[&TLS13], honest_too);
    for size in [64, 65_536, 600_000] {
        let options = "--connections 20 --threads 2 --random --messages 20";
        let options = format!("{options} --size {size}{}", identity.option());
        let (output, text) = client("echo", server, &options);
        assert!(output.status.success(), "{text}");
        assert!(text.contains("\"requests\":400,"), "{text}");
        assert!(text.contains(AGREED), "{text}");
    }
}

#[test]
fn connections_are_made_one_after_another_and_never_resumed() {
    let identity = Identity::new();
    let server = identity.serve(&[&TLS13, &TLS12], honest_too);
    for size in [64, 300_000] {
        let options = format!("--connections 3 --messages 20 --size {size}");
        let (output, text) = client("connect", server, &(options + &identity.option()));
        assert!(output.status.success(), "{text}");
        assert!(text.contains("\"requests\":60,"), "{text}");
        assert!(text.contains(AGREED), "{text}");
    }
}

#[test]
fn without_tls_nothing_is_agreed_on() {
    let (_, text) = client("echo", serve(honest), "--messages 1");
    assert!(text.contains("\"tls\":[],"), "{text}");
}

#[test]
fn another_certificate_is_refused() {
    let (identity, other) = (Identity::new(), Identity::new());
    let server = identity.serve(&[&TLS13], honest_too);
    let options = format!("--messages 1{}", other.option());
    assert_failed("echo", server, &options, "refused");
    assert_failed("connect", server, &options, "refused");
}

#[test]
fn a_server_of_another_version_or_of_none_is_refused() {
    let identity = Identity::new();
    let options = format!("--messages 1{}", identity.option());
    let older = identity.serve(&[&TLS12], honest_too);
    for server in [older, serve(honest)] {
        assert_failed("echo", server, &options, "refused");
        assert_failed("connect", server, &options, "refused");
    }
}

#[test]
fn a_wrong_byte_fails_the_run() {
    let identity = Identity::new();
    let server = identity.serve(&[&TLS13], |mut stream| {
        echo(&mut stream, |piece| {
            piece[9] ^= 1;
            Some(())
        });
    });
    let options = format!("--messages 1{}", identity.option());
    assert_failed("echo", server, &options, "wrong");
}

#[test]
fn a_server_that_speaks_first_fails_the_run() {
    let identity = Identity::new();
    let server = identity.serve(&[&TLS13], |mut stream| {
        // Sent along with the end of the handshake, before any message.
        let _ = stream.write_all(b"welcome");
        honest_too(stream);
    });
    let options = format!("--messages 1{}", identity.option());
    let (output, text) = client("echo", server, &options);
    assert_eq!(output.status.code(), Some(1), "{text}");
    // If a message was sent before it came, it is taken for the answer to that.
    let seen = ["surplus", "wrong"].map(|kind| text.contains(&format!("\"{kind}\":1")));
    assert!(seen.contains(&true), "{text}");
}

#[test]
fn a_stream_that_ends_without_saying_so_fails_the_run() {
    let identity = Identity::new();
    let server = identity.serve(&[&TLS13], |mut stream| {
        let mut message = [0; 64];
        stream.read_exact(&mut message).expect("reads");
        stream.write_all(&message).expect("writes");
        stream.read_exact(&mut message).expect("reads");
        let _ = stream.sock.shutdown(Shutdown::Both);
    });
    let options = format!("--messages 2{}", identity.option());
    assert_failed("echo", server, &options, "lost");
}

#[test]
fn an_end_in_answer_to_the_clients_own_need_not_be_said() {
    let identity = Identity::new();
    let server = identity.serve(&[&TLS13], |mut stream| {
        echo(&mut stream, |_| Some(()));
        let _ = stream.sock.shutdown(Shutdown::Both);
    });
    let options = format!("--messages 2{}", identity.option());
    let (output, text) = client("echo", server, &options);
    assert!(output.status.success(), "{text}");
}

#[test]
fn a_surplus_byte_after_the_last_message_fails_the_run() {
    let identity = Identity::new();
    let server = identity.serve(&[&TLS13], |mut stream| {
        echo(&mut stream, |_| Some(()));
        let _ = stream.write_all(b"x");
    });
    let options = format!("--messages 2{}", identity.option());
    assert_failed("echo", server, &options, "surplus");
}

#[test]
fn a_handshake_that_does_not_end_is_bounded_by_the_limit() {
    let identity = Identity::new();
    let server = serve(|mut stream| {
        let mut buffer = [0; 1024];
        while let Ok(1..) = stream.read(&mut buffer) {}
    });
    let options = format!("--messages 1 --limit 0.2{}", identity.option());
    assert_failed("echo", server, &options, "unanswered");
    assert_failed("connect", server, &options, "unanswered");
}

#[test]
fn a_certificate_that_cannot_be_read_is_named() {
    let (output, _) = client("echo", serve(honest), "--tls /nowhere/certificate.pem");
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("/nowhere/certificate.pem"), "{said}");
}
