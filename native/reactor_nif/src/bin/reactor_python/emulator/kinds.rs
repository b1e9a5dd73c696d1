//! What a term is, and which of two comes first.

use std::ffi::c_int;

use crate::emulator::{same, Env, NO};
use crate::format;
use crate::heap::{look, Foreign, Node, Term, Word, NIL};

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
