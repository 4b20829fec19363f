//! `FaultInjection`: faults on purpose, for a limited time.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use outrider_proto::Path;
use schemars::JsonSchema;
use serde::Deserialize;

use super::authorization::is_pattern;
use super::fault_action::{Abort, Bandwidth, Corrupt, Delay, Drip, Plain, TlsFailure, Truncate};
use super::http_text::matched_header_fault;
use super::scalar::{Percent, Span};
use super::workload::Selector;
use super::{ObjectKind, Spec};

/// How long an experiment lasts when it does not say so.
pub const DEFAULT_DURATION: Duration = Duration::from_secs(600);
/// The longest one.
const MAX_DURATION: Duration = Duration::from_secs(24 * 3600);
/// How long a proxy goes on without a word when nothing else is said.
pub const DEFAULT_TTL: Duration = Duration::from_secs(10);
/// Bounds of the lease: heartbeats come at a third of it, and the proxy takes ten minutes at the most.
const TTLS: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(600);
/// Most entries of a list.
const MAX_ITEMS: usize = 64;

/// A fault in the traffic of the workloads that it selects. It ends by itself.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct FaultInjection {
    /// Workloads of the object's namespace whose sidecars do it; all of them when it is not said.
    #[serde(default)]
    pub selector: Option<Selector>,
    /// Where on the way.
    pub direction: Direction,
    /// To what; everything when it is not said.
    #[serde(default)]
    pub r#match: Match,
    /// Of a hundred requests, attempts or connections; all when it is not said.
    #[serde(default)]
    pub percent: Option<Percent>,
    /// Of the workloads that it selects only so many, in percent, rounded down; all when it is not said. The control
    /// server's own cap counts too.
    #[serde(default)]
    pub max_workloads_percent: Option<Percent>,
    /// Makes a run repeatable: the n-th match has the same fate in each.
    #[serde(default)]
    pub seed: Option<u64>,
    /// All requests of a connection have the same fate, and `percent` is of connections.
    #[serde(default)]
    pub per_connection: bool,
    /// Requests and connections of one proxy at a time that have it.
    #[serde(default)]
    pub max_active: Option<u32>,
    /// It grows.
    #[serde(default)]
    pub ramp: Option<Ramp>,
    /// How long all of it lasts; 10m when it is not said, 24h at most.
    #[serde(default)]
    pub duration: Option<Span>,
    /// How long a proxy goes on that hears nothing more from the control server; 10s when it is not said.
    #[serde(default)]
    pub ttl: Option<Span>,
    /// It takes longer.
    #[serde(default)]
    pub delay: Option<Delay>,
    /// It fails.
    #[serde(default)]
    pub abort: Option<Abort>,
    /// It is slow.
    #[serde(default)]
    pub bandwidth: Option<Bandwidth>,
    /// It is cut off.
    #[serde(default)]
    pub truncate: Option<Truncate>,
    /// It is garbled.
    #[serde(default)]
    pub corrupt: Option<Corrupt>,
    /// It is taken and never answered.
    #[serde(default)]
    pub blackhole: Option<Plain>,
    /// The connection is refused.
    #[serde(default)]
    pub refuse: Option<Plain>,
    /// The handshake fails.
    #[serde(default)]
    pub tls_failure: Option<TlsFailure>,
    /// A certificate whose time is over is shown in the handshake: to clients, or with `Upstream` to the endpoint.
    #[serde(default)]
    pub expired_certificate: Option<Plain>,
    /// It drips.
    #[serde(default)]
    pub drip: Option<Drip>,
}

/// Where on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Direction {
    /// Before the workload.
    Inbound,
    /// As it comes from the workload, whatever endpoint is chosen and however often it is tried.
    Outbound,
    /// At each attempt, after its endpoint was chosen: retries, budgets and ejection take it for real.
    Upstream,
}

/// To what: all that is said has to hold, of a list one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// Services that are called.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub services: Vec<ServiceRef>,
    /// The port that the connection goes to.
    #[serde(default)]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// Names of routes of the object's namespace.
    #[serde(default)]
    #[schemars(length(max = 64), inner(length(min = 1, max = 253)))]
    pub routes: Vec<String>,
    /// Methods.
    #[serde(default)]
    #[schemars(length(max = 64), inner(length(min = 1, max = 32)))]
    pub methods: Vec<String>,
    /// The normalised path, without its query; `*` at the beginning or the end stands for anything.
    #[serde(default)]
    #[schemars(length(min = 1, max = 1024))]
    pub path: Option<String>,
    /// All of these headers, with these values; `*` as with the path, and alone for any value.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 64))]
    pub headers: BTreeMap<String, String>,
    /// Proven SPIFFE IDs of clients; `*` at the end stands for anything.
    #[serde(default)]
    #[schemars(length(max = 64), inner(length(min = 1, max = 2048)))]
    pub identities: Vec<String>,
    /// `IP` or `IP:PORT`; with `Upstream` only.
    #[serde(default)]
    #[schemars(length(max = 64), inner(length(min = 1, max = 64)))]
    pub endpoints: Vec<String>,
}

/// A service that is called.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its namespace; the object's when it is not said.
    #[serde(default)]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// One port of it; all when it is not said.
    #[serde(default)]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
}

/// Growth, even, from when a proxy got the fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ramp {
    /// From this; from 0 when it is not said.
    #[serde(default)]
    pub from: Option<Percent>,
    /// In this time.
    pub over: Span,
}

