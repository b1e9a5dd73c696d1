//! External term format, as far as the two ends of a control socket speak it.

mod reading;
mod writing;

use once_cell::sync::OnceCell;

pub use reading::decode;
pub use writing::{encode, write};

pub const VERSION: u8 = 131;
pub const SMALL_BIG: u8 = 110;

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

#[cfg(test)]
mod tests {
    use super::reading::DEEPEST;
    use super::*;
    use crate::heap::Heap;

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
