//! How a request is recorded: handles, made when first needed and kept by whoever records.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::{
    AUTHZ_ALLOWED, AUTHZ_DENIED, CONNECTIONS_ACTIVE, CONNECTIONS_OPENED, DURATION, EGRESS, LOCAL_REPLIES,
    REQUEST_BYTES, REQUESTS, RESPONSE_BYTES,
};
use crate::observe::flags::Flags;
use crate::observe::metrics::{Counter, Gauge, Histogram, Labels, Shard};
use crate::observe::reason::Reason;

/// Combinations of listener, status and flags that a cluster keeps handles for; further ones are looked up.
pub(super) const MAX_CACHED: usize = 64;
/// Policies whose handles are kept; further ones are looked up.
const MAX_POLICIES: usize = 10_000;

/// How a request ended.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// The status that the client got; 0 when it got none.
    pub status: u16,
    /// What was unusual.
    pub flags: Flags,
    /// From the first byte in to the last byte out.
    pub duration: Duration,
    /// Body bytes from the client.
    pub received_bytes: u64,
    /// Body bytes to the client.
    pub sent_bytes: u64,
}

/// The handles of one cluster (or of "no cluster") in one worker.
#[derive(Debug, Default)]
pub struct RequestSeries {
    cluster: Arc<str>,
    cached: RefCell<Vec<(Key, Handles)>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    listener: Arc<str>,
    direction: &'static str,
    status: u16,
    flags: Flags,
}

#[derive(Clone, Debug)]
struct Handles {
    requests: Counter,
    duration: Histogram,
    request_bytes: Counter,
    response_bytes: Counter,
}

impl RequestSeries {
    /// For requests to this cluster; an empty name for those that went to none.
    #[must_use]
    pub fn new(cluster: &Arc<str>) -> Self {
        Self { cluster: Arc::clone(cluster), cached: RefCell::default() }
    }

    /// Records a request. Allocates only when a combination is seen for the first time.
    pub fn record(&self, shard: &Shard, listener: &Arc<str>, direction: &'static str, outcome: &Outcome) {
        let mut cached = self.cached.borrow_mut();
        let known = cached.iter().position(|(key, _)| {
            key.status == outcome.status
                && key.flags == outcome.flags
                && key.direction == direction
                && (Arc::ptr_eq(&key.listener, listener) || key.listener == *listener)
        });
        if let Some((_, handles)) = known.and_then(|index| cached.get(index)) {
            handles.add(outcome);
            return;
        }
        let key =
            Key { listener: Arc::clone(listener), direction, status: outcome.status, flags: outcome.flags };
        let handles = self.handles(shard, &key);
        handles.add(outcome);
        if cached.len() < MAX_CACHED {
            cached.push((key, handles));
        }
    }

    /// How many combinations are kept.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.cached.borrow().len()
    }

    fn handles(&self, shard: &Shard, key: &Key) -> Handles {
        let common = Labels::none()
            .with("direction", key.direction)
            .with("listener", &key.listener)
            .with("destination_service", &self.cluster);
        let outcome = common
            .clone()
            .with("response_code", &key.status.to_string())
            .with("response_flags", &key.flags.to_string());
        Handles {
            requests: shard.counter(REQUESTS, &outcome),
            duration: shard.histogram(DURATION, &common),
            request_bytes: shard.counter(REQUEST_BYTES, &common),
            response_bytes: shard.counter(RESPONSE_BYTES, &common),
        }
    }
}

impl Handles {
    fn add(&self, outcome: &Outcome) {
        self.requests.add(1);
        self.duration.record(outcome.duration);
        self.request_bytes.add(outcome.received_bytes);
        self.response_bytes.add(outcome.sent_bytes);
    }
}

/// The handles of one listener in one worker.
#[derive(Clone, Debug)]
pub struct ListenerSeries {
    /// Connections accepted.
    pub opened: Counter,
    /// Connections open now.
    pub active: Gauge,
}

impl ListenerSeries {
    /// For the listener of this name.
    #[must_use]
    pub fn new(shard: &Shard, listener: &str) -> Self {
        let labels = Labels::none().with("listener", listener);
        Self {
            opened: shard.counter(CONNECTIONS_OPENED, &labels),
            active: shard.gauge(CONNECTIONS_ACTIVE, &labels),
        }
    }
}

/// The handles for the proxy's own answers in one worker, each made when its reason is first given.
#[derive(Debug)]
pub struct ReasonSeries(RefCell<Vec<Option<Counter>>>);

impl Default for ReasonSeries {
    fn default() -> Self {
        Self(RefCell::new(vec![None; Reason::ALL.len()]))
    }
}

impl ReasonSeries {
    /// Counts one answer. Allocates and locks only the first time for each reason.
    pub fn count(&self, shard: &Shard, reason: Reason) {
        let mut handles = self.0.borrow_mut();
        let Some(handle) = handles.get_mut(reason as usize) else { return };
        let make = || shard.counter(LOCAL_REPLIES, &Labels::none().with("reason", reason.code()));
        handle.get_or_insert_with(make).add(1);
    }
}

/// The handles of one policy: allowed and denied, enforced and only watched.
type PolicyHandles = [Option<Counter>; 4];

/// The handles of policies in one worker, each made when the policy first decides.
#[derive(Debug, Default)]
pub struct PolicySeries(RefCell<FxHashMap<Arc<str>, PolicyHandles>>);

impl PolicySeries {
    /// Counts one decision of the policy of this name. Allocates and locks only the first time.
    pub fn count(&self, shard: &Shard, policy: &Arc<str>, enforced: bool, allowed: bool) {
        let family = if allowed { AUTHZ_ALLOWED } else { AUTHZ_DENIED };
        let mode = if enforced { "enforce" } else { "audit" };
        let make = || shard.counter(family, &Labels::none().with("policy", policy).with("mode", mode));
        let mut known = self.0.borrow_mut();
        if known.len() >= MAX_POLICIES && !known.contains_key(policy) {
            make().add(1);
            return;
        }
        if !known.contains_key(policy) {
            known.insert(Arc::clone(policy), PolicyHandles::default());
        }
        let place = usize::from(enforced) + 2 * usize::from(allowed);
        if let Some(handle) = known.get_mut(policy).and_then(|handles| handles.get_mut(place)) {
            handle.get_or_insert_with(make).add(1);
        }
    }

    /// Lets go of all handles, so that the series of policies that are gone can end.
    pub fn forget(&self) {
        self.0.borrow_mut().clear();
    }
}

/// The handles of one rule of an egress guard, by outcome.
type EgressHandles = Vec<(&'static str, Counter)>;

/// The handles of the egress guards' rules in one worker.
#[derive(Debug, Default)]
pub struct EgressSeries(RefCell<FxHashMap<Box<str>, EgressHandles>>);

impl EgressSeries {
    /// Counts what one rule came to. Allocates and locks only the first time.
    pub fn count(&self, shard: &Shard, rule: &str, outcome: &'static str) {
        let mut known = self.0.borrow_mut();
        let handles = known.get(rule).into_iter().flatten();
        if let Some((_, counter)) = handles.into_iter().find(|(name, _)| *name == outcome) {
            counter.add(1);
            return;
        }
        let counter = shard.counter(EGRESS, &Labels::none().with("outcome", outcome).with("rule", rule));
        counter.add(1);
        if known.len() < MAX_POLICIES {
            known.entry(rule.into()).or_default().push((outcome, counter));
        }
    }

    /// Lets go of all handles, so that the series of rules that are gone can end.
    pub fn forget(&self) {
        self.0.borrow_mut().clear();
    }
}
