//! Limits on rates, as Envoy has them.

use std::collections::BTreeMap;

use outrider_tests::beside::Beside;
use outrider_tests::client::PATIENCE;
use outrider_tests::config::{self, address};
use outrider_tests::process::{Process, free_port};
use outrider_tests::upstream::Upstream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

const LIMIT: &str = "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";
const ON: &str = "stat_prefix: s, filter_enabled: {default_value: {numerator: 100}}, filter_enforced: {default_value: {numerator: 100}}";

async fn upstream() -> Upstream {
    Upstream::h1(|_, _| b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec()).await
}

fn filter(settings: &str) -> String {
    format!("{{name: rate, typed_config: {{\"@type\": {LIMIT}, {settings}}}}}")
}

/// A configuration with this filter before the router.
fn with_filter(config: &str, filter: &str) -> String {
    let found = config.replace("http_filters: [", &format!("http_filters: [{filter}, "));
    assert_ne!(found, config);
    found
}

fn start(filter: &str, routes: &[&str], port: u16, workers: &str) -> Vec<Beside> {
    let clusters = [config::cluster("be", port, "")];
    let mut all = Vec::new();
    for envoy in [false, true] {
        let (admin, port) = (free_port(), free_port());
        let config = with_filter(&config::web(admin, port, "", routes, &clusters), filter);
        if !envoy {
            let process = Process::outrider_with(&config, admin, &[("OUTRIDER_WORKERS", workers)]);
            all.push(Beside { name: "ours", process, port, admin });
        } else if let Some(binary) = outrider_tests::process::envoy_binary() {
            let process = Process::envoy(&binary, &config, admin);
            all.push(Beside { name: "Envoy", process, port, admin });
        }
    }
    all
}

/// The statuses of ten answers.
async fn statuses(proxy: &Beside, path: &str, headers: &[(&str, &str)]) -> BTreeMap<u16, usize> {
    let mut found = BTreeMap::new();
    for _ in 0..10 {
        *found.entry(proxy.get(path, headers).await.status).or_default() += 1;
    }
    found
}

