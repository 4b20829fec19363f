//! What is told of an exchange and of its attempts, in OTLP's form and with the names of OpenTelemetry's semantic
//! conventions; what these have no name for is under Envoy's, or ours.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outrider_proto::opentelemetry::proto::common::v1::any_value::Value;
use outrider_proto::opentelemetry::proto::common::v1::{AnyValue, ArrayValue, KeyValue};
use outrider_proto::opentelemetry::proto::trace::v1::{Span, Status, span::SpanKind, status::StatusCode};
use tokio::time::Instant;

use super::{Attempt, MAX_VALUE_BYTES, OVERTAKEN, Told, Trace, cut};
use crate::exchange::report::Report;
use crate::exchange::{Origin, inject};
use crate::http::message::{RequestHead, Version};
use crate::model::route_table::without_port;
use crate::model::tracing::{TagValue, Tracing};
use crate::observe::trace::SpanId;

/// What `Span.flags` says besides the flags of W3C: whether it is known that the parent is another's, and whether it is.
const KNOWN_IF_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;
/// The flag of a trace that is recorded.
const SAMPLED: u32 = 1;

impl Trace {
    /// Hands the spans over, if the trace is recorded; once, at the end.
    pub(in crate::exchange) fn finish(
        &mut self,
        report: &Report,
        request: &RequestHead,
        (origin, tracing): (&Origin, &Tracing),
        duration: Duration,
    ) {
        let Some(told) = self.told.take() else { return };
        let tracer = &origin.worker.tracer;
        for attempt in &told.attempts {
            let span = self.of_attempt(attempt, &told, (report, request), duration);
            tracer.add(&tracing.collector, span);
        }
        tracer
            .add(&tracing.collector, self.of_exchange(&told, (report, request), (origin, tracing), duration));
    }

    fn of_exchange(
        &self,
        told: &Told,
        (report, request): (&Report, &RequestHead),
        (origin, tracing): (&Origin, &Tracing),
        duration: Duration,
    ) -> Span {
        let mut says = Attributes::default();
        says.head(told, request);
        says.exchange(report, origin);
        says.tags(tracing, request);
        let route = report.route.as_ref().map(|route| &*route.name).unwrap_or_default();
        let name = match route {
            "" => request.method.to_string(),
            route => format!("{} {}", request.method, cut(route, MAX_VALUE_BYTES)),
        };
        // As in Envoy: a proxy that is no hop of its own stands for the client that it sends for.
        let of_client = origin.direction == "outbound" && !told.of_attempts;
        let parent = self.parent.and_then(|parent| parent.span);
        Span {
            name,
            kind: if of_client { SpanKind::Client } else { SpanKind::Server }.into(),
            attributes: says.0,
            status: failed(report.status, report.reason.map(|reason| reason.code())),
            flags: SAMPLED | KNOWN_IF_REMOTE | if parent.is_some() { IS_REMOTE } else { 0 },
            ..self.span((self.carried.span, parent), told, (Duration::ZERO, duration))
        }
    }

    fn of_attempt(
        &self,
        attempt: &Attempt,
        told: &Told,
        (report, request): (&Report, &RequestHead),
        duration: Duration,
    ) -> Span {
        let after = |moment: Instant| moment.saturating_duration_since(report.started);
        let mut says = Attributes::default();
        says.text("http.request.method", request.method.as_str());
        says.text("network.peer.address", &attempt.upstream.ip().to_canonical().to_string());
        says.number("network.peer.port", u64::from(attempt.upstream.port()));
        says.text("upstream_cluster", report.cluster.as_deref().unwrap_or_default());
        says.number("http.request.resend_count", u64::from(attempt.number.saturating_sub(1)));
        says.number("http.response.status_code", u64::from(attempt.status));
        says.text("outrider.reason", attempt.failure.unwrap_or_default());
        says.texts("outrider.fault", attempt.faults.iter().map(|name| &**name));
        let overtaken = attempt.failure == Some(OVERTAKEN);
        if !overtaken {
            says.error(attempt.status, attempt.failure);
        }
        Span {
            name: request.method.to_string(),
            kind: SpanKind::Client.into(),
            attributes: says.0,
            status: failed(attempt.status, attempt.failure).filter(|_| !overtaken),
            flags: SAMPLED | KNOWN_IF_REMOTE,
            ..self.span(
                (attempt.span, Some(self.carried.span)),
                told,
                (after(attempt.started), attempt.ended.map_or(duration, after)),
            )
        }
    }

    fn span(
        &self,
        (id, parent): (SpanId, Option<SpanId>),
        told: &Told,
        (from, to): (Duration, Duration),
    ) -> Span {
        Span {
            trace_id: self.carried.trace.to_bytes().to_vec(),
            span_id: id.to_bytes().to_vec(),
            parent_span_id: parent.map(|parent| parent.to_bytes().to_vec()).unwrap_or_default(),
            trace_state: told.state.clone(),
            start_time_unix_nano: nanos(self.started, from),
            end_time_unix_nano: nanos(self.started, to.max(from)),
            ..Span::default()
        }
    }
}

