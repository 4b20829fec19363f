//! What the scenarios want of the load: a [`Load`] through a target for a while, as [`crate::load`] sends it and [`crate::backend`] answers.

pub mod backend;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;

pub use crate::load::{ClientTls, IdleConnections, Pace, hold};
use crate::load::{Protocol, Spec, run};

/// Percentiles of a latency curve.
const PERCENTILES: &[f64] = &[
    10.0, 25.0, 50.0, 60.0, 70.0, 75.0, 80.0, 85.0, 90.0, 92.5, 95.0, 97.0, 98.0, 99.0, 99.5, 99.8, 99.9,
    99.95, 99.99,
];

/// Where load goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its address.
    pub address: SocketAddr,
    /// TLS towards it, with a whole handshake for each connection.
    pub tls: Option<ClientTls>,
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self { address, tls: None }
    }
}

/// One kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// What is sent.
    pub kind: Kind,
    /// Connections.
    pub connections: usize,
    /// Bytes of each answer (of each request for [`Kind::H2Post`], of each message for the last two).
    pub bytes: usize,
}

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// HTTP/1.1 `GET` over kept connections.
    Get,
    /// A new connection for each HTTP/1.1 `GET`.
    NewConnection,
    /// The same; over TLS, a post-quantum key exchange is offered first.
    HybridConnection,
    /// HTTP/2 `GET`, so many streams on each connection.
    H2Get(u32),
    /// HTTP/2 `POST` likewise.
    H2Post(u32),
    /// Unary gRPC calls likewise.
    GrpcUnary(u32),
    /// Messages that come back on gRPC streams that stay open, so many on each connection.
    GrpcStream(u32),
    /// WebSocket messages that come back.
    WebSocket,
}

impl Kind {
    /// Whether each request has a connection of its own.
    #[must_use]
    pub const fn is_connections(self) -> bool {
        matches!(self, Self::NewConnection | Self::HybridConnection)
    }
}

/// What a pass gave.
#[derive(Debug)]
pub struct Pass {
    /// Requests that were answered, those that were under way at the end among them.
    pub requests: u64,
    /// Requests that failed.
    pub errors: u64,
    /// Answers per second, as long as requests were sent.
    pub per_second: f64,
    /// How long it took.
    pub elapsed: Duration,
    /// Whether the generator could not send in time (open loop only).
    pub late: bool,
    latency_us: Histogram<u64>,
}

impl Pass {
    /// The latency that this share (0 to 100) of the requests did not exceed.
    #[must_use]
    pub fn percentile_ms(&self, percentile: f64) -> f64 {
        self.latency_us.value_at_percentile(percentile) as f64 / 1e3
    }
}

/// The latencies of several passes together.
#[derive(Debug, Default)]
pub struct Curve {
    all: Option<Histogram<u64>>,
}

impl Curve {
    /// Adds a pass.
    pub fn add(&mut self, pass: &Pass) {
        match &mut self.all {
            // They have the same bounds: all are made alike.
            Some(all) => drop(all.add(&pass.latency_us)),
            None => self.all = Some(pass.latency_us.clone()),
        }
    }

    /// `(percentile, milliseconds)`.
    #[must_use]
    pub fn points(&self) -> Vec<(f64, f64)> {
        let Some(all) = &self.all else { return Vec::new() };
        PERCENTILES.iter().map(|one| (*one, all.value_at_percentile(*one) as f64 / 1e3)).collect()
    }
}

/// Sends load to a target for a while.
///
/// # Errors
/// When not one request was answered, or the generator cannot have what it needs.
pub fn pass(target: &Target, load: Load, pace: Pace, length: Duration) -> Result<Pass> {
    let done = run(&load.spec(target, pace, length))?;
    Ok(Pass {
        requests: done.requests_in_all,
        errors: done.errors.total(),
        per_second: done.per_second(),
        elapsed: done.elapsed,
        late: matches!(pace, Pace::Open { .. }) && done.limited_by_generator.is_some(),
        latency_us: done.latency_us,
    })
}

impl Load {
    fn spec(self, target: &Target, pace: Pace, duration: Duration) -> Spec {
        let (protocol, request_bytes, response_bytes) = match self.kind {
            Kind::Get => (Protocol::Http1, 0, self.bytes),
            Kind::NewConnection | Kind::HybridConnection => (Protocol::NewConnection, 0, self.bytes),
            Kind::H2Get(streams) => (Protocol::Http2 { streams }, 0, self.bytes),
            // What comes back is small, so that it is the request that counts.
            Kind::H2Post(streams) => (Protocol::Http2 { streams }, self.bytes, 12),
            Kind::GrpcUnary(streams) => (Protocol::GrpcUnary { streams }, self.bytes, self.bytes),
            Kind::GrpcStream(streams) => (Protocol::GrpcStream { streams }, self.bytes, self.bytes),
            Kind::WebSocket => (Protocol::WebSocket, self.bytes, self.bytes),
        };
        let connections = self.connections;
        let post_quantum = self.kind == Kind::HybridConnection;
        let tls = target.tls.clone().map(|tls| ClientTls { post_quantum, ..tls });
        let spec = Spec::new(target.address, protocol);
        Spec { pace, connections, request_bytes, response_bytes, duration, tls, ..spec }
    }
}

#[cfg(test)]
mod tests;
