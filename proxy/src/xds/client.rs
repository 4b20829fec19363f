//! Keeps the ADS stream open: connects, talks, and connects again.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use outrider_proto::envoy::service::discovery::v3 as pb;
use outrider_proto::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use super::session::Session;
use crate::control::{Applied, Message, Wanted};
use crate::identity::Refusal;
use crate::model::endpoint::Health;
use crate::model::tls::UpstreamTls;
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
/// When nothing has come for this long, memory is given back that only reading configuration needs.
const QUIET: Duration = Duration::from_secs(5);
/// How a dead connection is noticed.
const KEEPALIVE: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error("the cluster has no usable endpoint")]
    NoEndpoint,
    #[error("no TLS with the control server: {0}")]
    Tls(#[from] Refusal),
    #[error("cannot connect: {0}")]
    Connect(#[from] tonic::transport::Error),
    #[error("stream ended: {0}")]
    Status(#[from] tonic::Status),
    #[error("the stream broke before a response was answered")]
    Broken,
    #[error("the proxy is ending")]
    Ending,
}

/// Talks to the control server, which is a static cluster, until the proxy ends.
///
/// `notify`, where there is one, says that something else is wanted than before.
pub async fn run(
    server: String,
    mut session: Session,
    (mut wanted, notify): (Wanted, Option<Arc<Notify>>),
    control: mpsc::Sender<Message>,
) {
    let mut pause = FIRST_PAUSE;
    loop {
        let opened = Instant::now();
        match stream(&server, &mut session, (&mut wanted, notify.as_deref()), &control).await {
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
    (wanted, notify): (&mut Wanted, Option<&Notify>),
    control: &mpsc::Sender<Message>,
) -> Result<(), StreamError> {
    let channel = connect(cluster(server, control).await?).await?;
    let mut client =
        AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_RESPONSE_BYTES);
    let (send, requests) = mpsc::channel(QUEUED_REQUESTS);
    if notify.is_some() {
        *wanted = what_is_wanted(control).await?;
    }
    for request in session.open(wanted, Instant::now()) {
        send.send(request).await.map_err(|_| StreamError::Broken)?;
    }
    let mut responses = client.delta_aggregated_resources(ReceiverStream::new(requests)).await?.into_inner();
    tracing::info!("configuration stream is open");
    metrics::gauge!("outrider_xds_connected").set(1.0);
    let mut quiet = None;
    loop {
        tokio::select! {
            response = responses.message() => match response? {
                Some(response) => {
                    handle(response, session, wanted, (&send, control)).await?;
                    quiet = Some(Instant::now() + QUIET);
                }
                None => return Ok(()),
            },
            () = until(quiet), if quiet.is_some() => {
                quiet = None;
                outrider_proto::release_descriptors();
                let given_back_bytes = crate::sys::release_startup_code();
                crate::sys::release_free_memory();
                tracing::debug!(given_back_bytes, "code that reads configuration given back");
            }
            () = told(notify) => {
                *wanted = what_is_wanted(control).await?;
                for request in session.follow(wanted) {
                    send.send(request).await.map_err(|_| StreamError::Broken)?;
                }
            }
        }
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Until something else is wanted.
async fn told(notify: Option<&Notify>) {
    match notify {
        Some(notify) => notify.notified().await,
        None => std::future::pending().await,
    }
}

async fn what_is_wanted(control: &mpsc::Sender<Message>) -> Result<Wanted, StreamError> {
    let (answer, answered) = oneshot::channel();
    control.send(Message::Wanted(answer)).await.map_err(|_| StreamError::Ending)?;
    answered.await.map_err(|_| StreamError::Ending)
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
    send.send(request).await.map_err(|_| StreamError::Broken)?;
    *wanted = now;
    for request in session.follow(wanted) {
        send.send(request).await.map_err(|_| StreamError::Broken)?;
    }
    Ok(())
}

/// The control server as it is configured now, with the certificates that there are now.
async fn cluster(name: &str, control: &mpsc::Sender<Message>) -> Result<Arc<Cluster>, StreamError> {
    let (answer, answered) = oneshot::channel();
    let question = Message::Cluster(name.to_owned(), answer);
    control.send(question).await.map_err(|_| StreamError::Ending)?;
    answered.await.map_err(|_| StreamError::Ending)?.ok_or(StreamError::NoEndpoint)
}

async fn connect(cluster: Arc<Cluster>) -> Result<Channel, StreamError> {
    let addresses: Vec<String> = match &cluster.discovery {
        Discovery::Static(set) => set
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.health == Health::Well)
            .map(|endpoint| endpoint.address.to_string())
            .collect(),
        Discovery::Dns { hosts, .. } => {
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
    match &cluster.tls {
        None => Ok(endpoint.connect().await?),
        Some(tls) => secured(endpoint, address, tls).await,
    }
}

/// A connection over TLS, as the cluster's transport socket says.
async fn secured(endpoint: Endpoint, address: &str, tls: &UpstreamTls) -> Result<Channel, StreamError> {
    let mut config = rustls::ClientConfig::clone(&*tls.current()?.config);
    // Whatever else the cluster may offer, gRPC is HTTP/2.
    config.alpn_protocols = vec![b"h2".to_vec()];
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']).to_owned();
    let name = match &tls.server_name {
        Some(name) => name.clone(),
        None => ServerName::try_from(host).map_err(|_| StreamError::NoEndpoint)?,
    };
    let origin = Uri::try_from(format!("https://{address}")).map_err(|_| StreamError::NoEndpoint)?;
    let (connector, address) = (TlsConnector::from(Arc::new(config)), address.to_owned());
    let connector = tower::service_fn(move |_: Uri| {
        let (connector, name, address) = (connector.clone(), name.clone(), address.clone());
        async move {
            let stream = TcpStream::connect(address).await?;
            Ok::<_, io::Error>(TokioIo::new(connector.connect(name, stream).await?))
        }
    });
    Ok(endpoint.origin(origin).connect_with_connector(connector).await?)
}
