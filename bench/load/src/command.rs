//! Standard input while connections are held: what to do next, or that it is time to end.

use std::io::BufRead;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

/// Lines of standard input, until its end or the deadline.
pub struct Commands {
    lines: Receiver<String>,
    deadline: Instant,
}

impl Commands {
    /// Reads standard input for at most `limit`.
    pub fn new(limit: Duration) -> Self {
        let (sender, lines) = mpsc::channel();
        // Blocked in a read when the run ends; the end of the process is its end too.
        thread::spawn(move || {
            for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                if sender.send(line.trim().to_string()).is_err() {
                    break;
                }
            }
        });
        Self {
            lines,
            deadline: Instant::now() + limit,
        }
    }

    /// Whether the input has ended, or the deadline passed. Lines are passed over.
    pub fn ended(&self) -> bool {
        let ended = loop {
            match self.lines.try_recv() {
                Ok(_) => {}
                Err(TryRecvError::Empty) => break false,
                Err(TryRecvError::Disconnected) => break true,
            }
        };
        ended || Instant::now() >= self.deadline
    }

    /// The next line; None at an empty line, the end of the input, or the deadline.
    pub fn next(&self) -> Option<String> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        match self.lines.recv_timeout(left) {
            Ok(line) if !line.is_empty() => Some(line),
            Ok(_) | Err(RecvTimeoutError::Disconnected | RecvTimeoutError::Timeout) => None,
        }
    }
}
