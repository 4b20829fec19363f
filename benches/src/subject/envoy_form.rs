//! Envoy's configuration, which Envoy and Outrider read alike. Written here as YAML, for people's eyes.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use super::certificates::{CLIENT_ID, SERVER_ID, SERVER_NAME};
use super::resilience;
use super::{Mode, Setup, Side};

/// The service that the route leads to.
pub(super) const USED: &str = "s0";
/// First port of the services that nothing is sent to; they differ, as they would in a mesh.
const UNUSED_PORT: usize = 10_000;

/// A start-up file: one listener, one route to the used service, the others beside it.
pub(super) fn bootstrap(setup: &Setup, listen: SocketAddr, admin: SocketAddr, certificates: &Path) -> String {
    let mut text = format!("admin: {{address: {}}}\n", address(admin));
    if let Some(control) = setup.control {
        text.push_str(&dynamic(control, listen));
        return text;
    }
    let _ = write!(
        text,
        "static_resources:\n  listeners:\n  - {}\n  clusters:\n",
        listener(setup.mode, listen, &routes(setup.mode), &downstream_tls(setup.mode, certificates))
    );
    let tls = upstream_tls(setup.mode, certificates);
    for number in 0..setup.clusters {
        let _ = writeln!(text, "  - {}", cluster(setup, number, &tls));
    }
    text
}

/// One listener, in YAML's flow form, which is nearly JSON.
///
/// `routes` is the field of the connection manager that says what the routes are or where they come from.
pub(crate) fn listener(mode: Mode, listen: SocketAddr, routes: &str, tls: &str) -> String {
    format!(
        "{{name: l, address: {}, filter_chains: [{{filters: [{}]{tls}}}]}}",
        address(listen),
        filter(mode, routes)
    )
}

fn filter(mode: Mode, routes: &str) -> String {
    let tcp = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
    let http = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    let router = "envoy.extensions.filters.http.router.v3.Router";
    if mode == Mode::Tcp {
        let config = format!("\"@type\": type.googleapis.com/{tcp}, stat_prefix: bench, cluster: {USED}");
        return format!("{{name: envoy.filters.network.tcp_proxy, typed_config: {{{config}}}}}");
    }
    let upgrades =
        if mode == Mode::WebSocket { ", upgrade_configs: [{upgrade_type: websocket}]" } else { "" };
    let codec = if mode == Mode::Http2 { "HTTP2" } else { "AUTO" };
    let config = format!(
        "\"@type\": type.googleapis.com/{http}, stat_prefix: bench, codec_type: {codec}, \
         generate_request_id: false{upgrades}, {routes}, http_filters: [{}{}{{name: envoy.filters.http.router, typed_config: \
         {{\"@type\": type.googleapis.com/{router}}}}}]",
        policy(mode),
        resilience::filters(mode)
    );
    format!("{{name: envoy.filters.network.http_connection_manager, typed_config: {{{config}}}}}")
}

/// An RBAC filter whose rules name paths that nobody asks for.
fn policy(mode: Mode) -> String {
    let Mode::Policy(rules) = mode else { return String::new() };
    let rules: Vec<String> = (0..rules)
        .map(|number| {
            format!(
                "p{number}: {{permissions: [{{url_path: {{path: {{exact: \"{}\"}}}}}}], principals: [{{any: true}}]}}",
                denied(number)
            )
        })
        .collect();
    format!(
        "{{name: envoy.filters.http.rbac, typed_config: {{\"@type\": \
         type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC, rules: {{action: DENY, policies: {{{}}}}}}}}}, ",
        rules.join(", ")
    )
}

/// The path of a rule.
pub(super) fn denied(number: usize) -> String {
    format!("/denied/{number}")
}

/// The field of a filter chain that asks the client for its certificate.
fn downstream_tls(mode: Mode, certificates: &Path) -> String {
    if mode != Mode::Pair(Side::Server) {
        return String::new();
    }
    let context = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
    let common = common_tls(certificates, "server", CLIENT_ID);
    format!(", {}", socket(context, &format!("require_client_certificate: true, {common}")))
}

/// The field of a cluster that shows ours.
fn upstream_tls(mode: Mode, certificates: &Path) -> String {
    if mode != Mode::Pair(Side::Client) {
        return String::new();
    }
    let context = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
    let common = common_tls(certificates, "client", SERVER_ID);
    format!(", {}", socket(context, &format!("sni: {SERVER_NAME}, {common}")))
}

fn socket(context: &str, fields: &str) -> String {
    format!(
        "transport_socket: {{name: envoy.transport_sockets.tls, typed_config: {{\"@type\": \
         type.googleapis.com/{context}, {fields}}}}}"
    )
}

