//! Upstreams that break the rules, or keep to them at the worst moment, through the real binary.

use std::time::Duration;

use bytes::Bytes;
use outrider_tests::client::{self, Answer, Ask, PATIENCE, connect, raw};
use outrider_tests::config::HTTP2;
use outrider_tests::frames::{
    CONTINUATION, DATA, END_BOTH, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PUSH_PROMISE, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, block, frame,
};
use outrider_tests::lab::{Lab, Setup};
use outrider_tests::upstream::Upstream;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::time::timeout;

async fn ask(lab: &Lab, down: &str, ask: &Ask) -> Answer {
    if down == "h1" { client::h1(lab.port, ask).await } else { client::h2(lab.port, ask).await }
}

async fn before_h2(upstream: u16) -> Lab {
    Lab::before(upstream, HTTP2).await
}

#[tokio::test]
async fn invalid_answers_become_502() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\nhello"[..],
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
        b"HTTP/1.1 101 X\r\nupgrade: y\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 103 X\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"SSH-2.0-x\r\n",
        b"HTTP/1.1 200 OK\r\na b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na: b",
    ] {
        let upstream = Upstream::once(answer).await;
        let mut lab = Lab::before(upstream.port, "").await;
        for down in ["h1", "h2"] {
            let got = ask(&lab, down, &Ask::default()).await;
            let shown = String::from_utf8_lossy(answer);
            assert_eq!(got.status, 502, "{down} {shown:?}");
            assert_eq!(got.header("outrider-error"), Some("upstream_protocol_error"), "{down} {shown:?}");
        }
        lab.is_well().await;
    }
}

#[tokio::test]
async fn an_answer_that_is_cut_is_never_a_whole_one() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhello"[..],
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello!!",
    ] {
        let upstream = Upstream::once(answer).await;
        let mut lab = Lab::before(upstream.port, "").await;
        for down in ["h1", "h2"] {
            let got = ask(&lab, down, &Ask::default()).await;
            assert!(!got.whole, "{down} {got:?}");
        }
        lab.is_well().await;
    }
}

#[tokio::test]
async fn a_body_where_none_may_be_reaches_nobody() {
    let hidden = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
    for (method, status) in [("HEAD", "200 OK"), ("GET", "304 Not Modified"), ("GET", "204 No Content")] {
        let upstream = Upstream::h1(move |number, _| {
            let length = hidden.len();
            match number {
                0 => format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{hidden}").into_bytes(),
                _ => b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood".to_vec(),
            }
        })
        .await;
        let mut lab = Lab::before(upstream.port, "").await;
        let first = client::h1(lab.port, &Ask { method: method.into(), ..Ask::default() }).await;
        assert_eq!(first.status.to_string(), status[..3]);
        assert_eq!(first.body, "");
        let second = client::h1(lab.port, &Ask::default()).await;
        assert_eq!((second.status, second.body.as_str()), (200, "good"), "{method} {status}");
        assert_eq!(upstream.opened(), 2, "a connection with bytes that nobody asked for is not used again");
        lab.is_well().await;
    }
}

#[tokio::test]
async fn bytes_that_come_on_an_idle_connection_end_it() {
    let (late, told) = tokio::sync::oneshot::channel::<()>();
    let (closed, ended) = tokio::sync::oneshot::channel::<()>();
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let lab = Lab::before(socket.local_addr().unwrap().port(), "").await;
    let upstream = tokio::spawn(async move {
        let (mut stream, _) = socket.accept().await.unwrap();
        client::read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n").await.unwrap();
        told.await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil").await.unwrap();
        // Closed by the proxy, without a request on it.
        let mut rest = Vec::new();
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut rest).await;
        assert!(rest.is_empty());
        closed.send(()).unwrap();
        let (mut stream, _) = socket.accept().await.unwrap();
        client::read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood").await.unwrap();
    });
    let first = client::h1(lab.port, &Ask { method: "HEAD".into(), ..Ask::default() }).await;
    assert_eq!(first.header("content-length"), Some("4"));
    late.send(()).unwrap();
    timeout(PATIENCE, ended).await.unwrap().unwrap();
    assert_eq!(client::h1(lab.port, &Ask::default()).await.body, "good");
    timeout(PATIENCE, upstream).await.unwrap().unwrap();
}

