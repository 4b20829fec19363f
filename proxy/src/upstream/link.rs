//! The upstream side of one exchange, whatever the protocol.

use std::future::Future as _;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use http::Method;
use tokio::time::Instant;

use super::client::{H1Client, StreamGuard};
use super::clusters::ClusterState;
use super::endpoint::EndpointState;
use super::injected::InjectedExchange;
use crate::http::MAX_HEADERS;
use crate::http::body::{BodySink, BodySource, Chunk, Discard, SinkError, SourceError};
use crate::http::h1::{response, write};
use crate::http::h2::{H2Link, Queued, convert};
use crate::http::headers::Headers;
use crate::http::message::{BodyLength, RequestHead, ResponseHead};

/// Informational responses that are read past before an upstream is said to be at fault.
const MAX_INFORMATIONAL: u32 = 16;

/// Why there is no response head.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The connection ended before the first byte of a response. On a connection that was used before, the
    /// upstream may have closed it while the request was on its way.
    #[error("the upstream closed the connection before it answered")]
    ClosedBeforeResponse {
        /// Whether the connection had served a request before.
        reused: bool,
    },
    /// The upstream says that it did not look at the request (RFC 9113 section 8.7).
    #[error("the upstream refused the stream")]
    Refused,
    /// The stream was reset before a response.
    #[error("the upstream reset the stream: {0}")]
    Reset(h2::Reason),
    /// The upstream sent what is no valid response.
    #[error("invalid response: {0}")]
    Protocol(String),
    /// The request cannot be said in the upstream's protocol.
    #[error("the request cannot be forwarded over HTTP/2: {0}")]
    Unsayable(&'static str),
}

/// One exchange with an upstream.
#[derive(Debug)]
pub enum UpstreamLink {
    /// A whole HTTP/1 connection.
    H1(H1Exchange),
    /// A stream of an HTTP/2 connection.
    H2(Box<H2Exchange>),
    /// A fault in their place.
    Injected(InjectedExchange),
}

/// An exchange on an HTTP/1 connection.
#[derive(Debug)]
pub struct H1Exchange {
    client: Box<H1Client>,
    parser: response::ResponseParser,
    informational: u32,
    keep_alive: bool,
    /// A byte of a response has been seen.
    answered: bool,
    tunnel: bool,
}

/// An exchange on an HTTP/2 stream.
#[derive(Debug)]
pub struct H2Exchange {
    link: H2Link,
    sender: SendRequest<Queued>,
    response: Option<ResponseFuture>,
    informational: u32,
    stream: StreamGuard,
}

impl UpstreamLink {
    /// An exchange on this connection.
    #[must_use]
    pub fn from_h1(client: Box<H1Client>) -> Self {
        Self::H1(H1Exchange {
            client,
            parser: response::ResponseParser::default(),
            informational: 0,
            keep_alive: false,
            answered: false,
            tunnel: false,
        })
    }

    /// An exchange on the next stream of this connection.
    #[must_use]
    pub fn from_h2(sender: SendRequest<Queued>, stream: StreamGuard) -> Self {
        Self::H2(Box::new(H2Exchange {
            link: H2Link::new(stream.queue()),
            sender,
            response: None,
            informational: 0,
            stream,
        }))
    }

    /// Waits until it is known whether a tunnel can be asked for: over HTTP/2 the upstream has to allow it (RFC 8441
    /// section 3).
    pub async fn ready_for_tunnel(&self) {
        if let Self::H2(exchange) = self
            && !exchange.sender.is_extended_connect_protocol_enabled()
        {
            exchange.stream.settings().await;
        }
    }

    /// Puts the head on its way. On HTTP/1 it is written together with the first bytes of the body.
    ///
    /// # Errors
    /// When the head cannot be sent.
    pub fn send_head(&mut self, head: &RequestHead) -> Result<(), UpstreamError> {
        match self {
            Self::H1(exchange) => {
                exchange.client.begin_request();
                let link = exchange.client.link();
                write::request_head(link.output(), head);
                exchange.tunnel = !head.upgrade.is_empty();
                link.start_body(head.body);
                Ok(())
            }
            Self::H2(exchange) => exchange.send_head(head),
            Self::Injected(_) => Ok(()),
        }
    }

