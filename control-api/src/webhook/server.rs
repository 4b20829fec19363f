//! HTTPS for the API server: bounded in connections, bytes and time, under a certificate of the mesh's own authority
//! that is made anew at half its life while connections go on.
//!
//! Whoever can connect can ask, unless the operator says whose certificates have to be shown: an API server shows none unless
//! it is told to. What that may cost is
//! bounded, for each source and in all, and keeps the control server's other work from nothing. A connection is for questions:
//! one that asks none, or wrong ones, is closed.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
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
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::timeout;

use super::Policy;
use super::certificates::Certificates;
use super::question::Question;
use super::review::answer;
use crate::accept::{self, Handshakes, Place, Proof, Sources};

/// Connections at a time. An API server has one for each question that it asks at a time, and keeps a few.
const MAX_CONNECTIONS: usize = 1024;
/// Those of one source: all API servers may come through one address (of a proxy of their cluster, or a node's).
const MAX_CONNECTIONS_OF_ONE: usize = MAX_CONNECTIONS / 4;
/// A burst of connections is one of questions: those that have not been answered yet are as many as there may be.
const PLACES: accept::Bounds = accept::Bounds {
    most: MAX_CONNECTIONS,
    of_one: MAX_CONNECTIONS_OF_ONE,
    unproven_of_one: MAX_CONNECTIONS_OF_ONE,
};
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
/// From the handshake to the head of the first question: who connects has one to ask.
const FIRST_QUESTION: Duration = Duration::from_secs(3);
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
    certificates: Certificates,
    ending: watch::Receiver<bool>,
) {
    let (bounds, end) = (Arc::new(Bounds::default()), accept::set(ending.clone()));
    let serve = move |stream, peer, mut place: Place| {
        let (policy, certificates, ending) = (policy.clone(), certificates.clone(), ending.clone());
        let bounds = Arc::clone(&bounds);
        async move {
            let client = Client { peer, asked: Notify::new(), proof: place.proof() };
            let serving = connection((stream, &client), policy, &certificates, (&bounds, ending));
            if let Some(Err(error)) = place.keep(serving).await {
                told(peer, &error);
            }
        }
    };
    accept::each(listener, ("the webhook", PLACES), end, serve).await;
}

/// Who is connected.
struct Client {
    peer: SocketAddr,
    /// Told when a question has begun that can be one.
    asked: Notify,
    /// Given when one was answered, or whoever asks has shown a certificate.
    proof: Proof,
}

fn told(peer: SocketAddr, error: &io::Error) {
    metrics::counter!("outrider_control_webhook_failures_total").increment(1);
    tracing::info!(%peer, %error, "a connection of the webhook failed");
}

async fn connection(
    (stream, client): (TcpStream, &Client),
    policy: watch::Receiver<Arc<Policy>>,
    certificates: &Certificates,
    (bounds, ending): (&Bounds, watch::Receiver<bool>),
) -> io::Result<()> {
    let config = certificates.config().map_err(io::Error::other)?;
    let _ = stream.set_nodelay(true);
    let stream = bounds.handshakes.accept(stream, client.peer.ip(), &config).await?;
    if certificates.are_asked_for() {
        client.proof.give();
    }
    let service = service_fn(|request: Request<Incoming>| {
        let policy = Arc::clone(&policy.borrow());
        async move { Ok::<_, Infallible>(respond(request, policy, (bounds, client)).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = std::pin::pin!(served);
    let unasked = async {
        if timeout(FIRST_QUESTION, client.asked.notified()).await.is_ok() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        done = served.as_mut() => return done.map_err(io::Error::other),
        () = unasked => return Err(io::Error::new(io::ErrorKind::TimedOut, "no question in time")),
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
    (bounds, client): (&Bounds, &Client),
) -> Response<Full<Bytes>> {
    if request.method() != Method::POST {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only POST\n");
    }
    let Some(question) = Question::parse(request.uri().path()) else {
        return text(StatusCode::NOT_FOUND, "there are /inject, /inject/enabled and /audit/MODE/LEVEL\n");
    };
    client.asked.notify_one();
    // Until the answer is made: as long as the question is kept.
    let room = async { (bounds.sources.place(client.peer.ip()).await, bounds.rooms.acquire().await) };
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
    let answered = answered.await.unwrap_or_else(failed);
    if answered.status() == StatusCode::OK {
        client.proof.give();
    }
    answered
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

/// No answer. Who asks wrong questions has no connection to go on with.
fn text(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text.to_owned()));
    response.headers_mut().insert(http::header::CONNECTION, http::HeaderValue::from_static("close"));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod slow_tests;
