//! Which workload a proxy stands before.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Settings;
use super::inbound::{Local, LocalPort};
use super::index::{Found, Index, Serving};
use super::limits::Served;
use super::model::Protocol;
use super::services::{belongs, is_target};
use crate::inject::tuning::port_list;
use crate::object::core::Pod;
use crate::object::meta::selects;
use crate::object::scalar::PortRef;
use crate::object::workload::Workload;
use crate::object::{Key, Object, ObjectKind, Objects};
use crate::proxy_info::ProxyInfo;

/// The annotation of a pod with ports that are not looked into.
const OPAQUE_PORTS: &str = "config.outrider.dev/opaque-ports";

/// Finds it by name, then by address. A proxy that proved another identity than the workload's gets nothing of it.
/// Where there is no such object, what the proxy says of itself holds.
pub(super) fn find(
    proxy: &ProxyInfo,
    objects: &Objects,
    index: &Index,
    settings: &Settings,
) -> Option<Local> {
    let key = |kind| Key::new(kind, &proxy.namespace, &proxy.workload);
    let workload = objects.workloads.get(&key(ObjectKind::Workload));
    let pod = objects.pods.get(&key(ObjectKind::Pod));
    let (mut local, account) = match (workload, pod) {
        (Some(workload), _) => {
            (of_workload(workload, objects, index), workload.spec.service_account.as_str())
        }
        (None, Some(pod)) => (of_pod(pod, index), pod.spec.service_account()),
        (None, None) => match proxy.address.and_then(|address| index.at(&proxy.namespace, address)) {
            Some(Found::Workload(workload)) => {
                (of_workload(workload, objects, index), workload.spec.service_account.as_str())
            }
            Some(Found::Pod(pod)) => (of_pod(pod, index), pod.spec.service_account()),
            None => (of_itself(proxy, objects, index), &*proxy.service_account),
        },
    };
    if let Some(proven) = &proxy.identity {
        let matches = *proven.trust_domain == *settings.trust_domain
            && *proven.namespace == *local.namespace
            && *proven.service_account == *account;
        if !matches {
            return None;
        }
    }
    served(&mut local, index);
    Some(local)
}

fn of_workload(workload: &Object<Workload>, objects: &Objects, index: &Index) -> Local {
    let spec = &workload.spec;
    let mut ports = BTreeMap::new();
    for port in &spec.ports {
        let protocol = port.protocol.map_or(Protocol::Unset, Protocol::from);
        ports.insert(port.port, LocalPort { protocol, app_port: port.app_port });
    }
    let mut serves: BTreeMap<u16, Served> = BTreeMap::new();
    let named = spec.service.as_deref();
    for service in index.services((objects, named), &workload.key.namespace, &workload.meta.labels) {
        if !belongs(&service.spec, &service.meta.name, workload) {
            continue;
        }
        for port in service.spec.ports.iter().filter(|port| port.is_tcp()) {
            let target = port.target_port.clone().unwrap_or(PortRef::Number(port.port));
            let found = spec.ports.iter().find(|one| is_target(one, &target));
            let Some(found) = found else { continue };
            serves.entry(found.port).or_default().insert((service.key.clone(), port.port));
            if let Some(local) = ports.get_mut(&found.port)
                && local.protocol == Protocol::Unset
            {
                local.protocol = Protocol::of_port(port.app_protocol.as_deref(), &port.name);
            }
        }
    }
    // Who says where to listen has no redirection: the common listeners of several on one host would meet.
    let redirected = spec.upstreams.is_empty() && spec.ports.iter().all(|port| port.app_port.is_none());
    Local {
        origin: workload.key.clone(),
        namespace: Arc::clone(&workload.key.namespace),
        labels: workload.meta.labels.clone(),
        addresses: vec![spec.address],
        ports,
        serves,
        upstreams: spec.upstreams.clone(),
        redirected,
    }
}

/// Ports that the pod does not want to be looked into. A list that cannot be read never gets past the webhook.
fn opaque(annotations: &BTreeMap<String, String>, ports: &mut BTreeMap<u16, LocalPort>) {
    let Some(text) = annotations.get(OPAQUE_PORTS) else { return };
    for range in port_list(text).unwrap_or_default() {
        for (_, port) in ports.range_mut(range.first..=range.last) {
            port.protocol = Protocol::Tcp;
        }
    }
}

