//! What an exchange wants of the side that a request came from.

use std::task::{Context, Poll};

use super::body::{BodySink, BodySource, SinkError};
use super::message::ResponseHead;

/// The client's side of one exchange: an HTTP/1 connection or an HTTP/2 stream.
pub trait Downstream: BodySource + BodySink {
    /// Puts the head of the final response on its way. On HTTP/1 it is written with the first bytes of the body.
    ///
    /// # Errors
    /// When the client cannot be reached any more.
    fn send_head(&mut self, head: &ResponseHead) -> Result<(), SinkError>;

    /// Puts an interim response (1xx) on its way, before the final one. One that the client's version does not know,
    /// or that the client is too slow for, is left out: nothing depends on it (RFC 9110 section 15.2).
    fn send_interim(&mut self, head: &ResponseHead);

    /// Waits for the client to go away, once its request has been read whole.
    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// From now on bytes are passed as they come, in both directions.
    fn open_tunnel(&mut self);

    /// An answer of our own is about to be sent: takes what is there of the request, so that another one may follow where
    /// that is all. What is not there yet is not waited for.
    fn settle(&mut self, cx: &mut Context<'_>);

    /// Whether a client that gets everything which was sent until now, and then the end, sees that something is missing.
    fn shows_a_cut(&self) -> bool;

    /// Ends the exchange when all that there was of a response has been sent, and [`Self::shows_a_cut`].
    fn cut_short(&mut self);

    /// Ends the exchange so that the client cannot take what it has for a whole response.
    fn abort(&mut self);

    /// Ends the exchange, or its connection, without an answer.
    fn break_off(&mut self, how: BreakOff);
}

/// How an exchange ends without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakOff {
    /// The HTTP/2 stream is reset with this code; an HTTP/1 connection is reset.
    Stream(u32),
    /// The HTTP/2 connection is ended with this code; an HTTP/1 connection is reset.
    GoAway(u32),
    /// The connection is closed in order.
    Close,
}