const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn interim_responses_are_passed_on() {
    let upstream = Upstream::h1(|_, _| {
        format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n{HINTS}{OK}").into_bytes()
    })
    .await;
    let old = "http_protocol_options: {accept_http_10: true}";
    let lab = Lab::with(Setup { upstream: Some(upstream.port), http: old, ..Setup::default() }).await;
    let mut stream = connect(lab.port).await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert_eq!(client::read_head(&mut stream).await, "HTTP/1.1 102 Processing\r\n\r\n");
    assert_eq!(client::read_head(&mut stream).await, HINTS);
    assert!(client::read_head(&mut stream).await.starts_with("HTTP/1.1 200 OK"));

    let hints = h2_hints(lab.port).await;
    assert_eq!(hints, [(102, None), (103, Some("</a.css>".to_owned()))]);

    let old = raw(lab.port, b"GET / HTTP/1.0\r\nhost: a\r\n\r\n").await;
    assert!(old.starts_with(b"HTTP/1.1 200 OK"), "HTTP/1.0 has no interim responses");

    let hints = block(&[(":status", "103"), ("link", "</a.css>")]);
    let upstream = Upstream::h2(move |_, request| {
        let id = request.stream;
        [frame(HEADERS, END_HEADERS, id, &hints), frame(HEADERS, END_BOTH, id, &block(&[(":status", "200")]))]
            .concat()
    })
    .await;
    let lab = before_h2(upstream.port).await;
    let answer = raw(lab.port, b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with(&format!("{HINTS}HTTP/1.1 200 OK\r\n")), "{answer}");
    assert_eq!(h2_hints(lab.port).await, [(103, Some("</a.css>".to_owned()))]);
}

/// The interim responses that an HTTP/2 client gets before a 200.
async fn h2_hints(port: u16) -> Vec<(u16, Option<String>)> {
    let (mut send, connection) = h2::client::handshake(connect(port).await).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("http://a/").body(()).unwrap();
    let (mut response, _) = send.send_request(request, true).unwrap();
    let mut hints = Vec::new();
    let next = async |response: &mut h2::client::ResponseFuture| {
        timeout(PATIENCE, std::future::poll_fn(|cx| response.poll_informational(cx))).await.unwrap()
    };
    while let Some(hint) = next(&mut response).await {
        let hint = hint.unwrap();
        let link = hint.headers().get("link").map(|link| link.to_str().unwrap().to_owned());
        hints.push((hint.status().as_u16(), link));
    }
    assert_eq!(response.await.unwrap().status(), 200);
    hints
}

#[tokio::test]
async fn a_flood_of_interim_responses_ends_in_502() {
    let upstream = Upstream::h1(|_, _| HINTS.repeat(100_000).into_bytes()).await;
    let mut lab = Lab::before(upstream.port, "").await;
    for down in ["h1", "h2"] {
        let answer = ask(&lab, down, &Ask::default()).await;
        assert_eq!((answer.status, answer.header("outrider-error")), (502, Some("upstream_protocol_error")));
    }
    lab.is_well().await;
    let upstream = Upstream::h2(|_, request| {
        frame(HEADERS, END_HEADERS, request.stream, &block(&[(":status", "103"), ("link", "</a.css>")]))
            .repeat(100_000)
    })
    .await;
    let mut lab = before_h2(upstream.port).await;
    for down in ["h1", "h2"] {
        assert_eq!(ask(&lab, down, &Ask::default()).await.status, 502, "{down}");
    }
    lab.is_well().await;
}

