//! Connections to an endpoint while they are kept: one request at a time on HTTP/1, many on HTTP/2.

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::time::Instant;

use super::clusters::Place;
use crate::http::h1::link::H1Link;

/// An HTTP/1 connection to an endpoint.
#[derive(Debug)]
pub struct H1Client {
    link: H1Link,
    /// Requests sent so far.
    requests: u32,
    idle_since: Instant,
    /// The place among the cluster's connections.
    _place: Place,
}

impl H1Client {
    /// A connection that was just opened.
    #[must_use]
    pub const fn new(link: H1Link, place: Place, now: Instant) -> Self {
        Self { link, requests: 0, idle_since: now, _place: place }
    }

    /// The connection's two body ends.
    pub const fn link(&mut self) -> &mut H1Link {
        &mut self.link
    }

    /// The connection's two body ends, to look at.
    #[must_use]
    pub const fn link_ref(&self) -> &H1Link {
        &self.link
    }

    /// Requests sent so far.
    #[must_use]
    pub const fn requests(&self) -> u32 {
        self.requests
    }

    /// Counts a request that is about to be sent.
    pub const fn begin_request(&mut self) {
        self.requests = self.requests.saturating_add(1);
    }

    /// When it was last given back.
    #[must_use]
    pub const fn idle_since(&self) -> Instant {
        self.idle_since
    }

    /// Gives back memory and starts the idle clock.
    pub fn park(&mut self, now: Instant) {
        self.idle_since = now;
        self.link.release_memory();
    }

    /// Whether a certificate that it rests on has come to its end.
    #[must_use]
    pub fn is_used_up(&self, now: Instant) -> bool {
        self.link.transport().trusted_until().is_some_and(|until| now >= until)
    }

    /// Whether the peer has closed the idle connection or sent what nobody asked for.
    ///
    /// Looks only at what the event loop already knows, so it costs no system call in the common case.
    pub fn is_stale(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let stale = self.link.poll_fill(&mut cx).is_ready();
        if !stale {
            self.link.release_memory();
        }
        stale
    }
}

/// An HTTP/2 connection to an endpoint.
#[derive(Debug)]
pub struct H2Connection {
    sender: SendRequest<Bytes>,
    streams: Cell<u32>,
    started: Cell<u32>,
    max_requests: Option<u32>,
    /// When a certificate that it rests on comes to its end.
    trusted_until: Option<Instant>,
    retired: Cell<bool>,
    idle_since: Cell<Instant>,
    /// Cleared by the connection's task when it ends.
    alive: Rc<Cell<bool>>,
}

impl H2Connection {
    /// A connection whose task clears `alive` at its end.
    #[must_use]
    pub const fn new(
        sender: SendRequest<Bytes>,
        (max_requests, trusted_until): (Option<u32>, Option<Instant>),
        alive: Rc<Cell<bool>>,
        now: Instant,
    ) -> Self {
        Self {
            sender,
            streams: Cell::new(0),
            started: Cell::new(0),
            max_requests,
            trusted_until,
            retired: Cell::new(false),
            idle_since: Cell::new(now),
            alive,
        }
    }

    /// Whether one more stream may be started.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.alive.get()
            && !self.retired.get()
            && (self.streams.get() as usize) < self.sender.current_max_send_streams()
            && self.max_requests.is_none_or(|limit| self.started.get() < limit)
    }

    /// Counts a stream until the guard is dropped.
    #[must_use]
    pub fn begin_stream(self: &Rc<Self>) -> StreamGuard {
        self.streams.set(self.streams.get().saturating_add(1));
        self.started.set(self.started.get().saturating_add(1));
        StreamGuard(Rc::clone(self))
    }

    /// A handle to send one request with.
    #[must_use]
    pub fn sender(&self) -> SendRequest<Bytes> {
        self.sender.clone()
    }

    /// Whether it is dead, used up, or has been without a stream for too long.
    #[must_use]
    pub fn is_expired(&self, now: Instant, idle_timeout: Option<Duration>) -> bool {
        let idle = self.streams.get() == 0;
        if self.trusted_until.is_some_and(|until| now >= until) {
            self.retired.set(true);
        }
        let used_up =
            self.retired.get() || self.max_requests.is_some_and(|limit| self.started.get() >= limit);
        let too_old = idle_timeout.is_some_and(|limit| now.duration_since(self.idle_since.get()) >= limit);
        !self.alive.get() || (idle && (used_up || too_old))
    }
}

/// A stream under way.
#[derive(Debug)]
pub struct StreamGuard(Rc<H2Connection>);

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get().saturating_sub(1));
        self.0.idle_since.set(Instant::now());
    }
}
