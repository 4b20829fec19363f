//! Type URLs of the resources, and of what may stand in an `Any`.

/// `envoy.config.listener.v3.Listener`
pub const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
/// `envoy.config.route.v3.RouteConfiguration`
pub const ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
/// `envoy.config.cluster.v3.Cluster`
pub const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
/// `envoy.config.endpoint.v3.ClusterLoadAssignment`
pub const ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
/// `envoy.extensions.transport_sockets.tls.v3.Secret`
pub const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
/// `outrider.identity.v1.RevocationList`
pub const REVOCATIONS: &str = "type.googleapis.com/outrider.identity.v1.RevocationList";
/// `outrider.fault.v1.FaultInjection`
pub const FAULTS: &str = "type.googleapis.com/outrider.fault.v1.FaultInjection";
/// `outrider.destination.v1.Destination`
pub const DESTINATIONS: &str = "type.googleapis.com/outrider.destination.v1.Destination";

/// Prefix of every type URL.
pub const PREFIX: &str = "type.googleapis.com/";

/// Extensions that may stand in an `Any` inside a resource.
pub const EXTENSIONS: &[&str] = &[
    "envoy.config.trace.v3.OpenTelemetryConfig",
    "envoy.extensions.access_loggers.file.v3.FileAccessLog",
    "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
    "envoy.extensions.filters.http.adaptive_concurrency.v3.AdaptiveConcurrency",
    "envoy.extensions.filters.http.fault.v3.HTTPFault",
    "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
    "envoy.extensions.filters.http.rbac.v3.RBAC",
    "envoy.extensions.filters.http.rbac.v3.RBACPerRoute",
    "envoy.extensions.filters.http.router.v3.Router",
    "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector",
    "envoy.extensions.filters.listener.original_dst.v3.OriginalDst",
    "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
    "envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit",
    "envoy.extensions.filters.network.rbac.v3.RBAC",
    "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
    "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
    "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
    "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
    "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
    "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
    "envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig",
    "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
    "outrider.destination.v1.OnDemand",
    "outrider.egress.v1.EgressGuard",
    "outrider.load_balancing.v1.PeakEwma",
    "outrider.overload.v1.OpenFiles",
    "outrider.rate_limit.v1.PeerIdentity",
    "outrider.shedding.v1.DeadlineShedding",
];

/// The full message name in a type URL, if it is one that may stand in an `Any`.
pub(crate) fn extension(type_url: &str) -> Option<&str> {
    let name = type_url.strip_prefix(PREFIX)?;
    EXTENSIONS.contains(&name).then_some(name)
}
