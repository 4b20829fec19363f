//! Faults as operators want them, from object to request, with the real control server: they end without it, a stop ends
//! them at once, and who wants none has none.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use outrider_tests::backend::Backend;
use outrider_tests::client::{self, Ask};
use outrider_tests::control::{Control, PATIENCE, Wire};
use outrider_tests::process::{Process, free_port};

const TTL: Duration = Duration::from_secs(1);
const SECOND: Duration = Duration::from_secs(1);

/// A mesh of two services, of which the second wants no faults, and somebody who calls both.
struct Mesh {
    control: Control,
    /// Where the caller finds `web` and `calm`.
    web: u16,
    calm: u16,
    proxies: Vec<Process>,
    _backend: Backend,
}

impl Mesh {
    async fn start(faults: &str) -> Self {
        let backend = Backend::start().await;
        let (web, calm) = (free_port(), free_port());
        let mut objects = String::new();
        for (name, local, labels) in
            [("web", "127.0.0.2", ""), ("calm", "127.0.0.3", "mesh.outrider.dev/faults: 'off'")]
        {
            objects += &format!(
                "
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{clusterIP: 10.0.0.{}, ports: [{{name: http, port: 80, targetPort: http}}]}}
---
apiVersion: mesh.outrider.dev/v1alpha1
kind: Workload
metadata: {{name: {name}-1, namespace: shop, labels: {{{labels}}}}}
spec: {{address: {local}, service: {name}, serviceAccount: {name}, ports: [{{name: http, port: {}, appPort: {}, protocol: HTTP}}]}}
---",
                name.len(),
                free_port(),
                backend.port
            );
        }
        objects += &format!(
            "
apiVersion: mesh.outrider.dev/v1alpha1
kind: Workload
metadata: {{name: client-1, namespace: shop}}
spec:
  address: 127.0.0.1
  serviceAccount: client
  upstreams:
  - {{service: web, port: 80, bind: \"127.0.0.1:{web}\"}}
  - {{service: calm, port: 80, bind: \"127.0.0.1:{calm}\"}}
"
        );
        let control = Control::start(Wire::Plaintext, &objects);
        control.write("faults.yaml", faults);
        let start = |(workload, account): (&str, &str)| {
            let admin = free_port();
            Process::outrider(&control.outrider(workload, account, admin), admin)
        };
        let proxies = [("web-1", "web"), ("calm-1", "calm"), ("client-1", "client")].map(start).into();
        let mesh = Self { control, web, calm, proxies, _backend: backend };
        for port in [web, calm] {
            mesh.becomes(port, "/", 200).await;
        }
        mesh
    }

    async fn status(&self, port: u16, path: &str) -> u16 {
        client::h1(port, &Ask { path: path.into(), ..Ask::default() }).await.status
    }

    /// Asks until the answer is this one.
    async fn becomes(&self, port: u16, path: &str, expected: u16) {
        let end = Instant::now() + PATIENCE;
        let mut last = 0;
        while Instant::now() < end {
            if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                last = self.status(port, path).await;
                if last == expected {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{path} at {port}: {last}, not {expected}\n{}", self.control.log());
    }
}

/// A fault before all workloads of the namespace, for paths below `/x`.
fn abort(seed: usize) -> String {
    format!(
        "
apiVersion: mesh.outrider.dev/v1alpha1
kind: FaultInjection
metadata: {{name: teapot, namespace: shop}}
spec:
  {{direction: Inbound, match: {{path: /x*}}, seed: {seed}, ttl: 1s, duration: 2h, abort: {{httpStatus: 418}}}}
"
    )
}

/// How often what has to hold every time is tried; more where the variable says so.
fn rounds() -> usize {
    std::env::var("OUTRIDER_TEST_LEASES").ok().and_then(|text| text.parse().ok()).unwrap_or(4)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_end_when_the_control_server_is_killed_or_paused() {
    let mut mesh = Mesh::start(&abort(0)).await;
    let (count, mut longest) = (rounds(), Duration::ZERO);
    for round in 0..count {
        let signal = if round % 2 == 0 { "KILL" } else { "STOP" };
        mesh.becomes(mesh.web, "/x", 418).await;
        let begun = Instant::now();
        while begun.elapsed() < TTL * 3 / 2 {
            assert_eq!(mesh.status(mesh.web, "/x").await, 418, "heartbeats keep it up");
        }
        mesh.control.signal(signal);
        let lost = Instant::now();
        let mut last = lost;
        while lost.elapsed() < TTL + SECOND * 3 / 2 {
            if mesh.status(mesh.web, "/x").await == 418 {
                last = Instant::now();
            }
        }
        let outlived = last - lost;
        assert!(outlived <= TTL + SECOND, "round {round}, {signal}: {outlived:?}");
        longest = longest.max(outlived);
        if signal == "STOP" {
            mesh.control.signal("CONT");
            let back = Instant::now();
            while back.elapsed() < SECOND / 2 {
                assert_eq!(mesh.status(mesh.web, "/x").await, 200, "what is late brings no fault back");
            }
            // Somebody wants it anew.
            mesh.control.write("faults.yaml", &abort(round));
        } else {
            mesh.control.kill();
            mesh.control.run();
        }
    }
    println!("{count} rounds, at most {longest:?} after the control server was lost, with a TTL of {TTL:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_was_paused_too_long_is_told_no_more_that_its_fault_goes_on() {
    let mesh = Mesh::start(&abort(0)).await;
    mesh.becomes(mesh.web, "/x", 418).await;
    mesh.control.settled("web-1");
    let web = &mesh.proxies[0];
    web.signal("STOP");
    tokio::time::sleep(TTL + SECOND).await;
    web.signal("CONT");
    mesh.becomes(mesh.web, "/x", 200).await;
    mesh.control.wait("/api/v1/faults", "lapsed", |all| {
        let fault = &all["faults"][0];
        fault["lapsed"] == 1 && fault["refused"] == 0 && fault["proxies"] == 2
    });
    assert_eq!(
        mesh.control.condition("FaultInjection/shop/teapot", "Programmed"),
        "False Lapsed: acknowledged by 1 of 2 proxies; lapsed at 1"
    );
    let (done, text) = mesh.control.outrider_cli(&["fault", "list"]);
    assert!(done && text.contains("1/2 (1 lapsed)"), "{text}");
    // Those that waited for it are refused, and none comes after them.
    let refusals = || mesh.control.log().matches("configuration refused").count();
    let waited = refusals();
    let begun = Instant::now();
    while begun.elapsed() < TTL * 3 {
        assert_eq!(mesh.status(mesh.web, "/x").await, 200, "a heartbeat brings no fault back");
    }
    assert!(refusals() <= waited + 6, "{waited}, then {}", refusals());
    let before = refusals();
    tokio::time::sleep(TTL * 2).await;
    assert_eq!(refusals(), before, "{}", mesh.control.log());
    // Who wants it anew has it.
    mesh.control.write("faults.yaml", &abort(1));
    mesh.becomes(mesh.web, "/x", 418).await;
    mesh.control.wait("/api/v1/faults", "acknowledged", |all| {
        all["faults"][0]["lapsed"] == 0 && all["faults"][0]["acknowledged"] == 2
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_of_all_ends_faults_within_a_second_under_load_and_holds() {
    let mut mesh = Mesh::start(&abort(0)).await;
    mesh.becomes(mesh.web, "/x", 418).await;
    let (ended, begun) = (Arc::new(AtomicBool::new(false)), Instant::now());
    let (faulted, last_us) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let load: Vec<_> = (0..8)
        .map(|_| {
            let (ended, faulted, last_us) = (Arc::clone(&ended), Arc::clone(&faulted), Arc::clone(&last_us));
            let port = mesh.web;
            tokio::spawn(async move {
                while !ended.load(Ordering::Relaxed) {
                    let ask = Ask { path: "/x".into(), ..Ask::default() };
                    if client::h1(port, &ask).await.status == 418 {
                        faulted.fetch_add(1, Ordering::Relaxed);
                        let now = u64::try_from(begun.elapsed().as_micros()).unwrap();
                        last_us.fetch_max(now, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    while faulted.load(Ordering::Relaxed) < 200 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (done, text) = mesh.control.outrider_cli(&["fault", "stop", "--all"]);
    let returned = begun.elapsed();
    assert!(done && text.contains("All faults are stopped"), "{text}");
    while begun.elapsed() < returned + 2 * SECOND {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    ended.store(true, Ordering::Relaxed);
    for one in load {
        one.await.unwrap();
    }
    let after = Duration::from_micros(last_us.load(Ordering::Relaxed)).saturating_sub(returned);
    println!(
        "{} faulted; the last one {after:?} after the command had returned",
        faulted.load(Ordering::Relaxed)
    );
    assert!(after <= SECOND, "{after:?}");
    // It holds over a restart, for what is new, and for what is applied by hand.
    mesh.control.kill();
    mesh.control.write("faults.yaml", &abort(1));
    mesh.control.run();
    mesh.control.wait("/api/v1/faults", "stopped", |all| {
        all["stopped"] == true && all["faults"][0]["phase"] == "Stopped"
    });
    mesh.control.settled("web-1");
    let begun = Instant::now();
    while begun.elapsed() < SECOND {
        assert_eq!(mesh.status(mesh.web, "/x").await, 200);
    }
    let token = mesh.control.state().join("operator.token");
    let token = token.to_str().unwrap();
    let (done, text) = mesh.control.outrider_cli(&["fault", "resume", "--token-file", token]);
    assert!(done && text.contains("Running"), "{text}");
    mesh.becomes(mesh.web, "/x", 418).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_are_applied_listed_and_stopped_by_hand() {
    let mesh = Mesh::start("").await;
    let file = mesh.control.folder.join("fault.yaml");
    std::fs::write(&file, abort(0).replace("/x*", "/hand")).unwrap();
    let (file, token) = (file.to_str().unwrap(), mesh.control.state().join("operator.token"));
    let nobody = mesh.control.folder.join("nobody");
    std::fs::write(&nobody, "guessed").unwrap();
    let apply = |token: &PathBuf| {
        mesh.control.outrider_cli(&["fault", "apply", "-f", file, "--token-file", token.to_str().unwrap()])
    };
    let (done, text) = apply(&nobody);
    assert!(!done && text.contains("401") && text.contains("operator's token"), "{text}");
    assert_eq!(mesh.status(mesh.web, "/hand").await, 200);
    let (done, text) = apply(&token);
    assert!(done, "{text}");
    mesh.becomes(mesh.web, "/hand", 418).await;
    mesh.control.wait("/api/v1/faults", "acknowledged", |all| {
        let fault = &all["faults"][0];
        // `web-1` and `client-1`; `calm-1` has opted out.
        fault["phase"] == "Running" && fault["proxies"] == 2 && fault["acknowledged"] == 2
    });
    let (done, text) = mesh.control.outrider_cli(&["fault", "list"]);
    assert!(
        done && text.contains("shop/teapot") && text.contains("2/2") && text.contains("applied"),
        "{text}"
    );
    assert_eq!(
        mesh.control.condition("FaultInjection/shop/teapot", "Programmed"),
        "True Programmed: acknowledged by 2 of 2 proxies"
    );
    let answer = client::h1(mesh.web, &Ask { path: "/hand".into(), ..Ask::default() }).await;
    assert_eq!(answer.header("outrider-fault"), Some("shop/teapot"));
    let (done, text) = mesh.control.outrider_cli(&["fault", "stop", "shop/teapot"]);
    let returned = Instant::now();
    assert!(done, "{text}");
    mesh.becomes(mesh.web, "/hand", 200).await;
    assert!(returned.elapsed() < SECOND, "{:?}", returned.elapsed());
    let (done, text) = mesh.control.outrider_cli(&["fault", "stop", "shop/none"]);
    assert!(!done && text.contains("there is no FaultInjection/shop/none"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_experiment_ends_with_its_duration() {
    let mesh = Mesh::start("").await;
    mesh.control.write("faults.yaml", &abort(0).replace("duration: 2h", "duration: 3s"));
    mesh.becomes(mesh.web, "/x", 418).await;
    let begun = Instant::now();
    mesh.becomes(mesh.web, "/x", 200).await;
    assert!(begun.elapsed() < 5 * SECOND, "{:?}", begun.elapsed());
    mesh.control.wait("/api/v1/faults", "over", |all| all["faults"][0]["phase"] == "Over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_of_a_route_hits_what_its_rules_match_and_nothing_else() {
    let route = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: orders, namespace: shop}
spec:
  parentRefs: [{kind: Service, group: '', name: web, port: 80}]
  rules:
  - {matches: [{path: {value: /orders}}], backendRefs: [{name: web, port: 80}]}
  - {matches: [{path: {value: /carts}}], backendRefs: [{name: web, port: 80}]}
  - {matches: [{path: {value: /}}], backendRefs: [{name: calm, port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: others, namespace: shop}
spec:
  parentRefs: [{kind: Service, group: '', name: web, port: 80}]
  rules: [{matches: [{path: {value: /others}}], backendRefs: [{name: web, port: 80}]}]
---
";
    let fault = |direction: &str, route: &str| {
        format!(
            "
apiVersion: mesh.outrider.dev/v1alpha1
kind: FaultInjection
metadata: {{name: teapot, namespace: shop}}
spec: {{direction: {direction}, match: {{routes: [{route}], path: /o*}}, ttl: 5s, duration: 2h, abort: {{httpStatus: 418}}}}
"
        )
    };
    let mesh = Mesh::start(route).await;
    for direction in ["Outbound", "Upstream"] {
        mesh.control.write("faults.yaml", &format!("{route}{}", fault(direction, "orders")));
        mesh.becomes(mesh.web, "/orders/1", 418).await;
        // Rules of the same route without the path, the same path of another route, and another service.
        for path in ["/carts", "/others"] {
            assert_eq!(mesh.status(mesh.web, path).await, 200, "{direction} {path}");
        }
        assert_eq!(mesh.status(mesh.calm, "/orders/1").await, 200, "{direction}");
        mesh.control.write("faults.yaml", &format!("{route}{}", fault(direction, "others")));
        mesh.becomes(mesh.web, "/others", 418).await;
        assert_eq!(mesh.status(mesh.web, "/orders/1").await, 200, "{direction}");
        // A route that is not there is not the same as all.
        mesh.control.write("faults.yaml", &format!("{route}{}", fault(direction, "nothing")));
        mesh.becomes(mesh.web, "/others", 200).await;
        assert_eq!(mesh.status(mesh.web, "/orders/1").await, 200, "{direction}");
    }
}

/// `2xx` of the status codes that `h2load` has seen; `None` where there is no `h2load`.
fn load(port: u16, requests: usize) -> Option<usize> {
    let mut command = Command::new("h2load");
    command.args(["--h1", "-c", "16", "-t", "1", "-n", &requests.to_string()]);
    let done = command.arg(format!("http://127.0.0.1:{port}/x")).output().ok()?;
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("status codes: "))?;
    line.split(' ').next()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workload_that_has_opted_out_sees_none_of_100_000_requests_faulted() {
    let mesh = Mesh::start(&abort(0)).await;
    mesh.becomes(mesh.web, "/x", 418).await;
    let Some(faulted) = load(mesh.web, 1000) else {
        eprintln!("SKIPPED: h2load is not there");
        return;
    };
    assert_eq!(faulted, 0, "who has not opted out");
    assert_eq!(load(mesh.calm, 100_000), Some(100_000));
    println!("100000 requests of h2load to the workload that has opted out: all answered with 200");
}
