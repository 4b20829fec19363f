//! The backend over HTTP/2: `GET /N` answers with N bytes, a gRPC call with its own message.

use anyhow::Result;
use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::TcpStream;

use super::backend::wanted;
use super::h2_client::drain;

/// Flow-control window of each stream and of a connection.
const WINDOW: u32 = 4 << 20;
/// Streams of a connection: a proxy may bring all clients together on one.
const MAX_STREAMS: u32 = 1024;
/// Largest gRPC message that is sent back, in bytes.
const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// Serves one connection.
pub(super) async fn serve(stream: TcpStream, payload: Bytes) -> Result<()> {
    let mut connection = h2::server::Builder::new()
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .handshake::<_, Bytes>(stream)
        .await?;
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted?;
        let payload = payload.clone();
        // A task even where nothing is to be waited for: the answers to all requests that came together then go out together.
        tokio::task::spawn_local(async move {
            // The client sees a stream that failed.
            let _ = answer(request, respond, payload).await;
        });
    }
    Ok(())
}

async fn answer(request: Request<RecvStream>, respond: SendResponse<Bytes>, payload: Bytes) -> Result<()> {
    let is_grpc = request.headers().get("content-type").is_some_and(|kind| kind == "application/grpc");
    let (head, mut body) = request.into_parts();
    if is_grpc {
        return echo(body, respond).await;
    }
    drain(&mut body).await?;
    plain(head.uri.path(), respond, &payload)
}

fn plain(path: &str, mut respond: SendResponse<Bytes>, payload: &Bytes) -> Result<()> {
    let body = wanted(path, payload);
    let response = Response::builder().header("content-length", body.len()).body(())?;
    respond.send_response(response, body.is_empty())?.send_data(body, true)?;
    Ok(())
}

async fn echo(mut body: RecvStream, mut respond: SendResponse<Bytes>) -> Result<()> {
    let mut message = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        anyhow::ensure!(message.len() + data.len() <= MAX_MESSAGE_BYTES, "the message is too large");
        message.extend_from_slice(&data);
    }
    let response = Response::builder().header("content-type", "application/grpc").body(())?;
    let mut stream = respond.send_response(response, false)?;
    stream.send_data(message.freeze(), false)?;
    stream.send_trailers(HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        HeaderValue::from_static("0"),
    )]))?;
    Ok(())
}
