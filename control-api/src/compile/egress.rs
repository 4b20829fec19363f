//! `EgressPolicy`: the chains through which a workload leaves the mesh.
//!
//! Without a policy there are none, and what is no service of the mesh is not reached. Our own proxy guards the chains
//! with its egress guard; Envoy, which has none, with an authorization filter that denies the same destinations.

mod hosts;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use outrider_proto::envoy::config::cluster::v3 as cluster;
use outrider_proto::envoy::config::core::v3::CidrRange;
use outrider_proto::envoy::config::listener::v3 as listener;
use outrider_proto::envoy::config::rbac::v3 as rbac;
use outrider_proto::envoy::r#type::v3::Int32Range;
use outrider_proto::outrider::egress::v1 as pb;

use super::inbound::Local;
use super::model::MeshService;
use super::status::{ConditionKind, Statuses};
use super::{Settings, chain, wire};
use crate::object::egress::{EgressPolicy, Sensitive};
use crate::object::meta::selects;
use crate::object::scalar::Cidr;
use crate::object::{Key, Object, ObjectKind, Objects};
use crate::proxy_info::Dialect;
use crate::snapshot::{Origin, Resource};

/// The cluster through which connections leave the mesh, for where they were going.
pub(super) const CLUSTER: &str = "egress";
/// Link-local addresses, and where clouds answer those who ask who they are: what our proxy calls `metadata`.
pub(crate) const METADATA: [(IpAddr, u8); 7] = [
    (IpAddr::V4(Ipv4Addr::new(169, 254, 0, 0)), 16),
    (IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)), 32),
    (IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)), 32),
    (IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)), 32),
    (IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), 10),
    (IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0)), 32),
    (IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)), 128),
];
/// IPv4 written as IPv6 (RFC 4291, RFC 6052): behind it stands what is named above. Our proxy looks behind it by itself.
pub(crate) const TRANSLATED: [(IpAddr, u8); 2] = [
    (IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0)), 96),
    (IpAddr::V6(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0)), 96),
];
/// The kubelet's ports, and those of its neighbours.
pub(crate) const KUBELET: [u16; 4] = [10_250, 10_255, 10_257, 10_259];

/// Namespace and name of the service of the Kubernetes API.
const API: (&str, &str) = ("default", "kubernetes");

/// A range, in its first address, and how many bits of it count.
pub(crate) type Range = (IpAddr, u8);

/// What a workload may reach beside the mesh.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Egress {
    /// With the ports; none are all.
    ranges: BTreeMap<Range, BTreeSet<u16>>,
    /// Names of hosts, by the port at which they are reached.
    hosts: BTreeMap<u16, BTreeSet<String>>,
    sensitive: BTreeSet<Sensitive>,
    /// Where the Kubernetes API is reached, as far as it is a service of the mesh.
    api: Vec<SocketAddr>,
    dialect: Dialect,
    /// The policies.
    pub(super) origin: Origin,
}

impl Egress {
    /// Of all policies that select a workload together; `None` without any.
    pub(super) fn of(
        local: &Local,
        (objects, services): (&Objects, &BTreeMap<Key, Arc<MeshService>>),
        (settings, dialect): (&Settings, Dialect),
    ) -> Option<Self> {
        let mut all: Option<Self> = None;
        for policy in objects.egress.values().filter(|policy| is_for(policy, local)) {
            let egress = all.get_or_insert_with(|| Self {
                ranges: BTreeMap::new(),
                hosts: BTreeMap::new(),
                sensitive: BTreeSet::new(),
                api: api(services),
                dialect,
                origin: Origin::of(&policy.key),
            });
            egress.origin = egress.origin.with([&policy.key]);
            for destination in &policy.spec.allow {
                if let Some(range) = destination.cidr {
                    egress.open(masked(range), &destination.ports);
                }
                if let Some(host) = &destination.host {
                    let (ports, _) = hosts::usable(&policy.spec, (host, &destination.ports), settings);
                    for port in ports {
                        egress.hosts.entry(port).or_default().insert(host.clone());
                    }
                }
            }
            egress.sensitive.extend(&policy.spec.allow_sensitive);
        }
        let mut egress = all?;
        if egress.sensitive.contains(&Sensitive::CloudMetadata) {
            METADATA.iter().for_each(|range| egress.open(*range, &[]));
        }
        Some(egress)
    }

