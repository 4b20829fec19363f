//! Malformed and hostile HTTP/2 clients, frame by frame, through the real binary.

use outrider_tests::client::{self, Ask, PATIENCE, connect};
use outrider_tests::frames::{
    CONTINUATION, DATA, END_BOTH, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, block, flood, frame, next, open, setting, until, usual,
};
use outrider_tests::lab::{Lab, Setup};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

/// What is said to these frames behind the preface: every frame up to the first that answers a request or ends it.
async fn said(port: u16, bytes: &[u8]) -> Vec<Frame> {
    let mut stream = open(port).await;
    stream.write_all(bytes).await.unwrap();
    let mut all = Vec::new();
    while let Some(frame) = next(&mut stream).await {
        all.push(frame);
        if all.last().is_some_and(|frame| matches!(frame.kind, HEADERS | RST_STREAM | GOAWAY)) {
            break;
        }
    }
    all
}

/// Whether the stream was refused: reset, its connection ended, or answered with an error (a status in a header block
/// of ours: 400 is entry 12 of the static table, others are literals).
fn is_refused(frames: &[Frame]) -> bool {
    let refused = |frame: &Frame| match frame.kind {
        RST_STREAM | GOAWAY => frame.payload.iter().rev().take(4).any(|byte| *byte != 0),
        HEADERS => frame.payload.first() != Some(&0x88),
        _ => false,
    };
    frames.iter().any(refused)
}

#[tokio::test]
async fn malformed_requests_are_refused_and_never_forwarded() {
    let mut lab = Lab::start().await;
    let cases: Vec<Vec<u8>> = vec![
        usual(&[("Upper", "x")]),
        usual(&[("connection", "close")]),
        usual(&[("keep-alive", "x")]),
        usual(&[("proxy-connection", "x")]),
        usual(&[("upgrade", "x")]),
        usual(&[("transfer-encoding", "chunked")]),
        usual(&[("te", "gzip")]),
        usual(&[("a", "b\r\nc: d")]),
        usual(&[("a", "b\rc")]),
        usual(&[("a", "b\nc")]),
        usual(&[("a", "b\0")]),
        usual(&[("a b", "c")]),
        usual(&[("a:b", "c")]),
        usual(&[("", "c")]),
        usual(&[(":path", "/again")]),
        usual(&[(":method", "POST")]),
        usual(&[(":unknown", "x")]),
        usual(&[("host", "other")]),
        usual(&[("host", "a"), ("host", "a")]),
        usual(&[("content-length", "x")]),
        usual(&[("content-length", "+1")]),
        usual(&[("content-length", "5")]),
        usual(&[("content-length", "0"), ("content-length", "1")]),
        block(&[(":method", "GET"), (":scheme", "http"), (":authority", "a")]),
        block(&[(":method", "GET"), (":scheme", "http"), (":path", ""), (":authority", "a")]),
        block(&[(":method", "GET"), (":scheme", "http"), (":path", "x"), (":authority", "a")]),
        block(&[(":method", "GET"), (":scheme", "http"), (":path", "*"), (":authority", "a")]),
        block(&[(":method", "GET"), (":path", "/x"), (":authority", "a")]),
        block(&[(":scheme", "http"), (":path", "/x"), (":authority", "a")]),
        block(&[(":method", "GET"), (":scheme", "http"), (":path", "/x")]),
        block(&[(":method", "GET"), (":scheme", "http"), (":path", "/x"), (":authority", "u@a")]),
        block(&[(":method", "GET"), (":scheme", "http"), (":path", "/x"), (":authority", "a/b")]),
        block(&[(":method", "GET"), (":scheme", "http"), (":path", "/x y"), (":authority", "a")]),
        block(&[(":method", "GET"), ("a", "b"), (":scheme", "http"), (":path", "/x"), (":authority", "a")]),
        usual(&[(":status", "200")]),
        block(&[(":method", "CONNECT"), (":authority", "a:1")]),
        block(&[(":method", "CONNECT"), (":scheme", "http"), (":path", "/"), (":authority", "a:1")]),
        block(&[(":method", "TRACE"), (":scheme", "http"), (":path", "/x"), (":authority", "a")]),
        block(&[(":method", "G ET"), (":scheme", "http"), (":path", "/x"), (":authority", "a")]),
    ];
    for fields in cases {
        let shown = String::from_utf8_lossy(&fields).into_owned();
        let frames = said(lab.port, &frame(HEADERS, END_BOTH, 1, &fields)).await;
        assert!(is_refused(&frames), "{shown:?}: {frames:?}");
    }
    assert_eq!(lab.backend.received_bytes(), 0, "no byte of a refused request reaches the upstream");
    lab.is_well().await;
}

