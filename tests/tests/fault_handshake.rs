//! A fault that shows an expired certificate: the peer's own verification must be what fails, and must say why.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use outrider_tests::backend::Backend;
use outrider_tests::client::PATIENCE;
use outrider_tests::config::{HCM, ROUTER, STDOUT, address, cluster};
use outrider_tests::faults::{Lab, Setup};
use outrider_tests::mesh::{DAY, Mesh, SERVER};
use outrider_tests::process::{Process, admin_get, envoy_binary, free_port};

/// The life of a certificate that is to be really over; whole seconds are cut off.
const SHORT: Duration = Duration::from_secs(4);
const EXPIRED: &str = "place: INBOUND, match: {listeners: [tls]}, expired_certificate: {}";

fn http() -> String {
    format!(
        "{{name: http, typed_config: {{\"@type\": {HCM}, stat_prefix: s, access_log: [{{name: log, typed_config: {{\"@type\": {STDOUT}, \
         log_format: {{text_format_source: {{inline_string: \"LINE %RESPONSE_FLAGS% %UPSTREAM_TRANSPORT_FAILURE_REASON%\\n\"}}}}}}}}], \
         http_filters: [{{name: r, typed_config: \
         {{\"@type\": {ROUTER}}}}}], route_config: {{virtual_hosts: [{{name: v, domains: ['*'], routes: \
         [{{match: {{prefix: /}}, route: {{cluster: be}}}}]}}]}}}}}}"
    )
}

/// Configuration of one listener before one cluster.
fn config(admin: u16, port: u16, chain: &str, be: &str) -> String {
    format!(
        "admin: {{address: {}}}\nstatic_resources: {{listeners: [{{name: l, address: {}, filter_chains: [{{filters: [{}]{chain}}}]}}], \
         clusters: [{be}]}}\n",
        address(admin),
        address(port),
        http()
    )
}

/// A client's sidecar before the lab's listener with TLS, as ours or as Envoy.
fn peer(mesh: &Mesh, lab: &Lab, envoy: Option<&std::path::Path>) -> (Process, u16, u16) {
    let (admin, port) = (free_port(), free_port());
    let config = config(admin, port, "", &cluster("be", lab.tls, &mesh.upstream("http/1.1")));
    let process = match envoy {
        Some(binary) => Process::envoy(binary, &config, admin),
        None => Process::outrider(&config, admin),
    };
    (process, admin, port)
}

fn metric(admin: u16, name: &str) -> f64 {
    let all = admin_get(admin, "/stats/prometheus").unwrap();
    all.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or(0.0)
}

fn refused(side: &str, outcome: &str) -> String {
    format!("outrider_tls_handshakes_total{{side=\"{side}\",outcome=\"{outcome}\"}}")
}

