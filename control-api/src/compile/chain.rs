//! Filter chains: HTTP or opaque, towards a service or towards the local application.

use hcm::http_connection_manager::{
    ForwardClientCertDetails, PathWithEscapedSlashesAction, RouteSpecifier, SetCurrentClientCertDetails,
    UpgradeConfig,
};
use outrider_proto::envoy::config::core::v3 as core;
use outrider_proto::envoy::config::listener::v3 as listener;
use outrider_proto::envoy::config::route::v3::RouteConfiguration;
use outrider_proto::envoy::extensions::filters::http::router::v3::Router;
use outrider_proto::envoy::extensions::filters::listener::{
    original_dst::v3::OriginalDst, tls_inspector::v3::TlsInspector,
};
use outrider_proto::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use outrider_proto::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
use outrider_proto::outrider::destination::v1::OnDemand;
use prost_types::Any;

use super::spans::Tracing;
use super::wire;

const HTTP_FILTER: &str = "envoy.filters.network.http_connection_manager";
const TCP_FILTER: &str = "envoy.filters.network.tcp_proxy";
const ROUTER: &str = "envoy.filters.http.router";

/// HTTP towards a service: its routes come on their own, so that a change of them leaves the listener alone.
pub(super) fn outbound_http(name: &str, tracing: Option<&Tracing>) -> listener::Filter {
    let routes = RouteSpecifier::Rds(hcm::Rds {
        config_source: Some(wire::ads()),
        route_config_name: name.to_owned(),
    });
    outbound_manager(name, routes, tracing)
}

/// HTTP towards several hosts, with routes of its own.
pub(super) fn outbound_http_with(
    name: &str,
    routes: RouteConfiguration,
    tracing: Option<&Tracing>,
) -> listener::Filter {
    outbound_manager(name, RouteSpecifier::RouteConfig(routes), tracing)
}

fn outbound_manager(name: &str, routes: RouteSpecifier, tracing: Option<&Tracing>) -> listener::Filter {
    let mut manager = manager(name, routes, Vec::new());
    // What a path means is decided where it is served.
    manager.path_with_escaped_slashes_action = PathWithEscapedSlashesAction::KeepUnchanged.into();
    // Here requests are sent again, so every attempt is told of.
    manager.tracing = tracing.map(|tracing| tracing.of_listener(true));
    filter(HTTP_FILTER, wire::any(&manager))
}

/// HTTP towards the local application, behind these filters.
pub(super) fn inbound_http(
    name: &str,
    routes: RouteConfiguration,
    policies: Vec<hcm::HttpFilter>,
    tracing: Option<&Tracing>,
) -> listener::Filter {
    let mut manager = manager(name, RouteSpecifier::RouteConfig(routes), policies);
    manager.tracing = tracing.map(|tracing| tracing.of_listener(false));
    // Policy and application must read one path.
    manager.merge_slashes = true;
    manager.path_with_escaped_slashes_action = PathWithEscapedSlashesAction::RejectRequest.into();
    manager.forward_client_cert_details = ForwardClientCertDetails::SanitizeSet.into();
    manager.set_current_client_cert_details =
        Some(SetCurrentClientCertDetails { subject: None, dns: false, uri: true });
    filter(HTTP_FILTER, wire::any(&manager))
}

/// What both have.
fn manager(
    name: &str,
    routes: RouteSpecifier,
    mut filters: Vec<hcm::HttpFilter>,
) -> hcm::HttpConnectionManager {
    filters.push(http_filter(ROUTER, wire::any(&Router {})));
    hcm::HttpConnectionManager {
        stat_prefix: name.to_owned(),
        route_specifier: Some(routes),
        http_filters: filters,
        normalize_path: Some(true),
        upgrade_configs: vec![UpgradeConfig { upgrade_type: "websocket".to_owned(), enabled: None }],
        ..Default::default()
    }
}

/// Opaque bytes towards one cluster, or by weight towards several.
pub(super) fn opaque(
    name: &str,
    clusters: &[(String, u32)],
    idle: Option<std::time::Duration>,
) -> listener::Filter {
    use tcp::tcp_proxy::{ClusterSpecifier, WeightedCluster, weighted_cluster::ClusterWeight};
    let specifier = match clusters {
        [(only, _)] => ClusterSpecifier::Cluster(only.clone()),
        _ => ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters: clusters
                .iter()
                .map(|(name, weight)| ClusterWeight { name: name.clone(), weight: *weight })
                .collect(),
        }),
    };
    let proxy = tcp::TcpProxy {
        stat_prefix: name.to_owned(),
        cluster_specifier: Some(specifier),
        idle_timeout: idle.map(wire::duration),
        ..Default::default()
    };
    filter(TCP_FILTER, wire::any(&proxy))
}

pub(super) fn filter(name: &str, settings: Any) -> listener::Filter {
    listener::Filter {
        name: name.to_owned(),
        config_type: Some(listener::filter::ConfigType::TypedConfig(settings)),
    }
}

pub(super) fn http_filter(name: &str, settings: Any) -> hcm::HttpFilter {
    hcm::HttpFilter {
        name: name.to_owned(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(settings)),
    }
}

/// Finds where a redirected connection was going.
pub(super) fn original_dst() -> listener::ListenerFilter {
    listener_filter("envoy.filters.listener.original_dst", wire::any(&OriginalDst {}))
}

/// Asks for destinations.
pub(super) fn on_demand() -> listener::ListenerFilter {
    listener_filter("outrider.on_demand", wire::any(&OnDemand {}))
}

/// Tells TLS from plaintext.
pub(super) fn tls_inspector() -> listener::ListenerFilter {
    listener_filter("envoy.filters.listener.tls_inspector", wire::any(&TlsInspector {}))
}

fn listener_filter(name: &str, settings: Any) -> listener::ListenerFilter {
    listener::ListenerFilter {
        name: name.to_owned(),
        config_type: Some(listener::listener_filter::ConfigType::TypedConfig(settings)),
    }
}

/// A listener on an address, without chains.
pub(super) fn listener(
    name: &str,
    address: std::net::SocketAddr,
    direction: core::TrafficDirection,
) -> listener::Listener {
    listener::Listener {
        name: name.to_owned(),
        // An application that speaks IPv4 on a host with IPv6 is redirected to this one too.
        address: Some(wire::address(address, address.is_ipv6() && address.ip().is_unspecified())),
        traffic_direction: direction.into(),
        ..Default::default()
    }
}
