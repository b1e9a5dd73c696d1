//! A term that lives as long as whatever it is kept with.

use std::sync::{Mutex, PoisonError};

use rustler::env::SavedTerm;
use rustler::{Encoder, Env, OwnedEnv, Resource, Term};

use crate::counters;

/// Holds one term, or none yet.
#[derive(Default)]
pub struct Cell(Mutex<Option<Box<(OwnedEnv, SavedTerm)>>>);

impl Cell {
    /// Keeps a copy of the term instead of what was kept before.
    pub fn put(&self, term: Term) {
        let env = OwnedEnv::new();
        let saved = env.save(term);
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = kept.replace(Box::new((env, saved)));
        drop(kept);
        drop(before);
    }

    /// Forgets what is kept.
    pub fn clear(&self) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = kept.take();
        drop(kept);
        drop(before);
    }

    /// A copy of what is kept.
    pub fn get<'a>(&self, env: Env<'a>) -> Option<Term<'a>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (own, saved) = &**kept.as_ref()?;
        Some(own.run(|own| saved.load(own).in_env(env).encode(env)))
    }
}

/// What Elixir holds of a cell that belongs to no connection of ours.
pub struct CellHandle(pub Cell);

impl CellHandle {
    /// An empty one.
    pub fn new() -> Self {
        counters::HANDLES_MADE.add();
        CellHandle(Cell::default())
    }
}

impl Drop for CellHandle {
    fn drop(&mut self) {
        counters::HANDLES_FREED.add();
    }
}

#[rustler::resource_impl]
impl Resource for CellHandle {}
