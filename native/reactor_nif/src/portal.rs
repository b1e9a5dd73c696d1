//! The VM's end of a Python process: a loop without Python, which accepts as a context's loop does and
//! sends what it accepts on.
//!
//! What is sent is still among the connections of its listener, with its slot, until the process says that
//! it is closed, or has ended itself: so limits and counts are exact. The process is sent no more than it
//! takes up; what is beyond that stays in the kernel's backlog, where other contexts find it. What it does not
//! come to is taken back, and given to them: see `deafness.rs`.

pub mod child;
mod deafness;
pub mod passage;
mod receiving;
mod sending;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

use rustler::env::SavedTerm;
use rustler::{Encoder, Env, LocalPid, OwnedEnv, ResourceArc, Term};
use rustls::ServerConfig;

use crate::control::{Inbox, Outbox};
use crate::error::Cause;
use crate::handoff::Intake;
use crate::log;
use crate::mail::Mail;
use crate::owner::Conn;
use crate::portal::child::Process;
use crate::portal::deafness::OnItsWay;
pub use crate::portal::deafness::PATIENCE;
use crate::portal::passage::binary;
use crate::process::ListenerHandle;
use crate::python::inbox::Inbox as Calls;
use crate::python::job::Job;
use crate::python::term::learned_mapset;

mod atoms {
    rustler::atoms! { start }
}

/// Where the process's messages go: the context's own process.
pub const CONTEXT: u8 = 1;
/// Whoever watches connections: the portal itself, first of all.
pub const WATCHER: u8 = 2;
/// Whoever logs.
pub const LOG: u8 = 3;
/// Those who have made calls: messages there are `{number, answer}`.
pub const CALLERS: u8 = 4;
/// Any process of this node: messages there are `{pid, message}`.
pub const ANYBODY: u8 = 5;
/// Whoever sends to other nodes.
pub const RELAY: u8 = 6;
/// Whoever knows the names of processes: messages there are `{number, name}`.
pub const NAMES: u8 = 7;

/// What a frame that came asks the loop for.
pub enum News {
    /// A factory is there: accept from the listener.
    Serve(ResourceArc<ListenerHandle>),
    /// Look at this connection.
    Look(Arc<Conn>),
    /// The process has not begun with this connection, and does not any more.
    Return(Arc<Conn>),
    /// What the process did with its time, in external format.
    Load(Vec<u8>),
}

/// What is known of a connection that was sent.
struct Sent {
    conn: Arc<Conn>,
    /// Until the process has begun with it.
    on_its_way: Option<OnItsWay>,
}

/// One end of a control socket.
pub struct Portal {
    name: String,
    process: Process,
    socket: UnixStream,
    inbox: Inbox,
    outbox: Outbox,
    /// Something may have come, or there may be room.
    stirred: bool,
    sent: HashMap<u64, Sent>,
    on_their_way: usize,
    /// When it is to be looked at whether the process comes to them.
    look_at: Option<Instant>,
    /// It does not.
    deaf: bool,
    /// Whose factory is being loaded, in order.
    loading: VecDeque<ResourceArc<ListenerHandle>>,
    /// What is there of TLS, by number.
    configs: Vec<Arc<ServerConfig>>,
    intake: Arc<Intake>,
    /// Calls that wait to be sent, and those that were given up since.
    waiting: Arc<Calls>,
    /// Those that were sent, by number.
    calls: HashMap<u64, Arc<Job>>,
    next_call: u64,
    mail: Mail,
    /// It was told to end.
    pub stopping: bool,
    /// It said that it does.
    stopped: bool,
    /// It said why it died.
    why: Option<String>,
    env: OwnedEnv,
}

/// What somebody waits for who is known by a reference.
pub struct Asked {
    env: OwnedEnv,
    reference: SavedTerm,
}

impl Asked {
    /// Copies the reference.
    pub fn new(reference: Term) -> Self {
        let env = OwnedEnv::new();
        Asked {
            reference: env.save(reference),
            env,
        }
    }

    /// The reference.
    fn reference<'a>(&self, env: Env<'a>) -> Term<'a> {
        self.env.run(|own| self.reference.load(own).in_env(env))
    }
}

/// What Python it is that runs in a process.
#[derive(Clone)]
pub struct Interpreter {
    /// As in `sys.version`, first word.
    pub version: String,
    /// As in `sys.executable`.
    pub executable: String,
    /// The file libpython was loaded from.
    pub libpython: String,
    /// The process's number.
    pub pid: u32,
}

impl Portal {
    /// Starts a process: `options` is what its context starts with, in external format; by `pid` it knows
    /// other processes of this VM.
    pub fn start(
        name: String,
        program: &str,
        options: &[u8],
        intake: Arc<Intake>,
        waiting: Arc<Calls>,
        pid: LocalPid,
    ) -> io::Result<Self> {
        let (process, socket) = Process::start(program)?;
        let mut portal = Portal {
            name,
            process,
            socket,
            inbox: Inbox::default(),
            outbox: Outbox::default(),
            stirred: true,
            sent: HashMap::new(),
            on_their_way: 0,
            look_at: None,
            deaf: false,
            loading: VecDeque::new(),
            configs: Vec::new(),
            intake,
            waiting,
            calls: HashMap::new(),
            next_call: 0,
            mail: Mail::new(),
            stopping: false,
            stopped: false,
            why: None,
            env: OwnedEnv::new(),
        };
        let level = log::finest();
        portal.tell(|env| {
            let sets = binary(env, learned_mapset());
            (atoms::start(), binary(env, options), level, pid, sets).encode(env)
        });
        Ok(portal)
    }

    /// What the loop's poll is to watch.
    pub fn fds(&self) -> impl Iterator<Item = RawFd> {
        let socket = self.socket.as_raw_fd();
        std::iter::once(socket).chain(self.process.fds())
    }

    /// The number of its process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// True when it has done all that it was asked to, and has nothing left.
    pub fn has_stopped(&self) -> bool {
        self.stopped
    }

    /// Something may have come, or there may be room.
    pub fn stir(&mut self) {
        self.stirred = true;
    }

    /// True when there may be something to do.
    pub fn is_stirred(&self) -> bool {
        self.stirred || (self.waiting.has_queued() && self.takes_calls())
    }

    /// The process has ended, or is ended now: its connections are over. An error says how, unless it
    /// was told to.
    pub fn end(&mut self) -> Result<(), String> {
        if !self.stopped {
            self.process.kill();
        }
        // It ends when it sees that.
        let _ = self.socket.shutdown(Shutdown::Both);
        self.process.log_output(&self.name);
        let orderly = self.stopping && self.stopped;
        let cause = if self.stopping {
            Cause::Cut
        } else {
            Cause::ContextDied
        };
        for (_, Sent { conn, .. }) in self.sent.drain() {
            let mut state = conn.lock();
            state.because(cause);
            state.close_fd();
        }
        self.waiting.refuse();
        for (_, job) in self.calls.drain() {
            job.close(&self.waiting, &mut self.mail);
            job.ends();
        }
        let how = self.process.end();
        self.process.log_output(&self.name);
        match self.why.take() {
            Some(why) if !orderly => Err(why),
            None if !self.stopping => Err(how),
            _ => Ok(()),
        }
    }
}

impl Drop for Portal {
    /// After a panic or a failure of its loop too nobody waits for an answer.
    fn drop(&mut self) {
        for (_, job) in self.calls.drain() {
            job.close(&self.waiting, &mut self.mail);
            job.ends();
        }
    }
}
