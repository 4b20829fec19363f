//! HTTP/1.1 on one task, and the way to what else may come on the port.

use std::rc::Rc;

use anyhow::{Result, bail};
use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::answer::{Answer, Answers};
use super::{http2, websocket};
use crate::wire::http1::{Body, Framing, MAX_HEAD_BYTES, request};

/// Where the first bytes of HTTP/2 begin to be another method than any of HTTP/1.1.
const PREFACE: &[u8] = b"PRI ";

/// Serves a connection to its end.
pub(super) async fn connection(mut stream: TcpStream, answers: Rc<Answers>) -> Result<()> {
    let mut buffer = BytesMut::with_capacity(MAX_HEAD_BYTES);
    // Most clients ask for the same again and again.
    let mut last: Option<(Bytes, Answer)> = None;
    loop {
        if buffer.len() >= PREFACE.len() && buffer.starts_with(PREFACE) {
            return http2::connection(stream, buffer.freeze(), answers).await;
        }
        let Some(head) = request(&buffer)? else {
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
            continue;
        };
        let [method, path, _] = head.line;
        if let Some(key) = head.websocket_key {
            let answer = websocket::accept(key);
            buffer.advance(head.length);
            stream.write_all(answer.as_bytes()).await?;
            return websocket::echo(stream, buffer).await;
        }
        if last.as_ref().is_none_or(|(known, _)| known != path) {
            last = Some((Bytes::copy_from_slice(path), answers.for_path(path)));
        }
        let (length, framing, close, only_head) = (head.length, head.framing, head.close, method == b"HEAD");
        buffer.advance(length);
        drain(&mut stream, &mut buffer, framing).await?;
        if let Some((_, answer)) = &last {
            send(&mut stream, answer, only_head).await?;
        }
        if close {
            return Ok(stream.shutdown().await?);
        }
        // What was read has been used up nearly always, and this moves nothing.
        buffer.reserve(MAX_HEAD_BYTES);
    }
}

/// Reads a request's body and forgets it.
async fn drain(stream: &mut TcpStream, buffer: &mut BytesMut, framing: Framing) -> Result<()> {
    let mut body = Body::new(framing);
    loop {
        let used = body.feed(buffer)?;
        buffer.advance(used);
        if body.is_done() {
            return Ok(());
        }
        buffer.reserve(MAX_HEAD_BYTES);
        if stream.read_buf(buffer).await? == 0 {
            bail!("closed within a request");
        }
    }
}

async fn send(stream: &mut TcpStream, answer: &Answer, only_head: bool) -> Result<()> {
    if only_head {
        let body = if answer.rest.is_empty() { answer.body.len() } else { 0 };
        let head = answer.head.get(..answer.head.len() - body).unwrap_or_default();
        return Ok(stream.write_all(head).await?);
    }
    if answer.rest.is_empty() {
        return Ok(stream.write_all(&answer.head).await?);
    }
    Ok(stream.write_all_buf(&mut answer.head.clone().chain(answer.rest.clone())).await?)
}
