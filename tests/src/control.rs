//! The control server as a real process, with a directory of objects.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::process::{Process, admin_get, free_port, scratch};

/// How long anything may take: the directory is looked at every second.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// Our binary: `OUTRIDER_CONTROL_BIN`, or what the workspace has built.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn control_binary() -> PathBuf {
    if let Some(path) = std::env::var_os("OUTRIDER_CONTROL_BIN") {
        return path.into();
    }
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    let built = ["fast", "release", "debug"].map(|profile| target.join(profile).join("outrider-control"));
    built.into_iter().find(|path| path.exists()).expect("outrider-control is not built; run `make test`")
}

/// How it is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// Without TLS, and everybody is believed.
    Plaintext,
    /// TLS, and everybody proves who they are.
    Tls,
}

/// A control server; gone when dropped.
#[derive(Debug)]
pub struct Control {
    /// ADS and identities.
    pub port: u16,
    /// The HTTP API.
    pub api: u16,
    /// Objects in `config`, state in `state`.
    pub folder: PathBuf,
    /// The Kubernetes cluster that its objects come from, in place of `config`.
    pub kubeconfig: Option<PathBuf>,
    /// More arguments.
    pub more: Vec<String>,
    wire: Wire,
    process: Option<Process>,
}

impl Control {
    /// Starts one with these objects, and waits until it is ready.
    #[must_use]
    pub fn start(wire: Wire, objects: &str) -> Self {
        let mut control = Self::stopped(wire, objects);
        control.run();
        control
    }

    /// One that does not run yet.
    ///
    /// # Panics
    /// When files cannot be written.
    #[must_use]
    pub fn stopped(wire: Wire, objects: &str) -> Self {
        let folder = scratch("mesh");
        fs::create_dir(folder.join("config")).expect("a directory");
        let (port, api) = (free_port(), free_port());
        let control = Self { port, api, folder, kubeconfig: None, more: Vec::new(), wire, process: None };
        control.write("mesh.yaml", objects);
        control
    }

    /// Starts the process, on the same ports, and waits until it is ready.
    ///
    /// # Panics
    /// When it does not become ready.
    pub fn run(&mut self) {
        self.spawn();
        let end = Instant::now() + PATIENCE;
        while !admin_get(self.api, "/readyz").is_some_and(|answer| answer.contains(" 200 ")) {
            let running = self.process.as_mut().is_some_and(Process::is_running);
            assert!(running && Instant::now() < end, "not ready:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Starts the process, and does not wait.
    pub fn spawn(&mut self) {
        let mut command = Command::new(control_binary());
        match &self.kubeconfig {
            Some(file) => command.arg("--kubeconfig").arg(file),
            None => command.arg("--config-dir").arg(self.folder.join("config")),
        };
        command.arg("--state-dir").arg(self.state());
        command.args(["--trust-domain", "mesh.test", "--address", &format!("127.0.0.1:{}", self.port)]);
        command.args(["--api-address", &format!("127.0.0.1:{}", self.api)]);
        if self.wire == Wire::Plaintext {
            command.arg("--plaintext");
        }
        command.args(&self.more);
        self.process = Some(Process::spawn(command, scratch("control"), "outrider-control"));
    }

    /// Ends it with SIGKILL.
    ///
    /// # Panics
    /// When it does not end.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal("KILL");
            assert!(process.wait(PATIENCE).is_some());
        }
    }

    /// Sends it a signal by its name.
    pub fn signal(&self, name: &str) {
        if let Some(process) = &self.process {
            process.signal(name);
        }
    }

    /// What the operator's command line says to these arguments: whether it went well, and all that it wrote.
    ///
    /// # Panics
    /// When it cannot be run.
    #[must_use]
    pub fn outrider_cli(&self, arguments: &[&str]) -> (bool, String) {
        let mut command = Command::new(control_binary().with_file_name("outrider"));
        command.args(arguments).args(["--control", &format!("127.0.0.1:{}", self.api)]);
        let done = command.output().expect("outrider is not built; run `make test`");
        let text =
            String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
        (done.status.success(), text)
    }

    /// Asks it to end, and waits until it has.
    ///
    /// # Panics
    /// When it does not end.
    pub fn end(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal("TERM");
            assert_eq!(process.wait(PATIENCE), Some(0));
        }
    }

    /// Where its state is.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// Resident memory, in bytes.
    #[must_use]
    pub fn rss_bytes(&self) -> u64 {
        self.process.as_ref().map_or(0, Process::rss_bytes)
    }

