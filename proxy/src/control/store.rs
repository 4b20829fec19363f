//! All resources, where they came from, and the snapshot that they make together.

mod faults;
mod kept;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use outrider_proto::Fault;
use outrider_proto::envoy::config::cluster::v3 as pb_cluster;
use outrider_proto::envoy::config::endpoint::v3 as pb_endpoint;
use outrider_proto::envoy::config::listener::v3 as pb_listener;
use outrider_proto::envoy::config::route::v3 as pb_route;
use outrider_proto::envoy::extensions::transport_sockets::tls::v3 as pb_tls;
use outrider_proto::outrider::identity::v1 as pb_identity;
use tokio::time::Instant;

use super::Wanted;
pub use super::change::{Change, Kind, Resource};
use super::dns::Resolved;
use crate::identity::Revoked;
use crate::model::tls::{CertificateSource, Secret, SecretKind, TlsSettings, TrustSource};
use crate::model::{Cluster, ClusterEntry, Discovery, EndpointSet, Listener, RouteTable, Snapshot};
use faults::Faults;
use kept::{Kept, Resources, lapsed, put};

/// How long a resource that others refer to is waited for before it counts as missing (xDS: 15 s).
pub const MISSING_AFTER: Duration = Duration::from_secs(15);
/// How long the first answer to a cluster's names is waited for.
pub const UNRESOLVED_AFTER: Duration = Duration::from_secs(5);

/// All resources.
#[derive(Debug, Default)]
pub struct Store {
    listeners: Resources<pb_listener::Listener, Listener>,
    clusters: Resources<pb_cluster::Cluster, Cluster>,
    routes: Resources<pb_route::RouteConfiguration, RouteTable>,
    endpoints: Resources<pb_endpoint::ClusterLoadAssignment, EndpointSet>,
    secrets: Resources<pb_tls::Secret, Secret>,
    revocations: Resources<pb_identity::RevocationList, Revoked>,
    faults: Faults,
    /// Endpoints of names, by cluster.
    resolved: BTreeMap<Arc<str>, Arc<EndpointSet>>,
    /// Since when a resource that is referred to is missing; for a cluster, the addresses of its names.
    missing: BTreeMap<(Kind, Arc<str>), Instant>,
    /// Route configurations whose TTL ran out: unlike those that a server took away too early, they are not used
    /// until their listener changes.
    lapsed_routes: BTreeSet<Arc<str>>,
    current: Arc<Snapshot>,
}

impl Store {
    /// Takes over the resources of the file instead of those that it had before. What is the same stays the same,
    /// so that its connections do.
    pub fn replace_static(&mut self, changes: Vec<Change>) {
        let names: Vec<(bool, String)> =
            changes.iter().map(|change| (change.bindable().is_some(), change.name().to_owned())).collect();
        let has =
            |listener: bool, name: &str| names.iter().any(|(is, known)| *is == listener && known == name);
        self.listeners.retain(|name, kept| !kept.from_file || has(true, name));
        self.clusters.retain(|name, kept| !kept.from_file || has(false, name));
        for change in changes {
            if let Change::Set(resource, _) = change {
                match *resource {
                    Resource::Listener(message, compiled) => {
                        let name = Arc::clone(&compiled.name);
                        put(&mut self.listeners, name, &message, compiled, (None, true));
                    }
                    Resource::Cluster(message, compiled) => {
                        let name = Arc::clone(&compiled.name);
                        put(&mut self.clusters, name, &message, compiled, (None, true));
                    }
                    Resource::Routes(..)
                    | Resource::Endpoints(..)
                    | Resource::Secret(..)
                    | Resource::Revocations(..)
                    | Resource::Faults(..) => {}
                }
            }
        }
    }

    /// The workload wants no faults, whatever comes.
    pub const fn opt_out_of_faults(&mut self) {
        self.faults.opt_out();
    }