#[tokio::test]
async fn a_body_that_is_not_as_long_as_it_says_is_never_whole() {
    let mut lab = Lab::start().await;
    let head = |length: &'static str| {
        let fields = [(":method", "POST"), (":scheme", "http"), (":path", "/x"), (":authority", "a")];
        frame(HEADERS, END_HEADERS, 1, &block(&[&fields[..], &[("content-length", length)]].concat()))
    };
    let trailers = |fields: &[(&str, &str)]| frame(HEADERS, END_BOTH, 1, &block(fields));
    for bytes in [
        [head("1"), frame(DATA, END_STREAM, 1, b"too much")].concat(),
        [head("9"), frame(DATA, END_STREAM, 1, b"short")].concat(),
        [head("9"), frame(DATA, 0, 1, b"short"), trailers(&[("a", "b")])].concat(),
        [head("5"), frame(DATA, 0, 1, b"right"), trailers(&[("connection", "close")])].concat(),
    ] {
        let frames = said(lab.port, &bytes).await;
        assert!(is_refused(&frames), "{:?}: {frames:?}", String::from_utf8_lossy(&bytes));
    }
    assert!(lab.backend.seen().iter().all(|seen| seen.path != "/x"), "{:?}", lab.backend.seen());
    // A pseudo-field in trailers decides nothing and goes no further.
    said(lab.port, &[head("5"), frame(DATA, 0, 1, b"right"), trailers(&[(":path", "/admin")])].concat())
        .await;
    let seen = lab.backend.seen().pop().unwrap();
    assert_eq!((seen.path.as_str(), seen.trailers.len()), ("/x", 0));
    lab.is_well().await;
}

#[tokio::test]
async fn a_connection_cut_at_any_byte_costs_nothing() {
    let mut lab = Lab::start().await;
    let head = [(":method", "POST"), (":scheme", "http"), (":path", "/x"), (":authority", "a")];
    let whole = [
        PREFACE,
        &frame(SETTINGS, 0, 0, &[]),
        &frame(HEADERS, 0, 1, &block(&head)),
        &frame(CONTINUATION, END_HEADERS, 1, &block(&[("a", "b")])),
        &frame(DATA, 0, 1, b"abc"),
        &frame(DATA, END_STREAM, 1, b"def"),
    ]
    .concat();
    for end in 0..whole.len() {
        let mut stream = connect(lab.port).await;
        stream.write_all(&whole[..end]).await.unwrap();
    }
    lab.is_well().await;
    assert!(lab.backend.seen().iter().all(|seen| seen.path != "/x"), "never complete at the upstream");
}

#[tokio::test]
async fn floods_cost_their_sender_the_connection_or_next_to_nothing() {
    let mut lab = Lab::start().await;
    let streams = |more: &dyn Fn(u32) -> Vec<u8>| -> Vec<u8> {
        (0..2000_u32).flat_map(|number| more(number * 2 + 1)).collect()
    };
    let get = |id: u32, flags: u8| frame(HEADERS, flags, id, &usual(&[]));
    let reset = [0, 0, 0, 8];
    for (bytes, times) in [
        (streams(&|id| [get(id, END_BOTH), frame(RST_STREAM, 0, id, &reset)].concat()), 1),
        // Resets that we are made to send: a window of nothing or of too much, a stream that depends on itself.
        (streams(&|id| [get(id, END_HEADERS), frame(WINDOW_UPDATE, 0, id, &[0; 4])].concat()), 1),
        (
            streams(&|id| {
                [get(id, END_HEADERS), frame(WINDOW_UPDATE, 0, id, &[0x7f, 255, 255, 255])].concat()
            }),
            1,
        ),
        (
            streams(&|id| {
                [get(id, END_HEADERS), frame(2, 0, id, &[&id.to_be_bytes()[..], &[1]].concat())].concat()
            }),
            1,
        ),
        (frame(SETTINGS, 0, 0, &[]), 20_000),
        (frame(PING, 0, 0, &[0; 8]), 20_000),
        (frame(2, 0, 1, &[0, 0, 0, 0, 1]), 20_000),
        (frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]), 20_000),
        (frame(0xfa, 0, 0, &[0; 100]), 20_000),
        ([get(1, 0), frame(CONTINUATION, 0, 1, &[]).repeat(20_000)].concat(), 1),
        ([get(1, 0), frame(CONTINUATION, 0, 1, &block(&[("a", "b")])).repeat(50_000)].concat(), 1),
        ([get(1, 0), frame(CONTINUATION, 0, 1, &[0; 16_384]).repeat(1_000)].concat(), 1),
        ([get(1, END_HEADERS), frame(DATA, 0, 1, &[]).repeat(50_000)].concat(), 1),
        // A header block and a stream that are never finished, and a client that says no more.
        (get(1, 0), 1),
        (get(1, END_HEADERS), 1),
    ] {
        flood(lab.port, bytes, times).await;
        assert!(lab.proxy.is_running());
    }
    lab.is_well().await;
}

