//! Endpoints are asked whether they are well, as Envoy asks them, and once for all workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use outrider_tests::beside::Beside;
use outrider_tests::client::PATIENCE;
use outrider_tests::config::{HTTP2, address};
use outrider_tests::frames::{DATA, END_HEADERS, END_STREAM, Frame, HEADERS, frame};
use outrider_tests::process::free_port;
use outrider_tests::upstream::Upstream;

const ROUTES: &[&str] = &["{match: {prefix: /}, route: {cluster: be}}"];
const PACE: &str =
    "timeout: 1s, interval: 0.05s, no_traffic_interval: 0.05s, unhealthy_threshold: 2, healthy_threshold: 2";

fn cluster(ports: &[u16], check: &str, more: &str) -> String {
    let endpoints: Vec<String> =
        ports.iter().map(|port| format!("{{endpoint: {{address: {}}}}}", address(*port))).collect();
    format!(
        "{{name: be, {more} health_checks: [{{{PACE}, {check}}}], common_lb_config: {{healthy_panic_threshold: {{value: 0}}}}, \
         load_assignment: {{cluster_name: be, endpoints: [{{lb_endpoints: [{}]}}]}}}}",
        endpoints.join(", ")
    )
}

/// An endpoint that answers health checks with a status that can be changed; others with its number.
async fn endpoint(number: usize, status: &Arc<AtomicU16>) -> Upstream {
    let status = Arc::clone(status);
    Upstream::h1(move |_, head| {
        let asked = head.starts_with("GET /health ");
        let status = if asked { status.load(Ordering::Relaxed) } else { 200 };
        format!("HTTP/1.1 {status} X\r\ncontent-length: 1\r\n\r\n{number}").into_bytes()
    })
    .await
}

/// Asks until the answers of as many requests in a row are all good.
async fn until_all(proxy: &Beside, what: &str, good: impl Fn(u16, &str) -> bool) {
    let begun = Instant::now();
    let mut in_a_row = 0;
    while in_a_row < 12 {
        assert!(begun.elapsed() < PATIENCE, "{}: {what}", proxy.name);
        let answer = proxy.get("/", &[]).await;
        in_a_row = if good(answer.status, &answer.body) { in_a_row + 1 } else { 0 };
    }
}

