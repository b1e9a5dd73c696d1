//! External term format, as far as the two ends of a control socket speak it.

use once_cell::sync::OnceCell;

use crate::heap::{atom, atom_name, look, Foreign, Heap, Node, Term, Word, NIL};

pub const VERSION: u8 = 131;
pub const SMALL_BIG: u8 = 110;

/// Lists, tuples and maps within each other. Whatever is below that is an empty list here: what converts terms
/// refuses those that are a good deal less deep.
const DEEPEST: usize = 256;

/// Reads a term, with the version in front: the term, and how many bytes it took.
pub fn decode(heap: &mut Heap, bytes: &[u8]) -> Option<(Word, usize)> {
    let mut reader = Reader { bytes, at: 0 };
    if reader.byte()? != VERSION {
        return None;
    }
    let word = reader.term(heap, DEEPEST)?;
    Some((word, reader.at))
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    fn short(&mut self) -> Option<usize> {
        Some(usize::from(u16::from_be_bytes(
            self.take(2)?.try_into().ok()?,
        )))
    }

    fn long(&mut self) -> Option<usize> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?) as usize)
    }

    /// A number of things that take a byte each at least: not more than there are bytes.
    fn count(&mut self) -> Option<usize> {
        let count = self.long()?;
        (count <= self.bytes.len() - self.at).then_some(count)
    }

    fn terms(&mut self, heap: &mut Heap, count: usize, depth: usize) -> Option<Vec<Word>> {
        (0..count).map(|_| self.term(heap, depth - 1)).collect()
    }

    /// Passes over a term, however deep it is.
    fn skip(&mut self) -> Option<()> {
        let mut left = 1usize;
        while left > 0 {
            left -= 1;
            let size = match self.byte()? {
                97 => 1,
                98 => 4,
                70 => 8,
                106 => 0,
                107 => self.short()?,
                109 => self.long()?,
                SMALL_BIG => usize::from(self.byte()?) + 1,
                111 | 77 => self.long()?.checked_add(1)?,
                112 => self.long()?.checked_sub(4)?,
                tag @ (100 | 115 | 118 | 119) => {
                    self.atom(tag)?;
                    0
                }
                tag => {
                    left += match tag {
                        104 => self.byte()?.into(),
                        105 => self.count()?,
                        108 => self.count()? + 1,
                        116 => 2 * self.count()?,
                        _ => {
                            self.foreign(tag)?;
                            0
                        }
                    };
                    0
                }
            };
            self.take(size)?;
        }
        Some(())
    }

    fn term(&mut self, heap: &mut Heap, depth: usize) -> Option<Word> {
        if depth == 0 {
            self.skip()?;
            return Some(NIL);
        }
        let start = self.at;
        let foreign = match self.byte()? {
            97 => {
                let value = self.byte()?;
                return Some(heap.integer(value.into()));
            }
            98 => {
                let value = i32::from_be_bytes(self.take(4)?.try_into().ok()?);
                return Some(heap.integer(value.into()));
            }
            70 => {
                let value = f64::from_be_bytes(self.take(8)?.try_into().ok()?);
                return Some(heap.add(Node::Float(value)));
            }
            tag @ (100 | 115 | 118 | 119) => return self.atom(tag),
            104 => {
                let count = self.byte()?;
                let items = self.terms(heap, count.into(), depth)?;
                return Some(heap.add(Node::Tuple(items)));
            }
            105 => {
                let count = self.count()?;
                let items = self.terms(heap, count, depth)?;
                return Some(heap.add(Node::Tuple(items)));
            }
            106 => return Some(NIL),
            107 => {
                let count = self.short()?;
                let items: Vec<Word> = self
                    .take(count)?
                    .iter()
                    .map(|byte| heap.integer((*byte).into()))
                    .collect();
                return Some(heap.list(&items, NIL));
            }
            108 => {
                let count = self.count()?;
                let items = self.terms(heap, count, depth)?;
                let tail = self.term(heap, depth - 1)?;
                return Some(heap.list(&items, tail));
            }
            109 => {
                let count = self.long()?;
                let bytes = self.take(count)?.to_vec();
                return Some(heap.add(Node::Binary(bytes)));
            }
            SMALL_BIG => {
                let count = self.byte()?;
                let sign = self.byte()?;
                let digits = self.take(count.into())?;
                if let Some(value) = big(sign, digits) {
                    return Some(heap.integer(value));
                }
                Foreign::Integer
            }
            111 => {
                let count = self.long()?;
                self.take(count.checked_add(1)?)?;
                Foreign::Integer
            }
            116 => {
                let count = self.count()?;
                let items = self.terms(heap, count.checked_mul(2)?, depth)?;
                let pairs = items.chunks_exact(2).map(|pair| (pair[0], pair[1]));
                return Some(heap.add(Node::Map(pairs.collect())));
            }
            77 => {
                let count = self.long()?;
                self.take(count.checked_add(1)?)?;
                Foreign::Bits
            }
            112 => {
                let size = self.long()?;
                self.take(size.checked_sub(4)?)?;
                Foreign::Fun
            }
            tag => self.foreign(tag)?,
        };
        let external = self.bytes[start..self.at].to_vec();
        if foreign == Foreign::Pid && NODE.get().is_none() {
            // The first is one that the VM shows at the start.
            remember_node(&external);
        }
        Some(heap.add(Node::Foreign(foreign, external)))
    }

    /// What is named by an atom.
    fn foreign(&mut self, tag: u8) -> Option<Foreign> {
        match tag {
            88 => self.named(12, Foreign::Pid),
            103 => self.named(9, Foreign::Pid),
            89 => self.named(8, Foreign::Port),
            102 => self.named(5, Foreign::Port),
            120 => self.named(12, Foreign::Port),
            90 => {
                let count = self.short()?;
                self.named(4 + 4 * count, Foreign::Reference)
            }
            114 => {
                let count = self.short()?;
                self.named(1 + 4 * count, Foreign::Reference)
            }
            113 => {
                self.named(0, Foreign::Fun)?;
                // Its function, and the arity with a tag.
                self.named(2, Foreign::Fun)
            }
            _ => None,
        }
    }

    /// An atom and so many bytes more.
    fn named(&mut self, more: usize, what: Foreign) -> Option<Foreign> {
        let tag = self.byte()?;
        self.atom(tag)?;
        self.take(more)?;
        Some(what)
    }

    fn atom(&mut self, tag: u8) -> Option<Word> {
        let count = match tag {
            100 | 118 => self.short()?,
            115 | 119 => self.byte()?.into(),
            _ => return None,
        };
        let name = self.take(count)?;
        if matches!(tag, 118 | 119) {
            return Some(atom(std::str::from_utf8(name).ok()?));
        }
        let name: String = name.iter().map(|byte| char::from(*byte)).collect();
        Some(atom(&name))
    }
}

