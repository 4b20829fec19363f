//! What waits to be written on one HTTP/2 connection, all of its streams together.
//!
//! A peer may grant each of its streams a window of 2 GiB and read nothing: the socket takes no more then, and every
//! stream would put what it has into the connection's queue. From [`MAX_QUEUED_BYTES`] on they wait instead, and their
//! senders with them. What is in the queue has the peer's leave to be sent, so no stream waits for another one's window.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};

/// Body bytes that may wait to be written on a connection before another stream may add to them; one stream adds at
/// most [`super::MAX_SEND_BUFFER_BYTES`].
pub const MAX_QUEUED_BYTES: usize = 1024 * 1024;

/// How much is waiting, and which streams wait for it to go.
#[derive(Debug, Default)]
pub struct Queue {
    bytes: Cell<usize>,
    streams: Cell<u64>,
    waiting: RefCell<BTreeMap<u64, Waker>>,
}

impl Queue {
    /// For one more stream.
    #[must_use]
    pub fn entrance(self: &Rc<Self>) -> Entrance {
        let number = self.streams.get();
        self.streams.set(number.wrapping_add(1));
        Entrance { queue: Rc::clone(self), number }
    }

    fn remove(&self, count: usize) {
        let left = self.bytes.get().saturating_sub(count);
        self.bytes.set(left);
        if left < MAX_QUEUED_BYTES {
            std::mem::take(&mut *self.waiting.borrow_mut()).into_values().for_each(Waker::wake);
        }
    }
}

/// Where one stream puts what it has. It waits no longer when this is dropped.
#[derive(Debug)]
pub struct Entrance {
    queue: Rc<Queue>,
    number: u64,
}

impl Entrance {
    /// Waits until more may be queued. Cancel-safe.
    pub fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        if self.queue.bytes.get() < MAX_QUEUED_BYTES {
            return Poll::Ready(());
        }
        self.queue.waiting.borrow_mut().insert(self.number, cx.waker().clone());
        Poll::Pending
    }

    /// Counts these bytes until they have been written or thrown away.
    #[must_use]
    pub fn add(&self, bytes: Bytes) -> Queued {
        self.queue.bytes.set(self.queue.bytes.get().saturating_add(bytes.len()));
        Queued { bytes, queue: Rc::clone(&self.queue) }
    }
}

impl Drop for Entrance {
    fn drop(&mut self) {
        self.queue.waiting.borrow_mut().remove(&self.number);
    }
}

/// Bytes of a body on their way into a connection.
#[derive(Debug)]
pub struct Queued {
    bytes: Bytes,
    queue: Rc<Queue>,
}

impl Buf for Queued {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.queue.remove(count);
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        if !self.bytes.is_empty() {
            self.queue.remove(self.bytes.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn who_finds_no_room_waits_until_some_has_gone() {
        let (queue, woken) = (Rc::new(Queue::default()), Arc::new(Woken::default()));
        let waker = Waker::from(Arc::clone(&woken));
        let cx = Context::from_waker(&waker);
        let (one, other, gone) = (queue.entrance(), queue.entrance(), queue.entrance());
        let mut first = one.add(Bytes::from(vec![0; MAX_QUEUED_BYTES - 1]));
        assert!(other.poll_room(&cx).is_ready());
        let second = other.add(Bytes::from_static(&[0; 1000]));
        assert!(one.poll_room(&cx).is_pending() && one.poll_room(&cx).is_pending());
        assert!(gone.poll_room(&cx).is_pending());
        drop(gone);
        first.advance(500);
        assert_eq!(woken.0.load(Ordering::Relaxed), 0, "still too much");
        first.advance(600);
        assert_eq!(woken.0.load(Ordering::Relaxed), 1, "once, however often it asked");
        assert!(other.poll_room(&cx).is_ready());
        drop((first, second));
        assert_eq!(queue.bytes.get(), 0);
    }
}
