//! One endpoint as one worker sees it: its open connections and what is under way on them.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::client::{H1Client, H2Connection};
use super::connect::ConnectError;
use super::host::Host;
use super::outlier::OwnTally;
use crate::balance::ewma::Latency;
use crate::transport::{Cutoff, Registry};

/// Idle HTTP/1 connections kept per endpoint and worker; more are closed after use.
pub const MAX_IDLE_PER_ENDPOINT: usize = 512;

/// The state of one endpoint in one worker. It lives through updates that keep its address.
#[derive(Debug)]
pub struct EndpointState {
    address: SocketAddr,
    /// Where else it is.
    more: Arc<[SocketAddr]>,
    hostname: Option<Arc<str>>,
    /// Idle connections, the most recently used last.
    #[expect(
        clippy::vec_box,
        reason = "a client moves between the pool and its exchange with every request"
    )]
    idle: RefCell<Vec<Box<H1Client>>>,
    /// Open HTTP/2 connections.
    shared: RefCell<Vec<Rc<H2Connection>>>,
    /// Requests and TCP connections under way from this worker.
    active: Cell<u32>,
    /// Connections that are being opened.
    opening: Cell<u32>,
    /// What all workers know of it.
    host: Arc<Host>,
    /// Its latency to this worker.
    pub latency: Latency,
    /// How requests of this worker fared there lately.
    pub tally: OwnTally,
    /// Since when it may get requests.
    since: Cell<Instant>,
    was_well: Cell<bool>,
    /// Connections that end when it turns unwell.
    opaque: Registry<Cutoff>,
    /// A removed endpoint keeps no connection after use.
    removed: Cell<bool>,
    /// Whether an HTTP/2 connection is being opened, how often that failed, and with what.
    connecting: Cell<bool>,
    /// It is known to speak HTTP/1 alone.
    shares_none: Cell<bool>,
    failures: Cell<u64>,
    last_failure: RefCell<Option<ConnectError>>,
    settled: Rc<Notify>,
}

impl EndpointState {
    /// An endpoint without connections.
    #[must_use]
    pub fn new(address: SocketAddr, hostname: Option<Arc<str>>, host: Arc<Host>) -> Self {
        Self {
            address,
            more: Arc::default(),
            hostname,
            host,
            latency: Latency::default(),
            tally: OwnTally::default(),
            since: Cell::new(Instant::now()),
            was_well: Cell::new(false),
            opaque: Registry::default(),
            idle: RefCell::default(),
            shared: RefCell::default(),
            active: Cell::new(0),
            opening: Cell::new(0),
            removed: Cell::new(false),
            connecting: Cell::new(false),
            shares_none: Cell::new(false),
            failures: Cell::new(0),
            last_failure: RefCell::default(),
            settled: Rc::default(),
        }
    }

    /// It is at these addresses too.
    #[must_use]
    pub fn and_at(mut self, more: &Arc<[SocketAddr]>) -> Self {
        self.more = Arc::clone(more);
        self
    }

    /// Where else it is.
    #[must_use]
    pub const fn more(&self) -> &Arc<[SocketAddr]> {
        &self.more
    }

