//! Python objects that Elixir holds: `Reactor.Python.Object`.
//!
//! The reference to each belongs to the context that gave it, and is in that context's interpreter. What
//! Elixir has is a number. When that is collected, on whatever thread, the number is put on a stack that takes
//! no lock and allocates nothing, and the context's loop is woken, which lets go of the object with the GIL. When
//! the context ends it lets go of all: its interpreter may end with it.

use std::collections::HashMap;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::ffi;
use pyo3::prelude::*;
use rustler::{Env, Resource, ResourceArc, Term};

use crate::command::LoopHandle;
use crate::counters;
use crate::python::term::type_name;

mod atoms {
    rustler::atoms! {
        object = "Elixir.Reactor.Python.Object",
        resource,
        r#struct = "__struct__",
        r#type = "type",
    }
}

/// What Elixir holds of one context.
pub struct Held {
    /// CPython's number of the interpreter, which is never used again.
    interpreter: i64,
    home: Arc<LoopHandle>,
    /// Never waited for with the GIL in the way: nothing of Python is called under it.
    shelf: Mutex<Shelf>,
    dropped: Dropped,
}

#[derive(Default)]
struct Shelf {
    next: u64,
    objects: HashMap<u64, Reference>,
    closed: bool,
}

/// A reference that is not given up by itself: where nobody lets go of it, because the context panicked, it
/// is left to Python.
struct Reference(NonNull<ffi::PyObject>);

// SAFETY: the pointer is only used with the GIL of its interpreter.
unsafe impl Send for Reference {}

impl Held {
    /// For the context whose loop that is, in this interpreter.
    pub fn new(interpreter: *mut ffi::PyInterpreterState, home: Arc<LoopHandle>) -> Arc<Self> {
        Arc::new(Held {
            // SAFETY: the interpreter lives at least as long as its context, which asks.
            interpreter: unsafe { ffi::PyInterpreterState_GetID(interpreter) },
            home,
            shelf: Mutex::default(),
            dropped: Dropped::default(),
        })
    }

    /// Has Elixir hold an object.
    pub fn hold<'a>(self: &Arc<Self>, env: Env<'a>, value: &Bound<'_, PyAny>) -> Term<'a> {
        let number = {
            let mut shelf = self.shelf.lock().unwrap_or_else(PoisonError::into_inner);
            shelf.next += 1;
            let number = shelf.next;
            // SAFETY: an object's address is not null; the reference is given up in `let_go`.
            let object = unsafe { NonNull::new_unchecked(value.clone().into_ptr()) };
            shelf.objects.insert(number, Reference(object));
            number
        };
        counters::HANDLES_MADE.add();
        let handle = ResourceArc::new(ObjectHandle {
            held: Arc::clone(self),
            number,
            link: Some(Box::new(Link {
                number,
                next: ptr::null_mut(),
            })),
        });
        rustler::term_map!(env, {
            atoms::r#struct() => atoms::object(),
            atoms::resource() => handle,
            atoms::r#type() => type_name(value),
        })
    }

    /// True when there is something to let go of.
    pub fn is_due(&self) -> bool {
        !self.dropped.0.load(SeqCst).is_null()
    }

    /// Lets go of what Elixir has let go of. What is freed may run code of its own.
    pub fn let_go(&self, py: Python<'_>) {
        let mut gone = Vec::new();
        {
            let mut shelf = self.shelf.lock().unwrap_or_else(PoisonError::into_inner);
            for number in self.dropped.take() {
                gone.extend(shelf.objects.remove(&number));
            }
        }
        free(py, gone);
    }

    /// Lets go of everything, on the context's thread, before its interpreter ends.
    pub fn close(&self, py: Python<'_>) {
        let gone = {
            let mut shelf = self.shelf.lock().unwrap_or_else(PoisonError::into_inner);
            shelf.closed = true;
            std::mem::take(&mut shelf.objects)
        };
        free(py, gone.into_values().collect());
    }
}

