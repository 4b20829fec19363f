//! Answers to clients that expect a connection to go on, and what they get of answers that break off.

use outrider_tests::beside::Beside;
use outrider_tests::client::{self, Ask, PATIENCE};
use outrider_tests::config::cluster;
use outrider_tests::upstream::Upstream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

const ROUTES: &[&str] = &[
    "{match: {prefix: /direct}, direct_response: {status: 200, body: {inline_string: here}}}",
    "{match: {prefix: /no}, direct_response: {status: 403}}",
    "{match: {prefix: /}, route: {cluster: be}}",
];

#[tokio::test]
async fn a_connection_goes_on_after_our_own_answer_to_a_request_with_a_body() {
    let proxy = Beside::ours("", ROUTES, &[cluster("be", 9, "")], &[]);
    let mut stream = client::connect(proxy.port).await;
    for path in ["/direct", "/no", "/direct"] {
        let ask = format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody");
        stream.write_all(ask.as_bytes()).await.unwrap();
        let head = client::read_head(&mut stream).await;
        assert!(!head.contains("connection: close") && head.contains("\r\ndate: "), "{path}: {head}");
        let mut rest = [0; 4];
        if head.contains("content-length: 4") {
            stream.read_exact(&mut rest).await.unwrap();
        }
    }
    // What has not come yet is not waited for, and the client is told.
    let ask = b"POST /direct HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbo";
    stream.write_all(ask).await.unwrap();
    let head = client::read_head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("connection: close"), "{head}");
    let mut rest = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert_eq!(rest, b"here");
}

#[tokio::test]
async fn what_came_of_an_answer_that_breaks_off_is_passed_on() {
    let long: &'static [u8] = {
        let mut answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4000000\r\n\r\n".to_vec();
        answer.resize(answer.len() + 3_000_000, b'x');
        answer.leak()
    };
    let short = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello";
    let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
    for (answer, bytes) in [(long, 3_000_000), (short, 5), (chunked, 5)] {
        let upstream = Upstream::once(answer).await;
        for proxy in Beside::both("", ROUTES, &[cluster("be", upstream.port, "")]) {
            let got = client::raw(proxy.port, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
            let got = client::parse_h1(&got, false);
            assert_eq!((got.status, got.whole, got.body.len()), (200, false, bytes), "{}", proxy.name);
        }
    }
}

#[tokio::test]
async fn blanks_around_a_value_pass_no_rule() {
    let upstream = Upstream::h1(|_, _| b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec()).await;
    let matched = "{match: {prefix: /, headers: [{name: x-role, string_match: {exact: admin}}]}, direct_response: {status: 403}}";
    let proxy = Beside::ours("", &[matched, ROUTES[2]], &[cluster("be", upstream.port, "")], &[]);
    let role = |value: &str| vec![("x-role".to_owned(), value.to_owned())];
    for value in ["admin", " admin", "admin ", "\tadmin \t"] {
        let ask = Ask { headers: role(value), ..Ask::default() };
        assert_eq!(client::h2(proxy.port, &ask).await.status, 403, "{value:?} over HTTP/2");
        assert_eq!(client::h1(proxy.port, &ask).await.status, 403, "{value:?} over HTTP/1.1");
    }
    assert!(upstream.requests().is_empty());
}
