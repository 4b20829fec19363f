//! The endpoints of a cluster.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use outrider_proto::envoy::config::core::v3::HealthStatus;
use outrider_proto::envoy::config::endpoint::v3 as pb;
use outrider_proto::{Fault, Path};

use super::parse;

/// Compiled endpoints.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct EndpointSet {
    /// All of them, the unhealthy ones included.
    pub endpoints: Vec<Endpoint>,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it is.
    pub address: SocketAddr,
    /// Its name, where it has one.
    pub hostname: Option<Arc<str>>,
    /// Its share, relative to the others; at least 1.
    pub weight: u32,
    /// Whether it may get requests.
    pub available: bool,
}

/// An endpoint whose address is still a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedEndpoint {
    /// The name, or an IP address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// As [`Endpoint::weight`].
    pub weight: u32,
    /// As [`Endpoint::available`].
    pub available: bool,
}

impl EndpointSet {
    /// Compiles an assignment whose addresses are IP addresses.
    ///
    /// # Errors
    /// All faults, with the paths of the fields.
    pub fn from_proto(value: &pb::ClusterLoadAssignment) -> Result<Self, Vec<Fault>> {
        let mut path = Path::root();
        let set = Self::compile(value, &mut path);
        path.finish(Some(set))
    }

    pub(super) fn compile(value: &pb::ClusterLoadAssignment, path: &mut Path) -> Self {
        let mut seen = HashSet::new();
        let endpoints = each(value, path, |endpoint, path| {
            let Some(pb::lb_endpoint::HostIdentifier::Endpoint(host)) = &endpoint.host_identifier else {
                return path.field("endpoint", |path| path.refuse("missing"));
            };
            let address =
                path.field("endpoint", |path| parse::socket_address(host.address.as_ref(), path))?;
            let hostname = (!host.hostname.is_empty()).then(|| host.hostname.as_str().into());
            let (weight, available) = (weight(endpoint, path), is_available(endpoint));
            // The same address twice is one endpoint, as in Envoy.
            seen.insert(address).then_some(Endpoint { address, hostname, weight, available })
        });
        Self { endpoints }
    }
}

/// The endpoints of an assignment whose addresses may be names.
pub(super) fn named(value: &pb::ClusterLoadAssignment, path: &mut Path) -> Vec<NamedEndpoint> {
    each(value, path, |endpoint, path| {
        let Some(pb::lb_endpoint::HostIdentifier::Endpoint(host)) = &endpoint.host_identifier else {
            return path.field("endpoint", |path| path.refuse("missing"));
        };
        let (host, port) =
            path.field("endpoint", |path| parse::host_and_port(host.address.as_ref(), path))?;
        Some(NamedEndpoint { host, port, weight: weight(endpoint, path), available: is_available(endpoint) })
    })
}

fn each<T>(
    value: &pb::ClusterLoadAssignment,
    path: &mut Path,
    mut one: impl FnMut(&pb::LbEndpoint, &mut Path) -> Option<T>,
) -> Vec<T> {
    let mut all = Vec::new();
    for (index, locality) in value.endpoints.iter().enumerate() {
        path.item("endpoints", index, |path| {
            for (index, endpoint) in locality.lb_endpoints.iter().enumerate() {
                all.extend(path.item("lb_endpoints", index, |path| one(endpoint, path)));
            }
        });
    }
    all
}

fn weight(endpoint: &pb::LbEndpoint, path: &mut Path) -> u32 {
    match endpoint.load_balancing_weight {
        Some(0) => {
            path.fault_at("load_balancing_weight", "must be at least 1");
            1
        }
        weight => weight.unwrap_or(1),
    }
}

fn is_available(endpoint: &pb::LbEndpoint) -> bool {
    match endpoint.health_status() {
        HealthStatus::Unknown | HealthStatus::Healthy | HealthStatus::Degraded => true,
        HealthStatus::Unhealthy | HealthStatus::Draining | HealthStatus::Timeout => false,
    }
}
