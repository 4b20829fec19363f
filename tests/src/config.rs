//! Start-up files from the parts that a test cares about, in YAML's flow form.

/// The type of the HTTP connection manager.
pub const HCM: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
/// The type of the filter that ends every HTTP chain.
pub const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
/// The type of where spans go.
const OPEN_TELEMETRY: &str = "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig";
/// Access logs to standard output.
pub const STDOUT: &str = "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog";
/// For a cluster whose endpoints speak HTTP/2.
pub const HTTP2: &str = "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: \
                         {\"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, \
                         explicit_http_config: {http2_protocol_options: {}}}}";
/// All requests to the cluster `be`.
pub const TO_BE: &str = "{match: {prefix: /}, route: {cluster: be}}";

/// The field of a connection manager with which its spans go to the cluster `otel` under this name; `more` holds further
/// fields.
#[must_use]
pub fn tracing(service: &str, more: &str) -> String {
    let more = if more.is_empty() { String::new() } else { format!(", {more}") };
    format!(
        "tracing: {{provider: {{name: otel, typed_config: {{\"@type\": {OPEN_TELEMETRY}, service_name: {service}, \
         grpc_service: {{envoy_grpc: {{cluster_name: otel}}, timeout: 2s}}}}}}{more}}}"
    )
}

/// An address on this machine.
#[must_use]
pub fn address(port: u16) -> String {
    format!("{{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}")
}

/// A cluster of one endpoint; `more` holds further fields.
#[must_use]
pub fn cluster(name: &str, port: u16, more: &str) -> String {
    let more = if more.is_empty() { String::new() } else { format!(", {more}") };
    format!(
        "{{name: {name}{more}, load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: \
         [{{endpoint: {{address: {}}}}}]}}]}}}}",
        address(port)
    )
}

/// One HTTP listener: `http` holds further fields of its connection manager, `routes` the routes of its one virtual
/// host.
#[must_use]
pub fn web(admin: u16, port: u16, http: &str, routes: &[&str], clusters: &[String]) -> String {
    let http = if http.is_empty() { String::new() } else { format!(", {http}") };
    format!(
        "admin: {{address: {}}}
static_resources:
  listeners:
  - name: web
    address: {}
    filter_chains: [{{filters: [{{name: http, typed_config: {{\"@type\": {HCM}, stat_prefix: web{http},
      http_filters: [{{name: r, typed_config: {{\"@type\": {ROUTER}}}}}],
      route_config: {{virtual_hosts: [{{name: v, domains: ['*'], routes: [{}]}}]}}}}}}]}}]
  clusters: [{}]
",
        address(admin),
        address(port),
        routes.join(", "),
        clusters.join(", ")
    )
}
