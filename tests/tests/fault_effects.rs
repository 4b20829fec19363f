//! Each kind of leased fault, measured from the outside.

use std::time::{Duration, Instant};

use outrider_tests::client::{self, Ask, PATIENCE};
use outrider_tests::faults::{Lab, Setup};
use outrider_tests::frames::{END_BOTH, GOAWAY, HEADERS, RST_STREAM, block, frame, next, open};
use outrider_tests::mesh::Mesh;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;

/// Times are measured, so that no two tests may run at once.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: h\r\n\r\n";

/// What a plain socket sees after it has sent this: bytes, and how they end.
async fn socket(port: u16, bytes: &[u8]) -> (Vec<u8>, &'static str) {
    // The reset may come before the system has told us of the connection.
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await else { return (Vec::new(), "reset") };
    let _ = stream.write_all(bytes).await;
    ended(stream).await
}

/// The same, and the client says that nothing follows.
async fn opaque(port: u16, bytes: &[u8]) -> (Vec<u8>, &'static str) {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await else { return (Vec::new(), "reset") };
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    ended(stream).await
}

async fn ended(mut stream: TcpStream) -> (Vec<u8>, &'static str) {
    let mut answer = Vec::new();
    let end = match timeout(PATIENCE, stream.read_to_end(&mut answer)).await {
        Ok(Ok(_)) => "closed",
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionReset => "reset",
        Ok(Err(_)) => "failed",
        Err(_) => "open",
    };
    (answer, end)
}

