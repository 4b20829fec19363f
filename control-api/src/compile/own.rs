//! Clusters that no object of the operator's stands for: the applications behind sidecars, and the way out of the mesh.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use outrider_proto::envoy::config::cluster::v3 as pb;
use outrider_proto::fault;

use super::model::{MeshService, inbound_cluster_name};
use super::{Settings, cluster, egress, wire};
use crate::object::scalar::PortRef;
use crate::object::{Key, Objects};
use crate::snapshot::{Resource, Resources};

/// The clusters of all ports that applications of the mesh listen on.
pub(super) fn inbound_clusters(
    objects: &Objects,
    services: &BTreeMap<Key, Arc<MeshService>>,
    (settings, old): (&Settings, Option<&Resources>),
) -> Resources {
    let workloads = objects.workloads.values().flat_map(|workload| &workload.spec.ports);
    let mut ports: BTreeSet<u16> = workloads.map(|port| port.app_port.unwrap_or(port.port)).collect();
    let containers = objects.pods.values().flat_map(|pod| &pod.spec.spec.containers);
    ports.extend(containers.flat_map(|container| &container.ports).map(|port| port.container_port));
    for port in services.values().flat_map(|service| &service.ports) {
        ports
            .extend(port.endpoints.iter().filter(|one| one.identity.is_some()).map(|one| one.address.port()));
        if let PortRef::Number(number) = port.target {
            ports.insert(number);
        }
    }
    ports.remove(&0);
    let again = |port: u16| {
        let (name, resource) = old?.get_key_value(inbound_cluster_name(port).as_str())?;
        Some((Arc::clone(name), resource.clone()))
    };
    let mut all: Resources =
        ports.into_iter().filter_map(|port| again(port).or_else(|| inbound_cluster(port))).collect();
    if !objects.egress.is_empty() {
        all.extend(own_cluster(&egress::cluster(), "Mesh//egress"));
    }
    if let Some(tracing) = &settings.tracing {
        all.extend(own_cluster(&tracing.cluster(), "Mesh//tracing"));
    }
    all
}

/// The cluster of the application on a port.
pub(super) fn inbound_cluster(port: u16) -> Option<(Arc<str>, Resource)> {
    own_cluster(&cluster::inbound(port), "Mesh//inbound")
}

/// A cluster that no object of the operator's stands for.
fn own_cluster(cluster: &pb::Cluster, origin: &str) -> Option<(Arc<str>, Resource)> {
    match wire::resource(cluster, &origin.into()) {
        Ok(resource) => Some((cluster.name.as_str().into(), resource)),
        Err(faults) => {
            tracing::error!(cluster = cluster.name, faults = fault::joined(&faults), "left out");
            None
        }
    }
}
