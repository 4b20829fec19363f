//! Peers that take their time, and more of them than there is room for.

use std::process::Command;
use std::time::Duration;

use outrider_tests::client::{self, Ask, PATIENCE, connect, parse_h1, raw, read_head, websocket};
use outrider_tests::frames;
use outrider_tests::lab::{Lab, Setup};
use outrider_tests::upstream::Upstream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

const IMPATIENT: &str = "stream_idle_timeout: 0.5s";

/// Waits until a metric is as expected.
async fn until(lab: &Lab, name: &str, holds: impl Fn(f64) -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds(lab.metric(name)) {
        assert!(Instant::now() < end, "{name} is {}", lab.metric(name));
        tokio::task::yield_now().await;
    }
}

const ACTIVE: &str = "outrider_downstream_connections_active";

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stops_is_told_so() {
    let mut lab = Lab::with(Setup { http: IMPATIENT, ..Setup::default() }).await;
    for framing in ["content-length: 9\r\n\r\nabc", "transfer-encoding: chunked\r\n\r\n5\r\nab"] {
        let request = format!("POST /x HTTP/1.1\r\nhost: a\r\n{framing}");
        let answer = parse_h1(&raw(lab.port, request.as_bytes()).await, false);
        assert_eq!((answer.status, answer.header("outrider-error")), (408, Some("request_idle_timeout")));
    }
    assert!(lab.backend.seen().is_empty(), "never complete at the upstream");
    lab.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_given_up() {
    let answer =
        [&b"HTTP/1.1 200 OK\r\ncontent-length: 30000000\r\n\r\n"[..], &vec![b'x'; 30_000_000]].concat();
    let upstream = Upstream::h1(move |_, _| answer.clone()).await;
    let setup = Setup { http: IMPATIENT, upstream: Some(upstream.port), ..Setup::default() };
    let mut lab = Lab::with(setup).await;
    let mut stream = connect(lab.port).await;
    stream.write_all(b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    // A head has come, so it is the client that is waited for.
    assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 200"));
    until(&lab, ACTIVE, |count| count == 0.0).await;
    let mut got = Vec::new();
    let ended = timeout(PATIENCE, stream.read_to_end(&mut got)).await.unwrap();
    assert!(ended.is_err(), "cut, and said to be cut: a reset");
    assert!(got.len() < 30_000_000);
    lab.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_our_own_answers_is_given_up() {
    let mut lab = Lab::with(Setup { http: IMPATIENT, ..Setup::default() }).await;
    let mut stream = connect(lab.port).await;
    let many = b"GET /admin HTTP/1.1\r\nhost: a\r\n\r\n".repeat(1000);
    // As many as the proxy takes: it stops reading when its answers are not read.
    while timeout(PATIENCE, stream.write_all(&many)).await.unwrap().is_ok() {}
    until(&lab, ACTIVE, |count| count == 0.0).await;
    assert_eq!(lab.backend.received_bytes(), 0);
    lab.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_does_not_read_holds_no_more_than_a_buffer() {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = Some(socket.local_addr().unwrap().port());
    let mut lab = Lab::with(Setup { http: IMPATIENT, upstream, ..Setup::default() }).await;
    let mut stream = connect(lab.port).await;
    stream.write_all(b"POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 100000000\r\n\r\n").await.unwrap();
    let (mut read, mut write) = stream.split();
    let _deaf = socket.accept().await.unwrap();
    let sending = async {
        let piece = vec![b'x'; 1 << 20];
        let mut sent = 0;
        while sent < 100 && write.write_all(&piece).await.is_ok() {
            sent += 1;
        }
        sent
    };
    let mut answer = Vec::new();
    let reading = async { timeout(PATIENCE, read.read_to_end(&mut answer)).await };
    let (sent, _) = tokio::join!(sending, reading);
    assert!(sent < 100, "the proxy takes no more than the upstream does");
    assert_eq!(parse_h1(&answer, false).status, 504);
    lab.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_of_http2_is_given_up_however_large_its_windows_are() {
    /// Together more than the kernels take, and each no more than is queued for a stream.
    const STREAMS: u32 = 100;
    let mut lab = Lab::with(Setup { http: IMPATIENT, ..Setup::default() }).await;
    let mut stream = frames::open(lab.port).await;
    let window = 0x7fff_ffff_u32 - 65_535;
    stream.write_all(&frames::setting(4, 0x7fff_ffff)).await.unwrap();
    stream.write_all(&frames::frame(frames::WINDOW_UPDATE, 0, 0, &window.to_be_bytes())).await.unwrap();
    let ask = frames::usual(&[("x-reply-size", "240000")]);
    let both = frames::END_HEADERS | frames::END_STREAM;
    for number in 0..STREAMS {
        stream.write_all(&frames::frame(frames::HEADERS, both, number * 2 + 1, &ask)).await.unwrap();
    }
    let end = Instant::now() + PATIENCE;
    while lab.backend.seen().len() < STREAMS as usize {
        assert!(Instant::now() < end, "{} streams are answered", lab.backend.seen().len());
        tokio::task::yield_now().await;
    }
    until(&lab, ACTIVE, |count| count == 0.0).await;
    lab.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_of_a_request_does_not_hold_a_connection_for_ever() {
    let http = "request_headers_timeout: 0s, common_http_protocol_options: {idle_timeout: 0.5s}";
    let mut lab = Lab::with(Setup { http, ..Setup::default() }).await;
    let mut stream = connect(lab.port).await;
    stream.write_all(b"GET / HTTP/1.1\r\nho").await.unwrap();
    assert_eq!(timeout(PATIENCE, stream.read(&mut [0; 1])).await.unwrap().unwrap_or(0), 0);
    lab.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_whose_upstream_is_gone_ends() {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = Some(socket.local_addr().unwrap().port());
    tokio::spawn(async move {
        let (mut stream, _) = socket.accept().await.unwrap();
        read_head(&mut stream).await;
        let said = b"HTTP/1.1 101 X\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nbye";
        stream.write_all(said).await.unwrap();
    });
    let http = "upgrade_configs: [{upgrade_type: websocket}]";
    let mut lab = Lab::with(Setup { http, upstream, ..Setup::default() }).await;
    let mut stream = websocket(lab.port).await;
    let mut rest = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert_eq!(rest, b"bye");
    // The client goes on all the same, until it is told.
    let piece = [b'x'; 4096];
    let talking = async { while stream.write_all(&piece).await.is_ok() {} };
    timeout(PATIENCE, talking).await.expect("an end");
    until(&lab, ACTIVE, |count| count == 0.0).await;
    lab.is_well().await;
}

/// Lets this process have this many files open, if it may; says how many it may have.
fn raise_open_files(wanted: usize) -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let hard: usize = line.split_whitespace().nth(4).and_then(|hard| hard.parse().ok()).unwrap_or(usize::MAX);
    let limit = wanted.min(hard);
    let (pid, limit_arg) = (std::process::id().to_string(), format!("--nofile={limit}:"));
    assert!(Command::new("prlimit").args(["--pid", &pid, &limit_arg]).status().unwrap().success());
    limit
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_idle_connections_are_cheap() {
    const WANTED: usize = 10_000;
    /// What an idle connection may cost the proxy, in bytes: the budget.
    const MAX_BYTES_EACH: u64 = 6 * 1024;
    let files = raise_open_files(WANTED + 512);
    let count = WANTED.min(files - 256);
    if count < WANTED {
        eprintln!("only {count} connections: the limit on open files is {files}");
    }
    let env = &[("OUTRIDER_MAX_CONNECTIONS", "100000")];
    let mut lab = Lab::with(Setup { env, ..Setup::default() }).await;
    let mut held = Vec::with_capacity(count);
    for number in 0..count {
        let mut stream = connect(lab.port).await;
        // Half of them have not said a word, half have had an answer and think about what to ask next.
        if number % 2 == 0 {
            stream.write_all(b"GET /admin HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        }
        held.push(stream);
    }
    for stream in held.iter_mut().step_by(2) {
        let mut space = [0; 512];
        assert!(timeout(PATIENCE, stream.read(&mut space)).await.unwrap().unwrap() > 0);
    }
    let wanted = count as f64;
    until(&lab, ACTIVE, |active| active >= wanted).await;
    let each = lab.growth_bytes() / count as u64;
    println!("{count} idle connections, {each} bytes each");
    assert!(each < MAX_BYTES_EACH, "{each} bytes for each idle connection");
    let answer = client::h1(lab.port, &Ask { path: "/well".into(), ..Ask::default() }).await;
    assert_eq!(answer.status, 200);
    drop(held);
    until(&lab, ACTIVE, |active| active < 10.0).await;
    assert!(lab.proxy.is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_without_file_descriptors_serves_who_is_there_and_recovers() {
    let env = &[("OUTRIDER_MAX_CONNECTIONS", "100000"), ("OUTRIDER_WORKERS", "1")];
    let mut lab = Lab::with(Setup { env, open_files: Some(100), ..Setup::default() }).await;
    let mut early = connect(lab.port).await;
    early.write_all(b"GET /admin HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert!(read_head(&mut early).await.starts_with("HTTP/1.1 403"));
    let mut crowd: Vec<TcpStream> = Vec::new();
    let end = Instant::now() + PATIENCE;
    while !lab.proxy.log().contains("accepting failed") {
        assert!(Instant::now() < end, "{}", lab.proxy.log());
        if crowd.len() < 200 {
            crowd.push(connect(lab.port).await);
        }
        tokio::task::yield_now().await;
    }
    // Whoever is in is served, if only with the news that no upstream can be reached.
    early.write_all(b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert!(read_head(&mut early).await.starts_with("HTTP/1.1 503"));
    drop(crowd);
    drop(early);
    timeout(PATIENCE, lab.is_well()).await.unwrap();
    timeout(Duration::from_secs(5), lab.is_well()).await.unwrap();
}
