//! The client status discovery service (CSDS): what each proxy was told, and what it made of it.
//!
//! A proxy learns of itself only: of those that have proved the same identity. Who is of the mesh's own namespace, or on
//! this machine where nobody has to prove anything, learns of all.

use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use outrider_proto::envoy::admin::v3::UpdateFailureState;
use outrider_proto::envoy::config::core::v3::Node;
use outrider_proto::envoy::service::status::v3 as pb;
use outrider_proto::envoy::service::status::v3::client_config::GenericXdsConfig;
use outrider_proto::envoy::service::status::v3::client_status_discovery_service_server::{
    ClientStatusDiscoveryService, ClientStatusDiscoveryServiceServer,
};
use outrider_proto::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use outrider_proto::envoy::r#type::matcher::v3::{NodeMatcher, StringMatcher};
use prost_types::Timestamp;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::listen::Client;
use super::uses::Use;
use crate::auth::{Access, Caller};
use crate::proxy_info::ProxyInfo;
use crate::registry::{ProxyReport, Registry, ResourceReport, ResourceState};
use crate::snapshot::Kind;

/// Proxies that one answer is about at most; who asks for more is to name them.
pub const MAX_CLIENTS: usize = 64;
/// Matchers of one question at most.
const MAX_MATCHERS: usize = 64;
/// Largest answer, in bytes.
const MAX_RESPONSE_BYTES: usize = 256 * 1024 * 1024;
/// Answers that wait in a stream for its client.
const QUEUED_RESPONSES: usize = 1;

/// The service.
#[derive(Clone, Debug)]
pub struct ClientStatus {
    registry: Arc<Registry>,
    access: Access,
    root_namespace: Arc<str>,
}

impl ClientStatus {
    /// Ready to be added to a server.
    #[must_use]
    pub fn service(
        registry: Arc<Registry>,
        access: Access,
        root_namespace: &str,
    ) -> ClientStatusDiscoveryServiceServer<Self> {
        let root_namespace = root_namespace.into();
        ClientStatusDiscoveryServiceServer::new(Self { registry, access, root_namespace })
            .max_encoding_message_size(MAX_RESPONSE_BYTES)
    }

    /// Who asks, and that its connection is in use.
    async fn caller<T>(&self, request: &Request<T>) -> Result<(Caller, Option<Use>), Status> {
        let client = request.extensions().get::<Client>().cloned();
        let peer = client.as_ref().map(|client| client.peer.clone()).unwrap_or_default();
        let caller = self.access.caller(&peer, request.metadata()).await?;
        Ok((caller, client.map(|client| client.uses.begin())))
    }

    async fn answer(
        &self,
        caller: &Caller,
        question: pb::ClientStatusRequest,
    ) -> Result<pb::ClientStatusResponse, Status> {
        if caller.expires.is_some_and(|end| end <= SystemTime::now()) {
            return Err(Status::unauthenticated("the certificate or the token has expired"));
        }
        self.access.check(caller)?;
        check(&question.node_matchers)?;
        let (own, caller) = (self.clone(), caller.clone());
        // A proxy may have a whole large mesh.
        let answered = tokio::task::spawn_blocking(move || own.clients(&caller, &question));
        let config = answered.await.map_err(|_| Status::internal("the answer could not be made"))??;
        Ok(pb::ClientStatusResponse { config })
    }

    fn clients(
        &self,
        caller: &Caller,
        question: &pb::ClientStatusRequest,
    ) -> Result<Vec<pb::ClientConfig>, Status> {
        let matchers = &question.node_matchers;
        let meant = |info: &ProxyInfo| {
            self.may_see(caller, info)
                && (matchers.is_empty() || matchers.iter().any(|matcher| matches(matcher, &info.id)))
        };
        let found = self.registry.find(MAX_CLIENTS, meant).ok_or_else(|| {
            Status::resource_exhausted(format!("node_matchers: more than {MAX_CLIENTS} proxies; name fewer"))
        })?;
        let contents = !question.exclude_resource_contents;
        Ok(found.iter().map(|(proxy, resources)| client(proxy, resources, contents)).collect())
    }

    fn may_see(&self, caller: &Caller, info: &ProxyInfo) -> bool {
        caller.identity.as_ref().is_none_or(|identity| {
            identity.namespace == self.root_namespace || info.identity.as_ref() == Some(identity)
        })
    }
}

type Responses = Pin<Box<dyn Stream<Item = Result<pb::ClientStatusResponse, Status>> + Send>>;

#[tonic::async_trait]
impl ClientStatusDiscoveryService for ClientStatus {
    type StreamClientStatusStream = Responses;

