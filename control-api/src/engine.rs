//! From a source to snapshots: compiles the objects as they change, together with the workloads that register
//! themselves, and hands the result to serving.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;
use tokio::time::sleep_until;

use crate::compile::faults::Injections;
use crate::compile::model::InMesh;
use crate::compile::registered::with_registered;
use crate::compile::{Mesh, Settings};
use crate::experiments::Experiments;
use crate::object::Objects;
use crate::proxy_info::ProxyInfo;
use crate::registry::{RegisteredWorkload, Registry};
use crate::revoked::{Revocations, Revoked};
use crate::snapshot::Snapshot;
use crate::snapshots::Snapshots;
use crate::source::{Diagnostic, View};

/// The workloads that have registered themselves.
type Registered = Arc<Vec<RegisteredWorkload>>;

/// What is in force, and what is wrong with the rest.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The objects, compiled.
    pub mesh: Arc<Mesh>,
    /// What of the faults proxies are told.
    pub injections: Arc<Injections>,
    /// What the source has by itself.
    pub source: Arc<Objects>,
    /// What is wrong with what the source has.
    pub diagnostics: Arc<Vec<Diagnostic>>,
    /// Whether the source was read whole.
    pub complete: bool,
    /// Since when.
    pub since: SystemTime,
}

/// Compiles, and keeps the result.
#[derive(Debug)]
pub struct Engine {
    registry: Arc<Registry>,
    experiments: Arc<Experiments>,
    current: RwLock<Compiled>,
    changes: watch::Sender<u64>,
    /// Counts what must be told at once.
    urgent: watch::Sender<u64>,
    /// Counts what must be compiled although neither the source nor a workload has changed.
    again: watch::Sender<u64>,
    /// The last of those that is compiled.
    compiled: watch::Sender<u64>,
    revoked: watch::Sender<Arc<Revoked>>,
}

impl Engine {
    /// With what the source has at the start, and what was in the mesh before that.
    #[must_use]
    pub fn new(
        settings: Settings,
        view: &View,
        registry: Arc<Registry>,
        in_mesh: &InMesh,
        experiments: Arc<Experiments>,
    ) -> Self {
        let registered = Arc::clone(&registry.workloads().watch().borrow());
        let revoked = Arc::new(settings.revoked(&view.objects));
        let registered = (registered.as_slice(), &*revoked);
        let objects = together(&experiments.with_applied(&view.objects), registered, &settings);
        experiments.observe(&objects, view.complete);
        let mesh = Arc::new(Mesh::remembering(objects, settings, in_mesh));
        let current = RwLock::new(Compiled::new(mesh, view, &experiments));
        let count = || watch::channel(0).0;
        let (changes, urgent, again, compiled) = (count(), count(), count(), count());
        let revoked = watch::channel(revoked).0;
        Self { registry, experiments, current, changes, urgent, again, compiled, revoked }
    }

    /// Which faults run, and who may change that; after a change [`Self::faults_changed`] is to be called.
    #[must_use]
    pub fn experiments(&self) -> &Arc<Experiments> {
        &self.experiments
    }

    /// Who is cut off, from the moment at which the source says so.
    #[must_use]
    pub fn revocations(&self) -> Revocations {
        Revocations::new(self.revoked.subscribe())
    }

    /// A number that grows with each change that proxies must be told of at once.
    pub fn urgent(&self) -> watch::Receiver<u64> {
        self.urgent.subscribe()
    }

    /// Makes what is told of faults what it is to be, now, and has all proxies told at once. A fault that is new comes
    /// with the next compiling, which begins now; its number is what [`Self::caught_up`] waits for.
    pub fn faults_changed(&self) -> u64 {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        current.injections = Arc::new(current.mesh.injections(&self.experiments.in_force()));
        drop(current);
        self.urgent.send_modify(|number| *number += 1);
        let mut own = 0;
        self.again.send_modify(|number| {
            *number += 1;
            own = *number;
        });
        own
    }

    /// Waits until a change of faults is compiled, `limit` at the longest.
    pub async fn caught_up(&self, change: u64, limit: Duration) {
        let mut compiled = self.compiled.subscribe();
        let _ = tokio::time::timeout(limit, compiled.wait_for(|done| *done >= change)).await;
    }

