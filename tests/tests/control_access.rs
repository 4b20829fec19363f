//! Who gets what of the control server: nobody anything that they have not proved to be theirs.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use outrider_tests::ads_client::AdsClient;
use outrider_tests::authority::{Authority, Credentials};
use outrider_tests::client::PATIENCE;
use outrider_tests::control::{Control, Wire};
use outrider_tests::mesh::DAY;
use outrider_tests::process::{Process, envoy_binary, free_port, scratch};
use tokio::time::timeout;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status};

/// Two workloads of one namespace, each with a local port for the other, and a service for both.
const MESH: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.0.0.1, ports: [{name: http, port: 80}]}
---
apiVersion: mesh.outrider.dev/v1alpha1
kind: Workload
metadata: {name: client-1, namespace: shop}
spec: {address: 10.0.1.1, serviceAccount: client, upstreams: [{service: web, port: 80, bind: '127.0.0.1:9001'}]}
---
apiVersion: mesh.outrider.dev/v1alpha1
kind: Workload
metadata: {name: web-1, namespace: shop}
spec: {address: 10.0.1.2, serviceAccount: web, service: web, ports: [{name: http, port: 80, appPort: 8080, protocol: HTTP}]}
";

fn endpoint(control: &Control, own: Option<(&[u8], &[u8])>) -> Endpoint {
    let roots = fs::read(control.state().join("ca.pem")).unwrap();
    let mut tls =
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(roots)).domain_name("localhost");
    if let Some((chain, key)) = own {
        tls = tls.identity(Identity::from_pem(chain, key));
    }
    Endpoint::from_shared(format!("https://127.0.0.1:{}", control.port)).unwrap().tls_config(tls).unwrap()
}

/// What comes of a stream: the names of what is told, or why nothing is.
async fn told(mut client: AdsClient, endpoint: Endpoint, token: Option<&str>) -> Result<Vec<String>, Status> {
    let got = timeout(PATIENCE, async {
        client.connect_as(endpoint, token).await?;
        while !client.held.keys().any(|(kind, _)| kind.ends_with("Listener")) {
            client.next(true).await?;
        }
        Ok(client.held.into_keys().map(|(_, name)| name).collect())
    });
    got.await.expect("an answer in time")
}

