//! The connection to the control server's authority: plaintext on loopback, else TLS 1.3 with pinned roots.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tonic::transport::Channel;

use super::error::FetchError;
use super::pem;
use crate::grpc::{self, Link, Server};
use crate::identity::config::provider;
use crate::model::identity::{ControlSource, ControlTransport};

/// How long connecting may take, TLS included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// `HOST:PORT`, as errors name the server.
#[must_use]
pub fn authority(source: &ControlSource) -> String {
    server(source).authority()
}

/// Connects.
///
/// # Errors
/// A file of roots that cannot be used, or why the server is not reached.
pub async fn channel(source: &ControlSource) -> Result<Channel, FetchError> {
    let failed = |error: &dyn std::error::Error| FetchError::unreachable(authority(source), error);
    let link = match &source.transport {
        ControlTransport::Plaintext => Link::Loopback,
        ControlTransport::Tls { ca_file, server_name } => {
            let name = ServerName::try_from(server_name.clone()).map_err(|error| failed(&error))?;
            Link::Tls(Box::new(client_config(ca_file)?), Some(name))
        }
    };
    grpc::connect(server(source), link, |endpoint| endpoint).await.map_err(|error| failed(&error))
}

fn server(source: &ControlSource) -> Server<'_> {
    Server { host: &source.host, port: source.port, connect_timeout: CONNECT_TIMEOUT }
}

fn client_config(ca_file: &Path) -> Result<ClientConfig, FetchError> {
    let mut roots = RootCertStore::empty();
    for root in pem::certificates(ca_file)? {
        roots.add(root).map_err(|error| FetchError::file(ca_file, error))?;
    }
    Ok(ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| FetchError::file(ca_file, error))?
        .with_root_certificates(roots)
        .with_no_client_auth())
}