fn common_tls(certificates: &Path, own: &str, peer: &str) -> String {
    let folder = certificates.display();
    format!(
        "common_tls_context: {{tls_params: {{tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}}, \
         tls_certificates: [{{certificate_chain: {{filename: {folder}/{own}.crt}}, private_key: {{filename: \
         {folder}/{own}.key}}}}], validation_context: {{trusted_ca: {{filename: {folder}/ca.pem}}, \
         match_typed_subject_alt_names: [{{san_type: URI, matcher: {{exact: \"{peer}\"}}}}]}}}}"
    )
}

/// The one route, inline.
fn routes(mode: Mode) -> String {
    format!("route_config: {{{}}}", routed(resilience::route(mode), ""))
}

/// The fields of a route configuration with one route to the used service, and more of them.
pub(crate) fn route_configuration(more: &str) -> String {
    routed("", more)
}

fn routed(action: &str, more: &str) -> String {
    let route = format!("{{match: {{prefix: \"/\"}}, route: {{cluster: {USED}, timeout: 15s{action}}}}}");
    format!("name: r, virtual_hosts: [{{name: v, domains: [\"*\"], routes: [{route}]}}]{more}")
}

/// One service with one endpoint.
pub(crate) fn cluster(setup: &Setup, number: usize, tls: &str) -> String {
    let endpoint = if number == 0 { setup.upstream } else { unused(number) };
    let thresholds = "max_connections: 10000, max_pending_requests: 10000, max_requests: 10000";
    format!(
        "{{name: s{number}, type: STATIC, connect_timeout: 5s{}{}{tls}, circuit_breakers: {{thresholds: [{{{thresholds}}}]}}, \
         load_assignment: {{cluster_name: s{number}, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {}}}}}]}}]}}}}",
        protocol(setup.mode),
        resilience::cluster(setup.mode),
        address(endpoint)
    )
}

/// The endpoint of a service that nothing is sent to.
pub(super) fn unused(number: usize) -> SocketAddr {
    let port = UNUSED_PORT + number % 50_000;
    SocketAddr::from(([127, 0, 0, 2], u16::try_from(port).unwrap_or(u16::MAX)))
}

fn protocol(mode: Mode) -> &'static str {
    if mode == Mode::Http2 {
        ", typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {\"@type\": \
         type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: \
         {http2_protocol_options: {}}}}"
    } else {
        ""
    }
}

/// Listeners and clusters by delta ADS; the node's name says where the listener is wanted.
fn dynamic(control: SocketAddr, listen: SocketAddr) -> String {
    format!(
        "node: {{id: \"{listen}\", cluster: bench}}\n\
         dynamic_resources:\n  \
         ads_config: {{api_type: DELTA_GRPC, transport_api_version: V3, grpc_services: [{{envoy_grpc: {{cluster_name: ads}}}}]}}\n  \
         lds_config: {{resource_api_version: V3, ads: {{}}}}\n  \
         cds_config: {{resource_api_version: V3, ads: {{}}}}\n\
         static_resources:\n  clusters:\n  \
         - {{name: ads, type: STATIC, connect_timeout: 5s{}, load_assignment: {{cluster_name: ads, endpoints: \
         [{{lb_endpoints: [{{endpoint: {{address: {}}}}}]}}]}}}}\n",
        protocol(Mode::Http2),
        address(control)
    )
}

fn address(of: SocketAddr) -> String {
    format!("{{socket_address: {{address: {}, port_value: {}}}}}", of.ip(), of.port())
}

#[cfg(test)]
mod tests {
    use outrider_proto::envoy::config::bootstrap::v3::Bootstrap;

    use super::*;

    fn here(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn what_is_written_is_inside_the_subset() {
        let pairs = [Mode::Pair(Side::Client), Mode::Pair(Side::Server)];
        for mode in [Mode::Http1, Mode::WebSocket, Mode::Http2, Mode::Tcp, Mode::Policy(3), Mode::Resilient]
            .into_iter()
            .chain(pairs)
        {
            let setup = Setup { clusters: 3, ..Setup::plain(mode, here(3)) };
            let text = bootstrap(&setup, here(1), here(2), Path::new("/"));
            let read: Bootstrap = outrider_proto::json::from_yaml(&text).unwrap();
            let resources = read.static_resources.unwrap();
            assert_eq!((resources.listeners.len(), resources.clusters.len()), (1, 3), "{mode:?}");
        }
        let setup = Setup { control: Some(here(4)), ..Setup::plain(Mode::Http1, here(3)) };
        let read: Bootstrap =
            outrider_proto::json::from_yaml(&bootstrap(&setup, here(1), here(2), Path::new("/"))).unwrap();
        assert!(read.dynamic_resources.is_some());
    }
}
