//! The VM's end of a Python process: a loop without Python, which accepts as a context's loop does and
//! sends what it accepts on.
//!
//! What is sent is still among the connections of its listener, with its slot, until the process says that
//! it is closed, or has ended itself: so limits and counts are exact. The process is sent no more than it
//! takes up; what is beyond that stays in the kernel's backlog, where other contexts find it.

pub mod child;
pub mod passage;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustler::env::SavedTerm;
use rustler::{Atom, Decoder, Encoder, Env, LocalPid, OwnedEnv, ResourceArc, Term};
use rustls::ServerConfig;

use crate::connection::{Parted, Preface, Traffic};
use crate::control::{Filled, Inbox, Outbox};
use crate::error::Cause;
use crate::group::Group;
use crate::handoff::Intake;
use crate::log;
use crate::mail::Mail;
use crate::owner::{Conn, Owner};
use crate::portal::child::Process;
use crate::portal::passage::{binary, Passage};
use crate::process::ListenerHandle;
use crate::python::context::{encode_error, Reporter};
use crate::python::inbox::Inbox as Calls;
use crate::python::interpreter::PythonError;
use crate::python::job::Job;
use crate::python::send;
use crate::python::term::{learned_mapset, Returned};
use crate::report;
use crate::tls::Offer;

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

/// So many connections may be on their way.
const MOST_ON_THEIR_WAY: usize = 64;
/// How many frames are taken in one turn.
const FRAMES: usize = 256;
/// While so many bytes wait to be sent, calls wait where they can be given up without a trace.
const MOST_UNSENT: usize = 1024 * 1024;

mod atoms {
    rustler::atoms! {
        abandon,
        adopt,
        call,
        closed,
        cut,
        died,
        drain,
        error,
        exception,
        factory_set,
        failed,
        interpreter,
        load,
        loaded,
        named,
        nil,
        opened,
        ready,
        start,
        stop,
        stopped,
        tls,
        traffic,
        unasked,
    }
}

/// What a frame that came asks the loop for.
pub enum News {
    /// A factory is there: accept from the listener.
    Serve(ResourceArc<ListenerHandle>),
    /// Look at this connection.
    Look(Arc<Conn>),
    /// What the process did with its time, in external format.
    Load(Vec<u8>),
}

/// What is known of a connection that was sent.
struct Sent {
    conn: Arc<Conn>,
    on_its_way: bool,
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

    /// False while the process does not read what it was sent before.
    fn takes_calls(&self) -> bool {
        self.outbox.waiting() < MOST_UNSENT
    }

    /// True while it is to be sent nothing more.
    pub fn is_full(&self) -> bool {
        self.on_their_way >= MOST_ON_THEIR_WAY
    }

    // ---- what is sent --------------------------------------------------------------

