//! What a service's own sidecars hold its callers to, through a mesh that runs.

use outrider_tests::client::Ask;
use outrider_tests::process::envoy_binary;

use super::run::Running;

const LIMIT: &str = "
---
{apiVersion: mesh.outrider.dev/v1alpha1, kind: TrafficPolicy, metadata: {name: limits, namespace: shop},
 spec: {targetRefs: [{name: reviews-v1}], rateLimit: {requests: 3, per: 1h}, adaptiveConcurrency: {}}}
";

async fn check(envoy_servers: bool) {
    let running = Running::start_with(LIMIT, false, envoy_servers).await;
    let ask = |path: &str| Ask { path: path.into(), host: "reviews".into(), ..Ask::default() };
    // Who is not let in takes no token.
    for _ in 0..5 {
        let (answer, _) = running.ask("FRONT", &ask("/v1/private/x")).await;
        assert_eq!(answer.status, 403);
    }
    // Whichever service it is called by, and whoever calls.
    for (port, path, status, seen) in [
        ("FRONTV1", "/x", 200, [1, 0]),
        ("FRONT", "/v1", 200, [1, 0]),
        ("FRONTV1", "/x", 200, [1, 0]),
        ("FRONTV1", "/x", 429, [0, 0]),
        ("FRONT", "/v1", 429, [0, 0]),
    ] {
        let (answer, found) = running.ask(port, &ask(path)).await;
        assert_eq!((answer.status, found), (status, seen), "{port} {path}");
        if status == 429 && !envoy_servers {
            assert_eq!(answer.header("outrider-error"), Some("rate_limited"));
            assert!(answer.header("retry-after").is_some());
        }
    }
    // Another workload has its own.
    let (answer, found) = running.ask("FRONT", &ask("/v1/but/two")).await;
    assert_eq!((answer.status, found), (200, [0, 1]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ours_lets_through_as_many_as_the_policy_says() {
    check(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_does_too() {
    if envoy_binary().is_some() {
        check(true).await;
    }
}
