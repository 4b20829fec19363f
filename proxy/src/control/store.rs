//! All resources, where they came from, and the snapshot that they make together.

mod demand;
mod faults;
mod kept;
mod linking;
mod references;
mod wanted;

use std::collections::BTreeMap;
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

pub use super::change::{Change, Kind, Resource};
use super::dns::Resolved;
use crate::identity::Revoked;
use crate::model::endpoint::NamedEndpoint;
use crate::model::tls::{Secret, SecretKind};
use crate::model::{Cluster, ClusterEntry, Discovery, EndpointSet, Listener, RouteTable, Snapshot};
use demand::Demand;
use faults::Faults;
use kept::{Kept, Resources, lapsed, put};
use references::References;
pub use references::Wanted;

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
    /// What the workload calls, where that is asked for.
    demand: Demand,
    /// Endpoints of names, by cluster.
    /// The addresses of clusters' names, with the names that they are of.
    resolved: BTreeMap<Arc<str>, Addresses>,
    references: References,
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
                    | Resource::Faults(..)
                    | Resource::Destination(..) => {}
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
            Change::Extend(kind, name, expires) => return self.extend(kind, &name, expires),
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
                self.tell_unheard(&compiled);
                let name = Arc::clone(&compiled.name);
                put(&mut self.listeners, name, &message, compiled, (expires, false));
            }
            Resource::Cluster(message, compiled) => {
                if self.clusters.get(&compiled.name).is_some_and(|kept| kept.from_file) {
                    return Err(static_clash());
                }
                let name = Arc::clone(&compiled.name);
                self.demand.cluster_is_there(&name);
                put(&mut self.clusters, name, &message, compiled, (expires, false));
            }
            Resource::Routes(message, compiled) => {
                if let Some(unknown) = compiled.unknown_cluster(|name| self.clusters.contains_key(name)) {
                    return Err(vec![Fault::new(
                        "validate_clusters",
                        format!("cluster \"{unknown}\" does not exist"),
                    )]);
                }
                self.check_heard(&compiled)?;
                let name = Arc::clone(&compiled.name);
                put(&mut self.routes, name, &message, compiled, (expires, false));
            }
            Resource::Endpoints(message, compiled) => {
                let name: Arc<str> = message.cluster_name.as_str().into();
                put(&mut self.endpoints, name, &message, compiled, (expires, false));
            }
            Resource::Secret(message, compiled) => {
                let name = Arc::clone(&compiled.name);
                put(&mut self.secrets, name, &message, compiled, (expires, false));
            }
            Resource::Revocations(message, compiled) => {
                stays(expires)?;
                let name: Arc<str> = message.name.as_str().into();
                put(&mut self.revocations, name, &message, compiled, (expires, false));
            }
            Resource::Faults(message, compiled) => return self.faults.set(&message, compiled, expires),
            Resource::Destination(message, compiled) => self.demand.set(&message, compiled, expires),
        }
        Ok(())
    }

    /// A heartbeat: the resource has more time, under the rules that hold for a new one.
    fn extend(&mut self, kind: Kind, name: &str, expires: Option<Instant>) -> Result<(), Vec<Fault>> {
        let slot = match kind {
            Kind::Cluster => self.clusters.get_mut(name).map(|kept| &mut kept.expires),
            Kind::Endpoints => self.endpoints.get_mut(name).map(|kept| &mut kept.expires),
            Kind::Listener => self.listeners.get_mut(name).map(|kept| &mut kept.expires),
            Kind::Routes => self.routes.get_mut(name).map(|kept| &mut kept.expires),
            Kind::Secret => self.secrets.get_mut(name).map(|kept| &mut kept.expires),
            Kind::Revocations => {
                stays(expires)?;
                self.revocations.get_mut(name).map(|kept| &mut kept.expires)
            }
            Kind::Faults => return self.faults.extend(name, expires),
            Kind::Destination => self.demand.extend(name),
        };
        if let Some(slot) = slot {
            *slot = expires;
        }
        Ok(())
    }

    fn remove(&mut self, kind: Kind, name: &Arc<str>) {
        match kind {
            Kind::Cluster => {
                self.clusters.retain(|known, kept| known != name || kept.from_file);
                self.demand.cluster_is_absent(name);
            }
            Kind::Listener => self.listeners.retain(|known, kept| known != name || kept.from_file),
            Kind::Endpoints => {
                self.endpoints.remove(name);
                self.references.give_up(kind, name);
            }
            Kind::Routes => {
                self.routes.remove(name);
                self.references.give_up(kind, name);
            }
            // Who had it goes on with it, and comes up with nothing after a restart.
            Kind::Secret => {
                self.secrets.remove(name);
            }
            Kind::Revocations => {
                self.revocations.remove(name);
            }
            Kind::Faults => self.faults.remove(name),
            Kind::Destination => self.demand.remove(name),
        }
    }

    /// Takes note of the addresses of a cluster's names; whether they are news. That there were none to be had is
    /// news the first time.
    pub fn resolved(&mut self, resolved: Resolved) -> bool {
        let Resolved { cluster, hosts, endpoints } = resolved;
        let Some(kept) = self.clusters.get(&cluster) else { return false };
        if !is_of(&kept.compiled, &hosts) {
            return false;
        }
        let known = self.addresses(&kept.compiled);
        let endpoints = match endpoints {
            Some(endpoints) => endpoints,
            None if known.is_some() => return false,
            None => EndpointSet::default(),
        };
        if known.is_some_and(|known| **known == endpoints) {
            return false;
        }
        self.resolved.insert(cluster, (hosts, Arc::new(endpoints)));
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
        expired.extend(self.demand.lapsed(now));
        for (kind, name) in &expired {
            tracing::info!(?kind, %name, "the resource's TTL has run out");
            self.remove(*kind, name);
            if matches!(kind, Kind::Routes | Kind::Endpoints) {
                self.references.lapse(*kind, name);
            }
        }
        self.references.expire(now) || !expired.is_empty()
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
        self.forget_clusters();
        self.resolved.retain(|name, _| self.clusters.contains_key(name));
        self.follow_references();
        let wanted = self.references.wanted();
        self.routes.retain(|name, _| wanted.has(Kind::Routes, name));
        self.endpoints.retain(|name, _| wanted.has(Kind::Endpoints, name));
        self.secrets.retain(|name, _| wanted.has(Kind::Secret, name));
        let mut snapshot = Snapshot { version, faults: self.faults.in_force(), ..Snapshot::default() };
        for (name, kept) in &self.clusters {
            let ready = match &kept.compiled.discovery {
                Discovery::Eds(eds) => {
                    self.endpoints.contains_key(eds) || self.references.is_given_up(Kind::Endpoints, eds)
                }
                Discovery::Dns { .. } => {
                    self.addresses(&kept.compiled).is_some()
                        || self.references.is_given_up(Kind::Cluster, name)
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
            let complete = self.is_complete(&kept.compiled.chains);
            let listener = if complete { Some(&kept.compiled) } else { self.current.listeners.get(name) };
            if let Some(listener) = listener {
                snapshot.listeners.insert(Arc::clone(name), Arc::clone(listener));
            }
        }
        snapshot.destinations = self.destinations();
        let told = snapshot.destinations.values().filter_map(|told| Some(&told.destination.as_ref()?.chains));
        let chains = snapshot.listeners.values().map(|listener| &listener.chains).chain(told);
        snapshot.route_tables = self.tables_of(chains);
        self.current = Arc::new(Snapshot {
            version,
            listeners: snapshot.listeners.clone(),
            clusters: snapshot.clusters.clone(),
            route_tables: snapshot.route_tables.clone(),
            destinations: snapshot.destinations.clone(),
            faults: None,
        });
        // What has stayed until now for the sake of what was in force before is not wanted any longer.
        self.let_clusters_go();
        snapshot
    }

    /// The clusters whose endpoints are names.
    pub fn by_name(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        let all = self.clusters.values().map(|kept| &kept.compiled);
        all.filter(|cluster| matches!(cluster.discovery, Discovery::Dns { .. }))
    }

    /// A cluster as it came last, with the endpoints that are known.
    #[must_use]
    pub fn cluster(&self, name: &str) -> Option<ClusterEntry> {
        let config = Arc::clone(&self.clusters.get(name)?.compiled);
        Some(ClusterEntry { endpoints: self.endpoints_of(&config), config })
    }

    /// The addresses that the cluster's names came to, if they were looked up.
    fn addresses(&self, cluster: &Cluster) -> Option<&Arc<EndpointSet>> {
        let (hosts, endpoints) = self.resolved.get(&cluster.name)?;
        is_of(cluster, hosts).then_some(endpoints)
    }

    fn endpoints_of(&self, cluster: &Cluster) -> Arc<EndpointSet> {
        let found = match &cluster.discovery {
            Discovery::Static(set) => Some(Arc::clone(set)),
            Discovery::Dns { .. } => self.addresses(cluster).cloned(),
            Discovery::Eds(name) => self.endpoints.get(name).map(|kept| Arc::clone(&kept.compiled)),
            Discovery::OriginalDst => None,
        };
        found.unwrap_or_default()
    }

    /// Whether nothing that is referred to is still waited for.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.references.is_settled()
    }

    /// The listeners as they came last, and as they were published last; one that is the same comes twice.
    pub fn placed(&self) -> impl Iterator<Item = &Arc<Listener>> {
        self.listeners.values().map(|kept| &kept.compiled).chain(self.current.listeners.values())
    }

    /// The same without those that go with the next publication.
    pub fn staying(&self) -> impl Iterator<Item = &Listener> {
        self.placed().filter(|placed| self.listeners.contains_key(&placed.name)).map(|placed| &**placed)
    }

    /// Whether a listener or a cluster of this name came over xDS.
    #[must_use]
    pub fn is_over_xds(&self, kind: Kind, name: &str) -> bool {
        match kind {
            Kind::Listener => self.listeners.get(name).is_some_and(|kept| !kept.from_file),
            Kind::Cluster => self.clusters.get(name).is_some_and(|kept| !kept.from_file),
            Kind::Endpoints
            | Kind::Routes
            | Kind::Secret
            | Kind::Revocations
            | Kind::Faults
            | Kind::Destination => false,
        }
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

/// What cuts somebody off has no TTL: when the server is lost, it would let them in again.
fn stays(expires: Option<Instant>) -> Result<(), Vec<Fault>> {
    match expires {
        None => Ok(()),
        Some(_) => Err(vec![Fault::new("ttl", "a list of who is cut off must not run out")]),
    }
}

/// Names, and what they came to.
type Addresses = (Arc<[NamedEndpoint]>, Arc<EndpointSet>);

/// Whether these are the names of the cluster. Their addresses hold under other weights, too, until they are looked up anew.
fn is_of(cluster: &Cluster, names: &[NamedEndpoint]) -> bool {
    let place = |named: &NamedEndpoint| (named.host.clone(), named.port);
    matches!(&cluster.discovery, Discovery::Dns { hosts, .. } if hosts.iter().map(place).eq(names.iter().map(place)))
}

#[cfg(test)]
mod tests;
