//! Against a control plane that others wrote: `tests/controlplane` on go-control-plane, over delta ADS.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use outrider_tests::backend::Backend;
use outrider_tests::client::{self, Ask, PATIENCE, echoes, websocket};
use outrider_tests::config::{self, HCM, ROUTER};
use outrider_tests::process::{Process, admin_get, free_port, scratch};
use serde_json::{Value, json};

/// The control server, built by Go once; `None` where there is no Go. In CI its absence is an error.
fn control_plane() -> Option<PathBuf> {
    static BUILT: std::sync::OnceLock<Option<PathBuf>> = std::sync::OnceLock::new();
    BUILT
        .get_or_init(|| {
            let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("controlplane");
            let binary = std::env::temp_dir().join("outrider-test-go-bin/controlplane");
            let built =
                Command::new("go").arg("build").arg("-o").arg(&binary).arg(".").current_dir(source).output();
            let good = built.as_ref().is_ok_and(|output| output.status.success());
            assert!(
                good || std::env::var_os("CI").is_none(),
                "the control server cannot be built: {built:?}"
            );
            if !good {
                eprintln!("SKIPPED: the Go control server cannot be built (is Go installed?)");
            }
            good.then_some(binary)
        })
        .clone()
}

/// The longest that the proxy waits before it connects to a control server again.
const LONGEST_PAUSE: Duration = Duration::from_millis(22_500);

struct Lab {
    binary: PathBuf,
    server: Option<Process>,
    proxy: Process,
    admin: u16,
    xds: u16,
    control: u16,
    port: u16,
    backend: Backend,
}

impl Lab {
    async fn start() -> Option<Self> {
        let binary = control_plane()?;
        let (admin, xds, control, port) = (free_port(), free_port(), free_port(), free_port());
        let config = format!(
            "node: {{id: test, cluster: test}}
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {admin}}}}}}}
dynamic_resources:
  lds_config: {{ads: {{}}, resource_api_version: V3}}
  cds_config: {{ads: {{}}, resource_api_version: V3}}
  ads_config: {{api_type: DELTA_GRPC, transport_api_version: V3, grpc_services: [{{envoy_grpc: {{cluster_name: xds}}}}]}}
static_resources:
  clusters: [{}]
",
            config::cluster("xds", xds, config::HTTP2)
        );
        let proxy = Process::outrider(&config, admin);
        let backend = Backend::start().await;
        let mut lab = Self { binary, server: None, proxy, admin, xds, control, port, backend };
        lab.start_server();
        Some(lab)
    }

    fn start_server(&mut self) {
        let mut command = Command::new(&self.binary);
        command.args([
            "-xds",
            &format!("127.0.0.1:{}", self.xds),
            "-control",
            &format!("127.0.0.1:{}", self.control),
        ]);
        self.server = Some(Process::spawn(command, scratch("controlplane"), "controlplane"));
    }

    /// Tells the control server what to serve; asks again until it listens.
    async fn serve(&self, snapshot: &Value) {
        let body = snapshot.to_string();
        let ask = Ask { method: "PUT".into(), path: "/snapshot".into(), body: Some(body), ..Ask::default() };
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if std::net::TcpStream::connect(("127.0.0.1", self.control)).is_ok() {
                let answer = client::h1(self.control, &ask).await;
                assert_eq!(answer.status, 200, "{}", answer.body);
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("the control server does not listen");
    }

    /// What the proxy has told the control server.
    async fn requests(&self) -> Vec<Value> {
        let answer = client::h1(self.control, &Ask { path: "/requests".into(), ..Ask::default() }).await;
        serde_json::from_str::<Option<Vec<Value>>>(&answer.body).unwrap_or_default().unwrap_or_default()
    }

    /// Waits until a request of this kind to the proxy is answered as expected.
    async fn until(&self, port: u16, path: &str, expected: impl Fn(&client::Answer) -> bool) {
        let end = Instant::now() + PATIENCE + LONGEST_PAUSE;
        let ask = Ask { path: path.into(), ..Ask::default() };
        let mut last = client::Answer::default();
        while Instant::now() < end {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                last = client::h1(port, &ask).await;
                if expected(&last) {
                    return;
                }
            }
            tokio::task::yield_now().await;
        }
        panic!("not as expected: {last:?}\n{}", admin_get(self.admin, "/config_dump").unwrap_or_default());
    }

    fn snapshot(&self, version: u32, answer: &str, ports: &[u16], cluster: &str) -> Value {
        let listeners: Vec<Value> = ports.iter().map(|port| listener(*port)).collect();
        json!({
            "version": version.to_string(),
            "clusters": [eds_cluster(cluster)],
            "endpoints": [endpoints(cluster, self.backend.port)],
            "routes": [routes(answer, cluster)],
            "listeners": listeners,
        })
    }
}

