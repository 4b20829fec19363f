//! The delta protocol of one stream, without I/O and without a clock: requests and snapshots in, responses out.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use outrider_proto::envoy::config::core::v3::ControlPlane;
use outrider_proto::envoy::service::discovery::v3 as pb;
use tokio::time::Instant;

use super::subscription::{Subscription, WILDCARD};
use super::{Answer, Differ, Item, Outgoing, ProtocolError, Standing, order};
use crate::snapshot::{Kind, Resource, Snapshot};

/// Largest response, in bytes of resources; what is more follows in the next one. A single larger resource goes alone.
pub const MAX_RESPONSE_BYTES: usize = 1024 * 1024;
/// Endpoints of this many new clusters are waited for; a client that gets more than that is only starting.
const MAX_AWAITED: usize = 1000;

/// The protocol's state for one stream.
#[derive(Debug)]
pub struct Session {
    identifier: Arc<str>,
    leasing: bool,
    snapshot: Arc<Snapshot>,
    differ: Arc<Differ>,
    kinds: BTreeMap<Kind, Subscription>,
    nonce: u64,
}

impl Session {
    /// A new stream. `leasing`: the client has `xds.config.supports-resource-ttl`.
    #[must_use]
    pub fn new(identifier: Arc<str>, leasing: bool, snapshot: Arc<Snapshot>, differ: Arc<Differ>) -> Self {
        Self { identifier, leasing, snapshot, differ, kinds: BTreeMap::new(), nonce: 0 }
    }

    /// The client says something. The answer in it, if there is one, to a response of this stream; types that are not
    /// served are passed over, as a client may ask for more than there is.
    ///
    /// # Errors
    /// When the stream is to be ended.
    pub fn request(
        &mut self,
        request: &pb::DeltaDiscoveryRequest,
        now: Instant,
    ) -> Result<Option<Answer>, ProtocolError> {
        let Some(kind) = Kind::of_type_url(&request.type_url) else { return Ok(None) };
        let first = !self.kinds.contains_key(&kind);
        let (snapshot, leasing) = (&self.snapshot, self.leasing);
        let one = self.kinds.entry(kind).or_insert_with(|| Subscription::new(kind, snapshot, leasing));
        // A subscription counts whatever its nonce is.
        for name in &request.resource_names_subscribe {
            if name == WILDCARD { one.subscribe_all() } else { one.subscribe(name)? }
        }
        // The old way to ask for everything: to begin with nothing.
        let old_way = request.resource_names_subscribe.is_empty();
        if first && old_way && kind.is_asked_for_whole() {
            one.subscribe_all();
        }
        for name in &request.resource_names_unsubscribe {
            if name == WILDCARD { one.unsubscribe_all() } else { one.unsubscribe(name) }
        }
        if first {
            known(one, &request.initial_resource_versions);
        }
        let refusal = request.error_detail.as_ref().map(|status| status.message.clone());
        let answer = one.answered(&request.response_nonce, refusal);
        if kind == Kind::Endpoints {
            self.endpoints_asked(&request.resource_names_subscribe);
        }
        if let Some(answer) = answer.as_ref().filter(|answer| answer.kind == Kind::Cluster) {
            self.await_endpoints(answer, now);
        }
        Ok(answer)
    }

    /// There is another snapshot.
    pub fn change(&mut self, snapshot: Arc<Snapshot>) {
        let mut endpoints = Vec::new();
        for (kind, one) in &mut self.kinds {
            let diff = self.differ.diff(*kind, &one.told, &snapshot.shared(*kind));
            one.absorb(&diff, &snapshot);
            if *kind == Kind::Cluster {
                endpoints.push(diff);
            }
        }
        if let Some(one) = self.kinds.get_mut(&Kind::Endpoints) {
            let again = endpoints.iter().flat_map(|diff| &diff.endpoints);
            let again: Vec<_> = again.filter(|name| one.holds(name)).cloned().collect();
            one.send.extend(again);
        }
        self.snapshot = snapshot;
    }

    /// What is to be sent next; `None` when there is nothing to say now.
    pub fn next(&mut self, now: Instant) -> Option<Outgoing<pb::DeltaDiscoveryResponse>> {
        order::note(&mut self.kinds, now);
        let next = self.ready(now);
        order::note(&mut self.kinds, now);
        next
    }

