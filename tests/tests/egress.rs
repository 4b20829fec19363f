//! The egress guard through the real binary: what a breakout goes to next, on listeners that lead out of a workload.

use std::process::Command;

use outrider_tests::backend::Backend;
use outrider_tests::client::{self, Ask, PATIENCE};
use outrider_tests::config::{HCM, ROUTER, TO_BE, address, cluster};
use outrider_tests::deaf::Deaf;
use outrider_tests::process::{Process, admin_get, free_port, proxy_binary, scratch};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

const GUARD: &str = "type.googleapis.com/outrider.egress.v1.EgressGuard";
const TCP_PROXY: &str = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
/// A metadata service, as every cloud has one.
const METADATA: &str = "{name: metadata, load_assignment: {cluster_name: metadata, endpoints: [{lb_endpoints: [{endpoint: \
                        {address: {socket_address: {address: 169.254.169.254, port_value: 80}}}}]}]}}";

/// The settings of a guard, or none.
fn guard(settings: &str) -> String {
    match settings {
        "" => String::new(),
        settings => format!("{{name: g, typed_config: {{\"@type\": {GUARD}, {settings}}}}}, "),
    }
}

/// Two ports that lead out: one speaks HTTP, one is opaque. Both go to the backend, and `/metadata` does not.
struct Lab {
    proxy: Process,
    backend: Backend,
    admin: u16,
    http: u16,
    tcp: u16,
}

impl Lab {
    /// With a backend that Kubernetes says is its API server.
    async fn start(direction: &str, settings: &str) -> Self {
        let backend = Backend::start().await;
        let (admin, http, tcp) = (free_port(), free_port(), free_port());
        let text = config(direction, settings, (admin, http, tcp, backend.port));
        let port = backend.port.to_string();
        let env = [("KUBERNETES_SERVICE_HOST", "127.0.0.1"), ("KUBERNETES_SERVICE_PORT", port.as_str())];
        let proxy = Process::outrider_with(&text, admin, &env);
        Self { proxy, backend, admin, http, tcp }
    }

    fn change(&self, settings: &str) {
        let text = config("OUTBOUND", settings, (self.admin, self.http, self.tcp, self.backend.port));
        std::fs::write(self.proxy.directory.join("config.yaml"), text).unwrap();
        self.proxy.signal("HUP");
    }

    async fn get(&self, path: &str) -> (u16, Option<String>) {
        let answer = client::h1(self.http, &Ask { path: path.into(), ..Ask::default() }).await;
        (answer.status, answer.header("outrider-error").map(str::to_owned))
    }

    async fn until(&self, what: &str, holds: impl AsyncFn() -> bool) {
        let waiting = async {
            while !holds().await {
                tokio::task::yield_now().await;
            }
        };
        assert!(timeout(PATIENCE, waiting).await.is_ok(), "{what}\n{}", self.proxy.log());
    }

    fn counted(&self, outcome: &str, rule: &str) -> bool {
        let series = format!("outrider_egress_total{{outcome=\"{outcome}\",rule=\"{rule}\"}}");
        admin_get(self.admin, "/metrics").is_some_and(|text| text.contains(&series))
    }
}

fn config(direction: &str, settings: &str, (admin, http, tcp, backend): (u16, u16, u16, u16)) -> String {
    let guard = guard(settings);
    let web = format!(
        "{{name: http, typed_config: {{\"@type\": {HCM}, stat_prefix: s, upgrade_configs: [{{upgrade_type: websocket}}], http_filters: [{{name: r, typed_config: \
         {{\"@type\": {ROUTER}}}}}], route_config: {{virtual_hosts: [{{name: v, domains: ['*'], routes: [{{match: \
         {{prefix: /metadata}}, route: {{cluster: metadata}}}}, {TO_BE}]}}]}}}}}}"
    );
    let opaque =
        format!("{{name: tcp, typed_config: {{\"@type\": {TCP_PROXY}, stat_prefix: t, cluster: be}}}}");
    let listener = |name: &str, port: u16, last: &str| {
        format!(
            "{{name: {name}, address: {}, traffic_direction: {direction}, filter_chains: [{{filters: [{guard}{last}]}}]}}",
            address(port)
        )
    };
    format!(
        "node: {{id: shop/cart-1, cluster: shop}}\nadmin: {{address: {}}}\nstatic_resources: {{listeners: [{}, {}], clusters: [{}, \
         {METADATA}]}}\n",
        address(admin),
        listener("http", http, &web),
        listener("tcp", tcp, &opaque),
        cluster("be", backend, "")
    )
}

