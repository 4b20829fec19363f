//! Clusters: how a set of endpoints is found and spoken to.

use std::sync::Arc;
use std::time::Duration;

use outrider_proto::envoy::config::cluster::v3 as pb;
use outrider_proto::envoy::config::core::v3 as core;
use outrider_proto::envoy::extensions::upstreams::http::v3 as upstream;
use outrider_proto::outrider::shedding::v1::DeadlineShedding;
use outrider_proto::{Fault, Path, unpack};
use pb::cluster::{ClusterDiscoveryType, DiscoveryType, LbPolicy};

use super::balancing::Balancing;
use super::dns::DnsSettings;
use super::endpoint::{self, EndpointSet, NamedEndpoint};
use super::health_check::HealthCheck;
use super::http_chain::Http2Settings;
use super::limits::Limits;
use super::outlier::OutlierDetection;
use super::parse;
use super::tls::UpstreamTls;

/// Envoy's default of `connect_timeout`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Envoy's default of the upstream idle timeout.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// The keys in `typed_extension_protocol_options`.
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const SHEDDING: &str = "outrider.shedding.v1.DeadlineShedding";
/// Where nothing else is said: so many percent of the good answers came within the time that a request must have left.
const SHED_PERCENTILE: u32 = 10;

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
    pub balancing: Balancing,
    /// How much may be in use at a time.
    pub limits: Limits,
    /// Which HTTP is spoken.
    pub protocol: ProtocolChoice,
    /// HTTP/2 settings.
    pub http2: Http2Settings,
    /// For a connection without a request.
    pub idle_timeout: Option<Duration>,
    /// Requests on one connection.
    pub max_requests_per_connection: Option<u32>,
    /// How endpoints are asked whether they are well.
    pub health_check: Option<HealthCheck>,
    /// When endpoints are ejected for what they did to requests.
    pub outliers: Option<OutlierDetection>,
    /// A request is refused that has less time left than this percentile of its good answers take.
    pub sheds: Option<u8>,
    /// Whether opaque connections end when their endpoint turns unwell.
    pub cuts_unwell: bool,
    /// How its endpoints are spoken to; plaintext without.
    pub tls: Option<UpstreamTls>,
}

/// Where endpoints come from.
#[derive(Debug)]
pub enum Discovery {
    /// They stand in the cluster itself.
    Static(Arc<EndpointSet>),
    /// Their names are resolved again and again.
    Dns {
        /// The names.
        hosts: Vec<NamedEndpoint>,
        /// How.
        settings: DnsSettings,
    },
    /// A resource of this name.
    Eds(Arc<str>),
    /// Where the connection was going.
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
    /// What TLS agrees on with the endpoint.
    Agreed,
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
        let (http, sheds) = extensions(value, path);
        let tls = value
            .transport_socket
            .as_ref()
            .map(|socket| path.field("transport_socket", |path| UpstreamTls::from_proto(socket, path)));
        if http.protocol == ProtocolChoice::Agreed && value.transport_socket.is_none() {
            path.fault_at(
                "transport_socket",
                "auto_config is for clusters with TLS, which agrees on the version",
            );
        }
        let tls = tls.map(|tls| tls.map(|tls| tls.offering(http.protocol == ProtocolChoice::Agreed)));
        Some(Self {
            connect_timeout,
            tls: match tls {
                Some(tls) => Some(tls?),
                None => None,
            },
            balancing: Balancing::from_proto(value, path),
            limits: Limits::from_proto(value.circuit_breakers.as_ref(), path),
            health_check: HealthCheck::from_proto(&value.health_checks, path),
            outliers: value.outlier_detection.as_ref().map(|outliers| {
                path.field("outlier_detection", |path| OutlierDetection::from_proto(outliers, path))
            }),
            sheds,
            cuts_unwell: value.close_connections_on_host_health_failure,
            protocol: http.protocol,
            http2: http.http2,
            idle_timeout: http.idle_timeout,
            max_requests_per_connection: http.max_requests_per_connection,
            discovery: discovery?,
            name: name?,
        })
    }
}

