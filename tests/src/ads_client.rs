//! A delta ADS client that remembers what it holds over reconnects, as a proxy does, and answers when it is told to.

use std::collections::BTreeMap;
use std::time::Duration;

use outrider_proto::envoy::config::core::v3::Node;
use outrider_proto::envoy::service::discovery::v3 as pb;
use outrider_proto::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use outrider_proto::type_url;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use tonic::{Request, Status, Streaming};

/// The kinds that it asks for, all of each.
const KINDS: [&str; 4] = [type_url::CLUSTER, type_url::ENDPOINTS, type_url::LISTENER, type_url::ROUTE];

/// Versions by kind and name.
pub type Held = BTreeMap<(String, String), String>;

/// A client; it may be connected or not.
#[derive(Debug)]
pub struct AdsClient {
    id: String,
    workload: String,
    /// The namespace that it says it is of.
    pub namespace: String,
    /// The service of which it says to be an instance, and where.
    pub serves: Option<(String, String, u16)>,
    /// What it has.
    pub held: Held,
    /// The port of a control server, and its streams.
    stream: Option<(mpsc::Sender<pb::DeltaDiscoveryRequest>, Streaming<pb::DeltaDiscoveryResponse>)>,
}

impl AdsClient {
    /// One of the namespace `shop` that has nothing yet.
    #[must_use]
    pub fn new(id: &str, workload: &str) -> Self {
        let (id, workload, namespace) = (id.to_owned(), workload.to_owned(), "shop".to_owned());
        Self { id, workload, namespace, serves: None, held: Held::new(), stream: None }
    }

    /// Opens a stream, in plaintext, and says what it holds.
    ///
    /// # Errors
    /// When there is no server.
    pub async fn connect(&mut self, port: u16) -> Result<(), Status> {
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}")).expect("an address");
        self.connect_as(endpoint, None).await
    }

    /// The same in any way, and with a bearer token.
    ///
    /// # Errors
    /// When there is no server, or it does not want us.
    ///
    /// # Panics
    /// When the token is none.
    pub async fn connect_as(&mut self, endpoint: Endpoint, token: Option<&str>) -> Result<(), Status> {
        self.stream = None;
        let channel = endpoint.connect().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(64 << 20);
        let (send, requests) = mpsc::channel(64);
        for kind in KINDS {
            let of_kind = self.held.iter().filter(|((of, _), _)| of == kind);
            let request = pb::DeltaDiscoveryRequest {
                node: Some(self.node()),
                type_url: kind.to_owned(),
                resource_names_subscribe: vec!["*".to_owned()],
                initial_resource_versions: of_kind
                    .map(|((_, name), version)| (name.clone(), version.clone()))
                    .collect(),
                ..Default::default()
            };
            send.send(request).await.map_err(|_| Status::unavailable("gone"))?;
        }
        let mut request = Request::new(ReceiverStream::new(requests));
        if let Some(token) = token {
            let value = format!("Bearer {token}").parse().expect("a token");
            request.metadata_mut().insert("authorization", value);
        }
        let responses = client.delta_aggregated_resources(request).await?.into_inner();
        self.stream = Some((send, responses));
        Ok(())
    }

    /// Takes the next response and answers it if `answer`. `false` when none comes in time, or the stream has ended.
    pub async fn step(&mut self, answer: bool, patience: Duration) -> bool {
        matches!(timeout(patience, self.next(answer)).await, Ok(Ok(())))
    }

    /// Waits for the next response and answers it if `answer`.
    ///
    /// # Errors
    /// Why the stream has ended.
    pub async fn next(&mut self, answer: bool) -> Result<(), Status> {
        let gone = || Status::unavailable("no stream");
        let (send, responses) = self.stream.as_mut().ok_or_else(gone)?;
        let response = responses.message().await?.ok_or_else(gone)?;
        for name in response.removed_resources {
            self.held.remove(&(response.type_url.clone(), name));
        }
        for resource in response.resources {
            self.held.insert((response.type_url.clone(), resource.name), resource.version);
        }
        let request = pb::DeltaDiscoveryRequest {
            type_url: response.type_url,
            response_nonce: response.nonce,
            ..Default::default()
        };
        if answer {
            send.send(request).await.map_err(|_| gone())?;
        }
        Ok(())
    }

    fn node(&self) -> Node {
        let text = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
        let fields = [("namespace", &self.namespace), ("workload", &self.workload)];
        let mut fields: BTreeMap<String, Value> =
            fields.into_iter().map(|(name, value)| (name.to_owned(), text(value))).collect();
        if let Some((service, address, port)) = &self.serves {
            let port = Value { kind: Some(Kind::NumberValue(f64::from(*port))) };
            let ports = Value { kind: Some(Kind::ListValue(ListValue { values: vec![port] })) };
            fields.extend([("service".to_owned(), text(service)), ("address".to_owned(), text(address))]);
            fields.insert("ports".to_owned(), ports);
        }
        Node {
            id: self.id.clone(),
            metadata: Some(Struct { fields }),
            user_agent_name: "outrider".to_owned(),
            ..Default::default()
        }
    }
}
