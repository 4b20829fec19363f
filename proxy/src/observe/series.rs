//! The families of metrics: what is counted, under which labels.

mod recorders;

use super::metrics::{Family, Kind, SERIES_DROPPED};
pub use recorders::{EgressSeries, ListenerSeries, Outcome, PolicySeries, ReasonSeries, RequestSeries};

/// `outrider_requests_total`
pub const REQUESTS: Family = Family {
    name: "outrider_requests_total",
    help: "Requests by their outcome.",
    kind: Kind::Counter,
    labels: &["direction", "listener", "destination_service", "response_code", "response_flags"],
};
/// `outrider_request_duration_seconds`
pub const DURATION: Family = Family {
    name: "outrider_request_duration_seconds",
    help: "From the first byte of a request to the last of its response.",
    kind: Kind::Histogram,
    labels: &["direction", "listener", "destination_service"],
};
/// `outrider_request_bytes_total`
pub const REQUEST_BYTES: Family = Family {
    name: "outrider_request_bytes_total",
    help: "Body bytes from clients.",
    kind: Kind::Counter,
    labels: &["direction", "listener", "destination_service"],
};
/// `outrider_response_bytes_total`
pub const RESPONSE_BYTES: Family = Family {
    name: "outrider_response_bytes_total",
    help: "Body bytes to clients.",
    kind: Kind::Counter,
    labels: &["direction", "listener", "destination_service"],
};
/// `outrider_local_replies_total`
pub const LOCAL_REPLIES: Family = Family {
    name: "outrider_local_replies_total",
    help: "Requests that the proxy answered or ended itself.",
    kind: Kind::Counter,
    labels: &["reason"],
};
/// `outrider_retries_total`
pub const RETRIES: Family = Family {
    name: "outrider_retries_total",
    help: "Attempts after the first.",
    kind: Kind::Counter,
    labels: &["destination_service"],
};
/// `outrider_retries_refused_total`
pub const RETRIES_REFUSED: Family = Family {
    name: "outrider_retries_refused_total",
    help: "Attempts that the policy wanted and the cluster's limit on retries did not allow.",
    kind: Kind::Counter,
    labels: &["destination_service"],
};
/// `outrider_ejections_total`
pub const EJECTIONS: Family = Family {
    name: "outrider_ejections_total",
    help: "Endpoints ejected for what they did to requests, by the cause.",
    kind: Kind::Counter,
    labels: &["destination_service", "cause"],
};
/// `outrider_endpoints_out`
pub const ENDPOINTS_OUT: Family = Family {
    name: "outrider_endpoints_out",
    help: "Endpoints that get no requests: ejected, or failing their health checks.",
    kind: Kind::Gauge,
    labels: &["destination_service", "cause"],
};
/// `outrider_health_checks_total`
pub const HEALTH_CHECKS: Family = Family {
    name: "outrider_health_checks_total",
    help: "Health checks by what came of them.",
    kind: Kind::Counter,
    labels: &["destination_service", "outcome"],
};
/// `outrider_upstream_connect_failures_total`
pub const CONNECT_FAILURES: Family = Family {
    name: "outrider_upstream_connect_failures_total",
    help: "Connections that could not be made.",
    kind: Kind::Counter,
    labels: &["destination_service"],
};
/// `outrider_downstream_connections_opened_total`
pub const CONNECTIONS_OPENED: Family = Family {
    name: "outrider_downstream_connections_opened_total",
    help: "Connections accepted.",
    kind: Kind::Counter,
    labels: &["listener"],
};
/// `outrider_downstream_connections_active`
pub const CONNECTIONS_ACTIVE: Family = Family {
    name: "outrider_downstream_connections_active",
    help: "Connections open now.",
    kind: Kind::Gauge,
    labels: &["listener"],
};
/// `outrider_detect_total`
pub const DETECT: Family = Family {
    name: "outrider_detect_total",
    help: "Protocols found by looking at first bytes.",
    kind: Kind::Counter,
    labels: &["outcome"],
};
/// `outrider_tcp_connections_opened_total`
pub const TCP_OPENED: Family = Family {
    name: "outrider_tcp_connections_opened_total",
    help: "Opaque connections begun.",
    kind: Kind::Counter,
    labels: &["direction", "listener", "destination_service"],
};
/// `outrider_tcp_connections_closed_total`
pub const TCP_CLOSED: Family = Family {
    name: "outrider_tcp_connections_closed_total",
    help: "Opaque connections ended.",
    kind: Kind::Counter,
    labels: &["direction", "listener", "destination_service"],
};
/// `outrider_tcp_sent_bytes_total`
pub const TCP_SENT: Family = Family {
    name: "outrider_tcp_sent_bytes_total",
    help: "Bytes to opaque clients.",
    kind: Kind::Counter,
    labels: &["direction", "listener", "destination_service"],
};
/// `outrider_tcp_received_bytes_total`
pub const TCP_RECEIVED: Family = Family {
    name: "outrider_tcp_received_bytes_total",
    help: "Bytes from opaque clients.",
    kind: Kind::Counter,
    labels: &["direction", "listener", "destination_service"],
};
/// `outrider_tls_handshakes_total`
pub const TLS_HANDSHAKES: Family = Family {
    name: "outrider_tls_handshakes_total",
    help: "TLS handshakes with clients by their outcome, and those with upstreams that were refused.",
    kind: Kind::Counter,
    labels: &["side", "outcome"],
};
/// `outrider_egress_total`
pub const EGRESS: Family = Family {
    name: "outrider_egress_total",
    help: "Requests and opaque connections to destinations that a rule of the egress guard holds.",
    kind: Kind::Counter,
    labels: &["outcome", "rule"],
};
/// `outrider_plaintext_connections_total`
pub const PLAINTEXT: Family = Family {
    name: "outrider_plaintext_connections_total",
    help: "Connections in plaintext to listeners that have TLS too, by who made them; after the first 256, by `other`.",
    kind: Kind::Counter,
    labels: &["listener", "source"],
};
/// `outrider_overload_pressure_percent`
pub const OVERLOAD_PRESSURE: Family = Family {
    name: "outrider_overload_pressure_percent",
    help: "How much of a resource is used, where the overload manager looks at it.",
    kind: Kind::Gauge,
    labels: &["resource"],
};
/// `outrider_overload_action_percent`
pub const OVERLOAD_STAGE: Family = Family {
    name: "outrider_overload_action_percent",
    help: "For which share of cases an action of the overload manager is in force.",
    kind: Kind::Gauge,
    labels: &["action"],
};
/// `outrider_rate_limited_total`
pub const RATE_LIMITED: Family = Family {
    name: "outrider_rate_limited_total",
    help: "Requests and connections that a rate limit has no token for, by its stat_prefix; mode audit lets them pass.",
    kind: Kind::Counter,
    labels: &["policy", "mode"],
};
/// `outrider_authz_allowed_total`
pub const AUTHZ_ALLOWED: Family = Family {
    name: "outrider_authz_allowed_total",
    help: "Requests and connections that policies allowed; mode audit only looks on.",
    kind: Kind::Counter,
    labels: &["policy", "mode"],
};
/// `outrider_authz_denied_total`
pub const AUTHZ_DENIED: Family = Family {
    name: "outrider_authz_denied_total",
    help: "Requests and connections that policies denied, or would have in mode audit.",
    kind: Kind::Counter,
    labels: &["policy", "mode"],
};
/// `outrider_faults_total`
pub const FAULTS: Family = Family {
    name: "outrider_faults_total",
    help: "Faults injected on purpose, by name and what they do.",
    kind: Kind::Counter,
    labels: &["fault", "effect"],
};
/// `outrider_faults_active`
pub const FAULTS_ACTIVE: Family = Family {
    name: "outrider_faults_active",
    help: "Requests and connections that a fault is at work on now, by its name.",
    kind: Kind::Gauge,
    labels: &["fault"],
};
/// `outrider_faults_overflow_total`
pub const FAULTS_OVERFLOW: Family = Family {
    name: "outrider_faults_overflow_total",
    help: "Faults not injected because as many were at work as there may be.",
    kind: Kind::Counter,
    labels: &["fault"],
};
/// `outrider_connections_cut_total`
pub const CONNECTIONS_CUT: Family = Family {
    name: "outrider_connections_cut_total",
    help: "Established connections ended because the policy or the trust that let them in has changed.",
    kind: Kind::Counter,
    labels: &["reason"],
};
/// `outrider_panics_total`
pub const PANICS: Family = Family {
    name: "outrider_panics_total",
    help: "Connections ended by a defect of the proxy.",
    kind: Kind::Counter,
    labels: &[],
};

