//! The client as a whole, against servers that behave and servers that do not.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

mod support;
mod tls;

use support::{assert_failed, client, command, echo, honest, number, serve};

#[test]
fn every_message_of_every_size_comes_back() {
    let server = serve(honest);
    let (output, text) = client(
        "echo",
        server,
        "--connections 20 --threads 2 --size 65536 --random --messages 30",
    );
    assert!(output.status.success(), "{text}");
    assert!(text.contains("\"requests\":600,"), "{text}");
    assert!(text.contains("\"errors\":0,"), "{text}");
}

#[test]
fn clients_whose_messages_have_their_times_send_no_more_than_that() {
    let options = "--connections 10 --every 0.05 --messages 4";
    let (output, text) = client("echo", serve(honest), options);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("\"requests\":40,"), "{text}");
    // From the first one to the fourth.
    assert!(number(&text, "seconds") >= 0.15, "{text}");
}

#[test]
fn a_message_that_waits_for_the_answer_before_it_is_late_from_its_time_on() {
    let slow = |stream: TcpStream| {
        echo(stream, |_| {
            thread::sleep(Duration::from_millis(60));
            Some(())
        });
    };
    let (output, text) = client("echo", serve(slow), "--every 0.01 --messages 5");
    assert!(output.status.success(), "{text}");
    // The fifth is answered after 300 ms, and its time was after 40.
    assert!(number(&text, "p99_us") >= 260_000.0, "{text}");
    assert!(number(&text, "p50_us") >= 160_000.0, "{text}");
}

#[test]
fn a_duration_is_marked_and_measured() {
    let server = serve(honest);
    let options = "--connections 4 --seconds 0.3 --warmup 0.1 --mark";
    let (output, text) = client("echo", server, options);
    assert!(output.status.success(), "{text}");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "{\"event\":\"measuring\"}");
    assert_eq!(lines[1], "{\"event\":\"measured\"}");
    assert!(lines[2].contains("\"seconds\":0.300000"), "{text}");
}

#[test]
fn a_wrong_byte_deep_in_the_stream_fails_the_run() {
    let server = serve(|stream| {
        let mut seen = 0;
        echo(stream, move |piece| {
            if (seen..seen + piece.len()).contains(&100_000) {
                piece[100_000 - seen] ^= 1;
            }
            seen += piece.len();
            Some(())
        });
    });
    assert_failed("echo", server, "--size 1000 --messages 200", "wrong");
}

#[test]
fn an_answer_to_the_message_before_fails_the_run() {
    let server = serve(|stream| {
        let mut last = vec![b'x'; 100];
        echo(stream, move |piece| {
            std::mem::swap(piece, &mut last);
            Some(())
        });
    });
    assert_failed("echo", server, "--size 100 --messages 5", "wrong");
}

#[test]
fn a_surplus_byte_fails_the_run_even_after_the_last_message() {
    let server = serve(|mut stream| {
        let mut last = stream.try_clone().expect("clones");
        let mut message = [0; 64];
        stream.read_exact(&mut message).expect("reads");
        stream.write_all(&message).expect("writes");
        // Sent at the client's half-close, when everything due had come back.
        let _ = stream.read(&mut message);
        let _ = last.write_all(b"x");
    });
    assert_failed("echo", server, "--messages 1", "surplus");
}

#[test]
fn a_connection_that_the_server_closes_fails_the_run() {
    let server = serve(|stream| {
        let mut pieces = 0;
        echo(stream, move |_| {
            pieces += 1;
            (pieces < 3).then_some(())
        });
    });
    assert_failed("echo", server, "--messages 5", "lost");
}

#[test]
fn a_server_that_never_answers_is_bounded_by_the_limit() {
    let server = serve(|mut stream| {
        let mut buffer = [0; 1024];
        while let Ok(1..) = stream.read(&mut buffer) {}
    });
    assert_failed("echo", server, "--messages 1 --limit 0.2", "unanswered");
}

