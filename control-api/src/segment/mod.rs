//! `outrider policy network`: what the mesh's policies allow, as `NetworkPolicy` objects, so that the network holds where
//! a sidecar should not. Pure: objects in, objects out.
//!
//! A network policy knows labels and addresses, and no identities. What is made here is as close to the mesh's own policies
//! as that allows: it takes away who has no business with a workload at all, and the sidecar decides on the rest. The way
//! out of a pod (`inside`) is the way in of whom it may call, seen from the other end, so both ends always agree; beside it
//! is what `EgressPolicy` opens (`outside`).

mod callers;
mod inside;
mod outside;
mod peer;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod way_out_tests;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use self::callers::{of_port, target};
use self::peer::named;
use crate::compile::Settings;
use crate::inject::decide::is_system;
use crate::inject::names::{METRICS_PORT, SWITCH};
use crate::object::core::Service;
use crate::object::scalar::PortRef;
use crate::object::{Object, Objects};

/// The label of namespaces from which metrics may be read.
const METRICS_LABEL: &str = "outrider.dev/metrics";
/// Where names are looked up: the namespace, and the label of the pods, which is the same with `CoreDNS` and its
/// predecessors.
const DNS: (&str, &str, &str) = ("kube-system", "k8s-app", "kube-dns");
/// The control server's pods, as `deploy/base` labels them.
const CONTROL: (&str, &str) = ("app.kubernetes.io/name", "outrider-control");
/// The control server's port for sidecars: configuration and certificates.
const CONTROL_PORT: u16 = 15_012;
/// Longest name of an object, bytes.
const MAX_NAME_BYTES: usize = 253;

type Labels = BTreeMap<String, String>;

/// What is printed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Network {
    /// For each namespace of the mesh one policy that holds for all its pods; one for each of its services, and for all who
    /// call.
    pub policies: Vec<Value>,
    /// What could not be said in them.
    pub notes: Vec<String>,
}

/// The network policies of all namespaces that are told of, but for those of Kubernetes itself and of the control server.
#[must_use]
pub fn network_policies(objects: &Objects, settings: &Settings) -> Network {
    let namespaces = namespaces(objects, settings);
    let mut policies: Vec<Value> = namespaces.iter().map(|name| for_all(name, settings)).collect();
    let served = objects.services.values().filter(|service| {
        namespaces.contains(&*service.key.namespace)
            && !service.spec.selector.is_empty()
            && service.spec.ports.iter().any(|port| port.is_tcp())
    });
    policies.extend(served.map(|service| of_service(service, objects, settings)));
    policies.extend(inside::policies(objects, settings, &namespaces));
    policies.extend(outside::policies(objects, &namespaces));
    Network { policies, notes: outside::notes(objects, &namespaces) }
}

/// Namespaces whose pods are told of, or that ask for sidecars.
fn namespaces<'a>(objects: &'a Objects, settings: &Settings) -> BTreeSet<&'a str> {
    let switch = |name: &str, wanted: &str| {
        let found = objects.namespaces.values().find(|one| one.meta.name == name);
        found.and_then(|one| one.meta.labels.get(SWITCH)).is_some_and(|value| value == wanted)
    };
    let services = objects.services.values().filter(|service| !service.spec.selector.is_empty());
    let services = services.filter(|service| service.spec.ports.iter().any(|port| port.is_tcp()));
    let asking = objects.namespaces.values().map(|one| one.meta.name.as_str());
    services
        .map(|service| &*service.key.namespace)
        .chain(objects.pods.keys().map(|key| &*key.namespace))
        .chain(objects.egress.keys().map(|key| &*key.namespace))
        .chain(asking.filter(|name| switch(name, "enabled")))
        .filter(|name| !is_system(name, &settings.root_namespace) && !switch(name, "disabled"))
        .collect()
}

fn policy_object((name, namespace): (&str, &str), spec: Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {"app.kubernetes.io/managed-by": "outrider"},
        },
        "spec": spec,
    })
}

/// A name that is not too long. Names of services have no dots, so others have one and are never the same.
fn policy_name(name: String) -> String {
    if name.len() <= MAX_NAME_BYTES {
        return name;
    }
    format!("outrider-egress.long.{}", crate::digest::short(name.as_bytes()))
}

fn tcp(port: &PortRef) -> Value {
    match port {
        PortRef::Number(number) => json!({"port": number, "protocol": "TCP"}),
        PortRef::Name(name) => json!({"port": name, "protocol": "TCP"}),
    }
}

/// What holds for every pod of a namespace: nothing goes in but a look at the metrics, and nothing out but what a sidecar
/// cannot be without.
fn for_all(namespace: &str, settings: &Settings) -> Value {
    let number = |port: u16| json!({"port": port, "protocol": "TCP"});
    let (dns, label, value) = DNS;
    let spec = json!({
        "podSelector": {},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{
            "from": [{"namespaceSelector": {"matchLabels": {METRICS_LABEL: "allowed"}}}],
            "ports": [number(METRICS_PORT)],
        }],
        "egress": [
            {
                "to": [{"namespaceSelector": named(dns), "podSelector": {"matchLabels": {label: value}}}],
                "ports": [{"port": 53, "protocol": "UDP"}, number(53)],
            },
            {
                "to": [{
                    "namespaceSelector": named(&settings.root_namespace),
                    "podSelector": {"matchLabels": {CONTROL.0: CONTROL.1}},
                }],
                "ports": [number(CONTROL_PORT)],
            },
        ],
    });
    policy_object(("outrider.default-deny", namespace), spec)
}

/// Who may call a service. Ports with the same callers stand together.
fn of_service(service: &Object<Service>, objects: &Objects, settings: &Settings) -> Value {
    let (name, namespace) = (format!("outrider-{}", service.key.name), &*service.key.namespace);
    let mut rules: Vec<(Option<Vec<Value>>, BTreeSet<PortRef>)> = Vec::new();
    for port in service.spec.ports.iter().filter(|port| port.is_tcp()) {
        let from = of_port(service, port, objects, settings).rendered(objects);
        match rules.iter_mut().find(|(known, _)| *known == from) {
            Some((_, ports)) => drop(ports.insert(target(port))),
            None => rules.push((from, BTreeSet::from([target(port)]))),
        }
    }
    let rules = rules.into_iter().filter_map(|(from, ports)| {
        let ports: Vec<Value> = ports.iter().map(tcp).collect();
        match from {
            None => Some(json!({"ports": ports})),
            Some(from) if from.is_empty() => None,
            Some(from) => Some(json!({"from": from, "ports": ports})),
        }
    });
    let ingress: Vec<Value> = rules.collect();
    let selector = json!({"matchLabels": service.spec.selector});
    let spec = json!({"podSelector": selector, "policyTypes": ["Ingress"], "ingress": ingress});
    policy_object((&name, namespace), spec)
}