fn free(py: Python<'_>, references: Vec<Reference>) {
    for Reference(object) in references {
        // SAFETY: it was taken off its shelf, so the reference is ours; with its interpreter's GIL.
        drop(unsafe { Bound::from_owned_ptr(py, object.as_ptr()) });
    }
}

/// What Elixir has of one of them.
pub struct ObjectHandle {
    held: Arc<Held>,
    number: u64,
    /// For the stack, so that nothing has to be allocated then.
    link: Option<Box<Link>>,
}

#[rustler::resource_impl]
impl Resource for ObjectHandle {}

impl ObjectHandle {
    /// The object, in its own interpreter; else, why not.
    pub fn object<'py>(&self, py: Python<'py>) -> Result<Bound<'py, PyAny>, &'static str> {
        // SAFETY: the calling thread is attached to that interpreter.
        let interpreter = unsafe { ffi::PyInterpreterState_GetID(ffi::PyInterpreterState_Get()) };
        if interpreter != self.held.interpreter {
            return Err("this object belongs to another interpreter");
        }
        let shelf = self.held.shelf.lock();
        let shelf = shelf.unwrap_or_else(PoisonError::into_inner);
        match shelf.objects.get(&self.number) {
            // SAFETY: the shelf has a reference, so it is alive; with its interpreter's GIL.
            Some(object) => Ok(unsafe { Bound::from_borrowed_ptr(py, object.0.as_ptr()) }),
            None if shelf.closed => Err("the context that this object came from has ended"),
            None => Err("this object is gone"),
        }
    }
}

impl Drop for ObjectHandle {
    fn drop(&mut self) {
        counters::HANDLES_FREED.add();
        if let Some(link) = self.link.take() {
            if self.held.dropped.push(link) {
                self.held.home.nudge();
            }
        }
    }
}

/// The numbers of those that were dropped: a stack that any thread puts on.
#[derive(Default)]
struct Dropped(AtomicPtr<Link>);

struct Link {
    number: u64,
    next: *mut Link,
}

// SAFETY: `next` is only followed by whoever has taken the whole stack.
unsafe impl Send for Link {}
// SAFETY: nobody changes a link that is shared.
unsafe impl Sync for Link {}

impl Dropped {
    /// True when it was empty.
    fn push(&self, link: Box<Link>) -> bool {
        let link = Box::into_raw(link);
        let mut top = self.0.load(SeqCst);
        loop {
            // SAFETY: it is not on the stack yet, so it is ours alone.
            unsafe { (*link).next = top };
            match self.0.compare_exchange_weak(top, link, SeqCst, SeqCst) {
                Ok(_) => return top.is_null(),
                Err(now) => top = now,
            }
        }
    }

    /// Takes all of them.
    fn take(&self) -> Vec<u64> {
        let mut numbers = Vec::new();
        let mut next = self.0.swap(ptr::null_mut(), SeqCst);
        while !next.is_null() {
            // SAFETY: it came from Box::into_raw, and the swap made it ours alone.
            let link = unsafe { Box::from_raw(next) };
            numbers.push(link.number);
            next = link.next;
        }
        numbers
    }
}

impl Drop for Dropped {
    fn drop(&mut self) {
        self.take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(number: u64) -> Box<Link> {
        Box::new(Link {
            number,
            next: ptr::null_mut(),
        })
    }

    #[test]
    fn only_the_first_that_is_dropped_wakes() {
        let dropped = Dropped::default();
        assert!(dropped.push(link(1)));
        assert!(!dropped.push(link(2)));
        assert_eq!(dropped.take(), [2, 1]);
        assert!(dropped.push(link(3)));
    }

    #[test]
    fn all_that_threads_drop_are_taken_once() {
        const EACH: u64 = 10_000;
        let dropped = Dropped::default();
        let mut taken = Vec::new();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let dropped = &dropped;
                scope.spawn(move || {
                    for number in 0..EACH {
                        dropped.push(link(thread * EACH + number));
                    }
                });
            }
            while taken.len() < 4 * EACH as usize {
                taken.extend(dropped.take());
            }
        });
        taken.sort_unstable();
        assert!(taken.into_iter().eq(0..4 * EACH));
    }
}
