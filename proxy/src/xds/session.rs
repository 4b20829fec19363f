//! The delta protocol without I/O: what to send when a stream opens, when a response comes, and when other
//! resources are wanted.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use outrider_proto::envoy::config::core::v3::Node;
use outrider_proto::envoy::service::discovery::v3 as pb;
use outrider_proto::fault::joined;
use outrider_proto::{Fault, google};
use tokio::time::Instant;

use super::decode;
use crate::control::Refused;
use crate::control::store::{Change, Kind, Wanted};
use crate::model::bootstrap::AdsSource;

/// The kinds in the order in which they are asked for: make before break.
pub(super) const KINDS: [Kind; 8] = [
    Kind::Revocations,
    Kind::Secret,
    Kind::Cluster,
    Kind::Endpoints,
    Kind::Listener,
    Kind::Destination,
    Kind::Routes,
    Kind::Faults,
];
/// gRPC code of a refusal.
const INVALID_ARGUMENT: i32 = 3;
/// Longest refusal, in bytes; more faults are left unsaid.
const MAX_DETAIL_BYTES: usize = 16 * 1024;

/// What is known of the control server's resources. It outlives streams.
#[derive(Debug)]
pub struct Session {
    node: Node,
    source: AdsSource,
    /// The resources that were accepted.
    versions: BTreeMap<Kind, BTreeMap<String, Known>>,
    /// Names asked for, each with the turn in which it was wanted.
    subscribed: BTreeMap<Kind, BTreeMap<Arc<str>, u64>>,
    node_sent: bool,
}

/// What is known of a resource that was accepted.
#[derive(Clone, Debug)]
struct Known {
    version: String,
    /// When its TTL runs out; then it is gone here, whatever the server thinks.
    expires: Option<Instant>,
}

impl Known {
    fn lives(&self, now: Instant) -> bool {
        self.expires.is_none_or(|expires| expires > now)
    }
}

/// A response, taken apart.
#[derive(Debug)]
pub struct Update {
    /// What it is about; `None` for a type that we never asked for.
    pub kind: Option<Kind>,
    /// What is to be applied.
    pub changes: Vec<Change>,
    /// What was refused before it could be applied.
    pub refused: Refused,
    versions: Vec<(String, Known)>,
    removed: Vec<String>,
    nonce: String,
    type_url: String,
}

impl Session {
    /// Nothing known yet.
    #[must_use]
    pub fn new(node: Node, source: AdsSource) -> Self {
        Self { node, source, versions: BTreeMap::new(), subscribed: BTreeMap::new(), node_sent: false }
    }

    /// What to send on a new stream.
    #[must_use]
    pub fn open(&mut self, wanted: &Wanted, now: Instant) -> Vec<pb::DeltaDiscoveryRequest> {
        self.node_sent = false;
        let mut before = std::mem::take(&mut self.subscribed);
        let mut requests = Vec::new();
        for kind in KINDS {
            let names = names(kind, wanted);
            let wildcard = match kind {
                Kind::Cluster => self.source.clusters && !self.source.on_demand,
                Kind::Listener => self.source.listeners,
                Kind::Revocations | Kind::Faults => true,
                Kind::Endpoints | Kind::Routes | Kind::Secret | Kind::Destination => false,
            };
            self.forget(kind, &before.remove(&kind).unwrap_or_default(), &names);
            if wildcard || !names.is_empty() {
                let known = self.versions.get(&kind).cloned().unwrap_or_default();
                let known = known.into_iter().filter(|(_, known)| known.lives(now));
                requests.push(pb::DeltaDiscoveryRequest {
                    initial_resource_versions: known.map(|(name, known)| (name, known.version)).collect(),
                    resource_names_subscribe: names.keys().map(ToString::to_string).collect(),
                    ..self.request(kind)
                });
                self.subscribed.insert(kind, names);
            }
        }
        requests
    }

    /// What to send when other resources are wanted than before. What is wanted in another turn is asked for again: the
    /// server has to send it then, whatever it thinks that we have.
    #[must_use]
    pub fn follow(&mut self, wanted: &Wanted) -> Vec<pb::DeltaDiscoveryRequest> {
        let mut requests = Vec::new();
        for kind in [Kind::Secret, Kind::Cluster, Kind::Endpoints, Kind::Destination, Kind::Routes] {
            let now = names(kind, wanted);
            let before = self.subscribed.get(&kind).cloned().unwrap_or_default();
            if now == before {
                continue;
            }
            self.forget(kind, &before, &now);
            let asked = now.iter().filter(|(name, turn)| before.get(*name) != Some(*turn));
            let gone = before.keys().filter(|name| !now.contains_key(*name));
            requests.push(pb::DeltaDiscoveryRequest {
                resource_names_subscribe: asked.map(|(name, _)| name.to_string()).collect(),
                resource_names_unsubscribe: gone.map(ToString::to_string).collect(),
                ..self.request(kind)
            });
            self.subscribed.insert(kind, now);
        }
        requests
    }

    /// What is not wanted any longer, or was not for a while, is not kept.
    fn forget(&mut self, kind: Kind, before: &BTreeMap<Arc<str>, u64>, now: &BTreeMap<Arc<str>, u64>) {
        if let Some(versions) = self.versions.get_mut(&kind) {
            for (name, turn) in before {
                if now.get(name) != Some(turn) {
                    versions.remove(&**name);
                }
            }
        }
    }

