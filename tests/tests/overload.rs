//! More than there is room for: the bounds of the overload manager, and goodput when far too much is asked.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use outrider_tests::beside::Beside;
use outrider_tests::client::{self, PATIENCE};
use outrider_tests::config::{self, TO_BE};
use outrider_tests::process::{Process, envoy_binary, free_port};
use outrider_tests::trouble::{Trouble, Troubled};
use outrider_tests::upstream::Upstream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long it may take until all is well again.
const RECOVERY: Duration = Duration::from_secs(5);
/// Memory that a flood may cost, also where the machine is too busy to serve what is admitted.
const MOST_GROWTH: u64 = 32 * 1024 * 1024;
const MONITORS: &str = "type.googleapis.com/envoy.extensions.resource_monitors";

/// Ours, and Envoy where it is there, with this overload manager.
fn start(upstream: u16, manager: &str) -> Vec<Beside> {
    let mut all = Vec::new();
    for envoy in [false, true] {
        let (admin, port) = (free_port(), free_port());
        let web = config::web(admin, port, "", &[TO_BE], &[config::cluster("be", upstream, "")]);
        let config = format!("{web}overload_manager: {manager}\n");
        match envoy_binary().filter(|_| envoy) {
            Some(binary) => {
                let process = Process::envoy(&binary, &config, admin);
                all.push(Beside { name: "Envoy", process, port, admin });
            }
            None if envoy => {}
            None => {
                let process = Process::outrider(&config, admin);
                all.push(Beside { name: "ours", process, port, admin });
            }
        }
    }
    all
}