fn svid(folder: &Path) -> (Vec<u8>, Vec<u8>) {
    (fs::read(folder.join("tls.crt")).unwrap(), fs::read(folder.join("tls.key")).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_gets_what_is_of_the_identity_that_it_has_proved() {
    let control = Control::start(Wire::Tls, MESH);
    let token = fs::read_to_string(control.token("client")).unwrap();
    let token = Some(token.trim());
    let (chain, key) = svid(&control.fetch_svid("client-1", "client"));
    let own = Some((&*chain, &*key));
    let upstream = "upstream|127.0.0.1:9001".to_owned();
    // By certificate, or with a token before there is one.
    for (endpoint, token) in [(endpoint(&control, own), None), (endpoint(&control, None), token)] {
        let names = told(AdsClient::new("a", "client-1"), endpoint, token).await.unwrap();
        assert!(names.contains(&upstream), "{names:?}");
    }
    // What is another workload's is not told, whatever somebody says to be.
    let names = told(AdsClient::new("a", "web-1"), endpoint(&control, own), None).await.unwrap();
    assert!(!names.iter().any(|name| name.starts_with("inbound|10.0.1.2")), "{names:?}");
    let mut elsewhere = AdsClient::new("a", "client-1");
    elsewhere.namespace = "bank".to_owned();
    let error = told(elsewhere, endpoint(&control, own), None).await.unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied);
    assert!(error.message().contains("\"shop\""), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_proves_nothing_gets_nothing() {
    let control = Control::start(Wire::Tls, MESH);
    let client = || AdsClient::new("a", "client-1");
    let token = fs::read_to_string(control.token("client")).unwrap();
    let mut forged = token.trim().to_owned();
    let at = forged.len() - 10;
    let other = if forged.as_bytes()[at] == b'A' { "B" } else { "A" };
    forged.replace_range(at..=at, other);
    for (token, word) in [(None, "certificate"), (Some(&*forged), "token"), (Some("x"), "token")] {
        let error = told(client(), endpoint(&control, None), token).await.unwrap_err();
        assert_eq!(error.code(), Code::Unauthenticated, "{error}");
        assert!(error.message().contains(word), "{error}");
    }
    // A certificate of an authority that only has the same name, and plaintext.
    let foreign = Authority::new("mesh.test").svid("spiffe://mesh.test/ns/shop/sa/client", DAY);
    let Credentials { chain_pem, key_pem, .. } = foreign;
    let own = Some((chain_pem.as_bytes(), key_pem.as_bytes()));
    assert!(told(client(), endpoint(&control, own), Some(token.trim())).await.is_err());
    let plaintext = Endpoint::from_shared(format!("http://127.0.0.1:{}", control.port)).unwrap();
    assert!(told(client(), plaintext, Some(token.trim())).await.is_err());
    assert_eq!(control.ask("/api/v1/proxies")["proxies"].as_array().unwrap().len(), 0);
    assert!(!control.log().contains(&forged), "tokens are not logged");
}

/// The start-up file of the page, as somebody would write it off, for our proxy and for Envoy. Without what it says of TLS
/// Envoy is refused, and the log has it.
#[test]
fn the_start_up_file_of_the_documentation_connects() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/control-server.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, file) = page.split_once("this start-up file:\n\n```yaml\n").unwrap();
    let (file, _) = file.split_once("```").unwrap();
    let control = Control::start(Wire::Tls, MESH);
    let (admin, state) = (free_port(), control.state());
    let file = file
        .replace("10.0.0.5", "127.0.0.1")
        .replace("15012", &control.port.to_string())
        .replace("spiffe://example.org", "spiffe://mesh.test")
        .replace("server_name: outrider-control", "server_name: localhost")
        .replace("cart.token", &control.token("cart").display().to_string())
        .replace("ca_file: ca.pem", &format!("ca_file: {}/ca.pem", state.display()));
    let admin_address = format!("admin: {{address: {}}}\n", outrider_tests::config::address(admin));
    let proxy = Process::outrider(&format!("{admin_address}{file}"), admin);
    control.settled("cart-1");
    drop(proxy);
    let Some(envoy) = envoy_binary() else { return };
    control.wait("/api/v1/proxies", "gone", |all| all["proxies"].as_array().is_some_and(Vec::is_empty));
    let svid = control.fetch_svid("cart-1", "cart");
    let name = |name: &str| format!("{{filename: {}/{name}}}", svid.display());
    let (common, _) = file.split_once("outrider:\n").unwrap();
    let config = format!(
        "{admin_address}{common}  secrets:
  - {{name: default, tls_certificate: {{certificate_chain: {}, private_key: {}}}}}
  - {{name: ROOTCA, validation_context: {{trusted_ca: {}}}}}
",
        name("tls.crt"),
        name("tls.key"),
        name("ca.crt")
    );
    let (before, after) = config.split_once("          tls_params: ").unwrap();
    let without = format!("{before}{}", after.split_once('\n').unwrap().1);
    let folder = scratch("envoy-without");
    fs::write(folder.join("config.yaml"), without).unwrap();
    let mut command = Command::new(&envoy);
    command.args(["--concurrency", "1", "--use-dynamic-base-id", "-c"]).arg(folder.join("config.yaml"));
    // It is never ready.
    let old = Process::spawn(command, folder, "envoy without TLS 1.3");
    let end = Instant::now() + PATIENCE;
    while !control.log().contains("WARN outrider_control::accept::tls::refusals: no TLS connection") {
        assert!(Instant::now() < end, "{}", control.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(old);
    let _envoy = Process::envoy(&envoy, &config, admin);
    control.settled("cart-1");
}
