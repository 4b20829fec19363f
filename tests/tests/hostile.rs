//! Malformed and hostile HTTP/1 requests through the real binary: the expected answer, nothing of it at the upstream, the next
//! request served, the process alive and no larger.

use outrider_tests::client::{self, Ask, PATIENCE, connect, parse_h1, raw};
use outrider_tests::lab::{Lab, Setup};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

#[tokio::test]
async fn malformed_requests_are_refused_and_never_forwarded() {
    let mut lab = Lab::start().await;
    let head = |lines: &str| format!("POST /x HTTP/1.1\r\nhost: a\r\n{lines}\r\n\r\n");
    let many = "a: b\r\n".repeat(101);
    let cases: Vec<(String, u16)> = vec![
        (head("content-length: 5\r\ntransfer-encoding: chunked") + "hello", 400),
        (head("transfer-encoding: chunked\r\ncontent-length: 5") + "0\r\n\r\n", 400),
        (head("content-length: 5\r\ncontent-length: 6") + "hello", 400),
        (head("content-length: 5, 6") + "hello", 400),
        (head("content-length: -1"), 400),
        (head("content-length: 0x5") + "hello", 400),
        (head("content-length: 1_0"), 400),
        (head("content-length: 18446744073709551616"), 400),
        (head("content-length: 5;") + "hello", 400),
        (head("transfer-encoding: xchunked"), 501),
        (head("transfer-encoding: identity"), 501),
        (head("transfer-encoding: ,chunked"), 400),
        (head("transfer-encoding: chunked;q=1"), 400),
        (head("transfer-encoding: chunked\x0b"), 400),
        (head("transfer-encoding : chunked"), 400),
        ("POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n".into(), 426),
        ("GET / HTTP/1.1\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nhost: a/b\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nhost: u@a\r\n\r\n".into(), 400),
        (head("a: b\0c"), 400),
        (head("a : b"), 400),
        (head("nocolon"), 400),
        (head("a: b\r\n c: d"), 400),
        (head("a: b\rc"), 400),
        ("GET / HTTP/1.1\nhost: a\n\n".into(), 400),
        ("GET / HTTP/3.0\r\nhost: a\r\n\r\n".into(), 505),
        ("PRI * HTTP/2.0\r\n\r\n".into(), 400),
        ("GET /admin#x HTTP/1.1\r\nhost: a\r\n\r\n".into(), 400),
        ("GET \\admin HTTP/1.1\r\nhost: a\r\n\r\n".into(), 400),
        (head(many.trim_end()), 431),
        (head(&format!("a: {}", "b".repeat(62_000))), 431),
        (format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "a".repeat(20_000)), 414),
        ("CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n".into(), 404),
        ("CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n".into(), 404),
        ("TRACE / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".into(), 404),
        ("TRACE / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx".into(), 400),
        (head("expect: something"), 417),
        ("\x16\x03\x01\x02\x00".into(), 400),
    ];
    for (request, status) in &cases {
        let answer = parse_h1(&raw(lab.port, request.as_bytes()).await, false);
        let shown = &request[..request.len().min(120)];
        assert_eq!(answer.status, *status, "{shown:?}");
        assert!(answer.header("outrider-error").is_some(), "{shown:?}");
    }
    assert_eq!(lab.backend.received_bytes(), 0, "no byte of a refused request reaches the upstream");
    lab.is_well().await;
}

#[tokio::test]
async fn malformed_chunks_end_the_connection() {
    let mut lab = Lab::start().await;
    let long_extension = format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(20_000));
    for body in [
        &long_extension,
        "0x5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5;\r\nhello\r\n0\r\n\r\n",
        "11111111111111111\r\n",
        "5\r\nhello!\r\n0\r\n\r\n",
    ] {
        let request = format!("POST /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{body}");
        let answer = parse_h1(&raw(lab.port, request.as_bytes()).await, false);
        assert_eq!(answer.status, 400, "{:?}", &body[..body.len().min(40)]);
    }
    assert!(lab.backend.seen().is_empty(), "no such request is complete at the upstream");
    lab.is_well().await;
}

#[tokio::test]
async fn a_request_cut_at_any_byte_costs_nothing() {
    let mut lab = Lab::start().await;
    let request = b"POST /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    for end in 0..request.len() {
        let mut stream = connect(lab.port).await;
        stream.write_all(&request[..end]).await.unwrap();
        drop(stream);
    }
    lab.is_well().await;
    let whole = lab.backend.seen().iter().filter(|seen| seen.path == "/x").count();
    assert_eq!(whole, 0, "a request that was cut short is never complete at the upstream");
}

#[tokio::test]
async fn a_slow_head_is_told_so() {
    let lab = Lab::start().await;
    let mut stream = connect(lab.port).await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: ").await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert_eq!(parse_h1(&answer, false).status, 408);
}

#[tokio::test]
async fn disguised_paths_are_seen_through() {
    let mut lab = Lab::start().await;
    for (path, status) in [
        ("/admin", 403),
        ("/./admin", 403),
        ("/x/%2e%2e/admin", 403),
        ("/%61dmin", 403),
        ("/admin%20", 403),
        ("/admin;x=1", 403),
        ("/x/..;/admin", 403),
        ("http://h/admin", 403),
        ("/x\\..\\admin", 403),
        ("/x/..%2fadmin", 400),
        ("/%5c%2e%2e/admin", 400),
        ("/%c0%ae%c0%ae/admin", 400),
        ("/Admin", 200),
        ("/x/%252e%252e/admin", 200),
    ] {
        let answer = client::h1(lab.port, &Ask { path: path.into(), ..Ask::default() }).await;
        assert_eq!(answer.status, status, "HTTP/1 {path}");
        if path.starts_with('/') && !path.contains('\\') {
            let answer = client::h2(lab.port, &Ask { path: path.into(), ..Ask::default() }).await;
            assert_eq!(answer.status, status, "HTTP/2 {path}");
        }
    }
    for seen in lab.backend.seen() {
        assert!(
            !seen.path.to_ascii_lowercase().starts_with("/admin") || seen.path == "/Admin",
            "{}",
            seen.path
        );
    }
    lab.is_well().await;
}

