//! Distributed traces: two proxies in a row, a collector of OpenTelemetry's kind, and Envoy beside ours.

use std::time::{Duration, Instant};

use outrider_tests::backend::Backend;
use outrider_tests::beside::Beside;
use outrider_tests::client::{self, Answer, Ask, PATIENCE};
use outrider_tests::collector::{Collector, Received, hex};
use outrider_tests::config::{HTTP2, STDOUT, TO_BE, cluster, tracing, web};
use outrider_tests::control::{Control, Wire};
use outrider_tests::faults::{Lab, Setup};
use outrider_tests::mesh::{self, DAY, Mesh};
use outrider_tests::process::{Process, admin_get, free_port};

/// OpenTelemetry's numbers.
const SERVER: i32 = 2;
const CLIENT: i32 = 3;
const ERROR: i32 = 2;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

fn parent(trace: &str, flags: &str) -> String {
    format!("00-{trace}-{CALLER}-{flags}")
}

async fn ask(port: u16, path: &str, headers: &[(&str, &str)], h2: bool) -> Answer {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let ask = Ask { path: path.to_owned(), headers, ..Ask::default() };
    if h2 { client::h2(port, &ask).await } else { client::h1(port, &ask).await }
}

/// What reached the backend of the last request: trace, span and flags.
fn carried(backend: &Backend) -> (String, String, String) {
    let seen = backend.seen();
    let parent = seen.last().and_then(|seen| seen.headers.get("traceparent")).expect("a traceparent");
    let parts: Vec<&str> = parent.split('-').collect();
    assert_eq!((parts.len(), parts[0], parts[1].len(), parts[2].len()), (4, "00", 32, 16), "{parent}");
    (parts[1].to_owned(), parts[2].to_owned(), parts[3].to_owned())
}

fn by_service<'a>(spans: &'a [Received], service: &str) -> Vec<&'a Received> {
    spans.iter().filter(|one| one.service == service).collect()
}

