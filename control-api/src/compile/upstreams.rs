//! What a `Workload` calls through local ports, and where it stands: what of that is not as somebody may believe.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use outrider_proto::envoy::config::core::v3 as core;
use outrider_proto::envoy::config::listener::v3 as pb;
use outrider_proto::envoy::config::route::v3 as route;

use super::spans::Tracing;
use super::status::{ConditionKind, Statuses};
use super::{Services, attach, chain, http};
use crate::object::workload::{Upstream, Workload};
use crate::object::{Key, Object, ObjectKind, Objects};

/// The answer to requests for a service that is not there: that of a route's backend that is not there.
const NOT_THERE: u32 = 500;

/// Says of workloads that somebody wrote which of their services are not there, and which stand where another one does.
pub(super) fn report(objects: &Objects, services: &Services, statuses: &mut Statuses) {
    let written = || objects.workloads.values().filter(|workload| !workload.spec.registered);
    for workload in written() {
        for (index, upstream) in workload.spec.upstreams.iter().enumerate() {
            if let Some(missing) = missing(upstream, &workload.key.namespace, services) {
                let message =
                    format!("spec.upstreams[{index}]: {missing}; {} answers {NOT_THERE}", upstream.bind);
                let place = (&workload.key, "");
                statuses.refuse(place, ConditionKind::ResolvedRefs, "BackendNotFound", &message);
            }
        }
    }
    let mut sorted: Vec<&Object<Workload>> = written().map(|workload| &**workload).collect();
    sorted.sort_by(|left, right| attach::age(&left.meta).cmp(&attach::age(&right.meta)));
    let mut places: BTreeMap<SocketAddr, &Key> = BTreeMap::new();
    for workload in sorted {
        for (index, port) in workload.spec.ports.iter().enumerate() {
            let place = SocketAddr::new(workload.spec.address, port.port);
            let first = places.entry(place).or_insert(&workload.key);
            if **first != workload.key {
                let message = format!(
                    "spec.ports[{index}]: {first} is at {place} too; only one of them can be, and the identity that is \
                     expected there may be the wrong one"
                );
                let place = (&workload.key, "");
                statuses.refuse(place, ConditionKind::PartiallyInvalid, "AddressInUse", &message);
            }
        }
    }
    let said: Vec<&Key> = written().map(|one| &one.key).filter(|key| statuses.of(key).is_some()).collect();
    for key in said {
        statuses.accept(key, "");
    }
}

fn missing(upstream: &Upstream, own: &str, services: &Services) -> Option<String> {
    let namespace = upstream.namespace.as_deref().unwrap_or(own);
    let key = Key::new(ObjectKind::Service, namespace, &upstream.service);
    match services.get(&key) {
        None => Some(format!("there is no {key}")),
        Some(service) if service.port(upstream.port).is_none() => {
            Some(format!("{key} does not have port {}", upstream.port))
        }
        Some(_) => None,
    }
}

/// The chain of a local port whose service is not there: an answer that says so, where no listener at all would look as
/// if the sidecar were gone. What is no HTTP is closed.
pub(super) fn closed(upstream: &Upstream, tracing: Option<&Tracing>) -> pb::FilterChain {
    let name = format!("unresolved|{}", upstream.bind);
    let text = format!("{} has no port {}, or is not there\n", upstream.service, upstream.port);
    let answer = route::DirectResponseAction {
        status: NOT_THERE,
        body: Some(core::DataSource { specifier: Some(core::data_source::Specifier::InlineString(text)) }),
    };
    let everything = route::RouteMatch {
        path_specifier: Some(route::route_match::PathSpecifier::Prefix("/".to_owned())),
        ..Default::default()
    };
    let route = route::Route {
        r#match: Some(everything),
        action: Some(route::route::Action::DirectResponse(answer)),
        ..Default::default()
    };
    let filter = chain::outbound_http_with(&name, http::configuration(&name, vec![route]), tracing);
    pb::FilterChain { name, filters: vec![filter], ..Default::default() }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use serde_json::json;

    use crate::compile::Mesh;
    use crate::object::{AnyObject, Key, ObjectKind, Objects, Place};
    use crate::proxy_info::ProxyInfo;
    use crate::snapshot::Kind;

    fn workload(name: &str, spec: serde_json::Value) -> serde_json::Value {
        json!({"apiVersion": "mesh.outrider.dev/v1alpha1", "kind": "Workload",
            "metadata": {"name": name, "namespace": "shop"}, "spec": spec})
    }

    fn mesh(workloads: Vec<serde_json::Value>) -> Mesh {
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"clusterIP": "10.0.0.1", "ports": [{"name": "http", "port": 80}]}});
        let mut objects = Objects::default();
        for value in std::iter::once(service).chain(workloads) {
            objects.insert(AnyObject::from_value(value, &Place::default()).unwrap());
        }
        Mesh::new(&objects)
    }

    fn said(mesh: &Mesh, name: &str) -> Vec<String> {
        let key = Key::new(ObjectKind::Workload, "shop", name);
        let status = mesh.statuses().of(&key);
        let problems = status.into_iter().flat_map(|status| status.problems());
        problems.map(|(_, one)| format!("{}: {}", one.reason, one.message)).collect()
    }

    #[test]
    fn a_service_that_is_not_there_is_said_and_its_port_answers() {
        let upstream = |service: &str, port: u16, bind: u16| json!({"service": service, "port": port, "bind": format!("127.0.0.1:{bind}")});
        let upstreams = [upstream("web", 80, 9001), upstream("wbe", 80, 9002), upstream("web", 81, 9003)];
        let mesh = mesh(vec![workload("a", json!({"address": "10.0.0.9", "upstreams": upstreams}))]);
        assert_eq!(
            said(&mesh, "a"),
            [
                "BackendNotFound: spec.upstreams[1]: there is no Service/shop/wbe; 127.0.0.1:9002 answers 500; \
              spec.upstreams[2]: Service/shop/web does not have port 81; 127.0.0.1:9003 answers 500"
            ]
        );
        let proxy = ProxyInfo {
            namespace: "shop".into(),
            workload: "a".into(),
            id: "a".into(),
            ..ProxyInfo::default()
        };
        let proxy = ProxyInfo { service_account: "default".into(), ..proxy };
        let listeners = mesh.snapshot(&proxy).kind(Kind::Listener).unwrap().clone();
        for (bind, answers) in [(9001, false), (9002, true), (9003, true)] {
            let body = listeners[format!("upstream|127.0.0.1:{bind}").as_str()].body.clone();
            let listener = super::pb::Listener::decode(body).unwrap();
            assert_eq!(listener.filter_chains[0].name.starts_with("unresolved|"), answers, "{bind}");
        }
    }

    #[test]
    fn two_workloads_in_one_place_are_said() {
        let at =
            |name: &str, port: u16| workload(name, json!({"address": "10.0.0.9", "ports": [{"port": port}]}));
        let mesh = mesh(vec![at("a", 80), at("b", 80), at("c", 81)]);
        assert!(said(&mesh, "a").is_empty() && said(&mesh, "c").is_empty());
        assert!(
            said(&mesh, "b")[0]
                .starts_with("AddressInUse: spec.ports[0]: Workload/shop/a is at 10.0.0.9:80 too")
        );
    }
}
