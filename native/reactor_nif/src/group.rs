//! The connections of one listener: who they are, how many there may be, and whether they are
//! to end.
//!
//! A group outlives its listening socket: a listener that is suspended and resumed has the same one.

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

/// A limit that is not there.
pub const UNLIMITED: usize = usize::MAX;
/// Trouble that comes back after this long without any is new trouble.
const CALM: Duration = Duration::from_secs(1);

/// How many connections a listener lets in.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open at a time.
    pub connections: usize,
    /// Beyond that, and while there are no descriptors: close newcomers at once instead of leaving
    /// them in the backlog.
    pub reject: bool,
    /// Open at a time from one address; who comes beyond that is closed at once.
    pub per_ip: usize,
    /// Accepted in a second; 0 for any number.
    pub rate: u32,
}

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
    /// Where reports go.
    /// How many slots are in the hands of those who look whether there is a connection.
    hesitating: AtomicIsize,
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

/// What the limits say about one more connection.
pub enum Admission {
    /// It may come in, and takes this slot.
    Free(Slot),
    /// There are as many as may be. Whoever is told so is kicked when one goes.
    Full,
    /// Not before then.
    Later(Instant),
}

/// The place of one connection in its group; given up when it is dropped.
pub struct Slot {
    group: Arc<Group>,
    member: Option<usize>,
    ip: Option<IpAddr>,
    /// It was counted without being listed.
    entered: bool,
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

    // ---- limits -----------------------------------------------------------------

    /// Sets the limits. Connections that are open stay, however many they are.
    pub fn limit(&self, limits: &Limits) {
        self.max.store(limits.connections, Ordering::SeqCst);
        self.reject.store(limits.reject, Ordering::Relaxed);
        self.rate.set(limits.rate);
        lock(&self.members).per_ip = limits.per_ip;
        let plain = limits.connections == UNLIMITED && limits.per_ip == UNLIMITED;
        self.plain
            .store(plain && limits.rate == 0, Ordering::Relaxed);
        self.look_again();
    }

    /// True when there are no limits.
    pub fn plain(&self) -> bool {
        self.plain.load(Ordering::Relaxed)
    }

    /// The limits as they are.
    pub fn limits(&self) -> Limits {
        Limits {
            connections: self.max.load(Ordering::Relaxed),
            reject: self.rejects(),
            per_ip: lock(&self.members).per_ip,
            rate: self.rate.get(),
        }
    }

    /// True when newcomers beyond the limit are closed at once.
    pub fn rejects(&self) -> bool {
        self.reject.load(Ordering::Relaxed)
    }

    /// Asks for one more connection, before it is accepted: so there is never one too many.
    pub fn admit(self: &Arc<Self>) -> Admission {
        if let Err(at) = self.rate.take() {
            return Admission::Later(at);
        }
        if !self.take() {
            self.held_back.store(true, Ordering::SeqCst);
            // One may have gone before we said that we wait.
            if !self.take() {
                self.rate.give_back();
                return Admission::Full;
            }
        }
        Admission::Free(Slot {
            group: Arc::clone(self),
            member: None,
            ip: None,
            entered: false,
        })
    }

    /// Somebody has a slot, and does not know yet whether there is a connection for it; or does now.
    pub fn hesitate(&self, change: isize) {
        self.hesitating.fetch_add(change, Ordering::SeqCst);
    }

    /// True while somebody does not know.
    pub fn hesitates(&self) -> bool {
        self.hesitating.load(Ordering::SeqCst) > 0
    }

    /// A place that no limit is asked for: of those who have a socket for datagrams, of which there are
    /// as many as were opened.
    pub fn enter(self: &Arc<Self>) -> Slot {
        self.live.fetch_add(1, Ordering::SeqCst);
        self.accepted.fetch_add(1, Ordering::Relaxed);
        self.known();
        Slot {
            group: Arc::clone(self),
            member: None,
            ip: None,
            entered: true,
        }
    }

    fn take(&self) -> bool {
        let max = self.max.load(Ordering::SeqCst);
        self.live
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |live| {
                (live < max).then_some(live + 1)
            })
            .is_ok()
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

    // ---- the listener -------------------------------------------------------------

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

    // ---- counts ---------------------------------------------------------------------

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

    // ---- ends -----------------------------------------------------------------------

    /// True once the listener is drained: idle connections end.
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// True when owners in active mode are told that the server goes away, and end by themselves.
    pub fn farewell(&self) -> bool {
        self.farewell.load(Ordering::Relaxed)
    }

    /// Whether they are.
    pub fn set_farewell(&self, farewell: bool) {
        self.farewell.store(farewell, Ordering::Relaxed);
    }

    /// From now on idle connections end.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Cuts whoever comes to a loop from now on: how many there are altogether.
    pub fn cut(&self) -> usize {
        self.cut.store(true, Ordering::SeqCst);
        self.live()
    }

    /// True once everybody is cut.
    pub fn is_cut(&self) -> bool {
        self.cut.load(Ordering::SeqCst)
    }

    /// Where reports go.
    pub fn report_to(&self) -> Option<LocalPid> {
        *lock(&self.report_to)
    }

    /// Reports go there from now on.
    pub fn set_report_to(&self, pid: Option<LocalPid>) {
        *lock(&self.report_to) = pid;
    }

    /// Has a loop tell `pid` when no connection is left.
    pub fn wait(self: &Arc<Self>, pid: LocalPid, handle: ResourceArc<ListenerHandle>) {
        lock(&self.waiters).push((pid, handle));
        if self.live() == 0 {
            self.drained();
        }
    }

    /// A loop has one of the connections.
    pub fn known(&self) {
        self.known.fetch_add(1, Ordering::SeqCst);
    }

