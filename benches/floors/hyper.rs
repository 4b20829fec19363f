//! The floor of HTTP/1.1 with libraries: hyper's server, and the pooled client of hyper-util behind it.

mod common;

use std::convert::Infallible;
use std::process::ExitCode;

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::http::uri::{Authority, Parts, PathAndQuery, Scheme};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

/// Upstream connections that are kept.
const MAX_IDLE: usize = 2000;

type Pool = Client<HttpConnector, Incoming>;

thread_local! {
    static POOL: Pool = {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Client::builder(TokioExecutor::new()).pool_max_idle_per_host(MAX_IDLE).build(connector)
    };
}

fn main() -> ExitCode {
    common::main(|client, upstream| async move {
        let pool = POOL.with(Clone::clone);
        let authority = Authority::try_from(upstream.to_string()).ok();
        let service = service_fn(move |request| forward(pool.clone(), authority.clone(), request));
        // A client that goes away is no matter.
        let _ = serve(client, service).await;
    })
}

async fn serve<S>(client: TcpStream, service: S) -> hyper::Result<()>
where
    S: hyper::service::HttpService<Incoming, ResBody = BoxBody<Bytes, hyper::Error>, Error = Infallible>,
{
    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(client), service).await
}

async fn forward(
    pool: Pool,
    authority: Option<Authority>,
    mut request: Request<Incoming>,
) -> Result<Response<BoxBody<Bytes, hyper::Error>>, Infallible> {
    let mut parts = Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = authority;
    parts.path_and_query =
        request.uri().path_and_query().cloned().or_else(|| Some(PathAndQuery::from_static("/")));
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    let answered = pool.request(request).await;
    Ok(answered.map_or_else(
        |_| {
            let body = Empty::new().map_err(|never: Infallible| match never {}).boxed();
            let mut answer = Response::new(body);
            *answer.status_mut() = StatusCode::BAD_GATEWAY;
            answer
        },
        |answer| answer.map(BodyExt::boxed),
    ))
}