#[tokio::test]
async fn an_upgrade_that_is_answered_with_200_opens_no_tunnel() {
    let upstream = Upstream::h1(|_, _| OK.into()).await;
    let http = "upgrade_configs: [{upgrade_type: websocket}]";
    let mut lab = Lab::with(Setup { upstream: Some(upstream.port), http, ..Setup::default() }).await;
    // What was meant for the tunnel is taken for a request, and looked at as one.
    let all = b"GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n\
                GET /admin HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let answers = String::from_utf8_lossy(&raw(lab.port, all).await).into_owned();
    let statuses: Vec<&str> =
        answers.matches("HTTP/1.1 200").chain(answers.matches("HTTP/1.1 403")).collect();
    assert_eq!(statuses, ["HTTP/1.1 200", "HTTP/1.1 403"], "{answers}");
    assert_eq!(upstream.requests().len(), 1);
    assert!(upstream.requests()[0].starts_with("GET /ws "));
    lab.is_well().await;
}

fn head(id: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, flags, id, &block(fields))
}

#[tokio::test]
async fn invalid_answers_over_http2_become_502() {
    type Script = fn(u32) -> Vec<u8>;
    let cases: &[(&str, Script)] = &[
        ("no status", |id| head(id, END_BOTH, &[("a", "b")])),
        ("status is no number", |id| head(id, END_BOTH, &[(":status", "2x0")])),
        ("two statuses", |id| head(id, END_BOTH, &[(":status", "200"), (":status", "200")])),
        ("pseudo-field after a field", |id| head(id, END_BOTH, &[("a", "b"), (":status", "200")])),
        ("upper case", |id| head(id, END_BOTH, &[(":status", "200"), ("Upper", "b")])),
        ("connection", |id| head(id, END_BOTH, &[(":status", "200"), ("connection", "close")])),
        ("transfer-encoding", |id| {
            head(id, END_BOTH, &[(":status", "200"), ("transfer-encoding", "chunked")])
        }),
        ("a line in a value", |id| head(id, END_BOTH, &[(":status", "200"), ("a", "b\r\nset-cookie: c")])),
        ("nul in a value", |id| head(id, END_BOTH, &[(":status", "200"), ("a", "b\0")])),
        ("length is no number", |id| head(id, END_BOTH, &[(":status", "200"), ("content-length", "x")])),
        ("an interim answer that ends", |id| head(id, END_BOTH, &[(":status", "103")])),
        ("101", |id| head(id, END_BOTH, &[(":status", "101")])),
        ("data before a head", |id| frame(DATA, END_STREAM, id, b"hello")),
        ("a push", |id| {
            frame(PUSH_PROMISE, END_HEADERS, id, &[&[0, 0, 0, 2][..], &block(&[(":method", "GET")])].concat())
        }),
        ("a head of nonsense", |id| frame(HEADERS, END_BOTH, id, &[0xff; 40])),
        ("a frame that is too large", |id| frame(DATA, 0, id, &[0; 20_000])),
        ("a head without end", |id| {
            [
                head(id, 0, &[(":status", "200")]),
                frame(CONTINUATION, 0, id, &block(&[("a", "b")])).repeat(50_000),
            ]
            .concat()
        }),
    ];
    for (what, script) in cases {
        let upstream = Upstream::h2(move |_, request| script(request.stream)).await;
        let mut lab = before_h2(upstream.port).await;
        for down in ["h1", "h2"] {
            let post = Ask { method: "POST".into(), body: Some("x".into()), ..Ask::default() };
            let answer = timeout(Duration::from_secs(10), ask(&lab, down, &post)).await.unwrap_or_default();
            assert!([502, 503].contains(&answer.status), "{what} {down}: {answer:?}");
        }
        lab.is_well().await;
    }
}

