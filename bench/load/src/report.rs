//! JSON lines on standard output: for the runner, and readable enough for people.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use crate::crew::Outcome;
use crate::failure::Tally;
use crate::options::{Mode, Options};

/// Prints `{"event":name, ...}` at once. Values are JSON already.
pub fn event(name: &str, fields: &[(&str, String)]) {
    line(&format!("\"event\":\"{name}\""), fields);
}

/// Prints the outcome of requests; the exit status says whether everything came back.
pub fn requests(options: &Options, outcome: &Outcome) -> ExitCode {
    let seconds = outcome.measured(options).as_secs_f64();
    let count = outcome.latencies.total();
    let rate = if seconds > 0.0 {
        count as f64 / seconds
    } else {
        0.0
    };
    let agreed: Vec<String> = outcome
        .agreed
        .iter()
        .map(|agreed| format!("\"{agreed}\""))
        .collect();
    let microseconds = |nanoseconds: u64| format!("{:.1}", nanoseconds as f64 / 1_000.0);
    result(
        options,
        &outcome.tally,
        &[
            ("requests", count.to_string()),
            ("unmeasured_requests", outcome.unmeasured.to_string()),
            ("seconds", format!("{seconds:.6}")),
            ("requests_per_s", format!("{rate:.1}")),
            ("p50_us", microseconds(outcome.latencies.quantile(0.5))),
            ("p99_us", microseconds(outcome.latencies.quantile(0.99))),
            ("max_us", microseconds(outcome.latencies.longest())),
            ("bytes", outcome.bytes.to_string()),
            ("tls", format!("[{}]", agreed.join(","))),
        ],
    )
}

/// Prints the last line of a run, and says by the exit status whether anything failed.
pub fn result(options: &Options, tally: &Tally, fields: &[(&str, String)]) -> ExitCode {
    let mode = match options.mode {
        Mode::Echo => "echo",
        Mode::Connect => "connect",
        Mode::Idle => "idle",
        Mode::Stuck => "stuck",
        Mode::Slow => "slow",
    };
    let mut all = vec![
        ("connections", options.connections.to_string()),
        ("size", options.size.to_string()),
        ("random", options.random.to_string()),
        ("threads", options.threads.to_string()),
    ];
    all.extend_from_slice(fields);
    all.push(("errors", tally.total().to_string()));
    all.push((
        "error_kinds",
        format!(
            "{{\"refused\":{},\"wrong\":{},\"surplus\":{},\"lost\":{},\"unanswered\":{}}}",
            tally.refused, tally.wrong, tally.surplus, tally.lost, tally.unanswered
        ),
    ));
    line(&format!("\"mode\":\"{mode}\""), &all);
    match tally.total() {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::from(1),
    }
}

fn line(head: &str, fields: &[(&str, String)]) {
    let mut text = format!("{{{head}");
    for (name, value) in fields {
        // Writing to a String cannot fail.
        let _ = write!(text, ",\"{name}\":{value}");
    }
    text.push_str("}\n");
    let mut out = std::io::stdout().lock();
    // Whoever started this has gone when it fails, and nobody is left to be told.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
