//! Connections to the endpoints of clusters, owned by one worker.
//!
//! [`clusters`] finds a cluster's state, [`pool`] lends a connection of one of its endpoints, [`link`] is the
//! one form of an exchange's upstream side, and [`usage`] holds the limits that all workers share.

pub mod budget;
pub mod client;
pub mod clusters;
pub mod connect;
pub mod endpoint;
pub mod haste;
pub mod host;
pub mod injected;
pub mod link;
pub mod members;
pub mod outlier;
pub mod pool;
pub mod probe;
mod shared;
pub mod usage;

pub use clusters::{ClusterState, Clusters};
pub use endpoint::EndpointState;
pub use link::{UpstreamError, UpstreamLink};
