//! The HTTP API: what is in force, who has it, and what is wrong. It changes nothing but faults.
//!
//! Everybody may ask for health and metrics; the rest is answered on loopback connections only, because it shows the
//! whole mesh. There anybody may stop faults; who begins them shows the operator's token.

mod answer;
mod faults;
mod objects;
mod proxies;
mod services;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::accept;
use crate::auth::operator::OperatorToken;
use crate::engine::Engine;
use crate::registry::Registry;
use answer::{Answer, Query};
use faults::Done;

/// Connections at a time.
const MAX_CONNECTIONS: usize = 64;
/// Those of one source. All who forward the port, and all on the control server's host, are one.
const MAX_CONNECTIONS_OF_ONE: usize = MAX_CONNECTIONS / 2;
/// There is nothing to prove; the oldest of a source goes when it has too many.
const PLACES: accept::Bounds = accept::Bounds {
    most: MAX_CONNECTIONS,
    of_one: MAX_CONNECTIONS_OF_ONE,
    unproven_of_one: MAX_CONNECTIONS_OF_ONE,
};
/// For a head to come in.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest body of a request: faults are small.
const MAX_BODY_BYTES: usize = 256 * 1024;
/// How long a change waits for its compiling before what there is then is the answer.
const COMPILE_TIMEOUT: Duration = Duration::from_secs(5);
/// The description of all this.
const OPENAPI: &str = include_str!("openapi.json");

const HELP: &str = "GET /healthz                            whether the process answers
GET /readyz                             whether proxies are served what is in force
GET /metrics                            for Prometheus
GET /openapi.json                       this, for programs
GET /api/v1/status                      all objects with their conditions, and what is wrong with files
GET /api/v1/status/KIND/NAMESPACE/NAME  one object
GET /api/v1/proxies                     who is connected
GET /api/v1/proxies/ID                  one proxy, and how it stands with each resource
GET /api/v1/proxies/ID/config           the resources themselves
GET /api/v1/services                    services
GET /api/v1/services/NAMESPACE/NAME     one, with its endpoints
GET /api/v1/workloads                   workloads that have registered themselves
GET /api/v1/faults                      faults, and whether all of them are stopped
POST /api/v1/faults                     begins those of a YAML file (operator's token)
POST /api/v1/faults/stop                stops all of them until that is lifted
POST /api/v1/faults/resume              lifts it (operator's token)
POST /api/v1/faults/NAMESPACE/NAME/stop stops one
";

/// What the API tells of.
#[derive(Clone, Debug)]
pub struct Api {
    /// What is in force.
    pub engine: Arc<Engine>,
    /// Who has it.
    pub registry: Arc<Registry>,
    /// Metrics.
    pub recorder: PrometheusHandle,
    /// Who may begin faults.
    pub operator: OperatorToken,
}

/// Listens until `ending` is set, and says where.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn start(
    address: SocketAddr,
    api: Api,
    ending: watch::Receiver<bool>,
) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    let api = Arc::new(api);
    let serve = move |stream, peer, mut place: accept::Place| {
        let api = Arc::clone(&api);
        async move {
            let _ = place.keep(serve(stream, peer, &api)).await;
        }
    };
    tokio::spawn(accept::each(listener, ("the API", PLACES), accept::set(ending), serve));
    Ok(bound)
}

