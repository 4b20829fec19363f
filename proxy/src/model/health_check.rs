//! How endpoints are asked whether they are well (Envoy's `HealthCheck`).

use std::ops::Range;
use std::time::Duration;

use http::Method;
use outrider_proto::Path;
use outrider_proto::envoy::config::core::v3 as pb;
use outrider_proto::envoy::r#type::v3::{CodecClientType, Int64Range};
use pb::health_check::{HealthChecker, payload};

use super::headers::HeaderChanges;
use super::parse;

/// Envoy's default of `no_traffic_interval`.
const NO_TRAFFIC_INTERVAL: Duration = Duration::from_secs(60);
/// Shortest time between two checks; Envoy has the same bound.
const MIN_INTERVAL: Duration = Duration::from_millis(1);
/// Longest payload that is sent or looked for, in bytes.
const MAX_PAYLOAD_BYTES: usize = 4096;
/// Most payloads that are looked for.
const MAX_PAYLOADS: usize = 16;

/// A compiled health check.
#[derive(Clone, Debug)]
pub struct HealthCheck {
    /// For one check from its connection to its answer.
    pub timeout: Duration,
    /// The connection is kept for the next check.
    pub reuse_connection: bool,
    /// Failures to answer in a row until an endpoint is unwell.
    pub unhealthy_threshold: u32,
    /// Successes in a row until it is well again.
    pub healthy_threshold: u32,
    /// When it is asked.
    pub pace: Pace,
    /// What it is asked.
    pub asks: Asks,
}

/// When an endpoint is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Between checks of one that is well.
    pub well: Duration,
    /// After a check that fails, before that has made it unwell.
    pub failing: Duration,
    /// Between checks of one that is unwell.
    pub unwell: Duration,
    /// After a check that succeeds, before that has made it well.
    pub recovering: Duration,
    /// Instead of all these while the cluster has had no connection yet.
    pub no_traffic: Duration,
    /// The same for one that is well.
    pub no_traffic_well: Duration,
    /// Before the first at most, by chance.
    pub initial_jitter: Duration,
    /// Added to each at most, by chance.
    pub jitter: Duration,
    /// The same in percent of the time.
    pub jitter_percent: u32,
}

/// What an endpoint is asked.
#[derive(Clone, Debug)]
pub enum Asks {
    /// A request.
    Http(HttpCheck),
    /// `grpc.health.v1.Health/Check`.
    Grpc(GrpcCheck),
    /// A connection, and bytes.
    Tcp(TcpCheck),
}

/// A request and the statuses that are good.
#[derive(Clone, Debug)]
pub struct HttpCheck {
    /// The host; empty for the endpoint's or the cluster's name.
    pub host: Box<str>,
    /// The path.
    pub path: Box<str>,
    /// The method.
    pub method: Method,
    /// HTTP/2 instead of HTTP/1.
    pub http2: bool,
    /// Fields of the request.
    pub headers: HeaderChanges,
    /// Good statuses.
    pub expected: Vec<Range<i64>>,
    /// Statuses that count as one failure; others make the endpoint unwell at once.
    pub retriable: Vec<Range<i64>>,
}

/// The gRPC form.
#[derive(Clone, Debug)]
pub struct GrpcCheck {
    /// Which service; empty for the server.
    pub service: Box<str>,
    /// The host; empty for the endpoint's or the cluster's name.
    pub authority: Box<str>,
    /// Metadata.
    pub metadata: HeaderChanges,
}

/// Bytes to send and to expect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpCheck {
    /// Nothing if empty.
    pub send: Box<[u8]>,
    /// In this order, with anything between.
    pub receive: Vec<Box<[u8]>>,
}

impl HealthCheck {
    /// The cluster's one check, if it has any.
    pub(super) fn from_proto(value: &[pb::HealthCheck], path: &mut Path) -> Option<Self> {
        if value.len() > 1 {
            path.fault_at("health_checks", "more than one is not supported");
        }
        path.item("health_checks", 0, |path| Self::one(value.first()?, path))
    }

