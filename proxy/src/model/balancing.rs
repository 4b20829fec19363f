//! How a cluster chooses among its endpoints.

use std::time::Duration;

use outrider_proto::envoy::config::cluster::v3 as pb;
use outrider_proto::envoy::r#type::v3 as pb_type;
use outrider_proto::outrider::load_balancing::v1 as ours;
use outrider_proto::{Path, unpack};
use pb::cluster::common_lb_config::{LocalityConfigSpecifier, ZoneAwareLbConfig};
use pb::cluster::{CommonLbConfig, LbConfig, LbPolicy};

use super::labels::Subsets;
use super::parse;

/// Envoy's default of `choice_count`.
const CHOICES: u32 = 2;
/// Most endpoints that are compared for one choice: what is beyond costs and gains nothing.
const MAX_CHOICES: u32 = 32;
/// Envoy's defaults of the ring's size.
const RING_SIZES: (u64, u64) = (1024, 8 * 1024 * 1024);
/// Largest ring here; each worker has one of 12 bytes per entry.
const MAX_RING_SIZE: u64 = 1024 * 1024;
/// Envoy's default and bound of the table's size.
const TABLE_SIZE: u64 = 65_537;
const MAX_TABLE_SIZE: u64 = 5_000_011;
/// Envoy's default of `healthy_panic_threshold`.
const PANIC_PERCENT: f64 = 50.0;
/// Envoy's default of `min_cluster_size`.
const MIN_ZONE_AWARE: u64 = 6;
/// Envoy's default of `min_weight_percent`.
const MIN_WEIGHT_PERCENT: f64 = 10.0;

/// How a cluster chooses among its endpoints.
#[derive(Clone, Debug, PartialEq)]
pub struct Balancing {
    /// Who is chosen within a set.
    pub balancer: Balancer,
    /// How new endpoints come to their share.
    pub slow_start: Option<SlowStart>,
    /// Below this share of well endpoints, in percent, all are used; 0 is never.
    pub panic_percent: f64,
    /// Whether localities have shares of their own.
    pub locality_weighted: bool,
    /// Whether requests stay in the proxy's own zone.
    pub zone_aware: Option<ZoneAware>,
    /// Whether requests are refused where too few endpoints are well, instead of being spread over all.
    pub fail_on_panic: bool,
    /// Which sets there are beside that of all.
    pub subsets: Option<Subsets>,
}

/// How an endpoint is chosen within a set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Balancer {
    /// In turn, by weight.
    RoundRobin,
    /// By chance, by weight.
    Random,
    /// The least busy of several drawn by chance.
    LeastRequest {
        /// How many are drawn.
        choices: u32,
        /// How much what is under way counts against the weight, where weights differ.
        bias: f64,
    },
    /// The cheaper of two drawn by chance.
    PeakEwma(PeakEwma),
    /// By a hash of the request, on a ring.
    RingHash {
        /// Entries of the ring at least.
        min: u64,
        /// And at most.
        max: u64,
    },
    /// By a hash of the request, in a table of this size.
    Maglev(u64),
    /// The one that the connection was going to.
    OriginalDst,
}

/// Parameters of the peak-sensitive moving average.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeakEwma {
    /// In how much time the average forgets all but 1/e of what it was.
    pub decay: Duration,
    /// What an endpoint is taken for that was never asked.
    pub default_latency: Duration,
    /// What a failed attempt counts for at least.
    pub failure_penalty: Duration,
}

/// How far requests stay in the proxy's own zone (Envoy's `ZoneAwareLbConfig`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ZoneAware {
    /// For how many of the requests, in percent.
    pub percent: f64,
    /// Fewest well endpoints for it.
    pub min_endpoints: u64,
}

/// How new endpoints come to their share (Envoy's `SlowStartConfig`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowStart {
    /// How long it takes.
    pub window: Duration,
    /// 1 is linear; more is steeper at first.
    pub aggression: f64,
    /// What it begins with, as a part of 1.
    pub least: f64,
}

impl Default for PeakEwma {
    fn default() -> Self {
        Self {
            decay: Duration::from_secs(10),
            default_latency: Duration::from_millis(30),
            failure_penalty: Duration::from_secs(1),
        }
    }
}

impl Default for ZoneAware {
    fn default() -> Self {
        Self { percent: 100.0, min_endpoints: MIN_ZONE_AWARE }
    }
}

impl Default for Balancing {
    fn default() -> Self {
        Self {
            balancer: Balancer::RoundRobin,
            slow_start: None,
            panic_percent: PANIC_PERCENT,
            locality_weighted: false,
            zone_aware: Some(ZoneAware::default()),
            fail_on_panic: false,
            subsets: None,
        }
    }
}

