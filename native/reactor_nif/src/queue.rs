//! Bytes that wait to be read by their owner, or to be written to a socket.

/// Bytes that wait, oldest first.
#[derive(Default)]
pub struct Queue {
    /// All of them, after those that are used up.
    pub bytes: Vec<u8>,
    /// So many are used up.
    pub start: usize,
    /// So many of the oldest have no newline.
    pub searched: usize,
}

impl Queue {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// All of them.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Puts more behind them.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 && self.start >= self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Forgets `n` bytes; an empty queue gives its memory back.
    pub fn consume(&mut self, n: usize) {
        self.start += n;
        self.searched = self.searched.saturating_sub(n);
        if self.start == self.bytes.len() {
            *self = Queue::default();
        }
    }
}
