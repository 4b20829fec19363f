//! Sends finished spans to their collectors, over OTLP on gRPC; on the control thread, off every request's way.
//!
//! What a collector does not take is counted and gone: spans are no more than a help, and must not fill memory.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use outrider_proto::opentelemetry::proto::collector::trace::v1 as pb;
use outrider_proto::opentelemetry::proto::common::v1::any_value::Value;
use outrider_proto::opentelemetry::proto::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use outrider_proto::opentelemetry::proto::resource::v1::Resource;
use outrider_proto::opentelemetry::proto::trace::v1::{ResourceSpans, ScopeSpans, Span};
use pb::trace_service_client::TraceServiceClient;
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};
use tonic::transport::Channel;

use crate::control::Message;
use crate::control::reach::{self, ReachError};
use crate::identity::SpiffeId;
use crate::model::tracing::Collector;
use crate::observe::trace::queue::{Fate, Finished, Spans};
use crate::svid;

/// Spans of one call.
const MAX_SPANS: usize = 512;
/// Bytes of one call: half of what a gRPC server takes if it is not told otherwise.
const MAX_BYTES: usize = 2 * 1024 * 1024;
/// How long spans wait for others to go with.
const INTERVAL: Duration = Duration::from_secs(1);
/// First and longest pause after a call that failed; each is random up to twice the one before. What is for the
/// collector meanwhile is dropped.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Collectors that are remembered; when there are more, all are forgotten and connected to again as they are needed.
const MAX_COLLECTORS: usize = 16;
/// As OpenTelemetry names a service of which no name is known.
const UNKNOWN_SERVICE: &str = "unknown_service:outrider-proxy";
/// What made the spans.
const SCOPE: &str = "outrider-proxy";

