//! A bound that several contexts share: how many calls of all of them may have no answer yet.

use std::sync::atomic::{AtomicUsize, Ordering};

use rustler::Resource;

use crate::python::inbox::{Inbox, Refused};

/// Bounds how many calls of several contexts have no answer yet.
pub struct Gate {
    most: usize,
    taken: AtomicUsize,
}

#[rustler::resource_impl]
impl Resource for Gate {}

impl Gate {
    /// For so many.
    pub fn new(most: usize) -> Self {
        Gate {
            most,
            taken: AtomicUsize::new(0),
        }
    }

    /// How many there are.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    fn enter(&self) -> bool {
        let room = |taken| (taken < self.most).then_some(taken + 1);
        let entered = self
            .taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, room);
        entered.is_ok()
    }

    pub(super) fn leave(&self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A place behind a gate: given back unless it is kept.
pub(super) struct Ticket<'a>(Option<&'a Gate>);

impl Ticket<'_> {
    pub(super) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if let Some(gate) = self.0 {
            gate.leave();
        }
    }
}

impl Inbox {
    pub(super) fn enter_gate(&self) -> Result<Ticket<'_>, Refused> {
        let gate = self.gate.as_deref();
        if gate.is_some_and(|gate| !gate.enter()) {
            return Err(Refused::Overloaded);
        }
        Ok(Ticket(gate))
    }
}
