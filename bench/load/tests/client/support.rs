//! Servers in threads, and runs of the client against them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::thread;

/// Serves every connection in a thread of its own, for as long as the test lives.
pub fn serve(handler: impl Fn(TcpStream) + Send + Sync + Clone + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let handler = handler.clone();
            thread::spawn(move || handler(stream));
        }
    });
    address
}

/// Echoes what `change` makes of each piece that was read, until it gives None.
pub fn echo(mut stream: impl Read + Write, mut change: impl FnMut(&mut Vec<u8>) -> Option<()>) {
    let mut buffer = vec![0; 65_536];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        let mut piece = buffer[..count].to_vec();
        if change(&mut piece).is_none() || stream.write_all(&piece).is_err() {
            return;
        }
    }
}

pub fn honest(stream: TcpStream) {
    echo(stream, |_| Some(()));
}

pub fn command(mode: &str, server: SocketAddr, options: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reactor_load"));
    command.arg(mode).arg(server.to_string());
    command.args(options.split_whitespace());
    command
}

pub fn client(mode: &str, server: SocketAddr, options: &str) -> (Output, String) {
    let output = command(mode, server, options).output().expect("runs");
    let text = String::from_utf8(output.stdout.clone()).expect("UTF-8");
    (output, text)
}

/// A field of the result.
pub fn number(text: &str, name: &str) -> f64 {
    let field = format!("\"{name}\":");
    let value = text.split(&field).nth(1).expect(name);
    let end = value.find([',', '}']).expect("an end");
    value[..end].parse().expect("a number")
}

pub fn assert_failed(mode: &str, server: SocketAddr, options: &str, kind: &str) {
    let (output, text) = client(mode, server, options);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(&format!("\"{kind}\":1")), "{text}");
}
