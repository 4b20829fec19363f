//! The load generator: one thread that sends requests over any of our protocols, in a closed loop or at a fixed rate, and says when it,
//! rather than what it measures, was the limit.
//!
//! [`run`] takes a [`Spec`] and gives an [`Outcome`]. Each protocol is a file of its own that knows how to send one request and see its
//! answer; whose turn it is, what is counted and when it ends is the same for all (`pace`, `meter`). What is on the wire stands in
//! [`crate::wire`], which the backend shares.

pub mod cli;
mod engine;
mod http1;
mod http2;
mod idle;
mod meter;
mod outcome;
mod pace;
mod selfcheck;
mod stream;
mod streams;
mod tcp;
mod tls;
mod websocket;

use std::net::SocketAddr;
use std::time::Duration;

pub use engine::run;
pub use idle::{IdleConnections, hold};
pub use outcome::{ErrorKind, Errors, LoadError, Outcome};

/// Most connections of one run: more do not fit the ports between two addresses.
pub const MAX_CONNECTIONS: usize = 25_000;
/// Most streams at once on an HTTP/2 connection.
pub const MAX_STREAMS: u32 = 1024;
/// Most bytes of one request or answer body.
pub const MAX_BODY_BYTES: usize = 64 << 20;

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 over kept connections: `GET`, or `POST` where there is a body.
    Http1,
    /// HTTP/2 with prior knowledge, so many streams at once on each connection.
    Http2 {
        /// Streams at once on each connection.
        streams: u32,
    },
    /// Unary gRPC calls that are echoed.
    GrpcUnary {
        /// Calls at once on each connection.
        streams: u32,
    },
    /// Messages that are echoed on bidirectional gRPC streams that stay open; a message and its echo are one request.
    GrpcStream {
        /// Streams on each connection.
        streams: u32,
    },
    /// Raw TCP in the frames of [`crate::wire::bulk`]: `request_bytes` go, `response_bytes` come back.
    Tcp,
    /// WebSocket messages of `request_bytes` that are echoed.
    WebSocket,
    /// A new connection, one HTTP/1.1 request, and close, again and again.
    NewConnection,
}

/// When the next request is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// When the answer to the last one is there.
    Closed,
    /// At a fixed rate, whatever the answers do. Latency counts from when a request was due, so that a stall counts against every
    /// request that it held up (no coordinated omission).
    Open {
        /// Requests due each second, over all connections.
        per_second: f64,
    },
}

/// What a run is to do. [`Spec::new`] has the defaults.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Where requests go.
    pub target: SocketAddr,
    /// What is sent.
    pub protocol: Protocol,
    /// When it is sent.
    pub pace: Pace,
    /// Connections, 1 to [`MAX_CONNECTIONS`].
    pub connections: usize,
    /// Bytes of each request's body or message, at most [`MAX_BODY_BYTES`].
    pub request_bytes: usize,
    /// Bytes that each answer must have, at most [`MAX_BODY_BYTES`]; those of the request for protocols that echo.
    pub response_bytes: usize,
    /// The path; without one, that by which [`crate::backend`] answers with `response_bytes`, or echoes.
    pub path: Option<String>,
    /// The authority; without one, the target.
    pub authority: Option<String>,
    /// More header fields for HTTP requests; names in lower case.
    pub headers: Vec<(String, String)>,
    /// How long requests are sent before they count.
    pub warmup: Duration,
    /// How long they count.
    pub duration: Duration,
    /// The core that the generator runs on.
    pub core: Option<usize>,
    /// TLS to the target.
    pub tls: Option<ClientTls>,
}

impl Spec {
    /// A closed loop of one connection for a second, 12 bytes each way where the protocol echoes and back otherwise.
    #[must_use]
    pub fn new(target: SocketAddr, protocol: Protocol) -> Self {
        let echoes = !matches!(protocol, Protocol::Http1 | Protocol::Http2 { .. } | Protocol::NewConnection);
        Self {
            target,
            protocol,
            pace: Pace::Closed,
            connections: 1,
            request_bytes: if echoes { 12 } else { 0 },
            response_bytes: 12,
            path: None,
            authority: None,
            headers: Vec::new(),
            warmup: Duration::ZERO,
            duration: Duration::from_secs(1),
            core: None,
            tls: None,
        }
    }
}

/// TLS 1.3 towards the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTls {
    /// Name of the server, for SNI and to be looked for in its certificate.
    pub server_name: String,
    /// PEM file of the authorities that may have signed the server's certificate.
    pub ca_file: std::path::PathBuf,
    /// PEM files of the client's own certificate chain and key, where the server asks for one.
    pub identity: Option<(std::path::PathBuf, std::path::PathBuf)>,
    /// Whether X25519MLKEM768 is offered before X25519; without it, key exchange is X25519 or P-256, as every server can.
    pub post_quantum: bool,
}

#[cfg(test)]
mod tests;
