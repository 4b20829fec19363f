//! Connections of the proxy's own to a server of a cluster: to the control server and to collectors of spans.

use tonic::transport::{Channel, Endpoint};

use crate::grpc::{self, ConnectError, Link, Server};
use crate::identity::Refusal;
use crate::model::endpoint::Health;
use crate::model::{ClusterEntry, Discovery};

/// Why a cluster cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum ReachError {
    /// Nobody is in it who is well.
    #[error("the cluster has no usable endpoint")]
    NoEndpoint,
    /// What its TLS needs is not there.
    #[error("no TLS with the server: {0}")]
    Tls(#[from] Refusal),
    /// Nobody was reached, or not the right one.
    #[error("cannot connect: {0}")]
    Connect(#[from] ConnectError),
}

/// Connects to one of a cluster's endpoints, drawn at random; `tune` sets what else the connection shall have.
///
/// # Errors
/// Why there is no connection.
pub async fn connect(
    cluster: &ClusterEntry,
    tune: impl FnOnce(Endpoint) -> Endpoint,
) -> Result<Channel, ReachError> {
    let config = &cluster.config;
    let addresses: Vec<(String, u16)> = match &config.discovery {
        Discovery::Static(_) | Discovery::Eds(_) => {
            let well = cluster.endpoints.endpoints.iter().filter(|endpoint| endpoint.health == Health::Well);
            well.map(|endpoint| (endpoint.address.ip().to_string(), endpoint.address.port())).collect()
        }
        Discovery::Dns { hosts, .. } => hosts.iter().map(|host| (host.host.clone(), host.port)).collect(),
        Discovery::OriginalDst => Vec::new(),
    };
    let choice = fastrand::usize(..addresses.len().max(1));
    let (host, port) = addresses.get(choice).ok_or(ReachError::NoEndpoint)?;
    let server = Server { host, port: *port, connect_timeout: config.connect_timeout };
    let link = match &config.tls {
        None => Link::Plaintext,
        Some(tls) => {
            let config = rustls::ClientConfig::clone(&*tls.current()?.config);
            Link::Tls(Box::new(config), tls.server_name.clone())
        }
    };
    Ok(grpc::connect(server, link, tune).await?)
}