    /// False for what is too long to be sent.
    fn tell<F>(&mut self, build: F) -> bool
    where
        F: for<'a> FnOnce(Env<'a>) -> Term<'a>,
    {
        self.send(build, None)
    }

    fn send<F>(&mut self, build: F, socket: Option<Parted>) -> bool
    where
        F: for<'a> FnOnce(Env<'a>) -> Term<'a>,
    {
        let outbox = &mut self.outbox;
        let pushed = self.env.run(|env| {
            let frame = build(env).to_binary();
            outbox.push(&frame, socket.map(|socket| Box::new(socket) as _))
        });
        self.env.clear();
        self.stirred = true;
        pushed
    }

    /// Has the process make a factory ready for this listener.
    pub fn load(&mut self, handle: ResourceArc<ListenerHandle>, factory: &str) {
        let group = handle.0.group.id;
        self.loading.push_back(handle);
        self.tell(|env| (atoms::load(), group, factory).encode(env));
    }

    /// Has the process run what waits for that, and not go on with what nobody waits for any more.
    fn pass_calls(&mut self) {
        while self.takes_calls() {
            let Some(job) = self.waiting.hand_out() else {
                break;
            };
            let Some(request) = job.begin() else {
                continue;
            };
            if job.is_unasked() {
                self.tell(|env| request.passage(env, atoms::unasked(), 0, &job));
                continue;
            }
            let number = self.next_call;
            self.next_call += 1;
            let error = if job.conversion.returned == Returned::Object {
                "an object of a process of its own cannot be held outside of it: return: :object is for other isolations"
            } else if self.tell(|env| request.passage(env, atoms::call(), number, &job)) {
                self.calls.insert(number, job);
                continue;
            } else {
                "what is to be run, with its arguments, is longer than 256 MiB"
            };
            let error = PythonError::startup(error);
            job.answer(&self.waiting, &mut self.mail, |env| {
                Some((atoms::error(), encode_error(env, &error)).encode(env))
            });
        }
        for cut in self.waiting.cuts() {
            let mut calls = self.calls.iter();
            let found = calls.find(|(_, job)| Arc::ptr_eq(job, &cut.job));
            if let Some(number) = found.map(|(number, _)| *number) {
                self.calls.remove(&number);
                self.tell(|env| (atoms::abandon(), number).encode(env));
            }
            cut.job.ends();
        }
    }

    /// Has the process end; what is open has `grace` milliseconds.
    pub fn stop(&mut self, grace: u64) {
        self.stopping = true;
        self.tell(|env| (atoms::stop(), grace).encode(env));
    }

    /// Has the process close what is idle of this listener's.
    pub fn drain(&mut self, group: &Group) {
        let number = group.id;
        self.tell(|env| (atoms::drain(), number).encode(env));
    }

    /// Has the process say what has gone through its connections; the context's process is answered.
    pub fn ask_for_traffic(&mut self, asked: &Asked) {
        self.tell(|env| (atoms::traffic(), asked.reference(env)).encode(env));
    }

    /// Sends a connection on. What is left of it here has no descriptor.
    pub fn adopt(&mut self, conn: &Arc<Conn>) {
        let mut state = conn.lock();
        let Some(mut parted) = state.part() else {
            return;
        };
        let Owner::Protocol(owner) = &mut state.owner else {
            return;
        };
        let key = owner.key().clone();
        let metadata = owner.metadata();
        let traffic = state.traffic;
        drop(state);
        let greeting = parted.greeting.take();
        let (preface, handshake) = match greeting.map(|greeting| *greeting) {
            Some(greeting) => (Some(greeting.preface), greeting.handshake),
            None => (None, None),
        };
        let header = match preface {
            Some(Preface::Expected(_, timeout)) => Some(timeout.as_millis() as u64),
            _ => None,
        };
        let handshake = handshake.and_then(|handshake| match &handshake.offer {
            Offer::Server(config) => {
                let number = self.config(config, handshake.recipe.as_deref()?);
                Some((number, handshake.timeout))
            }
            Offer::Client(..) => None,
        });
        let passage = Passage {
            id: conn.id,
            group: conn.group().map_or(0, |group| group.id),
            key,
            peer: conn.peer.clone(),
            settings: parted.settings.clone(),
            header,
            handshake,
            handed: parted.handed,
            metadata: None,
            unread: std::mem::take(&mut parted.unread),
            unsent: std::mem::take(&mut parted.unsent),
            traffic,
        };
        let sent = Sent {
            conn: Arc::clone(conn),
            on_its_way: true,
        };
        self.sent.insert(conn.id, sent);
        self.on_their_way += 1;
        let goes = self.send(
            |env| {
                let metadata = metadata.map(|metadata| metadata.encode(env));
                let passage = Passage {
                    metadata,
                    ..passage
                };
                (atoms::adopt(), passage.encode(env)).encode(env)
            },
            Some(parted),
        );
        if !goes {
            tracing::error!(
                context = self.name,
                connection = conn.id,
                "a connection is closed: what it has read and has to write is too long for a Python process"
            );
            self.sent.remove(&conn.id);
            self.on_their_way -= 1;
        }
    }

    /// The number under which the process knows what TLS is spoken with; it is told that first.
    fn config(&mut self, config: &Arc<ServerConfig>, recipe: &[u8]) -> u64 {
        let known = self.configs.iter();
        if let Some(at) = known.clone().position(|other| Arc::ptr_eq(other, config)) {
            return at as u64;
        }
        let number = known.len() as u64;
        self.configs.push(Arc::clone(config));
        self.tell(|env| (atoms::tls(), number, binary(env, recipe)).encode(env));
        number
    }

    /// True as long as the process has it.
    pub fn knows(&self, id: u64) -> bool {
        self.sent.contains_key(&id)
    }

    /// Has the process close a connection.
    pub fn cut(&mut self, id: u64, cause: Option<Cause>) {
        if self.knows(id) {
            let cause = cause.unwrap_or(Cause::Cut).name();
            self.tell(|env| (atoms::cut(), id, cause).encode(env));
        }
    }

    // ---- what comes ----------------------------------------------------------------

    /// Sends what there is room for, and takes what has come. `None` when the process has ended.
    pub fn turn(&mut self, reporter: &mut Reporter, news: &mut Vec<News>) -> Option<()> {
        self.pass_calls();
        // Asked before what it had to say is read.
        let ended = self.process.has_ended();
        self.stirred = self.process.log_output(&self.name);
        // A socket that is closed is found out by reading.
        let _ = self.outbox.flush(self.socket.as_fd());
        for _ in 0..FRAMES {
            match self.inbox.frame() {
                Ok(Some(frame)) => {
                    let frame = frame.to_vec();
                    self.take(&frame, reporter, news);
                    continue;
                }
                Ok(None) => {}
                Err(error) => {
                    self.why = Some(error.to_string());
                    return None;
                }
            }
            match self.inbox.fill(self.socket.as_fd()) {
                Ok(Filled::Some) => {}
                Ok(Filled::Blocked) => return (!ended).then_some(()),
                Ok(Filled::Closed) => return None,
                Err(error) => {
                    self.why = Some(error.to_string());
                    return None;
                }
            }
        }
        self.stirred = true;
        Some(())
    }

    fn take(&mut self, frame: &[u8], reporter: &mut Reporter, news: &mut Vec<News>) {
        let Some((place, message)) = frame.split_first() else {
            return;
        };
        let env = std::mem::replace(&mut self.env, OwnedEnv::new());
        env.run(|env| {
            let Some((message, _)) = env.binary_to_term(message) else {
                return self.unreadable(*place, message);
            };
            let taken = match *place {
                CONTEXT => self.take_news(message, reporter, news),
                WATCHER => self.take_report(message, news),
                LOG => log::relay(message).ok(),
                CALLERS => self.take_answer(message),
                ANYBODY => self.deliver(message),
                RELAY => send::pass(message).ok(),
                NAMES => self.look_up(message),
                _ => None,
            };
            if taken.is_none() {
                tracing::error!(
                    context = self.name,
                    "a bug: a message from a Python process was not understood"
                );
            }
        });
        self.env = env;
        self.env.clear();
    }

    /// It names atoms that this VM does not have, which are not made for it.
    fn unreadable(&mut self, place: u8, message: &[u8]) {
        const TEXT: &str =
            "it has an atom in it that this VM does not have, or an integer that is too large";
        match number_in(message).filter(|_| place == CALLERS) {
            Some(number) => {
                let error = PythonError {
                    kind: "ValueError".into(),
                    message: format!("what is returned has no counterpart: {TEXT}"),
                    traceback: String::new(),
                };
                self.answer(number, |env| {
                    (atoms::error(), encode_error(env, &error)).encode(env)
                });
            }
            None => tracing::warn!(
                context = self.name,
                "a message from a Python process is dropped: {TEXT}"
            ),
        }
    }

    /// `{number, answer}`
    fn take_answer(&mut self, message: Term) -> Option<()> {
        let (number, answer): (u64, Term) = message.decode().ok()?;
        self.answer(number, |env| answer.in_env(env));
        Some(())
    }

    fn answer<F>(&mut self, number: u64, build: F)
    where
        F: for<'a> FnOnce(Env<'a>) -> Term<'a>,
    {
        // It may have been given up.
        let Some(job) = self.calls.remove(&number) else {
            return;
        };
        job.answer(&self.waiting, &mut self.mail, |env| Some(build(env)));
        self.mail.clear();
    }

    /// `{number, name}`
    fn look_up(&mut self, message: Term) -> Option<()> {
        let (number, name): (u64, String) = message.decode().ok()?;
        let found = send::registered(message.get_env(), &name);
        self.tell(|env| (atoms::named(), number, found).encode(env));
        Some(())
    }

    /// `{pid, message}`
    fn deliver(&mut self, message: Term) -> Option<()> {
        let (pid, message): (LocalPid, Term) = message.decode().ok()?;
        self.mail.send(&pid, |env| message.in_env(env));
        self.mail.clear();
        Some(())
    }

    /// `{"$reactor_context", nil, news}`
    fn take_news(
        &mut self,
        message: Term,
        reporter: &mut Reporter,
        news: &mut Vec<News>,
    ) -> Option<()> {
        let (_, _, told): (Atom, Term, Term) = message.decode().ok()?;
        let kind: Atom = match told.decode() {
            Ok(kind) => kind,
            Err(_) => rustler::types::tuple::get_tuple(told)
                .ok()?
                .first()?
                .decode()
                .ok()?,
        };
        if kind == atoms::ready() {
            // It is ready here when it is known what it is.
            self.tell(|env| atoms::interpreter().encode(env));
            return Some(());
        }
        if kind == atoms::interpreter() {
            let (_, version, executable, libpython): (Atom, String, String, String) =
                told.decode().ok()?;
            reporter.found(Interpreter {
                version,
                executable,
                libpython,
                pid: self.pid(),
            });
            reporter.tell(|env| atoms::ready().encode(env));
            return Some(());
        }
        if kind == atoms::traffic() {
            let (_, reference, all): (Atom, Term, Term) = told.decode().ok()?;
            for (id, received, sent) in list::<(u64, u64, u64)>(all)? {
                if let Some(known) = self.sent.get(&id) {
                    let traffic = &mut known.conn.lock().traffic;
                    (traffic.received, traffic.sent) = (received, sent);
                }
            }
            reporter.tell(|env| (atoms::traffic(), reference.in_env(env)).encode(env));
            return Some(());
        }
        if kind == atoms::factory_set() {
            self.intake.knows_factory();
        } else if kind == atoms::loaded() {
            news.push(News::Serve(self.loading.pop_front()?));
        } else if kind == atoms::stopped() {
            self.stopped = true;
        } else if kind == atoms::died() {
            let (_, why): (Atom, String) = told.decode().ok()?;
            self.why = Some(why);
        } else {
            if kind == atoms::failed() {
                self.loading.pop_front();
            }
            reporter.tell(|env| told.in_env(env));
        }
        Some(())
    }

    /// `{"$reactor_report", [event]}`
    fn take_report(&mut self, message: Term, news: &mut Vec<News>) -> Option<()> {
        let (_, events): (Atom, Term) = message.decode().ok()?;
        for event in list::<Term>(events)? {
            let parts = rustler::types::tuple::get_tuple(event).ok()?;
            let kind: Atom = parts.first()?.decode().ok()?;
            if kind == atoms::load() && report::is_load(event) {
                news.push(News::Load(event.to_binary().to_vec()));
                continue;
            }
            let id: u64 = parts.get(1)?.decode().ok()?;
            if kind == atoms::opened() {
                self.taken_up(id);
            } else if kind == atoms::closed() {
                let [_, _, _, cause, received, sent, _] = parts[..] else {
                    return None;
                };
                let traffic = Traffic {
                    received: received.decode().ok()?,
                    sent: sent.decode().ok()?,
                    ..Traffic::default()
                };
                let cause = cause.atom_to_string().ok()?;
                self.taken_up(id);
                self.close(id, Cause::named(&cause), traffic, news);
            } else if kind == atoms::exception() {
                if let Some(group) = self.sent.get(&id).and_then(|sent| sent.conn.group()) {
                    report::pass_exception(group, event)?;
                }
            }
        }
        Some(())
    }

    fn taken_up(&mut self, id: u64) {
        let Some(sent) = self.sent.get_mut(&id) else {
            return;
        };
        if std::mem::replace(&mut sent.on_its_way, false) {
            self.on_their_way -= 1;
            if let Owner::Protocol(owner) = &mut sent.conn.lock().owner {
                owner.taken_up();
            }
        }
    }

    fn close(&mut self, id: u64, cause: Cause, traffic: Traffic, news: &mut Vec<News>) {
        if let Some(Sent { conn, .. }) = self.sent.remove(&id) {
            let mut state = conn.lock();
            state.traffic = traffic;
            state.cause = Some(cause);
            state.close_fd();
            drop(state);
            news.push(News::Look(conn));
        }
    }

    // ---- the end -------------------------------------------------------------------

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

