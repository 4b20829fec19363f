//! Keeps the ADS stream open: connects, talks, and connects again.

use std::time::Duration;

use outrider_proto::envoy::service::discovery::v3 as pb;
use outrider_proto::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::decode;
use super::session::Session;
use crate::control::Message;
use crate::control::reach::{self, ReachError};
use crate::control::store::Wanted;
use crate::model::ClusterEntry;

/// Requests that may wait to be sent.
const QUEUED_REQUESTS: usize = 64;
/// Largest response, in bytes.
const MAX_RESPONSE_BYTES: usize = 64 * 1024 * 1024;
/// First and longest pause before connecting again; each is random up to twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// A stream that lived this long was a good one.
const GOOD_STREAM: Duration = Duration::from_secs(30);
/// When nothing has come for this long, memory is given back that only reading configuration needs.
const QUIET: Duration = Duration::from_secs(5);
/// How a dead connection is noticed.
const KEEPALIVE: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error("there is no such cluster")]
    NoCluster,
    #[error(transparent)]
    Reach(#[from] ReachError),
    #[error("stream ended: {0}")]
    Status(#[from] tonic::Status),
    #[error("the stream broke before a response was answered")]
    Broken,
    #[error("the proxy is ending")]
    Ending,
}

/// Talks to the control server, which is a static cluster, until the proxy ends.
pub async fn run(
    server: String,
    mut session: Session,
    mut wanted: watch::Receiver<Wanted>,
    control: mpsc::Sender<Message>,
) {
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
    server: &str,
    session: &mut Session,
    wanted: &mut watch::Receiver<Wanted>,
    control: &mpsc::Sender<Message>,
) -> Result<(), StreamError> {
    let channel = connect(&cluster(server, control).await?).await?;
    let mut client =
        AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_RESPONSE_BYTES);
    let (send, requests) = mpsc::channel(QUEUED_REQUESTS);
    let first = session.open(&wanted.borrow_and_update(), Instant::now());
    say(&send, first).await?;
    let mut responses = client.delta_aggregated_resources(ReceiverStream::new(requests)).await?.into_inner();
    control.send(Message::Asked).await.map_err(|_| StreamError::Ending)?;
    tracing::info!("configuration stream is open");
    metrics::gauge!("outrider_xds_connected").set(1.0);
    let mut quiet = None;
    loop {
        tokio::select! {
            // What an answer makes wanted is asked for before the next one.
            biased;
            changed = wanted.changed() => {
                changed.map_err(|_| StreamError::Ending)?;
                let requests = session.follow(&wanted.borrow_and_update());
                say(&send, requests).await?;
            }
            response = responses.message() => match response? {
                Some(response) => {
                    say(&send, [handle(response, session, control).await?]).await?;
                    quiet = Some(Instant::now() + QUIET);
                }
                None => return Ok(()),
            },
            () = until(quiet), if quiet.is_some() => {
                quiet = None;
                outrider_proto::release_descriptors();
                crate::sys::release_code();
                crate::sys::release_free_memory();
            }
        }
    }
}

async fn say(
    send: &mpsc::Sender<pb::DeltaDiscoveryRequest>,
    requests: impl IntoIterator<Item = pb::DeltaDiscoveryRequest>,
) -> Result<(), StreamError> {
    for request in requests {
        send.send(request).await.map_err(|_| StreamError::Broken)?;
    }
    Ok(())
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Applies a response and says what to answer.
async fn handle(
    response: pb::DeltaDiscoveryResponse,
    session: &mut Session,
    control: &mpsc::Sender<Message>,
) -> Result<pb::DeltaDiscoveryRequest, StreamError> {
    // What the control server makes up does not make series.
    let kind = decode::kind(&response.type_url).map_or("other", decode::url);
    let mut update = session.receive(response, Instant::now());
    let (answer, applied) = oneshot::channel();
    let changes = std::mem::take(&mut update.changes);
    control.send(Message::Apply(update.kind, changes, answer)).await.map_err(|_| StreamError::Ending)?;
    let request = session.answer(update, applied.await.map_err(|_| StreamError::Ending)?);
    let labels = [("type", kind)];
    metrics::counter!("outrider_xds_updates_total", &labels).increment(1);
    if let Some(error) = &request.error_detail {
        metrics::counter!("outrider_xds_rejects_total", &labels).increment(1);
        tracing::warn!(reason = error.message, "configuration refused");
    }
    Ok(request)
}

/// The control server as it is configured now, with the certificates that there are now.
async fn cluster(name: &str, control: &mpsc::Sender<Message>) -> Result<ClusterEntry, StreamError> {
    let (answer, answered) = oneshot::channel();
    let question = Message::Cluster(name.to_owned(), answer);
    control.send(question).await.map_err(|_| StreamError::Ending)?;
    answered.await.map_err(|_| StreamError::Ending)?.ok_or(StreamError::NoCluster)
}

async fn connect(cluster: &ClusterEntry) -> Result<Channel, ReachError> {
    reach::connect(cluster, |endpoint| {
        endpoint
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
    })
    .await
}
