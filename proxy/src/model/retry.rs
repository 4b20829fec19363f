//! When an attempt that failed is made again.

use std::time::Duration;

use http::StatusCode;
use outrider_proto::Path;
use outrider_proto::envoy::config::route::v3 as pb;

use super::parse;

/// Envoy's default base of the back-off.
const DEFAULT_BASE: Duration = Duration::from_millis(25);
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
    /// For [`RetryOn::RETRIABLE_STATUS_CODES`].
    pub status_codes: Vec<StatusCode>,
    /// The first wait is random up to this; it doubles each time.
    pub base: Duration,
    /// The longest wait.
    pub max: Duration,
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
        Self { on, retries, per_try_timeout, status_codes, base, max }
    }
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
