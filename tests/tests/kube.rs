//! The control server in Kubernetes: a real API server with its etcd, our definitions, our permissions.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use outrider_tests::ads_client::AdsClient;
use outrider_tests::control::{Control, Wire, control_binary};
use outrider_tests::kube::{Cluster, PATIENCE, assets};
use outrider_tests::process::proxy_binary;
use serde_json::{Value, json};
use tokio::time::timeout;

const OWN: &str = "/apis/mesh.outrider.dev/v1alpha1/namespaces/shop";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const GATEWAY: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/shop";
const ROUTES: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/outrider-system/leases/outrider-control";

const MEMORY: &str = "/api/v1/namespaces/outrider-system/configmaps/outrider-control-in-mesh";

/// A cluster with our permissions and definitions, and a service.
fn cluster(assets: &Path) -> Cluster {
    let cluster = Cluster::start(assets);
    for file in ["namespace.yaml", "rbac.yaml"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/base").join(file);
        for document in fs::read_to_string(path).unwrap().split("\n---\n") {
            let object: Value = serde_saphyr::from_str(document).unwrap();
            cluster.create(&collection(&object), &object);
        }
    }
    cluster.create("/api/v1/namespaces", &json!({"metadata": {"name": "shop"}}));
    cluster.create(
        "/api/v1/namespaces/shop/services",
        &json!({"metadata": {"name": "web"}, "spec": {"clusterIP": "10.0.7.1", "ports": [{"name": "http", "port": 80}]}}),
    );
    cluster
}

fn collection(object: &Value) -> String {
    let (version, kind) = (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
    let root = if version == "v1" { "/api/v1".to_owned() } else { format!("/apis/{version}") };
    let plural = format!("{}s", kind.to_lowercase());
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("{root}/namespaces/{namespace}/{plural}"),
        None => format!("{root}/{plural}"),
    }
}

/// Our own definitions, as `outrider crds` writes them, and for routes some that take anything.
fn define(cluster: &Cluster) {
    let crds = Command::new(control_binary().with_file_name("outrider")).arg("crds").output().unwrap();
    let text = String::from_utf8(crds.stdout).unwrap();
    let own = text.split("---\n").filter(|one| !one.trim().is_empty());
    let mut all: Vec<Value> = own.map(|one| serde_json::from_str(one).unwrap()).collect();
    assert_eq!(all.len(), 6);
    let anything = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let group = "gateway.networking.k8s.io";
    for kind in ["HTTPRoute", "GRPCRoute", "TCPRoute"] {
        let singular = kind.to_lowercase();
        let plural = format!("{singular}s");
        all.push(json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {
                "name": format!("{plural}.{group}"),
                "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"},
            },
            "spec": {
                "group": group, "scope": "Namespaced",
                "names": {"kind": kind, "plural": plural, "singular": singular, "listKind": format!("{kind}List")},
                "versions": [{
                    "name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": anything},
                }],
            },
        }));
    }
    for definition in &all {
        cluster.create(DEFINITIONS, definition);
        let name = definition["metadata"]["name"].as_str().unwrap();
        cluster.wait(&format!("{DEFINITIONS}/{name}"), "established", |one| {
            let conditions = one["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let bad =
                conditions.iter().find(|one| one["type"] == "NonStructuralSchema" && one["status"] == "True");
            assert!(bad.is_none(), "{name}: {bad:?}");
            conditions.iter().any(|one| one["type"] == "Established" && one["status"] == "True")
        });
    }
}

/// A token of a service account for an audience.
fn token(cluster: &Cluster, namespace: &str, account: &str, audience: Option<&str>) -> String {
    let audiences: Vec<&str> = audience.into_iter().collect();
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
    let made = cluster.create(&path, &json!({"spec": {"audiences": audiences, "expirationSeconds": 3600}}));
    made["status"]["token"].as_str().unwrap().to_owned()
}

/// A control server with the permissions that we ship, ready.
fn control(cluster: &Cluster, wire: Wire, name: &str) -> Control {
    let mut control = Control::stopped(wire, "");
    let own = token(cluster, "outrider-system", "outrider-control", None);
    control.kubeconfig = Some(cluster.kubeconfig(name, &own));
    control.run();
    control
}