fn discovery(value: &pb::Cluster, path: &mut Path) -> Option<Discovery> {
    let kind = value.cluster_discovery_type.as_ref().map_or(0, |ClusterDiscoveryType::Type(kind)| *kind);
    let kind = DiscoveryType::try_from(kind).unwrap_or_default();
    let assignment = value.load_assignment.clone().unwrap_or_default();
    let in_place =
        matches!(kind, DiscoveryType::Static | DiscoveryType::StrictDns | DiscoveryType::LogicalDns);
    if value.load_assignment.is_some() && !in_place {
        path.fault_at(
            "load_assignment",
            "only STATIC, STRICT_DNS and LOGICAL_DNS clusters hold their endpoints themselves",
        );
    }
    if value.eds_cluster_config.is_some() && kind != DiscoveryType::Eds {
        path.fault_at("eds_cluster_config", "only for clusters of type EDS");
    }
    if value.lb_policy() == LbPolicy::ClusterProvided && kind != DiscoveryType::OriginalDst {
        path.fault_at("lb_policy", "CLUSTER_PROVIDED is only for clusters of type ORIGINAL_DST");
    }
    match kind {
        DiscoveryType::Static => {
            let set = path.field("load_assignment", |path| {
                endpoint::check_name(value.load_assignment.as_ref(), path);
                EndpointSet::compile(&assignment, path)
            });
            Some(Discovery::Static(Arc::new(set)))
        }
        DiscoveryType::StrictDns | DiscoveryType::LogicalDns => {
            let one = kind == DiscoveryType::LogicalDns;
            let settings = DnsSettings::from_proto(value, one, path);
            let hosts = path.field("load_assignment", |path| {
                endpoint::check_name(value.load_assignment.as_ref(), path);
                let hosts = endpoint::named(&assignment, path);
                if one && hosts.len() != 1 {
                    path.fault_at("endpoints", "a LOGICAL_DNS cluster has exactly one endpoint");
                }
                hosts
            });
            Some(Discovery::Dns { hosts, settings })
        }
        DiscoveryType::Eds => path.field("eds_cluster_config", |path| {
            let Some(eds) = &value.eds_cluster_config else {
                return path.refuse("missing");
            };
            parse::over_ads(eds.eds_config.as_ref(), "eds_config", path);
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

/// What `HttpProtocolOptions` says.
struct HttpOptions {
    protocol: ProtocolChoice,
    http2: Http2Settings,
    idle_timeout: Option<Duration>,
    max_requests_per_connection: Option<u32>,
}

fn extensions(value: &pb::Cluster, path: &mut Path) -> (HttpOptions, Option<u8>) {
    let mut options = HttpOptions {
        protocol: ProtocolChoice::Http1,
        http2: Http2Settings::UPSTREAM,
        idle_timeout: Some(IDLE_TIMEOUT),
        max_requests_per_connection: None,
    };
    let mut sheds = None;
    for (key, any) in &value.typed_extension_protocol_options {
        path.field("typed_extension_protocol_options", |path| {
            path.key(key, |path| {
                let expected = if let Some(found) = unpack::<upstream::HttpProtocolOptions>(any) {
                    options = HttpOptions::from_proto(&found, path);
                    HTTP_OPTIONS
                } else if let Some(found) = unpack::<DeadlineShedding>(any) {
                    sheds = Some(percentile(&found, path));
                    SHEDDING
                } else {
                    path.fault(format!("\"{}\" is not supported here", any.type_url));
                    key
                };
                if key != expected {
                    path.fault(format!("the key must be \"{expected}\""));
                }
            });
        });
    }
    (options, sheds)
}

fn percentile(value: &DeadlineShedding, path: &mut Path) -> u8 {
    let said = value.percentile.unwrap_or(SHED_PERCENTILE);
    match u8::try_from(said) {
        Ok(percentile @ 1..=50) => percentile,
        Ok(_) | Err(_) => {
            path.fault_at("percentile", "must be from 1 to 50");
            1
        }
    }
}

impl HttpOptions {
    fn from_proto(value: &upstream::HttpProtocolOptions, path: &mut Path) -> Self {
        let default = core::HttpProtocolOptions::default();
        let common = value.common_http_protocol_options.as_ref().unwrap_or(&default);
        let idle_timeout = path.field("common_http_protocol_options", |path| {
            refuse_downstream_only(common, path);
            parse::limit(common.idle_timeout.as_ref(), Some(IDLE_TIMEOUT), "idle_timeout", path)
        });
        let (protocol, http2) = protocol(value, path);
        let max_requests_per_connection = common.max_requests_per_connection.filter(|count| *count > 0);
        Self { protocol, http2, idle_timeout, max_requests_per_connection }
    }
}

/// Options that have an effect on listeners but would have none here.
fn refuse_downstream_only(common: &core::HttpProtocolOptions, path: &mut Path) {
    for (name, set) in [
        ("max_headers_count", common.max_headers_count.is_some()),
        ("max_connection_duration", common.max_connection_duration.is_some()),
        ("max_stream_duration", common.max_stream_duration.is_some()),
        ("headers_with_underscores_action", common.headers_with_underscores_action != 0),
    ] {
        if set {
            path.fault_at(name, "not supported for clusters");
        }
    }
}

fn http1(value: Option<&core::Http1ProtocolOptions>, path: &mut Path) {
    if value.is_some_and(|http1| http1.accept_http_10) {
        path.fault_at("http_protocol_options.accept_http_10", "has no meaning for a cluster");
    }
}

fn protocol(value: &upstream::HttpProtocolOptions, path: &mut Path) -> (ProtocolChoice, Http2Settings) {
    use upstream::http_protocol_options::UpstreamProtocolOptions;
    use upstream::http_protocol_options::explicit_http_config::ProtocolConfig;
    let http2 = |value, path: &mut Path| {
        path.field("http2_protocol_options", |path| {
            Http2Settings::from_proto(value, Http2Settings::UPSTREAM, path)
        })
    };
    match &value.upstream_protocol_options {
        None => {
            path.fault(
                "one of explicit_http_config, use_downstream_protocol_config and auto_config is needed",
            );
            (ProtocolChoice::Http1, Http2Settings::UPSTREAM)
        }
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)) => {
            path.field("explicit_http_config", |path| match &explicit.protocol_config {
                Some(ProtocolConfig::HttpProtocolOptions(options)) => {
                    http1(Some(options), path);
                    (ProtocolChoice::Http1, Http2Settings::UPSTREAM)
                }
                Some(ProtocolConfig::Http2ProtocolOptions(options)) => {
                    (ProtocolChoice::Http2, http2(Some(options), path))
                }
                None => {
                    path.fault("one of http_protocol_options and http2_protocol_options is needed");
                    (ProtocolChoice::Http1, Http2Settings::UPSTREAM)
                }
            })
        }
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(both)) => {
            path.field("use_downstream_protocol_config", |path| {
                http1(both.http_protocol_options.as_ref(), path);
                (ProtocolChoice::Downstream, http2(both.http2_protocol_options.as_ref(), path))
            })
        }
        Some(UpstreamProtocolOptions::AutoConfig(both)) => path.field("auto_config", |path| {
            http1(both.http_protocol_options.as_ref(), path);
            (ProtocolChoice::Agreed, http2(both.http2_protocol_options.as_ref(), path))
        }),
    }
}

#[cfg(test)]
mod tests;
