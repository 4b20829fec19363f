//! What one worker owns: nothing in it is shared with another worker but what says so.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use crate::http::heads::HeadPool;
use crate::model::Snapshot;
use crate::observe::access_log::{AccessLogger, LogQueue};
use crate::observe::metrics::Shard;
use crate::observe::series::RequestSeries;
use crate::transport::BufferPool;
use crate::upstream::Clusters;
use crate::upstream::usage::UsageRegistry;

/// The state of one worker thread.
#[derive(Debug)]
pub struct Worker {
    /// Read buffers.
    pub buffers: Rc<BufferPool>,
    /// Message heads.
    pub heads: HeadPool,
    /// Upstream state.
    pub clusters: Clusters,
    /// Its metrics; the exporter reads them.
    pub metrics: Shard,
    /// Its access log lines.
    pub logger: AccessLogger,
    /// How requests that go to no cluster are recorded.
    pub no_cluster: RequestSeries,
    /// Random draws; not for secrets.
    pub random: RefCell<fastrand::Rng>,
    /// Whether answers of our own say their reason in a header.
    pub names_reason: bool,
    /// Mirrored requests under way.
    pub mirrors: Cell<u32>,
    snapshot: RefCell<Arc<Snapshot>>,
}

impl Worker {
    /// A worker without configuration.
    #[must_use]
    pub fn new(metrics: Shard, usage: Arc<UsageRegistry>, logs: LogQueue, names_reason: bool) -> Self {
        let buffers = Rc::new(BufferPool::default());
        Self {
            clusters: Clusters::new(usage, Rc::clone(&buffers)),
            buffers,
            heads: HeadPool::default(),
            metrics,
            logger: AccessLogger::new(logs),
            no_cluster: RequestSeries::default(),
            random: RefCell::new(fastrand::Rng::new()),
            names_reason,
            mirrors: Cell::new(0),
            snapshot: RefCell::default(),
        }
    }

    /// The configuration as it is now; a request keeps what it gets.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.borrow())
    }

    /// Takes over a new configuration.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        self.clusters.update(&snapshot);
        *self.snapshot.borrow_mut() = snapshot;
    }

    /// A random number.
    #[must_use]
    pub fn draw(&self) -> u64 {
        self.random.borrow_mut().u64(..)
    }
}