fn spans_counted(admin: u16, outcome: &str) -> f64 {
    let all = admin_get(admin, "/metrics").expect("metrics");
    let series = format!("outrider_trace_spans_total{{outcome=\"{outcome}\"}}");
    all.lines().find_map(|line| line.strip_prefix(&series)?.trim().parse().ok()).unwrap_or(0.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_goes_through_two_proxies_as_one_chain() {
    let (collector, backend) = (Collector::start().await, Backend::start().await);
    let to = |port| [cluster("be", port, ""), cluster("otel", collector.port, HTTP2)];
    let tags =
        "custom_tags: [{tag: stage, literal: {value: test}}, {tag: who, request_header: {name: x-who}}]";
    let inner = Beside::ours(&tracing("inner", tags), &[TO_BE], &to(backend.port), &[]);
    let outer = Beside::ours(&tracing("outer", "spawn_upstream_span: true"), &[TO_BE], &to(inner.port), &[]);
    for (number, h2) in [false, true].into_iter().enumerate() {
        let trace = format!("{number}{}", &TRACE[1..]);
        let traceparent = parent(&trace, "01");
        let headers = [("traceparent", &*traceparent), ("tracestate", "a=1,b=2"), ("x-who", "me")];
        let answer = ask(outer.port, "/p/q?secret=1", &headers, h2).await;
        assert_eq!(answer.status, 200);
        let spans = collector.of_trace(&trace, 3).await;
        assert_eq!(spans.len(), 3, "{spans:#?}");
        let (outside, inside) = (by_service(&spans, "outer"), by_service(&spans, "inner"));
        let of_kind = |kind| *outside.iter().find(|one| one.span.kind == kind).expect("a span");
        let (server, client, inside) = (of_kind(SERVER), of_kind(CLIENT), inside[0]);
        assert_eq!(hex(&server.span.parent_span_id), CALLER);
        assert!(client.is_below(server) && inside.is_below(client), "{spans:#?}");
        let (on, span, flags) = carried(&backend);
        assert_eq!((on, span, &*flags), (trace, hex(&inside.span.span_id), "01"));
        assert_eq!(backend.seen().last().unwrap().headers["tracestate"], "a=1,b=2");
        for one in [server, inside] {
            let says = |key| one.says(key).unwrap_or_default();
            assert_eq!(says("url.path"), "/p/q", "the query stays out");
            assert_eq!(
                (says("http.request.method"), says("http.response.status_code")),
                ("GET".into(), "200".into())
            );
            assert_eq!((says("upstream_cluster"), says("response_flags")), ("be".into(), "-".into()));
            assert_eq!(one.says("outrider.reason").or(one.says("outrider.fault")), None);
            assert_eq!(one.span.trace_state, "a=1,b=2");
            assert!(one.span.status.is_none(), "nothing failed");
        }
        assert_eq!((inside.says("stage"), inside.says("who")), (Some("test".into()), Some("me".into())));
        assert_eq!(client.says("network.peer.port"), Some(inner.port.to_string()));
        let within = |one: &Received, other: &Received| {
            one.span.start_time_unix_nano >= other.span.start_time_unix_nano
                && one.span.end_time_unix_nano <= other.span.end_time_unix_nano
        };
        assert!(within(client, server), "{client:#?} {server:#?}");
    }
    assert_eq!(spans_counted(outer.admin, "exported"), 4.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_parent_begins_another_trace() {
    let (collector, backend) = (Collector::start().await, Backend::start().await);
    let clusters = [cluster("be", backend.port, ""), cluster("otel", collector.port, HTTP2)];
    let proxy = Beside::ours(&tracing("s", ""), &[TO_BE], &clusters, &[]);
    let upper = parent(&TRACE.to_uppercase(), "01");
    let zero = parent(&"0".repeat(32), "01");
    for bad in ["garbage", &upper, &zero, &format!("{}-x", parent(TRACE, "01"))] {
        let headers = [("traceparent", bad), ("tracestate", "a=1")];
        assert_eq!(ask(proxy.port, "/", &headers, false).await.status, 200);
        let (trace, span, flags) = carried(&backend);
        assert_ne!(trace, TRACE);
        assert_eq!(flags, "01");
        assert!(!backend.seen().last().unwrap().headers.contains_key("tracestate"), "{bad}");
        let spans = collector.of_trace(&trace, 1).await;
        assert_eq!(hex(&spans[0].span.span_id), span);
        assert!(spans[0].span.parent_span_id.is_empty(), "a root");
    }
    let b3 = format!("{TRACE}-{CALLER}-1");
    assert_eq!(ask(proxy.port, "/", &[("b3", &b3)], false).await.status, 200);
    let (trace, _, flags) = carried(&backend);
    assert_eq!((&*trace, &*flags), (TRACE, "01"));
    assert_eq!(hex(&collector.of_trace(TRACE, 1).await[0].span.parent_span_id), CALLER);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_sampled_is_carried_on_and_not_told() {
    let (collector, backend) = (Collector::start().await, Backend::start().await);
    let clusters = [cluster("be", backend.port, ""), cluster("otel", collector.port, HTTP2)];
    let never = tracing("s", "random_sampling: {value: 0}, spawn_upstream_span: true");
    let proxy = Beside::ours(&never, &[TO_BE], &clusters, &[]);
    for (headers, expected) in [
        (vec![], None),
        (vec![("traceparent", parent(TRACE, "00"))], Some(TRACE)),
        (vec![("b3", format!("{TRACE}-{CALLER}-0"))], Some(TRACE)),
    ] {
        let headers: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(ask(proxy.port, "/", &headers, false).await.status, 200);
        let (trace, span, flags) = carried(&backend);
        assert_eq!(flags, "00");
        assert_ne!(span, CALLER);
        assert!(expected.is_none_or(|expected| trace == expected));
    }
    // What comes after them has gone the same way, so they would be there.
    let last = format!("f{}", &TRACE[1..]);
    assert_eq!(ask(proxy.port, "/", &[("traceparent", &parent(&last, "01"))], false).await.status, 200);
    assert_eq!(collector.of_trace(&last, 2).await.len(), 2);
    assert_eq!(collector.spans().len(), 2, "{:#?}", collector.spans());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tracing_headers_pass_as_they_are() {
    let backend = Backend::start().await;
    let proxy = Beside::ours("", &[TO_BE], &[cluster("be", backend.port, "")], &[]);
    let headers = [("traceparent", "gar bage"), ("tracestate", "\u{1}"), ("b3", "x")];
    assert_eq!(ask(proxy.port, "/", &headers[..1], false).await.status, 200);
    assert_eq!(backend.seen().last().unwrap().headers["traceparent"], "gar bage");
    assert_eq!(ask(proxy.port, "/", &headers[2..], false).await.status, 200);
    let seen = backend.seen().last().unwrap().headers.clone();
    assert!(seen["b3"] == "x" && !seen.contains_key("traceparent"));
}

const RBAC: &str = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC";

/// A lab whose HTTP chains are traced and deny whoever says `x-denied`.
async fn traced_lab(collector: &Collector) -> Lab {
    let deny = format!(
        "{{name: rbac, typed_config: {{\"@type\": {RBAC}, rules: {{action: DENY, policies: {{no-entry: {{permissions: \
         [{{header: {{name: x-denied}}}}], principals: [{{any: true}}]}}}}}}}}}}, "
    );
    let http = format!("{}, ", tracing("lab", "spawn_upstream_span: true"));
    let clusters = format!(", {}", cluster("otel", collector.port, HTTP2));
    Lab::start(Setup { http: &http, filters: &deny, clusters: &clusters, ..Setup::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_denials_and_retries_are_marked() {
    let collector = Collector::start().await;
    let lab = traced_lab(&collector).await;
    let refuse = "place: UPSTREAM, match: {path: {exact: /retry}}, refuse: {}";
    let abort = "place: INBOUND, match: {path: {exact: /abort}}, abort: {http_status: 503}";
    lab.inject(&[abort, refuse]).await;
    let trace = |number: usize| format!("{number}{}", &TRACE[1..]);
    let get = async |number: usize, path: &str, more: &[(&str, &str)]| {
        let traceparent = parent(&trace(number), "01");
        let headers = [&[("traceparent", &*traceparent)], more].concat();
        ask(lab.inbound, path, &headers, false).await
    };

    assert_eq!(get(1, "/abort", &[]).await.status, 503);
    let aborted = &collector.of_trace(&trace(1), 1).await[0];
    assert_eq!(aborted.says("outrider.fault").as_deref(), Some("f0"));
    assert_eq!(aborted.says("outrider.reason").as_deref(), Some("fault_injected"));
    assert_eq!(aborted.says("error.type").as_deref(), Some("fault_injected"));
    assert_eq!(aborted.says("response_flags").as_deref(), Some("FI"));
    assert_eq!(aborted.span.status.as_ref().map(|status| status.code), Some(ERROR));

    assert_eq!(get(2, "/x", &[("x-denied", "1")]).await.status, 403);
    let denied = &collector.of_trace(&trace(2), 1).await[0];
    assert_eq!(denied.says("outrider.reason").as_deref(), Some("authorization_denied"));
    assert_eq!(denied.says("outrider.policy").as_deref(), Some("no-entry"));
    assert_eq!(
        (denied.says("outrider.fault"), &denied.span.status),
        (None, &None),
        "4xx is no failure of ours"
    );

    let answer = get(3, "/retry", &[]).await;
    assert_eq!(answer.status, 503);
    let spans = collector.of_trace(&trace(3), 5).await;
    let (of_attempts, whole): (Vec<_>, Vec<_>) = spans.iter().partition(|one| one.span.kind == CLIENT);
    assert_eq!((of_attempts.len(), whole.len()), (4, 1), "{spans:#?}");
    assert_eq!(whole[0].says("outrider.retries").as_deref(), Some("3"));
    assert_eq!(whole[0].says("outrider.fault").as_deref(), Some("f1"));
    for (number, attempt) in of_attempts.iter().enumerate() {
        assert!(attempt.is_below(whole[0]));
        assert_eq!(attempt.says("outrider.fault").as_deref(), Some("f1"), "every attempt has its mark");
        assert_eq!(attempt.says("outrider.reason").as_deref(), Some("upstream_connect_failure"));
        assert_eq!(attempt.says("http.request.resend_count").unwrap_or("0".into()), number.to_string());
    }

    lab.inject(&[]).await;
    let steered = [("x-key", "again"), ("x-reply-fail-times", "2")];
    assert_eq!(get(4, "/retry", &steered).await.status, 200);
    let spans = collector.of_trace(&trace(4), 4).await;
    let mut statuses: Vec<_> = spans.iter().filter(|one| one.span.kind == CLIENT).collect();
    statuses.sort_by_key(|one| one.span.start_time_unix_nano);
    let statuses: Vec<_> = statuses.iter().filter_map(|one| one.says("http.response.status_code")).collect();
    assert_eq!(statuses.last().map(String::as_str), Some("200"), "{statuses:?}");
    assert!(statuses.iter().filter(|status| *status == "503").count() >= 1, "{statuses:?}");
    let log = lab.line("again").await;
    assert!(log.starts_with("200 "), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_costs_no_request_and_comes_back() {
    let backend = Backend::start().await;
    let nobody = free_port();
    let clusters = [cluster("be", backend.port, ""), cluster("otel", nobody, HTTP2)];
    let proxy = Beside::ours(&tracing("s", ""), &[TO_BE], &clusters, &[]);
    let end = Instant::now() + PATIENCE;
    let mut asked = 0.0;
    // One batch fails; what is finished in the pause that follows has no place to go.
    while spans_counted(proxy.admin, "dropped") == 0.0 {
        assert!(Instant::now() < end, "{}", proxy.operator("/metrics"));
        assert_eq!(ask(proxy.port, "/", &[], false).await.status, 200);
        asked += 1.0;
    }
    assert!(spans_counted(proxy.admin, "failed") >= 1.0);
    assert!(proxy.process.log().contains("spans not exported"), "{}", proxy.process.log());
    let collector = Collector::start_at(nobody).await;
    while collector.spans().is_empty() {
        assert!(Instant::now() < end, "{}", proxy.process.log());
        assert_eq!(ask(proxy.port, "/", &[], false).await.status, 200);
        asked += 1.0;
    }
    let sum = || ["exported", "dropped", "failed"].map(|outcome| spans_counted(proxy.admin, outcome));
    while sum().iter().sum::<f64>() < asked {
        assert!(Instant::now() < end, "{asked}: {:?}", sum());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(sum().iter().sum::<f64>(), asked, "every span is accounted for");
    assert_eq!(sum()[0], collector.spans().len() as f64);
    assert!(proxy.process.log().contains("spans are exported again"), "{}", proxy.process.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_at_the_end_is_exported() {
    let (collector, backend) = (Collector::start().await, Backend::start().await);
    let clusters = [cluster("be", backend.port, ""), cluster("otel", collector.port, HTTP2)];
    let (admin, port) = (free_port(), free_port());
    let config = web(admin, port, &tracing("s", ""), &[TO_BE], &clusters);
    let mut proxy = Process::outrider(&config, admin);
    for _ in 0..100 {
        assert_eq!(ask(port, "/", &[], false).await.status, 200);
    }
    proxy.signal("TERM");
    let code = tokio::task::spawn_blocking(move || proxy.wait(PATIENCE)).await;
    assert_eq!(code.expect("no panic"), Some(0));
    assert_eq!(collector.spans().len(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_with_tls_must_be_who_it_should_be() {
    let (certificates, backend) = (Mesh::new("collector"), Backend::start().await);
    let root = certificates.authority.root_pem();
    let right = Collector::start_over_tls(&certificates.authority.svid(mesh::SERVER, DAY), &root).await;
    let stranger = certificates.authority.svid("spiffe://mesh.test/ns/shop/sa/stranger", DAY);
    let wrong = Collector::start_over_tls(&stranger, &root).await;
    for (collector, is_right) in [(&right, true), (&wrong, false)] {
        let more = format!("{HTTP2}, {}", certificates.upstream("h2"));
        let clusters = [cluster("be", backend.port, ""), cluster("otel", collector.port, &more)];
        let proxy = Beside::ours(&tracing("s", ""), &[TO_BE], &clusters, &[]);
        assert_eq!(ask(proxy.port, "/", &[], false).await.status, 200);
        let outcome = if is_right { "exported" } else { "failed" };
        let end = Instant::now() + PATIENCE;
        while spans_counted(proxy.admin, outcome) == 0.0 {
            assert!(Instant::now() < end, "{outcome}: {}", proxy.process.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(collector.spans().len(), usize::from(is_right), "{}", proxy.process.log());
    }
}

/// What a hop makes of what came in: whether the trace goes on, and the flags.
async fn hop(proxy: &Beside, backend: &Backend, headers: &[(&str, &str)]) -> (bool, String, String) {
    assert_eq!(proxy.get("/", headers).await.status, 200, "{}", proxy.name);
    let (trace, span, flags) = carried(backend);
    assert_ne!(span, CALLER, "{}: a span of its own", proxy.name);
    let state = backend.seen().last().and_then(|seen| seen.headers.get("tracestate").cloned());
    (trace == TRACE, flags, state.unwrap_or_default())
}

/// Whether the access log names the trace that was begun by another.
async fn logs_trace(proxy: &Beside) -> bool {
    let line = format!("TRACE {TRACE} ");
    let end = Instant::now() + PATIENCE;
    while !proxy.process.log().contains(&line) && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    proxy.process.log().contains(&line)
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_carries_traces_on_as_ours_does() {
    let (collector, backend) = (Collector::start().await, Backend::start().await);
    let clusters = [cluster("be", backend.port, ""), cluster("otel", collector.port, HTTP2)];
    let (sampled, not) = (parent(TRACE, "01"), parent(TRACE, "00"));
    for (share, spawn) in [(100, false), (100, true), (0, false)] {
        let more = format!("random_sampling: {{value: {share}}}, spawn_upstream_span: {spawn}");
        let http = format!(
            "{}, access_log: [{{name: log, typed_config: {{\"@type\": {STDOUT}, log_format: {{text_format_source: {{inline_string: \
             \"TRACE %TRACE_ID% %REQ(TRACEPARENT)%\\n\"}}}}}}}}]",
            tracing("both", &more)
        );
        let mut outcomes = Vec::new();
        for proxy in Beside::both(&http, &[TO_BE], &clusters) {
            let before = collector.spans().len();
            let mut seen = Vec::new();
            let asks = [
                &[("traceparent", &*not)][..],
                &[][..],
                &[("x-client-trace-id", "1")][..],
                &[("traceparent", &*sampled), ("tracestate", "a=1")][..],
            ];
            // Whom the caller has chosen Envoy chooses once more, ours does not.
            let alike = if share == 0 { 3 } else { 4 };
            for headers in &asks[..alike] {
                seen.push(hop(&proxy, &backend, headers).await);
            }
            let recorded = seen.iter().filter(|(_, flags, _)| flags == "01").count();
            let expected = recorded * if spawn { 2 } else { 1 };
            let end = Instant::now() + PATIENCE;
            while collector.spans().len() < before + expected {
                assert!(Instant::now() < end, "{}: {expected} of {:#?}", proxy.name, collector.spans());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert!(logs_trace(&proxy).await, "{}: {}", proxy.name, proxy.process.log());
            let spans = &collector.spans()[before..];
            let mut shape: Vec<_> = spans
                .iter()
                .map(|one| {
                    (hex(&one.span.trace_id) == TRACE, one.span.kind, hex(&one.span.parent_span_id) == CALLER)
                })
                .collect();
            shape.sort_unstable();
            outcomes.push((proxy.name, seen, shape));
        }
        let mut outcomes = outcomes.into_iter();
        let (_, seen, shape) = outcomes.next().expect("ours");
        for (name, theirs, their_shape) in outcomes {
            assert_eq!(seen, theirs, "{name}, {share} %");
            assert_eq!(shape, their_shape, "{name}, {share} %, spawn {spawn}");
        }
    }
}

/// The workload `web-1` of the service `web`, and `client-1`, who calls it at a local port.
fn objects(web: u16, application: u16, local: u16) -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: shop}}
spec: {{clusterIP: 10.0.0.1, ports: [{{name: http, port: 80, targetPort: http}}]}}
---
apiVersion: mesh.outrider.dev/v1alpha1
kind: Workload
metadata: {{name: web-1, namespace: shop}}
spec: {{address: 127.0.0.2, service: web, serviceAccount: web, ports: [{{name: http, port: {web}, appPort: {application}, protocol: HTTP}}]}}
---
apiVersion: mesh.outrider.dev/v1alpha1
kind: Workload
metadata: {{name: client-1, namespace: shop}}
spec: {{address: 127.0.0.1, serviceAccount: client, upstreams: [{{service: web, port: 80, bind: '127.0.0.1:{local}'}}]}}
---
apiVersion: mesh.outrider.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {{name: no-secrets, namespace: shop}}
spec: {{action: Deny, rules: [{{to: [{{paths: [/secret*]}}]}}]}}
"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn one_setting_of_the_control_server_traces_a_mesh() {
    let (collector, backend) = (Collector::start().await, Backend::start().await);
    let local = free_port();
    let mut control = Control::stopped(Wire::Tls, &objects(free_port(), backend.port, local));
    control.more = vec![format!("--tracing-collector=127.0.0.1:{}", collector.port)];
    control.more.push("--tracing-sampling-percent=0".to_owned());
    control.run();
    let start = |workload: &str, account: &str| {
        let admin = free_port();
        // One of them asks for what it needs, the collector's cluster among it.
        let asks = if account == "client" { "on_demand: {}, " } else { "" };
        let config = control.outrider(workload, account, admin);
        let config = config.replace("outrider: {identity", &format!("outrider: {{{asks}identity"));
        Process::outrider(&config, admin)
    };
    let _sidecars = (start("web-1", "web"), start("client-1", "client"));
    control.settled("web-1");
    control.settled("client-1");
    let answers = async |path: &str, number: usize| {
        let trace = format!("{number}{}", &TRACE[1..]);
        let answer = ask(local, path, &[("traceparent", &parent(&trace, "01"))], false).await;
        (trace, answer.status)
    };
    let end = Instant::now() + PATIENCE;
    while ask(local, "/", &[], false).await.status != 200 {
        assert!(Instant::now() < end, "{}", control.log());
    }
    assert!(collector.spans().is_empty(), "of those without a decision none is recorded");

    let (trace, status) = answers("/hello", 1).await;
    assert_eq!(status, 200);
    let spans = collector.of_trace(&trace, 3).await;
    let (outside, inside) = (by_service(&spans, "client"), by_service(&spans, "web"));
    assert_eq!((outside.len(), inside.len()), (2, 1), "services are called as their accounts: {spans:#?}");
    assert!(outside.iter().any(|one| inside[0].is_below(one)));
    assert_eq!(inside[0].says("outrider.peer").as_deref(), Some("spiffe://mesh.test/ns/shop/sa/client"));
    assert_eq!(inside[0].says("outrider.direction").as_deref(), Some("inbound"));
    assert_eq!(carried(&backend).1, hex(&inside[0].span.span_id));

    let (trace, status) = answers("/secret", 2).await;
    assert_eq!(status, 403);
    let spans = collector.of_trace(&trace, 3).await;
    let denied = by_service(&spans, "web")[0];
    assert_eq!(denied.says("outrider.reason").as_deref(), Some("authorization_denied"));
    assert!(
        denied.says("outrider.policy").is_some_and(|policy| policy.contains("no-secrets")),
        "{denied:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn where_ours_is_not_as_envoy_is_documented() {
    let (collector, backend) = (Collector::start().await, Backend::start().await);
    let clusters = [cluster("be", backend.port, ""), cluster("otel", collector.port, HTTP2)];
    let sampled = parent(TRACE, "01");
    for (share, ours) in [("random_sampling: {value: 0}", "01"), ("overall_sampling: {value: 0}", "00")] {
        for proxy in Beside::both(&tracing("s", share), &[TO_BE], &clusters) {
            let flags = hop(&proxy, &backend, &[("traceparent", &sampled)]).await.1;
            assert_eq!(flags, if proxy.name == "ours" { ours } else { "00" }, "{} {share}", proxy.name);
        }
    }
    for proxy in Beside::both(&tracing("s", ""), &[TO_BE], &clusters) {
        assert_eq!(proxy.get("/", &[("traceparent", "garbage")]).await.status, 200);
        let seen = backend.seen().last().unwrap().headers["traceparent"].clone();
        assert_eq!(seen == "garbage", proxy.name != "ours", "{}: {seen}", proxy.name);
    }
}

/// The example of the documentation, at these ports in place of its own.
fn documented(ports: [(u16, u16); 4]) -> String {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/tracing.md");
    let page = std::fs::read_to_string(page).unwrap();
    let mut yaml =
        page.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap().to_owned();
    for (from, to) in ports {
        let (from, to) = (format!("port_value: {from}}}"), format!("port_value: {to}}}"));
        assert!(yaml.contains(&from), "{from}");
        yaml = yaml.replace(&from, &to);
    }
    yaml
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_of_the_documentation_works() {
    let (collector, backend) = (Collector::start().await, Backend::start().await);
    let (admin, port) = (free_port(), free_port());
    let config = documented([(9901, admin), (8080, port), (8000, backend.port), (4317, collector.port)]);
    let _proxy = Process::outrider(&config, admin);
    let traceparent = parent(TRACE, "01");
    let headers = [("traceparent", &*traceparent), ("x-tenant", "blue")];
    assert_eq!(ask(port, "/", &headers, false).await.status, 200);
    let spans = collector.of_trace(TRACE, 2).await;
    let whole = spans.iter().find(|one| one.span.kind == SERVER).unwrap();
    assert_eq!((&*whole.service, &*whole.span.name), ("shop", "GET everything"));
    assert_eq!(whole.says("tenant").as_deref(), Some("blue"));
    assert_eq!(whole.says("deployment.environment.name").as_deref(), Some("production"));
}
