//! The state-of-the-world protocol of one stream, without I/O and without a clock.
//!
//! Listeners and clusters are said whole, so that absence deletes; the clusters that are to go stay in until nothing
//! refers to them any more. Of the other kinds only what is new or changed is said: their absence means nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use outrider_proto::envoy::config::core::v3::ControlPlane;
use outrider_proto::envoy::service::discovery::v3 as pb;
use prost::Message as _;
use tokio::time::Instant;

use super::subscription::{Subscription, WILDCARD};
use super::{Answer, Differ, Item, Outgoing, ProtocolError, Standing, order};
use crate::snapshot::{Kind, Resource, Snapshot};

/// How a resource with a time to live is wrapped.
const RESOURCE_URL: &str = "type.googleapis.com/envoy.service.discovery.v3.Resource";

/// The protocol's state for one stream.
#[derive(Debug)]
pub struct Session {
    identifier: Arc<str>,
    leasing: bool,
    snapshot: Arc<Snapshot>,
    differ: Arc<Differ>,
    kinds: BTreeMap<Kind, Subscription>,
    /// By kind: whether a request has ever named a resource, and the nonce of the last response.
    seen: BTreeMap<Kind, Seen>,
    nonce: u64,
}

#[derive(Debug, Default)]
struct Seen {
    named: bool,
    last_nonce: Option<Arc<str>>,
}

impl Session {
    /// A new stream. `leasing`: the client has `xds.config.supports-resource-ttl`.
    #[must_use]
    pub fn new(identifier: Arc<str>, leasing: bool, snapshot: Arc<Snapshot>, differ: Arc<Differ>) -> Self {
        let (kinds, seen) = (BTreeMap::new(), BTreeMap::new());
        Self { identifier, leasing, snapshot, differ, kinds, seen, nonce: 0 }
    }

    /// The client says something. The answer in it, if there is one, to a response of this stream; types that are not
    /// served are passed over, as a client may ask for more than there is.
    ///
    /// # Errors
    /// When the stream is to be ended.
    pub fn request(
        &mut self,
        request: &pb::DiscoveryRequest,
        _now: Instant,
    ) -> Result<Option<Answer>, ProtocolError> {
        let Some(kind) = Kind::of_type_url(&request.type_url) else { return Ok(None) };
        let seen = self.seen.entry(kind).or_default();
        // Said before the client had the last response: it will say so again.
        if seen.last_nonce.as_ref().is_some_and(|last| **last != *request.response_nonce) {
            return Ok(None);
        }
        let first = !self.kinds.contains_key(&kind);
        let (snapshot, leasing) = (&self.snapshot, self.leasing);
        let one = self.kinds.entry(kind).or_insert_with(|| Subscription::new(kind, snapshot, leasing));
        let refusal = request.error_detail.as_ref().map(|status| status.message.clone());
        let answer = one.answered(&request.response_nonce, refusal);
        let names: BTreeSet<&str> = request.resource_names.iter().map(String::as_str).collect();
        let old_way = names.is_empty() && !seen.named && is_full(kind);
        seen.named |= !names.is_empty();
        subscribe(one, &names, old_way || names.contains(WILDCARD), first)?;
        Ok(answer)
    }

    /// There is another snapshot.
    pub fn change(&mut self, snapshot: Arc<Snapshot>) {
        let mut endpoints = None;
        for (kind, one) in &mut self.kinds {
            let diff = self.differ.diff(*kind, &one.told, &snapshot.shared(*kind));
            if *kind == Kind::Cluster {
                endpoints = Some(Arc::clone(&diff));
            }
            one.absorb(&diff, &snapshot);
            if !is_full(*kind) {
                // There is no way to say that these are gone, nor a need: what referred to them is.
                one.remove.clear();
            }
        }
        if let (Some(diff), Some(one)) = (endpoints, self.kinds.get_mut(&Kind::Endpoints)) {
            let again: Vec<_> = diff.endpoints.iter().filter(|name| one.holds(name)).cloned().collect();
            one.send.extend(again);
        }
        self.snapshot = snapshot;
    }

    /// What is to be sent next; `None` when there is nothing to say now.
    pub fn next(&mut self, now: Instant) -> Option<Outgoing<pb::DiscoveryResponse>> {
        order::note(&mut self.kinds, now);
        let next = self.ready(now);
        order::note(&mut self.kinds, now);
        next
    }

    fn ready(&mut self, now: Instant) -> Option<Outgoing<pb::DiscoveryResponse>> {
        for (kind, one) in &mut self.kinds {
            if !is_full(*kind) && !one.owed {
                // What does not exist cannot be said; it is when it does.
                let told = &one.told;
                one.send.retain(|name| told.contains_key(name));
            }
        }
        let ready = Kind::ALL.into_iter().find(|kind| {
            let one = self.kinds.get(kind);
            one.is_some_and(|one| one.has_more() && one.may_send())
                && order::held(*kind, &self.kinds, now).is_none()
        });
        if let Some(kind) = ready {
            return self.send(kind, &[], now);
        }
        if order::removals_held(&self.kinds, now).is_none() {
            let clusters = self.kinds.get_mut(&Kind::Cluster);
            if let Some(clusters) = clusters.filter(|one| !one.remove.is_empty() && one.may_send()) {
                clusters.remove.clear();
                return self.send(Kind::Cluster, &[], now);
            }
        }
        let due = Kind::ALL.into_iter().find_map(|kind| {
            let names = self.kinds.get(&kind)?.due(now);
            (!names.is_empty()).then_some((kind, names))
        });
        let (kind, names) = due?;
        self.send(kind, &names, now)
    }

