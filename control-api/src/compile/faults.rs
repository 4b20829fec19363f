//! `FaultInjection`: what each proxy is told to do wrong, for how long, and what holds it back.
//!
//! The messages are the same for all proxies and made once; who gets one is decided by namespace, labels and caps. Our own
//! proxy only: others have no leases.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use outrider_proto::fault as faulty;
use outrider_proto::outrider::fault::v1 as pb;

use super::inbound::Local;
use super::status::{ConditionKind, Statuses};
use super::{Mesh, attach, fault_message, wire};
use crate::digest;
use crate::object::fault_injection::FaultInjection;
use crate::object::meta::selects;
use crate::object::scalar::Percent;
use crate::object::{Key, Metadata, Object, ObjectKind, Objects};
use crate::proxy_info::{Dialect, ProxyInfo};
use crate::snapshot::{Kind, Resource, Resources, Snapshot};

/// The label of a namespace or a workload that wants no faults; it says `off`.
pub const OPT_OUT_LABEL: &str = "mesh.outrider.dev/faults";
const OFF: &str = "off";
/// What holds faults back; its name comes before that of any fault, so that a stop is lifted before new ones come.
pub const GUARD_NAME: &str = "-guard";
/// Faults of a mesh: one proxy takes so many, beside the guard.
pub const MAX_FAULTS: usize = 99;

/// What no experiment may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Workloads of the mesh that have faults at a time.
    pub max_workloads: Percent,
    /// Requests, attempts and connections of each proxy that have one.
    pub max_share: Percent,
    /// The same, at a time.
    pub max_active: Option<u32>,
}

impl Default for Caps {
    fn default() -> Self {
        Self { max_workloads: Percent::ALL, max_share: Percent::ALL, max_active: None }
    }
}

/// Which faults run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InForce {
    /// Everything is stopped.
    pub stopped: bool,
    /// Those that are over.
    pub over: BTreeSet<Key>,
}

/// What proxies are told at a moment.
#[derive(Clone, Debug, Default)]
pub struct Injections {
    faults: Vec<Injection>,
    guard: Option<Resource>,
    opted_out: Option<Resource>,
    /// Namespaces that want no faults.
    spared: BTreeSet<Arc<str>>,
    stopped: bool,
}

#[derive(Clone, Debug)]
struct Injection {
    compiled: Compiled,
    /// The workloads that have it, where caps leave only some.
    only: Option<BTreeSet<Key>>,
}

/// A fault, ready to be told.
#[derive(Clone, Debug)]
pub(super) struct Compiled {
    object: Arc<Object<FaultInjection>>,
    name: Arc<str>,
    resource: Resource,
}

impl Injections {
    /// The faults that proxies are told of.
    pub fn running(&self) -> impl Iterator<Item = &Key> {
        self.faults.iter().map(|one| &one.compiled.object.key)
    }
}

impl Mesh {
    /// What proxies are told of the faults that run.
    #[must_use]
    pub fn injections(&self, in_force: &InForce) -> Injections {
        if self.faults.is_empty() && !in_force.stopped {
            return Injections::default();
        }
        let running = |one: &&Compiled| !in_force.stopped && !in_force.over.contains(&one.object.key);
        let faults: Vec<&Compiled> = self.faults.iter().filter(running).collect();
        let namespaces = self.objects.namespaces.values().filter(|one| wants_none(&one.meta.labels));
        let spared: BTreeSet<Arc<str>> = namespaces.map(|one| Arc::clone(&one.key.name)).collect();
        let capped = Capped::new(&self.objects, &spared, self.settings.faults);
        let faults = capped.faults(&faults);
        let caps = self.settings.faults;
        let guard = pb::Guard {
            stop: in_force.stopped,
            max_active: caps.max_active,
            max_share: (caps.max_share < Percent::ALL).then(|| fault_message::percentage(caps.max_share)),
            ..pb::Guard::default()
        };
        let opted_out = guard_resource(pb::Guard { opt_out: true, ..guard.clone() });
        Injections { faults, guard: guard_resource(guard), opted_out, spared, stopped: in_force.stopped }
    }

