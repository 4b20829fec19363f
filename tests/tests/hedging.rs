//! Attempts that are late are waited for while others are made, beside Envoy.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use outrider_tests::beside::Beside;
use outrider_tests::client::{self, Answer, Ask};
use outrider_tests::config::{HTTP2, cluster};
use outrider_tests::frames::{END_HEADERS, END_STREAM, HEADERS, frame};
use outrider_tests::upstream::Upstream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

const BODY: &str = "twelve bytes";

/// How long after a request it is answered, and with what; never without a status.
type Plan = &'static [(u64, Option<u16>)];

/// An upstream that answers its requests by their numbers, with the number and the bytes of the body.
async fn upstream(plan: Plan) -> (u16, Arc<AtomicUsize>) {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((stream, _)) = socket.accept().await {
            tokio::spawn(answer(stream, plan, Arc::clone(&count)));
        }
    });
    (port, asked)
}

async fn answer(mut stream: TcpStream, plan: Plan, asked: Arc<AtomicUsize>) {
    let mut seen = Vec::new();
    loop {
        let mut bytes = [0; 4096];
        let Ok(count @ 1..) = stream.read(&mut bytes).await else { return };
        seen.extend_from_slice(&bytes[..count]);
        let text = String::from_utf8_lossy(&seen).into_owned();
        let Some((_, body)) = text.split_once("\r\n\r\n") else { continue };
        if body.len() < BODY.len() {
            continue;
        }
        let number = asked.fetch_add(1, Ordering::AcqRel);
        let (after, status) = plan.get(number).copied().unwrap_or((0, None));
        sleep(Duration::from_millis(after)).await;
        let Some(status) = status else { std::future::pending().await };
        let said = format!("{number} {body}");
        let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{said}", said.len());
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
        seen.clear();
    }
}

fn route(hedge: &str) -> String {
    format!(
        "{{match: {{prefix: /}}, route: {{cluster: be, timeout: 1.5s, {hedge} retry_policy: {{retry_on: 5xx, num_retries: 2, \
         per_try_timeout: 0.1s, retry_back_off: {{base_interval: 0.001s, max_interval: 0.002s}}}}}}}}"
    )
}

