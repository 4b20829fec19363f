//! The response on its way to the client, and what is left of the request on its way to the upstream.

use std::future::poll_fn;
use std::task::{Context, Poll};

use http::StatusCode;

use super::attempt::Established;
use super::inject;
use super::report::Report;
use super::timers::Timers;
use crate::fault::Shaper;
use crate::fault::shape::poll_pump;
use crate::http::body::{BodySink as _, Pump, PumpError, SourceError};
use crate::http::downstream::Downstream;
use crate::http::message::{BodyLength, RequestHead, ResponseHead};
use crate::observe::Reason;

/// How a response went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relayed {
    /// The client has all of it, and the upstream all of the request.
    Whole,
    /// One side failed, or the upstream answered before it had the whole request.
    Cut,
}

/// Passes the response on.
pub async fn response<D: Downstream>(
    down: &mut D,
    upstream: &mut Established,
    (request, response): (&RequestHead, &mut ResponseHead),
    timers: &mut Timers<'_>,
    report: &mut Report,
) -> Relayed {
    timers.response_begun();
    let begun = timers.active();
    upstream.replay.stop_keeping();
    report.response_after = Some(begun.saturating_duration_since(report.started));
    let tunnel = opens_tunnel(request, response);
    if tunnel {
        response.status = StatusCode::SWITCHING_PROTOCOLS;
        response.upgrade.clone_from(&request.upgrade);
        response.body = BodyLength::UntilClose;
    } else if response.body == BodyLength::UntilClose {
        // The client learns the end by this hop's own framing.
        response.body = BodyLength::Streamed;
    }
    report.status = response.status.as_u16();
    super::limit::answered(&mut report.place, tunnel, &response.headers);
    super::limit::tell(report.quota.as_deref(), &mut response.headers);
    if down.send_head(response).is_err() {
        report.ended(Reason::DownstreamGone);
        return Relayed::Cut;
    }
    if tunnel {
        down.open_tunnel();
        upstream.pump = Pump::default();
    } else if !request.upgrade.is_empty() {
        upstream.pump = Pump::done();
    }
    let whole = inject::shaper(&mut report.injected);
    let shaper = upstream.shapers.response.take().or(whole);
    let mut way = WayBack { pump: Pump::default(), shaper, tunnel, deaf: false };
    let ended = poll_fn(|cx| poll_relay(cx, (down, request), upstream, &mut way, timers)).await;
    report.sent_bytes = way.pump.bytes();
    report.received_bytes = report.received_bytes.max(upstream.pump.bytes());
    match ended {
        Ok(()) if upstream.pump.is_done() => Relayed::Whole,
        Ok(()) => {
            // Answered before the request was whole: the rest of it is not wanted.
            Relayed::Cut
        }
        Err(reason @ Reason::UpstreamBodyFailed) if down.shows_a_cut() => {
            report.ended(reason);
            Box::pin(deliver(down, request, timers)).await;
            down.cut_short();
            Relayed::Cut
        }
        Err(reason) => {
            report.ended(reason);
            down.abort();
            Relayed::Cut
        }
    }
}

/// Sends what there is of a response that goes no further.
async fn deliver<D: Downstream>(down: &mut D, request: &RequestHead, timers: &mut Timers<'_>) {
    poll_fn(|cx| match down.poll_flush(cx) {
        Poll::Ready(_) => Poll::Ready(()),
        Poll::Pending => timers.poll(cx, request).map(|_| ()),
    })
    .await;
    // What is on an HTTP/2 connection is written by its own task, whose turn it is now.
    tokio::task::yield_now().await;
}

/// Whether the upstream agreed to switch protocols: 101 in HTTP/1, success in HTTP/2.
pub(super) fn opens_tunnel(request: &RequestHead, response: &ResponseHead) -> bool {
    let h2_agreed = response.version == crate::http::message::Version::Http2 && response.status.is_success();
    !request.upgrade.is_empty() && (response.status == StatusCode::SWITCHING_PROTOCOLS || h2_agreed)
}

/// The response under way.
struct WayBack {
    pump: Pump,
    shaper: Option<Box<Shaper>>,
    /// It is one direction of a tunnel, of which both have to end.
    tunnel: bool,
    /// The upstream takes nothing more of the other direction.
    deaf: bool,
}

fn poll_relay<D: Downstream>(
    cx: &mut Context<'_>,
    (down, request): (&mut D, &RequestHead),
    upstream: &mut Established,
    way: &mut WayBack,
    timers: &mut Timers<'_>,
) -> Poll<Result<(), Reason>> {
    let Established { link, pump: request_pump, replay, shapers, .. } = upstream;
    let WayBack { pump, shaper, tunnel, deaf } = way;
    let before = (request_pump.bytes(), pump.bytes());
    if !request_pump.is_done() && !*deaf {
        match poll_pump(&mut shapers.request, request_pump, cx, &mut replay.source(down), link) {
            Poll::Ready(Ok(())) => timers.request_complete(),
            Poll::Ready(Err(PumpError::Source(SourceError::Injected))) => {
                return Poll::Ready(Err(Reason::FaultInjected));
            }
            Poll::Ready(Err(PumpError::Source(_))) => return Poll::Ready(Err(Reason::DownstreamGone)),
            // The upstream needs no more of the request; its response goes on.
            Poll::Ready(Err(PumpError::Sink(_))) => *deaf = true,
            Poll::Pending => {}
        }
    }
    if !pump.is_done() {
        match poll_pump(shaper, pump, cx, link, down) {
            Poll::Ready(Ok(())) if !*tunnel => return Poll::Ready(Ok(())),
            Poll::Ready(Ok(())) | Poll::Pending => {}
            Poll::Ready(Err(PumpError::Source(SourceError::Injected))) => {
                return Poll::Ready(Err(Reason::FaultInjected));
            }
            Poll::Ready(Err(PumpError::Source(_))) => return Poll::Ready(Err(Reason::UpstreamBodyFailed)),
            Poll::Ready(Err(PumpError::Sink(_))) => return Poll::Ready(Err(Reason::DownstreamGone)),
        }
    }
    if *tunnel && pump.is_done() && (request_pump.is_done() || *deaf) {
        return Poll::Ready(Ok(()));
    }
    if (request_pump.bytes(), pump.bytes()) != before {
        timers.active();
    }
    if !*tunnel && request_pump.is_done() && down.poll_closed(cx).is_ready() {
        return Poll::Ready(Err(Reason::DownstreamGone));
    }
    let _ = link.poll_flush(cx);
    timers.poll(cx, request).map(Err)
}
