//! Spans of the whole mesh: where they go, and which requests have any.

use std::net::IpAddr;
use std::str::FromStr;

use outrider_proto::envoy::config::cluster::v3 as cluster;
use outrider_proto::envoy::config::core::v3 as core;
use outrider_proto::envoy::config::trace::v3 as trace;
use outrider_proto::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use outrider_proto::envoy::r#type::v3::Percent as WirePercent;

use super::cluster::{CONNECT_TIMEOUT, assignment_of_host, options};
use super::model::Protocol;
use super::wire;
use crate::object::scalar::Percent;

/// The cluster of the collector.
const CLUSTER: &str = "outrider.tracing";
/// The name of the tracer, which Envoy wants.
const TRACER: &str = "envoy.tracers.opentelemetry";
/// Longest name of a host (RFC 1035 section 2.3.4).
const MAX_HOST_BYTES: usize = 253;

/// What the mesh says about spans.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tracing {
    /// Where they go: OTLP over gRPC, in plaintext.
    pub collector: Collector,
    /// Requests that begin a trace and have it recorded.
    pub sampling: Percent,
}

/// An address, `HOST:PORT`, with IPv6 in brackets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Collector {
    host: String,
    port: u16,
}

impl FromStr for Collector {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RULE: &str = "must be HOST:PORT, with an IPv6 address in brackets";
        let (host, port) = text.rsplit_once(':').ok_or(RULE)?;
        let port = port.parse().ok().filter(|port| *port > 0).ok_or(RULE)?;
        let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(inside) => inside.parse::<std::net::Ipv6Addr>().map_err(|_| RULE)?.to_string(),
            None => {
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
                let is_name = !host.is_empty() && host.len() <= MAX_HOST_BYTES && host.bytes().all(plain);
                is_name.then(|| host.to_owned()).ok_or(RULE)?
            }
        };
        Ok(Self { host, port })
    }
}

impl Tracing {
    /// The cluster of the collector.
    pub(super) fn cluster(&self) -> cluster::Cluster {
        use cluster::cluster::{ClusterDiscoveryType, DiscoveryType};
        let Collector { host, port } = &self.collector;
        let is_address = host.parse::<IpAddr>().is_ok();
        let kind = if is_address { DiscoveryType::Static } else { DiscoveryType::StrictDns };
        cluster::Cluster {
            name: CLUSTER.to_owned(),
            cluster_discovery_type: Some(ClusterDiscoveryType::Type(kind.into())),
            connect_timeout: Some(wire::duration(CONNECT_TIMEOUT)),
            typed_extension_protocol_options: options(Protocol::Http2),
            load_assignment: Some(assignment_of_host(CLUSTER, host.clone(), *port)),
            ..Default::default()
        }
    }

    /// What listeners say; `of_attempts` where attempts have spans of their own. The name of the service is left to the
    /// proxy: what is said here, many of them hear.
    pub(super) fn of_listener(&self, of_attempts: bool) -> hcm::http_connection_manager::Tracing {
        let service = core::GrpcService {
            target_specifier: Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(
                core::grpc_service::EnvoyGrpc { cluster_name: CLUSTER.to_owned() },
            )),
            timeout: None,
        };
        let config = trace::OpenTelemetryConfig { grpc_service: Some(service), service_name: String::new() };
        let typed = trace::tracing::http::ConfigType::TypedConfig(wire::any(&config));
        hcm::http_connection_manager::Tracing {
            random_sampling: Some(WirePercent { value: f64::from(self.sampling.millionths) / 10_000.0 }),
            spawn_upstream_span: of_attempts.then_some(true),
            provider: Some(trace::tracing::Http { name: TRACER.to_owned(), config_type: Some(typed) }),
            ..Default::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_is_a_host_and_a_port() {
        for (text, expected) in [
            ("collector.observe:4317", Some(("collector.observe", 4317))),
            ("10.0.0.1:4317", Some(("10.0.0.1", 4317))),
            ("[2001:db8::1]:4317", Some(("2001:db8::1", 4317))),
            ("2001:db8::1:4317", None),
            ("[collector]:4317", None),
            ("http://collector:4317", None),
            ("collector", None),
            ("collector:0", None),
            ("collector:65536", None),
            (":4317", None),
        ] {
            let parsed = text.parse::<Collector>().ok();
            let parsed = parsed.as_ref().map(|one| (one.host.as_str(), one.port));
            assert_eq!(parsed, expected, "{text}");
        }
    }
}