async fn asked(proxy: &Beside) -> Answer {
    let ask = Ask { method: "POST".to_owned(), body: Some(BODY.to_owned()), ..Ask::default() };
    client::h1(proxy.port, &ask).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_good_answer_counts() {
    const HEDGE: &str = "hedge_policy: {hedge_on_per_try_timeout: true},";
    for (hedge, plan, expected) in [
        // The first is late, and still the only one that answers.
        (HEDGE, &[(350, Some(200)), (0, None), (0, None)][..], (200, "0 twelve bytes")),
        ("", &[(350, Some(200)), (0, None), (0, None)], (504, "")),
        (HEDGE, &[(0, None), (0, Some(200))], (200, "1 twelve bytes")),
        // A bad answer does not count while others are waited for.
        (HEDGE, &[(250, Some(503)), (400, Some(200)), (0, None)], (200, "1 twelve bytes")),
        (HEDGE, &[(0, None), (450, Some(200)), (150, Some(503))], (200, "1 twelve bytes")),
        // One that is not late is repeated as ever.
        (HEDGE, &[(0, Some(503)), (0, Some(200))], (200, "1 twelve bytes")),
        (HEDGE, &[(0, None), (0, None), (0, None)], (504, "")),
        (HEDGE, &[(150, Some(503)), (150, Some(503)), (150, Some(503))], (503, "2 twelve bytes")),
    ] {
        for which in 0..2 {
            let (port, count) = upstream(plan).await;
            let route = route(hedge);
            let both = Beside::both("", &[&route], &[cluster("be", port, "")]);
            let Some(proxy) = both.into_iter().nth(which) else { continue };
            let answer = asked(&proxy).await;
            assert_eq!(answer.status, expected.0, "{} {hedge} {plan:?} {answer:?}", proxy.name);
            if !expected.1.is_empty() {
                assert_eq!(answer.body, expected.1, "{} {hedge} {plan:?}", proxy.name);
            }
            assert!(count.load(Ordering::Acquire) <= 3, "{} {plan:?}", proxy.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_attempt_is_not_given_up_because_another_cannot_be_made() {
    let full = "circuit_breakers: {thresholds: [{max_connections: 1, max_pending_requests: 0}]}";
    let (port, _) = upstream(&[(350, Some(200))]).await;
    let route = route("hedge_policy: {hedge_on_per_try_timeout: true},");
    // Envoy gives it up.
    let proxy = Beside::ours("", &[&route], &[cluster("be", port, full)], &[("OUTRIDER_WORKERS", "1")]);
    let answer = asked(&proxy).await;
    assert_eq!((answer.status, &*answer.body), (200, "0 twelve bytes"), "{answer:?}");
}

/// To another attempt in half a minute.
fn patient(timeout: &str) -> String {
    format!(
        "{{match: {{prefix: /}}, route: {{cluster: be, timeout: {timeout}, retry_policy: {{retry_on: 5xx, num_retries: 2, \
         rate_limited_retry_back_off: {{max_interval: 60s, reset_headers: [{{name: retry-after}}]}}}}}}}}"
    )
}

async fn busy() -> Upstream {
    Upstream::h1(|_, _| b"HTTP/1.1 503 X\r\nretry-after: 30\r\ncontent-length: 0\r\n\r\n".to_vec()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_request_comes_before_its_next_attempt() {
    for which in 0..2 {
        let upstream = busy().await;
        let both = Beside::both("", &[&patient("0.5s")], &[cluster("be", upstream.port, "")]);
        let Some(proxy) = both.into_iter().nth(which) else { continue };
        assert_eq!(proxy.get("/", &[]).await.status, 504, "{}", proxy.name);
        assert_eq!(upstream.requests().len(), 1, "{}", proxy.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_a_client_that_is_gone() {
    let upstream = busy().await;
    let proxy = Beside::ours("", &[&patient("0s")], &[cluster("be", upstream.port, "")], &[]);
    let begun = Instant::now();
    // The body comes with its head: who is gone is known once all of a request is in.
    for rest in ["\r\n", "content-length: 3\r\n\r\nabc"] {
        let mut stream = client::connect(proxy.port).await;
        let asked = upstream.requests().len();
        let ask = format!("POST / HTTP/1.1\r\nhost: a\r\n{rest}");
        stream.write_all(ask.as_bytes()).await.unwrap();
        while upstream.requests().len() == asked {
            assert!(begun.elapsed() < client::PATIENCE);
            tokio::task::yield_now().await;
        }
        drop(stream);
        let is_held = || {
            let metrics = proxy.operator("/metrics");
            let mut held =
                metrics.lines().filter(|line| line.starts_with("outrider_downstream_connections_active"));
            held.any(|line| !line.ends_with(" 0"))
        };
        while is_held() {
            assert!(begun.elapsed() < client::PATIENCE);
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn late_streams_are_waited_for_too() {
    let upstream = Upstream::h2(|_, asked| {
        // It is a slow one; the streams of a connection wait for each other.
        tokio::task::block_in_place(|| std::thread::sleep(Duration::from_millis(250)));
        // The indexed field `:status: 200` (RFC 7541 appendix A).
        frame(HEADERS, END_HEADERS | END_STREAM, asked.stream, &[0x88])
    })
    .await;
    let route = route("hedge_policy: {hedge_on_per_try_timeout: true},");
    for proxy in Beside::both("", &[&route], &[cluster("be", upstream.port, HTTP2)]) {
        let answer = proxy.get("/", &[]).await;
        assert_eq!(answer.status, 200, "{} {answer:?}", proxy.name);
    }
}
