//! Connections that many requests share: HTTP/2, by prior knowledge (RFC 9113 section 3.3) or where TLS agrees on it (ALPN,
//! RFC 7301). An endpoint that agrees on HTTP/1.1 gets a connection for each request at a time.
//!
//! Whoever connects finds out. Until it is known, and where it is HTTP/2, one request connects and the others wait.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

use super::client::{H1Client, H2Connection};
use super::clusters::{ClusterState, Place};
use super::connect::{ConnectError, Offer};
use super::endpoint::EndpointState;
use super::link::UpstreamLink;
use super::pool::{AcquireError, dial};
use super::usage::{Permit, Resource};
use crate::http::h1::link::H1Link;
use crate::model::limits::Priority;
use crate::transport::tls::TlsSession;
use crate::transport::{Fair, Transport};

/// A connection for one exchange; where it is `agreed` on, of whichever version. Cancel-safe.
///
/// # Errors
/// When a limit is reached or the endpoint cannot be reached.
pub(super) async fn acquire(
    cluster: &Rc<ClusterState>,
    endpoint: &Rc<EndpointState>,
    (priority, agreed): (Priority, bool),
) -> Result<UpstreamLink, AcquireError> {
    let mut waiting: Option<Permit> = None;
    loop {
        if let Some(connection) = endpoint.shared_connection() {
            match begin(&connection).await {
                Ok(link) => {
                    // Who was told of room tells the next one of what there is besides.
                    if waiting.is_some() && connection.has_room() {
                        endpoint.room().notify_one();
                    }
                    return Ok(link);
                }
                Err(_) => endpoint.discard_shared(&connection),
            }
            continue;
        }
        if agreed && let Some(client) = endpoint.take_idle() {
            return Ok(UpstreamLink::from_h1(client));
        }
        // Registered before the limit is looked at, so that a connection freed in between is not missed.
        let freed = cluster.connection_freed();
        let may_share = !endpoint.shares_none();
        let others_connect = may_share && endpoint.is_connecting();
        if !others_connect {
            let alone = may_share && !endpoint.is_connected();
            if let Some(place) = cluster.connection_permit(priority, alone) {
                return match open(cluster, endpoint, (place, agreed)).await? {
                    Opened::Alone(link) => Ok(link),
                    // Whether others may use it or not (the endpoint may be gone by now), this request does.
                    Opened::Shared(connection) => begin(&connection).await.map_err(|error| {
                        let address = endpoint.address();
                        ConnectError::Handshake { address, message: error.to_string() }.into()
                    }),
                };
            }
            if cluster.close_one_idle(endpoint) {
                continue;
            }
        }
        if waiting.is_none() {
            let permit = cluster.pending_permit(priority);
            waiting = Some(permit.ok_or(AcquireError::Overflow(Resource::Pending))?);
        }
        tokio::select! {
            // While others connect it would be of no use here, and is left to who can use it.
            () = freed, if !others_connect => {}
            room = endpoint.room_or_failure() => room?,
        }
    }
}

/// Begins a stream, where the connection still takes one.
async fn begin(connection: &Rc<H2Connection>) -> Result<UpstreamLink, h2::Error> {
    let mut sender = connection.sender();
    poll_fn(|cx| sender.poll_ready(cx)).await?;
    Ok(UpstreamLink::from_h2(sender, connection.begin_stream()))
}

/// What was opened.
enum Opened {
    /// A connection for one exchange at a time.
    Alone(UpstreamLink),
    /// One that is shared, and is with the endpoint now.
    Shared(Rc<H2Connection>),
}

/// Opens a connection, for which others wait meanwhile who may come to share it.
async fn open(
    cluster: &Rc<ClusterState>,
    endpoint: &Rc<EndpointState>,
    (place, agreed): (Place, bool),
) -> Result<Opened, ConnectError> {
    let connecting = (!endpoint.is_connecting()).then(|| endpoint.begin_connecting());
    let opened = opened(cluster, endpoint, (place, agreed)).await;
    if let (Err(error), Some(_)) = (&opened, &connecting) {
        endpoint.connect_failed(error);
    }
    opened
}

async fn opened(
    cluster: &Rc<ClusterState>,
    endpoint: &Rc<EndpointState>,
    (place, agreed): (Place, bool),
) -> Result<Opened, ConnectError> {
    let transport = dial(cluster, endpoint, Offer::All).await?;
    let shares = !agreed || agreed_on_h2(&transport);
    endpoint.found_sharing(shares);
    if shares {
        return share(cluster, endpoint, (transport, place)).await.map(Opened::Shared);
    }
    let link = H1Link::new(transport, Rc::clone(cluster.buffers()));
    Ok(Opened::Alone(UpstreamLink::from_h1(Box::new(H1Client::new(link, place, Instant::now())))))
}

/// `h2`, or what sidecars call it among themselves.
fn agreed_on_h2(transport: &Transport) -> bool {
    transport.tls().and_then(TlsSession::alpn).is_some_and(|protocol| protocol.ends_with(b"h2"))
}

/// Speaks HTTP/2 on a connection and leaves it with the endpoint, its task running on this worker.
async fn share(
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
    let limits = (settings.max_concurrent_streams, config.max_requests_per_connection);
    let told = (alive, Rc::clone(endpoint.room()), cutoff);
    let connection = H2Connection::new(sender, limits, told, Instant::now()).asking(ping);
    let connection = Rc::new(connection);
    endpoint.add_shared(Rc::clone(&connection));
    Ok(connection)
}

#[cfg(test)]
mod tests;
