//! The byte stream of a connection, downstream or upstream.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A connected stream, with the bytes that sniffing took from its front put back.
#[derive(Debug)]
pub struct Transport {
    stream: TcpStream,
    /// What was read before the protocol was known; it comes out of the next reads first.
    prefix: Bytes,
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
        Ok(Self { stream, prefix: Bytes::new(), peer, local })
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

    /// Puts bytes back in front of what is still to be read.
    pub fn put_back(&mut self, bytes: Bytes) {
        self.prefix = bytes;
    }

    /// Reads into `space`; `Ok(0)` is the peer's end of stream.
    pub fn poll_read_into(&mut self, cx: &mut Context<'_>, space: &mut [u8]) -> Poll<io::Result<usize>> {
        if !self.prefix.is_empty() {
            let count = self.prefix.len().min(space.len());
            let taken = self.prefix.split_to(count);
            if let Some(front) = space.get_mut(..count) {
                front.copy_from_slice(&taken);
            }
            return Poll::Ready(Ok(count));
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
        if !self.prefix.is_empty() {
            let count = self.prefix.len().min(buf.remaining());
            let taken = self.prefix.split_to(count);
            buf.put_slice(&taken);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Transport {
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
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
