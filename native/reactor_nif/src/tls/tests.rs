//! Both ends of a session, which talk to each other without a socket.

mod credentials;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::config::{
    client, server, ClientOptions, Common, Credential, KeyFormat, ServerOptions, Wrong,
};
use super::*;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    // Two authorities of one name would be one whose signature is wrong.
    let name = format!("Authority {:?}", &key.public_key_raw()[1..9]);
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, key).unwrap()
}

fn credential(authority: &Authority, name: &str) -> Credential {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![name.to_string()]).unwrap();
    let cert = params.signed_by(&key, authority).unwrap();
    Credential {
        chain: vec![cert.der().to_vec()],
        format: KeyFormat::Pkcs8,
        key: key.serialize_der(),
    }
}

fn common() -> Common {
    Common {
        versions: (true, true),
        resumption: true,
        ..Common::default()
    }
}

fn serving(authority: &Authority) -> ServerOptions {
    ServerOptions {
        common: Common {
            credentials: vec![credential(authority, "localhost")],
            ..common()
        },
        ..ServerOptions::default()
    }
}

fn trusting(authority: &Authority) -> ClientOptions {
    ClientOptions {
        common: Common {
            authorities: vec![authority.der().to_vec()],
            verify: true,
            ..common()
        },
        name: true,
    }
}

fn named(config: &Arc<ClientConfig>, name: &'static str) -> Tls {
    Tls::new(Offer::Client(
        Arc::clone(config),
        ServerName::try_from(name).unwrap(),
    ))
    .unwrap()
}

fn pair(serving: ServerOptions, trusting: ClientOptions) -> (Tls, Tls) {
    let server = Tls::new(Offer::Server(server(serving).unwrap())).unwrap();
    (server, named(&client(trusting).unwrap(), "localhost"))
}

/// Gives one side what the other has sealed, so many bytes at a time, and what it reads.
fn carry(from: &mut Tls, to: &mut Tls, step: usize) -> Vec<u8> {
    let sent = std::mem::take(&mut from.sealed);
    deliver(sent.as_slice(), to, step)
}

fn deliver(sent: &[u8], to: &mut Tls, step: usize) -> Vec<u8> {
    let mut read = Vec::new();
    let mut cipher = vec![0; CIPHER_SIZE];
    for bytes in sent.chunks(step) {
        let at = to.partial();
        cipher[at..at + bytes.len()].copy_from_slice(bytes);
        let mut into = vec![0; 1000];
        let mut rest = Queue::default();
        let mut plain = Plain::new(&mut into, &mut rest);
        to.feed(&mut cipher, at + bytes.len(), &mut plain);
        let len = plain.len();
        read.extend_from_slice(&into[..len]);
        read.extend_from_slice(rest.as_slice());
    }
    read
}

fn greet(server: &mut Tls, client: &mut Tls, step: usize) {
    for _ in 0..6 {
        carry(client, server, step);
        carry(server, client, step);
    }
}

fn sealed(tls: &mut Tls, plain: &[u8]) -> Vec<u8> {
    let mut out = vec![0; SEALED_SIZE];
    let n = tls.seal(plain, &mut out).unwrap();
    out.truncate(n);
    out
}

#[test]
fn both_versions_greet_and_talk_whatever_pieces_the_bytes_come_in() {
    let authority = authority();
    for (versions, version) in [((true, false), "TLSv1.2"), ((true, true), "TLSv1.3")] {
        for step in [1, 100, 30_000] {
            let mut serving = serving(&authority);
            serving.common.versions = versions;
            serving.common.alpn = vec![b"h2".to_vec(), b"echo".to_vec()];
            let mut trusting = trusting(&authority);
            trusting.common.alpn = vec![b"echo".to_vec()];
            let (mut server, mut client) = pair(serving, trusting);
            assert!(server.is_greeting() && client.is_greeting());
            greet(&mut server, &mut client, step);
            assert!(!server.is_greeting() && !client.is_greeting());

            let message: Vec<u8> = (0..=255).cycle().take(60_000).collect();
            let wire = sealed(&mut client, &message);
            assert_eq!(deliver(&wire, &mut server, step), message);
            let wire = sealed(&mut server, b"hello");
            assert_eq!(deliver(&wire, &mut client, step), b"hello");

            let facts = server.facts();
            assert_eq!(facts.version, version);
            assert!(facts.cipher.starts_with("TLS_"), "{}", facts.cipher);
            assert_eq!(facts.alpn.as_deref(), Some(&b"echo"[..]));
            assert_eq!(facts.sni.as_deref(), Some("localhost"));
            assert!(!facts.resumed);
            assert_eq!(client.peer_chain().count(), 1);
        }
    }
}

#[test]
fn an_idle_session_keeps_no_buffers() {
    let authority = authority();
    let (mut server, mut client) = pair(serving(&authority), trusting(&authority));
    greet(&mut server, &mut client, 500);
    let wire = sealed(&mut client, &[7; 20_000]);
    deliver(&wire, &mut server, 500);
    assert_eq!(server.partial.capacity(), 0);
    assert_eq!(server.sealed.bytes.capacity(), 0);
}

#[test]
fn a_goodbye_ends_one_direction_and_leaves_the_other() {
    let authority = authority();
    let (mut server, mut client) = pair(serving(&authority), trusting(&authority));
    greet(&mut server, &mut client, 500);
    client.say_goodbye();
    assert!(client.seal(b"more", &mut vec![0; SEALED_SIZE]).is_none());
    carry(&mut client, &mut server, 500);
    assert!(server.is_closed() && server.failed().is_none());
    let wire = sealed(&mut server, b"answer");
    assert_eq!(deliver(&wire, &mut client, 500), b"answer");
    server.say_goodbye();
    carry(&mut server, &mut client, 500);
    assert!(client.is_closed());
    client.say_goodbye();
    assert_eq!(client.sealed.len(), 0);
}

