//! A `Revocation` among the operator's objects: who is on it is cut off from the mesh, by its sidecars, by the authority and
//! by the control server, for as long as the object is there.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use outrider_tests::backend::Backend;
use outrider_tests::client::{self, Ask, echoes, websocket};
use outrider_tests::control::{Control, PATIENCE, Wire};
use outrider_tests::process::{Process, admin_get, free_port, proxy_binary};
use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// From when the control server knows of it to when connections are closed and new ones refused.
const AT_ONCE: Duration = Duration::from_secs(1);
const CLIENT: &str = "spiffe://mesh.test/ns/shop/sa/client";
const FILE: &str = "stolen.yaml";

/// The service `web`, and who calls it at a local port.
struct Lab {
    control: Control,
    /// Where the application of the client asks.
    port: u16,
    web_admin: u16,
    client_admin: u16,
    web: Process,
    client: Process,
    _backend: Backend,
}

impl Lab {
    async fn start() -> Self {
        let (backend, port, web) = (Backend::start().await, free_port(), free_port());
        let objects = format!(
            "
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: shop}}
spec: {{clusterIP: 10.0.0.1, ports: [{{name: http, port: 80, targetPort: http}}]}}
---
apiVersion: mesh.outrider.dev/v1alpha1
kind: Workload
metadata: {{name: web-1, namespace: shop}}
spec: {{address: 127.0.0.2, service: web, serviceAccount: web, ports: [{{name: http, port: {web}, appPort: {}, protocol: HTTP}}]}}
---
apiVersion: mesh.outrider.dev/v1alpha1
kind: Workload
metadata: {{name: client-1, namespace: shop}}
spec: {{address: 127.0.0.1, serviceAccount: client, upstreams: [{{service: web, port: 80, bind: \"127.0.0.1:{port}\"}}]}}
",
            backend.port
        );
        let control = Control::start(Wire::Tls, &objects);
        let (web_admin, client_admin) = (free_port(), free_port());
        let web = Process::outrider(&control.outrider("web-1", "web", web_admin), web_admin);
        let client = Process::outrider(&control.outrider("client-1", "client", client_admin), client_admin);
        let lab = Self { control, port, web_admin, client_admin, web, client, _backend: backend };
        lab.control.settled("web-1");
        lab.control.settled("client-1");
        lab.becomes(200).await;
        lab
    }

    async fn status(&self) -> u16 {
        client::h1(self.port, &Ask::default()).await.status
    }

    /// Asks until the answer is this one.
    async fn becomes(&self, expected: u16) {
        let asked = async {
            loop {
                if TcpStream::connect(("127.0.0.1", self.port)).await.is_ok()
                    && self.status().await == expected
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let logs = || format!("{}\n{}\n{}", self.control.log(), self.web.log(), self.client.log());
        assert!(timeout(PATIENCE, asked).await.is_ok(), "never {expected}:\n{}", logs());
    }

    /// Writes the object, and sees that a connection of before ends, and none comes about any more.
    async fn revoke(&self, spec: &str) {
        let mut tunnel = websocket(self.port).await;
        assert!(echoes(&mut tunnel, b"before").await);
        let object =
            "apiVersion: mesh.outrider.dev/v1alpha1\nkind: Revocation\nmetadata: {name: stolen}\nspec: ";
        self.control.write(FILE, &format!("{object}{spec}\n"));
        self.control.wait("/api/v1/status/Revocation/stolen", "known", |object| {
            object["conditions"][0]["status"] == "True"
        });
        let known = Instant::now();
        let ended = timeout(PATIENCE, tunnel.read(&mut [0])).await.expect("the tunnel is ended");
        assert!(!matches!(ended, Ok(1..)), "{ended:?}");
        self.becomes(503).await;
        let took = known.elapsed();
        assert!(took < AT_ONCE, "{took:?}");
        let metrics = admin_get(self.web_admin, "/metrics").unwrap();
        assert!(metrics.contains("outrider_connections_cut_total{reason=\"identity_revoked\"}"), "{metrics}");
    }

    fn restore(&self) {
        fs::remove_file(self.control.folder.join("config").join(FILE)).unwrap();
    }

    /// Whether the client gets a certificate, and all that is said about it.
    fn certificate(&self) -> (bool, String) {
        let mut command = Command::new(proxy_binary());
        command.args(["fetch-svid", "--once", "--out-dir"]).arg(self.control.folder.join("fetched"));
        command.arg("--token-file").arg(self.control.token("client"));
        command.args(["--control", &format!("https://127.0.0.1:{}", self.control.port)]);
        let done = command.arg("--ca-file").arg(self.control.state().join("ca.pem")).output().unwrap();
        (done.status.success(), String::from_utf8_lossy(&done.stderr).into_owned())
    }

    /// Waits until these are connected, and nobody else.
    fn connected(&self, expected: &[&str]) {
        self.control.wait("/api/v1/proxies", "the proxies that there are to be", |answer| {
            let all = answer["proxies"].as_array().into_iter().flatten();
            all.map(|one| one["id"].as_str().unwrap_or_default()).eq(expected.iter().copied())
        });
    }

    /// The line of the audit log with these words.
    fn audited(&self, words: &[&str]) -> Option<String> {
        let log = self.control.log();
        let mut lines = log.lines().filter(|line| line.contains("outrider_control::audit"));
        lines.find(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_identity_is_cut_off_everywhere_and_let_in_again() {
    let mut lab = Lab::start().await;
    lab.connected(&["client-1", "web-1"]);
    lab.revoke(&format!("{{identities: [\"{CLIENT}\"], reason: a laptop was lost}}")).await;
    // The control server serves it no more, and issues nothing.
    lab.connected(&["web-1"]);
    let why = format!("{CLIENT} is revoked by Revocation stolen");
    let (got, said) = lab.certificate();
    assert!(!got && said.contains(&why), "{said}");
    assert!(lab.audited(&["identity refused", &why]).is_some(), "{}", lab.control.log());
    assert!(lab.audited(&["stream ended", &why]).is_some(), "{}", lab.control.log());
    lab.control.wait("/api/v1/status/Revocation/stolen", "programmed", |object| {
        let conditions = object["conditions"].as_array().into_iter().flatten();
        let mut programmed = conditions.filter(|one| one["type"] == "Programmed");
        programmed.any(|one| one["status"] == "True" && one["message"] == "acknowledged by 1 of 1 proxies")
    });
    let (_, described) = lab.control.outrider_cli(&["describe", "Revocation/stolen"]);
    assert!(described.contains("Accepted") && described.contains("1 of 1"), "{described}");
    // The list outlives the control server, and the control server remembers.
    lab.control.kill();
    assert_eq!(lab.status().await, 503);
    lab.control.run();
    lab.connected(&["web-1"]);
    assert_eq!(lab.status().await, 503);
    assert!(!lab.certificate().0);

    // A sidecar that is new is told before it has a listener.
    lab.web.signal("KILL");
    assert!(lab.web.wait(PATIENCE).is_some());
    lab.web_admin = free_port();
    lab.web = Process::outrider(&lab.control.outrider("web-1", "web", lab.web_admin), lab.web_admin);
    let refused = async {
        loop {
            assert_eq!(lab.status().await, 503);
            let metrics = admin_get(lab.web_admin, "/metrics").unwrap_or_default();
            if metrics.contains("outcome=\"tls_revoked\"}") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(timeout(PATIENCE, refused).await.is_ok(), "{}", lab.web.log());

    lab.restore();
    lab.becomes(200).await;
    lab.connected(&["client-1", "web-1"]);
    assert!(lab.certificate().0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_cut_off_and_its_identity_goes_on_with_another() {
    let mut lab = Lab::start().await;
    let issued = lab.audited(&["identity issued", CLIENT]).unwrap();
    let serial = issued.split_once("serial=\"").unwrap().1.split('"').next().unwrap();
    lab.revoke(&format!("{{serialNumbers: [\"{serial}\"]}}")).await;
    lab.connected(&["web-1"]);
    assert!(lab.certificate().0, "the identity itself is not on the list");
    lab.client.signal("KILL");
    assert!(lab.client.wait(PATIENCE).is_some());
    lab.client_admin = free_port();
    let config = lab.control.outrider("client-1", "client", lab.client_admin);
    lab.client = Process::outrider(&config, lab.client_admin);
    lab.becomes(200).await;
    lab.connected(&["client-1", "web-1"]);
    assert_ne!(lab.control.ask("/api/v1/status/Revocation/stolen"), Value::Null, "it is still there");
}
