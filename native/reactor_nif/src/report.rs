//! What happens to listeners and their connections, told in batches to the process that a
//! listener named. Nothing is collected while nobody asks for it.

mod load;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustler::{Atom, Encoder, Env, Term};

use crate::address::Address;
use crate::connection::Traffic;
use crate::error::{Cause, Reason};
use crate::group::Group;
use crate::listener::Rejected;
use crate::mail::Mail;
use crate::owner::Conn;
use crate::process::atom;
use crate::python::context::encode_error;
use crate::python::interpreter::PythonError;

use load::nanos;

pub use load::{is_load, pass_load, send_load, Load};

mod atoms {
    rustler::atoms! {
        report = "$reactor_report",
        drained = "$reactor_drained",
        opened,
        closed,
        rejected,
        saturated,
        starved,
        exception,
        max_connections,
        max_connections_per_ip,
        accept_rate,
        r#type = "type",
        message,
        traceback,
    }
}

/// So many are sent at once, before the turn is over.
const MANY: usize = 1024;

static WANTED: AtomicBool = AtomicBool::new(false);

/// Whether anybody wants reports.
pub fn want(wanted: bool) {
    WANTED.store(wanted, Ordering::Relaxed);
}

fn wanted() -> bool {
    WANTED.load(Ordering::Relaxed)
}

enum Report {
    Opened(u64, Option<Address>, u64),
    Closed(u64, Option<Address>, Cause, Traffic, Duration),
    Rejected(Rejected, u64),
    Saturated(Limit),
    Starved(Reason),
    Exception(u64, Option<Address>, PythonError, &'static str),
}

/// Which limit held somebody back.
#[derive(Clone, Copy)]
pub enum Limit {
    /// So many open.
    Connections,
    /// So many a second.
    Rate,
}

/// What one loop has to tell.
pub struct Reports {
    queue: Vec<(Arc<Group>, Report)>,
    /// Those of which the loop has forgotten a connection.
    forgotten: Vec<Arc<Group>>,
    load: Load,
    load_since: Option<Instant>,
}

impl Reports {
    /// None yet.
    pub fn new() -> Self {
        Reports {
            queue: Vec::new(),
            forgotten: Vec::new(),
            load: Load::default(),
            load_since: None,
        }
    }

    /// True when it is time to send them, in the middle of a turn too.
    pub fn are_many(&self) -> bool {
        self.queue.len() >= MANY
    }

    fn push(&mut self, group: &Arc<Group>, report: Report) {
        if wanted() && group.report_to().is_some() {
            self.queue.push((Arc::clone(group), report));
        }
    }

    /// A listener has a new connection.
    pub fn opened(&mut self, conn: &Conn) {
        if let Some(group) = conn.group() {
            self.began(group, conn.id, conn.peer.clone(), conn.born);
        }
    }

    /// Somebody has one of a listener's sockets.
    pub fn began(&mut self, group: &Arc<Group>, id: u64, peer: Option<Address>, born: Instant) {
        if wanted() {
            self.push(group, Report::Opened(id, peer, unix_ms(born)));
        }
    }

    /// Somebody has it no more.
    pub fn ended(
        &mut self,
        group: &Arc<Group>,
        id: u64,
        cause: Cause,
        traffic: Traffic,
        born: Instant,
    ) {
        self.forgotten.push(Arc::clone(group));
        let report = Report::Closed(id, None, cause, traffic, born.elapsed());
        self.push(group, report);
    }

    /// A listener's connection is over, and the loop has forgotten it.
    pub fn closed(&mut self, conn: &Conn) {
        let Some(group) = conn.group() else {
            return;
        };
        self.forgotten.push(Arc::clone(group));
        if wanted() {
            let state = conn.lock();
            let cause = state.cause.unwrap_or(Cause::Local);
            let traffic = state.traffic;
            drop(state);
            let report = Report::Closed(
                conn.id,
                conn.peer.clone(),
                cause,
                traffic,
                conn.born.elapsed(),
            );
            self.push(group, report);
        }
    }

    /// So many newcomers were closed at once.
    pub fn rejected(&mut self, group: &Arc<Group>, why: Rejected, count: u64) {
        group.add_rejected(count);
        self.push(group, Report::Rejected(why, count));
    }

    /// A limit holds newcomers back: the beginning of an episode.
    pub fn saturated(&mut self, group: &Arc<Group>, limit: Limit) {
        self.push(group, Report::Saturated(limit));
    }

