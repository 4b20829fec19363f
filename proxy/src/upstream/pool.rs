//! Lends a connection to an endpoint, opening one where the cluster's limits allow it.

use std::rc::Rc;

use tokio::time::Instant;

use super::client::H1Client;
use super::clusters::{ClusterState, Place};
use super::connect::{ConnectError, Offer, connect};
use super::endpoint::EndpointState;
use super::link::UpstreamLink;
use super::shared;
use super::usage::{Permit, Resource};
use crate::http::h1::link::H1Link;
use crate::model::limits::Priority;
use crate::transport::Transport;

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
        UpstreamProtocol::Http2 | UpstreamProtocol::Agreed => {
            let agreed = protocol == UpstreamProtocol::Agreed;
            shared::acquire(cluster, endpoint, (priority, agreed)).await
        }
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
    Ok((dial(cluster, endpoint, Offer::Opaque).await?, place))
}

/// Connects, in the cluster's time for it. Cancel-safe.
///
/// # Errors
/// When the endpoint cannot be reached.
pub(super) async fn dial(
    cluster: &ClusterState,
    endpoint: &Rc<EndpointState>,
    offer: Offer,
) -> Result<Transport, ConnectError> {
    let _opening = endpoint.begin_opening();
    let way = (endpoint.address(), &**endpoint.more());
    connect(cluster.config(), way, cluster.tools(), offer).await
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
            let transport = dial(cluster, endpoint, Offer::Http1).await?;
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
