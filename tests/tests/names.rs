//! Names are looked up when Envoy looks them up, and connections find the address that answers.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use outrider_tests::beside::Beside;
use outrider_tests::client::PATIENCE;
use outrider_tests::config::address;
use outrider_tests::names::Names;
use outrider_tests::trouble::{Trouble, Troubled};
use outrider_tests::upstream::Upstream;

const HOME: &str = "127.0.0.1";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

async fn upstream() -> Upstream {
    Upstream::h1(|_, _| b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec()).await
}

/// A cluster of one name.
fn named(name: &str, host: &str, port: u16, names: &Names, more: &str) -> String {
    format!(
        "{{name: {name}, dns_lookup_family: V4_ONLY, {}, {more}, load_assignment: {{cluster_name: {name}, endpoints: \
         [{{lb_endpoints: [{{endpoint: {{address: {}}}}}]}}]}}}}",
        names.resolver(),
        address(port).replace(HOME, host)
    )
}

/// One of the two alone, so that what is asked is its doing.
fn one(which: usize, routes: &[&str], clusters: &[String]) -> Option<Beside> {
    match which {
        0 => Some(Beside::ours("", routes, clusters, &[("OUTRIDER_WORKERS", "1")])),
        _ => Beside::envoy("", routes, clusters),
    }
}

async fn until(what: &str, name: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{name}: {what}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_say_when_they_are_asked_for_again() {
    let upstream = upstream().await;
    for which in 0..2 {
        let names = Names::start().await;
        names.set("soon.test", Some((vec![ip(HOME)], 1)));
        names.set("late.test", Some((vec![ip(HOME)], 3600)));
        names.set("deaf.test", Some((vec![ip(HOME)], 3600)));
        let clusters = [
            named(
                "soon",
                "soon.test",
                upstream.port,
                &names,
                "type: STRICT_DNS, respect_dns_ttl: true, dns_refresh_rate: 3600s",
            ),
            named(
                "late",
                "late.test",
                upstream.port,
                &names,
                "type: STRICT_DNS, respect_dns_ttl: true, dns_refresh_rate: 0.05s",
            ),
            named("deaf", "deaf.test", upstream.port, &names, "type: STRICT_DNS, dns_refresh_rate: 0.05s"),
        ];
        let Some(proxy) = one(which, &["{match: {prefix: /}, route: {cluster: soon}}"], &clusters) else {
            return;
        };
        until("not asked for after 1 s", proxy.name, || names.asked("soon.test") >= 3).await;
        until("not asked for after 50 ms", proxy.name, || names.asked("deaf.test") >= 10).await;
        assert_eq!(names.asked("late.test"), 1, "{}", proxy.name);
        assert_eq!(proxy.get("/", &[]).await.status, 200, "{}", proxy.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_keeps_the_last_answer() {
    let upstream = upstream().await;
    for which in 0..2 {
        let names = Names::start().await;
        names.set("be.test", Some((vec![ip(HOME)], 1)));
        let more = "type: STRICT_DNS, dns_refresh_rate: 0.05s, dns_failure_refresh_rate: {base_interval: 0.01s, max_interval: 0.02s}";
        let clusters = [named("be", "be.test", upstream.port, &names, more)];
        let Some(proxy) = one(which, &["{match: {prefix: /}, route: {cluster: be}}"], &clusters) else {
            return;
        };
        assert_eq!(proxy.get("/", &[]).await.status, 200, "{}", proxy.name);
        names.set("be.test", None);
        let before = names.asked("be.test");
        until("not asked for again", proxy.name, || names.asked("be.test") > before + 20).await;
        assert_eq!(proxy.get("/", &[]).await.status, 200, "{}", proxy.name);
        // Another address is taken over as soon as there is one; nobody listens there.
        names.set("be.test", Some((vec![ip("127.0.0.9")], 1)));
        let begun = Instant::now();
        while proxy.get("/", &[]).await.status != 503 {
            assert!(begun.elapsed() < PATIENCE, "{}", proxy.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_does_not_answer_is_passed_over() {
    let (upstream, black) = (upstream().await, Troubled::start(Trouble::Blackhole).await);
    let names = Names::start().await;
    // Nothing answers in the first block (RFC 6666).
    names.set("both.test", Some((vec![ip("100::1"), ip(HOME)], 60)));
    let two = |more: &str| {
        format!(
            "{{name: be, connect_timeout: 3s, load_assignment: {{cluster_name: be, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {}{more}}}}}]}}]}}}}",
            address(black.port)
        )
    };
    let more = format!(", additional_addresses: [{{address: {}}}]", address(upstream.port));
    let logical =
        named("logical", "both.test", upstream.port, &names, "type: LOGICAL_DNS, connect_timeout: 3s")
            .replace("V4_ONLY", "ALL");
    let routes = [
        "{match: {prefix: /logical}, route: {cluster: logical}}",
        "{match: {prefix: /}, route: {cluster: be}}",
    ];
    for proxy in Beside::both("", &routes, &[two(&more), logical.clone()]) {
        for path in ["/", "/logical"] {
            let begun = Instant::now();
            let answer = proxy.get(path, &[]).await;
            assert_eq!((answer.status, answer.body.as_str()), (200, "ok"), "{} {path}", proxy.name);
            assert!(begun.elapsed() < Duration::from_secs(2), "{} {path} {:?}", proxy.name, begun.elapsed());
        }
    }
    let alone = Beside::ours("", &routes, &[two(""), logical], &[]);
    assert_eq!(alone.get("/", &[]).await.status, 503);
}
