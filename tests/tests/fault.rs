//! Envoy's HTTP fault filter beside Envoy, with the same configuration.

use std::time::{Duration, Instant};

use outrider_tests::backend::Backend;
use outrider_tests::client::{self, Answer, Ask, PATIENCE};
use outrider_tests::config::{HCM, ROUTER, STDOUT, address, cluster};
use outrider_tests::process::{Process, envoy_binary, free_port};

const FAULT: &str = "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault";
const RBAC: &str = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC";
/// Envoy's timers may fire so much too early.
const EARLY_MS: u64 = 10;
const ALL: &str = "percentage: {numerator: 100}";

/// Routes with a fault each: path and settings.
const ROUTES: &[(&str, &str)] = &[
    ("/delay", "delay: {fixed_delay: 0.3s, percentage: {numerator: 100}}"),
    ("/abort", "abort: {http_status: 418, percentage: {numerator: 1000000, denominator: MILLION}}"),
    ("/never", "abort: {http_status: 418}"),
    ("/grpc", "abort: {grpc_status: 9, percentage: {numerator: 100}}"),
    ("/half", "abort: {http_status: 503, percentage: {numerator: 50}}"),
    ("/slow", "response_rate_limit: {fixed_limit: {limit_kbps: 64}, percentage: {numerator: 100}}"),
    (
        "/both",
        "delay: {fixed_delay: 0.3s, percentage: {numerator: 100}}, abort: {http_status: 500, percentage: {numerator: 100}}",
    ),
    (
        "/matched",
        "headers: [{name: x-chaos, string_match: {exact: '1'}}], abort: {http_status: 500, percentage: {numerator: 100}}",
    ),
    ("/none", "max_active_faults: 1"),
    ("/full", "max_active_faults: 0, abort: {http_status: 500, percentage: {numerator: 100}}"),
];

struct Proxy {
    process: Process,
    port: u16,
}

fn config(admin: u16, port: u16, backend: u16) -> String {
    let routes = ROUTES.iter().map(|(path, settings)| {
        format!(
            "{{match: {{prefix: {path}}}, route: {{cluster: be}}, typed_per_filter_config: {{fault: {{\"@type\": {FAULT}, {settings}}}}}}}"
        )
    });
    let direct = format!(
        "{{match: {{prefix: /direct}}, direct_response: {{status: 200, body: {{inline_string: here}}}}, typed_per_filter_config: \
         {{fault: {{\"@type\": {FAULT}, delay: {{fixed_delay: 0.3s, {ALL}}}}}}}}}"
    );
    let late = format!(
        "{{match: {{prefix: /late}}, route: {{cluster: be, timeout: 0.2s}}, typed_per_filter_config: \
         {{fault: {{\"@type\": {FAULT}, delay: {{fixed_delay: 0.4s, {ALL}}}}}}}}}"
    );
    let asked = "{match: {prefix: /asked}, route: {cluster: be}}".to_owned();
    let routes: Vec<String> = routes.chain([direct, late, asked]).collect();
    let fault = format!(
        "{{name: fault, typed_config: {{\"@type\": {FAULT}, delay: {{header_delay: {{}}, {ALL}}}, \
         abort: {{header_abort: {{}}, percentage: {{numerator: 100}}}}, response_rate_limit: {{header_limit: {{}}, {ALL}}}}}}}"
    );
    let rbac = format!(
        "{{name: rbac, typed_config: {{\"@type\": {RBAC}, rules: {{action: DENY, policies: {{p: {{permissions: \
         [{{header: {{name: x-denied}}}}], principals: [{{any: true}}]}}}}}}}}}}"
    );
    format!(
        "admin: {{address: {}}}\nstatic_resources: {{listeners: [{{name: l, address: {}, filter_chains: [{{filters: [{{name: http, \
         typed_config: {{\"@type\": {HCM}, stat_prefix: s, access_log: [{{name: log, typed_config: {{\"@type\": {STDOUT}, log_format: \
         {{text_format_source: {{inline_string: \"LINE %REQ(X-KEY)% %RESPONSE_CODE% %RESPONSE_FLAGS%\\n\"}}}}}}}}], http_filters: \
         [{fault}, {rbac}, {{name: r, typed_config: {{\"@type\": {ROUTER}}}}}], route_config: {{virtual_hosts: [{{name: v, \
         domains: ['*'], routes: [{}]}}]}}}}}}]}}]}}], clusters: [{}]}}\n",
        address(admin),
        address(port),
        routes.join(", "),
        cluster("be", backend, "type: STATIC")
    )
}

fn start(backend: u16, envoy: Option<&std::path::Path>) -> Proxy {
    let (admin, port) = (free_port(), free_port());
    let config = config(admin, port, backend);
    let process = match envoy {
        Some(binary) => Process::envoy(binary, &config, admin),
        None => Process::outrider(&config, admin),
    };
    Proxy { process, port }
}

impl Proxy {
    /// The answer and how long it took.
    async fn ask(&self, h2: bool, key: &str, path: &str, headers: &[(&str, &str)]) -> (Answer, Duration) {
        let marks = [("x-key", key)];
        let headers = headers.iter().chain(&marks);
        let headers = headers.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let ask = Ask { path: path.into(), headers, ..Ask::default() };
        let begun = Instant::now();
        let answer = if h2 { client::h2(self.port, &ask).await } else { client::h1(self.port, &ask).await };
        (answer, begun.elapsed())
    }

