//! Make before break: what refers to a resource is told after it, and what is referred to goes after what refers.
//!
//! Clusters, their endpoints and their secrets are sent at once, in this order. Listeners and routes wait until the
//! client has answered those: Envoy withholds its answer about clusters until their endpoints are there, our proxy
//! asks for the endpoints right after it. A wait has an end, so that a client that never answers is not stuck.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::subscription::Subscription;
use crate::snapshot::Kind;

/// How long listeners and routes wait for an answer, from when there is one to tell: with changes in quick succession there
/// is always a response that is not answered yet.
pub(super) const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// How long removals wait, likewise: for listeners and routes to go, and for the answers to those.
pub(super) const REMOVAL_WAIT: Duration = Duration::from_secs(10);
/// How long they wait for a client to ask for the endpoints of clusters that it has just accepted.
pub(super) const ASK_WAIT: Duration = Duration::from_secs(1);

/// The kinds whose removal waits, in the order in which they go. Nothing refers to a listener: it goes with the
/// listeners that come, which may want its port. Nor to a destination, a fault or a revocation, which end at once.
pub(super) const REMOVALS: [Kind; 4] = [Kind::Route, Kind::Cluster, Kind::Endpoints, Kind::Secret];

/// What others refer to.
const REFERRED: [Kind; 3] = [Kind::Secret, Kind::Cluster, Kind::Endpoints];
/// What refers to others.
const REFERRING: [Kind; 2] = [Kind::Listener, Kind::Route];

type Subscriptions = BTreeMap<Kind, Subscription>;

/// Until when resources of this kind are held back; `None` when they may go now.
pub(super) fn held(kind: Kind, all: &Subscriptions, now: Instant) -> Option<Instant> {
    if !REFERRING.contains(&kind) {
        return None;
    }
    let answers = unanswered(&REFERRED, all);
    let asked = all.get(&Kind::Cluster).and_then(|clusters| clusters.awaited_until());
    let longest = all.get(&kind)?.pending_since().unwrap_or(now) + ANSWER_WAIT;
    answers.into_iter().chain(asked).max().map(|until| until.min(longest)).filter(|until| *until > now)
}

/// Until when removals are held back; `None` when they may go now.
pub(super) fn removals_held(all: &Subscriptions, now: Instant) -> Option<Instant> {
    let kinds = all.iter().filter(|(_, one)| one.has_more());
    let waiting = kinds.filter_map(|(kind, _)| held(*kind, all, now));
    let longest = all.values().filter_map(Subscription::removing_since).min().unwrap_or(now) + REMOVAL_WAIT;
    let until = waiting.chain(unanswered(&REFERRING, all)).max();
    until.map(|until| until.min(longest)).filter(|until| *until > now)
}

/// Takes the time of what is to be said. To be called before anything is decided, and after anything is sent.
pub(super) fn note(all: &mut Subscriptions, now: Instant) {
    all.values_mut().for_each(|one| one.note(now));
}

fn unanswered(kinds: &[Kind], all: &Subscriptions) -> Option<Instant> {
    let sent = kinds.iter().filter_map(|kind| all.get(kind)?.last_unanswered());
    sent.max().map(|at| at + ANSWER_WAIT)
}
