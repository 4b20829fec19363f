//! The endpoints of a cluster.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use outrider_proto::envoy::config::core::v3::{self as core, HealthStatus};
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
    /// Where it stands, for the operator: it has no effect on the choice of endpoints.
    pub locality: Arc<Locality>,
}

/// Where endpoints stand; each part may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Locality {
    /// The region.
    pub region: Box<str>,
    /// The zone of the region.
    pub zone: Box<str>,
    /// The part of the zone.
    pub sub_zone: Box<str>,
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
    /// As [`Endpoint::locality`].
    pub locality: Arc<Locality>,
}

impl EndpointSet {
    /// Compiles an assignment whose addresses are IP addresses.
    ///
    /// # Errors
    /// All faults, with the paths of the fields.
    pub fn from_proto(value: &pb::ClusterLoadAssignment) -> Result<Self, Vec<Fault>> {
        let mut path = Path::root();
        check_name(Some(value), &mut path);
        let set = Self::compile(value, &mut path);
        path.finish(Some(set))
    }

    pub(super) fn compile(value: &pb::ClusterLoadAssignment, path: &mut Path) -> Self {
        let mut seen = HashSet::new();
        let endpoints = each(value, path, |endpoint, locality, path| {
            let Some(pb::lb_endpoint::HostIdentifier::Endpoint(host)) = &endpoint.host_identifier else {
                return path.field("endpoint", |path| path.refuse("missing"));
            };
            let address = path.field("endpoint", |path| {
                parse::plain_address(host.address.as_ref(), path);
                parse::socket_address(host.address.as_ref(), path)
            })?;
            let locality = Arc::clone(locality);
            let hostname = (!host.hostname.is_empty()).then(|| host.hostname.as_str().into());
            let (weight, available) = (weight(endpoint, path), is_available(endpoint));
            // The same address twice is one endpoint, as in Envoy.
            seen.insert(address).then_some(Endpoint { address, hostname, weight, available, locality })
        });
        Self { endpoints }
    }
}

impl Locality {
    fn from_proto(value: Option<&core::Locality>) -> Self {
        let text = |part: fn(&core::Locality) -> &String| value.map_or("", |value| part(value)).into();
        Self {
            region: text(|value| &value.region),
            zone: text(|value| &value.zone),
            sub_zone: text(|value| &value.sub_zone),
        }
    }
}

/// An assignment names its cluster.
pub(super) fn check_name(value: Option<&pb::ClusterLoadAssignment>, path: &mut Path) {
    if value.is_some_and(|value| value.cluster_name.is_empty()) {
        path.fault_at("cluster_name", "missing");
    }
}

/// The endpoints of an assignment whose addresses may be names.
pub(super) fn named(value: &pb::ClusterLoadAssignment, path: &mut Path) -> Vec<NamedEndpoint> {
    each(value, path, |endpoint, locality, path| {
        let Some(pb::lb_endpoint::HostIdentifier::Endpoint(host)) = &endpoint.host_identifier else {
            return path.field("endpoint", |path| path.refuse("missing"));
        };
        let (host, port) = path.field("endpoint", |path| {
            parse::plain_address(host.address.as_ref(), path);
            if !host.hostname.is_empty() {
                path.fault_at("hostname", "has no effect beside an address that is a name");
            }
            parse::host_and_port(host.address.as_ref(), path)
        })?;
        let (weight, available) = (weight(endpoint, path), is_available(endpoint));
        Some(NamedEndpoint { host, port, weight, available, locality: Arc::clone(locality) })
    })
}

fn each<T>(
    value: &pb::ClusterLoadAssignment,
    path: &mut Path,
    mut one: impl FnMut(&pb::LbEndpoint, &Arc<Locality>, &mut Path) -> Option<T>,
) -> Vec<T> {
    let mut all = Vec::new();
    for (index, locality) in value.endpoints.iter().enumerate() {
        path.item("endpoints", index, |path| {
            let stands = Arc::new(Locality::from_proto(locality.locality.as_ref()));
            for (index, endpoint) in locality.lb_endpoints.iter().enumerate() {
                all.extend(path.item("lb_endpoints", index, |path| one(endpoint, &stands, path)));
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

#[cfg(test)]
mod tests;
