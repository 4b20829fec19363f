//! Connections to the target.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Spec;
use super::meter::Failure;
use super::outcome::{ErrorKind, LoadError};

/// How long a connection may take, TLS and all.
pub(super) const CONNECT: Duration = Duration::from_secs(10);

/// A connection.
pub(super) type Stream = TcpStream;

/// Makes connections.
pub(super) struct Dialer {
    target: SocketAddr,
}

impl Dialer {
    pub(super) fn new(spec: &Spec) -> Result<Self, LoadError> {
        match &spec.tls {
            Some(tls) => {
                Err(LoadError::Tls { file: tls.ca_file.display().to_string(), what: "not yet".to_owned() })
            }
            None => Ok(Self { target: spec.target }),
        }
    }

    /// Connects.
    pub(super) async fn dial(&self) -> Result<Stream, Failure> {
        let connecting = async {
            let stream = TcpStream::connect(self.target).await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        match timeout(CONNECT, connecting).await {
            Ok(connected) => {
                connected.map_err(|error: std::io::Error| Failure::new(ErrorKind::Connect, error))
            }
            Err(_) => Err(Failure::new(ErrorKind::Connect, "no connection in time")),
        }
    }
}
