//! Closed-loop load client for the benchmarks: many connections to a server on this machine,
//! every byte of every answer checked, one JSON line as the result.
//!
//! It never connects to anything but a loopback address, and every run is bounded in connections
//! and in time.

use std::process::ExitCode;

mod command;
mod connect;
mod crew;
mod dial;
mod echo;
mod exchange;
mod failure;
mod held;
mod histogram;
mod limits;
mod options;
mod pattern;
mod report;
mod slow;
mod stream;
mod tls;

use options::{Mode, Options, USAGE};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--help") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    match Options::parse(arguments) {
        Ok(options) => run(&options).unwrap_or_else(|message| unable(&message)),
        Err(message) => unable(&format!("{message}; --help lists everything")),
    }
}

fn run(options: &Options) -> Result<ExitCode, String> {
    limits::raise_open_files(options.connections)?;
    match options.mode {
        Mode::Echo => echo::run(options),
        Mode::Connect => connect::run(options),
        Mode::Idle => held::idle(options),
        Mode::Stuck => held::stuck(options),
        Mode::Slow => slow::run(options),
    }
    .map_err(|error| error.to_string())
}

fn unable(message: &str) -> ExitCode {
    eprintln!("reactor_load: {message}");
    ExitCode::from(2)
}
