//! The command line: read and checked once, trusted afterwards.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// What is done with the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Closed loop: send a message, wait for it, send the next.
    Echo,
    /// Connect, one echo, close, again.
    Connect,
    /// Open the connections and hold them.
    Idle,
    /// Write until blocked, never read, and hold.
    Stuck,
    /// Send one byte in every period.
    Slow,
}

/// Everything that the command line says.
#[derive(Clone, Debug)]
pub struct Options {
    /// What is done.
    pub mode: Mode,
    /// The server, on a loopback address.
    pub server: SocketAddr,
    /// Connections open at the same time.
    pub connections: usize,
    /// Bytes of a message, or of the largest one where `random`.
    pub size: u64,
    /// Sizes are uniform in `1..=size`.
    pub random: bool,
    /// How long is measured.
    pub measured: Duration,
    /// How long requests are made before that.
    pub warmup: Duration,
    /// Messages per connection, in place of a duration.
    pub messages: Option<u64>,
    /// `echo`: time from one message of a connection to its next, if the answer comes before that.
    pub every: Duration,
    /// Threads that share the connections.
    pub threads: usize,
    /// The longest that anything may take: opening, a count of messages, holding.
    pub limit: Duration,
    /// `stuck`: a writer is blocked when it could not write for so long.
    pub blocked: Duration,
    /// `stuck`: bytes per connection after which the server is taken to have no bound.
    pub most_bytes: u64,
    /// `slow`: time between two bytes.
    pub period: Duration,
    /// `echo`, `connect`: speak TLS, with the server whose certificate is in this file.
    pub tls: Option<PathBuf>,
    /// Announce the measured time on standard output as it begins and ends.
    pub mark: bool,
}

/// How the command is used.
pub const USAGE: &str = "\
usage: reactor_load MODE HOST:PORT [option ...]

modes
  echo      send a message, wait for exactly its bytes, send the next
  connect   connect, one echo, close; again
  idle      open the connections and hold them; a line `echo` on standard input makes one
            echo on each, the end of standard input ends the run
  stuck     write without reading until blocked, and hold; a line `read` on standard input
            reads everything back and checks it, the end of standard input ends the run
  slow      send one byte in every period, in place of a connection that the server ends
            open another; the end of standard input ends the run

options
  --connections N   open at the same time (1; at most 100000)
  --size BYTES      of a message (64; at most 67108864)
  --random          sizes uniform in 1..=BYTES
  --seconds S       measured time (3; at most 600)
  --warmup S        time before that (0; at most 600)
  --messages N      per connection (connect: connections per place), in place of --seconds
  --every S         from one message of a connection to its next; one that waits for the answer before it
                    is late from its time on (0: as the answers come; at most 60) (echo)
  --threads N       that share the connections (1; at most 64)
  --limit S         the longest that opening, --messages or holding may take (120; at most 3600)
  --blocked-ms MS   without progress until a writer is blocked (500; at most 60000) (stuck)
  --max-bytes N     per connection until a server has no bound (67108864) (stuck)
  --period S        between two bytes (10; 0.001 to 600) (slow)
  --tls FILE        speak TLS 1.3 (TLS_AES_128_GCM_SHA256, X25519, never resumed) with a server
                    whose certificate is the one in FILE (PEM) (echo, connect)
  --mark            print a line as the measured time begins and as it ends

HOST must be a loopback address. Output is one JSON object per line, the last one the result.
Exit status: 0, 1 when any connection was refused, lost, late or had a wrong byte, 2 when the
run could not be made.";

