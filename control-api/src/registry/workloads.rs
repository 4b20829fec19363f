//! Workloads that register themselves: the stream is the registration, and its health. After its end the workload is
//! kept for a grace period, in which a proxy that only connects again takes no endpoint away.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::{Key, lock};
use crate::proxy_info::ProxyInfo;

/// How long a workload stays after the end of its stream, unless something else is said.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(10);

/// How long one stays that was there before a restart and has not come back: longer than proxies pause at the most
/// between attempts to connect.
pub const RESTORED_GRACE: Duration = Duration::from_secs(30);

/// A workload that says where it serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisteredWorkload {
    /// Who it is: it has a service, an address and a port at least.
    pub info: Arc<ProxyInfo>,
    /// Whether its stream is open; one that is not is about to go.
    pub connected: bool,
}

/// All of them.
#[derive(Debug)]
pub struct Workloads {
    grace: Duration,
    entries: Mutex<BTreeMap<Key, Entry>>,
    published: watch::Sender<Arc<Vec<RegisteredWorkload>>>,
}

#[derive(Debug)]
struct Entry {
    info: Arc<ProxyInfo>,
    /// When it goes, if its stream has ended.
    goes: Option<Instant>,
    /// Whether it is from before a restart, and is only waited for.
    restored: bool,
}

impl Default for Workloads {
    fn default() -> Self {
        Self::new(DEFAULT_GRACE)
    }
}

impl Workloads {
    /// None yet; `grace` is how long one stays after the end of its stream.
    #[must_use]
    pub fn new(grace: Duration) -> Self {
        Self { grace, entries: Mutex::default(), published: watch::channel(Arc::default()).0 }
    }

    /// Them as they are, and each change of them.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<Vec<RegisteredWorkload>>> {
        self.published.subscribe()
    }

    /// Takes over those that were there before a restart. They count as connected until they do not come back.
    pub fn restore(&self, all: Vec<ProxyInfo>) {
        let mut entries = lock(&self.entries);
        let goes = Some(Instant::now() + RESTORED_GRACE);
        for info in all {
            let key = Key::of(&info);
            let entry = Entry { info: Arc::new(info), goes, restored: true };
            entries.entry(key).or_insert(entry);
        }
        self.publish(&entries);
    }

    /// Lets go of those whose grace period is over. When to ask again; `None` while all streams are open.
    pub fn expire(&self, now: Instant) -> Option<Instant> {
        let mut entries = lock(&self.entries);
        let before = entries.len();
        entries.retain(|_, entry| entry.goes.is_none_or(|goes| goes > now));
        if entries.len() != before {
            self.publish(&entries);
        }
        entries.values().filter_map(|entry| entry.goes).min()
    }

    /// Lets go of workloads when it is time; never ends.
    pub async fn run(&self) {
        let mut changes = self.published.subscribe();
        loop {
            let next = self.expire(Instant::now());
            let far = Instant::now() + Duration::from_secs(3600);
            tokio::select! {
                () = tokio::time::sleep_until(next.unwrap_or(far)) => {}
                // The sender is `self`'s own.
                _ = changes.changed() => {}
            }
        }
    }

    /// The newest stream that a proxy has says this.
    pub(super) fn connected(&self, key: &Key, info: &Arc<ProxyInfo>) {
        let mut entries = lock(&self.entries);
        let registers = info.registers() && info.is_there;
        let changed = if registers {
            let entry = Entry { info: Arc::clone(info), goes: None, restored: false };
            let before = entries.insert(key.clone(), entry);
            before.is_none_or(|before| before.info != *info || !before.connected())
        } else {
            // It said so before, and does not any more.
            entries.remove(key).is_some()
        };
        if changed {
            self.publish(&entries);
        }
    }

    /// Its last stream has ended.
    pub(super) fn disconnected(&self, key: &Key) {
        let mut entries = lock(&self.entries);
        if let Some(entry) = entries.get_mut(key) {
            entry.goes = Some(Instant::now() + self.grace);
            self.publish(&entries);
        }
    }

    fn publish(&self, entries: &BTreeMap<Key, Entry>) {
        let all = entries
            .values()
            .map(|entry| RegisteredWorkload { info: Arc::clone(&entry.info), connected: entry.connected() });
        self.published.send_replace(Arc::new(all.collect()));
    }
}

impl Entry {
    fn connected(&self) -> bool {
        self.restored || self.goes.is_none()
    }
}
