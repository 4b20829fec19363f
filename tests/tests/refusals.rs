//! Every reason to refuse a certificate, over the wire: each stands under its own code in the metric, in the log of
//! security events, and on the outbound side in the access log, with its response flag.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use outrider_tests::authority::Authority;
use outrider_tests::backend::Backend;
use outrider_tests::client::{self, Ask, PATIENCE};
use outrider_tests::config::{HCM, ROUTER, STDOUT, address, cluster};
use outrider_tests::mesh::{CLIENT, DAY, Mesh, SERVER, TLS};
use outrider_tests::process::{Process, admin_get, free_port};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};

const SPIFFE: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig";

/// What is wrong with a certificate, and the code that it is refused with.
type Case = (&'static str, fn(&mut CertificateParams));

fn uri(id: &str) -> SanType {
    SanType::URI(id.try_into().unwrap())
}

const CASES: &[Case] = &[
    ("tls_expired", |params| {
        params.not_before = (SystemTime::now() - Duration::from_secs(7200)).into();
        params.not_after = (SystemTime::now() - Duration::from_secs(3600)).into();
    }),
    ("tls_not_yet_valid", |params| {
        params.not_before = (SystemTime::now() + Duration::from_secs(3600)).into();
        params.not_after = (SystemTime::now() + Duration::from_secs(7200)).into();
    }),
    ("tls_ca_as_leaf", |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
    ("tls_wrong_usage", |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning]),
    ("tls_wrong_usage", |params| {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
    }),
    ("tls_several_uris", |params| params.subject_alt_names.push(uri("spiffe://mesh.test/ns/shop/sa/two"))),
    ("tls_no_spiffe_id", |params| {
        params.subject_alt_names = vec![SanType::DnsName("server.shop".try_into().unwrap())];
    }),
    ("tls_bad_spiffe_id", |params| params.subject_alt_names = vec![uri("https://mesh.test/ns/shop/sa/x")]),
    ("tls_bad_spiffe_id", |params| {
        params.subject_alt_names = vec![uri("spiffe://mesh.test/ns/../sa/server")];
    }),
    ("tls_no_path", |params| params.subject_alt_names = vec![uri("spiffe://mesh.test")]),
    ("tls_foreign_trust_domain", |params| {
        params.subject_alt_names = vec![uri("spiffe://other.test/ns/shop/sa/server")];
    }),
    ("tls_not_expected", |params| {
        params.subject_alt_names = vec![uri("spiffe://mesh.test/ns/shop/sa/thief")];
    }),
];

/// A TLS context that trusts the mesh's root for the mesh's own trust domain.
fn socket(mesh: &Mesh, kind: &str, who: &str, peer: &str) -> String {
    let file = |who: &str, kind: &str| mesh.file(who, kind).display().to_string();
    let required = if kind == "DownstreamTlsContext" { "require_client_certificate: true, " } else { "" };
    format!(
        "transport_socket: {{name: tls, typed_config: {{\"@type\": {TLS}.{kind}, {required}common_tls_context: {{\
         tls_certificates: [{{certificate_chain: {{filename: {}}}, private_key: {{filename: {}}}}}], validation_context: {{\
         match_typed_subject_alt_names: [{{san_type: URI, matcher: {{exact: \"{peer}\"}}}}], custom_validator_config: {{\
         name: envoy.tls.cert_validator.spiffe, typed_config: {{\"@type\": {SPIFFE}, trust_domains: [{{name: mesh.test, \
         trust_bundle: {{filename: {}}}}}]}}}}}}}}}}}}",
        file(who, "pem"),
        file(who, "key"),
        mesh.folder.join("ca.pem").display(),
    )
}

/// A proxy with one listener before one cluster; its access log says what it knows of failures.
fn proxy(admin: u16, port: u16, chain: &str, be: &str) -> Process {
    let log = format!(
        "access_log: [{{name: log, typed_config: {{\"@type\": {STDOUT}, log_format: {{text_format_source: {{inline_string: \
         \"LINE %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %UPSTREAM_TRANSPORT_FAILURE_REASON%\\n\"}}}}}}}}]"
    );
    let http = format!(
        "{{name: http, typed_config: {{\"@type\": {HCM}, stat_prefix: s, {log}, http_filters: [{{name: r, typed_config: \
         {{\"@type\": {ROUTER}}}}}], route_config: {{virtual_hosts: [{{name: v, domains: ['*'], routes: \
         [{{match: {{prefix: /}}, route: {{cluster: be}}}}]}}]}}}}}}"
    );
    let config = format!(
        "admin: {{address: {}}}\nstatic_resources: {{listeners: [{{name: l, address: {}, {log}, \
         filter_chains: [{{filters: [{http}]{chain}}}]}}], clusters: [{be}]}}\n",
        address(admin),
        address(port)
    );
    Process::outrider(&config, admin)
}

fn metric(admin: u16, side: &str, code: &str) -> f64 {
    let name = format!("outrider_tls_handshakes_total{{side=\"{side}\",outcome=\"{code}\"}}");
    let all = admin_get(admin, "/metrics").unwrap();
    all.lines().find_map(|line| line.strip_prefix(name.as_str())?.trim().parse().ok()).unwrap_or(0.0)
}

/// A certificate of this identity with this wrong about it; a stranger's when the code says so.
fn write(mesh: &Mesh, who: &str, id: &str, (code, change): Case) {
    let mut params = Authority::svid_params(id, DAY);
    change(&mut params);
    let stranger = Authority::new("mesh.test");
    let authority = if code == "tls_unknown_issuer" { &stranger } else { &mesh.authority };
    mesh.write(who, &authority.issue(&params));
}

fn all() -> Vec<Case> {
    let stranger: Case = ("tls_unknown_issuer", |_| {});
    CASES.iter().copied().chain([stranger]).collect()
}

/// A server of TLS that somebody else has written, and that shows anything.
struct OpenSsl(Child);

impl Drop for OpenSsl {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl OpenSsl {
    async fn serve(mesh: &Mesh, port: u16) -> Self {
        let child = Command::new("openssl")
            .args(["s_server", "-quiet", "-tls1_3", "-www", "-accept", &port.to_string()])
            .arg("-cert")
            .arg(mesh.file("shown", "pem"))
            .arg("-cert_chain")
            .arg(mesh.file("shown", "pem"))
            .arg("-key")
            .arg(mesh.file("shown", "key"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self(child);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let end = std::time::Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(address).is_err() {
            assert!(std::time::Instant::now() < end, "openssl does not listen");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        server
    }
}

fn event(side: &str, code: &str) -> impl Fn(&str) -> bool {
    let reason = format!("reason=\"{code}\"");
    let side = format!("side=\"{side}\"");
    move |line| line.contains("security") && line.contains(&reason) && line.contains(&side)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_cannot_be_believed_are_named_with_the_reason() {
    let mesh = Mesh::new("refused-servers");
    for (code, change) in all() {
        let (admin, port, upstream) = (free_port(), free_port(), free_port());
        write(&mesh, "shown", SERVER, (code, change));
        let _server = OpenSsl::serve(&mesh, upstream).await;
        let socket = socket(&mesh, "UpstreamTlsContext", "client", SERVER);
        let proxy = proxy(admin, port, "", &cluster("be", upstream, &socket));
        let answer = client::h1(port, &Ask::default()).await;
        assert_eq!((answer.status, answer.header("outrider-error")), (503, Some("upstream_tls_refused")));
        assert!(metric(admin, "upstream", code) >= 1.0, "{code}\n{}", proxy.log());
        let wanted = format!("LINE UF,TR upstream_tls_refused {code}");
        let end = std::time::Instant::now() + PATIENCE;
        while !proxy.log().contains(&wanted) {
            assert!(std::time::Instant::now() < end, "{wanted}\n{}", proxy.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(proxy.log().lines().any(event("upstream", code)), "{code}\n{}", proxy.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_cannot_be_believed_are_named_with_the_reason() {
    let (mesh, backend) = (Mesh::new("refused-clients"), Backend::start().await);
    for (code, change) in all() {
        // A worker of its own for each, so that no event is left out.
        let (admin, port) = (free_port(), free_port());
        let chain = format!(", {}", socket(&mesh, "DownstreamTlsContext", "server", CLIENT));
        let proxy = proxy(admin, port, &chain, &cluster("be", backend.port, ""));
        write(&mesh, "shown", CLIENT, (code, change));
        let (cert, key) = (mesh.file("shown", "pem"), mesh.file("shown", "key"));
        let out = mesh.curl(&[
            "--cert",
            cert.to_str().unwrap(),
            "--key",
            key.to_str().unwrap(),
            &format!("https://127.0.0.1:{port}/"),
        ]);
        assert!(!out.status.success(), "{code}");
        let end = std::time::Instant::now() + PATIENCE;
        while !proxy.log().contains(&format!("LINE - {code} -")) {
            assert!(std::time::Instant::now() < end, "{code}\n{}", proxy.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(metric(admin, "downstream", code) >= 1.0, "{code}\n{}", proxy.log());
        assert!(proxy.log().lines().any(event("downstream", code)), "{code}\n{}", proxy.log());
    }
    assert!(backend.seen().is_empty());
}