#[tokio::test]
async fn a_body_over_http2_that_breaks_the_rules_is_never_whole() {
    type Script = fn(u32) -> Vec<u8>;
    fn begun(id: u32) -> Vec<u8> {
        head(id, END_HEADERS, &[(":status", "200"), ("content-length", "5")])
    }
    let cases: &[(&str, Script)] = &[
        ("too long", |id| [begun(id), frame(DATA, END_STREAM, id, b"hello!")].concat()),
        ("too short", |id| [begun(id), frame(DATA, END_STREAM, id, b"hell")].concat()),
        ("reset", |id| {
            [begun(id), frame(DATA, 0, id, b"hel"), frame(RST_STREAM, 0, id, &[0, 0, 0, 2])].concat()
        }),
        ("reset without an error", |id| [begun(id), frame(RST_STREAM, 0, id, &[0; 4])].concat()),
        ("bad trailers", |id| {
            [begun(id), frame(DATA, 0, id, b"hello"), head(id, END_BOTH, &[("Upper", "x")])].concat()
        }),
        ("no window", |id| [begun(id), frame(DATA, 0, id, &[b'x'; 16_384]).repeat(2000)].concat()),
        ("an overflowing window", |id| {
            [begun(id), frame(WINDOW_UPDATE, 0, 0, &[0x7f, 255, 255, 255])].concat()
        }),
    ];
    for (what, script) in cases {
        let upstream = Upstream::h2(move |_, request| script(request.stream)).await;
        let mut lab = before_h2(upstream.port).await;
        for down in ["h1", "h2"] {
            let answer = ask(&lab, down, &Ask::default()).await;
            assert!(!answer.whole || answer.status != 200, "{what} {down}: {answer:?}");
        }
        lab.is_well().await;
    }
}

#[tokio::test]
async fn floods_of_an_http2_upstream_cost_next_to_nothing() {
    let upstream = Upstream::h2(|_, request| {
        let id = request.stream;
        let noise = [frame(SETTINGS, 0, 0, &[]), frame(PING, 0, 0, &[0; 8]), frame(0xfa, 0, 0, &[0; 100])];
        [noise.concat().repeat(20_000), head(id, END_BOTH, &[(":status", "200")])].concat()
    })
    .await;
    let mut lab = before_h2(upstream.port).await;
    for down in ["h1", "h2"] {
        ask(&lab, down, &Ask::default()).await;
        lab.is_well().await;
    }
    // One entry of the header table, referred to again and again.
    let upstream = Upstream::h2(|_, request| {
        let planted = [&[0x40, 1, b'a', 0x7f, 0xad, 0x1a][..], &[b'b'; 3500]].concat();
        let bomb = [block(&[(":status", "200")]), planted, vec![0x80 | 62; 12_000]].concat();
        frame(HEADERS, END_BOTH, request.stream, &bomb)
    })
    .await;
    let mut lab = before_h2(upstream.port).await;
    for down in ["h1", "h2"] {
        let answer = ask(&lab, down, &Ask::default()).await;
        assert!([502, 503].contains(&answer.status), "{answer:?}");
        lab.is_well().await;
    }
}

#[tokio::test]
async fn a_body_over_http2_where_none_may_be_reaches_nobody() {
    let upstream = Upstream::h2(|_, request| {
        let id = request.stream;
        let status = ["200", "304", "204"][(id as usize / 2) % 3];
        [head(id, END_HEADERS, &[(":status", status)]), frame(DATA, END_STREAM, id, b"evil")].concat()
    })
    .await;
    let mut lab = before_h2(upstream.port).await;
    for (method, status) in [("HEAD", 200), ("GET", 304), ("GET", 204)] {
        let answer = client::h1(lab.port, &Ask { method: method.into(), ..Ask::default() }).await;
        assert_eq!((answer.status, answer.body.as_str()), (status, ""), "{method}");
    }
    assert_eq!(upstream.opened(), 1, "the other streams of the connection have nothing to do with it");
    lab.is_well().await;
}

fn post(body: &str) -> Ask {
    Ask { method: "POST".into(), body: Some(body.into()), ..Ask::default() }
}

