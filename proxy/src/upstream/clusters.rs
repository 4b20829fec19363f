//! The clusters as one worker sees them, brought up to date with every snapshot.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::budget::Earned;
use super::endpoint::EndpointState;
use super::haste::Haste;
use super::members::{Choice, Members};
use super::outlier::{Cause, Charge, Outcome};
use super::usage::{Permit, Resource, Usage, UsageRegistry};
use crate::balance::zone::Home;
use crate::identity::Revoked;
use crate::model::endpoint::LocalCluster;
use crate::model::limits::{CircuitLimits, Priority, RetryLimit};
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
    /// Those whose endpoints may be ejected or fail health checks.
    watched: RefCell<Vec<Rc<ClusterState>>>,
    usage: Arc<UsageRegistry>,
    buffers: Rc<BufferPool>,
    secured: Rc<Registry<Cutoff>>,
    /// The cluster that this proxy is an endpoint of.
    local: Option<Arc<LocalCluster>>,
    /// Where this proxy and its like stand, as far as that is known.
    home: RefCell<Option<Rc<Home>>>,
}

impl Clusters {
    /// Without any cluster.
    #[must_use]
    pub fn new(usage: Arc<UsageRegistry>, buffers: Rc<BufferPool>, local: Option<Arc<LocalCluster>>) -> Self {
        Self {
            by_name: RefCell::default(),
            watched: RefCell::default(),
            usage,
            buffers,
            secured: Rc::default(),
            local,
            home: RefCell::default(),
        }
    }

    /// Finds out anew where this proxy and its like stand. It is the same value as before where nothing changed.
    fn look_home(&self, snapshot: &Snapshot) -> Option<Rc<Home>> {
        let local = self.local.as_ref()?;
        let found = Home::new(local, &snapshot.clusters.get(&*local.name)?.endpoints)?;
        let mut home = self.home.borrow_mut();
        if home.as_deref() != Some(&found) {
            *home = Some(Rc::new(found));
        }
        home.clone()
    }

