//! The endpoints of a cluster.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use outrider_proto::envoy::config::core::v3::{self as core, HealthStatus};
use outrider_proto::envoy::config::endpoint::v3 as pb;
use outrider_proto::{Fault, Path};

use super::labels::Labels;
use super::parse;

/// Envoy's default of `overprovisioning_factor`, in percent.
pub const OVERPROVISIONING: u32 = 140;
/// Envoy's bound on `priority`.
const MAX_PRIORITY: u32 = 128;
/// Most addresses of one endpoint.
pub const MAX_RACED: usize = 8;

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
    /// Where it is besides; connections are tried there too when the first address is slow to answer.
    pub more: Arc<[SocketAddr]>,
    /// Its name, where it has one.
    pub hostname: Option<Arc<str>>,
    /// Its share, relative to the others; at least 1.
    pub weight: u32,
    /// What is known of it without asking it.
    pub health: Health,
    /// Where it stands.
    pub locality: Arc<Locality>,
    /// What subsets are made by.
    pub labels: Labels,
    /// Where it is asked for its health.
    pub checked: CheckedAt,
}

/// Where and as whom an endpoint is asked for its health, if not as it is used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckedAt {
    /// The port.
    pub port: Option<u16>,
    /// The host.
    pub host: Option<Arc<str>>,
    /// It is not asked.
    pub never: bool,
}

/// What the configuration says about an endpoint's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It may get requests.
    Well,
    /// It gets none, unless too few are well.
    Unwell,
    /// It is about to go and gets nothing new.
    Draining,
}

/// Where endpoints stand; each part of the name may be empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Locality {
    /// The region.
    pub region: Box<str>,
    /// The zone of the region.
    pub zone: Box<str>,
    /// The part of the zone.
    pub sub_zone: Box<str>,
    /// 0 is taken first.
    pub priority: u32,
    /// Its share, where the cluster gives shares to localities.
    pub weight: u32,
    /// How many times over its well endpoints can carry the load of all of them, in percent.
    pub overprovisioning: u32,
}

/// The cluster that this proxy is an endpoint of, and where it stands itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalCluster {
    /// The cluster's name.
    pub name: Box<str>,
    /// Where the proxy stands.
    pub locality: Locality,
}

impl Default for Locality {
    fn default() -> Self {
        let empty = Box::default;
        let overprovisioning = OVERPROVISIONING;
        Self { region: empty(), zone: empty(), sub_zone: empty(), priority: 0, weight: 0, overprovisioning }
    }
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
    /// As [`Endpoint::health`].
    pub health: Health,
    /// As [`Endpoint::locality`].
    pub locality: Arc<Locality>,
    /// As [`Endpoint::labels`].
    pub labels: Labels,
    /// As [`Endpoint::checked`].
    pub checked: CheckedAt,
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
            let (weight, health) = (weight(endpoint.load_balancing_weight, path), health(endpoint));
            let labels = labels(endpoint, path);
            // The same address twice is one endpoint, as in Envoy.
            let checked = path.field("endpoint", |path| CheckedAt::from_proto(host, path));
            let more = path.field("endpoint", |path| more(host, path));
            let endpoint = Endpoint { address, more, hostname, weight, health, locality, labels, checked };
            seen.insert(address).then_some(endpoint)
        });
        Self { endpoints }
    }
}

impl CheckedAt {
    fn from_proto(value: &pb::Endpoint, path: &mut Path) -> Self {
        let Some(config) = &value.health_check_config else { return Self::default() };
        let port = u16::try_from(config.port_value).unwrap_or_else(|_| {
            path.fault_at("health_check_config.port_value", "larger than 65535");
            0
        });
        Self {
            port: (port > 0).then_some(port),
            host: (!config.hostname.is_empty()).then(|| config.hostname.as_str().into()),
            never: config.disable_active_health_check,
        }
    }
}

