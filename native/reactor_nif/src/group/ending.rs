//! How a listener's connections end: those that are idle at once, the others by themselves or cut; and who
//! is told when the last one has gone.

use std::sync::atomic::Ordering;
use std::sync::Arc;

use rustler::{LocalPid, ResourceArc};

use crate::command::Command;
use crate::group::{lock, Group};
use crate::process::ListenerHandle;

impl Group {
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

    pub(super) fn drained(self: &Arc<Self>) {
        let waiters = lock(&self.waiters);
        if let Some((_, handle)) = waiters.first() {
            let home = Arc::clone(handle.0.home());
            drop(waiters);
            home.tell(Command::Drained(Arc::clone(self)));
        }
    }
}