impl FaultInjection {
    /// How long it lasts.
    #[must_use]
    pub fn duration(&self) -> Duration {
        self.duration.map_or(DEFAULT_DURATION, |duration| duration.0)
    }

    /// How long a proxy goes on by itself.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.ttl.map_or(DEFAULT_TTL, |ttl| ttl.0)
    }

    fn check_action(&self, path: &mut Path) {
        let said = [
            self.delay.is_some(),
            self.abort.is_some(),
            self.bandwidth.is_some(),
            self.truncate.is_some(),
            self.corrupt.is_some(),
            self.blackhole.is_some(),
            self.refuse.is_some(),
            self.tls_failure.is_some(),
            self.expired_certificate.is_some(),
            self.drip.is_some(),
        ];
        if said.iter().filter(|said| **said).count() != 1 {
            path.fault(
                "exactly one of delay, abort, bandwidth, truncate, corrupt, blackhole, refuse, tlsFailure, expiredCertificate and drip is needed",
            );
        }
        if let Some(delay) = &self.delay {
            path.field("delay", |path| delay.check(path));
        }
        if let Some(abort) = &self.abort {
            path.field("abort", |path| abort.check(path));
        }
        if let Some(limit) = self.bandwidth {
            let both = [limit.request_bytes_per_second, limit.response_bytes_per_second];
            if both == [None, None] || both.contains(&Some(0)) {
                path.fault_at("bandwidth", "one of the directions needs a limit, which is more than 0");
            }
        }
        if self.corrupt.is_some_and(|corrupt| corrupt.one_in_bytes == 0) {
            path.fault_at("corrupt.oneInBytes", "must be at least 1");
        }
        if self.drip.is_some_and(|drip| drip.chunk_bytes == 0 || drip.interval.0.is_zero()) {
            path.fault_at("drip", "chunkBytes and interval must be more than 0");
        }
    }
}

impl Spec for FaultInjection {
    const KIND: ObjectKind = ObjectKind::FaultInjection;

    fn check(&self, path: &mut Path) {
        if !TTLS.contains(&self.ttl()) {
            path.fault_at("ttl", "must be from 1s to 10m");
        }
        if self.duration().is_zero() || self.duration() > MAX_DURATION {
            path.fault_at("duration", "must be more than 0 and 24h at most");
        }
        if self.ramp.is_some_and(|ramp| ramp.over.0.is_zero()) {
            path.fault_at("ramp.over", "must be longer than 0");
        }
        self.check_action(path);
        path.field("match", |path| self.r#match.check(self.direction, path));
        let about_accepted =
            self.refuse.is_some() || self.tls_failure.is_some() || self.expired_certificate.is_some();
        if about_accepted && self.direction != Direction::Upstream && !self.r#match.is_known_at_once() {
            path.fault_at("match", "of a connection that was just accepted only the port is known");
        }
    }
}

impl Match {
    /// Whether a connection that was just accepted is known to match.
    fn is_known_at_once(&self) -> bool {
        *self == Self { port: self.port, ..Self::default() }
    }

    fn check(&self, direction: Direction, path: &mut Path) {
        let lengths = [
            self.services.len(),
            self.routes.len(),
            self.methods.len(),
            self.headers.len(),
            self.identities.len(),
            self.endpoints.len(),
        ];
        if lengths.iter().any(|length| *length > MAX_ITEMS) {
            path.fault(format!("a list has more than {MAX_ITEMS} entries"));
        }
        if self.port == Some(0) {
            path.fault_at("port", "must be from 1 to 65535");
        }
        if direction == Direction::Inbound && !(self.services.is_empty() && self.routes.is_empty()) {
            path.fault_at(
                "services",
                "services and routes are what is called; with Inbound use port and path",
            );
        }
        if direction != Direction::Upstream && !self.endpoints.is_empty() {
            path.fault_at("endpoints", "with Upstream only; no endpoint is chosen before");
        }
        for (index, text) in self.endpoints.iter().enumerate() {
            if text.parse::<SocketAddr>().is_err() && text.parse::<IpAddr>().is_err() {
                path.item("endpoints", index, |path| path.fault("must be IP or IP:PORT"));
            }
        }
        for (index, method) in self.methods.iter().enumerate() {
            if method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-') {
                path.item("methods", index, |path| path.fault("must be upper-case letters, as on the wire"));
            }
        }
        for (index, identity) in self.identities.iter().enumerate() {
            let text = identity.strip_suffix('*').unwrap_or(identity);
            if !text.starts_with("spiffe://") || text.contains('*') {
                path.item("identities", index, |path| {
                    path.fault("must begin with spiffe://; * may only stand at the end");
                });
            }
        }
        for (index, service) in self.services.iter().enumerate() {
            if service.name.is_empty() || service.port == Some(0) {
                path.item("services", index, |path| {
                    path.fault("a name, and a port from 1 to 65535, are needed")
                });
            }
        }
        if self.path.as_ref().is_some_and(|text| !is_pattern(text) || !text.starts_with(['/', '*'])) {
            path.fault_at(
                "path",
                "must begin with \"/\" or \"*\"; * may only stand at the beginning or the end",
            );
        }
        for (name, value) in &self.headers {
            let fault = matched_header_fault(name);
            let fault =
                fault.or_else(|| (!is_pattern(value)).then_some("* may only stand at an end, or alone"));
            if let Some(fault) = fault {
                path.field("headers", |path| path.key(name, |path| path.fault(fault)));
            }
        }
    }
}
