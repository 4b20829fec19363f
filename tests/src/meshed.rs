//! A pod in a mesh: its sidecar with the redirection, and a control server that only it reaches, all in one network
//! namespace; and servers in pods beside it.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::config;
use crate::control::control_binary;
use crate::pods::{self, Network, PROXY_ID, Pod, until};
use crate::process::{Process, scratch};

/// Where the control server is in the pod, and where its HTTP API.
const CONTROL: u16 = 15012;
const API: u16 = 15080;

/// Whether there can be no pods here; says why.
///
/// # Panics
/// In CI, which must have what they need.
#[must_use]
pub fn skipped() -> bool {
    if !*pods::NAMESPACES {
        println!("SKIPPED: network namespaces need root and iproute2");
        return true;
    }
    let Some(why) = pods::missing(&["nginx", "openssl"]) else { return false };
    assert!(std::env::var_os("CI").is_none(), "CI must have the lab: {why}");
    println!("SKIPPED: {why}");
    true
}

/// The pod `client` with its control server. Processes go first when it is dropped.
#[derive(Debug)]
pub struct Meshed {
    control: Option<Process>,
    /// The pod.
    pub client: Pod,
    /// What it is in.
    pub network: Network,
    folder: PathBuf,
}

impl Meshed {
    /// With these objects, and the workload `client-1` of the namespace `shop`.
    ///
    /// # Panics
    /// When anything cannot be had.
    #[must_use]
    pub fn new(objects: &str) -> Self {
        let mut network = Network::new();
        let client = network.pod("client");
        let folder = scratch("meshed");
        fs::create_dir(folder.join("config")).expect("a directory");
        let mut meshed = Self { control: None, client, network, folder };
        let workload = format!(
            "{{apiVersion: mesh.outrider.dev/v1alpha1, kind: Workload, metadata: {{name: client-1, namespace: shop}}, spec: {{address: {}, \
             ports: [{{port: 7}}]}}}}\n",
            meshed.client.v4
        );
        meshed.write("client.yaml", &workload);
        meshed.write("mesh.yaml", objects);
        meshed.start_control();
        meshed.client.redirect(&[]);
        meshed
    }

    /// Replaces a file of objects.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, file: &str, objects: &str) {
        let next = self.folder.join("next");
        fs::write(&next, objects).expect("a file");
        fs::rename(next, self.folder.join("config").join(file)).expect("a file");
    }

    /// Starts the control server.
    pub fn start_control(&mut self) {
        let path = |name: &str| self.folder.join(name).display().to_string();
        let (address, api) = (format!("127.0.0.1:{CONTROL}"), format!("127.0.0.1:{API}"));
        let (config, state) = (path("config"), path("state"));
        let arguments =
            ["--config-dir", &config, "--state-dir", &state, "--plaintext", "--address", &address];
        let arguments: Vec<&str> = arguments.into_iter().chain(["--api-address", &api]).collect();
        let binary = control_binary();
        let process = self.client.start(binary.to_str().expect("a path"), &arguments, scratch("control"));
        self.control = Some(process);
        until("the control server is ready", || self.curl(&[&format!("http://{api}/readyz")]).0);
    }

    /// Ends it at once.
    pub fn kill_control(&mut self) {
        self.control = None;
    }

    /// The start-up file of the sidecar; `more` is added to it.
    #[must_use]
    pub fn bootstrap(&self, more: &str) -> String {
        let server = config::cluster(
            "control",
            CONTROL,
            &format!("type: STATIC, connect_timeout: 1s, {}", config::HTTP2),
        );
        format!(
            "node: {{id: client-1, cluster: shop, metadata: {{namespace: shop, workload: client-1}}}}
dynamic_resources:
  ads_config: {{api_type: DELTA_GRPC, transport_api_version: V3, grpc_services: [{{envoy_grpc: {{cluster_name: control}}}}]}}
  lds_config: {{ads: {{}}, resource_api_version: V3}}
  cds_config: {{ads: {{}}, resource_api_version: V3}}
static_resources: {{clusters: [{server}]}}
{more}
"
        )
    }

    /// Envoy in the place of the sidecar.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn envoy(&self, binary: &Path) -> Process {
        let directory = scratch("envoy");
        let file = directory.join("config.yaml");
        fs::write(&file, self.bootstrap(&format!("admin: {{address: {}}}", config::address(15000))))
            .expect("a file");
        let mut command = self.client.command_as(binary, (PROXY_ID, PROXY_ID));
        command.args(["--concurrency", "2", "--log-level", "error", "--use-dynamic-base-id", "-c"]).arg(file);
        Process::spawn(command, directory, "envoy")
    }

    /// What curl says in the pod, as its application: whether all went well, and what came.
    #[must_use]
    pub fn curl(&self, arguments: &[&str]) -> (bool, String) {
        let output = self.client.curl(arguments, None);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.success(), text + &String::from_utf8_lossy(&output.stderr))
    }

    /// An answer of the control server's API.
    #[must_use]
    pub fn api(&self, path: &str) -> Value {
        serde_json::from_str(&self.curl(&[&format!("http://127.0.0.1:{API}{path}")]).1).unwrap_or_default()
    }

    /// The names of the resources of a kind that the sidecar has.
    #[must_use]
    pub fn has(&self, kind: &str, field: &str) -> Vec<String> {
        let (_, text) = self.curl(&["http://127.0.0.1:15000/config_dump"]);
        let dump: Value = serde_json::from_str(&text).unwrap_or_default();
        let all = dump[kind].as_array().cloned().unwrap_or_default();
        all.iter().map(|one| one[field].as_str().unwrap_or_default().to_owned()).collect()
    }
}

impl Drop for Meshed {
    fn drop(&mut self) {
        self.control = None;
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// nginx in a pod: on 8080 in plaintext and on 8443 with TLS, it answers with its name and the path.
///
/// # Panics
/// When it does not start.
#[must_use]
pub fn nginx(pod: &Pod, name: &str) -> Process {
    let folder = scratch("nginx");
    certificate(&folder);
    let config = format!(
        "daemon off; master_process off; error_log {0}/error.log; pid {0}/pid; events {{}}
         http {{ access_log off; client_body_temp_path {0}/b; proxy_temp_path {0}/p; fastcgi_temp_path {0}/f;
         uwsgi_temp_path {0}/u; scgi_temp_path {0}/s; ssl_certificate {0}/crt; ssl_certificate_key {0}/key;
         server {{ listen 8080; listen [::]:8080 ipv6only=on; listen 8443 ssl; location / {{ return 200 \"{name} $request_uri\"; }} }} }}",
        folder.display()
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, config).expect("a file");
    let process = pod.start("nginx", &["-c", file.to_str().expect("a path")], folder);
    until("nginx listens", || pod.listens(8080) && pod.listens(8443));
    process
}

fn certificate(folder: &Path) {
    let mut command = std::process::Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
    command.args(["-days", "2", "-subj", "/CN=test", "-out"]).arg(folder.join("crt"));
    let made = command.arg("-keyout").arg(folder.join("key")).output().expect("openssl");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}
