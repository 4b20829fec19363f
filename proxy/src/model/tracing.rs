//! Spans of requests: which are taken, what is in them and where they go.

use std::sync::Arc;
use std::time::Duration;

use outrider_proto::Path;
use outrider_proto::envoy::config::core::v3::{GrpcService, grpc_service::TargetSpecifier};
use outrider_proto::envoy::config::trace::v3 as pb_trace;
use outrider_proto::envoy::extensions::filters::network::http_connection_manager::v3 as pb;
use outrider_proto::envoy::r#type::tracing::v3 as pb_tag;
use outrider_proto::envoy::r#type::v3::Percent;
use outrider_proto::unpack;
use pb::http_connection_manager::Tracing as Message;
use pb_trace::tracing::http::ConfigType;

use super::balancing::percent;
use super::parse;
use crate::observe::trace::TraceId;

/// Envoy's default of `max_path_tag_length`, in bytes.
const MAX_PATH_BYTES: u32 = 256;
/// Most tags of a listener's own.
const MAX_TAGS: usize = 64;
/// How long one call of the collector may take where `grpc_service.timeout` is not set: OTLP's default.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest `grpc_service.timeout`: what is queued meanwhile is lost.
const MAX_TIMEOUT: Duration = Duration::from_secs(60);

/// A compiled `HttpConnectionManager.tracing`.
#[derive(Debug)]
pub struct Tracing {
    /// Of the requests whose client asks for it with `x-client-trace-id`.
    pub client: Sampling,
    /// Of the requests that come with no decision.
    pub random: Sampling,
    /// Of all that would be sampled otherwise.
    pub overall: Sampling,
    /// How much of a path is told, in bytes.
    pub max_path_bytes: usize,
    /// What every span is told besides.
    pub tags: Vec<Tag>,
    /// Every attempt has a span of its own.
    pub upstream_spans: bool,
    /// Where they go.
    pub collector: Arc<Collector>,
}

/// Where spans go, and under which name.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Collector {
    /// The cluster.
    pub cluster: Arc<str>,
    /// `service.name` of the resource; `None` for the proxy's own.
    pub service: Option<Arc<str>>,
    /// How long one call may take.
    pub timeout: Duration,
}

/// An attribute of the operator's own.
#[derive(Debug)]
pub struct Tag {
    /// Its key.
    pub key: Box<str>,
    /// Its value.
    pub value: TagValue,
}

/// The value of a tag.
#[derive(Debug)]
pub enum TagValue {
    /// Always the same.
    Literal(Box<str>),
    /// That of a request's header, or else this; nothing if it is empty.
    Header(Box<[u8]>, Box<str>),
}

/// A share of traces. The same trace falls into it or not at every hop that samples the same share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling(u64);

impl Sampling {
    /// How many values the random part of a trace's id can have (W3C Trace Context level 2, random trace id flag).
    const ALL: u64 = 1 << 56;

    /// So many percent, from 0 to 100.
    #[must_use]
    pub fn from_percent(percent: f64) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "from 0 to 100 percent of 2^56, which fits"
        )]
        Self((Self::ALL as f64 * (percent / 100.0)) as u64)
    }

    /// Whether the trace is in it.
    #[must_use]
    pub const fn holds(self, trace: TraceId) -> bool {
        trace.random_part() < self.0
    }
}

/// Compiles the settings.
pub(super) fn compile(value: &Message, path: &mut Path) -> Option<Tracing> {
    let mut share = |value: Option<Percent>, name: &str| {
        Sampling::from_percent(percent(value, 100.0, name, path).clamp(0.0, 100.0))
    };
    let client = share(value.client_sampling, "client_sampling");
    let random = share(value.random_sampling, "random_sampling");
    let overall = share(value.overall_sampling, "overall_sampling");
    if value.custom_tags.len() > MAX_TAGS {
        path.fault_at("custom_tags", format!("more than {MAX_TAGS}"));
    }
    let tags = value.custom_tags.iter().enumerate();
    let tags = tags.filter_map(|(index, value)| path.item("custom_tags", index, |path| tag(value, path)));
    let tags = tags.collect();
    let collector = path.field("provider", |path| provider(value.provider.as_ref(), path))?;
    Some(Tracing {
        client,
        random,
        overall,
        max_path_bytes: value.max_path_tag_length.unwrap_or(MAX_PATH_BYTES) as usize,
        tags,
        upstream_spans: value.spawn_upstream_span.unwrap_or(false),
        collector: Arc::new(collector),
    })
}

fn tag(value: &pb_tag::CustomTag, path: &mut Path) -> Option<Tag> {
    let key = parse::required(&value.tag, "tag", path)?;
    let value = match &value.r#type {
        Some(pb_tag::custom_tag::Type::Literal(literal)) => {
            let text = path.field("literal", |path| parse::required(&literal.value, "value", path))?;
            TagValue::Literal((*text).into())
        }
        Some(pb_tag::custom_tag::Type::RequestHeader(header)) => {
            path.field("request_header", |path| match http::HeaderName::from_bytes(header.name.as_bytes()) {
                Ok(name) => {
                    let name = name.as_str().as_bytes().into();
                    Some(TagValue::Header(name, header.default_value.as_str().into()))
                }
                Err(_) => path.field("name", |path| path.refuse("not the name of a header")),
            })?
        }
        None => return path.refuse("literal or request_header is needed"),
    };
    Some(Tag { key: (*key).into(), value })
}

