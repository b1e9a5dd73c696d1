//! Who may come in: a slot is taken before a connection is accepted, and given up when that ends, so there
//! is never one too many.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Instant;

use crate::group::{lock, Group};
use crate::owner::Conn;

/// A limit that is not there.
pub const UNLIMITED: usize = usize::MAX;
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

impl Group {
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