/// A word through the opaque port, or nothing when it was refused.
async fn answer(port: u16) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").await.ok()?;
    let mut first = [0; 16];
    let read = timeout(PATIENCE, stream.read(&mut first)).await.expect("in time").ok()?;
    first.get(..read).filter(|read| !read.is_empty()).map(<[u8]>::to_vec)
}

#[tokio::test]
async fn an_outbound_listener_refuses_what_a_breakout_goes_to_unless_told_otherwise() {
    let lab = Lab::start("OUTBOUND", "").await;
    let refused = (403, Some("egress_refused".to_owned()));
    assert_eq!(lab.get("/").await, refused);
    assert_eq!(lab.get("/metadata/iam").await, refused);
    assert_eq!(answer(lab.tcp).await, None);
    assert!(lab.backend.seen().is_empty());
    lab.until("counted", async || lab.counted("refused", "api_server") && lab.counted("refused", "metadata"))
        .await;
    let event = || {
        let log = lab.proxy.log();
        log.lines().find(|line| line.contains("security") && line.contains("metadata")).map(str::to_owned)
    };
    lab.until("told of", async || event().is_some()).await;
    let event = event().unwrap();
    for part in ["shop/cart-1", "169.254.169.254:80", "outcome=\"refused\"", "rule=\"metadata\"", "WARN"] {
        assert!(event.contains(part), "{part} in {event}");
    }

    let port = lab.backend.port;
    lab.change(&format!(
        "allow: [{{name: api, addresses: [{{address_prefix: 127.0.0.1, prefix_len: 32}}], ports: [{{start: {port}, end: {}}}]}}]",
        port + 1
    ));
    lab.until("allowed", async || lab.get("/").await.0 == 200).await;
    assert_eq!(lab.get("/metadata").await, refused);
    // Another worker may hear of the change a moment later.
    lab.until("allowed on every worker", async || answer(lab.tcp).await.is_some()).await;

    lab.change("protected: RECORD, unknown: REFUSE");
    lab.until("recorded", async || lab.get("/").await.0 == 200 && lab.counted("recorded", "api_server"))
        .await;
    lab.until("told of", async || lab.proxy.log().contains("outcome=\"recorded\"")).await;
}

#[tokio::test]
async fn an_inbound_listener_has_no_guard_of_its_own_and_a_named_one_holds_anywhere() {
    let lab = Lab::start("INBOUND", "").await;
    assert_eq!(lab.get("/").await.0, 200);
    let lab = Lab::start("UNSPECIFIED", "protected: REFUSE").await;
    assert_eq!(lab.get("/").await.0, 403);
}

#[tokio::test]
async fn a_connection_that_is_open_ends_when_its_destination_is_refused() {
    let lab = Lab::start("OUTBOUND", "protected: PASS").await;
    let mut stream = client::connect(lab.tcp).await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
    assert!(client::read_head(&mut stream).await.contains(" 200 "));
    lab.change("protected: REFUSE");
    let mut rest = Vec::new();
    let ended = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "still open\n{}", lab.proxy.log());
}

#[tokio::test]
async fn a_tunnel_ends_when_its_destination_is_refused() {
    let lab = Lab::start("OUTBOUND", "protected: PASS").await;
    let mut tunnel = client::websocket(lab.http).await;
    lab.change("protected: RECORD");
    lab.until("the change is known", async || {
        lab.get("/").await.0 == 200 && lab.counted("recorded", "api_server")
    })
    .await;
    assert!(client::echoes(&mut tunnel, b"still").await);
    lab.change("protected: REFUSE");
    let mut rest = Vec::new();
    let ended = timeout(PATIENCE, tunnel.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "still open\n{}", lab.proxy.log());
}