    /// Status and flags in the access log, once they are there.
    async fn line(&self, key: &str) -> String {
        let prefix = format!("LINE {key} ");
        let end = Instant::now() + PATIENCE;
        loop {
            let log = self.process.log();
            if let Some(line) = log.lines().find_map(|line| line.strip_prefix(&prefix)) {
                return line.to_owned();
            }
            assert!(Instant::now() < end, "no line for {key} in\n{log}");
            // Envoy writes what it has every ten seconds.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// What is asked: a name, the path, fields, and how long the answer takes at least.
type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], u64);

const CASES: &[Case<'_>] = &[
    ("delay", "/delay", &[], 300),
    ("delay-beyond-the-timeout", "/late", &[], 400),
    ("abort", "/abort", &[], 0),
    ("never", "/never", &[], 0),
    ("grpc", "/grpc", &[], 0),
    ("grpc-client", "/grpc", &[("content-type", "application/grpc"), ("te", "trailers")], 0),
    ("abort-grpc-client", "/abort", &[("content-type", "application/grpc"), ("te", "trailers")], 0),
    ("both", "/both", &[], 300),
    ("denied-after", "/both", &[("x-denied", "1")], 300),
    ("denied-late", "/delay", &[("x-denied", "1")], 300),
    ("matched", "/matched", &[("x-chaos", "1")], 0),
    ("unmatched", "/matched", &[("x-chaos", "2")], 0),
    ("none", "/none", &[], 0),
    ("full", "/full", &[], 0),
    ("direct", "/direct", &[], 300),
    ("no-route", "/nowhere", &[], 0),
    ("no-route-asked", "/nowhere", &[("x-envoy-fault-abort-request", "501")], 0),
    ("asked-not", "/asked", &[], 0),
    ("asked-delay", "/asked", &[("x-envoy-fault-delay-request", "300")], 300),
    (
        "asked-no-delay",
        "/asked",
        &[("x-envoy-fault-delay-request", "5000"), ("x-envoy-fault-delay-request-percentage", "0")],
        0,
    ),
    ("asked-bad-delay", "/asked", &[("x-envoy-fault-delay-request", "soon")], 0),
    ("asked-abort", "/asked", &[("x-envoy-fault-abort-request", "429")], 0),
    ("asked-bad-abort", "/asked", &[("x-envoy-fault-abort-request", "600")], 0),
    ("asked-low-abort", "/asked", &[("x-envoy-fault-abort-request", "199")], 0),
    (
        "asked-no-abort",
        "/asked",
        &[("x-envoy-fault-abort-request", "429"), ("x-envoy-fault-abort-request-percentage", "0")],
        0,
    ),
    (
        "asked-grpc",
        "/asked",
        &[
            ("x-envoy-fault-abort-grpc-request", "5"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ],
        0,
    ),
    (
        "asked-both-aborts",
        "/asked",
        &[("x-envoy-fault-abort-grpc-request", "5"), ("x-envoy-fault-abort-request", "404")],
        0,
    ),
    (
        "asked-all",
        "/asked",
        &[("x-envoy-fault-abort-request", "404"), ("x-envoy-fault-delay-request", "300")],
        300,
    ),
    ("slow", "/slow", &[("x-reply-size", "65536")], 800),
    ("asked-slow", "/asked", &[("x-reply-size", "16384"), ("x-envoy-fault-throughput-response", "16")], 800),
    (
        "asked-zero-rate",
        "/asked",
        &[("x-reply-size", "16384"), ("x-envoy-fault-throughput-response", "0")],
        0,
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn the_fault_filter_is_that_of_envoy() {
    let Some(envoy) = envoy_binary() else {
        eprintln!("SKIPPED: Envoy is not there (`make tools` installs it)");
        return;
    };
    let backend = Backend::start().await;
    let (theirs, ours) = (start(backend.port, Some(&envoy)), start(backend.port, None));
    let (mut wrong, mut keys) = (Vec::new(), Vec::new());
    for (name, path, headers, least_ms) in CASES {
        for h2 in [false, true] {
            let key = format!("{name}-{h2}");
            let (expected, their_time) = theirs.ask(h2, &key, path, headers).await;
            let (found, our_time) = ours.ask(h2, &key, path, headers).await;
            let field = |answer: &Answer, name: &str| answer.header(name).map(str::to_owned);
            let essence = |answer: &Answer| {
                (answer.status, answer.whole, field(answer, "grpc-status"), answer.body.len() / 1024)
            };
            if essence(&expected) != essence(&found) {
                wrong.push(format!("{key}: {expected:?}\n  ours {found:?}"));
            }
            for (whose, time) in [("Envoy's", their_time), ("our", our_time)] {
                let time = u64::try_from(time.as_millis()).unwrap();
                if time + EARLY_MS < *least_ms || time > least_ms + 400 {
                    wrong.push(format!("{key}: {whose} answer took {time} ms"));
                }
            }
            keys.push(key);
        }
    }
    for key in keys {
        // That a policy denies is a flag of ours; Envoy has it for the external authorization only.
        let lines = (theirs.line(&key).await, ours.line(&key).await.replace(",UAEX", ""));
        if lines.0 != lines.1 {
            wrong.push(format!("{key}: logged {lines:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_is_met_within_the_binomial_bound() {
    let backend = Backend::start().await;
    let ours = start(backend.port, None);
    let count = 2_000_u32;
    let mut aborted = 0;
    for number in 0..count {
        let (answer, _) = ours.ask(false, &number.to_string(), "/half", &[]).await;
        aborted += u32::from(answer.status == 503);
        assert!(matches!(answer.status, 200 | 503));
    }
    // Four standard deviations of a binomial distribution: once in 15,000 runs beyond.
    let bound = 4.0 * (f64::from(count) * 0.25).sqrt();
    assert!((f64::from(aborted) - f64::from(count) / 2.0).abs() < bound, "{aborted} of {count}");
}
