//! Hosts outside the mesh by their names: the `Host` of a request, or the server name of TLS, says which one is meant.
//!
//! A connection goes to what that name resolves to at the sidecar, and never to the address that the client took, so that
//! a name which is allowed opens no other door.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use outrider_proto::envoy::config::cluster::v3 as cluster;
use outrider_proto::envoy::config::core::v3 as core;
use outrider_proto::envoy::config::listener::v3 as listener;
use outrider_proto::envoy::config::route::v3 as route;
use outrider_proto::outrider::egress::v1 as pb;

use super::super::cluster::assignment_of_host;
use super::super::{Settings, chain, http, wire};
use super::{Egress, KUBELET, Resource};
use crate::object::egress::{EgressPolicy, Sensitive};
use crate::proxy_info::Dialect;

/// Where a host is reached of which no port is said: plaintext HTTP and TLS.
const USUAL_PORTS: [u16; 2] = [80, 443];
/// What a request gets whose host no policy allows.
const REFUSED: u32 = 403;
const REFUSAL: &str = "egress_refused: no EgressPolicy allows this host on this port\n";
/// What no name from outside leads to: the sidecar's own ports are there.
const OWN: [(IpAddr, u8); 4] = [
    (IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8),
    (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8),
    (IpAddr::V6(Ipv6Addr::LOCALHOST), 128),
    (IpAddr::V6(Ipv6Addr::UNSPECIFIED), 128),
];

/// At which ports a host of a policy is reached, and what of it is not to be had.
pub(super) fn usable(
    policy: &EgressPolicy,
    (host, ports): (&str, &[u16]),
    settings: &Settings,
) -> (Vec<u16>, Vec<String>) {
    if host.starts_with("*.") {
        let fault =
            "host: what \"*.\" stands for cannot be looked up beforehand, and is not reached; name each host";
        return (Vec::new(), vec![fault.to_owned()]);
    }
    let domain = settings.cluster_domain.to_ascii_lowercase();
    if *host == *domain || host.strip_suffix(&domain).is_some_and(|front| front.ends_with('.')) {
        let fault =
            format!("host: {host} is a name of the mesh, whose services are reached without a policy");
        return (Vec::new(), vec![fault]);
    }
    let ports = if ports.is_empty() { &USUAL_PORTS } else { ports };
    let opens_kubelet = policy.allow_sensitive.contains(&Sensitive::Kubelet);
    let (open, closed): (Vec<u16>, Vec<u16>) =
        ports.iter().partition(|port| opens_kubelet || !KUBELET.contains(port));
    let faults = closed
        .iter()
        .map(|port| format!("ports: {port} is the kubelet's, or a neighbour's, which a name does not open"));
    (open, faults.collect())
}

impl Egress {
    /// Whether what a client says first decides where it gets.
    pub(in super::super) fn has_hosts(&self) -> bool {
        !self.hosts.is_empty()
    }

    /// For each port a chain for plaintext HTTP, and one for TLS to each host.
    pub(super) fn host_chains(&self) -> impl Iterator<Item = listener::FilterChain> {
        self.hosts.iter().flat_map(|(port, hosts)| {
            let tls = hosts.iter().map(|host| {
                let name = cluster_name(host, *port);
                let last = chain::opaque(&name, &[(name.clone(), 1)], None);
                let rule =
                    listener::FilterChainMatch { server_names: vec![host.clone()], ..rule(*port, "tls") };
                self.host_chain(name, rule, last)
            });
            let name = format!("{}|{port}|http", super::CLUSTER);
            let routes = routes(&name, *port, hosts.iter());
            let last = chain::outbound_http_with(&name, routes, self.tracing.as_ref());
            let http = self.host_chain(name, rule(*port, "raw_buffer"), last);
            tls.chain([http]).collect::<Vec<_>>()
        })
    }

