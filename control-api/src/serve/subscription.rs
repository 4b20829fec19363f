//! What a client asked for of one kind, what it was told, and what is still to be said.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::diff::Diff;
use super::order::ASK_WAIT;
use super::{Answer, Item, MAX_NAME_BYTES, MAX_NAMES, ProtocolError, Standing, blamed};
use crate::snapshot::{Kind, Resource, Resources, Snapshot};

/// Responses of one kind that a client may leave unanswered before it gets no more.
pub(super) const MAX_UNANSWERED: usize = 16;
/// A lease is renewed when this part of it is over.
const RENEW_AT: u32 = 3;
/// The name for all resources.
pub(super) const WILDCARD: &str = "*";

/// One kind of one stream.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) kind: Kind,
    /// All resources are asked for.
    pub(super) wildcard: bool,
    /// Resources that are asked for by name.
    pub(super) named: Arc<BTreeSet<Arc<str>>>,
    /// What the client holds, as far as it asked for it, once all of `send` and `remove` is said.
    pub(super) told: Arc<Resources>,
    /// Names about which something is to be said: the resource, or that there is none.
    pub(super) send: BTreeSet<Arc<str>>,
    /// Resources that are to go once nothing refers to them any more.
    pub(super) remove: BTreeMap<Arc<str>, Resource>,
    /// An answer is due, even an empty one.
    pub(super) owed: bool,
    unanswered: VecDeque<Unanswered>,
    /// Since when there has been something to say, and something to remove.
    pending_since: Option<Instant>,
    removing_since: Option<Instant>,
    /// Whether the client lets go of what is not renewed.
    leasing: bool,
    leases: BTreeMap<Arc<str>, Lease>,
    /// Names whose endpoints the client has not asked for yet, and until when that is waited for.
    awaited: BTreeSet<Arc<str>>,
    awaited_until: Option<Instant>,
}

#[derive(Debug)]
struct Unanswered {
    nonce: Arc<str>,
    items: Vec<Item>,
    /// Those of them whose lease goes on, and of which no more was said.
    renewed: BTreeSet<Arc<str>>,
    at: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    ttl: Duration,
    /// `None`: the client has let go of it. It is not told of it again before it is to have it anew.
    renew: Option<Instant>,
}

impl Subscription {
    pub(super) fn new(kind: Kind, snapshot: &Snapshot, leasing: bool) -> Self {
        Self {
            kind,
            wildcard: false,
            named: Arc::default(),
            told: snapshot.shared(kind),
            send: BTreeSet::new(),
            remove: BTreeMap::new(),
            owed: false,
            unanswered: VecDeque::new(),
            pending_since: None,
            removing_since: None,
            leasing,
            leases: BTreeMap::new(),
            awaited: BTreeSet::new(),
            awaited_until: None,
        }
    }

    /// Whether the client asked for this one.
    pub(super) fn holds(&self, name: &str) -> bool {
        self.wildcard || self.named.contains(name)
    }

    /// Whether something is to be said that is not a removal.
    pub(super) fn has_more(&self) -> bool {
        self.owed || !self.send.is_empty()
    }

    /// Keeps since when there has been something to say.
    pub(super) fn note(&mut self, now: Instant) {
        self.pending_since = self.has_more().then(|| self.pending_since.unwrap_or(now));
        self.removing_since = (!self.remove.is_empty()).then(|| self.removing_since.unwrap_or(now));
    }

    /// Since when there has been something to say that is not a removal.
    pub(super) fn pending_since(&self) -> Option<Instant> {
        self.pending_since
    }

    /// Since when there has been something to remove.
    pub(super) fn removing_since(&self) -> Option<Instant> {
        self.removing_since
    }

    /// How the client stands.
    pub(super) fn standing(&self) -> Standing {
        Standing {
            told: Arc::clone(&self.told),
            wildcard: self.wildcard,
            named: Arc::clone(&self.named),
            settled: !self.has_more() && self.remove.is_empty() && self.unanswered.is_empty(),
        }
    }

