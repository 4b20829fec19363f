//! The filters before the router where some of them inject faults: each in its turn, so that a fault meets denied
//! requests exactly where it stands before the filter that denies them.

pub(super) mod attempt;

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use tokio::time::Instant;

use super::report::Report;
use super::timers::LazyTimer;
use super::{Origin, Outcome, Routed, authorize, reply};
use crate::fault::filter::MAX_DELAY;
use crate::fault::leased::{Abort, Action, Leased, Subject};
use crate::fault::shape::Pace;
use crate::fault::{Answer, FaultSet, HttpFaults, Injected, Place, Plan, Shaper, Stage};
use crate::http::downstream::{BreakOff, Downstream};
use crate::http::message::{BodyLength, RequestHead, ResponseHead};
use crate::model::RouteAction;
use crate::observe::metrics::Labels;
use crate::observe::series::FAULTS_OVERFLOW;
use crate::observe::{Flags, Reason};

/// Why a request does not get to the router.
#[derive(Debug)]
pub(super) enum Stop {
    /// A policy denies it.
    Denied,
    /// A fault of a filter answers it.
    Abort(Answer),
    /// A leased fault ends it.
    Leased(Abort),
    /// There is nobody left to answer.
    Gone,
}

/// Whether a leased fault is about this request; most of the time none is, and then nothing is made for it.
pub(super) fn concerns(
    set: &FaultSet,
    request: &RequestHead,
    origin: &Origin,
    routed: Option<&Routed<'_>>,
) -> bool {
    !origin.standing.facts.spared
        && set.concerns((place(origin.direction), Stage::Whole), &subject(request, origin, routed))
}

