//! One HTTP/1 connection as a pair of body ends over a socket, the same for both sides of the proxy.
//!
//! Small writes are held back until the other side has nothing more to give, so that a head and a short body
//! leave in one system call; large ones go out from where they were read, without a copy.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::AsyncWrite;

use super::body::{BodyDecoder, Decoded};
use super::write;
use crate::http::body::{BodySink, BodySource, Chunk, SinkError, SourceError};
use crate::http::headers::Headers;
use crate::http::message::BodyLength;
use crate::transport::buffer::LARGE_BUFFER_BYTES;
use crate::transport::{Buffer, BufferPool, Transport};

/// Up to this many bytes a chunk is copied behind what already waits to be written, instead of being written
/// by itself.
const COALESCE_BYTES: usize = 4 * 1024;
/// Bytes that may wait to be written before a flush is forced.
const OUTPUT_BYTES: usize = 16 * 1024;

const _: () = assert!((crate::http::MOST_HEAD_BYTES as usize) < LARGE_BUFFER_BYTES);

/// A connection, its unread input and its unwritten output.
#[derive(Debug)]
pub struct H1Link {
    transport: Transport,
    pool: Rc<BufferPool>,
    input: Buffer,
    output: Vec<u8>,
    /// How much of `output` is written.
    written: usize,
    decoder: BodyDecoder,
    /// How many bytes at the front of `input` are body.
    body_ready: usize,
    trailers: Headers,
    encoder: Encoder,
    /// Bytes written to the socket since the link was made.
    sent_bytes: u64,
}

/// How the body being sent is framed.
#[derive(Debug, Default)]
enum Encoder {
    /// The message is complete.
    #[default]
    Done,
    Known {
        left: u64,
    },
    /// `left` bytes of the wire chunk under way are still to be written.
    Chunked {
        left: usize,
    },
    UntilClose,
}

impl H1Link {
    /// A link over a fresh connection.
    #[must_use]
    pub fn new(transport: Transport, pool: Rc<BufferPool>) -> Self {
        Self {
            transport,
            pool,
            input: Buffer::default(),
            output: Vec::new(),
            written: 0,
            decoder: BodyDecoder::new(BodyLength::Empty),
            body_ready: 0,
            trailers: Headers::new(),
            encoder: Encoder::Done,
            sent_bytes: 0,
        }
    }

    /// The socket's addresses and options.
    #[must_use]
    pub const fn transport(&self) -> &Transport {
        &self.transport
    }

    /// What was read and not yet taken as head or body.
    #[must_use]
    pub fn unread(&self) -> &[u8] {
        self.input.unread()
    }

    /// Takes a head's bytes from the front of the input.
    pub fn take_head(&mut self, head_len: usize) {
        self.input.consume(head_len);
    }

    /// The output to serialise a head into.
    pub fn output(&mut self) -> &mut Vec<u8> {
        self.lend_output();
        &mut self.output
    }

    fn lend_output(&mut self) {
        if self.output.capacity() == 0 {
            self.output = self.pool.lend_output();
        }
    }

    /// Whether bytes wait to be written.
    #[must_use]
    pub fn has_output(&self) -> bool {
        self.written < self.output.len()
    }

    /// Prepares for the body of the head that was just parsed.
    pub fn expect_body(&mut self, length: BodyLength) {
        self.decoder = BodyDecoder::new(length);
        self.trailers.clear();
        self.body_ready = 0;
    }

    /// Prepares for the body of the head that was just serialised.
    pub fn start_body(&mut self, length: BodyLength) {
        self.encoder = match length {
            BodyLength::Empty | BodyLength::Known(0) => Encoder::Done,
            BodyLength::Known(left) => Encoder::Known { left },
            BodyLength::Streamed => Encoder::Chunked { left: 0 },
            BodyLength::UntilClose => Encoder::UntilClose,
        };
    }

    /// Whether the incoming message has been read to its end.
    #[must_use]
    pub fn is_read_whole(&self) -> bool {
        self.body_ready == 0 && self.decoder.is_done()
    }

    /// Whether the outgoing message has been framed to its end.
    #[must_use]
    pub const fn is_sent_whole(&self) -> bool {
        matches!(self.encoder, Encoder::Done)
    }

    /// Whether the outgoing message, as far as it has come, says that there is more.
    #[must_use]
    pub const fn shows_a_cut(&self) -> bool {
        matches!(self.encoder, Encoder::Known { left: 1.. } | Encoder::Chunked { .. })
    }

    /// Gives memory back while the connection waits for its next message.
    pub fn release_memory(&mut self) {
        self.input.release(&self.pool);
        if self.output.is_empty() {
            self.give_back_output();
        }
    }

    fn give_back_output(&mut self) {
        if self.output.capacity() > 0 {
            self.pool.give_back_output(std::mem::take(&mut self.output));
        }
    }

