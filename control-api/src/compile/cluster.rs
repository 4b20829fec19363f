//! Clusters and their endpoints.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use outrider_proto::envoy::config::cluster::v3 as pb;
use outrider_proto::envoy::config::core::v3::{self as core, HealthStatus};
use outrider_proto::envoy::config::endpoint::v3 as endpoint;
use outrider_proto::envoy::extensions::upstreams::http::v3 as upstream;
use pb::cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbPolicy};

use super::model::{Endpoint, Protocol, ServicePort, inbound_cluster_name};
use super::traffic::Calls;
use super::{Settings, tls, wire};
use crate::object::workload::{Health, Locality};

/// Where nothing else is said.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// The cluster of a port of a service, and its assignment.
pub(super) fn outbound(
    name: &str,
    port: &ServicePort,
    calls: &Calls,
    settings: &Settings,
) -> (pb::Cluster, endpoint::ClusterLoadAssignment) {
    let identities = port.identities();
    let encrypted = !calls.is_plaintext() && (port.in_mesh || calls.requires_mtls());
    let mut cluster = pb::Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(wire::ads()),
            service_name: name.to_owned(),
        }),
        connect_timeout: Some(wire::duration(CONNECT_TIMEOUT)),
        lb_policy: LbPolicy::LeastRequest.into(),
        transport_socket: encrypted.then(|| tls::upstream(&identities, settings)),
        typed_extension_protocol_options: options(port.protocol),
        ..Default::default()
    };
    calls.put_on_cluster(&mut cluster);
    (cluster, assignment(name, &port.endpoints, encrypted))
}

/// The cluster of a headless port: connections go to the address that the client chose.
pub(super) fn direct(name: &str, port: &ServicePort, calls: &Calls, settings: &Settings) -> pb::Cluster {
    let (mut cluster, _) = outbound(name, port, calls, settings);
    cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::OriginalDst.into()));
    cluster.eds_cluster_config = None;
    cluster.lb_policy = LbPolicy::ClusterProvided.into();
    cluster.lb_config = None;
    cluster.health_checks.clear();
    cluster
}

/// The cluster of a port of the local application. The same for every workload, so that it can be shared.
pub(super) fn inbound(port: u16) -> pb::Cluster {
    let name = inbound_cluster_name(port);
    let local = Endpoint {
        address: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port),
        weight: 1,
        health: Health::Healthy,
        locality: Locality::default(),
        identity: None,
    };
    pb::Cluster {
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into())),
        connect_timeout: Some(wire::duration(CONNECT_TIMEOUT)),
        typed_extension_protocol_options: options(Protocol::Http),
        load_assignment: Some(assignment(&name, &[local], false)),
        // What the application can bear is its own affair: callers are limited on their side.
        circuit_breakers: Some(pb::CircuitBreakers {
            thresholds: vec![pb::circuit_breakers::Thresholds {
                max_connections: Some(u32::MAX),
                max_pending_requests: Some(u32::MAX),
                max_requests: Some(u32::MAX),
                max_retries: Some(u32::MAX),
                ..Default::default()
            }],
        }),
        name,
        ..Default::default()
    }
}

/// Which HTTP is spoken: version 2 where only that is understood, otherwise what the request came in.
pub(super) fn options(protocol: Protocol) -> BTreeMap<String, prost_types::Any> {
    use upstream::http_protocol_options::explicit_http_config::ProtocolConfig;
    use upstream::http_protocol_options::{
        ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
    };
    let choice = match protocol {
        Protocol::Http2 => UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(
                ProtocolConfig::Http2ProtocolOptions(core::Http2ProtocolOptions::default()),
            ),
        }),
        Protocol::Http | Protocol::Unset | Protocol::Tcp => {
            UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
                http_protocol_options: Some(core::Http1ProtocolOptions::default()),
                http2_protocol_options: Some(core::Http2ProtocolOptions::default()),
            })
        }
    };
    let options = upstream::HttpProtocolOptions {
        common_http_protocol_options: None,
        upstream_protocol_options: Some(choice),
    };
    BTreeMap::from([(HTTP_OPTIONS.to_owned(), wire::any(&options))])
}

/// One endpoint, by its name or its address.
pub(super) fn assignment_of_host(cluster: &str, host: String, port: u16) -> endpoint::ClusterLoadAssignment {
    let address = core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: host,
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port.into())),
            ..Default::default()
        })),
    };
    let one = endpoint::LbEndpoint {
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint::Endpoint {
            address: Some(address),
            ..Default::default()
        })),
        ..Default::default()
    };
    endpoint::ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints: vec![endpoint::LocalityLbEndpoints { lb_endpoints: vec![one], ..Default::default() }],
        ..Default::default()
    }
}

/// Endpoints by locality. Where the cluster is encrypted, those without an identity are left out: they could not be
/// told from anybody else.
fn assignment(name: &str, endpoints: &[Endpoint], encrypted: bool) -> endpoint::ClusterLoadAssignment {
    let mut localities: Vec<(&Locality, Vec<endpoint::LbEndpoint>)> = Vec::new();
    for one in endpoints.iter().filter(|one| !encrypted || one.identity.is_some()) {
        let built = endpoint::LbEndpoint {
            host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint::Endpoint {
                address: Some(wire::address(one.address, false)),
                ..endpoint::Endpoint::default()
            })),
            health_status: match one.health {
                Health::Healthy => HealthStatus::Healthy,
                Health::Unhealthy => HealthStatus::Unhealthy,
                Health::Draining => HealthStatus::Draining,
            }
            .into(),
            load_balancing_weight: Some(one.weight),
            ..endpoint::LbEndpoint::default()
        };
        match localities.iter_mut().find(|(locality, _)| **locality == one.locality) {
            Some((_, list)) => list.push(built),
            None => localities.push((&one.locality, vec![built])),
        }
    }
    localities.sort_by_key(|(locality, _)| *locality);
    let endpoints = localities.into_iter().map(|(locality, lb_endpoints)| endpoint::LocalityLbEndpoints {
        locality: Some(core::Locality {
            region: locality.region.clone(),
            zone: locality.zone.clone(),
            sub_zone: String::new(),
        }),
        lb_endpoints,
        ..endpoint::LocalityLbEndpoints::default()
    });
    endpoint::ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: endpoints.collect(),
        ..endpoint::ClusterLoadAssignment::default()
    }
}