fn expected(pairs: &[(u16, usize)]) -> BTreeMap<u16, usize> {
    pairs.iter().copied().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_pass_as_in_envoy() {
    let upstream = upstream().await;
    let more = filter(&format!(
        "{ON}, token_bucket: {{max_tokens: 16, fill_interval: 600s}}, response_headers_to_add: [{{header: {{key: x-limit, value: reached}}}}], \
         max_dynamic_descriptors: 100, descriptors: [{{entries: [{{key: user}}], token_bucket: {{max_tokens: 3, fill_interval: 600s}}}}, \
         {{entries: [{{key: user, value: root}}], token_bucket: {{max_tokens: 1, fill_interval: 600s}}}}], \
         rate_limits: [{{actions: [{{request_headers: {{header_name: x-user, descriptor_key: user}}}}]}}]"
    ));
    let own = format!(
        "typed_per_filter_config: {{rate: {{\"@type\": {LIMIT}, {ON}, status: {{code: ServiceUnavailable}}, token_bucket: {{max_tokens: 2, fill_interval: 600s}}}}}}"
    );
    let off = format!(
        "typed_per_filter_config: {{rate: {{\"@type\": {LIMIT}, stat_prefix: o, token_bucket: {{max_tokens: 1, fill_interval: 600s}}}}}}"
    );
    let audit = format!(
        "typed_per_filter_config: {{rate: {{\"@type\": {LIMIT}, stat_prefix: a, filter_enabled: {{default_value: {{numerator: 100}}}}, token_bucket: {{max_tokens: 1, fill_interval: 600s}}}}}}"
    );
    let routes = [
        format!("{{match: {{prefix: /own}}, route: {{cluster: be}}, {own}}}"),
        format!("{{match: {{prefix: /off}}, route: {{cluster: be}}, {off}}}"),
        format!("{{match: {{prefix: /audit}}, route: {{cluster: be}}, {audit}}}"),
        "{match: {prefix: /all}, route: {cluster: be}}".to_owned(),
    ];
    let routes: Vec<&str> = routes.iter().map(String::as_str).collect();
    for proxy in start(&more, &routes, upstream.port, "1") {
        let name = proxy.name;
        assert_eq!(statuses(&proxy, "/own", &[]).await, expected(&[(200, 2), (503, 8)]), "{name}");
        assert_eq!(statuses(&proxy, "/off", &[]).await, expected(&[(200, 10)]), "{name}");
        assert_eq!(statuses(&proxy, "/audit", &[]).await, expected(&[(200, 10)]), "{name}");
        assert_eq!(
            statuses(&proxy, "/all", &[("x-user", "a")]).await,
            expected(&[(200, 3), (429, 7)]),
            "{name}"
        );
        assert_eq!(
            statuses(&proxy, "/all", &[("x-user", "b")]).await,
            expected(&[(200, 3), (429, 7)]),
            "{name}"
        );
        assert_eq!(statuses(&proxy, "/all", &[("x-user", "a")]).await, expected(&[(429, 10)]), "{name}");
        assert_eq!(
            statuses(&proxy, "/all", &[("x-user", "root")]).await,
            expected(&[(200, 1), (429, 9)]),
            "{name}"
        );
        // Seven of the sixteen for all are used up, and a path without a route takes one too.
        assert_eq!(proxy.get("/none", &[]).await.status, 404, "{name}");
        assert_eq!(statuses(&proxy, "/all", &[]).await, expected(&[(200, 8), (429, 2)]), "{name}");
        let refused = proxy.get("/all", &[]).await;
        assert_eq!((refused.status, refused.header("x-limit")), (429, Some("reached")), "{name}");
        let grpc = proxy.get("/all", &[("content-type", "application/grpc")]).await;
        assert_eq!((grpc.status, grpc.header("grpc-status")), (200, Some("14")), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_share_the_tokens_and_the_answer_says_when_to_come_again() {
    let upstream = upstream().await;
    let settings = format!(
        "{ON}, token_bucket: {{max_tokens: 7, fill_interval: 600s}}, enable_retry_after_header: true, rate_limited_as_resource_exhausted: true"
    );
    let routes = ["{match: {prefix: /}, route: {cluster: be}}"];
    let (admin, port) = (free_port(), free_port());
    let web = config::web(admin, port, "", &routes, &[config::cluster("be", upstream.port, "")]);
    let config = with_filter(&web, &filter(&settings));
    let process = Process::outrider_with(&config, admin, &[("OUTRIDER_WORKERS", "4")]);
    let proxy = Beside { name: "ours", process, port, admin };
    let mut passed = 0;
    for _ in 0..5 {
        passed += statuses(&proxy, "/", &[]).await.get(&200).copied().unwrap_or(0);
    }
    assert_eq!(passed, 7);
    let refused = proxy.get("/", &[]).await;
    assert_eq!(refused.header("outrider-error"), Some("rate_limited"));
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((500..=600).contains(&wait), "{wait}");
    let grpc = proxy.get("/", &[("content-type", "application/grpc")]).await;
    assert_eq!(grpc.header("grpc-status"), Some("8"));
    let metrics = proxy.operator("/metrics");
    assert!(metrics.contains("outrider_rate_limited_total{policy=\"s\",mode=\"enforce\"} 45"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_say_how_many_requests_are_left() {
    let upstream = upstream().await;
    let settings = format!(
        "{ON}, token_bucket: {{max_tokens: 3, fill_interval: 600s}}, enable_x_ratelimit_headers: DRAFT_VERSION_03, \
         descriptors: [{{entries: [{{key: user, value: root}}], token_bucket: {{max_tokens: 2, fill_interval: 600s}}}}], \
         rate_limits: [{{actions: [{{request_headers: {{header_name: x-user, descriptor_key: user}}}}]}}], \
         always_consume_default_token_bucket: false"
    );
    for proxy in
        start(&filter(&settings), &["{match: {prefix: /}, route: {cluster: be}}"], upstream.port, "1")
    {
        for (user, left) in [("a", &["2", "1", "0", "0"][..]), ("root", &["1", "0", "0"])] {
            for (number, left) in left.iter().enumerate() {
                let answer = proxy.get("/", &[("x-user", user)]).await;
                let limit = if user == "root" { "2" } else { "3" };
                let expected = if number < limit.parse().unwrap() { 200 } else { 429 };
                assert_eq!(answer.status, expected, "{} {user} {number}", proxy.name);
                let told = (answer.header("x-ratelimit-limit"), answer.header("x-ratelimit-remaining"));
                assert_eq!(told, (Some(limit), Some(*left)), "{} {user} {number}", proxy.name);
                let reset: u64 = answer.header("x-ratelimit-reset").unwrap().parse().unwrap();
                let expected = if *left == "0" { 590..=600 } else { 0..=0 };
                assert!(expected.contains(&reset), "{} {user} {number}: {reset}", proxy.name);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_limited() {
    let upstream = upstream().await;
    let tcp = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
    let limit = "type.googleapis.com/envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit";
    for envoy in [false, true] {
        let (admin, port) = (free_port(), free_port());
        let config = format!(
            "admin: {{address: {}}}\nstatic_resources:\n  listeners:\n  - name: t\n    address: {}\n    filter_chains: [{{filters: [\
             {{name: l, typed_config: {{\"@type\": {limit}, stat_prefix: l, token_bucket: {{max_tokens: 3, fill_interval: 600s}}}}}}, \
             {{name: t, typed_config: {{\"@type\": {tcp}, stat_prefix: t, cluster: be}}}}]}}]\n  clusters: [{}]\n",
            address(admin),
            address(port),
            config::cluster("be", upstream.port, "")
        );
        let _process = match outrider_tests::process::envoy_binary().filter(|_| envoy) {
            Some(binary) => Process::envoy(&binary, &config, admin),
            None if envoy => return,
            None => Process::outrider(&config, admin),
        };
        let mut passed = 0;
        for _ in 0..8 {
            // A reset may come as early as this.
            let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
            let _ = stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await;
            let read = timeout(PATIENCE, stream.read(&mut [0; 64])).await.unwrap();
            passed += usize::from(read.is_ok_and(|count| count > 0));
        }
        assert_eq!(passed, 3, "envoy: {envoy}");
    }
}