    /// Everywhere it is.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        std::iter::once(self.address).chain(self.more.iter().copied())
    }

    /// Where it is; the first of its addresses where it has several.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its name, where it has one.
    #[must_use]
    pub const fn hostname(&self) -> Option<&Arc<str>> {
        self.hostname.as_ref()
    }

    /// What all workers know of it.
    #[must_use]
    pub const fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// Since when it may get requests: it is new then, or well again.
    #[must_use]
    pub fn since(&self) -> Instant {
        self.since.get()
    }

    /// Takes note of whether it may get requests. Where it no longer may, what is idle is closed, and so are the
    /// opaque connections that end with its health.
    pub fn set_well(&self, well: bool) {
        match (self.was_well.replace(well), well) {
            (false, true) => self.since.set(Instant::now()),
            (true, false) => {
                self.close_all();
                self.opaque.alive().iter().for_each(|connection| connection.cut());
            }
            (true, true) | (false, false) => {}
        }
    }

    /// Takes note of an opaque connection that ends when the endpoint turns unwell.
    pub fn ends_with_health(&self, connection: &Rc<Cutoff>) {
        self.opaque.add(connection);
    }

    /// As if it had been there for longer.
    #[cfg(test)]
    pub(crate) fn backdate(&self, by: Duration) {
        self.since.set(self.since.get().checked_sub(by).unwrap());
    }

    /// How much this worker has under way there.
    #[must_use]
    pub fn active(&self) -> u32 {
        self.active.get()
    }

    /// Counts something under way until the guard is dropped.
    #[must_use]
    pub fn begin(self: &Rc<Self>) -> ActiveGuard {
        self.active.set(self.active.get().saturating_add(1));
        ActiveGuard(Rc::clone(self))
    }

    /// Whether this worker is opening a connection to it.
    #[must_use]
    pub fn is_opening(&self) -> bool {
        self.opening.get() > 0
    }

    /// Counts a connection that is being opened until the guard is dropped.
    #[must_use]
    pub fn begin_opening(self: &Rc<Self>) -> OpeningGuard {
        self.opening.set(self.opening.get().saturating_add(1));
        OpeningGuard(Rc::clone(self))
    }

    /// An idle HTTP/1 connection that its peer has not closed.
    #[must_use]
    pub fn take_idle(&self) -> Option<Box<H1Client>> {
        let mut idle = self.idle.borrow_mut();
        while let Some(mut client) = idle.pop() {
            if !client.is_stale() {
                return Some(client);
            }
        }
        None
    }

    /// Keeps a connection for the next request, unless the endpoint is gone or has enough of them.
    pub fn keep_idle(&self, mut client: Box<H1Client>, now: Instant) {
        let mut idle = self.idle.borrow_mut();
        if self.removed.get() || idle.len() >= MAX_IDLE_PER_ENDPOINT {
            return;
        }
        client.park(now);
        idle.push(client);
    }

    /// Closes idle connections that are too old or that the peer closed; says how many are left.
    pub fn sweep(&self, now: Instant, idle_timeout: Option<Duration>) -> usize {
        let mut idle = self.idle.borrow_mut();
        idle.retain_mut(|client| {
            let expired = idle_timeout.is_some_and(|limit| now.duration_since(client.idle_since()) >= limit);
            !expired && !client.is_stale()
        });
        let mut shared = self.shared.borrow_mut();
        shared.retain(|connection| !connection.is_expired(now, idle_timeout));
        idle.len() + shared.len()
    }

    /// Closes what is idle and keeps nothing from now on; what is under way goes on.
    pub fn remove(&self) {
        self.removed.set(true);
        self.close_all();
    }

    /// Closes what is idle; what is under way goes on.
    pub fn close_all(&self) {
        self.idle.borrow_mut().clear();
        self.shared.borrow_mut().clear();
    }

    /// An HTTP/2 connection with room for one more stream.
    #[must_use]
    pub fn shared_connection(&self) -> Option<Rc<H2Connection>> {
        self.shared.borrow().iter().rev().find(|connection| connection.has_room()).map(Rc::clone)
    }

    /// Adds an open HTTP/2 connection.
    pub fn add_shared(&self, connection: Rc<H2Connection>) {
        if !self.removed.get() {
            self.shared.borrow_mut().push(connection);
        }
    }

    /// Takes out an HTTP/2 connection that accepts no more streams.
    pub fn discard_shared(&self, connection: &Rc<H2Connection>) {
        self.shared.borrow_mut().retain(|kept| !Rc::ptr_eq(kept, connection));
    }

    /// Whether it is known not to speak HTTP/2, so that there is nothing to wait for while somebody connects.
    #[must_use]
    pub const fn shares_none(&self) -> bool {
        self.shares_none.get()
    }

    /// Takes note of whether it speaks HTTP/2.
    pub fn found_sharing(&self, shares: bool) {
        self.shares_none.set(!shares);
    }

    /// Whether somebody is opening an HTTP/2 connection.
    #[must_use]
    pub fn is_connecting(&self) -> bool {
        self.connecting.get()
    }

    /// Takes note that the next HTTP/2 connection is being opened, until the guard is dropped.
    #[must_use]
    pub fn begin_connecting(self: &Rc<Self>) -> ConnectingGuard {
        self.connecting.set(true);
        ConnectingGuard(Rc::clone(self))
    }

    /// Whether this worker has an HTTP/2 connection to it that has room, or will have.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.shared.borrow().iter().any(|connection| connection.takes_more())
    }

    /// Told when a connection has room again.
    #[must_use]
    pub const fn room(&self) -> &Rc<Notify> {
        &self.settled
    }

    /// Waits until whoever is connecting is done, or an HTTP/2 connection has room.
    ///
    /// # Errors
    /// How the attempt that was waited for failed.
    pub async fn room_or_failure(&self) -> Result<(), ConnectError> {
        let before = self.failures.get();
        self.settled.notified().await;
        if self.failures.get() == before {
            return Ok(());
        }
        self.last_failure.borrow().clone().map_or(Ok(()), Err)
    }

    /// Tells those who wait that the attempt failed.
    pub fn connect_failed(&self, error: &ConnectError) {
        self.failures.set(self.failures.get().wrapping_add(1));
        *self.last_failure.borrow_mut() = Some(error.clone());
    }
}

/// Something under way at an endpoint.
#[derive(Debug)]
pub struct ActiveGuard(Rc<EndpointState>);

impl Drop for ActiveGuard {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get().saturating_sub(1));
    }
}

/// A connection that is being opened to an endpoint.
#[derive(Debug)]
pub struct OpeningGuard(Rc<EndpointState>);

impl Drop for OpeningGuard {
    fn drop(&mut self) {
        self.0.opening.set(self.0.opening.get().saturating_sub(1));
    }
}

/// The right to open an HTTP/2 connection; wakes those who wait when it is given up.
#[derive(Debug)]
pub struct ConnectingGuard(Rc<EndpointState>);

impl Drop for ConnectingGuard {
    fn drop(&mut self) {
        self.0.connecting.set(false);
        self.0.settled.notify_waiters();
    }
}
