//! Who is connected, what each proxy was told, and what it made of it.
//!
//! A stream holds a [`Connection`]; the API, the status of objects and the metrics read the rest.

mod objects;
mod proxy;
mod workloads;

pub use objects::{MAX_REJECTIONS, ObjectStatus, Rejection};
pub use proxy::{KindReport, ProxyReport, Refusal, ResourceReport, ResourceState};
pub use workloads::{DEFAULT_GRACE, RESTORED_GRACE, RegisteredWorkload, Workloads};

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::proxy_info::{Dialect, Identity, ProxyInfo};
use crate::serve::{Answer, Outgoing, Standing};
use crate::snapshot::Kind;
use proxy::Proxy;

/// All proxies that are connected.
#[derive(Debug, Default)]
pub struct Registry {
    connected: Mutex<Connected>,
    next: AtomicU64,
    workloads: Arc<Workloads>,
}

/// The streams of all proxies, those of one in the order in which they began.
#[derive(Debug, Default)]
struct Connected {
    proxies: BTreeMap<Key, Vec<Stream>>,
    /// How many streams these are.
    streams: usize,
}

/// A node's id is its own word, its identity is proved: nobody takes the place of another by calling itself alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    namespace: Arc<str>,
    id: Arc<str>,
    service_account: Arc<str>,
    identity: Option<Identity>,
}

#[derive(Debug)]
struct Stream {
    number: u64,
    proxy: Arc<Mutex<Proxy>>,
}

/// One stream; the proxy is connected until its last one is dropped.
#[derive(Debug)]
pub struct Connection {
    registry: Arc<Registry>,
    key: Key,
    number: u64,
    proxy: Arc<Mutex<Proxy>>,
}

impl Key {
    fn of(info: &ProxyInfo) -> Self {
        Self {
            namespace: Arc::clone(&info.namespace),
            id: Arc::clone(&info.id),
            service_account: Arc::clone(&info.service_account),
            identity: info.identity.clone(),
        }
    }
}

impl Registry {
    /// With the workloads that register themselves.
    #[must_use]
    pub fn new(workloads: Arc<Workloads>) -> Self {
        Self { workloads, ..Self::default() }
    }

    /// A stream begins. Of several streams of one proxy the newest counts, and when it ends, the one before it.
    #[must_use]
    pub fn connect(self: &Arc<Self>, info: &Arc<ProxyInfo>, protocol: &'static str) -> Connection {
        let key = Key::of(info);
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let proxy = Arc::new(Mutex::new(Proxy::new(Arc::clone(info), protocol, SystemTime::now())));
        let mut connected = lock(&self.connected);
        let streams = connected.proxies.entry(key.clone()).or_default();
        streams.push(Stream { number, proxy: Arc::clone(&proxy) });
        let several = streams.len() > 1;
        connected.streams += 1;
        // In the same order as here.
        self.workloads.connected(&key, info);
        drop(connected);
        // A gRPC client may have a stream for each of its targets.
        if several && info.dialect != Dialect::Grpc {
            tracing::warn!(
                proxy = %info.id,
                namespace = %info.namespace,
                service_account = %info.service_account,
                "a second stream of this node: unless it has only connected again, two proxies have one node id"
            );
        }
        Connection { registry: Arc::clone(self), key, number, proxy }
    }

    /// How many proxies are connected.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.connected).proxies.len()
    }

    /// How many streams they have.
    #[must_use]
    pub fn streams(&self) -> usize {
        lock(&self.connected).streams
    }

    /// Whether none is connected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The workloads that registered themselves.
    #[must_use]
    pub fn workloads(&self) -> &Arc<Workloads> {
        &self.workloads
    }

    /// Who they are.
    #[must_use]
    pub fn infos(&self) -> Vec<Arc<ProxyInfo>> {
        self.all().iter().map(|proxy| Arc::clone(lock(proxy).info())).collect()
    }

    /// All of them in short, by namespace and id.
    #[must_use]
    pub fn proxies(&self) -> Vec<ProxyReport> {
        self.all().iter().map(|proxy| lock(proxy).report()).collect()
    }

    /// One proxy of each namespace and dialect: what these are told, others are told too.
    #[must_use]
    pub fn kinds_of_proxies(&self) -> Vec<Arc<ProxyInfo>> {
        let all = self.all();
        let infos = all.iter().map(|proxy| Arc::clone(lock(proxy).info()));
        let kinds: BTreeMap<_, _> =
            infos.map(|info| ((Arc::clone(&info.namespace), info.dialect), info)).collect();
        kinds.into_values().collect()
    }

    /// The proxies that are meant, with all of their resources; `None` when there are more than `limit`.
    #[must_use]
    pub fn find(
        &self,
        limit: usize,
        meant: impl Fn(&ProxyInfo) -> bool,
    ) -> Option<Vec<(ProxyReport, Vec<ResourceReport>)>> {
        let all = self.all();
        let found: Vec<_> = all.iter().filter(|proxy| meant(lock(proxy).info())).take(limit + 1).collect();
        (found.len() <= limit).then(|| {
            let each = found.into_iter().map(|proxy| lock(proxy));
            each.map(|proxy| (proxy.report(), proxy.resources())).collect()
        })
    }

    /// The proxies with this id, with all of their resources; several only when namespaces or
    /// service accounts use the same id.
    #[must_use]
    pub fn resources(&self, id: &str) -> Vec<(ProxyReport, Vec<ResourceReport>)> {
        let all = self.all();
        let of_it = all.iter().map(|proxy| lock(proxy)).filter(|proxy| *proxy.info().id == *id);
        of_it.map(|proxy| (proxy.report(), proxy.resources())).collect()
    }

    /// What became of each of the operator's objects, by origin: who was told, who accepted, who refused and why.
    #[must_use]
    pub fn objects(&self) -> BTreeMap<Arc<str>, ObjectStatus> {
        objects::status(&self.all())
    }

    fn all(&self) -> Vec<Arc<Mutex<Proxy>>> {
        let connected = lock(&self.connected);
        let newest = connected.proxies.values().filter_map(|streams| streams.last());
        newest.map(|stream| Arc::clone(&stream.proxy)).collect()
    }
}

impl Connection {
    /// A response was put on the wire.
    pub fn sent<R>(&self, outgoing: &Outgoing<R>) {
        lock(&self.proxy).sent(outgoing.kind, &outgoing.nonce, SystemTime::now());
    }

    /// The proxy answered one.
    pub fn answered(&self, answer: &Answer) {
        lock(&self.proxy).answered(answer, SystemTime::now());
    }

    /// How the proxy stands now.
    pub fn standing(&self, all: impl Iterator<Item = (Kind, Standing)>) {
        let mut proxy = lock(&self.proxy);
        for (kind, standing) in all {
            proxy.standing(kind, standing);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut connected = lock(&self.registry.connected);
        let Some(streams) = connected.proxies.get_mut(&self.key) else { return };
        streams.retain(|stream| stream.number != self.number);
        let left = streams.last().map(|stream| Arc::clone(&stream.proxy));
        if left.is_none() {
            connected.proxies.remove(&self.key);
        }
        connected.streams = connected.streams.saturating_sub(1);
        match left {
            Some(proxy) => self.registry.workloads.connected(&self.key, lock(&proxy).info()),
            None => self.registry.workloads.disconnected(&self.key),
        }
    }
}

/// No update leaves anything behind that another reader could not live with.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