    /// What it has logged since it was started.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    /// Replaces a file of objects, as a whole.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, file: &str, objects: &str) {
        let next = self.folder.join("next");
        fs::write(&next, objects).expect("a file");
        fs::rename(next, self.folder.join("config").join(file)).expect("a file");
    }

    /// A file with a join token for a workload of the namespace `shop`.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn token(&self, service_account: &str) -> PathBuf {
        let mut command = Command::new(control_binary());
        command.arg("token").arg("--state-dir").arg(self.state());
        command.args(["--trust-domain", "mesh.test", "--namespace", "shop"]);
        let made = command.args(["--service-account", service_account]).output().expect("a process");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let path = self.folder.join(format!("{service_account}.token"));
        fs::write(&path, made.stdout).expect("a file");
        path
    }

    /// An answer of the API; nothing where there is none.
    #[must_use]
    pub fn ask(&self, path: &str) -> Value {
        let answer = admin_get(self.api, path).unwrap_or_default();
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        serde_json::from_str(body).unwrap_or_default()
    }

    /// Waits until an answer of the API is as it should be.
    ///
    /// # Panics
    /// When it never is.
    pub fn wait(&self, path: &str, what: &str, good: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let answer = self.ask(path);
            if good(&answer) {
                return answer;
            }
            assert!(Instant::now() < end, "{path}: not {what}: {answer:#}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until a proxy has accepted everything that there is for it.
    pub fn settled(&self, id: &str) -> Value {
        self.wait(&format!("/api/v1/proxies/{id}"), "settled", |proxy| {
            proxy["settled"] == true && proxy["resources"].as_array().is_some_and(|all| !all.is_empty())
        })
    }

    /// A condition of an object, as `STATUS REASON: MESSAGE`.
    #[must_use]
    pub fn condition(&self, key: &str, kind: &str) -> String {
        let object = self.ask(&format!("/api/v1/status/{key}"));
        let all = object["conditions"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let found = all.iter().find(|one| one["type"] == kind);
        found.map_or_else(String::new, |one| {
            format!("{} {}: {}", text(&one["status"]), text(&one["reason"]), text(&one["message"]))
        })
    }

    /// The start-up file of our proxy for a workload of the namespace `shop`.
    #[must_use]
    pub fn outrider(&self, workload: &str, service_account: &str, admin: u16) -> String {
        let (scheme, ca_file, tls) = match self.wire {
            Wire::Plaintext => ("http", String::new(), String::new()),
            Wire::Tls => {
                let own = "tls_certificate_sds_secret_configs: [{name: default}]";
                let roots = "validation_context_sds_secret_config: {name: ROOTCA}";
                ("https", format!(", ca_file: {}/ca.pem", self.state().display()), transport(own, roots))
            }
        };
        let token = self.token(service_account);
        format!(
            "{}outrider: {{identity: {{control: {{address: \"{scheme}://127.0.0.1:{}\", token_file: {}{ca_file}}}}}}}\n",
            self.bootstrap(workload, admin, "DELTA_GRPC", &tls),
            self.port,
            token.display()
        )
    }

    /// The start-up file of Envoy for a workload of the namespace `shop`, with certificates that `fetch-svid` has got.
    /// `api` is `DELTA_GRPC` or `GRPC`.
    #[must_use]
    pub fn envoy(&self, workload: &str, service_account: &str, admin: u16, api: &str) -> String {
        let svid = self.fetch_svid(workload, service_account);
        let file = |name: &str| format!("{{filename: {}/{name}}}", svid.display());
        let own = "tls_certificate_sds_secret_configs: [{name: default}]";
        let roots = "validation_context_sds_secret_config: {name: ROOTCA}";
        format!(
            "{}  secrets:
  - {{name: default, tls_certificate: {{certificate_chain: {}, private_key: {}}}}}
  - {{name: ROOTCA, validation_context: {{trusted_ca: {}}}}}
",
            self.bootstrap(workload, admin, api, &transport(own, roots)),
            file("tls.crt"),
            file("tls.key"),
            file("ca.crt")
        )
    }

    /// A directory with `tls.crt`, `tls.key` and `ca.crt` of a workload.
    ///
    /// # Panics
    /// When it gets no identity.
    #[must_use]
    pub fn fetch_svid(&self, workload: &str, service_account: &str) -> PathBuf {
        let folder = self.folder.join(format!("svid-{workload}"));
        let mut command = Command::new(crate::process::proxy_binary());
        command.args(["fetch-svid", "--once", "--out-dir"]).arg(&folder);
        command.arg("--token-file").arg(self.token(service_account));
        command.args(["--control", &format!("https://127.0.0.1:{}", self.port)]);
        let got = command.arg("--ca-file").arg(self.state().join("ca.pem")).output().expect("a process");
        assert!(got.status.success(), "{}", String::from_utf8_lossy(&got.stderr));
        folder
    }

    /// What Envoy and our proxy have in common; `tls` is the transport socket towards the control server, if any.
    #[must_use]
    pub fn bootstrap(&self, workload: &str, admin: u16, api: &str, tls: &str) -> String {
        let server = crate::config::cluster(
            "control",
            self.port,
            &format!("type: STATIC, connect_timeout: 1s, {}{tls}", crate::config::HTTP2),
        );
        format!(
            "node: {{id: {workload}, cluster: shop, metadata: {{namespace: shop, workload: {workload}}}}}
admin: {{address: {}}}
dynamic_resources:
  ads_config: {{api_type: {api}, transport_api_version: V3, grpc_services: [{{envoy_grpc: {{cluster_name: control}}}}]}}
  lds_config: {{ads: {{}}, resource_api_version: V3}}
  cds_config: {{ads: {{}}, resource_api_version: V3}}
static_resources:
  clusters: [{server}]
",
            crate::config::address(admin)
        )
    }
}

/// TLS towards the control server: with what as own certificate, and verified how.
#[must_use]
pub fn transport(own: &str, roots: &str) -> String {
    let id = "spiffe://mesh.test/ns/outrider-system/sa/outrider-control";
    let expected = format!("[{{san_type: URI, matcher: {{exact: \"{id}\"}}}}]");
    format!(
        ", transport_socket: {{name: tls, typed_config: {{\"@type\": {}.UpstreamTlsContext, common_tls_context: \
         {{tls_params: {{tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}}, {own}, \
         combined_validation_context: {{default_validation_context: {{match_typed_subject_alt_names: {expected}}}, \
         {roots}}}}}}}}}",
        crate::mesh::TLS
    )
}

impl Drop for Control {
    fn drop(&mut self) {
        drop(self.process.take());
        let _ = fs::remove_dir_all(&self.folder);
    }
}
