//! The bytes that are sent, and what is expected back.
//!
//! Every connection sends one endless pseudo-random stream, cut into messages. A byte's value
//! depends on its position in that stream, so bytes that come back changed, missing, repeated,
//! out of order or on another connection differ from what is expected there. The stream repeats
//! after [`PERIOD`] bytes, a prime, so that no message size falls into step with it.

/// Bytes after which the stream repeats.
pub const PERIOD: usize = 262_139;

/// The longest piece of the stream that [`Pattern::slice`] gives at once.
pub const LONGEST_SLICE: usize = 256 * 1024;

/// Precomputed stream, so that checking a byte costs a comparison of memory and no arithmetic.
pub struct Pattern {
    bytes: Vec<u8>,
}

impl Pattern {
    /// Computes the stream: always the same one, so that a failure can be repeated.
    pub fn new() -> Self {
        let mut random = Random::new(0x5EED_EC40);
        let mut bytes: Vec<u8> = (0..PERIOD).map(|_| (random.next() >> 56) as u8).collect();
        // One slice beyond the period: a slice is contiguous wherever it starts.
        for index in 0..LONGEST_SLICE {
            bytes.push(bytes[index]);
        }
        Self { bytes }
    }

    /// Up to `wanted` bytes of the stream from `position` on; never more than [`LONGEST_SLICE`].
    #[inline]
    pub fn slice(&self, position: u64, wanted: u64) -> &[u8] {
        let start = (position % PERIOD as u64) as usize;
        let length = wanted.min(LONGEST_SLICE as u64) as usize;
        &self.bytes[start..start + length]
    }

    /// Position of the first byte of `received` that is not the stream's at `position`, if any.
    #[inline]
    pub fn first_difference(&self, position: u64, received: &[u8]) -> Option<u64> {
        let mut checked = 0;
        while checked < received.len() {
            let at = position + checked as u64;
            let expected = self.slice(at, (received.len() - checked) as u64);
            let piece = &received[checked..checked + expected.len()];
            if piece != expected {
                let offset = piece.iter().zip(expected).position(|(a, b)| a != b)?;
                return Some(at + offset as u64);
            }
            checked += expected.len();
        }
        None
    }
}

/// Where in the stream a connection begins: far apart, so that connections are told apart.
pub fn base(connection: usize) -> u64 {
    (connection as u64 * 100_003) % PERIOD as u64
}

/// SplitMix64: small, fast, and good enough for test data and sizes. Not for secrets.
pub struct Random {
    state: u64,
}

impl Random {
    /// A generator whose numbers follow from `seed` alone.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next 64 random bits.
    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

/// The sizes of a connection's messages, in bytes.
pub struct Sizes {
    largest: u64,
    random: Option<Random>,
}

impl Sizes {
    /// Always `largest`; or, where `random`, uniform in `1..=largest` and different per connection.
    pub fn new(largest: u64, random: bool, connection: usize) -> Self {
        let random = random.then(|| Random::new(0xA11CE ^ ((connection as u64) << 20)));
        Self { largest, random }
    }

    /// The size of the next message.
    #[inline]
    pub fn next(&mut self) -> u64 {
        match &mut self.random {
            None => self.largest,
            Some(random) => 1 + random.next() % self.largest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_accepted_at_any_position_and_across_its_end() {
        let pattern = Pattern::new();
        for position in [0, 1, 63, PERIOD as u64 - 1, PERIOD as u64 * 7 + 11] {
            let mut received = pattern.slice(position, 65_536).to_vec();
            received.extend_from_slice(pattern.slice(position + 65_536, LONGEST_SLICE as u64));
            assert_eq!(pattern.first_difference(position, &received), None);
        }
    }

    #[test]
    fn a_single_changed_bit_is_found_where_it_is() {
        let pattern = Pattern::new();
        for at in [0usize, 1, 40_000, 299_999] {
            let mut received = pattern.slice(5, LONGEST_SLICE as u64).to_vec();
            received.extend_from_slice(pattern.slice(5 + LONGEST_SLICE as u64, 40_000));
            received[at] ^= 1;
            let found = pattern.first_difference(5, &received);
            assert_eq!(found, Some(5 + at as u64));
        }
    }

    #[test]
    fn messages_that_are_swapped_repeated_or_lost_are_found() {
        let pattern = Pattern::new();
        for size in [64u64, 1024, 65_536] {
            for wrong in 0..16 {
                let received = pattern.slice(wrong * size, size);
                let difference = pattern.first_difference(8 * size, received);
                assert_eq!(difference.is_none(), wrong == 8, "{size} bytes, {wrong}");
            }
        }
    }

    #[test]
    fn another_connections_bytes_are_found() {
        let pattern = Pattern::new();
        let mine = base(0);
        for other in 1..2_000 {
            let received = pattern.slice(base(other), 64);
            assert!(pattern.first_difference(mine, received).is_some());
        }
    }

    #[test]
    fn sizes_are_fixed_or_cover_their_whole_range() {
        let mut fixed = Sizes::new(64, false, 3);
        assert!((0..100).all(|_| fixed.next() == 64));
        let mut random = Sizes::new(4, true, 3);
        let mut seen = [0u32; 5];
        (0..1_000).for_each(|_| seen[random.next() as usize] += 1);
        assert_eq!(seen[0], 0);
        assert!(seen[1..].iter().all(|&count| count > 150), "{seen:?}");
    }
}
