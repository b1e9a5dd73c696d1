//! What can go wrong with a connection, and how often it did.

use std::fmt;
use std::io;

/// Why a connection was given up.
#[derive(Debug)]
pub enum Failure {
    /// The connection could not be made.
    Refused(io::Error),
    /// The byte at this position of the stream was not the one that had been sent there.
    Wrong(u64),
    /// More bytes came than had been sent.
    Surplus,
    /// The server closed, or the connection broke, before everything had come back.
    Lost(Option<io::Error>),
    /// Nothing was wrong, but the answer had not come when the time was over.
    Unanswered,
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused(error) => write!(out, "refused: {error}"),
            Failure::Wrong(position) => write!(out, "wrong byte at position {position}"),
            Failure::Surplus => write!(out, "more bytes than were sent"),
            Failure::Lost(None) => write!(out, "closed by the server too early"),
            Failure::Lost(Some(error)) => write!(out, "lost: {error}"),
            Failure::Unanswered => write!(out, "not answered in time"),
        }
    }
}

/// Counts of failures by kind.
#[derive(Default, Debug, PartialEq, Eq)]
pub struct Tally {
    /// Connections that could not be made.
    pub refused: u64,
    /// Connections with a wrong byte.
    pub wrong: u64,
    /// Connections with more bytes than were sent.
    pub surplus: u64,
    /// Connections that ended too early.
    pub lost: u64,
    /// Connections whose answer did not come in time.
    pub unanswered: u64,
}

/// Failures of each worker that are spelled out; the rest are only counted.
const SPELLED_OUT: u64 = 5;

impl Tally {
    /// Counts `failure`; the first few are also described on standard error.
    pub fn count(&mut self, connection: usize, failure: &Failure) {
        if self.total() < SPELLED_OUT {
            eprintln!("reactor_load: connection {connection}: {failure}");
        }
        match failure {
            Failure::Refused(_) => self.refused += 1,
            Failure::Wrong(_) => self.wrong += 1,
            Failure::Surplus => self.surplus += 1,
            Failure::Lost(_) => self.lost += 1,
            Failure::Unanswered => self.unanswered += 1,
        }
    }

    /// Adds everything that `other` counted.
    pub fn merge(&mut self, other: &Tally) {
        self.refused += other.refused;
        self.wrong += other.wrong;
        self.surplus += other.surplus;
        self.lost += other.lost;
        self.unanswered += other.unanswered;
    }

    /// All failures.
    pub fn total(&self) -> u64 {
        self.refused + self.wrong + self.surplus + self.lost + self.unanswered
    }
}
