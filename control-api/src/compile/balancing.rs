//! What a `TrafficPolicy` says about choosing an endpoint, and about asking whether it is well.

use std::time::Duration;

use outrider_proto::envoy::config::cluster::v3 as pb;
use outrider_proto::envoy::config::core::v3 as core;
use outrider_proto::envoy::config::route::v3::route_action::{HashPolicy, hash_policy};
use outrider_proto::envoy::r#type::v3::Percent;
use pb::cluster::{LbConfig, LbPolicy as Wire};

use super::wire;
use crate::object::balancing::{HashOn, LbPolicy, LoadBalancer};
use crate::object::traffic::HealthCheck;

/// Where nothing else is said about health checks.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);
const UNHEALTHY_AFTER: u32 = 3;
const HEALTHY_AFTER: u32 = 1;

/// The choice, as everybody understands it.
pub(super) fn put_on_cluster(balancer: &LoadBalancer, value: &mut pb::Cluster) {
    value.lb_policy = match balancer.policy {
        LbPolicy::RoundRobin => Wire::RoundRobin,
        LbPolicy::LeastRequest | LbPolicy::PeakEwma => Wire::LeastRequest,
        LbPolicy::Random => Wire::Random,
        LbPolicy::RingHash => Wire::RingHash,
        LbPolicy::Maglev => Wire::Maglev,
    }
    .into();
    let slow_start_config = balancer.slow_start.map(|time| pb::cluster::SlowStartConfig {
        slow_start_window: Some(wire::duration(time.0)),
        ..pb::cluster::SlowStartConfig::default()
    });
    value.lb_config = match balancer.policy {
        LbPolicy::RoundRobin if slow_start_config.is_some() => {
            Some(LbConfig::RoundRobinLbConfig(pb::cluster::RoundRobinLbConfig { slow_start_config }))
        }
        LbPolicy::LeastRequest if slow_start_config.is_some() || balancer.choices.is_some() => {
            Some(LbConfig::LeastRequestLbConfig(pb::cluster::LeastRequestLbConfig {
                choice_count: balancer.choices,
                slow_start_config,
                ..pb::cluster::LeastRequestLbConfig::default()
            }))
        }
        LbPolicy::RoundRobin
        | LbPolicy::LeastRequest
        | LbPolicy::Random
        | LbPolicy::PeakEwma
        | LbPolicy::RingHash
        | LbPolicy::Maglev => None,
    };
    if let Some(percent) = balancer.panic_threshold {
        value.common_lb_config.get_or_insert_default().healthy_panic_threshold =
            Some(Percent { value: f64::from(percent) });
    }
}

/// What requests are hashed by.
pub(super) fn hash(balancer: &LoadBalancer) -> Vec<HashPolicy> {
    use hash_policy::{ConnectionProperties, Cookie, Header, PolicySpecifier, QueryParameter};
    let parts =
        balancer.hash.iter().filter_map(|HashOn { header, cookie, query_parameter, source_address }| {
            let header = header.as_ref().map(|name| Header { header_name: name.to_ascii_lowercase() });
            let cookie = cookie.as_ref().map(|name| Cookie { name: name.clone(), ..Cookie::default() });
            let parameter = query_parameter.as_ref().map(|name| QueryParameter { name: name.clone() });
            let source = source_address.then_some(ConnectionProperties { source_ip: true });
            header
                .map(PolicySpecifier::Header)
                .or(cookie.map(PolicySpecifier::Cookie))
                .or(parameter.map(PolicySpecifier::QueryParameter))
                .or(source.map(PolicySpecifier::ConnectionProperties))
        });
    parts.map(|part| HashPolicy { policy_specifier: Some(part), terminal: false }).collect()
}

/// How endpoints are asked whether they are well.
pub(super) fn check(value: &HealthCheck) -> core::HealthCheck {
    use core::health_check::{GrpcHealthCheck, HealthChecker, HttpHealthCheck, TcpHealthCheck};
    core::HealthCheck {
        timeout: Some(wire::duration(value.timeout.map_or(CHECK_TIMEOUT, |time| time.0))),
        interval: Some(wire::duration(value.interval.map_or(CHECK_INTERVAL, |time| time.0))),
        unhealthy_threshold: Some(value.unhealthy_after.unwrap_or(UNHEALTHY_AFTER)),
        healthy_threshold: Some(value.healthy_after.unwrap_or(HEALTHY_AFTER)),
        health_checker: Some(match (&value.http, &value.grpc) {
            (Some(http), _) => HealthChecker::HttpHealthCheck(HttpHealthCheck {
                path: http.path.clone(),
                ..HttpHealthCheck::default()
            }),
            (None, Some(grpc)) => HealthChecker::GrpcHealthCheck(GrpcHealthCheck {
                service_name: grpc.service.clone(),
                ..GrpcHealthCheck::default()
            }),
            (None, None) => HealthChecker::TcpHealthCheck(TcpHealthCheck::default()),
        }),
        ..core::HealthCheck::default()
    }
}
