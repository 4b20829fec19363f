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

    /// Waits for the client to go away, once its request has been read whole.
    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// From now on bytes are passed as they come, in both directions.
    fn open_tunnel(&mut self);

    /// Ends the exchange so that the client cannot take what it has for a whole response.
    fn abort(&mut self);
}
