//! Terms where there is no emulator: trees of nodes, which live as long as their environment.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use once_cell::sync::Lazy;

/// A term as the native side has it: a word. Its three lowest bits say what the others are: where a node is,
/// the number of an atom, a small integer, a process of the VM's, or the empty list.
pub type Word = usize;

/// The empty list.
pub const NIL: Word = 3;

/// The largest integer that is in the word itself, and the smallest.
const SMALL: std::ops::RangeInclusive<i64> = -(1 << 60)..=((1 << 60) - 1);

/// Where in the word of a process its second number begins; the first one has the bits before.
const SERIAL_FROM: u32 = 34;
const SERIAL_FROM_MASK: u32 = (1 << 31) - 1;

/// What an environment keeps of a term.
pub enum Node {
    Integer(i64),
    Float(f64),
    Binary(Vec<u8>),
    Cons(Word, Word),
    Tuple(Vec<Word>),
    Map(Vec<(Word, Word)>),
    /// What has no meaning here: in external format, without the version.
    Foreign(Foreign, Vec<u8>),
    /// What a native object is known by.
    Resource(usize),
}

/// What it is that has no meaning here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// An integer that 64 bits do not hold.
    Integer,
    Bits,
    Fun,
    Pid,
    Port,
    Reference,
}

/// What a word is.
pub enum Term<'a> {
    Atom(usize),
    Small(i64),
    Nil,
    /// A process of the VM's: both numbers of its pid.
    Process(u32, u32),
    Node(&'a Node),
}

/// An environment. A word is where a node is, so nodes stay where they are.
#[derive(Default)]
#[allow(clippy::vec_box)]
pub struct Heap(Vec<Box<Node>>);

impl Heap {
    /// Forgets every term.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// A node, and where to write to it while nobody else knows it.
    pub fn put(&mut self, node: Node) -> (Word, &mut Node) {
        let mut node = Box::new(node);
        let word = std::ptr::from_mut(&mut *node) as Word;
        self.0.push(node);
        let last = self.0.len() - 1;
        (word, &mut self.0[last])
    }

    /// The word of a new node.
    pub fn add(&mut self, node: Node) -> Word {
        self.put(node).0
    }

    /// An integer.
    pub fn integer(&mut self, value: i64) -> Word {
        if SMALL.contains(&value) {
            (value as Word) << 3 | 2
        } else {
            self.add(Node::Integer(value))
        }
    }

    /// An integer without a sign.
    pub fn unsigned(&mut self, value: u64) -> Word {
        match i64::try_from(value) {
            Ok(value) => self.integer(value),
            Err(_) => {
                let mut external = vec![crate::format::SMALL_BIG, 8, 0];
                external.extend_from_slice(&value.to_le_bytes());
                self.add(Node::Foreign(Foreign::Integer, external))
            }
        }
    }

    /// A list with that tail.
    pub fn list(&mut self, items: &[Word], tail: Word) -> Word {
        items
            .iter()
            .rev()
            .fold(tail, |tail, item| self.add(Node::Cons(*item, tail)))
    }
}

/// Looks at a word.
///
/// # Safety
/// It was made by an environment that has not been cleared since.
pub unsafe fn look<'a>(word: Word) -> Term<'a> {
    match word & 7 {
        1 => Term::Atom(word >> 3),
        2 => Term::Small((word as i64) >> 3),
        3 => Term::Nil,
        4 => Term::Process(
            (word >> 3) as u32 & SERIAL_FROM_MASK,
            (word >> SERIAL_FROM) as u32,
        ),
        // SAFETY: the caller's promise.
        _ => Term::Node(unsafe { &*(word as *const Node) }),
    }
}

/// The word of a process with these numbers, if it holds them: those of every emulator so far.
pub fn process(id: u32, serial: u32) -> Option<Word> {
    let fits = id <= SERIAL_FROM_MASK && u64::from(serial) < 1 << (64 - SERIAL_FROM);
    fits.then_some((serial as Word) << SERIAL_FROM | (id as Word) << 3 | 4)
}

/// The value of an integer that 64 bits hold.
///
/// # Safety
/// As for [`look`].
pub unsafe fn integer(word: Word) -> Option<i64> {
    // SAFETY: the caller's promise.
    match unsafe { look(word) } {
        Term::Small(value) => Some(value),
        Term::Node(Node::Integer(value)) => Some(*value),
        _ => None,
    }
}

#[derive(Default)]
struct Atoms {
    names: Vec<&'static str>,
    numbers: HashMap<&'static str, usize>,
}

static ATOMS: Lazy<RwLock<Atoms>> = Lazy::new(RwLock::default);

/// The atom of that name. As in an emulator, it is there from then on.
pub fn atom(name: &str) -> Word {
    let known = ATOMS.read().unwrap_or_else(PoisonError::into_inner);
    if let Some(number) = known.numbers.get(name) {
        return number << 3 | 1;
    }
    drop(known);
    let mut atoms = ATOMS.write().unwrap_or_else(PoisonError::into_inner);
    if let Some(number) = atoms.numbers.get(name) {
        return number << 3 | 1;
    }
    let name: &'static str = Box::leak(name.to_owned().into_boxed_str());
    let number = atoms.names.len();
    atoms.names.push(name);
    atoms.numbers.insert(name, number);
    number << 3 | 1
}

/// The name of the atom with that number.
pub fn atom_name(number: usize) -> &'static str {
    let atoms = ATOMS.read().unwrap_or_else(PoisonError::into_inner);
    atoms.names.get(number).copied().unwrap_or_default()
}
