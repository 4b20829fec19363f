//! How much of a cluster may be in use at a time (Envoy's circuit breakers), for each priority of requests.

use outrider_proto::Path;
use outrider_proto::envoy::config::cluster::v3 as pb;
use outrider_proto::envoy::config::core::v3::RoutingPriority;

use super::balancing::percent;

/// Envoy's defaults of `budget_percent` and `min_retry_concurrency`.
const BUDGET_PERCENT: f64 = 20.0;
const MIN_RETRIES: u32 = 3;

/// Of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Priority {
    /// What most have.
    #[default]
    Default,
    /// What must get through when the others do not.
    High,
}

/// The limits for each priority.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    default: CircuitLimits,
    high: CircuitLimits,
}

/// The limits for one priority, with Envoy's defaults.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CircuitLimits {
    /// Connections.
    pub max_connections: u32,
    /// Requests that wait for a connection.
    pub max_pending_requests: u32,
    /// Requests under way.
    pub max_requests: u32,
    /// Retries.
    pub retries: RetryLimit,
}

/// How many retries there may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RetryLimit {
    /// A fifth of the requests of the last seconds, and ten a second: our default.
    Budget,
    /// So many under way (`max_retries`).
    Concurrent(u32),
    /// Under way, by the requests under way (`retry_budget`).
    Share {
        /// In percent.
        percent: f64,
        /// So many in any case.
        min: u32,
    },
}

impl Default for CircuitLimits {
    fn default() -> Self {
        let retries = RetryLimit::Budget;
        Self { max_connections: 1024, max_pending_requests: 1024, max_requests: 1024, retries }
    }
}

impl Limits {
    pub(super) fn from_proto(value: Option<&pb::CircuitBreakers>, path: &mut Path) -> Self {
        let mut limits = Self::default();
        let mut seen = Vec::new();
        for thresholds in value.map_or(&[][..], |breakers| breakers.thresholds.as_slice()) {
            if seen.contains(&thresholds.priority) {
                path.fault_at("circuit_breakers.thresholds", "more than one for the same priority");
            }
            seen.push(thresholds.priority);
            let found = path.field("circuit_breakers.thresholds", |path| one(thresholds, path));
            match Priority::from_proto(thresholds.priority()) {
                Priority::Default => limits.default = found,
                Priority::High => limits.high = found,
            }
        }
        limits
    }

    /// Those of a priority.
    #[must_use]
    pub const fn of(&self, priority: Priority) -> &CircuitLimits {
        match priority {
            Priority::Default => &self.default,
            Priority::High => &self.high,
        }
    }
}

impl Priority {
    pub(super) const fn from_proto(value: RoutingPriority) -> Self {
        match value {
            RoutingPriority::Default => Self::Default,
            RoutingPriority::High => Self::High,
        }
    }
}

fn one(value: &pb::circuit_breakers::Thresholds, path: &mut Path) -> CircuitLimits {
    let default = CircuitLimits::default();
    let retries = match (&value.retry_budget, value.max_retries) {
        (Some(_), Some(_)) => {
            path.fault_at("max_retries", "has no effect beside a retry_budget");
            default.retries
        }
        (Some(budget), None) => path.field("retry_budget", |path| RetryLimit::Share {
            percent: percent(budget.budget_percent, BUDGET_PERCENT, "budget_percent", path),
            min: budget.min_retry_concurrency.unwrap_or(MIN_RETRIES),
        }),
        (None, Some(count)) => RetryLimit::Concurrent(count),
        (None, None) => default.retries,
    };
    CircuitLimits {
        max_connections: value.max_connections.unwrap_or(default.max_connections),
        max_pending_requests: value.max_pending_requests.unwrap_or(default.max_pending_requests),
        max_requests: value.max_requests.unwrap_or(default.max_requests),
        retries,
    }
}
