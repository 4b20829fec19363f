//! One service, compiled: what it takes to call it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use outrider_proto::envoy::config::listener::v3 as listener;
use outrider_proto::{Fault, fault, strict};
use prost::Message as _;

use super::attach::{Attached, Scope};
use super::backend::{RefFault, UNRESOLVED, resolve};
use super::claims::{Claims, Held};
use super::http::{Compiler, Finding, configuration};
use super::model::{MeshService, ServicePort};
use super::status::ConditionKind;
use super::traffic::Calls;
use super::{Settings, chain, cluster, wire};
use crate::digest::Digest;
use crate::object::gateway::{BackendRef, TcpRoute};
use crate::object::http_route::Filter;
use crate::object::{Key, Object};
use crate::snapshot::{Origin, Resource};

/// Most destinations of one filter chain; a proxy of ours refuses a listener with a chain of more than 10,000.
const MAX_OF_CHAIN: usize = 5_000;

/// Resources by name.
pub(super) type Named = Vec<(Arc<str>, Resource)>;

/// What it takes to call a service.
#[derive(Clone, Debug, Default)]
pub(super) struct Compiled {
    pub(super) clusters: Named,
    /// Those of the clusters that only our own proxy can read, as it is told instead.
    pub(super) ours: Named,
    pub(super) endpoints: Named,
    /// The ports that have route tables, and the names of these.
    pub(super) tables: Vec<(u16, String)>,
    /// What clients of all namespaces are told.
    pub(super) producer: Calling,
    /// What clients of one namespace are told instead.
    pub(super) consumers: BTreeMap<Arc<str>, Calling>,
    pub(super) findings: Vec<Finding>,
    /// What of the service itself cannot be had.
    pub(super) warnings: Vec<String>,
}

/// Routes and filter chains of a service, for some clients.
#[derive(Clone, Debug, Default)]
pub(super) struct Calling {
    pub(super) routes: Named,
    pub(super) chains: Vec<Chain>,
}

/// A filter chain, encoded, and the destinations that it matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) port: u16,
    pub(super) claims: Vec<(IpAddr, u16)>,
    pub(super) encoded: Bytes,
}

/// All that a service's compilation depends on: equal inputs, equal results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Input {
    service: Arc<MeshService>,
    /// Of its ports.
    claims: Vec<Held>,
    policies: Vec<(u16, Digest)>,
    routes: Vec<(u16, Scope, Vec<Digest>)>,
    /// What is wrong with each of the backends of these routes.
    backends: Vec<Option<RefFault>>,
}

/// What a service is compiled from.
pub(super) struct Context<'a> {
    pub(super) settings: &'a Settings,
    pub(super) services: &'a BTreeMap<Key, Arc<MeshService>>,
    pub(super) service: &'a Arc<MeshService>,
    pub(super) claims: &'a Claims,
    pub(super) policies: &'a super::traffic::Policies,
    pub(super) attached: Option<&'a BTreeMap<(u16, Scope), Attached>>,
}

