//! A thousand edits of a mesh that carries traffic: no request fails, whatever is under way when a snapshot comes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use outrider_tests::backend::Backend;
use outrider_tests::client::{self, Ask};
use outrider_tests::control::{Control, PATIENCE, Wire};
use outrider_tests::process::{Process, free_port};
use serde_json::{Value, json};

use super::run::{WORKLOADS, places};

const EDITS: usize = 1000;
/// Edits after which the snapshot that has them is waited for.
const AT_ONCE: usize = 20;
/// Who asks, one request after the other.
const CLIENTS: usize = 4;

const OWN: &str = "mesh.outrider.dev/v1alpha1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_edits_fail_no_request() {
    let seed = std::env::var("OUTRIDER_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let backends = [Backend::start().await, Backend::start().await];
    let (ports, text) = places(&backends);
    let mut edits = BTreeMap::from([("route", route(&mut random, 0))]);
    let control = Control::stopped(Wire::Tls, &text);
    write(&control, &edits);
    let mut control = control;
    control.run();
    let each = WORKLOADS.iter().map(|(name, account)| {
        let admin = free_port();
        Process::outrider(&control.outrider(name, account, admin), admin)
    });
    let _sidecars: Vec<Process> = each.collect();
    for (name, _) in WORKLOADS {
        control.settled(name);
    }
    let (over, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (port, over, count) = (ports["FRONT"], Arc::clone(&over), Arc::clone(&count));
            tokio::spawn(async move {
                let path = ["/edited/x", "/split", "/v1/x", "/edited/y"][number % 4];
                while !over.load(Ordering::Relaxed) {
                    let answer = client::h1(port, &Ask { path: path.into(), ..Ask::default() }).await;
                    assert_eq!(answer.status, 200, "seed {seed}, {path}: {answer:?}");
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let mut snapshots = 0;
    for number in 1..=EDITS {
        edit(&mut edits, &mut random, number);
        write(&control, &edits);
        if number % AT_ONCE != 0 {
            continue;
        }
        let end = Instant::now() + PATIENCE;
        // Answered by a sidecar that has this edit.
        let ask = Ask { path: "/edited/z".into(), ..Ask::default() };
        loop {
            let answer = client::h1(ports["FRONT"], &ask).await;
            assert_eq!(answer.status, 200, "seed {seed}, edit {number}: {answer:?}");
            if answer.header("x-edit") == Some(&number.to_string()) {
                snapshots += 1;
                break;
            }
            assert!(Instant::now() < end, "seed {seed}, edit {number} never comes: {answer:?}");
            assert!(
                !clients.iter().any(tokio::task::JoinHandle::is_finished),
                "seed {seed}: a request failed"
            );
        }
    }
    over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    println!("{EDITS} edits, {snapshots} snapshots waited for, {} requests", count.load(Ordering::Relaxed));
    for (name, _) in WORKLOADS {
        assert_eq!(control.settled(name)["refuses"], false, "seed {seed}, {name}");
    }
}

fn write(control: &Control, edits: &BTreeMap<&str, Value>) {
    let all: Vec<String> = edits.values().map(Value::to_string).collect();
    control.write("edits.yaml", &all.join("\n---\n"));
}

/// Changes, adds or takes away one object, and marks the route with the number of the edit.
fn edit(edits: &mut BTreeMap<&str, Value>, random: &mut fastrand::Rng, number: usize) {
    let one = |random: &mut fastrand::Rng, all: &[&'static str]| all[random.usize(..all.len())];
    let name = one(random, &["calls-1", "calls-2", "allow", "deny", "service", "workload", "egress"]);
    let meta = |kind: &str, name: &str| json!({"apiVersion": OWN, "kind": kind, "metadata": {"name": name, "namespace": "shop"}});
    if random.u8(..4) == 0 {
        edits.remove(name);
    } else {
        let mut object = match name {
            "calls-1" | "calls-2" | "egress" | "allow" | "deny" | "workload" => {
                let kind = match name {
                    "egress" => "EgressPolicy",
                    "workload" => "Workload",
                    "allow" | "deny" => "AuthorizationPolicy",
                    _ => "TrafficPolicy",
                };
                meta(kind, name)
            }
            _ => {
                json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "other", "namespace": "shop"}})
            }
        };
        let nobody = format!("shop/nobody-{}", random.u8(..9));
        object["spec"] = match name {
            "calls-1" | "calls-2" => json!({
                "targetRefs": [{"name": name.replace("calls-", "reviews-v")}],
                "loadBalancer": {"policy": one(random, &["RoundRobin", "LeastRequest", "Random", "PeakEwma"])},
                "timeouts": {"connect": format!("{}s", random.u8(1..9)), "request": "20s"},
                "circuitBreaker": {"maxRequests": random.u32(100..200)},
            }),
            "allow" => {
                json!({"selector": {"matchLabels": {"app": "reviews"}}, "rules": [{"from": [{"serviceAccounts": [nobody]}]}]})
            }
            "deny" => json!({"action": "Deny", "rules": [{"from": [{"serviceAccounts": [nobody]}]}]}),
            "egress" => json!({"allow": [{"cidr": format!("192.0.2.{}", random.u8(..)), "ports": [443]}]}),
            "workload" => json!({
                "address": "127.0.0.9", "service": "other", "weight": random.u32(1..9), "ports": [{"name": "http", "port": 80}],
            }),
            _ => json!({"ports": [{"name": "http", "port": random.u16(80..84), "targetPort": 80}]}),
        };
        edits.insert(name, object);
    }
    edits.insert("route", route(random, number));
}

/// Something of everything that a rule may say, and always an answer.
fn route(random: &mut fastrand::Rng, number: usize) -> Value {
    let mut rule = json!({
        "matches": [{"path": {"value": "/edited"}}],
        "filters": [{"type": "ResponseHeaderModifier", "responseHeaderModifier":
            {"set": [{"name": "x-edit", "value": number.to_string()}]}}],
        "backendRefs": [
            {"name": "reviews-v1", "port": 80, "weight": random.u8(1..9)},
            {"name": "reviews-v2", "port": 80, "weight": random.u8(..9)},
        ],
    });
    if random.bool() {
        rule["timeouts"] = json!({"request": "20s"});
    }
    if random.bool() {
        rule["retry"] = json!({"attempts": random.u8(1..4), "codes": [503]});
    }
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "edited", "namespace": "shop"},
        "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "reviews", "port": 80}], "rules": [rule]},
    })
}