/// Takes a request through policies and faults; `None` when it may go on. Cancel-safe.
pub(super) async fn pass<D: Downstream>(
    down: &mut D,
    request: &RequestHead,
    (timer, origin): (&mut LazyTimer, &Origin),
    (routed, leased): (Option<&Routed<'_>>, Option<&FaultSet>),
    report: &mut Report,
) -> Option<Stop> {
    let changes = origin.standing.changes();
    if let Some(set) = leased.filter(|_| !origin.standing.facts.spared)
        && let Some(stop) = meet(set, request, origin, (routed, report), down).await
    {
        return Some(stop);
    }
    let mut decided = 0;
    let filters = origin.chain.faults.iter().filter(|_| leased.is_none_or(|set| !set.is_silent()));
    for faults in filters {
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
    // A delay before the route is no part of the time that the route allows, as in Envoy.
    report.routed = Instant::now();
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
        let shown = worker.count_fault(&faults.name, effect);
        report.injected().show(shown);
        true
    };
    if let Some(rate) = filter.rate(request, worker.draw()).filter(|_| may("rate", report)) {
        report.injected().response = Some(Box::new(Shaper::new(Some(Pace::Rate(rate)))));
    }
    if let Some(delay) = filter.delay(request, worker.draw()).filter(|_| may("delay", report)) {
        report.flags = report.flags.with(Flags::DI);
        if !wait(down, request, timer_until(timer, delay)).await {
            return Some(Stop::Gone);
        }
    }
    let abort = filter.abort(request, worker.draw()).filter(|_| may("abort", report));
    abort.map(Stop::Abort)
}

/// The leased faults of the listener's direction.
async fn meet<D: Downstream>(
    set: &FaultSet,
    request: &RequestHead,
    origin: &Origin,
    (routed, report): (Option<&Routed<'_>>, &mut Report),
    down: &mut D,
) -> Option<Stop> {
    let subject = subject(request, origin, routed);
    let held_back = |fault: &_| origin.worker.count_held_back(fault);
    let stage = (place(origin.direction), Stage::Whole);
    let mut plan = set.choose(stage, &subject, origin.standing.number(set), held_back)?;
    note(&mut plan, origin, report);
    let injected = report.injected();
    injected.request = plan.request.take();
    injected.response = plan.response.take();
    injected.hold = plan.hold.take();
    if let Some(pause) = &plan.wait
        && !wait(down, request, pause.over()).await
    {
        return Some(Stop::Gone);
    }
    let fault = plan.end.take().filter(|fault| fault.lease.is_live())?;
    report.flags = report.flags.with(Flags::FI);
    if let Action::Abort(abort) = &fault.action {
        return Some(Stop::Leased(abort.clone()));
    }
    // When its lease is over, what was held goes on.
    (!wait(down, request, fault.lease.wait(MAX_DELAY)).await).then_some(Stop::Gone)
}

/// Which faults a listener of this direction meets; one that says none serves somebody, as a gateway does, unless it is
/// spared.
pub(crate) fn place(direction: &str) -> Place {
    if direction == "outbound" { Place::Outbound } else { Place::Inbound }
}

/// What faults may ask of a request.
fn subject<'a>(request: &'a RequestHead, origin: &'a Origin, routed: Option<&'a Routed<'_>>) -> Subject<'a> {
    let facts = &origin.standing.facts;
    let cluster = routed.and_then(|routed| match &routed.route.action {
        RouteAction::Forward(action) => Some(&**action.cluster.pick(routed.draw).0),
        RouteAction::Redirect(_) | RouteAction::Direct(_) => None,
    });
    Subject {
        listener: &facts.listener,
        destination: facts.destination,
        peer: facts.identity(),
        head: Some(request),
        route: routed.map(|routed| &*routed.route.name).unwrap_or_default(),
        cluster: cluster.unwrap_or_default(),
        endpoint: None,
        tls: facts.secure,
    }
}

/// Counts and marks what is about to happen.
fn note(plan: &mut Plan, origin: &Origin, report: &mut Report) {
    report.flags = report.flags.with(plan.flags());
    let count = |fault: &Leased| origin.worker.count_fault(&fault.name, fault.action.effect());
    plan.note(report.injected(), count);
}

/// Holds a response back that is there, if a fault of the whole request wants it; whether the client has waited.
pub(super) async fn hold<D: Downstream>(down: &mut D, request: &RequestHead, report: &mut Report) -> bool {
    match report.injected.as_mut().and_then(|injected| injected.hold.take()) {
        Some(pause) => Box::pin(wait(down, request, pause.over())).await,
        None => true,
    }
}

/// The filter's delays, on the connection's own timer.
async fn timer_until(timer: &mut LazyTimer, delay: Duration) {
    let end = Instant::now() + delay;
    poll_fn(|cx| timer.poll_until(cx, end)).await;
}

/// Waits, as long as the client does.
async fn wait<D: Downstream>(down: &mut D, request: &RequestHead, over: impl Future<Output = ()>) -> bool {
    let mut over = std::pin::pin!(over);
    let bodiless = request.body == BodyLength::Empty;
    poll_fn(|cx| {
        if bodiless && down.poll_closed(cx).is_ready() {
            return Poll::Ready(false);
        }
        over.as_mut().poll(cx).map(|()| true)
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
            let body = grpc(request, response, (code, ""), report);
            reply::send_body(down, request, response, (routed, body), report).await
        }
        Stop::Leased(Abort::Http(status)) => {
            reply::with_status(down, request, response, (Reason::FaultInjected, status, routed), report).await
        }
        Stop::Leased(Abort::Grpc(code, message)) => {
            let body = grpc(request, response, (code, &message), report);
            reply::send_body(down, request, response, (routed, body), report).await
        }
        Stop::Leased(Abort::Reset) => {
            broken(down, BreakOff::Stream(h2::Reason::INTERNAL_ERROR.into()), report)
        }
        Stop::Leased(Abort::Stream(code)) => broken(down, BreakOff::Stream(code), report),
        Stop::Leased(Abort::GoAway(code)) => broken(down, BreakOff::GoAway(code), report),
        Stop::Leased(Abort::Close) => broken(down, BreakOff::Close, report),
        Stop::Gone => {
            report.ended(Reason::DownstreamGone);
            down.abort();
            Outcome::Broken
        }
    }
}

/// Ends the exchange without an answer.
fn broken<D: Downstream>(down: &mut D, how: BreakOff, report: &mut Report) -> Outcome {
    report.ended(Reason::FaultInjected);
    down.break_off(how);
    Outcome::Broken
}

/// Fills an answer with a gRPC status, and returns its body: none for those who understand the status.
fn grpc(
    request: &RequestHead,
    response: &mut ResponseHead,
    (code, message): (u32, &str),
    report: &mut Report,
) -> Bytes {
    let mut body = reply::head(request, response, (Reason::FaultInjected, StatusCode::OK), "", report);
    if request.is_grpc() {
        response.headers.set(b"grpc-status", itoa::Buffer::new().format(code).as_bytes());
        if !message.is_empty() {
            response.headers.set(b"grpc-message", message.as_bytes());
        }
        body.clear();
    }
    body
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
