//! Opaque connections, and the choice of a chain by first bytes, over real sockets.

use outrider_tests::backend::Backend;
use outrider_tests::client::{self, Ask, PATIENCE, connect};
use outrider_tests::config::{self, HCM, ROUTER};
use outrider_tests::process::{Process, admin_get, free_port};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::time::timeout;

const TCP: &str = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
fn tcp_chain(rule: &str, cluster: &str) -> String {
    format!(
        "{{filter_chain_match: {rule}, filters: [{{name: t, typed_config: {{\"@type\": {TCP}, stat_prefix: {cluster}, cluster: {cluster}}}}}]}}"
    )
}

fn http_chain(rule: &str, cluster: &str) -> String {
    format!(
        "{{filter_chain_match: {rule}, filters: [{{name: h, typed_config: {{\"@type\": {HCM}, stat_prefix: {cluster}, \
         upgrade_configs: [{{upgrade_type: websocket}}], http_filters: [{{name: r, typed_config: {{\"@type\": {ROUTER}}}}}], \
         route_config: {{virtual_hosts: [{{name: v, domains: ['*'], routes: [{{match: {{prefix: /}}, route: {{cluster: {cluster}}}}}]}}]}}}}}}]}}"
    )
}

fn listener(port: u16, filters: &[&str], chains: &[String]) -> String {
    let filters: Vec<String> = filters
        .iter()
        .map(|name| {
            format!("{{name: {name}, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.listener.{name}}}}}")
        })
        .collect();
    format!(
        "  - {{name: l{port}, address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}, listener_filters: [{}], filter_chains: [{}]}}\n",
        filters.join(", "),
        chains.join(", ")
    )
}

fn cluster(name: &str, port: u16) -> String {
    format!(
        "  - {{name: {name}, connect_timeout: 2s, load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]}}}}\n"
    )
}

fn start(listeners: &str, clusters: &str) -> (Process, u16) {
    let admin = free_port();
    let config = format!(
        "admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {admin}}}}}}}\nstatic_resources:\n  listeners:\n{listeners}  clusters:\n{clusters}"
    );
    (Process::outrider(&config, admin), admin)
}