fn big(sign: u8, digits: &[u8]) -> Option<i64> {
    if digits.len() > 8 {
        return None;
    }
    let mut value = 0i128;
    for digit in digits.iter().rev() {
        value = value << 8 | i128::from(*digit);
    }
    i64::try_from(if sign == 0 { value } else { -value }).ok()
}

/// A term in external format, with the version in front. What is a native object here is nil there.
///
/// # Safety
/// The environments of the term have not been cleared.
pub unsafe fn encode(word: Word) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    // SAFETY: the caller's promise.
    unsafe { write(word, &mut bytes) };
    bytes
}

/// Likewise, without the version, behind what is there.
///
/// # Safety
/// As for [`encode`].
pub unsafe fn write(word: Word, into: &mut Vec<u8>) {
    // SAFETY: the caller's promise holds for all that a term consists of.
    unsafe {
        match look(word) {
            Term::Atom(number) => write_atom(atom_name(number), into),
            Term::Small(value) => write_integer(value, into),
            Term::Nil => into.push(106),
            Term::Process(id, serial) => write_pid(id, serial, into),
            Term::Node(Node::Integer(value)) => write_integer(*value, into),
            Term::Node(Node::Float(value)) => {
                into.push(70);
                into.extend_from_slice(&value.to_be_bytes());
            }
            Term::Node(Node::Binary(bytes)) => {
                into.push(109);
                into.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
                into.extend_from_slice(bytes);
            }
            Term::Node(Node::Cons(..)) => write_list(word, into),
            Term::Node(Node::Tuple(items)) => {
                match u8::try_from(items.len()) {
                    Ok(count) => into.extend_from_slice(&[104, count]),
                    Err(_) => {
                        into.push(105);
                        into.extend_from_slice(&(items.len() as u32).to_be_bytes());
                    }
                }
                items.iter().for_each(|item| write(*item, into));
            }
            Term::Node(Node::Map(pairs)) => {
                into.push(116);
                into.extend_from_slice(&(pairs.len() as u32).to_be_bytes());
                for (key, value) in pairs {
                    write(*key, into);
                    write(*value, into);
                }
            }
            Term::Node(Node::Foreign(_, external)) => into.extend_from_slice(external),
            Term::Node(Node::Resource(_)) => write_atom("nil", into),
        }
    }
}

