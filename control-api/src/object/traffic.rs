//! `TrafficPolicy`: how a service is called.

use outrider_proto::Path;
use schemars::JsonSchema;
use serde::Deserialize;

use super::http_route::MAX_RETRIES;
use super::scalar::Span;
use super::{ObjectKind, Spec};

/// Most endpoints that are drawn to choose from: the proxy's own limit.
const MAX_CHOICES: u32 = 32;

/// How the services that it targets are called: balancing, retries, timeouts, limits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TrafficPolicy {
    /// Services of the same namespace. Where two policies target one, the older one counts.
    #[schemars(length(min = 1, max = 16))]
    pub target_refs: Vec<TargetRef>,
    /// How an endpoint is chosen.
    #[serde(default)]
    pub load_balancer: Option<LoadBalancer>,
    /// When a request is tried again; a route's own `retry` has precedence.
    #[serde(default)]
    pub retries: Option<Retries>,
    /// How long things may take; a route's own `timeouts` have precedence.
    #[serde(default)]
    pub timeouts: Option<Timeouts>,
    /// How much may be in use at a time, by each sidecar.
    #[serde(default)]
    pub circuit_breaker: Option<CircuitBreaker>,
    /// When an endpoint that fails is left out for a while.
    #[serde(default)]
    pub outlier_detection: Option<OutlierDetection>,
    /// Whether the service is spoken to with mutual TLS.
    #[serde(default)]
    pub mtls: Option<MtlsUse>,
}

/// A service, or a port of it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TargetRef {
    /// The core group, which has an empty name.
    #[serde(default)]
    #[schemars(length(max = 0))]
    pub group: String,
    /// `Service`.
    #[serde(default = "service")]
    #[schemars(regex(pattern = "^Service$"))]
    pub kind: String,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// One port of it, by name or number as text; all when it is not said.
    #[serde(default)]
    #[schemars(length(min = 1, max = 63))]
    pub section_name: Option<String>,
}

fn service() -> String {
    "Service".to_owned()
}

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct LoadBalancer {
    /// The way.
    pub policy: LbPolicy,
    /// `LeastRequest`: how many are drawn to choose from; 2 when it is not said.
    #[serde(default)]
    #[schemars(range(min = 2, max = 32))]
    pub choices: Option<u32>,
}

/// Ways to choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum LbPolicy {
    /// In turn, by weight.
    RoundRobin,
    /// The least busy of some drawn by chance.
    LeastRequest,
    /// By chance, by weight.
    Random,
    /// The cheaper of two by observed latency and what is under way; in Envoy and gRPC the least busy one.
    PeakEwma,
}

/// When a request is tried again.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Retries {
    /// How often, the first attempt not counted; 0 turns retries off.
    #[schemars(range(min = 0, max = 20))]
    pub attempts: u32,
    /// On what.
    #[serde(default = "default_conditions")]
    #[schemars(length(max = 16))]
    pub on: Vec<RetryOn>,
    /// On these status codes too.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub codes: Vec<u16>,
    /// How long one attempt may take.
    #[serde(default)]
    pub per_try_timeout: Option<Span>,
    /// The first wait is random up to this; it doubles each time.
    #[serde(default)]
    pub backoff: Option<Span>,
}

/// What makes a request be tried again. The names are Envoy's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names are Envoy's")]
pub enum RetryOn {
    #[serde(rename = "5xx")]
    ServerError,
    GatewayError,
    Reset,
    ResetBeforeRequest,
    ConnectFailure,
    RefusedStream,
    #[serde(rename = "retriable-4xx")]
    Retriable4xx,
    Cancelled,
    DeadlineExceeded,
    Internal,
    ResourceExhausted,
    Unavailable,
}

impl RetryOn {
    /// As in `retry_on`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ServerError => "5xx",
            Self::GatewayError => "gateway-error",
            Self::Reset => "reset",
            Self::ResetBeforeRequest => "reset-before-request",
            Self::ConnectFailure => "connect-failure",
            Self::RefusedStream => "refused-stream",
            Self::Retriable4xx => "retriable-4xx",
            Self::Cancelled => "cancelled",
            Self::DeadlineExceeded => "deadline-exceeded",
            Self::Internal => "internal",
            Self::ResourceExhausted => "resource-exhausted",
            Self::Unavailable => "unavailable",
        }
    }
}

