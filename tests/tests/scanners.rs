//! What scanners that others wrote find on a strict port.

use std::process::{Command, Stdio};

use outrider_tests::backend::Backend;
use outrider_tests::config::{HCM, ROUTER, TO_BE, address, cluster};
use outrider_tests::mesh::Mesh;
use outrider_tests::process::{Process, free_port};

/// What testssl says of certificates that no public authority issued, live a day and name a SPIFFE ID, and of a port that
/// lets nobody in without one: as it should be.
const OF_THE_WEB: &[&str] = &[
    "cert_trust",
    "cert_chain_of_trust",
    "cert_expirationStatus",
    "cert_notAfter",
    "cert_revocation",
    "DNS_CAArecord",
    "optimal_proto",
];

/// One finding of testssl.
#[derive(Debug, serde::Deserialize)]
struct Finding {
    id: String,
    severity: String,
    #[expect(dead_code, reason = "shown where it is not expected")]
    finding: String,
}

/// A strict port in front of a backend.
fn strict(mesh: &Mesh, backend: u16) -> (Process, u16) {
    let (admin, port) = (free_port(), free_port());
    let config = format!(
        "admin: {{address: {}}}\nstatic_resources: {{listeners: [{{name: l, address: {}, filter_chains: [{{filters: [{{name: http, \
         typed_config: {{\"@type\": {HCM}, stat_prefix: s, http_filters: [{{name: r, typed_config: {{\"@type\": {ROUTER}}}}}], \
         route_config: {{virtual_hosts: [{{name: v, domains: ['*'], routes: [{TO_BE}]}}]}}}}}}], {}}}]}}], clusters: [{}]}}\n",
        address(admin),
        address(port),
        mesh.downstream(),
        cluster("be", backend, "")
    );
    (Process::outrider(&config, admin), port)
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sslscan_finds_nothing_but_tls_1_3() {
    let (mesh, backend) = (Mesh::new("sslscan"), Backend::start().await);
    let (mut proxy, port) = strict(&mesh, backend.port);
    let mut command = Command::new("sslscan");
    command.args(["--no-colour", "--show-certificate"]);
    command.arg(format!("--certs={}", mesh.file("client", "pem").display()));
    command.arg(format!("--pk={}", mesh.file("client", "key").display()));
    let Some(report) = output(command.arg(format!("127.0.0.1:{port}"))) else {
        println!("skipped: sslscan is not there");
        return;
    };
    for version in ["SSLv2", "SSLv3", "TLSv1.0", "TLSv1.1", "TLSv1.2"] {
        let said = report.lines().find(|line| line.starts_with(version)).unwrap_or_default();
        assert!(said.contains("disabled"), "{version}\n{report}");
    }
    let offered: Vec<&str> =
        report.lines().filter(|line| line.starts_with("Accepted") || line.starts_with("Preferred")).collect();
    assert!(!offered.is_empty() && offered.iter().all(|line| line.contains("TLSv1.3")), "{report}");
    for right in ["Session renegotiation not supported", "not vulnerable to heartbleed"] {
        assert!(report.contains(right), "{right}\n{report}");
    }
    assert!(proxy.is_running());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn testssl_finds_no_weakness() {
    let (mesh, backend) = (Mesh::new("testssl"), Backend::start().await);
    let (mut proxy, port) = strict(&mesh, backend.port);
    let findings = mesh.folder.join("findings.json");
    let mut command = Command::new("testssl");
    command.args(["--quiet", "--color", "0", "--warnings", "off", "--jsonfile"]).arg(&findings);
    command.args(["--protocols", "--server-defaults", "--vulnerable", "--std", "--fs", "--ip", "127.0.0.1"]);
    let Some(report) = output(command.arg(format!("localhost:{port}"))) else {
        println!("skipped: testssl is not there");
        return;
    };
    let text = std::fs::read_to_string(&findings).unwrap_or_default();
    let findings: Vec<Finding> =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{report}"));
    assert!(findings.len() > 40, "{report}");
    let complaints: Vec<_> = findings
        .iter()
        .filter(|finding| !matches!(&*finding.severity, "OK" | "INFO" | "DEBUG"))
        .filter(|finding| !OF_THE_WEB.contains(&&*finding.id))
        .collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
    assert!(proxy.is_running());
}