#[tokio::test]
async fn identity_and_control_headers_of_clients_go_no_further() {
    let lab = Lab::start().await;
    let headers = ["x-forwarded-client-cert", "x-envoy-upstream-rq-timeout-ms", "x-outrider-fault"];
    let headers = headers.iter().map(|name| ((*name).to_owned(), "forged".to_owned())).collect();
    client::h1(lab.port, &Ask { headers, ..Ask::default() }).await;
    let seen = lab.backend.seen().pop().unwrap();
    assert!(!seen.headers.values().any(|value| value == "forged"), "{seen:?}");
}

#[tokio::test]
async fn http10_needs_an_authority_from_somewhere() {
    let lab =
        Lab::with(Setup { http: "http_protocol_options: {accept_http_10: true}", ..Setup::default() }).await;
    let status = async |request: &str| parse_h1(&raw(lab.port, request.as_bytes()).await, false).status;
    assert_eq!(status("GET / HTTP/1.0\r\n\r\n").await, 400);
    assert_eq!(lab.backend.received_bytes(), 0);
    assert_eq!(status("GET http://a/ HTTP/1.0\r\n\r\n").await, 200);
    assert_eq!(status("GET / HTTP/1.0\r\nhost: a\r\n\r\n").await, 200);
    assert!(lab.backend.seen().iter().all(|seen| seen.headers["host"] == "a"));
}

#[tokio::test]
async fn an_expectation_with_a_request_behind_it_shifts_no_byte() {
    let mut lab = Lab::start().await;
    let ask = "POST /one HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";
    // The body came without being waited for, and the next request with it.
    let all = format!("{ask}helloGET /two HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    let answers = String::from_utf8_lossy(&raw(lab.port, all.as_bytes()).await).into_owned();
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 2, "{answers}");
    assert!(!answers.contains("100 Continue"), "{answers}");
    let seen: Vec<(String, String)> =
        lab.backend.seen().into_iter().map(|seen| (seen.path, seen.body)).collect();
    assert_eq!(seen, [("/one".into(), "hello".into()), ("/two".into(), String::new())]);
    // Refused before its body: whatever follows is not taken for a request.
    let refused = ask.replace("/one", "/admin") + "GET /three HTTP/1.1\r\nhost: a\r\n\r\n";
    let answers = String::from_utf8_lossy(&raw(lab.port, refused.as_bytes()).await).into_owned();
    assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{answers}");
    assert!(answers.starts_with("HTTP/1.1 403"), "{answers}");
    // The client waits as it should.
    let mut stream = connect(lab.port).await;
    stream.write_all(ask.as_bytes()).await.unwrap();
    assert_eq!(client::read_head(&mut stream).await, "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").await.unwrap();
    assert!(client::read_head(&mut stream).await.starts_with("HTTP/1.1 200"));
    assert!(lab.backend.seen().iter().all(|seen| seen.path != "/three"));
    lab.is_well().await;
}

#[tokio::test]
async fn a_hundred_thousand_chunks_of_one_byte_are_one_body() {
    let mut lab = Lab::start().await;
    let mut request =
        b"POST /x HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    request.extend(b"1\r\na\r\n".repeat(100_000));
    request.extend(b"0\r\nhost: b\r\ncontent-length: 7\r\nx-kept: 1\r\n\r\n");
    assert_eq!(parse_h1(&raw(lab.port, &request).await, false).status, 200);
    let seen = lab.backend.seen().pop().unwrap();
    assert_eq!(seen.body.len(), 100_000);
    assert_eq!(seen.trailers.keys().collect::<Vec<_>>(), ["x-kept"], "nothing that frames or routes");
    assert_eq!(seen.headers["host"], "a");
    lab.is_well().await;
}

#[tokio::test]
async fn reasons_can_be_kept_from_clients() {
    let lab = Lab::with(Setup { env: &[("OUTRIDER_ERROR_HEADER", "off")], ..Setup::default() }).await;
    let answer = client::h1(lab.port, &Ask { path: "/x#".into(), ..Ask::default() }).await;
    assert_eq!((answer.status, answer.header("outrider-error")), (400, None));
}

#[tokio::test]
async fn a_head_beyond_the_largest_that_can_be_accepted_is_told_so() {
    let mut lab = Lab::with(Setup { http: "max_request_headers_kb: 255", ..Setup::default() }).await;
    for (bytes, status) in [(250 * 1024, 403), (300 * 1024, 431)] {
        let long = "x".repeat(bytes);
        let request =
            format!("GET /admin HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx-long: {long}\r\n\r\n");
        let answer = parse_h1(&raw(lab.port, request.as_bytes()).await, false);
        assert_eq!(answer.status, status, "{bytes} bytes");
    }
    lab.is_well().await;
}

#[tokio::test]
async fn what_is_odd_and_clear_is_forwarded_as_what_it_means() {
    let lab = Lab::start().await;
    let odd = "POST /x HTTP/1.2\r\nhost: a\r\nconnection: close\r\ncontent-length: 005\r\n\r\nhello";
    assert_eq!(parse_h1(&raw(lab.port, odd.as_bytes()).await, false).status, 200);
    let seen = lab.backend.seen().pop().unwrap();
    assert_eq!((seen.body.as_str(), seen.headers["content-length"].as_str()), ("hello", "5"));
}
