//! What the workload calls, where that is asked of the control server when it is called: destinations, and by them
//! route configurations and clusters. What nobody has used for a while is let go of.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use outrider_proto::outrider::destination::v1 as pb;
use rustc_hash::FxHashMap;
use tokio::time::Instant;

use super::kept::{Kept, Resources, lapsed, put};
use super::{Kind, Store};
use crate::model::destination::{Destination, DestinationUse, Told};
use crate::model::{Discovery, FilterChains, RouteTable};

/// Destinations that are asked for at a time. Beyond that the one goes that was not used for longest.
pub(super) const MAX_DESTINATIONS: usize = 4096;

/// How often room is looked for when somebody else is faster.
const ROOM_TRIES: usize = 4;

/// What was asked for.
#[derive(Debug, Default)]
pub(super) struct Demand {
    /// How long a destination is kept that nobody uses; `None` where everything is told at once.
    idle_timeout: Option<Duration>,
    /// A cluster that is wanted in any case: the one that this proxy is an endpoint of.
    own_cluster: Option<Arc<str>>,
    asked: BTreeMap<SocketAddr, Asked>,
    told: Resources<pb::Destination, Destination>,
    /// Clusters that the control server does not have.
    absent_clusters: BTreeSet<Arc<str>>,
}

#[derive(Debug)]
struct Asked {
    name: Arc<str>,
    usage: Arc<DestinationUse>,
    /// The mesh has nothing there.
    absent: bool,
}

impl Demand {
    /// The names of what is asked for.
    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.asked.values().map(|asked| &asked.name)
    }

    /// The chains of all destinations that were told.
    pub(super) fn chains(&self) -> impl Iterator<Item = &FilterChains> {
        self.named().map(|(_, chains)| chains)
    }

    /// The same, with the names of the destinations.
    pub(super) fn named(&self) -> impl Iterator<Item = (&Arc<str>, &FilterChains)> {
        self.told.values().map(|kept| (&kept.compiled.name, &kept.compiled.chains))
    }

    /// Takes a destination that was asked for; others are passed over.
    pub(super) fn set(&mut self, message: &pb::Destination, compiled: Destination, expires: Option<Instant>) {
        if let Some(asked) = self.asked.get_mut(&compiled.address) {
            asked.absent = false;
            put(&mut self.told, Arc::clone(&asked.name), message, compiled, (expires, false));
        }
    }

    /// When a destination runs out of time.
    pub(super) fn extend(&mut self, name: &str) -> Option<&mut Option<Instant>> {
        self.told.get_mut(name).map(|kept| &mut kept.expires)
    }

    /// The mesh has nothing there, or no more.
    pub(super) fn remove(&mut self, name: &Arc<str>) {
        self.told.remove(name);
        if let Some(asked) = name.parse().ok().and_then(|address: SocketAddr| self.asked.get_mut(&address)) {
            asked.absent = true;
        }
    }

    /// What has run out of time.
    pub(super) fn lapsed(&self, now: Instant) -> Vec<(Kind, Arc<str>)> {
        lapsed(Kind::Destination, &self.told, now)
    }

    pub(super) fn cluster_is_there(&mut self, name: &Arc<str>) {
        self.absent_clusters.remove(name);
    }

    pub(super) fn cluster_is_absent(&mut self, name: &Arc<str>) {
        if self.idle_timeout.is_some() {
            self.absent_clusters.insert(Arc::clone(name));
        }
    }

    /// Lets go of a destination, unless somebody has begun to use it; whether it is let go of.
    fn let_go(&mut self, address: &SocketAddr) -> bool {
        if !self.asked.get(address).is_some_and(|asked| asked.usage.let_go()) {
            return false;
        }
        if let Some(asked) = self.asked.remove(address) {
            self.told.remove(&asked.name);
        }
        true
    }

    /// Lets go of what was not used for longest; whether there was anything that nobody uses. Workers have it until
    /// the next publication, but cannot use it any more.
    fn make_room(&mut self, now: Instant) -> bool {
        // Somebody may begin to use it at this moment; then the next one goes.
        (0..ROOM_TRIES).any(|_| {
            let idle = self.asked.iter().filter_map(|(at, asked)| Some((asked.usage.idle(now)?, *at)));
            let longest = idle.max_by_key(|(idle, _)| *idle);
            longest.is_some_and(|(_, address)| self.let_go(&address))
        })
    }
}

impl Store {
    /// What the workload calls is asked for from now on, and let go of when nobody has used it for this long.
    /// `own_cluster` is asked for in any case.
    pub fn on_demand(&mut self, idle_timeout: Duration, own_cluster: Option<Arc<str>>) {
        self.demand.idle_timeout = Some(idle_timeout);
        self.demand.own_cluster = own_cluster;
    }

    /// The workload calls somebody; whether that is news. Where there is no more room, what was not used for longest
    /// makes some, and if all is in use, nothing is asked for.
    pub fn ask(&mut self, address: SocketAddr, now: Instant) -> bool {
        if self.demand.idle_timeout.is_none() || self.demand.asked.contains_key(&address) {
            return false;
        }
        if self.demand.asked.len() >= MAX_DESTINATIONS && !self.demand.make_room(now) {
            tracing::warn!(%address, "not asked for: {MAX_DESTINATIONS} destinations are in use");
            return false;
        }
        let asked =
            Asked { name: address.to_string().into(), usage: DestinationUse::new(now), absent: false };
        self.demand.asked.insert(address, asked);
        true
    }