    /// What is in force now.
    #[must_use]
    pub fn compiled(&self) -> Compiled {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Compiles as the source and the workloads change, until the source is gone.
    pub async fn run(self: Arc<Self>, mut source: watch::Receiver<View>) {
        let mut registered = self.registry.workloads().watch();
        // The source may have changed since `new`.
        source.mark_changed();
        let mut again = self.again.subscribe();
        loop {
            let next_end = self.experiments.next_end();
            let ended = async {
                match next_end {
                    Some(end) => sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = source.changed() => if changed.is_err() { return },
                // The sender is the registry's own.
                _ = registered.changed() => {}
                // And this one is the engine's.
                _ = again.changed() => {}
                () = ended => {
                    let before = *self.compiled.borrow();
                    let own = self.faults_changed();
                    // What anybody has changed meanwhile is still to be compiled.
                    if *again.borrow_and_update() == own && before + 1 == own {
                        self.compiled.send_replace(own);
                        continue;
                    }
                }
            }
            let change = *again.borrow_and_update();
            let view = source.borrow_and_update().clone();
            let workloads = Arc::clone(&registered.borrow_and_update());
            let engine = Arc::clone(&self);
            let compiled = tokio::task::spawn_blocking(move || engine.compile(&view, &workloads)).await;
            if let Err(error) = compiled {
                // What is in force stays in force.
                tracing::error!(%error, "the objects could not be compiled");
            }
            self.compiled.send_replace(change);
        }
    }

    fn compile(&self, view: &View, registered: &Registered) {
        let started = Instant::now();
        let before = self.compiled();
        let settings = before.mesh.settings();
        // First of all, and before anything takes its time: nobody who is cut off is given anything more.
        let same = Revoked::is_of_the_same(&before.source, &view.objects);
        let known = || Arc::clone(&self.revoked.borrow());
        let revoked = if same { known() } else { Arc::new(settings.revoked(&view.objects)) };
        let cut = self.revoked.send_if_modified(|now| {
            let differs = **now != *revoked;
            now.clone_from(&revoked);
            differs
        });
        let registered = (registered.as_slice(), &*revoked);
        let objects = together(&self.experiments.with_applied(&view.objects), registered, settings);
        self.experiments.observe(&objects, view.complete);
        let unchanged = Arc::ptr_eq(&objects, before.mesh.objects());
        let mesh = if unchanged { Arc::clone(&before.mesh) } else { Arc::new(before.mesh.update(objects)) };
        // What proxies get is made here, once, and not by the first of their streams that asks.
        for info in self.registry.kinds_of_proxies() {
            drop(mesh.snapshot(&info));
        }
        mesh.settle();
        for diagnostic in view.diagnostics.iter().filter(|one| !before.diagnostics.contains(one)) {
            tracing::warn!(%diagnostic, "not in force");
        }
        let took = started.elapsed();
        metrics::histogram!("outrider_control_compile_seconds").record(took.as_secs_f64());
        let problems = view.diagnostics.len();
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        // Under the lock: a stop that comes meanwhile is not lost.
        let next = Compiled::new(mesh, view, &self.experiments);
        let before = std::mem::replace(&mut *current, next);
        drop(current);
        if !unchanged {
            tracing::info!(objects = view.objects.len(), problems, ?took, "objects compiled");
            self.changes.send_modify(|number| *number += 1);
        }
        if cut {
            self.urgent.send_modify(|number| *number += 1);
        }
        // It takes a while to take a large mesh apart, and nobody has to wait for it.
        drop(before);
    }
}

impl Compiled {
    fn new(mesh: Arc<Mesh>, view: &View, experiments: &Experiments) -> Self {
        let (diagnostics, source) = (Arc::clone(&view.diagnostics), Arc::clone(&view.objects));
        let injections = Arc::new(mesh.injections(&experiments.in_force()));
        Self { mesh, injections, source, diagnostics, complete: view.complete, since: SystemTime::now() }
    }
}

impl Snapshots for Engine {
    fn snapshot(&self, proxy: &ProxyInfo) -> Arc<Snapshot> {
        let compiled = self.compiled();
        let mut snapshot = compiled.mesh.snapshot(proxy);
        compiled.mesh.inject(&compiled.injections, proxy, &mut snapshot);
        Arc::new(snapshot)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

/// The objects of the source and those workloads that are not cut off; the same `Arc` when there is nothing to add.
fn together(
    objects: &Arc<Objects>,
    (registered, revoked): (&[RegisteredWorkload], &Revoked),
    settings: &Settings,
) -> Arc<Objects> {
    let mut proxies = registered
        .iter()
        .filter(|one| revoked.identity(&settings.identity_of(&one.info)).is_none())
        .map(|one| (&*one.info, one.connected))
        .peekable();
    if proxies.peek().is_none() {
        return Arc::clone(objects);
    }
    Arc::new(with_registered(objects, proxies))
}

#[cfg(test)]
mod tests;
