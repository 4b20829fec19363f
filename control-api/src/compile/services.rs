//! Services, endpoint slices, pods and workloads, put together.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::Settings;
use super::forward::Forward;
use super::model::{Endpoint, MeshService, Protocol, ServicePort};
use crate::object::core::{EndpointSlice, Pod, SERVICE_NAME_LABEL, Service, SliceEndpoint};
use crate::object::meta::selects;
use crate::object::scalar::PortRef;
use crate::object::workload::{Health, Locality, Workload, WorkloadPort};
use crate::object::{Key, Object, ObjectKind, Objects};

mod touched;

use touched::{service_of, touched};

/// What is known of the mesh from before.
#[derive(Clone, Copy)]
pub(super) struct Before<'a> {
    pub(super) objects: &'a Objects,
    pub(super) services: &'a BTreeMap<Key, Arc<MeshService>>,
}

/// All services of the mesh. `was_in_mesh` tells which ports were in the mesh before; what is the same as before becomes
/// the same `Arc`s, and is not even looked at when none of its objects has changed.
pub(super) fn services(
    objects: &Objects,
    settings: &Settings,
    was_in_mesh: &dyn Fn(&Key, u16) -> bool,
    before: Option<Before<'_>>,
) -> BTreeMap<Key, Arc<MeshService>> {
    let touched = before.map(|before| touched(before.objects, objects));
    let index = Index::new(objects, settings, touched.as_ref());
    let nothing = BTreeMap::new();
    let mut old = Forward::new(before.map_or(&nothing, |before| before.services));
    let all = objects.services.iter().filter(|(_, service)| service.spec.kind != "ExternalName");
    let all = all.map(|(key, service)| {
        let old = old.find(key);
        let touched = touched.as_ref().is_none_or(|touched| touched.contains(key));
        if let Some(old) = old.filter(|_| !touched) {
            return (key.clone(), Arc::clone(old));
        }
        let built = index.service(service, was_in_mesh);
        let same = old.filter(|old| ***old == built).cloned();
        (key.clone(), same.unwrap_or_else(|| Arc::new(built)))
    });
    all.collect()
}

/// What endpoints are found by.
struct Index<'a> {
    settings: &'a Settings,
    objects: &'a Objects,
    slices: HashMap<(&'a str, &'a str), Vec<&'a Object<EndpointSlice>>>,
    pods: HashMap<IpAddr, &'a Object<Pod>>,
    workloads: HashMap<&'a str, Vec<&'a Object<Workload>>>,
}

impl<'a> Index<'a> {
    /// Of all services, or of those only.
    fn new(objects: &'a Objects, settings: &'a Settings, only: Option<&BTreeSet<Key>>) -> Self {
        let mut slices: HashMap<_, Vec<_>> = HashMap::new();
        for slice in objects.slices.values() {
            let service = slice.meta.labels.get(SERVICE_NAME_LABEL);
            let wanted = || only.is_none_or(|only| service_of(slice).is_some_and(|key| only.contains(&key)));
            if let Some(service) = service.filter(|_| wanted()) {
                slices.entry((&*slice.meta.namespace, service.as_str())).or_default().push(&**slice);
            }
        }
        let mut pods = HashMap::new();
        for pod in objects.pods.values() {
            pods.extend(pod.spec.addresses.iter().map(|address| (*address, &**pod)));
        }
        let mut workloads: HashMap<_, Vec<_>> = HashMap::new();
        for workload in objects.workloads.values() {
            workloads.entry(&*workload.meta.namespace).or_default().push(&**workload);
        }
        Self { settings, objects, slices, pods, workloads }
    }

