//! Start-up files that an injection makes, read and used by the real proxy.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use outrider_control::inject::{Outcome, Settings, Surroundings, inject, manifest, names};
use outrider_tests::backend::Backend;
use outrider_tests::client::{self, Ask};
use outrider_tests::process::{Process, admin_get, free_port, proxy_binary, scratch};
use serde_json::Value;

const ROOTS: &str = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";

fn settings() -> Settings {
    Settings::new("example.org/outrider:0.1.0", ("outrider-control.outrider-system.svc", 15012), ROOTS)
}

/// The start-up file of the first pod in a manifest, if it gets one.
fn bootstrap(text: &str) -> Option<String> {
    let documents = manifest::documents(text);
    let mut object = manifest::parse(&documents[0].text).unwrap();
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default").to_owned();
    let around = Surroundings { namespace, unless_said: true, ..Surroundings::default() };
    match inject(manifest::template(&mut object)?, &around, &settings()).unwrap() {
        Outcome::Injected(injected) => {
            Some(injected.pod["metadata"]["annotations"][names::BOOTSTRAP].as_str().unwrap().to_owned())
        }
        Outcome::Skipped(_) => None,
    }
}

#[test]
fn the_proxy_takes_every_start_up_file_that_is_made() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../control-api/src/inject/golden/in");
    let directory = scratch("inject");
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let Some(text) = bootstrap(&fs::read_to_string(&path).unwrap()) else { continue };
        let file = directory.join("outrider.yaml");
        fs::write(&file, text).unwrap();
        let output =
            Command::new(proxy_binary()).arg("validate").arg("--config").arg(&file).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}", path.display());
        count += 1;
    }
    assert!(count >= 14, "{count}");
    fs::remove_dir_all(directory).unwrap();
}

/// Ports of the machine in place of those of a pod.
fn moved(value: &mut Value, ports: &BTreeMap<u64, u16>) {
    match value {
        Value::Object(fields) => {
            if let Some(port) =
                fields.get("port_value").and_then(Value::as_u64).and_then(|port| ports.get(&port))
            {
                fields.insert("port_value".to_owned(), (*port).into());
            }
            fields.values_mut().for_each(|value| moved(value, ports));
        }
        Value::Array(items) => items.iter_mut().for_each(|value| moved(value, ports)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn status(port: u16, path: &str) -> u16 {
    let answer = admin_get(port, path).unwrap_or_default();
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

fn until(port: u16, path: &str, expected: u16) {
    let end = Instant::now() + Duration::from_secs(20);
    while status(port, path) != expected {
        assert!(Instant::now() < end, "{path}: {} and not {expected}", status(port, path));
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kubelet_gets_the_applications_answers_and_nothing_else() {
    let backend = Backend::start().await;
    let database = TcpListener::bind("127.0.0.1:0").unwrap();
    let database_port = database.local_addr().unwrap().port();
    let pod = format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: a, namespace: shop}}
spec:
  containers:
  - name: web
    image: x
    livenessProbe: {{httpGet: {{path: /healthz, port: {0}}}}}
    readinessProbe: {{grpc: {{port: {0}}}}}
  - name: database
    image: x
    livenessProbe: {{tcpSocket: {{port: {database_port}}}, periodSeconds: 1}}
",
        backend.port
    );
    let mut config: Value = serde_json::from_str(&bootstrap(&pod).unwrap()).unwrap();
    // There is no control server here; what is to be seen stands in the file.
    let fields = config.as_object_mut().unwrap();
    fields.remove("dynamic_resources");
    fields.remove("outrider");
    let clusters = config["static_resources"]["clusters"].as_array_mut().unwrap();
    clusters.retain(|cluster| cluster["name"] != "control");
    let [admin, metrics, ready, grpc] = [0; 4].map(|_| free_port());
    moved(
        &mut config,
        &BTreeMap::from([(15_000, admin), (15_020, metrics), (15_021, ready), (15_030, grpc)]),
    );
    let proxy = Process::outrider(&config.to_string(), admin);

    assert_eq!(status(ready, "/ready"), 200);
    assert_eq!(status(metrics, "/metrics"), 200);
    assert_eq!(status(ready, "/app-health/web/livez?full=1"), 200);
    assert_eq!(backend.seen().last().unwrap().path, "/healthz?full=1");
    let failing = Ask {
        path: "/app-health/web/livez".into(),
        headers: vec![("x-reply-status".into(), "503".into())],
        ..Ask::default()
    };
    assert_eq!(client::h1(ready, &failing).await.status, 503);

    until(ready, "/app-health/database/livez", 200);
    drop(database);
    until(ready, "/app-health/database/livez", 503);

    let check = |path: &str| Ask { path: path.into(), method: "POST".into(), ..Ask::default() };
    assert_eq!(client::h2(grpc, &check("/grpc.health.v1.Health/Check")).await.status, 200);
    assert_eq!(backend.seen().last().unwrap().path, "/grpc.health.v1.Health/Check");
    let seen = backend.seen().len();
    for path in
        ["/", "/healthz", "/app-health/web/readyz", "/app-health/web/livez/x", "/config_dump", "/drain"]
    {
        assert_eq!(status(ready, path), 404, "{path}");
        assert_eq!(status(metrics, path), 404, "{path}");
        assert_eq!(client::h2(grpc, &check(path)).await.status, 404, "{path}");
    }
    assert_eq!(backend.seen().len(), seen, "nothing else reaches the application");
    drop(proxy);
}
