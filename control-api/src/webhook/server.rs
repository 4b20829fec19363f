//! HTTPS for the API server: bounded in connections, bytes and time, under a certificate of the mesh's own authority
//! that is made anew at half its life while connections go on.

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
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::Policy;
use super::question::Question;
use super::review::answer;
use crate::accept;
use crate::serve::listen::Tls;

/// Connections at a time; the API server keeps a few.
const MAX_CONNECTIONS: usize = 256;
/// Largest question, in bytes: an object of 3 MiB, and the old one.
const MAX_BODY_BYTES: usize = 8 * 1024 * 1024;
/// For a handshake, a head, a body; the API server waits 30 s at the most.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection may stay: afterwards the API server comes again, and sees the newest certificate.
const LIFE: Duration = Duration::from_secs(600);

/// Answers until `ending` is set.
pub async fn run(
    listener: TcpListener,
    policy: watch::Receiver<Arc<Policy>>,
    tls: watch::Receiver<Arc<Tls>>,
    ending: watch::Receiver<bool>,
) {
    accept::each(listener, ("the webhook", MAX_CONNECTIONS), ending.clone(), move |stream, peer| {
        let (policy, tls, ending) = (policy.clone(), tls.clone(), ending.clone());
        async move {
            if let Err(error) = connection(stream, policy, &tls, ending).await {
                told(peer, &error);
            }
        }
    })
    .await;
}

fn told(peer: SocketAddr, error: &io::Error) {
    metrics::counter!("outrider_control_webhook_failures_total").increment(1);
    tracing::info!(%peer, %error, "a connection of the webhook failed");
}

async fn connection(
    stream: TcpStream,
    policy: watch::Receiver<Arc<Policy>>,
    tls: &watch::Receiver<Arc<Tls>>,
    mut ending: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut config = rustls::ServerConfig::clone(&tls.borrow().config);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let _ = stream.set_nodelay(true);
    let accepting = TlsAcceptor::from(Arc::new(config)).accept(stream);
    let stream = timeout(PATIENCE, accepting).await.map_err(|_| io::ErrorKind::TimedOut)??;
    let service = service_fn(|request: Request<Incoming>| {
        let policy = Arc::clone(&policy.borrow());
        async move { Ok::<_, Infallible>(respond(request, policy).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = std::pin::pin!(served);
    tokio::select! {
        done = served.as_mut() => return done.map_err(io::Error::other),
        () = tokio::time::sleep(LIFE) => {}
        _ = ending.wait_for(|ending| *ending) => {}
    }
    // The answer that is under way is still given.
    served.as_mut().graceful_shutdown();
    match timeout(PATIENCE, served).await {
        Ok(done) => done.map_err(io::Error::other),
        Err(_) => Ok(()),
    }
}

async fn respond(request: Request<Incoming>, policy: Arc<Policy>) -> Response<Full<Bytes>> {
    if request.method() != Method::POST {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only POST\n");
    }
    let Some(question) = Question::parse(request.uri().path()) else {
        return text(StatusCode::NOT_FOUND, "there are /inject, /inject/enabled and /audit/MODE/LEVEL\n");
    };
    let body = timeout(PATIENCE, Limited::new(request.into_body(), MAX_BODY_BYTES).collect()).await;
    let body = match body {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => return text(StatusCode::PAYLOAD_TOO_LARGE, "the body is cut off, or too large\n"),
        Err(_) => return text(StatusCode::REQUEST_TIMEOUT, "the body did not come in time\n"),
    };
    let Ok(review) = serde_json::from_slice::<Value>(&body) else {
        return text(StatusCode::BAD_REQUEST, "the body is not JSON\n");
    };
    match answer(&review, question, &policy) {
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