#[tokio::test]
async fn a_refused_stream_is_sent_again() {
    let (refused, done) = ([0, 0, 0, 7], &[(":status", "200")]);
    let upstream = Upstream::h2(move |_, request| match request.stream {
        id @ (1 | 3) => frame(RST_STREAM, 0, id, &refused),
        id => head(id, END_BOTH, done),
    })
    .await;
    let lab = before_h2(upstream.port).await;
    assert_eq!(client::h1(lab.port, &post("hello")).await.status, 200);
    assert_eq!(upstream.requests(), ["stream 1", "stream 3", "stream 5"]);
    // Not for ever.
    let upstream = Upstream::h2(move |_, request| frame(RST_STREAM, 0, request.stream, &refused)).await;
    let mut lab = before_h2(upstream.port).await;
    let answer = client::h1(lab.port, &post("hello")).await;
    assert_eq!((answer.status, answer.header("outrider-error")), (503, Some("upstream_refused")));
    assert_eq!(upstream.requests().len(), 4);
    lab.is_well().await;
}

#[tokio::test]
async fn only_what_a_goaway_leaves_behind_is_sent_again() {
    // Enhance your calm: no error-free goodbye, and all the same nothing above the last stream was looked at.
    for reason in [0_u8, 11] {
        let goaway = move |last: u8| frame(GOAWAY, 0, 0, &[0, 0, 0, last, 0, 0, 0, reason]);
        let upstream = Upstream::h2(move |connection, request| match connection {
            0 => goaway(0),
            _ => head(request.stream, END_BOTH, &[(":status", "200")]),
        })
        .await;
        let lab = before_h2(upstream.port).await;
        assert_eq!(client::h1(lab.port, &post("hello")).await.status, 200, "reason {reason}");
        assert_eq!(upstream.opened(), 2);
        // A stream that may have been looked at, on a connection that then ends.
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut lab = before_h2(socket.local_addr().unwrap().port()).await;
        let count = tokio::spawn(async move {
            let (mut stream, _) = socket.accept().await.unwrap();
            stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
            let mut preface = [0; 24];
            tokio::io::AsyncReadExt::read_exact(&mut stream, &mut preface).await.unwrap();
            outrider_tests::frames::until(&mut stream, |frame| frame.kind == HEADERS).await;
            stream.write_all(&goaway(1)).await.unwrap();
            drop(stream);
            // Nobody comes again.
            let again = timeout(Duration::from_millis(500), socket.accept()).await;
            usize::from(again.is_ok())
        });
        let answer = client::h1(lab.port, &post("hello")).await;
        assert_eq!(answer.status, 503, "reason {reason}: {answer:?}");
        assert_eq!(count.await.unwrap(), 0, "a POST that may have been acted on is not sent again");
        lab.is_well().await;
    }
}

#[tokio::test]
async fn a_goaway_in_a_burst_loses_no_request_that_may_be_sent_again() {
    // An HTTP/2 upstream that ends every connection after a few streams.
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let lab = before_h2(socket.local_addr().unwrap().port()).await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = socket.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                let mut served = 0;
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    let mut send = respond.send_response(http::Response::new(()), false).unwrap();
                    send.send_data(Bytes::from_static(b"ok"), true).unwrap();
                    served += 1;
                    if served == 5 {
                        connection.graceful_shutdown();
                    }
                }
            });
        }
    });
    let port = lab.port;
    let asked = (0..20).map(|number| {
        tokio::spawn(async move {
            let mut good = 0;
            for _ in 0..10 {
                let ask = if number % 2 == 0 { Ask::default() } else { post("hello") };
                good += usize::from(client::h1(port, &ask).await.status == 200);
            }
            good
        })
    });
    let mut good = 0;
    for one in asked.collect::<Vec<_>>() {
        good += one.await.unwrap();
    }
    assert_eq!(good, 200);
}
