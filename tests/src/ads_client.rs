//! A delta ADS client that remembers what it holds over reconnects, as a proxy does, and answers when it is told to.

use std::collections::BTreeMap;
use std::time::Duration;

use outrider_proto::envoy::config::core::v3::Node;
use outrider_proto::envoy::service::discovery::v3 as pb;
use outrider_proto::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use outrider_proto::type_url;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

/// The kinds that it asks for, all of each.
const KINDS: [&str; 4] = [type_url::CLUSTER, type_url::ENDPOINTS, type_url::LISTENER, type_url::ROUTE];

/// Versions by kind and name.
pub type Held = BTreeMap<(String, String), String>;

/// A client; it may be connected or not.
#[derive(Debug)]
pub struct AdsClient {
    id: String,
    workload: String,
    /// What it has.
    pub held: Held,
    /// The port of a control server, and its streams.
    stream: Option<(mpsc::Sender<pb::DeltaDiscoveryRequest>, Streaming<pb::DeltaDiscoveryResponse>)>,
}

impl AdsClient {
    /// One of the namespace `shop` that has nothing yet.
    #[must_use]
    pub fn new(id: &str, workload: &str) -> Self {
        Self { id: id.to_owned(), workload: workload.to_owned(), held: Held::new(), stream: None }
    }

    /// Opens a stream, in plaintext, and says what it holds.
    ///
    /// # Errors
    /// When there is no server.
    pub async fn connect(&mut self, port: u16) -> Result<(), Status> {
        self.stream = None;
        let client = AggregatedDiscoveryServiceClient::connect(format!("http://127.0.0.1:{port}")).await;
        let mut client = client
            .map_err(|error| Status::unavailable(error.to_string()))?
            .max_decoding_message_size(64 << 20);
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
        let responses = client.delta_aggregated_resources(ReceiverStream::new(requests)).await?.into_inner();
        self.stream = Some((send, responses));
        Ok(())
    }

    /// Takes the next response and answers it if `answer`. `false` when none comes in time, or the stream has ended.
    pub async fn step(&mut self, answer: bool, patience: Duration) -> bool {
        let Some((send, responses)) = &mut self.stream else { return false };
        let Ok(Ok(Some(response))) = timeout(patience, responses.message()).await else { return false };
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
        !answer || send.send(request).await.is_ok()
    }

    fn node(&self) -> Node {
        let text = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
        let fields = [("namespace", "shop"), ("workload", &self.workload)];
        let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), text(value))).collect();
        Node {
            id: self.id.clone(),
            metadata: Some(Struct { fields }),
            user_agent_name: "outrider".to_owned(),
            ..Default::default()
        }
    }
}