/// The first frame that ends a stream or its connection, and its code.
async fn h2_end(port: u16) -> (u8, u32) {
    let mut stream = open(port).await;
    let fields = [(":method", "GET"), (":scheme", "http"), (":authority", "h"), (":path", "/")];
    stream.write_all(&frame(HEADERS, END_BOTH, 1, &block(&fields))).await.unwrap();
    while let Some(frame) = next(&mut stream).await {
        let at = match frame.kind {
            RST_STREAM => 0,
            GOAWAY => 4,
            _ => continue,
        };
        return (frame.kind, u32::from_be_bytes(frame.payload[at..at + 4].try_into().unwrap()));
    }
    panic!("closed without a word");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_end_as_asked_and_say_so() {
    let _alone = ALONE.lock().await;
    let lab = Lab::start(Setup::default()).await;
    lab.inject(&["place: INBOUND, abort: {http_status: 418}"]).await;
    for h2 in [false, true] {
        let ask = Ask { headers: vec![("x-key".into(), format!("http{h2}"))], ..Ask::default() };
        let answer =
            if h2 { client::h2(lab.inbound, &ask).await } else { client::h1(lab.inbound, &ask).await };
        assert_eq!((answer.status, answer.header("outrider-fault")), (418, Some("f0")));
        assert_eq!(lab.line(&format!("http{h2}")).await, "418 FI fault_injected f0");
    }
    assert_eq!(lab.get(lab.outbound, "/").await.status, 200, "only inbound");
    assert!(lab.metric("outrider_faults_total{fault=\"f0\",effect=\"abort\"}") >= 2.0);

    lab.inject(&["place: OUTBOUND, abort: {grpc: {status: 14, message: try later}}"]).await;
    let grpc = vec![("content-type".into(), "application/grpc".into()), ("te".into(), "trailers".into())];
    let answer = client::h2(lab.outbound, &Ask { headers: grpc, ..Ask::default() }).await;
    assert_eq!((answer.status, answer.header("grpc-status")), (200, Some("14")));
    assert_eq!(answer.header("grpc-message"), Some("try later"));

    for (how, h1, h2) in [
        ("reset: {}", "reset", (RST_STREAM, 2)),
        ("stream: {code: 7}", "reset", (RST_STREAM, 7)),
        ("go_away: {code: 11}", "reset", (GOAWAY, 11)),
        ("close: {}", "closed", (GOAWAY, 0)),
    ] {
        lab.inject(&[&format!("place: INBOUND, match: {{path: {{exact: /}}}}, abort: {{{how}}}")]).await;
        assert_eq!(socket(lab.inbound, GET).await, (Vec::new(), h1), "{how}");
        assert_eq!(h2_end(lab.inbound).await, h2, "{how}");
    }
    lab.inject(&["place: OUTBOUND, refuse: {}"]).await;
    assert_eq!(socket(lab.outbound, GET).await, (Vec::new(), "reset"));
    lab.inject(&[]).await;
    assert_eq!(lab.get(lab.outbound, "/").await.status, 200);
}

/// Mean and 90th percentile of the time that an answer takes, in milliseconds.
async fn times(lab: &Lab, count: usize) -> (f64, f64) {
    let mut all = Vec::new();
    let mut stream = client::connect(lab.inbound).await;
    stream.set_nodelay(true).unwrap();
    let ask = b"GET / HTTP/1.1\r\nhost: h\r\nx-reply-body: ok\r\n\r\n";
    for _ in 0..count {
        let begun = Instant::now();
        stream.write_all(ask).await.unwrap();
        let (mut buffer, mut len) = ([0; 4096], 0);
        while !buffer[..len].ends_with(b"\r\n\r\nok") {
            let read = timeout(PATIENCE, stream.read(&mut buffer[len..])).await.unwrap().unwrap();
            assert!(read > 0);
            len += read;
        }
        all.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    all.sort_by(f64::total_cmp);
    (all.iter().sum::<f64>() / count as f64, all[count * 9 / 10])
}

#[tokio::test(flavor = "multi_thread")]
async fn delays_are_spread_as_asked() {
    let _alone = ALONE.lock().await;
    let lab = Lab::start(Setup::default()).await;
    let (base, _) = times(&lab, 50).await;
    for (delay, mean, ninetieth) in [
        ("fixed: 50ms", 50.0, 50.0),
        ("fixed: 50ms, moment: BEFORE_RESPONSE", 50.0, 50.0),
        ("uniform: {min: 20ms, max: 80ms}", 50.0, 74.0),
        ("normal: {mean: 60ms, deviation: 10ms}", 60.0, 72.8),
        ("pareto: {scale: 30ms, shape: 4}", 40.0, 53.3),
    ] {
        let delay = delay.replace("ms", "");
        let delay = in_seconds(&delay);
        lab.inject(&[&format!("place: INBOUND, seed: 5, delay: {{{delay}}}")]).await;
        let (found_mean, found_ninetieth) = times(&lab, 200).await;
        // A timer wakes up to a millisecond late, and the rest of the exchange takes its time too.
        for (what, found, asked) in [("mean", found_mean, mean), ("p90", found_ninetieth, ninetieth)] {
            let off = (found - base - asked).abs() / asked;
            assert!(off < 0.05 + 1.0 / asked, "{delay}: {what} {found} for {asked}, {base} without");
        }
    }
}

/// Every number before a comma or the end in thousandths of a second, but what is no time.
fn in_seconds(text: &str) -> String {
    let mut out = Vec::new();
    for part in text.split(' ') {
        let digits = part.trim_end_matches([',', '}']);
        let rest = &part[digits.len()..];
        match digits.parse::<f64>() {
            Ok(number) if number > 5.0 => out.push(format!("{}s{rest}", number / 1000.0)),
            _ => out.push(part.to_owned()),
        }
    }
    out.join(" ")
}

/// How long curl takes to get or send so many bytes, in seconds.
async fn curl(port: u16, more: &[&str]) -> (String, f64) {
    let begun = Instant::now();
    let mut command = Command::new("curl");
    command.args(["-s", "-o", "/dev/null", "-w", "%{http_code} %{size_download}", "--max-time", "30"]);
    let output = command.args(more).arg(format!("http://127.0.0.1:{port}/")).output().await.unwrap();
    (String::from_utf8(output.stdout).unwrap(), begun.elapsed().as_secs_f64())
}

#[tokio::test(flavor = "multi_thread")]
async fn bandwidth_is_limited_in_both_directions() {
    const BYTES: usize = 1_000_000;
    let _alone = ALONE.lock().await;
    let lab = Lab::start(Setup::default()).await;
    let body = lab.proxy.directory.join("body");
    std::fs::write(&body, vec![b'x'; BYTES]).unwrap();
    let (size, upload) = (format!("x-reply-size: {BYTES}"), format!("@{}", body.display()));
    for place in ["INBOUND", "UPSTREAM"] {
        lab.inject(&[&format!(
            "place: {place}, bandwidth: {{request_bytes_per_second: 400000, response_bytes_per_second: 500000}}"
        )])
        .await;
        for version in ["--http1.1", "--http2-prior-knowledge"] {
            let (got, took) = curl(lab.inbound, &[version, "-H", &size]).await;
            assert_eq!(got, format!("200 {BYTES}"));
            assert!((took / 2.0 - 1.0).abs() < 0.05, "{place} {version} down: {took} s");
            let ask = [version, "-H", "expect:", "-H", "x-reply-body: ok", "--data-binary", &upload];
            let (got, took) = curl(lab.inbound, &ask).await;
            assert_eq!(got, "200 2");
            assert!((took / 2.5 - 1.0).abs() < 0.05, "{place} {version} up: {took} s");
        }
    }
    assert!(lab.metric("outrider_faults_total{fault=\"f0\",effect=\"rate\"}") >= 8.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_cut_changed_and_dripped() {
    let _alone = ALONE.lock().await;
    let lab = Lab::start(Setup::default()).await;
    let ask = |size: usize| {
        format!(
            "GET / HTTP/1.1\r\nhost: h\r\nx-key: k{size}\r\nx-reply-size: {size}\r\nconnection: close\r\n\r\n"
        )
    };
    let right: Vec<u8> = (0..100_000).map(|at| b'a' + (at % 26) as u8).collect();
    let body =
        |bytes: &[u8]| bytes[bytes.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4..].to_vec();

    lab.inject(&["place: INBOUND, truncate: {after_bytes: 1000}"]).await;
    let (bytes, end) = socket(lab.inbound, ask(99_001).as_bytes()).await;
    assert!(end != "open" && body(&bytes).len() <= 1000, "{} bytes, {end}", bytes.len());
    assert!(lab.line("k99001").await.ends_with("FI,FS fault_injected f0"));
    assert!(String::from_utf8_lossy(&bytes).contains("outrider-fault: f0"));

    lab.inject(&["place: UPSTREAM, seed: 3, corrupt: {one_in_bytes: 100}"]).await;
    let (bytes, end) = socket(lab.inbound, ask(100_000).as_bytes()).await;
    let body_bytes = body(&bytes);
    let wrong = right.iter().zip(&body_bytes).filter(|(left, right)| left != right).count();
    assert!(end == "closed" && body_bytes.len() == 100_000 && wrong.abs_diff(1000) < 100, "{wrong} wrong");

    lab.inject(&["place: INBOUND, drip: {chunk_bytes: 10, interval: 0.02s}"]).await;
    let begun = Instant::now();
    let (bytes, end) = socket(lab.inbound, ask(500).as_bytes()).await;
    assert_eq!((body(&bytes), end), (right[..500].to_vec(), "closed"));
    let took = begun.elapsed().as_millis();
    assert!((980..1200).contains(&took), "{took} ms");

    lab.inject(&["place: INBOUND, delay: {fixed: 0.3s, moment: PER_CHUNK}"]).await;
    let begun = Instant::now();
    let (bytes, _) = socket(lab.inbound, ask(500).as_bytes()).await;
    assert_eq!(body(&bytes).len(), 500);
    assert!((300..600).contains(&begun.elapsed().as_millis()));

    lab.inject(&["place: INBOUND, truncate: {side: REQUEST, after_bytes: 10}"]).await;
    let long = b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 20\r\n\r\n01234567890123456789";
    assert_eq!(socket(lab.inbound, long).await, (Vec::new(), "reset"));
    assert!(lab.backend.seen().iter().all(|seen| seen.body.len() < 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_meet_faults_as_real_ones() {
    let _alone = ALONE.lock().await;
    let lab = Lab::start(Setup::default()).await;
    let at = format!("127.0.0.1:{}", lab.backend.port);
    for (action, code) in [
        ("abort: {http_status: 503}", "503"),
        ("abort: {reset: {}}", "503"),
        ("abort: {stream: {code: 7}}", "503"),
        ("refuse: {}", "503"),
        ("delay: {fixed: 5s}", "504"),
        ("delay: {fixed: 5s, moment: BEFORE_RESPONSE}", "504"),
        ("blackhole: {}", "504"),
    ] {
        // Half of the endpoints: retries find the other one.
        lab.inject(&[&format!("place: UPSTREAM, match: {{endpoints: ['{at}']}}, {action}")]).await;
        let before = lab.metric("outrider_retries_total{destination_service=\"two\"}");
        for _ in 0..4 {
            assert_eq!(lab.get(lab.inbound, "/retry").await.status, 200, "{action}");
        }
        let retries = lab.metric("outrider_retries_total{destination_service=\"two\"}") - before;
        // A refused stream is sent again without being a retry.
        let least = if action.contains("stream") { 0.0 } else { 1.0 };
        assert!((least..=4.0).contains(&retries), "{action}: {retries} retries");
        // All of them: they run out.
        lab.inject(&[&format!("place: UPSTREAM, {action}")]).await;
        let key = action.len().to_string();
        let (answer, _) = lab.timed(lab.inbound, "/retry", &[("x-key", &key)]).await;
        assert_eq!(answer.status.to_string(), code, "{action}");
        let line = lab.line(&key).await;
        assert!(line.contains("URX") && line.ends_with(" f0"), "{action}: {line}");
    }
    assert!(lab.metric("outrider_upstream_connect_failures_total{destination_service=\"two\"}") >= 4.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_matches_has_a_fault() {
    let _alone = ALONE.lock().await;
    let lab = Lab::start(Setup::default()).await;
    let mine = lab.inbound;
    for (rule, hit, missed) in [
        ("path: {prefix: /a}", "/a/b", "/b"),
        ("routes: [retry]", "/retry", "/a"),
        ("clusters: [two]", "/retry", "/a"),
        ("methods: [GET], path: {exact: /a}", "/a", "/b"),
        ("listeners: [in]", "/a", ""),
        (&format!("port: {mine}"), "/a", ""),
    ] {
        lab.inject(&[&format!("place: INBOUND, match: {{{rule}}}, abort: {{http_status: 418}}")]).await;
        assert_eq!(lab.get(mine, hit).await.status, 418, "{rule}");
        assert!(missed.is_empty() || lab.get(mine, missed).await.status == 200, "{rule}");
    }
    for rule in ["methods: [POST]", "listeners: [out]", "port: 1", "peers: [{prefix: 'spiffe://'}]"] {
        lab.inject(&[&format!("place: INBOUND, match: {{{rule}}}, abort: {{http_status: 418}}")]).await;
        assert_eq!(lab.get(mine, "/a").await.status, 200, "{rule}");
    }
    let rule = "headers: [{name: x-chaos, string_match: {exact: '1'}}]";
    lab.inject(&[&format!("place: INBOUND, match: {{{rule}}}, abort: {{http_status: 418}}")]).await;
    assert_eq!(lab.timed(mine, "/", &[("x-chaos", "1")]).await.0.status, 418);
    assert_eq!(lab.timed(mine, "/", &[("x-chaos", "2")]).await.0.status, 200);
    // Probes see the workload as it is.
    lab.inject(&["place: INBOUND, match: {path: {prefix: /}}, abort: {http_status: 418}"]).await;
    assert_eq!(lab.timed(mine, "/", &[("user-agent", "kube-probe/1.33")]).await.0.status, 200);
    assert_eq!(lab.get(mine, "/grpc.health.v1.Health/Check").await.status, 200);
    assert_eq!(lab.get(mine, "/").await.status, 418);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seeded_share_is_met_and_repeated() {
    let _alone = ALONE.lock().await;
    let lab = Lab::start(Setup::default()).await;
    let mut runs = Vec::new();
    for seed in [1, 1, 2] {
        lab.inject(&[]).await;
        lab.inject(&[&format!(
            "place: INBOUND, match: {{path: {{exact: /}}}}, seed: {seed}, percentage: {{numerator: 30}}, abort: {{http_status: 418}}"
        )])
        .await;
        let mut run = Vec::new();
        for _ in 0..1000 {
            run.push(lab.get(lab.inbound, "/").await.status);
        }
        let hit = run.iter().filter(|status| **status == 418).count();
        // Four standard deviations of a binomial distribution.
        assert!(hit.abs_diff(300) <= 58, "{hit} of 1000");
        runs.push(run);
    }
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0], runs[2]);
    lab.inject(&[
        "place: INBOUND, per_connection: true, percentage: {numerator: 50}, abort: {http_status: 418}",
    ])
    .await;
    for _ in 0..20 {
        let mut stream = client::connect(lab.inbound).await;
        let mut fates = Vec::new();
        for _ in 0..5 {
            stream.write_all(GET).await.unwrap();
            let head = client::read_head(&mut stream).await;
            fates.push(head.contains(" 418 "));
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            let mut body = vec![0; length.trim().parse().unwrap()];
            stream.read_exact(&mut body).await.unwrap();
        }
        assert!(fates.windows(2).all(|pair| pair[0] == pair[1]), "{fates:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn opaque_connections_have_faults() {
    let _alone = ALONE.lock().await;
    let lab = Lab::start(Setup::default()).await;
    let ask = b"GET / HTTP/1.1\r\nhost: h\r\nx-reply-size: 200000\r\nconnection: close\r\n\r\n";
    let (whole, end) = opaque(lab.tcp, ask).await;
    assert!(end == "closed" && whole.len() > 200_000, "{} {end}", whole.len());
    for (fault, expected) in [
        ("place: INBOUND, match: {listeners: [tcp]}, abort: {reset: {}}", "reset"),
        ("place: INBOUND, match: {listeners: [tcp]}, refuse: {}", "reset"),
        ("place: UPSTREAM, match: {listeners: [tcp]}, refuse: {}", "reset"),
        ("place: UPSTREAM, match: {listeners: [tcp]}, tls_failure: {}", "closed"),
        ("place: INBOUND, match: {listeners: [tcp]}, abort: {http_status: 418}", "closed"),
    ] {
        lab.inject(&[fault]).await;
        let (bytes, end) = opaque(lab.tcp, ask).await;
        assert_eq!((bytes.is_empty(), end), (expected == "reset", expected), "{fault}");
    }
    lab.inject(&["place: INBOUND, match: {listeners: [tcp]}, abort: {close: {}}"]).await;
    assert_eq!(opaque(lab.tcp, b"").await, (Vec::new(), "closed"));

    lab.inject(&["place: INBOUND, match: {listeners: [tcp]}, truncate: {after_bytes: 1000}"]).await;
    let (bytes, _) = opaque(lab.tcp, ask).await;
    assert_eq!(bytes.len(), 1000);

    lab.inject(&["place: UPSTREAM, match: {listeners: [tcp]}, corrupt: {one_in_bytes: 100}"]).await;
    let (bytes, _) = opaque(lab.tcp, ask).await;
    let wrong = whole.iter().zip(&bytes).filter(|(left, right)| left != right).count();
    assert!(bytes.len() == whole.len() && wrong.abs_diff(2000) < 300, "{wrong} wrong");

    for place in ["INBOUND", "UPSTREAM"] {
        let limit = "bandwidth: {response_bytes_per_second: 200000}";
        lab.inject(&[&format!("place: {place}, match: {{listeners: [tcp]}}, {limit}")]).await;
        let begun = Instant::now();
        assert_eq!(opaque(lab.tcp, ask).await.0.len(), whole.len());
        let took = begun.elapsed().as_secs_f64();
        assert!((took - 1.0).abs() < 0.06, "{place}: {took} s");
        lab.inject(&[&format!("place: {place}, match: {{listeners: [tcp]}}, delay: {{fixed: 0.4s}}")]).await;
        let begun = Instant::now();
        assert_eq!(opaque(lab.tcp, ask).await.0.len(), whole.len());
        assert!((400..600).contains(&begun.elapsed().as_millis()));
    }
    lab.until("its flag is logged", || lab.proxy.log().contains("FI")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_fail_with_the_alert_asked_for() {
    let mesh = Mesh::new("faults");
    let _alone = ALONE.lock().await;
    let lab = Lab::start(Setup { socket: &mesh.downstream(), ..Setup::default() }).await;
    for (alert, said) in [("{}", "handshake failure"), ("{alert: 45}", "certificate expired")] {
        lab.inject(&[&format!("place: INBOUND, tls_failure: {alert}")]).await;
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &format!("127.0.0.1:{}", lab.tls)]);
        let output = command.stdin(std::process::Stdio::null()).output().await.unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(said), "{text}");
        assert_eq!(lab.get(lab.inbound, "/").await.status, 200, "plaintext has no handshake");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_goes_on_when_its_lease_ends() {
    let _alone = ALONE.lock().await;
    let lab = Lab::start(Setup::default()).await;
    for (port, request) in [(lab.inbound, GET), (lab.tcp, GET)] {
        let fault = "fault: {place: INBOUND, match: {path: {exact: /}}, blackhole: {}}";
        let fault = if port == lab.tcp {
            "fault: {place: INBOUND, match: {listeners: [tcp]}, blackhole: {}}"
        } else {
            fault
        };
        assert_eq!(lab.push(&[("hole", fault)], Some(Duration::from_secs(2)), &[]).await, None);
        lab.settle().await;
        let begun = Instant::now();
        let mut stream: TcpStream = client::connect(port).await;
        stream.write_all(request).await.unwrap();
        let mut first = [0; 12];
        timeout(PATIENCE, stream.read_exact(&mut first)).await.unwrap().unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        let took = begun.elapsed().as_millis();
        assert!((1000..3000).contains(&took), "{took} ms");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_fault_strikes_what_the_sidecar_answers_for_itself() {
    let _alone = ALONE.lock().await;
    let lab = Lab::start(Setup::default()).await;
    let abort = "match: {path: {exact: /}}, abort: {http_status: 418}";
    for place in ["INBOUND", "UPSTREAM"] {
        lab.inject(&[&format!("place: {place}, {abort}")]).await;
        assert_eq!(lab.get(lab.inbound, "/").await.status, 418, "{place}");
        assert_eq!(lab.get(lab.own, "/").await.status, 200, "{place}");
    }
    let refuse = [("f0", "fault: {place: INBOUND, refuse: {}}")];
    assert_eq!(lab.push(&refuse, Some(Duration::from_secs(60)), &[]).await, None);
    let request = b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";
    while socket(lab.inbound, request).await.1 != "reset" {}
    assert_eq!(lab.get(lab.own, "/").await.status, 200);
}
