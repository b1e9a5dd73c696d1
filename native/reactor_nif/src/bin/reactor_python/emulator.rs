//! What the native side asks of an emulator, for a process that has none.
//!
//! Terms are kept by [`Heap`]. A process is the number of a place at the VM's end of the control socket, or
//! one of the VM's own, and a message to it is written there. Processes do not die as long as the socket is open.
//! What only a NIF that Elixir called could need is in `absent.rs`.

use std::alloc::{alloc, dealloc, Layout};
use std::ffi::{c_char, c_double, c_int, c_long, c_uchar, c_uint, c_ulong, c_void};
use std::ptr;
use std::slice;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustler::sys::{ErlNifBinary, ErlNifEnv, ErlNifPid, ErlNifResourceTypeInit};

use crate::format;
use crate::heap::{atom, atom_name, integer, look, process, Foreign, Heap, Node, Term, Word, NIL};

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

/// Functions that were declared in C, with the caller's promise about what pointers point to.
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

// ---- environments ---------------------------------------------------------------

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

// ---- what a term is -------------------------------------------------------------

functions! {
    /// Its kind, as erl_nif numbers them.
    fn enif_term_type(_env: Env, term: Word) -> c_int {
        match look(term) {
            Term::Atom(_) => 1,
            Term::Small(_) | Term::Node(Node::Integer(_)) => 5,
            Term::Nil | Term::Node(Node::Cons(..)) => 6,
            Term::Node(Node::Binary(_)) => 2,
            Term::Node(Node::Float(_)) => 3,
            Term::Node(Node::Map(_)) => 7,
            Term::Node(Node::Tuple(_)) => 11,
            Term::Process(..) => 8,
            Term::Node(Node::Resource(_)) => 10,
            Term::Node(Node::Foreign(what, _)) => match what {
                Foreign::Bits => 2,
                Foreign::Fun => 4,
                Foreign::Integer => 5,
                Foreign::Pid => 8,
                Foreign::Port => 9,
                Foreign::Reference => 10,
            },
        }
    }

    fn enif_is_atom(_env: Env, term: Word) -> c_int {
        c_int::from(matches!(look(term), Term::Atom(_)))
    }

    fn enif_is_binary(_env: Env, term: Word) -> c_int {
        c_int::from(matches!(look(term), Term::Node(Node::Binary(_))))
    }

    fn enif_is_empty_list(_env: Env, term: Word) -> c_int {
        c_int::from(term == NIL)
    }

    fn enif_is_list(_env: Env, term: Word) -> c_int {
        c_int::from(matches!(look(term), Term::Nil | Term::Node(Node::Cons(..))))
    }

    fn enif_is_map(_env: Env, term: Word) -> c_int {
        c_int::from(matches!(look(term), Term::Node(Node::Map(_))))
    }

    fn enif_is_tuple(_env: Env, term: Word) -> c_int {
        c_int::from(matches!(look(term), Term::Node(Node::Tuple(_))))
    }

    fn enif_is_pid(_env: Env, term: Word) -> c_int {
        c_int::from(matches!(look(term), Term::Process(..) | Term::Node(Node::Foreign(Foreign::Pid, _))))
    }

    fn enif_is_port(_env: Env, term: Word) -> c_int {
        c_int::from(matches!(look(term), Term::Node(Node::Foreign(Foreign::Port, _))))
    }

    fn enif_is_ref(_env: Env, term: Word) -> c_int {
        c_int::from(matches!(look(term), Term::Node(Node::Foreign(Foreign::Reference, _))))
    }

    fn enif_is_fun(_env: Env, term: Word) -> c_int {
        c_int::from(matches!(look(term), Term::Node(Node::Foreign(Foreign::Fun, _))))
    }

    /// There are none: what would raise returns an atom.
    fn enif_is_exception(_env: Env, _term: Word) -> c_int {
        NO
    }

    fn enif_is_identical(one: Word, other: Word) -> c_int {
        c_int::from(same(one, other))
    }

    /// An order of some kind.
    fn enif_compare(one: Word, other: Word) -> c_int {
        if one == other {
            return 0;
        }
        format::encode(one).cmp(&format::encode(other)) as c_int
    }

    /// Not the emulator's, which nobody compares it with.
    fn enif_hash(_kind: c_int, term: Word, salt: u64) -> u64 {
        let bytes = format::encode(term);
        bytes.iter().fold(salt ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }
}

/// Encodings of names, as erl_nif numbers them.
const LATIN1: c_int = 1;

/// The name of an atom in that encoding, if it has one.
unsafe fn name_of(term: Word, encoding: c_int) -> Option<Vec<u8>> {
    // SAFETY: the caller's promise: its environment is there.
    let Term::Atom(number) = (unsafe { look(term) }) else {
        return None;
    };
    let name = atom_name(number);
    if encoding != LATIN1 {
        return Some(name.as_bytes().to_vec());
    }
    name.chars().map(|char| u8::try_from(char).ok()).collect()
}

// ---- what is in it --------------------------------------------------------------

functions! {
    fn enif_get_long(_env: Env, term: Word, to: *mut c_long) -> c_int {
        integer(term).map_or(NO, |value| give(to, value))
    }

    fn enif_get_ulong(_env: Env, term: Word, to: *mut c_ulong) -> c_int {
        if let Term::Node(Node::Foreign(Foreign::Integer, external)) = look(term) {
            // 64 bits without a sign.
            return match external[..] {
                [format::SMALL_BIG, 8, 0, ref digits @ ..] => match digits.try_into() {
                    Ok(digits) => give(to, u64::from_le_bytes(digits)),
                    Err(_) => NO,
                },
                _ => NO,
            };
        }
        let value = integer(term).and_then(|value| u64::try_from(value).ok());
        value.map_or(NO, |value| give(to, value))
    }

    fn enif_get_int(_env: Env, term: Word, to: *mut c_int) -> c_int {
        let value = integer(term).and_then(|value| c_int::try_from(value).ok());
        value.map_or(NO, |value| give(to, value))
    }

    fn enif_get_uint(_env: Env, term: Word, to: *mut c_uint) -> c_int {
        let value = integer(term).and_then(|value| c_uint::try_from(value).ok());
        value.map_or(NO, |value| give(to, value))
    }

    fn enif_get_double(_env: Env, term: Word, to: *mut c_double) -> c_int {
        match look(term) {
            Term::Node(Node::Float(value)) => give(to, *value),
            _ => NO,
        }
    }

    /// The length in bytes: not of a name that the encoding does not have.
    fn enif_get_atom_length(_env: Env, term: Word, to: *mut c_uint, encoding: c_int) -> c_int {
        match name_of(term, encoding) {
            Some(name) => give(to, name.len() as c_uint),
            None => NO,
        }
    }

    /// The name and a NUL byte: how many bytes that are.
    fn enif_get_atom(_env: Env, term: Word, to: *mut c_char, room: c_uint, encoding: c_int) -> c_int {
        let Some(name) = name_of(term, encoding) else {
            return NO;
        };
        if name.len() >= room as usize {
            return NO;
        }
        ptr::copy_nonoverlapping(name.as_ptr(), to.cast(), name.len());
        to.add(name.len()).write(0);
        name.len() as c_int + 1
    }

    fn enif_get_list_cell(_env: Env, term: Word, head: *mut Word, tail: *mut Word) -> c_int {
        match look(term) {
            Term::Node(Node::Cons(first, rest)) => give(head, *first) & give(tail, *rest),
            _ => NO,
        }
    }

    fn enif_get_list_length(_env: Env, term: Word, to: *mut c_uint) -> c_int {
        let mut count = 0;
        let mut rest = term;
        while let Term::Node(Node::Cons(_, tail)) = look(rest) {
            rest = *tail;
            count += 1;
        }
        if rest == NIL { give(to, count) } else { NO }
    }

    fn enif_get_tuple(_env: Env, term: Word, arity: *mut c_int, items: *mut *const Word) -> c_int {
        match look(term) {
            Term::Node(Node::Tuple(all)) => give(arity, all.len() as c_int) & give(items, all.as_ptr()),
            _ => NO,
        }
    }

    fn enif_get_map_size(_env: Env, term: Word, to: *mut usize) -> c_int {
        match look(term) {
            Term::Node(Node::Map(pairs)) => give(to, pairs.len()),
            _ => NO,
        }
    }

    fn enif_get_map_value(_env: Env, map: Word, key: Word, to: *mut Word) -> c_int {
        let Term::Node(Node::Map(pairs)) = look(map) else {
            return NO;
        };
        let found = pairs.iter().find(|(other, _)| same(*other, key));
        found.map_or(NO, |(_, value)| give(to, *value))
    }

    /// The number of a place, or a process of the VM's: see the top of this file.
    fn enif_get_local_pid(_env: Env, term: Word, to: *mut ErlNifPid) -> c_int {
        match look(term) {
            Term::Small(_) | Term::Process(..) => give(to.cast::<Word>(), term),
            Term::Node(Node::Foreign(Foreign::Pid, external)) => {
                let numbers = format::numbers(external);
                let word = numbers.and_then(|(id, serial)| process(id, serial));
                word.map_or(NO, |word| give(to.cast::<Word>(), word))
            }
            _ => NO,
        }
    }

    /// The VM knows: it is asked, and waited for.
    fn enif_whereis_pid(_env: Env, name: Word, to: *mut ErlNifPid) -> c_int {
        let Term::Atom(number) = look(name) else {
            return NO;
        };
        match crate::names::find(atom_name(number)) {
            Some(pid) => give(to, pid),
            None => NO,
        }
    }

    fn enif_inspect_binary(_env: Env, term: Word, to: *mut ErlNifBinary) -> c_int {
        match look(term) {
            Term::Node(Node::Binary(bytes)) => {
                (*to).size = bytes.len();
                (*to).data = bytes.as_ptr().cast_mut();
                YES
            }
            _ => NO,
        }
    }

    /// Of binaries alone.
    fn enif_inspect_iolist_as_binary(env: Env, term: Word, to: *mut ErlNifBinary) -> c_int {
        enif_inspect_binary(env, term, to)
    }
}

/// A place in a map, as erl_nif lays it out, though not what it has there.
#[repr(C)]
pub struct Iterator {
    map: Word,
    at: isize,
    _rest: [usize; 5],
}

impl Iterator {
    unsafe fn pair(&self) -> Option<(Word, Word)> {
        // SAFETY: whoever made it keeps its environment.
        match unsafe { look(self.map) } {
            Term::Node(Node::Map(pairs)) => pairs.get(usize::try_from(self.at).ok()?).copied(),
            _ => None,
        }
    }
}

functions! {
    fn enif_map_iterator_create(_env: Env, map: Word, to: *mut Iterator, entry: c_int) -> c_int {
        let Term::Node(Node::Map(pairs)) = look(map) else {
            return NO;
        };
        // 1 is the first, 2 the last.
        let at = if entry == 2 { pairs.len() as isize - 1 } else { 0 };
        give(to, Iterator { map, at, _rest: [0; 5] })
    }

    fn enif_map_iterator_destroy(_env: Env, _iterator: *mut Iterator) {}

    fn enif_map_iterator_next(_env: Env, iterator: *mut Iterator) -> c_int {
        (*iterator).at += 1;
        c_int::from((*iterator).pair().is_some())
    }

    fn enif_map_iterator_prev(_env: Env, iterator: *mut Iterator) -> c_int {
        (*iterator).at -= 1;
        c_int::from((*iterator).pair().is_some())
    }

    fn enif_map_iterator_get_pair(_env: Env, iterator: *mut Iterator, key: *mut Word, value: *mut Word) -> c_int {
        (*iterator).pair().map_or(NO, |pair| give(key, pair.0) & give(value, pair.1))
    }
}

// ---- making terms ---------------------------------------------------------------

/// A name in that encoding.
unsafe fn text(name: *const c_char, length: usize, encoding: c_int) -> String {
    // SAFETY: the caller's promise: so many bytes are there.
    let bytes: &[u8] = unsafe { slice::from_raw_parts(name.cast(), length) };
    match encoding {
        LATIN1 => bytes.iter().map(|byte| char::from(*byte)).collect(),
        _ => String::from_utf8_lossy(bytes).into_owned(),
    }
}

unsafe fn words<'a>(first: *const Word, count: usize) -> &'a [Word] {
    if count == 0 {
        return &[];
    }
    // SAFETY: the caller's promise: so many are there.
    unsafe { slice::from_raw_parts(first, count) }
}

functions! {
    fn enif_make_int(env: Env, value: c_int) -> Word {
        heap(env).integer(value.into())
    }

    fn enif_make_uint(env: Env, value: c_uint) -> Word {
        heap(env).integer(value.into())
    }

    fn enif_make_long(env: Env, value: c_long) -> Word {
        heap(env).integer(value)
    }

    fn enif_make_ulong(env: Env, value: c_ulong) -> Word {
        heap(env).unsigned(value)
    }

    fn enif_make_double(env: Env, value: c_double) -> Word {
        heap(env).add(Node::Float(value))
    }

    fn enif_make_atom_len(_env: Env, name: *const c_char, length: usize) -> Word {
        atom(&text(name, length, LATIN1))
    }

    /// Which atoms there are the parent knows: it looks again.
    fn enif_make_existing_atom_len(_env: Env, name: *const c_char, length: usize, to: *mut Word, encoding: c_int) -> c_int {
        give(to, atom(&text(name, length, encoding)))
    }

    fn enif_make_badarg(_env: Env) -> Word {
        atom("badarg")
    }

    fn enif_raise_exception(_env: Env, reason: Word) -> Word {
        reason
    }

    fn enif_make_tuple_from_array(env: Env, items: *const Word, count: c_uint) -> Word {
        heap(env).add(Node::Tuple(words(items, count as usize).to_vec()))
    }

    fn enif_make_list_from_array(env: Env, items: *const Word, count: c_uint) -> Word {
        heap(env).list(words(items, count as usize), NIL)
    }

    fn enif_make_list_cell(env: Env, head: Word, tail: Word) -> Word {
        heap(env).add(Node::Cons(head, tail))
    }

    fn enif_make_new_map(env: Env) -> Word {
        heap(env).add(Node::Map(Vec::new()))
    }

    /// False when a key is there twice.
    fn enif_make_map_from_arrays(env: Env, keys: *const Word, values: *const Word, count: usize, to: *mut Word) -> c_int {
        let keys = words(keys, count);
        let mut known: Vec<_> = keys.iter().map(|key| format::encode(*key)).collect();
        known.sort_unstable();
        known.dedup();
        if known.len() < count {
            return NO;
        }
        let pairs = keys.iter().copied().zip(words(values, count).iter().copied());
        give(to, heap(env).add(Node::Map(pairs.collect())))
    }

    fn enif_make_map_put(env: Env, map: Word, key: Word, value: Word, to: *mut Word) -> c_int {
        let Term::Node(Node::Map(pairs)) = look(map) else {
            return NO;
        };
        let mut pairs = pairs.clone();
        pairs.retain(|(other, _)| !same(*other, key));
        pairs.push((key, value));
        give(to, heap(env).add(Node::Map(pairs)))
    }

    fn enif_make_new_binary(env: Env, size: usize, to: *mut Word) -> *mut c_uchar {
        let (word, node) = heap(env).put(Node::Binary(vec![0; size]));
        to.write(word);
        match node {
            Node::Binary(bytes) => bytes.as_mut_ptr(),
            _ => ptr::null_mut(),
        }
    }

    /// A copy of that part of it.
    fn enif_make_sub_binary(env: Env, binary: Word, from: usize, size: usize) -> Word {
        let part = match look(binary) {
            Term::Node(Node::Binary(bytes)) => bytes.get(from..from.saturating_add(size)),
            _ => None,
        };
        heap(env).add(Node::Binary(part.unwrap_or_default().to_vec()))
    }

    /// The bytes of a binary that nobody else has, which are given back here.
    fn enif_make_binary(env: Env, binary: *mut ErlNifBinary) -> Word {
        let bytes = slice::from_raw_parts((*binary).data, (*binary).size).to_vec();
        enif_release_binary(binary);
        heap(env).add(Node::Binary(bytes))
    }

    fn enif_alloc_binary(size: usize, to: *mut ErlNifBinary) -> c_int {
        let bytes = vec![0u8; size].into_boxed_slice();
        (*to).size = size;
        (*to).data = Box::into_raw(bytes).cast();
        YES
    }

    fn enif_release_binary(binary: *mut ErlNifBinary) {
        let bytes = ptr::slice_from_raw_parts_mut((*binary).data, (*binary).size);
        drop(Box::from_raw(bytes));
    }

    fn enif_term_to_binary(_env: Env, term: Word, to: *mut ErlNifBinary) -> c_int {
        let bytes = format::encode(term).into_boxed_slice();
        (*to).size = bytes.len();
        (*to).data = Box::into_raw(bytes).cast();
        YES
    }

    fn enif_binary_to_term(env: Env, bytes: *const c_uchar, size: usize, to: *mut Word, _options: c_uint) -> usize {
        let bytes = slice::from_raw_parts(bytes, size);
        match format::decode(heap(env), bytes) {
            Some((word, taken)) => {
                to.write(word);
                taken
            }
            None => 0,
        }
    }
}

// ---- native objects -------------------------------------------------------------

/// What stands in front of an object: how many know it, and how it ends.
#[repr(C, align(16))]
struct Header {
    count: AtomicUsize,
    size: usize,
    kind: *const Kind,
}

/// A kind of objects.
pub struct Kind {
    end: Option<unsafe extern "C" fn(Env, *mut c_void)>,
}

fn layout(size: usize) -> Layout {
    let size = size_of::<Header>() + size;
    Layout::from_size_align(size, align_of::<Header>()).unwrap_or(Layout::new::<Header>())
}

unsafe fn header(object: *const c_void) -> *mut Header {
    // SAFETY: each object was made behind a header.
    unsafe { object.cast::<Header>().cast_mut().sub(1) }
}

functions! {
    fn enif_open_resource_type_x(_env: Env, _name: *const c_char, init: *const ErlNifResourceTypeInit, _flags: c_int, _tried: *mut c_int) -> *const Kind {
        let end = (*init).dtor;
        // SAFETY: a function, declared as a pointer to one, which may be null.
        let end = std::mem::transmute::<*const _, Option<unsafe extern "C" fn(Env, *mut c_void)>>(end);
        Box::leak(Box::new(Kind { end }))
    }

    fn enif_alloc_resource(kind: *const Kind, size: usize) -> *mut c_void {
        let made = alloc(layout(size)).cast::<Header>();
        if made.is_null() {
            std::alloc::handle_alloc_error(layout(size));
        }
        made.write(Header { count: AtomicUsize::new(1), size, kind });
        made.add(1).cast()
    }

    fn enif_keep_resource(object: *const c_void) {
        (*header(object)).count.fetch_add(1, Ordering::Relaxed);
    }

    fn enif_release_resource(object: *const c_void) {
        let header = header(object);
        if (*header).count.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        if let Some(end) = (*(*header).kind).end {
            let env = enif_alloc_env();
            end(env, object.cast_mut());
            enif_free_env(env);
        }
        dealloc(header.cast(), layout((*header).size));
    }

    /// A term that does not keep it: nobody at the other end could give it back.
    fn enif_make_resource(env: Env, object: *const c_void) -> Word {
        heap(env).add(Node::Resource(object as usize))
    }

    fn enif_get_resource(_env: Env, term: Word, kind: *const Kind, to: *mut *const c_void) -> c_int {
        match look(term) {
            Term::Node(Node::Resource(object)) => {
                let object = *object as *const c_void;
                if (*header(object)).kind == kind { give(to, object) } else { NO }
            }
            _ => NO,
        }
    }
}

// ---- processes ------------------------------------------------------------------

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
