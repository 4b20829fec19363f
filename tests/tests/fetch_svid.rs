//! Who reads the files of `fetch-svid`: our own proxy and Envoy, while they are rotated under them.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use outrider_tests::authority::Authority;
use outrider_tests::identity_server::{Behaviour, IdentityServer};
use outrider_tests::process::{Process, admin_get, envoy_binary, free_port, proxy_binary, scratch};

const ID: &str = "spiffe://mesh.test/ns/shop/sa/cart";
const TOKEN: &str = "a-token";
/// Short enough to see rotations, long enough for a slow machine.
const TTL: Duration = Duration::from_secs(4);
const PATIENCE: Duration = Duration::from_secs(30);
const ROTATIONS: usize = 4;

/// `fetch-svid` at work, with its first files there.
struct Lab {
    authority: Arc<Authority>,
    _server: IdentityServer,
    process: Process,
}

impl Lab {
    fn start() -> Self {
        let authority = Arc::new(Authority::new("mesh.test"));
        let server = IdentityServer::start(&authority, Behaviour::one(TOKEN, ID, TTL));
        let directory = scratch("fetch-svid");
        fs::write(directory.join("token"), TOKEN).unwrap();
        let mut command = Command::new(proxy_binary());
        command.args([
            "fetch-svid",
            "--control",
            &format!("http://127.0.0.1:{}", server.port),
            "--token-file",
        ]);
        command.arg(directory.join("token")).arg("--out-dir").arg(directory.join("out"));
        let process = Process::spawn(command, directory, "fetch-svid");
        let lab = Self { authority, _server: server, process };
        lab.until("files", || fs::read_to_string(lab.file("ca.crt")).ok());
        lab
    }

    fn file(&self, name: &str) -> String {
        self.process.directory.join("out").join(name).display().to_string()
    }

    fn until<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(found) = look() {
                return found;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{what}: not in time\n{}", self.process.log());
    }
}

#[test]
fn the_proxy_follows_every_rotation_within_a_second_and_never_reads_half_of_one() {
    let lab = Lab::start();
    let admin = free_port();
    let [chain, key, roots] = ["tls.crt", "tls.key", "ca.crt"].map(|name| lab.file(name));
    let config = format!(
        "admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {admin}}}}}}}
outrider: {{identity: {{files: {{certificate_chain: {chain}, private_key: {key}, trust_bundle: {roots}}}}}}}
"
    );
    let proxy = Process::outrider(&config, admin);
    let metrics = || admin_get(admin, "/stats/prometheus").unwrap_or_default();
    let count = || {
        let text = metrics();
        let line = text.lines().find(|line| line.contains("renewals_total{outcome=\"ok\"}"))?;
        line.rsplit(' ').next()?.parse::<usize>().ok()
    };
    let first = lab.until("an identity", count);
    for number in 1..=ROTATIONS {
        let before = fs::read_to_string(&chain).unwrap_or_default();
        lab.until("a rotation", || fs::read_to_string(&chain).ok().filter(|text| *text != before));
        let rotated = Instant::now();
        lab.until("its use", || count().filter(|count| *count >= first + number));
        let took = rotated.elapsed();
        assert!(took < Duration::from_secs(1), "taken after {took:?}");
    }
    for outcome in ["local", "invalid"] {
        assert!(!metrics().contains(&format!("renewals_total{{outcome=\"{outcome}\"}}")), "{}", proxy.log());
    }
}

#[test]
fn envoy_serves_every_rotation_to_clients_that_verify_it() {
    let Some(binary) = envoy_binary() else {
        eprintln!("SKIPPED: no Envoy; set OUTRIDER_TEST_ENVOY");
        return;
    };
    let lab = Lab::start();
    let (admin, port) = (free_port(), free_port());
    let directory = Path::new(&lab.file("tls.crt")).parent().unwrap().display().to_string();
    let secret = lab.process.directory.join("secret.yaml");
    let [chain, key] = ["tls.crt", "tls.key"].map(|name| lab.file(name));
    let text = format!(
        "resources:
- \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret
  name: svid
  tls_certificate:
    certificate_chain: {{filename: {chain}}}
    private_key: {{filename: {key}}}
    watched_directory: {{path: {directory}}}
"
    );
    fs::write(&secret, text).unwrap();
    let config = format!(
        "admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {admin}}}}}}}
node: {{id: e, cluster: e}}
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - transport_socket:
        name: tls
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            tls_certificate_sds_secret_configs: [{{name: svid, sds_config: {{path_config_source: {{path: {}}}}}}}]
      filters:
      - name: http
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: s
          http_filters: [{{name: router, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]
          route_config: {{virtual_hosts: [{{name: all, domains: [\"*\"], routes: [{{match: {{prefix: /}}, direct_response: {{status: 200}}}}]}}]}}
",
        secret.display()
    );
    let _envoy = Process::envoy(&binary, &config, admin);
    let roots = lab.process.directory.join("roots.pem");
    fs::write(&roots, lab.authority.root_pem()).unwrap();
    // The certificate that Envoy shows, if it is verified.
    let shown = || {
        let mut command = Command::new("openssl");
        command.args([
            "s_client",
            "-connect",
            &format!("127.0.0.1:{port}"),
            "-verify_return_error",
            "-CAfile",
        ]);
        let output = command.arg(&roots).stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let end = "-----END CERTIFICATE-----";
        let from = text.find("-----BEGIN CERTIFICATE-----")?;
        let to = text.find(end)?;
        output.status.success().then(|| text.get(from..to + end.len()).map(str::to_owned))?
    };
    let mut seen = vec![lab.until("a handshake", shown)];
    while seen.len() <= ROTATIONS {
        let next = lab.until("a new certificate", || {
            let text = shown().expect("every handshake in between is verified, too");
            (!seen.contains(&text)).then_some(text)
        });
        seen.push(next);
    }
}
