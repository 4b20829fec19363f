//! Every kind of load against the backend itself.

use super::*;
use crate::backend::{Backend, Options};

const LENGTH: Duration = Duration::from_millis(100);

#[test]
fn every_kind_is_answered_without_errors() {
    let backend = Backend::start(Options::default()).unwrap();
    let kinds = [
        (Kind::Get, 12),
        (Kind::Get, 1 << 20),
        (Kind::NewConnection, 1024),
        (Kind::WebSocket, 100),
        (Kind::H2Get(4), 12),
        (Kind::H2Get(4), 1 << 20),
        (Kind::H2Post(4), 100),
        (Kind::GrpcUnary(4), 100),
        (Kind::GrpcStream(4), 100),
    ];
    for (kind, bytes) in kinds {
        let load = Load { kind, connections: 3, bytes };
        let done = pass(&backend.ports.http.into(), load, Pace::Closed, LENGTH).unwrap();
        assert!(done.requests >= 3 && done.errors == 0, "{load:?}: {done:?}");
        assert!(done.latency_us.len() <= done.requests, "{load:?}");
    }
}

#[test]
fn latency_counts_from_when_a_request_was_due() {
    // A server that answers one request each 20 ms is asked for 200 in a second over one connection: those at the end
    // wait for all before them, although each exchange takes 20 ms.
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let target = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        let (mut stream, _) = socket.accept().unwrap();
        while stream.read(&mut [0; 4096]).is_ok_and(|read| read > 0) {
            std::thread::sleep(Duration::from_millis(20));
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nxx");
        }
    });
    let load = Load { kind: Kind::Get, connections: 1, bytes: 2 };
    let done =
        pass(&target.into(), load, Pace::Open { per_second: 200.0 }, Duration::from_millis(400)).unwrap();
    assert!(done.percentile_ms(100.0) > 200.0, "{done:?}");
    assert!(!done.late, "it was the server");
}
