//! Which process of the VM has a name: a question to the other end of the control socket, and its answer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use once_cell::sync::Lazy;
use rustler::sys::ErlNifPid;
use rustler::LocalPid;

use crate::heap::{Heap, Node};

/// The VM answers at once. One that does not is about to end, and this process with it.
const PATIENCE: Duration = Duration::from_secs(10);

static NEXT: AtomicU64 = AtomicU64::new(0);
static ANSWERS: Lazy<Mutex<HashMap<u64, Option<LocalPid>>>> = Lazy::new(Mutex::default);
static ANSWERED: Condvar = Condvar::new();

/// Asks, and waits: not on the thread that takes the answers.
pub fn find(name: &str) -> Option<ErlNifPid> {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let mut heap = Heap::default();
    let parts = vec![
        heap.unsigned(number),
        heap.add(Node::Binary(name.as_bytes().to_vec())),
    ];
    let question = heap.add(Node::Tuple(parts));
    // SAFETY: the heap is there.
    unsafe { crate::send(crate::NAMES.into(), question) };
    let answers = ANSWERS.lock().unwrap_or_else(PoisonError::into_inner);
    let unknown = |answers: &mut HashMap<u64, _>| !answers.contains_key(&number);
    let waited = ANSWERED.wait_timeout_while(answers, PATIENCE, unknown);
    let (mut answers, _) = waited.unwrap_or_else(PoisonError::into_inner);
    answers.remove(&number)?.map(|pid| *pid.as_c_arg())
}

/// The answer.
pub fn answer(number: u64, process: Option<LocalPid>) {
    let mut answers = ANSWERS.lock().unwrap_or_else(PoisonError::into_inner);
    answers.insert(number, process);
    ANSWERED.notify_all();
}