#[tokio::test]
async fn a_destination_that_is_refused_while_it_is_connected_to_is_not_reached() {
    let (deaf, admin, port) = (Deaf::start().await, free_port(), free_port());
    let text = |settings: &str| config("OUTBOUND", settings, (admin, free_port(), port, deaf.port));
    let server = deaf.port.to_string();
    let env = [("KUBERNETES_SERVICE_HOST", "127.0.0.1"), ("KUBERNETES_SERVICE_PORT", server.as_str())];
    let proxy = Process::outrider_with(&text("protected: PASS"), admin, &env);
    let mut stream = client::connect(port).await;
    let counted = |series: &str| admin_get(admin, "/metrics").is_some_and(|text| text.contains(series));
    let until = async |what: &str, holds: &dyn Fn() -> bool| {
        let waiting = async {
            while !holds() {
                tokio::task::yield_now().await;
            }
        };
        assert!(timeout(PATIENCE, waiting).await.is_ok(), "{what}\n{}", proxy.log());
    };
    until("it is let through", &|| {
        counted("outrider_egress_total{outcome=\"passed\",rule=\"api_server\"} 1")
    })
    .await;
    std::fs::write(proxy.directory.join("config.yaml"), text("protected: REFUSE")).unwrap();
    proxy.signal("HUP");
    until("the change is there", &|| proxy.log().contains("read again")).await;
    // From now on connections are taken, and the one that was begun before is among them.
    let accepting = tokio::spawn(async move {
        let mut taken = Vec::new();
        while let Ok((stream, _)) = deaf.listener.accept().await {
            taken.push(stream);
        }
    });
    let mut rest = Vec::new();
    let ended = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "still open\n{}", proxy.log());
    assert!(counted("outrider_egress_total{outcome=\"refused\",rule=\"api_server\"} 1"));
    accepting.abort();
}

/// A cluster that goes where the connection was going.
const ORIGINAL: &str = "{name: be, type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED}";
const ORIGINAL_DST: &str = "listener_filters: [{name: o, typed_config: {\"@type\": \
                            type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst}}], ";

/// The same proxy with [`ORIGINAL`] for its cluster.
fn transparent(settings: &str, admin: u16, http: u16) -> String {
    let text = config("OUTBOUND", settings, (admin, http, free_port(), 1));
    let text = text.replace(&cluster("be", 1, ""), ORIGINAL);
    text.replace("traffic_direction", &format!("{ORIGINAL_DST}traffic_direction"))
}

#[tokio::test]
async fn a_cluster_of_original_destinations_does_not_come_back_to_the_proxy() {
    let (admin, port) = (free_port(), free_port());
    let _proxy = Process::outrider(&transparent("", admin, port), admin);
    let answer = client::h1(port, &Ask::default()).await;
    assert_eq!((answer.status, answer.header("outrider-error")), (503, Some("no_original_destination")));
}

/// A network namespace with a metadata service, a kubelet and another server, where what the user `nobody` opens is
/// led to port 15001.
struct Island(String);

impl Island {
    /// `None` where namespaces cannot be made.
    fn new() -> Option<Self> {
        let island = Self(format!("egress-{}", std::process::id()));
        if !run(&format!("ip netns add {}", island.0)) {
            return None;
        }
        let rules = "table inet t { chain out { type nat hook output priority -100; meta skuid 65534 tcp dport != 0 \
                     redirect to :15001; }; }";
        for command in [
            "ip link set lo up".to_owned(),
            "ip address add 10.99.0.1/32 dev lo".to_owned(),
            "ip address add 169.254.169.254/32 dev lo".to_owned(),
            "ip address add fd00:99::1/128 dev lo nodad".to_owned(),
            format!("nft '{rules}'"),
        ] {
            assert!(run(&island.command(&command)), "{command}");
        }
        Some(island)
    }