    /// Applies one change.
    ///
    /// # Errors
    /// Why it is refused; then the resource stays as it was.
    pub fn apply(&mut self, change: Change) -> Result<(), Vec<Fault>> {
        match change {
            Change::Set(resource, expires) => return self.set(*resource, expires),
            Change::Extend(kind, name, expires) => self.extend(kind, &name, expires),
            Change::Remove(kind, name) => self.remove(kind, &name),
        }
        Ok(())
    }

    fn set(&mut self, resource: Resource, expires: Option<Instant>) -> Result<(), Vec<Fault>> {
        let static_clash = || vec![Fault::new("name", "the start-up file has a resource of this name")];
        match resource {
            Resource::Listener(message, compiled) => {
                if self.listeners.get(&compiled.name).is_some_and(|kept| kept.from_file) {
                    return Err(static_clash());
                }
                let name = Arc::clone(&compiled.name);
                put(&mut self.listeners, name, &message, compiled, (expires, false));
            }
            Resource::Cluster(message, compiled) => {
                if self.clusters.get(&compiled.name).is_some_and(|kept| kept.from_file) {
                    return Err(static_clash());
                }
                let name = Arc::clone(&compiled.name);
                put(&mut self.clusters, name, &message, compiled, (expires, false));
            }
            Resource::Routes(message, compiled) => {
                if let Some(unknown) = compiled.unknown_cluster(|name| self.clusters.contains_key(name)) {
                    return Err(vec![Fault::new(
                        "validate_clusters",
                        format!("cluster \"{unknown}\" does not exist"),
                    )]);
                }
                let name = Arc::clone(&compiled.name);
                self.missing.remove(&(Kind::Routes, Arc::clone(&name)));
                self.lapsed_routes.remove(&name);
                put(&mut self.routes, name, &message, compiled, (expires, false));
            }
            Resource::Endpoints(message, compiled) => {
                let name: Arc<str> = message.cluster_name.as_str().into();
                self.missing.remove(&(Kind::Endpoints, Arc::clone(&name)));
                put(&mut self.endpoints, name, &message, compiled, (expires, false));
            }
            Resource::Secret(message, compiled) => {
                let name = Arc::clone(&compiled.name);
                put(&mut self.secrets, name, &message, compiled, (expires, false));
            }
            Resource::Revocations(message, compiled) => {
                let name: Arc<str> = message.name.as_str().into();
                put(&mut self.revocations, name, &message, compiled, (expires, false));
            }
            Resource::Faults(message, compiled) => return self.faults.set(&message, compiled, expires),
        }
        Ok(())
    }

    fn extend(&mut self, kind: Kind, name: &str, expires: Option<Instant>) {
        let slot = match kind {
            Kind::Cluster => self.clusters.get_mut(name).map(|kept| &mut kept.expires),
            Kind::Endpoints => self.endpoints.get_mut(name).map(|kept| &mut kept.expires),
            Kind::Listener => self.listeners.get_mut(name).map(|kept| &mut kept.expires),
            Kind::Routes => self.routes.get_mut(name).map(|kept| &mut kept.expires),
            Kind::Secret => self.secrets.get_mut(name).map(|kept| &mut kept.expires),
            Kind::Revocations => self.revocations.get_mut(name).map(|kept| &mut kept.expires),
            Kind::Faults => self.faults.extend(name, expires),
        };
        if let Some(slot) = slot {
            *slot = expires;
        }
    }

    fn remove(&mut self, kind: Kind, name: &Arc<str>) {
        let long_ago = Instant::now().checked_sub(MISSING_AFTER).unwrap_or_else(Instant::now);
        match kind {
            Kind::Cluster => self.clusters.retain(|known, kept| known != name || kept.from_file),
            Kind::Listener => self.listeners.retain(|known, kept| known != name || kept.from_file),
            Kind::Endpoints => {
                self.endpoints.remove(name);
                self.missing.insert((kind, Arc::clone(name)), long_ago);
            }
            Kind::Routes => {
                self.routes.remove(name);
                self.missing.insert((kind, Arc::clone(name)), long_ago);
            }
            // Who had it goes on with it, and comes up with nothing after a restart.
            Kind::Secret => {
                self.secrets.remove(name);
            }
            Kind::Revocations => {
                self.revocations.remove(name);
            }
            Kind::Faults => self.faults.remove(name),
        }
    }

