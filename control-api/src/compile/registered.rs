//! Workloads that register themselves: their proxies' streams stand for objects that nobody wrote.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use crate::digest;
use crate::object::workload::{Health, Locality, Workload, WorkloadPort};
use crate::object::{Key, Metadata, Object, ObjectKind, Objects, Place};
use crate::proxy_info::ProxyInfo;

/// The objects with a `Workload` for each of these proxies that says where it serves. One whose stream has ended
/// (`connected` is false) finishes what it has. What an operator wrote has precedence over what a proxy says, and the
/// identity is the proved one whatever the proxy says.
#[must_use]
pub fn with_registered<'a>(
    objects: &Objects,
    proxies: impl IntoIterator<Item = (&'a ProxyInfo, bool)>,
) -> Objects {
    let mut all = objects.clone();
    // By namespace: nobody keeps another namespace's endpoints away by saying to be where they are.
    let mut taken: BTreeMap<Arc<str>, BTreeSet<SocketAddr>> = BTreeMap::new();
    for object in objects.workloads.values() {
        let ports = object.spec.ports.iter().map(|port| SocketAddr::new(object.spec.address, port.port));
        taken.entry(Arc::clone(&object.key.namespace)).or_default().extend(ports);
    }
    for (proxy, connected) in proxies {
        let key = |name: &str| Key::new(ObjectKind::Workload, &proxy.namespace, name);
        let written = objects.workloads.contains_key(&key(&proxy.workload));
        let Some(mut workload) = workload(proxy, connected).filter(|_| !written) else { continue };
        // Where one serves already, no second one does: it would only bring an identity that is not expected there.
        let taken = taken.entry(Arc::clone(&proxy.namespace)).or_default();
        let address = workload.address;
        workload.ports.retain(|port| taken.insert(SocketAddr::new(address, port.port)));
        // Two that call themselves alike are still two.
        let names =
            [&*proxy.workload, &proxy.id, &format!("{}.{}", proxy.id, proxy.service_account)].map(key);
        let free = names.into_iter().find(|key| !all.workloads.contains_key(key));
        let Some(key) = free.filter(|_| !workload.ports.is_empty()) else { continue };
        let labels = proxy.labels.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        let meta = Metadata::named(&key, labels.collect());
        let digest = digest::sha256(format!("{meta:?} {workload:?}").as_bytes());
        let place = Place { file: format!("registered by {}", proxy.id).into(), ..Place::default() };
        let object = Object { key: key.clone(), meta, spec: workload, status: None, digest, place };
        all.workloads.insert(key, object.into());
    }
    all
}

