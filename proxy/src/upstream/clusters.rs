//! The clusters as one worker sees them, brought up to date with every snapshot.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::endpoint::EndpointState;
use super::usage::{Permit, Resource, Usage, UsageRegistry};
use crate::balance::Picker;
use crate::identity::Revoked;
use crate::model::cluster::CircuitLimits;
use crate::model::{Balancer, Cluster, Discovery, EndpointSet, Snapshot};
use crate::observe::series::RequestSeries;
use crate::policy::egress::Destination;
use crate::transport::{BufferPool, Cutoff, Registry};

/// Endpoints of an ORIGINAL_DST cluster that a worker remembers; the ones without connections go first.
const MAX_ORIGINAL_ENDPOINTS: usize = 1024;

/// All clusters of one worker.
#[derive(Debug)]
pub struct Clusters {
    by_name: RefCell<FxHashMap<Arc<str>, Rc<ClusterState>>>,
    usage: Arc<UsageRegistry>,
    buffers: Rc<BufferPool>,
    secured: Rc<Registry<Cutoff>>,
}

impl Clusters {
    /// Without any cluster.
    #[must_use]
    pub fn new(usage: Arc<UsageRegistry>, buffers: Rc<BufferPool>) -> Self {
        Self { by_name: RefCell::default(), usage, buffers, secured: Rc::default() }
    }

    /// The cluster of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Rc<ClusterState>> {
        self.by_name.borrow().get(name).map(Rc::clone)
    }

    /// Follows a snapshot: what did not change keeps its connections, what did is replaced, and requests under
    /// way keep what they have.
    pub fn update(&self, snapshot: &Snapshot) {
        let mut by_name = self.by_name.borrow_mut();
        by_name.retain(|name, state| {
            let stays = snapshot.clusters.contains_key(name);
            if !stays {
                state.retire();
            }
            stays
        });
        for (name, entry) in &snapshot.clusters {
            match by_name.get(name).filter(|state| Arc::ptr_eq(&state.config, &entry.config)) {
                Some(state) => state.update(&entry.endpoints),
                None => {
                    let usage = self.usage.cluster(name);
                    let tools = (Rc::clone(&self.buffers), Rc::clone(&self.secured));
                    let state = ClusterState::new(&entry.config, usage, tools);
                    state.update(&entry.endpoints);
                    if let Some(old) = by_name.insert(Arc::clone(name), Rc::new(state)) {
                        old.retire();
                    }
                }
            }
        }
    }

    /// Ends the connections to peers that are revoked; says how many.
    pub fn revoke(&self, revoked: &Revoked) -> usize {
        let secured = self.secured.alive();
        let covered = secured.iter().filter(|link| link.peer.get().is_some_and(|peer| revoked.covers(peer)));
        covered.filter(|link| !link.is_cut()).map(|link| link.cut()).count()
    }

    /// Closes idle connections that are too old or dead.
    pub fn sweep(&self, now: Instant) {
        for state in self.by_name.borrow().values() {
            state.sweep(now);
        }
    }
}

/// One cluster in one worker.
#[derive(Debug)]
pub struct ClusterState {
    config: Arc<Cluster>,
    usage: Arc<Usage>,
    members: RefCell<Rc<Members>>,
    /// Endpoints of an ORIGINAL_DST cluster.
    original: RefCell<FxHashMap<SocketAddr, Rc<EndpointState>>>,
    local: Rc<LocalConnections>,
    buffers: Rc<BufferPool>,
    secured: Rc<Registry<Cutoff>>,
    /// How requests to it are recorded.
    pub series: RequestSeries,
}

/// The endpoints of a cluster and the choice among them.
#[derive(Debug)]
struct Members {
    source: Arc<EndpointSet>,
    all: Vec<Rc<EndpointState>>,
    /// Positions in `all` that may be chosen.
    available: Vec<Rc<EndpointState>>,
    picker: Picker,
}

/// The connections that this worker has open to a cluster.
#[derive(Debug, Default)]
pub struct LocalConnections {
    count: Cell<u32>,
    freed: Notify,
}

/// The place of an open connection; whoever waits for one is woken when it is given up.
#[derive(Debug)]
pub struct Place {
    _permit: Permit,
    local: Rc<LocalConnections>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.local.count.set(self.local.count.get().saturating_sub(1));
        self.local.freed.notify_one();
    }
}

impl ClusterState {
    fn new(
        config: &Arc<Cluster>,
        usage: Arc<Usage>,
        (buffers, secured): (Rc<BufferPool>, Rc<Registry<Cutoff>>),
    ) -> Self {
        let nobody = Members {
            source: Arc::default(),
            all: Vec::new(),
            available: Vec::new(),
            picker: Picker::new(config.balancer, &[]),
        };
        Self {
            config: Arc::clone(config),
            usage,
            members: RefCell::new(Rc::new(nobody)),
            original: RefCell::default(),
            local: Rc::default(),
            buffers,
            secured,
            series: RequestSeries::new(&config.name),
        }
    }

    /// How it is spoken to.
    #[must_use]
    pub const fn config(&self) -> &Arc<Cluster> {
        &self.config
    }

    /// The circuit-breaker limits.
    #[must_use]
    pub fn limits(&self) -> &CircuitLimits {
        &self.config.limits
    }

    pub(super) const fn buffers(&self) -> &Rc<BufferPool> {
        &self.buffers
    }

    /// What opening a connection needs.
    pub(super) fn tools(&self) -> (&Rc<BufferPool>, &Registry<Cutoff>) {
        (&self.buffers, &self.secured)
    }