impl Options {
    /// Reads the arguments (without the program's name).
    ///
    /// # Errors
    /// One line that names the argument and what is wrong with it.
    pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut arguments = arguments.into_iter();
        let mode = match arguments.next().as_deref() {
            Some("echo") => Mode::Echo,
            Some("connect") => Mode::Connect,
            Some("idle") => Mode::Idle,
            Some("stuck") => Mode::Stuck,
            Some("slow") => Mode::Slow,
            Some(other) => return Err(format!("unknown mode {other:?}")),
            None => return Err("a mode is missing".into()),
        };
        let server = loopback(&arguments.next().ok_or("HOST:PORT is missing")?)?;
        let mut options = Self {
            mode,
            server,
            connections: 1,
            size: 64,
            random: false,
            measured: Duration::from_secs(3),
            warmup: Duration::ZERO,
            messages: None,
            every: Duration::ZERO,
            threads: 1,
            limit: Duration::from_secs(120),
            blocked: Duration::from_millis(500),
            most_bytes: 64 << 20,
            period: Duration::from_secs(10),
            tls: None,
            mark: false,
        };
        while let Some(name) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{name} needs a value"));
            match name.as_str() {
                "--random" => options.random = true,
                "--mark" => options.mark = true,
                "--connections" => options.connections = within(&name, &value()?, 1, 100_000)?,
                "--size" => options.size = within(&name, &value()?, 1, 64 << 20)?,
                "--seconds" => options.measured = seconds(&name, &value()?, 600.0)?,
                "--warmup" => options.warmup = seconds(&name, &value()?, 600.0)?,
                "--messages" => options.messages = Some(within(&name, &value()?, 1, u64::MAX)?),
                "--every" => options.every = seconds(&name, &value()?, 60.0)?,
                "--threads" => options.threads = within(&name, &value()?, 1, 64)?,
                "--limit" => options.limit = seconds(&name, &value()?, 3_600.0)?,
                "--blocked-ms" => {
                    options.blocked = Duration::from_millis(within(&name, &value()?, 1, 60_000)?);
                }
                "--max-bytes" => options.most_bytes = within(&name, &value()?, 1, 1 << 40)?,
                "--period" => {
                    options.period =
                        within(&name, &value()?, 0.001, 600.0).map(Duration::from_secs_f64)?
                }
                "--tls" => options.tls = Some(value()?.into()),
                _ => return Err(format!("unknown option {name:?}")),
            }
        }
        if options.tls.is_some() && !matches!(mode, Mode::Echo | Mode::Connect) {
            return Err("--tls is for the modes echo and connect".into());
        }
        Ok(options)
    }
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let text = text.replace("localhost:", "127.0.0.1:");
    let address: SocketAddr = text
        .parse()
        .map_err(|_| format!("{text:?} is not ADDRESS:PORT"))?;
    // A load client that could be pointed at somebody else's machine is a weapon.
    if !address.ip().is_loopback() {
        return Err(format!("{} is not a loopback address", address.ip()));
    }
    Ok(address)
}

fn within<T>(name: &str, text: &str, least: T, most: T) -> Result<T, String>
where
    T: FromStr + PartialOrd + std::fmt::Display,
{
    match text.parse::<T>() {
        Ok(value) if value >= least && value <= most => Ok(value),
        _ => Err(format!("{name} must be {least} to {most}, not {text:?}")),
    }
}

fn seconds(name: &str, text: &str, most: f64) -> Result<Duration, String> {
    within(name, text, 0.0, most).map(Duration::from_secs_f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        Options::parse(line.split_whitespace().map(String::from))
    }

    #[test]
    fn options_are_read() {
        let options = parse("echo 127.0.0.1:80 --connections 64 --size 9 --random --seconds 1.5");
        let options = options.expect("valid");
        assert_eq!((options.mode, options.connections), (Mode::Echo, 64));
        assert_eq!((options.size, options.random), (9, true));
        assert_eq!(options.measured, Duration::from_millis(1_500));
    }

    #[test]
    fn only_loopback_addresses_are_accepted() {
        for address in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1"] {
            assert!(parse(&format!("echo {address}")).is_ok(), "{address}");
        }
        for address in [
            "0.0.0.0:1",
            "10.0.0.1:1",
            "192.0.2.1:1",
            "[::]:1",
            "[2001:db8::1]:1",
        ] {
            let error = parse(&format!("echo {address}")).expect_err(address);
            assert!(error.ends_with("is not a loopback address"), "{error}");
        }
    }

    #[test]
    fn an_error_names_the_argument() {
        for (line, culprit) in [
            ("flood 127.0.0.1:1", "flood"),
            ("echo somewhere", "somewhere"),
            ("echo 127.0.0.1:1 --conections 4", "--conections"),
            ("echo 127.0.0.1:1 --connections 0", "--connections"),
            ("echo 127.0.0.1:1 --seconds -1", "--seconds"),
            ("echo 127.0.0.1:1 --seconds NaN", "--seconds"),
            ("echo 127.0.0.1:1 --size", "--size"),
            ("idle 127.0.0.1:1 --tls certificate.pem", "--tls"),
        ] {
            let error = parse(line).expect_err(line);
            assert!(error.contains(culprit), "{error}");
        }
    }
}
