//! When an attempt that failed is made again.

use std::time::Duration;

use http::StatusCode;
use outrider_proto::envoy::config::route::v3 as pb;
use outrider_proto::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use outrider_proto::{Path, unpack};

use super::matcher::HeaderMatcher;
use super::parse;
use crate::http::h1::field::is_token;

/// Envoy's default base of the back-off.
const DEFAULT_BASE: Duration = Duration::from_millis(25);
/// Envoy's default of the longest wait that an upstream may ask for.
const MAX_RESET: Duration = Duration::from_secs(300);
/// Most looks for another endpoint.
const MAX_HOST_ATTEMPTS: u32 = 64;
/// Most attempts after the first.
const MAX_RETRIES: u32 = 20;

/// Conditions of `retry_on`, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryOn(u16);

impl RetryOn {
    /// Any 5xx response, a reset or no response at all.
    pub const SERVER_ERROR: Self = Self(1);
    /// 502, 503 and 504.
    pub const GATEWAY_ERROR: Self = Self(1 << 1);
    /// The connection or stream ended before a response.
    pub const RESET: Self = Self(1 << 2);
    /// No connection could be made.
    pub const CONNECT_FAILURE: Self = Self(1 << 3);
    /// The upstream refused the stream without looking at it.
    pub const REFUSED_STREAM: Self = Self(1 << 4);
    /// 409.
    pub const RETRIABLE_4XX: Self = Self(1 << 5);
    /// The codes in `retriable_status_codes`.
    pub const RETRIABLE_STATUS_CODES: Self = Self(1 << 6);
    /// gRPC status 1.
    pub const CANCELLED: Self = Self(1 << 7);
    /// gRPC status 4.
    pub const DEADLINE_EXCEEDED: Self = Self(1 << 8);
    /// gRPC status 13.
    pub const INTERNAL: Self = Self(1 << 9);
    /// gRPC status 8.
    pub const RESOURCE_EXHAUSTED: Self = Self(1 << 10);
    /// gRPC status 14.
    pub const UNAVAILABLE: Self = Self(1 << 11);
    /// The request was not sent yet when the connection ended.
    pub const RESET_BEFORE_REQUEST: Self = Self(1 << 12);
    /// A response with one of the `retriable_headers`.
    pub const RETRIABLE_HEADERS: Self = Self(1 << 13);
    /// A response with `x-envoy-ratelimited`, which no other condition repeats.
    pub const ENVOY_RATELIMITED: Self = Self(1 << 14);

    /// Whether one of these conditions is among ours.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    const fn from_token(token: &str) -> Option<Self> {
        Some(match token.as_bytes() {
            b"5xx" => Self::SERVER_ERROR,
            b"gateway-error" => Self::GATEWAY_ERROR,
            b"reset" => Self::RESET,
            b"reset-before-request" => Self::RESET_BEFORE_REQUEST,
            b"connect-failure" => Self::CONNECT_FAILURE,
            b"refused-stream" => Self::REFUSED_STREAM,
            b"retriable-4xx" => Self::RETRIABLE_4XX,
            b"retriable-status-codes" => Self::RETRIABLE_STATUS_CODES,
            b"retriable-headers" => Self::RETRIABLE_HEADERS,
            b"envoy-ratelimited" => Self::ENVOY_RATELIMITED,
            b"cancelled" => Self::CANCELLED,
            b"deadline-exceeded" => Self::DEADLINE_EXCEEDED,
            b"internal" => Self::INTERNAL,
            b"resource-exhausted" => Self::RESOURCE_EXHAUSTED,
            b"unavailable" => Self::UNAVAILABLE,
            _ => return None,
        })
    }
}

/// A checked `RetryPolicy`.
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    /// When.
    pub on: RetryOn,
    /// How often at most, the first attempt not counted.
    pub retries: u32,
    /// How long one attempt may take to its response head; `None` is no limit of its own.
    pub per_try_timeout: Option<Duration>,
    /// How long an attempt may go without a byte; `None` is no limit of its own.
    pub per_try_idle_timeout: Option<Duration>,
    /// For [`RetryOn::RETRIABLE_STATUS_CODES`].
    pub status_codes: Vec<StatusCode>,
    /// For [`RetryOn::RETRIABLE_HEADERS`]: one of them must match.
    pub response_headers: Vec<HeaderMatcher>,
    /// One of them must match the request; none is no condition.
    pub request_headers: Vec<HeaderMatcher>,
    /// Whether all endpoints that were tried are avoided, and how often another is looked for.
    pub previous_hosts: Option<u32>,
    /// How the upstream says when to come again.
    pub reset: Option<ResetBackOff>,
    /// The first wait is random up to this; it doubles each time.
    pub base: Duration,
    /// The longest wait.
    pub max: Duration,
}

/// How the upstream says when to come again (Envoy's `rate_limited_retry_back_off`).
#[derive(Clone, Debug)]
pub struct ResetBackOff {
    /// Names of headers, in lower case, and how their values are read.
    pub headers: Vec<(Box<[u8]>, ResetFormat)>,
    /// A longer wait is not believed.
    pub max: Duration,
}

/// How the value of a reset header is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetFormat {
    /// Seconds from now.
    Seconds,
    /// Seconds since 1970.
    UnixTimestamp,
}

