//! The filters before the router where some of them inject faults: each in its turn, so that a fault meets denied
//! requests exactly where it stands before the filter that denies them.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use super::report::Report;
use super::timers::LazyTimer;
use super::{Origin, Outcome, Routed, authorize, reply};
use crate::fault::shape::Pace;
use crate::fault::{Answer, HttpFaults, Injected, Shaper};
use crate::http::downstream::Downstream;
use crate::http::message::{BodyLength, RequestHead, ResponseHead};
use crate::observe::metrics::Labels;
use crate::observe::series::{FAULTS, FAULTS_OVERFLOW};
use crate::observe::{Flags, Reason};

/// Why a request does not get to the router.
#[derive(Debug)]
pub(super) enum Stop {
    /// A policy denies it.
    Denied,
    /// A fault answers it.
    Abort(Answer),
    /// There is nobody left to answer.
    Gone,
}

/// Takes a request through policies and faults; `None` when it may go on. Cancel-safe.
pub(super) async fn pass<D: Downstream>(
    down: &mut D,
    request: &RequestHead,
    (timer, origin): (&mut LazyTimer, &Origin),
    routed: Option<&Routed<'_>>,
    report: &mut Report,
) -> Option<Stop> {
    let changes = origin.standing.changes();
    let mut decided = 0;
    for faults in &origin.chain.faults {
        if !authorize::decide(request, origin, routed, (decided..faults.after_policies, report)) {
            return Some(Stop::Denied);
        }
        decided = faults.after_policies;
        let ways = (&mut *down, &mut *timer);
        if let Some(stop) = inject(faults, request, origin, (routed, report), ways).await {
            return Some(stop);
        }
    }
    if !authorize::decide(request, origin, routed, (decided..origin.chain.policies.len(), report)) {
        return Some(Stop::Denied);
    }
    // What was decided before a delay may not hold any more.
    let holds = origin.standing.changes() == changes
        || authorize::still_allows(request, origin, routed.map_or(0, |routed| routed.draw), report.client());
    (!holds).then_some(Stop::Denied)
}

/// One filter of Envoy's kind: first the rate, then the delay, then the abort, with one place for all of them.
async fn inject<D: Downstream>(
    faults: &HttpFaults,
    request: &RequestHead,
    origin: &Origin,
    (routed, report): (Option<&Routed<'_>>, &mut Report),
    (down, timer): (&mut D, &mut LazyTimer),
) -> Option<Stop> {
    let levels = authorize::levels(routed).into_iter().flatten();
    let said = levels.into_iter().find_map(|overrides| overrides.faults(&faults.name));
    let filter = said.unwrap_or(&faults.filter);
    if !filter.concerns(request) {
        return None;
    }
    let worker = &origin.worker;
    let mut placed = false;
    let mut may = |effect: &'static str, report: &mut Report| {
        if !placed {
            let labels = Labels::none().with("fault", &faults.name);
            let Some(slot) = faults.take_slot(filter.max_active) else {
                worker.metrics.counter(FAULTS_OVERFLOW, &labels).add(1);
                return false;
            };
            placed = true;
            report.injected().add(&faults.name, Some(slot));
        }
        let labels = Labels::none().with("fault", &faults.name).with("effect", effect);
        worker.metrics.counter(FAULTS, &labels).add(1);
        true
    };
    if let Some(rate) = filter.rate(request, worker.draw()).filter(|_| may("rate", report)) {
        report.injected().response = Some(Box::new(Shaper::new(Some(Pace::Rate(rate)))));
    }
    if let Some(delay) = filter.delay(request, worker.draw()).filter(|_| may("delay", report)) {
        report.flags = report.flags.with(Flags::DI);
        if !wait(down, timer, request, delay).await {
            return Some(Stop::Gone);
        }
    }
    let abort = filter.abort(request, worker.draw()).filter(|_| may("abort", report));
    abort.map(Stop::Abort)
}

/// Waits, as long as the client does.
async fn wait<D: Downstream>(
    down: &mut D,
    timer: &mut LazyTimer,
    request: &RequestHead,
    delay: Duration,
) -> bool {
    let end = Instant::now() + delay;
    let bodiless = request.body == BodyLength::Empty;
    poll_fn(|cx| {
        if bodiless && down.poll_closed(cx).is_ready() {
            return Poll::Ready(false);
        }
        timer.poll_until(cx, end).map(|()| true)
    })
    .await
}

/// Tells the client.
pub(super) async fn stop<D: Downstream>(
    down: &mut D,
    request: &RequestHead,
    response: &mut ResponseHead,
    (stop, routed): (Stop, Option<&Routed<'_>>),
    report: &mut Report,
) -> Outcome {
    match stop {
        Stop::Denied => {
            reply::local(down, request, response, (Reason::AuthorizationDenied, routed), report).await
        }
        Stop::Abort(Answer::Http(status)) => {
            reply::with_status(down, request, response, (Reason::FaultInjected, status, routed), report).await
        }
        Stop::Abort(Answer::Grpc(code)) => {
            let reason = (Reason::FaultInjected, StatusCode::OK);
            let mut body = reply::head(request, response, reason, "", report);
            if request.is_grpc() {
                let code = itoa::Buffer::new().format(code).to_owned();
                response.headers.set(b"grpc-status", code.as_bytes());
                body.clear();
            }
            reply::send_body(down, request, response, (routed, body), report).await
        }
        Stop::Gone => {
            report.ended(Reason::DownstreamGone);
            down.abort();
            Outcome::Broken
        }
    }
}

/// The header that names the faults of an exchange.
pub const FAULT_HEADER: &[u8] = b"outrider-fault";

/// Marks a response, so that nobody looks for what is not broken.
pub(super) fn mark(response: &mut ResponseHead, report: &Report) {
    if let Some(injected) = report.injected.as_deref().filter(|_| report.names_reason) {
        response.headers.set(FAULT_HEADER, injected.line().as_bytes());
    }
}

/// Lets go of how the bytes to the client go.
pub(super) fn shaper(injected: &mut Option<Box<Injected>>) -> Option<Box<Shaper>> {
    injected.as_mut().and_then(|injected| injected.response.take())
}

/// The names of the faults, for a log line.
pub(super) fn names(report: &Report) -> &[Arc<str>] {
    report.injected.as_ref().map_or(&[], |injected| &injected.names)
}