    /// Waits for the next head: the final response's, or that of an interim one, after which it is asked again.
    /// `100 Continue` is not given out, because the proxy has said it itself. Cancel-safe.
    ///
    /// # Errors
    /// When there will be none.
    pub fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
        method: &Method,
        head: &mut ResponseHead,
    ) -> Poll<Result<(), UpstreamError>> {
        match self {
            Self::H1(exchange) => exchange.poll_response(cx, method, head),
            Self::H2(exchange) => exchange.poll_response(cx, method, head),
            Self::Injected(exchange) => exchange.poll_response(cx, head),
        }
    }

    /// Gives the connection back if another request may follow on it, and closes it otherwise.
    ///
    /// Called when the exchange is over; dropping the link instead closes an HTTP/1 connection and resets an
    /// HTTP/2 stream.
    pub fn finish(self, cluster: &ClusterState, endpoint: &Rc<EndpointState>, now: Instant) {
        if let Self::H1(exchange) = self {
            let link = exchange.client.link_ref();
            let clean = link.is_read_whole() && link.is_sent_whole() && !link.has_output();
            let limit = cluster.config().max_requests_per_connection;
            let used_up = limit.is_some_and(|limit| exchange.client.requests() >= limit);
            if exchange.keep_alive && clean && !used_up && link.unread().is_empty() {
                endpoint.keep_idle(exchange.client, now);
                cluster.connection_idle();
            }
        }
    }
}

impl H1Exchange {
    fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
        method: &Method,
        head: &mut ResponseHead,
    ) -> Poll<Result<(), UpstreamError>> {
        let reused = self.client.requests() > 1;
        loop {
            let link = self.client.link();
            if !link.unread().is_empty() {
                self.answered = true;
                let progress = self
                    .parser
                    .parse(link.unread(), &response::Limits::default(), method, self.tunnel, head)
                    .map_err(|error| UpstreamError::Protocol(error.to_string()))?;
                if let response::Progress::Done { head_len, keep_alive } = progress {
                    link.take_head(head_len);
                    self.parser = response::ResponseParser::default();
                    let switched = head.status == http::StatusCode::SWITCHING_PROTOCOLS;
                    if head.is_interim() {
                        count_interim(&mut self.informational)?;
                        if head.status == http::StatusCode::CONTINUE {
                            continue;
                        }
                        return Poll::Ready(Ok(()));
                    }
                    self.keep_alive = keep_alive && head.body != BodyLength::UntilClose;
                    link.expect_body(head.body);
                    if switched {
                        link.start_body(BodyLength::UntilClose);
                    }
                    return Poll::Ready(Ok(()));
                }
            }
            // What is still to be written must go out before an answer can come.
            match ready!(link.poll_fill(cx)) {
                Ok(count) if count > 0 => {}
                Ok(_) | Err(_) if self.answered => {
                    let said = "the connection ended in the middle of the response head".to_owned();
                    return Poll::Ready(Err(UpstreamError::Protocol(said)));
                }
                Ok(_) | Err(_) => {
                    return Poll::Ready(Err(UpstreamError::ClosedBeforeResponse { reused }));
                }
            }
        }
    }
}

impl H2Exchange {
    fn send_head(&mut self, head: &RequestHead) -> Result<(), UpstreamError> {
        if !head.upgrade.is_empty() && !self.sender.is_extended_connect_protocol_enabled() {
            return Err(UpstreamError::Unsayable("the upstream does not allow extended CONNECT"));
        }
        let request = convert::request_out(head)
            .ok_or(UpstreamError::Unsayable("the authority or the path is not a legal URI"))?;
        // What opens a tunnel has no body, and ends with the tunnel.
        let ended = head.body == BodyLength::Empty && head.upgrade.is_empty();
        let (response, send) =
            self.sender.send_request(request, ended).map_err(|error| lost(error, &self.stream))?;
        self.response = Some(response);
        self.link.send_to(send, ended);
        Ok(())
    }

    fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
        method: &Method,
        head: &mut ResponseHead,
    ) -> Poll<Result<(), UpstreamError>> {
        let Some(response) = &mut self.response else {
            return Poll::Pending;
        };
        while let Poll::Ready(Some(interim)) = response.poll_informational(cx) {
            let interim = interim.map_err(|error| lost(error, &self.stream))?;
            self.stream.answered();
            count_interim(&mut self.informational)?;
            if interim.status() != http::StatusCode::CONTINUE {
                convert::response_in(&interim, true, method, head)
                    .map_err(|error| UpstreamError::Protocol(error.to_string()))?;
                head.body = BodyLength::Empty;
                return Poll::Ready(Ok(()));
            }
        }
        let response = ready!(Pin::new(response).poll(cx)).map_err(|error| lost(error, &self.stream))?;
        self.stream.answered();
        self.response = None;
        let (parts, recv) = response.into_parts();
        let response = http::Response::from_parts(parts, ());
        convert::response_in(&response, recv.is_end_stream(), method, head)
            .map_err(|error| UpstreamError::Protocol(error.to_string()))?;
        if head.headers.len() > MAX_HEADERS {
            return Poll::Ready(Err(UpstreamError::Protocol("too many header fields".to_owned())));
        }
        // What follows a response that has no body is not read; letting go of the stream resets it.
        if head.body != BodyLength::Empty {
            self.link.receive_from(recv);
        }
        Poll::Ready(Ok(()))
    }
}

/// Counts an interim response against the bound on them.
fn count_interim(count: &mut u32) -> Result<(), UpstreamError> {
    *count += 1;
    if *count > MAX_INFORMATIONAL {
        return Err(UpstreamError::Protocol("too many informational responses".to_owned()));
    }
    Ok(())
}

/// What a failed stream means for the request.
fn lost(error: h2::Error, stream: &StreamGuard) -> UpstreamError {
    match error.reason() {
        Some(h2::Reason::REFUSED_STREAM) => UpstreamError::Refused,
        // A peer's GOAWAY, whatever its reason, fails exactly the streams above the last one that it processed.
        Some(_) if error.is_go_away() && error.is_remote() => UpstreamError::Refused,
        Some(reason) if error.is_reset() => UpstreamError::Reset(reason),
        Some(reason) if !error.is_remote() => UpstreamError::Protocol(reason.to_string()),
        Some(reason) => UpstreamError::Reset(reason),
        None => UpstreamError::ClosedBeforeResponse { reused: stream.was_idle() },
    }
}

/// Delegates to whichever link it is.
macro_rules! each {
    ($self:expr, $link:ident => $call:expr, $injected:expr) => {
        match $self {
            UpstreamLink::H1(exchange) => {
                let $link = exchange.client.link();
                $call
            }
            UpstreamLink::H2(exchange) => {
                let $link = &mut exchange.link;
                $call
            }
            UpstreamLink::Injected(_) => $injected,
        }
    };
}

impl BodySource for UpstreamLink {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Chunk, SourceError>> {
        each!(self, link => link.poll_chunk(cx), Poll::Ready(Ok(Chunk::End)))
    }

    fn chunk(&self) -> &[u8] {
        match self {
            Self::H1(exchange) => exchange.client.link_ref().chunk(),
            Self::H2(exchange) => exchange.link.chunk(),
            Self::Injected(_) => &[],
        }
    }

    fn consume(&mut self, count: usize) {
        each!(self, link => link.consume(count), ());
    }

    fn take_bytes(&mut self) -> Bytes {
        each!(self, link => link.take_bytes(), Bytes::new())
    }

    fn ends_with_chunk(&self) -> bool {
        match self {
            Self::H1(exchange) => exchange.client.link_ref().ends_with_chunk(),
            Self::H2(exchange) => exchange.link.ends_with_chunk(),
            Self::Injected(_) => true,
        }
    }

    fn trailers(&self) -> Option<&Headers> {
        match self {
            Self::H1(exchange) => exchange.client.link_ref().trailers(),
            Self::H2(exchange) => exchange.link.trailers(),
            Self::Injected(_) => None,
        }
    }
}

impl BodySink for UpstreamLink {
    fn poll_send<S: BodySource>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut S,
    ) -> Poll<Result<usize, SinkError>> {
        each!(self, link => link.poll_send(cx, source), Discard.poll_send(cx, source))
    }

    fn poll_end(&mut self, cx: &mut Context<'_>, trailers: Option<&Headers>) -> Poll<Result<(), SinkError>> {
        each!(self, link => link.poll_end(cx, trailers), Poll::Ready(Ok(())))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SinkError>> {
        each!(self, link => link.poll_flush(cx), Poll::Ready(Ok(())))
    }
}
