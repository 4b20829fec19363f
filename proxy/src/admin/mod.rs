//! The operator's HTTP endpoints, on the control thread and a port of their own.

pub mod process;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::control::{Message, Question};
use crate::observe::logging::{self, LevelError, LevelHandle};

/// Connections at a time; one more ends the oldest, so that nobody who holds them all keeps the probes out.
const MAX_CONNECTIONS: usize = 64;
/// For a head to come in.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// For a connection, on which there is one request, from its first byte to the last of the answer.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// For the control thread to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

const HELP: &str = "GET  /ready              whether traffic is served (200 or 503)
GET  /live               whether the process answers
GET  /stats/prometheus   metrics
GET  /config_dump        all resources, as JSON
GET  /clusters           clusters and endpoints
GET  /listeners          listeners and their addresses
GET  /server_info        version, state, how far the proxy is locked in
GET  /logging            levels of the proxy's own log
POST /logging?level=L    sets all: error, warn, info, debug, trace, off
POST /logging?MODULE=L   sets that of one module
POST /drain              finishes what is under way, then ends
";

/// What the proxy says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Configuration is still awaited.
    Initializing,
    /// Traffic is served.
    Live,
    /// Nothing new is accepted.
    Draining,
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            Self::Initializing => "INITIALIZING",
            Self::Live => "LIVE",
            Self::Draining => "DRAINING",
        }
    }
}

/// The state, shared between the control thread and the endpoints.
#[derive(Clone, Debug, Default)]
pub struct SharedState(Arc<AtomicU8>);

impl SharedState {
    /// Says what the state is.
    pub fn set(&self, state: State) {
        self.0.store(state as u8, Ordering::Relaxed);
    }

    fn get(&self) -> State {
        match self.0.load(Ordering::Relaxed) {
            0 => State::Initializing,
            1 => State::Live,
            _ => State::Draining,
        }
    }
}

/// What the endpoints need.
pub struct Admin {
    /// To ask the control thread.
    pub control: mpsc::Sender<Message>,
    /// The state.
    pub state: SharedState,
    /// The level of the log.
    pub level: LevelHandle,
    /// Metrics that are not of workers.
    pub recorder: metrics_exporter_prometheus::PrometheusHandle,
    /// How far the proxy is locked in.
    pub lock_in: serde_json::Value,
    /// Whether something may be changed here. In a pod the workload reaches the port too.
    pub changes: bool,
}

/// Listens, and says where.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn start(address: SocketAddr, admin: Admin) -> std::io::Result<SocketAddr> {
    let socket = TcpListener::bind(address).await?;
    let bound = socket.local_addr()?;
    tokio::task::spawn_local(accept(socket, Rc::new(admin)));
    Ok(bound)
}

