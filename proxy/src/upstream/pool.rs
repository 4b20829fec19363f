//! Lends a connection to an endpoint, opening one where the cluster's limits allow it.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

use super::agreed;
use super::client::{H1Client, H2Connection};
use super::clusters::{ClusterState, Place};
use super::connect::{ConnectError, Offer, connect};
use super::endpoint::EndpointState;
use super::link::UpstreamLink;
use super::usage::{Permit, Resource};
use crate::http::h1::link::H1Link;
use crate::model::limits::Priority;
use crate::transport::{Fair, Transport};

/// The protocol spoken with an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// HTTP/1.1, one request at a time.
    Http1,
    /// HTTP/2 by prior knowledge (RFC 9113 section 3.3).
    Http2,
    /// What TLS agrees on.
    Agreed,
}

/// Why no connection could be lent.
#[derive(Debug, thiserror::Error)]
pub enum AcquireError {
    /// A circuit-breaker limit is reached.
    #[error("{} of the cluster is reached", .0.limit_name())]
    Overflow(Resource),
    /// No connection could be opened.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

/// A connection that is open and idle, at no cost; `None` when one must be opened or waited for.
#[must_use]
pub fn acquire_idle(endpoint: &Rc<EndpointState>, protocol: UpstreamProtocol) -> Option<UpstreamLink> {
    match protocol {
        UpstreamProtocol::Http1 | UpstreamProtocol::Agreed => endpoint.take_idle().map(UpstreamLink::from_h1),
        UpstreamProtocol::Http2 => None,
    }
}

/// A connection for one exchange, waiting for it as long as the cluster allows. Cancel-safe.
///
/// # Errors
/// When a limit is reached or the endpoint cannot be reached.
pub async fn acquire(
    cluster: &Rc<ClusterState>,
    endpoint: &Rc<EndpointState>,
    protocol: UpstreamProtocol,
    priority: Priority,
) -> Result<UpstreamLink, AcquireError> {
    match protocol {
        UpstreamProtocol::Http1 => acquire_h1(cluster, endpoint, priority).await,
        UpstreamProtocol::Http2 => acquire_h2(cluster, endpoint, priority).await,
        UpstreamProtocol::Agreed => agreed::acquire(cluster, endpoint, priority).await,
    }
}

/// Opens a plain connection for an opaque stream, within the cluster's limits.
///
/// # Errors
/// When a limit is reached or the endpoint cannot be reached.
pub async fn open_opaque(
    cluster: &Rc<ClusterState>,
    endpoint: &Rc<EndpointState>,
) -> Result<(Transport, Place), AcquireError> {
    let Some(place) = cluster.connection_permit(Priority::Default, false) else {
        return Err(AcquireError::Overflow(Resource::Connections));
    };
    let way = (endpoint.address(), &**endpoint.more());
    let transport = connect(cluster.config(), way, cluster.tools(), Offer::All).await?;
    Ok((transport, place))
}

async fn acquire_h1(
    cluster: &Rc<ClusterState>,
    endpoint: &Rc<EndpointState>,
    priority: Priority,
) -> Result<UpstreamLink, AcquireError> {
    let mut waiting: Option<Permit> = None;
    loop {
        if let Some(client) = endpoint.take_idle() {
            return Ok(UpstreamLink::from_h1(client));
        }
        // Registered before the limit is looked at, so that a connection freed in between is not missed.
        let freed = cluster.connection_freed();
        if let Some(place) = cluster.connection_permit(priority, false) {
            let way = (endpoint.address(), &**endpoint.more());
            let transport = connect(cluster.config(), way, cluster.tools(), Offer::Http1).await?;
            let link = H1Link::new(transport, Rc::clone(cluster.buffers()));
            let client = H1Client::new(link, place, Instant::now());
            return Ok(UpstreamLink::from_h1(Box::new(client)));
        }
        if cluster.close_one_idle(endpoint) {
            continue;
        }
        if waiting.is_none() {
            let Some(permit) = cluster.pending_permit(priority) else {
                return Err(AcquireError::Overflow(Resource::Pending));
            };
            waiting = Some(permit);
        }
        freed.await;
    }
}

async fn acquire_h2(
    cluster: &Rc<ClusterState>,
    endpoint: &Rc<EndpointState>,
    priority: Priority,
) -> Result<UpstreamLink, AcquireError> {
    let mut waiting: Option<Permit> = None;
    loop {
        if let Some(connection) = endpoint.shared_connection() {
            match begin(&connection).await {
                Ok(link) => return Ok(link),
                Err(_) => endpoint.discard_shared(&connection),
            }
            continue;
        }
        if !endpoint.is_connecting()
            && let Some(place) = cluster.connection_permit(priority, !endpoint.is_connected())
        {
            let connecting = endpoint.begin_connecting();
            let opened = open_h2(cluster, endpoint, place).await;
            if let Err(error) = &opened {
                endpoint.connect_failed(error);
            }
            drop(connecting);
            // Whether others may use it or not (the endpoint may be gone by now), this request does.
            return first(&opened?, endpoint).await;
        }
        if waiting.is_none() {
            let Some(permit) = cluster.pending_permit(priority) else {
                return Err(AcquireError::Overflow(Resource::Pending));
            };
            waiting = Some(permit);
        }
        endpoint.room_or_failure().await?;
    }
}

/// Begins the first stream of a connection that was just opened.
///
/// # Errors
/// When the endpoint takes none.
pub(super) async fn first(
    connection: &Rc<H2Connection>,
    endpoint: &EndpointState,
) -> Result<UpstreamLink, AcquireError> {
    begin(connection).await.map_err(|error| {
        ConnectError::Handshake { address: endpoint.address(), message: error.to_string() }.into()
    })
}

/// Begins a stream, where the connection still takes one.
///
/// # Errors
/// When it has ended.
pub(super) async fn begin(connection: &Rc<H2Connection>) -> Result<UpstreamLink, h2::Error> {
    let mut sender = connection.sender();
    poll_fn(|cx| sender.poll_ready(cx)).await?;
    Ok(UpstreamLink::from_h2(sender, connection.begin_stream()))
}

/// Opens an HTTP/2 connection and leaves it with the endpoint for others too, its task running on this worker.
async fn open_h2(
    cluster: &Rc<ClusterState>,
    endpoint: &Rc<EndpointState>,
    place: Place,
) -> Result<Rc<H2Connection>, ConnectError> {
    let way = (endpoint.address(), &**endpoint.more());
    let transport = connect(cluster.config(), way, cluster.tools(), Offer::All).await?;
    share(cluster, endpoint, (transport, place)).await
}

/// Speaks HTTP/2 on a connection and leaves it with the endpoint, its task running on this worker.
///
/// # Errors
/// When the endpoint does not answer in time, or with something else.
pub(super) async fn share(
    cluster: &Rc<ClusterState>,
    endpoint: &Rc<EndpointState>,
    (transport, place): (Transport, Place),
) -> Result<Rc<H2Connection>, ConnectError> {
    let config = Arc::clone(cluster.config());
    let address = endpoint.address();
    let cutoff = transport.known_cutoff().cloned();
    let settings = &config.http2;
    let handshake = h2::client::Builder::new()
        .initial_window_size(settings.initial_stream_window_bytes)
        .initial_connection_window_size(settings.initial_connection_window_bytes)
        .max_concurrent_streams(0)
        .enable_push(false)
        .max_header_list_size(crate::http::MAX_HEAD_BYTES)
        .max_send_buffer_size(crate::http::h2::MAX_SEND_BUFFER_BYTES)
        .handshake(Fair::new(transport));
    let handshake = tokio::time::timeout(config.connect_timeout, handshake);
    let failed = |message: String| ConnectError::Handshake { address, message };
    let (sender, mut connection) = handshake
        .await
        .map_err(|_| ConnectError::TimedOut { address, limit: config.connect_timeout })?
        .map_err(|error| failed(error.to_string()))?;
    let ping = connection.ping_pong();
    let alive = Rc::new(Cell::new(true));
    let ended = Rc::clone(&alive);
    let weak = Rc::downgrade(endpoint);
    tokio::task::spawn_local(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%address, %error, "HTTP/2 connection to an upstream ended");
        }
        ended.set(false);
        drop(place);
        if let Some(endpoint) = weak.upgrade() {
            endpoint.sweep(Instant::now(), None);
            endpoint.room().notify_waiters();
        }
    });
    let max_requests = config.max_requests_per_connection;
    let told = (alive, Rc::clone(endpoint.room()), cutoff);
    let connection = H2Connection::new(sender, max_requests, told, Instant::now()).asking(ping);
    let connection = Rc::new(connection);
    endpoint.add_shared(Rc::clone(&connection));
    Ok(connection)
}

#[cfg(test)]
mod tests;
