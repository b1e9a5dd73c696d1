//! Writing a term.

use crate::format::{NODE, SMALL_BIG, VERSION};
use crate::heap::{atom_name, look, Node, Term, Word};

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