/// A server that answers with its name first, and then echoes.
async fn named(name: &'static str) -> u16 {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = socket.accept().await {
            tokio::spawn(async move {
                let _ = stream.write_all(name.as_bytes()).await;
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
    port
}

/// A ClientHello with this server name, in one record.
fn hello(name: &str) -> Vec<u8> {
    let with_len = |width: usize, content: &[u8]| {
        let len = content.len().to_be_bytes();
        [&len[len.len() - width..], content].concat()
    };
    let sni = with_len(2, &[&[0][..], &with_len(2, name.as_bytes())].concat());
    let extensions = [&[0, 0][..], &with_len(2, &sni)].concat();
    let body =
        [&[3, 3][..], &[7; 32], &[0], &with_len(2, &[0x13, 1]), &[1, 0], &with_len(2, &extensions)].concat();
    let message = [&[1][..], &with_len(3, &body)].concat();
    [&[0x16, 3, 1][..], &with_len(2, &message)].concat()
}

#[tokio::test]
async fn bytes_pass_and_each_direction_ends_by_itself() {
    let (server, port) = (named("hi ").await, free_port());
    let (_proxy, _) = start(&listener(port, &[], &[tcp_chain("{}", "s")]), &cluster("s", server));
    let mut stream = connect(port).await;
    let mut greeting = [0; 3];
    timeout(PATIENCE, stream.read_exact(&mut greeting)).await.unwrap().unwrap();
    assert_eq!(&greeting, b"hi ", "the server speaks first");
    let sent: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    let (mut read, mut write) = stream.split();
    let writing = async {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let mut received = Vec::new();
    let (_, read) = tokio::join!(writing, timeout(PATIENCE, read.read_to_end(&mut received)));
    read.unwrap().unwrap();
    assert!(received == sent, "{} of {} bytes", received.len(), sent.len());
}

#[tokio::test]
async fn an_unreachable_upstream_is_a_reset() {
    let (port, closed) = (free_port(), free_port());
    let (_proxy, _) = start(&listener(port, &[], &[tcp_chain("{}", "s")]), &cluster("s", closed));
    // The reset may be there before the client has seen that it is connected.
    let read = async { TcpStream::connect(("127.0.0.1", port)).await?.read(&mut [0; 1]).await };
    let read = timeout(PATIENCE, read).await.unwrap();
    assert!(read.is_err() || read.unwrap() == 0);
}

#[tokio::test]
async fn chains_are_told_apart_by_first_bytes() {
    let (a, b, rest, web) =
        (named("a ").await, named("b ").await, named("rest ").await, Backend::start().await);
    let port = free_port();
    let chains = [
        tcp_chain("{server_names: [a.example]}", "a"),
        tcp_chain("{server_names: ['*.example']}", "b"),
        http_chain("{application_protocols: [http/1.1, h2c]}", "web"),
        tcp_chain("{}", "rest"),
    ];
    let filters = ["tls_inspector.v3.TlsInspector", "http_inspector.v3.HttpInspector"];
    let clusters =
        [cluster("a", a), cluster("b", b), cluster("rest", rest), cluster("web", web.port)].concat();
    let (_proxy, admin) = start(&listener(port, &filters, &chains), &clusters);
    for (bytes, greeting) in [
        (hello("A.example"), "a "),
        (hello("x.example"), "b "),
        (hello("other.org"), "rest "),
        (b"SSH-2.0-test\r\n".to_vec(), "rest "),
        // Says nothing at first: after a moment it is opaque, and the server speaks.
        (Vec::new(), "rest "),
    ] {
        let mut stream = connect(port).await;
        stream.write_all(&bytes).await.unwrap();
        let mut answer = vec![0; greeting.len() + bytes.len()];
        timeout(PATIENCE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(answer, [greeting.as_bytes(), &bytes[..]].concat(), "{greeting}");
    }
    assert_eq!(client::h1(port, &Ask::default()).await.status, 200);
    assert_eq!(client::h2(port, &Ask::default()).await.status, 200);
    let metrics = admin_get(admin, "/metrics").unwrap();
    assert!(metrics.contains("outrider_detect_total{outcome=\"timeout\"} 1"), "{metrics}");
}

#[tokio::test]
async fn a_websocket_passes_bytes_both_ways() {
    let (web, port) = (Backend::start().await, free_port());
    let (_proxy, _) = start(&listener(port, &[], &[http_chain("{}", "web")]), &cluster("web", web.port));
    let mut stream = connect(port).await;
    let ask = b"GET /ws HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\nearly ";
    stream.write_all(ask).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"early ") {
        assert!(timeout(PATIENCE, stream.read_buf(&mut answer)).await.unwrap().unwrap() > 0);
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
    stream.write_all(b"later").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert_eq!(rest, b"later");
}

#[tokio::test]
async fn a_websocket_goes_over_http2_between_proxies() {
    let (web, inner, outer) = (Backend::start().await, free_port(), free_port());
    let consents = http_chain("{}", "web")
        .replace("upgrade_configs", "http2_protocol_options: {allow_connect: true}, upgrade_configs");
    let _inner = start(&listener(inner, &[], &[consents]), &cluster("web", web.port));
    let over_h2 = format!("  - {}\n", config::cluster("web", inner, config::HTTP2));
    let _outer = start(&listener(outer, &[], &[http_chain("{}", "web")]), &over_h2);
    // The first one comes before the settings of the connection are known.
    for word in [b"first".as_slice(), b"second"] {
        let mut stream = client::websocket(outer).await;
        assert!(client::echoes(&mut stream, word).await);
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap().unwrap();
        assert!(rest.is_empty());
    }
}

#[tokio::test]
async fn no_chain_is_an_end() {
    let (server, port) = (named("x").await, free_port());
    let chains = [tcp_chain("{destination_port: 1}", "s")];
    let (_proxy, admin) = start(&listener(port, &[], &chains), &cluster("s", server));
    let mut stream = connect(port).await;
    let read = timeout(PATIENCE, stream.read(&mut [0; 1])).await.unwrap();
    assert_eq!(read.unwrap_or(0), 0);
    assert!(admin_get(admin, "/metrics").unwrap().contains("reason=\"no_filter_chain\"} 1"));
}
