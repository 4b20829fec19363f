//! `TrafficPolicy`: how a service is called.

use outrider_proto::Path;
use schemars::JsonSchema;
use serde::Deserialize;

use super::balancing::LoadBalancer;
use super::http_route::MAX_RETRIES;
use super::limits::{AdaptiveConcurrency, RateLimit};
use super::scalar::Span;
use super::{ObjectKind, Spec};

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
    /// How endpoints are asked whether they are well, by each sidecar that calls them.
    #[serde(default)]
    pub health_check: Option<HealthCheck>,
    /// Requests that cannot be answered in time are refused; by our own proxy only.
    #[serde(default)]
    pub shedding: Option<Shedding>,
    /// How many requests each of the service's own sidecars lets through to its workload.
    #[serde(default)]
    pub rate_limit: Option<RateLimit>,
    /// Each of the service's own sidecars lets through as many requests at a time as its workload answers without
    /// getting slower.
    #[serde(default)]
    pub adaptive_concurrency: Option<AdaptiveConcurrency>,
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
    /// An attempt that `perTryTimeout` ends is waited for while the next one is made, and the first good answer counts.
    #[serde(default)]
    pub hedge: bool,
    /// How much of what is under way may be retries, instead of `circuitBreaker.maxRetries`. Our own proxy has a budget
    /// without it too: a fifth of the requests, and ten a second.
    #[serde(default)]
    pub budget: Option<RetryBudget>,
    /// The first wait is random up to this; it doubles each time.
    #[serde(default)]
    pub backoff: Option<Span>,
}

/// How much of what is under way may be retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RetryBudget {
    /// Of the requests under way.
    #[schemars(range(min = 0, max = 100))]
    pub percent: u32,
    /// So many may be whatever the share; 3 when it is not said.
    #[serde(default)]
    pub min_concurrency: Option<u32>,
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

/// How endpoints are asked whether they are well: by exactly one of `http`, `grpc` and `tcp`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HealthCheck {
    /// An HTTP GET that must be answered with 200.
    #[serde(default)]
    pub http: Option<HttpCheck>,
    /// The gRPC health service.
    #[serde(default)]
    pub grpc: Option<GrpcCheck>,
    /// A connection.
    #[serde(default)]
    pub tcp: Option<TcpCheck>,
    /// How often; 10 s when it is not said.
    #[serde(default)]
    pub interval: Option<Span>,
    /// How long an answer may take; 1 s when it is not said.
    #[serde(default)]
    pub timeout: Option<Span>,
    /// An endpoint is left out after so many failures in a row; 3 when it is not said.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub unhealthy_after: Option<u32>,
    /// It is used again after so many answers in a row; 1 when it is not said.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub healthy_after: Option<u32>,
}

/// An HTTP GET.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpCheck {
    /// What is asked for.
    #[schemars(length(min = 1, max = 1024))]
    pub path: String,
}

/// A call of the gRPC health service.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GrpcCheck {
    /// The service that is asked about; the server as a whole when it is empty.
    #[serde(default)]
    #[schemars(length(max = 253))]
    pub service: String,
}

/// Nothing more than a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TcpCheck {}

/// When a request is refused because it cannot be answered in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Shedding {
    /// So many percent of the good answers came within the time that a request must have left; 10 when it is not said.
    #[serde(default)]
    #[schemars(range(min = 1, max = 50))]
    pub percentile: Option<u32>,
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
        if let Some(balancer) = &self.load_balancer {
            path.field("loadBalancer", |path| balancer.check(path));
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
        let limit = self.circuit_breaker.and_then(|breaker| breaker.max_retries);
        if limit.is_some() && self.retries.as_ref().is_some_and(|retries| retries.budget.is_some()) {
            path.fault_at("circuitBreaker.maxRetries", "does not go with retries.budget");
        }
        if let Some(check) = &self.health_check {
            path.field("healthCheck", |path| check.check(path));
        }
        if let Some(limit) = &self.rate_limit {
            path.field("rateLimit", |path| limit.check(path));
        }
        let percentile = self.shedding.and_then(|shedding| shedding.percentile);
        if percentile.is_some_and(|percentile| !(1..=50).contains(&percentile)) {
            path.fault_at("shedding.percentile", "must be from 1 to 50");
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

impl HealthCheck {
    fn check(&self, path: &mut Path) {
        let said = [self.http.is_some(), self.grpc.is_some(), self.tcp.is_some()];
        if said.into_iter().filter(|said| *said).count() != 1 {
            path.fault("exactly one of http, grpc and tcp is needed");
        }
        let bad =
            |text: &str| !text.starts_with('/') || text.bytes().any(|byte| byte <= b' ' || byte == 0x7f);
        if self.http.as_ref().is_some_and(|http| bad(&http.path)) {
            path.fault_at("http.path", "must begin with a slash and hold no spaces");
        }
        for (time, name) in [(self.interval, "interval"), (self.timeout, "timeout")] {
            if time.is_some_and(|time| time.0.is_zero()) {
                path.fault_at(name, "must be longer than 0");
            }
        }
        for (count, name) in [(self.unhealthy_after, "unhealthyAfter"), (self.healthy_after, "healthyAfter")]
        {
            if count == Some(0) {
                path.fault_at(name, "must be at least 1");
            }
        }
    }
}

impl Retries {
    fn check(&self, path: &mut Path) {
        if self.hedge && self.per_try_timeout.is_none_or(|timeout| timeout.0.is_zero()) {
            path.fault_at("hedge", "needs perTryTimeout");
        }
        if self.budget.is_some_and(|budget| budget.percent > 100) {
            path.fault_at("budget.percent", "must be from 0 to 100");
        }
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