unsafe fn write_list(word: Word, into: &mut Vec<u8>) {
    into.push(108);
    let count_at = into.len();
    into.extend_from_slice(&[0; 4]);
    let mut count = 0u32;
    let mut rest = word;
    // SAFETY: the promise of `encode`.
    unsafe {
        while let Term::Node(Node::Cons(head, tail)) = look(rest) {
            write(*head, into);
            rest = *tail;
            count += 1;
        }
        write(rest, into);
    }
    into[count_at..count_at + 4].copy_from_slice(&count.to_be_bytes());
}

/// What all processes of the VM have in their pids: its name in external format, and its incarnation.
static NODE: OnceCell<(Vec<u8>, [u8; 4])> = OnceCell::new();

/// From now on the node of this pid, in external format, is the one whose processes are known here.
fn remember_node(external: &[u8]) {
    if let Some((node, [_, _, creation])) = parts(external) {
        // It is said once, at the beginning.
        let _ = NODE.set((node.to_vec(), creation.to_be_bytes()));
    }
}

/// The numbers of a pid in external format, if it is one of that node's.
pub fn numbers(external: &[u8]) -> Option<(u32, u32)> {
    let (node, [id, serial, creation]) = parts(external)?;
    let known = NODE.get()?;
    (known.0 == node && known.1 == creation.to_be_bytes()).then_some((id, serial))
}

/// The node, an atom, and the three numbers behind it.
fn parts(external: &[u8]) -> Option<(&[u8], [u32; 3])> {
    let (tag, rest) = external.split_first()?;
    // The older one has a byte for the last.
    let creation = if *tag == 103 { 1 } else { 4 };
    let (node, numbers) = rest.split_at(rest.len().checked_sub(8 + creation)?);
    let number = |from: usize, to: usize| {
        let bytes = numbers[from..to].iter();
        bytes.fold(0, |number, byte| number << 8 | u32::from(*byte))
    };
    let all = [number(0, 4), number(4, 8), number(8, numbers.len())];
    Some((node, all))
}

fn write_pid(id: u32, serial: u32, into: &mut Vec<u8>) {
    let Some((node, creation)) = NODE.get() else {
        return write_atom("undefined", into);
    };
    into.push(88);
    into.extend_from_slice(node);
    into.extend_from_slice(&id.to_be_bytes());
    into.extend_from_slice(&serial.to_be_bytes());
    into.extend_from_slice(creation);
}

