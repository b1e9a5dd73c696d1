//! TLS, always the same: version 1.3, one cipher suite, one key exchange, and a full handshake.
//!
//! That is all that is offered, so that every server does the same work or none; what was agreed on is
//! reported nevertheless.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, BufRead, Read, Write};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use mio::net::TcpStream;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::crypto::{verify_tls13_signature, CryptoProvider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, CipherSuite, ClientConfig, ClientConnection, DigitallySignedStruct,
    HandshakeKind, NamedGroup, ProtocolVersion, SignatureScheme,
};

/// Bytes of ciphertext that one `read` may bring: more than any usual message becomes.
const SCRATCH: usize = 264 * 1024;

/// What all connections speak TLS with.
#[derive(Clone)]
pub struct Secure {
    config: Arc<ClientConfig>,
}

impl Secure {
    /// The server's certificate has to be the one in the file (PEM).
    ///
    /// # Errors
    /// One that names the file.
    pub fn to(file: &Path) -> io::Result<Self> {
        let certificate = CertificateDer::from_pem_file(file)
            .map_err(|error| io::Error::other(format!("{}: {error}", file.display())))?;
        let provider = Arc::new(CryptoProvider {
            cipher_suites: vec![cipher_suite::TLS13_AES_128_GCM_SHA256],
            kx_groups: vec![kx_group::X25519],
            ..aws_lc_rs::default_provider()
        });
        let only = Only {
            certificate,
            provider: Arc::clone(&provider),
        };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(only))
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Self {
            config: Arc::new(config),
        })
    }
}

/// Takes one certificate and no other, from whoever proves to have its key: what the server does for
/// that is the same as ever, and the client's part is small.
#[derive(Debug)]
struct Only {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Only {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match *certificate == self.certificate {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 was not offered".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// What a connection agreed on with the server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Agreed {
    version: ProtocolVersion,
    suite: CipherSuite,
    group: NamedGroup,
    kind: HandshakeKind,
}

impl fmt::Display for Agreed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The registered name of a suite has no version in it.
        let suite = format!("{:?}", self.suite).replace("TLS13_", "TLS_");
        let (version, group, kind) = (self.version, self.group, self.kind);
        write!(out, "{version:?} {suite} {group:?} {kind:?}")
    }
}

/// Ciphertext of whichever connection is being read: shared by those of one thread.
pub type Scratch = Rc<RefCell<Box<[u8]>>>;

/// Room for ciphertext.
pub fn scratch() -> Scratch {
    Rc::new(RefCell::new(vec![0; SCRATCH].into_boxed_slice()))
}

/// A TLS connection over a socket that does not block.
///
/// Reading and writing are such as [`crate::exchange::Exchange`] expects of a socket: a read that does
/// not fill the buffer has emptied the socket, and what was written and could not be sent goes out by
/// `flush`. The handshake goes on in both of them; what is written meanwhile follows it.
pub struct TlsStream {
    socket: TcpStream,
    session: ClientConnection,
    scratch: Scratch,
    /// Plaintext that did not fit into the caller's buffer.
    rest: VecDeque<u8>,
    /// The server sends no more.
    closed: bool,
    /// We send no more.
    silent: bool,
}

impl TlsStream {
    /// Begins on a socket that need not be connected yet.
    ///
    /// # Errors
    /// None that would be the server's fault.
    pub fn new(socket: TcpStream, secure: &Secure, scratch: Scratch) -> io::Result<Self> {
        let name = ServerName::from(std::net::Ipv4Addr::LOCALHOST);
        let config = Arc::clone(&secure.config);
        let mut session = ClientConnection::new(config, name).map_err(io::Error::other)?;
        session.set_buffer_limit(None);
        Ok(Self {
            socket,
            session,
            scratch,
            rest: VecDeque::new(),
            closed: false,
            silent: false,
        })
    }

    /// The socket, to be registered.
    pub fn socket(&mut self) -> &mut TcpStream {
        &mut self.socket
    }

    /// Whether the handshake is not over.
    pub fn is_greeting(&self) -> bool {
        self.session.is_handshaking()
    }

    /// Goes on with the handshake; true when it is over.
    ///
    /// # Errors
    /// Whatever the handshake failed of.
    pub fn greet(&mut self) -> io::Result<bool> {
        match self.flush().and_then(|()| self.receive(&mut [])) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(!self.is_greeting()),
        }
    }

    /// What was agreed on, when the handshake is over.
    pub fn agreed(&self) -> Option<Agreed> {
        Some(Agreed {
            version: self.session.protocol_version()?,
            suite: self.session.negotiated_cipher_suite()?.suite(),
            group: self.session.negotiated_key_exchange_group()?.name(),
            kind: self.session.handshake_kind()?,
        })
    }

    /// Says that nothing more will be sent.
    ///
    /// # Errors
    /// The socket's; `WouldBlock` where the server does not read.
    pub fn say_goodbye(&mut self) -> io::Result<()> {
        self.silent = true;
        self.session.send_close_notify();
        self.flush()
    }

    /// Reads from the socket once: how much plaintext is in the buffer, and whether the socket has more.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<(usize, bool)> {
        let scratch = Rc::clone(&self.scratch);
        let mut scratch = scratch.borrow_mut();
        let count = match self.socket.read(&mut scratch)? {
            // Servers need not answer a close_notify by their own (OTP's ssl does not).
            0 if self.silent => {
                self.closed = true;
                return Ok((0, false));
            }
            0 => {
                let error = "the stream ended without a close_notify";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, error));
            }
            count => count,
        };
        let mut sealed = &scratch[..count];
        let mut filled = 0;
        // In steps, as large as rustls takes at once.
        while !sealed.is_empty() && self.session.read_tls(&mut sealed)? > 0 {
            match self.session.process_new_packets() {
                Ok(state) => self.closed |= state.peer_has_closed(),
                Err(error) => {
                    // The server is told why; what matters more is what was wrong.
                    let _ = self.flush();
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            }
            filled += self.unseal(&mut buffer[filled..])?;
        }
        // The end of a handshake is something to say, and so is what waited for it.
        self.send()?;
        Ok((filled, count == scratch.len()))
    }

    /// Sends what the socket takes.
    fn send(&mut self) -> io::Result<()> {
        match self.flush() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        }
    }

    /// Takes all plaintext from rustls: how much is in the buffer. What does not fit is kept.
    fn unseal(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut reader = self.session.reader();
        let mut filled = 0;
        loop {
            let piece = match reader.fill_buf() {
                Ok([]) => return Ok(filled),
                Ok(piece) => piece,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(filled),
                Err(error) => return Err(error),
            };
            let (fits, beyond) = piece.split_at(piece.len().min(buffer.len() - filled));
            buffer[filled..filled + fits.len()].copy_from_slice(fits);
            filled += fits.len();
            self.rest.extend(beyond);
            let taken = piece.len();
            reader.consume(taken);
        }
    }
}

impl Read for TlsStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        // In two pieces, where it lies so.
        while filled < buffer.len() && !self.rest.is_empty() {
            filled += self.rest.read(&mut buffer[filled..])?;
        }
        while filled < buffer.len() && !self.closed {
            match self.receive(&mut buffer[filled..]) {
                Ok((count, more)) => {
                    filled += count;
                    if !more {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        match filled {
            0 if !self.closed => Err(io::ErrorKind::WouldBlock.into()),
            _ => Ok(filled),
        }
    }
}

impl Write for TlsStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.flush()?;
        let written = self.session.writer().write(bytes)?;
        self.send()?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut self.socket) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(_) => {}
            }
        }
        Ok(())
    }
}