    /// What is said about a name: the version that there is.
    pub(super) fn item(&self, name: &Arc<str>) -> Item {
        let version = self.told.get(name).map(|resource| Arc::clone(&resource.version));
        Item { name: Arc::clone(name), version }
    }

    /// Whether the client may be told more before it answers.
    pub(super) fn may_send(&self) -> bool {
        self.unanswered.len() < MAX_UNANSWERED
    }

    /// Adds a name that is asked for; it will be answered in any case.
    pub(super) fn subscribe(&mut self, name: &str) -> Result<(), ProtocolError> {
        if name.len() > MAX_NAME_BYTES {
            return Err(ProtocolError::NameTooLong(name.len()));
        }
        let full = self.named.len() >= MAX_NAMES && !self.named.contains(name);
        if full || self.send.len() >= 2 * MAX_NAMES {
            return Err(ProtocolError::TooManyNames(self.kind.type_url()));
        }
        let name: Arc<str> = name.into();
        self.remove.remove(&name);
        self.send.insert(Arc::clone(&name));
        Arc::make_mut(&mut self.named).insert(name);
        Ok(())
    }

    /// All resources are asked for, and will all be told.
    pub(super) fn subscribe_all(&mut self) {
        self.wildcard = true;
        self.owed = true;
        self.send.extend(self.told.keys().cloned());
    }

    /// A name is no longer asked for. With all resources asked for it still is, in a way: the client forgets what it
    /// had under the name, and must be told.
    pub(super) fn unsubscribe(&mut self, name: &str) {
        let was_named = self.named.contains(name) && Arc::make_mut(&mut self.named).remove(name);
        if self.wildcard && (was_named || self.told.contains_key(name)) {
            self.send.insert(name.into());
        }
        if !self.wildcard {
            self.forget(name);
        }
    }

    /// A name is no longer asked for, and nothing is to be said of that.
    pub(super) fn give_up(&mut self, name: &str) {
        Arc::make_mut(&mut self.named).remove(name);
        if !self.wildcard {
            self.forget(name);
        }
    }

    /// Only what is named is asked for.
    pub(super) fn unsubscribe_all(&mut self) {
        self.wildcard = false;
        let named = &self.named;
        self.send.retain(|name| named.contains(name));
        self.remove.retain(|name, _| named.contains(name));
        self.leases.retain(|name, _| named.contains(name));
    }

    fn forget(&mut self, name: &str) {
        self.send.remove(name);
        self.remove.remove(name);
        self.leases.remove(name);
    }

    /// Takes the next set of resources.
    pub(super) fn absorb(&mut self, diff: &Diff, snapshot: &Snapshot) {
        for name in diff.changed.iter().filter(|name| self.wildcard || self.named.contains(*name)) {
            self.remove.remove(name);
            self.send.insert(Arc::clone(name));
        }
        for name in diff.removed.iter().filter(|name| self.wildcard || self.named.contains(*name)) {
            self.leases.remove(name);
            self.awaited.remove(name);
            if self.kind.goes_at_once() {
                self.send.insert(Arc::clone(name));
            } else if let Some(before) = self.told.get(name) {
                self.send.remove(name);
                self.remove.insert(Arc::clone(name), before.clone());
            }
        }
        self.told = snapshot.shared(self.kind);
        if self.leasing {
            self.absorb_leases(snapshot);
        }
    }

    /// A lease that is new, over, or of another length is told by sending the resource again.
    fn absorb_leases(&mut self, snapshot: &Snapshot) {
        let released = self
            .leases
            .iter()
            .filter(|(name, lease)| snapshot.ttl(self.kind, name).is_none_or(|ttl| ttl != lease.ttl));
        self.send.extend(released.map(|(name, _)| Arc::clone(name)));
        for (name, _) in snapshot.ttls(self.kind) {
            if (self.wildcard || self.named.contains(name)) && !self.leases.contains_key(name) {
                self.send.insert(Arc::clone(name));
            }
        }
    }

    /// A response was sent, in which of some it was only `renewed` what they are leased for.
    pub(super) fn sent(
        &mut self,
        nonce: &Arc<str>,
        (items, renewed): (&[Item], BTreeSet<Arc<str>>),
        now: Instant,
    ) {
        let (nonce, items) = (Arc::clone(nonce), items.to_vec());
        self.unanswered.push_back(Unanswered { nonce, items, renewed, at: now });
    }

