//! All resources, where they came from, and the snapshot that they make together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use outrider_proto::Fault;
use outrider_proto::envoy::config::cluster::v3 as pb_cluster;
use outrider_proto::envoy::config::endpoint::v3 as pb_endpoint;
use outrider_proto::envoy::config::listener::v3 as pb_listener;
use outrider_proto::envoy::config::route::v3 as pb_route;
use tokio::time::Instant;

use super::Wanted;
use super::dns::Resolved;
use crate::model::{Cluster, ClusterEntry, Discovery, EndpointSet, Listener, RouteTable, Snapshot};

/// How long a resource that others refer to is waited for before it counts as missing (xDS: 15 s).
pub const MISSING_AFTER: Duration = Duration::from_secs(15);

/// A resource as it came and as it was compiled.
#[derive(Debug)]
struct Kept<M, C> {
    message: M,
    compiled: Arc<C>,
    expires: Option<Instant>,
    from_file: bool,
}

type Resources<M, C> = BTreeMap<Arc<str>, Kept<M, C>>;

/// One change that came over xDS.
#[derive(Debug)]
pub enum Change {
    /// A resource is there, until the moment given.
    Set(Box<Resource>, Option<Instant>),
    /// A resource is still there, until the moment given.
    Extend(Kind, Arc<str>, Option<Instant>),
    /// A resource is gone, or never was.
    Remove(Kind, Arc<str>),
}

/// A compiled resource with its message.
#[derive(Debug)]
pub enum Resource {
    /// A listener.
    Listener(pb_listener::Listener, Listener),
    /// A cluster.
    Cluster(pb_cluster::Cluster, Cluster),
    /// A route configuration.
    Routes(pb_route::RouteConfiguration, RouteTable),
    /// A load assignment.
    Endpoints(pb_endpoint::ClusterLoadAssignment, EndpointSet),
}

/// The kinds of resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Clusters.
    Cluster,
    /// Load assignments.
    Endpoints,
    /// Listeners.
    Listener,
    /// Route configurations.
    Routes,
}

impl Change {
    /// A listener that stays.
    #[must_use]
    pub fn listener(message: pb_listener::Listener, compiled: Listener) -> Self {
        Self::Set(Box::new(Resource::Listener(message, compiled)), None)
    }

    /// A cluster that stays.
    #[must_use]
    pub fn cluster(message: pb_cluster::Cluster, compiled: Cluster) -> Self {
        Self::Set(Box::new(Resource::Cluster(message, compiled)), None)
    }

    /// The name of what changes.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Set(resource, _) => match &**resource {
                Resource::Listener(_, listener) => &listener.name,
                Resource::Cluster(_, cluster) => &cluster.name,
                Resource::Routes(_, table) => &table.name,
                Resource::Endpoints(message, _) => &message.cluster_name,
            },
            Self::Extend(_, name, _) | Self::Remove(_, name) => name,
        }
    }

    /// The listener whose address must be bound first.
    #[must_use]
    pub fn bindable(&self) -> Option<&Listener> {
        match self {
            Self::Set(resource, _) => match &**resource {
                Resource::Listener(_, listener) => Some(listener),
                Resource::Cluster(..) | Resource::Routes(..) | Resource::Endpoints(..) => None,
            },
            Self::Extend(..) | Self::Remove(..) => None,
        }
    }
}

