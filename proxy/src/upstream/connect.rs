//! Opening a connection to an endpoint.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::transport::Transport;

/// Why there is no connection.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    /// The endpoint refused, or there is no way to it.
    #[error("connecting to {address}: {message}")]
    Failed {
        /// The endpoint.
        address: SocketAddr,
        /// What the system said.
        message: String,
    },
    /// No answer within `connect_timeout`.
    #[error("connecting to {address}: no answer within {} ms", limit.as_millis())]
    TimedOut {
        /// The endpoint.
        address: SocketAddr,
        /// The cluster's `connect_timeout`.
        limit: Duration,
    },
    /// The HTTP/2 preface could not be exchanged.
    #[error("HTTP/2 handshake with {address}: {message}")]
    Handshake {
        /// The endpoint.
        address: SocketAddr,
        /// What `h2` said.
        message: String,
    },
}

impl ConnectError {
    pub(super) fn failed(address: SocketAddr, error: &io::Error) -> Self {
        Self::Failed { address, message: error.to_string() }
    }
}

/// Opens a TCP connection. Cancel-safe: dropping the future closes the socket.
///
/// # Errors
/// When the endpoint cannot be reached in time.
pub async fn connect(address: SocketAddr, limit: Duration) -> Result<Transport, ConnectError> {
    match timeout(limit, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => Transport::new(stream).map_err(|error| ConnectError::failed(address, &error)),
        Ok(Err(error)) => Err(ConnectError::failed(address, &error)),
        Err(_) => Err(ConnectError::TimedOut { address, limit }),
    }
}
