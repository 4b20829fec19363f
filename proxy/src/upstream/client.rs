//! Connections to an endpoint while they are kept: one request at a time on HTTP/1, many on HTTP/2.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use h2::client::SendRequest;
use h2::{Ping, PingPong};
use tokio::sync::{Notify, OnceCell};
use tokio::time::{Instant, timeout};

use super::clusters::Place;
use crate::http::h1::link::H1Link;
use crate::http::h2::{Queue, Queued};
use crate::transport::Cutoff;

/// How long the settings of a peer of HTTP/2 may take.
const SETTINGS_TIMEOUT: Duration = Duration::from_secs(5);

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

    /// Whether the peer has closed the idle connection or sent what nobody asked for, or nothing more is to be begun
    /// on it.
    ///
    /// Looks only at what the event loop already knows, so it costs no system call in the common case.
    pub fn is_stale(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let retired = self.link.transport().known_cutoff().is_some_and(|cutoff| cutoff.retired().is_some());
        let stale = retired || self.link.poll_fill(&mut cx).is_ready();
        if !stale {
            self.link.release_memory();
        }
        stale
    }
}

/// An HTTP/2 connection to an endpoint.
#[derive(Debug)]
pub struct H2Connection {
    sender: SendRequest<Queued>,
    queue: Rc<Queue>,
    streams: Cell<u32>,
    started: Cell<u32>,
    max_streams: usize,
    max_requests: Option<u32>,
    idle_since: Cell<Instant>,
    /// Cleared by the connection's task when it ends.
    alive: Rc<Cell<bool>>,
    /// The peer has answered a request.
    answered: Cell<bool>,
    /// Told of every stream that ends: one of those who found no room may go on.
    room: Rc<Notify>,
    cutoff: Option<Rc<Cutoff>>,
    ping: RefCell<Option<PingPong>>,
    settled: OnceCell<()>,
}

impl H2Connection {
    /// A connection whose task clears `alive` at its end, and what ends it from outside. `room` is told when a stream
    /// ends on it.
    #[must_use]
    pub fn new(
        sender: SendRequest<Queued>,
        (max_streams, max_requests): (u32, Option<u32>),
        (alive, room, cutoff): (Rc<Cell<bool>>, Rc<Notify>, Option<Rc<Cutoff>>),
        now: Instant,
    ) -> Self {
        Self {
            sender,
            queue: Rc::default(),
            streams: Cell::new(0),
            started: Cell::new(0),
            max_streams: max_streams as usize,
            max_requests,
            idle_since: Cell::new(now),
            alive,
            answered: Cell::new(false),
            room,
            cutoff,
            ping: RefCell::default(),
            settled: OnceCell::new(),
        }
    }

    /// What the peer's settings are waited for with.
    #[must_use]
    pub fn asking(self, ping: Option<PingPong>) -> Self {
        *self.ping.borrow_mut() = ping;
        self
    }

    /// Waits until the peer's settings are known: they come before its answer to a ping. A connection that ends, or whose
    /// peer does not answer in time, is not waited for.
    async fn settings(&self) {
        let known = async {
            if let Some(mut ping) = self.ping.take() {
                let _ = timeout(SETTINGS_TIMEOUT, ping.ping(Ping::opaque())).await;
            }
        };
        self.settled.get_or_init(|| known).await;
    }

    /// Whether one more stream may be started.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let most = self.sender.current_max_send_streams().min(self.max_streams);
        self.takes_more() && (self.streams.get() as usize) < most
    }

    /// Whether it has room, or will have when a stream ends.
    #[must_use]
    pub fn takes_more(&self) -> bool {
        self.alive.get()
            && !self.is_retired()
            && self.max_requests.is_none_or(|limit| self.started.get() < limit)
    }

    fn is_retired(&self) -> bool {
        self.cutoff.as_ref().is_some_and(|cutoff| cutoff.retired().is_some())
    }

    /// Counts a stream until the guard is dropped.
    #[must_use]
    pub fn begin_stream(self: &Rc<Self>) -> StreamGuard {
        let was_idle = self.answered.get() && self.streams.get() == 0;
        self.streams.set(self.streams.get().saturating_add(1));
        self.started.set(self.started.get().saturating_add(1));
        StreamGuard { connection: Rc::clone(self), was_idle }
    }

    /// A handle to send one request with.
    #[must_use]
    pub fn sender(&self) -> SendRequest<Queued> {
        self.sender.clone()
    }

    /// Whether it is dead, used up or retired, or has been without a stream for too long.
    #[must_use]
    pub fn is_expired(&self, now: Instant, idle_timeout: Option<Duration>) -> bool {
        let idle = self.streams.get() == 0;
        let used_up = self.max_requests.is_some_and(|limit| self.started.get() >= limit);
        let too_old = idle_timeout.is_some_and(|limit| now.duration_since(self.idle_since.get()) >= limit);
        !self.alive.get() || (idle && (used_up || too_old || self.is_retired()))
    }
}

/// A stream under way.
#[derive(Debug)]
pub struct StreamGuard {
    connection: Rc<H2Connection>,
    was_idle: bool,
}

impl StreamGuard {
    /// What waits to be written on the connection.
    #[must_use]
    pub fn queue(&self) -> &Rc<Queue> {
        &self.connection.queue
    }

    /// Whether the connection had answered before and then waited for this request: its peer may have closed it for
    /// idleness at the same moment.
    #[must_use]
    pub const fn was_idle(&self) -> bool {
        self.was_idle
    }

    /// Waits until the peer's settings are known, for five seconds at the most.
    pub async fn settings(&self) {
        self.connection.settings().await;
    }

    /// Takes note that the peer has answered.
    pub fn answered(&self) {
        self.connection.answered.set(true);
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        let connection = &self.connection;
        connection.streams.set(connection.streams.get().saturating_sub(1));
        connection.idle_since.set(Instant::now());
        connection.room.notify_one();
    }
}
