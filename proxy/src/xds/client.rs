//! Keeps the ADS stream open: connects, talks, and connects again.

use std::time::Duration;

use outrider_proto::envoy::config::cluster::v3::Cluster as ClusterMessage;
use outrider_proto::envoy::service::discovery::v3 as pb;
use outrider_proto::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use super::session::Session;
use crate::control::{Applied, Message, Wanted};
use crate::model::endpoint::Health;
use crate::model::{Cluster, Discovery};

/// Requests that may wait to be sent.
const QUEUED_REQUESTS: usize = 64;
/// Largest response, in bytes.
const MAX_RESPONSE_BYTES: usize = 64 * 1024 * 1024;
/// First and longest pause before connecting again; each is random up to twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// A stream that lived this long was a good one.
const GOOD_STREAM: Duration = Duration::from_secs(30);
/// How a dead connection is noticed.
const KEEPALIVE: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error("the cluster has no usable endpoint")]
    NoEndpoint,
    #[error("cannot connect: {0}")]
    Connect(#[from] tonic::transport::Error),
    #[error("stream ended: {0}")]
    Status(#[from] tonic::Status),
    #[error("the proxy is ending")]
    Ending,
}

/// Talks to the control server until the proxy ends.
pub async fn run(
    server: ClusterMessage,
    mut session: Session,
    wanted: Wanted,
    control: mpsc::Sender<Message>,
) {
    let mut wanted = wanted;
    let mut pause = FIRST_PAUSE;
    loop {
        let opened = Instant::now();
        match stream(&server, &mut session, &mut wanted, &control).await {
            Ok(()) => tracing::info!("control server closed the stream"),
            Err(StreamError::Ending) => return,
            Err(error) => {
                metrics::counter!("outrider_xds_stream_failures_total").increment(1);
                tracing::warn!(%error, "no configuration stream; going on with what is there");
            }
        }
        metrics::gauge!("outrider_xds_connected").set(0.0);
        if opened.elapsed() >= GOOD_STREAM {
            pause = FIRST_PAUSE;
        }
        sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn stream(
    server: &ClusterMessage,
    session: &mut Session,
    wanted: &mut Wanted,
    control: &mpsc::Sender<Message>,
) -> Result<(), StreamError> {
    let channel = connect(server).await?;
    let mut client =
        AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_RESPONSE_BYTES);
    let (send, requests) = mpsc::channel(QUEUED_REQUESTS);
    for request in session.open(wanted, Instant::now()) {
        send.send(request).await.map_err(|_| StreamError::Ending)?;
    }
    let mut responses = client.delta_aggregated_resources(ReceiverStream::new(requests)).await?.into_inner();
    tracing::info!("configuration stream is open");
    metrics::gauge!("outrider_xds_connected").set(1.0);
    while let Some(response) = responses.message().await? {
        handle(response, session, wanted, (&send, control)).await?;
    }
    Ok(())
}

async fn handle(
    response: pb::DeltaDiscoveryResponse,
    session: &mut Session,
    wanted: &mut Wanted,
    (send, control): (&mpsc::Sender<pb::DeltaDiscoveryRequest>, &mpsc::Sender<Message>),
) -> Result<(), StreamError> {
    let url = response.type_url.clone();
    let mut update = session.receive(response, Instant::now());
    let (answer, applied) = oneshot::channel();
    let changes = std::mem::take(&mut update.changes);
    control.send(Message::Apply(changes, answer)).await.map_err(|_| StreamError::Ending)?;
    let Applied { refused, wanted: now } = applied.await.map_err(|_| StreamError::Ending)?;
    let request = session.answer(update, refused);
    let labels = [("type", url)];
    metrics::counter!("outrider_xds_updates_total", &labels).increment(1);
    if let Some(error) = &request.error_detail {
        metrics::counter!("outrider_xds_rejects_total", &labels).increment(1);
        tracing::warn!(reason = error.message, "configuration refused");
    }
    send.send(request).await.map_err(|_| StreamError::Ending)?;
    *wanted = now;
    for request in session.follow(wanted) {
        send.send(request).await.map_err(|_| StreamError::Ending)?;
    }
    Ok(())
}

async fn connect(server: &ClusterMessage) -> Result<Channel, StreamError> {
    let cluster = Cluster::from_proto(server).map_err(|_| StreamError::NoEndpoint)?;
    let addresses: Vec<String> = match &cluster.discovery {
        Discovery::Static(set) => set
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.health == Health::Well)
            .map(|endpoint| endpoint.address.to_string())
            .collect(),
        Discovery::StrictDns { hosts, .. } => {
            hosts.iter().map(|host| format!("{}:{}", host.host, host.port)).collect()
        }
        Discovery::Eds(_) | Discovery::OriginalDst => Vec::new(),
    };
    let choice = fastrand::usize(..addresses.len().max(1));
    let address = addresses.get(choice).ok_or(StreamError::NoEndpoint)?;
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(cluster.connect_timeout)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    Ok(endpoint.connect().await?)
}
