//! Limits on the rate of requests: by the filters of the chain, each with what the route says to it.
//!
//! They stand behind authorization, so that what is denied takes no tokens.

use std::time::Duration;

use tokio::time::Instant;

use super::report::Report;
use super::{Origin, Outcome, Routed, reply};
use crate::http::downstream::Downstream;
use crate::http::headers::Headers;
use crate::http::message::{RequestHead, ResponseHead};
use crate::limit::RateLimit;
use crate::limit::descriptor::Subject;
use crate::model::RouteAction;
use crate::model::headers::Values;
use crate::observe::Reason;
use crate::observe::metrics::Labels;
use crate::observe::series::RATE_LIMITED;

/// A limit that a request is too much for.
pub(super) struct Over<'a> {
    limit: &'a RateLimit,
    wait: Duration,
}

/// Takes the tokens of a request; the limit that it is too much for, if there is one.
pub(super) fn over<'a>(
    request: &RequestHead,
    origin: &'a Origin,
    routed: Option<&'a Routed<'a>>,
    report: &Report,
) -> Option<Over<'a>> {
    let weighted = routed.and_then(|routed| match &routed.route.action {
        RouteAction::Forward(action) => Some(action.cluster.pick(routed.draw)),
        RouteAction::Redirect(_) | RouteAction::Direct(_) => None,
    });
    let subject = Subject {
        head: request,
        remote: report.client().unwrap_or(origin.remote).ip(),
        peer: origin.standing.facts.identity(),
        cluster: weighted.map(|(name, _)| &**name),
    };
    let now = Instant::now();
    for filter in &origin.chain.limits {
        let said = routed.and_then(|routed| {
            let levels = [
                weighted.and_then(|(_, entry)| entry).map(|entry| &entry.filters),
                Some(&routed.route.filters),
                Some(&routed.host.filters),
                Some(&routed.table.filters),
            ];
            levels.into_iter().flatten().find_map(|overrides| overrides.limit(&filter.name))
        });
        let limit = said.unwrap_or(&filter.limit);
        let Some(limited) = limit.limits(&subject, now, origin.worker.draw()) else { continue };
        let mode = if limited.enforced { "enforce" } else { "audit" };
        let labels = Labels::none().with("policy", &limit.name).with("mode", mode);
        origin.worker.metrics.counter(RATE_LIMITED, &labels).add(1);
        if limited.enforced {
            return Some(Over { limit, wait: limited.wait });
        }
    }
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
    let reason = (Reason::RateLimited, over.limit.status);
    let body = reply::head(request, response, reason, "", report);
    over.write(&mut response.headers, request.is_grpc(), report);
    reply::send_body(down, request, response, (routed, body), report).await
}

impl Over<'_> {
    fn write(&self, headers: &mut Headers, grpc: bool, report: &Report) {
        if grpc && self.limit.grpc_exhausted {
            headers.set(b"grpc-status", b"8");
        }
        if self.limit.retry_after {
            let seconds = u64::try_from(self.wait.as_millis().div_ceil(1000)).unwrap_or(u64::MAX).max(1);
            headers.set(b"retry-after", itoa::Buffer::new().format(seconds).as_bytes());
        }
        if !self.limit.response_headers.is_empty() {
            let mut values = Values::default();
            self.limit.response_headers.render(&report.plain_record(), &mut values);
            self.limit.response_headers.add_to(headers, &values);
        }
    }
}