/// Why spans were not taken.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error("there is no such cluster")]
    NoCluster,
    #[error(transparent)]
    Reach(#[from] ReachError),
    #[error("the collector refused: {0}")]
    Status(#[from] Box<tonic::Status>),
    #[error("the collector did not answer in time")]
    Late,
    #[error("the proxy is ending")]
    Ending,
}

/// Who sends the spans.
#[derive(Debug)]
pub struct Own {
    /// The node's id; may be empty.
    pub instance: String,
    /// The workload's identity, where it has one.
    pub identity: Option<svid::Published>,
}

/// Exports until the last worker has ended and what it left is gone.
pub async fn run(mut spans: Spans, own: Own, control: mpsc::Sender<Message>) {
    let mut exporter = Exporter { own, control, links: HashMap::new() };
    while let Some(mut waiting) = spans.recv().await {
        let end = Instant::now() + INTERVAL;
        while waiting.len() < MAX_SPANS {
            match timeout_at(end, spans.recv()).await {
                Ok(Some(more)) => waiting.extend(more),
                // Nothing more comes, or not in time.
                Ok(None) | Err(_) => break,
            }
        }
        for (collector, spans) in by_collector(waiting) {
            for part in parts(spans) {
                exporter.export(&collector, part).await;
            }
        }
    }
}

struct Exporter {
    own: Own,
    control: mpsc::Sender<Message>,
    links: HashMap<Arc<Collector>, Link>,
}

/// What is known of a collector.
#[derive(Default)]
struct Link {
    client: Option<TraceServiceClient<Channel>>,
    /// The last call failed: how long to wait for the next, and since when. Warned of once, until one succeeds.
    failing: Option<(Duration, Instant)>,
}

impl Exporter {
    async fn export(&mut self, collector: &Arc<Collector>, spans: Vec<Span>) {
        let count = spans.len();
        if self.links.len() >= MAX_COLLECTORS && !self.links.contains_key(collector) {
            self.links.clear();
        }
        let link = match self.links.entry(Arc::clone(collector)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(Link::default()),
        };
        if link.failing.is_some_and(|(pause, since)| since.elapsed() < pause) {
            Fate::Dropped.count(count);
            return;
        }
        let request = request(collector, &self.own, spans);
        let called = timeout(collector.timeout, call(link, collector, &self.control, request)).await;
        let cluster = &*collector.cluster;
        match called.unwrap_or(Err(ExportError::Late)) {
            Ok(rejected) => {
                if link.failing.take().is_some() {
                    tracing::info!(cluster, "spans are exported again");
                }
                let rejected = rejected.min(count);
                Fate::Exported.count(count - rejected);
                Fate::Failed.count(rejected);
            }
            Err(error) => {
                Fate::Failed.count(count);
                link.client = None;
                if link.failing.is_none() {
                    tracing::warn!(cluster, %error, "spans not exported; they are dropped and counted");
                }
                let pause = link.failing.map_or(FIRST_PAUSE, |(pause, _)| (pause * 2).min(LONGEST_PAUSE));
                link.failing = Some((pause.mul_f64(0.5 + fastrand::f64() / 2.0), Instant::now()));
            }
        }
    }
}

/// One call; how many of the spans the collector did not want. Cancelled, it leaves the link without a connection.
async fn call(
    link: &mut Link,
    collector: &Collector,
    control: &mpsc::Sender<Message>,
    request: pb::ExportTraceServiceRequest,
) -> Result<usize, ExportError> {
    let mut client = match link.client.take() {
        Some(client) => client,
        None => {
            let (answer, answered) = oneshot::channel();
            let question = Message::Cluster(collector.cluster.to_string(), answer);
            control.send(question).await.map_err(|_| ExportError::Ending)?;
            let cluster = answered.await.map_err(|_| ExportError::Ending)?.ok_or(ExportError::NoCluster)?;
            TraceServiceClient::new(reach::connect(&cluster, |endpoint| endpoint).await?)
        }
    };
    let response = client.export(request).await.map_err(Box::new)?.into_inner();
    link.client = Some(client);
    let rejected = response.partial_success.filter(|partial| partial.rejected_spans > 0);
    Ok(rejected.map_or(0, |partial| {
        let (cluster, reason) = (&*collector.cluster, partial.error_message.as_str());
        tracing::debug!(
            cluster,
            spans = partial.rejected_spans,
            reason,
            "the collector did not want all spans"
        );
        usize::try_from(partial.rejected_spans).unwrap_or(usize::MAX)
    }))
}

fn by_collector(spans: Vec<Finished>) -> HashMap<Arc<Collector>, Vec<Span>> {
    let mut sorted: HashMap<Arc<Collector>, Vec<Span>> = HashMap::new();
    for (collector, span) in spans {
        sorted.entry(collector).or_default().push(span);
    }
    sorted
}

/// Cuts spans into calls within their bounds.
fn parts(spans: Vec<Span>) -> Vec<Vec<Span>> {
    let (mut all, mut part, mut bytes) = (Vec::new(), Vec::new(), 0);
    for span in spans {
        let length = span.encoded_len();
        if !part.is_empty() && (part.len() >= MAX_SPANS || bytes + length > MAX_BYTES) {
            all.push(std::mem::take(&mut part));
            bytes = 0;
        }
        bytes += length;
        part.push(span);
    }
    all.push(part);
    all
}

/// Where no other name is configured, a service is called as its service account, in its namespace.
fn request(collector: &Collector, own: &Own, spans: Vec<Span>) -> pb::ExportTraceServiceRequest {
    let svid = own.identity.as_ref().and_then(|published| published.borrow().clone());
    let id = svid.as_ref().map(|svid| &svid.spiffe_id);
    let account = id.and_then(SpiffeId::service_account).unwrap_or(UNKNOWN_SERVICE);
    let named = [
        ("service.name", collector.service.as_deref().unwrap_or(account)),
        ("service.namespace", id.and_then(SpiffeId::namespace).unwrap_or_default()),
        ("service.instance.id", &own.instance),
    ];
    let attributes = named.into_iter().filter(|(_, value)| !value.is_empty()).map(|(key, value)| KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(Value::StringValue(value.to_owned())) }),
    });
    let scope =
        InstrumentationScope { name: SCOPE.to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
    pb::ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource { attributes: attributes.collect() }),
            scope_spans: vec![ScopeSpans { scope: Some(scope), spans }],
        }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_bounded_in_spans_and_bytes() {
        let small = || Span { name: "GET".to_owned(), ..Span::default() };
        let counts = |spans| parts(spans).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(counts((0..MAX_SPANS + 1).map(|_| small()).collect()), [MAX_SPANS, 1]);
        let large = || Span { name: "x".repeat(MAX_BYTES / 2), ..Span::default() };
        assert_eq!(counts(vec![large(), large(), small(), large()]), [1, 2, 1]);
        let huge = Span { name: "x".repeat(MAX_BYTES * 2), ..Span::default() };
        assert_eq!(counts(vec![small(), huge, small()]), [1, 1, 1], "a span is never cut");
    }

    #[test]
    fn spans_go_to_their_own_collectors() {
        let to = |cluster: &str| {
            let timeout = Duration::from_secs(1);
            Arc::new(Collector { cluster: cluster.into(), service: None, timeout })
        };
        let span = |name: &str| Span { name: name.to_owned(), ..Span::default() };
        // The same settings compiled twice are one collector.
        let sorted = by_collector(vec![(to("a"), span("1")), (to("b"), span("2")), (to("a"), span("3"))]);
        assert_eq!(sorted.len(), 2);
        assert_eq!(sorted[&to("a")].iter().map(|span| &*span.name).collect::<Vec<_>>(), ["1", "3"]);
        let own = Own { instance: String::new(), identity: None };
        let request = request(&to("a"), &own, vec![span("1")]);
        let resource = request.resource_spans[0].resource.as_ref().unwrap();
        let [name] = resource.attributes.as_slice() else { panic!("what is not known is not said") };
        let unknown = Value::StringValue(UNKNOWN_SERVICE.to_owned());
        assert_eq!(name.value.as_ref().unwrap().value.as_ref(), Some(&unknown));
    }
}
