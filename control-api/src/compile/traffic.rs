//! How services are called: what `TrafficPolicy` and the routes themselves say about retries, timeouts and limits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use outrider_proto::envoy::config::cluster::v3 as cluster;
use outrider_proto::envoy::config::core::v3 as core;
use outrider_proto::envoy::config::route::v3 as pb;
use outrider_proto::envoy::r#type::v3::Percent;
use outrider_proto::outrider::load_balancing::v1::PeakEwma;
use outrider_proto::outrider::shedding::v1::DeadlineShedding;
use prost::Name as _;

use super::attach::{age, why};
use super::model::{MeshService, ServicePort};
use super::status::{ConditionKind, Statuses};
use super::{balancing, wire};
use crate::object::balancing::LbPolicy;
use crate::object::http_route::{Retry, Timeouts};
use crate::object::traffic::{MtlsUse, Retries, TargetRef, TrafficPolicy};
use crate::object::{Key, Object, ObjectKind, Objects};

/// What waits between attempts grow to at most, unless the first is longer.
const MAX_BACKOFF: Duration = Duration::from_secs(3600);

/// How one port of a service is called.
#[derive(Clone, Debug, Default)]
pub(super) struct Calls {
    policy: Option<Arc<Object<TrafficPolicy>>>,
}

/// The policy of each port that has one.
pub(super) type Policies = BTreeMap<(Key, u16), Calls>;

/// Finds the policy of each port, and says what of a policy has no effect.
pub(super) fn policies(
    objects: &Objects,
    services: &BTreeMap<Key, Arc<MeshService>>,
    statuses: &mut Statuses,
) -> Policies {
    let mut sorted: Vec<_> = objects.traffic.values().collect();
    sorted.sort_by(|left, right| age(&left.meta).cmp(&age(&right.meta)));
    let mut policies = Policies::new();
    for policy in sorted {
        for target in &policy.spec.target_refs {
            let key = Key::new(ObjectKind::Service, &policy.key.namespace, &target.name);
            let ports: Vec<u16> = services
                .get(&key)
                .into_iter()
                .flat_map(|service| &service.ports)
                .filter(|port| is_meant(target, port))
                .map(|port| port.number)
                .collect();
            if ports.is_empty() {
                let message = match &target.section_name {
                    Some(section) if services.contains_key(&key) => format!("{key} has no port {section}"),
                    Some(_) | None => format!("there is no {key}, or it has no ports"),
                };
                statuses.refuse((&policy.key, ""), ConditionKind::ResolvedRefs, "TargetNotFound", &message);
            }
            for port in ports {
                match policies.get(&(key.clone(), port)).and_then(|calls| calls.policy.as_ref()) {
                    Some(winner) => {
                        let why = why(age(&winner.meta), age(&policy.meta));
                        let message = format!("{} {why} and holds for port {port} of {key}", winner.key);
                        let place = (&policy.key, "");
                        statuses.refuse(place, ConditionKind::Accepted, "Conflicted", &message);
                    }
                    None => {
                        policies.insert((key.clone(), port), Calls { policy: Some(Arc::clone(policy)) });
                    }
                }
            }
        }
        statuses.accept(&policy.key, "");
    }
    policies
}

fn is_meant(target: &TargetRef, port: &ServicePort) -> bool {
    target
        .section_name
        .as_deref()
        .is_none_or(|section| section == port.name || section.parse() == Ok(port.number))
}

impl Calls {
    fn spec(&self) -> Option<&TrafficPolicy> {
        self.policy.as_ref().map(|policy| &policy.spec)
    }

    /// The policy's object, if there is one.
    pub(super) fn origin(&self) -> Option<&Object<TrafficPolicy>> {
        self.policy.as_deref()
    }

    /// Whether mutual TLS was turned off by the operator.
    pub(super) fn is_plaintext(&self) -> bool {
        self.spec().and_then(|spec| spec.mtls) == Some(MtlsUse::Disabled)
    }

    /// What only our own proxy knows of a cluster, put on one that anybody can read; `None` when there is nothing.
    pub(super) fn ours(&self, common: &cluster::Cluster) -> Option<cluster::Cluster> {
        let spec = self.spec()?;
        let by_latency =
            spec.load_balancer.as_ref().is_some_and(|balancer| balancer.policy == LbPolicy::PeakEwma);
        if !by_latency && spec.shedding.is_none() {
            return None;
        }
        let mut ours = common.clone();
        if by_latency {
            ours.lb_policy = cluster::cluster::LbPolicy::LoadBalancingPolicyConfig.into();
            ours.load_balancing_policy = Some(cluster::LoadBalancingPolicy {
                policies: vec![cluster::load_balancing_policy::Policy {
                    typed_extension_config: Some(core::TypedExtensionConfig {
                        name: "outrider.load_balancing.peak_ewma".to_owned(),
                        typed_config: Some(wire::any(&PeakEwma::default())),
                    }),
                }],
            });
        }
        if let Some(shedding) = spec.shedding {
            let config = wire::any(&DeadlineShedding { percentile: shedding.percentile });
            ours.typed_extension_protocol_options.insert(DeadlineShedding::full_name(), config);
        }
        Some(ours)
    }

    /// Whether endpoints without an identity are left out, though nobody else has one either.
    pub(super) fn requires_mtls(&self) -> bool {
        self.spec().and_then(|spec| spec.mtls) == Some(MtlsUse::Required)
    }

    /// How long an opaque connection may be still.
    pub(super) fn idle(&self) -> Option<Duration> {
        self.spec().and_then(|spec| spec.timeouts).and_then(|timeouts| timeouts.idle).map(|idle| idle.0)
    }

