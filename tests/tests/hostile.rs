//! Malformed and hostile HTTP through the real binary: the expected answer, nothing of it at the upstream, the next
//! request served, the process alive and no larger.

use bytes::Bytes;
use outrider_tests::backend::Backend;
use outrider_tests::client::{self, Ask, PATIENCE, connect, parse_h1, raw};
use outrider_tests::process::{Process, free_port};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::timeout;

/// Memory that hostile traffic may cost, in bytes.
const MAX_GROWTH_BYTES: u64 = 10 * 1024 * 1024;

struct Lab {
    proxy: Process,
    backend: Backend,
    port: u16,
    rss_bytes: u64,
}

impl Lab {
    async fn start() -> Self {
        let backend = Backend::start().await;
        Self::before(backend.port, backend).await
    }

    /// A proxy before any upstream, with `/admin` denied.
    async fn before(upstream: u16, backend: Backend) -> Self {
        let (admin, port) = (free_port(), free_port());
        let hcm = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
        let config = format!(
            "admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {admin}}}}}}}
static_resources:
  listeners:
  - name: web
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          \"@type\": {hcm}
          stat_prefix: web
          request_headers_timeout: 1s
          http_filters: [{{name: r, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]
          route_config:
            virtual_hosts:
            - name: v
              domains: ['*']
              routes:
              - {{match: {{prefix: /admin}}, direct_response: {{status: 403}}}}
              - {{match: {{prefix: /}}, route: {{cluster: be}}}}
  clusters:
  - {{name: be, load_assignment: {{cluster_name: be, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {upstream}}}}}}}}}]}}]}}}}
"
        );
        let proxy = Process::outrider(&config, admin);
        Self { rss_bytes: proxy.rss_bytes(), proxy, backend, port }
    }

    /// What must hold after any attack.
    async fn is_well(&mut self) {
        assert!(self.proxy.is_running());
        let answer = client::h1(self.port, &Ask { path: "/well".into(), ..Ask::default() }).await;
        assert_eq!(answer.status, 200, "the next clean request is served");
        let growth = self.proxy.rss_bytes().saturating_sub(self.rss_bytes);
        assert!(growth < MAX_GROWTH_BYTES, "grew by {growth} bytes");
    }
}

#[tokio::test]
async fn malformed_requests_are_refused_and_never_forwarded() {
    let mut lab = Lab::start().await;
    let head = |lines: &str| format!("POST /x HTTP/1.1\r\nhost: a\r\n{lines}\r\n\r\n");
    let many = "a: b\r\n".repeat(101);
    let cases: Vec<(String, u16)> = vec![
        (head("content-length: 5\r\ntransfer-encoding: chunked") + "hello", 400),
        (head("transfer-encoding: chunked\r\ncontent-length: 5") + "0\r\n\r\n", 400),
        (head("content-length: 5\r\ncontent-length: 6") + "hello", 400),
        (head("content-length: 5, 6") + "hello", 400),
        (head("content-length: -1"), 400),
        (head("content-length: 0x5") + "hello", 400),
        (head("content-length: 1_0"), 400),
        (head("content-length: 18446744073709551616"), 400),
        (head("content-length: 5;") + "hello", 400),
        (head("transfer-encoding: xchunked"), 501),
        (head("transfer-encoding: identity"), 501),
        (head("transfer-encoding: ,chunked"), 400),
        (head("transfer-encoding: chunked;q=1"), 400),
        (head("transfer-encoding: chunked\x0b"), 400),
        (head("transfer-encoding : chunked"), 400),
        ("POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n".into(), 426),
        ("GET / HTTP/1.1\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nhost: a/b\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nhost: u@a\r\n\r\n".into(), 400),
        (head("a: b\0c"), 400),
        (head("a : b"), 400),
        (head("nocolon"), 400),
        (head("a: b\r\n c: d"), 400),
        (head("a: b\rc"), 400),
        ("GET / HTTP/1.1\nhost: a\n\n".into(), 400),
        ("GET / HTTP/3.0\r\nhost: a\r\n\r\n".into(), 505),
        ("PRI * HTTP/2.0\r\n\r\n".into(), 400),
        ("GET /admin#x HTTP/1.1\r\nhost: a\r\n\r\n".into(), 400),
        ("GET \\admin HTTP/1.1\r\nhost: a\r\n\r\n".into(), 400),
        (head(many.trim_end()), 431),
        (head(&format!("a: {}", "b".repeat(62_000))), 431),
        (format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "a".repeat(20_000)), 414),
        ("CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n".into(), 404),
        ("TRACE / HTTP/1.1\r\nhost: a\r\n\r\n".into(), 404),
        (head("expect: something"), 417),
        ("\x16\x03\x01\x02\x00".into(), 400),
    ];
    for (request, status) in &cases {
        let answer = parse_h1(&raw(lab.port, request.as_bytes()).await, false);
        let shown = &request[..request.len().min(120)];
        assert_eq!(answer.status, *status, "{shown:?}");
        assert!(answer.header("outrider-error").is_some(), "{shown:?}");
    }
    assert_eq!(lab.backend.received_bytes(), 0, "no byte of a refused request reaches the upstream");
    lab.is_well().await;
}

