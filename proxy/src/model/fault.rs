//! Envoy's HTTP fault filter, for a filter chain and for a route.

use std::time::Duration;

use http::StatusCode;
use outrider_proto::Path;
use outrider_proto::envoy::extensions::filters::common::fault::v3 as common;
use outrider_proto::envoy::extensions::filters::http::fault::v3 as pb;
use outrider_proto::envoy::r#type::v3::FractionalPercent;

use super::matcher::HeaderMatcher;
use super::parse;
use crate::fault::filter::{Asked, MAX_DELAY};
use crate::fault::{Answer, Chance, Filter};

/// Compiles the filter.
pub(super) fn http_filter(value: &pb::HttpFault, path: &mut Path) -> Filter {
    let headers = value.headers.iter().enumerate();
    let headers = headers.filter_map(|(index, matcher)| {
        path.item("headers", index, |path| HeaderMatcher::from_proto(matcher, path))
    });
    Filter {
        headers: headers.collect(),
        delay: value.delay.as_ref().and_then(|value| path.field("delay", |path| delay(value, path))),
        abort: value.abort.as_ref().and_then(|value| path.field("abort", |path| abort(value, path))),
        rate: value
            .response_rate_limit
            .as_ref()
            .and_then(|value| path.field("response_rate_limit", |path| rate(value, path))),
        max_active: value.max_active_faults,
    }
}

fn delay(value: &common::FaultDelay, path: &mut Path) -> Option<(Asked<Duration>, Chance)> {
    use common::fault_delay::FaultDelaySecifier as Pb;
    let asked = match &value.fault_delay_secifier {
        Some(Pb::FixedDelay(delay)) => {
            let delay = parse::duration(Some(delay), Duration::ZERO, "fixed_delay", path);
            if delay.is_zero() || delay > MAX_DELAY {
                path.fault_at("fixed_delay", "must be longer than 0s and at most an hour");
            }
            Asked::Fixed(delay)
        }
        Some(Pb::HeaderDelay(_)) => Asked::Header,
        None => return path.refuse("one of fixed_delay and header_delay is needed"),
    };
    Some((asked, share(value.percentage.as_ref(), path)?))
}

fn abort(value: &pb::FaultAbort, path: &mut Path) -> Option<(Asked<Answer>, Chance)> {
    use pb::fault_abort::ErrorType as Pb;
    let asked = match value.error_type {
        Some(Pb::HttpStatus(status)) => Asked::Fixed(Answer::Http(http_status(status, path)?)),
        Some(Pb::GrpcStatus(status)) => Asked::Fixed(Answer::Grpc(status)),
        Some(Pb::HeaderAbort(_)) => Asked::Header,
        None => return path.refuse("one of http_status, grpc_status and header_abort is needed"),
    };
    Some((asked, share(value.percentage.as_ref(), path)?))
}

fn http_status(status: u32, path: &mut Path) -> Option<StatusCode> {
    let code = u16::try_from(status).ok().filter(|code| (200..600).contains(code));
    let code = code.and_then(|code| StatusCode::from_u16(code).ok());
    code.or_else(|| path.field("http_status", |path| path.refuse("must be from 200 to 599")))
}

fn rate(value: &common::FaultRateLimit, path: &mut Path) -> Option<(Asked<u64>, Chance)> {
    use common::fault_rate_limit::LimitType as Pb;
    let asked = match &value.limit_type {
        Some(Pb::FixedLimit(limit)) if limit.limit_kbps > 0 => {
            Asked::Fixed(limit.limit_kbps.saturating_mul(1024))
        }
        Some(Pb::FixedLimit(_)) => {
            return path.field("fixed_limit.limit_kbps", |path| path.refuse("must be at least 1"));
        }
        Some(Pb::HeaderLimit(_)) => Asked::Header,
        None => return path.refuse("one of fixed_limit and header_limit is needed"),
    };
    Some((asked, share(value.percentage.as_ref(), path)?))
}

/// What is not set is none, as in Envoy.
fn share(value: Option<&FractionalPercent>, path: &mut Path) -> Option<Chance> {
    match value {
        Some(value) => path.field("percentage", |path| Chance::from_proto(value, path)),
        None => Some(Chance::NEVER),
    }
}
