//! The worker threads: each with its own event loop, fed with configuration over a channel that keeps only the
//! newest.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::pki_types::UnixTime;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::listeners::{LAST_WORDS, Listeners};
use super::sockets::BoundListener;
use crate::identity::Revoked;
use crate::limit::pressure::Pressure;
use crate::model::Snapshot;
use crate::model::endpoint::LocalCluster;
use crate::observe::access_log::LogQueue;
use crate::observe::metrics::Shard;
use crate::observe::trace::queue::SpanQueue;
use crate::policy::egress::Surroundings;
use crate::upstream::usage::UsageRegistry;
use crate::worker::{Shared, Worker};

/// How often a worker looks after what can wait: access log batches, ended connections.
const TICK: Duration = Duration::from_millis(100);
/// Every how many ticks idle upstream connections are looked at, and certificates of peers that may have ended.
const SWEEP_TICKS: u32 = 10;

/// What the control thread tells the workers.
#[derive(Clone, Debug, Default)]
pub struct Published {
    /// The configuration.
    pub snapshot: Arc<Snapshot>,
    /// The sockets of its listeners; there are none when the proxy is ending.
    pub sockets: HashMap<Arc<str>, Arc<BoundListener>>,
    /// Who is cut off.
    pub revoked: Arc<Revoked>,
    /// Changes whenever roots are gone that peers of established connections may stand on.
    pub trust: u64,
    /// The proxy is ending.
    pub draining: bool,
}

/// Settings of all workers.
#[derive(Clone, Debug)]
pub struct WorkerSettings {
    /// How many.
    pub count: usize,
    /// Downstream connections of each.
    pub max_connections: usize,
    /// Whether answers of our own say their reason in a header.
    pub names_reason: bool,
    /// Takes finished spans.
    pub spans: SpanQueue,
    /// What is known of the place they run in.
    pub surroundings: Arc<Surroundings>,
    /// How short the process is of what it needs.
    pub pressure: Arc<Pressure>,
    /// The cluster that this proxy is an endpoint of.
    pub local_cluster: Option<Arc<LocalCluster>>,
    /// Takes the destinations that are to be asked for.
    pub asks: mpsc::Sender<SocketAddr>,
    /// How long connections of a changed listener, and of a proxy that is ending, may take.
    pub drain_timeout: Duration,
}

/// The running workers.
#[derive(Debug)]
pub struct Workers {
    threads: Vec<JoinHandle<()>>,
    /// Writes access logs until the last worker has ended.
    log_writer: JoinHandle<()>,
    shards: Vec<Shard>,
    own: Shard,
    usage: Arc<UsageRegistry>,
    publish: watch::Sender<Published>,
}

impl Workers {
    /// Starts them, without configuration.
    ///
    /// # Errors
    /// When a thread or an event loop cannot be had.
    pub fn start(settings: &WorkerSettings) -> std::io::Result<Self> {
        let (publish, _) = watch::channel(Published::default());
        let usage = Arc::new(UsageRegistry::default());
        let (logs, log_writer) = LogQueue::start()?;
        let own = Shard::default();
        let (mut threads, mut shards) = (Vec::new(), vec![own.clone()]);
        for index in 0..settings.count {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let shard = Shard::default();
            shards.push(shard.clone());
            let (news, usage, logs, settings) =
                (publish.subscribe(), Arc::clone(&usage), logs.clone(), settings.clone());
            let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                let shared = Shared {
                    usage,
                    spans: settings.spans,
                    names_reason: settings.names_reason,
                    surroundings: settings.surroundings,
                    pressure: settings.pressure,
                    local_cluster: settings.local_cluster,
                    asks: settings.asks,
                };
                let worker = Rc::new(Worker::new(shard, logs, shared));
                let listeners = Listeners::new(
                    Rc::clone(&worker),
                    index,
                    settings.max_connections,
                    settings.drain_timeout,
                );
                LocalSet::new().block_on(&runtime, run(worker, listeners, news, settings.drain_timeout));
            })?;
            threads.push(thread);
        }
        Ok(Self { threads, log_writer, shards, own, usage, publish })
    }

    /// The metrics of the control thread, which nobody else may write.
    #[must_use]
    pub const fn own_shard(&self) -> &Shard {
        &self.own
    }

    /// All metrics.
    #[must_use]
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// What they share of each cluster.
    #[must_use]
    pub const fn usage(&self) -> &Arc<UsageRegistry> {
        &self.usage
    }

    /// Tells them what holds from now on.
    pub fn publish(&self, published: Published) {
        self.publish.send_replace(published);
    }

    /// Completes when all have ended, which they do once they were told to drain. Cancel-safe.
    pub async fn ended(&self) {
        // Each listens as long as it lives.
        self.publish.closed().await;
    }

    /// Waits for the threads, which shall have been told to drain.
    pub fn join(self) {
        drop(self.publish);
        for thread in self.threads.into_iter().chain([self.log_writer]) {
            if thread.join().is_err() {
                tracing::error!("a thread ended with a panic");
            }
        }
    }
}

async fn run(
    worker: Rc<Worker>,
    mut listeners: Listeners,
    mut news: watch::Receiver<Published>,
    drain_timeout: Duration,
) {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ticks = 0_u32;
    let mut end: Option<Instant> = None;
    let mut fed = true;
    loop {
        tokio::select! {
            changed = news.changed(), if fed => {
                fed = changed.is_ok();
                let published = news.borrow_and_update().clone();
                if end.is_none() && (published.draining || !fed) {
                    end = Some(Instant::now() + drain_timeout + LAST_WORDS);
                    listeners.close_all();
                }
                // What is under way goes on under what holds now, in a drain too.
                if fed {
                    worker.publish(Arc::clone(&published.snapshot));
                    listeners.update(&published);
                    worker.revoke(&published.revoked);
                    worker.review(published.trust);
                }
            }
            _ = tick.tick() => {
                ticks = ticks.wrapping_add(1);
                worker.logger.flush();
                worker.tracer.flush();
                worker.clusters.flush();
                let left = listeners.reap();
                if ticks.is_multiple_of(SWEEP_TICKS) {
                    worker.clusters.sweep(Instant::now());
                    worker.expire(UnixTime::now());
                }
                if end.is_some_and(|end| left == 0 || Instant::now() >= end) {
                    break;
                }
            }
        }
    }
    worker.logger.flush();
    worker.tracer.flush();
}