    fn command(&self, command: &str) -> String {
        format!("ip netns exec {} {command}", self.0)
    }

    fn proxy(&self, name: &str, text: &str) -> Process {
        let directory = scratch(name);
        std::fs::write(directory.join("config.yaml"), text).unwrap();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0]).arg(proxy_binary()).env("OUTRIDER_WORKERS", "1");
        command.arg("--config").arg(directory.join("config.yaml"));
        Process::spawn(command, directory, name)
    }

    /// The status that the workload gets.
    fn ask(&self, url: &str) -> String {
        let curl = "setpriv --reuid 65534 --clear-groups curl -gso /dev/null -w '%{http_code}' --max-time 20";
        let output = Command::new("sh").args(["-c", &self.command(&format!("{curl} '{url}'"))]).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    }
}

impl Drop for Island {
    fn drop(&mut self) {
        run(&format!("ip netns delete {}", self.0));
    }
}

fn run(command: &str) -> bool {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    output.status.success()
}

/// Servers that answer 200 at each of these addresses.
fn servers(addresses: &[(&str, u16)]) -> String {
    let listener = |(address, port): &(&str, u16)| {
        format!(
            "{{address: {{socket_address: {{address: '{address}', port_value: {port}}}}}, filter_chains: [{{filters: \
             [{{name: http, typed_config: {{\"@type\": {HCM}, stat_prefix: s, http_filters: [{{name: r, typed_config: \
             {{\"@type\": {ROUTER}}}}}], route_config: {{virtual_hosts: [{{name: v, domains: ['*'], routes: [{{match: \
             {{prefix: /}}, direct_response: {{status: 200}}}}]}}]}}}}}}]}}]}}"
        )
    };
    let listeners: Vec<_> = addresses.iter().map(listener).collect();
    format!("static_resources: {{listeners: [{}]}}\n", listeners.join(", "))
}

#[tokio::test]
async fn a_workload_whose_traffic_is_redirected_meets_the_guard_wherever_it_goes() {
    let Some(island) = Island::new() else {
        println!("skipped: redirected traffic; network namespaces need root");
        return;
    };
    let places = [("10.99.0.1", 80), ("10.99.0.1", 10_250), ("169.254.169.254", 80), ("fd00:99::1", 80)];
    let _servers = island.proxy("servers", &servers(&places));
    let anywhere = |text: String| {
        text.replace(
            "address: 127.0.0.1, port_value: 15001",
            "address: '::', ipv4_compat: true, port_value: 15001",
        )
    };
    let proxy = island.proxy("guarded", &anywhere(transparent("", 15_000, 15_001)));
    let until = async |what: &str, holds: &dyn Fn() -> bool| {
        let waiting = async {
            while !holds() {
                tokio::task::yield_now().await;
            }
        };
        assert!(timeout(PATIENCE, waiting).await.is_ok(), "{what}\n{}", proxy.log());
    };
    until("what is unknown passes", &|| island.ask("http://10.99.0.1/") == "200").await;
    until("IPv6 likewise", &|| island.ask("http://[fd00:99::1]/") == "200").await;
    assert_eq!(island.ask("http://10.99.0.1:10250/pods"), "403");
    assert_eq!(island.ask("http://169.254.169.254/latest/meta-data/"), "403");
    assert_eq!(island.ask("http://[::ffff:169.254.169.254]/latest/meta-data/"), "403");
    // The proxy's own port leads nowhere, and not back for ever.
    assert_eq!(island.ask("http://10.99.0.1:15001/"), "503");

    let file = proxy.directory.join("config.yaml");
    std::fs::write(file, anywhere(transparent("unknown: REFUSE", 15_000, 15_001))).unwrap();
    proxy.signal("HUP");
    until("what is unknown is refused", &|| island.ask("http://10.99.0.1/") == "403").await;
    let told = |line: &str| line.contains("rule=\"unknown\"") && line.contains("10.99.0.1:80");
    until("told of", &|| proxy.log().lines().any(told)).await;
}
