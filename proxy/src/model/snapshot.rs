//! All of the configuration at one moment.

use std::net::SocketAddr;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::cluster::Cluster;
use super::destination::Told;
use super::endpoint::EndpointSet;
use super::http_chain::{HttpChain, RouteSource};
use super::listener::Listener;
use super::route_table::RouteTable;
use crate::fault::FaultSet;

/// What is published to the workers. Parts that did not change are the same `Arc`s as before.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Counts up with every publication.
    pub version: u64,
    /// Listeners by name.
    pub listeners: FxHashMap<Arc<str>, Arc<Listener>>,
    /// Clusters by name.
    pub clusters: FxHashMap<Arc<str>, ClusterEntry>,
    /// Route configurations that listeners name.
    pub route_tables: FxHashMap<Arc<str>, Arc<RouteTable>>,
    /// Destinations that were asked for, with what was said of them.
    pub destinations: FxHashMap<SocketAddr, Told>,
    /// Faults on leases; `None` where there is nothing to be looked at.
    pub faults: Option<Arc<FaultSet>>,
}

/// A cluster and the endpoints that it has now.
#[derive(Clone, Debug)]
pub struct ClusterEntry {
    /// How it is spoken to.
    pub config: Arc<Cluster>,
    /// Who is in it.
    pub endpoints: Arc<EndpointSet>,
}

impl Snapshot {
    /// The routes of a chain as they are now.
    #[must_use]
    pub fn routes<'a>(&'a self, chain: &'a HttpChain) -> Option<&'a Arc<RouteTable>> {
        match &chain.routes {
            RouteSource::Inline(table) => Some(table),
            RouteSource::Named(name) => self.route_tables.get(name),
        }
    }
}
