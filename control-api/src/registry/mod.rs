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

use crate::proxy_info::ProxyInfo;
use crate::serve::{Answer, Outgoing, Standing};
use crate::snapshot::Kind;
use proxy::Proxy;

/// All proxies that are connected.
#[derive(Debug, Default)]
pub struct Registry {
    proxies: Mutex<BTreeMap<Key, Entry>>,
    next: AtomicU64,
    workloads: Arc<Workloads>,
}

/// A node's id is its own word; its namespace is proved. Nobody takes the place of a proxy of another namespace.
type Key = (Arc<str>, Arc<str>);

#[derive(Debug)]
struct Entry {
    /// Which of the streams that came one after the other under this key.
    number: u64,
    proxy: Arc<Mutex<Proxy>>,
}

/// One stream; the proxy is connected until this is dropped.
#[derive(Debug)]
pub struct Connection {
    registry: Arc<Registry>,
    key: Key,
    number: u64,
    proxy: Arc<Mutex<Proxy>>,
}

impl Registry {
    /// With the workloads that register themselves.
    #[must_use]
    pub fn new(workloads: Arc<Workloads>) -> Self {
        Self { workloads, ..Self::default() }
    }

    /// A stream begins. One of the same proxy that has not ended yet is forgotten: the newer one counts.
    #[must_use]
    pub fn connect(self: &Arc<Self>, info: &Arc<ProxyInfo>, protocol: &'static str) -> Connection {
        let key = (Arc::clone(&info.namespace), Arc::clone(&info.id));
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let proxy = Arc::new(Mutex::new(Proxy::new(Arc::clone(info), protocol, SystemTime::now())));
        let entry = Entry { number, proxy: Arc::clone(&proxy) };
        lock(&self.proxies).insert(key.clone(), entry);
        self.workloads.connected(info, number);
        Connection { registry: Arc::clone(self), key, number, proxy }
    }

    /// How many are connected.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.proxies).len()
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

    /// The proxies with this id, with all of their resources; several only when namespaces use the same id.
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
        lock(&self.proxies).values().map(|entry| Arc::clone(&entry.proxy)).collect()
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
        let mut proxies = lock(&self.registry.proxies);
        if proxies.get(&self.key).is_some_and(|entry| entry.number == self.number) {
            proxies.remove(&self.key);
        }
        drop(proxies);
        self.registry.workloads.disconnected(&self.key, self.number);
    }
}

/// No update leaves anything behind that another reader could not live with.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
