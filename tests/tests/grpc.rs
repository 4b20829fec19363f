//! A gRPC client without a proxy (`grpcio`, `xds:///`): resolves, balances over mutual TLS, follows changes of weights
//! and endpoints.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use outrider_tests::control::{Control, PATIENCE, Wire};
use outrider_tests::process::{Process, free_port, scratch};
use serde_json::{Value, json};

/// A Python with `grpcio`, if there is one. In CI its absence is an error.
fn python() -> Option<PathBuf> {
    let found = std::env::var_os("OUTRIDER_TEST_GRPC").map(PathBuf::from).filter(|path| path.exists());
    assert!(found.is_some() || std::env::var_os("CI").is_none(), "grpcio is missing and CI must have it");
    if found.is_none() {
        println!("SKIPPED: OUTRIDER_TEST_GRPC is not a Python with grpcio");
    }
    found
}

fn peer() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("grpc/peer.py")
}

/// Servers `one` and `two` of the services `echo`, and each of a service of its own; `routes` is added.
fn mesh(ports: [u16; 2], both: bool, routes: &str) -> String {
    let service = |name: &str, selector: &str, address: u8| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: shop}}, spec: {{clusterIP: 10.0.0.{address}, \
             selector: {selector}, ports: [{{name: grpc, port: 50051, targetPort: grpc}}]}}}}\n---\n"
        )
    };
    let workload = |name: &str, port: u16| {
        format!(
            "{{apiVersion: mesh.outrider.dev/v1alpha1, kind: Workload, metadata: {{name: {name}, namespace: shop, labels: \
             {{app: echo, one: {name}}}}}, spec: {{address: 127.0.0.1, serviceAccount: {name}, ports: [{{name: grpc, port: {port}, \
             protocol: GRPC}}]}}}}\n---\n"
        )
    };
    let mut text = service("echo", "{app: echo}", 1)
        + &service("only-one", "{one: one}", 2)
        + &service("only-two", "{one: two}", 3)
        + &workload("one", ports[0]);
    if both {
        text += &workload("two", ports[1]);
    }
    text + routes
}

fn weights(one: u32, two: u32) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: GRPCRoute, metadata: {{name: echo, namespace: shop}}, spec: {{parentRefs: \
         [{{group: '', kind: Service, name: echo}}], rules: [{{backendRefs: [{{name: only-one, port: 50051, weight: {one}}}, \
         {{name: only-two, port: 50051, weight: {two}}}]}}]}}}}\n"
    )
}

/// The server of a workload, when it is ready.
fn server(python: &Path, control: &Control, name: &str, port: u16) -> Process {
    let mut command = Command::new(python);
    command.arg(peer()).args(["server", name, &format!("127.0.0.1:{port}")]);
    command.arg(control.fetch_svid(name, name));
    let mut process = Process::spawn(command, scratch("grpc"), "grpc server");
    let end = Instant::now() + PATIENCE;
    while !process.log().contains("ready") {
        assert!(process.is_running() && Instant::now() < end, "{}", process.log());
        std::thread::yield_now();
    }
    process
}

/// A client of `echo`; gone when dropped.
struct Client {
    child: Child,
    send: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Client {
    fn start(python: &Path, control: &Control) -> Self {
        let svid = control.fetch_svid("client", "client");
        let file = |name: &str| svid.join(name).display().to_string();
        let files = json!({
            "certificate_file": file("tls.crt"), "private_key_file": file("tls.key"),
            "ca_certificate_file": file("ca.crt"), "refresh_interval": "1s",
        });
        let bootstrap = json!({
            "xds_servers": [{
                "server_uri": format!("127.0.0.1:{}", control.port),
                "channel_creds": [{"type": "tls", "config": files}],
                "server_features": ["xds_v3"],
            }],
            "node": {"id": "grpc-client", "metadata": {"namespace": "shop", "workload": "client"}},
            "certificate_providers": {"default": {"plugin_name": "file_watcher", "config": files}},
        });
        let path = control.folder.join("grpc.json");
        fs::write(&path, bootstrap.to_string()).unwrap();
        let mut child = Command::new(python)
            .arg(peer())
            .args(["client", "xds:///echo.shop.svc.cluster.local:50051"])
            .env("GRPC_XDS_BOOTSTRAP", path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(control.folder.join("grpc.log")).unwrap())
            .spawn()
            .unwrap();
        let (send, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, send, answers: BufReader::new(answers) }
    }

    /// How many of so many calls each server has answered.
    fn call(&mut self, count: u32) -> BTreeMap<String, u32> {
        writeln!(self.send, "{count}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// Calls until all of ten calls go where they should; none may fail on the way.
    fn becomes(&mut self, expected: &[&str]) {
        let end = Instant::now() + PATIENCE;
        loop {
            let outcomes = self.call(10);
            assert!(outcomes.keys().all(|name| name == "one" || name == "two"), "{outcomes:?}");
            if outcomes.keys().eq(expected) {
                return;
            }
            assert!(Instant::now() < end, "{outcomes:?}, not {expected:?}");
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn grpc_resolves_balances_and_follows() {
    let Some(python) = python() else { return };
    let ports = [free_port(), free_port()];
    let control = Control::start(Wire::Tls, &mesh(ports, true, ""));
    let _servers = [server(&python, &control, "one", ports[0]), server(&python, &control, "two", ports[1])];
    let mut client = Client::start(&python, &control);
    // Two endpoints, in turn, once the connections to both are there.
    client.becomes(&["one", "two"]);
    let calls = client.call(100);
    assert_eq!((calls["one"], calls["two"]), (50, 50));
    let proxy = control.settled("grpc-client");
    assert_eq!((&proxy["dialect"], &proxy["protocol"]), (&json!("grpc"), &json!("sotw")), "{proxy:#}");
    assert_eq!(
        (&proxy["refuses"], &proxy["identity"]),
        (&Value::Bool(false), &json!("spiffe://mesh.test/ns/shop/sa/client"))
    );
    // An endpoint goes, and comes back.
    control.write("mesh.yaml", &mesh(ports, false, ""));
    client.becomes(&["one"]);
    control.write("mesh.yaml", &mesh(ports, true, ""));
    client.becomes(&["one", "two"]);
    // Shares of a route.
    control.write("mesh.yaml", &mesh(ports, true, &weights(0, 1)));
    client.becomes(&["two"]);
    control.write("mesh.yaml", &mesh(ports, true, &weights(1, 0)));
    client.becomes(&["one"]);
    control.write("mesh.yaml", &mesh(ports, true, &weights(1, 3)));
    client.becomes(&["one", "two"]);
    let calls = client.call(400);
    // With a fair die, one run in a hundred million is outside.
    assert!((50..=155).contains(&calls["one"]), "{calls:?}");
    assert_eq!(control.ask("/api/v1/proxies/grpc-client")["refuses"], false);
}
