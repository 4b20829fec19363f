//! The control server is killed at any moment: nothing is half-written, and everybody ends with the same configuration.

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use outrider_tests::ads_client::AdsClient;
use outrider_tests::control::{Control, PATIENCE, Wire};
use outrider_tests::process::{Process, free_port};

/// How often it is killed.
const KILLS: usize = 50;
/// Services of the mesh: enough for a push of several responses.
const SERVICES: usize = 200;
/// For a response of a server that has something to say.
const SOON: Duration = Duration::from_secs(5);

/// A mesh of which every generation differs everywhere: endpoints and timeouts of all services, and which there are.
fn mesh(generation: usize, local: u16) -> String {
    let mut text = String::new();
    for number in 0..SERVICES + generation % 3 {
        let port = 20_000 + generation;
        let timeout_ms = 1000 + generation;
        let _ = write!(
            text,
            "
apiVersion: v1
kind: Service
metadata: {{name: s{number}, namespace: shop}}
spec: {{clusterIP: 10.1.{}.{}, ports: [{{name: http, port: 80, targetPort: http}}]}}
---
apiVersion: mesh.outrider.dev/v1alpha1
kind: Workload
metadata: {{name: w{number}, namespace: shop}}
spec: {{address: 10.2.{}.{}, service: s{number}, ports: [{{name: http, port: {port}, protocol: HTTP}}]}}
---
apiVersion: mesh.outrider.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: s{number}, namespace: shop}}
spec: {{targetRefs: [{{name: s{number}}}], timeouts: {{connect: {timeout_ms}ms, request: {timeout_ms}ms}}}}
---",
            number / 250,
            number % 250 + 1,
            number / 250,
            number % 250 + 1,
        );
    }
    text + &format!(
        "
apiVersion: mesh.outrider.dev/v1alpha1
kind: Workload
metadata: {{name: client-1, namespace: shop}}
spec: {{address: 127.0.0.3, serviceAccount: client, upstreams: [{{service: s1, port: 80, bind: \"127.0.0.1:{local}\"}}]}}
"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_in_mid_push_everybody_ends_with_the_same() {
    let (local, admin) = (free_port(), free_port());
    let mut control = Control::start(Wire::Plaintext, &mesh(0, local));
    let proxy = Process::outrider(&control.outrider("client-1", "client", admin), admin);
    let roots = fs::read(control.state().join("ca.pem")).unwrap();
    let mut survivor = AdsClient::new("survivor", "client-1");
    let mut pushes = 0;
    for generation in 1..=KILLS {
        if generation % 2 == 0 {
            // The change comes while the server lives.
            survivor.connect(control.port).await.unwrap();
            control.write("mesh.yaml", &mesh(generation, local));
        } else {
            // The change is there when the server starts.
            control.kill();
            control.write("mesh.yaml", &mesh(generation, local));
            control.run();
            survivor.connect(control.port).await.unwrap();
        }
        // From one to three responses, of which the last one is not always answered.
        for count in 0..=generation % 3 {
            pushes += usize::from(survivor.step(count == 0 || generation % 4 != 0, SOON).await);
        }
        control.kill();
        control.run();
    }
    assert!(pushes > KILLS, "{pushes} responses only");
    let mut fresh = AdsClient::new("fresh", "client-1");
    for client in [&mut survivor, &mut fresh] {
        client.connect(control.port).await.unwrap();
    }
    let hash = |id: &str| control.ask(&format!("/api/v1/proxies/{id}"))["config_hash"].clone();
    let settled = |id: &str| control.ask(&format!("/api/v1/proxies/{id}"))["settled"] == true;
    let end = Instant::now() + PATIENCE;
    while !settled("survivor") || !settled("fresh") {
        assert!(Instant::now() < end, "not settled");
        survivor.step(true, Duration::from_millis(100)).await;
        fresh.step(true, Duration::from_millis(100)).await;
    }
    assert!(survivor.held.len() > 3 * SERVICES, "{}", survivor.held.len());
    assert!(survivor.held == fresh.held, "who was there all the time has something else than a newcomer");
    assert_eq!(hash("survivor"), hash("fresh"));
    // The real proxy, too, and another one in its place.
    let old = control.settled("client-1")["config_hash"].clone();
    drop(proxy);
    control.wait("/api/v1/proxies/client-1", "gone", serde_json::Value::is_null);
    let _proxy = Process::outrider(&control.outrider("client-1", "client", admin), admin);
    assert_eq!(control.settled("client-1")["config_hash"], old);
    assert_eq!(fs::read(control.state().join("ca.pem")).unwrap(), roots, "the authority is the same");
}

const WEB: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.0.0.1, ports: [{name: http, port: 80, targetPort: 8080}]}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workload_that_has_registered_itself_outlives_the_control_server() {
    let mut control = Control::start(Wire::Plaintext, WEB);
    let mut workload = AdsClient::new("web-1", "web-1");
    workload.serves = Some(("web".into(), "10.0.1.1".into(), 8080));
    workload.connect(control.port).await.unwrap();
    let endpoints = |answer: &serde_json::Value| answer["ports"][0]["endpoint_count"].as_u64();
    let path = "/api/v1/services/shop/web";
    control.wait(path, "registered", |answer| endpoints(answer) == Some(1));
    let kept = || fs::read_to_string(control.state().join("workloads.json")).unwrap_or_default();
    let end = Instant::now() + PATIENCE;
    while !kept().contains("web-1") {
        assert!(Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    control.kill();
    control.run();
    assert_eq!(endpoints(&control.ask(path)), Some(1), "before it has come back");
    workload.connect(control.port).await.unwrap();
    control.wait("/api/v1/workloads", "there", |all| all["workloads"][0]["connected"] == true);
    // With its stream the endpoint goes, after a while in which it is drained.
    drop(workload);
    control.wait(path, "draining", |answer| answer["ports"][0]["endpoints"][0]["health"] == "Draining");
    control.wait(path, "gone", |answer| endpoints(answer) == Some(0));
}

#[test]
fn killed_at_its_first_start_it_starts_again() {
    for round in 0..KILLS {
        let mut control = Control::stopped(Wire::Tls, "");
        control.spawn();
        // When so many files are there, finished or not: lock, keys, root, bundle.
        let count = || fs::read_dir(control.state()).map_or(0, Iterator::count);
        let end = Instant::now() + PATIENCE;
        while count() < 1 + round % 4 {
            assert!(Instant::now() < end, "{}", control.log());
            std::hint::spin_loop();
        }
        control.kill();
        control.run();
        // What it writes now is under way for a moment; what the killed one left is not.
        let names = loop {
            let names = fs::read_dir(control.state()).unwrap().map(|entry| entry.unwrap().file_name());
            let names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
            let unfinished = names.iter().any(|name| name.starts_with(".new-"));
            if !unfinished || Instant::now() > end + PATIENCE {
                break names;
            }
        };
        let roots = names.iter().filter(|name| name.starts_with("root-")).count();
        assert_eq!(roots, 1, "{names:?}");
        let whole =
            ["ca.pem", "faults.json", "in-mesh.json", "join.key", "lock", "operator.token", "trust-domain"];
        let odd = names.iter().find(|name| !name.starts_with("root-") && !whole.contains(&name.as_str()));
        assert_eq!(odd, None, "something was left half-made: {names:?}");
        let token = fs::read_to_string(control.token("client")).unwrap();
        assert_eq!(token.matches('.').count(), 2);
    }
}