async fn serve(stream: TcpStream, peer: SocketAddr, api: &Arc<Api>) {
    let service = service_fn(|request: Request<Incoming>| {
        let api = Arc::clone(api);
        async move {
            let (head, body) = request.into_parts();
            let body = match read(body).await {
                Ok(body) => body,
                Err(refused) => return Ok::<_, Infallible>(refused.into_response()),
            };
            let asked = Arc::clone(&api);
            let done = blocking(move || {
                let query = Query::new(&head.uri);
                let refused = refused(&head.method, &head.headers, (&query, peer)).map(Done::Answered);
                refused.unwrap_or_else(|| match head.method {
                    Method::POST => change(&query, &head.headers, &body, &asked),
                    _ => Done::Answered(route(&query, &asked)),
                })
            });
            let answered = match done.await {
                Ok(Done::Answered(answer)) => Ok(answer),
                Ok(Done::Changed(change)) => {
                    api.engine.caught_up(change, COMPILE_TIMEOUT).await;
                    blocking(move || faults::all(&api)).await
                }
                Err(failed) => Err(failed),
            };
            Ok(answered.unwrap_or_else(|failed| failed).into_response())
        }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection of the API ended");
    }
}

/// Thousands of resources take a while; the streams of proxies must not wait for them.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Answer> {
    let failed = |_| Answer::text(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be made\n");
    tokio::task::spawn_blocking(work).await.map_err(failed)
}

/// Why a request is refused whatever there is.
fn refused(method: &Method, headers: &HeaderMap, (query, peer): (&Query, SocketAddr)) -> Option<Answer> {
    if !matches!(*method, Method::GET | Method::HEAD | Method::POST) {
        return Some(Answer::text(StatusCode::METHOD_NOT_ALLOWED, "only GET, HEAD and POST\n"));
    }
    if *method != Method::POST
        && matches!(query.segments().as_slice(), ["healthz" | "readyz" | "metrics" | "openapi.json"])
    {
        return None;
    }
    let forbidden = |why: &str| Some(Answer::text(StatusCode::FORBIDDEN, why));
    if !peer.ip().to_canonical().is_loopback() {
        return forbidden(
            "only on loopback connections: forward the port, or ask on the control server's host\n",
        );
    }
    // A page in a browser can be made to send requests here; it cannot hide that it did.
    if headers.contains_key("origin") || headers.contains_key("sec-fetch-site") {
        return forbidden("requests of web pages are refused\n");
    }
    let host = headers.get("host").and_then(|host| host.to_str().ok()).unwrap_or_default();
    let known = host.is_empty()
        || host.parse::<SocketAddr>().is_ok()
        || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
        || host.split(':').next() == Some("localhost");
    if known { None } else { forbidden("the host must be localhost or an IP address\n") }
}

fn route(query: &Query, api: &Api) -> Answer {
    let parts: Vec<&str> = query.segments();
    match parts.as_slice() {
        [] => Answer::text(StatusCode::OK, HELP),
        ["healthz"] => Answer::text(StatusCode::OK, "ok\n"),
        ["readyz"] => ready(api),
        ["metrics"] => metrics(api),
        ["openapi.json"] => Answer::json_text(OPENAPI),
        ["api", "v1", "status"] => Answer::json(&objects::all(api)),
        ["api", "v1", "status", kind, namespace, name] => object(api, &format!("{kind}/{namespace}/{name}")),
        // What is in no namespace.
        ["api", "v1", "status", kind, name] => object(api, &format!("{kind}//{name}")),
        ["api", "v1", "proxies"] => Answer::json(&proxies::all(api)),
        ["api", "v1", "proxies", id] => proxies::one(api, id, query),
        ["api", "v1", "proxies", id, "config"] => proxies::config(api, id, query),
        ["api", "v1", "services"] => Answer::json(&services::all(api)),
        ["api", "v1", "services", namespace, name] => {
            let found = services::one(api, namespace, name);
            Answer::found(found, ("service", &format!("{namespace}/{name}"), "`outrider status`"))
        }
        ["api", "v1", "workloads"] => Answer::json(&services::workloads(api)),
        ["api", "v1", "faults"] => faults::all(api),
        _ => Answer::text(StatusCode::NOT_FOUND, format!("no such page; there are:\n{HELP}")),
    }
}

fn object(api: &Api, key: &str) -> Answer {
    Answer::found(objects::one(api, key), ("object", key, "`outrider status`"))
}

/// What of a request's body there may be, as text.
async fn read(body: Incoming) -> Result<String, Answer> {
    let limited = Limited::new(body, MAX_BODY_BYTES).collect();
    let too_large = || {
        let reason = format!("a body that is whole, and {MAX_BODY_BYTES} bytes at most\n");
        Answer::text(StatusCode::PAYLOAD_TOO_LARGE, reason)
    };
    let read = tokio::time::timeout(HEADER_TIMEOUT, limited).await;
    let bytes = read.ok().and_then(Result::ok).ok_or_else(too_large)?.to_bytes();
    let not_text = |_| Answer::text(StatusCode::BAD_REQUEST, "the body is not UTF-8\n");
    String::from_utf8(bytes.to_vec()).map_err(not_text)
}

/// What changes something. To stop faults can do no harm; to begin them takes the operator's token.
fn change(query: &Query, headers: &HeaderMap, body: &str, api: &Api) -> Done {
    let authorization = headers.get("authorization").map(HeaderValue::as_bytes);
    let operator = api.operator.is_in(authorization);
    let parts: Vec<&str> = query.segments();
    match parts.as_slice() {
        ["api", "v1", "faults", "stop"] => faults::stop_all(api, true),
        ["api", "v1", "faults", namespace, name, "stop"] => faults::stop(api, namespace, name),
        ["api", "v1", "faults"] if operator => faults::apply(api, body),
        ["api", "v1", "faults", "resume"] if operator => faults::stop_all(api, false),
        ["api", "v1", "faults"] | ["api", "v1", "faults", "resume"] => {
            let reason = "the operator's token is needed: operator.token in the state directory\n";
            Done::Answered(Answer::text(StatusCode::UNAUTHORIZED, reason))
        }
        _ => {
            let reason = "only faults can be changed here\n";
            Done::Answered(Answer::text(StatusCode::METHOD_NOT_ALLOWED, reason))
        }
    }
}

fn ready(api: &Api) -> Answer {
    if api.engine.compiled().complete {
        Answer::text(StatusCode::OK, "ready\n")
    } else {
        Answer::text(StatusCode::SERVICE_UNAVAILABLE, "the objects are not all read yet\n")
    }
}

fn metrics(api: &Api) -> Answer {
    let compiled = api.engine.compiled();
    let count = |number: usize| f64::from(u32::try_from(number).unwrap_or(u32::MAX));
    metrics::gauge!("outrider_control_proxies").set(count(api.registry.len()));
    metrics::gauge!("outrider_control_objects").set(count(compiled.mesh.objects().len()));
    metrics::gauge!("outrider_control_problems").set(count(compiled.diagnostics.len()));
    metrics::gauge!("outrider_control_faults").set(count(compiled.injections.running().count()));
    let stopped = usize::from(api.engine.experiments().is_stopped());
    metrics::gauge!("outrider_control_faults_stopped").set(count(stopped));
    let revoked = api.engine.revocations().now().entries();
    metrics::gauge!("outrider_control_revoked").set(count(revoked));
    let age = compiled.since.elapsed().unwrap_or_default();
    metrics::gauge!("outrider_control_config_age_seconds").set(age.as_secs_f64());
    Answer::typed(StatusCode::OK, "text/plain; version=0.0.4", api.recorder.render())
}
