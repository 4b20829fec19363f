//! Objects into what each proxy is told: a pure function, made incremental by keeping what did not change.
//!
//! ```text
//! services (who serves what) + claims (whose address it is) + attach (which routes) + traffic (how to call)
//!   -> service (one at a time, kept)
//!   -> view (all services, for clients of one namespace and one dialect) + local, inbound (the proxy's own workload)
//!   -> Snapshot
//! ```

mod attach;
mod backend;
mod balancing;
mod chain;
mod claims;
mod cluster;
mod destination;
pub(crate) mod egress;
mod fault_message;
pub mod faults;
mod forward;
mod grpc;
mod http;
mod inbound;
mod index;
mod limits;
mod local;
pub mod model;
mod own;
mod owned;
mod rbac;
pub mod registered;
pub mod revocations;
mod service;
pub(crate) mod services;
pub mod spans;
pub mod status;
mod tls;
mod told;

mod traffic;
mod upstreams;
mod view;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use self::claims::Claims;
use self::forward::Forward;
use self::index::Index;
use self::model::{InMesh, MeshService};
use self::own::inbound_clusters;
use self::owned::Owned;
use self::service::{Context, Input};
use self::services::Before;
use self::status::{ConditionKind, Statuses};
use self::told::{Way, WayOut};
use self::view::{All, Changes, Older, Redirected, View};
use crate::object::{Key, Objects};
use crate::proxy_info::{Dialect, Identity, ProxyInfo};
use crate::snapshot::Resources;

/// What holds for the whole mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The trust domain of all identities.
    pub trust_domain: String,
    /// What names of services end with.
    pub cluster_domain: String,
    /// Where policies for the whole mesh are.
    pub root_namespace: String,
    /// What no experiment may pass.
    pub faults: faults::Caps,
    /// Where spans go, if anywhere.
    pub tracing: Option<spans::Tracing>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            trust_domain: "cluster.local".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            root_namespace: "outrider-system".to_owned(),
            faults: faults::Caps::default(),
            tracing: None,
        }
    }
}

impl Settings {
    /// The SPIFFE ID of a service account.
    #[must_use]
    pub fn identity(&self, namespace: &str, service_account: &str) -> Arc<str> {
        format!("spiffe://{}/ns/{namespace}/sa/{service_account}", self.trust_domain).into()
    }

    /// Who a proxy is: what it has proved, or where nobody need prove anything, what it says.
    #[must_use]
    pub fn identity_of(&self, proxy: &ProxyInfo) -> Identity {
        let account = Some(&proxy.service_account).filter(|account| !account.is_empty());
        proxy.identity.clone().unwrap_or_else(|| Identity {
            trust_domain: self.trust_domain.as_str().into(),
            namespace: Arc::clone(&proxy.namespace),
            service_account: account.map_or_else(|| "default".into(), Arc::clone),
        })
    }

    /// What every identity of the mesh begins with.
    #[must_use]
    pub fn identities(&self) -> String {
        format!("spiffe://{}/", self.trust_domain)
    }
}

/// For whom a view is: the namespace, if it has routes of its own, and the dialect.
type ViewKey = (Option<Arc<str>>, Dialect);

/// What is told alike to clients whose way out differs from the usual one.
type WaysOut = BTreeMap<Way, WayOut>;

/// All services, by key.
type Services = BTreeMap<Key, Arc<MeshService>>;

/// All objects, compiled.
#[derive(Debug)]
pub struct Mesh {
    settings: Settings,
    objects: Arc<Objects>,
    services: Services,
    inputs: BTreeMap<Key, Input>,
    compiled: All,
    inbound: Arc<Resources>,
    faults: Vec<faults::Compiled>,
    revocations: Arc<Resources>,
    policies: traffic::Policies,
    /// The namespaces whose clients are told something else than others.
    consumers: BTreeSet<Arc<str>>,
    /// Whether our own proxy is told anything that Envoy is not.
    ours: bool,
    statuses: Statuses,
    /// Made when they are first asked for.
    views: Mutex<BTreeMap<ViewKey, View>>,
    /// Likewise, for workloads that a policy lets out of the mesh.
    ways_out: Mutex<WaysOut>,
    /// Likewise, to find the workloads of proxies.
    index: OnceLock<Index>,
    /// What single proxies have of their own, by `node.id`.
    own: Mutex<Owned>,
    /// What of the mesh before is needed to make views.
    old: Mutex<Older>,
    /// Likewise what single proxies had.
    old_own: Owned,
}