/// The families of the workers.
pub const ALL: &[Family] = &[
    REQUESTS,
    DURATION,
    REQUEST_BYTES,
    RESPONSE_BYTES,
    LOCAL_REPLIES,
    RETRIES,
    RETRIES_REFUSED,
    EJECTIONS,
    ENDPOINTS_OUT,
    HEALTH_CHECKS,
    CONNECT_FAILURES,
    CONNECTIONS_OPENED,
    CONNECTIONS_ACTIVE,
    DETECT,
    TLS_HANDSHAKES,
    PLAINTEXT,
    EGRESS,
    OVERLOAD_PRESSURE,
    OVERLOAD_STAGE,
    RATE_LIMITED,
    AUTHZ_ALLOWED,
    AUTHZ_DENIED,
    FAULTS,
    FAULTS_ACTIVE,
    FAULTS_OVERFLOW,
    CONNECTIONS_CUT,
    TCP_OPENED,
    TCP_CLOSED,
    TCP_SENT,
    TCP_RECEIVED,
    PANICS,
    SERIES_DROPPED,
];

/// `outrider_access_log_dropped_total`
pub const ACCESS_LOG_DROPPED: &str = "outrider_access_log_dropped_total";

const fn family(
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    help: &'static str,
) -> Family {
    Family { name, help, kind, labels }
}

