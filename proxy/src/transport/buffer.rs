//! Read buffers, lent by the worker to whoever is reading and given back as soon as they are empty.
//!
//! An idle connection holds none, so what a connection costs while it waits does not depend on how large the
//! reads are while it works. A buffer that fills up is exchanged for a larger one: small messages stay in the
//! cache, large bodies take few system calls.

use std::cell::RefCell;

/// Size of a first read, in bytes: a typical head with its body.
pub const SMALL_BUFFER_BYTES: usize = 16 * 1024;
/// Size once a read filled the small one, in bytes.
pub const LARGE_BUFFER_BYTES: usize = 256 * 1024;
/// Free small buffers that a worker keeps.
const SMALL_BUFFERS_KEPT: usize = 64;
/// Free large buffers that a worker keeps.
const LARGE_BUFFERS_KEPT: usize = 8;

/// Free outputs that a worker keeps.
const OUTPUTS_KEPT: usize = 64;
/// Outputs that grew beyond this are not kept, in bytes.
const MAX_OUTPUT_KEPT_BYTES: usize = 32 * 1024;

/// The free buffers of one worker.
#[derive(Debug, Default)]
pub struct BufferPool {
    small: RefCell<Vec<Box<[u8]>>>,
    large: RefCell<Vec<Box<[u8]>>>,
    outputs: RefCell<Vec<Vec<u8>>>,
}

impl BufferPool {
    /// An empty vector to write into.
    #[must_use]
    pub fn lend_output(&self) -> Vec<u8> {
        self.outputs.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes a vector back; what is in it is forgotten.
    pub fn give_back_output(&self, mut output: Vec<u8>) {
        let mut kept = self.outputs.borrow_mut();
        if kept.len() < OUTPUTS_KEPT && (1..=MAX_OUTPUT_KEPT_BYTES).contains(&output.capacity()) {
            output.clear();
            kept.push(output);
        }
    }

    fn lend(&self, size_bytes: usize) -> Box<[u8]> {
        let shelf = if size_bytes <= SMALL_BUFFER_BYTES { &self.small } else { &self.large };
        shelf.borrow_mut().pop().unwrap_or_else(|| vec![0; size_bytes].into_boxed_slice())
    }

    fn give_back(&self, storage: Box<[u8]>) {
        let (shelf, kept) = match storage.len() {
            SMALL_BUFFER_BYTES => (&self.small, SMALL_BUFFERS_KEPT),
            LARGE_BUFFER_BYTES => (&self.large, LARGE_BUFFERS_KEPT),
            _ => return,
        };
        let mut shelf = shelf.borrow_mut();
        if shelf.len() < kept {
            shelf.push(storage);
        }
    }
}

/// A window of unread bytes in a storage that may be lent or not be there at all.
#[derive(Debug, Default)]
pub struct Buffer {
    storage: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// The unread bytes.
    #[must_use]
    pub fn unread(&self) -> &[u8] {
        self.storage.get(self.start..self.end).unwrap_or_default()
    }

    /// The unread bytes, to be decoded where they are.
    #[must_use]
    pub fn unread_mut(&mut self) -> &mut [u8] {
        self.storage.get_mut(self.start..self.end).unwrap_or_default()
    }

    /// How many bytes are unread.
    #[must_use]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether nothing is unread.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    #[cfg(test)]
    pub(super) fn holds_nothing(&self) -> bool {
        self.storage.is_empty()
    }

    /// Marks bytes as read; more than there are is the same as all.
    pub fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Returns the storage to the worker if nothing is unread.
    pub fn release(&mut self, pool: &BufferPool) {
        if self.is_empty() && !self.storage.is_empty() {
            pool.give_back(std::mem::take(&mut self.storage));
        }
    }

    /// The space for the next read: never empty unless [`LARGE_BUFFER_BYTES`] are unread.
    pub fn space(&mut self, pool: &BufferPool) -> &mut [u8] {
        if self.storage.is_empty() {
            self.storage = pool.lend(SMALL_BUFFER_BYTES);
        } else if self.end == self.storage.len() {
            self.make_room(pool);
        }
        self.storage.get_mut(self.end..).unwrap_or_default()
    }

    /// Takes note that `count` bytes were written into [`Buffer::space`].
    pub fn filled(&mut self, count: usize) {
        self.end = (self.end + count).min(self.storage.len());
    }