    /// A resource is being sent: its time to live, if it has one and the client keeps to it.
    pub(super) fn lease(&mut self, name: &Arc<str>, snapshot: &Snapshot, now: Instant) -> Option<Duration> {
        let ttl = snapshot.ttl(self.kind, name).filter(|_| self.leasing);
        if let Some(ttl) = ttl {
            self.leases.insert(Arc::clone(name), Lease { ttl, renew: Some(now + ttl / RENEW_AT) });
        } else {
            self.leases.remove(name);
        }
        ttl
    }

    /// Whether it was told with a lease.
    pub(super) fn has_lease(&self, name: &str) -> bool {
        self.leases.contains_key(name)
    }

    /// Whether the client has let go of it although it is there.
    pub(super) fn has_lapsed(&self, name: &str) -> bool {
        self.leases.get(name).is_some_and(|lease| lease.renew.is_none())
    }

    /// The leases that are to be renewed now.
    pub(super) fn due(&self, now: Instant) -> Vec<Arc<str>> {
        let due = self.leases.iter().filter(|(_, lease)| lease.renew.is_some_and(|at| at <= now));
        due.map(|(name, _)| Arc::clone(name)).collect()
    }

    /// When the next lease is to be renewed.
    pub(super) fn next_renewal(&self) -> Option<Instant> {
        self.leases.values().filter_map(|lease| lease.renew).min()
    }

    /// A client answers a response. Answers to earlier responses that it left out are implied: a client answers in
    /// order. `None` for a nonce that is not waited for.
    pub(super) fn answered(&mut self, nonce: &str, error: Option<String>) -> Option<Answer> {
        let at = self.unanswered.iter().position(|one| *one.nonce == *nonce)?;
        let mut items = Vec::new();
        let mut of = None;
        for one in self.unanswered.drain(..=at) {
            items.extend(one.items);
            of = Some((one.nonce, one.renewed));
        }
        let (nonce, renewed) = of?;
        let lapsed = error.as_ref().map(|detail| self.lapse(detail, &items, &renewed)).unwrap_or_default();
        Some(Answer { kind: self.kind, nonce, error, items, lapsed })
    }

    /// A client that refuses a renewal has let go of the resource before it came: to go on with that would be refused for
    /// ever. What it has been told anew since then is another lease.
    fn lapse(&mut self, detail: &str, items: &[Item], renewed: &BTreeSet<Arc<str>>) -> Vec<Arc<str>> {
        let names = || items.iter().map(|item| &item.name);
        let lapsed =
            names().zip(blamed(detail, names())).filter(|(name, blamed)| *blamed && renewed.contains(*name));
        let lapsed: Vec<Arc<str>> = lapsed.map(|(name, _)| Arc::clone(name)).collect();
        for name in &lapsed {
            let anew = |one: &Unanswered| {
                !one.renewed.contains(name) && one.items.iter().any(|item| item.name == *name)
            };
            if !self.unanswered.iter().any(anew)
                && let Some(lease) = self.leases.get_mut(name)
            {
                lease.renew = None;
            }
        }
        lapsed
    }

    /// When the last response was sent that is not answered.
    pub(super) fn last_unanswered(&self) -> Option<Instant> {
        self.unanswered.back().map(|one| one.at)
    }

    /// The client is about to ask for these endpoints.
    pub(super) fn await_endpoints(&mut self, names: impl Iterator<Item = Arc<str>>, now: Instant) {
        self.awaited.extend(names);
        self.awaited_until = Some(now + ASK_WAIT);
    }

    /// The client has asked for these endpoints.
    pub(super) fn endpoints_asked(&mut self, name: &str) {
        self.awaited.remove(name);
    }

    /// Until when endpoints are waited for that the client has not asked for.
    pub(super) fn awaited_until(&self) -> Option<Instant> {
        self.awaited_until.filter(|_| !self.awaited.is_empty())
    }
}
