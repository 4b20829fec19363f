//! What a service's own sidecars hold its callers to: `rateLimit` and `adaptiveConcurrency` of `TrafficPolicy`, as filters
//! before the local workload, behind authorization. The messages are Envoy's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adaptive::adaptive_concurrency::ConcurrencyControllerConfig;
use adaptive::gradient_controller_config::{ConcurrencyLimitCalculationParams, MinimumRttCalculationParams};
use outrider_proto::envoy::config::core::v3::RuntimeFractionalPercent;
use outrider_proto::envoy::extensions::filters::http::adaptive_concurrency::v3 as adaptive;
use outrider_proto::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use outrider_proto::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use outrider_proto::envoy::r#type::v3 as kinds;

use super::attach::{age, why};
use super::model::MeshService;
use super::status::{ConditionKind, Statuses};
use super::traffic::Policies;
use super::{chain, wire};
use crate::object::limits::RateLimit;
use crate::object::traffic::TrafficPolicy;
use crate::object::{Key, Object};

/// How long tokens take that come in a time that is not said.
const PER: Duration = Duration::from_secs(1);
/// How often the limit on requests at a time is found anew.
const UPDATE: Duration = Duration::from_millis(100);
/// How often it is measured how fast answers are when there is nothing else to do.
const MEASURE: Duration = Duration::from_secs(60);

/// Ports of services.
pub(super) type Served = BTreeSet<(Key, u16)>;

/// Which policy limits a local port that serves these ports of services: the oldest of theirs.
pub(super) fn policy<'a>(served: &Served, policies: &'a Policies) -> Option<&'a Object<TrafficPolicy>> {
    let all = served.iter().filter_map(|place| policies.get(place)?.origin());
    all.filter(|policy| limits(&policy.spec)).min_by_key(|policy| age(&policy.meta))
}

/// Its filters.
pub(super) fn filters(policy: &Object<TrafficPolicy>) -> Vec<HttpFilter> {
    let rate = policy.spec.rate_limit.map(|limit| {
        let message = rate_limit(limit, &policy.key.to_string());
        chain::http_filter("envoy.filters.http.local_ratelimit", wire::any(&message))
    });
    let concurrency = policy.spec.adaptive_concurrency.map(|_| {
        chain::http_filter("envoy.filters.http.adaptive_concurrency", wire::any(&adaptive_concurrency()))
    });
    rate.into_iter().chain(concurrency).collect()
}

/// Says where a policy's limits have no effect: on ports that are opaque, and where a workload's port serves another
/// service too, whose policy goes before.
pub(super) fn report(
    services: &BTreeMap<Key, Arc<MeshService>>,
    policies: &Policies,
    statuses: &mut Statuses,
) {
    let mut holders: BTreeMap<(&str, SocketAddr), BTreeSet<(_, &Key, u16)>> = BTreeMap::new();
    for ((key, number), calls) in policies {
        let Some(policy) = calls.origin().filter(|policy| limits(&policy.spec)) else { continue };
        let Some(port) = services.get(key).and_then(|service| service.port(*number)) else { continue };
        if !port.protocol.is_http() {
            let message = format!(
                "rateLimit and adaptiveConcurrency count requests, and port {number} of {key} does not say that it \
                 speaks HTTP; set its appProtocol"
            );
            statuses.refuse(
                (&policy.key, ""),
                ConditionKind::PartiallyInvalid,
                "UnsupportedProtocol",
                &message,
            );
        }
        for endpoint in &port.endpoints {
            let place = (&*key.namespace, endpoint.address);
            holders.entry(place).or_default().insert((age(&policy.meta), &policy.key, *number));
        }
    }
    for ((_, address), holders) in holders {
        let mut holders = holders.into_iter();
        let Some((first, winner, _)) = holders.next() else { continue };
        for (age, loser, number) in holders.filter(|(_, key, _)| *key != winner) {
            let why = why(first, age);
            let message = format!(
                "rateLimit and adaptiveConcurrency of {winner}, which {why}, hold where port {number} and its own are \
                 one port of a workload, as {address}"
            );
            statuses.refuse((loser, ""), ConditionKind::PartiallyInvalid, "Conflicted", &message);
        }
    }
}

fn limits(policy: &TrafficPolicy) -> bool {
    policy.rate_limit.is_some() || policy.adaptive_concurrency.is_some()
}

fn rate_limit(limit: RateLimit, name: &str) -> LocalRateLimit {
    // Without this Envoy's filter does nothing.
    let always = RuntimeFractionalPercent {
        default_value: Some(kinds::FractionalPercent {
            numerator: 100,
            denominator: kinds::fractional_percent::DenominatorType::Hundred.into(),
        }),
    };
    LocalRateLimit {
        stat_prefix: name.to_owned(),
        token_bucket: Some(kinds::TokenBucket {
            max_tokens: limit.burst.unwrap_or(limit.requests),
            tokens_per_fill: Some(limit.requests),
            fill_interval: Some(wire::duration(limit.per.map_or(PER, |per| per.0))),
        }),
        filter_enabled: Some(always),
        filter_enforced: Some(always),
        rate_limited_as_resource_exhausted: true,
        enable_retry_after_header: true,
        ..Default::default()
    }
}

fn adaptive_concurrency() -> adaptive::AdaptiveConcurrency {
    let config = adaptive::GradientControllerConfig {
        concurrency_limit_params: Some(ConcurrencyLimitCalculationParams {
            concurrency_update_interval: Some(wire::duration(UPDATE)),
            ..Default::default()
        }),
        min_rtt_calc_params: Some(MinimumRttCalculationParams {
            interval: Some(wire::duration(MEASURE)),
            ..Default::default()
        }),
        ..Default::default()
    };
    adaptive::AdaptiveConcurrency {
        concurrency_controller_config: Some(ConcurrencyControllerConfig::GradientControllerConfig(config)),
        ..Default::default()
    }
}
