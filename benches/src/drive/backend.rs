//! The backend that every subject leads to: a process of its own, one thread, two ports.
//!
//! `GET /N` answers with N bytes (12 if there is no number), over HTTP/1.1 and WebSocket on one port and HTTP/2 on the other.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use bytes::{Buf as _, Bytes};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use super::{backend_h2, websocket};
use crate::measure::{Cores, Family, spawn_on};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;
/// Largest body of an answer, in bytes.
const MAX_BODY_BYTES: usize = 16 << 20;
/// The body where a path names no length.
const DEFAULT_BYTES: usize = 12;
/// Largest head of a request, in bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Fields of a request.
const MAX_FIELDS: usize = 64;
/// Up to here head and body go out in one write.
const ONE_WRITE_BYTES: usize = 64 * 1024;

/// Where it listens; it prints this as one line of JSON.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Ports {
    /// HTTP/1.1 and WebSocket.
    pub http1: SocketAddr,
    /// HTTP/2 with prior knowledge.
    pub http2: SocketAddr,
}

/// The backend as a child process. It ends when this is dropped.
#[derive(Debug)]
pub struct Backend {
    child: Child,
    /// Where it listens.
    pub ports: Ports,
}

impl Backend {
    /// Starts it on the generator's core.
    ///
    /// # Errors
    /// When it cannot be started or does not say its ports.
    pub fn start(cores: Cores) -> Result<Self> {
        let own = std::env::current_exe().context("where this program is")?;
        Self::spawn(&mut Command::new(own), cores)
    }

    /// The same with another command for the harness itself.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn spawn(command: &mut Command, cores: Cores) -> Result<Self> {
        command.arg("backend").stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = spawn_on(command, cores.load, cores.load)?;
        let output = child.stdout.take().context("the backend's output")?;
        let mut line = String::new();
        let read = BufReader::new(output).read_line(&mut line);
        // From here on the child ends with the value, whatever comes.
        let unknown = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut backend = Self { child, ports: Ports { http1: unknown, http2: unknown } };
        read?;
        backend.ports = serde_json::from_str(&line).context("the backend does not say its ports")?;
        Ok(backend)
    }

    /// Its process.
    #[must_use]
    pub fn family(&self) -> Family {
        Family::of(self.child.id())
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves until the process is killed.
///
/// # Errors
/// When there is no port or no runtime.
pub fn serve() -> Result<()> {
    serve_with(|ports| {
        let mut output = std::io::stdout();
        writeln!(output, "{}", serde_json::to_string(&ports)?)?;
        output.flush().context("nobody reads the ports")
    })
}

/// The same, and its ports are told to `tell`.
pub(super) fn serve_with(tell: impl FnOnce(Ports) -> Result<()>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let (http1, http2) = (listen()?, listen()?);
        tell(Ports { http1: http1.local_addr()?, http2: http2.local_addr()? })?;
        let payload = Bytes::from(vec![b'x'; MAX_BODY_BYTES]);
        tokio::join!(accept(&http1, &payload, connection), accept(&http2, &payload, backend_h2::serve));
        Ok(())
    })
}

fn listen() -> Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into())?)
}

async fn accept<F>(listener: &TcpListener, payload: &Bytes, serve: impl Fn(TcpStream, Bytes) -> F)
where
    F: Future<Output = Result<()>> + 'static,
{
    loop {
        // Out of files, or a connection that is gone already: the next one may do.
        if let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            let served = serve(stream, payload.clone());
            tokio::task::spawn_local(async move {
                // A client that goes away is no matter.
                let _ = served.await;
            });
        }
    }
}

/// The body for a path.
pub(super) fn wanted(path: &str, payload: &Bytes) -> Bytes {
    let bytes = path.trim_start_matches('/').parse().unwrap_or(DEFAULT_BYTES);
    payload.slice(..bytes.min(payload.len()))
}

async fn connection(mut stream: TcpStream, payload: Bytes) -> Result<()> {
    let mut buffer = vec![0; MAX_HEAD_BYTES].into_boxed_slice();
    let mut end = 0;
    // The answer to the same path is the same: it is put together once.
    let mut ready: (Box<[u8]>, Answer) = Default::default();
    loop {
        let request = loop {
            if let Some(request) = Asked::parse(buffer.get(..end).unwrap_or_default())? {
                break request;
            }
            match stream.read(buffer.get_mut(end..).unwrap_or_default()).await? {
                0 => return Ok(()),
                read => end += read,
            }
        };
        if request.upgrade {
            return websocket::echo(stream).await;
        }
        if *ready.0 != *request.path {
            let body = wanted(std::str::from_utf8(request.path)?, &payload);
            ready = (request.path.into(), Answer::new(&body));
        }
        let (close, length) = (request.close, request.length);
        stream.write_all_buf(&mut ready.1.head.clone().chain(ready.1.rest.clone())).await?;
        if close {
            return Ok(());
        }
        buffer.copy_within(length..end, 0);
        end -= length;
    }
}

/// An answer; small ones are whole in `head`.
#[derive(Default)]
struct Answer {
    head: Bytes,
    rest: Bytes,
}

impl Answer {
    fn new(body: &Bytes) -> Self {
        let head = format!("HTTP/1.1 200 OK\r\nServer: bench\r\nContent-Length: {}\r\n\r\n", body.len());
        if body.len() <= ONE_WRITE_BYTES {
            return Self { head: [head.as_bytes(), body].concat().into(), rest: Bytes::new() };
        }
        Self { head: head.into(), rest: body.clone() }
    }
}

/// A request without a body.
struct Asked<'a> {
    path: &'a [u8],
    upgrade: bool,
    close: bool,
    length: usize,
}

impl<'a> Asked<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Option<Self>> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut head = httparse::Request::new(&mut fields);
        let httparse::Status::Complete(length) = head.parse(bytes)? else { return Ok(None) };
        let has = |name: &str, value: &[u8]| {
            head.headers
                .iter()
                .any(|field| field.name.eq_ignore_ascii_case(name) && field.value.eq_ignore_ascii_case(value))
        };
        Ok(Some(Self {
            path: head.path.unwrap_or("/").as_bytes(),
            upgrade: has("upgrade", b"websocket"),
            close: has("connection", b"close"),
            length,
        }))
    }
}
