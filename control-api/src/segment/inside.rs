//! The way out to services of the mesh: the other end of who may call them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::callers::{of_port, target};
use super::peer::{Pods, whole};
use super::{Labels, policy_name, policy_object};
use crate::compile::Settings;
use crate::compile::egress::is_api;
use crate::compile::services::{belongs, is_target};
use crate::object::core::{SERVICE_NAME_LABEL, Service, ServicePort};
use crate::object::scalar::PortRef;
use crate::object::{Object, Objects};

/// What leads to a workload: its labels, or its address as a range.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    Pods(Pods),
    Address(String),
}

/// Where some pods may go.
type Ways = BTreeMap<Target, BTreeSet<PortRef>>;

/// A policy for all pods that something lets in, and in each of them what that is.
pub(super) fn policies(objects: &Objects, settings: &Settings, namespaces: &BTreeSet<&str>) -> Vec<Value> {
    let mut all: BTreeMap<Pods, Ways> = BTreeMap::new();
    for service in objects.services.values() {
        // The Kubernetes API is no service like others: `EgressPolicy` leads there.
        if service.spec.kind == "ExternalName" || is_api(&service.key) {
            continue;
        }
        for port in service.spec.ports.iter().filter(|port| port.is_tcp()) {
            let targets = targets(service, port, objects);
            for pods in of_port(service, port, objects, settings).inside(namespaces, objects) {
                let ways = all.entry(pods).or_default();
                for (target, port) in &targets {
                    ways.entry(target.clone()).or_default().insert(port.clone());
                }
            }
        }
    }
    without_repetition(&mut all);
    all.iter().filter(|(_, ways)| !ways.is_empty()).map(|(pods, ways)| one(pods, ways, &all)).collect()
}

/// What all pods of a namespace may, none of them needs to be told.
fn without_repetition(all: &mut BTreeMap<Pods, Ways>) {
    let of_all: BTreeMap<String, Ways> = all
        .iter()
        .filter(|(pods, _)| pods.labels.is_empty())
        .map(|(pods, ways)| (pods.namespace.clone(), ways.clone()))
        .collect();
    for (pods, ways) in all.iter_mut().filter(|(pods, _)| !pods.labels.is_empty()) {
        let Some(of_all) = of_all.get(&pods.namespace) else { continue };
        ways.retain(|target, ports| {
            ports.retain(|port| of_all.get(target).is_none_or(|ports| !ports.contains(port)));
            !ports.is_empty()
        });
    }
}

/// Where the connections go that a port of a service means.
fn targets(service: &Object<Service>, port: &ServicePort, objects: &Objects) -> Vec<(Target, PortRef)> {
    let (namespace, name) = (&*service.key.namespace, &*service.key.name);
    let wanted = target(port);
    let mut found = Vec::new();
    if service.spec.selector.is_empty() {
        let slices = objects.slices.values().filter(|slice| *slice.key.namespace == *namespace);
        let slices = slices.filter(|slice| {
            slice.meta.labels.get(SERVICE_NAME_LABEL).is_some_and(|of| of == name)
                && slice.spec.address_type != "FQDN"
        });
        for slice in slices {
            let number = slice.spec.ports.iter().find(|one| one.name == port.name).and_then(|one| one.port);
            let Some(number) = number else { continue };
            let first = slice.spec.endpoints.iter().filter_map(|one| one.addresses.first()?.parse().ok());
            found.extend(first.map(|address| (Target::Address(whole(address)), PortRef::Number(number))));
        }
    } else {
        let labels: Labels = service.spec.selector.clone();
        let pods = Pods { namespace: namespace.to_owned(), labels, account: None };
        found.push((Target::Pods(pods), wanted.clone()));
    }
    let workloads = objects.workloads.values().filter(|one| *one.key.namespace == *namespace);
    for workload in workloads.filter(|one| belongs(&service.spec, name, one)) {
        if let Some(port) = workload.spec.ports.iter().find(|port| is_target(port, &wanted)) {
            found.push((Target::Address(whole(workload.spec.address)), PortRef::Number(port.port)));
        }
    }
    found
}

fn one(pods: &Pods, ways: &Ways, all: &BTreeMap<Pods, Ways>) -> Value {
    // What has the same ports stands together.
    let mut by_ports: BTreeMap<&BTreeSet<PortRef>, Vec<Value>> = BTreeMap::new();
    for (target, ports) in ways {
        let to = match target {
            Target::Pods(pods) => pods.peer(),
            Target::Address(block) => json!({"ipBlock": {"cidr": block}}),
        };
        by_ports.entry(ports).or_default().push(to);
    }
    let rules = by_ports.into_iter().map(|(ports, to)| {
        let ports: Vec<Value> = ports.iter().map(super::tcp).collect();
        json!({"to": to, "ports": ports})
    });
    let rules: Vec<Value> = rules.collect();
    let same = |other: &&Pods| other.namespace == pods.namespace && other.account == pods.account;
    let several = all.keys().filter(same).count() > 1;
    let name = match &pods.account {
        None => "outrider-egress.all".to_owned(),
        Some(account) if !several => format!("outrider-egress.account.{account}"),
        // The pods of one account with several sets of labels: a selector has no "or".
        Some(account) => {
            let labels = json!(pods.labels).to_string();
            let digest = crate::digest::short(labels.as_bytes());
            format!("outrider-egress.account-{}.{account}", digest.get(..8).unwrap_or_default())
        }
    };
    let spec = json!({"podSelector": pods.selector(), "policyTypes": ["Egress"], "egress": rules});
    policy_object((&policy_name(name), &pods.namespace), spec)
}
