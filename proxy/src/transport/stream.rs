//! The byte stream of a connection, downstream or upstream.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::buffer::BufferPool;
use super::cutoff::Cutoff;
use super::tls::TlsSession;

/// Most bytes of one look at the front of a stream.
const LOOK_BYTES: usize = 4096;

/// A connected stream, encrypted or not, whose front can be looked at before it is read.
#[derive(Debug)]
pub struct Transport {
    stream: TcpStream,
    /// What was looked at before the protocol was known; it comes out of the next reads first. It belongs to the
    /// layer that is read now: ciphertext before the handshake, which takes it, and plaintext after.
    front: BytesMut,
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
        Ok(Self { stream, front: BytesMut::new(), tls: None, cutoff: None, peer, local })
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

    /// The same, if it was asked for.
    #[must_use]
    pub const fn known_cutoff(&self) -> Option<&Rc<Cutoff>> {
        self.cutoff.as_ref()
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
        let first = std::mem::take(&mut self.front);
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

    /// What was looked at and not yet read.
    #[must_use]
    pub fn front(&self) -> &[u8] {
        &self.front
    }

    /// Looks further: adds what comes next to [`Transport::front`], behind what is there; `Ok(0)` is the peer's end of
    /// stream. How much there may be is the caller's to bound. Cancel-safe.
    pub fn poll_look(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        // Inside the poll, so that a connection that waits does not carry it along.
        let mut space = [0_u8; LOOK_BYTES];
        let count = ready!(self.poll_read_on(cx, &mut space))?;
        self.front.extend_from_slice(space.get(..count).unwrap_or_default());
        Poll::Ready(Ok(count))
    }

    /// Reads into `space`; `Ok(0)` is the peer's end of stream.
    pub fn poll_read_into(&mut self, cx: &mut Context<'_>, space: &mut [u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        if self.front.is_empty() {
            return self.poll_read_on(cx, space);
        }
        let count = self.front.len().min(space.len());
        if let (Some(space), Some(front)) = (space.get_mut(..count), self.front.get(..count)) {
            space.copy_from_slice(front);
        }
        self.front.advance(count);
        if self.front.is_empty() {
            // Its memory too: connections stay longer than their first bytes.
            self.front = BytesMut::new();
        }
        Poll::Ready(Ok(count))
    }

    /// Reads behind the front.
    fn poll_read_on(&mut self, cx: &mut Context<'_>, space: &mut [u8]) -> Poll<io::Result<usize>> {
        if let Some(tls) = &mut self.tls {
            return tls.poll_read(cx, &mut self.stream, space);
        }
        let mut space = ReadBuf::new(space);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut space))?;
        Poll::Ready(Ok(space.filled().len()))
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
        if self.front.is_empty() && self.tls.is_none() {
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
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    /// On an encrypted connection a write may leave bytes behind that only this sends.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, tls: Some(tls), cutoff, .. } = &mut *self else {
            return Poll::Ready(Ok(()));
        };
        let before = tls.unsent_bytes();
        let flushed = tls.poll_flush(cx, stream);
        if let Some(cutoff) = cutoff {
            cutoff.wrote(flushed.is_pending(), tls.unsent_bytes() < before);
        }
        flushed
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
        let Self { stream, tls, cutoff, .. } = &mut *self;
        let (written, some) = match tls {
            Some(tls) => {
                let before = tls.unsent_bytes();
                let written = tls.poll_write(cx, stream, bufs);
                (written, tls.unsent_bytes() < before)
            }
            None => match bufs {
                // The shorter way into the kernel.
                [one] => (Pin::new(stream).poll_write(cx, one), false),
                bufs => (Pin::new(stream).poll_write_vectored(cx, bufs), false),
            },
        };
        if let Some(cutoff) = cutoff {
            cutoff.wrote(written.is_pending(), some);
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