#[tokio::test]
async fn malformed_chunks_end_the_connection() {
    let mut lab = Lab::start().await;
    for body in [
        "0x5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5;\r\nhello\r\n0\r\n\r\n",
        "11111111111111111\r\n",
        "5\r\nhello!\r\n0\r\n\r\n",
    ] {
        let request = format!("POST /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{body}");
        let answer = parse_h1(&raw(lab.port, request.as_bytes()).await, false);
        assert_eq!(answer.status, 400, "{body:?}");
    }
    assert!(lab.backend.seen().is_empty(), "no such request is complete at the upstream");
    lab.is_well().await;
}

#[tokio::test]
async fn a_request_cut_at_any_byte_costs_nothing() {
    let mut lab = Lab::start().await;
    let request = b"POST /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    for end in 0..request.len() {
        let mut stream = connect(lab.port).await;
        stream.write_all(&request[..end]).await.unwrap();
        drop(stream);
    }
    lab.is_well().await;
    let whole = lab.backend.seen().iter().filter(|seen| seen.path == "/x").count();
    assert_eq!(whole, 0, "a request that was cut short is never complete at the upstream");
}

#[tokio::test]
async fn a_slow_head_is_told_so() {
    let lab = Lab::start().await;
    let mut stream = connect(lab.port).await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: ").await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert_eq!(parse_h1(&answer, false).status, 408);
}

#[tokio::test]
async fn disguised_paths_are_seen_through() {
    let mut lab = Lab::start().await;
    for (path, status) in [
        ("/admin", 403),
        ("/./admin", 403),
        ("/x/%2e%2e/admin", 403),
        ("/%61dmin", 403),
        ("/admin%20", 403),
        ("/admin;x=1", 403),
        ("/x/..;/admin", 403),
        ("http://h/admin", 403),
        ("/x\\..\\admin", 403),
        ("/x/..%2fadmin", 400),
        ("/%5c%2e%2e/admin", 400),
        ("/%c0%ae%c0%ae/admin", 400),
        ("/Admin", 200),
        ("/x/%252e%252e/admin", 200),
    ] {
        let answer = client::h1(lab.port, &Ask { path: path.into(), ..Ask::default() }).await;
        assert_eq!(answer.status, status, "HTTP/1 {path}");
        if path.starts_with('/') && !path.contains('\\') {
            let answer = client::h2(lab.port, &Ask { path: path.into(), ..Ask::default() }).await;
            assert_eq!(answer.status, status, "HTTP/2 {path}");
        }
    }
    for seen in lab.backend.seen() {
        assert!(
            !seen.path.to_ascii_lowercase().starts_with("/admin") || seen.path == "/Admin",
            "{}",
            seen.path
        );
    }
    lab.is_well().await;
}

#[tokio::test]
async fn identity_and_control_headers_of_clients_go_no_further() {
    let lab = Lab::start().await;
    let headers = ["x-forwarded-client-cert", "x-envoy-upstream-rq-timeout-ms", "x-outrider-fault"];
    let headers = headers.iter().map(|name| ((*name).to_owned(), "forged".to_owned())).collect();
    client::h1(lab.port, &Ask { headers, ..Ask::default() }).await;
    let seen = lab.backend.seen().pop().unwrap();
    assert!(!seen.headers.values().any(|value| value == "forged"), "{seen:?}");
}