    /// Exchanges an empty small storage for a large one: the last read filled it, so the peer has more to say.
    pub fn enlarge_if_empty(&mut self, pool: &BufferPool) {
        if self.is_empty() && self.storage.len() == SMALL_BUFFER_BYTES {
            pool.give_back(std::mem::replace(&mut self.storage, pool.lend(LARGE_BUFFER_BYTES)));
        }
    }

    /// Whether the storage is full to its end, which is when a larger one pays.
    #[must_use]
    pub fn is_full(&self) -> bool {
        !self.storage.is_empty() && self.end == self.storage.len()
    }

    /// Adds bytes behind the unread ones; says how many found room, which are all until [`LARGE_BUFFER_BYTES`] wait.
    pub fn push(&mut self, mut bytes: &[u8], pool: &BufferPool) -> usize {
        let before = bytes.len();
        while !bytes.is_empty() {
            let space = self.space(pool);
            let count = space.len().min(bytes.len());
            let (now, later) = bytes.split_at_checked(count).unwrap_or_default();
            match space.get_mut(..count) {
                Some(space) if count > 0 => space.copy_from_slice(now),
                _ => break,
            }
            self.filled(count);
            bytes = later;
        }
        before - bytes.len()
    }

    /// At least `count` bytes of space behind the unread ones; fewer only when [`LARGE_BUFFER_BYTES`] do not hold it.
    pub fn room(&mut self, count: usize, pool: &BufferPool) -> &mut [u8] {
        if self.storage.is_empty() {
            self.storage =
                pool.lend(if count <= SMALL_BUFFER_BYTES { SMALL_BUFFER_BYTES } else { LARGE_BUFFER_BYTES });
        }
        while self.storage.len() - self.end < count
            && (self.start > 0 || self.storage.len() < LARGE_BUFFER_BYTES)
        {
            self.make_room(pool);
        }
        self.storage.get_mut(self.end..).unwrap_or_default()
    }

    fn make_room(&mut self, pool: &BufferPool) {
        if self.start > 0 {
            self.storage.copy_within(self.start..self.end, 0);
        } else if self.storage.len() < LARGE_BUFFER_BYTES {
            let mut larger = pool.lend(LARGE_BUFFER_BYTES);
            if let Some(front) = larger.get_mut(..self.end) {
                front.copy_from_slice(self.unread());
            }
            pool.give_back(std::mem::replace(&mut self.storage, larger));
        }
        self.end -= self.start;
        self.start = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(buffer: &mut Buffer, pool: &BufferPool, byte: u8) -> usize {
        let space = buffer.space(pool);
        space.fill(byte);
        let count = space.len();
        buffer.filled(count);
        count
    }

    #[test]
    fn grows_once_and_then_is_full() {
        let pool = BufferPool::default();
        let mut buffer = Buffer::default();
        assert_eq!(fill(&mut buffer, &pool, 1), SMALL_BUFFER_BYTES);
        assert!(buffer.is_full());
        assert_eq!(fill(&mut buffer, &pool, 2), LARGE_BUFFER_BYTES - SMALL_BUFFER_BYTES);
        assert_eq!(buffer.len(), LARGE_BUFFER_BYTES);
        assert!(buffer.space(&pool).is_empty());
        assert_eq!(buffer.unread()[SMALL_BUFFER_BYTES - 1], 1);
        assert_eq!(buffer.unread()[SMALL_BUFFER_BYTES], 2);
    }

    #[test]
    fn read_bytes_make_room_for_new_ones() {
        let pool = BufferPool::default();
        let mut buffer = Buffer::default();
        fill(&mut buffer, &pool, 1);
        buffer.consume(10);
        assert_eq!(buffer.space(&pool).len(), 10);
        assert_eq!(buffer.len(), SMALL_BUFFER_BYTES - 10);
    }

    #[test]
    fn an_idle_buffer_holds_no_memory() {
        let pool = BufferPool::default();
        let mut buffer = Buffer::default();
        fill(&mut buffer, &pool, 1);
        buffer.release(&pool);
        assert!(!buffer.is_empty(), "unread bytes are never given away");
        buffer.consume(usize::MAX);
        buffer.release(&pool);
        assert!(buffer.storage.is_empty());
        assert_eq!(pool.small.borrow().len(), 1);
    }
}
