//! What a `TrafficPolicy` has the service's own sidecars hold their callers to.

use std::time::Duration;

use outrider_proto::Path;
use schemars::JsonSchema;
use serde::Deserialize;

use super::scalar::Span;

/// Most requests of a limit: one each 50 ns, in the shortest time that may be said.
const MAX_REQUESTS: u32 = 1_000_000;
/// The shortest time; Envoy's.
const MIN_PER: Duration = Duration::from_millis(50);

/// How many requests one sidecar lets through to its workload. They may come steadily, and some at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// So many in the time of `per`.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests: u32,
    /// From 50 ms; 1 s when it is not said.
    #[serde(default)]
    pub per: Option<Span>,
    /// So many at once after a pause; as many as `requests` when it is not said.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub burst: Option<u32>,
}

/// A limit on requests at a time that finds itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdaptiveConcurrency {}

impl RateLimit {
    pub(super) fn check(&self, path: &mut Path) {
        for (count, name) in [(Some(self.requests), "requests"), (self.burst, "burst")] {
            if count.is_some_and(|count| !(1..=MAX_REQUESTS).contains(&count)) {
                path.fault_at(name, format!("must be from 1 to {MAX_REQUESTS}"));
            }
        }
        if self.per.is_some_and(|per| per.0 < MIN_PER) {
            path.fault_at("per", "must be at least 50ms");
        }
    }
}