    /// Takes note of the addresses of a cluster's names; whether they are news. That there were none to be had is
    /// news the first time.
    pub fn resolved(&mut self, resolved: Resolved) -> bool {
        let Resolved { cluster, endpoints } = resolved;
        let endpoints = match endpoints {
            Some(endpoints) => endpoints,
            None if self.resolved.contains_key(&cluster) => return false,
            None => EndpointSet::default(),
        };
        if self.resolved.get(&cluster).is_some_and(|known| **known == endpoints) {
            return false;
        }
        self.resolved.insert(cluster, Arc::new(endpoints));
        true
    }

    /// Forgets what has expired and stops waiting for what did not come; whether anything changed.
    pub fn expire(&mut self, now: Instant) -> bool {
        let mut expired = lapsed(Kind::Listener, &self.listeners, now);
        expired.extend(lapsed(Kind::Cluster, &self.clusters, now));
        expired.extend(lapsed(Kind::Routes, &self.routes, now));
        expired.extend(lapsed(Kind::Endpoints, &self.endpoints, now));
        expired.extend(lapsed(Kind::Secret, &self.secrets, now));
        expired.extend(lapsed(Kind::Revocations, &self.revocations, now));
        expired.extend(self.faults.lapsed(now));
        for (kind, name) in &expired {
            tracing::info!(?kind, %name, "the resource's TTL has run out");
            self.remove(*kind, name);
            if *kind == Kind::Routes {
                self.lapsed_routes.insert(Arc::clone(name));
            }
        }
        let ran_out = |((kind, _), since): (&(Kind, Arc<str>), &Instant)| {
            let (age, limit) = (now.saturating_duration_since(*since), patience(*kind));
            age >= limit && age < limit + 4 * super::TICK
        };
        !expired.is_empty() || self.missing.iter().any(ran_out)
    }

    /// What others refer to.
    #[must_use]
    pub fn wanted(&self) -> Wanted {
        let endpoints = self.clusters.values().filter_map(|kept| match &kept.compiled.discovery {
            Discovery::Eds(name) => Some(Arc::clone(name)),
            Discovery::Static(_) | Discovery::Dns { .. } | Discovery::OriginalDst => None,
        });
        let routes = self.listeners.values().flat_map(|kept| kept.compiled.named_routes().cloned());
        let contexts = self.contexts();
        Wanted {
            endpoints: endpoints.collect(),
            routes: routes.collect(),
            secrets: contexts.flat_map(secrets_of).collect(),
        }
    }

    fn contexts(&self) -> impl Iterator<Item = &TlsSettings> {
        let listeners = self.listeners.values().flat_map(|kept| kept.compiled.chains.all());
        let down = listeners.filter_map(|chain| chain.tls.as_ref().map(|tls| &tls.settings));
        let clusters = self.clusters.values();
        down.chain(clusters.filter_map(|kept| kept.compiled.tls.as_ref().map(|tls| &tls.settings)))
    }

    /// Everything that may hold a TLS context, and the secrets that came over ADS.
    pub fn compiled(&self) -> (impl Iterator<Item = &Arc<Listener>>, impl Iterator<Item = &Arc<Cluster>>) {
        let listeners = self.listeners.values().map(|kept| &kept.compiled);
        (listeners, self.clusters.values().map(|kept| &kept.compiled))
    }

    /// A secret that came over ADS.
    #[must_use]
    pub fn secret(&self, name: &str) -> Option<SecretKind> {
        self.secrets.get(name).map(|kept| kept.compiled.kind.clone())
    }