/// What `openssl s_client` says, and whether it was content.
fn openssl(mesh: &Mesh, port: u16) -> (String, bool) {
    let output = Command::new("openssl")
        .args(["s_client", "-connect", &format!("127.0.0.1:{port}"), "-verify_return_error", "-brief"])
        .arg("-CAfile")
        .arg(mesh.folder.join("ca.pem"))
        .arg("-cert")
        .arg(mesh.file("client", "pem"))
        .arg("-cert_chain")
        .arg(mesh.file("client", "pem"))
        .arg("-key")
        .arg(mesh.file("client", "key"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    (String::from_utf8_lossy(&output.stderr).into_owned(), output.status.success())
}

/// What curl says, which verifies names too, but only after the time.
fn curl(mesh: &Mesh, port: u16) -> String {
    let file = |path: std::path::PathBuf| path.display().to_string();
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "10", "--cacert", &file(mesh.folder.join("ca.pem"))])
        .args(["--cert", &file(mesh.file("client", "pem")), "--key", &file(mesh.file("client", "key"))])
        .arg(format!("https://127.0.0.1:{port}/"))
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Waits until the listener shows the certificate that somebody's file begins with.
async fn shows(mesh: &Mesh, lab: &Lab) {
    let text = std::fs::read_to_string(mesh.file("server", "pem")).unwrap();
    let leaf: String = text.lines().skip(1).take(3).collect();
    let end = Instant::now() + PATIENCE;
    loop {
        let output = Command::new("openssl")
            .args(["s_client", "-connect", &format!("127.0.0.1:{}", lab.tls), "-showcerts"])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        if String::from_utf8_lossy(&output.stdout).replace('\n', "").contains(&leaf) {
            return;
        }
        assert!(Instant::now() < end, "the new certificate is not in use");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_find_an_expired_certificate_and_say_so() {
    let mesh = Mesh::new("expired");
    let lab = Lab::start(Setup { socket: &mesh.downstream(), ..Setup::default() }).await;
    {
        let (_ours, _, port) = peer(&mesh, &lab, None);
        assert_eq!(lab.get(port, "/").await.status, 200);
    }

    // One that was made for the purpose: our own proxies look at the time first.
    lab.inject(&[EXPIRED]).await;
    let before = lab.backend.seen().len();
    let (ours, admin, port) = peer(&mesh, &lab, None);
    let answer = lab.get(port, "/").await;
    assert_eq!((answer.status, answer.header("outrider-error")), (503, Some("upstream_tls_refused")));
    assert!(metric(admin, &refused("upstream", "tls_expired")) >= 1.0);
    lab.until("the reason in its log", || ours.log().contains("LINE UF,TR tls_expired")).await;
    let (said, content) = openssl(&mesh, lab.tls);
    assert!(!content && said.contains("unable to get local issuer certificate"), "{said}");
    assert!(lab.metric("outrider_faults_total{fault=\"f0\",effect=\"expired_certificate\"}") >= 2.0);
    assert_eq!(lab.backend.seen().len(), before, "nothing came through");

    // One that really was in use: everybody finds a root, and then the time.
    lab.inject(&[]).await;
    // A certificate is valid to the end of its last second.
    let ends = SystemTime::now() + SHORT + Duration::from_secs(1);
    mesh.write("server", &mesh.authority.svid(SERVER, SHORT));
    shows(&mesh, &lab).await;
    mesh.write("server", &mesh.authority.svid(SERVER, DAY));
    shows(&mesh, &lab).await;
    assert!(openssl(&mesh, lab.tls).1, "the new one is good");
    while SystemTime::now() <= ends {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    lab.inject(&[EXPIRED]).await;
    let (said, content) = openssl(&mesh, lab.tls);
    assert!(!content && said.contains("certificate has expired"), "{said}");
    let said = curl(&mesh, lab.tls);
    assert!(said.contains("certificate has expired"), "{said}");
    assert_eq!(lab.get(port, "/").await.status, 503);
    if let Some(envoy) = envoy_binary() {
        let (envoy, _, port) = peer(&mesh, &lab, Some(&envoy));
        assert_eq!(lab.get(port, "/").await.status, 503);
        lab.until("Envoy's reason", || envoy.log().contains("certificate_has_expired")).await;
    } else {
        println!("skipped: Envoy, which is not there");
    }
    assert!(lab.metric(&refused("downstream", "tls_refused_by_peer")) >= 2.0);

    lab.inject(&[]).await;
    assert!(openssl(&mesh, lab.tls).1, "the fault is over");
    assert_eq!(lab.get(port, "/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_find_an_expired_certificate_and_say_so() {
    let (mesh, backend) = (Mesh::new("expired-client"), Backend::start().await);
    let (admin, port) = (free_port(), free_port());
    let chain = format!(", {}", mesh.downstream());
    let _server = Process::outrider(&config(admin, port, &chain, &cluster("be", backend.port, "")), admin);
    let socket = mesh.upstream("http/1.1");
    let lab = Lab::start(Setup { cluster: &socket, leads_to: port, ..Setup::default() }).await;
    assert_eq!(lab.get(lab.outbound, "/").await.status, 200);

    lab.inject(&["place: UPSTREAM, match: {clusters: [be]}, expired_certificate: {}"]).await;
    let answer = lab.get(lab.outbound, "/").await;
    assert_eq!((answer.status, answer.header("outrider-error")), (503, Some("upstream_tls_refused")));
    assert_eq!(answer.header("outrider-fault"), Some("f0"));
    assert!(metric(admin, &refused("downstream", "tls_expired")) >= 1.0);
    assert!(lab.metric(&refused("upstream", "tls_refused_by_peer")) >= 1.0);
    let seen = backend.seen().len();
    assert_eq!(lab.get(lab.tcp, "/").await.status, 0, "an opaque connection is closed");
    assert_eq!(backend.seen().len(), seen, "nothing came through");

    lab.inject(&[]).await;
    assert_eq!(lab.get(lab.outbound, "/").await.status, 200);
}