fn condition(object: &Value, pointer: &str, kind: &str) -> String {
    let all = object.pointer(pointer).and_then(Value::as_array).cloned().unwrap_or_default();
    let found = all.iter().find(|one| one["type"] == kind).cloned().unwrap_or_default();
    let text = |name: &str| found[name].as_str().unwrap_or_default().to_owned();
    format!("{} {} {}", text("status"), text("reason"), text("message"))
}

fn workload(cluster: &Cluster, name: &str, spec: &Value) {
    cluster.create(&format!("{OWN}/workloads"), &json!({
        "apiVersion": "mesh.outrider.dev/v1alpha1", "kind": "Workload", "metadata": {"name": name}, "spec": spec,
    }));
}

fn route(cluster: &Cluster, name: &str, backend: &str) {
    let parents = json!([{"group": "", "kind": "Service", "name": "web", "port": 80}]);
    let spec = json!({"parentRefs": parents, "rules": [{"backendRefs": [{"name": backend, "port": 80}]}]});
    cluster.create(ROUTES, &json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": name}, "spec": spec,
    }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_flow_to_a_proxy_and_their_status_comes_back() {
    let Some(assets) = assets() else { return };
    let mut cluster = cluster(&assets);
    // Without any of our definitions the control server is ready all the same; it sees them when they come.
    let control = control(&cluster, Wire::Plaintext, "one");
    define(&cluster);
    workload(
        &cluster,
        "web-1",
        &json!({"address": "10.1.0.1", "service": "web", "ports": [{"name": "http", "port": 80}]}),
    );
    let ports = "127.0.0.1:9001";
    workload(
        &cluster,
        "client-1",
        &json!({"address": "10.1.0.2", "upstreams": [{"service": "web", "port": 80, "bind": ports}]}),
    );
    route(&cluster, "broken", "nowhere");
    control.wait("/api/v1/services/shop/web", "served", |service| service.to_string().contains("10.1.0.1"));
    let mut client = AdsClient::new("client-1", "client-1");
    let told = timeout(PATIENCE, async {
        client.connect(control.port).await.unwrap();
        while !client.held.keys().any(|(kind, _)| kind.ends_with("ClusterLoadAssignment")) {
            client.next(true).await.unwrap();
        }
    });
    told.await.expect("a proxy is told of the endpoints");
    let route = format!("{ROUTES}/broken");
    let of_route =
        |kind: &'static str| move |one: &Value| condition(one, "/status/parents/0/conditions", kind);
    let resolved = of_route("ResolvedRefs");
    cluster.wait(&route, "unresolved", |one| resolved(one).starts_with("False BackendNotFound"));
    let accepted = of_route("Accepted");
    cluster.wait(&route, "accepted", |one| accepted(one).starts_with("True Accepted"));
    // The API server checks the form; what it cannot check is said in the status.
    let (code, refused) = cluster.request(
        "POST",
        &format!("{OWN}/workloads?fieldValidation=Strict"),
        Some(&json!({
            "apiVersion": "mesh.outrider.dev/v1alpha1", "kind": "Workload", "metadata": {"name": "x"},
            "spec": {"address": "10.1.0.9", "adress": "10.1.0.9"},
        })),
    );
    assert_eq!(code, 400, "{refused:#}");
    workload(&cluster, "odd", &json!({"address": "nowhere"}));
    let odd = format!("{OWN}/workloads/odd");
    cluster.wait(&odd, "refused", |one| {
        condition(one, "/status/conditions", "Accepted").starts_with("False Invalid")
    });
    // The API server goes, and comes back: what is in force stays, and the watches go on.
    cluster.kill();
    control
        .wait("/api/v1/status", "stale", |status| status["problems"].to_string().contains("Kubernetes API"));
    let still = control.ask("/api/v1/services/shop/web");
    assert!(still.to_string().contains("10.1.0.1"), "{still}");
    cluster.resume();
    cluster.patch(&format!("{OWN}/workloads/web-1"), &json!({"spec": {"address": "10.1.0.77"}}));
    control.wait("/api/v1/services/shop/web", "changed", |service| service.to_string().contains("10.1.0.77"));
    control
        .wait("/api/v1/status", "fresh", |status| !status["problems"].to_string().contains("Kubernetes API"));
}

/// The identity that a token gets, or what is said against it.
fn fetch(control: &Control, token: &str, name: &str) -> Result<PathBuf, String> {
    let file = control.folder.join(format!("{name}.token"));
    fs::write(&file, token).unwrap();
    let folder = control.folder.join(name);
    let mut command = Command::new(proxy_binary());
    command.args(["fetch-svid", "--once", "--out-dir"]).arg(&folder).arg("--token-file").arg(file);
    command.args(["--control", &format!("https://127.0.0.1:{}", control.port)]);
    let mut child = command
        .arg("--ca-file")
        .arg(control.state().join("ca.pem"))
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // What is refused is tried again; the log says why.
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return if status.success() { Ok(folder) } else { Err(control.log()) };
        }
        if Instant::now() > end || control.log().contains("identity refused") {
            drop(child.kill());
            drop(child.wait());
            return Err(control.log());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_service_account_gets_its_identity_for_a_token_of_our_audience_only() {
    let Some(assets) = assets() else { return };
    let cluster = cluster(&assets);
    let control = control(&cluster, Wire::Tls, "one");
    cluster.create("/api/v1/namespaces/shop/serviceaccounts", &json!({"metadata": {"name": "cart"}}));
    let good = token(&cluster, "shop", "cart", Some("outrider-ca"));
    let folder = fetch(&control, &good, "good").unwrap();
    let shown =
        Command::new("openssl").args(["x509", "-noout", "-text", "-in"]).arg(folder.join("tls.crt")).output();
    let shown = String::from_utf8(shown.unwrap().stdout).unwrap();
    assert!(shown.contains("URI:spiffe://mesh.test/ns/shop/sa/cart"), "{shown}");
    // The token that a workload shows to everybody else proves nothing here.
    let usual = token(&cluster, "shop", "cart", None);
    let refused = fetch(&control, &usual, "usual").unwrap_err();
    assert!(refused.contains("Unauthenticated"), "{refused}");
    assert!(!refused.contains(&usual) && !refused.contains(&good), "tokens are not in the log");
}

#[test]
fn of_two_replicas_one_writes_and_hands_over() {
    let Some(assets) = assets() else { return };
    let cluster = cluster(&assets);
    define(&cluster);
    let mut first = control(&cluster, Wire::Plaintext, "first");
    let holder = |lease: &Value| lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned();
    let held = holder(&cluster.wait(LEASE, "held", |lease| !holder(lease).is_empty()));
    let mut second = control(&cluster, Wire::Plaintext, "second");
    workload(&cluster, "a", &json!({"address": "nowhere"}));
    let written = |name: &str| {
        let path = format!("{OWN}/workloads/{name}");
        cluster.wait(&path, "written", |one| {
            condition(one, "/status/conditions", "Accepted").starts_with("False")
        });
    };
    written("a");
    assert_eq!(holder(&cluster.request("GET", LEASE, None).1), held, "the second one waits");
    // At its end the first one gives the lease back; a lease that must run out takes 15 s.
    let started = Instant::now();
    first.end();
    cluster.wait(LEASE, "the second one's", |lease| !holder(lease).is_empty() && holder(lease) != held);
    assert!(started.elapsed() < Duration::from_secs(12), "{:?}", started.elapsed());
    workload(&cluster, "b", &json!({"address": "nowhere"}));
    written("b");
    // Killed, it gives nothing back: the lease has to run out.
    let held = holder(&cluster.request("GET", LEASE, None).1);
    first.run();
    second.kill();
    cluster.wait(LEASE, "the first one's again", |lease| !holder(lease).is_empty() && holder(lease) != held);
    workload(&cluster, "c", &json!({"address": "nowhere"}));
    written("c");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_moves_to_another_replica_and_is_told_nothing_new() {
    let Some(assets) = assets() else { return };
    let cluster = cluster(&assets);
    define(&cluster);
    workload(
        &cluster,
        "web-1",
        &json!({"address": "10.1.0.1", "service": "web", "ports": [{"name": "http", "port": 80}]}),
    );
    route(&cluster, "good", "web");
    let replicas = ["first", "second"].map(|name| control(&cluster, Wire::Plaintext, name));
    let mut client = AdsClient::new("client-1", "client-1");
    let mut hashes = Vec::new();
    for replica in &replicas {
        replica.wait("/api/v1/services/shop/web", "served", |one| one.to_string().contains("10.1.0.1"));
        let before = client.held.clone();
        client.connect(replica.port).await.unwrap();
        let path = "/api/v1/proxies/client-1";
        let settled = |one: &Value| {
            one["settled"] == true && one["resources"].as_array().is_some_and(|all| all.len() > 3)
        };
        let told = timeout(PATIENCE, async {
            while !settled(&replica.ask(path)) {
                client.step(true, Duration::from_millis(100)).await;
                if !before.is_empty() {
                    assert_eq!(client.held, before, "told what it has already, and nothing else");
                }
            }
        });
        told.await.expect("it is told everything");
        hashes.push(replica.ask(path)["config_hash"].clone());
    }
    assert_eq!(hashes[0], hashes[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_are_counted_over_all_replicas() {
    let Some(assets) = assets() else { return };
    let cluster = cluster(&assets);
    define(&cluster);
    let port = json!({"address": "10.1.0.1", "service": "web", "ports": [{"name": "http", "port": 80}]});
    workload(&cluster, "web-1", &port);
    route(&cluster, "good", "web");
    let replicas = ["first", "second"].map(|name| control(&cluster, Wire::Plaintext, name));
    let mut clients = ["client-1", "client-2"].map(|name| AdsClient::new(name, name));
    for (client, replica) in clients.iter_mut().zip(&replicas) {
        client.connect(replica.port).await.unwrap();
    }
    let route = format!("{ROUTES}/good");
    let counted = |count: &str| {
        let route = cluster.request("GET", &route, None).1;
        condition(&route, "/status/parents/0/conditions", "Programmed").contains(count)
    };
    let all = timeout(PATIENCE, async {
        while !counted("acknowledged by 2 of 2 proxies") {
            for client in &mut clients {
                client.step(true, Duration::from_millis(100)).await;
            }
        }
    });
    all.await.expect("both are counted, whoever writes");
    // One replica is killed: what it has said is believed for a while, and no longer.
    let [mut first, second] = replicas;
    first.kill();
    let left = timeout(2 * PATIENCE, async {
        while !counted("acknowledged by 1 of 1 proxies") {
            clients[1].step(true, Duration::from_millis(100)).await;
        }
    });
    left.await.unwrap_or_else(|_| panic!("still counted\n{}", second.log()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_without_a_past_speaks_no_plaintext_to_what_was_in_the_mesh() {
    let Some(assets) = assets() else { return };
    let cluster = cluster(&assets);
    define(&cluster);
    let port = json!({"address": "10.1.0.1", "service": "web", "ports": [{"name": "http", "port": 80}]});
    workload(&cluster, "web-1", &port);
    let mut first = control(&cluster, Wire::Plaintext, "first");
    cluster.wait(MEMORY, "kept", |one| one["data"].to_string().contains("shop/web:80"));
    first.end();
    // The last sidecar goes while nobody looks, and an endpoint without one comes.
    assert_eq!(cluster.request("DELETE", &format!("{OWN}/workloads/web-1"), None).0, 200);
    cluster.create(
        "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices",
        &json!({"metadata": {"name": "web-a", "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
            "ports": [{"name": "http", "port": 80}], "endpoints": [{"addresses": ["10.1.0.5"]}]}),
    );
    let second = control(&cluster, Wire::Plaintext, "second");
    let mut client = AdsClient::new("client-1", "client-1");
    let told = timeout(PATIENCE, async {
        client.connect(second.port).await.unwrap();
        while !client.held.keys().any(|(kind, _)| kind.ends_with("ClusterLoadAssignment")) {
            client.next(true).await.unwrap();
        }
    });
    told.await.expect("a proxy is told of the endpoints");
    let name = "outbound%7C80%7C%7Cweb.shop";
    let config = second.ask(&format!("/api/v1/proxies/client-1/config?kind=cluster&name={name}"));
    assert!(config.to_string().contains("transport_socket"), "{config:#}");
}

/// The plural of a kind, a specification that the API server takes and that is wrong all the same, and what is said of it.
fn bad_ones() -> Vec<(&'static str, &'static str, Value, &'static str)> {
    let parents = json!([{"group": "", "kind": "Service", "name": "web", "port": 80}]);
    let route = json!({"parentRefs": parents, "rules": [{"backendRef": []}]});
    vec![
        ("workloads", "Workload", json!({"address": "nowhere"}), "address"),
        (
            "trafficpolicies",
            "TrafficPolicy",
            json!({"targetRefs": [{"name": "web"}], "loadBalancer": {"policy": "Random", "choices": 3}}),
            "loadBalancer.choices",
        ),
        (
            "authorizationpolicies",
            "AuthorizationPolicy",
            json!({"rules": [{"from": [{"identities": ["https://mesh.test/cart"]}]}]}),
            "identities",
        ),
        (
            "egresspolicies",
            "EgressPolicy",
            json!({"allow": [{"host": "a.example", "cidr": "192.0.2.0/24"}]}),
            "exactly one of host and cidr",
        ),
        (
            "faultinjections",
            "FaultInjection",
            json!({"direction": "Inbound", "ttl": "1m", "percent": 1}),
            "exactly one of delay",
        ),
        ("revocations", "Revocation", json!({"reason": "nobody knows"}), "cuts nobody off"),
        ("httproutes", "HTTPRoute", route.clone(), "backendRef"),
        ("grpcroutes", "GRPCRoute", route.clone(), "backendRef"),
        ("tcproutes", "TCPRoute", route, "backendRef"),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bad_object_of_each_kind_says_why_and_all_else_works() {
    let Some(assets) = assets() else { return };
    let cluster = cluster(&assets);
    define(&cluster);
    let web = |address: &str| json!({"address": address, "service": "web", "ports": [{"name": "http", "port": 80}]});
    workload(&cluster, "web-1", &web("10.1.0.1"));
    let policy = json!({
        "apiVersion": "mesh.outrider.dev/v1alpha1", "kind": "TrafficPolicy", "metadata": {"name": "good"},
        "spec": {"targetRefs": [{"name": "web"}], "timeouts": {"connect": "1s"}},
    });
    cluster.create(&format!("{OWN}/trafficpolicies"), &policy);
    route(&cluster, "good", "web");
    let control = control(&cluster, Wire::Plaintext, "one");
    let bad = bad_ones();
    let place = |plural: &str| match plural {
        // It lives in no namespace.
        "revocations" => format!("/apis/mesh.outrider.dev/v1alpha1/{plural}"),
        route if route.ends_with("routes") => format!("{GATEWAY}/{route}"),
        own => format!("{OWN}/{own}"),
    };
    for (plural, kind, spec, _) in &bad {
        let version = if plural.ends_with("routes") {
            "gateway.networking.k8s.io/v1"
        } else {
            "mesh.outrider.dev/v1alpha1"
        };
        cluster.create(
            &place(plural),
            &json!({"apiVersion": version, "kind": kind, "metadata": {"name": "bad"}, "spec": spec}),
        );
    }
    for (plural, kind, _, why) in &bad {
        let pointer =
            if plural.ends_with("routes") { "/status/parents/0/conditions" } else { "/status/conditions" };
        cluster.wait(&format!("{}/bad", place(plural)), why, |one| {
            let said = condition(one, pointer, "Accepted");
            said.starts_with("False Invalid") && said.contains(why)
        });
        println!("{kind}: says why");
    }
    // What is good is in force, reaches proxies, and says how many have it.
    let mut client = AdsClient::new("client-1", "client-1");
    client.connect(control.port).await.unwrap();
    let answering = tokio::spawn(async move { while client.next(true).await.is_ok() {} });
    workload(&cluster, "web-2", &web("10.1.0.2"));
    control.wait("/api/v1/services/shop/web", "served by both", |service| {
        service.to_string().contains("10.1.0.1") && service.to_string().contains("10.1.0.2")
    });
    let told = "True Programmed acknowledged by 1 of 1 proxies";
    cluster.wait(&format!("{ROUTES}/good"), "programmed", |one| {
        condition(one, "/status/parents/0/conditions", "Programmed") == told
    });
    cluster.wait(&format!("{OWN}/trafficpolicies/good"), "accepted", |one| {
        condition(one, "/status/conditions", "Accepted").starts_with("True")
    });
    answering.abort();
    // What is mended is no longer complained of.
    cluster.patch(&format!("{OWN}/workloads/bad"), &json!({"spec": {"address": "10.1.0.9"}}));
    cluster.wait(&format!("{OWN}/workloads/bad"), "mended", |one| {
        !condition(one, "/status/conditions", "Accepted").starts_with("False")
    });
}
