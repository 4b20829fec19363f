//! What finding a proxy's workload takes, by what it is looked for: without it every proxy would look through all services.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::model::{MeshService, Protocol};
use crate::object::core::{Pod, Service};
use crate::object::meta::selects;
use crate::object::workload::Workload;
use crate::object::{Key, Object, ObjectKind, Objects};

/// A namespace and something in it.
type In<T> = (Arc<str>, T);

type Services = Vec<Arc<Object<Service>>>;

/// An object that has an address.
#[derive(Clone, Debug)]
pub(super) enum Found {
    Workload(Arc<Object<Workload>>),
    Pod(Arc<Object<Pod>>),
}

/// What an endpoint of a service listens on.
#[derive(Clone, Debug)]
pub(super) struct Serving {
    pub(super) number: u16,
    pub(super) protocol: Protocol,
    /// The service, and its port.
    pub(super) place: (Key, u16),
}

/// Made of all objects and services at once.
#[derive(Debug, Default)]
pub(super) struct Index {
    at: HashMap<In<IpAddr>, Found>,
    /// What the endpoints of services listen on, in the order of the services.
    served: HashMap<In<IpAddr>, Vec<Serving>>,
    /// Services by one of the labels that they select, the first.
    selecting: HashMap<In<(String, String)>, Services>,
}

impl Index {
    pub(super) fn new(objects: &Objects, services: &BTreeMap<Key, Arc<MeshService>>) -> Self {
        let mut index = Self::default();
        // A workload goes before a pod, and of two with one address the first.
        for workload in objects.workloads.values() {
            let key = (Arc::clone(&workload.key.namespace), workload.spec.address);
            index.at.entry(key).or_insert_with(|| Found::Workload(Arc::clone(workload)));
        }
        for pod in objects.pods.values() {
            for address in &pod.spec.addresses {
                let key = (Arc::clone(&pod.key.namespace), *address);
                index.at.entry(key).or_insert_with(|| Found::Pod(Arc::clone(pod)));
            }
        }
        for service in services.values() {
            for port in &service.ports {
                for endpoint in &port.endpoints {
                    let key = (Arc::clone(&service.key.namespace), endpoint.address.ip());
                    let (number, protocol) = (endpoint.address.port(), port.protocol);
                    let place = (service.key.clone(), port.number);
                    index.served.entry(key).or_default().push(Serving { number, protocol, place });
                }
            }
        }
        for service in objects.services.values() {
            if let Some((label, value)) = service.spec.selector.iter().next() {
                let key = (Arc::clone(&service.key.namespace), (label.clone(), value.clone()));
                index.selecting.entry(key).or_default().push(Arc::clone(service));
            }
        }
        index
    }

    /// Who has an address.
    pub(super) fn at(&self, namespace: &Arc<str>, address: IpAddr) -> Option<&Found> {
        self.at.get(&(Arc::clone(namespace), address))
    }

    /// What the endpoints at an address listen on.
    pub(super) fn served(&self, namespace: &Arc<str>, address: IpAddr) -> &[Serving] {
        self.served.get(&(Arc::clone(namespace), address)).map(Vec::as_slice).unwrap_or_default()
    }

    /// The services that select these labels, in their order.
    pub(super) fn selecting(
        &self,
        namespace: &Arc<str>,
        labels: &BTreeMap<String, String>,
    ) -> BTreeMap<&Key, &Arc<Object<Service>>> {
        let pairs = labels.iter().map(|(label, value)| (label.clone(), value.clone()));
        let all = pairs.filter_map(|pair| self.selecting.get(&(Arc::clone(namespace), pair))).flatten();
        let all = all.filter(|service| selects(&service.spec.selector, labels));
        all.map(|service| (&service.key, service)).collect()
    }

    /// The same, and the one of this name, whatever it selects.
    pub(super) fn services<'a>(
        &'a self,
        (objects, named): (&'a Objects, Option<&str>),
        namespace: &Arc<str>,
        labels: &BTreeMap<String, String>,
    ) -> impl Iterator<Item = &'a Arc<Object<Service>>> {
        let mut all = self.selecting(namespace, labels);
        let named = named.map(|name| Key::new(ObjectKind::Service, namespace, name));
        all.extend(named.and_then(|key| objects.services.get_key_value(&key)));
        all.into_values()
    }
}