#[test]
fn what_is_no_tls_fails_with_an_alert_for_the_peer() {
    let authority = authority();
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x16, 3, 1, 0xff, 0xff, 1]] {
        let (mut server, _client) = pair(serving(&authority), trusting(&authority));
        deliver(garbage, &mut server, 100);
        assert!(server.failed().is_some());
        assert_eq!(server.sealed.as_slice()[0], 21, "an alert");
        let before = server.sealed.len();
        deliver(garbage, &mut server, 100);
        server.say_goodbye();
        assert_eq!(server.sealed.len(), before);
    }
}

#[test]
fn a_record_that_was_tampered_with_ends_the_stream_after_what_came_before_it() {
    let authority = authority();
    let (mut server, mut client) = pair(serving(&authority), trusting(&authority));
    greet(&mut server, &mut client, 500);
    let mut wire = sealed(&mut client, b"good");
    let mut bad = sealed(&mut client, b"bad");
    let last = bad.len() - 1;
    bad[last] ^= 1;
    wire.extend_from_slice(&bad);
    assert_eq!(deliver(&wire, &mut server, 10_000), b"good");
    assert_eq!(server.failed().unwrap().name, "bad_record_mac");
}

#[test]
fn a_greeting_without_end_is_cut() {
    let authority = authority();
    let (mut server, _client) = pair(serving(&authority), trusting(&authority));
    // A message of 16 MiB, announced by its first record, that never ends.
    let mut record = vec![0x16, 3, 1, 0x3f, 0xfc, 1, 0xff, 0xff, 0xff];
    record.resize(5 + 0x3ffc, 0);
    for _ in 0..10 {
        deliver(&record, &mut server, 10_000);
        if server.failed().is_some() {
            return;
        }
        record[5] = 0;
    }
    panic!("{} bytes were kept", server.partial());
}

fn client_config(authority: &Authority) -> Arc<ClientConfig> {
    client(trusting(authority)).unwrap()
}

#[test]
fn a_second_connection_resumes_the_session_unless_that_is_off() {
    let authority = authority();
    for versions in [(true, false), (false, true)] {
        for resumption in [true, false] {
            let mut options = serving(&authority);
            options.common.versions = versions;
            options.common.resumption = resumption;
            let serving = server(options).unwrap();
            let config = client_config(&authority);
            let mut resumed = Vec::new();
            for _ in 0..2 {
                let mut server = Tls::new(Offer::Server(Arc::clone(&serving))).unwrap();
                let mut client = named(&config, "localhost");
                greet(&mut server, &mut client, 500);
                resumed.push((server.facts().resumed, client.facts().resumed));
            }
            assert_eq!(resumed, [(false, false), (resumption, resumption)]);
        }
    }
}

#[test]
fn new_keys_are_taken_and_answered() {
    let authority = authority();
    let (mut server, mut client) = pair(serving(&authority), trusting(&authority));
    greet(&mut server, &mut client, 500);
    for _ in 0..3 {
        let Session::Client(session, _) = &mut client.session else {
            panic!("not a client");
        };
        match session.process_tls_records(&mut []).state.unwrap() {
            ConnectionState::WriteTraffic(traffic) => traffic.refresh_traffic_keys().unwrap(),
            other => panic!("{other:?}"),
        }
        let wire = sealed(&mut client, b"with new keys");
        assert_eq!(deliver(&wire, &mut server, 7), b"with new keys");
        let wire = sealed(&mut server, b"likewise");
        let mut answer = std::mem::take(&mut server.sealed).as_slice().to_vec();
        answer.extend_from_slice(&wire);
        assert_eq!(deliver(&answer, &mut client, 7), b"likewise");
    }
}

/// A generator of numbers that are the same in each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

#[test]
fn whatever_is_changed_cut_or_repeated_on_the_way_is_an_error_and_no_more() {
    let authority = authority();
    let serving = server(serving(&authority)).unwrap();
    let config = client_config(&authority);
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    for _ in 0..500 {
        let mut server = Tls::new(Offer::Server(Arc::clone(&serving))).unwrap();
        let mut client = named(&config, "localhost");
        let spoilt = numbers.below(6);
        for round in 0..6 {
            for up in [true, false] {
                let (from, to) = if up {
                    (&mut client, &mut server)
                } else {
                    (&mut server, &mut client)
                };
                let mut wire = std::mem::take(&mut from.sealed).as_slice().to_vec();
                if !from.is_greeting() {
                    let mut out = vec![0; SEALED_SIZE];
                    let n = from.seal(b"some plaintext", &mut out).unwrap_or(0);
                    wire.extend_from_slice(&out[..n]);
                }
                if round == spoilt / 2 && up == spoilt.is_multiple_of(2) && !wire.is_empty() {
                    let at = numbers.below(wire.len());
                    match numbers.below(4) {
                        0 => wire[at] ^= 1 << numbers.below(8),
                        1 => wire.truncate(at),
                        2 => wire.extend_from_within(at..),
                        _ => wire.extend((0..at).map(|n| n as u8)),
                    }
                }
                let step = 1 + numbers.below(700);
                deliver(&wire, to, step);
                if numbers.below(8) == 0 {
                    to.say_goodbye();
                }
            }
        }
    }
}