    fn host_chain(
        &self,
        name: String,
        rule: listener::FilterChainMatch,
        last: listener::Filter,
    ) -> listener::FilterChain {
        let own = pb::Destinations {
            name: "loopback".to_owned(),
            addresses: OWN.iter().map(|(address, bits)| wire::cidr(*address, *bits)).collect(),
            ports: Vec::new(),
        };
        // Envoy can only look at where the client wanted to go, which does not count here.
        let guard = (self.dialect == Dialect::Outrider).then(|| self.guarding(vec![own]));
        listener::FilterChain {
            name,
            filter_chain_match: Some(rule),
            filters: guard.into_iter().chain([last]).collect(),
            transport_socket: None,
        }
    }

    /// The clusters of the hosts.
    pub(in super::super) fn clusters(&self) -> impl Iterator<Item = (cluster::Cluster, Resource)> {
        let each =
            self.hosts.iter().flat_map(|(port, hosts)| hosts.iter().map(|host| host_cluster(host, *port)));
        each.filter_map(|cluster| {
            let resource = wire::resource(&cluster, &self.origin).inspect_err(|faults| {
                let faults = outrider_proto::fault::joined(faults);
                tracing::error!(cluster = cluster.name, faults, "left out");
            });
            Some((cluster, resource.ok()?))
        })
    }
}

fn rule(port: u16, transport: &str) -> listener::FilterChainMatch {
    listener::FilterChainMatch {
        destination_port: Some(port.into()),
        transport_protocol: transport.to_owned(),
        ..Default::default()
    }
}

/// `egress|PORT||HOST`: the cluster of a host.
fn cluster_name(host: &str, port: u16) -> String {
    format!("{}|{port}||{host}", super::CLUSTER)
}

/// Its addresses are tried one after the other, as a client of its own would do (RFC 8305).
fn host_cluster(host: &str, port: u16) -> cluster::Cluster {
    use cluster::cluster::{ClusterDiscoveryType, DiscoveryType, DnsLookupFamily};
    let name = cluster_name(host, port);
    // The dot at the end keeps the search list of the host out: it would put names of the cluster first.
    let assignment = assignment_of_host(&name, format!("{host}."), port);
    cluster::Cluster {
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::LogicalDns.into())),
        dns_lookup_family: DnsLookupFamily::All.into(),
        respect_dns_ttl: true,
        connect_timeout: Some(wire::duration(super::super::cluster::CONNECT_TIMEOUT)),
        typed_extension_protocol_options: super::super::cluster::options(super::super::model::Protocol::Http),
        load_assignment: Some(assignment),
        name,
        ..Default::default()
    }
}

/// A virtual host for each name, and one that refuses all others.
fn routes<'a>(name: &str, port: u16, hosts: impl Iterator<Item = &'a String>) -> route::RouteConfiguration {
    let one = |name: &str, domains: Vec<String>, action| {
        let everything = route::RouteMatch {
            path_specifier: Some(route::route_match::PathSpecifier::Prefix("/".to_owned())),
            ..Default::default()
        };
        let only = route::Route { r#match: Some(everything), action: Some(action), ..Default::default() };
        route::VirtualHost { name: name.to_owned(), domains, routes: vec![only], ..Default::default() }
    };
    let allowed = hosts.map(|host| {
        let action = route::RouteAction {
            cluster_specifier: Some(route::route_action::ClusterSpecifier::Cluster(cluster_name(host, port))),
            timeout: Some(wire::duration(Duration::ZERO)),
            ..Default::default()
        };
        one(host, vec![host.clone(), format!("{host}:{port}")], route::route::Action::Route(action))
    });
    let refused = route::route::Action::DirectResponse(route::DirectResponseAction {
        status: REFUSED,
        body: Some(core::DataSource {
            specifier: Some(core::data_source::Specifier::InlineString(REFUSAL.to_owned())),
        }),
    });
    route::RouteConfiguration {
        virtual_hosts: allowed.chain([one("refused", vec!["*".to_owned()], refused)]).collect(),
        ..http::configuration(name, Vec::new())
    }
}