/// An upstream that answers every connection with these bytes and closes it.
async fn upstream(answer: &'static [u8]) -> u16 {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = socket.accept().await {
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(answer).await;
                let _ = stream.shutdown().await;
                while stream.read(&mut [0; 4096]).await.is_ok_and(|count| count > 0) {}
            });
        }
    });
    port
}

#[tokio::test]
async fn invalid_answers_of_upstreams_become_502() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\nhello"[..],
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
        b"HTTP/1.1 101 X\r\nupgrade: y\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"SSH-2.0-x\r\n",
        b"HTTP/1.1 200 OK\r\na b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na: b",
    ] {
        let lab = Lab::before(upstream(answer).await, Backend::start().await).await;
        for down in ["h1", "h2"] {
            let ask = Ask::default();
            let got = if down == "h1" {
                client::h1(lab.port, &ask).await
            } else {
                client::h2(lab.port, &ask).await
            };
            let shown = String::from_utf8_lossy(answer);
            assert_eq!(got.status, 502, "{down} {shown:?}");
            assert_eq!(got.header("outrider-error"), Some("upstream_protocol_error"), "{down} {shown:?}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_cut_is_never_a_whole_one() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhello"[..],
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello!!",
    ] {
        let lab = Lab::before(upstream(answer).await, Backend::start().await).await;
        let got = client::h1(lab.port, &Ask::default()).await;
        assert!(!got.whole, "HTTP/1 {got:?}");
        let got = client::h2(lab.port, &Ask::default()).await;
        assert!(!got.whole, "HTTP/2 {got:?}");
    }
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header block of literals without indexing.
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()][..], text.as_bytes()].concat();
    fields.iter().flat_map(|(name, value)| [&[0][..], &text(name), &text(value)].concat()).collect()
}

fn usual(more: &[(&'static str, &'static str)]) -> Vec<u8> {
    let fields = [(":method", "GET"), (":scheme", "http"), (":path", "/x"), (":authority", "a")];
    block(&[&fields[..], more].concat())
}

/// Opens an HTTP/2 connection by hand.
async fn open(port: u16) -> tokio::net::TcpStream {
    let mut stream = connect(port).await;
    let hello = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, 0, &[])].concat();
    stream.write_all(&hello).await.unwrap();
    stream
}

/// Writes until the other side has had enough, and says whether it had.
async fn flood(port: u16, bytes: Vec<u8>, times: usize) -> bool {
    let mut stream = open(port).await;
    let (mut read, mut write) = stream.split();
    let writing = async {
        for _ in 0..times {
            if write.write_all(&bytes).await.is_err() {
                return true;
            }
        }
        let _ = write.shutdown().await;
        false
    };
    let reading = async {
        let mut space = vec![0; 65_536];
        while read.read(&mut space).await.is_ok_and(|count| count > 0) {}
    };
    let both = async { tokio::join!(writing, reading).0 };
    timeout(PATIENCE, both).await.unwrap_or(true)
}

#[tokio::test]
async fn malformed_http2_requests_are_not_forwarded() {
    let mut lab = Lab::start().await;
    let get = |fields: &[(&str, &str)]| block(fields);
    let cases: Vec<Vec<u8>> = vec![
        usual(&[("Upper", "x")]),
        usual(&[("connection", "close")]),
        usual(&[("transfer-encoding", "chunked")]),
        usual(&[("te", "gzip")]),
        usual(&[("a", "b\r\nc: d")]),
        usual(&[("a", "b\0")]),
        usual(&[(":path", "/again")]),
        usual(&[("host", "other")]),
        usual(&[("content-length", "x")]),
        get(&[(":method", "GET"), (":scheme", "http"), (":authority", "a")]),
        get(&[(":method", "GET"), (":scheme", "http"), (":path", ""), (":authority", "a")]),
        get(&[(":method", "GET"), (":scheme", "http"), (":path", "/x")]),
        get(&[(":method", "GET"), (":scheme", "http"), (":path", "/x"), (":authority", "u@a")]),
        get(&[(":method", "GET"), ("a", "b"), (":scheme", "http"), (":path", "/x"), (":authority", "a")]),
        get(&[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/x"),
            (":authority", "a"),
            (":status", "200"),
        ]),
    ];
    for fields in cases {
        let mut stream = open(lab.port).await;
        stream.write_all(&frame(1, 5, 1, &fields)).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
    }
    // A body that is longer than it says.
    let mut stream = open(lab.port).await;
    let head = block(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/x"),
        (":authority", "a"),
        ("content-length", "1"),
    ]);
    stream.write_all(&[frame(1, 4, 1, &head), frame(0, 1, 1, b"too much")].concat()).await.unwrap();
    stream.shutdown().await.unwrap();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await.unwrap();
    assert!(lab.backend.seen().iter().all(|seen| seen.path != "/x"), "{:?}", lab.backend.seen());
    lab.is_well().await;
}