/// All resources.
#[derive(Debug, Default)]
pub struct Store {
    listeners: Resources<pb_listener::Listener, Listener>,
    clusters: Resources<pb_cluster::Cluster, Cluster>,
    routes: Resources<pb_route::RouteConfiguration, RouteTable>,
    endpoints: Resources<pb_endpoint::ClusterLoadAssignment, EndpointSet>,
    /// Endpoints of names, by cluster.
    resolved: BTreeMap<Arc<str>, Arc<EndpointSet>>,
    /// Since when a resource that is referred to is missing.
    missing: BTreeMap<(Kind, Arc<str>), Instant>,
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
                        put(&mut self.listeners, name, message, compiled, (None, true));
                    }
                    Resource::Cluster(message, compiled) => {
                        let name = Arc::clone(&compiled.name);
                        put(&mut self.clusters, name, message, compiled, (None, true));
                    }
                    Resource::Routes(..) | Resource::Endpoints(..) => {}
                }
            }
        }
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
                put(&mut self.listeners, name, message, compiled, (expires, false));
            }
            Resource::Cluster(message, compiled) => {
                if self.clusters.get(&compiled.name).is_some_and(|kept| kept.from_file) {
                    return Err(static_clash());
                }
                let name = Arc::clone(&compiled.name);
                put(&mut self.clusters, name, message, compiled, (expires, false));
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
                put(&mut self.routes, name, message, compiled, (expires, false));
            }
            Resource::Endpoints(message, compiled) => {
                let name: Arc<str> = message.cluster_name.as_str().into();
                self.missing.remove(&(Kind::Endpoints, Arc::clone(&name)));
                put(&mut self.endpoints, name, message, compiled, (expires, false));
            }
        }
        Ok(())
    }

    fn extend(&mut self, kind: Kind, name: &str, expires: Option<Instant>) {
        let slot = match kind {
            Kind::Cluster => self.clusters.get_mut(name).map(|kept| &mut kept.expires),
            Kind::Endpoints => self.endpoints.get_mut(name).map(|kept| &mut kept.expires),
            Kind::Listener => self.listeners.get_mut(name).map(|kept| &mut kept.expires),
            Kind::Routes => self.routes.get_mut(name).map(|kept| &mut kept.expires),
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
        }
    }

    /// Takes note of the addresses of a cluster's names; whether they are news.
    pub fn resolved(&mut self, resolved: Resolved) -> bool {
        if self.resolved.get(&resolved.cluster).is_some_and(|known| **known == resolved.endpoints) {
            return false;
        }
        self.resolved.insert(resolved.cluster, Arc::new(resolved.endpoints));
        true
    }

    /// Forgets what has expired and stops waiting for what did not come; whether anything changed.
    pub fn expire(&mut self, now: Instant) -> bool {
        let before = (self.listeners.len(), self.clusters.len(), self.routes.len(), self.endpoints.len());
        let lives = |expires: Option<Instant>| expires.is_none_or(|expires| expires > now);
        self.listeners.retain(|_, kept| lives(kept.expires));
        self.clusters.retain(|_, kept| lives(kept.expires));
        self.routes.retain(|_, kept| lives(kept.expires));
        self.endpoints.retain(|_, kept| lives(kept.expires));
        let after = (self.listeners.len(), self.clusters.len(), self.routes.len(), self.endpoints.len());
        let ran_out = |since: &Instant| {
            let age = now.saturating_duration_since(*since);
            age >= MISSING_AFTER && age < MISSING_AFTER + 4 * super::TICK
        };
        before != after || self.missing.values().any(ran_out)
    }

    /// What others refer to.
    #[must_use]
    pub fn wanted(&self) -> Wanted {
        let endpoints = self.clusters.values().filter_map(|kept| match &kept.compiled.discovery {
            Discovery::Eds(name) => Some(Arc::clone(name)),
            Discovery::Static(_) | Discovery::StrictDns { .. } | Discovery::OriginalDst => None,
        });
        let routes = self.listeners.values().flat_map(|kept| kept.compiled.named_routes().cloned());
        Wanted { endpoints: endpoints.collect(), routes: routes.collect() }
    }

    /// Puts everything together. A listener or cluster that still waits for its routes or endpoints stays as it was
    /// published before (make before break).
    pub fn assemble(&mut self, version: u64) -> Snapshot {
        let wanted = self.wanted();
        self.routes.retain(|name, _| wanted.routes.contains(name));
        self.endpoints.retain(|name, _| wanted.endpoints.contains(name));
        self.note_missing(&wanted);
        let mut snapshot = Snapshot { version, ..Snapshot::default() };
        for (name, kept) in &self.clusters {
            let ready = match &kept.compiled.discovery {
                Discovery::Eds(eds) => {
                    self.endpoints.contains_key(eds) || self.is_given_up(Kind::Endpoints, eds)
                }
                Discovery::Static(_) | Discovery::StrictDns { .. } | Discovery::OriginalDst => true,
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
            for name in listener.named_routes() {
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
        });
        snapshot
    }

    fn note_missing(&mut self, wanted: &Wanted) {
        let (routes, endpoints) = (&self.routes, &self.endpoints);
        let needed = |kind: Kind, name: &Arc<str>| match kind {
            Kind::Routes => wanted.routes.contains(name) && !routes.contains_key(name),
            Kind::Endpoints => wanted.endpoints.contains(name) && !endpoints.contains_key(name),
            Kind::Cluster | Kind::Listener => false,
        };
        self.missing.retain(|(kind, name), _| needed(*kind, name));
        let now = Instant::now();
        for name in wanted.routes.iter().filter(|name| needed(Kind::Routes, name)) {
            self.missing.entry((Kind::Routes, Arc::clone(name))).or_insert(now);
        }
        for name in wanted.endpoints.iter().filter(|name| needed(Kind::Endpoints, name)) {
            self.missing.entry((Kind::Endpoints, Arc::clone(name))).or_insert(now);
        }
    }

    fn is_given_up(&self, kind: Kind, name: &Arc<str>) -> bool {
        self.missing.get(&(kind, Arc::clone(name))).is_some_and(|since| since.elapsed() >= MISSING_AFTER)
    }

    fn endpoints_of(&self, cluster: &Cluster) -> Arc<EndpointSet> {
        let found = match &cluster.discovery {
            Discovery::Static(set) => Some(Arc::clone(set)),
            Discovery::StrictDns { .. } => self.resolved.get(&cluster.name).cloned(),
            Discovery::Eds(name) => self.endpoints.get(name).map(|kept| Arc::clone(&kept.compiled)),
            Discovery::OriginalDst => None,
        };
        found.unwrap_or_default()
    }

    /// Whether nothing that is referred to is still waited for.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.missing.values().all(|since| since.elapsed() >= MISSING_AFTER)
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
    pub fn listeners(&self) -> impl Iterator<Item = &pb_listener::Listener> {
        self.listeners.values().map(|kept| &kept.message)
    }

    /// The clusters as they came.
    pub fn clusters(&self) -> impl Iterator<Item = &pb_cluster::Cluster> {
        self.clusters.values().map(|kept| &kept.message)
    }

    /// The route configurations as they came.
    pub fn routes(&self) -> impl Iterator<Item = &pb_route::RouteConfiguration> {
        self.routes.values().map(|kept| &kept.message)
    }

    /// The load assignments as they came.
    pub fn endpoints(&self) -> impl Iterator<Item = &pb_endpoint::ClusterLoadAssignment> {
        self.endpoints.values().map(|kept| &kept.message)
    }
}

/// Keeps a resource; the same message again changes nothing but its time.
fn put<M: PartialEq, C>(
    resources: &mut Resources<M, C>,
    name: Arc<str>,
    message: M,
    compiled: C,
    (expires, from_file): (Option<Instant>, bool),
) {
    match resources.get_mut(&name) {
        Some(kept) if kept.message == message => kept.expires = expires,
        Some(_) | None => {
            resources.insert(name, Kept { message, compiled: Arc::new(compiled), expires, from_file });
        }
    }
}