    /// Lets go of what nobody has used for long; whether there was anything.
    pub fn let_go(&mut self, now: Instant) -> bool {
        let Some(limit) = self.demand.idle_timeout else { return false };
        let idle = |asked: &Asked| asked.usage.idle(now).is_some_and(|idle| idle >= limit);
        let all = self.demand.asked.iter().filter(|(_, asked)| idle(asked));
        let all: Vec<SocketAddr> = all.map(|(address, _)| *address).collect();
        all.iter().filter(|address| self.demand.let_go(address)).count() > 0
    }

    /// The clusters that anything in force, or about to be, sends to. None where all of them are told.
    pub(super) fn demanded_clusters(&self, routes: &BTreeSet<Arc<str>>) -> BTreeSet<Arc<str>> {
        if self.demand.idle_timeout.is_none() {
            return BTreeSet::new();
        }
        let listeners = self.listeners.values().map(|kept| &kept.compiled.chains);
        let direct = listeners.chain(self.demand.chains()).flat_map(FilterChains::clusters);
        let tables = self.routes.iter().filter(|(name, _)| routes.contains(*name));
        let routed = tables.flat_map(|(_, kept)| kept.compiled.clusters());
        // A table that is still in force while its successor waits for clusters.
        let before = self.current.route_tables.iter().filter(|(name, _)| routes.contains(*name));
        let before = before.flat_map(|(_, table)| table.clusters());
        let of_file = |name: &Arc<str>| self.clusters.get(name).is_some_and(|kept| kept.from_file);
        let all = direct.chain(routed).chain(before).chain(&self.demand.own_cluster);
        all.filter(|name| !of_file(name)).cloned().collect()
    }

    /// Forgets the clusters that nothing sends to any more.
    pub(super) fn forget_clusters(&mut self) {
        if self.demand.idle_timeout.is_some() {
            let wanted = self.demanded_clusters(&self.named_routes());
            self.clusters.retain(|name, kept| kept.from_file || wanted.contains(name));
            self.demand.absent_clusters.retain(|name| wanted.contains(name));
        }
    }

    /// On demand, clusters that only what was in force before has sent to are not asked for any longer.
    pub(super) fn let_clusters_go(&mut self) {
        if self.demand.idle_timeout.is_some() {
            self.follow_references();
        }
    }

    /// The clusters of these of which nothing was said yet.
    pub(super) fn missing_clusters<'a>(
        &'a self,
        wanted: &'a BTreeSet<Arc<str>>,
    ) -> impl Iterator<Item = &'a Arc<str>> {
        let known =
            |name: &Arc<str>| self.clusters.contains_key(name) || self.demand.absent_clusters.contains(name);
        wanted.iter().filter(move |name| !known(name))
    }

    /// Whether requests can be sent to these clusters, or never will be.
    pub(super) fn are_there<'a>(&self, mut names: impl Iterator<Item = &'a Arc<str>>) -> bool {
        self.demand.idle_timeout.is_none()
            || names.all(|name| match self.clusters.get(name).map(|kept| &kept.compiled.discovery) {
                Some(Discovery::Eds(eds)) => {
                    self.endpoints.contains_key(eds) || self.references.is_given_up(Kind::Endpoints, eds)
                }
                Some(Discovery::Static(_) | Discovery::Dns { .. } | Discovery::OriginalDst) => true,
                None => {
                    self.demand.absent_clusters.contains(name)
                        || self.references.is_given_up(Kind::Cluster, name)
                }
            })
    }

    /// The routes of this name that hold now: those of before as long as clusters of the new ones are waited for.
    pub(super) fn table_in_force<'a>(&'a self, name: &str, new: &'a Arc<RouteTable>) -> &'a Arc<RouteTable> {
        match self.current.route_tables.get(name) {
            Some(before) if !self.are_there(new.clusters()) => before,
            Some(_) | None => new,
        }
    }

    /// What is known of the destinations that were asked for. One that is not ready stays as it was.
    pub(super) fn destinations(&self) -> FxHashMap<SocketAddr, Told> {
        let each = self.demand.asked.iter().filter_map(|(address, asked)| {
            let destination = match self.demand.told.get(&asked.name) {
                Some(kept) if self.is_complete(&kept.compiled.chains) => Some(Arc::clone(&kept.compiled)),
                // Unless that was let go of meanwhile, and asked for anew.
                Some(_) => {
                    let before = self.current.destinations.get(address)?;
                    return Arc::ptr_eq(&before.usage, &asked.usage).then(|| (*address, before.clone()));
                }
                None if asked.absent => None,
                None => return None,
            };
            Some((*address, Told { destination, usage: Arc::clone(&asked.usage) }))
        });
        each.collect()
    }

    /// The destinations as they came.
    pub fn told_destinations(&self) -> impl Iterator<Item = pb::Destination> {
        self.demand.told.values().filter_map(Kept::message)
    }
}

#[cfg(test)]
mod tests;