impl Balancing {
    pub(super) fn from_proto(value: &pb::Cluster, path: &mut Path) -> Self {
        let (balancer, slow_start) = match &value.load_balancing_policy {
            Some(policy) => (path.field("load_balancing_policy", |path| extension(policy, path)), None),
            None => (named(value, path), slow_start_of(value, path)),
        };
        let common = value.common_lb_config.unwrap_or_default();
        let (panic_percent, zone_aware) = path.field("common_lb_config", |path| {
            let panic =
                percent(common.healthy_panic_threshold, PANIC_PERCENT, "healthy_panic_threshold", path);
            let zones = zones_of(&common).map_or_else(ZoneAware::default, |zones| {
                path.field("zone_aware_lb_config", |path| ZoneAware {
                    percent: percent(zones.routing_enabled, 100.0, "routing_enabled", path),
                    min_endpoints: zones.min_cluster_size.unwrap_or(MIN_ZONE_AWARE),
                })
            });
            (panic, zones)
        });
        let subsets = value
            .lb_subset_config
            .as_ref()
            .map(|config| path.field("lb_subset_config", |path| Subsets::from_proto(config, path)));
        let locality_weighted = matches!(
            common.locality_config_specifier,
            Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_))
        );
        Self {
            balancer,
            slow_start,
            panic_percent,
            locality_weighted,
            // As in Envoy it need not be asked for: a proxy that knows its zone and its peers' prefers it. A hash leads to
            // the same endpoint from every zone.
            zone_aware: (!locality_weighted && !balancer.by_hash()).then_some(zone_aware),
            fail_on_panic: zones_of(&common).is_some_and(|zones| zones.fail_traffic_on_panic),
            subsets,
        }
    }
}

const fn zones_of(value: &CommonLbConfig) -> Option<&ZoneAwareLbConfig> {
    match &value.locality_config_specifier {
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(zones)) => Some(zones),
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) | None => None,
    }
}

impl Balancer {
    /// Whether it wants a hash of the request.
    #[must_use]
    pub const fn by_hash(&self) -> bool {
        matches!(self, Self::RingHash { .. } | Self::Maglev(_))
    }
}

fn extension(value: &pb::LoadBalancingPolicy, path: &mut Path) -> Balancer {
    let [policy] = value.policies.as_slice() else {
        path.fault_at("policies", "exactly one is needed");
        return Balancer::RoundRobin;
    };
    path.item("policies", 0, |path| {
        path.field("typed_extension_config", |path| {
            let config = policy.typed_extension_config.as_ref();
            let any = config.and_then(|config| config.typed_config.as_ref());
            if config.is_none_or(|config| config.name.is_empty()) {
                path.fault_at("name", "missing");
            }
            let found = any.and_then(unpack::<ours::PeakEwma>);
            path.field("typed_config", |path| match found {
                Some(config) => Balancer::PeakEwma(PeakEwma::from_proto(&config, path)),
                None => {
                    path.fault("must be an outrider.load_balancing.v1.PeakEwma");
                    Balancer::RoundRobin
                }
            })
        })
    })
}

impl PeakEwma {
    fn from_proto(value: &ours::PeakEwma, path: &mut Path) -> Self {
        let default = Self::default();
        let mut positive = |value: &Option<prost_types::Duration>, default, name: &str| {
            let found = parse::duration(value.as_ref(), default, name, path);
            if found.is_zero() {
                path.fault_at(name, "must be longer than 0");
            }
            found
        };
        Self {
            decay: positive(&value.decay_time, default.decay, "decay_time"),
            default_latency: positive(&value.default_latency, default.default_latency, "default_latency"),
            failure_penalty: positive(&value.failure_penalty, default.failure_penalty, "failure_penalty"),
        }
    }
}

fn named(value: &pb::Cluster, path: &mut Path) -> Balancer {
    let policy = value.lb_policy();
    let (belongs, field) = match &value.lb_config {
        None => (true, ""),
        Some(LbConfig::RoundRobinLbConfig(_)) => (policy == LbPolicy::RoundRobin, "round_robin_lb_config"),
        Some(LbConfig::LeastRequestLbConfig(_)) => {
            (policy == LbPolicy::LeastRequest, "least_request_lb_config")
        }
        Some(LbConfig::RingHashLbConfig(_)) => (policy == LbPolicy::RingHash, "ring_hash_lb_config"),
        Some(LbConfig::MaglevLbConfig(_)) => (policy == LbPolicy::Maglev, "maglev_lb_config"),
    };
    if !belongs {
        path.fault_at(field, "is for another lb_policy");
    }
    match policy {
        LbPolicy::RoundRobin => Balancer::RoundRobin,
        LbPolicy::Random => Balancer::Random,
        LbPolicy::ClusterProvided => Balancer::OriginalDst,
        LbPolicy::LeastRequest => least_request(value, path),
        LbPolicy::RingHash => ring_hash(value, path),
        LbPolicy::Maglev => maglev(value, path),
        LbPolicy::LoadBalancingPolicyConfig => {
            path.fault_at("load_balancing_policy", "missing");
            Balancer::RoundRobin
        }
    }
}