/// A connection that is kept open, if it is taken: a request on it is answered.
async fn taken(port: u16) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.ok()?;
    let mut space = [0; 512];
    let read = timeout(PATIENCE, stream.read(&mut space)).await.expect("an answer or an end");
    read.is_ok_and(|count| count > 0).then_some(stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_connections_than_may_be() {
    let upstream = Troubled::start(Trouble::None).await;
    let manager = format!(
        "{{resource_monitors: [{{name: envoy.resource_monitors.global_downstream_max_connections, typed_config: \
         {{\"@type\": {MONITORS}.downstream_connections.v3.DownstreamConnectionsConfig, max_active_downstream_connections: 5}}}}]}}"
    );
    for proxy in start(upstream.port, &manager) {
        let mut held = Vec::new();
        for _ in 0..9 {
            held.extend(taken(proxy.port).await);
        }
        assert_eq!(held.len(), 5, "{}", proxy.name);
        held.pop();
        let begun = Instant::now();
        while taken(proxy.port).await.is_none() {
            assert!(begun.elapsed() < PATIENCE, "{}: no room is made", proxy.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn short_of_memory_requests_are_refused() {
    let upstream = Troubled::start(Trouble::None).await;
    let manager = |bytes: u64| {
        format!(
            "{{refresh_interval: 0.05s, resource_monitors: [{{name: envoy.resource_monitors.fixed_heap, typed_config: \
             {{\"@type\": {MONITORS}.fixed_heap.v3.FixedHeapConfig, max_heap_size_bytes: {bytes}}}}}], actions: [\
             {{name: envoy.overload_actions.disable_http_keepalive, triggers: [{{name: envoy.resource_monitors.fixed_heap, threshold: {{value: 0.5}}}}]}}, \
             {{name: envoy.overload_actions.stop_accepting_requests, triggers: [{{name: envoy.resource_monitors.fixed_heap, scaled: {{scaling_threshold: 0.8, saturation_threshold: 0.9}}}}]}}]}}"
        )
    };
    for proxy in start(upstream.port, &manager(1024)) {
        let begun = Instant::now();
        let refused = loop {
            let answer = proxy.get("/", &[]).await;
            if answer.status == 503 {
                break answer;
            }
            assert!(begun.elapsed() < PATIENCE, "{}: {answer:?}", proxy.name);
        };
        if proxy.name == "ours" {
            assert_eq!(refused.header("outrider-error"), Some("overloaded"));
            let ask = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
            let said = client::raw(proxy.port, ask.as_bytes()).await;
            let said = String::from_utf8_lossy(&said).to_ascii_lowercase();
            assert!(said.contains("connection: close"), "{said}");
            let metrics = proxy.operator("/metrics");
            let line = "outrider_overload_action_percent{action=\"stop_accepting_requests\"} 100";
            assert!(metrics.contains(line), "{metrics}");
        }
    }
    for proxy in start(upstream.port, &manager(8 << 30)) {
        assert_eq!(proxy.get("/", &[]).await.status, 200, "{}", proxy.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn short_of_files_connections_are_refused_and_taken_again() {
    let upstream = Troubled::start(Trouble::None).await;
    let (admin, port) = (free_port(), free_port());
    let web = config::web(admin, port, "", &[TO_BE], &[config::cluster("be", upstream.port, "")]);
    let config = format!(
        "{web}overload_manager: {{refresh_interval: 0.02s, resource_monitors: [{{name: files, typed_config: \
         {{\"@type\": type.googleapis.com/outrider.overload.v1.OpenFiles}}}}], actions: [\
         {{name: envoy.overload_actions.reject_incoming_connections, triggers: [{{name: files, threshold: {{value: 0.7}}}}]}}]}}\n"
    );
    let process = Process::outrider_limited(&config, admin, &[], Some(200));
    let proxy = Beside { name: "ours", process, port, admin };
    let (begun, mut held) = (Instant::now(), Vec::new());
    while let Some(stream) = taken(port).await {
        held.push(stream);
        assert!(begun.elapsed() < PATIENCE && held.len() < 200, "{} are taken", held.len());
    }
    // The operator still gets an answer.
    assert!(
        proxy.operator("/metrics").contains("outrider_overload_pressure_percent{resource=\"open_files\"}")
    );
    held.clear();
    while taken(port).await.is_none() {
        assert!(begun.elapsed() < PATIENCE, "no connection is taken again");
    }
}

/// What is answered to requests at a steady rate.
#[derive(Default)]
struct Tally {
    refused: AtomicUsize,
    /// How long each good answer took, in milliseconds.
    took_ms: Mutex<Vec<u128>>,
}

impl Tally {
    fn good(&self) -> usize {
        self.took_ms.lock().unwrap().len()
    }

    /// The time that so many percent of the good answers took at most.
    fn percentile_ms(&self, percent: usize) -> u128 {
        let mut took = self.took_ms.lock().unwrap().clone();
        took.sort_unstable();
        let place = (took.len() * percent / 100).min(took.len().saturating_sub(1));
        took.get(place).copied().unwrap_or(0)
    }
}

/// Asks at a steady rate; what was answered while it did, and how much was asked.
async fn offer(proxy: &Arc<Beside>, rate: u32, lasts: Duration) -> (Arc<Tally>, usize) {
    let (tally, mut tasks) = (Arc::new(Tally::default()), tokio::task::JoinSet::new());
    let (end, ended) = (Instant::now() + lasts, Arc::new(AtomicBool::new(false)));
    let mut tick = tokio::time::interval(Duration::from_secs(1) / rate);
    let mut offered = 0;
    while Instant::now() < end {
        tick.tick().await;
        offered += 1;
        let (proxy, tally, ended) = (Arc::clone(proxy), Arc::clone(&tally), Arc::clone(&ended));
        tasks.spawn(async move {
            let begun = Instant::now();
            let Ok(answer) = timeout(PATIENCE, proxy.get("/", &[])).await else { return };
            if answer.status != 200 {
                tally.refused.fetch_add(1, Ordering::Relaxed);
            } else if !ended.load(Ordering::Relaxed) {
                tally.took_ms.lock().unwrap().push(begun.elapsed().as_millis());
            }
        });
        while tasks.try_join_next().is_some() {}
    }
    ended.store(true, Ordering::Relaxed);
    tasks.abort_all();
    (tally, offered)
}

/// How a flood went.
struct Flood {
    /// Good answers to somewhat more than the endpoint can do.
    peak: usize,
    /// Good answers in the flood.
    good: usize,
    /// How long 99 % of them took at most, in milliseconds.
    p99: u128,
    /// Memory that it cost, in bytes.
    growth: u64,
    /// How long after it all was well.
    recovered: Duration,
}

/// Three is what a measurement lets in at a time.
#[tokio::test(flavor = "multi_thread")]
async fn tunnels_and_streams_of_events_hold_no_place() {
    let adaptive = "{name: adaptive, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.adaptive_concurrency.v3.AdaptiveConcurrency, \
                    gradient_controller_config: {concurrency_limit_params: {concurrency_update_interval: 0.1s}, min_rtt_calc_params: {interval: 60s}}}}";
    let upstream = Upstream::h1(|_, head| {
        let answer: &[u8] = if head.contains("upgrade: websocket") {
            b"HTTP/1.1 101 S\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
        } else if head.starts_with("GET /events ") {
            b"HTTP/1.1 200 OK\r\ncontent-type: Text/Event-Stream; charset=utf-8\r\n\r\ndata: 1\n\n"
        } else {
            b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
        };
        answer.into()
    })
    .await;
    for streams in ["upgrade: websocket\r\nconnection: upgrade\r\n", ""] {
        let (admin, port) = (free_port(), free_port());
        let clusters = [config::cluster("be", upstream.port, "")];
        let web =
            config::web(admin, port, "upgrade_configs: [{upgrade_type: websocket}]", &[TO_BE], &clusters);
        let web = web.replace("http_filters: [", &format!("http_filters: [{adaptive}, "));
        let _process = Process::outrider(&web, admin);
        let mut open = Vec::new();
        for _ in 0..5 {
            let mut stream = client::connect(port).await;
            let ask = format!("GET /events HTTP/1.1\r\nhost: a\r\n{streams}\r\n");
            stream.write_all(ask.as_bytes()).await.unwrap();
            let head = client::read_head(&mut stream).await;
            assert!(head.starts_with("HTTP/1.1 101") || head.starts_with("HTTP/1.1 200"), "{head}");
            open.push(stream);
        }
        assert_eq!(client::h1(port, &client::Ask::default()).await.status, 200);
    }
}

/// Ten times of what the one endpoint can do is asked for this long, and then, without a pause, half of it.
async fn flood(lasts: Duration) -> Flood {
    let upstream = Troubled::start(Trouble::Serves(Duration::from_millis(10))).await;
    let adaptive = "{name: adaptive, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.adaptive_concurrency.v3.AdaptiveConcurrency, \
                    gradient_controller_config: {sample_aggregate_percentile: {value: 90}, concurrency_limit_params: {concurrency_update_interval: 0.1s}, \
                    min_rtt_calc_params: {interval: 60s, request_count: 20, min_concurrency: 2, buffer: {value: 100}}}}}";
    let (admin, port) = (free_port(), free_port());
    let web = config::web(admin, port, "", &[TO_BE], &[config::cluster("be", upstream.port, "")]);
    let config = web.replace("http_filters: [", &format!("http_filters: [{adaptive}, "));
    let process = Process::outrider(&config, admin);
    let proxy = Arc::new(Beside { name: "ours", process, port, admin });
    // Somewhat more than it can do shows what it can do.
    let (peak, _) = offer(&proxy, 150, lasts).await;
    let before = proxy.process.rss_bytes();
    let (flood, offered) = offer(&proxy, 900, lasts).await;
    let growth = proxy.process.rss_bytes().saturating_sub(before);
    let (peak, good, p99) = (peak.good(), flood.good(), flood.percentile_ms(99));
    let refused = flood.refused.load(Ordering::Relaxed);
    println!(
        "{offered} offered in {lasts:?}: {good} good (peak {peak}), p99 {p99} ms, {refused} refused, {growth} bytes more"
    );
    // What does not depend on how much of the machine there is: most is refused, some is served, nothing piles up.
    assert!(refused > offered / 2, "{refused} of {offered} refused");
    assert!(good > 0, "nothing is served");
    assert!(growth < MOST_GROWTH, "{growth} bytes");
    Flood { peak, good, p99, growth, recovered: recovery(&proxy).await }
}

/// How long after a flood all is well again.
async fn recovery(proxy: &Arc<Beside>) -> Duration {
    let begun = Instant::now();
    loop {
        let (after, asked) = offer(proxy, 45, Duration::from_secs(1)).await;
        // The last ones may still be under way.
        let refused = after.refused.load(Ordering::Relaxed);
        if after.good() + 3 >= asked && refused == 0 && after.percentile_ms(99) < 200 {
            println!("all is well in the second that ends {:?} after it", begun.elapsed());
            return begun.elapsed();
        }
        assert!(begun.elapsed() < PATIENCE, "{} of {asked} are good, {refused} refused", after.good());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_times_too_much_is_refused_and_survived() {
    flood(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: it takes more than a minute, and a machine of its own"]
async fn goodput_holds_when_ten_times_too_much_is_asked() {
    let Flood { peak, good, p99, growth, recovered } = flood(Duration::from_secs(30)).await;
    assert!(good * 10 >= peak * 9, "{good} of {peak}");
    assert!(p99 < 1000, "{p99} ms");
    assert!(growth < 10 * 1024 * 1024, "{growth} bytes");
    // It is found out a second late.
    assert!(recovered <= RECOVERY + Duration::from_secs(1), "{recovered:?}");
}
