//! Limits on the rate of requests, by the filters of the chain, each with what the route says to it; and on requests
//! at a time.
//!
//! They stand behind authorization, so that what is denied takes no tokens.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use super::report::Report;
use super::{Origin, Outcome, Routed, authorize, reply};
use crate::http::downstream::Downstream;
use crate::http::headers::Headers;
use crate::http::message::{RequestHead, ResponseHead};
use crate::limit::RateLimit;
use crate::limit::descriptor::Subject;
use crate::limit::gradient::Gradient;
use crate::limit::rate::Quota;
use crate::model::RouteAction;
use crate::model::headers::Values;
use crate::model::limits::Priority;
use crate::observe::Reason;
use crate::observe::metrics::Labels;
use crate::observe::series::RATE_LIMITED;

/// A limit that a request is too much for.
pub(super) enum Over<'a> {
    /// On rates, and how long until there is a token.
    Rate(&'a RateLimit, Duration),
    /// On requests at a time, and what is answered.
    Concurrency(StatusCode),
}

/// A place among the requests at a time.
#[derive(Debug)]
pub(super) struct Place {
    gradient: Arc<Gradient>,
    began: Instant,
    draw: u64,
    whole: bool,
}

impl Place {
    /// How long it took counts if the request was answered by whom it was sent to.
    pub(super) fn give_back(mut self, whole: bool) {
        self.whole = whole;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gradient.leave(self.began, self.whole, Instant::now(), self.draw);
    }
}

/// A tunnel, and a stream of events, is answered when it begins: it goes on for as long as both sides like, and holds no
/// place meanwhile.
pub(super) fn answered(place: &mut Option<Place>, tunnel: bool, headers: &Headers) {
    if place.is_some() && (tunnel || is_event_stream(headers)) {
        place.take().into_iter().for_each(|place| place.give_back(true));
    }
}

/// Server-sent events, as the HTML standard calls them.
fn is_event_stream(headers: &Headers) -> bool {
    let essence = headers.first(b"content-type").and_then(|value| value.split(|byte| *byte == b';').next());
    essence.is_some_and(|essence| essence.trim_ascii().eq_ignore_ascii_case(b"text/event-stream"))
}

/// Takes the tokens of a request and its place; the limit that it is too much for, if there is one.
pub(super) fn over<'a>(
    request: &RequestHead,
    origin: &'a Origin,
    routed: Option<&'a Routed<'a>>,
    report: &mut Report,
) -> Option<Over<'a>> {
    let cluster = routed.and_then(|routed| match &routed.route.action {
        RouteAction::Forward(action) => Some(&**action.cluster.pick(routed.draw).0),
        RouteAction::Redirect(_) | RouteAction::Direct(_) => None,
    });
    let levels = authorize::levels(routed);
    let subject = Subject {
        head: request,
        remote: report.client().unwrap_or(origin.remote).ip(),
        peer: origin.standing.facts.identity(),
        cluster,
    };
    let now = Instant::now();
    for filter in &origin.chain.limits {
        let said = levels.into_iter().flatten().find_map(|overrides| overrides.limit(&filter.name));
        let limit = said.unwrap_or(&filter.limit);
        let drawn = (now, origin.worker.draw());
        let Some(limited) = limit.limits(&subject, drawn, &mut report.quota) else { continue };
        let mode = if limited.enforced { "enforce" } else { "audit" };
        let labels = Labels::none().with("policy", &limit.name).with("mode", mode);
        origin.worker.metrics.counter(RATE_LIMITED, &labels).add(1);
        if limited.enforced {
            return Some(Over::Rate(limit, limited.wait));
        }
    }
    let gradient = origin.chain.concurrency.as_ref()?;
    let priority = routed.map_or(Priority::Default, |routed| match &routed.route.action {
        RouteAction::Forward(action) => action.priority,
        RouteAction::Redirect(_) | RouteAction::Direct(_) => Priority::Default,
    });
    let draw = origin.worker.draw();
    if !gradient.enter(priority, now, draw) {
        return Some(Over::Concurrency(gradient.settings().status));
    }
    let gradient = Arc::clone(gradient);
    report.place = Some(Place { gradient, began: now, draw, whole: false });
    None
}

/// Answers a request that is too much.
pub(super) async fn refuse<D: Downstream>(
    down: &mut D,
    request: &RequestHead,
    response: &mut ResponseHead,
    (over, routed): (Over<'_>, Option<&Routed<'_>>),
    report: &mut Report,
) -> Outcome {
    let reason = match &over {
        Over::Rate(limit, _) => (Reason::RateLimited, limit.status),
        Over::Concurrency(status) => (Reason::OverflowConcurrency, *status),
    };
    let body = reply::head(request, response, reason, "", report);
    if let Over::Rate(limit, wait) = over {
        write(limit, wait, (&mut response.headers, request.is_grpc()), report);
    }
    reply::send_body(down, request, response, (routed, body), report).await
}

/// Tells the client how many requests it has left, where a limit says so (draft-polli-ratelimit-headers-03).
pub(super) fn tell(quota: Option<&Quota>, headers: &mut Headers) {
    let Some(&Quota { limit, left, wait }) = quota else { return };
    let reset = wait.as_millis().div_ceil(1000);
    let mut text = itoa::Buffer::new();
    headers.set(b"x-ratelimit-limit", text.format(limit).as_bytes());
    headers.set(b"x-ratelimit-remaining", text.format(left).as_bytes());
    headers.set(b"x-ratelimit-reset", text.format(reset).as_bytes());
}

fn write(limit: &RateLimit, wait: Duration, (headers, grpc): (&mut Headers, bool), report: &Report) {
    if grpc && limit.grpc_exhausted {
        headers.set(b"grpc-status", b"8");
    }
    if limit.retry_after {
        let seconds = u64::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u64::MAX).max(1);
        headers.set(b"retry-after", itoa::Buffer::new().format(seconds).as_bytes());
    }
    if !limit.response_headers.is_empty() {
        let mut values = Values::default();
        limit.response_headers.render(&report.plain_record(), &mut values);
        limit.response_headers.add_to(headers, &values);
    }
}
