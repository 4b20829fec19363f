//! Looks after ejected endpoints for all workers: one task for each cluster that ejects any.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::model::Snapshot;
use crate::model::outlier::OutlierDetection;
use crate::observe::metrics::{Gauge, Labels, Shard};
use crate::observe::series::{EJECTIONS, ENDPOINTS_OUT};
use crate::upstream::usage::{Usage, UsageRegistry};

/// The clusters whose endpoints may be ejected.
#[derive(Debug)]
pub struct Watch {
    usage: Arc<UsageRegistry>,
    metrics: Shard,
    clusters: HashMap<Arc<str>, Watched>,
}

#[derive(Debug)]
struct Watched {
    config: OutlierDetection,
    usage: Arc<Usage>,
    out: Gauge,
    task: AbortHandle,
}

impl Watch {
    /// No cluster yet.
    #[must_use]
    pub fn new(usage: Arc<UsageRegistry>, metrics: Shard) -> Self {
        Self { usage, metrics, clusters: HashMap::new() }
    }

    /// Looks after these clusters. What was ejected stays ejected where the settings change, and comes back where
    /// there are none any more.
    pub fn follow(&mut self, snapshot: &Snapshot) {
        let mut old = std::mem::take(&mut self.clusters);
        for (name, entry) in &snapshot.clusters {
            let Some(config) = entry.config.outliers else { continue };
            let watched = match old.remove(name) {
                Some(known) if known.config == config => known,
                replaced => {
                    let usage = replaced.as_ref().map(|known| Arc::clone(&known.usage));
                    let usage = usage.unwrap_or_else(|| self.usage.cluster(name));
                    if let Some(known) = replaced {
                        known.task.abort();
                    }
                    let shared = (Arc::clone(&usage), self.metrics.clone());
                    let reviewing = review(Arc::clone(name), config, shared);
                    let labels = Labels::none().with("destination_service", name).with("cause", "ejected");
                    let out = self.metrics.gauge(ENDPOINTS_OUT, &labels);
                    Watched { config, usage, out, task: tokio::spawn(reviewing).abort_handle() }
                }
            };
            self.clusters.insert(Arc::clone(name), watched);
        }
        for gone in old.into_values() {
            gone.task.abort();
            gone.usage.hosts.pardon_all();
            gone.out.set(0);
        }
    }

    /// Writes down how many are ejected now.
    pub fn record(&self) {
        for watched in self.clusters.values() {
            watched.out.set(watched.usage.hosts.ejected());
        }
    }
}

async fn review(cluster: Arc<str>, config: OutlierDetection, (usage, shard): (Arc<Usage>, Shard)) {
    let mut random = fastrand::Rng::new();
    let mut ticks = interval_at(Instant::now() + config.interval, config.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let now = ticks.tick().await;
        for verdict in usage.hosts.review(&config, now, &mut random) {
            let address = verdict.address;
            match verdict.ejected {
                None => tracing::info!(%cluster, %address, "an endpoint comes back"),
                Some(cause) => {
                    let cause = cause.code();
                    tracing::warn!(%cluster, %address, cause, "an endpoint was ejected");
                    let labels = Labels::none().with("destination_service", &cluster).with("cause", cause);
                    shard.counter(EJECTIONS, &labels).add(1);
                }
            }
        }
    }
}
