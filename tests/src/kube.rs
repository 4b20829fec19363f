//! A real Kubernetes API server with its etcd, as processes; and the few requests that a test has for it.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::process::{Process, free_port, scratch};

/// How long anything may take; an API server needs a while to start.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// The token of the one who may do everything.
pub const ADMIN: &str = "admin-of-the-test";

/// An API server; gone when dropped.
#[derive(Debug)]
pub struct Cluster {
    assets: PathBuf,
    folder: PathBuf,
    port: u16,
    etcd_port: u16,
    _etcd: Process,
    server: Option<Process>,
}

/// The folder of `kube-apiserver` and `etcd`, if `KUBEBUILDER_ASSETS` names one; else it is said that the test is skipped.
/// `make test-kube` sets it, and fails in CI when there is none.
#[must_use]
pub fn assets() -> Option<PathBuf> {
    let found = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let found = found.filter(|folder| folder.join("kube-apiserver").exists() && folder.join("etcd").exists());
    if found.is_none() {
        eprintln!("skipped: there is no kube-apiserver; use `make test-kube`");
    }
    found
}

impl Cluster {
    /// Starts one, and waits until it is ready.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(assets: &Path) -> Self {
        let folder = scratch("kube");
        let (etcd_port, peers) = (free_port(), free_port());
        let mut etcd = Command::new(assets.join("etcd"));
        let client = format!("http://127.0.0.1:{etcd_port}");
        etcd.arg("--data-dir").arg(folder.join("etcd")).args(["--unsafe-no-fsync", "--log-level", "error"]);
        etcd.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        etcd.args(["--listen-peer-urls", &format!("http://127.0.0.1:{peers}")]);
        let etcd = Process::spawn(etcd, scratch("etcd"), "etcd");
        fs::write(folder.join("tokens.csv"), format!("{ADMIN},admin,1,system:masters\n")).expect("a file");
        let key =
            Command::new("openssl").args(["genrsa", "-out"]).arg(folder.join("sa.key")).arg("2048").output();
        assert!(key.expect("openssl").status.success());
        let mut cluster = Self {
            assets: assets.to_owned(),
            folder,
            port: free_port(),
            etcd_port,
            _etcd: etcd,
            server: None,
        };
        cluster.resume();
        cluster
    }

    /// Ends the API server with SIGKILL; etcd keeps what it knew.
    ///
    /// # Panics
    /// When it does not end.
    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.signal("KILL");
            assert!(server.wait(PATIENCE).is_some());
        }
    }

    /// Starts the API server on the same port.
    ///
    /// # Panics
    /// When it does not become ready.
    pub fn resume(&mut self) {
        let mut command = Command::new(self.assets.join("kube-apiserver"));
        let file = |name: &str| self.folder.join(name).display().to_string();
        command.args([
            &format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port),
            &format!("--cert-dir={}", file("certs")),
            &format!("--secure-port={}", self.port),
            &format!("--token-auth-file={}", file("tokens.csv")),
            &format!("--service-account-key-file={}", file("sa.key")),
            &format!("--service-account-signing-key-file={}", file("sa.key")),
        ]);
        command.args(["--bind-address=127.0.0.1", "--authorization-mode=RBAC"]);
        command.args([
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-cluster-ip-range=10.0.0.0/16",
        ]);
        // Webhooks are asked at the endpoints of their service: there is nobody here who leads cluster IPs anywhere.
        command.arg("--enable-aggregator-routing=true");
        // Nobody makes service accounts' tokens for pods here.
        command.args(["--disable-admission-plugins=ServiceAccount", "--external-hostname=localhost"]);
        self.server = Some(Process::spawn(command, scratch("apiserver"), "kube-apiserver"));
        let end = Instant::now() + PATIENCE;
        while self.request("GET", "/readyz", None).0 != 200 {
            let running = self.server.as_mut().is_some_and(Process::is_running);
            assert!(running && Instant::now() < end, "not ready:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn log(&self) -> String {
        self.server.as_ref().map(Process::log).unwrap_or_default()
    }

    /// A file that says where it is, for a user with this token.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn kubeconfig(&self, name: &str, token: &str) -> PathBuf {
        let roots = self.folder.join("certs/apiserver.crt");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {
                "server": format!("https://127.0.0.1:{}", self.port), "certificate-authority": roots,
            }}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        let path = self.folder.join(name);
        fs::write(&path, config.to_string()).expect("a file");
        path
    }

    /// What it answers to the one who may do everything: the HTTP status code (0 for none), and the body.
    ///
    /// # Panics
    /// When there is no `curl`.
    #[must_use]
    pub fn request(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let mut command = Command::new("curl");
        command.args(["-sk", "--max-time", "20", "-w", "\n%{http_code}", "-X", method]);
        command.args([
            "-H",
            &format!("Authorization: Bearer {ADMIN}"),
            "-H",
            &format!("Content-Type: {kind}"),
        ]);
        if body.is_some() {
            command.args(["--data-binary", "@-"]);
        }
        command.arg(format!("https://127.0.0.1:{}{path}", self.port));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("curl");
        let text = body.map(ToString::to_string).unwrap_or_default();
        child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("curl reads");
        let output = child.wait_with_output().expect("an answer");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, code) = text.rsplit_once('\n').unwrap_or(("", ""));
        (code.parse().unwrap_or(0), serde_json::from_str(body).unwrap_or_default())
    }

    /// Makes an object; again when the API server cannot yet, which is so for some kinds right after its start.
    ///
    /// # Panics
    /// When it is refused.
    pub fn create(&self, collection: &str, object: &Value) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let (code, answer) = self.request("POST", collection, Some(object));
            if (200..300).contains(&code) {
                return answer;
            }
            let later = code == 0 || code >= 500;
            assert!(later && Instant::now() < end, "{collection}: {code}: {answer:#}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Changes an object by a merge patch.
    ///
    /// # Panics
    /// When it is refused.
    pub fn patch(&self, path: &str, patch: &Value) -> Value {
        let (code, answer) = self.request("PATCH", path, Some(patch));
        assert_eq!(code, 200, "{path}: {answer:#}");
        answer
    }

    /// Waits until an object is as it should be.
    ///
    /// # Panics
    /// When it never is.
    pub fn wait(&self, path: &str, what: &str, good: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let (_, object) = self.request("GET", path, None);
            if good(&object) {
                return object;
            }
            assert!(Instant::now() < end, "{path}: not {what}: {object:#}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}