fn write_atom(name: &str, into: &mut Vec<u8>) {
    match u8::try_from(name.len()) {
        Ok(count) => into.extend_from_slice(&[119, count]),
        Err(_) => {
            into.push(118);
            into.extend_from_slice(&(name.len() as u16).to_be_bytes());
        }
    }
    into.extend_from_slice(name.as_bytes());
}

fn write_integer(value: i64, into: &mut Vec<u8>) {
    if let Ok(value) = u8::try_from(value) {
        into.extend_from_slice(&[97, value]);
    } else if let Ok(value) = i32::try_from(value) {
        into.push(98);
        into.extend_from_slice(&value.to_be_bytes());
    } else {
        into.extend_from_slice(&[SMALL_BIG, 8, u8::from(value < 0)]);
        into.extend_from_slice(&value.unsigned_abs().to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back(external: &[u8]) {
        let mut heap = Heap::default();
        let (word, taken) = decode(&mut heap, external).unwrap();
        assert_eq!(taken, external.len());
        // SAFETY: the heap is there.
        assert_eq!(unsafe { encode(word) }, external);
    }

    #[test]
    fn what_is_read_is_written_as_it_was() {
        there_and_back(&[131, 97, 7]);
        there_and_back(&[131, 98, 255, 255, 255, 255]);
        there_and_back(&[131, 104, 2, 119, 2, b'o', b'k', 106]);
        there_and_back(&[131, 108, 0, 0, 0, 1, 97, 1, 97, 2]);
        there_and_back(&[131, 116, 0, 0, 0, 1, 97, 1, 109, 0, 0, 0, 1, b'x']);
        there_and_back(&[131, 77, 0, 0, 0, 1, 3, 160]);
        let mut pid = vec![131, 88, 119, 1, b'n'];
        pid.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3]);
        there_and_back(&pid);
        // 2^64 - 1, and one more than 64 bits hold.
        there_and_back(&[131, 110, 8, 0, 255, 255, 255, 255, 255, 255, 255, 255]);
        there_and_back(&[131, 110, 9, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn a_process_of_the_vm_is_known_by_its_numbers() {
        let mut pid = vec![88, 119, 1, b'n'];
        pid.extend_from_slice(&[0, 0, 0, 7, 0, 0, 0, 2, 0, 0, 0, 3]);
        remember_node(&pid);
        assert_eq!(numbers(&pid), Some((7, 2)));
        let word = crate::heap::process(7, 2).unwrap();
        // SAFETY: it is no node.
        assert_eq!(unsafe { encode(word) }, [&[VERSION], &pid[..]].concat());
        let mut other = pid.clone();
        other[3] = b'm';
        assert_eq!(numbers(&other), None);
    }

    #[test]
    fn what_is_cut_short_or_lies_about_its_length_is_no_term() {
        let mut heap = Heap::default();
        let whole = [131, 104, 2, 119, 2, b'o', b'k', 97, 1];
        for end in 0..whole.len() {
            assert!(decode(&mut heap, &whole[..end]).is_none());
        }
        let long = [131, 108, 255, 255, 255, 255, 106];
        assert!(decode(&mut heap, &long).is_none());
        let map = [131, 116, 255, 255, 255, 255];
        assert!(decode(&mut heap, &map).is_none());
    }

    #[test]
    fn what_is_nested_too_deep_ends_in_an_empty_list() {
        let mut heap = Heap::default();
        let mut deep = vec![131];
        for _ in 0..1_000_000 {
            deep.extend_from_slice(&[104, 2, 119, 1, b'a']);
        }
        deep.push(106);
        let (word, taken) = decode(&mut heap, &deep).unwrap();
        assert_eq!(taken, deep.len());
        // SAFETY: the heap is there.
        let short = unsafe { encode(word) };
        // The atom beside it is as deep as that list.
        assert_eq!(short.len(), 1 + (DEEPEST - 1) * 5 + 4);
        deep.pop();
        assert!(decode(&mut heap, &deep).is_none());
    }
}
