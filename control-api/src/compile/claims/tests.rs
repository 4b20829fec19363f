//! Who has which destination.

use serde_json::{Value, json};

use super::*;
use crate::compile::{Mesh, Settings};
use crate::object::{AnyObject, ObjectKind, Place};

fn mesh(all: &[Value]) -> Mesh {
    let mut objects = Objects::default();
    for value in all {
        objects.insert(AnyObject::from_value(value.clone(), &Place::default()).unwrap());
    }
    Mesh::with_settings(Arc::new(objects), Settings::default())
}

fn key(name: &str) -> Key {
    let (namespace, name) = name.split_once('/').unwrap();
    Key::new(ObjectKind::Service, namespace, name)
}

fn meta(name: &str, created: &str) -> Value {
    let (namespace, name) = name.split_once('/').unwrap();
    let mut meta = json!({"name": name, "namespace": namespace});
    if !created.is_empty() {
        meta["creationTimestamp"] = format!("{created}-01-01T00:00:00Z").into();
    }
    meta
}

/// A service with port 80, which is the workloads' port too.
fn service(name: &str, created: &str, address: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": meta(name, created),
        "spec": {"clusterIP": address, "ports": [{"name": "http", "port": 80}]}})
}

fn slice(service: &str, addresses: &[&str]) -> Value {
    let (namespace, service) = service.split_once('/').unwrap();
    let endpoints: Vec<_> = addresses.iter().map(|one| json!({"addresses": [one]})).collect();
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": service, "namespace": namespace, "labels": {"kubernetes.io/service-name": service}},
        "endpoints": endpoints, "ports": [{"name": "http", "port": 80}]})
}

fn pod(name: &str, address: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta(name, ""), "spec": {"containers": [{"name": "app"}]},
        "status": {"podIP": address}})
}

fn workload(name: &str, created: &str, (service, address): (&str, &str)) -> Value {
    json!({"apiVersion": "mesh.outrider.dev/v1alpha1", "kind": "Workload", "metadata": meta(name, created),
        "spec": {"address": address, "service": service, "ports": [{"port": 80}]}})
}

/// The destinations of the outbound listener, each with the service that has it.
fn held(mesh: &Mesh) -> Vec<String> {
    let calling = mesh.compiled.iter().map(|(key, one)| (key, one.calling(None)));
    let claims = calling.flat_map(|(key, one)| one.chains.iter().map(move |chain| (key, chain)));
    let each = claims.flat_map(|(key, chain)| {
        let claims = chain.claims.iter();
        claims.map(move |(ip, port)| format!("{ip}:{port} {}/{}", key.namespace, key.name))
    });
    let mut all: Vec<_> = each.collect();
    all.sort();
    all
}