fn workload(proxy: &ProxyInfo, connected: bool) -> Option<Workload> {
    let account = match &proxy.identity {
        Some(proved) if *proved.namespace == *proxy.namespace => &proved.service_account,
        Some(_) => return None,
        None => &proxy.service_account,
    };
    // Two entries for one port would be one endpoint twice.
    let ports: BTreeMap<u16, &str> = proxy.ports.iter().map(|port| (port.number, &*port.name)).collect();
    if ports.is_empty() {
        return None;
    }
    Some(Workload {
        address: proxy.address.filter(|address| !address.is_unspecified() && !address.is_multicast())?,
        ports: ports
            .into_iter()
            .map(|(port, name)| WorkloadPort { name: name.to_owned(), port, app_port: None, protocol: None })
            .collect(),
        service: proxy.service.as_ref().map(ToString::to_string),
        service_account: if account.is_empty() { "default".to_owned() } else { account.to_string() },
        locality: Locality::default(),
        weight: 1,
        health: if connected { Health::Healthy } else { Health::Draining },
        upstreams: Vec::new(),
        sidecar: true,
        registered: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::{Mesh, Settings};
    use crate::object::AnyObject;
    use crate::proxy_info::{Identity, WorkloadPort as Port};

    fn proxy(id: &str, last: u8, account: &str) -> ProxyInfo {
        ProxyInfo {
            id: id.into(),
            namespace: "n".into(),
            workload: id.into(),
            service: Some("s".into()),
            address: Some([10, 0, 0, last].into()),
            ports: vec![Port { name: "http".into(), number: 8080 }],
            identity: Some(Identity {
                trust_domain: "cluster.local".into(),
                namespace: "n".into(),
                service_account: account.into(),
            }),
            ..ProxyInfo::default()
        }
    }

    fn objects() -> Objects {
        let mut objects = Objects::default();
        for value in [
            serde_json::json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "n"},
                "spec": {"ports": [{"port": 80, "targetPort": 8080}]}}),
            serde_json::json!({"apiVersion": "mesh.outrider.dev/v1alpha1", "kind": "Workload",
                "metadata": {"name": "written", "namespace": "n"},
                "spec": {"address": "10.0.0.1", "service": "s", "ports": [{"port": 8080}]}}),
        ] {
            objects.insert(AnyObject::from_value(value, &Place::default()).unwrap());
        }
        objects
    }

    fn endpoints(proxies: &[(&ProxyInfo, bool)]) -> Vec<String> {
        let all = with_registered(&objects(), proxies.iter().copied());
        let mesh = Mesh::with_settings(Arc::new(all), Settings::default());
        let service = mesh.services().values().next().unwrap();
        let all = service.port(80).unwrap().endpoints.iter();
        all.map(|one| format!("{} {:?} {}", one.address, one.health, one.identity.as_deref().unwrap_or("-")))
            .collect()
    }

    const WRITTEN: &str = "10.0.0.1:8080 Healthy spiffe://cluster.local/ns/n/sa/default";

    #[test]
    fn a_stream_is_an_endpoint_and_drains_when_it_ends() {
        let one = proxy("one", 2, "a");
        let own = |health: &str| format!("10.0.0.2:8080 {health} spiffe://cluster.local/ns/n/sa/a");
        assert_eq!(endpoints(&[(&one, true)]), [WRITTEN.to_owned(), own("Healthy")]);
        assert_eq!(endpoints(&[(&one, false)]), [WRITTEN.to_owned(), own("Draining")]);
        assert_eq!(endpoints(&[]), [WRITTEN]);
    }

    #[test]
    fn nobody_takes_a_place_that_was_given_to_another() {
        let same_name = ProxyInfo { address: Some([10, 0, 0, 9].into()), ..proxy("written", 9, "b") };
        assert_eq!(endpoints(&[(&same_name, true)]), [WRITTEN]);
        assert_eq!(endpoints(&[(&proxy("other", 1, "b"), true)]), [WRITTEN]);
        let mut foreign = proxy("foreign", 2, "a");
        foreign.identity = foreign.identity.map(|one| Identity { namespace: "m".into(), ..one });
        assert_eq!(endpoints(&[(&foreign, true)]), [WRITTEN]);
    }

    #[test]
    fn nobody_keeps_endpoints_of_another_namespace_away() {
        let one = proxy("one", 2, "a");
        let mut thief = ProxyInfo { namespace: "a".into(), ..proxy("thief", 2, "a") };
        thief.identity = thief.identity.map(|one| Identity { namespace: "a".into(), ..one });
        let own = "10.0.0.2:8080 Healthy spiffe://cluster.local/ns/n/sa/a";
        assert_eq!(endpoints(&[(&thief, true), (&one, true)]), [WRITTEN, own]);
    }

    #[test]
    fn two_of_one_name_are_two() {
        let (one, mut two) = (proxy("one", 2, "a"), proxy("two", 3, "a"));
        two.workload = "one".into();
        assert_eq!(endpoints(&[(&one, true), (&two, true)]).len(), 3);
        (two.id, two.service_account) = ("one".into(), "b".into());
        assert_eq!(endpoints(&[(&one, true), (&two, true)]).len(), 3, "one id, two accounts");
    }
}