    /// Of two that open one range, one with all ports is the wider.
    fn open(&mut self, range: Range, ports: &[u16]) {
        match self.ranges.get_mut(&range) {
            Some(open) if open.is_empty() || ports.is_empty() => open.clear(),
            Some(open) => open.extend(ports),
            None => drop(self.ranges.insert(range, ports.iter().copied().collect())),
        }
    }

    /// Whether the Kubernetes API may be reached.
    pub(super) fn opens_api(&self) -> bool {
        self.sensitive.contains(&Sensitive::KubernetesApi)
    }

    /// The chains. `taken` are the destinations of services: those keep their chains, and because a port that any chain
    /// names is looked for in the chains of that port only, every such port is repeated here.
    pub(super) fn chains(&self, taken: &BTreeSet<(u16, IpAddr)>) -> Vec<listener::FilterChain> {
        let named = self.ranges.values().flatten().chain(self.hosts.keys()).copied();
        let ports: BTreeSet<u16> = taken.iter().map(|(port, _)| *port).chain(named).collect();
        let each = ports.into_iter().map(Some).chain([None]);
        each.filter_map(|port| {
            let is_free = |(address, bits): &Range| {
                let whole = if address.is_ipv4() { 32 } else { 128 };
                port.is_none_or(|port| *bits < whole || !taken.contains(&(port, *address)))
            };
            let is_open =
                |ports: &BTreeSet<u16>| ports.is_empty() || port.is_some_and(|port| ports.contains(&port));
            let ranges: Vec<CidrRange> = self
                .ranges
                .iter()
                .filter(|(range, ports)| is_open(ports) && is_free(range))
                .map(|((address, bits), _)| wire::cidr(*address, *bits))
                .collect();
            (!ranges.is_empty()).then(|| self.chain(port, ranges))
        })
        .chain(self.host_chains())
        .collect()
    }

    fn chain(&self, port: Option<u16>, ranges: Vec<CidrRange>) -> listener::FilterChain {
        let name = match port {
            Some(port) => format!("{CLUSTER}|{port}"),
            None => format!("{CLUSTER}|any"),
        };
        let guard = match self.dialect {
            Dialect::Outrider => Some(self.guard()),
            Dialect::Envoy | Dialect::Grpc => self.denied(),
        };
        let mut filters: Vec<listener::Filter> = guard.into_iter().collect();
        filters.push(chain::opaque(&name, &[(CLUSTER.to_owned(), 1)], None));
        listener::FilterChain {
            filter_chain_match: Some(listener::FilterChainMatch {
                prefix_ranges: ranges,
                destination_port: port.map(u32::from),
                ..Default::default()
            }),
            name,
            filters,
            transport_socket: None,
        }
    }

    /// Lets the Kubernetes API through, in the chain that leads to it.
    pub(super) fn open_api(&self, chain: &mut listener::FilterChain) {
        if self.dialect == Dialect::Outrider {
            chain.filters.insert(0, self.guard());
        }
    }

    /// Our proxy's guard: what the chain matches is meant to be reached, but for what is protected.
    fn guard(&self) -> listener::Filter {
        self.guarding(Vec::new())
    }

    /// The same, with more that is refused.
    fn guarding(&self, mut refuse: Vec<pb::Destinations>) -> listener::Filter {
        use pb::egress_guard::Mode;
        let mut allow = Vec::new();
        let api = self.api.iter().map(|address| pb::Destinations {
            name: "api_server".to_owned(),
            addresses: vec![wire::host(address.ip())],
            ports: vec![ports(address.port())],
        });
        if self.opens_api() {
            allow.extend(api)
        } else {
            refuse.extend(api)
        }
        if self.sensitive.contains(&Sensitive::CloudMetadata) {
            allow.push(pb::Destinations {
                name: "metadata".to_owned(),
                addresses: METADATA.iter().map(|(address, bits)| wire::cidr(*address, *bits)).collect(),
                ports: Vec::new(),
            });
        }
        if self.sensitive.contains(&Sensitive::Kubelet) {
            // By port, as the rule that it takes back; the chains say at which addresses.
            let everywhere = [(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0), (IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0)];
            allow.push(pb::Destinations {
                name: "kubelet".to_owned(),
                addresses: everywhere.map(|(address, bits)| wire::cidr(address, bits)).to_vec(),
                ports: KUBELET.map(ports).to_vec(),
            });
        }
        let guard =
            pb::EgressGuard { unknown: Mode::Pass.into(), protected: Mode::Refuse.into(), allow, refuse };
        chain::filter("outrider.egress", wire::any(&guard))
    }

