//! The way out of the mesh: what `EgressPolicy` objects allow, as far as it is addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::{Value, json};

use super::peer::whole;
use super::{policy_name, policy_object};
use crate::compile::egress::{KUBELET, METADATA, Range, TRANSLATED, is_api, masked};
use crate::object::core::SERVICE_NAME_LABEL;
use crate::object::egress::{EgressPolicy, Sensitive};
use crate::object::{Object, Objects};

/// What is to be left out of a range.
struct Protected {
    ranges: Vec<Range>,
    ports: BTreeSet<u16>,
    /// Ports of single addresses.
    api: BTreeMap<IpAddr, BTreeSet<u16>>,
}

/// One policy for each `EgressPolicy` of these namespaces that opens addresses.
pub(super) fn policies(objects: &Objects, namespaces: &BTreeSet<&str>) -> Vec<Value> {
    let mut all = Vec::new();
    for policy in objects.egress.values().filter(|policy| namespaces.contains(&*policy.key.namespace)) {
        let rules = rules(policy, objects);
        if rules.is_empty() {
            continue;
        }
        let selector = policy.spec.selector.as_ref().map(|selector| &selector.match_labels);
        let pods = selector.filter(|labels| !labels.is_empty());
        let pods = pods.map_or_else(|| json!({}), |labels| json!({"matchLabels": labels}));
        let spec = json!({"podSelector": pods, "policyTypes": ["Egress"], "egress": rules});
        let name = policy_name(format!("outrider-egress.policy.{}", policy.key.name));
        all.push(policy_object((&name, &policy.key.namespace), spec));
    }
    all
}

/// What of the policies a network cannot be told.
pub(super) fn notes(objects: &Objects, namespaces: &BTreeSet<&str>) -> Vec<String> {
    let mut notes = Vec::new();
    for policy in objects.egress.values().filter(|policy| namespaces.contains(&*policy.key.namespace)) {
        for (index, destination) in policy.spec.allow.iter().enumerate() {
            if let Some(host) = &destination.host {
                notes.push(format!(
                    "{}: spec.allow[{index}].host: {host} is not opened, because a network policy knows no names; \
                     allow its addresses with cidr beside it",
                    policy.key
                ));
            }
        }
    }
    notes
}

/// Several policies for one workload count together, as in its sidecar: so each one is written with what holds for all
/// that it selects.
fn rules(policy: &Object<EgressPolicy>, objects: &Objects) -> Vec<Value> {
    let labels = |policy: &EgressPolicy| {
        policy.selector.as_ref().map(|selector| selector.match_labels.clone()).unwrap_or_default()
    };
    let own = labels(&policy.spec);
    let holding = objects.egress.values().filter(|other| {
        other.key.namespace == policy.key.namespace
            && labels(&other.spec).iter().all(|(name, value)| own.get(name) == Some(value))
    });
    let mut open: BTreeMap<Range, BTreeSet<u16>> = BTreeMap::new();
    let mut sensitive: BTreeSet<Sensitive> = BTreeSet::new();
    for policy in holding {
        for destination in &policy.spec.allow {
            let Some(range) = destination.cidr else { continue };
            widen(&mut open, masked(range), destination.ports.iter().copied().collect());
        }
        sensitive.extend(&policy.spec.allow_sensitive);
    }
    let api = api(objects);
    let mut protected =
        Protected { ranges: Vec::new(), ports: KUBELET.into_iter().collect(), api: BTreeMap::new() };
    if sensitive.contains(&Sensitive::Kubelet) {
        protected.ports.clear();
    }
    if sensitive.contains(&Sensitive::CloudMetadata) {
        METADATA.into_iter().for_each(|range| widen(&mut open, range, BTreeSet::new()));
    } else {
        protected.ranges.extend(METADATA.into_iter().chain(TRANSLATED));
    }
    let mut rules = Vec::new();
    if sensitive.contains(&Sensitive::KubernetesApi) {
        rules.extend(api.iter().map(|(address, ports)| {
            let ports: Vec<Value> = ports.iter().map(|port| span(*port, *port)).collect();
            json!({"to": [{"ipBlock": {"cidr": whole(*address)}}], "ports": ports})
        }));
    } else {
        protected.api = api;
    }
    rules.extend(open.iter().flat_map(|(range, ports)| of_range(*range, ports, &protected)));
    rules
}