fn default_conditions() -> Vec<RetryOn> {
    vec![RetryOn::ConnectFailure, RetryOn::RefusedStream, RetryOn::GatewayError]
}

/// How long things may take; 0 is for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    /// A request with all its attempts.
    #[serde(default)]
    pub request: Option<Span>,
    /// Without a byte in either direction of a request, or of an opaque connection.
    #[serde(default)]
    pub idle: Option<Span>,
    /// Making a connection; more than 0.
    #[serde(default)]
    pub connect: Option<Span>,
}

/// How much may be in use at a time, by each sidecar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct CircuitBreaker {
    /// Connections.
    #[serde(default)]
    pub max_connections: Option<u32>,
    /// Requests that wait for a connection.
    #[serde(default)]
    pub max_pending_requests: Option<u32>,
    /// Requests under way.
    #[serde(default)]
    pub max_requests: Option<u32>,
    /// Retries under way.
    #[serde(default)]
    pub max_retries: Option<u32>,
}

/// When an endpoint that fails is left out for a while.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct OutlierDetection {
    /// After so many server errors in a row; 5 when it is not said.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub consecutive_errors: Option<u32>,
    /// How often it is looked at.
    #[serde(default)]
    pub interval: Option<Span>,
    /// How long the first time; longer each time.
    #[serde(default)]
    pub base_ejection_time: Option<Span>,
    /// How much of the endpoints at the most, in percent.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100))]
    pub max_ejection_percent: Option<u32>,
}

/// Whether a service is spoken to with mutual TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum MtlsUse {
    /// Always; endpoints without an identity get nothing.
    Required,
    /// Never: for services that are being moved into the mesh.
    Disabled,
}

impl Spec for TrafficPolicy {
    const KIND: ObjectKind = ObjectKind::TrafficPolicy;

    fn check(&self, path: &mut Path) {
        if self.target_refs.is_empty() || self.target_refs.len() > 16 {
            path.fault_at("targetRefs", "from 1 to 16 are needed");
        }
        for (index, target) in self.target_refs.iter().enumerate() {
            if !target.group.is_empty() || target.kind != "Service" {
                path.item("targetRefs", index, |path| path.fault_at("kind", "only Services can be targeted"));
            }
        }
        if let Some(balancer) = &self.load_balancer
            && let Some(choices) = balancer.choices
        {
            if balancer.policy != LbPolicy::LeastRequest {
                path.fault_at("loadBalancer.choices", "goes with LeastRequest only");
            } else if !(2..=MAX_CHOICES).contains(&choices) {
                path.fault_at("loadBalancer.choices", format!("must be from 2 to {MAX_CHOICES}"));
            }
        }
        if let Some(retries) = &self.retries {
            path.field("retries", |path| retries.check(path));
        }
        if let Some(timeouts) = &self.timeouts
            && timeouts.connect.is_some_and(|connect| connect.0.is_zero())
        {
            path.fault_at("timeouts.connect", "must be longer than 0");
        }
        if let Some(outlier) = &self.outlier_detection {
            path.field("outlierDetection", |path| outlier.check(path));
        }
    }
}

impl OutlierDetection {
    fn check(&self, path: &mut Path) {
        if self.consecutive_errors == Some(0) {
            path.fault_at("consecutiveErrors", "must be at least 1");
        }
        for (time, name) in [(self.interval, "interval"), (self.base_ejection_time, "baseEjectionTime")] {
            if time.is_some_and(|time| time.0.is_zero()) {
                path.fault_at(name, "must be longer than 0");
            }
        }
        if self.max_ejection_percent.is_some_and(|percent| percent > 100) {
            path.fault_at("maxEjectionPercent", "must be from 0 to 100");
        }
    }
}

impl Retries {
    fn check(&self, path: &mut Path) {
        if self.attempts > MAX_RETRIES {
            path.fault_at("attempts", format!("more than {MAX_RETRIES}"));
        }
        if self.codes.iter().any(|code| !(400..600).contains(code)) {
            path.fault_at("codes", "must be from 400 to 599");
        }
        if self.backoff.is_some_and(|backoff| backoff.0.is_zero()) {
            path.fault_at("backoff", "must be at least 1ms");
        }
    }
}