    /// Takes a response apart. Good resources are taken although others of the same response are refused.
    #[must_use]
    pub fn receive(&self, response: pb::DeltaDiscoveryResponse, now: Instant) -> Update {
        let kind = decode::kind(&response.type_url);
        let mut update = Update {
            kind,
            changes: Vec::new(),
            refused: Refused::new(),
            versions: Vec::new(),
            removed: Vec::new(),
            nonce: response.nonce,
            type_url: response.type_url,
        };
        let Some(kind) = kind else {
            let reason = format!("type \"{}\" was not asked for", update.type_url);
            update.refused.push((String::new(), vec![Fault::new("type_url", reason)]));
            return update;
        };
        // Removals first: a listener may come under another name at the address of one that goes.
        for name in response.removed_resources {
            update.changes.push(Change::Remove(kind, name.as_str().into()));
            update.removed.push(name);
        }
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for wrapped in &response.resources {
            *counts.entry(&wrapped.name).or_default() += 1;
        }
        for wrapped in &response.resources {
            if counts.get(wrapped.name.as_str()).is_some_and(|count| *count > 1) {
                update.refuse(&wrapped.name, vec![Fault::new("name", "there twice in one response")]);
            } else {
                self.receive_one(kind, wrapped, now, &mut update);
            }
        }
        update
    }

    fn receive_one(&self, kind: Kind, wrapped: &pb::Resource, now: Instant, update: &mut Update) {
        let asked_for = match kind {
            Kind::Cluster if !self.source.on_demand => self.subscribed.contains_key(&kind),
            Kind::Listener | Kind::Revocations | Kind::Faults => self.subscribed.contains_key(&kind),
            Kind::Cluster | Kind::Endpoints | Kind::Routes | Kind::Secret | Kind::Destination => {
                self.subscribed.get(&kind).is_some_and(|names| names.contains_key(wrapped.name.as_str()))
            }
        };
        if !asked_for {
            return;
        }
        let expires = match expiry(wrapped, now) {
            Ok(expires) => expires,
            Err(fault) => return update.refuse(&wrapped.name, vec![fault]),
        };
        let known = self.versions.get(&kind).and_then(|versions| versions.get(&wrapped.name));
        // A heartbeat has no body and the version that we have.
        let heartbeat =
            wrapped.resource.is_none() && known.is_some_and(|known| known.version == wrapped.version);
        if heartbeat && !known.is_some_and(|known| known.lives(now)) {
            let fault = Fault::new("ttl", "had run out before the heartbeat came; send the resource again");
            return update.refuse(&wrapped.name, vec![fault]);
        }
        let change = if heartbeat {
            Ok(Change::Extend(kind, wrapped.name.as_str().into(), expires))
        } else {
            decode::resource(kind, wrapped).map(|resource| Change::Set(Box::new(resource), expires))
        };
        match change {
            Ok(change) => {
                update.changes.push(change);
                let known = Known { version: wrapped.version.clone(), expires };
                update.versions.push((wrapped.name.clone(), known));
            }
            Err(faults) => update.refuse(&wrapped.name, faults),
        }
    }

    /// The answer to a response, once its changes were applied and some of them perhaps refused.
    #[must_use]
    pub fn answer(&mut self, mut update: Update, refused: Refused) -> pb::DeltaDiscoveryRequest {
        update.refused.extend(refused);
        if let Some(kind) = update.kind {
            let versions = self.versions.entry(kind).or_default();
            for name in &update.removed {
                versions.remove(name);
            }
            for (name, known) in std::mem::take(&mut update.versions) {
                if !update.refused.iter().any(|(refused, _)| *refused == name) {
                    versions.insert(name, known);
                }
            }
        }
        let error_detail = (!update.refused.is_empty()).then(|| google::rpc::Status {
            code: INVALID_ARGUMENT,
            message: detail(&update.refused),
            details: Vec::new(),
        });
        let mut request = update.kind.map(|kind| self.request(kind)).unwrap_or_default();
        request.type_url = update.type_url;
        request.response_nonce = update.nonce;
        request.error_detail = error_detail;
        request
    }

    fn request(&mut self, kind: Kind) -> pb::DeltaDiscoveryRequest {
        let first = !std::mem::replace(&mut self.node_sent, true);
        pb::DeltaDiscoveryRequest {
            node: first.then(|| self.node.clone()),
            type_url: decode::url(kind).to_owned(),
            ..pb::DeltaDiscoveryRequest::default()
        }
    }
}

impl Update {
    fn refuse(&mut self, name: &str, faults: Vec<Fault>) {
        self.refused.push((name.to_owned(), faults));
    }
}

/// When the resource's TTL runs out, where it has one.
fn expiry(wrapped: &pb::Resource, now: Instant) -> Result<Option<Instant>, Fault> {
    let Some(ttl) = wrapped.ttl else { return Ok(None) };
    let ttl = Duration::try_from(ttl).map_err(|_| Fault::new("ttl", "must not be negative"))?;
    now.checked_add(ttl).map(Some).ok_or_else(|| Fault::new("ttl", "is too long"))
}

fn names(kind: Kind, wanted: &Wanted) -> BTreeMap<Arc<str>, u64> {
    wanted.of(kind).cloned().unwrap_or_default()
}

/// `name: path: reason; ...`
fn detail(refused: &[(String, Vec<Fault>)]) -> String {
    let mut text = refused
        .iter()
        .map(|(name, faults)| format!("{name}: {}", joined(faults)))
        .collect::<Vec<_>>()
        .join("; ");
    if text.len() > MAX_DETAIL_BYTES {
        let end = text.floor_char_boundary(MAX_DETAIL_BYTES);
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests;
