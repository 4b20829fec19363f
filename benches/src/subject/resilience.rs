//! The parts of a start-up file for every policy of resilience at once. None of them has to act: what is measured is what
//! they cost while all is well.

use super::Mode;

/// Filters in front of the router: a limit on rates and one on requests at a time, which are never reached.
pub(super) fn filters(mode: Mode) -> String {
    if mode != Mode::Resilient {
        return String::new();
    }
    let extension = "type.googleapis.com/envoy.extensions.filters.http";
    format!(
        "{{name: concurrency, typed_config: {{\"@type\": {extension}.adaptive_concurrency.v3.AdaptiveConcurrency, \
         gradient_controller_config: {{sample_aggregate_percentile: {{value: 50}}, concurrency_limit_params: \
         {{concurrency_update_interval: 0.1s}}, min_rtt_calc_params: {{interval: 60s, request_count: 50, min_concurrency: \
         500}}}}}}}}, {{name: rate, typed_config: {{\"@type\": {extension}.local_ratelimit.v3.LocalRateLimit, stat_prefix: r, \
         token_bucket: {{max_tokens: 4000000000, tokens_per_fill: 4000000000, fill_interval: 1s}}, filter_enabled: \
         {{default_value: {{numerator: 100}}}}, filter_enforced: {{default_value: {{numerator: 100}}}}}}}}, "
    )
}

/// Fields of the route's action.
pub(super) const fn route(mode: Mode) -> &'static str {
    if matches!(mode, Mode::Resilient) {
        ", idle_timeout: 10s, max_stream_duration: {max_stream_duration: 60s, grpc_timeout_header_max: 30s}, hedge_policy: \
         {hedge_on_per_try_timeout: true}, retry_policy: {retry_on: \"5xx,reset,connect-failure,refused-stream\", num_retries: 3, \
         per_try_timeout: 5s, per_try_idle_timeout: 5s, retry_back_off: {base_interval: 0.01s}}, hash_policy: [{header: \
         {header_name: x-key}}]"
    } else {
        ""
    }
}

/// Fields of the cluster.
pub(super) const fn cluster(mode: Mode) -> &'static str {
    if matches!(mode, Mode::Resilient) {
        ", outlier_detection: {consecutive_5xx: 5, consecutive_gateway_failure: 5, interval: 1s, \
         split_external_local_origin_errors: true}, health_checks: [{timeout: 1s, interval: 1s, unhealthy_threshold: 3, \
         healthy_threshold: 1, http_health_check: {path: /}}], common_lb_config: {healthy_panic_threshold: {value: 40}}, \
         load_balancing_policy: {policies: [{typed_extension_config: {name: ewma, typed_config: {\"@type\": \
         type.googleapis.com/outrider.load_balancing.v1.PeakEwma}}}]}, lb_policy: LOAD_BALANCING_POLICY_CONFIG, \
         typed_extension_protocol_options: {outrider.shedding.v1.DeadlineShedding: {\"@type\": \
         type.googleapis.com/outrider.shedding.v1.DeadlineShedding}}"
    } else {
        ""
    }
}
