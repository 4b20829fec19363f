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
use crate::observe::Reason;
use crate::transport::Transport;

/// How long a client may take to read its last answer.
const LINGER: Duration = Duration::from_secs(2);

/// Serves a connection to its end.
pub async fn serve(transport: Transport, mut origin: Origin, drain: Drain) {
    let limits = (limits(&origin), origin.chain.request_headers_timeout);
    let link = H1Link::new(transport, Rc::clone(&origin.worker.buffers));
    let mut server = H1Server::new(link);
    let mut timer = LazyTimer::default();
    let opened = Instant::now();
    let mut served = 0_u32;
    while begun(&mut server, (&mut timer, opened), (&origin, &drain)).await {
        let mut heads = origin.worker.heads.lend();
        match next(&mut server, &limits, &mut heads.request, &mut timer).await {
            Next::Request => {}
            Next::Close => break,
            Next::Refuse(reason, detail) => {
                refuse(&mut server, &mut heads, (reason, &detail), &origin).await;
                break;
            }
        }
        served = served.saturating_add(1);
        let last = origin.chain.max_requests.is_some_and(|limit| served >= limit);
        let short = origin.worker.pressure.holds(Stage::StopKeepAlive, || origin.worker.draw());
        if last || short || drain.has_begun() {
            server.close_after_response();
        }
        if let Some(renewed) = origin.renewed() {
            origin = renewed;
        }
        let outcome = exchange::serve(&mut server, &mut heads, &mut timer, &origin).await;
        origin.worker.heads.give_back(heads);
        if outcome == Outcome::Broken || !server.may_continue() {
            break;
        }
    }
    let _ = timeout(LINGER, server.linger()).await;
}

fn limits(origin: &Origin) -> HeadLimits {
    HeadLimits {
        max_head_bytes: origin.chain.max_head_bytes,
        max_headers: origin.chain.max_headers,
        accept_http10: origin.chain.accept_http10,
        ..HeadLimits::default()
    }
}

/// What a connection does next.
enum Next {
    Request,
    Close,
    Refuse(Reason, String),
}

/// Waits for the first byte of the next request; `false` when the connection is to end.
async fn begun(
    server: &mut H1Server,
    (timer, opened): (&mut LazyTimer, Instant),
    (origin, drain): (&Origin, &Drain),
) -> bool {
    let chain = &origin.chain;
    let idle_end = chain.idle_timeout.map(|limit| Instant::now() + limit);
    let life_end = chain.max_connection_duration.map(|limit| opened + limit);
    let mut draining = std::pin::pin!(drain.begun());
    poll_fn(|cx| {
        if let Poll::Ready(begun) = server.poll_begun(cx) {
            return Poll::Ready(begun.is_ok());
        }
        if draining.as_mut().poll(cx).is_ready() {
            return Poll::Ready(false);
        }
        match idle_end.into_iter().chain(life_end).min() {
            Some(end) => timer.poll_until(cx, end).map(|()| false),
            None => Poll::Pending,
        }
    })
    .await
}

/// Reads the head of the next request.
async fn next(
    server: &mut H1Server,
    (limits, patience): &(HeadLimits, Option<Duration>),
    head: &mut RequestHead,
    timer: &mut LazyTimer,
) -> Next {
    let deadline = patience.map(|limit| Instant::now() + limit);
    poll_fn(|cx| {
        match server.poll_head(cx, limits, head) {
            Poll::Ready(Ok(())) => return Poll::Ready(Next::Request),
            Poll::Ready(Err(NoRequest::Closed)) => return Poll::Ready(Next::Close),
            Poll::Ready(Err(NoRequest::Refused(error))) => {
                return Poll::Ready(Next::Refuse(reason(error), error.to_string()));
            }
            Poll::Pending => {}
        }
        match deadline {
            Some(deadline) => {
                timer.poll_until(cx, deadline).map(|()| Next::Refuse(Reason::RequestTimeout, String::new()))
            }
            None => Poll::Pending,
        }
    })
    .await
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
    report.finish(request, response, origin);
}