    fn one(value: &pb::HealthCheck, path: &mut Path) -> Option<Self> {
        let mut threshold = |value: Option<u32>, name: &str| match value {
            Some(count) if count > 0 => count,
            Some(_) | None => {
                path.fault_at(name, "must be at least 1");
                1
            }
        };
        let unhealthy_threshold = threshold(value.unhealthy_threshold, "unhealthy_threshold");
        let healthy_threshold = threshold(value.healthy_threshold, "healthy_threshold");
        let timeout = parse::duration(value.timeout.as_ref(), Duration::ZERO, "timeout", path);
        if timeout.is_zero() {
            path.fault_at("timeout", "must be longer than 0");
        }
        let pace = Pace::from_proto(value, path);
        let asks = match &value.health_checker {
            Some(HealthChecker::HttpHealthCheck(check)) => {
                path.field("http_health_check", |path| HttpCheck::from_proto(check, path).map(Asks::Http))
            }
            Some(HealthChecker::GrpcHealthCheck(check)) => path.field("grpc_health_check", |path| {
                let metadata = path.field("initial_metadata", |path| {
                    HeaderChanges::from_proto(&check.initial_metadata, &[], "request", path)
                });
                Some(Asks::Grpc(GrpcCheck {
                    service: check.service_name.as_str().into(),
                    authority: check.authority.as_str().into(),
                    metadata,
                }))
            }),
            Some(HealthChecker::TcpHealthCheck(check)) => {
                path.field("tcp_health_check", |path| TcpCheck::from_proto(check, path).map(Asks::Tcp))
            }
            None => path.refuse("one of http_health_check, tcp_health_check and grpc_health_check is needed"),
        };
        let reuse_connection = value.reuse_connection.unwrap_or(true);
        Some(Self { timeout, reuse_connection, unhealthy_threshold, healthy_threshold, pace, asks: asks? })
    }
}

impl Pace {
    fn from_proto(value: &pb::HealthCheck, path: &mut Path) -> Self {
        let mut every = |value: &Option<prost_types::Duration>, default: Duration, name: &str| {
            let found = parse::duration(value.as_ref(), default, name, path);
            if found < MIN_INTERVAL {
                path.fault_at(name, "must be at least 1ms");
            }
            found
        };
        let well = every(&value.interval, Duration::ZERO, "interval");
        let unwell = every(&value.unhealthy_interval, well, "unhealthy_interval");
        let no_traffic = every(&value.no_traffic_interval, NO_TRAFFIC_INTERVAL, "no_traffic_interval");
        let no_traffic_well = &value.no_traffic_healthy_interval;
        let pace = Self {
            well,
            unwell,
            failing: every(&value.unhealthy_edge_interval, unwell, "unhealthy_edge_interval"),
            recovering: every(&value.healthy_edge_interval, well, "healthy_edge_interval"),
            no_traffic,
            no_traffic_well: every(no_traffic_well, no_traffic, "no_traffic_healthy_interval"),
            initial_jitter: Duration::ZERO,
            jitter: Duration::ZERO,
            jitter_percent: value.interval_jitter_percent,
        };
        if value.interval_jitter_percent > 100 {
            path.fault_at("interval_jitter_percent", "must be from 0 to 100");
        }
        let zero = Duration::ZERO;
        Self {
            initial_jitter: parse::duration(value.initial_jitter.as_ref(), zero, "initial_jitter", path),
            jitter: parse::duration(value.interval_jitter.as_ref(), zero, "interval_jitter", path),
            ..pace
        }
    }
}

impl HttpCheck {
    fn from_proto(value: &pb::health_check::HttpHealthCheck, path: &mut Path) -> Option<Self> {
        if !value.path.starts_with('/') || value.path.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
            path.fault_at("path", "must begin with \"/\" and hold no spaces");
        }
        let headers = HeaderChanges::from_proto(
            &value.request_headers_to_add,
            &value.request_headers_to_remove,
            "request",
            path,
        );
        let expected = ranges(&value.expected_statuses, "expected_statuses", path);
        Some(Self {
            host: value.host.as_str().into(),
            path: value.path.as_str().into(),
            method: method(value.method()),
            http2: value.codec_client_type() == CodecClientType::Http2,
            headers,
            expected: if expected.is_empty() { std::iter::once(200..201).collect() } else { expected },
            retriable: ranges(&value.retriable_statuses, "retriable_statuses", path),
        })
    }
}

const fn method(value: pb::RequestMethod) -> Method {
    match value {
        pb::RequestMethod::MethodUnspecified | pb::RequestMethod::Get => Method::GET,
        pb::RequestMethod::Head => Method::HEAD,
        pb::RequestMethod::Post => Method::POST,
        pb::RequestMethod::Put => Method::PUT,
        pb::RequestMethod::Delete => Method::DELETE,
        pb::RequestMethod::Options => Method::OPTIONS,
        pb::RequestMethod::Trace => Method::TRACE,
        pb::RequestMethod::Patch => Method::PATCH,
    }
}

fn ranges(value: &[Int64Range], name: &str, path: &mut Path) -> Vec<Range<i64>> {
    if value.iter().any(|range| range.start >= range.end || range.start < 100 || range.end > 600) {
        path.fault_at(name, "must be from 100 up to, but without, 600, and not empty");
    }
    value.iter().map(|range| range.start..range.end).collect()
}

