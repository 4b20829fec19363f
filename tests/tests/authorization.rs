//! Policies through the real binary: paths that try to get round them, identities, routes, shadow rules, and
//! connections that a change no longer allows.

use std::fs;

use outrider_tests::backend::Backend;
use outrider_tests::client::{self, Ask, PATIENCE, echoes, websocket};
use outrider_tests::config::{HCM, ROUTER, address, cluster};
use outrider_tests::frames::{END_BOTH, HEADERS, block, frame, next, open};
use outrider_tests::mesh::{CLIENT, DAY, Mesh, SERVER};
use outrider_tests::process::{Process, admin_get, free_port};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

const RBAC: &str = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC";
const TLS_INSPECTOR: &str =
    "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector";
const NETWORK_RBAC: &str = "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC";
const TCP_PROXY: &str = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
/// Everybody, or everything.
const ANY: &str = "[{any: true}]";
const TO_BE: &str =
    "{match: {prefix: /}, route: {cluster: be, upgrade_configs: [{upgrade_type: websocket}]}}";

/// One policy of this name.
fn policy(name: &str, permissions: &str, principals: &str) -> String {
    format!("{name}: {{permissions: {permissions}, principals: {principals}}}")
}

fn rules(action: &str, policies: &[String]) -> String {
    format!("{{action: {action}, policies: {{{}}}}}", policies.join(", "))
}

/// A proxy with these settings of its RBAC filter.
struct Lab {
    proxy: Process,
    backend: Backend,
    admin: u16,
    port: u16,
}

/// What is special about a lab's listener.
#[derive(Default)]
struct Setup<'a> {
    rbac: &'a str,
    network: &'a str,
    routes: &'a [&'a str],
    socket: &'a str,
    http: &'a str,
    tcp: bool,
    /// Whether it looks at the first bytes before it chooses a chain.
    looks: bool,
}

impl Lab {
    async fn start(setup: &Setup<'_>) -> Self {
        let (backend, admin, port) = (Backend::start().await, free_port(), free_port());
        let proxy = Process::outrider(&config(setup, admin, port, backend.port), admin);
        Self { proxy, backend, admin, port }
    }

    fn change(&self, setup: &Setup<'_>) {
        let config = config(setup, self.admin, self.port, self.backend.port);
        fs::write(self.proxy.directory.join("config.yaml"), config).unwrap();
        self.proxy.signal("HUP");
    }

    async fn status(&self, path: &str) -> u16 {
        client::h1(self.port, &Ask { path: path.into(), ..Ask::default() }).await.status
    }

    fn metric(&self, series: &str) -> f64 {
        let all = admin_get(self.admin, "/metrics").unwrap();
        all.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok()).unwrap_or(0.0)
    }

    async fn until(&self, what: &str, holds: impl AsyncFn() -> bool) {
        let waiting = async {
            while !holds().await {
                tokio::task::yield_now().await;
            }
        };
        assert!(timeout(PATIENCE, waiting).await.is_ok(), "{what}\n{}", self.proxy.log());
    }
}

fn config(setup: &Setup<'_>, admin: u16, port: u16, backend: u16) -> String {
    let rbac = match setup.rbac {
        "" => String::new(),
        rbac => format!("{{name: rbac, typed_config: {{\"@type\": {RBAC}, {rbac}}}}}, "),
    };
    let network = match setup.network {
        "" => String::new(),
        network => {
            format!("{{name: n, typed_config: {{\"@type\": {NETWORK_RBAC}, stat_prefix: n, {network}}}}}, ")
        }
    };
    let routes = if setup.routes.is_empty() { TO_BE.to_owned() } else { setup.routes.join(", ") };
    let http = format!(
        "{{name: http, typed_config: {{\"@type\": {HCM}, stat_prefix: s, normalize_path: true, {} \
         upgrade_configs: [{{upgrade_type: websocket}}], access_log: [{{name: log, typed_config: {{\"@type\": \
         type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog}}}}], \
         http_filters: [{rbac}{{name: r, typed_config: {{\"@type\": {ROUTER}}}}}], \
         route_config: {{virtual_hosts: [{{name: v, domains: ['*'], routes: [{routes}]}}]}}}}}}",
        setup.http
    );
    let tcp = format!("{{name: tcp, typed_config: {{\"@type\": {TCP_PROXY}, stat_prefix: t, cluster: be}}}}");
    let last = if setup.tcp { tcp } else { http };
    let looks = if setup.looks {
        // Longer than any of this takes: a connection that says nothing is waited for, and not passed on unseen.
        format!(
            "listener_filters_timeout: 300s, listener_filters: [{{name: tls, typed_config: {{\"@type\": \
             {TLS_INSPECTOR}}}}}], "
        )
    } else {
        String::new()
    };
    format!(
        "admin: {{address: {}}}\nstatic_resources: {{listeners: [{{name: l, address: {}, {looks}filter_chains: \
         [{{filters: [{network}{last}]{}}}]}}], clusters: [{}]}}\n",
        address(admin),
        address(port),
        setup.socket,
        cluster("be", backend, "")
    )
}