/// What is in a proper list. To decode another one panics.
fn list<'a, T: Decoder<'a>>(term: Term<'a>) -> Option<Vec<T>> {
    term.list_length().ok()?;
    term.decode().ok()
}

/// The number in front of an answer that cannot be read as a whole: `{number, _}`.
fn number_in(message: &[u8]) -> Option<u64> {
    match message {
        [131, 104, 2, 97, number, ..] => Some((*number).into()),
        [131, 104, 2, 98, number @ ..] => {
            Some(u32::from_be_bytes(*number.first_chunk::<4>()?).into())
        }
        [131, 104, 2, 110, 8, 0, number @ ..] => {
            Some(u64::from_le_bytes(*number.first_chunk::<8>()?))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_an_answer_is_found_without_reading_the_rest() {
        assert_eq!(number_in(&[131, 104, 2, 97, 7, 255]), Some(7));
        assert_eq!(number_in(&[131, 104, 2, 98, 0, 0, 1, 0, 9]), Some(256));
        let large = [131, 104, 2, 110, 8, 0, 0, 0, 0, 0, 1, 0, 0, 0];
        assert_eq!(number_in(&large), Some(1 << 32));
        assert_eq!(number_in(&[131, 104, 3, 97, 7]), None);
        assert_eq!(number_in(&[131, 104, 2, 98, 0]), None);
    }
}
