//! HTTP/2 over the `h2` crate: gRPC, where trailers have to be read, and streams that stay open.

use std::sync::Arc;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderName, HeaderValue, Method, Request};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::Protocol;
use super::engine::{PAUSE, Plan};
use super::http1::authority;
use super::meter::{Failure, Meter, Moved};
use super::outcome::ErrorKind;
use crate::wire::grpc;

/// Flow-control windows: no answer waits for the generator.
const WINDOW_BYTES: u32 = 16 << 20;

/// Streams of one connection until the run is over; a new connection when it breaks.
pub(super) async fn connection(plan: Arc<Plan>, meter: Arc<Meter>) {
    let mut opened = open(&plan).await;
    meter.start_together().await;
    let streams = match plan.spec.protocol {
        Protocol::Http2 { streams } | Protocol::GrpcUnary { streams } | Protocol::GrpcStream { streams } => {
            streams
        }
        Protocol::Http1 | Protocol::Tcp | Protocol::WebSocket | Protocol::NewConnection => 1,
    };
    loop {
        match opened {
            Ok((sender, mut tasks)) => {
                for _ in 0..streams {
                    tasks.spawn(calls(Arc::clone(&plan), Arc::clone(&meter), sender.clone()));
                }
                drop(sender);
                // The streams end when the connection does, and it when they are gone.
                while tasks.join_next().await.is_some() {}
            }
            Err(failure) => {
                // Without a connection a turn is lost.
                let Some(turn) = meter.turn().await else { return };
                meter.failed(turn, failure);
            }
        }
        if meter.is_over() {
            return;
        }
        sleep(PAUSE).await;
        opened = open(&plan).await;
    }
}

type Opened = (SendRequest<Bytes>, JoinSet<()>);

async fn open(plan: &Plan) -> Result<Opened, Failure> {
    let stream = plan.dialer.dial().await?;
    let handshake = h2::client::Builder::new()
        .initial_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .enable_push(false)
        .handshake::<_, Bytes>(stream);
    let (sender, connection) = handshake.await.map_err(|error| Failure::new(ErrorKind::Handshake, error))?;
    let mut tasks = JoinSet::new();
    // What ends it, its streams hear too.
    tasks.spawn(async move { drop(connection.await) });
    Ok((sender, tasks))
}

/// One call after the other, or one message after the other.
async fn calls(plan: Arc<Plan>, meter: Arc<Meter>, mut sender: SendRequest<Bytes>) {
    let Ok(template) = template(&plan) else {
        meter.trouble(Failure::new(
            ErrorKind::Malformed,
            "path, authority or a header field is not for HTTP/2",
        ));
        return std::future::pending().await;
    };
    let call = Call { message: grpc::message(plan.spec.request_bytes).into(), template };
    let mut open: Option<Open> = None;
    while let Some(turn) = meter.turn().await {
        let done = match plan.spec.protocol {
            Protocol::GrpcStream { .. } => call.message_on(&mut open, &mut sender).await,
            Protocol::GrpcUnary { .. }
            | Protocol::Http2 { .. }
            | Protocol::Http1
            | Protocol::Tcp
            | Protocol::WebSocket
            | Protocol::NewConnection => call.unary(&mut sender).await,
        };
        match done {
            Ok(moved) => meter.answered(turn, moved),
            Err(failure) => {
                let broken = failure.kind == ErrorKind::Broken;
                meter.failed(turn, failure);
                if broken {
                    return;
                }
            }
        }
    }
}

