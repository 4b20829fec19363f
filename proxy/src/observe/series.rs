//! The families on the data path, and how a request is recorded in them.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use super::flags::Flags;
use super::metrics::{Counter, Family, Gauge, Histogram, Kind, Labels, SERIES_DROPPED, Shard};
use super::reason::Reason;

/// Combinations of listener, status and flags that a cluster keeps handles for; further ones are looked up.
const MAX_CACHED: usize = 64;

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
/// `outrider_plaintext_connections_total`
pub const PLAINTEXT: Family = Family {
    name: "outrider_plaintext_connections_total",
    help: "Connections in plaintext to listeners that have TLS too, by who made them.",
    kind: Kind::Counter,
    labels: &["listener", "source"],
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
    CONNECT_FAILURES,
    CONNECTIONS_OPENED,
    CONNECTIONS_ACTIVE,
    DETECT,
    TLS_HANDSHAKES,
    PLAINTEXT,
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
        "outrider_reloads_total",
        Kind::Counter,
        &["outcome"],
        "Times that the start-up file was read again.",
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

/// How a request ended.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// The status that the client got; 0 when it got none.
    pub status: u16,
    /// What was unusual.
    pub flags: Flags,
    /// From the first byte in to the last byte out.
    pub duration: Duration,
    /// Body bytes from the client.
    pub received_bytes: u64,
    /// Body bytes to the client.
    pub sent_bytes: u64,
}

/// The handles of one cluster (or of "no cluster") in one worker.
#[derive(Debug, Default)]
pub struct RequestSeries {
    cluster: Arc<str>,
    cached: RefCell<Vec<(Key, Handles)>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    listener: Arc<str>,
    direction: &'static str,
    status: u16,
    flags: Flags,
}

#[derive(Clone, Debug)]
struct Handles {
    requests: Counter,
    duration: Histogram,
    request_bytes: Counter,
    response_bytes: Counter,
}

impl RequestSeries {
    /// For requests to this cluster; an empty name for those that went to none.
    #[must_use]
    pub fn new(cluster: &Arc<str>) -> Self {
        Self { cluster: Arc::clone(cluster), cached: RefCell::default() }
    }

    /// Records a request. Allocates only when a combination is seen for the first time.
    pub fn record(&self, shard: &Shard, listener: &Arc<str>, direction: &'static str, outcome: &Outcome) {
        let mut cached = self.cached.borrow_mut();
        let known = cached.iter().position(|(key, _)| {
            key.status == outcome.status
                && key.flags == outcome.flags
                && key.direction == direction
                && (Arc::ptr_eq(&key.listener, listener) || key.listener == *listener)
        });
        if let Some((_, handles)) = known.and_then(|index| cached.get(index)) {
            handles.add(outcome);
            return;
        }
        let key =
            Key { listener: Arc::clone(listener), direction, status: outcome.status, flags: outcome.flags };
        let handles = self.handles(shard, &key);
        handles.add(outcome);
        if cached.len() < MAX_CACHED {
            cached.push((key, handles));
        }
    }

    fn handles(&self, shard: &Shard, key: &Key) -> Handles {
        let common = Labels::none()
            .with("direction", key.direction)
            .with("listener", &key.listener)
            .with("destination_service", &self.cluster);
        let outcome = common
            .clone()
            .with("response_code", &key.status.to_string())
            .with("response_flags", &key.flags.to_string());
        Handles {
            requests: shard.counter(REQUESTS, &outcome),
            duration: shard.histogram(DURATION, &common),
            request_bytes: shard.counter(REQUEST_BYTES, &common),
            response_bytes: shard.counter(RESPONSE_BYTES, &common),
        }
    }
}

impl Handles {
    fn add(&self, outcome: &Outcome) {
        self.requests.add(1);
        self.duration.record(outcome.duration);
        self.request_bytes.add(outcome.received_bytes);
        self.response_bytes.add(outcome.sent_bytes);
    }
}

/// The handles of one listener in one worker.
#[derive(Clone, Debug)]
pub struct ListenerSeries {
    /// Connections accepted.
    pub opened: Counter,
    /// Connections open now.
    pub active: Gauge,
}

impl ListenerSeries {
    /// For the listener of this name.
    #[must_use]
    pub fn new(shard: &Shard, listener: &str) -> Self {
        let labels = Labels::none().with("listener", listener);
        Self {
            opened: shard.counter(CONNECTIONS_OPENED, &labels),
            active: shard.gauge(CONNECTIONS_ACTIVE, &labels),
        }
    }
}

/// The handles for the proxy's own answers in one worker, each made when its reason is first given.
#[derive(Debug)]
pub struct ReasonSeries(RefCell<Vec<Option<Counter>>>);

impl Default for ReasonSeries {
    fn default() -> Self {
        Self(RefCell::new(vec![None; Reason::ALL.len()]))
    }
}

impl ReasonSeries {
    /// Counts one answer. Allocates and locks only the first time for each reason.
    pub fn count(&self, shard: &Shard, reason: Reason) {
        let mut handles = self.0.borrow_mut();
        let Some(handle) = handles.get_mut(reason as usize) else { return };
        let make = || shard.counter(LOCAL_REPLIES, &Labels::none().with("reason", reason.code()));
        handle.get_or_insert_with(make).add(1);
    }
}

#[cfg(test)]
pub(crate) mod exposition;
#[cfg(test)]
mod tests;