fn provider(value: Option<&pb_trace::tracing::Http>, path: &mut Path) -> Option<Collector> {
    let Some(value) = value else { return path.refuse("missing") };
    parse::required(&value.name, "name", path)?;
    path.field("typed_config", |path| {
        let Some(ConfigType::TypedConfig(any)) = &value.config_type else { return path.refuse("missing") };
        let Some(config) = unpack::<pb_trace::OpenTelemetryConfig>(any) else {
            return path.refuse(format!("\"{}\" is not OpenTelemetryConfig", any.type_url));
        };
        let named = Some(config.service_name.as_str()).filter(|name| !name.is_empty());
        let service = named.map(Arc::from);
        let (cluster, timeout) =
            path.field("grpc_service", |path| grpc_service(config.grpc_service.as_ref(), path))?;
        Some(Collector { cluster, service, timeout })
    })
}

fn grpc_service(value: Option<&GrpcService>, path: &mut Path) -> Option<(Arc<str>, Duration)> {
    let Some(value) = value else { return path.refuse("missing") };
    let timeout = parse::duration(value.timeout.as_ref(), TIMEOUT, "timeout", path);
    if timeout.is_zero() || timeout > MAX_TIMEOUT {
        path.fault_at("timeout", format!("must be more than 0 and at most {} s", MAX_TIMEOUT.as_secs()));
    }
    let Some(TargetSpecifier::EnvoyGrpc(target)) = &value.target_specifier else {
        return path.field("envoy_grpc", |path| path.refuse("missing"));
    };
    let cluster =
        path.field("envoy_grpc", |path| parse::required(&target.cluster_name, "cluster_name", path))?;
    Some((cluster, timeout))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled(yaml: &str) -> Result<Tracing, String> {
        let message: Message =
            outrider_proto::json::from_yaml(yaml).map_err(|faults| format!("{faults:?}"))?;
        let mut path = Path::at("tracing");
        let value = compile(&message, &mut path);
        path.finish(value).map_err(|faults| outrider_proto::fault::joined(&faults))
    }

    fn provider(config: &str) -> String {
        format!(
            "provider: {{name: o, typed_config: {{'@type': type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig, {config}}}}}"
        )
    }

    #[test]
    fn defaults_are_those_of_envoy() {
        let tracing = compiled(&provider("grpc_service: {envoy_grpc: {cluster_name: c}}")).expect("compiles");
        assert_eq!(tracing.random, Sampling(Sampling::ALL));
        assert_eq!((tracing.max_path_bytes, tracing.upstream_spans), (256, false));
        let collector = &*tracing.collector;
        assert_eq!((&*collector.cluster, collector.timeout), ("c", TIMEOUT));
        assert_eq!(collector.service, None, "the proxy knows its own name");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_path() {
        for (yaml, expected) in [
            ("{}".to_owned(), "tracing.provider"),
            (provider("service_name: a"), "tracing.provider.typed_config.grpc_service: missing"),
            (
                provider("grpc_service: {envoy_grpc: {cluster_name: c}, timeout: 0s}"),
                "grpc_service.timeout: must be",
            ),
            (provider("grpc_service: {envoy_grpc: {}}"), "envoy_grpc.cluster_name: missing"),
            (provider("http_service: {}"), "http_service"),
            (
                format!(
                    "random_sampling: {{value: 101}}\n{}",
                    provider("grpc_service: {envoy_grpc: {cluster_name: c}}")
                ),
                "tracing.random_sampling",
            ),
            (
                format!("verbose: true\n{}", provider("grpc_service: {envoy_grpc: {cluster_name: c}}")),
                "verbose",
            ),
            (
                format!(
                    "custom_tags: [{{tag: a, request_header: {{name: 'a b'}}}}]\n{}",
                    provider("grpc_service: {envoy_grpc: {cluster_name: c}}")
                ),
                "tracing.custom_tags[0].request_header.name",
            ),
        ] {
            let refused = compiled(&yaml).expect_err(&yaml);
            assert!(refused.contains(expected), "{yaml}: {refused}");
        }
    }

    #[test]
    fn a_share_is_held_within_the_binomial_bound() {
        let mut random = fastrand::Rng::with_seed(7);
        let share = Sampling::from_percent(1.0);
        let held = (0..100_000).filter(|_| share.holds(TraceId::random(&mut random))).count();
        // Five standard deviations of a binomial distribution with n = 100000 and p = 0.01.
        assert!((held as f64 - 1000.0).abs() < 5.0 * 31.5, "{held}");
        assert!(!Sampling::from_percent(0.0).holds(TraceId::random(&mut random)));
    }
}
