//! Configuration as the data path reads it: checked once, immutable, with every matcher built.
//!
//! One file per resource turns the wire's messages into these types and collects every fault with its path.
//! The wire types stop here; nothing later validates again.

pub mod access_log;
pub mod balancing;
pub mod bootstrap;
pub mod cluster;
pub mod concurrency;
pub mod destination;
pub mod dns;
mod egress;
pub mod endpoint;
pub mod fault;
pub mod files;
pub mod filter_chain;
pub mod headers;
pub mod health_check;
pub mod http_chain;
mod http_filters;
pub mod identity;
pub mod injection;
pub mod labels;
pub mod limits;
pub mod listener;
pub mod matcher;
pub mod outlier;
pub mod overload;
pub mod overrides;
pub mod parse;
pub mod rate_limit;
pub mod rbac;
pub mod retry;
pub mod revocation;
pub mod route;
pub mod route_index;
pub mod route_table;
pub mod snapshot;
pub mod tcp_chain;
pub mod tls;
pub mod tracing;

pub use balancing::{Balancer, Balancing};
pub use cluster::{Cluster, Discovery};
pub use endpoint::{Endpoint, EndpointSet};
pub use filter_chain::{ChainProtocol, FilterChain, FilterChains};
pub use http_chain::HttpChain;
pub use listener::Listener;
pub use route::{ForwardAction, Route, RouteAction};
pub use route_table::RouteTable;
pub use snapshot::{ClusterEntry, Snapshot};
pub use tcp_chain::TcpChain;

#[cfg(test)]
mod tests;
