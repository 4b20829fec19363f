//! Message heads, lent by the worker for the time of one exchange.
//!
//! A connection that waits for its next request holds none, and a request that comes finds the memory of an
//! earlier one.

use std::cell::RefCell;

use super::message::{RequestHead, ResponseHead};

/// Free heads that a worker keeps.
const HEADS_KEPT: usize = 64;
/// Heads that grew beyond this are not kept, in bytes of their header sections.
const MAX_KEPT_BYTES: usize = 16 * 1024;

/// The heads of one exchange.
#[derive(Debug, Default)]
pub struct Heads {
    /// What the client asked.
    pub request: RequestHead,
    /// What it is answered.
    pub response: ResponseHead,
}

/// The free heads of one worker.
#[derive(Debug, Default)]
#[expect(clippy::vec_box, reason = "what is lent is moved, and a head is large")]
pub struct HeadPool(RefCell<Vec<Box<Heads>>>);

impl HeadPool {
    /// Empty heads.
    #[must_use]
    pub fn lend(&self) -> Box<Heads> {
        self.0.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes heads back for the next exchange.
    pub fn give_back(&self, mut heads: Box<Heads>) {
        let Heads { request, response } = &*heads;
        let sections = request.headers.capacity_bytes() + response.headers.capacity_bytes();
        let mut free = self.0.borrow_mut();
        if free.len() < HEADS_KEPT && sections + request.path.capacity() <= MAX_KEPT_BYTES {
            heads.request.clear();
            heads.response.clear();
            free.push(heads);
        }
    }
}