    /// When [`Self::next`] may have something to say although nothing has happened.
    #[must_use]
    pub fn wake(&self, now: Instant) -> Option<Instant> {
        let held = self.kinds.iter().filter(|(_, one)| one.has_more());
        let held = held.filter_map(|(kind, _)| order::held(*kind, &self.kinds, now));
        let removals = self.kinds.values().any(|one| !one.remove.is_empty());
        let removals = if removals { order::removals_held(&self.kinds, now) } else { None };
        let leases = self.kinds.values().filter_map(Subscription::next_renewal);
        held.chain(removals).chain(leases).min()
    }

    /// How the client stands with each kind that it asked for.
    pub fn standing(&self) -> impl Iterator<Item = (Kind, Standing)> {
        self.kinds.iter().map(|(kind, one)| (*kind, one.standing()))
    }

    /// What is to be said of a kind, with the leases of it that are due. A lease that goes on is said without a body: a
    /// heartbeat that is late must not begin again what has ended meanwhile.
    fn send(
        &mut self,
        kind: Kind,
        due: &[Arc<str>],
        now: Instant,
    ) -> Option<Outgoing<pb::DiscoveryResponse>> {
        self.nonce += 1;
        let nonce: Arc<str> = self.nonce.to_string().into();
        let one = self.kinds.get_mut(&kind)?;
        let names = std::mem::take(&mut one.send);
        let all: Vec<(Arc<str>, Resource)> = if is_full(kind) {
            let there = one.told.iter().filter(|(name, _)| one.holds(name)).chain(&one.remove);
            // What a client has let go of it is not to begin again because of another one.
            let there = there.filter(|(name, _)| names.contains(*name) || !one.has_lapsed(name));
            there.map(|(name, resource)| (Arc::clone(name), resource.clone())).collect()
        } else {
            let names = names.iter().chain(due.iter().filter(|name| !names.contains(*name)));
            let there = names.filter_map(|name| Some((Arc::clone(name), one.told.get(name)?.clone())));
            there.collect()
        };
        let mut response = pb::DiscoveryResponse {
            version_info: version(&all),
            type_url: kind.type_url().to_owned(),
            nonce: nonce.to_string(),
            control_plane: Some(ControlPlane { identifier: self.identifier.to_string() }),
            ..pb::DiscoveryResponse::default()
        };
        let mut renewed = BTreeSet::new();
        for (name, resource) in &all {
            let goes_on = one.has_lease(name) && !names.contains(name);
            let ttl = one.lease(name, &self.snapshot, now);
            response.resources.push(any(kind, name, (resource, !goes_on), ttl));
            if goes_on && ttl.is_some() {
                renewed.insert(Arc::clone(name));
            }
        }
        one.owed = false;
        let gone = names.iter().filter(|name| is_full(kind) && !one.told.contains_key(*name));
        let gone: Vec<Item> = gone.map(|name| one.item(name)).collect();
        let there = all.into_iter().map(|(name, one)| Item { name, version: Some(one.version) });
        let items: Vec<Item> = there.chain(gone).collect();
        one.sent(&nonce, (&items, renewed), now);
        if let Some(seen) = self.seen.get_mut(&kind) {
            seen.last_nonce = Some(Arc::clone(&nonce));
        }
        Some(Outgoing { response, kind, nonce, items })
    }
}

/// Kinds of which a response holds all, so that absence deletes.
fn is_full(kind: Kind) -> bool {
    kind.is_asked_for_whole()
}

/// The names of a request are the whole list: what is new in it is asked for, what is no longer in it is not.
fn subscribe(
    one: &mut Subscription,
    names: &BTreeSet<&str>,
    all: bool,
    first: bool,
) -> Result<(), ProtocolError> {
    let gone: Vec<_> = one.named.iter().filter(|name| !names.contains(name.as_ref())).cloned().collect();
    match (all, one.wildcard) {
        (true, false) => one.subscribe_all(),
        (false, true) => one.unsubscribe_all(),
        (true, true) | (false, false) => {}
    }
    for name in gone {
        one.give_up(&name);
    }
    for name in names.iter().filter(|name| **name != WILDCARD) {
        if !one.named.contains(*name) {
            one.subscribe(name)?;
        }
    }
    // That none of them is there is an answer too, where absence has a meaning.
    one.owed |= first && is_full(one.kind) && (all || !names.is_empty());
    Ok(())
}

/// The same for the same set, and another for another.
fn version(all: &[(Arc<str>, Resource)]) -> String {
    let mut hash = Fnv::default();
    for (name, resource) in all {
        hash.write(name.as_bytes());
        hash.write(resource.version.as_bytes());
    }
    format!("{:016x}", hash.0)
}

/// FNV-1a of 64 bits; two replicas must come to the same.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn write(&mut self, part: &[u8]) {
        // A byte that is in no name ends each part.
        for byte in part.iter().chain(&[0xff]) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// A resource, wrapped where it has a lease; then it may go without its body.
fn any(
    kind: Kind,
    name: &str,
    (resource, whole): (&Resource, bool),
    ttl: Option<Duration>,
) -> prost_types::Any {
    let plain = prost_types::Any { type_url: kind.type_url().to_owned(), value: resource.body.to_vec() };
    let Some(ttl) = ttl else { return plain };
    let wrapped = pb::Resource {
        version: resource.version.to_string(),
        resource: whole.then_some(plain),
        name: name.to_owned(),
        ttl: ttl.try_into().ok(),
    };
    prost_types::Any { type_url: RESOURCE_URL.to_owned(), value: wrapped.encode_to_vec() }
}

#[cfg(test)]
mod tests;
