//! How a loop ends: it is told to, has so long for what is under way, and then ends what is left.
//!
//! However it ends, a panic included, no descriptor stays open and nobody waits for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;

use crate::event_loop::{datagrams, portal, Entry, EventLoop, Timed};
use crate::owner::{self, Owner};
use crate::process;

impl EventLoop {
    pub(super) fn stop(&mut self, grace: Duration) {
        let until = self.io.now + grace;
        self.stop_at = Some(until);
        self.io.stopping = true;
        if let Some(turn) = &mut self.io.turn {
            turn.stopping = true;
        }
        if let Some(portal) = &mut self.io.portal {
            portal.stop(grace.as_millis() as u64);
            self.wheel.arm(until + portal::LAST, Timed::Deadline);
        }
        self.wheel.arm(until, Timed::Deadline);
        for (_, (_, entry)) in &self.entries {
            if let Entry::Connection(conn) = entry {
                self.ready.push(Arc::clone(conn));
            }
        }
        for token in std::mem::take(&mut self.listeners) {
            match self.lookup(token) {
                Some(Entry::Served(listener, _)) => {
                    let listener = Arc::clone(listener);
                    for fd in listener.lock().fds() {
                        // Others may go on accepting from it: only this loop looks away.
                        let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
                    }
                }
                Some(Entry::Listener(listener)) => {
                    let listener = Arc::clone(listener);
                    let closed = listener.lock().close();
                    drop(closed);
                    if listener.is_datagram {
                        self.datagrams_of_a_process(token, &listener);
                    }
                    self.turn_away(&listener, 0);
                }
                Some(Entry::Datagrams(_)) => {
                    // Its protocol is told first.
                    self.listeners.push(token);
                    self.accepting.push(token);
                    continue;
                }
                _ => {}
            }
            self.remove(token);
        }
    }

    pub(super) fn finished(&mut self) -> bool {
        match (self.stop_at, &self.io.portal) {
            (None, _) => false,
            // It says when it has ended.
            (Some(until), Some(portal)) => {
                portal.has_stopped() || until + portal::LAST <= Instant::now()
            }
            (Some(until), None) => {
                let awaited = self
                    .io
                    .turn
                    .as_ref()
                    .is_some_and(|turn| turn.awaits_tasks());
                (self.entries.is_empty() && !awaited) || until <= Instant::now()
            }
        }
    }

    /// Ends what is left, each connection in its owner's way.
    pub(super) fn end(&mut self) {
        self.close_portal();
        if let Some(turn) = &mut self.io.turn {
            let left = self
                .entries
                .iter()
                .filter_map(|(_, (_, entry))| match entry {
                    Entry::Connection(conn) => Some(Arc::clone(conn)),
                    _ => None,
                });
            turn.lose_all(left.collect());
            datagrams::lose(&self.entries, turn);
            owner::report_exceptions(turn, &mut self.io.reports);
        }
        self.end_datagrams();
        for (_, entry) in std::mem::take(&mut self.entries)
            .into_iter()
            .map(|(_, entry)| entry)
        {
            if let Entry::Connection(conn) = &entry {
                let mut state = conn.lock();
                match state.owner {
                    Owner::Protocol(_) => {}
                    _ => process::abandon(conn, &mut state, &mut self.io),
                }
                drop(state);
                self.io.reports.closed(conn);
            }
        }
        self.io.reports.send(&mut self.io.mail);
        self.io.mail.clear();
    }
}

impl Drop for EventLoop {
    /// However it ended: no fd stays open, and nobody waits for it.
    fn drop(&mut self) {
        self.handle.close();
        for (_, (_, entry)) in &self.entries {
            match entry {
                Entry::Connection(conn) => {
                    let mut state = conn.lock();
                    state.close_fd();
                    // Its listener counts those that are on their way: told without the lock.
                    let arriving = match state.owner {
                        Owner::Arriving(_) => std::mem::replace(&mut state.owner, Owner::Nobody),
                        _ => Owner::Nobody,
                    };
                    drop(state);
                    drop(arriving);
                    if let Some(group) = conn.group() {
                        group.forgotten();
                    }
                }
                Entry::Datagrams(served) if served.is_in_use() => {
                    served.listener.group.forgotten();
                }
                _ => {}
            }
        }
    }
}