/// What a span says.
#[derive(Default)]
struct Attributes(Vec<KeyValue>);

impl Attributes {
    /// About the request, as the client sent it.
    fn head(&mut self, told: &Told, request: &RequestHead) {
        self.text("http.request.method", request.method.as_str());
        self.text("url.scheme", if request.secure { "https" } else { "http" });
        self.text("url.path", &told.path);
        let host = without_port(&told.authority);
        self.text("server.address", host.trim_start_matches('[').trim_end_matches(']'));
        let port = told.authority.get(host.len() + 1..).and_then(|port| port.parse::<u16>().ok());
        self.number("server.port", port.map_or(0, u64::from));
        self.text("network.protocol.name", "http");
        self.text(
            "network.protocol.version",
            match request.version {
                Version::Http10 => "1.0",
                Version::Http11 => "1.1",
                Version::Http2 => "2",
            },
        );
        let header =
            |name: &[u8]| request.headers.first(name).and_then(|value| std::str::from_utf8(value).ok());
        self.text("user_agent.original", cut(header(b"user-agent").unwrap_or_default(), MAX_VALUE_BYTES));
        let id = header(b"x-request-id").map(|id| cut(id, MAX_VALUE_BYTES));
        self.texts("http.request.header.x-request-id", id.into_iter());
    }

    /// About what became of it.
    fn exchange(&mut self, report: &Report, origin: &Origin) {
        let reason = report.reason.map(|reason| reason.code());
        self.number("http.response.status_code", u64::from(report.status));
        self.number("http.request.body.size", report.received_bytes);
        self.number("http.response.body.size", report.sent_bytes);
        self.text(
            "client.address",
            &report.client().map(|at| at.ip().to_canonical().to_string()).unwrap_or_default(),
        );
        self.text("upstream_cluster", report.cluster.as_deref().unwrap_or_default());
        self.text("upstream_address", &report.upstream.map(|at| at.to_string()).unwrap_or_default());
        self.text("response_flags", &report.flags.to_string());
        self.text("outrider.direction", origin.direction);
        self.text(
            "outrider.peer",
            cut(origin.standing.facts.identity().unwrap_or_default(), MAX_VALUE_BYTES),
        );
        self.text("outrider.reason", reason.unwrap_or_default());
        let denial = report.authorized.enforced.as_ref().filter(|ruling| !ruling.allowed);
        self.text("outrider.policy", denial.and_then(|ruling| ruling.policy.as_deref()).unwrap_or_default());
        self.texts("outrider.fault", inject::names(report).iter().map(|name| &**name));
        self.number("outrider.retries", u64::from(report.attempts.saturating_sub(1)));
        self.error(report.status, reason);
    }

    fn tags(&mut self, tracing: &Tracing, request: &RequestHead) {
        for tag in &tracing.tags {
            match &tag.value {
                TagValue::Literal(text) => self.text(&tag.key, text),
                TagValue::Header(name, default) => {
                    let value = request.headers.first(name).and_then(|value| std::str::from_utf8(value).ok());
                    self.text(&tag.key, cut(value.unwrap_or(default), MAX_VALUE_BYTES));
                }
            }
        }
    }

    /// `error.type`: our reason where we have one, or else the status.
    fn error(&mut self, status: u16, reason: Option<&'static str>) {
        if is_failure(status) {
            self.text("error.type", reason.unwrap_or(itoa::Buffer::new().format(status)));
        }
    }

    /// A text; nothing if it is empty.
    fn text(&mut self, key: &str, value: &str) {
        if !value.is_empty() {
            self.0.push(attribute(key, string(value)));
        }
    }

    fn texts<'a>(&mut self, key: &str, values: impl Iterator<Item = &'a str>) {
        let values: Vec<AnyValue> = values.map(|value| AnyValue { value: Some(string(value)) }).collect();
        if !values.is_empty() {
            self.0.push(attribute(key, Value::ArrayValue(ArrayValue { values })));
        }
    }

    /// A number; nothing if it is 0.
    fn number(&mut self, key: &str, value: u64) {
        if value > 0 {
            self.0.push(attribute(key, Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX))));
        }
    }
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}

fn string(text: &str) -> Value {
    Value::StringValue(text.to_owned())
}

/// Whether nothing was answered, or that it was the server's failure.
const fn is_failure(status: u16) -> bool {
    status == 0 || status >= 500
}

/// OpenTelemetry leaves the status unset where nothing failed; that is for the application to say.
fn failed(status: u16, reason: Option<&'static str>) -> Option<Status> {
    is_failure(status)
        .then(|| Status { message: reason.unwrap_or_default().to_owned(), code: StatusCode::Error.into() })
}

fn nanos(start: SystemTime, after: Duration) -> u64 {
    let since = start.duration_since(UNIX_EPOCH).unwrap_or_default() + after;
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
