//! Telling connections that they should come to an end.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Whether the listener that a connection came in on is being drained: it changed, it is gone, or the proxy is
/// ending.
///
/// Each clone has a seat of its own among those who wait, taken when it first waits and kept until it goes: a
/// connection waits before each request, and finds its seat as it left it.
#[derive(Debug, Default)]
pub struct Drain {
    state: Rc<State>,
    seat: Cell<Option<usize>>,
}

#[derive(Debug, Default)]
struct State {
    begun: Cell<bool>,
    seats: RefCell<Seats>,
}

/// Who is to be woken; at most as many as there are connections.
#[derive(Debug, Default)]
struct Seats {
    taken: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl Drain {
    /// Begins to drain; it cannot be taken back.
    pub fn begin(&self) {
        self.state.begun.set(true);
        let waiting = self.state.seats.borrow().taken.iter().flatten().cloned().collect::<Vec<_>>();
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Whether it has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.state.begun.get()
    }

    /// Waits for it to begin. Cancel-safe.
    pub async fn begun(&self) {
        poll_fn(|cx| self.poll_begun(cx)).await;
    }

    /// Ready once it has begun; until then the task that asked last is woken when it does.
    pub fn poll_begun(&self, cx: &Context<'_>) -> Poll<()> {
        if self.has_begun() {
            return Poll::Ready(());
        }
        let mut seats = self.state.seats.borrow_mut();
        let seat = self.seat.get().unwrap_or_else(|| seats.take());
        self.seat.set(Some(seat));
        if let Some(place) = seats.taken.get_mut(seat)
            && place.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker()))
        {
            *place = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Clone for Drain {
    fn clone(&self) -> Self {
        Self { state: Rc::clone(&self.state), seat: Cell::new(None) }
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        if let Some(seat) = self.seat.get() {
            self.state.seats.borrow_mut().leave(seat);
        }
    }
}

impl Seats {
    fn take(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.taken.push(None);
            self.taken.len() - 1
        })
    }

    fn leave(&mut self, seat: usize) {
        if let Some(place) = self.taken.get_mut(seat) {
            *place = None;
            self.free.push(seat);
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
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn all_that_wait_are_woken_and_none_that_left() {
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let cx = Context::from_waker(&waker);
        let drain = Drain::default();
        let waiting = [drain.clone(), drain.clone(), drain.clone()];
        for one in &waiting {
            assert!(one.poll_begun(&cx).is_pending());
            assert!(one.poll_begun(&cx).is_pending());
        }
        let [first, second, third] = waiting;
        drop(second);
        assert!(drain.clone().poll_begun(&cx).is_pending());
        assert_eq!(drain.state.seats.borrow().taken.len(), 3, "seats are taken again");
        drain.begin();
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
        assert!(first.poll_begun(&cx).is_ready() && third.has_begun());
    }
}