fn template(plan: &Plan) -> http::Result<Request<()>> {
    let path = plan.spec.path.as_deref().unwrap_or(match plan.spec.protocol {
        Protocol::GrpcStream { .. } => "/outrider.bench.Echo/Stream",
        Protocol::GrpcUnary { .. }
        | Protocol::Http2 { .. }
        | Protocol::Http1
        | Protocol::Tcp
        | Protocol::WebSocket
        | Protocol::NewConnection => "/outrider.bench.Echo/Unary",
    });
    let scheme = if plan.spec.tls.is_some() { "https" } else { "http" };
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(format!("{scheme}://{}{path}", authority(&plan.spec)))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    for (name, value) in &plan.spec.headers {
        request.headers_mut().append(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
    }
    Ok(request)
}

/// A stream that stays open.
struct Open {
    send: SendStream<Bytes>,
    answer: Option<ResponseFuture>,
    receive: Option<RecvStream>,
    /// Bytes of a next echo that have come already.
    ahead: usize,
}

struct Call {
    message: Bytes,
    template: Request<()>,
}

impl Call {
    async fn begin(
        &self,
        sender: &mut SendRequest<Bytes>,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), Failure> {
        std::future::poll_fn(|cx| sender.poll_ready(cx)).await.map_err(Failure::broken)?;
        sender.send_request(self.template.clone(), false).map_err(Failure::broken)
    }

    async fn unary(&self, sender: &mut SendRequest<Bytes>) -> Result<Moved, Failure> {
        let (answer, mut send) = self.begin(sender).await?;
        send.send_data(self.message.clone(), true).map_err(of_stream)?;
        let mut body = accepted(answer).await?;
        let mut received = 0;
        while let Some(data) = body.data().await {
            received += taken(&mut body, &data.map_err(of_stream)?)?;
        }
        let trailers = body.trailers().await.map_err(of_stream)?;
        let status = trailers.as_ref().and_then(|trailers| trailers.get("grpc-status"));
        if status.is_none_or(|status| status != "0") {
            return Err(Failure::new(ErrorKind::Status, format!("grpc-status {status:?}")));
        }
        if received != self.message.len() {
            return Err(Failure::new(
                ErrorKind::Length,
                format!("{received} bytes instead of {}", self.message.len()),
            ));
        }
        Ok(Moved { bytes_in: received as u64, bytes_out: self.message.len() as u64 })
    }

    /// A message and its echo.
    async fn message_on(
        &self,
        open: &mut Option<Open>,
        sender: &mut SendRequest<Bytes>,
    ) -> Result<Moved, Failure> {
        let mut stream = match open.take() {
            Some(stream) => stream,
            None => {
                let (answer, send) = self.begin(sender).await?;
                Open { send, answer: Some(answer), receive: None, ahead: 0 }
            }
        };
        stream.send.send_data(self.message.clone(), false).map_err(of_stream)?;
        if let Some(answer) = stream.answer.take() {
            stream.receive = Some(accepted(answer).await?);
        }
        let Some(body) = &mut stream.receive else { return Err(Failure::broken("the stream has ended")) };
        let mut received = stream.ahead;
        while received < self.message.len() {
            let Some(data) = body.data().await else {
                return Err(Failure::new(ErrorKind::Status, "the stream was ended"));
            };
            received += taken(body, &data.map_err(of_stream)?)?;
        }
        stream.ahead = received - self.message.len();
        *open = Some(stream);
        Ok(Moved { bytes_in: self.message.len() as u64, bytes_out: self.message.len() as u64 })
    }
}

async fn accepted(answer: ResponseFuture) -> Result<RecvStream, Failure> {
    let answer = answer.await.map_err(of_stream)?;
    let status = answer.status();
    if status != 200 {
        return Err(Failure::new(ErrorKind::Status, format!("status {status}")));
    }
    // A call that fails at once says so in its only head.
    match answer.headers().get("grpc-status") {
        Some(status) if status != "0" => {
            Err(Failure::new(ErrorKind::Status, format!("grpc-status {status:?}")))
        }
        Some(_) | None => Ok(answer.into_body()),
    }
}

fn taken(body: &mut RecvStream, data: &Bytes) -> Result<usize, Failure> {
    body.flow_control().release_capacity(data.len()).map_err(of_stream)?;
    Ok(data.len())
}

/// A reset ends a stream, anything else the connection.
fn of_stream(error: h2::Error) -> Failure {
    let kind = if error.is_reset() { ErrorKind::Status } else { ErrorKind::Broken };
    Failure::new(kind, error)
}