impl Mesh {
    /// Compiles all objects, with the usual settings.
    #[must_use]
    pub fn new(objects: &Objects) -> Self {
        Self::with_settings(Arc::new(objects.clone()), Settings::default())
    }

    /// Compiles all objects.
    #[must_use]
    pub fn with_settings(objects: Arc<Objects>, settings: Settings) -> Self {
        Self::remembering(objects, settings, &InMesh::new())
    }

    /// Compiles all objects. Ports that were in the mesh before are not spoken to in plaintext.
    #[must_use]
    pub fn remembering(objects: Arc<Objects>, settings: Settings, in_mesh: &InMesh) -> Self {
        Self::build(objects, settings, None, &|key, port| in_mesh.contains(&(key.clone(), port)))
    }

    /// Compiles objects of a later moment. What does not depend on a change is taken over, and equal parts of snapshots
    /// stay the same `Arc`s.
    #[must_use]
    pub fn update(&self, objects: Arc<Objects>) -> Self {
        let was_in_mesh = |key: &Key, port| {
            let service = self.services.get(key).and_then(|service| service.port(port));
            service.is_some_and(|port| port.in_mesh)
        };
        Self::build(objects, self.settings.clone(), Some(self), &was_in_mesh)
    }

    /// The ports that are in the mesh.
    #[must_use]
    pub fn in_mesh(&self) -> InMesh {
        let ports = self.services.values().flat_map(|service| {
            let ports = service.ports.iter().filter(|port| port.in_mesh);
            ports.map(|port| (service.key.clone(), port.number))
        });
        ports.collect()
    }

    fn build(
        objects: Arc<Objects>,
        settings: Settings,
        old: Option<&Self>,
        was_in_mesh: &dyn Fn(&Key, u16) -> bool,
    ) -> Self {
        let mut statuses = Statuses::default();
        let before = old.map(|old| Before { objects: &old.objects, services: &old.services });
        let services = services::services(&objects, &settings, was_in_mesh, before);
        let attached = attach::attach(&objects, &services, &mut statuses);
        let policies = traffic::policies(&objects, &services, &mut statuses);
        let claims = Claims::decide(&objects, &services);
        claims.report(&mut statuses);
        limits::report(&services, &policies, &mut statuses);
        upstreams::report(&objects, &services, &mut statuses);
        let (mut inputs, mut compiled) = (Vec::new(), Vec::new());
        let (no_inputs, no_compiled) = (BTreeMap::new(), All::new());
        let mut old_inputs = Forward::new(old.map_or(&no_inputs, |old| &old.inputs));
        let mut old_compiled = Forward::new(old.map_or(&no_compiled, |old| &old.compiled));
        for (key, service) in &services {
            let attached = attached.get(key);
            let (settings, services, claims, policies) = (&settings, &services, &claims, &policies);
            let context = Context { settings, services, service, claims, policies, attached };
            let input = context.input();
            let before = old_inputs.find(key).zip(old_compiled.find(key));
            let kept = before.filter(|(before, _)| **before == input).map(|(_, kept)| Arc::clone(kept));
            compiled.push((key.clone(), kept.unwrap_or_else(|| Arc::new(context.compile()))));
            inputs.push((key.clone(), input));
        }
        let (inputs, compiled): (BTreeMap<_, _>, All) =
            (inputs.into_iter().collect(), compiled.into_iter().collect());
        let older = old.map_or_else(Older::default, |old| Older {
            views: old.views.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            ways_out: old.ways_out.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            inbound: Arc::clone(&old.inbound),
            changes: Changes::between(&old.compiled, &compiled).map(Arc::new),
        });
        report((&objects, &settings), &compiled, &mut statuses);
        let faults = faults::compile((&objects, &services), &mut statuses);
        let before = old.map(|old| (&*old.objects, &old.revocations));
        let revocations = revocations::lists((&objects, &settings), before, &mut statuses);
        let consumers = compiled.values().flat_map(|service| service.consumers.keys().cloned()).collect();
        let ours = compiled.values().any(|service| !service.ours.is_empty());
        let inbound = inbound_clusters(&objects, &services, (&settings, old.map(|old| &*old.inbound)));
        let same = old.map(|old| &old.inbound).filter(|old| ***old == inbound).cloned();
        let inbound = same.unwrap_or_else(|| Arc::new(inbound));
        let own = |old: &Self| old.own.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Self {
            settings,
            services,
            inputs,
            compiled,
            inbound,
            faults,
            revocations,
            policies,
            consumers,
            ours,
            statuses,
            views: Mutex::default(),
            ways_out: Mutex::default(),
            index: OnceLock::new(),
            own: Mutex::default(),
            old: Mutex::new(older),
            old_own: old.map(own).unwrap_or_default(),
            objects,
        }
    }

