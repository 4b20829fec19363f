//! Where a route sends to.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::model::MeshService;
use crate::object::gateway::BackendRef;
use crate::object::http_route::Mirror;
use crate::object::{Key, ObjectKind};

/// The cluster of a share that goes nowhere. There is no cluster of this name: a proxy answers by itself.
pub(super) const UNRESOLVED: &str = "unresolved";

/// Why a backend is not one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RefFault {
    /// A reason of Gateway API.
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// A reference to a backend, whatever kind of route it stands in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reference<'a> {
    pub(super) group: &'a str,
    pub(super) kind: &'a str,
    /// The one said, or the route's.
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    pub(super) port: Option<u16>,
}

impl<F> BackendRef<F> {
    /// What it refers to, in a route of this namespace.
    pub(super) fn reference<'a>(&'a self, namespace: &'a str) -> Reference<'a> {
        Reference {
            group: &self.group,
            kind: &self.kind,
            namespace: self.namespace.as_deref().unwrap_or(namespace),
            name: &self.name,
            port: self.port,
        }
    }
}

impl Mirror {
    /// What it refers to, in a route of this namespace.
    pub(super) fn reference<'a>(&'a self, namespace: &'a str) -> Reference<'a> {
        let backend = &self.backend_ref;
        Reference {
            group: &backend.group,
            kind: backend.kind.as_deref().unwrap_or("Service"),
            namespace: backend.namespace.as_deref().unwrap_or(namespace),
            name: &backend.name,
            port: backend.port,
        }
    }
}

/// The cluster that a reference means.
pub(super) fn resolve(
    services: &BTreeMap<Key, Arc<MeshService>>,
    reference: Reference<'_>,
) -> Result<String, RefFault> {
    let fault = |reason, message| Err(RefFault { reason, message });
    let Reference { group, kind, namespace, name, port } = reference;
    if !group.is_empty() || kind != "Service" {
        return fault("InvalidKind", format!("{kind}/{namespace}/{name} is no Service"));
    }
    let key = Key::new(ObjectKind::Service, namespace, name);
    let Some(service) = services.get(&key) else {
        return fault("BackendNotFound", format!("there is no {key}"));
    };
    match port {
        None => fault("BackendNotFound", format!("which port of {key}? backendRefs[].port is needed")),
        Some(port) if service.port(port).is_none() => {
            fault("BackendNotFound", format!("{key} does not have port {port}"))
        }
        Some(port) => Ok(service.cluster(port)),
    }
}
