//! Mutual TLS with peers that others wrote: curl, openssl and Envoy, as client and as server.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use outrider_tests::authority::Authority;
use outrider_tests::backend::Backend;
use outrider_tests::client::{self, Ask};
use outrider_tests::config::{HCM, HTTP2, ROUTER, address, cluster};
use outrider_tests::mesh::{CLIENT, DAY, Mesh, SERVER};
use outrider_tests::process::{self, Process, free_port};

const TCP_PROXY: &str = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";

fn http(tag: &str) -> String {
    format!(
        "{{name: http, typed_config: {{\"@type\": {HCM}, stat_prefix: {tag}, http_filters: [{{name: r, typed_config: \
         {{\"@type\": {ROUTER}}}}}], route_config: {{virtual_hosts: [{{name: v, domains: ['*'], routes: \
         [{{match: {{prefix: /}}, route: {{cluster: be}}}}]}}]}}}}}}"
    )
}

fn tcp(tag: &str) -> String {
    format!("{{name: tcp, typed_config: {{\"@type\": {TCP_PROXY}, stat_prefix: {tag}, cluster: be}}}}")
}

fn listener(port: u16, chains: &[String]) -> String {
    format!("{{name: l{port}, address: {}, filter_chains: [{}]}}", address(port), chains.join(", "))
}

fn config(admin: u16, listener: &str, cluster: &str) -> String {
    format!(
        "admin: {{address: {}}}\nstatic_resources: {{listeners: [{listener}], clusters: [{cluster}]}}\n",
        address(admin)
    )
}

/// A server's sidecar in front of this port, as ours or as Envoy.
fn server(mesh: &Mesh, filter: &str, backend: u16, envoy: bool) -> (Process, u16, u16) {
    let (admin, port) = (free_port(), free_port());
    let chain = format!("{{filters: [{filter}], {}}}", mesh.downstream());
    let config = config(admin, &listener(port, &[chain]), &cluster("be", backend, ""));
    (start(&config, admin, envoy), port, admin)
}

fn start(config: &str, admin: u16, envoy: bool) -> Process {
    if envoy {
        let binary = process::envoy_binary().expect("asked for only where it is there");
        Process::envoy(&binary, config, admin)
    } else {
        Process::outrider(config, admin)
    }
}

