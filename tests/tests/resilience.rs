//! What clients see of upstreams in trouble, and what upstreams see of retries. The numbers are printed with
//! `--nocapture`; `docs/resilience.md` quotes them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use outrider_tests::beside::Beside;
use outrider_tests::config::address;
use outrider_tests::trouble::{Trouble, Troubled};

/// Requests of one run.
const REQUESTS: usize = 3000;
/// Requests at a time.
const AT_A_TIME: usize = 16;

fn cluster(ports: &[u16], more: &str) -> String {
    let endpoints: Vec<String> =
        ports.iter().map(|port| format!("{{endpoint: {{address: {}}}}}", address(*port))).collect();
    let endpoints = endpoints.join(", ");
    format!(
        "{{name: be, {more} load_assignment: {{cluster_name: be, endpoints: [{{lb_endpoints: [{endpoints}]}}]}}}}"
    )
}

/// Sends requests, so many at a time; how many were answered well, and the slowest.
async fn load(proxy: &Arc<Beside>, requests: usize) -> (usize, Duration) {
    let (next, good) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut workers = Vec::new();
    for _ in 0..AT_A_TIME {
        let (proxy, next, good) = (Arc::clone(proxy), Arc::clone(&next), Arc::clone(&good));
        workers.push(tokio::spawn(async move {
            let mut slowest = Duration::ZERO;
            while next.fetch_add(1, Ordering::Relaxed) < requests {
                let begun = Instant::now();
                let answer = proxy.get("/", &[]).await;
                good.fetch_add(usize::from(answer.status == 200 && answer.body == "ok"), Ordering::Relaxed);
                slowest = slowest.max(begun.elapsed());
            }
            slowest
        }));
    }
    let mut slowest = Duration::ZERO;
    for worker in workers {
        slowest = slowest.max(worker.await.unwrap());
    }
    (good.load(Ordering::Relaxed), slowest)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_in_trouble_is_hardly_noticed() {
    let routes = [
        "{match: {prefix: /}, route: {cluster: be, timeout: 5s, retry_policy: {retry_on: '5xx,reset,connect-failure', \
                   num_retries: 3, per_try_timeout: 0.3s, retry_back_off: {base_interval: 0.001s, max_interval: 0.01s}, \
                   retry_host_predicate: [{name: p, typed_config: {'@type': type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate}}], \
                   host_selection_retry_max_attempts: 5}}}",
    ];
    let more = "connect_timeout: 0.2s, outlier_detection: {consecutive_5xx: 3, interval: 0.2s, base_ejection_time: 1s, max_ejection_percent: 40},";
    for trouble in [
        Trouble::Refuses,
        Trouble::Dies(200),
        Trouble::Hangs,
        Trouble::Blackhole,
        Trouble::Drips,
        Trouble::Resets,
        Trouble::HalfErrors,
    ] {
        let mut line = format!("{trouble:?}:");
        for which in 0..2 {
            let mut fleet = vec![Troubled::start(trouble).await];
            for _ in 0..4 {
                fleet.push(Troubled::start(Trouble::None).await);
            }
            let ports: Vec<u16> = fleet.iter().map(|upstream| upstream.port).collect();
            // Three retries at a time is all that Envoy allows unless it is told; ours has its budget.
            let breakers = "circuit_breakers: {thresholds: [{max_retries: 1000}]},";
            let more = if which == 0 { more.to_owned() } else { format!("{more} {breakers}") };
            let clusters = [cluster(&ports, &more)];
            let proxy = match which {
                0 => Some(Beside::ours("", &routes, &clusters, &[("OUTRIDER_WORKERS", "2")])),
                _ => Beside::envoy("", &routes, &clusters),
            };
            let Some(proxy) = proxy.map(Arc::new) else { continue };
            let (good, slowest) = load(&proxy, REQUESTS).await;
            let asked = fleet[0].asked();
            line += &format!(
                " {} {:.2} % good, slowest {} ms, troubled asked {asked} times;",
                proxy.name,
                good as f64 * 100.0 / REQUESTS as f64,
                slowest.as_millis()
            );
            if which == 0 {
                assert!(good * 1000 >= REQUESTS * 999, "{line}");
            }
        }
        println!("{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_retries_stays_within_the_budget() {
    let routes =
        ["{match: {prefix: /}, route: {cluster: be, retry_policy: {retry_on: '5xx', num_retries: 3, \
                   retry_back_off: {base_interval: 0.001s, max_interval: 0.002s}}}}"];
    let unbounded = "circuit_breakers: {thresholds: [{max_retries: 1000000}]},";
    for (more, workers, bounded) in [("", "1", true), ("", "2", true), (unbounded, "2", false)] {
        let upstream = Troubled::start(Trouble::Errors).await;
        let clusters = [cluster(&[upstream.port], more)];
        let proxy = Arc::new(Beside::ours("", &routes, &clusters, &[("OUTRIDER_WORKERS", workers)]));
        let begun = Instant::now();
        let (good, _) = load(&proxy, REQUESTS).await;
        let (asked, seconds) = (upstream.asked(), begun.elapsed().as_secs() as usize + 1);
        println!("{REQUESTS} requests, {workers} workers, budget {bounded}: {asked} attempts in {seconds} s");
        assert_eq!(good, 0);
        if bounded {
            // A fifth, ten a second, and the hundred that were saved up.
            let most = REQUESTS * 6 / 5 + 10 * seconds + 100;
            assert!(asked > REQUESTS && asked <= most, "{asked} > {most}");
            let metrics = proxy.operator("/metrics");
            assert!(metrics.contains("outrider_retries_refused_total"), "{metrics}");
        } else {
            assert_eq!(asked, 4 * REQUESTS);
        }
    }
}

/// Sends requests at a steady rate whatever the answers do; the time that 99 of 100 take at most.
async fn open_loop(proxy: &Arc<Beside>, rate: u32, lasts: Duration) -> Duration {
    const GIVEN_UP: Duration = Duration::from_secs(4);
    let mut tasks = Vec::new();
    let mut tick = tokio::time::interval(Duration::from_secs(1) / rate);
    let end = Instant::now() + lasts;
    while Instant::now() < end {
        // When this falls behind, the next ones follow at once.
        tick.tick().await;
        let (proxy, due) = (Arc::clone(proxy), Instant::now());
        tasks.push(tokio::spawn(async move {
            let answered = tokio::time::timeout(GIVEN_UP, proxy.get("/", &[])).await;
            if answered.is_ok_and(|answer| answer.status == 200) { due.elapsed() } else { GIVEN_UP }
        }));
    }
    let mut times = Vec::new();
    for task in tasks {
        times.push(task.await.unwrap());
    }
    times.sort();
    times[times.len() * 99 / 100]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_endpoint_among_ten_is_left_alone() {
    let routes = ["{match: {prefix: /}, route: {cluster: be, timeout: 0s}}"];
    let ewma = "load_balancing_policy: {policies: [{typed_extension_config: {name: e, typed_config: \
                {'@type': type.googleapis.com/outrider.load_balancing.v1.PeakEwma}}}]},";
    let mut found = Vec::new();
    for (name, more, envoy) in [
        ("round robin", "lb_policy: ROUND_ROBIN,", false),
        ("peak EWMA", ewma, false),
        ("least request", "lb_policy: LEAST_REQUEST,", false),
        ("Envoy's least request", "lb_policy: LEAST_REQUEST,", true),
    ] {
        let mut fleet = vec![Troubled::start(Trouble::Serves(Duration::from_millis(100))).await];
        for _ in 0..9 {
            fleet.push(Troubled::start(Trouble::Serves(Duration::from_millis(10))).await);
        }
        let ports: Vec<u16> = fleet.iter().map(|upstream| upstream.port).collect();
        let clusters = [cluster(&ports, more)];
        let proxy = if envoy {
            Beside::envoy("", &routes, &clusters)
        } else {
            Some(Beside::ours("", &routes, &clusters, &[("OUTRIDER_WORKERS", "1")]))
        };
        let Some(proxy) = proxy.map(Arc::new) else { continue };
        // Nine serve about 90 a second each with what it costs to sleep, one serves 10: 60 % of all.
        let p99 = open_loop(&proxy, 480, Duration::from_secs(5)).await;
        println!("{name}: p99 {} ms, the slow one asked {} times", p99.as_millis(), fleet[0].asked());
        found.push(p99);
    }
    assert!(found[1] * 5 <= found[0], "peak EWMA against round robin: {found:?}");
    if let Some(envoy) = found.get(3) {
        assert!(found[1] <= *envoy, "peak EWMA against Envoy's least request: {found:?}");
    }
}
