use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use super::*;
use crate::backend::{Backend, Options};

const SHORT: Duration = Duration::from_millis(60);

fn backend() -> Backend {
    Backend::start(Options::default()).unwrap()
}

fn short(target: SocketAddr, protocol: Protocol) -> Spec {
    Spec { duration: SHORT, warmup: SHORT / 6, connections: 3, ..Spec::new(target, protocol) }
}

/// A server that answers every first read with `answer` and closes.
fn answering(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer);
        }
    });
    address
}

#[test]
fn every_protocol_in_both_loops() {
    let backend = backend();
    let protocols = [
        Protocol::Http1,
        Protocol::Http2 { streams: 4 },
        Protocol::GrpcUnary { streams: 4 },
        Protocol::GrpcStream { streams: 4 },
        Protocol::Tcp,
        Protocol::WebSocket,
        Protocol::NewConnection,
    ];
    for protocol in protocols {
        let target = if protocol == Protocol::Tcp { backend.ports.tcp } else { backend.ports.http };
        let spec = short(target, protocol);
        let outcome = run(&spec).unwrap_or_else(|error| panic!("{protocol:?}: {error}"));
        assert_eq!(outcome.errors.total(), 0, "{protocol:?}: {}", outcome.errors);
        assert!(outcome.requests > 0 && outcome.requests == outcome.latency_us.len(), "{protocol:?}");
        assert!(outcome.bytes_in >= 12 * outcome.requests, "{protocol:?}");
        let open = Spec { pace: Pace::Open { per_second: 500.0 }, ..spec };
        let outcome = run(&open).unwrap();
        // 60 ms at 500 per second, to the request.
        assert_eq!((outcome.requests, outcome.errors.total()), (30, 0), "{protocol:?}: {}", outcome.errors);
    }
}

#[test]
fn large_bodies_both_ways() {
    let backend = backend();
    for (protocol, sent, back) in [
        (Protocol::Http1, 300_000, 1 << 20),
        (Protocol::Http2 { streams: 2 }, 300_000, 1 << 20),
        (Protocol::Tcp, 1 << 20, 300_000),
        (Protocol::GrpcUnary { streams: 2 }, 300_000, 0),
        (Protocol::GrpcStream { streams: 2 }, 300_000, 0),
        (Protocol::WebSocket, 300_000, 0),
    ] {
        let target = if protocol == Protocol::Tcp { backend.ports.tcp } else { backend.ports.http };
        // In an open loop every request ends, however slow the build is.
        let spec = Spec { pace: Pace::Open { per_second: 50.0 }, ..short(target, protocol) };
        let outcome = run(&Spec { request_bytes: sent, response_bytes: back, ..spec }).unwrap();
        assert_eq!((outcome.requests, outcome.errors.total()), (3, 0), "{protocol:?}: {}", outcome.errors);
        assert!(outcome.bytes_out >= 3 * sent as u64, "{protocol:?}");
    }
}

#[test]
fn wrong_answers_are_told_apart() {
    let cases: [(&'static [u8], &str); 5] = [
        (b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n", "status 503"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", "3 bytes instead of 12"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabcd", "more than an answer"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\nabc", "closed within an answer"),
        (b"", "closed before an answer"),
    ];
    for (answer, why) in cases {
        let error = run(&short(answering(answer), Protocol::Http1)).unwrap_err();
        assert!(error.to_string().contains(why), "{error} for {why}");
    }
}

#[test]
fn an_answer_that_ends_with_its_connection_and_one_without_are_the_same() {
    let whole = answering(b"HTTP/1.1 200 OK\r\n\r\n0123456789ab");
    assert!(run(&short(whole, Protocol::Http1)).unwrap().requests > 0);
    let closing =
        answering(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 12\r\n\r\n0123456789ab");
    assert!(run(&short(closing, Protocol::NewConnection)).unwrap().requests > 0);
}

#[test]
fn nobody_there() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap();
    drop(listener);
    for protocol in [Protocol::Http1, Protocol::Http2 { streams: 1 }, Protocol::NewConnection] {
        let error = run(&short(target, protocol)).unwrap_err();
        assert!(error.to_string().contains("refused"), "{protocol:?}: {error}");
    }
}

#[test]
fn a_request_that_gets_no_answer_in_an_open_loop_is_counted() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        // One answer, and then never again.
        let _ = stream.read(&mut [0; 4096]);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n0123456789ab").unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let spec = Spec {
        connections: 1,
        warmup: Duration::ZERO,
        pace: Pace::Open { per_second: 100.0 },
        ..short(target, Protocol::Http1)
    };
    let outcome = run(&spec).unwrap();
    assert_eq!((outcome.requests, outcome.errors.of(ErrorKind::Unfinished)), (1, 5));
}

#[test]
fn values_out_of_bounds_are_named() {
    let spec = Spec::new(SocketAddr::from(([127, 0, 0, 1], 1)), Protocol::Http1);
    let cases = [
        (Spec { connections: 0, ..spec.clone() }, "connections"),
        (Spec { protocol: Protocol::Http2 { streams: 0 }, ..spec.clone() }, "streams"),
        (Spec { request_bytes: MAX_BODY_BYTES + 1, ..spec.clone() }, "request_bytes"),
        (Spec { pace: Pace::Open { per_second: f64::NAN }, ..spec.clone() }, "per_second"),
        (Spec { duration: Duration::ZERO, ..spec.clone() }, "duration"),
        (Spec { core: Some(1_000_000), ..spec }, "core 1000000"),
    ];
    for (spec, field) in cases {
        let error = run(&spec).unwrap_err().to_string();
        assert!(error.contains(field), "{error} for {field}");
    }
}

#[test]
fn idle_connections_are_held_until_they_are_dropped() {
    let backend = backend();
    let held = hold(backend.ports.http, 20).unwrap();
    assert_eq!(held.open(), 20);
    drop(backend);
    assert_eq!(held.open(), 0);
    assert!(hold(answering(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n"), 1).is_err());
}
