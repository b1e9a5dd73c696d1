//! Reading a term. What comes may be cut short, lie about its length, or be as deep as it likes.

use crate::format::{remember_node, NODE, SMALL_BIG, VERSION};
use crate::heap::{atom, Foreign, Heap, Node, Word, NIL};

/// Lists, tuples and maps within each other. Whatever is below that is an empty list here: what converts terms
/// refuses those that are a good deal less deep.
pub(super) const DEEPEST: usize = 256;

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