    fn service(&self, service: &Object<Service>, was_in_mesh: &dyn Fn(&Key, u16) -> bool) -> MeshService {
        let (namespace, name) = (service.meta.namespace.as_str(), service.meta.name.as_str());
        let slices = self.slices.get(&(namespace, name)).map_or(&[][..], Vec::as_slice);
        let candidates = self.workloads.get(namespace).map_or(&[][..], Vec::as_slice);
        let workloads: Vec<_> =
            candidates.iter().copied().filter(|workload| belongs(&service.spec, name, workload)).collect();
        let ports = service.spec.ports.iter().filter(|port| port.is_tcp()).map(|port| {
            let target = port.target_port.clone().unwrap_or(PortRef::Number(port.port));
            let mut protocol = Protocol::of_port(port.app_protocol.as_deref(), &port.name);
            let mut endpoints = Vec::new();
            for slice in slices {
                let found = slice.spec.ports.iter().find(|candidate| candidate.name == port.name);
                if let Some(number) = found.and_then(|found| found.port) {
                    endpoints.extend(
                        slice.spec.endpoints.iter().filter_map(|one| self.of_slice(namespace, one, number)),
                    );
                }
            }
            for workload in &workloads {
                if let Some(found) = workload.spec.ports.iter().find(|one| is_target(one, &target)) {
                    if protocol == Protocol::Unset {
                        protocol = found.protocol.map_or(protocol, Protocol::from);
                    }
                    endpoints.push(self.of_workload(workload, found.port));
                }
            }
            endpoints.sort_by_key(|endpoint| endpoint.address);
            endpoints.dedup_by_key(|endpoint| endpoint.address);
            let now = endpoints.iter().any(|endpoint| endpoint.identity.is_some());
            let in_mesh = now || was_in_mesh(&service.key, port.port);
            ServicePort { number: port.port, name: port.name.clone(), protocol, target, endpoints, in_mesh }
        });
        MeshService {
            key: service.key.clone(),
            digest: service.digest,
            addresses: service.spec.addresses(),
            headless: service.spec.is_headless(),
            ports: ports.collect(),
        }
    }

    fn of_slice(&self, namespace: &str, endpoint: &SliceEndpoint, port: u16) -> Option<Endpoint> {
        let address: IpAddr = endpoint.addresses.first()?.parse().ok()?;
        let named = endpoint.target_ref.as_ref().filter(|target| target.kind == "Pod").and_then(|target| {
            self.objects.pods.get(&Key::new(ObjectKind::Pod, namespace, &target.name)).map(AsRef::as_ref)
        });
        let by_address = || self.pods.get(&address).copied();
        let pod = named.or_else(by_address).filter(|pod| pod.spec.has_sidecar());
        let conditions = endpoint.conditions;
        let health = match (conditions.ready.unwrap_or(true), conditions.terminating.unwrap_or(false)) {
            (true, false) => Health::Healthy,
            (_, true) if conditions.serving.unwrap_or(false) => Health::Draining,
            // Neither ready nor ending well: as if it were not there.
            _ => return None,
        };
        Some(Endpoint {
            address: SocketAddr::new(address, port),
            weight: 1,
            health,
            locality: Locality { region: String::new(), zone: endpoint.zone.clone().unwrap_or_default() },
            identity: pod.map(|pod| self.settings.identity(&pod.meta.namespace, pod.spec.service_account())),
        })
    }

    fn of_workload(&self, workload: &Object<Workload>, port: u16) -> Endpoint {
        let spec = &workload.spec;
        Endpoint {
            address: SocketAddr::new(spec.address, port),
            weight: spec.weight,
            health: spec.health,
            locality: spec.locality.clone(),
            identity: spec
                .sidecar
                .then(|| self.settings.identity(&workload.meta.namespace, &spec.service_account)),
        }
    }
}

/// Whether a workload of the same namespace is one of the service's.
pub(crate) fn belongs(service: &Service, name: &str, workload: &Object<Workload>) -> bool {
    workload.spec.service.as_deref() == Some(name)
        || (!service.selector.is_empty() && selects(&service.selector, &workload.meta.labels))
}

/// Whether a service's target port means this port of a workload.
pub(crate) fn is_target(port: &WorkloadPort, target: &PortRef) -> bool {
    match target {
        PortRef::Number(number) => port.port == *number,
        PortRef::Name(name) => port.name == *name,
    }
}
