//! Connections to servers that the proxy itself speaks gRPC with: for its configuration and for its identity.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

/// Who is connected to.
#[derive(Clone, Copy, Debug)]
pub struct Server<'a> {
    /// A name or an IP address, without brackets.
    pub host: &'a str,
    /// The port.
    pub port: u16,
    /// How long connecting may take, TLS included.
    pub connect_timeout: Duration,
}

/// How bytes get there.
#[derive(Debug)]
pub enum Link {
    /// In the clear.
    Plaintext,
    /// In the clear and not off this machine, whatever the name was made to mean.
    Loopback,
    /// Over TLS, to the server of this name, or of the host's.
    Tls(Box<ClientConfig>, Option<ServerName<'static>>),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The host can be in no certificate.
    #[error("the host is no name that a certificate can have: {0}")]
    Name(#[from] rustls::pki_types::InvalidDnsNameError),
    /// The host can be in no URI.
    #[error("the host is not usable: {0}")]
    Host(#[from] http::uri::InvalidUri),
    /// Nobody was reached, or not the right one.
    #[error(transparent)]
    Transport(#[from] tonic::transport::Error),
}

impl Server<'_> {
    /// `HOST:PORT`, as `:authority` carries it (RFC 3986 section 3.2.2).
    #[must_use]
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// Connects; `tune` sets what else the connection shall have.
///
/// # Errors
/// Why there is no connection.
pub async fn connect(
    server: Server<'_>,
    link: Link,
    tune: impl FnOnce(Endpoint) -> Endpoint,
) -> Result<Channel, ConnectError> {
    let (authority, address) = (server.authority(), (server.host.to_owned(), server.port));
    let endpoint = Endpoint::from_shared(format!("http://{authority}"))?;
    let endpoint = tune(endpoint.connect_timeout(server.connect_timeout));
    let channel = match link {
        Link::Plaintext | Link::Loopback => {
            let stays_here = matches!(link, Link::Loopback);
            let connector = tower::service_fn(move |_: Uri| {
                let address = address.clone();
                async move { Ok::<_, io::Error>(TokioIo::new(open(address, stays_here).await?)) }
            });
            endpoint.connect_with_connector(connector).await
        }
        Link::Tls(mut config, name) => {
            let name = match name {
                Some(name) => name,
                None => ServerName::try_from(server.host.to_owned())?,
            };
            // Whatever else may be offered, gRPC is HTTP/2.
            config.alpn_protocols = vec![b"h2".to_vec()];
            let tls = TlsConnector::from(Arc::new(*config));
            let connector = tower::service_fn(move |_: Uri| {
                let (tls, name, address) = (tls.clone(), name.clone(), address.clone());
                async move {
                    let stream = open(address, false).await?;
                    Ok::<_, io::Error>(TokioIo::new(tls.connect(name, stream).await?))
                }
            });
            let origin = Uri::try_from(format!("https://{authority}"))?;
            endpoint.origin(origin).connect_with_connector(connector).await
        }
    };
    Ok(channel?)
}

async fn open(address: (String, u16), stays_here: bool) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    if stays_here && !stream.peer_addr()?.ip().is_loopback() {
        return Err(io::Error::other("not a loopback address; plaintext is not spoken to it"));
    }
    stream.set_nodelay(true)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_ipv6_is_in_brackets() {
        for (host, authority) in
            [("::1", "[::1]:15012"), ("127.0.0.1", "127.0.0.1:15012"), ("a.b", "a.b:15012")]
        {
            let server = Server { host, port: 15012, connect_timeout: Duration::from_secs(1) };
            assert_eq!(server.authority(), authority);
            assert!(Endpoint::from_shared(format!("http://{}", server.authority())).is_ok());
        }
    }
}