impl Locality {
    /// Whether both name the same place.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
            || (self.region == other.region && self.zone == other.zone && self.sub_zone == other.sub_zone)
    }

    /// The place itself, without what endpoints there are.
    #[must_use]
    pub fn of(value: Option<&core::Locality>) -> Self {
        let text = |part: fn(&core::Locality) -> &String| value.map_or("", |value| part(value)).into();
        Self {
            region: text(|value| &value.region),
            zone: text(|value| &value.zone),
            sub_zone: text(|value| &value.sub_zone),
            ..Self::default()
        }
    }

    fn from_proto(group: &pb::LocalityLbEndpoints, overprovisioning: u32, path: &mut Path) -> Self {
        if group.priority > MAX_PRIORITY {
            path.fault_at("priority", format!("larger than {MAX_PRIORITY}"));
        }
        Self {
            priority: group.priority,
            weight: group.load_balancing_weight.unwrap_or(0),
            overprovisioning,
            ..Self::of(group.locality.as_ref())
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
        let checked = path.field("endpoint", |path| CheckedAt::from_proto(host, path));
        let (host, port) = path.field("endpoint", |path| {
            parse::plain_address(host.address.as_ref(), path);
            if !host.additional_addresses.is_empty() {
                path.fault_at("additional_addresses", "has no effect beside an address that is a name");
            }
            if !host.hostname.is_empty() {
                path.fault_at("hostname", "has no effect beside an address that is a name");
            }
            parse::host_and_port(host.address.as_ref(), path)
        })?;
        let (weight, health) = (weight(endpoint.load_balancing_weight, path), health(endpoint));
        let labels = labels(endpoint, path);
        Some(NamedEndpoint { host, port, weight, health, locality: Arc::clone(locality), labels, checked })
    })
}

/// The further addresses of an endpoint.
fn more(value: &pb::Endpoint, path: &mut Path) -> Arc<[SocketAddr]> {
    if value.additional_addresses.len() >= MAX_RACED {
        path.fault_at("additional_addresses", format!("more than {}", MAX_RACED - 1));
    }
    let values = value.additional_addresses.iter().enumerate();
    let parsed = values.filter_map(|(index, value)| {
        path.item("additional_addresses", index, |path| {
            parse::plain_address(value.address.as_ref(), path);
            parse::socket_address(value.address.as_ref(), path)
        })
    });
    parsed.collect()
}

fn each<T>(
    value: &pb::ClusterLoadAssignment,
    path: &mut Path,
    mut one: impl FnMut(&pb::LbEndpoint, &Arc<Locality>, &mut Path) -> Option<T>,
) -> Vec<T> {
    let mut all = Vec::new();
    let overprovisioning = overprovisioning(value, path);
    for (index, locality) in value.endpoints.iter().enumerate() {
        path.item("endpoints", index, |path| {
            let stands = Arc::new(Locality::from_proto(locality, overprovisioning, path));
            for (index, endpoint) in locality.lb_endpoints.iter().enumerate() {
                all.extend(path.item("lb_endpoints", index, |path| one(endpoint, &stands, path)));
            }
        });
    }
    all
}

fn weight(value: Option<u32>, path: &mut Path) -> u32 {
    match value {
        Some(0) => {
            path.fault_at("load_balancing_weight", "must be at least 1");
            1
        }
        weight => weight.unwrap_or(1),
    }
}

fn labels(endpoint: &pb::LbEndpoint, path: &mut Path) -> Labels {
    path.field("metadata", |path| Labels::from_proto(endpoint.metadata.as_ref(), path))
}

fn overprovisioning(value: &pb::ClusterLoadAssignment, path: &mut Path) -> u32 {
    let factor = value.policy.as_ref().and_then(|policy| policy.overprovisioning_factor);
    if factor == Some(0) {
        path.fault_at("policy.overprovisioning_factor", "must be at least 1");
    }
    factor.unwrap_or(OVERPROVISIONING)
}

fn health(endpoint: &pb::LbEndpoint) -> Health {
    match endpoint.health_status() {
        HealthStatus::Unknown | HealthStatus::Healthy | HealthStatus::Degraded => Health::Well,
        HealthStatus::Unhealthy | HealthStatus::Timeout => Health::Unwell,
        HealthStatus::Draining => Health::Draining,
    }
}

#[cfg(test)]
mod tests;
