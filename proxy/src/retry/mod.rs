//! Whether a failed attempt is made again: pure decisions over what happened.

use std::time::{Duration, SystemTime};

use http::{Method, StatusCode};

use crate::http::headers::Headers;
use crate::model::retry::{ResetBackOff, ResetFormat, RetryOn, RetryPolicy};

/// What an attempt came to, without a response that may be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection could be made; nothing was sent.
    Connect,
    /// The upstream says that it did not look at the request.
    Refused,
    /// A connection that was used before ended without a byte of an answer: most likely it was closed for
    /// idleness while the request was on its way.
    StaleConnection,
    /// The upstream ended or reset before it answered.
    Reset,
    /// `per_try_timeout` ran out.
    PerTryTimeout,
    /// The answer was no valid response.
    Invalid,
}

/// Whether nothing can go wrong by sending the request again (RFC 9110 section 9.2.2).
#[must_use]
pub fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// Whether the proxy may send again on its own account, whatever the policy says: the upstream did not act on the
/// request, or acting twice does no harm (RFC 9112 section 9.3.1, RFC 9113 section 8.7).
#[must_use]
pub fn is_safe_to_resend(failure: Failure, method: &Method) -> bool {
    match failure {
        Failure::Refused => true,
        Failure::StaleConnection => is_idempotent(method),
        Failure::Connect | Failure::Reset | Failure::PerTryTimeout | Failure::Invalid => false,
    }
}

/// Whether the policy wants another attempt after this failure.
#[must_use]
pub fn wants_after_failure(policy: &RetryPolicy, failure: Failure) -> bool {
    let conditions: &[RetryOn] = match failure {
        Failure::Connect => &[
            RetryOn::CONNECT_FAILURE,
            RetryOn::SERVER_ERROR,
            RetryOn::GATEWAY_ERROR,
            RetryOn::RESET_BEFORE_REQUEST,
        ],
        Failure::Refused => {
            &[RetryOn::REFUSED_STREAM, RetryOn::RESET, RetryOn::SERVER_ERROR, RetryOn::GATEWAY_ERROR]
        }
        Failure::StaleConnection | Failure::Reset => {
            &[RetryOn::RESET, RetryOn::SERVER_ERROR, RetryOn::GATEWAY_ERROR]
        }
        Failure::PerTryTimeout => &[RetryOn::SERVER_ERROR, RetryOn::GATEWAY_ERROR, RetryOn::RESET],
        Failure::Invalid => &[RetryOn::RESET, RetryOn::SERVER_ERROR],
    };
    conditions.iter().any(|condition| policy.on.has(*condition))
}

/// Whether the policy wants another attempt instead of this response.
#[must_use]
pub fn wants_after_response(policy: &RetryPolicy, status: StatusCode, headers: &Headers) -> bool {
    let on = policy.on;
    if headers.contains(b"x-envoy-ratelimited") {
        // The upstream's proxy has said that it is one request too many.
        return on.has(RetryOn::ENVOY_RATELIMITED);
    }
    let gateway = matches!(
        status,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
    );
    (on.has(RetryOn::SERVER_ERROR) && status.is_server_error())
        || (on.has(RetryOn::GATEWAY_ERROR) && gateway)
        || (on.has(RetryOn::RETRIABLE_4XX) && status == StatusCode::CONFLICT)
        || (on.has(RetryOn::RETRIABLE_STATUS_CODES) && policy.status_codes.contains(&status))
        || policy.response_headers.iter().any(|matcher| matcher.matches_fields(headers))
        || headers.first(b"grpc-status").is_some_and(|grpc| wants_after_grpc(on, grpc))
}

/// A gRPC failure that came in the head, before any message.
fn wants_after_grpc(on: RetryOn, status: &[u8]) -> bool {
    let condition = match status {
        b"1" => RetryOn::CANCELLED,
        b"4" => RetryOn::DEADLINE_EXCEEDED,
        b"8" => RetryOn::RESOURCE_EXHAUSTED,
        b"13" => RetryOn::INTERNAL,
        b"14" => RetryOn::UNAVAILABLE,
        _ => return false,
    };
    on.has(condition)
}

/// How long to wait before the n-th retry (from 1): random up to the base doubled each time, bounded by the
/// maximum.
#[must_use]
pub fn back_off(policy: &RetryPolicy, retry: u32, random: u64) -> Duration {
    let factor = 1_u32.checked_shl(retry.saturating_sub(1).min(16)).unwrap_or(u32::MAX);
    let ceiling = policy.base.saturating_mul(factor).min(policy.max);
    let micros = u64::try_from(ceiling.as_micros()).unwrap_or(u64::MAX).max(1);
    Duration::from_micros(random % micros)
}

/// How long the upstream says to wait, and up to half as long again, so that not all come back at once; `None` when
/// it does not say, or says what is not believed.
#[must_use]
pub fn reset_after(
    reset: &ResetBackOff,
    headers: &Headers,
    now: SystemTime,
    random: u64,
) -> Option<Duration> {
    let wait = reset.headers.iter().find_map(|(name, format)| {
        let text = std::str::from_utf8(headers.first(name)?).ok()?;
        let number = Duration::from_secs(text.parse().ok()?);
        let wait = match format {
            ResetFormat::Seconds => number,
            ResetFormat::UnixTimestamp => {
                number.checked_sub(now.duration_since(SystemTime::UNIX_EPOCH).ok()?)?
            }
        };
        (wait <= reset.max).then_some(wait)
    })?;
    let half = u64::try_from(wait.as_micros() / 2).unwrap_or(u64::MAX);
    Some(wait + Duration::from_micros(random % half.max(1)))
}

