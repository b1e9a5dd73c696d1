//! The connections of one listener: who they are, how many there may be, and whether they are
//! to end.
//!
//! A group outlives its listening socket: a listener that is suspended and resumed has the same one.

mod admission;
mod ending;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustler::{LocalPid, ResourceArc};
use slab::Slab;

use crate::command::{Command, LoopHandle};
use crate::connection::{next_id, Greeting, Handshake, Preface, Settings};
use crate::event_loop::kick_listener;
use crate::listener::Listener;
use crate::owner::Conn;
use crate::process::ListenerHandle;
use crate::proxy::{Expected, Gathered};
use crate::rate::Rate;

pub use admission::{Admission, Limits, Slot, UNLIMITED};

/// Trouble that comes back after this long without any is new trouble.
const CALM: Duration = Duration::from_secs(1);

/// The connections of one listener.
pub struct Group {
    /// Unique in this VM.
    pub id: u64,
    /// Slots that are taken: open connections, and those being accepted.
    live: AtomicUsize,
    /// Connections that no loop has forgotten, and reported as closed, yet.
    known: AtomicUsize,
    /// Somebody found no free slot and waits for one.
    held_back: AtomicBool,
    max: AtomicUsize,
    reject: AtomicBool,
    rate: Rate,
    /// No limit has to be asked.
    plain: AtomicBool,
    draining: AtomicBool,
    /// Whoever is not done by now is cut, also those on their way to a loop.
    cut: AtomicBool,
    /// Owners in active mode are told of that, and end by themselves.
    farewell: AtomicBool,
    accepted: AtomicU64,
    closed: AtomicU64,
    rejected: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    /// How many slots are in the hands of those who look whether there is a connection.
    hesitating: AtomicIsize,
    /// Where reports go.
    report_to: Mutex<Option<LocalPid>>,
    members: Mutex<Members>,
    /// What new connections start with.
    settings: Mutex<Settings>,
    /// What comes before the owner of a new connection may speak.
    greeting: Mutex<Greets>,
    /// There is such a thing.
    greets: AtomicBool,
    doors: Mutex<Doors>,
    /// Who waits for the last connection to go.
    waiters: Mutex<Vec<(LocalPid, ResourceArc<ListenerHandle>)>>,
    saturated: Mutex<Episode>,
    starved: Mutex<Episode>,
}

#[derive(Default)]
struct Members {
    conns: Slab<Weak<Conn>>,
    per_ip: usize,
    by_ip: HashMap<IpAddr, usize>,
}

/// What new connections have to do before their owners may speak.
#[derive(Default)]
struct Greets {
    header: Option<Expected>,
    handshake: Option<Handshake>,
}

impl Greets {
    fn any(&self) -> bool {
        self.header.is_some() || self.handshake.is_some()
    }
}

/// Where the group's connections come in.
struct Doors {
    listener: Weak<Listener>,
    /// Loops of contexts that accept too.
    contexts: Vec<Weak<LoopHandle>>,
}

/// A stretch of time in which something kept going wrong.
#[derive(Default)]
struct Episode(Option<Instant>);

