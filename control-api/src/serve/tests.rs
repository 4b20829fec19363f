//! The service over a real connection, with a client that reads when it is told to.

use std::net::SocketAddr;
use std::time::Duration;

use outrider_proto::envoy::config::core::v3::Node;
use outrider_proto::envoy::service::discovery::v3 as pb;
use outrider_proto::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use outrider_proto::envoy::service::status::v3::client_status_discovery_service_client::ClientStatusDiscoveryServiceClient;
use outrider_proto::envoy::service::status::v3::{ClientStatusRequest, ClientStatusResponse, ConfigStatus};
use outrider_proto::envoy::r#type::matcher::v3::{NodeMatcher, StringMatcher, string_matcher::MatchPattern};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::transport::server::Connected as _;
use tonic::{Code, Status, Streaming};

use super::ads::Ads;
use super::listen::{Transport, accept, bind};
use super::stream::Shared;
use super::testing::{One, plain};
use super::*;
use crate::auth::{self, Access, AuthError, Authenticator, Proven};
use crate::registry::Registry;
use crate::revoked::{Revocations, testing::revoked as testing_revoked};
use crate::snapshot::{Resource, Snapshot};
use crate::snapshots::{MapSnapshots, Snapshots as _};

const PATIENCE: Duration = Duration::from_secs(20);

