//! How a body moves from one side of an exchange to the other.
//!
//! A source shows its next bytes in place and a sink takes what it can of them, so that nothing is copied
//! between two HTTP/1 connections and nothing is held beyond one read: back-pressure is the sink being
//! pending. [`Pump`] is one direction of one exchange; both directions run on the task that owns both sides.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::headers::Headers;

/// What a source has next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// [`BodySource::chunk`] holds at least one byte.
    Data,
    /// The body is complete; [`BodySource::trailers`] may hold fields.
    End,
}

/// Why a body cannot be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The peer ended the connection or the stream before the end of the body.
    #[error("the peer ended the stream in the middle of the body")]
    Truncated,
    /// The body's framing is wrong.
    #[error("malformed body: {0}")]
    Malformed(String),
    /// The HTTP/2 stream was reset.
    #[error("the peer reset the stream: {0}")]
    Reset(h2::Reason),
    /// The connection failed.
    #[error("connection failed while reading the body")]
    Io(#[source] io::Error),
    /// It was ended on purpose.
    #[error("a fault ends the body")]
    Injected,
}

/// Why a body cannot be sent on.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The HTTP/2 stream was reset by the peer.
    #[error("the peer reset the stream: {0}")]
    Reset(h2::Reason),
    /// The connection failed.
    #[error("connection failed while writing the body")]
    Io(#[source] io::Error),
    /// The body does not have the length that its head declared.
    #[error("the body does not have the length that its head declared")]
    Length,
}

/// The reading end of a message's body.
pub trait BodySource {
    /// Waits until there are bytes or the body has ended. Cancel-safe.
    ///
    /// # Errors
    /// When the body cannot be read to its end; final.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Chunk, SourceError>>;

    /// The bytes that are there; not empty after [`Chunk::Data`] until consumed.
    fn chunk(&self) -> &[u8];

    /// Marks bytes of the chunk as taken.
    fn consume(&mut self, count: usize);

    /// Takes the whole chunk, without a copy where the source owns it.
    fn take_bytes(&mut self) -> Bytes;

    /// Whether it is already known that nothing, not even trailers, follows the chunk that is there, so that
    /// the end can go out with it.
    fn ends_with_chunk(&self) -> bool;

    /// The trailer section, after [`Chunk::End`], if there was one.
    fn trailers(&self) -> Option<&Headers>;
}

/// The writing end of a message's body.
pub trait BodySink {
    /// Takes some of the source's chunk and says how many bytes. The source has shown [`Chunk::Data`].
    ///
    /// # Errors
    /// When nothing more can be sent; final.
    fn poll_send<S: BodySource>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut S,
    ) -> Poll<Result<usize, SinkError>>;

    /// Ends the body, with trailers where the protocol can carry them, and flushes.
    ///
    /// # Errors
    /// When the end cannot be sent; final.
    fn poll_end(&mut self, cx: &mut Context<'_>, trailers: Option<&Headers>) -> Poll<Result<(), SinkError>>;

    /// Pushes out what a sink holds back to write it together with what follows.
    ///
    /// # Errors
    /// When the connection failed.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SinkError>>;
}

/// Which side ended a pump before its time.
#[derive(Debug, thiserror::Error)]
pub enum PumpError {
    /// The side that is read from.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The side that is written to.
    #[error(transparent)]
    Sink(#[from] SinkError),
}

/// One direction of one exchange.
#[derive(Debug, Default)]
pub struct Pump {
    state: PumpState,
    bytes: u64,
    /// The source had nothing when it was last asked.
    starved: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum PumpState {
    #[default]
    Moving,
    Ending,
    Done,
}

impl Pump {
    /// A pump that has nothing to do: the message has no body and its end went with its head.
    #[must_use]
    pub const fn done() -> Self {
        Self { state: PumpState::Done, bytes: 0, starved: false }
    }

    /// Body bytes moved so far.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether it is the source that is waited for, not the sink.
    #[must_use]
    pub const fn is_starved(&self) -> bool {
        self.starved
    }