#[tokio::test]
async fn a_client_that_floods_without_reading_is_not_buffered_for() {
    let mut lab = Lab::start().await;
    for bytes in [frame(SETTINGS, 0, 0, &[]), frame(PING, 0, 0, &[0; 8])] {
        let mut stream = open(lab.port).await;
        let many = bytes.repeat(1000);
        // The kernel's buffers and the proxy's bound are what can be had; then the proxy stops reading.
        let mut stalled = false;
        for _ in 0..4000 {
            let wrote = timeout(std::time::Duration::from_millis(300), stream.write_all(&many)).await;
            if !matches!(wrote, Ok(Ok(()))) {
                stalled = true;
                break;
            }
        }
        assert!(stalled, "36 MB and more were taken without an answer being read");
        lab.is_well().await;
    }
}

#[tokio::test]
async fn a_client_that_grants_all_and_reads_nothing_is_not_queued_for() {
    const STREAMS: u32 = 100;
    const SIZE: usize = 1024 * 1024;
    let mut lab = Lab::with(Setup { env: &[("OUTRIDER_WORKERS", "1")], ..Setup::default() }).await;
    let mut stream = connect(lab.port).await;
    let all = (1_u32 << 31) - 1;
    let hello =
        [PREFACE, &setting(4, all), &frame(WINDOW_UPDATE, 0, 0, &(all - 65_535).to_be_bytes())].concat();
    stream.write_all(&hello).await.unwrap();
    let size: &'static str = SIZE.to_string().leak();
    for number in 0..STREAMS {
        let ask = frame(HEADERS, END_BOTH, number * 2 + 1, &usual(&[("x-reply-size", size)]));
        stream.write_all(&ask).await.unwrap();
    }
    // Every answer has begun, and nothing moves any more.
    let settled = async {
        let mut still = (0, 0);
        while lab.backend.seen().len() < STREAMS as usize || still.1 < 10 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            let now = lab.growth_bytes();
            still = if now == still.0 { (now, still.1 + 1) } else { (now, 0) };
        }
        still.0
    };
    let growth = timeout(PATIENCE, settled).await.unwrap();
    println!("{STREAMS} answers of {SIZE} bytes that nobody reads: {growth} bytes");
    assert!(growth < 10_000_000, "grew by {growth} bytes");
    // Who waited for room goes on when it is there.
    let (mut ended, mut bytes) = (0, 0);
    while ended < STREAMS {
        let frame = timeout(PATIENCE, next(&mut stream)).await.unwrap().unwrap();
        bytes += if frame.kind == DATA { frame.payload.len() } else { 0 };
        ended += u32::from(frame.kind == DATA && frame.flags & END_STREAM != 0);
    }
    assert_eq!(bytes, STREAMS as usize * SIZE);
    drop(stream);
    lab.is_well().await;
}

