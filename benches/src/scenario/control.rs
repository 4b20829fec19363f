//! A control server for delta ADS that serves services, a listener and a route configuration, and pushes new versions of the last.
//!
//! A version is seen from outside: answers carry it in a header. The listener's address is the name of the node that asks.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, anyhow};
use outrider_proto::envoy::config::cluster::v3::Cluster;
use outrider_proto::envoy::config::listener::v3::Listener;
use outrider_proto::envoy::config::route::v3::RouteConfiguration;
use outrider_proto::envoy::service::discovery::v3 as pb;
use outrider_proto::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use outrider_proto::{json, type_url};
use prost::{Message, Name};
use prost_types::Any;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::subject::{Mode, Setup, envoy_form};

/// The header that tells the version.
pub(super) const HEADER: &str = "x-bench-version";
/// Responses that may wait to be sent on a stream.
const QUEUED: usize = 16;
/// Letters of a refusal that are kept.
const MAX_REASON: usize = 200;
/// Name of the route configuration.
const ROUTES: &str = "r";

/// The server, on a thread of its own. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Control {
    /// Where it listens.
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    version: watch::Sender<u64>,
    services: Vec<(String, Any)>,
    refused: Mutex<Option<String>>,
}

impl Control {
    /// Starts it with these services.
    ///
    /// # Errors
    /// When a resource is outside the subset, or there is no port.
    pub(super) fn start(setup: &Setup) -> Result<Self> {
        let services = (0..setup.clusters).map(|number| {
            let any = parsed::<Cluster>(&envoy_form::cluster(setup, number, ""))?;
            Ok((format!("s{number}"), any))
        });
        let shared = Arc::new(Shared {
            version: watch::Sender::new(0),
            services: services.collect::<Result<_>>()?,
            refused: Mutex::new(None),
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let incoming = {
            let _inside = runtime.enter();
            TcpIncoming::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?.with_nodelay(Some(true))
        };
        let address = incoming.local_addr().context("the control server's port")?;
        let (stop, stopped) = oneshot::channel::<()>();
        let service = AggregatedDiscoveryServiceServer::new(Ads(Arc::clone(&shared)));
        let thread = std::thread::spawn(move || {
            let serving = Server::builder().serve_with_incoming(service, incoming);
            runtime.block_on(async {
                // Streams of subjects that still run are cut: nobody waits for them.
                tokio::select! {
                    _ = serving => {}
                    _ = stopped => {}
                }
            });
        });
        Ok(Self { address, shared, stop: Some(stop), thread: Some(thread) })
    }

    /// Pushes the next version, and says which it is.
    pub(super) fn push(&self) -> u64 {
        let mut next = 0;
        self.shared.version.send_modify(|version| {
            *version += 1;
            next = *version;
        });
        next
    }

    /// What a subject has refused, if it has refused anything.
    pub(super) fn refused(&self) -> Option<String> {
        self.shared.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has already been printed.
            let _ = thread.join();
        }
    }
}

#[derive(Debug)]
struct Ads(Arc<Shared>);

#[tonic::async_trait]
impl AggregatedDiscoveryService for Ads {
    type StreamAggregatedResourcesStream = ReceiverStream<Result<pb::DiscoveryResponse, Status>>;
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<pb::DeltaDiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        _request: Request<Streaming<pb::DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("this server speaks the delta variant only"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<pb::DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (send, responses) = mpsc::channel(QUEUED);
        let shared = Arc::clone(&self.0);
        tokio::spawn(async move {
            let mut stream = Stream {
                versions: shared.version.subscribe(),
                shared,
                send,
                node: None,
                nonce: 0,
                routes: false,
            };
            // An error here is the end of the stream, which the subject sees too.
            let _ = stream.talk(request.into_inner()).await;
        });
        Ok(Response::new(ReceiverStream::new(responses)))
    }
}

struct Stream {
    shared: Arc<Shared>,
    versions: watch::Receiver<u64>,
    send: mpsc::Sender<Result<pb::DeltaDiscoveryResponse, Status>>,
    /// Where the listener is wanted.
    node: Option<SocketAddr>,
    nonce: u64,
    /// Whether the routes were asked for.
    routes: bool,
}

impl Stream {
    async fn talk(&mut self, mut requests: Streaming<pb::DeltaDiscoveryRequest>) -> Result<()> {
        loop {
            tokio::select! {
                request = requests.message() => match request? {
                    Some(request) => self.request(request).await?,
                    None => return Ok(()),
                },
                changed = self.versions.changed() => {
                    changed?;
                    if self.routes {
                        self.respond(type_url::ROUTE, vec![]).await?;
                    }
                }
            }
        }
    }

