//! A connection whose reader gives its own consumers a turn.
//!
//! An HTTP/2 connection reads for as long as there is something to read, and queues what it finds for its streams.
//! What a peer can make it queue (interim responses, which no window holds back) must reach the bound that the stream
//! sets before there is too much of it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Transport;

/// Bytes that are read before others get a turn.
const TURN_BYTES: usize = 64 * 1024;

/// A transport that is pending once in every `TURN_BYTES`, and ready again at once.
#[derive(Debug)]
pub struct Fair {
    transport: Transport,
    /// Bytes read in this turn.
    taken: usize,
}

impl Fair {
    /// Wraps a transport.
    #[must_use]
    pub const fn new(transport: Transport) -> Self {
        Self { transport, taken: 0 }
    }
}

impl AsyncRead for Fair {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.taken >= TURN_BYTES {
            self.taken = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.transport).poll_read(cx, buf);
        match polled {
            Poll::Ready(_) => self.taken += buf.filled().len() - before,
            Poll::Pending => self.taken = 0,
        }
        polled
    }
}

impl AsyncWrite for Fair {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.transport).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.transport).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }
}