    /// Whether the end of the body was passed on.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == PumpState::Done
    }

    /// Moves what can be moved; ready when the body's end has been passed on. Cancel-safe.
    ///
    /// # Errors
    /// Which side failed, and how; final.
    pub fn poll<S: BodySource, K: BodySink>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut S,
        sink: &mut K,
    ) -> Poll<Result<(), PumpError>> {
        loop {
            self.starved = false;
            match self.state {
                PumpState::Moving => match source.poll_chunk(cx)? {
                    Poll::Ready(Chunk::Data) => {
                        let count = ready!(sink.poll_send(cx, source))?;
                        self.bytes = self.bytes.saturating_add(count as u64);
                    }
                    Poll::Ready(Chunk::End) => self.state = PumpState::Ending,
                    Poll::Pending => {
                        self.starved = true;
                        // What was held back must not wait for bytes that may never come.
                        let _ = sink.poll_flush(cx)?;
                        return Poll::Pending;
                    }
                },
                PumpState::Ending => {
                    ready!(sink.poll_end(cx, source.trailers()))?;
                    self.state = PumpState::Done;
                }
                PumpState::Done => return Poll::Ready(Ok(())),
            }
        }
    }
}

/// A sink that takes everything and keeps nothing.
#[derive(Debug)]
pub struct Discard;

impl BodySink for Discard {
    fn poll_send<S: BodySource>(
        &mut self,
        _: &mut Context<'_>,
        source: &mut S,
    ) -> Poll<Result<usize, SinkError>> {
        let count = source.chunk().len();
        source.consume(count);
        Poll::Ready(Ok(count))
    }

    fn poll_end(&mut self, _: &mut Context<'_>, _: Option<&Headers>) -> Poll<Result<(), SinkError>> {
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), SinkError>> {
        Poll::Ready(Ok(()))
    }
}

/// A body that is there as a whole.
#[derive(Debug)]
pub struct Whole(pub Bytes);

impl BodySource for Whole {
    fn poll_chunk(&mut self, _: &mut Context<'_>) -> Poll<Result<Chunk, SourceError>> {
        Poll::Ready(Ok(if self.0.is_empty() { Chunk::End } else { Chunk::Data }))
    }

    fn chunk(&self) -> &[u8] {
        &self.0
    }

    fn consume(&mut self, count: usize) {
        bytes::Buf::advance(&mut self.0, count);
    }

    fn take_bytes(&mut self) -> Bytes {
        std::mem::take(&mut self.0)
    }

    fn ends_with_chunk(&self) -> bool {
        true
    }

    fn trailers(&self) -> Option<&Headers> {
        None
    }
}

/// A sink that keeps what it gets, up to a bound.
#[derive(Debug)]
pub struct Collect {
    /// What came.
    pub bytes: Vec<u8>,
    /// The trailers, once the end has come.
    pub trailers: Headers,
    max_bytes: usize,
}

impl Collect {
    /// Nothing yet; more bytes than these are an error.
    #[must_use]
    pub fn new(max_bytes: usize) -> Self {
        Self { bytes: Vec::new(), trailers: Headers::new(), max_bytes }
    }
}

impl BodySink for Collect {
    fn poll_send<S: BodySource>(
        &mut self,
        _: &mut Context<'_>,
        source: &mut S,
    ) -> Poll<Result<usize, SinkError>> {
        let count = source.chunk().len();
        if self.bytes.len() + count > self.max_bytes {
            return Poll::Ready(Err(SinkError::Length));
        }
        self.bytes.extend_from_slice(source.chunk());
        source.consume(count);
        Poll::Ready(Ok(count))
    }

    fn poll_end(&mut self, _: &mut Context<'_>, trailers: Option<&Headers>) -> Poll<Result<(), SinkError>> {
        if let Some(trailers) = trailers {
            self.trailers = trailers.clone();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), SinkError>> {
        Poll::Ready(Ok(()))
    }
}
