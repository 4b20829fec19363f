//! Room for the state of requests under way, lent by the worker for the time of one.
//!
//! The state of an exchange is several times what a connection needs to wait for its next request, and most connections
//! wait. So it does not stand in the connection's task but in a room of its own, which the next request on any
//! connection of the worker finds again.

use std::any::Any;
use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// Free rooms that a worker keeps.
const ROOMS_KEPT: usize = 256;

type Room<F> = Pin<Box<Option<F>>>;

/// The free rooms of one worker, all of them for the kind of future that came first.
#[derive(Debug, Default)]
pub struct Rooms(RefCell<Option<Box<dyn Any>>>);

impl Rooms {
    /// Makes a future in a room, to be polled there.
    pub fn run<F: Future + 'static>(self: &Rc<Self>, make: impl FnOnce() -> F) -> Running<F> {
        let mut room = self.with(Vec::pop).flatten().unwrap_or_else(|| Box::pin(None));
        room.as_mut().set(Some(make()));
        Running { room: Some(room), rooms: Rc::clone(self) }
    }

    fn with<F: 'static, R>(&self, use_shelf: impl FnOnce(&mut Vec<Room<F>>) -> R) -> Option<R> {
        let mut shelf = self.0.borrow_mut();
        let shelf = shelf.get_or_insert_with(|| Box::new(Vec::<Room<F>>::new()));
        shelf.downcast_mut::<Vec<Room<F>>>().map(use_shelf)
    }
}

/// A future in its room; the room is given back with it.
#[derive(Debug)]
pub struct Running<F: Future + 'static> {
    room: Option<Room<F>>,
    rooms: Rc<Rooms>,
}

impl<F: Future + 'static> Future for Running<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        match self.room.as_mut().and_then(|room| room.as_mut().as_pin_mut()) {
            Some(future) => future.poll(cx),
            None => Poll::Pending,
        }
    }
}

impl<F: Future + 'static> Drop for Running<F> {
    fn drop(&mut self) {
        let Some(mut room) = self.room.take() else { return };
        room.as_mut().set(None);
        self.rooms.with(|shelf| {
            if shelf.len() < ROOMS_KEPT {
                shelf.push(room);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::task::Waker;

    use super::*;

    async fn work(value: Option<u32>) -> u32 {
        match value {
            Some(value) => ready(value).await,
            None => pending().await,
        }
    }

    /// Free rooms for the kind of future that `_make` gives.
    fn free<F: Future + 'static>(rooms: &Rooms, _make: impl Fn(Option<u32>) -> F) -> Option<usize> {
        rooms.with(|shelf: &mut Vec<Room<F>>| shelf.len())
    }

    #[test]
    fn a_room_is_found_again_whether_its_future_ended_or_was_dropped() {
        let rooms = Rc::new(Rooms::default());
        let mut cx = Context::from_waker(Waker::noop());
        for value in [Some(1), None, Some(2)] {
            let mut running = rooms.run(|| work(value));
            assert_eq!(free(&rooms, work), Some(0), "the free room is used");
            let expected = value.map_or(Poll::Pending, Poll::Ready);
            assert_eq!(Pin::new(&mut running).poll(&mut cx), expected);
            drop(running);
            assert_eq!(free(&rooms, work), Some(1), "the room is given back");
        }
        assert_eq!(Pin::new(&mut rooms.run(|| ready(3))).poll(&mut cx), Poll::Ready(3), "of another kind");
        assert_eq!(free(&rooms, work), Some(1), "rooms of another kind are not kept");
    }

    #[test]
    fn free_rooms_are_bounded() {
        let rooms = Rc::new(Rooms::default());
        let all: Vec<_> = (0..=ROOMS_KEPT).map(|_| rooms.run(|| work(None))).collect();
        drop(all);
        assert_eq!(free(&rooms, work), Some(ROOMS_KEPT));
    }
}
