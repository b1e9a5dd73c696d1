//! What a turn has taken out of write buffers, until it is written without the GIL.
//!
//! Little is copied, all of it behind each other. What is large is not: the protocol gets an empty
//! bytearray's memory for its own, and that which it filled is written from where it is.

use std::ops::Range;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyByteArray;

/// From so many bytes on a buffer is taken whole.
#[cfg(not(Py_GIL_DISABLED))]
const WHOLE: usize = 4 * 1024;
/// An arena larger than this is given back after the turn, in bytes.
const ARENA_KEPT: usize = 1024 * 1024;

/// Something that was taken.
pub enum Part {
    /// Where it is in the arena.
    Copied(Range<usize>),
    /// Which of the buffers has it.
    #[cfg(not(Py_GIL_DISABLED))]
    Whole(usize),
}

/// The memory of a bytearray that is ours alone.
#[cfg(not(Py_GIL_DISABLED))]
struct Whole {
    _owner: Py<PyByteArray>,
    start: *const u8,
    length: usize,
}

/// Of one context, and used on its thread.
#[derive(Default)]
pub struct Outgoing {
    arena: Vec<u8>,
    #[cfg(not(Py_GIL_DISABLED))]
    wholes: Vec<Whole>,
    /// How many bytes were taken in this turn.
    taken: usize,
}

impl Outgoing {
    /// How many bytes wait to be written.
    pub fn len(&self) -> usize {
        self.taken
    }

    /// Takes up to `limit` bytes off the front of a bytearray: what was taken, how much of that there
    /// is, and how much is left.
    pub fn take(
        &mut self,
        buffer: &Bound<'_, PyByteArray>,
        limit: usize,
    ) -> PyResult<(Part, usize, usize)> {
        let size = buffer.len();
        let taken = size.min(limit.max(1));
        #[cfg(not(Py_GIL_DISABLED))]
        if taken == size && taken >= WHOLE {
            if let Some(part) = self.exchange(buffer) {
                self.taken += taken;
                return Ok((part, taken, 0));
            }
        }
        let range = self.copy(buffer, taken, size)?;
        self.taken += taken;
        Ok((Part::Copied(range), taken, size - taken))
    }

    fn copy(
        &mut self,
        buffer: &Bound<'_, PyByteArray>,
        taken: usize,
        size: usize,
    ) -> PyResult<Range<usize>> {
        let start = self.arena.len();
        let raw = buffer.as_ptr();
        // SAFETY: with the GIL; the bytes are copied before anything else can run, and the bytearray
        // is resized (or has its front cut off) through its own functions.
        let cut = unsafe {
            let bytes = ffi::PyByteArray_AsString(raw).cast::<u8>();
            self.arena
                .extend_from_slice(std::slice::from_raw_parts(bytes, taken));
            if taken == size {
                ffi::PyByteArray_Resize(raw, 0)
            } else {
                ffi::PySequence_DelSlice(raw, 0, taken as ffi::Py_ssize_t)
            }
        };
        if cut != 0 {
            self.arena.truncate(start);
            return Err(PyErr::fetch(buffer.py()));
        }
        Ok(start..self.arena.len())
    }

    /// Lets a buffer and a new one of ours exchange what they have; not while somebody looks into it, who
    /// is told by an exception that it cannot be emptied.
    ///
    /// A new one has no memory. One that was emptied would keep a little where its bytes were, and grow in that place again:
    /// each connection would fill memory of its own, where now it fills what was freed last and is in the cache still.
    #[cfg(not(Py_GIL_DISABLED))]
    fn exchange(&mut self, buffer: &Bound<'_, PyByteArray>) -> Option<Part> {
        let py = buffer.py();
        let ours = empty(py)?;
        let theirs = buffer.as_ptr().cast::<ffi::PyByteArrayObject>();
        let raw = ours.as_ptr().cast::<ffi::PyByteArrayObject>();
        // SAFETY: with the GIL, two different bytearrays into which nobody looks exchange all that
        // says where their bytes are, as an assignment of their contents would. A subclass begins with
        // the same members.
        let (start, length) = unsafe {
            if (*theirs).ob_exports != 0 {
                return None;
            }
            std::mem::swap(&mut (*theirs).ob_base.ob_size, &mut (*raw).ob_base.ob_size);
            std::mem::swap(&mut (*theirs).ob_alloc, &mut (*raw).ob_alloc);
            std::mem::swap(&mut (*theirs).ob_bytes, &mut (*raw).ob_bytes);
            std::mem::swap(&mut (*theirs).ob_start, &mut (*raw).ob_start);
            #[cfg(Py_3_15)]
            std::mem::swap(&mut (*theirs).ob_bytes_object, &mut (*raw).ob_bytes_object);
            ((*raw).ob_start.cast(), (*raw).ob_base.ob_size as usize)
        };
        self.wholes.push(Whole {
            _owner: ours.unbind(),
            start,
            length,
        });
        Some(Part::Whole(self.wholes.len() - 1))
    }

    /// The bytes of a part; without the GIL too.
    pub fn bytes(&self, part: &Part) -> &[u8] {
        match part {
            Part::Copied(range) => &self.arena[range.clone()],
            #[cfg(not(Py_GIL_DISABLED))]
            Part::Whole(index) => {
                let whole = &self.wholes[*index];
                // SAFETY: the memory of a bytearray that nobody else knows, and that is freed only
                // when it is reclaimed, after it was written.
                unsafe { std::slice::from_raw_parts(whole.start, whole.length) }
            }
        }
    }

    /// Gives up the part that was taken last.
    pub fn drop_last(&mut self, _py: Python<'_>, part: Part, length: usize) {
        self.taken -= length;
        match part {
            Part::Copied(range) => self.arena.truncate(range.start),
            #[cfg(not(Py_GIL_DISABLED))]
            Part::Whole(index) => self.wholes.truncate(index),
        }
    }

    /// All parts have been written.
    pub fn written(&mut self) {
        self.taken = 0;
        if self.arena.capacity() > ARENA_KEPT {
            self.arena = Vec::new();
        }
        self.arena.clear();
    }

    /// Frees the memory of what was written; with the GIL, when nothing waits.
    pub fn reclaim(&mut self, _py: Python<'_>) {
        #[cfg(not(Py_GIL_DISABLED))]
        self.wholes.clear();
    }

    /// Leaves what is Python's to it: nothing can be said about its interpreter.
    pub fn abandon(&mut self) {
        #[cfg(not(Py_GIL_DISABLED))]
        std::mem::forget(std::mem::take(&mut self.wholes));
    }
}

/// A bytearray with nothing in it; None if there is no memory for one.
#[cfg(not(Py_GIL_DISABLED))]
fn empty(py: Python<'_>) -> Option<Bound<'_, PyByteArray>> {
    // SAFETY: with the GIL; it gives a new bytearray, or null and an exception.
    let made = unsafe {
        let raw = ffi::PyByteArray_FromStringAndSize(std::ptr::null(), 0);
        Bound::from_owned_ptr_or_err(py, raw)
    };
    made.ok()?.cast_into::<PyByteArray>().ok()
}
