//! The same requests through the same objects, with ours and with Envoy in every role.

use outrider_tests::client::{self, Ask};
use outrider_tests::process::envoy_binary;

use super::run::Running;

/// Who asks; method, path and headers; the status; how many requests each backend sees.
type Case = (&'static str, &'static str, &'static [(&'static str, &'static str)], u16, [usize; 2]);

const CASES: &[Case] = &[
    // Routing.
    ("FRONT", "GET /v1", &[], 200, [1, 0]),
    ("FRONT", "GET /v1/deep?x=1", &[], 200, [1, 0]),
    ("FRONT", "GET /v1x", &[], 404, [0, 0]),
    ("FRONT", "GET /v1/but/two", &[], 200, [0, 1]),
    ("FRONT", "GET /exact", &[], 200, [1, 0]),
    ("FRONT", "GET /exact/", &[], 404, [0, 0]),
    ("FRONT", "GET /r/12", &[], 200, [1, 0]),
    ("FRONT", "GET /r/12/x", &[], 404, [0, 0]),
    ("FRONT", "GET /h", &[("x-canary", "yes")], 200, [0, 1]),
    ("FRONT", "GET /h", &[("x-canary", "yes!")], 200, [1, 0]),
    ("FRONT", "GET /q?v=two", &[], 200, [0, 1]),
    ("FRONT", "GET /q?v=22", &[], 404, [0, 0]),
    ("FRONT", "POST /m", &[], 200, [0, 1]),
    ("FRONT", "GET /m", &[], 404, [0, 0]),
    ("FRONT", "GET /nothing", &[], 404, [0, 0]),
    // Shares.
    ("FRONT", "GET /zero", &[], 200, [1, 0]),
    ("FRONT", "GET /gone", &[], 500, [0, 0]),
    // Retries and timeouts.
    ("FRONT", "GET /retry", &[("x-reply-fail-times", "2"), ("x-key", "a")], 200, [3, 0]),
    ("FRONT", "GET /retry", &[("x-reply-fail-times", "3"), ("x-key", "b")], 503, [3, 0]),
    ("FRONT", "GET /v1", &[("x-reply-fail-times", "1"), ("x-key", "c")], 503, [1, 0]),
    ("FRONT", "GET /slow", &[("x-reply-never", "1")], 504, [1, 0]),
    // Redirects.
    ("FRONT", "GET /redirect/x?y=1", &[], 301, [0, 0]),
    // Without a route of its own.
    ("FRONTV1", "GET /anything", &[], 200, [1, 0]),
    // Authorization: by identity, path, method and header; what denies goes first.
    ("STRANGER", "GET /v1", &[], 403, [0, 0]),
    ("STRANGER", "GET /v1/public/a", &[("x-word", "open sesame")], 200, [1, 0]),
    ("STRANGER", "GET /v1/public/a", &[("x-word", "closed")], 403, [0, 0]),
    ("STRANGER", "POST /v1/public/a", &[("x-word", "open")], 403, [0, 0]),
    ("STRANGER", "GET /v1/public/../other", &[("x-word", "open")], 403, [0, 0]),
    ("FRONT", "GET /v1/private/a", &[], 403, [0, 0]),
    ("FRONT", "GET /v1/x.secret", &[], 403, [0, 0]),
    ("FRONT", "GET /v1/./private/a", &[], 403, [0, 0]),
    ("FRONT", "GET /v1//private/a", &[], 403, [0, 0]),
    // A server with another identity than is expected gets nothing, though it is of the mesh.
    ("FRONTIMPOSTOR", "GET /", &[], 503, [0, 0]),
];

fn ask(line: &str, headers: &[(&str, &str)]) -> Ask {
    let (method, path) = line.split_once(' ').unwrap();
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Ask { method: method.into(), path: path.into(), host: "reviews".into(), headers, ..Ask::default() }
}

async fn check(envoy_clients: bool, envoy_servers: bool) {
    check_all(&Running::start(envoy_clients, envoy_servers).await).await;
}

/// Everything, through a mesh that runs.
pub async fn check_all(running: &Running) {
    let mut wrong = Vec::new();
    for (port, line, headers, status, seen) in CASES {
        let (answer, found) = running.ask(port, &ask(line, headers)).await;
        if (answer.status, found) != (*status, *seen) {
            wrong.push(format!(
                "{port} {line} {headers:?}: {} {:?} {found:?}, not {status} {seen:?}",
                answer.status,
                answer.header("outrider-error")
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    changes(running).await;
    shares(running).await;
    connections(running).await;
}

/// What is done to requests and responses, as the application and the client see it.
async fn changes(running: &Running) {
    let (answer, _) = running.ask("FRONT", &ask("GET /headers", &[("x-remove", "1"), ("x-add", "a")])).await;
    let seen = running.backends[0].seen().pop().unwrap();
    assert_eq!(seen.headers["x-set"], "50%");
    assert_eq!(seen.headers["x-add"].replace(", ", ","), "a,b");
    assert!(!seen.headers.contains_key("x-remove"));
    assert_eq!(answer.header("x-answer"), Some("c"));
    let certificate = &seen.headers["x-forwarded-client-cert"];
    assert!(certificate.contains("URI=spiffe://mesh.test/ns/shop/sa/front"), "{certificate}");
    for (line, path) in
        [("/old/x?y=1", "/new/x?y=1"), ("/strip/x", "/x"), ("/strip", "/"), ("/full/x?y=1", "/one/only?y=1")]
    {
        running.ask("FRONT", &ask(&format!("GET {line}"), &[])).await;
        let seen = running.backends[0].seen().pop().unwrap();
        assert_eq!(seen.path, path, "{line}");
        assert_eq!(seen.headers["host"], if line.starts_with("/old") { "new.example" } else { "reviews" });
    }
    let (answer, _) = running.ask("FRONT", &ask("GET /redirect/x?y=1", &[])).await;
    assert_eq!(answer.header("location"), Some("https://there.example/to/x?y=1"));
    let before = running.backends[1].seen().len();
    let (answer, _) = running.ask("FRONT", &ask("GET /mirror/x", &[])).await;
    assert_eq!(answer.status, 200);
    let limit = tokio::time::Instant::now() + client::PATIENCE;
    while running.backends[1].seen().len() == before {
        assert!(tokio::time::Instant::now() < limit, "no copy came");
        tokio::task::yield_now().await;
    }
    assert_eq!(running.backends[1].seen().pop().unwrap().path, "/mirror/x");
}

/// Half and half, and half of nothing.
async fn shares(running: &Running) {
    let (mut split, mut failed) = ([0, 0], 0);
    for _ in 0..100 {
        let (_, seen) = running.ask("FRONT", &ask("GET /split", &[])).await;
        split = [split[0] + seen[0], split[1] + seen[1]];
        let (answer, _) = running.ask("FRONT", &ask("GET /partly", &[])).await;
        assert!(matches!(answer.status, 200 | 500), "{}", answer.status);
        failed += usize::from(answer.status == 500);
    }
    assert_eq!(split[0] + split[1], 100);
    // With a fair coin, one run in a hundred million is outside.
    assert!((20..=80).contains(&split[0]) && (20..=80).contains(&failed), "{split:?}, {failed} failed");
}

/// Opaque connections: who may, may; who may not is cut off before the application hears of it.
async fn connections(running: &Running) {
    let (answer, seen) = running.ask("FRONTLEDGER", &ask("GET /x", &[])).await;
    assert_eq!((answer.status, seen), (200, [1, 0]));
    let (answer, seen) = running.ask("STRANGERLEDGER", &ask("GET /x", &[])).await;
    assert_eq!((answer.status, seen), (0, [0, 0]));
    // Nobody gets in without a certificate of the mesh, whatever is spoken.
    for port in ["REVIEWS1", "LEDGER"] {
        let (answer, seen) = running.ask(port, &ask("GET /v1", &[])).await;
        assert_eq!((answer.status, seen), (0, [0, 0]), "{port}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ours_on_both_sides() {
    check(false, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_on_both_sides() {
    if envoy_binary().is_some() {
        check(true, true).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_calls_ours() {
    if envoy_binary().is_some() {
        check(true, false).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ours_calls_envoy() {
    if envoy_binary().is_some() {
        check(false, true).await;
    }
}
