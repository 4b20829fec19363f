//! The byte stream of a connection, downstream or upstream.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::buffer::BufferPool;
use super::cutoff::Cutoff;
use super::tls::TlsSession;

/// A connected stream, encrypted or not, with the bytes that sniffing took from its front put back.
#[derive(Debug)]
pub struct Transport {
    stream: TcpStream,
    /// What was read before the protocol was known; it comes out of the next reads first. On an encrypted
    /// connection it is plaintext.
    prefix: Bytes,
    tls: Option<Box<TlsSession>>,
    cutoff: Option<Rc<Cutoff>>,
    peer: SocketAddr,
    local: SocketAddr,
}

impl Transport {
    /// Wraps a connected socket and turns Nagle's algorithm off.
    ///
    /// # Errors
    /// When the socket is no longer connected.
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let (peer, local) = (stream.peer_addr()?, stream.local_addr()?);
        Ok(Self { stream, prefix: Bytes::new(), tls: None, cutoff: None, peer, local })
    }

    /// The peer's address.
    #[must_use]
    pub const fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Our own address on this connection.
    #[must_use]
    pub const fn local(&self) -> SocketAddr {
        self.local
    }

    /// The socket, for options.
    #[must_use]
    pub const fn socket(&self) -> &TcpStream {
        &self.stream
    }

    /// The encryption, if there is any.
    #[must_use]
    pub fn tls(&self) -> Option<&TlsSession> {
        self.tls.as_deref()
    }

    #[cfg(test)]
    pub(super) fn tls_mut(&mut self) -> Option<&mut TlsSession> {
        self.tls.as_deref_mut()
    }

    /// What ends the connection from outside; made when it is first asked for.
    pub fn cutoff(&mut self) -> &Rc<Cutoff> {
        self.cutoff.get_or_insert_default()
    }

    /// When nothing new may be begun on it, because a certificate that it rests on ends.
    #[must_use]
    pub fn trusted_until(&self) -> Option<Instant> {
        self.cutoff.as_ref()?.rests_on.get().map(|(_, until)| *until)
    }

    fn check(&self, cx: &Context<'_>) -> io::Result<()> {
        self.cutoff.as_ref().map_or(Ok(()), |cutoff| cutoff.check(cx))
    }

    /// Encrypts the rest of the connection, as its server. Cancelled, the connection is of no more use.
    ///
    /// # Errors
    /// What TLS refuses is an `InvalidData` error around a [`rustls::Error`].
    pub async fn accept_tls(
        &mut self,
        config: Arc<rustls::ServerConfig>,
        pool: Rc<BufferPool>,
    ) -> io::Result<()> {
        let first = std::mem::take(&mut self.prefix);
        let session = TlsSession::server(config, &first, pool).map_err(io::Error::other)?;
        self.shake_hands(session).await
    }

    /// Encrypts the rest of the connection, as the client of a server of this name.
    ///
    /// # Errors
    /// What TLS refuses is an `InvalidData` error around a [`rustls::Error`].
    pub async fn connect_tls(
        &mut self,
        config: Arc<rustls::ClientConfig>,
        name: ServerName<'static>,
        pool: Rc<BufferPool>,
    ) -> io::Result<()> {
        let session = TlsSession::client(config, name, pool).map_err(io::Error::other)?;
        self.shake_hands(session).await
    }

    async fn shake_hands(&mut self, session: TlsSession) -> io::Result<()> {
        let Self { stream, tls, .. } = self;
        let session = tls.insert(Box::new(session));
        poll_fn(|cx| session.poll_handshake(cx, stream)).await
    }

    /// Puts bytes back in front of what is still to be read.
    pub fn put_back(&mut self, bytes: Bytes) {
        self.prefix = bytes;
    }

    /// Reads into `space`; `Ok(0)` is the peer's end of stream.
    pub fn poll_read_into(&mut self, cx: &mut Context<'_>, space: &mut [u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        if !self.prefix.is_empty() {
            let count = self.prefix.len().min(space.len());
            let taken = self.prefix.split_to(count);
            if let Some(front) = space.get_mut(..count) {
                front.copy_from_slice(&taken);
            }
            return Poll::Ready(Ok(count));
        }
        if let Some(tls) = &mut self.tls {
            return tls.poll_read(cx, &mut self.stream, space);
        }
        let mut space = ReadBuf::new(space);
        match Pin::new(&mut self.stream).poll_read(cx, &mut space) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(space.filled().len())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Makes the close of this socket a reset, so that the peer cannot take a cut message for a whole one.
    pub fn reset_on_close(&self) {
        // A socket that is already gone needs no reset.
        let _ = socket2::SockRef::from(&self.stream).set_linger(Some(std::time::Duration::ZERO));
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() && self.tls.is_none() {
            self.check(cx)?;
            // Straight into memory that need not be cleared before.
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let count = ready!(self.poll_read_into(cx, buf.initialize_unfilled()))?;
        buf.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        let Self { stream, tls, .. } = &mut *self;
        match tls {
            Some(tls) => tls.poll_write(cx, stream, &[IoSlice::new(buf)]),
            None => Pin::new(stream).poll_write(cx, buf),
        }
    }

    /// On an encrypted connection a write may leave bytes behind that only this sends.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, tls, .. } = &mut *self;
        match tls {
            Some(tls) => tls.poll_flush(cx, stream),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, tls, .. } = &mut *self;
        match tls {
            Some(tls) => tls.poll_shutdown(cx, stream),
            None => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        let Self { stream, tls, .. } = &mut *self;
        match tls {
            Some(tls) => tls.poll_write(cx, stream, bufs),
            None => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
