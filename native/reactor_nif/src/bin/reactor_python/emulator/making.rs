//! Making terms, of values and of bytes.

use std::ffi::{c_char, c_double, c_int, c_long, c_uchar, c_uint, c_ulong};
use std::ptr;
use std::slice;

use rustler::sys::ErlNifBinary;

use crate::emulator::{give, heap, same, Env, LATIN1, NO, YES};
use crate::format;
use crate::heap::{atom, look, Node, Term, Word, NIL};

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
