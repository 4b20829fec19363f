use serde_json::{Value, json};

use super::*;
use crate::kubernetes::stand_in::StandIn;
use crate::object::key::{GATEWAY_GROUP, OWN_GROUP, OWN_VERSION};

const PACE: Pace = Pace {
    first: Duration::from_millis(5),
    longest: Duration::from_millis(20),
    discovery: Duration::from_millis(20),
};
/// For whatever a test waits for.
const LONG: Duration = Duration::from_secs(20);

async fn until(views: &mut watch::Receiver<View>, what: &str, good: impl Fn(&View) -> bool) -> View {
    let waited = tokio::time::timeout(LONG, views.wait_for(|view| good(view))).await;
    waited.unwrap_or_else(|_| panic!("{what}")).unwrap().clone()
}

/// For what shows itself at the server only.
async fn eventually(what: &str, good: impl Fn() -> bool) {
    let started = Instant::now();
    while !good() {
        assert!(started.elapsed() < LONG, "{what}");
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn has(view: &View, key: &str) -> bool {
    view.objects.all().any(|object| object.key().to_string() == key)
}

fn service(name: &str, port: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"clusterIP": "10.0.0.1", "ports": [{"port": port}]},
    })
}

fn port(view: &View, name: &str) -> Option<u16> {
    let key = Key::new(ObjectKind::Service, "shop", name);
    view.objects.services.get(&key)?.spec.ports.first().map(|port| port.port)
}

const WEB: &str = "/api/v1/namespaces/shop/services/web";
const SERVICES: &str = "/api/v1/services";

#[tokio::test]
async fn what_is_there_and_what_changes_is_seen_and_a_missing_kind_holds_nothing_up() {
    let server = StandIn::start().await;
    server.put(WEB, service("web", 80));
    let (mut views, _task) = watch(&server.client(), PACE);
    // No kind of ours and no route is served here.
    let view = until(&mut views, "all kinds", |view| view.complete).await;
    assert_eq!((port(&view, "web"), view.objects.len(), view.diagnostics.len()), (Some(80), 1, 0));
    server.put(WEB, service("web", 81));
    until(&mut views, "a change", |view| port(view, "web") == Some(81)).await;
    server.put("/api/v1/namespaces/shop/services/db", service("db", 1));
    until(&mut views, "a new one", |view| has(view, "Service/shop/db")).await;
    server.delete(WEB);
    until(&mut views, "one less", |view| !has(view, "Service/shop/web")).await;
}

#[tokio::test]
async fn a_kind_is_followed_as_soon_as_it_is_served_and_forgotten_when_it_surely_is_not() {
    let server = StandIn::start().await;
    let (mut views, _task) = watch(&server.client(), PACE);
    until(&mut views, "all kinds", |view| view.complete).await;
    let own = format!("{OWN_GROUP}/{OWN_VERSION}");
    let path = format!("/apis/{own}/namespaces/shop/workloads/a");
    server
        .put(&path, json!({"metadata": {"name": "a", "namespace": "shop"}, "spec": {"address": "10.0.0.9"}}));
    server.store(|store| store.served.insert(own.clone(), ["workloads".to_owned()].into()));
    until(&mut views, "the workload", |view| has(view, "Workload/shop/a")).await;
    server.store(|store| store.served.clear());
    server.stop().await;
    server.resume().await;
    until(&mut views, "it is gone", |view| !has(view, "Workload/shop/a")).await;
}

#[tokio::test]
async fn a_server_that_does_not_know_a_kind_for_a_moment_takes_nothing_away() {
    let server = StandIn::start().await;
    let own = format!("{OWN_GROUP}/{OWN_VERSION}");
    let path = format!("/apis/{own}/namespaces/shop/workloads/a");
    server
        .put(&path, json!({"metadata": {"name": "a", "namespace": "shop"}, "spec": {"address": "10.0.0.9"}}));
    server.store(|store| store.served.insert(own.clone(), ["workloads".to_owned()].into()));
    // After one look there is no other one within this test.
    let (mut views, _task) = watch(&server.client(), Pace { discovery: Duration::from_secs(3600), ..PACE });
    until(&mut views, "all kinds", |view| view.complete).await;
    eventually("a watch", || server.requests(&["workloads", "watch=true"]) > 0).await;
    server.store(|store| store.served.clear());
    server.stop().await;
    let watches = server.requests(&["workloads", "watch=true"]);
    server.resume().await;
    eventually("refused", || server.requests(&["workloads", "watch=true"]) > watches).await;
    server.put(WEB, service("web", 80));
    let view = until(&mut views, "a change", |view| has(view, "Service/shop/web")).await;
    assert!(has(&view, "Workload/shop/a"));
}

