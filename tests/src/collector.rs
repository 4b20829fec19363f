//! A collector of spans, as OpenTelemetry's is: OTLP over gRPC, by tonic's own server.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use outrider_proto::opentelemetry::proto::collector::trace::v1 as pb;
use outrider_proto::opentelemetry::proto::common::v1::{AnyValue, KeyValue, any_value::Value};
use outrider_proto::opentelemetry::proto::trace::v1::Span;
use pb::trace_service_server::{TraceService, TraceServiceServer};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

use crate::authority::Credentials;
use crate::client::PATIENCE;

/// A span as it came.
#[derive(Clone, Debug)]
pub struct Received {
    /// `service.name` of who sent it.
    pub service: String,
    /// The span.
    pub span: Span,
}

/// A running collector.
#[derive(Clone, Debug)]
pub struct Collector {
    /// Where it listens.
    pub port: u16,
    spans: Spans,
}

type Spans = Arc<Mutex<Vec<Received>>>;

struct Service(Spans);

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<pb::ExportTraceServiceRequest>,
    ) -> Result<Response<pb::ExportTraceServiceResponse>, Status> {
        let mut all = self.0.lock().expect("the list");
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.unwrap_or_default().attributes;
            let service = text(&attributes, "service.name").unwrap_or_default();
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                all.push(Received { service: service.clone(), span });
            }
        }
        Ok(Response::new(pb::ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Starts one.
    ///
    /// # Panics
    /// When no port can be had.
    pub async fn start() -> Self {
        Self::start_with(0, Server::builder()).await
    }

    /// Starts one with mutual TLS.
    ///
    /// # Panics
    /// When the credentials are of no use.
    pub async fn start_over_tls(own: &Credentials, clients_root: &str) -> Self {
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(&own.chain_pem, &own.key_pem))
            .client_ca_root(Certificate::from_pem(clients_root));
        Self::start_with(0, Server::builder().tls_config(tls).expect("TLS")).await
    }

    /// Starts one on this port.
    ///
    /// # Panics
    /// When the port cannot be had.
    pub async fn start_at(port: u16) -> Self {
        Self::start_with(port, Server::builder()).await
    }

    async fn start_with(port: u16, mut server: Server) -> Self {
        let socket = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.expect("a port");
        let port = socket.local_addr().expect("its address").port();
        let spans = Spans::default();
        let service = TraceServiceServer::new(Service(Arc::clone(&spans)));
        tokio::spawn(server.add_service(service).serve_with_incoming(TcpIncoming::from(socket)));
        Self { port, spans }
    }

    /// All spans so far.
    ///
    /// # Panics
    /// Never, unless another thread did.
    #[must_use]
    pub fn spans(&self) -> Vec<Received> {
        self.spans.lock().expect("the list").clone()
    }

    /// The spans of this trace, by its number in hexadecimal, once there are so many.
    ///
    /// # Panics
    /// When they do not come.
    pub async fn of_trace(&self, trace: &str, count: usize) -> Vec<Received> {
        let end = Instant::now() + PATIENCE;
        loop {
            let all = self.spans();
            let found: Vec<_> = all.iter().filter(|one| hex(&one.span.trace_id) == trace).cloned().collect();
            if found.len() >= count {
                return found;
            }
            assert!(Instant::now() < end, "{count} spans of {trace} wanted, there are {all:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Received {
    /// Whether it is the child of another.
    #[must_use]
    pub fn is_below(&self, other: &Self) -> bool {
        self.span.trace_id == other.span.trace_id && self.span.parent_span_id == other.span.span_id
    }

    /// What an attribute says, if it is there: of a list, its members with commas between.
    #[must_use]
    pub fn says(&self, key: &str) -> Option<String> {
        text(&self.span.attributes, key)
    }
}

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    Some(shown(found.value.as_ref()?))
}

fn shown(value: &AnyValue) -> String {
    match &value.value {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(is)) => is.to_string(),
        Some(Value::ArrayValue(list)) => list.values.iter().map(shown).collect::<Vec<_>>().join(","),
        None => String::new(),
    }
}

/// Bytes as hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
