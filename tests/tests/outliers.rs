//! Endpoints that fail are ejected as Envoy ejects them, and come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use outrider_tests::beside::Beside;
use outrider_tests::client::PATIENCE;
use outrider_tests::config::address;
use outrider_tests::process::free_port;
use outrider_tests::upstream::Upstream;

const ENDPOINTS: usize = 5;
const ROUTES: &[&str] = &["{match: {prefix: /}, route: {cluster: be}}"];

/// Endpoints of which the first answers with a status that can be changed.
struct Fleet {
    all: Vec<Upstream>,
    status: Arc<AtomicU16>,
}

impl Fleet {
    async fn start(status: u16) -> Self {
        let status = Arc::new(AtomicU16::new(status));
        let mut all = Vec::new();
        for number in 0..ENDPOINTS {
            let status = Arc::clone(&status);
            all.push(
                Upstream::h1(move |_, _| {
                    let status = if number == 0 { status.load(Ordering::Relaxed) } else { 200 };
                    format!("HTTP/1.1 {status} X\r\ncontent-length: 1\r\n\r\n{number}").into_bytes()
                })
                .await,
            );
        }
        Self { all, status }
    }

    fn cluster(&self, outliers: &str) -> String {
        cluster(self.all.iter().map(|upstream| upstream.port), outliers)
    }
}

fn cluster(ports: impl Iterator<Item = u16>, outliers: &str) -> String {
    let endpoints: Vec<String> =
        ports.map(|port| format!("{{endpoint: {{address: {}}}}}", address(port))).collect();
    let endpoints = endpoints.join(", ");
    format!(
        "{{name: be, lb_policy: ROUND_ROBIN, outlier_detection: {outliers}, \
         common_lb_config: {{healthy_panic_threshold: {{value: 0}}}}, \
         load_assignment: {{cluster_name: be, endpoints: [{{lb_endpoints: [{endpoints}]}}]}}}}"
    )
}

/// How many of many requests fail.
async fn failures(proxy: &Beside, requests: usize) -> usize {
    let mut failed = 0;
    for _ in 0..requests {
        failed += usize::from(proxy.get("/", &[]).await.status >= 500);
    }
    failed
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_is_ejected_after_as_many_failures_as_in_envoy() {
    // Failures of 100 requests, of which the failing endpoint's share would be 20.
    for (status, outliers, expected) in [
        (500, "{consecutive_5xx: 3, max_ejection_percent: 20}", 3),
        (503, "{max_ejection_percent: 50}", 5),
        (
            503,
            "{consecutive_gateway_failure: 2, enforcing_consecutive_gateway_failure: 100, max_ejection_percent: 50}",
            2,
        ),
        (
            500,
            "{consecutive_gateway_failure: 2, enforcing_consecutive_gateway_failure: 100, enforcing_consecutive_5xx: 0, max_ejection_percent: 50}",
            20,
        ),
        // A tenth of five endpoints is none.
        (500, "{consecutive_5xx: 3}", 20),
        (500, "{consecutive_5xx: 3, always_eject_one_host: true}", 3),
        (500, "{consecutive_5xx: 3, enforcing_consecutive_5xx: 0, max_ejection_percent: 50}", 20),
    ] {
        let fleet = Fleet::start(status).await;
        for proxy in Beside::both("", ROUTES, &[fleet.cluster(outliers)]) {
            let failed = failures(&proxy, 100).await;
            // Envoy ejects on another thread than the one that sees the failure.
            let slack = if proxy.name == "ours" { 0 } else { 1 };
            assert!(failed >= expected && failed <= expected + slack, "{}: {outliers}: {failed}", proxy.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_cannot_be_reached_is_ejected() {
    for (outliers, expected) in [
        ("{consecutive_5xx: 3, max_ejection_percent: 50}", 3),
        (
            "{consecutive_5xx: 1, consecutive_local_origin_failure: 4, split_external_local_origin_errors: true, max_ejection_percent: 50}",
            4,
        ),
        (
            "{enforcing_consecutive_local_origin_failure: 0, split_external_local_origin_errors: true, max_ejection_percent: 50}",
            20,
        ),
    ] {
        let fleet = Fleet::start(200).await;
        let ports = std::iter::once(free_port()).chain(fleet.all[1..].iter().map(|upstream| upstream.port));
        for proxy in Beside::both("", ROUTES, &[cluster(ports.clone(), outliers)]) {
            let failed = failures(&proxy, 100).await;
            let slack = if proxy.name == "ours" { 0 } else { 1 };
            assert!(failed >= expected && failed <= expected + slack, "{}: {outliers}: {failed}", proxy.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ejected_endpoint_comes_back_when_its_time_is_served() {
    let outliers =
        "{consecutive_5xx: 2, interval: 0.05s, base_ejection_time: 0.4s, max_ejection_percent: 50}";
    for which in 0..2 {
        let fleet = Fleet::start(503).await;
        let Some(proxy) = Beside::both("", ROUTES, &[fleet.cluster(outliers)]).into_iter().nth(which) else {
            return;
        };
        assert!(failures(&proxy, 15).await <= 3, "{}", proxy.name);
        let begun = Instant::now();
        fleet.status.store(200, Ordering::Relaxed);
        let clusters = proxy.operator("/clusters");
        assert!(clusters.contains("health_flags::/failed_outlier_check"), "{}: {clusters}", proxy.name);
        if proxy.name == "ours" {
            let metrics = proxy.operator("/metrics");
            for line in [
                "outrider_ejections_total{destination_service=\"be\",cause=\"consecutive_5xx\"} 1",
                "outrider_endpoints_out{destination_service=\"be\",cause=\"ejected\"} 1",
            ] {
                assert!(metrics.contains(line), "{line} not in {metrics}");
            }
        }
        let seen = fleet.all[0].requests().len();
        while fleet.all[0].requests().len() == seen {
            assert!(begun.elapsed() < PATIENCE, "{}: it does not come back", proxy.name);
            assert_eq!(proxy.get("/", &[]).await.status, 200, "{}", proxy.name);
        }
        let after = begun.elapsed();
        assert!(after >= Duration::from_millis(250), "{}: back after {after:?}", proxy.name);
        assert!(!proxy.operator("/clusters").contains("failed_outlier_check"), "{}", proxy.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_whose_rate_is_far_below_the_others_is_ejected() {
    let outliers = "{interval: 0.3s, base_ejection_time: 30s, consecutive_5xx: 1000, max_ejection_percent: 50, \
                    success_rate_request_volume: 5, success_rate_stdev_factor: 1500}";
    let fleet = Fleet::start(500).await;
    for proxy in Beside::both("", ROUTES, &[fleet.cluster(outliers)]) {
        let begun = Instant::now();
        let mut good = 0;
        while good < 20 {
            assert!(begun.elapsed() < PATIENCE, "{}: it is not ejected", proxy.name);
            good = if proxy.get("/", &[]).await.status == 200 { good + 1 } else { 0 };
        }
        assert!(proxy.operator("/clusters").contains("failed_outlier_check"), "{}", proxy.name);
    }
}
