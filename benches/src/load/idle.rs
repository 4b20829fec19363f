//! Connections that have been answered once and then do nothing.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::http1::request;
use super::{LoadError, MAX_CONNECTIONS, Protocol, Spec};
use crate::wire::http1::{Body, MAX_HEAD_BYTES, response};

/// How long each connection and its answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Idle connections. They close when this is dropped.
#[derive(Debug)]
pub struct IdleConnections(Vec<TcpStream>);

impl IdleConnections {
    /// How many are still open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.0.iter().filter(|stream| is_open(stream)).count()
    }
}

/// Opens so many HTTP/1.1 connections, sends one request over each, and holds them.
///
/// # Errors
/// When one cannot be made or is not answered with status 200.
pub fn hold(target: SocketAddr, count: usize) -> Result<IdleConnections, LoadError> {
    if count > MAX_CONNECTIONS {
        return Err(LoadError::Spec {
            field: "count",
            what: format!("{count} is more than {MAX_CONNECTIONS}"),
        });
    }
    let request = request(&Spec::new(target, Protocol::Http1));
    let held: Result<_, String> = (0..count).map(|_| ask(target, &request)).collect();
    held.map(IdleConnections).map_err(|why| LoadError::NothingAnswered { target, why })
}

fn ask(target: SocketAddr, request: &[u8]) -> Result<TcpStream, String> {
    let io = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE).map_err(io)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(io)?;
    stream.write_all(request).map_err(io)?;
    let mut buffer = [0; MAX_HEAD_BYTES];
    let (mut end, mut body) = (0, None::<Body>);
    while body.is_none_or(|body| !body.is_done()) {
        let begin = if body.is_some() { 0 } else { end };
        let read = stream.read(buffer.get_mut(begin..).unwrap_or_default()).map_err(io)?;
        if read == 0 {
            return Err("closed before an answer".to_owned());
        }
        end = begin + read;
        let bytes = buffer.get(begin..end).unwrap_or_default();
        match &mut body {
            Some(body) => drop(body.feed(bytes).map_err(|error| error.to_string())?),
            None => body = first(buffer.get(..end).unwrap_or_default())?,
        }
    }
    Ok(stream)
}

/// The body, once the head is whole.
fn first(bytes: &[u8]) -> Result<Option<Body>, String> {
    let Some((status, head)) = response(bytes).map_err(|error| error.to_string())? else { return Ok(None) };
    if status != 200 || head.close {
        return Err(format!(
            "status {status}, and the connection is {}",
            if head.close { "not kept" } else { "kept" }
        ));
    }
    let mut body = Body::new(head.framing);
    body.feed(bytes.get(head.length..).unwrap_or_default()).map_err(|error| error.to_string())?;
    Ok(Some(body))
}

fn is_open(stream: &TcpStream) -> bool {
    if stream.set_nonblocking(true).is_err() {
        return false;
    }
    // Nothing to read is as it should be; an end, an error or bytes nobody asked for are not.
    matches!(stream.peek(&mut [0; 1]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}
