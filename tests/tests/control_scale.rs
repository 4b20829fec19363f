//! A large mesh and many proxies: how long a change of one endpoint takes to the last of them, and what it costs.
//!
//! Not part of the usual tests: `cargo test -p outrider-tests --test control_scale -- --ignored --nocapture`.

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use outrider_proto::envoy::config::core::v3::Node;
use outrider_proto::envoy::service::discovery::v3 as pb;
use outrider_proto::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use outrider_proto::type_url;
use outrider_tests::ads_client::AdsClient;
use outrider_tests::control::{Control, PATIENCE, Wire};
use outrider_tests::meshed::{Meshed, nginx};
use outrider_tests::process::{Process, envoy_binary};
use prost::Message as _;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

const SERVICES: usize = 10_000;
const ENDPOINTS: usize = 5;
const PROXIES: usize = 1_000;
/// Services that each proxy calls.
const CALLED: usize = 20;
/// Changes that are measured.
const CHANGES: usize = 10;
/// What 99 of 100 answers are to be within.
const LIMIT: Duration = Duration::from_secs(1);

/// An answer: of which proxy's response about the service that changes, and how large that was.
type Told = (Instant, usize);

fn services(range: std::ops::Range<usize>) -> String {
    let mut text = String::new();
    for number in range {
        let (high, low) = (number / 250, number % 250 + 1);
        let addresses = (0..ENDPOINTS).map(|one| format!("{{addresses: [10.{}.{high}.{low}]}}", 100 + one));
        let addresses: Vec<String> = addresses.collect();
        let _ = write!(
            text,
            "{{apiVersion: v1, kind: Service, metadata: {{name: s{number}, namespace: shop}}, spec: {{clusterIP: 10.1.{high}.{low}, \
             ports: [{{name: http, port: 80, targetPort: 8080}}]}}}}\n---\n\
             {{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: s{number}-a, namespace: shop, labels: \
             {{kubernetes.io/service-name: s{number}}}}}, addressType: IPv4, ports: [{{name: http, port: 8080}}], endpoints: [{}]}}\n---\n",
            addresses.join(", ")
        );
    }
    text
}

/// A proxy that calls a few services, the first of which is the same for all.
async fn proxy(number: usize, port: u16, told: mpsc::UnboundedSender<Told>) -> Result<(), Status> {
    let connected = AggregatedDiscoveryServiceClient::connect(format!("http://127.0.0.1:{port}")).await;
    let mut client = connected.map_err(|error| Status::unavailable(error.to_string()))?;
    let names = (0..CALLED).map(|one| if one == 0 { 0 } else { (number * 37 + one * 401) % SERVICES });
    let names: Vec<String> = names.map(|service| format!("outbound|80||s{service}.shop")).collect();
    let text = Value { kind: Some(Kind::StringValue("shop".to_owned())) };
    let node = Node {
        id: format!("p{number}"),
        metadata: Some(Struct { fields: [("namespace".to_owned(), text)].into() }),
        user_agent_name: "outrider".to_owned(),
        ..Default::default()
    };
    let (send, requests) = mpsc::channel(16);
    for kind in [type_url::CLUSTER, type_url::ENDPOINTS] {
        let request = pb::DeltaDiscoveryRequest {
            node: Some(node.clone()),
            type_url: kind.to_owned(),
            resource_names_subscribe: names.clone(),
            ..Default::default()
        };
        send.send(request).await.unwrap();
    }
    let mut responses = client.delta_aggregated_resources(ReceiverStream::new(requests)).await?.into_inner();
    while let Some(response) = responses.message().await? {
        let bytes = response.encoded_len();
        let about = response.resources.iter().any(|one| one.name == "outbound|80||s0.shop");
        let changed = about && response.type_url == type_url::ENDPOINTS;
        let answer = pb::DeltaDiscoveryRequest {
            type_url: response.type_url,
            response_nonce: response.nonce,
            ..Default::default()
        };
        let sent = send.send(answer).await.is_ok();
        if !sent || (changed && told.send((Instant::now(), bytes)).is_err()) {
            break;
        }
    }
    Ok(())
}

