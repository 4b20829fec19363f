//! Forwarding HTTP/1.1 on one task: a head is parsed, its bytes go to a pooled upstream connection, and the answer comes back.
//!
//! Bodies have a `content-length`; anything else ends the connection. It decides nothing, checks little, and is no
//! proxy to be used: it says what forwarding itself costs.

use std::cell::RefCell;
use std::io::{Error, ErrorKind, Result};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Bytes of one read.
const BUFFER_BYTES: usize = 8 * 1024;
/// Fields of a head.
const MAX_FIELDS: usize = 64;
/// Upstream connections that are kept.
const MAX_IDLE: usize = 2000;

/// Upstream connections that wait for the next request.
pub(crate) struct Pool<S>(RefCell<Vec<S>>);

impl<S> Default for Pool<S> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<S> Pool<S> {
    fn keep(&self, connection: S) {
        let mut idle = self.0.borrow_mut();
        if idle.len() < MAX_IDLE {
            idle.push(connection);
        }
    }
}

/// Serves a connection to its end.
pub(crate) async fn serve<C, S>(
    mut client: C,
    pool: &Pool<S>,
    connect: impl AsyncFn() -> Result<S>,
) -> Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut requests = Buffer::default();
    let mut answers = Buffer::default();
    loop {
        let Some(request) = requests.head(&mut client, request).await? else { return Ok(()) };
        let kept = pool.0.borrow_mut().pop();
        let mut server = match kept {
            Some(server) => server,
            None => connect().await?,
        };
        requests.forward(&mut client, &mut server, request.length).await?;
        let Some(answer) = answers.head(&mut server, answer).await? else { return Ok(()) };
        answers.forward(&mut server, &mut client, answer.length).await?;
        if request.close {
            // The server was told so too. TLS says that it ends.
            return client.shutdown().await;
        }
        pool.keep(server);
    }
}

/// Bytes that were read and not yet forwarded: `bytes[start..end]`.
struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Default for Buffer {
    fn default() -> Self {
        Self { bytes: vec![0; BUFFER_BYTES].into_boxed_slice(), start: 0, end: 0 }
    }
}

impl Buffer {
    fn filled(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    /// Reads until a head is there, and says what it announces; `None` at the end of the stream.
    async fn head(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        parse: fn(&[u8]) -> Result<Option<Message>>,
    ) -> Result<Option<Message>> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        loop {
            if self.start < self.end
                && let Some(message) = parse(self.filled())?
            {
                return Ok(Some(message));
            }
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            let room = self.bytes.get_mut(self.end..).unwrap_or_default();
            if room.is_empty() {
                return Err(bad("a head is too large"));
            }
            match from.read(room).await? {
                0 => return Ok(None),
                read => self.end += read,
            }
        }
    }

    /// Forwards `length` bytes, those first that are here already.
    async fn forward(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        mut length: usize,
    ) -> Result<()> {
        loop {
            let here = self.filled().len().min(length);
            to.write_all(self.filled().get(..here).unwrap_or_default()).await?;
            self.start += here;
            length -= here;
            if length == 0 {
                // TLS may still hold some of it; a socket never does.
                return to.flush().await;
            }
            (self.start, self.end) = (0, from.read(&mut self.bytes).await?);
            if self.end == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// What a head says.
#[derive(Debug, PartialEq, Eq)]
struct Message {
    /// Bytes of the head and of its body.
    length: usize,
    /// Whether the connection ends after it.
    close: bool,
}

fn request(bytes: &[u8]) -> Result<Option<Message>> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut head = httparse::Request::new(&mut fields);
    let httparse::Status::Complete(length) = head.parse(bytes).map_err(bad)? else { return Ok(None) };
    let body = body_length(head.headers)?.unwrap_or(0);
    let close = head.headers.iter().any(|field| {
        field.name.eq_ignore_ascii_case("connection") && field.value.eq_ignore_ascii_case(b"close")
    });
    Ok(Some(Message { length: length + body, close }))
}

fn answer(bytes: &[u8]) -> Result<Option<Message>> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut head = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(length) = head.parse(bytes).map_err(bad)? else { return Ok(None) };
    let body = body_length(head.headers)?.ok_or_else(|| bad("an answer without content-length"))?;
    Ok(Some(Message { length: length + body, close: false }))
}

fn body_length(fields: &[httparse::Header<'_>]) -> Result<Option<usize>> {
    let Some(field) = fields.iter().find(|field| field.name.eq_ignore_ascii_case("content-length")) else {
        return Ok(None);
    };
    let text = std::str::from_utf8(field.value).map_err(bad)?;
    text.trim().parse().map(Some).map_err(bad)
}

fn bad(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_as_long_as_its_head_and_body() {
        let head = b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(request(head).unwrap(), Some(Message { length: head.len() + 5, close: false }));
        assert!(request(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap().unwrap().close);
        assert_eq!(request(b"GET / HTTP/1.1\r\n").unwrap(), None);
        assert!(answer(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
