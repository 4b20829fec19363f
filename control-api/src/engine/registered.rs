//! Workloads that register themselves, as objects: what the operator has written under the same name goes before them.

use serde_json::json;

use super::{All, Registered};
use crate::object::{AnyObject, Key, ObjectKind, Objects, Place};
use crate::proxy_info::ProxyInfo;

/// The objects of the source, and these workloads.
pub(super) fn together(objects: &All, registered: &Registered) -> All {
    if registered.is_empty() {
        return All::clone(objects);
    }
    let mut all = Objects::clone(objects);
    for one in registered.iter() {
        let info = &one.info;
        if objects.workloads.contains_key(&Key::new(ObjectKind::Workload, &info.namespace, &info.workload)) {
            continue;
        }
        let place = Place { file: format!("registration of {}", info.id).into(), ..Place::default() };
        match AnyObject::from_value(object(info), &place) {
            Ok(object) => all.insert(object),
            Err(faults) => {
                let reason = outrider_proto::fault::joined(&faults);
                tracing::warn!(proxy = %info.id, namespace = %info.namespace, reason, "no workload");
            }
        }
    }
    All::new(all)
}

/// As the operator would have written it.
fn object(info: &ProxyInfo) -> serde_json::Value {
    let ports: Vec<_> = info
        .ports
        .iter()
        .map(|port| json!({"name": if port.name.is_empty() { port.number.to_string() } else { port.name.to_string() }, "port": port.number}))
        .collect();
    let labels: std::collections::BTreeMap<_, _> =
        info.labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let account = if info.service_account.is_empty() { "default" } else { &*info.service_account };
    json!({
        "apiVersion": "mesh.outrider.dev/v1alpha1",
        "kind": "Workload",
        "metadata": {"name": &*info.workload, "namespace": &*info.namespace, "labels": labels},
        "spec": {
            "address": info.address.map(|address| address.to_string()),
            "ports": ports,
            "service": info.service.as_deref(),
            "serviceAccount": account,
        },
    })
}