fn rss_mib(control: &Control) -> u64 {
    control.rss_bytes() / (1024 * 1024)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, of minutes"]
async fn one_endpoint_changes_in_a_large_mesh() {
    let mut control = Control::stopped(Wire::Plaintext, "");
    for part in 0..20 {
        let range = part * SERVICES / 20..(part + 1) * SERVICES / 20;
        fs::write(control.folder.join("config").join(format!("s{part}.yaml")), services(range)).unwrap();
    }
    let started = Instant::now();
    control.run();
    println!("start: {:?}, {} MiB", started.elapsed(), rss_mib(&control));
    let (send, mut told) = mpsc::unbounded_channel();
    let started = Instant::now();
    for number in 0..PROXIES {
        let (port, told) = (control.port, send.clone());
        tokio::spawn(async move {
            // The control server turns away whom it has no room for yet; they come again.
            while proxy(number, port, told.clone()).await.is_err() {
                tokio::task::yield_now().await;
            }
        });
    }
    for _ in 0..PROXIES {
        timeout(PATIENCE, told.recv()).await.unwrap().unwrap();
    }
    println!("{PROXIES} proxies connected and told: {:?}, {} MiB", started.elapsed(), rss_mib(&control));
    let (mut all, mut bytes) = (Vec::new(), 0);
    for change in 0..CHANGES {
        let mut workload = AdsClient::new(&format!("w{change}"), &format!("w{change}"));
        workload.serves = Some(("s0".into(), format!("10.99.0.{}", change + 1), 8080));
        let started = Instant::now();
        workload.connect(control.port).await.unwrap();
        for _ in 0..PROXIES {
            let (at, size) = timeout(PATIENCE, told.recv()).await.unwrap().unwrap();
            all.push(at.duration_since(started));
            bytes += size;
        }
        // Its end is a change, too, and so is the end of the grace period.
        drop(workload);
        let end = Instant::now() + PATIENCE;
        let path = "/api/v1/workloads";
        control.wait(path, "gone", |all| all["workloads"].as_array().is_some_and(Vec::is_empty));
        assert!(Instant::now() < end);
        while timeout(Duration::from_secs(1), told.recv()).await.is_ok() {}
    }
    all.sort();
    let at = |part: usize| all[(all.len() - 1) * part / 100];
    println!("{CHANGES} changes: p50 {:?}, p99 {:?}, last {:?}", at(50), at(99), at(100));
    println!("{} bytes for a change and proxy; {} MiB", bytes / all.len(), rss_mib(&control));
    assert!(at(99) < LIMIT);
}

/// What a sidecar may take that calls a few of many services.
const SIDECAR_LIMIT_BYTES: u64 = 12 * 1024 * 1024;

/// The address at which a service is called.
fn cluster_address(number: usize) -> String {
    format!("10.1.{}.{}", number / 250, number % 250 + 1)
}

/// Calls all the services that this workload calls, until all have answered; how long that took.
fn call(mesh: &Meshed) -> Duration {
    let (start, patience) = (Instant::now(), Duration::from_secs(900));
    for one in 0..CALLED {
        let url = format!("http://{}/s{one}", cluster_address(one * 401 % SERVICES));
        while mesh.curl(&[&url]).1 != format!("all /s{one}") {
            assert!(start.elapsed() < patience, "{url}: {}", mesh.curl(&["-v", &url]).1);
        }
    }
    start.elapsed()
}

fn report(name: &str, mesh: &Meshed, process: &Process) -> u64 {
    let took = call(mesh);
    // What was freed is given back in time.
    std::thread::sleep(Duration::from_secs(12));
    let (now, most) = (process.rss_bytes(), process.peak_rss_bytes());
    let mib = |bytes: u64| bytes as f64 / (1024.0 * 1024.0);
    println!("{name}: all {CALLED} called after {took:?}; {:.1} MiB, {:.1} at most", mib(now), mib(most));
    now
}

#[test]
#[ignore = "a measurement, of minutes"]
fn a_sidecar_that_calls_twenty_of_many_services_is_small() {
    let mut mesh = Meshed::new("");
    let server = mesh.network.pod("server");
    // Every endpoint of the mesh is this one.
    let all = server.command("ip").args(["route", "add", "local", "10.96.0.0/11", "dev", "lo"]).output();
    assert!(all.unwrap().status.success());
    let _nginx = nginx(&server, "all");
    for part in 0..20 {
        let range = part * SERVICES / 20..(part + 1) * SERVICES / 20;
        mesh.write(&format!("s{part}.yaml"), &services(range));
    }
    let told = |mesh: &Meshed| mesh.api("/api/v1/services").to_string().matches("\"name\":\"s").count();
    outrider_tests::pods::until("the control server knows all", || told(&mesh) >= SERVICES);
    let demand = mesh.client.sidecar(&mesh.bootstrap("outrider: {on_demand: {}}"));
    let ours = report("on demand", &mesh, &demand);
    drop(demand);
    let everything = mesh.client.sidecar(&mesh.bootstrap(""));
    report("everything", &mesh, &everything);
    drop(everything);
    if let Some(envoy) = envoy_binary() {
        let envoy = mesh.envoy(&envoy);
        report("Envoy, everything", &mesh, &envoy);
    }
    assert!(ours < SIDECAR_LIMIT_BYTES, "{ours} bytes");
}
