//! HTTPS for the API server: bounded in connections, bytes and time, under a certificate of the mesh's own authority
//! that is made anew at half its life while connections go on.
//!
//! Whoever can connect can ask, because an API server shows no certificate unless it is told to. What that may cost is
//! bounded, for each source and in all, and keeps the control server's other work from nothing.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::Policy;
use super::question::Question;
use super::review::answer;
use crate::accept::{self, Handshakes, Sources};
use crate::serve::listen::Tls;

/// Connections at a time; the API server keeps a few.
const MAX_CONNECTIONS: usize = 256;
/// Largest question, in bytes: an object of 3 MiB, which is the largest request that an API server takes, and the old one,
/// of which etcd keeps 1.5 MiB at the most.
const MAX_BODY_BYTES: usize = 5 * 1024 * 1024;
/// Questions of one source that are read or wait for their answer.
const MAX_ROOMS_OF_ONE: usize = 8;
/// Those of all sources; more wait.
const MAX_ROOMS: usize = 32;
/// Questions that are answered at a time: parsed, one takes some thirty times its bytes.
const MAX_ANSWERING: usize = 2;
/// For a handshake, a head, a body; the API server waits 30 s at the most.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection may stay: afterwards the API server comes again, and sees the newest certificate.
const LIFE: Duration = Duration::from_secs(600);

/// What questions may cost.
#[derive(Debug)]
struct Bounds {
    handshakes: Handshakes,
    sources: Sources,
    rooms: Semaphore,
    answering: Arc<Semaphore>,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            handshakes: Handshakes::default(),
            sources: Sources::new(MAX_ROOMS_OF_ONE),
            rooms: Semaphore::new(MAX_ROOMS),
            answering: Arc::new(Semaphore::new(MAX_ANSWERING)),
        }
    }
}

/// Answers until `ending` is set.
pub async fn run(
    listener: TcpListener,
    policy: watch::Receiver<Arc<Policy>>,
    tls: watch::Receiver<Arc<Tls>>,
    ending: watch::Receiver<bool>,
) {
    let (bounds, end) = (Arc::new(Bounds::default()), accept::set(ending.clone()));
    let serve = move |stream, peer, place| {
        let (policy, tls, ending) = (policy.clone(), tls.clone(), ending.clone());
        let bounds = Arc::clone(&bounds);
        async move {
            if let Err(error) = connection((stream, peer), policy, &tls, (&bounds, ending)).await {
                told(peer, &error);
            }
            drop(place);
        }
    };
    accept::each(listener, ("the webhook", MAX_CONNECTIONS), end, serve).await;
}

fn told(peer: SocketAddr, error: &io::Error) {
    metrics::counter!("outrider_control_webhook_failures_total").increment(1);
    tracing::info!(%peer, %error, "a connection of the webhook failed");
}

async fn connection(
    (stream, peer): (TcpStream, SocketAddr),
    policy: watch::Receiver<Arc<Policy>>,
    tls: &watch::Receiver<Arc<Tls>>,
    (bounds, ending): (&Bounds, watch::Receiver<bool>),
) -> io::Result<()> {
    let mut config = rustls::ServerConfig::clone(&tls.borrow().config);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let _ = stream.set_nodelay(true);
    let stream = bounds.handshakes.accept(stream, peer.ip(), &Arc::new(config)).await?;
    let service = service_fn(|request: Request<Incoming>| {
        let policy = Arc::clone(&policy.borrow());
        async move { Ok::<_, Infallible>(respond(request, policy, (bounds, peer.ip())).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = std::pin::pin!(served);
    tokio::select! {
        done = served.as_mut() => return done.map_err(io::Error::other),
        () = tokio::time::sleep(LIFE) => {}
        () = accept::set(ending) => {}
    }
    // The answer that is under way is still given.
    served.as_mut().graceful_shutdown();
    match timeout(PATIENCE, served).await {
        Ok(done) => done.map_err(io::Error::other),
        Err(_) => Ok(()),
    }
}

async fn respond(
    request: Request<Incoming>,
    policy: Arc<Policy>,
    (bounds, from): (&Bounds, IpAddr),
) -> Response<Full<Bytes>> {
    if request.method() != Method::POST {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only POST\n");
    }
    let Some(question) = Question::parse(request.uri().path()) else {
        return text(StatusCode::NOT_FOUND, "there are /inject, /inject/enabled and /audit/MODE/LEVEL\n");
    };
    // Until the answer is made: as long as the question is kept.
    let room = async { (bounds.sources.place(from).await, bounds.rooms.acquire().await) };
    let Ok(_room) = timeout(PATIENCE, room).await else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "too many questions at a time\n");
    };
    let body = timeout(PATIENCE, Limited::new(request.into_body(), MAX_BODY_BYTES).collect()).await;
    let body = match body {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => return text(StatusCode::PAYLOAD_TOO_LARGE, "the body is cut off, or too large\n"),
        Err(_) => return text(StatusCode::REQUEST_TIMEOUT, "the body did not come in time\n"),
    };
    let Ok(place) = Arc::clone(&bounds.answering).acquire_owned().await else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "no more questions are answered\n");
    };
    // Large ones take a while, for which the streams of proxies shall not wait. The place is kept even if the one who asked
    // goes: what is begun goes on.
    let answered = tokio::task::spawn_blocking(move || {
        let answered = answered(&body, question, &policy);
        drop(place);
        answered
    });
    let failed = |_| text(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be made\n");
    answered.await.unwrap_or_else(failed)
}

fn answered(body: &[u8], question: Question, policy: &Policy) -> Response<Full<Bytes>> {
    let Ok(review) = serde_json::from_slice::<Value>(body) else {
        return text(StatusCode::BAD_REQUEST, "the body is not JSON\n");
    };
    match answer(&review, question, policy) {
        Ok(answer) => {
            let allowed = answer["response"]["allowed"] == true;
            let allowed = if allowed { "true" } else { "false" };
            metrics::counter!("outrider_control_admissions_total", "allowed" => allowed).increment(1);
            let mut response = Response::new(Full::from(answer.to_string()));
            let json = http::HeaderValue::from_static("application/json");
            response.headers_mut().insert(http::header::CONTENT_TYPE, json);
            response
        }
        Err(error) => text(StatusCode::BAD_REQUEST, &format!("{error}\n")),
    }
}

fn text(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text.to_owned()));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod slow_tests;