struct Lab {
    address: SocketAddr,
    snapshots: Arc<MapSnapshots>,
    registry: Arc<Registry>,
    end: watch::Sender<bool>,
    _urge: watch::Sender<u64>,
    served: tokio::task::JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Lab {
    async fn start(access: Access) -> Self {
        let snapshots = Arc::new(MapSnapshots::default());
        let registry = Arc::new(Registry::default());
        let (told, changes) = watch::channel(0);
        let (urge, urgent) = watch::channel(0);
        tokio::spawn(debounce::run(snapshots.changes(), urgent, told));
        let (end, ending) = watch::channel(false);
        let shared = Shared {
            revocations: access.revocations.clone(),
            identifier: "test".into(),
            snapshots: Arc::clone(&snapshots) as _,
            changes,
            registry: Arc::clone(&registry),
            differ: Arc::default(),
            ending: ending.clone(),
        };
        let listener = bind("127.0.0.1:0".parse().unwrap(), &Transport::Plaintext).unwrap();
        let address = listener.local_addr().unwrap();
        let status = status::ClientStatus::service(Arc::clone(&registry), access.clone(), "outrider-system");
        let services = Routes::new(Ads::service(shared, access)).add_service(status);
        let served = tokio::spawn(server::run(services, listener, Transport::Plaintext, ending));
        Self { address, snapshots, registry, end, _urge: urge, served }
    }

    async fn open() -> Self {
        Self::start(Access { trust_plaintext: true, ..Access::default() }).await
    }

    async fn client(&self) -> AggregatedDiscoveryServiceClient<tonic::transport::Channel> {
        let url = format!("http://{}", self.address);
        AggregatedDiscoveryServiceClient::connect(url).await.unwrap().max_decoding_message_size(64 << 20)
    }

    async fn delta(&self, id: &str) -> Stream {
        self.delta_with(id, None).await.unwrap()
    }

    /// With a token, which is also the proxy's name.
    async fn delta_as(&self, token: &str) -> Result<Stream, Status> {
        self.delta_with(token, Some(token)).await
    }

    async fn delta_with(&self, id: &str, token: Option<&str>) -> Result<Stream, Status> {
        let (send, requests) = mpsc::channel(16);
        let node = Node { id: id.into(), user_agent_name: "outrider".into(), ..Node::default() };
        let first = pb::DeltaDiscoveryRequest {
            node: Some(node),
            type_url: Kind::Cluster.type_url().into(),
            ..Default::default()
        };
        send.send(first).await.unwrap();
        let mut requests = tonic::Request::new(ReceiverStream::new(requests));
        if let Some(token) = token {
            requests.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        let responses = self.client().await.delta_aggregated_resources(requests).await?;
        Ok(Stream { send, responses: responses.into_inner() })
    }
}

struct Stream {
    send: mpsc::Sender<pb::DeltaDiscoveryRequest>,
    responses: Streaming<pb::DeltaDiscoveryResponse>,
}

impl Stream {
    async fn receive(&mut self) -> Result<Option<pb::DeltaDiscoveryResponse>, Status> {
        timeout(PATIENCE, self.responses.message()).await.unwrap()
    }

    async fn accept(&mut self) -> pb::DeltaDiscoveryResponse {
        let response = self.receive().await.unwrap().unwrap();
        let answer = pb::DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..Default::default()
        };
        self.send.send(answer).await.unwrap();
        response
    }
}

fn clusters(all: &[&str]) -> Snapshot {
    let all: Vec<One<'_>> = all.iter().map(|name| (Kind::Cluster, *name, "1")).collect();
    plain(&all)
}

#[tokio::test]
async fn changes_reach_a_proxy_and_its_answers_the_registry() {
    let lab = Lab::open().await;
    lab.snapshots.set_common(clusters(&["a"]));
    let mut stream = lab.delta("p").await;
    assert_eq!(stream.accept().await.resources[0].name, "a");
    lab.snapshots.set_common(clusters(&["a", "b"]));
    assert_eq!(stream.accept().await.resources[0].name, "b");
    let acknowledged = async {
        while lab.registry.objects().get("Test/default/b").is_none_or(|status| status.acknowledged != 1) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, acknowledged).await.unwrap();
    drop(stream);
    let gone = async {
        while !lab.registry.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, gone).await.unwrap();
}

#[tokio::test]
async fn a_proxy_that_reads_nothing_holds_nobody_up() {
    let lab = Lab::open().await;
    let large = |version: u8| {
        let mut snapshot = Snapshot::default();
        let body = bytes::Bytes::from(vec![version; 1 << 20]);
        let one = |_| Resource {
            version: version.to_string().into(),
            body: body.clone(),
            origin: "Test/default/large".into(),
        };
        snapshot.set(Kind::Cluster, Arc::new((0..4).map(|n| (Arc::from(format!("c{n}")), one(n))).collect()));
        snapshot
    };
    lab.snapshots.set_common(large(1));
    let mut slow = lab.delta("slow").await;
    let mut fast = lab.delta("fast").await;
    for version in 1..=5 {
        lab.snapshots.set_common(large(version));
        let mut told = 0;
        while told < 4 {
            let response = fast.accept().await;
            told +=
                response.resources.iter().filter(|resource| resource.version == version.to_string()).count();
        }
    }
    // The slow one gets what was on its way, and then the newest; not all five.
    let mut seen = Vec::new();
    while seen.iter().filter(|version| **version == "5").count() < 4 {
        seen.extend(slow.accept().await.resources.into_iter().map(|resource| resource.version));
    }
    assert!(seen.len() < 5 * 4, "{seen:?}");
}

#[tokio::test]
async fn how_a_proxy_stands_is_told_in_the_words_of_xds() {
    let lab = Lab::open().await;
    lab.snapshots.set_common(clusters(&["a"]));
    let (mut stream, mut other) = (lab.delta("p").await, lab.delta("q").await);
    stream.accept().await;
    other.accept().await;
    let mut client =
        ClientStatusDiscoveryServiceClient::connect(format!("http://{}", lab.address)).await.unwrap();
    let exact = |id: &str| NodeMatcher {
        node_id: Some(StringMatcher {
            match_pattern: Some(MatchPattern::Exact(id.into())),
            ..Default::default()
        }),
        ..Default::default()
    };
    let (ask, questions) = mpsc::channel(1);
    let answers = client.stream_client_status(ReceiverStream::new(questions)).await.unwrap();
    let mut answers = answers.into_inner();
    let until = async |wanted: &[(&str, ConfigStatus, &str)], answers: &mut Streaming<_>| {
        let mut last = Vec::new();
        let reached = async {
            loop {
                ask.send(ClientStatusRequest { node_matchers: vec![exact("p")], ..Default::default() })
                    .await
                    .unwrap();
                let answer: ClientStatusResponse = answers.message().await.unwrap().unwrap();
                let [only] = answer.config.as_slice() else { panic!("{answer:?}") };
                assert_eq!(only.node.as_ref().unwrap().id, "p");
                let all = only.generic_xds_configs.iter().map(|one| {
                    assert_eq!(one.type_url, Kind::Cluster.type_url());
                    assert!(one.xds_config.is_some() && one.last_updated.is_some(), "{one:?}");
                    let details = one.error_state.as_ref().map_or("", |state| &state.details);
                    (one.name.clone(), one.config_status(), details.to_owned())
                });
                last = all.collect();
                if last
                    .iter()
                    .map(|(name, status, why)| (&**name, *status, &**why))
                    .eq(wanted.iter().copied())
                {
                    return;
                }
            }
        };
        timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("{last:?} is not {wanted:?}"));
    };
    until(&[("a", ConfigStatus::Synced, "")], &mut answers).await;
    lab.snapshots.set_common(clusters(&["a", "b"]));
    let response = stream.receive().await.unwrap().unwrap();
    until(&[("a", ConfigStatus::Synced, ""), ("b", ConfigStatus::Stale, "")], &mut answers).await;
    let refusal = pb::DeltaDiscoveryRequest {
        type_url: response.type_url,
        response_nonce: response.nonce,
        error_detail: Some(outrider_proto::google::rpc::Status {
            message: "b: no".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    stream.send.send(refusal).await.unwrap();
    until(&[("a", ConfigStatus::Synced, ""), ("b", ConfigStatus::Error, "b: no")], &mut answers).await;
    let brief = ClientStatusRequest { exclude_resource_contents: true, ..Default::default() };
    let all = client.fetch_client_status(brief).await.unwrap().into_inner().config;
    assert_eq!(all.len(), 2);
    assert!(all.iter().flat_map(|one| &one.generic_xds_configs).all(|one| one.xds_config.is_none()));
    // What cannot be matched by is refused: the answer would be about others too.
    let vague = ClientStatusRequest { node_matchers: vec![NodeMatcher::default()], ..Default::default() };
    assert_eq!(client.fetch_client_status(vague).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn nobody_is_served_who_has_proved_nothing() {
    let lab = Lab::start(Access::default()).await;
    let error = lab.client().await.delta_aggregated_resources(tokio_stream::pending()).await.unwrap_err();
    assert_eq!(error.code(), Code::Unauthenticated);
    let url = format!("http://{}", lab.address);
    let mut status = ClientStatusDiscoveryServiceClient::connect(url).await.unwrap();
    let error = status.fetch_client_status(ClientStatusRequest::default()).await;
    assert_eq!(error.unwrap_err().code(), Code::Unauthenticated);
    assert!(lab.registry.is_empty());
}

#[tokio::test]
async fn the_stream_of_whoever_is_cut_off_ends_and_no_other() {
    #[derive(Debug)]
    struct Named;
    #[tonic::async_trait]
    impl Authenticator for Named {
        async fn authenticate(&self, token: &str) -> Result<Proven, AuthError> {
            let identity = auth::parse(&format!("spiffe://a/ns/b/sa/{token}")).unwrap();
            Ok(Proven { identity, holder: token.into(), expires: None })
        }
    }
    let (say, revoked) = watch::channel(Arc::default());
    let revocations = Revocations::new(revoked);
    let lab = Lab::start(Access { tokens: Some(Arc::new(Named)), revocations, ..Access::default() }).await;
    lab.snapshots.set_common(clusters(&["a"]));
    let (mut cart, mut web) = (lab.delta_as("cart").await.unwrap(), lab.delta_as("web").await.unwrap());
    cart.accept().await;
    web.accept().await;
    say.send_replace(testing_revoked(&serde_json::json!({"identities": ["spiffe://a/ns/b/sa/cart"]}), ""));
    let error = cart.receive().await.unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied);
    assert_eq!(error.message(), "spiffe://a/ns/b/sa/cart is revoked by Revocation stolen");
    assert_eq!(lab.delta_as("cart").await.err().map(|error| error.code()), Some(Code::PermissionDenied));
    lab.snapshots.set_common(clusters(&["a", "b"]));
    assert_eq!(web.accept().await.resources[0].name, "b");
    say.send_replace(Arc::default());
    lab.delta_as("cart").await.unwrap().accept().await;
}

#[tokio::test]
async fn a_stream_without_a_node_is_ended_with_the_reason() {
    let lab = Lab::open().await;
    let requests = tokio_stream::iter([pb::DiscoveryRequest::default()]);
    let mut responses = lab.client().await.stream_aggregated_resources(requests).await.unwrap().into_inner();
    let error = timeout(PATIENCE, responses.message()).await.unwrap().unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("node"), "{error}");
}

#[tokio::test]
async fn the_end_is_told_to_proxies_and_does_not_take_long() {
    let lab = Lab::open().await;
    let mut stream = lab.delta("p").await;
    stream.accept().await;
    lab.end.send_replace(true);
    assert_eq!(stream.receive().await.unwrap_err().code(), Code::Unavailable);
    drop(stream);
    timeout(PATIENCE, lab.served).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn plaintext_is_for_loopback() {
    let error = bind("0.0.0.0:0".parse().unwrap(), &Transport::Plaintext).unwrap_err();
    assert!(error.to_string().contains("loopback"), "{error}");
}

#[tokio::test]
async fn a_connection_knows_where_it_comes_from() {
    let listener = bind("127.0.0.1:0".parse().unwrap(), &Transport::Plaintext).unwrap();
    let address = listener.local_addr().unwrap();
    let mut connections = accept(listener, Transport::Plaintext);
    let client = tokio::net::TcpStream::connect(address).await.unwrap();
    let accepted = timeout(PATIENCE, connections.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(accepted.connect_info().peer.address, Some(client.local_addr().unwrap().ip()));
}
