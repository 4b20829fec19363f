//! One connected proxy: what it was told of each kind, and what it made of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use crate::proxy_info::ProxyInfo;
use crate::serve::{Answer, Item, Standing, blamed};
use crate::snapshot::{Kind, Resource, Resources};

/// Longest reason that is kept of a refusal, in bytes.
const MAX_DETAIL_BYTES: usize = 4096;

/// What is known of a proxy.
#[derive(Debug)]
pub(super) struct Proxy {
    info: Arc<ProxyInfo>,
    protocol: &'static str,
    connected: SystemTime,
    kinds: BTreeMap<Kind, OfKind>,
}

#[derive(Debug, Default)]
pub(super) struct OfKind {
    pub(super) told: Arc<Resources>,
    pub(super) wildcard: bool,
    pub(super) named: Arc<BTreeSet<Arc<str>>>,
    /// What it had accepted when it was last told everything; the names in `since` are newer.
    pub(super) accepted: Arc<Resources>,
    since: BTreeMap<Arc<str>, Arc<str>>,
    /// The versions that it refused last, by name.
    pub(super) refused: BTreeMap<Arc<str>, RefusedVersion>,
    counts: Counts,
    last_sent: Option<Stamp>,
    last_accepted: Option<Stamp>,
    last_refused: Option<Refusal>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    sent: u64,
    accepted: u64,
    refused: u64,
}

#[derive(Debug)]
pub(super) struct RefusedVersion {
    version: Arc<str>,
    pub(super) detail: Arc<str>,
    /// It had been accepted before, and what is refused is that its lease goes on.
    lapsed: bool,
}

/// When something was said, and under which nonce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The nonce.
    pub nonce: Arc<str>,
    /// When.
    pub at: SystemTime,
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The nonce of what was refused.
    pub nonce: Arc<str>,
    /// When.
    pub at: SystemTime,
    /// Why, in the proxy's words.
    pub detail: Arc<str>,
}

/// A proxy in short.
#[derive(Clone, Debug)]
pub struct ProxyReport {
    /// Who it is.
    pub info: Arc<ProxyInfo>,
    /// `delta` or `sotw`.
    pub protocol: &'static str,
    /// Since when it is connected.
    pub connected: SystemTime,
    /// What it was told, by kind.
    pub kinds: BTreeMap<Kind, KindReport>,
}

/// What a proxy was told of a kind.
#[derive(Clone, Debug)]
pub struct KindReport {
    /// Responses that were sent, accepted and refused.
    pub responses: (u64, u64, u64),
    /// Whether it asked for all of them.
    pub wildcard: bool,
    /// How many it asked for by name.
    pub named: usize,
    /// The last response.
    pub last_sent: Option<Stamp>,
    /// The last one that it accepted.
    pub last_accepted: Option<Stamp>,
    /// The last one that it refused; `None` once everything that it was told is accepted.
    pub last_refused: Option<Refusal>,
}

/// How a proxy stands with a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResourceState {
    /// It asked for it, and there is none.
    Missing,
    /// It is told, or being told, and has not answered.
    Sent,
    /// It has accepted it.
    Accepted,
    /// It has refused it, for this reason.
    Refused(Arc<str>),
    /// It had accepted it, and its lease ran out there before it was renewed: it has no effect any more. In its words.
    Lapsed(Arc<str>),
}

/// A resource of a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceReport {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: Arc<str>,
    /// The resource; `None` when there is none of this name.
    pub resource: Option<Resource>,
    /// How the proxy stands with it.
    pub state: ResourceState,
}

impl Proxy {
    pub(super) fn new(info: Arc<ProxyInfo>, protocol: &'static str, connected: SystemTime) -> Self {
        Self { info, protocol, connected, kinds: BTreeMap::new() }
    }

    pub(super) fn info(&self) -> &Arc<ProxyInfo> {
        &self.info
    }

    pub(super) fn kinds(&self) -> impl Iterator<Item = (Kind, &OfKind)> {
        self.kinds.iter().map(|(kind, one)| (*kind, one))
    }

    pub(super) fn sent(&mut self, kind: Kind, nonce: &Arc<str>, at: SystemTime) {
        let one = self.kinds.entry(kind).or_default();
        one.counts.sent += 1;
        one.last_sent = Some(Stamp { nonce: Arc::clone(nonce), at });
    }

