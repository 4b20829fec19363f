//! What is open to an endpoint that turns unwell, beside Envoy.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use outrider_tests::client::PATIENCE;
use outrider_tests::config::address;
use outrider_tests::process::{Process, envoy_binary, free_port};
use outrider_tests::upstream::Upstream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

const TCP: &str = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
const CHECK: &str = "{timeout: 1s, interval: 0.05s, no_traffic_interval: 0.05s, unhealthy_threshold: 1, healthy_threshold: 1, \
                     http_health_check: {path: /health}}";

fn start(envoy: Option<&Path>, upstream: u16, closes: bool) -> (Process, u16) {
    let (admin, port) = (free_port(), free_port());
    let config = format!(
        "admin: {{address: {}}}
static_resources:
  listeners:
  - name: l
    address: {}
    filter_chains: [{{filters: [{{name: t, typed_config: {{\"@type\": {TCP}, stat_prefix: t, cluster: be}}}}]}}]
  clusters:
  - name: be
    close_connections_on_host_health_failure: {closes}
    health_checks: [{CHECK}]
    load_assignment: {{cluster_name: be, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {}}}}}]}}]}}
",
        address(admin),
        address(port),
        address(upstream)
    );
    let process = match envoy {
        Some(binary) => Process::envoy(binary, &config, admin),
        None => Process::outrider(&config, admin),
    };
    (process, port)
}

async fn asks(stream: &mut TcpStream) -> bool {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.is_ok()
        && stream.read(&mut [0; 1024]).await.is_ok_and(|count| count > 0)
}

#[tokio::test(flavor = "multi_thread")]
async fn opaque_connections_end_with_their_endpoints_health_where_that_is_wanted() {
    for (closes, by_envoy) in [(true, false), (false, false), (true, true), (false, true)] {
        let status = Arc::new(AtomicU16::new(200));
        let said = Arc::clone(&status);
        let upstream = Upstream::h1(move |_, head| {
            let status = if head.starts_with("GET /health ") { said.load(Ordering::Relaxed) } else { 200 };
            format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n").into_bytes()
        })
        .await;
        let envoy = envoy_binary();
        if by_envoy && envoy.is_none() {
            return;
        }
        let (_process, port) = start(envoy.as_deref().filter(|_| by_envoy), upstream.port, closes);
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        assert!(asks(&mut stream).await, "{closes} {by_envoy}");
        let checks = || upstream.requests().iter().filter(|head| head.starts_with("GET /health ")).count();
        status.store(503, Ordering::Relaxed);
        if closes {
            let ended = timeout(PATIENCE, stream.read(&mut [0; 16])).await;
            let ended = ended.unwrap_or_else(|_| panic!("still open, {by_envoy}"));
            assert!(matches!(ended, Ok(0) | Err(_)), "{by_envoy}");
        } else {
            let before = checks();
            while checks() < before + 10 {
                tokio::task::yield_now().await;
            }
            assert!(asks(&mut stream).await, "{by_envoy}");
        }
    }
}