    /// Puts what a proxy is told of faults into its snapshot.
    pub fn inject(&self, injections: &Injections, proxy: &ProxyInfo, snapshot: &mut Snapshot) {
        let Some(guard) = injections.guard.as_ref().filter(|_| proxy.dialect == Dialect::Outrider) else {
            return;
        };
        let local = self.local(proxy);
        let off = |local: &Local| wants_none(&local.labels) || injections.spared.contains(&local.namespace);
        let off = injections.spared.contains(&proxy.namespace) || local.as_ref().is_some_and(off);
        let guard = if off { injections.opted_out.as_ref().unwrap_or(guard) } else { guard };
        let mut all = Resources::from([(GUARD_NAME.into(), guard.clone())]);
        // A proxy that would keep a fault for ever gets none.
        let takes = proxy.supports_ttl && !off && !injections.stopped;
        for one in injections.faults.iter().filter(|_| takes) {
            if local.as_ref().is_some_and(|local| one.concerns(local)) {
                let name = &one.compiled.name;
                all.insert(Arc::clone(name), one.compiled.resource.clone());
                snapshot.set_ttl(Kind::Faults, Arc::clone(name), one.compiled.object.spec.ttl());
            }
        }
        snapshot.set(Kind::Faults, self.shared((&proxy.id, Kind::Faults), all));
    }
}

impl Mesh {
    /// How many of these proxies each fault that runs is meant for although they take none: they are not our own, or would
    /// keep it for ever. Faults that all proxies take are left out.
    #[must_use]
    pub fn without_faults(
        &self,
        injections: &Injections,
        proxies: &[Arc<ProxyInfo>],
    ) -> BTreeMap<Key, usize> {
        let mut counts = BTreeMap::new();
        if injections.faults.is_empty() {
            return counts;
        }
        let unable = proxies.iter().filter(|one| one.dialect != Dialect::Outrider || !one.supports_ttl);
        let off = |local: &Local| wants_none(&local.labels) || injections.spared.contains(&local.namespace);
        for local in unable.filter_map(|proxy| self.local(proxy)).filter(|local| !off(local)) {
            for fault in injections.faults.iter().filter(|one| one.concerns(&local)) {
                *counts.entry(fault.compiled.object.key.clone()).or_default() += 1;
            }
        }
        counts
    }
}

impl Injection {
    fn concerns(&self, local: &Local) -> bool {
        self.compiled.selects(&local.namespace, &local.labels)
            && self.only.as_ref().is_none_or(|only| only.contains(&local.origin))
    }
}

impl Compiled {
    fn selects(&self, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
        let selector = self.object.spec.selector.as_ref();
        *self.object.key.namespace == *namespace
            && selector.is_none_or(|selector| selects(&selector.match_labels, labels))
    }
}

/// Whether labels say that no faults are wanted.
fn wants_none(labels: &BTreeMap<String, String>) -> bool {
    labels.get(OPT_OUT_LABEL).is_some_and(|value| value == OFF)
}

fn guard_resource(guard: pb::Guard) -> Option<Resource> {
    let kind = Some(pb::fault_injection::Kind::Guard(guard));
    let message = pb::FaultInjection { name: GUARD_NAME.to_owned(), kind };
    wire::resource(&message, &"Mesh//faults".into()).ok()
}

/// Who may have faults at all, and how many of them.
struct Capped<'a> {
    /// All workloads that are known.
    all: Vec<(&'a Key, &'a Metadata)>,
    spared: &'a BTreeSet<Arc<str>>,
    caps: Caps,
}

impl<'a> Capped<'a> {
    fn new(objects: &'a Objects, spared: &'a BTreeSet<Arc<str>>, caps: Caps) -> Self {
        let workloads = objects.workloads.values().map(|one| (&one.key, &one.meta));
        let all = workloads.chain(objects.pods.values().map(|one| (&one.key, &one.meta))).collect();
        Self { all, spared, caps }
    }

    /// Those that run, each with the workloads that caps leave to it.
    fn faults(&self, running: &[&Compiled]) -> Vec<Injection> {
        let mut chosen: Vec<Injection> = running
            .iter()
            .map(|fault| {
                let share = fault.object.spec.max_workloads_percent.filter(|share| *share < Percent::ALL);
                let only = share.map(|share| {
                    let selected = self.selected(fault);
                    first(&selected, &fault.name, some(share, selected.len()))
                });
                Injection { compiled: (*fault).clone(), only }
            })
            .collect();
        if self.caps.max_workloads < Percent::ALL {
            let mut concerned: BTreeSet<Key> = BTreeSet::new();
            for one in &mut chosen {
                let only = one.only.get_or_insert_with(|| self.selected(&one.compiled));
                concerned.extend(only.iter().cloned());
            }
            let most = some(self.caps.max_workloads, self.all.len());
            let allowed = first(&concerned, "", most);
            for only in chosen.iter_mut().filter_map(|one| one.only.as_mut()) {
                only.retain(|key| allowed.contains(key));
            }
        }
        chosen
    }

