//! The downstream side of HTTP/1: one connection, one request after the other.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::link::H1Link;
use super::request::{HeadError, HeadLimits, Progress, RequestParser};
use super::write::{self, Wire};
use crate::http::body::{BodySink, BodySource, Chunk, SinkError, SourceError};
use crate::http::downstream::{BreakOff, Downstream};
use crate::http::headers::Headers;
use crate::http::message::{BodyLength, RequestHead, ResponseHead, Version};

/// Bytes that a client may still send after its connection is given up, so that it gets to read the answer.
const MAX_LINGER_BYTES: usize = 256 * 1024;
/// Bytes of a request that are read for an answer of our own, so that the connection can be used again.
const MAX_SETTLED_BYTES: usize = 64 * 1024;
/// Bytes of a following request that are read ahead while a response is awaited.
const MAX_READ_AHEAD_BYTES: usize = 64 * 1024;
/// Bytes of interim responses that may wait for a slow client; further ones are left out.
const MAX_WAITING_INTERIM_BYTES: usize = 16 * 1024;

/// A client's HTTP/1 connection.
#[derive(Debug)]
pub struct H1Server {
    link: H1Link,
    parser: RequestParser,
    http10: bool,
    head_request: bool,
    keep_alive: bool,
    /// The client waits to be told to send its body.
    owes_continue: bool,
    aborted: bool,
}

/// Why there is no next request.
#[derive(Debug)]
pub enum NoRequest {
    /// The client closed the connection between requests, or it failed.
    Closed,
    /// What came is refused.
    Refused(HeadError),
}

impl H1Server {
    /// A connection that has just begun to speak HTTP/1.
    #[must_use]
    pub fn new(link: H1Link) -> Self {
        Self {
            link,
            parser: RequestParser::default(),
            http10: false,
            head_request: false,
            keep_alive: true,
            owes_continue: false,
            aborted: false,
        }
    }

    /// The connection.
    #[must_use]
    pub const fn link(&self) -> &H1Link {
        &self.link
    }

    /// Makes the next response the last.
    pub const fn close_after_response(&mut self) {
        self.keep_alive = false;
    }

    /// Whether bytes of a request have come in.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        !self.link.unread().is_empty()
    }

    /// Waits for the first byte of the next request, holding no buffer meanwhile. Cancel-safe.
    pub fn poll_begun(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), NoRequest>> {
        if self.has_begun() {
            return Poll::Ready(Ok(()));
        }
        match self.link.poll_fill(cx) {
            Poll::Ready(Ok(count)) if count > 0 => Poll::Ready(Ok(())),
            Poll::Ready(_) => Poll::Ready(Err(NoRequest::Closed)),
            Poll::Pending => {
                self.link.release_memory();
                Poll::Pending
            }
        }
    }

    /// Reads the head of the next request. Cancel-safe.
    pub fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        limits: &HeadLimits,
        head: &mut RequestHead,
    ) -> Poll<Result<(), NoRequest>> {
        loop {
            match self.parser.parse(self.link.unread(), limits, head) {
                Ok(Progress::Done { head_len, keep_alive }) => {
                    self.link.take_head(head_len);
                    self.parser.reset();
                    self.link.expect_body(head.body);
                    self.http10 = head.version == Version::Http10;
                    self.head_request = head.method == http::Method::HEAD;
                    // What follows a refused CONNECT may have been meant for the tunnel, so it is no request.
                    self.keep_alive &= keep_alive && head.method != http::Method::CONNECT;
                    self.owes_continue = head.expects_continue && !self.link.is_read_whole();
                    return Poll::Ready(Ok(()));
                }
                Ok(Progress::Partial) => {}
                Err(error) => return Poll::Ready(Err(NoRequest::Refused(error))),
            }
            match ready!(self.link.poll_fill(cx)) {
                Ok(count) if count > 0 => {}
                Ok(_) | Err(_) => return Poll::Ready(Err(NoRequest::Closed)),
            }
        }
    }

    /// Whether another request may follow.
    #[must_use]
    pub fn may_continue(&self) -> bool {
        self.keep_alive && !self.aborted && self.link.is_read_whole() && self.link.is_sent_whole()
    }

    /// Ends the connection so that the client can read its answer: says that nothing follows, and reads what the
    /// client was still sending, up to a bound. The caller bounds the time.
    pub async fn linger(&mut self) {
        if self.aborted || poll_fn(|cx| self.link.poll_shutdown(cx)).await.is_err() {
            return;
        }
        let mut discarded = 0;
        while discarded < MAX_LINGER_BYTES {
            let unread = self.link.unread().len();
            self.link.take_head(unread);
            match poll_fn(|cx| self.link.poll_fill(cx)).await {
                Ok(count) if count > 0 => discarded += count,
                Ok(_) | Err(_) => return,
            }
        }
    }
}

