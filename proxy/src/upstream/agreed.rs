//! Connections whose HTTP version TLS agrees on (ALPN, RFC 7301): one of HTTP/2 that many requests share, where the
//! endpoint knows it, otherwise one of HTTP/1.1 for each request at a time.
//!
//! Whoever connects finds out. Until it is known, and where it is HTTP/2, one request connects and the others wait.

use std::rc::Rc;

use tokio::time::Instant;

use super::client::{H1Client, H2Connection};
use super::clusters::{ClusterState, Place};
use super::connect::{ConnectError, Offer, connect};
use super::endpoint::EndpointState;
use super::link::UpstreamLink;
use super::pool::{AcquireError, begin, first, share};
use super::usage::{Permit, Resource};
use crate::http::h1::link::H1Link;
use crate::model::limits::Priority;
use crate::transport::Transport;
use crate::transport::tls::TlsSession;

/// A connection for one exchange, of whichever version. Cancel-safe.
///
/// # Errors
/// When a limit is reached or the endpoint cannot be reached.
pub(super) async fn acquire(
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
        if let Some(client) = endpoint.take_idle() {
            return Ok(UpstreamLink::from_h1(client));
        }
        // Registered before the limit is looked at, so that a connection freed in between is not missed.
        let freed = cluster.connection_freed();
        let claim = (!endpoint.is_connecting()).then(|| endpoint.begin_connecting());
        if claim.is_some() || endpoint.shares_none() {
            let alone = !endpoint.shares_none() && !endpoint.is_connected();
            if let Some(place) = cluster.connection_permit(priority, alone) {
                let opened = open(cluster, endpoint, place).await;
                if let (Err(error), Some(_)) = (&opened, &claim) {
                    endpoint.connect_failed(error);
                }
                drop(claim);
                return match opened? {
                    Opened::Alone(link) => Ok(link),
                    Opened::Shared(connection) => first(&connection, endpoint).await,
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
        if claim.is_some() {
            freed.await;
        } else {
            tokio::select! {
                () = freed => {}
                settled = endpoint.room_or_failure() => settled?,
            }
        }
    }
}

/// What was opened.
enum Opened {
    /// A connection for one exchange at a time.
    Alone(UpstreamLink),
    /// One that is shared, and is with the endpoint now.
    Shared(Rc<H2Connection>),
}

/// Opens a connection.
async fn open(
    cluster: &Rc<ClusterState>,
    endpoint: &Rc<EndpointState>,
    place: Place,
) -> Result<Opened, ConnectError> {
    let way = (endpoint.address(), &**endpoint.more());
    let transport = connect(cluster.config(), way, cluster.tools(), Offer::All).await?;
    let shares = agreed_on_h2(&transport);
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