    /// A loop has forgotten one, after it was reported as closed.
    pub fn forgotten(&self) {
        self.known.fetch_sub(1, Ordering::SeqCst);
    }

    /// Those who waited, once no connection is left and every end was reported.
    pub fn take_waiters(&self) -> Vec<(LocalPid, ResourceArc<ListenerHandle>)> {
        if self.live() > 0 || self.known.load(Ordering::SeqCst) > 0 {
            return Vec::new();
        }
        std::mem::take(&mut *lock(&self.waiters))
    }

    fn drained(self: &Arc<Self>) {
        let waiters = lock(&self.waiters);
        if let Some((_, handle)) = waiters.first() {
            let home = Arc::clone(handle.0.home());
            drop(waiters);
            home.tell(Command::Drained(Arc::clone(self)));
        }
    }
}

impl Slot {
    /// The group.
    pub fn group(&self) -> &Arc<Group> {
        &self.group
    }

    /// No connection came after all.
    pub fn unused(self) {
        self.group.rate.give_back();
    }

    /// Says from where the connection is: false when there are too many from there.
    pub fn from(&mut self, ip: IpAddr) -> bool {
        let mut members = lock(&self.group.members);
        let limit = members.per_ip;
        let count = members.by_ip.entry(ip).or_default();
        if *count >= limit {
            return false;
        }
        *count += 1;
        self.ip = Some(ip);
        true
    }

    /// Lists the connection among the group's, or puts it in the place of what it was before it moved.
    pub fn list(&mut self, conn: &Arc<Conn>) {
        let mut members = lock(&self.group.members);
        match self.member {
            Some(member) => members.conns[member] = Arc::downgrade(conn),
            None => {
                self.group.accepted.fetch_add(1, Ordering::Relaxed);
                self.member = Some(members.conns.insert(Arc::downgrade(conn)));
            }
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let group = &self.group;
        if self.member.is_some() || self.ip.is_some() {
            let mut members = lock(&group.members);
            if let Some(member) = self.member {
                members.conns.remove(member);
                group.closed.fetch_add(1, Ordering::Relaxed);
            }
            if let Some(ip) = self.ip {
                if let Some(count) = members.by_ip.get_mut(&ip) {
                    *count -= 1;
                    if *count == 0 {
                        members.by_ip.remove(&ip);
                    }
                }
            }
        }
        if self.entered {
            group.closed.fetch_add(1, Ordering::Relaxed);
        }
        let left = group.live.fetch_sub(1, Ordering::SeqCst) - 1;
        if group.held_back.swap(false, Ordering::SeqCst) {
            group.look_again();
        }
        if left == 0 {
            group.drained();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::Active;
    use crate::framing::Framing;

    fn group(limits: Limits) -> Arc<Group> {
        let settings = Settings {
            framing: Framing::Raw,
            packet_size: 0,
            active: Active::Off,
            high_watermark: 1,
            low_watermark: 1,
            deadlines: Default::default(),
            send_timeout: 0,
            send_timeout_close: false,
        };
        Group::new(&limits, settings, None)
    }

    const NONE: Limits = Limits {
        connections: UNLIMITED,
        reject: false,
        per_ip: UNLIMITED,
        rate: 0,
    };

    fn slot(group: &Arc<Group>) -> Option<Slot> {
        match group.admit() {
            Admission::Free(slot) => Some(slot),
            _ => None,
        }
    }

    #[test]
    fn many_threads_together_get_exactly_as_many_slots_as_there_are() {
        let group = group(Limits {
            connections: 10,
            ..NONE
        });
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let group = Arc::clone(&group);
                std::thread::spawn(move || {
                    for _ in 0..20_000 {
                        let taken: Vec<_> = (0..5).filter_map(|_| slot(&group)).collect();
                        assert!(group.live() <= 10);
                        drop(taken);
                    }
                })
            })
            .collect();
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        assert_eq!(group.live(), 0);
        let all: Vec<_> = (0..20).filter_map(|_| slot(&group)).collect();
        assert_eq!(all.len(), 10);
    }

    #[test]
    fn an_address_has_its_own_limit_and_is_forgotten_with_its_last_connection() {
        let group = group(Limits { per_ip: 2, ..NONE });
        let one = IpAddr::from([127, 0, 0, 1]);
        let other = IpAddr::from([127, 0, 0, 2]);
        let mut slots: Vec<_> = (0..3).filter_map(|_| slot(&group)).collect();
        assert!(slots[0].from(one));
        assert!(slots[1].from(one));
        assert!(!slots[2].from(one));
        assert!(slots[2].from(other));
        slots.remove(0);
        let mut next = slot(&group).unwrap();
        assert!(next.from(one));
        drop(next);
        slots.clear();
        assert!(lock(&group.members).by_ip.is_empty());
    }

    #[test]
    fn a_limit_that_is_lowered_lets_nobody_in_until_enough_have_gone() {
        let group = group(Limits {
            connections: 3,
            ..NONE
        });
        let mut slots: Vec<_> = (0..3).filter_map(|_| slot(&group)).collect();
        group.limit(&Limits {
            connections: 1,
            ..NONE
        });
        slots.pop();
        assert!(slot(&group).is_none());
        slots.clear();
        assert!(slot(&group).is_some());
    }

    #[test]
    fn trouble_that_goes_on_is_one_episode() {
        let mut episode = Episode::default();
        let start = Instant::now();
        assert!(episode.note(start));
        assert!(!episode.note(start + CALM));
        assert!(!episode.note(start + CALM * 2));
        assert!(episode.note(start + CALM * 3 + Duration::from_millis(1)));
    }
}
