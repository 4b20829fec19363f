//! Connections to the target, plain or over TLS.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::HandshakeKind;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::Spec;
use super::meter::Failure;
use super::outcome::{ErrorKind, LoadError};
use super::tls::{self, Session};

/// How long a connection may take, and how long what comes before its first request.
pub(super) const CONNECT: Duration = Duration::from_secs(10);

/// Makes connections.
pub(super) struct Dialer {
    target: SocketAddr,
    session: Option<Session>,
}

impl Dialer {
    pub(super) fn new(spec: &Spec) -> Result<Self, LoadError> {
        let session = spec.tls.as_ref().map(|tls| tls::session(tls, spec.protocol)).transpose()?;
        Ok(Self { target: spec.target, session })
    }

    /// Connects.
    pub(super) async fn dial(&self) -> Result<Stream, Failure> {
        let late = |_| Failure::new(ErrorKind::Connect, "no connection in time");
        timeout(CONNECT, self.connect()).await.unwrap_or_else(|elapsed| Err(late(elapsed)))
    }

    async fn connect(&self) -> Result<Stream, Failure> {
        let unreached = |error| Failure::new(ErrorKind::Connect, error);
        let stream = TcpStream::connect(self.target).await.map_err(unreached)?;
        stream.set_nodelay(true).map_err(unreached)?;
        let Some((connector, name)) = &self.session else { return Ok(Stream::Plain(stream)) };
        let secured = connector.connect(name.clone(), stream).await;
        let secured = secured.map_err(|error| Failure::new(ErrorKind::Handshake, error))?;
        // Never offered; if it came all the same, the figures would be those of something cheaper.
        if secured.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed) {
            return Err(Failure::new(ErrorKind::Handshake, "a session was resumed that was not to be"));
        }
        Ok(Stream::Tls(Box::new(secured)))
    }
}

/// A connection.
#[derive(Debug)]
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