async fn until_seen(proxy: &Beside, body: &str) {
    let begun = Instant::now();
    while proxy.get("/", &[]).await.body != body {
        assert!(begun.elapsed() < PATIENCE, "{}: {body} does not come back", proxy.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_that_it_is_unwell_gets_nothing_until_it_is_well() {
    for which in 0..2 {
        let statuses: Vec<_> = (0..3).map(|_| Arc::new(AtomicU16::new(200))).collect();
        let mut fleet = Vec::new();
        for (number, status) in statuses.iter().enumerate() {
            fleet.push(endpoint(number, status).await);
        }
        statuses[0].store(503, Ordering::Relaxed);
        let ports: Vec<u16> = fleet.iter().map(|upstream| upstream.port).collect();
        let check = "http_health_check: {path: /health, host: asked.test, expected_statuses: [{start: 200, end: 300}]}";
        let Some(proxy) = Beside::both("", ROUTES, &[cluster(&ports, check, "")]).into_iter().nth(which)
        else {
            return;
        };
        // Whoever says that it is ready has asked everybody.
        for _ in 0..9 {
            let answer = proxy.get("/", &[]).await;
            assert!(answer.status == 200 && answer.body != "0", "{}: {answer:?}", proxy.name);
        }
        assert!(proxy.operator("/clusters").contains("/failed_active_hc"), "{}", proxy.name);
        let asked = fleet[0].requests()[0].to_ascii_lowercase();
        assert!(asked.starts_with("get /health http/1.1") && asked.contains("host: asked.test"), "{asked}");
        statuses[0].store(201, Ordering::Relaxed);
        until_seen(&proxy, "0").await;
        statuses[1].store(500, Ordering::Relaxed);
        until_all(&proxy, "1 still gets requests", |status, body| status == 200 && body != "1").await;
        if proxy.name == "ours" {
            let metrics = proxy.operator("/metrics");
            let out = "outrider_endpoints_out{destination_service=\"be\",cause=\"health_check\"} 1";
            assert!(metrics.contains(out), "{metrics}");
            assert!(
                metrics
                    .contains("outrider_health_checks_total{destination_service=\"be\",outcome=\"passed\"}")
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_be_reached_gets_nothing() {
    let well = Arc::new(AtomicU16::new(200));
    let upstream = endpoint(0, &well).await;
    for check in ["http_health_check: {path: /health}", "tcp_health_check: {}"] {
        for proxy in Beside::both("", ROUTES, &[cluster(&[free_port(), upstream.port], check, "")]) {
            for _ in 0..9 {
                let answer = proxy.get("/", &[]).await;
                assert_eq!((answer.status, answer.body.as_str()), (200, "0"), "{}: {check}", proxy.name);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_over_tcp_are_compared() {
    // What answers a ping with a pong, in the form of an answer to a request.
    let right =
        Upstream::once(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4\r\n\r\nPONG").await;
    let wrong =
        Upstream::once(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4\r\n\r\nOINK").await;
    // "GET / HTTP/1.1\r\n\r\n", "HTTP", "PONG"
    let check = "tcp_health_check: {send: {text: \"474554202f20485454502f312e310d0a0d0a\"}, receive: [{text: \"48545450\"}, {text: \"504f4e47\"}]}";
    for proxy in Beside::both("", ROUTES, &[cluster(&[right.port, wrong.port], check, "")]) {
        for _ in 0..9 {
            assert_eq!(proxy.get("/", &[]).await.body, "PONG", "{}", proxy.name);
        }
    }
}

/// A header that is in no table (RFC 7541 section 6.2.2), both parts shorter than 127 bytes.
fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0, u8::try_from(name.len()).unwrap()];
    bytes.extend(name.bytes());
    bytes.push(u8::try_from(value.len()).unwrap());
    bytes.extend(value.bytes());
    bytes
}

/// An endpoint that answers gRPC health checks with this status, and everything else with its number too.
async fn grpc(number: u8, status: u8) -> Upstream {
    Upstream::h2(move |_, got: &Frame| {
        let head =
            [vec![0x88], literal("content-type", "application/grpc"), literal("who", &number.to_string())];
        let mut bytes = frame(HEADERS, END_HEADERS, got.stream, &head.concat());
        bytes.extend(frame(DATA, 0, got.stream, &[0, 0, 0, 0, 2, 8, status]));
        let trailers = literal("grpc-status", "0");
        bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, got.stream, &trailers));
        bytes
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_services_are_asked_in_their_own_protocol() {
    let (serving, not) = (grpc(1, 1).await, grpc(2, 2).await);
    let check = "grpc_health_check: {service_name: shop, authority: asked.test}";
    let clusters = [cluster(&[serving.port, not.port], check, &format!("{HTTP2},"))];
    for proxy in Beside::both("", ROUTES, &clusters) {
        for _ in 0..9 {
            let answer = proxy.get("/", &[]).await;
            assert_eq!((answer.status, answer.header("who")), (200, Some("1")), "{}", proxy.name);
        }
        assert!(proxy.operator("/clusters").contains("/failed_active_hc"), "{}", proxy.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_workers_go_by_one_check() {
    let status = Arc::new(AtomicU16::new(200));
    let upstream = endpoint(0, &status).await;
    let clusters = [cluster(&[upstream.port], "http_health_check: {path: /health}", "")];
    let begun = Instant::now();
    let proxy = Beside::ours("", ROUTES, &clusters, &[("OUTRIDER_WORKERS", "4")]);
    let asked = || upstream.requests().iter().filter(|head| head.starts_with("GET /health ")).count();
    while begun.elapsed() < Duration::from_secs(1) {
        assert_eq!(proxy.get("/", &[]).await.status, 200);
    }
    let (asked_often, lasted) = (asked(), begun.elapsed());
    let most = usize::try_from(lasted.as_millis() / 50).unwrap() + 1;
    assert!(asked_often <= most && asked_often > most / 3, "{asked_often} checks in {lasted:?}");
    // A connection is kept for them.
    assert!(upstream.opened() < asked_often);
    status.store(503, Ordering::Relaxed);
    // Each worker has connections of the twelve in a row, with all likelihood.
    until_all(&proxy, "a worker still sends requests", |status, _| status == 503).await;
}