const PATHS: &[(&str, u16)] = &[
    ("/admin", 403),
    ("/admin/", 403),
    ("/admin?x", 403),
    ("/./admin", 403),
    ("//admin", 403),
    ("/x/%2e%2e/admin", 403),
    ("/x/%2E%2e/admin", 403),
    ("/%61dmin", 403),
    ("/admin%20", 403),
    ("/admin;x=1", 403),
    ("/x/..;/admin", 403),
    ("/x\\..\\admin", 403),
    ("/x/..%2fadmin", 400),
    ("/%5c%2e%2e/admin", 400),
    ("/admin#x", 400),
    ("/%c0%afadmin", 400),
    ("/Admin", 200),
    ("/x/%252e%252e/admin", 200),
    ("/x", 200),
];

async fn h1_status(port: u16, target: &str) -> u16 {
    let request = format!("GET {target} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
    let answer = client::raw(port, request.as_bytes()).await;
    client::parse_h1(&answer, false).status
}

/// The status of a request over HTTP/2 whose block is written by hand; 400 also when the stream was reset.
async fn h2_status(port: u16, target: &str) -> u16 {
    let mut stream = open(port).await;
    let fields = [(":method", "GET"), (":scheme", "http"), (":authority", "h"), (":path", target)];
    stream.write_all(&frame(HEADERS, END_BOTH, 1, &block(&fields))).await.unwrap();
    while let Some(frame) = next(&mut stream).await {
        match (frame.kind, frame.payload.first()) {
            (HEADERS, Some(0x88)) => return 200,
            (HEADERS, Some(0x8c)) => return 400,
            // A literal with the indexed name `:status`.
            (HEADERS, Some(_)) => {
                let text = String::from_utf8_lossy(&frame.payload).into_owned();
                // 403 in Huffman code, or as it is.
                let denied = frame.payload.windows(2).any(|two| two == [0x68, 0x0c]) || text.contains("403");
                return if denied { 403 } else { 0 };
            }
            (client_error, _) if client_error == outrider_tests::frames::RST_STREAM => return 400,
            _ => {}
        }
    }
    400
}

#[tokio::test]
async fn no_spelling_of_a_path_gets_round_a_policy() {
    let deny = rules("DENY", &[policy("no-admin", "[{url_path: {path: {prefix: /admin}}}]", ANY)]);
    let allow = rules("ALLOW", &[policy("rest", "[{not_rule: {url_path: {path: {prefix: /admin}}}}]", ANY)]);
    let by_header = rules(
        "DENY",
        &[policy("no-admin", "[{header: {name: ':path', string_match: {prefix: /admin}}}]", ANY)],
    );
    for rules in [deny, allow, by_header] {
        let lab = Lab::start(&Setup {
            rbac: &format!("rules: {rules}"),
            http: "merge_slashes: true, path_with_escaped_slashes_action: REJECT_REQUEST,",
            ..Setup::default()
        })
        .await;
        let absolute = [("http://h/admin", 403), ("http://h/x/../admin", 403), ("\\admin", 400)];
        for (target, expected) in PATHS.iter().chain(&absolute) {
            assert_eq!(h1_status(lab.port, target).await, *expected, "{target} with {rules}");
        }
        for (target, expected) in PATHS.iter().chain(&[("\\admin", 400)]) {
            // The HTTP/2 library cuts a fragment off before we see it; what is left is what counts.
            let expected = if target.contains('#') { 403 } else { *expected };
            assert_eq!(h2_status(lab.port, target).await, expected, "{target} over HTTP/2 with {rules}");
        }
        for seen in lab.backend.seen() {
            assert!(!seen.path.starts_with("/admin"), "{seen:?}");
        }
    }
}

#[tokio::test]
async fn a_denial_says_so_everywhere() {
    let deny = rules("DENY", &[policy("no-b", "[{url_path: {path: {exact: /b}}}]", ANY)]);
    let lab = Lab::start(&Setup { rbac: &format!("rules: {deny}"), ..Setup::default() }).await;
    let answer = client::h1(lab.port, &Ask { path: "/b?q".into(), ..Ask::default() }).await;
    assert_eq!((answer.status, answer.header("outrider-error")), (403, Some("authorization_denied")));
    assert!(!answer.body.contains("no-b"), "an outsider is not told which policy it was: {}", answer.body);
    assert_eq!(lab.status("/a").await, 200);
    assert!(
        lab.metric("outrider_authz_denied_total{policy=\"no-b\",mode=\"enforce\"}") >= 1.0
            && lab.metric("outrider_authz_allowed_total{policy=\"none\",mode=\"enforce\"}") >= 1.0
    );
    lab.until("the log names the policy", async || {
        let log = lab.proxy.log();
        let line = log.lines().find(|line| line.contains("authorization_denied")).unwrap_or_default();
        line.contains(" UAEX ") && line.ends_with(" no-b")
    })
    .await;
}

#[tokio::test]
async fn shadow_rules_only_look_on() {
    let enforced = rules("DENY", &[policy("old", "[{url_path: {path: {exact: /old}}}]", ANY)]);
    let shadow = rules("DENY", &[policy("new", "[{url_path: {path: {prefix: /}}}]", ANY)]);
    let lab = Lab::start(&Setup {
        rbac: &format!("rules: {enforced}, shadow_rules: {shadow}, shadow_rules_stat_prefix: next"),
        ..Setup::default()
    })
    .await;
    assert_eq!((lab.status("/x").await, lab.status("/old").await), (200, 403));
    assert!(lab.metric("outrider_authz_denied_total{policy=\"next.new\",mode=\"audit\"}") >= 2.0);
    let log = rules("LOG", &[policy("seen", ANY, ANY)]);
    lab.change(&Setup { rbac: &format!("rules: {log}"), ..Setup::default() });
    lab.until("LOG denies nothing", async || lab.status("/old").await == 200).await;
}

#[tokio::test]
async fn routes_have_the_last_word() {
    let deny = rules("DENY", &[policy("all", ANY, ANY)]);
    let per_route = |rbac: &str| {
        format!(
            "typed_per_filter_config: {{rbac: {{\"@type\": \
             type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute{rbac}}}}}"
        )
    };
    let only_get =
        rules("ALLOW", &[policy("get", "[{header: {name: ':method', string_match: {exact: GET}}}]", ANY)]);
    let open = format!("{{match: {{prefix: /open}}, route: {{cluster: be}}, {}}}", per_route(""));
    let other = per_route(&format!(", rbac: {{rules: {only_get}}}"));
    let get = format!("{{match: {{prefix: /get}}, route: {{cluster: be}}, {other}}}");
    let weighted = format!(
        "{{match: {{prefix: /drawn}}, route: {{weighted_clusters: {{clusters: [{{name: be, weight: 1, {}}}]}}}}, {other}}}",
        per_route("")
    );
    let lab = Lab::start(&Setup {
        rbac: &format!("rules: {deny}"),
        routes: &[&open, &get, &weighted, TO_BE],
        ..Setup::default()
    })
    .await;
    let post = |path: &str| Ask { method: "POST".into(), path: path.into(), ..Ask::default() };
    assert_eq!((lab.status("/").await, lab.status("/open").await, lab.status("/get").await), (403, 200, 200));
    assert_eq!(client::h1(lab.port, &post("/get")).await.status, 403);
    assert_eq!(client::h1(lab.port, &post("/drawn")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn identities_come_from_certificates_only() {
    let mesh = Mesh::new("rbac");
    mesh.write("other", &mesh.authority.svid("spiffe://mesh.test/ns/shop/sa/other", DAY));
    let principal = format!("[{{authenticated: {{principal_name: {{exact: \"{CLIENT}\"}}}}}}]");
    let allow = rules("ALLOW", &[policy("client", ANY, &principal)]);
    let lab = Lab::start(&Setup {
        rbac: &format!("rules: {allow}"),
        socket: &format!(", {}", mesh.downstream_of("")),
        http: "forward_client_cert_details: SANITIZE_SET, set_current_client_cert_details: {uri: true},",
        ..Setup::default()
    })
    .await;
    let ask = |who: &str, more: &[&str]| {
        let (cert, key) = (mesh.file(who, "pem"), mesh.file(who, "key"));
        let with = ["--cert", cert.to_str().unwrap(), "--key", key.to_str().unwrap()];
        let spoofed = format!("x-forwarded-client-cert: By={SERVER};URI={CLIENT}");
        let url = format!("https://127.0.0.1:{}/", lab.port);
        let out = mesh.curl(&[&with[..], more, &["-H", &spoofed, &url]].concat());
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    for (version, shown) in [("--http1.1", "1.1"), ("--http2", "2")] {
        assert_eq!(ask("client", &[version]), format!("200 {shown}"));
        assert_eq!(ask("other", &[version]), format!("403 {shown}"));
    }
    let header = lab.backend.seen().remove(0).headers["x-forwarded-client-cert"].clone();
    assert!(header.starts_with(&format!("By={SERVER};Hash=")), "{header}");
    assert!(header.ends_with(&format!(";URI={CLIENT}")) && !header.contains(','), "{header}");
    lab.until("the log names the peer", async || {
        lab.proxy.log().lines().any(|line| line.contains(" 403 ") && line.contains("sa/other"))
    })
    .await;
}

#[tokio::test]
async fn plaintext_is_nobody_whatever_it_says() {
    let someone = rules("ALLOW", &[policy("someone", ANY, "[{authenticated: {}}]")]);
    let lab = Lab::start(&Setup { rbac: &format!("rules: {someone}"), ..Setup::default() }).await;
    let headers = vec![("x-forwarded-client-cert".into(), format!("By={SERVER};URI={CLIENT}"))];
    assert_eq!(client::h1(lab.port, &Ask { headers, ..Ask::default() }).await.status, 403);
    let by_address = "[{remote_ip: {address_prefix: 10.0.0.0, prefix_len: 8}}]";
    let ten = rules("ALLOW", &[policy("ten", ANY, by_address)]);
    let edge =
        Setup { rbac: &format!("rules: {ten}"), http: "use_remote_address: true,", ..Setup::default() };
    lab.change(&edge);
    lab.until("the new policy", async || {
        lab.metric("outrider_authz_denied_total{policy=\"none\",mode=\"enforce\"}") >= 1.0
    })
    .await;
    let headers = vec![("x-forwarded-for".into(), "10.0.0.1".into())];
    assert_eq!(client::h1(lab.port, &Ask { headers, ..Ask::default() }).await.status, 403);
    assert!(lab.backend.seen().is_empty());
}

#[tokio::test]
async fn opaque_connections_are_denied_at_once() {
    let nobody =
        rules("ALLOW", &[policy("ten", ANY, "[{source_ip: {address_prefix: 10.0.0.0, prefix_len: 8}}]")]);
    let lab =
        Lab::start(&Setup { network: &format!("rules: {nobody}"), tcp: true, ..Setup::default() }).await;
    // The reset may be there before the connection is known to be open.
    if let Ok(mut stream) = tokio::net::TcpStream::connect(("127.0.0.1", lab.port)).await {
        let mut byte = [0];
        let ended = timeout(PATIENCE, stream.read(&mut byte)).await.expect("closed at once");
        assert!(!matches!(ended, Ok(1..)));
    }
    assert_eq!(lab.backend.received_bytes(), 0);
    assert!(lab.metric("outrider_authz_denied_total{policy=\"none\",mode=\"enforce\"}") >= 1.0);
}

#[tokio::test]
async fn a_change_ends_what_it_no_longer_allows_and_nothing_else() {
    let everything = rules("ALLOW", &[policy("all", ANY, ANY)]);
    let no_tunnels = rules("DENY", &[policy("ws", "[{url_path: {path: {exact: /ws}}}]", ANY)]);
    let only_other = rules("DENY", &[policy("other", "[{url_path: {path: {exact: /other}}}]", ANY)]);
    let lab = Lab::start(&Setup { rbac: &format!("rules: {everything}"), ..Setup::default() }).await;
    let mut tunnel = websocket(lab.port).await;
    assert!(echoes(&mut tunnel, b"before").await);

    lab.change(&Setup { rbac: &format!("rules: {only_other}"), ..Setup::default() });
    lab.until("the change", async || lab.status("/other").await == 403).await;
    assert!(echoes(&mut tunnel, b"still allowed").await);

    lab.change(&Setup { rbac: &format!("rules: {no_tunnels}"), ..Setup::default() });
    let mut byte = [0];
    let ended = timeout(PATIENCE, tunnel.read(&mut byte)).await.expect("the tunnel is ended");
    assert!(!matches!(ended, Ok(1..)));
    assert!(lab.metric("outrider_local_replies_total{reason=\"policy_changed\"}") >= 1.0);
}

#[tokio::test]
async fn a_change_ends_opaque_connections_that_it_no_longer_allows() {
    let (anybody, ten) = ("[{any: true}]", "[{source_ip: {address_prefix: 10.0.0.0, prefix_len: 8}}]");
    let allow = |who| format!("rules: {}", rules("ALLOW", &[policy("who", ANY, who)]));
    let lab = Lab::start(&Setup { network: &allow(anybody), tcp: true, ..Setup::default() }).await;
    let mut tunnel = websocket(lab.port).await;
    assert!(echoes(&mut tunnel, b"before").await);
    lab.change(&Setup { network: &allow(ten), tcp: true, ..Setup::default() });
    let mut byte = [0];
    let ended = timeout(PATIENCE, tunnel.read(&mut byte)).await.expect("the connection is ended");
    assert!(!matches!(ended, Ok(1..)));
    assert!(lab.metric("outrider_connections_cut_total{reason=\"policy_changed\"}") >= 1.0);
}

#[tokio::test]
async fn a_connection_that_comes_in_during_a_change_is_held_to_the_new_policy() {
    let (anybody, ten) = ("[{any: true}]", "[{source_ip: {address_prefix: 10.0.0.0, prefix_len: 8}}]");
    let allow = |who| format!("rules: {}", rules("ALLOW", &[policy("who", ANY, who)]));
    for tcp in [true, false] {
        let allow_anybody = allow(anybody);
        let before = Setup { network: &allow_anybody, tcp, looks: true, ..Setup::default() };
        let (backend, admin, port) = (Backend::start().await, free_port(), free_port());
        // One worker, so that the change is there for all connections once it is there for one.
        let env = [("OUTRIDER_WORKERS", "1")];
        let proxy = Process::outrider_with(&config(&before, admin, port, backend.port), admin, &env);
        let lab = Lab { proxy, backend, admin, port };
        let mut held = client::connect(lab.port).await;
        let accepted = async || lab.metric("outrider_downstream_connections_active{listener=\"l\"}") >= 1.0;
        lab.until("the connection is accepted", accepted).await;

        lab.change(&Setup { network: &allow(ten), ..before });
        lab.until("the change", async || lab.status("/").await != 200).await;
        let sent = held.write_all(b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").await;
        assert!(sent.is_ok(), "tcp {tcp}: {sent:?}\n{}", lab.proxy.log());
        let mut byte = [0];
        let ended = timeout(PATIENCE, held.read(&mut byte)).await.expect("the connection is ended");
        assert!(!matches!(ended, Ok(1..)), "tcp {tcp}: answered");
        assert!(lab.metric("outrider_connections_cut_total{reason=\"policy_changed\"}") >= 1.0);
    }
}