impl Context<'_> {
    /// What tells whether an older result still holds.
    pub(super) fn input(&self) -> Input {
        let mut backends = Vec::new();
        let mut routes = Vec::new();
        for ((port, scope), attached) in self.attached.into_iter().flatten() {
            let digests = match attached {
                Attached::Http(list) => {
                    for route in list {
                        for rule in &route.spec.rules {
                            self.references(&route.key, &rule.backend_refs, &rule.filters, &mut backends);
                        }
                    }
                    list.iter().map(|route| route.digest).collect()
                }
                Attached::Grpc(list) => {
                    for route in list {
                        for rule in &route.spec.rules {
                            self.references(&route.key, &rule.backend_refs, &rule.filters, &mut backends);
                        }
                    }
                    list.iter().map(|route| route.digest).collect()
                }
                Attached::Tcp(route) => {
                    for rule in &route.spec.rules {
                        self.references(&route.key, &rule.backend_refs, &[], &mut backends);
                    }
                    vec![route.digest]
                }
            };
            routes.push((*port, scope.clone(), digests));
        }
        let policies =
            self.service.ports.iter().filter_map(|port| {
                self.calls(port.number).origin().map(|policy| (port.number, policy.digest))
            });
        let ports = self.service.ports.iter();
        Input {
            service: Arc::clone(self.service),
            claims: ports.map(|port| self.claims.of(self.service, port.number)).collect(),
            policies: policies.collect(),
            routes,
            backends,
        }
    }

    /// What is wrong with each of the services that a rule names.
    fn references<F>(
        &self,
        route: &Key,
        backends: &[BackendRef<F>],
        filters: &[Filter],
        found: &mut Vec<Option<RefFault>>,
    ) {
        let backends = backends.iter().map(|backend| backend.reference(&route.namespace));
        let mirrors = filters.iter().filter_map(|filter| filter.request_mirror.as_ref());
        let mirrors = mirrors.map(|mirror| mirror.reference(&route.namespace));
        found.extend(backends.chain(mirrors).map(|reference| resolve(self.services, reference).err()));
    }

    fn calls(&self, port: u16) -> Calls {
        self.policies.get(&(self.service.key.clone(), port)).cloned().unwrap_or_default()
    }

    /// Compiles the service. What does not pass the strict decoder is left out and said.
    pub(super) fn compile(&self) -> Compiled {
        let mut compiled = Compiled::default();
        let mut scopes: Vec<&Scope> =
            self.attached.into_iter().flatten().map(|((_, scope), _)| scope).collect();
        scopes.sort();
        scopes.dedup();
        for port in &self.service.ports {
            self.clusters(port, &mut compiled);
        }
        compiled.producer = self.calling(&Scope::Producer, &mut compiled);
        for scope in scopes {
            if let Scope::Consumer(namespace) = scope {
                let calling = self.calling(scope, &mut compiled);
                compiled.consumers.insert(Arc::clone(namespace), calling);
            }
        }
        compiled
    }

    fn clusters(&self, port: &ServicePort, compiled: &mut Compiled) {
        let calls = self.calls(port.number);
        let policy = calls.origin().map(|policy| &policy.key);
        let origin = Origin::of(&self.service.key).with(policy);
        let name = self.service.cluster(port.number);
        let (cluster, endpoints) = cluster::outbound(&name, port, &calls, self.settings);
        let left_out = if cluster.transport_socket.is_some() {
            port.endpoints.iter().filter(|endpoint| endpoint.identity.is_none()).count()
        } else {
            0
        };
        if left_out > 0 {
            compiled.warnings.push(format!(
                "{left_out} endpoints of port {} have no sidecar and get no requests; while a service is moved into \
                 the mesh, a TrafficPolicy with `mtls: Disabled` reaches all of them",
                port.number
            ));
        }
        let name: Arc<str> = name.into();
        if let Some(ours) = calls.ours(&cluster) {
            keep(&mut compiled.ours, &name, wire::resource(&ours, &origin), &mut compiled.warnings);
        }
        let (cluster, endpoints) = (wire::resource(&cluster, &origin), wire::resource(&endpoints, &origin));
        keep(&mut compiled.clusters, &name, cluster, &mut compiled.warnings);
        keep(&mut compiled.endpoints, &name, endpoints, &mut compiled.warnings);
        if self.service.headless {
            let name = direct_name(&self.service.key, port.number);
            let cluster = wire::resource(&cluster::direct(&name, port, &calls, self.settings), &origin);
            keep(&mut compiled.clusters, &name.into(), cluster, &mut compiled.warnings);
        }
    }

    /// Routes and chains for the clients of a scope. Where a consumer says nothing of a port, the producer's holds.
    fn calling(&self, scope: &Scope, compiled: &mut Compiled) -> Calling {
        let mut calling = Calling::default();
        for port in &self.service.ports {
            let find = |scope: &Scope| self.attached.and_then(|all| all.get(&(port.number, scope.clone())));
            let attached = find(scope).or_else(|| find(&Scope::Producer));
            let name = self.service.cluster(port.number);
            let filter = match attached {
                Some(Attached::Tcp(route)) => self.opaque((&name, port), route, compiled),
                None if !port.protocol.is_http() => {
                    let target = if self.service.headless {
                        direct_name(&self.service.key, port.number)
                    } else {
                        name.clone()
                    };
                    chain::opaque(&name, &[(target, 1)], self.calls(port.number).idle())
                }
                None | Some(Attached::Http(_) | Attached::Grpc(_)) => {
                    self.routes(&name, port, attached, (compiled, &mut calling));
                    chain::outbound_http(&name, self.settings.tracing.as_ref())
                }
            };
            self.chains((port.number, &name), &filter, (compiled, &mut calling));
        }
        calling
    }

    /// The chains of a port: one for each of its destinations' ports, more where there are many, and one that matches
    /// nothing where there are none.
    fn chains(
        &self,
        (port, name): (u16, &str),
        filter: &listener::Filter,
        (compiled, calling): (&mut Compiled, &mut Calling),
    ) {
        let held = self.claims.of(self.service, port);
        let mut parts: Vec<&[SocketAddr]> = Vec::new();
        let mut by_port: BTreeMap<u16, Vec<SocketAddr>> = BTreeMap::new();
        for claim in held.iter() {
            by_port.entry(claim.port()).or_default().push(*claim);
        }
        parts.extend(by_port.values().flat_map(|all| all.chunks(MAX_OF_CHAIN)));
        if parts.is_empty() {
            parts.push(&[]);
        }
        for (index, claims) in parts.into_iter().enumerate() {
            let chain = listener::FilterChain {
                name: if index == 0 { name.to_owned() } else { format!("{name}#{index}") },
                filter_chain_match: claims.first().map(|first| listener::FilterChainMatch {
                    prefix_ranges: claims.iter().map(|claim| wire::host(claim.ip())).collect(),
                    destination_port: Some(u32::from(first.port())),
                    ..Default::default()
                }),
                filters: vec![filter.clone()],
                transport_socket: None,
            };
            let encoded = chain.encode_to_vec();
            match strict::decode::<listener::FilterChain>(&encoded) {
                Ok(_) => {
                    let claims = claims.iter().map(|claim| (claim.ip(), claim.port())).collect();
                    calling.chains.push(Chain { port, claims, encoded: encoded.into() });
                }
                Err(faults) => {
                    compiled.warnings.push(format!("{name} is left out: {}", fault::joined(&faults)));
                }
            }
        }
    }

    fn routes(
        &self,
        name: &str,
        port: &ServicePort,
        attached: Option<&Attached>,
        (compiled, calling): (&mut Compiled, &mut Calling),
    ) {
        let own = if self.service.headless && attached.is_none() {
            direct_name(&self.service.key, port.number)
        } else {
            name.to_owned()
        };
        let calls = self.calls(port.number);
        let mut compiler = Compiler {
            services: self.services,
            calls: &calls,
            own,
            routes: Vec::new(),
            findings: Vec::new(),
        };
        let policy = calls.origin().map(|policy| &policy.key);
        let mut origin = Origin::of(&self.service.key);
        match attached {
            Some(Attached::Http(routes)) => {
                routes.iter().for_each(|route| compiler.http(route));
                origin = made_of(origin, routes.iter().map(|route| &route.key));
            }
            Some(Attached::Grpc(routes)) => {
                routes.iter().for_each(|route| compiler.grpc(route));
                origin = made_of(origin, routes.iter().map(|route| &route.key));
            }
            Some(Attached::Tcp(_)) | None => {}
        }
        let (routes, findings) = compiler.table(attached.is_some());
        compiled.findings.extend(findings);
        let origin = origin.with(policy);
        let table = configuration(name, routes);
        if !compiled.tables.iter().any(|(number, _)| *number == port.number) {
            compiled.tables.push((port.number, name.to_owned()));
        }
        keep(&mut calling.routes, &name.into(), wire::resource(&table, &origin), &mut compiled.warnings);
    }

    fn opaque(
        &self,
        (name, port): (&str, &ServicePort),
        route: &Object<TcpRoute>,
        compiled: &mut Compiled,
    ) -> listener::Filter {
        let mut clusters = Vec::new();
        for backend in route.spec.rules.iter().flat_map(|rule| &rule.backend_refs) {
            let cluster =
                resolve(self.services, backend.reference(&route.key.namespace)).unwrap_or_else(|fault| {
                    compiled.findings.push(Finding {
                        route: route.key.clone(),
                        kind: ConditionKind::ResolvedRefs,
                        reason: fault.reason,
                        message: fault.message,
                    });
                    UNRESOLVED.to_owned()
                });
            if backend.weight > 0 {
                clusters.push((cluster, backend.weight));
            }
        }
        if clusters.is_empty() {
            // There is no such cluster: the connection is closed.
            clusters.push((UNRESOLVED.to_owned(), 1));
        }
        chain::opaque(name, &clusters, self.calls(port.number).idle())
    }
}

/// What a table of routes is made of: it stands for its one route, or for the service where there are several.
fn made_of<'a>(service: Origin, mut routes: impl Iterator<Item = &'a Key>) -> Origin {
    match (routes.next(), routes.next()) {
        (None, _) => service,
        (Some(sole), None) => Origin::of(sole),
        (Some(first), Some(second)) => service.with([first, second].into_iter().chain(routes)),
    }
}

fn direct_name(service: &Key, port: u16) -> String {
    format!("outbound|{port}|direct|{}.{}", service.name, service.namespace)
}

fn keep(list: &mut Named, name: &Arc<str>, built: Result<Resource, Vec<Fault>>, warnings: &mut Vec<String>) {
    match built {
        Ok(resource) => list.push((Arc::clone(name), resource)),
        Err(faults) => warnings.push(format!("{name} is left out: {}", fault::joined(&faults))),
    }
}
