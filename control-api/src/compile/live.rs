//! The mesh as it is now: what serving asks for snapshots, and what sources put their objects into.

use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::watch;

use super::{Mesh, Settings};
use crate::object::Objects;
use crate::proxy_info::ProxyInfo;
use crate::snapshot::Snapshot;

/// The mesh of the latest objects. Cheap to ask while another thread compiles the next.
#[derive(Debug)]
pub struct Live {
    mesh: RwLock<Arc<Mesh>>,
    changes: watch::Sender<u64>,
}

impl Live {
    /// A mesh without objects.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let mesh = Mesh::with_settings(Arc::default(), settings);
        Self { mesh: RwLock::new(Arc::new(mesh)), changes: watch::channel(0).0 }
    }

    /// Compiles the objects of now. It takes as long as the change is large: call it where that does not block others
    /// (`spawn_blocking`), and from one task only: of two calls at a time the last to end would win.
    pub fn apply(&self, objects: Arc<Objects>) {
        let mesh = Arc::new(self.mesh().update(objects));
        *self.mesh.write().unwrap_or_else(PoisonError::into_inner) = mesh;
        self.changes.send_modify(|number| *number += 1);
    }

    /// The mesh of now; who holds it sees no later change.
    #[must_use]
    pub fn mesh(&self) -> Arc<Mesh> {
        Arc::clone(&self.mesh.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What a proxy is told now. The first proxy of its kind after a change waits for what all of them share.
    #[must_use]
    pub fn snapshot(&self, proxy: &ProxyInfo) -> Arc<Snapshot> {
        Arc::new(self.mesh().snapshot(proxy))
    }

    /// A number that grows with each change.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
