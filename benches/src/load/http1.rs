//! HTTP/1.1 requests from prepared bytes; of an answer the status and the length are looked at.

use std::fmt::Write as _;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::engine::{Client, Plan};
use super::meter::{Failure, Moved};
use super::outcome::ErrorKind;
use super::stream::Stream;
use super::{Protocol, Spec};
use crate::wire::http1::{Body, Malformed, response};

/// Least and most bytes of one read: a whole head, and what a socket gives at once.
const READ_BYTES: (usize, usize) = (16 * 1024, 256 * 1024);

/// A connection that is kept.
pub(super) struct Kept {
    stream: Stream,
    request: Vec<u8>,
    buffer: Box<[u8]>,
    open: bool,
}

impl Client for Kept {
    async fn open(plan: &Plan) -> Result<Self, Failure> {
        let stream = plan.dialer.dial().await?;
        let room = (READ_BYTES.0 + plan.spec.response_bytes).min(READ_BYTES.1);
        Ok(Self { stream, request: request(&plan.spec), buffer: vec![0; room].into(), open: true })
    }

    async fn exchange(&mut self, plan: &Plan) -> Result<Moved, Failure> {
        self.stream.write_all(&self.request).await.map_err(Failure::broken)?;
        self.stream.flush().await.map_err(Failure::broken)?;
        let bytes_in = self.answer(plan.spec.response_bytes as u64).await?;
        Ok(Moved { bytes_in, bytes_out: self.request.len() as u64 })
    }

    fn is_open(&self) -> bool {
        self.open
    }
}

impl Kept {
    /// Reads an answer; its bytes.
    async fn answer(&mut self, wanted: u64) -> Result<u64, Failure> {
        let mut end = 0;
        let (mut body, mut bytes) = loop {
            let room = self.buffer.get_mut(end..).unwrap_or_default();
            match self.stream.read(room).await.map_err(Failure::broken)? {
                0 => return Err(Failure::broken("closed before an answer")),
                read => end += read,
            }
            let bytes = self.buffer.get(..end).unwrap_or_default();
            let Some((status, head)) = response(bytes).map_err(malformed)? else { continue };
            if status != 200 {
                return Err(Failure::new(ErrorKind::Status, format!("status {status}")));
            }
            self.open = !head.close;
            let mut body = Body::new(head.framing);
            let rest = bytes.get(head.length..).unwrap_or_default();
            all_of(rest, body.feed(rest))?;
            break (body, end as u64);
        };
        while !body.is_done() {
            match self.stream.read(&mut self.buffer).await.map_err(Failure::broken)? {
                0 if body.ends_with_connection() => break,
                0 => return Err(Failure::broken("closed within an answer")),
                read => {
                    let rest = self.buffer.get(..read).unwrap_or_default();
                    all_of(rest, body.feed(rest))?;
                    bytes += read as u64;
                }
            }
        }
        if body.received != wanted {
            let what = format!("{} bytes instead of {wanted}", body.received);
            return Err(Failure::new(ErrorKind::Length, what));
        }
        Ok(bytes)
    }
}

/// A connection for one request, which asks the target to close.
pub(super) struct Fresh(Option<Kept>);

impl Client for Fresh {
    async fn open(_: &Plan) -> Result<Self, Failure> {
        Ok(Self(None))
    }

    async fn exchange(&mut self, plan: &Plan) -> Result<Moved, Failure> {
        // The buffer lives on: only the connection is new.
        let connection = match self.0.as_mut() {
            Some(connection) => {
                connection.stream = plan.dialer.dial().await?;
                connection
            }
            None => self.0.insert(Kept::open(plan).await?),
        };
        let moved = connection.exchange(plan).await?;
        if connection.open {
            return Ok(moved);
        }
        // The target closes first, so that it is not our ports that wait out their time.
        match connection.stream.read(&mut connection.buffer).await {
            Ok(1..) => Err(Failure::new(ErrorKind::Malformed, "more than an answer")),
            Ok(0) | Err(_) => Ok(moved),
        }
    }
}

fn malformed(error: Malformed) -> Failure {
    Failure::new(ErrorKind::Malformed, error)
}

fn all_of(bytes: &[u8], used: Result<usize, Malformed>) -> Result<(), Failure> {
    if used.map_err(malformed)? == bytes.len() {
        return Ok(());
    }
    Err(Failure::new(ErrorKind::Malformed, "more than an answer"))
}

/// The prepared request.
pub(super) fn request(spec: &Spec) -> Vec<u8> {
    let method = if spec.request_bytes == 0 { "GET" } else { "POST" };
    let mut head = format!("{method} {} HTTP/1.1\r\nhost: {}\r\n", path(spec), authority(spec));
    for (name, value) in &spec.headers {
        // A String takes whatever is written to it.
        let _ = write!(head, "{name}: {value}\r\n");
    }
    if spec.request_bytes > 0 {
        let _ = write!(head, "content-length: {}\r\n", spec.request_bytes);
    }
    if spec.protocol == Protocol::NewConnection {
        head.push_str("connection: close\r\n");
    }
    head.push_str("\r\n");
    let mut request = head.into_bytes();
    request.resize(request.len() + spec.request_bytes, b'x');
    request
}

/// The path of plain requests.
pub(super) fn path(spec: &Spec) -> String {
    spec.path.clone().unwrap_or_else(|| format!("/bytes/{}", spec.response_bytes))
}

/// The authority of all requests.
pub(super) fn authority(spec: &Spec) -> String {
    spec.authority.clone().unwrap_or_else(|| spec.target.to_string())
}
