//! A route's timeout holds while a connection is waited for, too.

use outrider_tests::backend::Backend;
use outrider_tests::beside::Beside;
use outrider_tests::client::{self, Answer, Ask, PATIENCE};
use outrider_tests::config::cluster;
use outrider_tests::deaf::Deaf;
use tokio::time::timeout;

const ROUTES: &[&str] = &[
    "{match: {prefix: /held}, route: {cluster: be, timeout: 0s}}",
    "{match: {prefix: /}, route: {cluster: be, timeout: 0.3s}}",
];

/// Requests without a body and with one.
fn asks() -> [Ask; 2] {
    let post = Ask { method: "POST".into(), body: Some("some".into()), ..Ask::default() };
    [Ask::default(), post]
}

async fn answer(proxy: &Beside, ask: &Ask) -> Answer {
    let asked = timeout(PATIENCE, client::h1(proxy.port, ask)).await;
    asked.unwrap_or_else(|_| panic!("{}: no answer to {}\n{}", proxy.name, ask.method, proxy.process.log()))
}

fn is_late(proxy: &Beside, answer: &Answer) -> bool {
    let reason = answer.header("outrider-error");
    answer.status == 504 && (proxy.name != "ours" || reason == Some("route_timeout"))
}

#[tokio::test]
async fn a_request_that_waits_for_another_to_free_a_connection_is_answered_in_time() {
    let backend = Backend::start().await;
    let one = "circuit_breakers: {thresholds: [{max_connections: 1}]}";
    let http2 = "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {\"@type\": \
                 type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: \
                 {http2_protocol_options: {max_concurrent_streams: 1}}}}";
    for more in [one.to_owned(), format!("{one}, {http2}")] {
        for proxy in Beside::both("", ROUTES, &[cluster("be", backend.port, &more)]) {
            let before = backend.seen().len();
            let port = proxy.port;
            let held = tokio::spawn(async move {
                let never = ("x-reply-never".to_owned(), "1".to_owned());
                client::h1(port, &Ask { path: "/held".into(), headers: vec![never], ..Ask::default() }).await
            });
            let arrived = async {
                while backend.seen().len() == before {
                    tokio::task::yield_now().await;
                }
            };
            timeout(PATIENCE, arrived).await.expect("the first one is with the upstream");
            for ask in asks() {
                let answer = answer(&proxy, &ask).await;
                assert!(is_late(&proxy, &answer), "{}, {}: {answer:?}", proxy.name, ask.method);
            }
            held.abort();
        }
    }
}

#[tokio::test]
async fn a_request_to_an_endpoint_that_does_not_answer_is_answered_in_time() {
    let deaf = Deaf::start().await;
    for proxy in Beside::both("", ROUTES, &[cluster("be", deaf.port, "connect_timeout: 60s")]) {
        for ask in asks() {
            let answer = answer(&proxy, &ask).await;
            assert!(is_late(&proxy, &answer), "{}, {}: {answer:?}", proxy.name, ask.method);
        }
    }
}