/// An HPACK integer with this prefix (RFC 7541 section 5.1).
fn integer(first: u8, prefix_bits: u32, value: usize) -> Vec<u8> {
    let most = (1_usize << prefix_bits) - 1;
    if value < most {
        return vec![first | value as u8];
    }
    let (mut bytes, mut rest) = (vec![first | most as u8], value - most);
    while rest >= 128 {
        bytes.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    bytes.push(rest as u8);
    bytes
}

#[tokio::test]
async fn a_header_table_cannot_be_made_a_bomb() {
    let mut lab = Lab::start().await;
    let value = vec![b'b'; 3500];
    // One large entry in the table, and then 48 MB of references to it in 16 KB.
    let planted = [&[0x40, 1, b'a'][..], &integer(0, 7, value.len()), &value].concat();
    let references = vec![0x80 | 62; 12_000];
    let first = [usual(&[]), planted, references.clone()].concat();
    let mut stream = open(lab.port).await;
    let mut bomb = frame(HEADERS, END_BOTH, 1, &first);
    for id in 1..20_u32 {
        bomb.extend(frame(HEADERS, END_BOTH, id * 2 + 1, &[usual(&[]), references.clone()].concat()));
    }
    let _ = stream.write_all(&bomb).await;
    let _ = stream.shutdown().await;
    let mut frames = Vec::new();
    while let Some(frame) = next(&mut stream).await {
        frames.push(frame);
    }
    assert!(is_refused(&frames), "{frames:?}");
    assert_eq!(lab.backend.received_bytes(), 0);
    lab.is_well().await;
}

#[tokio::test]
async fn a_client_that_never_acknowledges_our_settings_is_held_to_them() {
    let mut lab = Lab::start().await;
    let mut stream = open(lab.port).await;
    for number in 0..50_u32 {
        let id = number * 2 + 1;
        stream.write_all(&frame(HEADERS, END_BOTH, id, &usual(&[]))).await.unwrap();
        let ended = |frame: &Frame| frame.stream == id && frame.kind == DATA && frame.flags & END_STREAM != 0;
        until(&mut stream, ended).await;
    }
    // More streams at once than we allow are refused one by one, whether it has read that or not.
    let many: Vec<u8> =
        (50..200_u32).flat_map(|number| frame(HEADERS, END_HEADERS, number * 2 + 1, &usual(&[]))).collect();
    stream.write_all(&many).await.unwrap();
    let refused = |frame: &Frame| frame.kind == RST_STREAM && frame.payload == [0, 0, 0, 7];
    until(&mut stream, refused).await;
    drop(stream);
    lab.is_well().await;
}

#[tokio::test]
async fn streams_that_are_held_at_no_window_idle_out() {
    let mut lab = Lab::with(Setup { http: "stream_idle_timeout: 0.3s", ..Setup::default() }).await;
    let mut stream = connect(lab.port).await;
    let hello = [PREFACE, &setting(4, 0)].concat();
    stream.write_all(&hello).await.unwrap();
    let asks: Vec<u8> = (0..50_u32)
        .flat_map(|number| frame(HEADERS, END_BOTH, number * 2 + 1, &usual(&[("x-reply-size", "100000")])))
        .collect();
    stream.write_all(&asks).await.unwrap();
    let mut reset = std::collections::BTreeSet::new();
    while reset.len() < 50 {
        let frames = until(&mut stream, |frame| frame.kind == RST_STREAM).await;
        assert!(frames.iter().all(|frame| frame.kind != DATA || frame.payload.is_empty()));
        reset.extend(frames.last().map(|frame| frame.stream));
    }
    lab.is_well().await;
}

#[tokio::test]
async fn a_stream_whose_body_stops_is_told_so() {
    let lab = Lab::with(Setup { http: "stream_idle_timeout: 0.3s", ..Setup::default() }).await;
    let (mut send, connection) = h2::client::handshake(connect(lab.port).await).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post("http://a/x").body(()).unwrap();
    let (response, mut body) = send.send_request(request, false).unwrap();
    body.send_data(bytes::Bytes::from_static(b"abc"), false).unwrap();
    let response = timeout(PATIENCE, response).await.unwrap().unwrap();
    assert_eq!(response.status(), 408);
    assert_eq!(response.headers()["outrider-error"], "request_idle_timeout");
}

#[tokio::test]
async fn a_preface_that_is_none_is_not_answered_as_one() {
    let mut lab = Lab::start().await;
    for bytes in [
        &b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
    ] {
        let mut stream = connect(lab.port).await;
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
    }
    assert_eq!(lab.backend.received_bytes(), 0);
    lab.is_well().await;
    let answer = client::h2(lab.port, &Ask::default()).await;
    assert_eq!(answer.status, 200);
}