impl TcpCheck {
    fn from_proto(value: &pb::health_check::TcpHealthCheck, path: &mut Path) -> Option<Self> {
        if value.receive.len() > MAX_PAYLOADS {
            path.fault_at("receive", format!("more than {MAX_PAYLOADS}"));
        }
        let receive = value.receive.iter().enumerate();
        let receive =
            receive.filter_map(|(index, value)| path.item("receive", index, |path| bytes(value, path)));
        let receive = receive.collect();
        let send = value.send.as_ref().map(|value| path.field("send", |path| bytes(value, path)));
        Some(Self { receive, send: send.flatten().unwrap_or_default() })
    }
}

fn bytes(value: &pb::health_check::Payload, path: &mut Path) -> Option<Box<[u8]>> {
    let bytes = match &value.payload {
        Some(payload::Payload::Binary(bytes)) => bytes.clone(),
        Some(payload::Payload::Text(text)) => match unhex(text) {
            Some(bytes) => bytes,
            None => return path.field("text", |path| path.refuse("must be pairs of hexadecimal digits")),
        },
        None => return path.refuse("one of text and binary is needed"),
    };
    if bytes.is_empty() || bytes.len() > MAX_PAYLOAD_BYTES {
        return path.refuse(format!("must be of 1 to {MAX_PAYLOAD_BYTES} bytes"));
    }
    Some(bytes.into())
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pair = |pair: &[u8]| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    };
    text.as_bytes().chunks(2).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Cluster;
    use super::*;

    fn compiled(yaml: &str) -> Result<Option<HealthCheck>, String> {
        let text = format!("{{name: c, type: STATIC, health_checks: [{yaml}]}}");
        let cluster = Cluster::from_proto(&outrider_proto::json::from_yaml(&text).unwrap());
        cluster.map(|cluster| cluster.health_check).map_err(|faults| format!("{faults:?}"))
    }

    #[test]
    fn what_is_not_said_is_as_in_envoy() {
        let check = compiled(
            "{timeout: 1s, interval: 2s, unhealthy_threshold: 3, healthy_threshold: 4, unhealthy_interval: 5s, http_health_check: {path: /x}}",
        );
        let check = check.unwrap().unwrap();
        let seconds = Duration::from_secs;
        let pace = check.pace;
        assert_eq!((pace.well, pace.recovering), (seconds(2), seconds(2)));
        assert_eq!((pace.unwell, pace.failing), (seconds(5), seconds(5)));
        assert_eq!((pace.no_traffic, pace.no_traffic_well), (seconds(60), seconds(60)));
        assert!(check.reuse_connection);
        let Asks::Http(http) = check.asks else { panic!("HTTP") };
        assert_eq!((http.method, &http.expected[..]), (Method::GET, std::slice::from_ref(&(200..201))));
    }

    #[test]
    fn bytes_are_read() {
        let tcp = |tcp: &str| {
            compiled(&format!(
                "{{timeout: 1s, interval: 2s, unhealthy_threshold: 3, healthy_threshold: 4, tcp_health_check: {tcp}}}"
            ))
        };
        let Asks::Tcp(check) = tcp("{send: {text: 0aFf}, receive: [{binary: aGk=}]}").unwrap().unwrap().asks
        else {
            panic!("TCP")
        };
        assert_eq!((&*check.send, &*check.receive[0]), (&[10_u8, 255][..], &b"hi"[..]));
        for bad in ["{send: {text: '0'}}", "{send: {text: 0g}}", "{receive: [{}]}", "{send: {text: ''}}"] {
            assert!(tcp(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_cannot_be_checked_is_refused() {
        let all =
            "timeout: 1s, interval: 2s, unhealthy_threshold: 3, healthy_threshold: 4, tcp_health_check: {}";
        assert!(compiled(&format!("{{{all}}}")).is_ok());
        for part in all.split(", ") {
            let without = all.replace(part, "reuse_connection: false");
            assert!(compiled(&format!("{{{without}}}")).is_err(), "{without}");
        }
        assert!(compiled(&format!("{{{all}}}, {{{all}}}")).unwrap_err().contains("more than one"));
        assert!(compiled(&format!("{{{}}}", all.replace("1s", "0s"))).is_err());
        let http = all.replace("tcp_health_check: {}", "http_health_check: {path: x}");
        assert!(compiled(&format!("{{{http}}}")).unwrap_err().contains("path"));
        let range = http.replace("path: x", "path: /x, expected_statuses: [{start: 200, end: 200}]");
        assert!(compiled(&format!("{{{range}}}")).unwrap_err().contains("expected_statuses"));
    }
}