fn least_request(value: &pb::Cluster, path: &mut Path) -> Balancer {
    let Some(LbConfig::LeastRequestLbConfig(config)) = &value.lb_config else {
        return Balancer::LeastRequest { choices: CHOICES, bias: 1.0 };
    };
    path.field("least_request_lb_config", |path| {
        let choices = config.choice_count.unwrap_or(CHOICES);
        if !(CHOICES..=MAX_CHOICES).contains(&choices) {
            path.fault_at("choice_count", format!("must be from {CHOICES} to {MAX_CHOICES}"));
        }
        let bias = config.active_request_bias.map_or(1.0, |bias| bias.default_value);
        if !(0.0..=100.0).contains(&bias) {
            path.fault_at("active_request_bias.default_value", "must be from 0 to 100");
        }
        Balancer::LeastRequest { choices, bias }
    })
}

fn ring_hash(value: &pb::Cluster, path: &mut Path) -> Balancer {
    let (mut min, mut max) = RING_SIZES;
    if let Some(LbConfig::RingHashLbConfig(config)) = &value.lb_config {
        min = config.minimum_ring_size.unwrap_or(min);
        max = config.maximum_ring_size.unwrap_or(max);
        path.field("ring_hash_lb_config", |path| {
            if min > max {
                path.fault_at("minimum_ring_size", "larger than maximum_ring_size");
            }
            if min > MAX_RING_SIZE {
                path.fault_at("minimum_ring_size", format!("larger than {MAX_RING_SIZE}"));
            }
            if max > RING_SIZES.1 {
                path.fault_at("maximum_ring_size", format!("larger than {}", RING_SIZES.1));
            }
        });
    }
    Balancer::RingHash { min, max: max.min(MAX_RING_SIZE) }
}

fn maglev(value: &pb::Cluster, path: &mut Path) -> Balancer {
    let Some(LbConfig::MaglevLbConfig(config)) = &value.lb_config else {
        return Balancer::Maglev(TABLE_SIZE);
    };
    let size = config.table_size.unwrap_or(TABLE_SIZE);
    if size > MAX_TABLE_SIZE || !is_prime(size) {
        let reason = format!("must be a prime number, {MAX_TABLE_SIZE} at most");
        path.fault_at("maglev_lb_config.table_size", reason);
    }
    Balancer::Maglev(size)
}

fn is_prime(number: u64) -> bool {
    number >= 2
        && (2..).take_while(|factor| factor * factor <= number).all(|factor| !number.is_multiple_of(factor))
}

fn slow_start_of(value: &pb::Cluster, path: &mut Path) -> Option<SlowStart> {
    let (config, name) = match &value.lb_config {
        Some(LbConfig::RoundRobinLbConfig(config)) => {
            (config.slow_start_config.as_ref(), "round_robin_lb_config.slow_start_config")
        }
        Some(LbConfig::LeastRequestLbConfig(config)) => {
            (config.slow_start_config.as_ref(), "least_request_lb_config.slow_start_config")
        }
        Some(LbConfig::RingHashLbConfig(_) | LbConfig::MaglevLbConfig(_)) | None => (None, ""),
    };
    let config = config?;
    path.field(name, |path| {
        let window =
            parse::duration(config.slow_start_window.as_ref(), Duration::ZERO, "slow_start_window", path);
        let aggression = config.aggression.map_or(1.0, |aggression| aggression.default_value);
        if !(aggression > 0.0 && aggression <= 100.0) {
            path.fault_at("aggression.default_value", "must be more than 0 and at most 100");
        }
        let least =
            percent(config.min_weight_percent, MIN_WEIGHT_PERCENT, "min_weight_percent", path) / 100.0;
        (!window.is_zero()).then_some(SlowStart { window, aggression, least })
    })
}

/// A percentage; the default when it is not set.
pub(super) fn percent(value: Option<pb_type::Percent>, default: f64, name: &str, path: &mut Path) -> f64 {
    let found = value.map_or(default, |percent| percent.value);
    if !(0.0..=100.0).contains(&found) {
        path.fault_at(name, "must be from 0 to 100");
        return default;
    }
    found
}
