//! Where serving gets its snapshots from: the seam to the compiler.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::watch;

use crate::proxy_info::ProxyInfo;
use crate::snapshot::Snapshot;

/// Compiled snapshots. Equal parts of them are to be shared (`Arc`): serving compares by address first.
pub trait Snapshots: Send + Sync + fmt::Debug {
    /// What this proxy may be told at present. Called once when a stream begins, and after each change; it must not
    /// block.
    fn snapshot(&self, proxy: &ProxyInfo) -> Arc<Snapshot>;

    /// A number that grows with each change of any snapshot.
    fn changes(&self) -> watch::Receiver<u64>;
}

/// Snapshots that are put there, by `node.id`; for tests, and for what needs no compiler.
#[derive(Debug)]
pub struct MapSnapshots {
    state: RwLock<MapState>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct MapState {
    common: Arc<Snapshot>,
    own: BTreeMap<Arc<str>, Arc<Snapshot>>,
}

impl Default for MapSnapshots {
    fn default() -> Self {
        Self { state: RwLock::default(), changes: watch::channel(0).0 }
    }
}

impl MapSnapshots {
    /// Replaces what proxies get that have none of their own.
    pub fn set_common(&self, snapshot: Snapshot) {
        self.state.write().unwrap_or_else(PoisonError::into_inner).common = Arc::new(snapshot);
        self.changes.send_modify(|number| *number += 1);
    }

    /// Replaces what one proxy gets.
    pub fn set(&self, id: &str, snapshot: Snapshot) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.own.insert(id.into(), Arc::new(snapshot));
        drop(state);
        self.changes.send_modify(|number| *number += 1);
    }
}

impl Snapshots for MapSnapshots {
    fn snapshot(&self, proxy: &ProxyInfo) -> Arc<Snapshot> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(state.own.get(&proxy.id).unwrap_or(&state.common))
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
