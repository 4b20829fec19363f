//! Authorization of a request: by the filters of its chain, in their order, each with what the route says to it.
//!
//! It stands behind path normalisation and the choice of the route, so that what is decided about is exactly what is
//! forwarded, and before anything is done for the request.

use std::net::SocketAddr;
use std::ops::Range;
use std::task::{Context, Poll};

use super::inject::Stop;
use super::report::Report;
use super::{Origin, Routed};
use crate::http::message::RequestHead;
use crate::model::RouteAction;
use crate::model::overrides::FilterOverrides;
use crate::model::rbac::HttpPolicies;
use crate::policy::egress::{Destination, Mode};
use crate::policy::{Filter, Subject};

/// What stops the request on a chain that has no faults, if anything does.
pub(super) fn stop(
    request: &RequestHead,
    origin: &Origin,
    routed: Option<&Routed<'_>>,
    report: &mut Report,
) -> Option<Stop> {
    let all = 0..origin.chain.policies.len();
    (!all.is_empty() && !decide(request, origin, routed, (all, report))).then_some(Stop::Denied)
}

/// Whether these of the chain's filters let the request go on; records what the policies say.
pub(super) fn decide(
    request: &RequestHead,
    origin: &Origin,
    routed: Option<&Routed<'_>>,
    (filters, report): (Range<usize>, &mut Report),
) -> bool {
    let subject = subject(request, origin, report.client());
    for policies in origin.chain.policies.get(filters).unwrap_or_default() {
        let decision = filter(policies, routed).decide(&subject);
        origin.worker.count_decision(&decision);
        report.authorized.add(&decision);
        if !decision.is_allowed() {
            return false;
        }
    }
    true
}

fn subject<'a>(request: &'a RequestHead, origin: &'a Origin, client: Option<SocketAddr>) -> Subject<'a> {
    Subject {
        remote: client.unwrap_or(origin.remote).ip(),
        head: Some(request),
        ..origin.standing.facts.subject()
    }
}

/// Holds a request under way to policies that change.
#[derive(Debug)]
pub struct Oversight<'a> {
    origin: &'a Origin,
    /// The request as it was decided about, where it is not the same any more.
    asked: Option<Box<RequestHead>>,
    client: Option<SocketAddr>,
    draw: u64,
    /// Where a tunnel leads.
    reached: Option<Destination>,
    /// The changes that were looked at.
    seen: u32,
    place: Option<usize>,
}

impl<'a> Oversight<'a> {
    /// Over a request that was let in and is about to be changed as its route wants it. `None` where no policy was
    /// asked: one that comes later finds out with the next request. A tunnel has no next one, and is held to the rules about
    /// its destination too.
    pub(super) fn new(
        request: &RequestHead,
        origin: &'a Origin,
        routed: &Routed<'_>,
        report: &Report,
    ) -> Option<Self> {
        let is_guarded_tunnel = !request.upgrade.is_empty() && origin.standing.is_guarded();
        if origin.chain.policies.is_empty() && !is_guarded_tunnel {
            return None;
        }
        let asked = routed.changes_request().then(|| Box::new(request.clone()));
        let (client, draw, seen) = (report.client(), routed.draw, origin.standing.changes());
        Some(Self { origin, asked, client, draw, reached: None, seen, place: None })
    }

    /// Takes note of where the attempt of a tunnel leads.
    pub(super) const fn reaches(&mut self, to: Destination) {
        self.reached = Some(to);
    }

    /// Ready when the policies no longer allow the request.
    pub(super) fn poll(&mut self, cx: &Context<'_>, request: &RequestHead) -> Poll<()> {
        let standing = &self.origin.standing;
        if self.seen != standing.changes() {
            self.seen = standing.changes();
            let asked = self.asked.as_deref().unwrap_or(request);
            let surroundings = &self.origin.worker.surroundings;
            let guard =
                self.reached.and_then(|to| standing.passage(surroundings, to, |passage| passage.mode));
            if guard == Some(Mode::Refuse) || !still_allows(asked, self.origin, self.draw, self.client) {
                return Poll::Ready(());
            }
        }
        standing.wait(&mut self.place, cx.waker());
        Poll::Pending
    }
}

/// Whether what holds now still allows a request that was let in before.
pub(super) fn still_allows(
    request: &RequestHead,
    origin: &Origin,
    draw: u64,
    client: Option<SocketAddr>,
) -> bool {
    let worker = &origin.worker;
    let Some(chain) = origin.standing.http() else { return false };
    let snapshot = worker.snapshot();
    let table = snapshot.routes(&chain);
    let routed = table.and_then(|table| {
        let (host, route) = table.select(request, draw)?;
        Some(Routed { table, host, route, draw })
    });
    let subject = subject(request, origin, client);
    chain.policies.iter().all(|policies| {
        let decision = filter(policies, routed.as_ref()).decide(&subject);
        if !decision.is_allowed() {
            worker.count_decision(&decision);
        }
        decision.is_allowed()
    })
}

impl Drop for Oversight<'_> {
    fn drop(&mut self) {
        self.origin.standing.leave(self.place);
    }
}

/// The filter's own settings, or what the most specific level says in their place.
fn filter<'a>(policies: &'a HttpPolicies, routed: Option<&Routed<'a>>) -> &'a Filter {
    let said = levels(routed).into_iter().flatten().find_map(|overrides| overrides.policies(&policies.name));
    said.unwrap_or(&policies.filter)
}

/// What is said to filters, the most specific first.
pub(super) fn levels<'a>(routed: Option<&Routed<'a>>) -> [Option<&'a FilterOverrides>; 4] {
    let Some(routed) = routed else { return [None; 4] };
    let weighted = match &routed.route.action {
        RouteAction::Forward(action) => action.cluster.pick(routed.draw).1,
        RouteAction::Redirect(_) | RouteAction::Direct(_) => None,
    };
    [
        weighted.map(|entry| &entry.filters),
        Some(&routed.route.filters),
        Some(&routed.host.filters),
        Some(&routed.table.filters),
    ]
}