    /// What holds for requests, before the route says its own.
    pub(super) fn put_on(&self, action: &mut pb::RouteAction) {
        let timeouts = self.spec().and_then(|spec| spec.timeouts).unwrap_or_default();
        // Without a word there is no limit: a stream may be long. (The default on the wire is 15 s.)
        action.timeout = Some(wire::duration(timeouts.request.map_or(Duration::ZERO, |request| request.0)));
        action.idle_timeout = timeouts.idle.map(|idle| wire::duration(idle.0));
        action.retry_policy = self.spec().and_then(|spec| spec.retries.as_ref()).and_then(retries);
        let hedges = self.spec().and_then(|spec| spec.retries.as_ref()).is_some_and(|retries| retries.hedge);
        action.hedge_policy = hedges.then_some(pb::HedgePolicy { hedge_on_per_try_timeout: true });
        let balancer = self.spec().and_then(|spec| spec.load_balancer.as_ref());
        action.hash_policy = balancer.map(balancing::hash).unwrap_or_default();
    }

    /// The route's own limits.
    pub(super) fn limit(&self, action: &mut pb::RouteAction, timeouts: Timeouts) {
        if let Some(request) = timeouts.request {
            action.timeout = Some(wire::duration(request.0));
        }
        let Some(attempt) = timeouts.backend_request else { return };
        match &mut action.retry_policy {
            Some(retry) => {
                retry.per_try_timeout = (!attempt.0.is_zero()).then(|| wire::duration(attempt.0));
            }
            // One attempt is all there is.
            None if timeouts.request.is_none_or(|request| request.0.is_zero()) => {
                action.timeout = Some(wire::duration(attempt.0));
            }
            None if !attempt.0.is_zero() => action.timeout = Some(wire::duration(attempt.0)),
            None => {}
        }
    }

    /// What holds for connections.
    pub(super) fn put_on_cluster(&self, value: &mut cluster::Cluster) {
        let Some(spec) = self.spec() else { return };
        if let Some(connect) = spec.timeouts.and_then(|timeouts| timeouts.connect) {
            value.connect_timeout = Some(wire::duration(connect.0));
        }
        if let Some(balancer) = &spec.load_balancer {
            balancing::put_on_cluster(balancer, value);
        }
        value.health_checks = spec.health_check.iter().map(balancing::check).collect();
        value.outlier_detection = spec.outlier_detection.map(|outliers| cluster::OutlierDetection {
            consecutive_5xx: outliers.consecutive_errors,
            interval: outliers.interval.map(|time| wire::duration(time.0)),
            base_ejection_time: outliers.base_ejection_time.map(|time| wire::duration(time.0)),
            max_ejection_percent: outliers.max_ejection_percent,
            ..Default::default()
        });
        let budget = spec.retries.as_ref().and_then(|retries| retries.budget);
        if spec.circuit_breaker.is_none() && budget.is_none() {
            return;
        }
        let breaker = spec.circuit_breaker.unwrap_or_default();
        value.circuit_breakers = Some(cluster::CircuitBreakers {
            thresholds: vec![cluster::circuit_breakers::Thresholds {
                priority: 0,
                max_connections: breaker.max_connections,
                max_pending_requests: breaker.max_pending_requests,
                max_requests: breaker.max_requests,
                max_retries: breaker.max_retries,
                retry_budget: budget.map(|budget| cluster::circuit_breakers::thresholds::RetryBudget {
                    budget_percent: Some(Percent { value: f64::from(budget.percent) }),
                    min_retry_concurrency: budget.min_concurrency,
                }),
            }],
        });
    }
}

/// The retries of a policy; `None` when they are turned off.
fn retries(value: &Retries) -> Option<pb::RetryPolicy> {
    let mut on: Vec<&str> = value.on.iter().map(|on| on.as_str()).collect();
    if !value.codes.is_empty() {
        on.push("retriable-status-codes");
    }
    (value.attempts > 0).then(|| pb::RetryPolicy {
        retry_on: on.join(","),
        num_retries: Some(value.attempts),
        per_try_timeout: value
            .per_try_timeout
            .filter(|timeout| !timeout.0.is_zero())
            .map(|timeout| wire::duration(timeout.0)),
        retriable_status_codes: value.codes.iter().map(|code| u32::from(*code)).collect(),
        retry_back_off: value.backoff.map(|backoff| back_off(backoff.0)),
        ..pb::RetryPolicy::default()
    })
}

/// The retries of a route, in place of those of a policy. A timeout of one attempt stays as it is.
pub(super) fn retry(action: &mut pb::RouteAction, value: &Retry) {
    let attempts = value.attempts.unwrap_or(1);
    if attempts == 0 {
        action.retry_policy = None;
        return;
    }
    let mut on = "connect-failure,refused-stream,reset".to_owned();
    if !value.codes.is_empty() {
        on.push_str(",retriable-status-codes");
    }
    let per_try_timeout = action.retry_policy.take().and_then(|policy| policy.per_try_timeout);
    action.retry_policy = Some(pb::RetryPolicy {
        retry_on: on,
        num_retries: Some(attempts),
        per_try_timeout,
        retriable_status_codes: value.codes.iter().map(|code| u32::from(*code)).collect(),
        retry_back_off: value
            .backoff
            .filter(|backoff| !backoff.0.is_zero())
            .map(|backoff| back_off(backoff.0)),
        ..pb::RetryPolicy::default()
    });
}

fn back_off(base: Duration) -> pb::retry_policy::RetryBackOff {
    pb::retry_policy::RetryBackOff {
        base_interval: Some(wire::duration(base)),
        max_interval: Some(wire::duration(base.saturating_mul(10).min(MAX_BACKOFF).max(base))),
    }
}