    /// The endpoint for one attempt, `tried` avoided where there is another. An ORIGINAL_DST cluster has the one
    /// that the connection was going to.
    #[must_use]
    pub fn pick(
        &self,
        original: SocketAddr,
        tried: Option<SocketAddr>,
        random: &mut fastrand::Rng,
    ) -> Option<Rc<EndpointState>> {
        if self.config.balancer == Balancer::OriginalDst {
            return Some(self.original_endpoint(original));
        }
        let members = Rc::clone(&self.members.borrow());
        let first = members.picker.pick(&members.available, random)?;
        if tried != Some(first.address()) || members.available.len() == 1 {
            return Some(first);
        }
        members.picker.pick(&members.available, random)
    }

    /// One of its endpoints as what a guard is asked about.
    #[must_use]
    pub fn destination(&self, address: SocketAddr) -> Destination {
        Destination { address, is_known: !matches!(self.config.discovery, Discovery::OriginalDst) }
    }

    /// Takes a place among the requests under way.
    #[must_use]
    pub fn request_permit(&self) -> Option<Permit> {
        self.usage.permit(Resource::Requests, self.limits().max_requests)
    }

    /// Takes a place among the retries under way.
    #[must_use]
    pub fn retry_permit(&self) -> Option<Permit> {
        self.usage.permit(Resource::Retries, self.limits().max_retries)
    }

    /// Takes a place among those who wait for a connection.
    pub(super) fn pending_permit(&self) -> Option<Permit> {
        self.usage.permit(Resource::Pending, self.limits().max_pending_requests)
    }

    /// Takes a place among the connections. A worker without any gets one whatever the limit says, as in Envoy:
    /// otherwise it could wait for ever for connections of other workers.
    pub(super) fn connection_permit(&self) -> Option<Place> {
        let limit = self.limits().max_connections;
        let permit = match self.usage.permit(Resource::Connections, limit) {
            Some(permit) => permit,
            None if self.local.count.get() == 0 && limit > 0 => {
                self.usage.permit_unlimited(Resource::Connections)
            }
            None => return None,
        };
        self.local.count.set(self.local.count.get() + 1);
        Some(Place { _permit: permit, local: Rc::clone(&self.local) })
    }

    /// Waits until a connection of this worker is given back or closed.
    pub(super) fn connection_freed(&self) -> tokio::sync::futures::Notified<'_> {
        self.local.freed.notified()
    }

    /// Tells one who waits that a connection is idle.
    pub fn connection_idle(&self) {
        self.local.freed.notify_one();
    }

    /// Closes an idle connection to another endpoint, so that one can be opened to this one.
    pub(super) fn close_one_idle(&self, but: &Rc<EndpointState>) -> bool {
        let members = Rc::clone(&self.members.borrow());
        members
            .all
            .iter()
            .filter(|endpoint| !Rc::ptr_eq(endpoint, but))
            .any(|endpoint| endpoint.take_idle().is_some())
    }

    /// The endpoints, for the operator.
    #[must_use]
    pub fn endpoints(&self) -> Vec<Rc<EndpointState>> {
        self.members.borrow().all.clone()
    }

    fn update(&self, source: &Arc<EndpointSet>) {
        let old = Rc::clone(&self.members.borrow());
        if Arc::ptr_eq(&old.source, source) && !old.all.is_empty() {
            return;
        }
        let known: FxHashMap<SocketAddr, &Rc<EndpointState>> =
            old.all.iter().map(|endpoint| (endpoint.address(), endpoint)).collect();
        let states: Vec<Rc<EndpointState>> = source
            .endpoints
            .iter()
            .map(|endpoint| match known.get(&endpoint.address) {
                Some(state) => Rc::clone(state),
                None => Rc::new(EndpointState::new(endpoint.address, endpoint.hostname.clone())),
            })
            .collect();
        for gone in old.all.iter().filter(|old| !states.iter().any(|state| Rc::ptr_eq(old, state))) {
            gone.remove();
        }
        let pairs = source.endpoints.iter().zip(&states).filter(|(endpoint, _)| endpoint.available);
        let (weights, available): (Vec<u32>, Vec<Rc<EndpointState>>) =
            pairs.map(|(endpoint, state)| (endpoint.weight, Rc::clone(state))).unzip();
        let picker = Picker::new(self.config.balancer, &weights);
        *self.members.borrow_mut() =
            Rc::new(Members { source: Arc::clone(source), all: states, available, picker });
    }

    fn original_endpoint(&self, address: SocketAddr) -> Rc<EndpointState> {
        let mut original = self.original.borrow_mut();
        if original.len() >= MAX_ORIGINAL_ENDPOINTS && !original.contains_key(&address) {
            original.retain(|_, endpoint| endpoint.active() > 0);
        }
        Rc::clone(original.entry(address).or_insert_with(|| Rc::new(EndpointState::new(address, None))))
    }

    fn sweep(&self, now: Instant) {
        let idle_timeout = self.config.idle_timeout;
        for endpoint in &self.members.borrow().all {
            endpoint.sweep(now, idle_timeout);
        }
        self.original
            .borrow_mut()
            .retain(|_, endpoint| endpoint.sweep(now, idle_timeout) > 0 || endpoint.active() > 0);
    }

    fn retire(&self) {
        for endpoint in &self.members.borrow().all {
            endpoint.remove();
        }
        for endpoint in self.original.borrow().values() {
            endpoint.remove();
        }
    }
}