    async fn stream_client_status(
        &self,
        request: Request<Streaming<pb::ClientStatusRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let (caller, used) = self.caller(&request).await?;
        let (own, mut questions) = (self.clone(), request.into_inner());
        let (send, responses) = mpsc::channel(QUEUED_RESPONSES);
        // It ends with either direction of the stream.
        tokio::spawn(async move {
            let _used = used;
            while let Ok(permit) = send.reserve().await {
                let answer = match questions.message().await {
                    Ok(Some(question)) => own.answer(&caller, question).await,
                    Ok(None) => return,
                    Err(status) => Err(status),
                };
                let ends = answer.is_err();
                permit.send(answer);
                if ends {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(responses))))
    }

    async fn fetch_client_status(
        &self,
        request: Request<pb::ClientStatusRequest>,
    ) -> Result<Response<pb::ClientStatusResponse>, Status> {
        let (caller, _used) = self.caller(&request).await?;
        self.answer(&caller, request.into_inner()).await.map(Response::new)
    }
}

/// Refuses what would be answered with more than was asked for.
fn check(matchers: &[NodeMatcher]) -> Result<(), Status> {
    if matchers.len() > MAX_MATCHERS {
        return Err(Status::invalid_argument(format!("node_matchers: more than {MAX_MATCHERS}")));
    }
    for matcher in matchers {
        if !matcher.node_metadatas.is_empty() {
            return Err(Status::invalid_argument("node_matchers.node_metadatas: not supported; use node_id"));
        }
        let pattern = matcher.node_id.as_ref().and_then(|text| text.match_pattern.as_ref());
        if matches!(pattern, None | Some(MatchPattern::SafeRegex(_))) {
            let reason = "node_matchers.node_id: one of exact, prefix, suffix and contains is needed";
            return Err(Status::invalid_argument(reason));
        }
    }
    Ok(())
}

fn matches(matcher: &NodeMatcher, id: &str) -> bool {
    let Some(StringMatcher { match_pattern: Some(pattern), ignore_case }) = &matcher.node_id else {
        return false;
    };
    let folded = |text: &str| if *ignore_case { text.to_ascii_lowercase() } else { text.to_owned() };
    let id = folded(id);
    match pattern {
        MatchPattern::Exact(text) => id == folded(text),
        MatchPattern::Prefix(text) => id.starts_with(&folded(text)),
        MatchPattern::Suffix(text) => id.ends_with(&folded(text)),
        MatchPattern::Contains(text) => id.contains(&folded(text)),
        MatchPattern::SafeRegex(_) => false,
    }
}

fn client(proxy: &ProxyReport, resources: &[ResourceReport], contents: bool) -> pb::ClientConfig {
    let info = &proxy.info;
    let node = Node {
        id: info.id.to_string(),
        cluster: info.namespace.to_string(),
        user_agent_name: info.dialect.name().to_owned(),
        ..Node::default()
    };
    let generic_xds_configs = resources.iter().map(|one| config(proxy, one, contents)).collect();
    pb::ClientConfig { node: Some(node), generic_xds_configs }
}

fn config(proxy: &ProxyReport, one: &ResourceReport, contents: bool) -> GenericXdsConfig {
    let version = one.resource.as_ref().map(|resource| resource.version.to_string()).unwrap_or_default();
    // There may be private keys in secrets.
    let shown = one.resource.as_ref().filter(|_| contents && one.kind != Kind::Secret);
    let of_kind = proxy.kinds.get(&one.kind);
    let (status, error_state) = match &one.state {
        ResourceState::Missing => (pb::ConfigStatus::NotSent, None),
        ResourceState::Sent => (pb::ConfigStatus::Stale, None),
        ResourceState::Accepted => (pb::ConfigStatus::Synced, None),
        ResourceState::Refused(reason) | ResourceState::Lapsed(reason) => {
            let at = of_kind.and_then(|kind| kind.last_refused.as_ref()).map(|refusal| refusal.at.into());
            let (details, version_info) = (reason.to_string(), version.clone());
            let state = UpdateFailureState { last_update_attempt: at, details, version_info };
            (pb::ConfigStatus::Error, Some(state))
        }
    };
    GenericXdsConfig {
        type_url: one.kind.type_url().to_owned(),
        name: one.name.to_string(),
        version_info: version,
        xds_config: shown.map(|resource| prost_types::Any {
            type_url: one.kind.type_url().to_owned(),
            value: resource.body.to_vec(),
        }),
        last_updated: of_kind.and_then(|kind| kind.last_sent.as_ref()).map(|sent| Timestamp::from(sent.at)),
        config_status: status.into(),
        error_state,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{self, Place};

    #[test]
    fn a_proxy_learns_of_itself_only() {
        let identity = |text: &str| auth::parse(&format!("spiffe://a/ns/{text}"));
        let own = ClientStatus {
            registry: Arc::default(),
            access: Access::default(),
            root_namespace: "outrider-system".into(),
        };
        let proxy = ProxyInfo { identity: identity("shop/sa/web"), ..ProxyInfo::default() };
        let sees = |who: Option<&str>, info: &ProxyInfo| {
            let caller = Caller {
                identity: who.and_then(identity),
                expires: None,
                serial: None,
                place: Place::Unknown,
            };
            assert_eq!(caller.identity.is_some(), who.is_some());
            own.may_see(&caller, info)
        };
        for (who, may) in [
            (Some("shop/sa/web"), true),
            (Some("shop/sa/cart"), false),
            (Some("other/sa/web"), false),
            (Some("outrider-system/sa/outrider-control"), true),
            (None, true),
        ] {
            assert_eq!(sees(who, &proxy), may, "{who:?}");
        }
        assert!(!sees(Some("shop/sa/web"), &ProxyInfo::default()), "nobody proved to be this one");
    }

    #[tokio::test]
    async fn a_proof_that_has_ended_is_none() {
        let own = ClientStatus {
            registry: Arc::default(),
            access: Access::default(),
            root_namespace: "outrider-system".into(),
        };
        let caller = Caller {
            identity: None,
            expires: Some(SystemTime::UNIX_EPOCH),
            serial: None,
            place: Place::Unknown,
        };
        let error = own.answer(&caller, pb::ClientStatusRequest::default()).await.unwrap_err();
        assert_eq!(error.code(), tonic::Code::Unauthenticated);
    }
}
