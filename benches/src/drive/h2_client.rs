//! HTTP/2 with prior knowledge: several streams on each connection, each sends its next request when its last is answered.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{BufMut as _, Bytes, BytesMut};
use h2::RecvStream;
use h2::client::SendRequest;
use http::{Method, Request};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{Kind, Load, Shared};

/// Flow-control window of each stream and of a connection, as generous as a browser's.
const WINDOW: u32 = 4 << 20;

/// Sends over one connection until the pass is over.
pub(super) async fn connection(target: SocketAddr, load: Load, shared: Shared) -> Result<()> {
    let stream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = h2::client::Builder::new()
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .enable_push(false)
        .handshake::<_, Bytes>(stream)
        .await?;
    let driver = tokio::task::spawn_local(connection);
    let mut streams = JoinSet::new();
    for _ in 0..streams_of(load.kind) {
        streams.spawn_local(one_after_another(target, load, sender.clone(), shared.clone()));
    }
    drop(sender);
    let mut failure = None;
    while let Some(ended) = streams.join_next().await {
        if let Ok(Err(error)) = ended {
            failure = Some(error);
        }
    }
    driver.abort();
    failure.map_or(Ok(()), Err)
}

const fn streams_of(kind: Kind) -> usize {
    match kind {
        Kind::H2Get(streams) | Kind::H2Post(streams) | Kind::GrpcUnary(streams) => streams,
        Kind::Get | Kind::NewConnection | Kind::WebSocket => 0,
    }
}

async fn one_after_another(
    target: SocketAddr,
    load: Load,
    mut sender: SendRequest<Bytes>,
    shared: Shared,
) -> Result<()> {
    let body = body(load);
    while let Some(due) = shared.turns.next().await {
        sender = sender.ready().await?;
        match exchange(target, load, &mut sender, &body).await {
            Ok(()) => shared.answered(due),
            Err(error) => {
                shared.failed();
                return Err(error);
            }
        }
    }
    Ok(())
}

fn body(load: Load) -> Bytes {
    let mut body = BytesMut::new();
    match load.kind {
        Kind::H2Post(_) => body.put_bytes(b'x', load.bytes),
        Kind::GrpcUnary(_) => {
            body.put_u8(0);
            body.put_u32(u32::try_from(load.bytes).unwrap_or(u32::MAX));
            body.put_bytes(b'x', load.bytes);
        }
        Kind::H2Get(_) | Kind::Get | Kind::NewConnection | Kind::WebSocket => {}
    }
    body.freeze()
}

async fn exchange(
    target: SocketAddr,
    load: Load,
    sender: &mut SendRequest<Bytes>,
    body: &Bytes,
) -> Result<()> {
    let grpc = matches!(load.kind, Kind::GrpcUnary(_));
    let (path, expected) = match load.kind {
        Kind::GrpcUnary(_) => ("bench.Echo/Unary".to_owned(), body.len()),
        Kind::H2Post(_) => ("12".to_owned(), 12),
        Kind::H2Get(_) | Kind::Get | Kind::NewConnection | Kind::WebSocket => {
            (load.bytes.to_string(), load.bytes)
        }
    };
    let method = if body.is_empty() { Method::GET } else { Method::POST };
    let mut request = Request::builder().method(method).uri(format!("http://{target}/{path}"));
    if grpc {
        request = request.header("content-type", "application/grpc").header("te", "trailers");
    }
    let (response, mut stream) = sender.send_request(request.body(())?, body.is_empty())?;
    if !body.is_empty() {
        stream.send_data(body.clone(), true)?;
    }
    let response = response.await?;
    ensure!(response.status() == 200, "status {}", response.status());
    let mut answer = response.into_body();
    let read = drain(&mut answer).await?;
    ensure!(read == expected, "{read} bytes instead of {expected}");
    if grpc {
        let trailers = answer.trailers().await?.context("no trailers")?;
        if trailers.get("grpc-status").is_none_or(|status| status != "0") {
            bail!("the call failed");
        }
    }
    Ok(())
}

/// Reads a body to its end and gives its window back.
pub(super) async fn drain(body: &mut RecvStream) -> Result<usize> {
    let mut read = 0;
    while let Some(data) = body.data().await {
        let data = data?;
        read += data.len();
        body.flow_control().release_capacity(data.len())?;
    }
    Ok(read)
}