    /// The cluster of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Rc<ClusterState>> {
        self.by_name.borrow().get(name).map(Rc::clone)
    }

    /// Follows a snapshot: what did not change keeps its connections, what did is replaced, and requests under
    /// way keep what they have.
    pub fn update(&self, snapshot: &Snapshot) {
        let home = self.look_home(snapshot);
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
                Some(state) => state.update(&entry.endpoints, home.as_ref()),
                None => {
                    let usage = self.usage.cluster(name);
                    let tools = (Rc::clone(&self.buffers), Rc::clone(&self.secured));
                    let state = ClusterState::new(&entry.config, usage, tools);
                    state.update(&entry.endpoints, home.as_ref());
                    if let Some(old) = by_name.insert(Arc::clone(name), Rc::new(state)) {
                        old.retire();
                    }
                }
            }
        }
        let watched = by_name
            .values()
            .filter(|state| state.config.outliers.is_some() || state.config.health_check.is_some());
        *self.watched.borrow_mut() = watched.map(Rc::clone).collect();
    }

    /// Ends the connections to peers that are revoked; says how many.
    pub fn revoke(&self, revoked: &Revoked) -> usize {
        let secured = self.secured.alive();
        let covered = secured.iter().filter(|link| link.peer.get().is_some_and(|peer| revoked.covers(peer)));
        covered.filter(|link| !link.is_cut()).map(|link| link.cut()).count()
    }

    /// Ends the connections of clusters whose own certificate has expired without a successor; says how many.
    pub fn expire(&self) -> usize {
        let by_name = self.by_name.borrow();
        let has_expired = |link: &Cutoff| {
            let state = link.rests_on.get().and_then(|(name, _)| by_name.get(name));
            state.and_then(|state| state.config.tls.as_ref()).is_some_and(|tls| tls.live.has_expired())
        };
        let secured = self.secured.alive();
        let over = secured.iter().filter(|link| !link.is_cut() && has_expired(link));
        over.map(|link| link.cut()).count()
    }

    /// Adds to what all workers know what this one has seen since the last time, and follows what they know.
    pub fn flush(&self) {
        for state in self.watched.borrow().iter() {
            if state.config.outliers.is_some() {
                state.for_all(|endpoint| endpoint.tally.flush(&endpoint.host().conduct));
            }
            state.follow_health();
        }
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
    earned: Earned,
    /// How long its answers take, where a request without enough time is refused.
    haste: Option<Box<Haste>>,
    buffers: Rc<BufferPool>,
    secured: Rc<Registry<Cutoff>>,
    /// How requests to it are recorded.
    pub series: RequestSeries,
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
        Self {
            config: Arc::clone(config),
            usage,
            members: RefCell::default(),
            original: RefCell::default(),
            local: Rc::default(),
            earned: Earned::new(),
            haste: config.sheds.map(|percentile| Box::new(Haste::new(percentile))),
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

    /// One of its own, whose connections count against nobody's limits.
    #[must_use]
    pub fn apart(config: &Arc<Cluster>, buffers: Rc<BufferPool>) -> Rc<Self> {
        Rc::new(Self::new(config, Arc::default(), (buffers, Rc::default())))
    }

    /// The circuit-breaker limits.
    #[must_use]
    pub fn limits(&self, priority: Priority) -> &CircuitLimits {
        self.config.limits.of(priority)
    }

    pub(super) const fn buffers(&self) -> &Rc<BufferPool> {
        &self.buffers
    }

    /// What opening a connection needs.
    pub(super) fn tools(&self) -> (&Rc<BufferPool>, &Registry<Cutoff>) {
        (&self.buffers, &self.secured)
    }

    /// The endpoint for one attempt. An ORIGINAL_DST cluster has the one that the connection was going to.
    #[must_use]
    pub fn pick(&self, choice: &Choice<'_>, random: &mut fastrand::Rng) -> Option<Rc<EndpointState>> {
        if self.config.balancing.balancer == Balancer::OriginalDst {
            return Some(self.original_endpoint(choice.original));
        }
        self.follow_health();
        self.members.borrow().pick(choice, random)
    }

    /// The time, where it is wanted of an attempt how long it took.
    #[must_use]
    pub fn stamp(&self) -> Option<Instant> {
        let wanted = self.haste.is_some() || matches!(self.config.balancing.balancer, Balancer::PeakEwma(_));
        wanted.then(Instant::now)
    }

    /// Whether a request with so much time left is refused.
    #[must_use]
    pub fn is_hopeless(&self, left: impl FnOnce() -> Option<Duration>) -> bool {
        self.haste.as_ref().is_some_and(|haste| left().is_some_and(|left| haste.refuses(left)))
    }

    fn note_time(&self, endpoint: &EndpointState, outcome: Outcome, begun: Instant) {
        let now = Instant::now();
        let took = now.saturating_duration_since(begun);
        if let Some(haste) = &self.haste
            && (outcome.is_well() || outcome == Outcome::TimedOut)
        {
            haste.observe(took, outcome.is_well());
        }
        if let Balancer::PeakEwma(parameters) = &self.config.balancing.balancer {
            let took = if outcome.is_well() { took } else { took.max(parameters.failure_penalty) };
            endpoint.latency.observe(parameters, took, now);
        }
    }

    /// Takes note of how an attempt went that began at the stamp; why its endpoint is ejected, if it is.
    pub fn attempted(
        &self,
        endpoint: &EndpointState,
        (outcome, begun): (Outcome, Option<Instant>),
        random: &mut fastrand::Rng,
    ) -> Option<Cause> {
        if let Some(begun) = begun {
            self.note_time(endpoint, outcome, begun);
        }
        let config = self.config.outliers.as_ref()?;
        let charge = Charge::new(config.split, outcome);
        endpoint.tally.count(charge);
        let host = endpoint.host();
        let causes = host.conduct.charge(config, charge);
        causes.into_iter().flatten().find(|cause| {
            let ejected = self.usage.hosts.eject(host, (config, *cause), Instant::now(), random);
            if ejected {
                let (cluster, address) = (&self.config.name, endpoint.address());
                tracing::warn!(%cluster, %address, cause = cause.code(), "an endpoint was ejected");
            }
            ejected
        })
    }

    fn for_all(&self, mut act: impl FnMut(&EndpointState)) {
        self.members.borrow().all().iter().for_each(|endpoint| act(endpoint));
        self.original.borrow().values().for_each(|endpoint| act(endpoint));
    }

    /// Builds the choice anew when the health of an endpoint has changed.
    fn follow_health(&self) {
        let generation = self.usage.hosts.generation();
        if self.members.borrow().generation() != generation {
            let members = self.members.borrow().rebuilt(&self.config.balancing, generation);
            *self.members.borrow_mut() = Rc::new(members);
        }
    }

    /// One of its endpoints as what a guard is asked about.
    #[must_use]
    pub fn destination(&self, address: SocketAddr) -> Destination {
        Destination { address, is_known: !matches!(self.config.discovery, Discovery::OriginalDst) }
    }

    /// Takes a place among the requests under way.
    #[must_use]
    pub fn request_permit(&self, priority: Priority) -> Option<Permit> {
        self.earned.earn();
        self.usage.permit(Resource::Requests, priority, self.limits(priority).max_requests)
    }

    /// Takes a place among the retries.
    #[must_use]
    pub fn retry_permit(&self, priority: Priority, now: Instant) -> Option<Permit> {
        let count = |resource| self.usage.count(resource, priority);
        match self.limits(priority).retries {
            RetryLimit::Concurrent(limit) => self.usage.permit(Resource::Retries, priority, limit),
            RetryLimit::Share { percent, min } => {
                let active = f64::from(count(Resource::Requests).saturating_add(count(Resource::Pending)));
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
                let limit = ((active * percent / 100.0) as u32).max(min);
                self.usage.permit(Resource::Retries, priority, limit)
            }
            RetryLimit::Budget => self
                .earned
                .spend(&self.usage.reserve, now)
                .then(|| self.usage.permit_unlimited(Resource::Retries, priority)),
        }
    }

    /// Takes a place among those who wait for a connection.
    pub(super) fn pending_permit(&self, priority: Priority) -> Option<Permit> {
        self.usage.permit(Resource::Pending, priority, self.limits(priority).max_pending_requests)
    }

    /// Takes a place among the connections. A worker without any gets one whatever the limit says, as in Envoy:
    /// otherwise it could wait for ever for connections of other workers.
    pub(super) fn connection_permit(&self, priority: Priority) -> Option<Place> {
        let limit = self.limits(priority).max_connections;
        let permit = match self.usage.permit(Resource::Connections, priority, limit) {
            Some(permit) => permit,
            None if self.local.count.get() == 0 && limit > 0 => {
                self.usage.permit_unlimited(Resource::Connections, priority)
            }
            None => return None,
        };
        self.usage.note_traffic();
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
            .all()
            .iter()
            .filter(|endpoint| !Rc::ptr_eq(endpoint, but))
            .any(|endpoint| endpoint.take_idle().is_some())
    }

    /// The endpoints, for the operator.
    #[must_use]
    pub fn endpoints(&self) -> Vec<Rc<EndpointState>> {
        self.members.borrow().all().to_vec()
    }

    fn update(&self, source: &Arc<EndpointSet>, home: Option<&Rc<Home>>) {
        let home = home.filter(|_| self.config.balancing.zone_aware.is_some());
        let old = Rc::clone(&self.members.borrow());
        if old.is_of(source) && old.is_at(home) {
            return;
        }
        let how = (&self.config.balancing, home.map(Rc::clone));
        let members = old.updated(source, how, &self.usage.hosts);
        *self.members.borrow_mut() = Rc::new(members);
    }

    fn original_endpoint(&self, address: SocketAddr) -> Rc<EndpointState> {
        let mut original = self.original.borrow_mut();
        if original.len() >= MAX_ORIGINAL_ENDPOINTS && !original.contains_key(&address) {
            original.retain(|_, endpoint| endpoint.active() > 0);
        }
        let new = || Rc::new(EndpointState::new(address, None, self.usage.hosts.host(address)));
        Rc::clone(original.entry(address).or_insert_with(new))
    }

    fn sweep(&self, now: Instant) {
        self.earned.fade(now);
        let idle_timeout = self.config.idle_timeout;
        for endpoint in self.members.borrow().all() {
            endpoint.sweep(now, idle_timeout);
        }
        self.original
            .borrow_mut()
            .retain(|_, endpoint| endpoint.sweep(now, idle_timeout) > 0 || endpoint.active() > 0);
    }

    fn retire(&self) {
        for endpoint in self.members.borrow().all() {
            endpoint.remove();
        }
        for endpoint in self.original.borrow().values() {
            endpoint.remove();
        }
    }
}
