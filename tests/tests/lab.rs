//! The mesh lab: pods as network namespaces, redirection by our own rules, and programs that know of none of it.

use std::fs;
use std::process::Output;

use outrider_tests::config::{HCM, HTTP2, ROUTER};
use outrider_tests::mesh::{CLIENT, Mesh};
use outrider_tests::pods::{self, Network, PROXY_ID, Pod, until};
use outrider_tests::process::{Process, scratch};

const TCP_PROXY: &str = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
const ORIGINAL_DST: &str = "{name: o, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst}}";
const LOG: &str = "access_log: [{name: f, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, \
                   path: /dev/stdout, log_format: {text_format_source: {inline_string: \"from %DOWNSTREAM_PEER_URI_SAN% %RESPONSE_CODE_DETAILS%\\n\"}}}}]";

/// Whether the lab cannot be here; says why. In CI a program that is not there is an error; rights cannot be installed.
fn skipped(more: &[&str]) -> bool {
    if !*pods::NAMESPACES {
        println!("SKIPPED: network namespaces need root and iproute2");
        return true;
    }
    let Some(why) = pods::missing(more) else { return false };
    assert!(std::env::var_os("CI").is_none(), "CI must have the lab: {why}");
    println!("SKIPPED: {why}");
    true
}

fn http(tag: &str, cluster: &str) -> String {
    format!(
        "{{name: http, typed_config: {{\"@type\": {HCM}, stat_prefix: {tag}, {LOG}, http_filters: [{{name: r, typed_config: \
         {{\"@type\": {ROUTER}}}}}], route_config: {{virtual_hosts: [{{name: v, domains: ['*'], routes: \
         [{{match: {{prefix: /}}, route: {{cluster: {cluster}}}}}]}}]}}}}}}"
    )
}

fn tcp(tag: &str, cluster: &str) -> String {
    format!(
        "{{name: tcp, typed_config: {{\"@type\": {TCP_PROXY}, stat_prefix: {tag}, {LOG}, cluster: {cluster}}}}}"
    )
}

fn listener(name: &str, port: u16, direction: &str, chains: &[String]) -> String {
    format!(
        "{{name: {name}, traffic_direction: {direction}, address: {{socket_address: {{address: '::', ipv4_compat: true, \
         port_value: {port}}}}}, listener_filters: [{ORIGINAL_DST}], filter_chains: [{}]}}",
        chains.join(", ")
    )
}

fn chain(port: u16, filter: &str, tls: &str) -> String {
    let tls = if tls.is_empty() { String::new() } else { format!(", {tls}") };
    format!("{{filter_chain_match: {{destination_port: {port}}}, filters: [{filter}]{tls}}}")
}

/// Goes where the application wanted to, by mutual TLS; between sidecars all of HTTP is HTTP/2.
fn caller(mesh: &Mesh) -> String {
    let cluster = |name: &str, more: &str, alpn: &str| {
        format!(
            "{{name: {name}, type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED{more}, {}}}",
            mesh.upstream(alpn)
        )
    };
    let chains = [
        chain(8080, &http("out", "web"), ""),
        chain(50051, &http("out-grpc", "web"), ""),
        chain(3306, &tcp("out", "db"), ""),
    ];
    let clusters = [cluster("web", &format!(", {HTTP2}"), "h2"), cluster("db", "", "")];
    format!(
        "static_resources: {{listeners: [{}], clusters: [{}]}}\n",
        listener("outbound", 15001, "OUTBOUND", &chains),
        clusters.join(", ")
    )
}