#[test]
fn a_refused_connection_fails_the_run() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
    let server = listener.local_addr().expect("an address");
    drop(listener);
    assert_failed("echo", server, "--seconds 0.1", "refused");
}

#[test]
fn connections_are_made_one_after_another() {
    let server = serve(honest);
    let (output, text) = client("connect", server, "--connections 3 --messages 20");
    assert!(output.status.success(), "{text}");
    assert!(text.contains("\"requests\":60,"), "{text}");
}

#[test]
fn an_address_that_is_not_this_machine_is_refused() {
    let server = "192.0.2.1:80".parse().expect("an address");
    let (output, _) = client("echo", server, "");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not a loopback address"));
}

struct Held {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Held {
    fn start(mode: &str, server: SocketAddr, options: &str) -> Self {
        let mut child = command(mode, server, options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self { child, lines }
    }

    fn line(&mut self) -> String {
        self.lines.next().expect("a line").expect("readable")
    }

    fn ask(&mut self, command: &str) -> String {
        let stdin = self.child.stdin.as_mut().expect("piped");
        writeln!(stdin, "{command}").expect("writes");
        self.line()
    }

    fn end(mut self) -> (Option<i32>, String) {
        drop(self.child.stdin.take());
        let line = self.line();
        (self.child.wait().expect("ends").code(), line)
    }
}

#[test]
fn idle_connections_are_held_echo_on_request_and_end_with_the_input() {
    let mut held = Held::start("idle", serve(honest), "--connections 50");
    assert_eq!(held.line(), "{\"event\":\"connected\",\"open\":50}");
    assert_eq!(held.ask("echo"), "{\"event\":\"echoed\",\"open\":50}");
    assert_eq!(held.ask("echo"), "{\"event\":\"echoed\",\"open\":50}");
    let (status, line) = held.end();
    assert_eq!(status, Some(0), "{line}");
    assert!(line.contains("\"echoes\":2,"), "{line}");
}

#[test]
fn a_stuck_reader_is_bounded_by_an_honest_server_and_can_be_read_back() {
    let options = "--connections 2 --blocked-ms 200";
    let mut held = Held::start("stuck", serve(honest), options);
    let line = held.line();
    assert!(line.contains("\"event\":\"blocked\",\"open\":2"), "{line}");
    assert!(line.ends_with("\"bounded\":true}"), "{line}");
    assert_eq!(held.ask("read"), "{\"event\":\"read\",\"open\":2}");
    let (status, line) = held.end();
    assert_eq!(status, Some(0), "{line}");
    assert!(line.contains("\"read_back\":true"), "{line}");
}

#[test]
fn a_server_without_a_bound_is_told_apart() {
    let server = serve(|mut stream| {
        let mut buffer = vec![0; 65_536];
        while let Ok(1..) = stream.read(&mut buffer) {}
    });
    let mut held = Held::start("stuck", server, "--max-bytes 1000000");
    let line = held.line();
    assert!(line.contains("\"accepted_bytes\":1000000,"), "{line}");
    assert!(line.ends_with("\"bounded\":false}"), "{line}");
    assert_eq!(held.end().0, Some(0));
}

#[test]
fn slow_connections_send_a_byte_each_period_and_are_replaced_when_they_are_cut() {
    let (sender, ends) = mpsc::channel();
    let server = serve(move |mut stream| {
        // An end after three bytes, of each connection.
        let complete = stream.read_exact(&mut [0; 3]).is_ok();
        drop(stream);
        let _ = sender.send(complete);
    });
    let mut held = Held::start("slow", server, "--connections 20 --period 0.02");
    assert_eq!(held.line(), "{\"event\":\"connected\",\"open\":20}");
    assert!(ends.iter().take(60).all(|complete| complete));
    let (status, line) = held.end();
    assert_eq!(status, Some(0), "{line}");
    let cut = number(&line, "cut");
    assert_eq!(number(&line, "open"), 20.0);
    assert!(cut >= 40.0, "{line}");
    assert!(number(&line, "sent") >= 3.0 * cut, "{line}");
}
