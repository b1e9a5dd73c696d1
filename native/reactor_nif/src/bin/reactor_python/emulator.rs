//! What the native side asks of an emulator, for a process that has none.
//!
//! Terms are kept by [`Heap`]. A process is the number of a place at the VM's end of the control socket, or
//! one of the VM's own, and a message to it is written there. Processes do not die as long as the socket is open.
//! What only a NIF that Elixir called could need is in `absent.rs`.

/// Functions that were declared in C, with the caller's promise about what pointers point to. It stands before
/// the modules that use it.
macro_rules! functions {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $kind:ty),*) $(-> $result:ty)? $body:block)*) => {
        $(
            $(#[$doc])*
            ///
            /// # Safety
            /// As the function of this name in erl_nif.
            #[no_mangle]
            pub unsafe extern "C" fn $name($($arg: $kind),*) $(-> $result)? {
                // SAFETY: the caller's promise.
                #[allow(unused_unsafe)]
                unsafe { $body }
            }
        )*
    };
}

mod contents;
mod kinds;
mod making;
mod objects;

use std::ffi::{c_int, c_void};

use rustler::sys::{ErlNifEnv, ErlNifPid};

use crate::format;
use crate::heap::{look, Heap, Node, Term, Word};

type Env = *mut ErlNifEnv;

const NO: c_int = 0;
const YES: c_int = 1;

/// The environment as it is here.
///
/// # Safety
/// It was made by [`enif_alloc_env`], and its one user is the caller.
unsafe fn heap<'a>(env: Env) -> &'a mut Heap {
    // SAFETY: the caller's promise.
    unsafe { &mut *env.cast::<Heap>() }
}

/// Writes an answer where the caller wants it.
unsafe fn give<T>(to: *mut T, value: T) -> c_int {
    // SAFETY: callers give a place for it.
    unsafe { to.write(value) };
    YES
}

/// Encodings of names, as erl_nif numbers them.
const LATIN1: c_int = 1;

functions! {
    /// A new one.
    fn enif_alloc_env() -> Env {
        Box::into_raw(Box::<Heap>::default()).cast()
    }

    /// Its end.
    fn enif_free_env(env: Env) {
        drop(Box::from_raw(env.cast::<Heap>()));
    }

    /// Its terms are gone.
    fn enif_clear_env(env: Env) {
        heap(env).clear();
    }

    /// A term of another environment.
    fn enif_make_copy(env: Env, term: Word) -> Word {
        copy(heap(env), term)
    }

    /// Out of the caller's hands: it is written to the control socket.
    fn enif_send(_env: Env, to: *const ErlNifPid, _message_env: Env, message: Word) -> c_int {
        let to = to.cast::<Word>().read();
        match look(to) {
            Term::Small(place) => crate::send(place, message),
            Term::Process(..) => {
                let mut heap = Heap::default();
                let message = heap.add(Node::Tuple(vec![to, message]));
                crate::send(crate::ANYBODY.into(), message);
            }
            _ => return NO,
        }
        YES
    }
}

unsafe fn copy(heap: &mut Heap, word: Word) -> Word {
    // SAFETY: the caller's promise: the term's environment is there.
    unsafe {
        let Term::Node(node) = look(word) else {
            return word;
        };
        match node {
            Node::Integer(value) => heap.add(Node::Integer(*value)),
            Node::Float(value) => heap.add(Node::Float(*value)),
            Node::Binary(bytes) => heap.add(Node::Binary(bytes.clone())),
            Node::Foreign(what, external) => heap.add(Node::Foreign(*what, external.clone())),
            Node::Resource(object) => heap.add(Node::Resource(*object)),
            Node::Tuple(items) => {
                let items = items.iter().map(|item| copy(heap, *item)).collect();
                heap.add(Node::Tuple(items))
            }
            Node::Map(pairs) => {
                let pairs = pairs
                    .iter()
                    .map(|(key, value)| (copy(heap, *key), copy(heap, *value)));
                let pairs = pairs.collect();
                heap.add(Node::Map(pairs))
            }
            Node::Cons(..) => {
                let mut items = Vec::new();
                let mut rest = word;
                while let Term::Node(Node::Cons(head, tail)) = look(rest) {
                    items.push(copy(heap, *head));
                    rest = *tail;
                }
                let tail = copy(heap, rest);
                heap.list(&items, tail)
            }
        }
    }
}

unsafe fn same(one: Word, other: Word) -> bool {
    // SAFETY: the caller's promise: both environments are there.
    one == other || unsafe { format::encode(one) == format::encode(other) }
}

functions! {
    /// The end of the parent's is the end of this process.
    fn enif_monitor_process(_env: Env, _object: *const c_void, _pid: *const ErlNifPid, monitor: *mut [usize; 4]) -> c_int {
        if !monitor.is_null() {
            monitor.write([0; 4]);
        }
        0
    }

    fn enif_demonitor_process(_env: Env, _object: *const c_void, _monitor: *const [usize; 4]) -> c_int {
        0
    }

    fn enif_compare_monitors(one: *const [usize; 4], other: *const [usize; 4]) -> c_int {
        (*one).cmp(&*other) as c_int
    }

    fn enif_is_process_alive(_env: Env, _pid: *const ErlNifPid) -> c_int {
        YES
    }

    /// Of no kind that an emulator has.
    fn enif_thread_type() -> c_int {
        0
    }

    fn enif_consume_timeslice(_env: Env, _percent: c_int) -> c_int {
        NO
    }
}
