//! Which services a change of objects touches: those that could have become others. What is not sure counts.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::belongs;
use crate::object::core::{EndpointSlice, Pod, SERVICE_NAME_LABEL};
use crate::object::workload::Workload;
use crate::object::{Key, Object, ObjectKind, Objects};

/// The keys of the services that may be others than before.
pub(super) fn touched(old: &Objects, new: &Objects) -> BTreeSet<Key> {
    let mut all: BTreeSet<Key> =
        differing(&old.services, &new.services).into_iter().map(|service| service.key.clone()).collect();
    all.extend(differing(&old.slices, &new.slices).into_iter().filter_map(service_of));
    let workloads = differing(&old.workloads, &new.workloads);
    all.extend(of_workloads(&workloads, new));
    let pods = differing(&old.pods, &new.pods);
    all.extend(of_pods(&pods, new));
    all
}

/// The service that a slice is of.
pub(super) fn service_of(slice: &Object<EndpointSlice>) -> Option<Key> {
    let name = slice.meta.labels.get(SERVICE_NAME_LABEL)?;
    Some(Key::new(ObjectKind::Service, &slice.meta.namespace, name))
}

/// The services that one of these belongs to, or did.
fn of_workloads(workloads: &[&Object<Workload>], new: &Objects) -> Vec<Key> {
    if workloads.is_empty() {
        return Vec::new();
    }
    let has = |service: &Object<_>| {
        let own = workloads.iter().filter(|one| one.meta.namespace == service.meta.namespace);
        own.into_iter().any(|one| belongs(&service.spec, &service.meta.name, one))
    };
    new.services.values().filter(|service| has(service)).map(|service| service.key.clone()).collect()
}

/// The services that have one of these as an endpoint.
fn of_pods(pods: &[&Object<Pod>], new: &Objects) -> Vec<Key> {
    if pods.is_empty() {
        return Vec::new();
    }
    let names: HashSet<(&str, &str)> =
        pods.iter().map(|pod| (pod.meta.namespace.as_str(), pod.meta.name.as_str())).collect();
    let addresses: HashSet<IpAddr> = pods.iter().flat_map(|pod| &pod.spec.addresses).copied().collect();
    let has = |slice: &Object<EndpointSlice>| {
        slice.spec.endpoints.iter().any(|endpoint| {
            let target = endpoint.target_ref.as_ref();
            target
                .is_some_and(|target| names.contains(&(slice.meta.namespace.as_str(), target.name.as_str())))
                || endpoint
                    .addresses
                    .iter()
                    .any(|text| text.parse().is_ok_and(|one| addresses.contains(&one)))
        })
    };
    new.slices.values().filter(|slice| has(slice)).filter_map(|slice| service_of(slice)).collect()
}

/// What is in one of two sets and not, or not the same, in the other.
fn differing<'a, T>(
    old: &'a BTreeMap<Key, Arc<Object<T>>>,
    new: &'a BTreeMap<Key, Arc<Object<T>>>,
) -> Vec<&'a Object<T>> {
    let (mut old, mut new) = (old.values().peekable(), new.values().peekable());
    let mut all = Vec::new();
    loop {
        match (old.peek(), new.peek()) {
            (None, None) => return all,
            (Some(before), Some(after)) if is_same(before, after) => {
                old.next();
                new.next();
            }
            (before, after) => {
                // The smaller key is in one set only; of two with the same key both are told.
                let (first, second) = match (before, after) {
                    (Some(before), Some(after)) => (before.key <= after.key, after.key <= before.key),
                    (before, after) => (before.is_some(), after.is_some()),
                };
                all.extend(
                    old.next_if(|_| first).into_iter().chain(new.next_if(|_| second)).map(AsRef::as_ref),
                );
            }
        }
    }
}

/// Workloads that have registered themselves are written down anew each time.
fn is_same<T>(before: &Arc<Object<T>>, after: &Arc<Object<T>>) -> bool {
    Arc::ptr_eq(before, after) || (before.digest == after.digest && before.key == after.key)
}