    /// There are no descriptors: the beginning of an episode.
    pub fn starved(&mut self, group: &Arc<Group>, reason: Reason) {
        self.push(group, Report::Starved(reason));
    }

    /// A protocol raised.
    pub fn exception(&mut self, conn: &Conn, error: PythonError, callback: &'static str) {
        if let Some(group) = conn.group() {
            self.exception_of(group, conn.id, conn.peer.clone(), error, callback);
        }
    }

    /// A protocol of that group's, with this number, raised.
    pub fn exception_of(
        &mut self,
        group: &Arc<Group>,
        id: u64,
        peer: Option<Address>,
        error: PythonError,
        callback: &'static str,
    ) {
        self.push(group, Report::Exception(id, peer, error, callback));
    }

    /// Sends what there is, then tells those who wait for the last connection of a listener.
    pub fn send(&mut self, mail: &mut Mail) {
        self.send_queue(mail);
        for group in self.forgotten.drain(..) {
            group.forgotten();
            tell_drained(&group, mail);
        }
    }

    fn send_queue(&mut self, mail: &mut Mail) {
        while let Some((group, _)) = self.queue.first() {
            let group = Arc::clone(group);
            let (own, others): (Vec<_>, Vec<_>) = std::mem::take(&mut self.queue)
                .into_iter()
                .partition(|(other, _)| Arc::ptr_eq(other, &group));
            self.queue = others;
            if let Some(pid) = &group.report_to() {
                mail.send(pid, |env| {
                    let list: Vec<Term> =
                        own.iter().map(|(_, report)| encode(env, report)).collect();
                    (atoms::report(), list).encode(env)
                });
            }
        }
    }
}

/// Tells the group's reporter of an exception that another process has seen. `None` if it is not said as it is
/// here.
pub fn pass_exception(group: &Group, event: Term) -> Option<()> {
    let (_, _, peer, error, callback): (Atom, u64, Term, Term, Term) = event.decode().ok()?;
    for key in [atoms::r#type(), atoms::message(), atoms::traceback()] {
        error.map_get(key).ok().filter(|text| text.is_binary())?;
    }
    if !callback.is_binary() || !(peer.is_tuple() || peer.is_atom()) {
        return None;
    }
    if let (true, Some(pid)) = (wanted(), group.report_to()) {
        let mut mail = Mail::new();
        mail.send(&pid, |env| {
            (atoms::report(), vec![event.in_env(env)]).encode(env)
        });
    }
    Some(())
}

/// Tells those who wait for the last connection of a listener, if it is gone.
pub fn tell_drained(group: &Group, mail: &mut Mail) {
    for (pid, handle) in group.take_waiters() {
        mail.send(&pid, |env| (atoms::drained(), &handle).encode(env));
    }
}

/// The time of day then, in ms since 1970.
pub fn unix_ms(then: Instant) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let then = now.unwrap_or_default().saturating_sub(then.elapsed());
    then.as_millis() as u64
}

fn encode<'a>(env: Env<'a>, report: &Report) -> Term<'a> {
    let remote = |peer: &Option<Address>| crate::nif::peer(env, peer.as_ref());
    match report {
        Report::Opened(id, peer, since) => (atoms::opened(), *id, remote(peer), *since).encode(env),
        Report::Closed(id, peer, cause, traffic, took) => (
            atoms::closed(),
            *id,
            remote(peer),
            crate::process::cause(env, *cause),
            traffic.received,
            traffic.sent,
            nanos(*took),
        )
            .encode(env),
        Report::Rejected(why, count) => {
            let why = match why {
                Rejected::Connections => atoms::max_connections(),
                Rejected::PerIp => atoms::max_connections_per_ip(),
                Rejected::Errno(code) => atom(env, Reason::Errno(*code)),
            };
            (atoms::rejected(), why, *count).encode(env)
        }
        Report::Saturated(limit) => {
            let limit = match limit {
                Limit::Connections => atoms::max_connections(),
                Limit::Rate => atoms::accept_rate(),
            };
            (atoms::saturated(), limit).encode(env)
        }
        Report::Starved(reason) => (atoms::starved(), atom(env, *reason)).encode(env),
        Report::Exception(id, peer, error, callback) => (
            atoms::exception(),
            *id,
            remote(peer),
            encode_error(env, error),
            *callback,
        )
            .encode(env),
    }
}
