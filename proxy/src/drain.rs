//! Telling connections that they should come to an end.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// How long a connection that no request is under way on stays open once its drain has begun, or it was opened
/// during the drain. A request that was on its way already is answered, as the last one of the connection: whoever
/// sent it could not know, and on HTTP/1 may not send it again unless it is idempotent (RFC 9112 section 9.3.1).
pub const LAST_CALL: Duration = Duration::from_secs(1);

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
    begun: Cell<Option<Instant>>,
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
        if self.has_begun() {
            return;
        }
        self.state.begun.set(Some(Instant::now()));
        let waiting = self.state.seats.borrow().taken.iter().flatten().cloned().collect::<Vec<_>>();
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Whether it has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.state.begun.get().is_some()
    }

    /// Waits until a connection that was opened then, and that nothing is under way on, is to be closed. Cancel-safe.
    pub async fn last_call_is_over(&self, opened: Instant) {
        let end = poll_fn(|cx| self.poll_last_call(cx, opened)).await;
        sleep_until(end).await;
    }

    /// Ready once it has begun, with the end of the [`LAST_CALL`] of a connection that was opened then.
    pub fn poll_last_call(&self, cx: &Context<'_>, opened: Instant) -> Poll<Instant> {
        self.poll_begun(cx).map(|begun| begun.max(opened) + LAST_CALL)
    }

    /// Ready once it has begun, with the time of that; until then the task that asked last is woken when it does.
    pub fn poll_begun(&self, cx: &Context<'_>) -> Poll<Instant> {
        if let Some(begun) = self.state.begun.get() {
            return Poll::Ready(begun);
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

    #[tokio::test(start_paused = true)]
    async fn the_last_call_begins_with_the_drain_or_with_a_later_connection() {
        let (drain, before) = (Drain::default(), Instant::now());
        let cx = Context::from_waker(Waker::noop());
        assert!(drain.poll_last_call(&cx, before).is_pending());
        tokio::time::advance(LAST_CALL * 5).await;
        let begun = Instant::now();
        drain.begin();
        assert_eq!(drain.poll_last_call(&cx, before), Poll::Ready(begun + LAST_CALL));
        tokio::time::advance(LAST_CALL / 2).await;
        drain.begin();
        let opened = Instant::now();
        assert_eq!(drain.poll_last_call(&cx, before), Poll::Ready(begun + LAST_CALL), "it begins once");
        assert_eq!(drain.poll_last_call(&cx, opened), Poll::Ready(opened + LAST_CALL));
        drain.last_call_is_over(before).await;
        assert_eq!(Instant::now(), begun + LAST_CALL);
    }
}
