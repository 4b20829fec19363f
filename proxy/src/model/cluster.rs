//! Clusters: how a set of endpoints is found and spoken to.

use std::sync::Arc;
use std::time::Duration;

use outrider_proto::envoy::config::cluster::v3 as pb;
use outrider_proto::envoy::config::core::v3 as core;
use outrider_proto::envoy::extensions::upstreams::http::v3 as upstream;
use outrider_proto::{Fault, Path, unpack};
use pb::cluster::{ClusterDiscoveryType, DiscoveryType, DnsLookupFamily, LbConfig, LbPolicy};

use super::endpoint::{self, EndpointSet, NamedEndpoint};
use super::http_chain::Http2Settings;
use super::parse;

/// Envoy's default of `connect_timeout`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Envoy's default of `dns_refresh_rate`.
const DNS_REFRESH: Duration = Duration::from_secs(5);
/// Envoy's default of the upstream idle timeout.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// The only key in `typed_extension_protocol_options`.
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// A compiled cluster.
#[derive(Debug)]
pub struct Cluster {
    /// Its name; unique.
    pub name: Arc<str>,
    /// Where its endpoints come from.
    pub discovery: Discovery,
    /// For a connection to be made.
    pub connect_timeout: Duration,
    /// How an endpoint is chosen.
    pub balancer: Balancer,
    /// How much may be in use at a time.
    pub limits: CircuitLimits,
    /// Which HTTP is spoken.
    pub protocol: ProtocolChoice,
    /// HTTP/2 settings.
    pub http2: Http2Settings,
    /// For a connection without a request.
    pub idle_timeout: Option<Duration>,
    /// Requests on one connection.
    pub max_requests_per_connection: Option<u32>,
}

/// Where endpoints come from.
#[derive(Debug)]
pub enum Discovery {
    /// They stand in the cluster itself.
    Static(Arc<EndpointSet>),
    /// Their names are resolved again and again.
    StrictDns {
        /// The names.
        hosts: Vec<NamedEndpoint>,
        /// How often.
        refresh: Duration,
        /// Which addresses are taken.
        family: DnsFamily,
    },
    /// A resource of this name.
    Eds(Arc<str>),
    /// Where the connection was going.
    OriginalDst,
}

/// Which addresses of a name are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsFamily {
    /// IPv6, or IPv4 if there is none (Envoy's AUTO).
    V6Preferred,
    /// IPv4, or IPv6 if there is none.
    V4Preferred,
    /// IPv4 only.
    V4Only,
    /// IPv6 only.
    V6Only,
    /// Both.
    All,
}

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balancer {
    /// In turn, by weight.
    RoundRobin,
    /// By chance, by weight.
    Random,
    /// The least busy of so many drawn by chance.
    LeastRequest(u32),
    /// The one that the connection was going to.
    OriginalDst,
}

/// Which HTTP is spoken with endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolChoice {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// What the request came in.
    Downstream,
}

/// Circuit-breaker limits, with Envoy's defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CircuitLimits {
    /// Connections.
    pub max_connections: u32,
    /// Requests that wait for a connection.
    pub max_pending_requests: u32,
    /// Requests under way.
    pub max_requests: u32,
    /// Retries under way.
    pub max_retries: u32,
}

impl Default for CircuitLimits {
    fn default() -> Self {
        Self { max_connections: 1024, max_pending_requests: 1024, max_requests: 1024, max_retries: 3 }
    }
}

impl Cluster {
    /// Compiles a cluster.
    ///
    /// # Errors
    /// All faults, with the paths of the fields.
    pub fn from_proto(value: &pb::Cluster) -> Result<Self, Vec<Fault>> {
        let mut path = Path::root();
        let cluster = Self::compile(value, &mut path);
        path.finish(cluster)
    }

    fn compile(value: &pb::Cluster, path: &mut Path) -> Option<Self> {
        let name = parse::required(&value.name, "name", path);
        let discovery = discovery(value, path);
        let connect_timeout =
            parse::duration(value.connect_timeout.as_ref(), CONNECT_TIMEOUT, "connect_timeout", path);
        if connect_timeout.is_zero() {
            path.fault_at("connect_timeout", "must be longer than 0");
        }
        let options = path.field("typed_extension_protocol_options", |path| http_options(value, path));
        let default_options = core::HttpProtocolOptions::default();
        let common = options.common_http_protocol_options.as_ref().unwrap_or(&default_options);
        let (protocol, http2) = protocol(&options, path);
        Some(Self {
            connect_timeout,
            balancer: balancer(value, path),
            limits: limits(value, path),
            protocol,
            http2,
            idle_timeout: parse::limit(
                common.idle_timeout.as_ref(),
                Some(IDLE_TIMEOUT),
                "idle_timeout",
                path,
            ),
            max_requests_per_connection: common.max_requests_per_connection.filter(|count| *count > 0),
            discovery: discovery?,
            name: name?,
        })
    }
}