/// What is said of a service.
fn said(mesh: &Mesh, name: &str) -> String {
    let status = mesh.statuses().of(&key(name));
    let problems = status.into_iter().flat_map(|status| status.problems());
    problems.map(|(_, one)| format!("{} {}", one.reason, one.message)).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_headless_service_takes_no_address_of_another_service() {
    // It goes before the other in the order of names, and names its address three ways.
    for (index, thief) in [
        slice("aaa/x", &["10.96.0.10", "10.1.0.1"]),
        pod("aaa/p", "10.96.0.10"),
        workload("aaa/w", "2000", ("x", "10.96.0.10")),
    ]
    .into_iter()
    .enumerate()
    {
        let mesh = mesh(&[
            service("aaa/x", "2000", "None"),
            service("shop/payments", "2020", "10.96.0.10"),
            slice("aaa/x", &["10.96.0.10", "10.1.0.1"]),
            pod("aaa/own", "10.1.0.1"),
            thief,
        ]);
        assert_eq!(held(&mesh), ["10.1.0.1:80 aaa/x", "10.96.0.10:80 shop/payments"], "{index}");
        let said = said(&mesh, "aaa/x");
        assert!(said.contains("AddressesNotOwn") && said.contains("Service/shop/payments"), "{said}");
    }
}

#[test]
fn a_port_that_the_other_service_does_not_have_is_not_taken_either() {
    let mut other = service("shop/payments", "", "10.96.0.10");
    other["spec"]["ports"][0]["port"] = 443.into();
    let mesh = mesh(&[service("aaa/x", "", "None"), workload("aaa/w", "", ("x", "10.96.0.10")), other]);
    assert_eq!(held(&mesh), ["10.96.0.10:443 shop/payments"]);
}

#[test]
fn endpoints_count_where_a_pod_or_a_workload_of_the_namespace_has_the_address() {
    let base = [service("a/x", "2001", "None"), slice("a/x", &["10.1.0.1"])];
    let with = |more: Vec<Value>| mesh(&[&base[..], &more].concat());
    assert_eq!(held(&with(vec![])), Vec::<String>::new());
    assert!(said(&with(vec![]), "a/x").contains("10.1.0.1:80 (no Pod or Workload of namespace a"));
    assert_eq!(held(&with(vec![pod("a/p", "10.1.0.1")])), ["10.1.0.1:80 a/x"]);
    assert_eq!(held(&with(vec![workload("a/w", "", ("other", "10.1.0.1"))])), ["10.1.0.1:80 a/x"]);
    let foreign = with(vec![pod("b/p", "10.1.0.1")]);
    assert_eq!(held(&foreign), Vec::<String>::new());
    assert!(said(&foreign, "a/x").contains("a pod of namespace b has the address"));
    // What is written does not outweigh what is there.
    let lie = with(vec![pod("b/p", "10.1.0.1"), workload("a/w", "2000", ("x", "10.1.0.1"))]);
    assert_eq!(held(&lie), Vec::<String>::new());
}

#[test]
fn of_two_with_one_address_the_surest_has_it_and_the_other_loses_no_more_than_that() {
    let pair = |first: &str, second: &str| {
        vec![
            service("a/x", "2000", "None"),
            service("b/y", "2010", "None"),
            workload("a/w", first, ("x", "10.1.0.1")),
            workload("a/v", first, ("x", "10.1.0.2")),
            workload("b/w", second, ("y", "10.1.0.1")),
        ]
    };
    let contested = mesh(&pair("2021", "2020"));
    assert_eq!(held(&contested), ["10.1.0.1:80 b/y", "10.1.0.2:80 a/x"], "the older workload");
    assert!(said(&contested, "a/x").contains("10.1.0.1:80 (port 80 of Service/b/y has the address)"));
    assert_eq!(said(&contested, "b/y"), "");
    assert_eq!(held(&mesh(&pair("2020", "2021"))), ["10.1.0.1:80 a/x", "10.1.0.2:80 a/x"]);
    let mut pods = pair("2020", "2021");
    pods.push(pod("b/p", "10.1.0.1"));
    assert_eq!(held(&mesh(&pods)), ["10.1.0.1:80 b/y", "10.1.0.2:80 a/x"], "a pod before what is written");
}

#[test]
fn what_is_written_goes_before_what_a_workload_says_of_itself() {
    let mut objects = Objects::default();
    for value in [
        service("a/x", "2000", "None"),
        service("b/y", "2010", "None"),
        workload("a/w", "", ("x", "10.1.0.1")),
        workload("b/w", "", ("y", "10.1.0.1")),
    ] {
        objects.insert(AnyObject::from_value(value, &Place::default()).unwrap());
    }
    let said = objects.workloads.get_mut(&Key::new(ObjectKind::Workload, "a", "w")).unwrap();
    Arc::make_mut(said).spec.registered = true;
    assert_eq!(held(&Mesh::new(&objects)), ["10.1.0.1:80 b/y"]);
}

#[test]
fn of_two_services_with_one_cluster_address_the_older_has_it() {
    for (first, second, holder) in
        [("2020", "2021", "a/x"), ("2021", "2020", "b/y"), ("", "2021", "b/y"), ("", "", "a/x")]
    {
        let mesh = mesh(&[service("a/x", first, "10.96.0.1"), service("b/y", second, "10.96.0.1")]);
        assert_eq!(held(&mesh), [format!("10.96.0.1:80 {holder}")]);
        let loser = if holder == "a/x" { "b/y" } else { "a/x" };
        assert!(said(&mesh, loser).contains(&format!("Service/{holder}")), "{}", said(&mesh, loser));
        let why = if first == second { "comes first by name" } else { "is older" };
        assert!(said(&mesh, loser).contains(why), "{}", said(&mesh, loser));
        assert_eq!(said(&mesh, holder), "");
    }
}

#[test]
fn shares_are_fair() {
    let share = |counts: &[usize], total| share(counts.iter().copied(), total);
    assert_eq!(share(&[], 10), usize::MAX);
    assert_eq!(share(&[3, 3, 4], 10), usize::MAX);
    assert_eq!(share(&[3, 3, 5], 10), 4, "who has few keeps them");
    assert_eq!(share(&[100, 2, 100], 10), 4);
    assert_eq!(share(&[100], 10), 10);
}

/// A headless service with this many endpoints, all of them pods' of its namespace.
fn large(name: &str, first: u8, count: usize) -> Vec<Value> {
    let (namespace, short) = name.split_once('/').unwrap();
    let all: Vec<String> = (0..count).map(|one| format!("10.{first}.{}.{}", one / 250, one % 250)).collect();
    let addresses: Vec<&str> = all.iter().map(String::as_str).collect();
    let mut objects = vec![service(name, "", "None")];
    for (index, part) in addresses.chunks(1000).enumerate() {
        let mut slice = slice(name, part);
        slice["metadata"]["name"] = format!("{short}-{index}").into();
        let mut pod = pod(&format!("{namespace}/{short}-{index}"), part[0]);
        pod["status"]["podIPs"] = part.iter().map(|ip| json!({"ip": ip})).collect();
        objects.extend([slice, pod]);
    }
    objects
}

#[test]
fn a_service_of_very_many_endpoints_is_cut_and_its_neighbours_are_not() {
    let mesh = mesh(&[large("a/huge", 1, MAX_DIRECT), large("b/small", 2, 20)].concat());
    let held = held(&mesh);
    let of = |name: &str| held.iter().filter(|one| one.ends_with(name)).count();
    assert_eq!((of("a/huge"), of("b/small")), (MAX_DIRECT - 20, 20));
    assert!(said(&mesh, "a/huge").ends_with("; and 17 more"), "{}", said(&mesh, "a/huge"));
    assert_eq!(said(&mesh, "b/small"), "");
    let most =
        mesh.compiled.values().flat_map(|one| &one.calling(None).chains).map(|one| one.claims.len()).max();
    assert!(most.is_some_and(|most| most < 10_000), "what a proxy takes of one chain");
}