async fn accept(socket: TcpListener, admin: Rc<Admin>) {
    let mut open: VecDeque<AbortHandle> = VecDeque::with_capacity(MAX_CONNECTIONS);
    loop {
        match socket.accept().await {
            Ok((stream, _)) => {
                open.retain(|connection| !connection.is_finished());
                if open.len() >= MAX_CONNECTIONS
                    && let Some(oldest) = open.pop_front()
                {
                    oldest.abort();
                }
                let admin = Rc::clone(&admin);
                let served = tokio::task::spawn_local(async move {
                    let _ = timeout(CONNECTION_TIMEOUT, serve(stream, &admin)).await;
                });
                open.push_back(served.abort_handle());
            }
            Err(error) => {
                tracing::warn!(%error, "admin port cannot accept");
                tokio::time::sleep(HEADER_TIMEOUT / 100).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, admin: &Rc<Admin>) {
    let service = service_fn(|request: Request<Incoming>| {
        let admin = Rc::clone(admin);
        async move { Ok::<_, Infallible>(answer(&request, &admin).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "admin connection ended");
    }
}

async fn answer(request: &Request<Incoming>, admin: &Admin) -> Response<Full<Bytes>> {
    if let Some(refusal) = foreign(request) {
        return text(StatusCode::FORBIDDEN, refusal);
    }
    let path = request.uri().path();
    let wanted = match path {
        "/drain" => &[Method::POST][..],
        "/logging" => &[Method::GET, Method::HEAD, Method::POST][..],
        _ => &[Method::GET, Method::HEAD][..],
    };
    if !wanted.contains(request.method()) {
        let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
        let allowed: Vec<&str> = wanted.iter().map(Method::as_str).collect();
        if let Ok(value) = allowed.join(", ").parse() {
            refusal.headers_mut().insert("allow", value);
        }
        return refusal;
    }
    if request.method() == Method::POST && !admin.changes {
        return text(StatusCode::FORBIDDEN, "OUTRIDER_ADMIN_CHANGES=off: nothing can be changed here\n");
    }
    match path {
        "/" => text(StatusCode::OK, HELP),
        "/live" => text(StatusCode::OK, "LIVE\n"),
        "/ready" => {
            let state = admin.state.get();
            let status = if state == State::Live { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            text(status, format!("{}\n", state.name()))
        }
        "/server_info" => {
            let info = serde_json::json!({
                "version": env!("CARGO_PKG_VERSION"),
                "state": admin.state.get().name(),
                "lock_in": admin.lock_in,
            });
            typed(StatusCode::OK, "application/json", info.to_string())
        }
        "/stats/prometheus" | "/metrics" => match ask(admin, Question::Metrics).await {
            Some(workers) => {
                let all = format!("{workers}{}{}", process::render(), admin.recorder.render());
                typed(StatusCode::OK, "text/plain; version=0.0.4", all)
            }
            None => busy(),
        },
        "/config_dump" => asked(admin, Question::ConfigDump, "application/json").await,
        "/clusters" => asked(admin, Question::Clusters, "text/plain").await,
        "/listeners" => asked(admin, Question::Listeners, "text/plain").await,
        "/logging" => logging(request, admin),
        "/drain" => match admin.control.send(Message::Drain).await {
            Ok(()) => text(StatusCode::OK, "draining\n"),
            Err(_) => busy(),
        },
        _ => text(StatusCode::NOT_FOUND, format!("no such endpoint; there are:\n{HELP}")),
    }
}

/// A page in a browser can be made to send requests here; it cannot hide that it did.
fn foreign(request: &Request<Incoming>) -> Option<&'static str> {
    if request.headers().contains_key("origin") || request.headers().contains_key("sec-fetch-site") {
        return Some("requests of web pages are refused\n");
    }
    let host = request.headers().get("host").and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = crate::model::route_table::without_port(host).trim_matches(['[', ']']);
    let known = name == "localhost" || name.is_empty() || name.parse::<std::net::IpAddr>().is_ok();
    (!known).then_some("the host must be localhost or an IP address\n")
}

fn logging(request: &Request<Incoming>, admin: &Admin) -> Response<Full<Bytes>> {
    if request.method() == Method::POST {
        let (name, level) = request.uri().query().unwrap_or_default().split_once('=').unwrap_or_default();
        let module = (!matches!(name, "level" | "")).then_some(name);
        match logging::set(&admin.level, module, level) {
            Ok(()) => {}
            Err(LevelError::Gone) => return busy(),
            Err(error) => return text(StatusCode::BAD_REQUEST, format!("{error}\n")),
        }
    }
    text(StatusCode::OK, logging::describe(&admin.level))
}

async fn ask(admin: &Admin, question: Question) -> Option<String> {
    let (answer, answered) = oneshot::channel();
    admin.control.send(Message::Ask(question, answer)).await.ok()?;
    timeout(ANSWER_TIMEOUT, answered).await.ok()?.ok()
}

async fn asked(admin: &Admin, question: Question, kind: &'static str) -> Response<Full<Bytes>> {
    match ask(admin, question).await {
        Some(answer) => typed(StatusCode::OK, kind, answer),
        None => busy(),
    }
}

fn busy() -> Response<Full<Bytes>> {
    text(StatusCode::SERVICE_UNAVAILABLE, "the control thread did not answer\n")
}

fn text(status: StatusCode, body: impl Into<String>) -> Response<Full<Bytes>> {
    typed(status, "text/plain; charset=utf-8", body)
}

fn typed(status: StatusCode, kind: &'static str, body: impl Into<String>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.into())));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", http::HeaderValue::from_static(kind));
    response.headers_mut().insert("cache-control", http::HeaderValue::from_static("no-cache, max-age=0"));
    response.headers_mut().insert("x-content-type-options", http::HeaderValue::from_static("nosniff"));
    response
}
