//! HTTP/2 with prior knowledge.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use anyhow::Result;
use bytes::{Buf as _, Bytes};
use h2::server::SendResponse;
use h2::{RecvStream, server};
use http::{HeaderValue, Request, Response, header};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::answer::Answers;
use super::grpc;

/// Flow-control windows: no body waits for the backend.
const WINDOW_BYTES: u32 = 16 << 20;
/// Streams at once on a connection.
const MAX_STREAMS: u32 = 4096;
/// Requests of one connection that are answered together.
const MAX_BATCH: usize = 256;
/// Bytes that one stream may have waiting to be sent.
const MAX_SEND_BYTES: usize = 1 << 20;

/// Serves a connection of which `begun` was already read.
pub(super) async fn connection(stream: TcpStream, begun: Bytes, answers: Rc<Answers>) -> Result<()> {
    let mut connection = server::Builder::new()
        .initial_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_concurrent_streams(MAX_STREAMS)
        .max_send_buffer_size(MAX_SEND_BYTES)
        .handshake::<_, Bytes>(Begun { begun, stream })
        .await?;
    let mut requests = Vec::new();
    loop {
        // All that are there are taken before the first is answered: their answers then go out in one write.
        let more = poll_fn(|cx| {
            while requests.len() < MAX_BATCH {
                match connection.poll_accept(cx) {
                    Poll::Ready(Some(accepted)) => requests.push(accepted),
                    Poll::Ready(None) => return Poll::Ready(false),
                    Poll::Pending if requests.is_empty() => return Poll::Pending,
                    Poll::Pending => break,
                }
            }
            Poll::Ready(true)
        });
        if !more.await {
            return Ok(());
        }
        for accepted in requests.drain(..) {
            let (request, respond) = accepted?;
            serve(request, respond, &answers)?;
        }
    }
}

fn serve(request: Request<RecvStream>, respond: SendResponse<Bytes>, answers: &Rc<Answers>) -> Result<()> {
    if is_grpc(&request) {
        tokio::task::spawn_local(async move { drop(grpc::echo(request, respond).await) });
    } else if request.body().is_end_stream() {
        // Nothing to wait for, so no task.
        answer(request.uri().path(), respond, answers)?;
    } else {
        let answers = Rc::clone(answers);
        tokio::task::spawn_local(async move { drop(after_body(request, respond, answers).await) });
    }
    Ok(())
}

fn is_grpc(request: &Request<RecvStream>) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

async fn after_body(
    mut request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    answers: Rc<Answers>,
) -> Result<()> {
    let body = request.body_mut();
    while let Some(data) = body.data().await {
        let length = data?.len();
        body.flow_control().release_capacity(length)?;
    }
    answer(request.uri().path(), respond, &answers)
}

fn answer(path: &str, mut respond: SendResponse<Bytes>, answers: &Answers) -> Result<()> {
    let body = answers.for_path(path.as_bytes()).body;
    let mut response = Response::new(());
    let headers = response.headers_mut();
    headers.insert(header::SERVER, HeaderValue::from_static("outrider-bench"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_LENGTH, body.len().into());
    // A stream that was reset meanwhile is no matter for the others.
    if let Ok(mut stream) = respond.send_response(response, body.is_empty())
        && !body.is_empty()
    {
        // The body is shared, so what waits for the client's window takes no memory.
        let _ = stream.send_data(body, true);
    }
    Ok(())
}

/// A stream of which the beginning was already read.
struct Begun {
    begun: Bytes,
    stream: TcpStream,
}

impl AsyncRead for Begun {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.begun.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let some = self.begun.len().min(buf.remaining());
        buf.put_slice(self.begun.get(..some).unwrap_or_default());
        self.begun.advance(some);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Begun {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
