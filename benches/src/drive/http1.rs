//! HTTP/1.1 requests from prepared bytes; of an answer the status and the length are looked at.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Shared;

/// Bytes of one read.
const READ_BYTES: usize = 64 * 1024;
/// Fields of an answer.
const MAX_FIELDS: usize = 64;

/// Sends over one kept connection until the pass is over; makes a new one where it breaks.
pub(super) async fn keep(target: SocketAddr, bytes: usize, shared: Shared) -> Result<()> {
    let request = request(target, bytes, "");
    let mut connection = Connection::open(target).await?;
    while let Some(due) = shared.turns.next().await {
        match connection.ask(&request, bytes).await {
            Ok(()) => shared.answered(due),
            Err(_) => {
                shared.failed();
                connection = Connection::open(target).await?;
            }
        }
    }
    Ok(())
}

/// A new connection for each request; the target closes it.
pub(super) async fn anew(target: SocketAddr, bytes: usize, shared: Shared) -> Result<()> {
    let request = request(target, bytes, "Connection: close\r\n");
    let mut buffer = vec![0; READ_BYTES].into_boxed_slice();
    while let Some(due) = shared.turns.next().await {
        match once(target, &request, bytes, &mut buffer).await {
            Ok(()) => shared.answered(due),
            Err(_) => shared.failed(),
        }
    }
    Ok(())
}

async fn once(target: SocketAddr, request: &[u8], bytes: usize, buffer: &mut Box<[u8]>) -> Result<()> {
    let stream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    let mut connection = Connection { stream, buffer: std::mem::take(buffer) };
    let asked = connection.ask(request, bytes).await;
    let ended = connection.stream.read(&mut [0; 1]).await;
    *buffer = connection.buffer;
    asked?;
    if ended? != 0 {
        bail!("more than an answer");
    }
    Ok(())
}

/// A connection that has been answered once.
pub(super) fn ask_once(target: SocketAddr) -> Result<std::net::TcpStream> {
    let mut stream = std::net::TcpStream::connect(target)?;
    stream.write_all(&request(target, 12, ""))?;
    let mut buffer = [0; 4096];
    let mut end = 0;
    while answer(buffer.get(..end).unwrap_or_default(), 12)?.is_none_or(|length| end < length) {
        match stream.read(buffer.get_mut(end..).unwrap_or_default())? {
            0 => bail!("the connection was closed"),
            read => end += read,
        }
    }
    Ok(stream)
}

struct Connection {
    stream: TcpStream,
    buffer: Box<[u8]>,
}

impl Connection {
    async fn open(target: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(target).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; READ_BYTES].into_boxed_slice() })
    }

    async fn ask(&mut self, request: &[u8], bytes: usize) -> Result<()> {
        self.stream.write_all(request).await?;
        let (mut end, mut total) = (0, None);
        let mut read = 0;
        loop {
            // Once the head is known the body only has to be counted.
            let room = if total.is_some() { 0 } else { end };
            let got = self.stream.read(self.buffer.get_mut(room..).unwrap_or_default()).await?;
            if got == 0 {
                bail!("the connection was closed");
            }
            read += got;
            if total.is_none() {
                end += got;
                total = answer(self.buffer.get(..end).unwrap_or_default(), bytes)?;
            }
            match total {
                Some(total) if read == total => return Ok(()),
                Some(total) if read > total => bail!("more than an answer"),
                _ => {}
            }
        }
    }
}

/// The prepared request for an answer of so many bytes.
fn request(target: SocketAddr, bytes: usize, more: &str) -> Vec<u8> {
    format!("GET /{bytes} HTTP/1.1\r\nHost: {target}\r\n{more}\r\n").into_bytes()
}

/// The length of a good answer with its body; `None` until its head is whole.
fn answer(head: &[u8], bytes: usize) -> Result<Option<usize>> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(length) = parsed.parse(head)? else { return Ok(None) };
    if parsed.code != Some(200) {
        bail!("status {}", parsed.code.unwrap_or(0));
    }
    let field = parsed.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
    let body: usize =
        std::str::from_utf8(field.context("an answer without length")?.value)?.trim().parse()?;
    if body != bytes {
        bail!("{body} bytes instead of {bytes}");
    }
    Ok(Some(length + body))
}
