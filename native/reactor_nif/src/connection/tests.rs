//! Reads, writes and ends of a connection whose peer is a socket of the test.

use super::reading::READ_BUDGET;
use super::*;
use std::io::Write;
use std::net::{TcpListener, TcpStream};

use mio::Poll;

/// A connection with nobody behind it, and its peer.
fn pair(settings: Settings) -> (Arc<Connection<()>>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    ours.set_nonblocking(true).unwrap();
    let home = Arc::new(LoopHandle::new(&Poll::new().unwrap()).unwrap());
    let parts = Parts {
        socket: ours.into(),
        phase: Phase::Open,
        greeting: None,
        settings,
        slot: None,
        peer: None,
    };
    (Connection::new(parts, (), home), peer)
}

fn settings(framing: Framing) -> Settings {
    Settings {
        framing,
        packet_size: 0,
        active: Active::Off,
        high_watermark: 64 * 1024,
        low_watermark: 16 * 1024,
        deadlines: Deadlines::default(),
        send_timeout: 0,
        send_timeout_close: false,
    }
}

/// Waits in the kernel until the peer's bytes are here, and tells the state.
fn arrive(state: &mut State<()>) {
    let mut fd = libc::pollfd {
        fd: state.fd().unwrap(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one valid pollfd for the length of the call.
    let ready = unsafe { libc::poll(&mut fd, 1, 5_000) };
    assert_eq!(ready, 1, "nothing arrived within 5 s");
    state.on_event(true, false, false);
}

fn pulled(state: &mut State<()>, length: usize) -> Option<Vec<u8>> {
    match state.pull(length, &mut [0; 4096]) {
        Pull::Data(data) => Some(data.to_vec()),
        Pull::Blocked => None,
        Pull::End(reason) => panic!("unexpected end: {reason}"),
    }
}

#[test]
fn a_peer_that_was_told_of_the_end_may_reset_before_the_other_direction_ends() {
    let (conn, peer) = pair(settings(Framing::Raw));
    let mut state = conn.lock();
    state.shutdown(false, true).unwrap();
    socket2::SockRef::from(&peer)
        .set_linger(Some(std::time::Duration::ZERO))
        .unwrap();
    drop(peer);
    arrive(&mut state);
    state.shutdown(true, true).unwrap();
}

#[test]
fn a_short_read_waits_for_the_next_edge() {
    let (conn, mut peer) = pair(settings(Framing::Raw));
    let mut state = conn.lock();
    peer.write_all(b"one").unwrap();
    arrive(&mut state);
    assert_eq!(pulled(&mut state, 0).unwrap(), b"one");
    assert!(!state.may_read());
    assert!(pulled(&mut state, 0).is_none());
    peer.write_all(b"two").unwrap();
    arrive(&mut state);
    assert_eq!(pulled(&mut state, 0).unwrap(), b"two");
}

#[test]
fn one_look_for_a_long_message_reads_so_much_and_no_more() {
    const LENGTH: usize = 64 * 1024 * 1024;
    let (conn, mut peer) = pair(settings(Framing::Raw));
    let sender = std::thread::spawn(move || peer.write_all(&vec![7; LENGTH]));
    let mut state = conn.lock();
    let mut scratch = vec![0; 64 * 1024];
    let mut most = 0;
    let all = loop {
        let before = state.inbox.len();
        match state.pull(LENGTH, &mut scratch) {
            Pull::Data(data) => break data.len(),
            Pull::Blocked => {}
            Pull::End(reason) => panic!("unexpected end: {reason}"),
        }
        most = most.max(state.inbox.len() - before);
        if !state.readable {
            arrive(&mut state);
        }
    };
    assert_eq!(all, LENGTH);
    assert!(most > 0 && most < READ_BUDGET + scratch.len(), "{most}");
    sender.join().unwrap().unwrap();
}

#[test]
fn an_exact_length_waits_until_it_is_there_and_leaves_the_rest() {
    let (conn, mut peer) = pair(settings(Framing::Raw));
    let mut state = conn.lock();
    peer.write_all(b"abc").unwrap();
    arrive(&mut state);
    assert!(pulled(&mut state, 5).is_none());
    peer.write_all(b"defg").unwrap();
    arrive(&mut state);
    assert_eq!(pulled(&mut state, 5).unwrap(), b"abcde");
    assert!(state.may_read());
    assert_eq!(pulled(&mut state, 0).unwrap(), b"fg");
    assert!(state.idle());
}

#[test]
fn a_packet_larger_than_the_scratch_buffer_comes_whole_and_its_memory_goes() {
    let (conn, mut peer) = pair(settings(Framing::Length(4)));
    let mut state = conn.lock();
    let body = vec![7u8; 10_000];
    peer.write_all(&(body.len() as u32).to_be_bytes()).unwrap();
    peer.write_all(&body).unwrap();
    let mut got = None;
    while got.is_none() {
        arrive(&mut state);
        got = pulled(&mut state, 0);
    }
    assert_eq!(got.unwrap(), body);
    assert!(pulled(&mut state, 0).is_none());
    assert_eq!(state.inbox.bytes.capacity(), 0);
}

#[test]
fn what_the_kernel_does_not_take_is_queued_up_to_the_mark_and_then_flushed_in_order() {
    let (conn, mut peer) = pair(settings(Framing::Raw));
    let mut state = conn.lock();
    let chunk: Vec<u8> = (0..=255).cycle().take(32 * 1024).collect();
    let mut sent = 0;
    let full = loop {
        let level = state.send(&chunk).unwrap();
        sent += chunk.len();
        if level == Level::Above {
            break state.queued();
        }
    };
    assert!(full >= 64 * 1024 && full < 64 * 1024 + chunk.len());
    assert!(state.congested());
    let reader = std::thread::spawn(move || {
        let mut all = vec![0; sent];
        std::io::Read::read_exact(&mut peer, &mut all).unwrap();
        all
    });
    while state.queued() > 0 {
        let mut fd = libc::pollfd {
            fd: state.fd().unwrap(),
            events: libc::POLLOUT,
            revents: 0,
        };
        // SAFETY: as in `arrive`.
        assert_eq!(unsafe { libc::poll(&mut fd, 1, 5_000) }, 1);
        state.on_event(false, true, false);
        state.flush().unwrap();
    }
    assert!(!state.congested());
    let all = reader.join().unwrap();
    assert!(all.chunks(chunk.len()).all(|got| got == chunk));
}

#[test]
fn what_is_put_back_comes_before_what_came_later() {
    let (conn, mut peer) = pair(settings(Framing::Raw));
    let mut state = conn.lock();
    peer.write_all(b"abc").unwrap();
    arrive(&mut state);
    let mut into = [0; 8];
    assert!(matches!(state.read_bytes(&mut into[..2]), Ok(2)));
    state.unread(b"ab");
    state.unread(b"^");
    assert!(state.may_read());
    assert!(matches!(state.read_bytes(&mut into), Ok(3)));
    assert_eq!(&into[..3], b"^ab");
    assert!(matches!(state.read_bytes(&mut into), Ok(1)));
}

#[test]
fn a_close_with_nothing_queued_closes_the_fd_at_once_and_only_once() {
    let (conn, _peer) = pair(settings(Framing::Raw));
    let mut state = conn.lock();
    assert!(state.close(Instant::now()));
    assert!(state.fd().is_none());
    assert!(state.close(Instant::now()));
    assert_eq!(state.send(b"late"), Err(Reason::Closed));
}

#[test]
fn a_broken_pipe_is_an_error_of_the_write_and_not_a_zero() {
    let (conn, peer) = pair(settings(Framing::Raw));
    drop(peer);
    let mut state = conn.lock();
    let error = loop {
        // The first write may be taken before the reset arrives.
        if let Err(reason) = state.write_now(b"x") {
            break reason;
        }
    };
    assert_eq!(error.folded(), Reason::Closed);
    assert!(state.write_now(b"x").is_err());
}