fn metric(admin: u16, name: &str) -> f64 {
    let all = process::admin_get(admin, "/stats/prometheus").unwrap();
    all.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or(0.0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_gets_in_with_a_certificate_and_not_without() {
    let (mesh, backend) = (Mesh::new("curl"), Backend::start().await);
    let (mut proxy, port, admin) = server(&mesh, &http("s"), backend.port, false);
    let url = format!("https://127.0.0.1:{port}/");
    let (cert, key) = (mesh.file("client", "pem"), mesh.file("client", "key"));
    let with = ["--cert", cert.to_str().unwrap(), "--key", key.to_str().unwrap()];
    for (more, expected) in [(&["--http1.1"][..], "200 1.1"), (&["--http2"], "200 2")] {
        let out = mesh.curl(&[&with[..], more, &[&url]].concat());
        assert_eq!(
            String::from_utf8_lossy(&out.stdout),
            expected,
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
    }
    let before = backend.seen().len();
    let other = Authority::new("mesh.test");
    mesh.write("stranger", &other.svid(CLIENT, DAY));
    mesh.write("neighbour", &mesh.authority.svid("spiffe://mesh.test/ns/shop/sa/other", DAY));
    for (who, outcome) in
        [("stranger", "tls_unknown_issuer"), ("neighbour", "tls_not_expected"), ("", "tls_no_certificate")]
    {
        let (cert, key) = (mesh.file(who, "pem"), mesh.file(who, "key"));
        let with = ["--cert", cert.to_str().unwrap(), "--key", key.to_str().unwrap()];
        let out = mesh.curl(&[if who.is_empty() { &[][..] } else { &with }, &[&url]].concat());
        assert!(!out.status.success(), "{who}");
        let name = format!("outrider_tls_handshakes_total{{side=\"downstream\",outcome=\"{outcome}\"}}");
        assert!(metric(admin, &name) >= 1.0, "{name}");
    }
    let old = mesh.curl(&[&with[..], &["--tls-max", "1.2", &url]].concat());
    assert!(!old.status.success());
    let plain = mesh.curl(&[&format!("http://127.0.0.1:{port}/")]);
    assert!(!plain.status.success(), "plaintext to a strict port");
    assert_eq!(backend.seen().len(), before, "nothing of it came through");
    assert!(proxy.is_running());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openssl_verifies_us() {
    let (mesh, backend) = (Mesh::new("openssl"), Backend::start().await);
    let (_proxy, port, _) = server(&mesh, &http("s"), backend.port, false);
    let out = Command::new("openssl")
        .args([
            "s_client",
            "-connect",
            &format!("127.0.0.1:{port}"),
            "-verify_return_error",
            "-brief",
            "-alpn",
            "h2",
        ])
        .arg("-CAfile")
        .arg(mesh.folder.join("ca.pem"))
        .arg("-cert")
        .arg(mesh.file("client", "pem"))
        // With the intermediate, which `-cert` alone leaves out.
        .arg("-cert_chain")
        .arg(mesh.file("client", "pem"))
        .arg("-key")
        .arg(mesh.file("client", "key"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    let verified = said.contains("TLSv1.3") && said.contains("Verification: OK");
    assert!(out.status.success() && verified && !said.contains("alert"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pairs_of_sidecars_speak_every_protocol() {
    let envoys: &[(bool, bool)] = if process::envoy_binary().is_some() {
        &[(false, false), (false, true), (true, false)]
    } else {
        println!("skipped: pairs with Envoy, which is not there");
        &[(false, false)]
    };
    for (client_envoy, server_envoy) in envoys {
        for (what, alpn, more) in [("http/1.1", "http/1.1", ""), ("http/2", "h2", HTTP2), ("tcp", "", "")] {
            let named = format!("{what}, client Envoy: {client_envoy}, server Envoy: {server_envoy}");
            let (mesh, backend) = (Mesh::new("pair"), Backend::start().await);
            let filter = if what == "tcp" { tcp("s") } else { http("s") };
            let (_server, upstream, _) = server(&mesh, &filter, backend.port, *server_envoy);
            let (admin, port) = (free_port(), free_port());
            let more = [&mesh.upstream(alpn), more].map(str::to_owned);
            let more = more.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ");
            let chain = format!("{{filters: [{}]}}", if what == "tcp" { tcp("c") } else { http("c") });
            let config = config(admin, &listener(port, &[chain]), &cluster("be", upstream, &more));
            let _client = start(&config, admin, *client_envoy);
            for round in 0..3 {
                let ask =
                    Ask { method: "POST".into(), body: Some("x".repeat(100_000 * round)), ..Ask::default() };
                assert_eq!(client::h1(port, &ask).await.status, 200, "{named}");
            }
            let sizes: Vec<usize> = backend.seen().iter().map(|seen| seen.body.len()).collect();
            assert_eq!(sizes, [0, 100_000, 200_000], "{named}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_somebody_else_is_never_spoken_to() {
    let (mesh, backend) = (Mesh::new("else"), Backend::start().await);
    mesh.write("server", &mesh.authority.svid("spiffe://mesh.test/ns/shop/sa/thief", DAY));
    let (_server, upstream, _) = server(&mesh, &http("s"), backend.port, false);
    let (admin, port) = (free_port(), free_port());
    let chain = format!("{{filters: [{}]}}", http("c"));
    let config =
        config(admin, &listener(port, &[chain]), &cluster("be", upstream, &mesh.upstream("http/1.1")));
    let _client = Process::outrider(&config, admin);
    let answer = client::h1(port, &Ask::default()).await;
    assert_eq!((answer.status, answer.header("outrider-error")), (503, Some("upstream_tls_refused")));
    let refused = "outrider_tls_handshakes_total{side=\"upstream\",outcome=\"tls_not_expected\"}";
    assert!(metric(admin, refused) >= 1.0);
    assert!(backend.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_port_takes_both_and_says_who_speaks_plaintext() {
    let (mesh, backend) = (Mesh::new("permissive"), Backend::start().await);
    let (admin, port) = (free_port(), free_port());
    let chains = [
        format!(
            "{{filter_chain_match: {{transport_protocol: tls}}, filters: [{}], {}}}",
            http("tls"),
            mesh.downstream()
        ),
        format!("{{filters: [{}]}}", http("plain")),
    ];
    let config = config(admin, &listener(port, &chains), &cluster("be", backend.port, ""));
    let _proxy = Process::outrider(&config, admin);
    let (cert, key) = (mesh.file("client", "pem"), mesh.file("client", "key"));
    let with = ["--cert", cert.to_str().unwrap(), "--key", key.to_str().unwrap()];
    let out = mesh.curl(&[&with[..], &[&format!("https://127.0.0.1:{port}/")]].concat());
    assert!(out.stdout.starts_with(b"200"), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(client::h1(port, &Ask::default()).await.status, 200);
    let name = format!("outrider_plaintext_connections_total{{listener=\"l{port}\",source=\"127.0.0.1\"}}");
    assert!(metric(admin, &name) >= 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_rotated_under_load() {
    const ROTATIONS: usize = 5;
    let (mesh, backend) = (Mesh::new("rotation"), Backend::start().await);
    let (_server, upstream, _) = server(&mesh, &http("s"), backend.port, false);
    let (admin, port) = (free_port(), free_port());
    let chain = format!("{{filters: [{}]}}", http("c"));
    let config =
        config(admin, &listener(port, &[chain]), &cluster("be", upstream, &mesh.upstream("http/1.1")));
    let _client = Process::outrider(&config, admin);
    let shown = || {
        let out = Command::new("openssl")
            .args(["s_client", "-connect", &format!("127.0.0.1:{upstream}"), "-showcerts"])
            .arg("-cert")
            .arg(mesh.file("client", "pem"))
            .arg("-key")
            .arg(mesh.file("client", "key"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    for _ in 0..ROTATIONS {
        let next = mesh.authority.svid(SERVER, DAY);
        // The two files never change at once: in between they do not belong together, and the old pair goes on.
        fs::write(mesh.file("server", "pem"), &next.chain_pem).unwrap();
        fs::write(mesh.file("server", "key"), &next.key_pem).unwrap();
        let leaf: String = next.chain_pem.lines().skip(1).take(3).collect();
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while !shown().replace('\n', "").contains(&leaf) {
            assert!(std::time::Instant::now() < deadline, "the new certificate is not in use");
            for _ in 0..20 {
                assert_eq!(client::h1(port, &Ask::default()).await.status, 200);
            }
        }
    }
}

/// The client's sidecar offers our own token for HTTP/2 between sidecars, and takes what the server's agrees on.
async fn agreeing(mesh: &Mesh, upstream: u16) -> (Process, u16, u16) {
    const AUTO: &str = "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: \
                        {\"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, auto_config: {}}}";
    let (admin, port) = (free_port(), free_port());
    let more = format!("{}, {AUTO}", mesh.upstream("outrider-h2, h2, http/1.1"));
    let upgrades =
        http("c").replace("stat_prefix", "upgrade_configs: [{upgrade_type: websocket}], stat_prefix");
    let chain = format!("{{filters: [{upgrades}]}}");
    let config = config(admin, &listener(port, &[chain]), &cluster("be", upstream, &more));
    (Process::outrider_with(&config, admin, &[("OUTRIDER_WORKERS", "1")]), port, admin)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sidecars_agree_on_http2_for_an_application_of_http1_and_share_a_connection() {
    let (mesh, backend) = (Mesh::new("agree"), Backend::start().await);
    let envoy = process::envoy_binary().is_some();
    let log = "access_log: [{name: log, typed_config: {\"@type\": \
               type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog, log_format: \
               {text_format_source: {inline_string: \"LINE %PROTOCOL% %REQ(:PATH)%\\n\"}}}}], \
               upgrade_configs: [{upgrade_type: websocket}], stat_prefix";
    let servers: &[(&str, bool, &str)] = &[
        ("[outrider-h2, h2, http/1.1]", false, "HTTP/2"),
        ("[http/1.1]", false, "HTTP/1.1"),
        ("[]", false, "HTTP/1.1"),
        ("[h2, http/1.1]", true, "HTTP/2"),
    ];
    for (alpn, by_envoy, expected) in servers.iter().filter(|(_, by_envoy, _)| envoy || !by_envoy) {
        let named = format!("{alpn}, Envoy: {by_envoy}");
        let (admin, upstream) = (free_port(), free_port());
        let socket = mesh.downstream().replace("[h2, http/1.1]", alpn);
        let chain = format!("{{filters: [{}], {socket}}}", http("s").replace("stat_prefix", log));
        let config = config(admin, &listener(upstream, &[chain]), &cluster("be", backend.port, ""));
        let server = start(&config, admin, *by_envoy);
        let (_client, port, _) = agreeing(&mesh, upstream).await;
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..20 {
            tasks.spawn(async move { client::h1(port, &Ask { path: "/a".into(), ..Ask::default() }).await });
        }
        while let Some(answer) = tasks.join_next().await {
            assert_eq!(answer.unwrap().status, 200, "{named}");
        }
        // An upgrade needs a connection of HTTP/1.1, whatever the others share.
        let mut tunnel = client::websocket(port).await;
        assert!(client::echoes(&mut tunnel, b"through").await, "{named}");
        drop(tunnel);
        let lines = |what: &str| server.log().matches(&format!("LINE {what}\n")).count();
        let deadline = std::time::Instant::now() + client::PATIENCE;
        while lines(&format!("{expected} /a")) < 20 || lines("HTTP/1.1 /ws") < 1 {
            assert!(std::time::Instant::now() < deadline, "{named}\n{}", server.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if !by_envoy && *expected == "HTTP/2" {
            let shaken = |how: &str| {
                metric(
                    admin,
                    &format!("outrider_tls_handshakes_total{{side=\"downstream\",outcome=\"{how}\"}}"),
                )
            };
            assert_eq!(shaken("ok") + shaken("resumed"), 2.0, "one for all requests, and the upgrade's");
        }
    }
}
