//! The downstream side of HTTP/2: one stream.

use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};

use super::convert;
use super::link::{H2Link, sink_error};
use super::queue::{Queue, Queued};
use crate::http::body::{BodySink, BodySource, Chunk, SinkError, SourceError};
use crate::http::downstream::{BreakOff, Downstream};
use crate::http::headers::Headers;
use crate::http::message::{BodyLength, ResponseHead};

/// A client's HTTP/2 stream.
#[derive(Debug)]
pub struct H2Server {
    link: H2Link,
    respond: SendResponse<Queued>,
    /// With which code the whole connection is to end.
    goodbye: Option<Reason>,
}

impl H2Server {
    /// A stream whose head has been read, on the connection with this queue.
    #[must_use]
    pub fn new(recv: RecvStream, respond: SendResponse<Queued>, queue: &Rc<Queue>) -> Self {
        let mut link = H2Link::new(queue);
        link.receive_from(recv);
        Self { link, respond, goodbye: None }
    }

    /// With which code the whole connection is to end, if it is.
    #[must_use]
    pub const fn goodbye(&self) -> Option<Reason> {
        self.goodbye
    }

    /// Whether the response was sent whole.
    #[must_use]
    pub const fn is_sent_whole(&self) -> bool {
        self.link.is_sent_whole()
    }
}

impl Downstream for H2Server {
    fn send_head(&mut self, head: &ResponseHead) -> Result<(), SinkError> {
        let Some(response) = convert::response_out(head) else {
            self.respond.send_reset(Reason::INTERNAL_ERROR);
            return Err(SinkError::Length);
        };
        let ended = head.body == BodyLength::Empty;
        let send = self.respond.send_response(response, ended).map_err(sink_error)?;
        self.link.send_to(send, ended);
        Ok(())
    }

    fn send_interim(&mut self, head: &ResponseHead) {
        if let Some(response) = convert::response_out(head) {
            // A stream that is gone says so when the final response is sent.
            let _ = self.respond.send_informational(response);
        }
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // `h2` wants to be asked on the half that is in use, and fails otherwise.
        if self.link.has_sender() {
            self.link.poll_closed(cx)
        } else {
            self.respond.poll_reset(cx).map(|_| ())
        }
    }

    fn open_tunnel(&mut self) {}

    fn settle(&mut self, _: &mut Context<'_>) {}

    fn shows_a_cut(&self) -> bool {
        true
    }

    fn cut_short(&mut self) {
        self.abort();
    }

    fn abort(&mut self) {
        self.link.reset(Reason::INTERNAL_ERROR);
        self.respond.send_reset(Reason::INTERNAL_ERROR);
    }

    fn break_off(&mut self, how: BreakOff) {
        let code = match how {
            BreakOff::Stream(code) => {
                self.link.reset(code.into());
                self.respond.send_reset(code.into());
                return;
            }
            BreakOff::GoAway(code) => code.into(),
            BreakOff::Close => Reason::NO_ERROR,
        };
        self.goodbye = Some(code);
    }
}

impl BodySource for H2Server {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Chunk, SourceError>> {
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

impl BodySink for H2Server {
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