    /// Who is cut off, by all lists together.
    #[must_use]
    pub fn revoked(&self) -> Revoked {
        let mut all = Revoked::default();
        self.revocations.values().for_each(|kept| all.add(&kept.compiled));
        all
    }

    /// Puts everything together. A listener or cluster that still waits for its routes or endpoints stays as it was
    /// published before (make before break).
    pub fn assemble(&mut self, version: u64) -> Snapshot {
        let wanted = self.wanted();
        self.routes.retain(|name, _| wanted.routes.contains(name));
        self.endpoints.retain(|name, _| wanted.endpoints.contains(name));
        self.secrets.retain(|name, _| wanted.secrets.contains(name));
        self.lapsed_routes.retain(|name| wanted.routes.contains(name));
        self.resolved.retain(|name, _| self.clusters.contains_key(name));
        self.note_missing(&wanted);
        let mut snapshot = Snapshot { version, faults: self.faults.in_force(), ..Snapshot::default() };
        for (name, kept) in &self.clusters {
            let ready = match &kept.compiled.discovery {
                Discovery::Eds(eds) => {
                    self.endpoints.contains_key(eds) || self.is_given_up(Kind::Endpoints, eds)
                }
                Discovery::Dns { .. } => {
                    self.resolved.contains_key(name) || self.is_given_up(Kind::Cluster, name)
                }
                Discovery::Static(_) | Discovery::OriginalDst => true,
            };
            let entry = match self.current.clusters.get(name) {
                Some(previous) if !ready => previous.clone(),
                Some(_) | None => ClusterEntry {
                    config: Arc::clone(&kept.compiled),
                    endpoints: self.endpoints_of(&kept.compiled),
                },
            };
            snapshot.clusters.insert(Arc::clone(name), entry);
        }
        for (name, kept) in &self.listeners {
            let ready = kept
                .compiled
                .named_routes()
                .all(|route| self.routes.contains_key(route) || self.is_given_up(Kind::Routes, route));
            let listener = if ready { Some(&kept.compiled) } else { self.current.listeners.get(name) };
            if let Some(listener) = listener {
                snapshot.listeners.insert(Arc::clone(name), Arc::clone(listener));
            }
        }
        for (name, kept) in &self.routes {
            snapshot.route_tables.insert(Arc::clone(name), Arc::clone(&kept.compiled));
        }
        // A listener that stays as it was may still need routes that its successor does not.
        for listener in snapshot.listeners.values() {
            for name in listener.named_routes().filter(|name| !self.lapsed_routes.contains(*name)) {
                if let Some(table) = self.current.route_tables.get(name) {
                    snapshot.route_tables.entry(Arc::clone(name)).or_insert_with(|| Arc::clone(table));
                }
            }
        }
        self.current = Arc::new(Snapshot {
            version,
            listeners: snapshot.listeners.clone(),
            clusters: snapshot.clusters.clone(),
            route_tables: snapshot.route_tables.clone(),
            faults: None,
        });
        snapshot
    }

    /// Takes note of what is referred to and not there, and since when.
    pub fn note_missing(&mut self, wanted: &Wanted) {
        let (routes, endpoints) = (&self.routes, &self.endpoints);
        let resolved = &self.resolved;
        let unresolved: BTreeSet<Arc<str>> = self
            .by_name()
            .map(|cluster| Arc::clone(&cluster.name))
            .filter(|name| !resolved.contains_key(name))
            .collect();
        let needed = |kind: Kind, name: &Arc<str>| match kind {
            Kind::Routes => wanted.routes.contains(name) && !routes.contains_key(name),
            Kind::Endpoints => wanted.endpoints.contains(name) && !endpoints.contains_key(name),
            Kind::Cluster => unresolved.contains(name),
            Kind::Listener | Kind::Secret | Kind::Revocations | Kind::Faults => false,
        };
        self.missing.retain(|(kind, name), _| needed(*kind, name));
        let now = Instant::now();
        for name in wanted.routes.iter().filter(|name| needed(Kind::Routes, name)) {
            self.missing.entry((Kind::Routes, Arc::clone(name))).or_insert(now);
        }
        for name in wanted.endpoints.iter().filter(|name| needed(Kind::Endpoints, name)) {
            self.missing.entry((Kind::Endpoints, Arc::clone(name))).or_insert(now);
        }
        for name in &unresolved {
            self.missing.entry((Kind::Cluster, Arc::clone(name))).or_insert(now);
        }
    }