/// Of two that open one range, one with all ports is the wider.
fn widen(open: &mut BTreeMap<Range, BTreeSet<u16>>, range: Range, ports: BTreeSet<u16>) {
    match open.get_mut(&range) {
        Some(known) if known.is_empty() || ports.is_empty() => known.clear(),
        Some(known) => known.extend(ports),
        None => drop(open.insert(range, ports)),
    }
}

/// The rules that open a range but for what is protected in it.
fn of_range(range: Range, ports: &BTreeSet<u16>, protected: &Protected) -> Vec<Value> {
    if protected.ranges.iter().any(|other| holds(*other, range)) {
        return Vec::new();
    }
    let inside = protected.ranges.iter().filter(|other| holds(range, **other));
    let inside: BTreeSet<String> = inside.map(|(address, bits)| format!("{address}/{bits}")).collect();
    let api = protected.api.iter().filter(|(address, _)| {
        holds(range, (**address, length(**address)))
            && !protected.ranges.iter().any(|other| holds(*other, (**address, length(**address))))
    });
    let api: Vec<_> = api.collect();
    let mut rules = Vec::new();
    let whole_range = format!("{}/{}", range.0, range.1);
    let alone = range.1 == length(range.0);
    // Of the address that is the Kubernetes API, only what is not the API.
    for (address, taken) in &api {
        let ports = left(ports, &taken.union(&protected.ports).copied().collect());
        if !ports.is_empty() {
            rules.push(json!({"to": [{"ipBlock": {"cidr": whole(**address)}}], "ports": ports}));
        }
    }
    let left = left(ports, &protected.ports);
    if left.is_empty() || (alone && !api.is_empty()) {
        return rules;
    }
    let except: Vec<String> =
        inside.into_iter().chain(api.iter().map(|(address, _)| whole(**address))).collect();
    let block = if except.is_empty() {
        json!({"cidr": whole_range})
    } else {
        json!({"cidr": whole_range, "except": except})
    };
    rules.push(json!({"to": [{"ipBlock": block}], "ports": left}));
    rules
}

/// The ports of a list, or all of them when it is empty, but for some.
fn left(ports: &BTreeSet<u16>, taken: &BTreeSet<u16>) -> Vec<Value> {
    if !ports.is_empty() {
        return ports.difference(taken).map(|port| span(*port, *port)).collect();
    }
    if taken.is_empty() {
        return vec![json!({"protocol": "TCP"})];
    }
    let (mut next, mut found) = (Some(1), Vec::new());
    for port in taken {
        found.extend(next.filter(|next| next < port).map(|next| span(next, port - 1)));
        next = port.checked_add(1);
    }
    found.extend(next.map(|next| span(next, u16::MAX)));
    found
}

fn span(first: u16, last: u16) -> Value {
    if first == last {
        json!({"port": first, "protocol": "TCP"})
    } else {
        json!({"port": first, "endPort": last, "protocol": "TCP"})
    }
}

fn length(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Whether all of `inner` is in `outer`.
fn holds(outer: Range, inner: Range) -> bool {
    let same_family = outer.0.is_ipv4() == inner.0.is_ipv4();
    same_family
        && outer.1 <= inner.1
        && masked(crate::object::scalar::Cidr { address: inner.0, bits: outer.1 }) == outer
}

/// Where the Kubernetes API is reached, as far as it is told of.
fn api(objects: &Objects) -> BTreeMap<IpAddr, BTreeSet<u16>> {
    let mut found: BTreeMap<IpAddr, BTreeSet<u16>> = BTreeMap::new();
    for service in objects.services.values().filter(|service| is_api(&service.key)) {
        for port in service.spec.ports.iter().filter(|port| port.is_tcp()) {
            for address in service.spec.addresses() {
                found.entry(address).or_default().insert(port.port);
            }
        }
        let slices = objects.slices.values().filter(|slice| {
            slice.key.namespace == service.key.namespace
                && slice.meta.labels.get(SERVICE_NAME_LABEL).is_some_and(|name| **name == *service.key.name)
        });
        for slice in slices {
            let ports: Vec<u16> = slice.spec.ports.iter().filter_map(|port| port.port).collect();
            let addresses = slice.spec.endpoints.iter().flat_map(|one| &one.addresses);
            for address in addresses.filter_map(|address| address.parse().ok()) {
                found.entry(address).or_default().extend(&ports);
            }
        }
    }
    found
}
