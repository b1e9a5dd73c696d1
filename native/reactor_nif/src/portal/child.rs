//! The operating system's side of a Python process: how it starts, what it prints, and how it ended.
//!
//! It is started by the thread of its portal and is told by the kernel (`PR_SET_PDEATHSIG`) when that
//! thread ends, however it ends: so it never outlives the VM.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::log::{self, Severity};

/// What is the VM's own in its environment, and nobody else's business: a release keeps its cookie there.
const HIDDEN: [&str; 5] = ["BINDIR", "EMU", "PROGNAME", "RELEASE_COOKIE", "ROOTDIR"];
/// The longest line that is logged in one piece, in bytes.
const LINE: usize = 16 * 1024;
/// How often a stream is read in one turn, so that who prints a lot holds up nobody.
const READS: usize = 16;
/// How long one that was told to end, or was killed, may take until it is gone.
const REAP: Duration = Duration::from_secs(2);

/// A process that was started, until it is gone.
pub struct Process {
    child: Child,
    reaped: bool,
    /// Readable when it has ended; not everywhere.
    end: Option<OwnedFd>,
    out: Stream<ChildStdout>,
    err: Stream<ChildStderr>,
}

/// What it prints, line by line.
struct Stream<T> {
    pipe: Option<T>,
    line: Vec<u8>,
}

impl Process {
    /// Starts a program; its standard input is the other end of the socket that is returned.
    pub fn start(program: &str) -> io::Result<(Self, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = Command::new(program);
        for name in HIDDEN {
            command.env_remove(name);
        }
        let mut child = command
            // Of the terminal's signals it hears nothing.
            .process_group(0)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let process = Process {
            out: Stream::new(child.stdout.take()),
            err: Stream::new(child.stderr.take()),
            end: end_of(&child),
            child,
            reaped: false,
        };
        for fd in process.pipes() {
            unblock(fd)?;
        }
        ours.set_nonblocking(true)?;
        Ok((process, ours))
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What says that there is something to look at.
    pub fn fds(&self) -> impl Iterator<Item = RawFd> {
        let end = self.end.as_ref().map(AsRawFd::as_raw_fd);
        self.pipes().chain(end)
    }

    /// True when it has ended, although others that it started may have its end of the socket. Elsewhere than on
    /// Linux that is not known.
    pub fn has_ended(&self) -> bool {
        let Some(end) = &self.end else {
            return false;
        };
        let mut look = libc::pollfd {
            fd: end.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one place is given, of a descriptor that is open; it does not wait.
        unsafe { libc::poll(&mut look, 1, 0) == 1 }
    }

    /// Where what it prints comes from.
    fn pipes(&self) -> impl Iterator<Item = RawFd> {
        let out = self.out.pipe.as_ref().map(AsRawFd::as_raw_fd);
        let err = self.err.pipe.as_ref().map(AsRawFd::as_raw_fd);
        out.into_iter().chain(err)
    }

    /// Logs what it has printed, of the context with this name. True when there may be more.
    pub fn log_output(&mut self, context: &str) -> bool {
        let pid = u64::from(self.pid());
        let out = self.out.log("stdout", Severity::Info, context, pid);
        let err = self.err.log("stderr", Severity::Warning, context, pid);
        out || err
    }

    /// Ends it now, and those that it forked: they have its connections.
    pub fn kill(&mut self) {
        if !self.reaped {
            // It may have ended by itself. Until it is reaped nobody else gets its number, which is that of its
            // group.
            let _ = self.child.kill();
            // SAFETY: sends a signal.
            unsafe { libc::killpg(self.child.id() as libc::pid_t, libc::SIGKILL) };
        }
    }

    /// How it ended, in words: waits for that, and kills it if it takes long.
    pub fn end(&mut self) -> String {
        let pid = self.pid();
        let deadline = Instant::now() + REAP;
        let mut pause = Duration::from_millis(1);
        while !self.reaped {
            match self.child.try_wait() {
                Ok(Some(status)) => {
                    self.reaped = true;
                    return match (status.code(), status.signal()) {
                        (_, Some(signal)) => {
                            let name = nix::sys::signal::Signal::try_from(signal);
                            let name = name.map_or("unknown", |signal| signal.as_str());
                            format!("its process {pid} was ended by signal {signal} ({name})")
                        }
                        (code, None) => {
                            let code = code.unwrap_or_default();
                            format!("its process {pid} ended with exit status {code}")
                        }
                    };
                }
                Ok(None) if Instant::now() < deadline => {
                    thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(50));
                }
                Ok(None) => {
                    self.kill();
                    let _ = self.child.wait();
                    self.reaped = true;
                }
                // Somebody else in this VM has the kernel forget how children ended.
                Err(_) => self.reaped = true,
            }
        }
        format!("its process {pid} ended")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
            let _ = self.child.wait();
        }
    }
}

impl<T: Read + AsFd> Stream<T> {
    fn new(pipe: Option<T>) -> Self {
        Stream {
            pipe,
            line: Vec::new(),
        }
    }

    fn log(&mut self, logger: &str, severity: Severity, context: &str, pid: u64) -> bool {
        let mut bytes = [0; 4096];
        for _ in 0..READS {
            let Some(pipe) = &mut self.pipe else {
                return false;
            };
            match pipe.read(&mut bytes) {
                Ok(0) => self.pipe = None,
                Ok(count) => self.line.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(_) => self.pipe = None,
            }
            while let Some(line) = self.next_line() {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                if text.is_empty() || !log::wants(severity) {
                    continue;
                }
                let fields = vec![
                    ("logger", logger.to_owned().into()),
                    ("context", context.to_owned().into()),
                    ("os_pid", pid.into()),
                ];
                log::pass("python", severity, text, fields);
            }
        }
        self.pipe.is_some()
    }

    /// A whole line; what is too long for one, or is the last.
    fn next_line(&mut self) -> Option<Vec<u8>> {
        let end = match self.line.iter().position(|byte| *byte == b'\n') {
            Some(at) => at + 1,
            None if self.line.len() >= LINE || self.pipe.is_none() => self.line.len(),
            None => 0,
        };
        (end > 0).then(|| self.line.drain(..end).collect())
    }
}

#[cfg(target_os = "linux")]
fn end_of(child: &Child) -> Option<OwnedFd> {
    use std::os::fd::FromRawFd;

    // SAFETY: the process has not been reaped; what is returned is ours, and closed when others are started.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, child.id() as libc::pid_t, 0);
        (fd >= 0).then(|| OwnedFd::from_raw_fd(fd as RawFd))
    }
}

#[cfg(not(target_os = "linux"))]
fn end_of(_child: &Child) -> Option<OwnedFd> {
    None
}

fn unblock(fd: RawFd) -> io::Result<()> {
    use nix::fcntl::{fcntl, FcntlArg, OFlag};

    // SAFETY: open as long as the pipe that the caller has.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(())
}
