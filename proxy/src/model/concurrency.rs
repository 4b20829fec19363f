//! A limit on requests at a time that finds itself (Envoy's `AdaptiveConcurrency` filter).

use http::StatusCode;
use outrider_proto::Path;
use outrider_proto::envoy::extensions::filters::http::adaptive_concurrency::v3 as pb;
use pb::adaptive_concurrency::ConcurrencyControllerConfig;

use super::balancing::percent;
use super::parse;
use crate::limit::gradient::{Gradient, Settings};

/// Envoy's defaults.
const PERCENTILE: f64 = 50.0;
const MAX_LIMIT: u32 = 1000;
const REQUESTS: u32 = 50;
const JITTER_PERCENT: f64 = 15.0;
const MIN_LIMIT: u32 = 3;
const BUFFER_PERCENT: f64 = 25.0;

/// The limit; `None` when it is switched off.
pub(super) fn compile(value: &pb::AdaptiveConcurrency, path: &mut Path) -> Option<Gradient> {
    let Some(ConcurrencyControllerConfig::GradientControllerConfig(config)) =
        &value.concurrency_controller_config
    else {
        return path.field("gradient_controller_config", |path| path.refuse("missing"));
    };
    let code = value.concurrency_limit_exceeded_status.as_ref().map_or(0, |status| status.code);
    let status = u16::try_from(code).ok().and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.filter(|status| status.as_u16() >= 400).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let settings = path.field("gradient_controller_config", |path| settings(config, status, path))?;
    let enabled = value.enabled.as_ref().and_then(|flag| flag.default_value).unwrap_or(true);
    enabled.then(|| Gradient::new(settings))
}

fn settings(value: &pb::GradientControllerConfig, status: StatusCode, path: &mut Path) -> Option<Settings> {
    let (Some(limit), Some(rest)) = (&value.concurrency_limit_params, &value.min_rtt_calc_params) else {
        return path.refuse("concurrency_limit_params and min_rtt_calc_params are needed");
    };
    let zero = std::time::Duration::ZERO;
    let mut count = |value: Option<u32>, default: u32, name: &str| {
        let found = value.unwrap_or(default);
        if found == 0 {
            path.fault_at(name, "must be at least 1");
        }
        found
    };
    let max_limit =
        count(limit.max_concurrency_limit, MAX_LIMIT, "concurrency_limit_params.max_concurrency_limit");
    let requests = count(rest.request_count, REQUESTS, "min_rtt_calc_params.request_count");
    let min_limit = count(rest.min_concurrency, MIN_LIMIT, "min_rtt_calc_params.min_concurrency");
    let mut every = |value: &Option<prost_types::Duration>, name: &str| {
        let found = parse::duration(value.as_ref(), zero, name, path);
        if found < std::time::Duration::from_millis(1) {
            path.fault_at(name, "must be at least 1ms");
        }
        found
    };
    let update =
        every(&limit.concurrency_update_interval, "concurrency_limit_params.concurrency_update_interval");
    let measure = every(&rest.interval, "min_rtt_calc_params.interval");
    Some(Settings {
        percentile: percent(
            value.sample_aggregate_percentile,
            PERCENTILE,
            "sample_aggregate_percentile",
            path,
        ),
        max_limit,
        update,
        measure,
        jitter: percent(rest.jitter, JITTER_PERCENT, "min_rtt_calc_params.jitter", path) / 100.0,
        requests,
        min_limit,
        buffer: percent(rest.buffer, BUFFER_PERCENT, "min_rtt_calc_params.buffer", path) / 100.0,
        status,
    })
}