    /// Reads more into the input. `Ok(0)` is the end of the stream, or a full buffer (which the limits on
    /// heads rule out before it happens).
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let space = self.input.space(&self.pool);
        match self.transport.poll_read_into(cx, space) {
            Poll::Ready(Ok(count)) => {
                self.input.filled(count);
                Poll::Ready(Ok(count))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                // Whoever waits holds nothing; what is read next goes where something was just read.
                self.input.release(&self.pool);
                Poll::Pending
            }
        }
    }

    /// Writes out what waits.
    pub fn poll_flush_output(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.output.len() {
            let waiting = self.output.get(self.written..).unwrap_or_default();
            let count = ready!(Pin::new(&mut self.transport).poll_write(cx, waiting))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
            self.sent_bytes += count as u64;
        }
        self.written = 0;
        self.give_back_output();
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    /// Says to the peer that nothing more will be sent.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush_output(cx))?;
        Pin::new(&mut self.transport).poll_shutdown(cx)
    }

    /// How much of `available` may go out now, after writing the framing that must stand before it.
    fn frame(&mut self, available: usize) -> Result<usize, SinkError> {
        match &mut self.encoder {
            Encoder::Done => Err(SinkError::Length),
            Encoder::Known { left } if available as u64 > *left => Err(SinkError::Length),
            Encoder::Known { .. } | Encoder::UntilClose => Ok(available),
            Encoder::Chunked { left } => {
                if *left == 0 {
                    write::chunk_header(&mut self.output, available);
                    *left = available;
                }
                Ok((*left).min(available))
            }
        }
    }

    /// Takes note that body bytes went out.
    fn account(&mut self, count: usize) {
        match &mut self.encoder {
            Encoder::Done | Encoder::UntilClose => {}
            Encoder::Known { left } => *left = left.saturating_sub(count as u64),
            Encoder::Chunked { left } => {
                *left -= count.min(*left);
                if *left == 0 && count > 0 {
                    self.output.extend_from_slice(b"\r\n");
                }
            }
        }
    }

    /// Writes what waits and then from `body`, in one call; says how much of `body` went.
    fn poll_write_with(&mut self, cx: &mut Context<'_>, body: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let waiting = self.output.get(self.written..).unwrap_or_default();
            let slices = [IoSlice::new(waiting), IoSlice::new(body)];
            let from = if waiting.is_empty() { slices.get(1..) } else { slices.get(..) };
            let transport = Pin::new(&mut self.transport);
            let count = ready!(transport.poll_write_vectored(cx, from.unwrap_or_default()))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent_bytes += count as u64;
            let of_waiting = count.min(waiting.len());
            self.written += of_waiting;
            if self.written == self.output.len() {
                self.output.clear();
                self.written = 0;
            }
            if count > of_waiting {
                return Poll::Ready(Ok(count - of_waiting));
            }
        }
    }
}

impl BodySource for H1Link {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Chunk, SourceError>> {
        loop {
            if self.body_ready > 0 {
                return Poll::Ready(Ok(Chunk::Data));
            }
            let decoded = self
                .decoder
                .decode(self.input.unread(), &mut self.trailers)
                .map_err(|error| SourceError::Malformed(error.to_string()))?;
            self.input.consume(decoded.framing_len());
            match decoded {
                Decoded::Data { len, .. } => self.body_ready = len,
                Decoded::End { .. } => return Poll::Ready(Ok(Chunk::End)),
                Decoded::NeedMore { .. } => {
                    if ready!(self.poll_fill(cx)).map_err(SourceError::Io)? == 0 {
                        self.decoder.finish().map_err(|_| SourceError::Truncated)?;
                    }
                }
            }
        }
    }

    fn chunk(&self) -> &[u8] {
        self.input.unread().get(..self.body_ready).unwrap_or_default()
    }

    fn consume(&mut self, count: usize) {
        let count = count.min(self.body_ready);
        let was_full = self.input.is_full();
        self.body_ready -= count;
        self.input.consume(count);
        if was_full {
            self.input.enlarge_if_empty(&self.pool);
        }
    }

    fn take_bytes(&mut self) -> Bytes {
        let bytes = Bytes::copy_from_slice(self.chunk());
        self.consume(bytes.len());
        bytes
    }

    fn ends_with_chunk(&self) -> bool {
        self.decoder.is_done()
    }

    fn trailers(&self) -> Option<&Headers> {
        (!self.trailers.is_empty()).then_some(&self.trailers)
    }
}

impl BodySink for H1Link {
    fn poll_send<S: BodySource>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut S,
    ) -> Poll<Result<usize, SinkError>> {
        self.lend_output();
        let chunk = source.chunk();
        let allowed = self.frame(chunk.len())?;
        let body = chunk.get(..allowed).unwrap_or_default();
        let count = if body.len() <= COALESCE_BYTES && self.output.len() + body.len() <= OUTPUT_BYTES {
            self.output.extend_from_slice(body);
            body.len()
        } else {
            ready!(self.poll_write_with(cx, body)).map_err(SinkError::Io)?
        };
        self.account(count);
        source.consume(count);
        Poll::Ready(Ok(count))
    }

    fn poll_end(&mut self, cx: &mut Context<'_>, trailers: Option<&Headers>) -> Poll<Result<(), SinkError>> {
        self.lend_output();
        match self.encoder {
            Encoder::Done => {}
            Encoder::Known { left: 0 } => self.encoder = Encoder::Done,
            Encoder::Known { .. } => return Poll::Ready(Err(SinkError::Length)),
            Encoder::Chunked { .. } => {
                write::last_chunk(&mut self.output, trailers);
                self.encoder = Encoder::Done;
            }
            Encoder::UntilClose => {
                ready!(self.poll_shutdown(cx)).map_err(SinkError::Io)?;
                self.encoder = Encoder::Done;
            }
        }
        self.poll_flush_output(cx).map_err(SinkError::Io)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SinkError>> {
        self.poll_flush_output(cx).map_err(SinkError::Io)
    }
}
