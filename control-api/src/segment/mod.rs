//! `outrider policy network`: what the mesh's policies allow, as `NetworkPolicy` objects, so that the network holds where
//! a sidecar should not. Pure: objects in, objects out.
//!
//! A network policy knows labels and addresses, and no identities. What is made here is never narrower than the mesh's own
//! policies, and as close to them as that allows: it takes away who has no business with a workload at all, and the
//! sidecar decides on the rest.

mod peer;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use self::peer::{Peer, Peers};
use crate::compile::Settings;
use crate::inject::names::METRICS_PORT;
use crate::object::authorization::{Action, AuthorizationPolicy, DefaultAction, Mode, MtlsMode};
use crate::object::core::Service;
use crate::object::meta::selects;
use crate::object::scalar::PortRef;
use crate::object::{Object, Objects};

/// The label of namespaces from which metrics may be read.
const METRICS_LABEL: &str = "outrider.dev/metrics";

type Labels = BTreeMap<String, String>;

/// One policy for each service with a selector, and one for each of their namespaces that denies the rest.
#[must_use]
pub fn network_policies(objects: &Objects, settings: &Settings) -> Vec<Value> {
    let served = objects.services.values().filter(|service| !service.spec.selector.is_empty());
    let served: Vec<_> =
        served.filter(|service| service.spec.ports.iter().any(|port| port.is_tcp())).collect();
    let namespaces: BTreeSet<&str> = served.iter().map(|service| &*service.key.namespace).collect();
    let denials = namespaces.into_iter().map(|namespace| {
        policy(("outrider-default-deny", namespace), json!({"podSelector": {}, "policyTypes": ["Ingress"]}))
    });
    denials.chain(served.iter().map(|service| of_service(service, objects, settings))).collect()
}

fn policy((name, namespace): (&str, &str), spec: Value) -> Value {
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

fn of_service(service: &Object<Service>, objects: &Objects, settings: &Settings) -> Value {
    let (name, namespace) = (format!("outrider-{}", service.key.name), &*service.key.namespace);
    let ports: Vec<Value> = service
        .spec
        .ports
        .iter()
        .filter(|port| port.is_tcp())
        .map(|port| match port.target_port.clone().unwrap_or(PortRef::Number(port.port)) {
            PortRef::Number(number) => json!({"port": number, "protocol": "TCP"}),
            PortRef::Name(name) => json!({"port": name, "protocol": "TCP"}),
        })
        .collect();
    let mut peers = Peers::default();
    for labels in groups(service, objects) {
        callers(namespace, &labels, (objects, settings), &mut peers);
    }
    let mut ingress = Vec::new();
    match peers.rendered(objects) {
        None => ingress.push(json!({"ports": ports})),
        Some(from) if from.is_empty() => {}
        Some(from) => ingress.push(json!({"from": from, "ports": ports})),
    }
    ingress.push(json!({
        "from": [{"namespaceSelector": {"matchLabels": {METRICS_LABEL: "allowed"}}}],
        "ports": [{"port": METRICS_PORT, "protocol": "TCP"}],
    }));
    let selector = json!({"matchLabels": service.spec.selector});
    let spec = json!({"podSelector": selector, "policyTypes": ["Ingress"], "ingress": ingress});
    policy((&name, namespace), spec)
}

/// The labels of the pods of a service: of those that are known, or at least what its selector says.
fn groups(service: &Object<Service>, objects: &Objects) -> BTreeSet<Labels> {
    let pods = objects.pods.values().filter(|pod| pod.key.namespace == service.key.namespace);
    let known: BTreeSet<Labels> = pods
        .filter(|pod| selects(&service.spec.selector, &pod.meta.labels))
        .map(|pod| pod.meta.labels.clone())
        .collect();
    if known.is_empty() { BTreeSet::from([service.spec.selector.clone()]) } else { known }
}

/// Who may call pods with these labels, as the policies that hold for them say; the narrowest default wins, as in a
/// sidecar.
fn callers(namespace: &str, labels: &Labels, (objects, settings): (&Objects, &Settings), peers: &mut Peers) {
    let mut holding: Vec<(u8, &Object<AuthorizationPolicy>)> = Vec::new();
    for policy in objects.authorization.values() {
        let of_namespace = *policy.key.namespace == *namespace;
        let width = match &policy.spec.selector {
            None if of_namespace => 1,
            None if *policy.key.namespace == *settings.root_namespace => 2,
            Some(selector) if of_namespace && selects(&selector.match_labels, labels) => 0,
            Some(_) | None => continue,
        };
        holding.push((width, policy.as_ref()));
    }
    holding.sort_by(|(left, one), (right, other)| {
        let age = |policy: &Object<AuthorizationPolicy>| policy.meta.creation_timestamp.clone();
        // Objects without a time come last.
        let order = |policy| (age(policy).is_none(), age(policy));
        left.cmp(right).then_with(|| order(one).cmp(&order(other)))
    });
    let allowing: Vec<_> = holding
        .iter()
        .map(|(_, policy)| &policy.spec)
        .filter(|spec| spec.action == Action::Allow && spec.mode == Mode::Enforce && !spec.rules.is_empty())
        .collect();
    if !allowing.is_empty() {
        for rule in allowing.iter().flat_map(|spec| &spec.rules) {
            peers.of_rule(rule, settings);
        }
        return;
    }
    let strict = holding.iter().find_map(|(_, policy)| policy.spec.mtls).unwrap_or(MtlsMode::Strict);
    let default = holding.iter().find_map(|(_, policy)| policy.spec.default).unwrap_or(match strict {
        MtlsMode::Strict => DefaultAction::AllowMesh,
        MtlsMode::Permissive => DefaultAction::AllowAll,
    });
    match default {
        DefaultAction::Deny => {}
        // Workloads outside the cluster have identities of the mesh, too, but no namespace that a network knows.
        DefaultAction::AllowMesh if objects.workloads.is_empty() => peers.add(Peer::Cluster),
        DefaultAction::AllowMesh | DefaultAction::AllowAll => peers.add(Peer::Anybody),
    }
}
