//! An HTTP/1 connection: one request after the other, until one side has had enough.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::drain::Drain;
use crate::exchange::report::Report;
use crate::exchange::timers::LazyTimer;
use crate::exchange::{self, Origin, Outcome, reply};
use crate::http::body::{Pump, Whole};
use crate::http::downstream::Downstream as _;
use crate::http::h1::link::H1Link;
use crate::http::h1::request::{HeadError, HeadLimits};
use crate::http::h1::server::{H1Server, NoRequest};
use crate::http::heads::Heads;
use crate::http::message::{BodyLength, RequestHead};
use crate::limit::pressure::Stage;
use crate::model::HttpChain;
use crate::observe::Reason;
use crate::transport::Transport;

/// How long a client may take to read its last answer.
const LINGER: Duration = Duration::from_secs(2);

/// A client's connection over HTTP/1, between requests.
#[derive(Debug)]
pub struct Connection {
    server: H1Server,
    origin: Origin,
    drain: Drain,
    timer: LazyTimer,
    opened: Instant,
    /// When the last response was sent.
    quiet_since: Instant,
    served: u32,
}

impl Connection {
    /// A connection that nothing was said on.
    #[must_use]
    pub fn new(transport: Transport, origin: Origin, drain: Drain) -> Box<Self> {
        let link = H1Link::new(transport, Rc::clone(&origin.worker.buffers));
        let (server, timer) = (H1Server::new(link), LazyTimer::default());
        let opened = Instant::now();
        Box::new(Self { server, origin, drain, timer, opened, quiet_since: opened, served: 0 })
    }
}

/// Serves a connection to its end.
pub async fn serve(mut connection: Box<Connection>) {
    while connection.begun().await {
        let rooms = Rc::clone(&connection.origin.worker.rooms);
        let (served, goes_on) = rooms.run(move || request(connection)).await;
        connection = served;
        if !goes_on {
            break;
        }
    }
    let _ = timeout(LINGER, connection.server.linger()).await;
}

/// Serves the next request; whether another may follow.
async fn request(mut connection: Box<Connection>) -> (Box<Connection>, bool) {
    let goes_on = connection.request().await;
    (connection, goes_on)
}

impl Connection {
    /// Serves the next request; whether another may follow.
    async fn request(&mut self) -> bool {
        let mut heads = self.origin.worker.heads.lend();
        match self.next(&mut heads.request).await {
            Next::Request => {}
            Next::Close => return false,
            Next::Refuse(reason, detail) => {
                refuse(&mut self.server, &mut heads, (reason, &detail), &self.origin).await;
                return false;
            }
        }
        self.served = self.served.saturating_add(1);
        let worker = &self.origin.worker;
        let last = self.origin.chain.max_requests.is_some_and(|limit| self.served >= limit);
        let short = worker.pressure.holds(Stage::StopKeepAlive, || worker.draw());
        let over = self.origin.trusted_until.is_some_and(|until| self.quiet_since >= until);
        if last || short || over || self.drain.has_begun() {
            self.server.close_after_response();
        }
        if let Some(renewed) = self.origin.renewed() {
            self.origin = renewed;
        }
        let outcome = exchange::serve(&mut self.server, &mut heads, &mut self.timer, &self.origin).await;
        self.origin.worker.heads.give_back(heads);
        let Outcome::Complete(at) = outcome else { return false };
        self.quiet_since = at;
        self.server.may_continue()
    }

    /// Waits for the first byte of the next request; `false` when the connection is to end.
    async fn begun(&mut self) -> bool {
        let chain = &self.origin.chain;
        let idle_end = chain.idle_timeout.map(|limit| self.quiet_since + limit);
        let life_end = chain.max_connection_duration.map(|limit| self.opened + limit);
        let trust_end = self.origin.trusted_until;
        let (server, timer) = (&mut self.server, &mut self.timer);
        let (drain, opened) = (&self.drain, self.opened);
        poll_fn(|cx| {
            if let Poll::Ready(begun) = server.poll_begun(cx) {
                return Poll::Ready(begun.is_ok());
            }
            // The next request may be on its way: closed at once, the connection would fail it.
            let last_call = match drain.poll_last_call(cx, opened) {
                Poll::Ready(end) => Some(end),
                Poll::Pending => None,
            };
            match [idle_end, life_end, trust_end, last_call].into_iter().flatten().min() {
                Some(end) => timer.poll_until(cx, end).map(|()| false),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// Reads the head of the next request.
    async fn next(&mut self, head: &mut RequestHead) -> Next {
        let limits = limits(&self.origin.chain);
        let patience = self.origin.chain.request_headers_timeout;
        // Most heads come in one piece: what they would have had to wait for is not looked up.
        let mut deadline = None;
        let (server, timer) = (&mut self.server, &mut self.timer);
        poll_fn(|cx| {
            match server.poll_head(cx, &limits, head) {
                Poll::Ready(Ok(())) => return Poll::Ready(Next::Request),
                Poll::Ready(Err(NoRequest::Closed)) => return Poll::Ready(Next::Close),
                Poll::Ready(Err(NoRequest::Refused(error))) => {
                    return Poll::Ready(Next::Refuse(reason(error), error.to_string()));
                }
                Poll::Pending => {}
            }
            deadline = deadline.or_else(|| Some(Instant::now() + patience?));
            match deadline {
                Some(deadline) => timer
                    .poll_until(cx, deadline)
                    .map(|()| Next::Refuse(Reason::RequestTimeout, String::new())),
                None => Poll::Pending,
            }
        })
        .await
    }
}

/// What waiting for a head has come to.
enum Next {
    Request,
    Close,
    Refuse(Reason, String),
}

fn limits(chain: &HttpChain) -> HeadLimits {
    HeadLimits {
        max_head_bytes: chain.max_head_bytes,
        max_headers: chain.max_headers,
        accept_http10: chain.accept_http10,
        ..HeadLimits::default()
    }
}

fn reason(error: HeadError) -> Reason {
    match error.status().as_u16() {
        414 => Reason::UriTooLong,
        417 => Reason::ExpectationFailed,
        426 => Reason::Http10NotAccepted,
        431 => Reason::HeadersTooLarge,
        501 => Reason::UnknownCoding,
        505 => Reason::VersionNotSupported,
        _ => Reason::BadRequest,
    }
}

/// Answers what was never a request, closes after it, and records it as one.
async fn refuse(
    server: &mut H1Server,
    Heads { request, response }: &mut Heads,
    (reason, detail): (Reason, &str),
    origin: &Origin,
) {
    let mut report = Report::begin(origin, origin.remote);
    server.close_after_response();
    let body = reply::head(&RequestHead::default(), response, (reason, reason.status()), detail, &mut report);
    response.body = BodyLength::Known(body.len() as u64);
    report.status = response.status.as_u16();
    if server.send_head(response).is_ok() {
        let (mut pump, mut source) = (Pump::default(), Whole(body));
        // The end of a body flushes it.
        let _ = timeout(report.patience, poll_fn(|cx| pump.poll(cx, &mut source, server))).await;
        report.sent_bytes = pump.bytes();
    }
    report.finish(request, response, origin, Instant::now());
}
