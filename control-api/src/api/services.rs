//! Services with their endpoints, and workloads that have registered themselves.

use std::sync::Arc;

use serde::Serialize;

use super::Api;
use crate::compile::model::{self, MeshService, Protocol};
use crate::object::workload::Health;
use crate::object::{Key, ObjectKind};

/// All services, without their endpoints.
#[derive(Debug, Serialize)]
pub(super) struct All {
    services: Vec<Service>,
}

/// A service.
#[derive(Debug, Serialize)]
pub(super) struct Service {
    namespace: Arc<str>,
    name: Arc<str>,
    addresses: Vec<String>,
    ports: Vec<Port>,
}

#[derive(Debug, Serialize)]
struct Port {
    port: u16,
    name: String,
    protocol: &'static str,
    cluster: String,
    endpoint_count: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    endpoints: Vec<Endpoint>,
}

#[derive(Debug, Serialize)]
struct Endpoint {
    address: String,
    weight: u32,
    health: &'static str,
    region: String,
    zone: String,
    /// Nothing for one without a sidecar.
    identity: Option<Arc<str>>,
}

/// Workloads that have registered themselves.
#[derive(Debug, Serialize)]
pub(super) struct Workloads {
    workloads: Vec<Workload>,
}

#[derive(Debug, Serialize)]
struct Workload {
    namespace: Arc<str>,
    name: Arc<str>,
    proxy: Arc<str>,
    service: Option<Arc<str>>,
    address: Option<String>,
    ports: Vec<u16>,
    /// One whose stream has ended goes after a grace period.
    connected: bool,
}

pub(super) fn all(api: &Api) -> All {
    let compiled = api.engine.compiled();
    let services = compiled.mesh.services().values().map(|service| Service::new(service, false));
    All { services: services.collect() }
}

pub(super) fn one(api: &Api, namespace: &str, name: &str) -> Option<Service> {
    let compiled = api.engine.compiled();
    let service = compiled.mesh.services().get(&Key::new(ObjectKind::Service, namespace, name))?;
    Some(Service::new(service, true))
}

pub(super) fn workloads(api: &Api) -> Workloads {
    let all = Arc::clone(&api.registry.workloads().watch().borrow());
    let workloads = all.iter().map(|one| Workload {
        namespace: Arc::clone(&one.info.namespace),
        name: Arc::clone(&one.info.workload),
        proxy: Arc::clone(&one.info.id),
        service: one.info.service.clone(),
        address: one.info.address.map(|address| address.to_string()),
        ports: one.info.ports.iter().map(|port| port.number).collect(),
        connected: one.connected,
    });
    Workloads { workloads: workloads.collect() }
}

impl Service {
    fn new(service: &MeshService, with_endpoints: bool) -> Self {
        let ports = service.ports.iter().map(|port| Port {
            port: port.number,
            name: port.name.clone(),
            protocol: protocol(port.protocol),
            cluster: service.cluster(port.number),
            endpoint_count: port.endpoints.len(),
            endpoints: port.endpoints.iter().filter(|_| with_endpoints).map(Endpoint::new).collect(),
        });
        Self {
            namespace: Arc::clone(&service.key.namespace),
            name: Arc::clone(&service.key.name),
            addresses: service.addresses.iter().map(ToString::to_string).collect(),
            ports: ports.collect(),
        }
    }
}

impl Endpoint {
    fn new(endpoint: &model::Endpoint) -> Self {
        Self {
            address: endpoint.address.to_string(),
            weight: endpoint.weight,
            health: match endpoint.health {
                Health::Healthy => "Healthy",
                Health::Unhealthy => "Unhealthy",
                Health::Draining => "Draining",
            },
            region: endpoint.locality.region.clone(),
            zone: endpoint.locality.zone.clone(),
            identity: endpoint.identity.clone(),
        }
    }
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Unset => "",
        Protocol::Http => "HTTP",
        Protocol::Http2 => "HTTP2",
        Protocol::Tcp => "TCP",
    }
}
