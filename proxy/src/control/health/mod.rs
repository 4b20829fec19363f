//! Active health checks: each endpoint is asked once for the whole process, on the control thread, and all workers go
//! by what it says.

mod session;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use crate::model::endpoint::Endpoint;
use crate::model::health_check::HealthCheck;
use crate::model::{Cluster, Snapshot};
use crate::observe::metrics::{Gauge, Labels, Shard};
use crate::observe::series::{ENDPOINTS_OUT, HEALTH_CHECKS};
use crate::transport::BufferPool;
use crate::upstream::host::Host;
use crate::upstream::probe::Subject;
use crate::upstream::usage::{Usage, UsageRegistry};
use session::{Session, with_jitter};

/// The clusters whose endpoints are asked.
#[derive(Debug)]
pub struct Health {
    usage: Arc<UsageRegistry>,
    metrics: Shard,
    buffers: Rc<BufferPool>,
    clusters: HashMap<Arc<str>, Checked>,
}

#[derive(Debug)]
struct Checked {
    config: Arc<Cluster>,
    usage: Arc<Usage>,
    endpoints: HashMap<SocketAddr, Asked>,
    out: Gauge,
}

#[derive(Debug)]
struct Asked {
    endpoint: Endpoint,
    host: Arc<Host>,
    task: AbortHandle,
}

impl Asked {
    /// Whether it is asked in the same way and place.
    fn is_asked_as(&self, endpoint: &Endpoint) -> bool {
        self.endpoint.checked == endpoint.checked && self.endpoint.more == endpoint.more
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Health {
    /// No cluster yet.
    #[must_use]
    pub fn new(usage: Arc<UsageRegistry>, metrics: Shard) -> Self {
        Self { usage, metrics, buffers: Rc::default(), clusters: HashMap::new() }
    }

    /// Asks the endpoints of these clusters. To be called before workers learn of the endpoints, so that they know
    /// from the beginning which are still to be asked. Must run within a `LocalSet`.
    pub fn follow(&mut self, snapshot: &Snapshot) {
        let mut old = std::mem::take(&mut self.clusters);
        for (name, entry) in &snapshot.clusters {
            let Some(check) = &entry.config.health_check else { continue };
            let mut checked = match old.remove(name) {
                Some(known) => known,
                None => {
                    let labels =
                        Labels::none().with("destination_service", name).with("cause", "health_check");
                    Checked {
                        config: Arc::clone(&entry.config),
                        usage: self.usage.cluster(name),
                        endpoints: HashMap::new(),
                        out: self.metrics.gauge(ENDPOINTS_OUT, &labels),
                    }
                }
            };
            let mut endpoints = std::mem::take(&mut checked.endpoints);
            let same = Arc::ptr_eq(&checked.config, &entry.config);
            checked.config = Arc::clone(&entry.config);
            for endpoint in entry.endpoints.endpoints.iter().filter(|endpoint| !endpoint.checked.never) {
                let asked = match endpoints.remove(&endpoint.address) {
                    Some(known) if same && known.is_asked_as(endpoint) => known,
                    known => {
                        self.ask(&checked, check, (endpoint, known.map(|known| Arc::clone(&known.host))))
                    }
                };
                checked.endpoints.insert(endpoint.address, asked);
            }
            checked.forget(endpoints);
            self.clusters.insert(Arc::clone(name), checked);
        }
        for mut gone in old.into_values() {
            let endpoints = std::mem::take(&mut gone.endpoints);
            gone.forget(endpoints);
            gone.out.set(0);
        }
    }

    fn ask(
        &self,
        checked: &Checked,
        check: &HealthCheck,
        (endpoint, known): (&Endpoint, Option<Arc<Host>>),
    ) -> Asked {
        let hosts = &checked.usage.hosts;
        let session = match &known {
            Some(host) if !host.is_unchecked() => Session::known(!host.fails_checks()),
            Some(_) | None => Session::new(),
        };
        let host = known.unwrap_or_else(|| {
            let host = hosts.host(endpoint.address);
            hosts.set_unchecked(&host);
            host
        });
        let at = |mut address: SocketAddr| {
            address.set_port(endpoint.checked.port.unwrap_or_else(|| address.port()));
            address
        };
        let more = endpoint.more.iter().copied().map(at).collect();
        let asked_at = (at(endpoint.address), &more);
        let subject =
            Subject::new(&checked.config, asked_at, endpoint.checked.host.clone(), Rc::clone(&self.buffers));
        let asking = Asking {
            subject,
            check: check.clone(),
            cluster: Arc::clone(&checked.config),
            usage: Arc::clone(&checked.usage),
            host: Arc::clone(&host),
            metrics: self.metrics.clone(),
        };
        let task = tokio::task::spawn_local(asking.run(session)).abort_handle();
        Asked { endpoint: endpoint.clone(), host, task }
    }

    /// Whether every endpoint has been asked at least once.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let all = self.clusters.values().flat_map(|checked| checked.endpoints.values());
        all.into_iter().all(|asked| !asked.host.is_unchecked())
    }

    /// Writes down how many are unwell now.
    pub fn record(&self) {
        for checked in self.clusters.values() {
            let out = checked.endpoints.values().filter(|asked| asked.host.fails_checks()).count();
            checked.out.set(u32::try_from(out).unwrap_or(u32::MAX));
        }
    }
}

impl Checked {
    /// Nobody asks these any more, so nothing is known of them.
    fn forget(&self, endpoints: HashMap<SocketAddr, Asked>) {
        for asked in endpoints.into_values() {
            self.usage.hosts.set_without_checks(&asked.host);
        }
    }
}

/// What the task of one endpoint owns.
struct Asking {
    subject: Subject,
    check: HealthCheck,
    cluster: Arc<Cluster>,
    usage: Arc<Usage>,
    host: Arc<Host>,
    metrics: Shard,
}

impl Asking {
    async fn run(self, mut session: Session) {
        let mut random = fastrand::Rng::new();
        sleep(self.check.pace.initial_jitter.mul_f64(random.f64())).await;
        loop {
            let begun = Instant::now();
            let finding = self.subject.ask(&self.check).await;
            let labels = Labels::none()
                .with("destination_service", &self.cluster.name)
                .with("outcome", finding.code());
            self.metrics.counter(HEALTH_CHECKS, &labels).add(1);
            let next = session.after(finding, &self.check, self.usage.had_traffic());
            if next.changed {
                let (cluster, address) = (&self.cluster.name, self.subject.address());
                let (finding, took) = (finding.code(), begun.elapsed());
                tracing::info!(%cluster, %address, finding, well = next.well, ?took, "an endpoint's health has changed");
                self.usage.hosts.set_failing(&self.host, !next.well);
            }
            let forgives = self.cluster.outliers.is_none_or(|outliers| outliers.check_ends_ejection);
            if next.well && forgives && self.host.is_ejected() {
                self.usage.hosts.pardon(&self.host);
            }
            sleep(with_jitter(next.wait, &self.check.pace, random.f64())).await;
        }
    }
}
