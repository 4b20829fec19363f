//! The connection to the control server's authority: plaintext on loopback, else TLS 1.3 with pinned roots.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use super::error::FetchError;
use super::pem;
use crate::identity::config::provider;
use crate::model::identity::{ControlSource, ControlTransport};

/// How long connecting may take, TLS included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// `HOST:PORT`, as errors name the server and `:authority` carries it.
#[must_use]
pub fn authority(source: &ControlSource) -> String {
    if source.host.contains(':') {
        format!("[{}]:{}", source.host, source.port)
    } else {
        format!("{}:{}", source.host, source.port)
    }
}

/// Connects.
///
/// # Errors
/// A file of roots that cannot be used, or why the server is not reached.
pub async fn channel(source: &ControlSource) -> Result<Channel, FetchError> {
    let peer = authority(source);
    let failed = |error: tonic::transport::Error| FetchError::unreachable(&*peer, &error);
    let endpoint = Endpoint::from_shared(format!("http://{peer}")).map_err(failed)?;
    let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT);
    let address = (source.host.clone(), source.port);
    match &source.transport {
        ControlTransport::Plaintext => {
            let connector = tower::service_fn(move |_: Uri| {
                let address = address.clone();
                async move { Ok::<_, io::Error>(TokioIo::new(loopback(address).await?)) }
            });
            endpoint.connect_with_connector(connector).await.map_err(failed)
        }
        ControlTransport::Tls { ca_file, server_name } => {
            let tls = TlsConnector::from(Arc::new(client_config(ca_file)?));
            let name = ServerName::try_from(server_name.clone())
                .map_err(|error| FetchError::unreachable(&*peer, &error))?;
            let origin = Uri::try_from(format!("https://{peer}"))
                .map_err(|error| FetchError::unreachable(&*peer, &error))?;
            let connector = tower::service_fn(move |_: Uri| {
                let (tls, name, address) = (tls.clone(), name.clone(), address.clone());
                async move {
                    let stream = TcpStream::connect(address).await?;
                    Ok::<_, io::Error>(TokioIo::new(tls.connect(name, stream).await?))
                }
            });
            endpoint.origin(origin).connect_with_connector(connector).await.map_err(failed)
        }
    }
}

/// Connects without TLS. Whatever `localhost` was made to mean, the token does not leave the machine.
async fn loopback(address: (String, u16)) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    if stream.peer_addr()?.ip().is_loopback() {
        Ok(stream)
    } else {
        Err(io::Error::other("not a loopback address; plaintext is not spoken to it"))
    }
}

fn client_config(ca_file: &Path) -> Result<ClientConfig, FetchError> {
    let mut roots = RootCertStore::empty();
    for root in pem::certificates(ca_file)? {
        roots.add(root).map_err(|error| FetchError::file(ca_file, error))?;
    }
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| FetchError::file(ca_file, error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}