/// The families away from the data path, which go over the `metrics` facade.
pub const SLOW: &[Family] = &[
    family(ACCESS_LOG_DROPPED, Kind::Counter, &[], "Access log lines lost: the disk was full or slow."),
    family(
        "outrider_downstream_connections_refused_total",
        Kind::Counter,
        &[],
        "Connections closed at once because a worker has as many as it may.",
    ),
    family(
        "outrider_identity_expiry_timestamp_seconds",
        Kind::Gauge,
        &[],
        "When the workload's identity ends, or the last one ended, in seconds since 1970.",
    ),
    family(
        "outrider_identity_renewal_failures_in_a_row",
        Kind::Gauge,
        &[],
        "Attempts to renew the identity that failed since the last that did not.",
    ),
    family(
        "outrider_identity_renewals_total",
        Kind::Counter,
        &["outcome"],
        "Attempts to get an identity: ok, refused, unreachable, invalid (what came cannot be used), local (a file or a key).",
    ),
    family("outrider_identity_valid", Kind::Gauge, &[], "Whether the workload has an identity now."),
    family(
        "outrider_lock_in",
        Kind::Gauge,
        &["layer", "state"],
        "1, for the state of each layer of the lock-in: held, logged, lacking (the kernel has none of it).",
    ),
    family(
        "outrider_reloads_total",
        Kind::Counter,
        &["outcome"],
        "Times that the start-up file was read again.",
    ),
    family(
        "outrider_trace_spans_total",
        Kind::Counter,
        &["outcome"],
        "Spans by what became of them: exported, dropped (no room: the collector is slow or away), failed (it did not take them).",
    ),
    family("outrider_xds_connected", Kind::Gauge, &[], "Whether the control server is connected."),
    family(
        "outrider_xds_stream_failures_total",
        Kind::Counter,
        &[],
        "Streams to the control server that ended.",
    ),
    family("outrider_xds_updates_total", Kind::Counter, &["type"], "Responses of the control server."),
    family(
        "outrider_xds_rejects_total",
        Kind::Counter,
        &["type"],
        "Responses with something that was refused.",
    ),
];

/// Tells the facade's recorder what its families count; once, when the recorder is there.
pub fn describe() {
    for family in SLOW {
        match family.kind {
            Kind::Counter => metrics::describe_counter!(family.name, family.help),
            Kind::Gauge => metrics::describe_gauge!(family.name, family.help),
            Kind::Histogram => metrics::describe_histogram!(family.name, family.help),
        }
    }
}

#[cfg(test)]
pub(crate) mod exposition;
#[cfg(test)]
mod tests;