    pub(super) fn answered(&mut self, answer: &Answer, at: SystemTime) {
        let one = self.kinds.entry(answer.kind).or_default();
        let Some(detail) = &answer.error else {
            one.counts.accepted += 1;
            one.last_accepted = Some(Stamp { nonce: Arc::clone(&answer.nonce), at });
            one.accept(answer.items.iter());
            return;
        };
        let end = detail.floor_char_boundary(MAX_DETAIL_BYTES);
        let detail: Arc<str> = detail.get(..end).unwrap_or_default().into();
        one.counts.refused += 1;
        let (nonce, told) = (Arc::clone(&answer.nonce), Arc::clone(&detail));
        one.last_refused = Some(Refusal { nonce, at, detail: told });
        let blamed = blamed(&detail, answer.items.iter().map(|item| &item.name));
        for (item, blamed) in answer.items.iter().zip(blamed) {
            if let Some(version) = item.version.as_ref().filter(|_| blamed) {
                let lapsed = answer.lapsed.contains(&item.name);
                let (version, detail) = (Arc::clone(version), Arc::clone(&detail));
                let refused = RefusedVersion { version, detail, lapsed };
                one.refused.insert(Arc::clone(&item.name), refused);
            } else {
                one.accept(std::iter::once(item));
            }
        }
    }

    pub(super) fn standing(&mut self, kind: Kind, standing: Standing) {
        let one = self.kinds.entry(kind).or_default();
        let changed = !Arc::ptr_eq(&one.told, &standing.told);
        (one.told, one.wildcard, one.named) = (standing.told, standing.wildcard, standing.named);
        if changed && !one.refused.is_empty() {
            let told = &one.told;
            one.refused
                .retain(|name, refused| told.get(name).is_some_and(|now| now.version == refused.version));
        }
        if standing.settled {
            one.accepted = Arc::clone(&one.told);
            one.since.clear();
            if one.refused.is_empty() {
                one.last_refused = None;
            }
        }
    }

    pub(super) fn report(&self) -> ProxyReport {
        let kinds = self.kinds.iter().map(|(kind, one)| (*kind, one.report())).collect();
        let (info, protocol, connected) = (Arc::clone(&self.info), self.protocol, self.connected);
        ProxyReport { info, protocol, connected, kinds }
    }

    pub(super) fn resources(&self) -> Vec<ResourceReport> {
        let mut all = Vec::new();
        for (kind, one) in &self.kinds {
            for (name, resource) in one.held() {
                let (name, resource) = (Arc::clone(name), Some(resource.clone()));
                let state = one.state(&name);
                all.push(ResourceReport { kind: *kind, name, resource, state });
            }
            for name in one.named.iter().filter(|name| !one.told.contains_key(*name)) {
                let (name, state) = (Arc::clone(name), ResourceState::Missing);
                all.push(ResourceReport { kind: *kind, name, resource: None, state });
            }
        }
        all
    }
}

impl OfKind {
    /// The resources that it asked for, of those that there are.
    pub(super) fn held(&self) -> Box<dyn Iterator<Item = (&Arc<str>, &Resource)> + '_> {
        if self.wildcard {
            return Box::new(self.told.iter());
        }
        Box::new(self.named.iter().filter_map(|name| self.told.get_key_value(name)))
    }

    /// Whether it has accepted everything that there is.
    pub(super) fn is_plain(&self) -> bool {
        self.wildcard && Arc::ptr_eq(&self.told, &self.accepted) && self.refused.is_empty()
    }

    pub(super) fn state(&self, name: &Arc<str>) -> ResourceState {
        let Some(told) = self.told.get(name) else { return ResourceState::Missing };
        if let Some(refused) = self.refused.get(name).filter(|refused| refused.version == told.version) {
            let detail = Arc::clone(&refused.detail);
            return if refused.lapsed {
                ResourceState::Lapsed(detail)
            } else {
                ResourceState::Refused(detail)
            };
        }
        let before = || self.accepted.get(name).map(|resource| &resource.version);
        match self.since.get(name).or_else(before) {
            Some(version) if *version == told.version => ResourceState::Accepted,
            Some(_) | None => ResourceState::Sent,
        }
    }

    fn accept<'a>(&mut self, items: impl Iterator<Item = &'a Item>) {
        for item in items {
            match &item.version {
                Some(version) => {
                    self.since.insert(Arc::clone(&item.name), Arc::clone(version));
                }
                None => drop(self.since.remove(&item.name)),
            }
            self.refused.remove(&item.name);
        }
    }

    fn report(&self) -> KindReport {
        KindReport {
            responses: (self.counts.sent, self.counts.accepted, self.counts.refused),
            wildcard: self.wildcard,
            named: self.named.len(),
            last_sent: self.last_sent.clone(),
            last_accepted: self.last_accepted.clone(),
            last_refused: self.last_refused.clone(),
        }
    }
}