    /// Lets go of what was kept of the mesh before, once the proxies that there are have their snapshots. Other views are
    /// made from scratch.
    pub fn settle(&self) {
        *self.old.lock().unwrap_or_else(PoisonError::into_inner) = Older::default();
    }

    /// What holds for the whole mesh.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What is said about objects.
    #[must_use]
    pub fn statuses(&self) -> &Statuses {
        &self.statuses
    }

    /// The services, by key.
    #[must_use]
    pub fn services(&self) -> &BTreeMap<Key, Arc<MeshService>> {
        &self.services
    }

    /// The objects that all of this is made of.
    #[must_use]
    pub fn objects(&self) -> &Arc<Objects> {
        &self.objects
    }

    fn view(&self, namespace: Option<&Arc<str>>, dialect: Dialect) -> View {
        // Mostly our proxy and Envoy are told the same.
        let dialect = match dialect {
            Dialect::Outrider if !self.ours => Dialect::Envoy,
            Dialect::Outrider | Dialect::Envoy | Dialect::Grpc => dialect,
        };
        let key: ViewKey = (namespace.cloned(), dialect);
        let known = self.views.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(view) = known {
            return view;
        }
        let name = namespace.map(|namespace| &**namespace);
        let inbound = (&*self.inbound, dialect == Dialect::Outrider);
        let old = self.old.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let proxies = |all: &All, inbound: (&Resources, bool)| View::of_proxies(all, name, inbound);
        let grpc = |all: &All, inbound: (&Resources, bool)| {
            View::of_grpc(&proxies(all, inbound), all, &self.settings)
        };
        let make: &dyn Fn(&All, (&Resources, bool)) -> View =
            if dialect == Dialect::Grpc { &grpc } else { &proxies };
        let view = if let Some((before, changes)) = old.views.get(&key).zip(old.changes.as_deref()) {
            let mut view = changes.apply(before, (&old.inbound, inbound), make);
            if !changes.chains_are_the_same() && dialect != Dialect::Grpc {
                view.outbound = view::outbound((&self.compiled, name), None, Redirected::Ipv4);
                view.destinations = Arc::default();
            }
            view
        } else {
            // A namespace that has routes of its own only now was told what all others were.
            let before = old.views.get(&key).or_else(|| old.views.get(&(None, dialect)));
            let view = make(&self.compiled, inbound);
            match before {
                Some(before) => view.sharing(before),
                None => view,
            }
        };
        self.views.lock().unwrap_or_else(PoisonError::into_inner).insert(key, view.clone());
        view
    }
}

/// Says of each object what was found when it was compiled.
fn report((objects, settings): (&Objects, &Settings), compiled: &All, statuses: &mut Statuses) {
    for (key, service) in compiled {
        for finding in &service.findings {
            statuses.note(&finding.route, finding.kind, finding.reason, &finding.message);
        }
        for warning in &service.warnings {
            statuses.note(key, ConditionKind::PartiallyInvalid, "EndpointsLeftOut", warning);
        }
    }
    for key in objects.authorization.keys() {
        statuses.accept(key, "");
    }
    egress::report(objects, settings, statuses);
}

#[cfg(test)]
mod tests;