#[cfg(test)]
mod tests {
    use outrider_proto::envoy::config::route::v3 as pb;
    use outrider_proto::json;

    use super::*;
    use crate::model::RouteTable;
    use crate::model::route::RouteAction;

    fn policy(yaml: &str) -> RetryPolicy {
        let config: pb::RouteConfiguration = json::from_yaml(&format!(
            "virtual_hosts: [{{name: v, domains: ['*'], routes: [{{match: {{prefix: /}}, route: {{cluster: c, retry_policy: {yaml}}}}}]}}]"
        ))
        .unwrap();
        let table = RouteTable::from_proto(&config).unwrap();
        let head = crate::http::message::RequestHead { path: "/".into(), ..Default::default() };
        let (_, route) = table.select(&head, 0).unwrap();
        match &route.action {
            RouteAction::Forward(action) => action.retry.clone().unwrap(),
            RouteAction::Redirect(_) | RouteAction::Direct(_) => panic!("a forward action"),
        }
    }

    #[test]
    fn conditions_are_those_of_envoy() {
        let none = Headers::new();
        for (on, status, expected) in [
            ("5xx", 500, true),
            ("5xx", 404, false),
            ("gateway-error", 500, false),
            ("gateway-error", 502, true),
            ("retriable-4xx", 409, true),
            ("retriable-4xx", 404, false),
            ("retriable-status-codes", 418, true),
            ("retriable-status-codes", 417, false),
        ] {
            let policy = policy(&format!("{{retry_on: '{on}', retriable_status_codes: [418]}}"));
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(wants_after_response(&policy, status, &none), expected, "{on} {status}");
        }
        let mut unavailable = Headers::new();
        unavailable.append(b"grpc-status", b"14");
        assert!(wants_after_response(&policy("{retry_on: unavailable}"), StatusCode::OK, &unavailable));
        assert!(!wants_after_response(&policy("{retry_on: cancelled}"), StatusCode::OK, &unavailable));
        assert!(wants_after_failure(&policy("{retry_on: connect-failure}"), Failure::Connect));
        assert!(!wants_after_failure(&policy("{retry_on: connect-failure}"), Failure::Reset));
    }

    #[test]
    fn headers_of_the_response_ask_for_another_attempt_or_forbid_it() {
        let fields = |pairs: &[(&str, &str)]| {
            let mut headers = Headers::new();
            for (name, value) in pairs {
                headers.append(name.as_bytes(), value.as_bytes());
            }
            headers
        };
        let wants = |yaml: &str, pairs: &[(&str, &str)]| {
            wants_after_response(&policy(yaml), StatusCode::SERVICE_UNAVAILABLE, &fields(pairs))
        };
        let matching = "{retry_on: retriable-headers, retriable_headers: [{name: x-again, string_match: {exact: please}}]}";
        assert!(wants(matching, &[("x-again", "please")]));
        assert!(!wants(matching, &[("x-again", "no")]));
        assert!(!wants(matching, &[]));
        assert!(wants("{retry_on: 5xx}", &[]));
        assert!(!wants("{retry_on: 5xx}", &[("x-envoy-ratelimited", "true")]));
        assert!(wants("{retry_on: envoy-ratelimited}", &[("x-envoy-ratelimited", "true")]));
    }

    #[test]
    fn an_upstream_says_when_to_come_again() {
        let policy = policy(
            "{retry_on: 5xx, rate_limited_retry_back_off: {max_interval: 60s, reset_headers: \
             [{name: Retry-After}, {name: x-reset, format: UNIX_TIMESTAMP}]}}",
        );
        let (reset, now) = (policy.reset.unwrap(), SystemTime::UNIX_EPOCH + Duration::from_secs(1000));
        for (name, value, expected) in [
            ("retry-after", "4", Some(4)),
            ("retry-after", "61", None),
            ("retry-after", "soon", None),
            ("retry-after", "-1", None),
            ("retry-after", "99999999999999999999", None),
            ("x-reset", "1030", Some(30)),
            ("x-reset", "999", None),
            ("x-other", "4", None),
        ] {
            let mut headers = Headers::new();
            headers.append(name.as_bytes(), value.as_bytes());
            let found = |random| reset_after(&reset, &headers, now, random);
            assert_eq!(found(0), expected.map(Duration::from_secs), "{name} {value}");
            if let (Some(found), Some(expected)) = (found(u64::MAX), expected) {
                assert!(
                    found >= Duration::from_secs(expected) && found <= Duration::from_secs(expected) * 3 / 2
                );
            }
        }
    }

    #[test]
    fn what_is_unsafe_is_not_sent_again_unasked() {
        assert!(is_safe_to_resend(Failure::StaleConnection, &Method::GET));
        assert!(!is_safe_to_resend(Failure::StaleConnection, &Method::POST));
        assert!(is_safe_to_resend(Failure::Refused, &Method::POST));
        assert!(!is_safe_to_resend(Failure::Reset, &Method::GET));
    }

    #[test]
    fn back_off_grows_to_its_bound() {
        let policy = policy("{retry_on: 5xx, retry_back_off: {base_interval: 0.1s, max_interval: 0.3s}}");
        for random in [0, 1, 99_999, 123_456_789] {
            assert!(back_off(&policy, 1, random) < Duration::from_millis(100));
            assert!(back_off(&policy, 2, random) < Duration::from_millis(200));
            assert!(back_off(&policy, 9, random) < Duration::from_millis(300));
        }
        assert_eq!(back_off(&policy, 3, 299_999), Duration::from_micros(299_999));
    }
}