    fn ready(&mut self, now: Instant) -> Option<Outgoing<pb::DeltaDiscoveryResponse>> {
        let ready = Kind::ALL.into_iter().find(|kind| {
            let one = self.kinds.get(kind);
            one.is_some_and(|one| one.has_more() && one.may_send())
                && order::held(*kind, &self.kinds, now).is_none()
        });
        if let Some(kind) = ready {
            return self.send(kind, now);
        }
        if order::removals_held(&self.kinds, now).is_none() {
            let gone = order::REMOVALS.into_iter().find(|kind| {
                self.kinds.get(kind).is_some_and(|one| !one.remove.is_empty() && one.may_send())
            });
            if let Some(kind) = gone {
                return self.remove(kind, now);
            }
        }
        let due = Kind::ALL.into_iter().find_map(|kind| {
            let names = self.kinds.get(&kind)?.due(now);
            (!names.is_empty()).then_some((kind, names))
        });
        due.and_then(|(kind, names)| self.renew(kind, names, now))
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

    /// The next part of what is to be said of a kind.
    fn send(&mut self, kind: Kind, now: Instant) -> Option<Outgoing<pb::DeltaDiscoveryResponse>> {
        let (mut response, mut items, mut bytes) = (self.response(kind), Vec::new(), 0);
        let one = self.kinds.get_mut(&kind)?;
        while bytes < MAX_RESPONSE_BYTES
            && let Some(name) = one.send.pop_first()
        {
            if let Some(resource) = one.told.get(&name).cloned() {
                if bytes > 0 && bytes + resource.body.len() > MAX_RESPONSE_BYTES {
                    one.send.insert(name);
                    break;
                }
                bytes += resource.body.len();
                let ttl = one.lease(&name, &self.snapshot, now);
                response.resources.push(wrapped(kind, &name, &resource, ttl));
            } else {
                response.removed_resources.push(name.to_string());
            }
            items.push(one.item(&name));
        }
        one.owed = false;
        self.outgoing(kind, response, items, now)
    }

    fn remove(&mut self, kind: Kind, now: Instant) -> Option<Outgoing<pb::DeltaDiscoveryResponse>> {
        let mut response = self.response(kind);
        let names: Vec<_> = std::mem::take(&mut self.kinds.get_mut(&kind)?.remove).into_keys().collect();
        response.removed_resources = names.iter().map(ToString::to_string).collect();
        let items = names.into_iter().map(|name| Item { name, version: None }).collect();
        self.outgoing(kind, response, items, now)
    }

    /// Says that leases go on.
    fn renew(
        &mut self,
        kind: Kind,
        names: Vec<Arc<str>>,
        now: Instant,
    ) -> Option<Outgoing<pb::DeltaDiscoveryResponse>> {
        let mut response = self.response(kind);
        let one = self.kinds.get_mut(&kind)?;
        for name in &names {
            let version = one.told.get(name).map(|resource| resource.version.to_string());
            let ttl = one.lease(name, &self.snapshot, now);
            response.resources.push(pb::Resource {
                version: version.unwrap_or_default(),
                resource: None,
                name: name.to_string(),
                ttl: ttl.and_then(|ttl| ttl.try_into().ok()),
            });
        }
        let items = names.iter().map(|name| one.item(name)).collect();
        self.outgoing(kind, response, items, now)
    }

    fn response(&mut self, kind: Kind) -> pb::DeltaDiscoveryResponse {
        self.nonce += 1;
        pb::DeltaDiscoveryResponse {
            type_url: kind.type_url().to_owned(),
            nonce: self.nonce.to_string(),
            control_plane: Some(ControlPlane { identifier: self.identifier.to_string() }),
            ..pb::DeltaDiscoveryResponse::default()
        }
    }

    fn outgoing(
        &mut self,
        kind: Kind,
        response: pb::DeltaDiscoveryResponse,
        items: Vec<Item>,
        now: Instant,
    ) -> Option<Outgoing<pb::DeltaDiscoveryResponse>> {
        let nonce: Arc<str> = response.nonce.as_str().into();
        let one = self.kinds.get_mut(&kind)?;
        let renewed = response.resources.iter().filter(|one| one.resource.is_none());
        let renewed = renewed.map(|one| one.name.as_str().into()).collect();
        one.sent(&nonce, (&items, renewed), now);
        Some(Outgoing { response, kind, nonce, items })
    }

    fn endpoints_asked(&mut self, names: &[String]) {
        if let Some(clusters) = self.kinds.get_mut(&Kind::Cluster) {
            for name in names {
                clusters.endpoints_asked(name);
            }
        }
    }

    /// Our own proxy accepts clusters first and asks for their endpoints then: routes to them wait for that.
    fn await_endpoints(&mut self, answer: &Answer, now: Instant) {
        if answer.error.is_some() || answer.items.len() > MAX_AWAITED {
            return;
        }
        let there = self.snapshot.shared(Kind::Endpoints);
        let asked = self.kinds.get(&Kind::Endpoints);
        let names = answer.items.iter().map(|item| &item.name);
        let missing = names.filter(|name| there.contains_key(*name));
        let missing: Vec<_> =
            missing.filter(|name| asked.is_none_or(|asked| !asked.holds(name))).cloned().collect();
        if let Some(clusters) = self.kinds.get_mut(&Kind::Cluster).filter(|_| !missing.is_empty()) {
            let told = Arc::clone(&clusters.told);
            clusters.await_endpoints(missing.into_iter().filter(|name| told.contains_key(name)), now);
        }
    }
}

/// What a client still has of the stream before need not be told; what of it is gone must be. Endpoints are told in
/// any case: a client may have let go of them with their cluster.
fn known(one: &mut Subscription, versions: &HashMap<String, String>) {
    for (name, version) in versions {
        let name: Arc<str> = name.as_str().into();
        match one.told.get(&name) {
            Some(there) if *there.version == **version && one.kind != Kind::Endpoints => {
                one.send.remove(&name);
            }
            None if one.wildcard => {
                one.send.insert(name);
            }
            Some(_) | None => {}
        }
    }
}

fn wrapped(kind: Kind, name: &str, resource: &Resource, ttl: Option<Duration>) -> pb::Resource {
    pb::Resource {
        version: resource.version.to_string(),
        resource: Some(prost_types::Any {
            type_url: kind.type_url().to_owned(),
            value: resource.body.to_vec(),
        }),
        name: name.to_owned(),
        ttl: ttl.and_then(|ttl| ttl.try_into().ok()),
    }
}

#[cfg(test)]
mod tests;