/// Lets the caller in and nobody else, and goes to the application on a loopback address.
fn called(mesh: &Mesh) -> String {
    let cluster = |name: &str, port: u16, more: &str| {
        format!(
            "{{name: {name}{more}, load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: [{{endpoint: \
             {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]}}}}"
        )
    };
    let chains = [
        chain(8080, &http("in", "web"), &mesh.downstream()),
        chain(50051, &http("in-grpc", "grpc"), &mesh.downstream()),
        chain(3306, &tcp("in", "db"), &mesh.downstream()),
    ];
    format!(
        "static_resources: {{listeners: [{}], clusters: [{}, {}, {}]}}\n",
        listener("inbound", 15006, "INBOUND", &chains),
        cluster("web", 8080, ""),
        cluster("grpc", 50051, &format!(", {HTTP2}")),
        cluster("db", 3306, "")
    )
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// nginx that answers on 8080 with a text that is looked for on the wire.
fn nginx(pod: &Pod) -> Process {
    let folder = scratch("nginx");
    let config = format!(
        "daemon off; master_process off; error_log {0}/error.log; pid {0}/pid; events {{}}
         http {{ access_log off; client_body_temp_path {0}/b; proxy_temp_path {0}/p; fastcgi_temp_path {0}/f;
         uwsgi_temp_path {0}/u; scgi_temp_path {0}/s;
         server {{ listen 8080; listen [::]:8080 ipv6only=on; location / {{ return 200 \"answer-of-nginx $request_uri\"; }} }} }}",
        folder.display()
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, config).unwrap();
    let process = pod.start("nginx", &["-c", file.to_str().unwrap()], folder);
    until("nginx listens", || pod.listens(8080));
    process
}

/// Two workloads with sidecars and one without; dropped in the order of the fields, processes first.
struct Lab {
    client_sidecar: Process,
    server_sidecar: Process,
    _nginx: Process,
    client: Pod,
    server: Pod,
    stranger: Pod,
    network: Network,
    _mesh: Mesh,
}

fn lab(name: &str, redirect: &[&str]) -> Lab {
    let (mesh, mut network) = (Mesh::new(name), Network::new());
    let (client, server, stranger) = (network.pod("client"), network.pod("server"), network.pod("stranger"));
    for pod in [&client, &server] {
        pod.redirect(redirect);
        // Containers are restarted, and their init steps with them.
        pod.redirect(redirect);
    }
    let nginx = nginx(&server);
    let (client_sidecar, server_sidecar) = (client.sidecar(&caller(&mesh)), server.sidecar(&called(&mesh)));
    Lab { client_sidecar, server_sidecar, _nginx: nginx, client, server, stranger, network, _mesh: mesh }
}

impl Lab {
    /// The server's address as it is written in a URL.
    fn hosts(&self) -> [String; 2] {
        [self.server.v4.clone(), format!("[{}]", self.server.v6)]
    }
}

#[test]
fn curl_and_nginx_speak_mutual_tls_and_do_not_know() {
    if skipped(&["nginx"]) {
        return;
    }
    let lab = lab("lab-http", &[]);
    let mut wire = lab.network.record("server");
    for host in lab.hosts() {
        for version in ["--http1.1", "--http2-prior-knowledge"] {
            let url = format!("http://{host}:8080/secret-{version}");
            let output = lab.client.curl(&[version, "-H", "x-mark: in-a-header", &url], None);
            assert!(
                text(&output).contains(&format!("answer-of-nginx /secret-{version}")),
                "{}",
                text(&output)
            );
        }
    }
    let from = format!("from {CLIENT}");
    until("the server's sidecar has logged all", || lab.server_sidecar.log().matches(&from).count() == 4);

    // Who has no sidecar gets no answer, but is seen on the wire: the recording does record plaintext.
    for host in lab.hosts() {
        let output = lab.stranger.curl(&[&format!("http://{host}:8080/of-a-stranger")], None);
        assert!(!output.status.success(), "{}", text(&output));
    }
    until("the stranger was recorded", || wire.saw("/of-a-stranger"));
    wire.stop();
    for secret in ["/secret-", "answer-of-nginx", "in-a-header", "x-mark"] {
        assert!(!wire.saw(secret), "{secret} went over the wire");
    }
    for family in ["ip", "ip6"] {
        assert!(
            wire.count(&format!("{family} and tcp dst port 8080")) > 10,
            "the wire carries the port that was asked for"
        );
    }
    assert_eq!(wire.count("tcp port 15001 or tcp port 15006"), 0, "redirection stays within the pod");
}

#[test]
fn nobody_slips_out_and_nothing_loops() {
    if skipped(&["nginx"]) {
        return;
    }
    let lab = lab("lab-slip", &[]);
    let mut wire = lab.network.record("client");
    for host in lab.hosts() {
        // The proxy's user or its group alone is not the proxy.
        for user in [(PROXY_ID, 0), (0, PROXY_ID), (PROXY_ID, PROXY_ID + 1), (4000, 4000)] {
            let url = format!("http://{host}:8080/slip-{}-{}", user.0, user.1);
            let output = lab.client.curl(&[&url], Some(user));
            assert!(text(&output).contains("answer-of-nginx"), "{user:?}: {}", text(&output));
        }
        // Both are, and the server lets nobody in who is not of the mesh.
        let output = lab.client.curl(&[&format!("http://{host}:8080/both")], Some((PROXY_ID, PROXY_ID)));
        assert!(!output.status.success(), "{}", text(&output));
    }
    // A source address of the loopback device leads nowhere else.
    let output = lab
        .client
        .curl(&["--interface", "127.0.0.1", &format!("http://{}:8080/source", lab.server.v4)], None);
    assert!(!output.status.success() || text(&output).contains("answer-of-nginx"), "{}", text(&output));
    until("both together were recorded", || wire.saw("/both"));
    wire.stop();
    assert!(!wire.saw("/slip-") && !wire.saw("/source"), "plaintext left the pod");

    // Straight to the redirect ports, from within and from outside.
    for host in
        ["127.0.0.1".to_owned(), "[::1]".to_owned(), lab.client.v4.clone(), format!("[{}]", lab.client.v6)]
    {
        for (pod, port) in [(&lab.client, 15001), (&lab.server, 15006)] {
            let output = pod.curl(
                &["--connect-timeout", "1", &format!("http://{host}:{port}/")],
                Some((PROXY_ID, PROXY_ID)),
            );
            assert!(!output.status.success(), "{host}:{port} {}", text(&output));
            let output = pod.curl(&["--connect-timeout", "1", &format!("http://{host}:{port}/")], None);
            assert!(!output.status.success(), "{host}:{port} {}", text(&output));
        }
    }
    for (host, port) in [(&lab.client.v4, 15001), (&lab.server.v4, 15006)] {
        let output = lab.stranger.curl(&["--connect-timeout", "1", &format!("http://{host}:{port}/")], None);
        assert_eq!(output.status.code(), Some(28), "dropped: {}", text(&output));
    }

    // A workload that calls itself as the proxy meets its own policy; the application on its own is left alone.
    for host in lab.hosts() {
        let url = format!("http://{host}:8080/self");
        let output = lab.server.curl(&[&url], Some((PROXY_ID, PROXY_ID)));
        assert!(!output.status.success(), "{}", text(&output));
        let output = lab.server.curl(&[&url], None);
        assert!(text(&output).contains("answer-of-nginx"), "{}", text(&output));
    }
    for pod in [&lab.client, &lab.server] {
        let metrics = text(&pod.curl(&["http://127.0.0.1:15000/metrics"], None));
        let open: f64 = metrics
            .lines()
            .filter(|line| line.starts_with("outrider_downstream_connections_active{"))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum();
        assert!(open < 10.0, "{open} connections are open\n{}", lab.client_sidecar.log());
    }
}

/// MariaDB, which greets before the client says anything, with an empty database.
fn mariadb(pod: &Pod) -> Process {
    let folder = scratch("mariadb");
    let data = folder.join("data");
    let at = |name: &str| format!("{}/{name}", folder.display());
    let install = std::process::Command::new("mariadb-install-db")
        .args(["--no-defaults", "--user=root", "--auth-root-authentication-method=normal", "--skip-test-db"])
        .arg(format!("--datadir={}", data.display()))
        .output()
        .unwrap();
    assert!(install.status.success(), "{}", text(&install));
    // From its sidecar only and without a password: the mesh is what protects it here.
    let open = "CREATE USER 'shop'@'127.0.0.1';\nGRANT ALL ON *.* TO 'shop'@'127.0.0.1';\n";
    fs::write(folder.join("init.sql"), open).unwrap();
    let arguments = [
        "--no-defaults".to_owned(),
        "--user=root".to_owned(),
        "--bind-address=127.0.0.1".to_owned(),
        "--skip-name-resolve".to_owned(),
        format!("--datadir={}", data.display()),
        format!("--socket={}", at("socket")),
        format!("--pid-file={}", at("pid")),
        format!("--init-file={}", at("init.sql")),
    ];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut process = pod.start("mariadbd", &arguments, folder);
    until("MariaDB listens", || {
        assert!(process.is_running(), "{}", process.log());
        pod.listens(3306)
    });
    process
}

#[test]
fn a_database_that_speaks_first_is_reached_through_the_mesh() {
    if skipped(&["nginx", "mariadbd", "mariadb", "mariadb-install-db"]) {
        return;
    }
    let lab = lab("lab-mariadb", &[]);
    let _database = mariadb(&lab.server);
    let mut wire = lab.network.record("server");
    let ask = |pod: &Pod, host: &str, query: &str| {
        let mut command = pod.command("mariadb");
        command.args([
            "--no-defaults",
            "--skip-ssl",
            "--connect-timeout=5",
            "-u",
            "shop",
            "-h",
            host,
            "-e",
            query,
        ]);
        command.output().unwrap()
    };
    for host in [&lab.server.v4, &lab.server.v6] {
        let output = ask(
            &lab.client,
            host,
            "SELECT CONCAT('row-of', '-the-database', REPEAT('.', 100000)) AS marked_query",
        );
        assert!(text(&output).contains("row-of-the-database..."), "{}", text(&output));
        let output = ask(&lab.stranger, host, "SELECT 1");
        assert!(!output.status.success(), "no certificate, no answer: {}", text(&output));
    }
    assert!(lab.server_sidecar.log().contains(&format!("from {CLIENT}")), "{}", lab.server_sidecar.log());
    until("the queries were recorded", || wire.bytes().len() > 200_000);
    wire.stop();
    for secret in ["row-of", "marked_query", "SELECT", "MariaDB", "mysql_native_password"] {
        assert!(!wire.saw(secret), "{secret} went over the wire");
    }
}

/// A gRPC server that says again what it hears, once and in streams, and knows one name that is not there.
const GRPC_SERVER: &str = r#"
import grpc
from concurrent import futures
def say(request, context):
    if request == b"nobody":
        context.abort(grpc.StatusCode.NOT_FOUND, "not-here-of-grpc")
    context.set_trailing_metadata((("x-trailer", "kept"),))
    return b"answer-of-grpc " + request
def talk(requests, context):
    for request in requests:
        yield b"answer-of-grpc " + request
handlers = {"Say": grpc.unary_unary_rpc_method_handler(say), "Talk": grpc.stream_stream_rpc_method_handler(talk)}
server = grpc.server(futures.ThreadPoolExecutor(4))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("lab.Echo", handlers),))
server.add_insecure_port("127.0.0.1:50051")
server.start()
server.wait_for_termination()
"#;
/// Its client: says what came of each kind of call.
const GRPC_CLIENT: &str = r#"
import grpc, sys
channel = grpc.insecure_channel(sys.argv[1])
say = channel.unary_unary("/lab.Echo/Say")
answer, call = say.with_call(b"message-of-grpc", timeout=20)
print("unary", answer.decode(), dict(call.trailing_metadata()).get("x-trailer"))
talk = channel.stream_stream("/lab.Echo/Talk")
print("stream", sum(len(one) for one in talk((b"x" * 1000 for _ in range(500)), timeout=20)))
try:
    say(b"nobody", timeout=20)
except grpc.RpcError as error:
    print("status", error.code().name, error.details())
"#;

#[test]
fn a_grpc_application_is_carried_with_its_streams_and_statuses() {
    let Some(python) = std::env::var_os("OUTRIDER_TEST_GRPC") else {
        assert!(std::env::var_os("CI").is_none(), "gRPC is missing and CI must have it");
        println!("SKIPPED: OUTRIDER_TEST_GRPC names no Python with grpcio");
        return;
    };
    if skipped(&["nginx"]) {
        return;
    }
    let lab = lab("lab-grpc", &[]);
    let folder = scratch("grpc");
    let (server, client) = (folder.join("server.py"), folder.join("client.py"));
    fs::write(&server, GRPC_SERVER).unwrap();
    fs::write(&client, GRPC_CLIENT).unwrap();
    let python = python.to_str().unwrap();
    let mut application = lab.server.start(python, &[server.to_str().unwrap()], folder);
    until("the gRPC application listens", || {
        assert!(application.is_running(), "{}", application.log());
        lab.server.listens(50051)
    });
    let mut wire = lab.network.record("server");
    let ask = |pod: &Pod, host: &str| {
        let output = pod.command(python).arg(&client).arg(format!("{host}:50051")).output().unwrap();
        text(&output)
    };
    for host in lab.hosts() {
        let said = ask(&lab.client, &host);
        assert!(said.contains("unary answer-of-grpc message-of-grpc kept"), "{said}");
        assert!(said.contains(&format!("stream {}", 500 * (1000 + "answer-of-grpc ".len()))), "{said}");
        assert!(said.contains("status NOT_FOUND not-here-of-grpc"), "{said}");
        let said = ask(&lab.stranger, &host);
        assert!(said.contains("UNAVAILABLE") && !said.contains("answer-of-grpc"), "{said}");
    }
    assert!(lab.server_sidecar.log().contains(&format!("from {CLIENT}")), "{}", lab.server_sidecar.log());
    until("the streams were recorded", || wire.bytes().len() > 2_000_000);
    wire.stop();
    for secret in ["answer-of-grpc", "message-of-grpc", "xxxxxxxx", "not-here-of-grpc"] {
        assert!(!wire.saw(secret), "{secret} went over the wire");
    }
}

#[test]
fn iptables_does_the_same() {
    if skipped(&["nginx", "iptables-restore", "ip6tables-restore"]) {
        return;
    }
    let lab = lab("lab-iptables", &["--backend", "iptables"]);
    let rules = text(&lab.client.command("iptables-save").output().unwrap());
    assert_eq!(
        rules.matches("-A OUTPUT -p tcp -j OUTRIDER_OUTBOUND").count(),
        1,
        "set twice, there once: {rules}"
    );
    let mut wire = lab.network.record("client");
    for host in lab.hosts() {
        for user in [None, Some((PROXY_ID, 0)), Some((0, PROXY_ID))] {
            let output = lab.client.curl(&[&format!("http://{host}:8080/hidden")], user);
            assert!(text(&output).contains("answer-of-nginx"), "{user:?} {}", text(&output));
        }
        let output = lab.client.curl(&[&format!("http://{host}:8080/both")], Some((PROXY_ID, PROXY_ID)));
        assert!(!output.status.success(), "{}", text(&output));
        let direct = lab.stranger.curl(&["--connect-timeout", "1", &format!("http://{host}:15006/")], None);
        assert!(!direct.status.success(), "{}", text(&direct));
    }
    until("both together were recorded", || wire.saw("/both"));
    wire.stop();
    assert!(!wire.saw("/hidden"), "plaintext left the pod");
    // Without rules nothing is hidden, and the server, which still has its own, lets nobody in.
    lab.client.redirect(&["--remove"]);
    let rules = text(&lab.client.command("iptables-save").output().unwrap());
    assert!(!rules.contains("OUTRIDER"), "{rules}");
    for host in lab.hosts() {
        let output = lab.client.curl(&[&format!("http://{host}:8080/")], None);
        assert!(!output.status.success(), "{}", text(&output));
    }
}

#[test]
fn what_is_left_out_is_left_alone() {
    if skipped(&["nginx"]) {
        return;
    }
    let lab = lab("lab-exclusions", &[]);
    let [v4, v6] = lab.hosts();
    let seen = |path: &str| {
        lab.hosts()
            .map(|host| lab.client.curl(&[&format!("http://{host}:8080/{path}")], None).status.success())
    };
    assert_eq!(seen("meshed"), [true, true]);
    // The caller goes directly and is turned away by the server, until that leaves the port out too.
    let block = format!("{}/32", lab.server.v4);
    for (rules, expected) in [
        (&["--skip-outbound-ports", "8000-8100"][..], [false, false]),
        (&["--skip-subnets", &block], [false, true]),
        (&["--ip-families", "ipv4"], [true, false]),
        (&[], [true, true]),
    ] {
        lab.client.redirect(rules);
        assert_eq!(seen("partly"), expected, "{rules:?}");
    }
    lab.server.redirect(&["--skip-inbound-ports", "8080"]);
    let direct =
        [&v4, &v6].map(|host| lab.stranger.curl(&[&format!("http://{host}:8080/")], None).status.success());
    assert_eq!(direct, [true, true], "a port that is left out is reached without the mesh");
    lab.server.redirect(&[]);
    // Ports of the sidecar are reached, and answer that nobody listens, instead of the mesh.
    let output = lab.stranger.curl(&[&format!("http://{v4}:15021/ready")], None);
    assert_eq!(output.status.code(), Some(7), "{}", text(&output));
    lab.server.redirect(&["--remove"]);
    lab.server.redirect(&["--remove"]);
    let output = lab.stranger.curl(&[&format!("http://{v6}:8080/")], None);
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn a_pod_without_working_rules_is_told() {
    if skipped(&[]) {
        return;
    }
    let mut network = Network::new();
    let pod = network.pod("alone");
    assert!(pod.verify(4000).unwrap_err().contains("192.0.2.1:61613 was not redirected"));
    pod.redirect(&["--ip-families", "ipv4"]);
    assert!(pod.verify(4000).unwrap_err().contains("[2001:db8::1]:61613 was not redirected"));
    pod.redirect(&[]);
    pod.verify(4000).unwrap();
    assert!(pod.verify(PROXY_ID).unwrap_err().contains("was not redirected"), "the proxy is left alone");
    pod.redirect(&["--remove"]);
    assert!(pod.verify(4000).is_err());
}
