//! What one worker owns: nothing in it is shared with another worker but what says so.

mod asks;
mod demand;
mod egress;
mod peers;
mod refusals;
mod rooms;
mod throttle;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use tokio::sync::{Notify, mpsc};

use crate::fault::{FaultSet, Leased};
use crate::http::heads::HeadPool;
use crate::identity::Revoked;
use crate::limit::pressure::Pressure;
use crate::model::endpoint::LocalCluster;
use crate::model::{RouteTable, Snapshot};
use crate::observe::Reason;
use crate::observe::access_log::{AccessLogger, LogQueue};
use crate::observe::metrics::{GaugeGuard, Labels, Shard};
use crate::observe::series::{
    CONNECTIONS_CUT, EgressSeries, FAULTS, FAULTS_ACTIVE, FAULTS_OVERFLOW, PolicySeries, ReasonSeries,
    RequestSeries,
};
use crate::policy::egress::Surroundings;
use crate::policy::{Decision, Standing};
use crate::transport::{BufferPool, Registry};
use crate::upstream::Clusters;
use crate::upstream::usage::UsageRegistry;
use asks::Asks;
use rooms::Rooms;
use throttle::Throttle;

/// The state of one worker thread.
#[derive(Debug)]
pub struct Worker {
    /// Read buffers.
    pub buffers: Rc<BufferPool>,
    /// Message heads.
    pub heads: HeadPool,
    /// Room for requests under way.
    pub rooms: Rc<Rooms>,
    /// Upstream state.
    pub clusters: Clusters,
    /// Its metrics; the exporter reads them.
    pub metrics: Shard,
    /// Its access log lines.
    pub logger: AccessLogger,
    /// How requests that go to no cluster are recorded.
    pub no_cluster: RequestSeries,
    /// How our own answers are counted.
    pub reasons: ReasonSeries,
    /// How decisions of policies are counted.
    pub policies: PolicySeries,
    /// How rules about destinations are counted.
    pub egress: EgressSeries,
    /// Connections from downstream.
    pub standings: Registry<Standing>,
    /// Random draws; not for secrets.
    pub random: RefCell<fastrand::Rng>,
    /// Whether answers of our own say their reason in a header.
    pub names_reason: bool,
    /// What is known of the place it runs in.
    pub surroundings: Arc<Surroundings>,
    /// How short the process is of what it needs.
    pub pressure: Arc<Pressure>,
    /// Mirrored requests under way.
    pub mirrors: Cell<u32>,
    /// Bytes of bodies that wait for mirrors.
    pub mirrored_bytes: Rc<Cell<usize>>,
    snapshot: RefCell<Arc<Snapshot>>,
    revoked: RefCell<Arc<Revoked>>,
    /// The number of the trust that established connections were held to last.
    trust: Cell<u64>,
    review_due: Cell<bool>,
    events: Throttle,
    /// The destinations that are asked for.
    asks: Asks,
    /// Wakes who waits for another configuration.
    news: Notify,
}

/// What all workers have in common.
#[derive(Clone, Debug)]
pub struct Shared {
    /// What is in use of what clusters limit.
    pub usage: Arc<UsageRegistry>,
    /// Whether answers of our own say their reason in a header.
    pub names_reason: bool,
    /// What is known of the place they run in.
    pub surroundings: Arc<Surroundings>,
    /// How short the process is of what it needs.
    pub pressure: Arc<Pressure>,
    /// The cluster that this proxy is an endpoint of.
    pub local_cluster: Option<Arc<LocalCluster>>,
    /// Takes the destinations that are to be asked for.
    pub asks: mpsc::Sender<SocketAddr>,
}

impl Worker {
    /// A worker without configuration.
    #[must_use]
    pub fn new(metrics: Shard, logs: LogQueue, shared: Shared) -> Self {
        let Shared { usage, names_reason, surroundings, pressure, local_cluster, asks } = shared;
        let buffers = Rc::new(BufferPool::default());
        Self {
            clusters: Clusters::new(usage, Rc::clone(&buffers), local_cluster),
            buffers,
            heads: HeadPool::default(),
            rooms: Rc::default(),
            metrics,
            logger: AccessLogger::new(logs),
            no_cluster: RequestSeries::default(),
            reasons: ReasonSeries::default(),
            policies: PolicySeries::default(),
            egress: EgressSeries::default(),
            standings: Registry::default(),
            random: RefCell::new(fastrand::Rng::new()),
            names_reason,
            surroundings,
            pressure,
            mirrors: Cell::new(0),
            mirrored_bytes: Rc::default(),
            snapshot: RefCell::default(),
            revoked: RefCell::default(),
            trust: Cell::new(0),
            review_due: Cell::new(false),
            events: Throttle::default(),
            asks: Asks::new(asks),
            news: Notify::new(),
        }
    }

    /// The configuration as it is now; a request keeps what it gets.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.borrow())
    }

    /// The faults in force, if there is anything to be looked at.
    #[must_use]
    pub fn faults(&self) -> Option<Arc<FaultSet>> {
        self.snapshot.borrow().faults.clone()
    }

    /// Counts what a fault does, and shows that it is at work until the guard is dropped.
    #[must_use]
    pub fn count_fault(&self, name: &str, effect: &str) -> GaugeGuard {
        let labels = Labels::none().with("fault", name);
        let active = self.metrics.gauge(FAULTS_ACTIVE, &labels).hold();
        self.metrics.counter(FAULTS, &labels.with("effect", effect)).add(1);
        active
    }

    /// Counts a fault that a cap held back.
    pub fn count_held_back(&self, fault: &Leased) {
        let labels = Labels::none().with("fault", &fault.name);
        self.metrics.counter(FAULTS_OVERFLOW, &labels).add(1);
    }

    /// Takes over a new configuration.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        if self.clusters.update(&snapshot) {
            self.review_is_due();
        }
        self.policies.forget();
        self.egress.forget();
        let before = self.snapshot.replace(snapshot);
        // What routes say to filters may have changed with them.
        let tables = (&before.route_tables, &self.snapshot.borrow().route_tables);
        if !same_tables(tables) {
            self.standings.alive().iter().for_each(|standing| standing.look_again());
        }
        self.follow_destinations(&before);
        self.news.notify_waiters();
    }

    /// Counts connections that were ended for a change.
    pub fn count_cut(&self, reason: Reason, count: usize) {
        if count > 0 {
            tracing::info!(count, reason = reason.code(), "established connections were ended");
            let labels = Labels::none().with("reason", reason.code());
            self.metrics.counter(CONNECTIONS_CUT, &labels).add(count as u64);
        }
    }

    /// Counts what a filter decided.
    pub fn count_decision(&self, decision: &Decision<'_>) {
        for (verdict, enforced) in [(&decision.enforced, true), (&decision.shadow, false)] {
            if let Some(verdict) = verdict {
                self.policies.count(&self.metrics, verdict.label, enforced, verdict.allowed);
            }
        }
    }

    /// A random number.
    #[must_use]
    pub fn draw(&self) -> u64 {
        self.random.borrow_mut().u64(..)
    }
}

type Tables = FxHashMap<Arc<str>, Arc<RouteTable>>;

fn same_tables((before, after): (&Tables, &Tables)) -> bool {
    before.len() == after.len()
        && after.iter().all(|(name, table)| before.get(name).is_some_and(|before| Arc::ptr_eq(before, table)))
}