    fn selected(&self, fault: &Compiled) -> BTreeSet<Key> {
        let selected = self.all.iter().filter(|(key, meta)| {
            fault.selects(&key.namespace, &meta.labels)
                && !wants_none(&meta.labels)
                && !self.spared.contains(&key.namespace)
        });
        selected.map(|(key, _)| (*key).clone()).collect()
    }
}

/// So many percent of a number, rounded down.
fn some(share: Percent, of: usize) -> usize {
    let of = u64::try_from(of).unwrap_or(u64::MAX);
    let part = of.saturating_mul(share.millionths.into()) / u64::from(Percent::ALL.millionths);
    usize::try_from(part).unwrap_or(usize::MAX)
}

/// So many of them, always the same ones for the same salt, and no others when one more comes than must be.
fn first(all: &BTreeSet<Key>, salt: &str, most: usize) -> BTreeSet<Key> {
    let mut ranked: Vec<([u8; 32], &Key)> =
        all.iter().map(|key| (digest::sha256(format!("{salt} {key}").as_bytes()), key)).collect();
    ranked.sort_unstable();
    ranked.into_iter().take(most).map(|(_, key)| key.clone()).collect()
}

/// Compiles all faults, and says of each what there is to say.
pub(super) fn compile(mesh: (&Objects, &super::Services), statuses: &mut Statuses) -> Vec<Compiled> {
    let (objects, services) = mesh;
    let mut sorted: Vec<_> = objects.faults.values().collect();
    sorted.sort_by(|left, right| attach::age(&left.meta).cmp(&attach::age(&right.meta)));
    let mut all = Vec::new();
    for object in sorted {
        let key = &object.key;
        if all.len() >= MAX_FAULTS {
            let message = format!("{MAX_FAULTS} are older, or come first by name, and a proxy takes no more");
            statuses.refuse((key, ""), ConditionKind::Accepted, "TooMany", &message);
            continue;
        }
        resolve(object, (objects, services), statuses);
        let name: Arc<str> = format!("{}/{}", key.namespace, key.name).into();
        match wire::resource(
            &fault_message::message(object, &name, (objects, services)),
            &key.to_string().into(),
        ) {
            Ok(resource) => {
                statuses.accept(key, "");
                all.push(Compiled { object: Arc::clone(object), name, resource });
            }
            Err(faults) => {
                let reasons = faulty::joined(&faults);
                statuses.refuse((key, ""), ConditionKind::Accepted, "UnsupportedValue", &reasons);
            }
        }
    }
    all
}

/// Says which services and routes are not there. What matches nothing else is in force all the same, and does nothing.
fn resolve(
    object: &Object<FaultInjection>,
    (objects, services): (&Objects, &super::Services),
    statuses: &mut Statuses,
) {
    let rule = &object.spec.r#match;
    let mut missing = Vec::new();
    for service in &rule.services {
        let namespace = service.namespace.as_deref().unwrap_or(&object.key.namespace);
        let key = Key::new(ObjectKind::Service, namespace, &service.name);
        match (services.get(&key), service.port) {
            (None, _) => missing.push(format!("there is no {key}")),
            (Some(found), Some(port)) if found.port(port).is_none() => {
                missing.push(format!("{key} has no port {port}"));
            }
            (Some(_), _) => {}
        }
    }
    for name in &rule.routes {
        let key = |kind| Key::new(kind, &object.key.namespace, name);
        let known = objects.http_routes.contains_key(&key(ObjectKind::HttpRoute))
            || objects.grpc_routes.contains_key(&key(ObjectKind::GrpcRoute));
        if !known {
            missing.push(format!("there is no HTTPRoute or GRPCRoute {name}"));
        }
    }
    for message in missing {
        statuses.refuse((&object.key, ""), ConditionKind::ResolvedRefs, "TargetNotFound", &message);
    }
}

#[cfg(test)]
mod tests;