    /// The same for Envoy, as far as it can be said there; `None` when nothing is left to deny.
    fn denied(&self) -> Option<listener::Filter> {
        use rbac::permission::Rule;
        let mut rules: Vec<Rule> = Vec::new();
        if !self.sensitive.contains(&Sensitive::CloudMetadata) {
            let ranges = METADATA.iter().chain(&TRANSLATED);
            rules.extend(ranges.map(|(address, bits)| Rule::DestinationIp(wire::cidr(*address, *bits))));
        }
        if !self.sensitive.contains(&Sensitive::Kubelet) {
            rules.extend(KUBELET.iter().map(|port| Rule::DestinationPort((*port).into())));
        }
        if !self.opens_api() {
            rules.extend(self.api.iter().map(|address| {
                let both = [
                    Rule::DestinationIp(wire::host(address.ip())),
                    Rule::DestinationPort(address.port().into()),
                ];
                let both = both.map(|rule| rbac::Permission { rule: Some(rule) });
                Rule::AndRules(rbac::permission::Set { rules: both.to_vec() })
            }));
        }
        (!rules.is_empty()).then(|| super::rbac::denied_destinations(rules))
    }
}

/// The cluster of all that leaves the mesh.
pub(super) fn cluster() -> cluster::Cluster {
    use cluster::cluster::{ClusterDiscoveryType, DiscoveryType, LbPolicy};
    cluster::Cluster {
        name: CLUSTER.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::OriginalDst.into())),
        lb_policy: LbPolicy::ClusterProvided.into(),
        connect_timeout: Some(wire::duration(super::cluster::CONNECT_TIMEOUT)),
        ..Default::default()
    }
}

/// Whether this is the service of the Kubernetes API itself, where a breakout goes next.
pub(crate) fn is_api(service: &Key) -> bool {
    (&*service.namespace, &*service.name) == API
}

/// Where it is reached: by its own addresses, and by those of its endpoints.
fn api(services: &BTreeMap<Key, Arc<MeshService>>) -> Vec<SocketAddr> {
    let key = Key::new(ObjectKind::Service, API.0, API.1);
    let Some(service) = services.get(&key) else { return Vec::new() };
    let each = service.ports.iter().flat_map(|port| {
        let own = service.addresses.iter().map(|address| SocketAddr::new(*address, port.number));
        own.chain(port.endpoints.iter().map(|endpoint| endpoint.address))
    });
    let all: BTreeSet<SocketAddr> = each.collect();
    all.into_iter().collect()
}

/// Says what of the policies has no effect.
pub(super) fn report(objects: &Objects, settings: &Settings, statuses: &mut Statuses) {
    for policy in objects.egress.values() {
        for (index, destination) in policy.spec.allow.iter().enumerate() {
            let Some(host) = &destination.host else { continue };
            let (_, faults) = hosts::usable(&policy.spec, (host, &destination.ports), settings);
            for fault in faults {
                let message = format!("spec.allow[{index}].{fault}");
                let place = (&policy.key, "");
                statuses.refuse(place, ConditionKind::PartiallyInvalid, "UnsupportedValue", &message);
            }
        }
        statuses.accept(&policy.key, "");
    }
}

fn is_for(policy: &Object<EgressPolicy>, local: &Local) -> bool {
    policy.key.namespace == local.namespace
        && policy.spec.selector.as_ref().is_none_or(|one| selects(&one.match_labels, &local.labels))
}

fn ports(port: u16) -> Int32Range {
    Int32Range { start: port.into(), end: i32::from(port) + 1 }
}

/// The first address of a range: two ways to write one range are one.
pub(crate) fn masked(range: Cidr) -> Range {
    let bits = u32::from(range.bits);
    let address = match range.address {
        IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) & u32::MAX.checked_shl(32 - bits).unwrap_or(0)).into()),
        IpAddr::V6(v6) => {
            IpAddr::V6((u128::from(v6) & u128::MAX.checked_shl(128 - bits).unwrap_or(0)).into())
        }
    };
    (address, range.bits)
}