fn address(port: u16) -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": port}})
}

fn listener(port: u16) -> Value {
    json!({"name": format!("l{port}"), "address": address(port), "filter_chains": [{"filters": [{"name": "http", "typed_config": {
        "@type": HCM, "stat_prefix": "web", "upgrade_configs": [{"upgrade_type": "websocket"}],
        "rds": {"route_config_name": "routes", "config_source": {"ads": {}, "resource_api_version": "V3"}},
        "http_filters": [{"name": "router", "typed_config": {"@type": ROUTER}}],
    }}]}]})
}

fn routes(answer: &str, cluster: &str) -> Value {
    json!({"name": "routes", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [
        {"match": {"path": "/version"}, "direct_response": {"status": 200, "body": {"inline_string": answer}}},
        {"match": {"prefix": "/"}, "route": {"cluster": cluster}},
    ]}]})
}

fn eds_cluster(name: &str) -> Value {
    json!({"name": name, "type": "EDS", "connect_timeout": "2s",
        "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3"}}})
}

fn endpoints(name: &str, port: u16) -> Value {
    json!({"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(port)}}]}]})
}

/// Requests without a pause until it is stopped; every failure is counted and the first one kept.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(port: u16) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let tasks = (0..4).map(|index| {
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            tokio::spawn(async move {
                let mut failed = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let ask = Ask { path: "/load".into(), ..Ask::default() };
                    let answer = if index % 2 == 0 {
                        client::h1(port, &ask).await
                    } else {
                        client::h2(port, &ask).await
                    };
                    if answer.status != 200 || !answer.whole {
                        failed.push(format!("{answer:?}"));
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
                failed
            })
        });
        let tasks = tasks.collect();
        Self { stop, done, tasks }
    }

    /// Waits until this many more requests are done.
    async fn more(&self, count: u64) {
        let target = self.done.load(Ordering::Relaxed) + count;
        while self.done.load(Ordering::Relaxed) < target {
            tokio::task::yield_now().await;
        }
    }

    async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let mut failed = Vec::new();
        for task in self.tasks {
            failed.extend(task.await.unwrap());
        }
        let done = self.done.load(Ordering::Relaxed);
        assert!(failed.is_empty(), "{} of {done} failed: {:?}", failed.len(), failed.first());
        done
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_under_load_fail_no_request_and_end_no_stream() {
    let Some(lab) = Lab::start().await else { return };
    let second = free_port();
    lab.serve(&lab.snapshot(1, "one", &[lab.port], "a")).await;
    lab.until(lab.port, "/version", |answer| answer.body == "one").await;
    let mut stream = websocket(lab.port).await;
    let load = Load::start(lab.port);
    load.more(50).await;
    let mut version = 1;
    for round in 0..10_u32 {
        // Another listener comes and goes, the routes change, and they move between two clusters.
        let ports: &[u16] = if round % 2 == 0 { &[lab.port, second] } else { &[lab.port] };
        let (from, to) = if round % 2 == 0 { ("a", "b") } else { ("b", "a") };
        let answer = format!("round {round}");
        // First the new cluster with its endpoints, then the routes to it, then the old one goes: what a control
        // server must do for a change without a gap. This one sends each kind of resource when it comes to it.
        let mut both = lab.snapshot(version + 1, &answer, ports, to);
        both["clusters"] = json!([eds_cluster(from), eds_cluster(to)]);
        both["endpoints"] = json!([endpoints(from, lab.backend.port), endpoints(to, lab.backend.port)]);
        let mut made = both.clone();
        made["version"] = json!(format!("{version}-made"));
        made["routes"] = json!([routes("waiting", from)]);
        lab.serve(&made).await;
        let endpoint = format!("{to}::127.0.0.1:{}::", lab.backend.port);
        while !admin_get(lab.admin, "/clusters").unwrap().contains(&endpoint) {}
        lab.serve(&both).await;
        lab.until(lab.port, "/version", |found| found.body == answer).await;
        if round % 2 == 0 {
            lab.until(second, "/version", |found| found.body == answer).await;
        }
        // The old cluster goes only now that nothing refers to it.
        version += 2;
        lab.serve(&lab.snapshot(version, &answer, ports, to)).await;
        load.more(50).await;
    }
    assert!(
        echoes(&mut stream, b"hello").await,
        "a stream lives through route, cluster and unrelated listener changes"
    );
    let done = load.stop().await;
    println!("{done} requests, none failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_resource_is_refused_by_name_while_good_ones_apply() {
    let Some(lab) = Lab::start().await else { return };
    let mut mixed = lab.snapshot(1, "one", &[lab.port], "a");
    mixed["clusters"] = json!([
        eds_cluster("a"),
        {"name": "bad", "type": "STATIC", "upstream_bind_config": {}},
        {"name": "worse", "type": "LOGICAL_DNS"},
    ]);
    lab.serve(&mixed).await;
    lab.until(lab.port, "/load", |answer| answer.status == 200).await;
    let requests = lab.requests().await;
    let refusal =
        requests.iter().find_map(|request| request["error"].as_str().filter(|error| !error.is_empty()));
    let refusal = refusal.unwrap_or_else(|| panic!("no refusal in {requests:?}"));
    assert!(refusal.contains("bad: upstream_bind_config"), "{refusal}");
    assert!(refusal.contains("worse: load_assignment.endpoints"), "{refusal}");
    assert!(!refusal.contains("a:") || !refusal.starts_with("a:"), "{refusal}");
    assert!(admin_get(lab.admin, "/metrics").unwrap().contains("outrider_xds_rejects_total"));

    // A port that is taken is refused too, and the listener that works goes on.
    let mut taken = lab.snapshot(2, "two", &[lab.port, lab.backend.port], "a");
    taken["version"] = json!("2");
    lab.serve(&taken).await;
    lab.until(lab.port, "/version", |answer| answer.body == "two").await;
    let end = Instant::now() + PATIENCE;
    let refused = loop {
        let requests = lab.requests().await;
        let found = requests
            .iter()
            .any(|request| request["error"].as_str().is_some_and(|error| error.contains("cannot listen on")));
        if found || Instant::now() > end {
            break found;
        }
    };
    assert!(refused, "{:?}", lab.requests().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_server_that_is_gone_is_not_missed() {
    let Some(mut lab) = Lab::start().await else { return };
    lab.serve(&lab.snapshot(1, "one", &[lab.port], "a")).await;
    lab.until(lab.port, "/load", |answer| answer.status == 200).await;
    let load = Load::start(lab.port);
    load.more(20).await;
    drop(lab.server.take());
    // Thirty seconds in CI, as long as a restart somewhere else takes; less at home.
    let away = Duration::from_secs(if std::env::var_os("CI").is_some() { 30 } else { 3 });
    let gone = Instant::now();
    while gone.elapsed() < away {
        load.more(20).await;
    }
    lab.start_server();
    lab.serve(&lab.snapshot(7, "after", &[lab.port], "a")).await;
    lab.until(lab.port, "/version", |answer| answer.body == "after").await;
    let done = load.stop().await;
    println!("{done} requests over {away:?} without a control server, none failed");
    assert!(lab.proxy.is_running());
}
