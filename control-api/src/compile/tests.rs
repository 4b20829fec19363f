//! What a mesh remembers, and how long compiling takes when it is large. The rest is tested from outside, with the proxy's
//! own decoder.

use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message as _;
use serde_json::json;

use super::*;
use crate::object::{AnyObject, Place};
use crate::proxy_info::ProxyInfo;
use crate::snapshot::Kind;

/// 10,000 services with 5 endpoints each, 10 namespaces; every tenth service has a route.
fn large() -> Objects {
    let mut objects = Objects::default();
    for number in 0..10_000_u32 {
        for value in service(number, 0) {
            objects.insert(AnyObject::from_value(value, &Place::default()).unwrap());
        }
    }
    objects
}

fn service(number: u32, edit: u32) -> Vec<serde_json::Value> {
    let (name, namespace) = (format!("s{number}"), format!("n{}", number % 10));
    let [_, a, b, c] = number.to_be_bytes();
    let endpoints: Vec<_> = (0..5)
        .map(|one| json!({"addresses": [format!("10.{}.{b}.{c}", 100 + one)], "conditions": {"ready": one != edit % 5}}))
        .collect();
    let mut all = vec![
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
            "spec": {"clusterIP": format!("10.{a}.{b}.{c}"), "ports": [{"name": "http", "port": 80}]}}),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": name, "namespace": namespace, "labels": {"kubernetes.io/service-name": name}},
            "endpoints": endpoints, "ports": [{"name": "http", "port": 8080}]}),
    ];
    if number.is_multiple_of(10) {
        all.push(json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": name}],
                "rules": [{"backendRefs": [{"name": name, "port": 80}]}]}}));
    }
    all
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    (work(), start.elapsed())
}

#[test]
#[ignore = "a measurement; run it optimised"]
fn a_change_of_one_endpoint_in_a_large_mesh() {
    let mut objects = large();
    let (mut mesh, first) = timed(|| Mesh::with_settings(Arc::new(objects.clone()), Settings::default()));
    let proxy = |number: u32| ProxyInfo {
        id: format!("p{number}").into(),
        namespace: format!("n{}", number % 10).into(),
        dialect: Dialect::Outrider,
        ..ProxyInfo::default()
    };
    let (_, view) = timed(|| mesh.snapshot(&proxy(0)));
    let mut changes = Vec::new();
    for edit in 1..11 {
        for value in service(5000, edit) {
            objects.insert(AnyObject::from_value(value, &Place::default()).unwrap());
        }
        let latest = Arc::new(objects.clone());
        let (updated, took) = timed(|| mesh.update(latest));
        let before = mesh.snapshot(&proxy(0));
        mesh = updated;
        let (_, all) = timed(|| {
            for number in 0..1000 {
                let snapshot = mesh.snapshot(&proxy(number));
                assert!(Arc::ptr_eq(&snapshot.shared(Kind::Cluster), &before.shared(Kind::Cluster)));
                assert!(!Arc::ptr_eq(&snapshot.shared(Kind::Endpoints), &before.shared(Kind::Endpoints)));
            }
        });
        changes.push((took, all));
    }
    let limit = Duration::from_secs(1);
    let in_time = changes.iter().all(|(took, all)| *took + *all < limit);
    assert!(in_time, "anew {first:?}, first snapshot {view:?}, changes and snapshots {changes:?}");
}

/// Whether the cluster of `n/s` port 80 is encrypted, and how many endpoints it has.
fn called(mesh: &Mesh) -> (bool, usize) {
    use outrider_proto::envoy::config::cluster::v3::Cluster;
    use outrider_proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
    let snapshot = mesh.snapshot(&ProxyInfo { namespace: "n".into(), ..ProxyInfo::default() });
    let body = |kind| snapshot.kind(kind).unwrap()["outbound|80||s.n"].body.clone();
    let cluster = Cluster::decode(body(Kind::Cluster)).unwrap();
    let endpoints = ClusterLoadAssignment::decode(body(Kind::Endpoints)).unwrap().endpoints;
    (cluster.transport_socket.is_some(), endpoints.iter().map(|one| one.lb_endpoints.len()).sum())
}

#[test]
fn a_service_that_was_in_the_mesh_is_not_spoken_to_in_plaintext() {
    let own = "mesh.outrider.dev/v1alpha1";
    let workload = |name: &str, address: &str, sidecar: bool| {
        json!({"apiVersion": own, "kind": "Workload", "metadata": {"name": name, "namespace": "n"},
            "spec": {"address": address, "service": "s", "ports": [{"port": 80}], "sidecar": sidecar}})
    };
    let mut objects = Objects::default();
    let put = |objects: &mut Objects, value| {
        objects.insert(AnyObject::from_value(value, &Place::default()).unwrap());
    };
    put(
        &mut objects,
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "n"},
        "spec": {"ports": [{"port": 80}]}}),
    );
    put(&mut objects, workload("plain", "10.0.0.1", false));
    let mesh = Mesh::new(&objects);
    assert_eq!(called(&mesh), (false, 1), "it never was in the mesh");
    put(&mut objects, workload("sidecar", "10.0.0.2", true));
    let mesh = mesh.update(Arc::new(objects.clone()));
    assert_eq!(called(&mesh), (true, 1));
    objects.remove(&Key::new(crate::object::ObjectKind::Workload, "n", "sidecar"));
    let mesh = mesh.update(Arc::new(objects.clone()));
    assert_eq!(called(&mesh), (true, 0), "the last one with an identity has left");
    let again = Mesh::remembering(Arc::new(objects.clone()), Settings::default(), &mesh.in_mesh());
    assert_eq!(called(&again), (true, 0), "over a restart");
    put(
        &mut objects,
        json!({"apiVersion": own, "kind": "TrafficPolicy", "metadata": {"name": "p", "namespace": "n"},
        "spec": {"targetRefs": [{"name": "s"}], "mtls": "Disabled"}}),
    );
    let mesh = mesh.update(Arc::new(objects.clone()));
    assert_eq!(called(&mesh), (false, 1), "the operator says so");
}