impl Downstream for H1Server {
    fn send_head(&mut self, head: &ResponseHead) -> Result<(), SinkError> {
        let unframed = head.body == BodyLength::Streamed && self.http10;
        // A client that was never told to send its body may or may not send it: nothing can follow.
        if unframed || (head.body == BodyLength::UntilClose) || self.owes_continue {
            self.keep_alive = false;
        }
        // The rest of a large body is not worth reading.
        if !self.link.is_read_whole() && !head.status.is_success() && head.upgrade.is_empty() {
            self.keep_alive = false;
        }
        self.owes_continue = false;
        let wire = Wire { http10: self.http10, close: !self.keep_alive, head_request: self.head_request };
        write::response_head(self.link.output(), head, wire);
        self.link.start_body(if unframed { BodyLength::UntilClose } else { head.body });
        Ok(())
    }

    fn settle(&mut self, cx: &mut Context<'_>) {
        let mut taken = 0;
        // A client that waits to be told to send its body has not sent any.
        while !self.owes_continue && taken < MAX_SETTLED_BYTES && !self.link.is_read_whole() {
            match self.link.poll_chunk(cx) {
                Poll::Ready(Ok(Chunk::Data)) => {
                    let count = self.link.chunk().len();
                    self.link.consume(count);
                    taken += count;
                }
                Poll::Ready(Ok(Chunk::End) | Err(_)) | Poll::Pending => break,
            }
        }
        if !self.link.is_read_whole() {
            self.keep_alive = false;
        }
    }

    fn shows_a_cut(&self) -> bool {
        self.link.shows_a_cut()
    }

    fn cut_short(&mut self) {
        self.aborted = true;
        self.keep_alive = false;
    }

    fn send_interim(&mut self, head: &ResponseHead) {
        if !self.http10 && self.link.output().len() < MAX_WAITING_INTERIM_BYTES {
            write::response_head(self.link.output(), head, Wire::default());
        }
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // A following request may be read ahead, within bounds; it is not an end.
        while self.link.unread().len() < MAX_READ_AHEAD_BYTES {
            match ready!(self.link.poll_fill(cx)) {
                Ok(count) if count > 0 => {}
                Ok(_) | Err(_) => {
                    self.keep_alive = false;
                    return Poll::Ready(());
                }
            }
        }
        Poll::Pending
    }

    fn open_tunnel(&mut self) {
        self.keep_alive = false;
        self.link.expect_body(BodyLength::UntilClose);
    }

    fn abort(&mut self) {
        self.aborted = true;
        self.keep_alive = false;
        self.link.transport().reset_on_close();
    }

    fn break_off(&mut self, how: BreakOff) {
        match how {
            BreakOff::Stream(_) | BreakOff::GoAway(_) => self.abort(),
            BreakOff::Close => self.keep_alive = false,
        }
    }
}

impl BodySource for H1Server {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Chunk, SourceError>> {
        if self.owes_continue {
            if self.link.unread().is_empty() {
                self.link.output().extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            }
            self.owes_continue = false;
        }
        if self.link.has_output() && !self.link.is_read_whole() && self.link.is_sent_whole() {
            // Only the interim response can be waiting here; the body follows it.
            ready!(self.link.poll_flush_output(cx)).map_err(SourceError::Io)?;
        }
        self.link.poll_chunk(cx)
    }

    fn chunk(&self) -> &[u8] {
        self.link.chunk()
    }

    fn consume(&mut self, count: usize) {
        self.link.consume(count);
    }

    fn take_bytes(&mut self) -> Bytes {
        self.link.take_bytes()
    }

    fn ends_with_chunk(&self) -> bool {
        self.link.ends_with_chunk()
    }

    fn trailers(&self) -> Option<&Headers> {
        self.link.trailers()
    }
}

impl BodySink for H1Server {
    fn poll_send<S: BodySource>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut S,
    ) -> Poll<Result<usize, SinkError>> {
        self.link.poll_send(cx, source)
    }

    fn poll_end(&mut self, cx: &mut Context<'_>, trailers: Option<&Headers>) -> Poll<Result<(), SinkError>> {
        self.link.poll_end(cx, trailers)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SinkError>> {
        self.link.poll_flush(cx)
    }
}
