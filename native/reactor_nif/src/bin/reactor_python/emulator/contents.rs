//! What is in a term: numbers, names, items, bytes.

use std::ffi::{c_char, c_double, c_int, c_long, c_uint, c_ulong};
use std::ptr;

use rustler::sys::{ErlNifBinary, ErlNifPid};

use crate::emulator::{give, same, Env, LATIN1, NO, YES};
use crate::format;
use crate::heap::{atom_name, integer, look, process, Foreign, Node, Term, Word, NIL};

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

    /// The number of a place, or a process of the VM's: see `emulator.rs`.
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