#[tokio::test]
async fn floods_cost_their_sender_the_connection_or_next_to_nothing() {
    let mut lab = Lab::start().await;
    let rapid: Vec<u8> = (0..2000_u32)
        .flat_map(|n| [frame(1, 5, n * 2 + 1, &usual(&[])), frame(3, 0, n * 2 + 1, &[0, 0, 0, 8])].concat())
        .collect();
    assert!(flood(lab.port, rapid, 1).await || lab.proxy.is_running());
    // The stream's own errors, provoked to be reset by us.
    let made: Vec<u8> = (0..2000_u32)
        .flat_map(|n| [frame(1, 4, n * 2 + 1, &usual(&[])), frame(8, 0, n * 2 + 1, &[0; 4])].concat())
        .collect();
    flood(lab.port, made, 1).await;
    let opened = frame(1, 0, 1, &usual(&[]));
    let mut stream = open(lab.port).await;
    stream.write_all(&opened).await.unwrap();
    drop(stream);
    for (bytes, times) in [
        (frame(4, 0, 0, &[]), 20_000),
        (frame(6, 0, 0, &[0; 8]), 20_000),
        (frame(2, 0, 1, &[0, 0, 0, 0, 1]), 20_000),
        (frame(8, 0, 0, &[0, 0, 0, 1]), 20_000),
        (frame(0xfa, 0, 0, &[0; 100]), 20_000),
        ([frame(1, 0, 1, &usual(&[])), frame(9, 0, 1, &[]).repeat(20_000)].concat(), 1),
        ([frame(1, 0, 1, &usual(&[])), frame(9, 0, 1, &block(&[("a", "b")])).repeat(50_000)].concat(), 1),
        ([frame(1, 4, 1, &usual(&[])), frame(0, 0, 1, &[]).repeat(50_000)].concat(), 1),
    ] {
        flood(lab.port, bytes, times).await;
        assert!(lab.proxy.is_running());
    }
    lab.is_well().await;
}

#[tokio::test]
async fn a_goaway_in_a_burst_loses_no_request_that_may_be_sent_again() {
    // An HTTP/2 upstream that ends every connection after a few streams.
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = socket.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = socket.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                let mut served = 0;
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    let mut send = respond.send_response(http::Response::new(()), false).unwrap();
                    send.send_data(Bytes::from_static(b"ok"), true).unwrap();
                    served += 1;
                    if served == 5 {
                        connection.graceful_shutdown();
                    }
                }
            });
        }
    });
    let (admin, port) = (free_port(), free_port());
    let hcm = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    let options = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let config = format!(
        "admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {admin}}}}}}}
static_resources:
  listeners: [{{name: web, address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}, filter_chains: [{{filters: [{{name: h, typed_config: {{\"@type\": {hcm}, stat_prefix: w, http_filters: [{{name: r, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}], route_config: {{virtual_hosts: [{{name: v, domains: ['*'], routes: [{{match: {{prefix: /}}, route: {{cluster: be}}}}]}}]}}}}}}]}}]}}]
  clusters: [{{name: be, typed_extension_protocol_options: {{envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {{\"@type\": {options}, explicit_http_config: {{http2_protocol_options: {{}}}}}}}}, load_assignment: {{cluster_name: be, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {upstream}}}}}}}}}]}}]}}}}]
"
    );
    let _proxy = Process::outrider(&config, admin);
    let asked = (0..20).map(|_| {
        tokio::spawn(async move {
            let mut good = 0;
            for _ in 0..10 {
                good += usize::from(client::h1(port, &Ask::default()).await.status == 200);
            }
            good
        })
    });
    let mut good = 0;
    for one in asked.collect::<Vec<_>>() {
        good += one.await.unwrap();
    }
    assert_eq!(good, 200);
}
