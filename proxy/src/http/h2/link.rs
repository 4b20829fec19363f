//! One HTTP/2 stream as a pair of body ends, the same for both sides of the proxy.
//!
//! Received bytes are given back to the sender's flow-control window when they have been passed on, never
//! before, and nothing is queued beyond the window that the receiver granted and what [`super::queue`] has room for:
//! back-pressure crosses the proxy.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{RecvStream, SendStream};

use super::convert;
use super::queue::{Entrance, Queue, Queued};
use crate::http::body::{BodySink, BodySource, Chunk, SinkError, SourceError};
use crate::http::headers::Headers;

/// The two halves of a stream; a half is missing before its head was seen or when there is no body.
#[derive(Debug)]
pub struct H2Link {
    recv: Option<RecvStream>,
    chunk: Bytes,
    trailers: Headers,
    send: Option<SendStream<Queued>>,
    sent_whole: bool,
    queue: Entrance,
}

impl H2Link {
    /// A link on the connection with this queue. What to read from comes with [`H2Link::receive_from`], what to write to
    /// with [`H2Link::send_to`].
    #[must_use]
    pub fn new(queue: &Rc<Queue>) -> Self {
        Self {
            recv: None,
            chunk: Bytes::new(),
            trailers: Headers::default(),
            send: None,
            sent_whole: false,
            queue: queue.entrance(),
        }
    }

    /// The half to write the body to; `ended` when the head carried END_STREAM.
    pub fn send_to(&mut self, send: SendStream<Queued>, ended: bool) {
        self.send = Some(send);
        self.sent_whole = ended;
    }

    /// The half to read the body from.
    pub fn receive_from(&mut self, recv: RecvStream) {
        self.recv = Some(recv);
    }

    /// Whether the head was sent.
    #[must_use]
    pub const fn has_sender(&self) -> bool {
        self.send.is_some()
    }

    /// Whether END_STREAM was sent.
    #[must_use]
    pub const fn is_sent_whole(&self) -> bool {
        self.sent_whole
    }

    /// Ends the stream at once with this code.
    pub fn reset(&mut self, reason: h2::Reason) {
        if let Some(send) = &mut self.send {
            send.send_reset(reason);
        }
        self.recv = None;
        self.sent_whole = true;
    }

    /// Waits for the peer to reset the stream or for the connection to fail.
    pub fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.send {
            Some(send) => send.poll_reset(cx).map(|_| ()),
            None => Poll::Pending,
        }
    }

    fn release(&mut self, count: usize) {
        if let Some(recv) = &mut self.recv {
            // An error says that the stream is gone, which the next read reports.
            let _ = recv.flow_control().release_capacity(count);
        }
    }
}

impl BodySource for H2Link {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Chunk, SourceError>> {
        while self.chunk.is_empty() {
            let Some(recv) = &mut self.recv else {
                return Poll::Ready(Ok(Chunk::End));
            };
            match ready!(recv.poll_data(cx)) {
                Some(Ok(bytes)) => self.chunk = bytes,
                Some(Err(error)) => return Poll::Ready(Err(source_error(error))),
                None => {
                    if let Some(fields) = ready!(recv.poll_trailers(cx)).map_err(source_error)? {
                        convert::trailers_in(&fields, &mut self.trailers);
                    }
                    self.recv = None;
                    return Poll::Ready(Ok(Chunk::End));
                }
            }
        }
        Poll::Ready(Ok(Chunk::Data))
    }

    fn chunk(&self) -> &[u8] {
        &self.chunk
    }

    fn consume(&mut self, count: usize) {
        let count = count.min(self.chunk.len());
        self.chunk.advance(count);
        self.release(count);
    }

    fn take_bytes(&mut self) -> Bytes {
        let bytes = std::mem::take(&mut self.chunk);
        self.release(bytes.len());
        bytes
    }

    fn ends_with_chunk(&self) -> bool {
        self.recv.as_ref().is_none_or(RecvStream::is_end_stream)
    }

    fn trailers(&self) -> Option<&Headers> {
        (!self.trailers.is_empty()).then_some(&self.trailers)
    }
}

impl BodySink for H2Link {
    fn poll_send<S: BodySource>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut S,
    ) -> Poll<Result<usize, SinkError>> {
        let Some(send) = self.send.as_mut().filter(|_| !self.sent_whole) else {
            return Poll::Ready(Err(SinkError::Length));
        };
        ready!(self.queue.poll_room(cx));
        let wanted = source.chunk().len();
        send.reserve_capacity(wanted);
        let mut granted = send.capacity();
        while granted == 0 {
            granted = match ready!(send.poll_capacity(cx)) {
                Some(Ok(granted)) => granted,
                Some(Err(error)) => return Poll::Ready(Err(sink_error(error))),
                None => return Poll::Ready(Err(SinkError::Reset(h2::Reason::CANCEL))),
            };
        }
        let last = granted >= wanted && source.ends_with_chunk();
        let bytes = if granted >= wanted {
            source.take_bytes()
        } else {
            let part = Bytes::copy_from_slice(source.chunk().get(..granted).unwrap_or_default());
            source.consume(part.len());
            part
        };
        let count = bytes.len();
        send.send_data(self.queue.add(bytes), last).map_err(sink_error)?;
        self.sent_whole = last;
        Poll::Ready(Ok(count))
    }

    fn poll_end(&mut self, _: &mut Context<'_>, trailers: Option<&Headers>) -> Poll<Result<(), SinkError>> {
        if self.sent_whole {
            return Poll::Ready(Ok(()));
        }
        if let Some(send) = &mut self.send {
            match trailers {
                Some(trailers) => send.send_trailers(convert::trailers_out(trailers)),
                None => send.send_data(self.queue.add(Bytes::new()), true),
            }
            .map_err(sink_error)?;
        }
        self.sent_whole = true;
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), SinkError>> {
        // The connection's own task writes as soon as it can.
        Poll::Ready(Ok(()))
    }
}

/// What a failed read means.
pub fn source_error(error: h2::Error) -> SourceError {
    match error.reason() {
        Some(reason) => SourceError::Reset(reason),
        None => SourceError::Io(error.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionAborted.into())),
    }
}

/// What a failed write means.
pub fn sink_error(error: h2::Error) -> SinkError {
    match error.reason() {
        Some(reason) => SinkError::Reset(reason),
        None => SinkError::Io(error.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionAborted.into())),
    }
}
