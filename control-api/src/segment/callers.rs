//! Who may call: what the authorization policies say of a service, port by port.

use std::collections::BTreeSet;

use super::Labels;
use super::peer::{Peer, Peers};
use crate::compile::Settings;
use crate::compile::services::belongs;
use crate::object::authorization::{Action, AuthorizationPolicy, DefaultAction, Mode, MtlsMode};
use crate::object::core::{Service, ServicePort};
use crate::object::meta::selects;
use crate::object::scalar::PortRef;
use crate::object::{Object, Objects};

/// Who may call a port of a service, whichever of its workloads answers.
pub(super) fn of_port(
    service: &Object<Service>,
    port: &ServicePort,
    objects: &Objects,
    settings: &Settings,
) -> Peers {
    // A port with a name may have another number in each pod: every rule could mean it.
    let number = match target(port) {
        PortRef::Number(number) => Some(number),
        PortRef::Name(_) => None,
    };
    let mut peers = Peers::default();
    for labels in groups(service, objects) {
        callers((&service.key.namespace, &labels, number), (objects, settings), &mut peers);
    }
    peers
}

/// The workloads' port.
pub(super) fn target(port: &ServicePort) -> PortRef {
    port.target_port.clone().unwrap_or(PortRef::Number(port.port))
}

/// The labels of the workloads of a service: of those that are known, or at least what its selector says.
fn groups(service: &Object<Service>, objects: &Objects) -> BTreeSet<Labels> {
    let pods = objects.pods.values().filter(|pod| pod.key.namespace == service.key.namespace);
    let selector = &service.spec.selector;
    let pods = pods.filter(|pod| !selector.is_empty() && selects(selector, &pod.meta.labels));
    let workloads = objects.workloads.values().filter(|workload| {
        workload.key.namespace == service.key.namespace && belongs(&service.spec, &service.key.name, workload)
    });
    let known: BTreeSet<Labels> = pods
        .map(|pod| pod.meta.labels.clone())
        .chain(workloads.map(|workload| workload.meta.labels.clone()))
        .collect();
    if known.is_empty() { BTreeSet::from([selector.clone()]) } else { known }
}

/// Who may call a port of workloads with these labels, as the policies that hold for them say; the narrowest default wins,
/// as in a sidecar.
fn callers(
    (namespace, labels, port): (&str, &Labels, Option<u16>),
    (objects, settings): (&Objects, &Settings),
    peers: &mut Peers,
) {
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
            let of_ports = |ports: &[u16]| ports.is_empty() || port.is_none_or(|port| ports.contains(&port));
            if rule.to.is_empty() || rule.to.iter().any(|operation| of_ports(&operation.ports)) {
                peers.of_rule(rule, settings);
            }
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
        DefaultAction::AllowMesh => peers.add(Peer::Mesh),
        DefaultAction::AllowAll => peers.add(Peer::Anybody),
    }
}