impl RetryPolicy {
    pub(super) fn from_proto(value: &pb::RetryPolicy, path: &mut Path) -> Self {
        let mut on = RetryOn::default();
        for token in value.retry_on.split(',').map(str::trim).filter(|token| !token.is_empty()) {
            match RetryOn::from_token(token) {
                Some(condition) => on.0 |= condition.0,
                None => path.fault_at("retry_on", format!("condition \"{token}\" is not supported")),
            }
        }
        let retries = value.num_retries.unwrap_or(1);
        if retries > MAX_RETRIES {
            path.fault_at("num_retries", format!("more than {MAX_RETRIES}"));
        }
        let codes = value.retriable_status_codes.iter().enumerate();
        let status_codes = codes
            .filter_map(|(index, code)| {
                path.item("retriable_status_codes", index, |path| {
                    let code = u16::try_from(*code).ok().and_then(|code| StatusCode::from_u16(code).ok());
                    if code.is_none() { path.refuse("not a status code") } else { code }
                })
            })
            .collect();
        let per_try_timeout = parse::limit(value.per_try_timeout.as_ref(), None, "per_try_timeout", path);
        let (base, max) = back_off(value.retry_back_off.as_ref(), path);
        let response_headers = matchers(&value.retriable_headers, "retriable_headers", path);
        if response_headers.iter().any(HeaderMatcher::is_of_requests) {
            path.fault_at("retriable_headers", "a response has no such field");
        }
        if on.has(RetryOn::RETRIABLE_HEADERS) == response_headers.is_empty() {
            path.fault_at("retriable_headers", "goes together with the condition \"retriable-headers\"");
        }
        Self {
            on,
            retries,
            per_try_timeout,
            per_try_idle_timeout: parse::limit(
                value.per_try_idle_timeout.as_ref(),
                None,
                "per_try_idle_timeout",
                path,
            ),
            status_codes,
            response_headers,
            request_headers: matchers(&value.retriable_request_headers, "retriable_request_headers", path),
            previous_hosts: previous_hosts(value, path),
            reset: value.rate_limited_retry_back_off.as_ref().map(|value| {
                path.field("rate_limited_retry_back_off", |path| ResetBackOff::from_proto(value, path))
            }),
            base,
            max,
        }
    }
}

impl ResetBackOff {
    fn from_proto(value: &pb::retry_policy::RateLimitedRetryBackOff, path: &mut Path) -> Self {
        if value.reset_headers.is_empty() {
            path.fault_at("reset_headers", "missing");
        }
        let mut headers = Vec::new();
        for (index, header) in value.reset_headers.iter().enumerate() {
            if !is_token(header.name.as_bytes()) {
                path.item("reset_headers", index, |path| path.fault_at("name", "not a header name"));
            }
            let format = match header.format() {
                pb::retry_policy::ResetHeaderFormat::Seconds => ResetFormat::Seconds,
                pb::retry_policy::ResetHeaderFormat::UnixTimestamp => ResetFormat::UnixTimestamp,
            };
            headers.push((header.name.to_ascii_lowercase().into_bytes().into(), format));
        }
        let max = parse::duration(value.max_interval.as_ref(), MAX_RESET, "max_interval", path);
        if max.is_zero() {
            path.fault_at("max_interval", "must be longer than 0");
        }
        Self { headers, max }
    }
}

fn matchers(values: &[pb::HeaderMatcher], name: &str, path: &mut Path) -> Vec<HeaderMatcher> {
    let values = values.iter().enumerate();
    values
        .filter_map(|(index, value)| path.item(name, index, |path| HeaderMatcher::from_proto(value, path)))
        .collect()
}

fn previous_hosts(value: &pb::RetryPolicy, path: &mut Path) -> Option<u32> {
    use pb::retry_policy::retry_host_predicate::ConfigType;
    for (index, predicate) in value.retry_host_predicate.iter().enumerate() {
        path.item("retry_host_predicate", index, |path| {
            if predicate.name.is_empty() {
                path.fault_at("name", "missing");
            }
            let found = match &predicate.config_type {
                Some(ConfigType::TypedConfig(any)) => unpack::<PreviousHostsPredicate>(any),
                None => None,
            };
            if found.is_none() {
                path.fault_at("typed_config", "must be a PreviousHostsPredicate");
            }
        });
    }
    let attempts = match u32::try_from(value.host_selection_retry_max_attempts) {
        Ok(attempts) if attempts <= MAX_HOST_ATTEMPTS => attempts.max(1),
        Ok(_) | Err(_) => {
            let reason = format!("must be from 0 to {MAX_HOST_ATTEMPTS}");
            path.fault_at("host_selection_retry_max_attempts", reason);
            1
        }
    };
    if value.host_selection_retry_max_attempts != 0 && value.retry_host_predicate.is_empty() {
        path.fault_at("host_selection_retry_max_attempts", "has no effect without a retry_host_predicate");
    }
    (!value.retry_host_predicate.is_empty()).then_some(attempts)
}

fn back_off(value: Option<&pb::retry_policy::RetryBackOff>, path: &mut Path) -> (Duration, Duration) {
    let Some(value) = value else {
        return (DEFAULT_BASE, DEFAULT_BASE * 10);
    };
    path.field("retry_back_off", |path| {
        let base = parse::duration(value.base_interval.as_ref(), Duration::ZERO, "base_interval", path);
        if base < Duration::from_millis(1) {
            path.fault_at("base_interval", "must be at least 1ms");
        }
        let max = parse::duration(value.max_interval.as_ref(), base.saturating_mul(10), "max_interval", path);
        if max < base {
            path.fault_at("max_interval", "shorter than base_interval");
        }
        (base, max)
    })
}