    fn is_given_up(&self, kind: Kind, name: &Arc<str>) -> bool {
        self.missing.get(&(kind, Arc::clone(name))).is_some_and(|since| since.elapsed() >= patience(kind))
    }

    /// The clusters whose endpoints are names.
    pub fn by_name(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        let all = self.clusters.values().map(|kept| &kept.compiled);
        all.filter(|cluster| matches!(cluster.discovery, Discovery::Dns { .. }))
    }

    fn endpoints_of(&self, cluster: &Cluster) -> Arc<EndpointSet> {
        let found = match &cluster.discovery {
            Discovery::Static(set) => Some(Arc::clone(set)),
            Discovery::Dns { .. } => self.resolved.get(&cluster.name).cloned(),
            Discovery::Eds(name) => self.endpoints.get(name).map(|kept| Arc::clone(&kept.compiled)),
            Discovery::OriginalDst => None,
        };
        found.unwrap_or_default()
    }

    /// Whether nothing that is referred to is still waited for.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.missing.iter().all(|((kind, _), since)| since.elapsed() >= patience(*kind))
    }

    /// Whether there is a listener of this name, published or not.
    #[must_use]
    pub fn has_listener(&self, name: &str) -> bool {
        self.listeners.contains_key(name)
    }

    /// Whether there is a cluster of this name.
    #[must_use]
    pub fn has_cluster(&self, name: &str) -> bool {
        self.clusters.contains_key(name)
    }

    /// What was published last.
    #[must_use]
    pub const fn current(&self) -> &Arc<Snapshot> {
        &self.current
    }

    /// The listeners as they came.
    pub fn listeners(&self) -> impl Iterator<Item = pb_listener::Listener> {
        self.listeners.values().filter_map(Kept::message)
    }

    /// The clusters as they came.
    pub fn clusters(&self) -> impl Iterator<Item = pb_cluster::Cluster> {
        self.clusters.values().filter_map(Kept::message)
    }

    /// The route configurations as they came.
    pub fn routes(&self) -> impl Iterator<Item = pb_route::RouteConfiguration> {
        self.routes.values().filter_map(Kept::message)
    }

    /// The load assignments as they came.
    pub fn endpoints(&self) -> impl Iterator<Item = pb_endpoint::ClusterLoadAssignment> {
        self.endpoints.values().filter_map(Kept::message)
    }
}

/// The secrets of ADS that a context names.
fn secrets_of(settings: &TlsSettings) -> impl Iterator<Item = Arc<str>> + use<> {
    let certificate = match &settings.certificate {
        Some(CertificateSource::Named(name, true)) => Some(Arc::clone(name)),
        _ => None,
    };
    let trust = match &settings.trust {
        Some(TrustSource::Named(name, true)) => Some(Arc::clone(name)),
        _ => None,
    };
    certificate.into_iter().chain(trust)
}

/// How long something of this kind is waited for.
const fn patience(kind: Kind) -> Duration {
    match kind {
        Kind::Cluster => UNRESOLVED_AFTER,
        Kind::Endpoints | Kind::Listener | Kind::Routes | Kind::Secret | Kind::Revocations | Kind::Faults => {
            MISSING_AFTER
        }
    }
}

#[cfg(test)]
mod tests;