    async fn request(&mut self, request: pb::DeltaDiscoveryRequest) -> Result<()> {
        if let Some(node) = request.node {
            self.node = self.node.or_else(|| node.id.parse().ok());
        }
        if let Some(error) = request.error_detail {
            let mut refused = self.shared.refused.lock().unwrap_or_else(PoisonError::into_inner);
            refused.get_or_insert(first_words(&error.message));
            return Ok(());
        }
        let first = request.response_nonce.is_empty();
        match request.type_url.as_str() {
            type_url::CLUSTER if first => {
                let services = self.shared.services.clone();
                self.respond(type_url::CLUSTER, services).await
            }
            type_url::LISTENER if first => {
                let at = self.node.context("the node's name is no address")?;
                let source = format!(
                    "rds: {{route_config_name: {ROUTES}, config_source: {{ads: {{}}, resource_api_version: V3}}}}"
                );
                let listener = parsed::<Listener>(&envoy_form::listener(Mode::Http1, at, &source, ""))?;
                self.respond(type_url::LISTENER, vec![("l".to_owned(), listener)]).await
            }
            type_url::ROUTE if request.resource_names_subscribe.iter().any(|name| name == ROUTES) => {
                self.routes = true;
                self.respond(type_url::ROUTE, vec![]).await
            }
            // An acknowledgement, or a kind that there is none of.
            _ => Ok(()),
        }
    }

    /// Sends resources; for routes, those of the newest version.
    async fn respond(&mut self, kind: &str, mut resources: Vec<(String, Any)>) -> Result<()> {
        let version = *self.versions.borrow_and_update();
        if kind == type_url::ROUTE {
            resources.push((ROUTES.to_owned(), routes(version)?));
        }
        self.nonce += 1;
        let response = pb::DeltaDiscoveryResponse {
            type_url: kind.to_owned(),
            nonce: self.nonce.to_string(),
            system_version_info: version.to_string(),
            resources: resources
                .into_iter()
                .map(|(name, resource)| pb::Resource {
                    name,
                    version: version.to_string(),
                    resource: Some(resource),
                    ..pb::Resource::default()
                })
                .collect(),
            ..pb::DeltaDiscoveryResponse::default()
        };
        self.send.send(Ok(response)).await.context("the stream has ended")
    }
}

/// The beginning of a reason: some are followed by the whole resource.
fn first_words(reason: &str) -> String {
    reason.lines().next().unwrap_or_default().chars().take(MAX_REASON).collect()
}

fn routes(version: u64) -> Result<Any> {
    let header = format!(", response_headers_to_add: [{{header: {{key: {HEADER}, value: \"{version}\"}}}}]");
    parsed::<RouteConfiguration>(&format!("{{{}}}", envoy_form::route_configuration(&header)))
}

/// A resource from its YAML.
fn parsed<M: Message + Name + Default>(yaml: &str) -> Result<Any> {
    let message: M = json::from_yaml(yaml).map_err(|faults| {
        let lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
        anyhow!("a resource of the benchmark is outside the subset: {}", lines.join("; "))
    })?;
    // As Envoy writes it; the default of the encoder leaves the host out.
    let type_url = format!("{}{}", type_url::PREFIX, M::full_name());
    Ok(Any { type_url, value: message.encode_to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_carry_the_url_that_subscriptions_name() {
        assert_eq!(routes(7).unwrap().type_url, type_url::ROUTE);
        let setup = Setup { clusters: 3, ..Setup::plain(Mode::Http1, SocketAddr::from(([127, 0, 0, 1], 1))) };
        let control = Control::start(&setup).unwrap();
        assert_eq!(control.shared.services.len(), 3);
        assert_eq!((control.push(), control.push()), (1, 2));
        assert_eq!(control.refused(), None);
    }
}
