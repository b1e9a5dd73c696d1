//! Of Erlang's external term format, what conversions read and write: the tags of what the C interface
//! of the emulator does not show.

use rustler::{Env, Term};

/// In front of each term.
pub const VERSION: u8 = 131;
/// Integers of up to 255 bytes, and of more.
pub const SMALL_BIG: u8 = 110;
pub const LARGE_BIG: u8 = 111;
/// Atoms in UTF-8, of up to 255 bytes, and of more.
pub const SMALL_ATOM: u8 = 119;
pub const ATOM: u8 = 118;
/// Bits that do not fill a byte.
pub const BITS: u8 = 77;

/// A term without the version in front.
pub fn encode(term: Term) -> Vec<u8> {
    term.to_binary()
        .as_slice()
        .get(1..)
        .unwrap_or_default()
        .to_vec()
}

/// The term that all of these bytes, with the version, are. Atoms that do not exist are not made.
pub fn decode<'a>(env: Env<'a>, bytes: &[u8]) -> Option<Term<'a>> {
    let (term, used) = env.binary_to_term(bytes)?;
    (used == bytes.len()).then_some(term)
}