#[tokio::test]
async fn the_version_that_is_served_is_taken_the_preferred_one_first() {
    let server = StandIn::start().await;
    for (version, route) in [("v1alpha2", "old"), ("v1", "new")] {
        let path = format!("/apis/{GATEWAY_GROUP}/{version}/namespaces/shop/tcproutes/{route}");
        let parent = json!({"group": "", "kind": "Service", "name": "web"});
        let spec = json!({"parentRefs": [parent], "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]});
        server.put(&path, json!({"metadata": {"name": route, "namespace": "shop"}, "spec": spec}));
    }
    let routes = || ["tcproutes".to_owned()].into();
    server.store(|store| store.served.insert(format!("{GATEWAY_GROUP}/v1alpha2"), routes()));
    let (mut views, task) = watch(&server.client(), PACE);
    let view = until(&mut views, "all kinds", |view| view.complete).await;
    assert!(has(&view, "TCPRoute/shop/old"), "{:?}", view.diagnostics);
    drop(views);
    task.await.unwrap();
    server.store(|store| store.served.insert(format!("{GATEWAY_GROUP}/v1"), routes()));
    let (mut views, _task) = watch(&server.client(), PACE);
    let view = until(&mut views, "all kinds", |view| view.complete).await;
    assert!(has(&view, "TCPRoute/shop/new") && !has(&view, "TCPRoute/shop/old"));
}

#[tokio::test]
async fn a_broken_watch_goes_on_where_it_was() {
    let server = StandIn::start().await;
    server.put(WEB, service("web", 80));
    let (mut views, _task) = watch(&server.client(), PACE);
    until(&mut views, "all kinds", |view| view.complete).await;
    eventually("a watch", || server.requests(&[SERVICES, "watch=true"]) > 0).await;
    server.stop().await;
    // What is known stays, and it is said that it may be old.
    let is_services =
        |one: &Diagnostic| one.in_force == InForce::LastGood && one.fault.to_string().contains("services");
    let view = until(&mut views, "stale", |view| view.diagnostics.iter().any(is_services)).await;
    assert_eq!((port(&view, "web"), view.complete), (Some(80), true));
    server.put(WEB, service("web", 81));
    server.resume().await;
    until(&mut views, "what was missed", |view| port(view, "web") == Some(81)).await;
    until(&mut views, "fresh", |view| view.diagnostics.is_empty()).await;
    assert_eq!(server.requests(&[SERVICES, "limit="]), 1, "nothing is listed anew");
}

#[tokio::test]
async fn what_the_server_has_forgotten_is_listed_anew() {
    let server = StandIn::start().await;
    server.put(WEB, service("web", 80));
    server.put("/api/v1/namespaces/shop/services/db", service("db", 1));
    let (mut views, _task) = watch(&server.client(), PACE);
    until(&mut views, "all kinds", |view| view.complete).await;
    eventually("a watch", || server.requests(&[SERVICES, "watch=true"]) > 0).await;
    server.stop().await;
    server.delete("/api/v1/namespaces/shop/services/db");
    server.put(WEB, service("web", 81));
    server.compact();
    server.resume().await;
    let view = until(&mut views, "listed anew", |view| port(view, "web") == Some(81)).await;
    assert!(!has(&view, "Service/shop/db"), "what was deleted meanwhile is gone");
    until(&mut views, "fresh", |view| view.diagnostics.is_empty()).await;
    assert_eq!(server.requests(&[SERVICES, "limit="]), 2);
}

#[tokio::test]
async fn a_watch_that_ends_goes_on_from_its_bookmark() {
    let server = StandIn::start().await;
    server.put(WEB, service("web", 80));
    let (mut views, _task) = watch(&server.client(), PACE);
    until(&mut views, "all kinds", |view| view.complete).await;
    let watches = |version: &str| server.requests(&[SERVICES, "watch=true", version]);
    eventually("a watch", || watches("") > 0).await;
    let version = server.bookmark(SERVICES);
    eventually("from there", || watches(&format!("resourceVersion={version}")) == 1).await;
    server.put(WEB, service("web", 81));
    until(&mut views, "a change", |view| port(view, "web") == Some(81)).await;
    assert_eq!(server.requests(&[SERVICES, "limit="]), 1, "nothing is listed anew");
}

#[tokio::test]
async fn a_kind_that_is_not_shown_holds_the_first_view_up_and_says_why() {
    let server = StandIn::start().await;
    server.store(|store| store.forbidden.insert("pods".to_owned()));
    let (mut views, _task) = watch(&server.client(), PACE);
    let view = until(&mut views, "why", |view| !view.diagnostics.is_empty()).await;
    assert!(view.diagnostics[0].to_string().contains("403"), "{}", view.diagnostics[0]);
    let others = |view: &View| view.objects.namespaces.len() == 1;
    server.put("/api/v1/namespaces/shop", json!({"metadata": {"name": "shop"}}));
    let view = until(&mut views, "the others", others).await;
    assert!(!view.complete);
    server.store(|store| store.forbidden.clear());
    until(&mut views, "all kinds", |view| view.complete && view.diagnostics.is_empty()).await;
}

#[tokio::test]
async fn a_bad_object_keeps_its_last_good_version_and_harms_no_other() {
    let server = StandIn::start().await;
    let own = format!("{OWN_GROUP}/{OWN_VERSION}");
    server.store(|store| store.served.insert(own.clone(), ["workloads".to_owned()].into()));
    let workload = |name: &str, spec: Value| {
        let path = format!("/apis/{own}/namespaces/shop/workloads/{name}");
        server.put(&path, json!({"metadata": {"name": name, "namespace": "shop"}, "spec": spec}));
    };
    workload("a", json!({"address": "10.0.0.1"}));
    workload("b", json!({"adress": "10.0.0.2"}));
    let (mut views, _task) = watch(&server.client(), PACE);
    let view = until(&mut views, "all kinds", |view| view.complete).await;
    assert!(has(&view, "Workload/shop/a") && !has(&view, "Workload/shop/b"));
    assert!(view.diagnostics[0].to_string().starts_with("kubernetes: error: Workload/shop/b: spec"));
    workload("a", json!({"address": "nowhere"}));
    let bad = |view: &View| view.diagnostics.iter().any(|one| one.in_force == InForce::LastGood);
    let view = until(&mut views, "its fault", bad).await;
    assert!(has(&view, "Workload/shop/a"), "the last good version");
    workload("a", json!({"address": "10.0.0.3"}));
    workload("b", json!({"address": "10.0.0.2"}));
    let healed = |view: &View| view.diagnostics.is_empty() && has(view, "Workload/shop/b");
    until(&mut views, "healed", healed).await;
}

#[tokio::test]
async fn a_policy_that_was_never_good_denies_everything_until_it_is() {
    let server = StandIn::start().await;
    let own = format!("{OWN_GROUP}/{OWN_VERSION}");
    server.store(|store| store.served.insert(own.clone(), ["authorizationpolicies".to_owned()].into()));
    let policy = |spec: Value| {
        let path = format!("/apis/{own}/namespaces/shop/authorizationpolicies/p");
        server.put(&path, json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": spec}));
    };
    let selected = |view: &View| {
        let policy = view.objects.authorization.values().next()?;
        let denies = policy.spec.action == crate::object::authorization::Action::Deny;
        let labels = policy.spec.selector.as_ref()?.match_labels.values().next().cloned()?;
        Some((denies, view.denials, labels, view.diagnostics.first().map(|one| one.in_force)))
    };
    let is = |denies: bool, label: &str, in_force: Option<InForce>| {
        Some((denies, usize::from(denies), label.to_owned(), in_force))
    };
    policy(json!({"selector": {"matchLabels": {"app": "a"}}, "ruls": []}));
    let (mut views, _task) = watch(&server.client(), PACE);
    let view = until(&mut views, "all kinds", |view| view.complete).await;
    assert_eq!(selected(&view), is(true, "a", Some(InForce::Denial)));
    // What it would be about is another thing now, and its fault the same.
    policy(json!({"selector": {"matchLabels": {"app": "b"}}, "ruls": []}));
    until(&mut views, "another selector", |view| selected(view) == is(true, "b", Some(InForce::Denial)))
        .await;
    policy(json!({"selector": {"matchLabels": {"app": "c"}}, "rules": [{}]}));
    until(&mut views, "a good one", |view| selected(view) == is(false, "c", None)).await;
    policy(json!({"selector": {"matchLabels": {"app": "d"}}, "ruls": []}));
    until(&mut views, "the last good", |view| selected(view) == is(false, "c", Some(InForce::LastGood)))
        .await;
}

#[tokio::test]
async fn a_long_list_comes_in_pages_and_a_pod_that_has_ended_is_not_there() {
    let server = StandIn::start().await;
    for number in 0..1201 {
        let pod = json!({
            "metadata": {"name": format!("p{number}"), "namespace": "shop", "managedFields": [{"manager": "x"}]},
            "status": {"podIP": "10.0.0.7", "phase": "Running"},
        });
        server.put(&format!("/api/v1/namespaces/shop/pods/p{number}"), pod);
    }
    let (mut views, _task) = watch(&server.client(), PACE);
    let view = until(&mut views, "all kinds", |view| view.complete).await;
    assert_eq!(view.objects.pods.len(), 1201);
    assert_eq!(server.requests(&["/api/v1/pods", "limit="]), 3);
    let mut over = server.object("/api/v1/namespaces/shop/pods/p7").unwrap();
    over["status"]["phase"] = "Succeeded".into();
    server.put("/api/v1/namespaces/shop/pods/p7", over);
    until(&mut views, "it is over", |view| view.objects.pods.len() == 1200).await;
}