impl Episode {
    /// It went wrong now: true when that begins a new episode.
    fn note(&mut self, now: Instant) -> bool {
        let before = self.0.replace(now);
        before.is_none_or(|last| now.saturating_duration_since(last) > CALM)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Group {
    /// An empty one.
    pub fn new(limits: &Limits, settings: Settings, report_to: Option<LocalPid>) -> Arc<Self> {
        let group = Group {
            id: next_id(),
            live: AtomicUsize::new(0),
            known: AtomicUsize::new(0),
            held_back: AtomicBool::new(false),
            max: AtomicUsize::new(UNLIMITED),
            reject: AtomicBool::new(false),
            rate: Rate::new(Instant::now()),
            plain: AtomicBool::new(true),
            draining: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            farewell: AtomicBool::new(false),
            accepted: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            hesitating: AtomicIsize::new(0),
            report_to: Mutex::new(report_to),
            members: Mutex::default(),
            settings: Mutex::new(settings),
            greeting: Mutex::default(),
            greets: AtomicBool::new(false),
            doors: Mutex::new(Doors {
                listener: Weak::new(),
                contexts: Vec::new(),
            }),
            waiters: Mutex::default(),
            saturated: Mutex::default(),
            starved: Mutex::default(),
        };
        group.limit(limits);
        Arc::new(group)
    }

    /// Has everybody who accepts look at the listener again.
    fn look_again(&self) {
        let doors = lock(&self.doors);
        let Some(listener) = doors.listener.upgrade() else {
            return;
        };
        let contexts: Vec<_> = doors.contexts.iter().filter_map(Weak::upgrade).collect();
        drop(doors);
        if contexts.is_empty() {
            kick_listener(&listener);
        }
        for context in contexts {
            context.tell(Command::KickListener(Arc::clone(&listener)));
        }
    }

    /// From now on its connections come in here.
    pub fn open(&self, listener: &Arc<Listener>) {
        self.draining.store(false, Ordering::Relaxed);
        self.cut.store(false, Ordering::SeqCst);
        let mut doors = lock(&self.doors);
        doors.listener = Arc::downgrade(listener);
        doors.contexts.clear();
    }

    /// A context's loop accepts from the listener too; it is told when that closes.
    pub fn add_context(&self, handle: &Arc<LoopHandle>) {
        let mut doors = lock(&self.doors);
        doors.contexts.retain(|other| {
            let other = other.upgrade();
            other.is_some_and(|other| !Arc::ptr_eq(&other, handle))
        });
        doors.contexts.push(Arc::downgrade(handle));
    }

    /// The contexts' loops, to be told that a listener closed.
    pub fn contexts(&self) -> Vec<Arc<LoopHandle>> {
        let doors = lock(&self.doors);
        doors.contexts.iter().filter_map(Weak::upgrade).collect()
    }

    /// What new connections start with.
    pub fn settings(&self) -> Settings {
        lock(&self.settings).clone()
    }

    /// Changes what new connections start with.
    pub fn set_settings(&self, settings: Settings) {
        *lock(&self.settings) = settings;
    }

    /// What comes before the owner of a new connection, from this peer, may speak.
    pub fn greeting(&self, peer: Option<IpAddr>) -> Option<Box<Greeting>> {
        if !self.greets() {
            return None;
        }
        let greets = lock(&self.greeting);
        let expected = greets.header.as_ref();
        let preface = match expected.filter(|expected| expected.trusted.contain(peer)) {
            Some(expected) => Preface::Expected(Gathered::default(), expected.timeout),
            None => Preface::Nothing,
        };
        let handshake = greets.handshake.clone();
        if handshake.is_none() && matches!(preface, Preface::Nothing) {
            return None;
        }
        Some(Box::new(Greeting { preface, handshake }))
    }

    /// True when new connections may have to greet.
    pub fn greets(&self) -> bool {
        self.greets.load(Ordering::Relaxed)
    }

    /// Changes how new connections shake hands.
    pub fn set_handshake(&self, handshake: Option<Handshake>) {
        let mut greets = lock(&self.greeting);
        greets.handshake = handshake;
        self.greets.store(greets.any(), Ordering::Relaxed);
    }

    /// Changes from whom a PROXY header is expected.
    pub fn set_header(&self, header: Option<Expected>) {
        let mut greets = lock(&self.greeting);
        greets.header = header;
        self.greets.store(greets.any(), Ordering::Relaxed);
    }

    /// How many there are.
    pub fn live(&self) -> usize {
        self.live.load(Ordering::SeqCst)
    }

    /// How many were accepted, closed and rejected so far.
    pub fn totals(&self) -> [u64; 3] {
        [&self.accepted, &self.closed, &self.rejected].map(|count| count.load(Ordering::Relaxed))
    }

    /// How many bytes connections that are closed had received and sent.
    pub fn traffic(&self) -> (u64, u64) {
        let received = self.received.load(Ordering::Relaxed);
        (received, self.sent.load(Ordering::Relaxed))
    }

    /// Counts what a connection that closes has received and sent.
    pub fn add_traffic(&self, received: u64, sent: u64) {
        self.received.fetch_add(received, Ordering::Relaxed);
        self.sent.fetch_add(sent, Ordering::Relaxed);
    }

    /// Counts connections that were closed at once.
    pub fn add_rejected(&self, count: u64) {
        self.rejected.fetch_add(count, Ordering::Relaxed);
    }

    /// The limit kept somebody out: true when that begins an episode.
    pub fn saturated(&self, now: Instant) -> bool {
        lock(&self.saturated).note(now)
    }

    /// There was no descriptor: true when that begins an episode.
    pub fn starved(&self, now: Instant) -> bool {
        lock(&self.starved).note(now)
    }

    /// The connections, open or about to close.
    pub fn conns(&self) -> Vec<Arc<Conn>> {
        let members = lock(&self.members);
        let all = members.conns.iter();
        all.filter_map(|(_, conn)| conn.upgrade()).collect()
    }

    /// Where reports go.
    pub fn report_to(&self) -> Option<LocalPid> {
        *lock(&self.report_to)
    }

    /// Reports go there from now on.
    pub fn set_report_to(&self, pid: Option<LocalPid>) {
        *lock(&self.report_to) = pid;
    }
}
