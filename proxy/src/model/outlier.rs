//! When an endpoint is ejected for what it did to requests (Envoy's `OutlierDetection`).

use std::time::Duration;

use outrider_proto::Path;
use outrider_proto::envoy::config::cluster::v3 as pb;

use super::parse;

/// Envoy's defaults.
const INTERVAL: Duration = Duration::from_secs(10);
const BASE_TIME: Duration = Duration::from_secs(30);
const MAX_TIME: Duration = Duration::from_secs(300);
const MAX_PERCENT: u32 = 10;
const CONSECUTIVE: u32 = 5;
const MINIMUM_HOSTS: u32 = 5;
const RATE_VOLUME: u32 = 100;
const STDEV_FACTOR: u32 = 1900;
const PERCENTAGE_THRESHOLD: u32 = 85;
const PERCENTAGE_VOLUME: u32 = 50;

/// A compiled `OutlierDetection`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OutlierDetection {
    /// Between two looks at rates, and at who may come back.
    pub interval: Duration,
    /// How long the first ejection lasts; the n-th lasts n times as long.
    pub base_time: Duration,
    /// How long an ejection lasts at most.
    pub max_time: Duration,
    /// What is added to an ejection's time at most, by chance.
    pub jitter: Duration,
    /// Endpoints that may be ejected at a time, in percent of all.
    pub max_percent: u32,
    /// One may be ejected even if it is a larger share.
    pub always_one: bool,
    /// Failures to reach an endpoint are counted apart from its answers.
    pub split: bool,
    /// A health check that succeeds ends an ejection.
    pub check_ends_ejection: bool,
    /// Answers of 5xx in a row, failures to reach it among them unless they are counted apart.
    pub server_errors: Streak,
    /// The same with 502, 503 and 504 only.
    pub gateway_errors: Streak,
    /// Failures to reach it in a row, where they are counted apart.
    pub local_failures: Streak,
    /// A success rate that is far below that of the others.
    pub success_rate: SuccessRate,
    /// A share of failures that is too large, whatever the others do.
    pub failure_percentage: FailurePercentage,
}

/// So many in a row are too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Streak {
    /// How many; never with 0.
    pub limit: u32,
    /// How likely it has an effect, in percent.
    pub enforced: u32,
}

/// Statistics over the endpoints.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SuccessRate {
    /// With fewer endpoints that have enough requests there are no statistics.
    pub minimum_hosts: u32,
    /// Requests in an interval with which an endpoint counts.
    pub volume: u32,
    /// How many standard deviations below the mean are too far.
    pub deviations: f64,
    /// How likely it has an effect, in percent.
    pub enforced: u32,
    /// The same for failures to reach it, where they are counted apart.
    pub enforced_local: u32,
}

/// A fixed bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailurePercentage {
    /// As in [`SuccessRate`].
    pub minimum_hosts: u32,
    /// As in [`SuccessRate`].
    pub volume: u32,
    /// Failures in percent that are too many.
    pub threshold: u32,
    /// How likely it has an effect, in percent.
    pub enforced: u32,
    /// The same for failures to reach it, where they are counted apart.
    pub enforced_local: u32,
}

impl OutlierDetection {
    pub(super) fn from_proto(value: &pb::OutlierDetection, path: &mut Path) -> Self {
        let time = |value, default: Duration, name: &str, path: &mut Path| {
            let found = parse::duration(value, default, name, path);
            if found.is_zero() {
                path.fault_at(name, "must be longer than 0");
            }
            found
        };
        let interval = time(value.interval.as_ref(), INTERVAL, "interval", path);
        let base_time = time(value.base_ejection_time.as_ref(), BASE_TIME, "base_ejection_time", path);
        let max_time = time(value.max_ejection_time.as_ref(), MAX_TIME, "max_ejection_time", path);
        let jitter = value.max_ejection_time_jitter.as_ref();
        let jitter = parse::duration(jitter, Duration::ZERO, "max_ejection_time_jitter", path);
        let max_percent = share(value.max_ejection_percent, MAX_PERCENT, "max_ejection_percent", path);
        let [server_errors, gateway_errors, local_failures] = streaks(value, path);
        Self {
            interval,
            base_time,
            // One that is shorter than the base is taken for the base, as in Envoy.
            max_time: max_time.max(base_time),
            jitter,
            max_percent,
            always_one: value.always_eject_one_host.unwrap_or(false),
            split: value.split_external_local_origin_errors,
            check_ends_ejection: value.successful_active_health_check_uneject_host.unwrap_or(true),
            server_errors,
            gateway_errors,
            local_failures,
            success_rate: success_rate(value, path),
            failure_percentage: failure_percentage(value, path),
        }
    }
}

fn streaks(value: &pb::OutlierDetection, path: &mut Path) -> [Streak; 3] {
    [
        (value.consecutive_5xx, (value.enforcing_consecutive_5xx, 100, "enforcing_consecutive_5xx")),
        (
            value.consecutive_gateway_failure,
            (value.enforcing_consecutive_gateway_failure, 0, "enforcing_consecutive_gateway_failure"),
        ),
        (
            value.consecutive_local_origin_failure,
            (
                value.enforcing_consecutive_local_origin_failure,
                100,
                "enforcing_consecutive_local_origin_failure",
            ),
        ),
    ]
    .map(|(limit, (enforced, default, name))| Streak {
        limit: limit.unwrap_or(CONSECUTIVE),
        enforced: share(enforced, default, name, path),
    })
}

fn success_rate(value: &pb::OutlierDetection, path: &mut Path) -> SuccessRate {
    SuccessRate {
        minimum_hosts: value.success_rate_minimum_hosts.unwrap_or(MINIMUM_HOSTS),
        volume: value.success_rate_request_volume.unwrap_or(RATE_VOLUME),
        deviations: f64::from(value.success_rate_stdev_factor.unwrap_or(STDEV_FACTOR)) / 1000.0,
        enforced: share(value.enforcing_success_rate, 100, "enforcing_success_rate", path),
        enforced_local: share(
            value.enforcing_local_origin_success_rate,
            100,
            "enforcing_local_origin_success_rate",
            path,
        ),
    }
}

fn failure_percentage(value: &pb::OutlierDetection, path: &mut Path) -> FailurePercentage {
    FailurePercentage {
        minimum_hosts: value.failure_percentage_minimum_hosts.unwrap_or(MINIMUM_HOSTS),
        volume: value.failure_percentage_request_volume.unwrap_or(PERCENTAGE_VOLUME),
        threshold: share(
            value.failure_percentage_threshold,
            PERCENTAGE_THRESHOLD,
            "failure_percentage_threshold",
            path,
        ),
        enforced: share(value.enforcing_failure_percentage, 0, "enforcing_failure_percentage", path),
        enforced_local: share(
            value.enforcing_failure_percentage_local_origin,
            0,
            "enforcing_failure_percentage_local_origin",
            path,
        ),
    }
}

/// A whole percentage; the default when it is not set.
fn share(value: Option<u32>, default: u32, name: &str, path: &mut Path) -> u32 {
    match value {
        None => default,
        Some(percent) if percent <= 100 => percent,
        Some(_) => {
            path.fault_at(name, "must be from 0 to 100");
            default
        }
    }
}