fn discovery(value: &pb::Cluster, path: &mut Path) -> Option<Discovery> {
    let kind = value.cluster_discovery_type.as_ref().map_or(0, |ClusterDiscoveryType::Type(kind)| *kind);
    let assignment = value.load_assignment.clone().unwrap_or_default();
    match DiscoveryType::try_from(kind).unwrap_or_default() {
        DiscoveryType::Static => {
            let set = path.field("load_assignment", |path| EndpointSet::compile(&assignment, path));
            Some(Discovery::Static(Arc::new(set)))
        }
        DiscoveryType::StrictDns => {
            let family = match value.dns_lookup_family() {
                DnsLookupFamily::Auto => DnsFamily::V6Preferred,
                DnsLookupFamily::V4Only => DnsFamily::V4Only,
                DnsLookupFamily::V6Only => DnsFamily::V6Only,
                DnsLookupFamily::V4Preferred => DnsFamily::V4Preferred,
                DnsLookupFamily::All => DnsFamily::All,
            };
            let refresh =
                parse::duration(value.dns_refresh_rate.as_ref(), DNS_REFRESH, "dns_refresh_rate", path);
            if refresh < Duration::from_millis(1) {
                path.fault_at("dns_refresh_rate", "must be at least 1ms");
            }
            let hosts = path.field("load_assignment", |path| endpoint::named(&assignment, path));
            Some(Discovery::StrictDns { hosts, refresh, family })
        }
        DiscoveryType::Eds => path.field("eds_cluster_config", |path| {
            let Some(eds) = &value.eds_cluster_config else {
                return path.refuse("missing");
            };
            if eds.eds_config.as_ref().is_none_or(|source| source.config_source_specifier.is_none()) {
                path.fault_at("eds_config", "must be \"ads: {}\"");
            }
            let name = if eds.service_name.is_empty() { &value.name } else { &eds.service_name };
            Some(Discovery::Eds(name.as_str().into()))
        }),
        DiscoveryType::OriginalDst => {
            if value.lb_policy() != LbPolicy::ClusterProvided {
                path.fault_at("lb_policy", "must be CLUSTER_PROVIDED for ORIGINAL_DST");
            }
            Some(Discovery::OriginalDst)
        }
    }
}

fn balancer(value: &pb::Cluster, path: &mut Path) -> Balancer {
    let choices = match &value.lb_config {
        Some(LbConfig::LeastRequestLbConfig(config)) => config.choice_count.unwrap_or(2),
        None => 2,
    };
    if choices < 2 {
        path.fault_at("least_request_lb_config.choice_count", "must be at least 2");
    }
    match value.lb_policy() {
        LbPolicy::RoundRobin => Balancer::RoundRobin,
        LbPolicy::LeastRequest => Balancer::LeastRequest(choices),
        LbPolicy::Random => Balancer::Random,
        LbPolicy::ClusterProvided => Balancer::OriginalDst,
    }
}

fn limits(value: &pb::Cluster, path: &mut Path) -> CircuitLimits {
    let mut limits = CircuitLimits::default();
    let thresholds =
        value.circuit_breakers.as_ref().map_or(&[][..], |breakers| breakers.thresholds.as_slice());
    if thresholds.len() > 1 {
        path.fault_at("circuit_breakers.thresholds", "more than one for the same priority");
    }
    if let Some(set) = thresholds.first() {
        limits.max_connections = set.max_connections.unwrap_or(limits.max_connections);
        limits.max_pending_requests = set.max_pending_requests.unwrap_or(limits.max_pending_requests);
        limits.max_requests = set.max_requests.unwrap_or(limits.max_requests);
        limits.max_retries = set.max_retries.unwrap_or(limits.max_retries);
    }
    limits
}

fn http_options(value: &pb::Cluster, path: &mut Path) -> upstream::HttpProtocolOptions {
    let mut options = upstream::HttpProtocolOptions::default();
    for (key, any) in &value.typed_extension_protocol_options {
        path.field(&format!("[\"{key}\"]"), |path| match unpack::<upstream::HttpProtocolOptions>(any) {
            Some(found) if key == HTTP_OPTIONS => options = found,
            Some(_) => path.fault(format!("the key must be \"{HTTP_OPTIONS}\"")),
            None => path.fault(format!("\"{}\" is not supported here", any.type_url)),
        });
    }
    options
}

fn protocol(options: &upstream::HttpProtocolOptions, path: &mut Path) -> (ProtocolChoice, Http2Settings) {
    use upstream::http_protocol_options::UpstreamProtocolOptions;
    use upstream::http_protocol_options::explicit_http_config::ProtocolConfig;
    match &options.upstream_protocol_options {
        None => (ProtocolChoice::Http1, Http2Settings::default()),
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)) => match &explicit.protocol_config {
            Some(ProtocolConfig::HttpProtocolOptions(_)) => (ProtocolChoice::Http1, Http2Settings::default()),
            Some(ProtocolConfig::Http2ProtocolOptions(http2)) => {
                (ProtocolChoice::Http2, Http2Settings::from_proto(Some(http2), path))
            }
            None => {
                path.fault_at("explicit_http_config", "one of its fields is needed");
                (ProtocolChoice::Http1, Http2Settings::default())
            }
        },
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(both)) => (
            ProtocolChoice::Downstream,
            Http2Settings::from_proto(both.http2_protocol_options.as_ref(), path),
        ),
    }
}
