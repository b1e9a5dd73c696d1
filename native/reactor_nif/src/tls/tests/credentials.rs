//! Who says to be who, and who believes it.

use super::*;

#[test]
fn a_client_refuses_a_stranger_and_a_wrong_name_and_says_why() {
    let (authority, other) = (authority(), self::authority());
    let (mut server, mut client) = pair(serving(&authority), trusting(&other));
    greet(&mut server, &mut client, 500);
    assert_eq!(client.failed().unwrap().name, "unknown_ca");
    assert_eq!(server.failed().unwrap().name, "unknown_ca");

    let config = client_config(&authority);
    let mut client = named(&config, "example.com");
    let (mut server, _) = pair(serving(&authority), trusting(&authority));
    greet(&mut server, &mut client, 500);
    assert_eq!(client.failed().unwrap().name, "handshake_failure");
}

#[test]
fn names_choose_the_certificate_exact_before_wildcard_before_default() {
    let authority = authority();
    let mut options = serving(&authority);
    for name in ["*.example.com", "www.example.com"] {
        let own = vec![credential(&authority, name)];
        options.names.push((name.to_string(), own));
    }
    let expected: Vec<Vec<u8>> = [
        &options.common.credentials[0],
        &options.names[0].1[0],
        &options.names[1].1[0],
    ]
    .map(|credential| credential.chain[0].clone())
    .into();
    let serving = server(options).unwrap();
    let config = client_config(&authority);
    for (name, index) in [
        ("localhost", 0),
        ("api.example.com", 1),
        ("www.example.com", 2),
    ] {
        let mut server = Tls::new(Offer::Server(Arc::clone(&serving))).unwrap();
        let mut client = named(&config, name);
        greet(&mut server, &mut client, 500);
        assert_eq!(client.peer_chain().next().unwrap(), expected[index]);
    }
}

#[test]
fn a_client_that_must_say_who_it_is_is_refused_if_it_does_not() {
    let authority = authority();
    for (required, shown, passes) in [
        (true, true, true),
        (true, false, false),
        (false, false, true),
    ] {
        let mut serving = serving(&authority);
        serving.common.verify = true;
        serving.common.authorities = vec![authority.der().to_vec()];
        serving.required = required;
        let mut trusting = trusting(&authority);
        if shown {
            trusting.common.credentials = vec![credential(&authority, "client")];
        }
        let (mut server, mut client) = pair(serving, trusting);
        greet(&mut server, &mut client, 500);
        assert_eq!(server.failed().is_none(), passes);
        assert_eq!(server.peer_chain().count(), usize::from(shown));
    }
}

#[test]
fn credentials_that_do_not_belong_together_are_named() {
    let authority = authority();
    let mut options = serving(&authority);
    options.common.credentials[0].key = KeyPair::generate().unwrap().serialize_der();
    assert_eq!(server(options).unwrap_err().option, "keyfile");
    let mut options = serving(&authority);
    options.common.credentials[0].key = vec![1, 2, 3];
    assert_eq!(server(options).unwrap_err().option, "keyfile");
    let mut options = serving(&authority);
    options.common.credentials[0].chain = vec![vec![1, 2, 3]];
    assert_eq!(server(options).unwrap_err().option, "certfile");
    let options = ClientOptions {
        common: Common {
            verify: true,
            ..common()
        },
        name: true,
    };
    let Wrong { option, .. } = client(options).unwrap_err();
    assert_eq!(option, "cacertfile");
}