fn of_pod(pod: &Object<Pod>, index: &Index) -> Local {
    let named: Vec<(&str, u16)> = pod
        .spec
        .spec
        .containers
        .iter()
        .flat_map(|container| &container.ports)
        .filter(|port| port.container_port > 0)
        .map(|port| (port.name.as_str(), port.container_port))
        .collect();
    let mut ports: BTreeMap<u16, LocalPort> = BTreeMap::new();
    for (_, number) in &named {
        ports.insert(*number, LocalPort { protocol: Protocol::Unset, app_port: None });
    }
    let mut serves: BTreeMap<u16, Served> = BTreeMap::new();
    for service in index.selecting(&pod.key.namespace, &pod.meta.labels).into_values() {
        for port in service.spec.ports.iter().filter(|port| port.is_tcp()) {
            let number = match port.target_port.clone().unwrap_or(PortRef::Number(port.port)) {
                PortRef::Number(number) => Some(number),
                PortRef::Name(name) => {
                    named.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
                }
            };
            let Some(number) = number else { continue };
            serves.entry(number).or_default().insert((service.key.clone(), port.port));
            let protocol = Protocol::of_port(port.app_protocol.as_deref(), &port.name);
            let known = ports.entry(number).or_insert(LocalPort { protocol, app_port: None });
            if known.protocol == Protocol::Unset {
                known.protocol = protocol;
            }
        }
    }
    opaque(&pod.meta.annotations, &mut ports);
    Local {
        origin: pod.key.clone(),
        namespace: Arc::clone(&pod.key.namespace),
        labels: pod.meta.labels.clone(),
        addresses: pod.spec.addresses.clone(),
        ports,
        serves,
        upstreams: Vec::new(),
        redirected: true,
    }
}

/// A proxy of which no object speaks.
fn of_itself(proxy: &ProxyInfo, objects: &Objects, index: &Index) -> Local {
    let labels: BTreeMap<String, String> =
        proxy.labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let mut ports = BTreeMap::new();
    let mut serves: BTreeMap<u16, Served> = BTreeMap::new();
    for port in &proxy.ports {
        let mut protocol = Protocol::of_port(None, &port.name);
        for service in index.services((objects, proxy.service.as_deref()), &proxy.namespace, &labels) {
            let own = proxy.service.as_deref() == Some(service.meta.name.as_str());
            let selected = !service.spec.selector.is_empty() && selects(&service.spec.selector, &labels);
            for offered in service.spec.ports.iter().filter(|_| own || selected) {
                let target = offered.target_port.clone().unwrap_or(PortRef::Number(offered.port));
                let meant = match target {
                    PortRef::Number(number) => number == port.number,
                    PortRef::Name(name) => *name == *port.name,
                };
                if !meant {
                    continue;
                }
                serves.entry(port.number).or_default().insert((service.key.clone(), offered.port));
                if protocol == Protocol::Unset {
                    protocol = Protocol::of_port(offered.app_protocol.as_deref(), &offered.name);
                }
            }
        }
        ports.insert(port.number, LocalPort { protocol, app_port: None });
    }
    Local {
        origin: Key::new(ObjectKind::Workload, &proxy.namespace, &proxy.workload),
        namespace: Arc::clone(&proxy.namespace),
        labels,
        addresses: proxy.address.into_iter().collect(),
        ports,
        serves,
        upstreams: Vec::new(),
        redirected: true,
    }
}

/// Ports that only the endpoints of a service tell of.
fn served(local: &mut Local, index: &Index) {
    for address in &local.addresses {
        for Serving { number, protocol, place } in index.served(&local.namespace, *address) {
            local.serves.entry(*number).or_default().insert(place.clone());
            let known =
                local.ports.entry(*number).or_insert(LocalPort { protocol: *protocol, app_port: None });
            if known.protocol == Protocol::Unset {
                known.protocol = *protocol;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opaque_ports_are_not_looked_into() {
        let port = LocalPort { protocol: Protocol::Http, app_port: None };
        let after = |text: &str| -> Vec<u16> {
            let mut ports = BTreeMap::from([80, 8000, 8050, 8101].map(|number| (number, port)));
            opaque(&BTreeMap::from([(OPAQUE_PORTS.to_owned(), text.to_owned())]), &mut ports);
            ports
                .into_iter()
                .filter(|(_, port)| port.protocol == Protocol::Tcp)
                .map(|(number, _)| number)
                .collect()
        };
        let none: Vec<u16> = Vec::new();
        assert_eq!(after("80, 8000-8100"), [80, 8000, 8050]);
        assert_eq!(after("9999"), none);
        assert_eq!(after("http"), none);
    }
}
