//! What cannot be answered in time is refused, not sent. Envoy has nothing like it: ours alone.

use std::time::Duration;

use outrider_tests::beside::Beside;
use outrider_tests::config::cluster;
use outrider_tests::trouble::{Trouble, Troubled};

const SHEDDING: &str = "typed_extension_protocol_options: {outrider.shedding.v1.DeadlineShedding: \
                        {\"@type\": type.googleapis.com/outrider.shedding.v1.DeadlineShedding}}";
const ROUTES: &[&str] = &[
    "{match: {prefix: /patient}, route: {cluster: be, timeout: 15s}}",
    "{match: {prefix: /hasty}, route: {cluster: be, timeout: 0.005s}}",
    "{match: {prefix: /grpc}, route: {cluster: be, timeout: 0s, max_stream_duration: {grpc_timeout_header_max: 0s}}}",
];
/// What a request that was not sent says.
const REFUSED: Option<&str> = Some("deadline_too_short");

/// Asks so often; how many were refused. None of those reaches the upstream.
async fn refused(
    proxy: &Beside,
    upstream: &Troubled,
    (path, times): (&str, usize),
    headers: &[(&str, &str)],
) -> usize {
    let (before, mut refused) = (upstream.asked(), 0);
    for _ in 0..times {
        let answer = proxy.get(path, headers).await;
        if answer.header("outrider-error") == REFUSED {
            refused += 1;
            // DEADLINE_EXCEEDED: a gRPC client takes 14 for a reason to ask again.
            let grpc = headers.iter().any(|(name, _)| *name == "grpc-timeout");
            assert_eq!(answer.header("grpc-status"), grpc.then_some("4"));
        }
    }
    let asked = upstream.asked() - before;
    assert!(asked <= times - refused, "{path}: {asked} were sent, {refused} of {times} refused");
    refused
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_in_time_is_not_sent() {
    let upstream = Troubled::start(Trouble::Serves(Duration::from_millis(50))).await;
    for (more, some) in [(SHEDDING, 45), ("", 0)] {
        let be = [cluster("be", upstream.port, more)];
        let proxy = Beside::ours("", ROUTES, &be, &[("OUTRIDER_WORKERS", "1")]);
        let grpc = |timeout| [("content-type", "application/grpc"), ("grpc-timeout", timeout)];
        // Nothing is known yet, so nothing is refused.
        assert_eq!(refused(&proxy, &upstream, ("/hasty", 20), &[]).await, 0, "{more}");
        assert_eq!(refused(&proxy, &upstream, ("/patient", 60), &[]).await, 0, "{more}");
        // A tenth is sent all the same.
        assert_eq!(refused(&proxy, &upstream, ("/hasty", 50), &[]).await, some, "{more}");
        assert_eq!(refused(&proxy, &upstream, ("/grpc", 50), &grpc("5m")).await, some, "{more}");
        // Who has time is served as before, also where the client says how much.
        assert_eq!(refused(&proxy, &upstream, ("/patient", 5), &[]).await, 0, "{more}");
        assert_eq!(refused(&proxy, &upstream, ("/grpc", 5), &grpc("5S")).await, 0, "{more}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_cannot_be_in_time_is_not_made() {
    // Each answer is a 503 but for the first ones, which tell how long one takes.
    let upstream = outrider_tests::upstream::Upstream::h1(|number, _| {
        tokio::task::block_in_place(|| std::thread::sleep(Duration::from_millis(100)));
        let status = if number < 60 { "200 OK" } else { "503 No" };
        format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").into_bytes()
    })
    .await;
    let retries = "retry_policy: {retry_on: 5xx, num_retries: 3, retry_back_off: {base_interval: 0.001s, max_interval: 0.002s}}";
    let short = format!("{{match: {{prefix: /short}}, route: {{cluster: be, timeout: 0.15s, {retries}}}}}");
    let long = format!("{{match: {{prefix: /}}, route: {{cluster: be, timeout: 15s, {retries}}}}}");
    let be = [cluster("be", upstream.port, SHEDDING)];
    let proxy = Beside::ours("", &[&short, &long], &be, &[("OUTRIDER_WORKERS", "1")]);
    for _ in 0..60 {
        assert_eq!(proxy.get("/", &[]).await.status, 200);
    }
    // There is time for one answer, but not for two: the one that came is passed on.
    assert_eq!(proxy.get("/short", &[]).await.status, 503);
    assert_eq!(upstream.requests().len(), 61);
    assert_eq!(proxy.get("/", &[]).await.status, 503);
    assert_eq!(upstream.requests().len(), 65);
}
