//! The aggregated discovery service.

use std::pin::Pin;

use outrider_proto::envoy::service::discovery::v3 as pb;
use outrider_proto::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::listen::Client;
use super::protocol::Protocol;
use super::stream::{self, QUEUED_RESPONSES, Shared};
use super::{delta, sotw};
use crate::auth::Access;

/// Largest request, in bytes. A client that names every resource of a large mesh is still below it.
const MAX_REQUEST_BYTES: usize = 16 * 1024 * 1024;
/// Largest response, in bytes: a state of the world is one message, however large the mesh.
const MAX_RESPONSE_BYTES: usize = 256 * 1024 * 1024;

/// The service.
#[derive(Clone, Debug)]
pub struct Ads {
    shared: Shared,
    access: Access,
}

impl Ads {
    /// Ready to be added to a server.
    #[must_use]
    pub fn service(shared: Shared, access: Access) -> AggregatedDiscoveryServiceServer<Self> {
        AggregatedDiscoveryServiceServer::new(Self { shared, access })
            .max_decoding_message_size(MAX_REQUEST_BYTES)
            .max_encoding_message_size(MAX_RESPONSE_BYTES)
    }

    async fn open<P: Protocol>(
        &self,
        request: Request<Streaming<P::Request>>,
    ) -> Result<Response<Responses<P::Response>>, Status> {
        // No peer, no proof: a connection without one is treated as one that has shown nothing.
        let client = request.extensions().get::<Client>().cloned();
        let peer = client.as_ref().map(|client| client.peer.clone()).unwrap_or_default();
        let caller = self.access.caller(&peer, request.metadata()).await?;
        let used = client.map(|client| client.uses.begin());
        let (send, responses) = mpsc::channel(QUEUED_RESPONSES);
        // It ends with either direction of the stream.
        let serving = stream::serve::<P>(self.shared.clone(), caller, request.into_inner(), send);
        tokio::spawn(async move {
            serving.await;
            drop(used);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(responses))))
    }
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Ads {
    type StreamAggregatedResourcesStream = Responses<pb::DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<pb::DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<pb::DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        self.open::<sotw::Session>(request).await
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<pb::DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        self.open::<delta::Session>(request).await
    }
}
