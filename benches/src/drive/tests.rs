//! Every kind of load against the backend itself.

use std::sync::mpsc;

use super::*;
use crate::drive::backend::Ports;

/// A backend on a thread that ends with the test process.
fn backend() -> Ports {
    let (send, ports) = mpsc::channel();
    std::thread::spawn(move || backend::serve_with(|ports| send.send(ports).map_err(Into::into)));
    ports.recv().unwrap()
}

const LENGTH: Duration = Duration::from_millis(200);

#[test]
fn every_kind_is_answered_without_errors() {
    let ports = backend();
    let kinds = [
        (Kind::Get, 12, ports.http1),
        (Kind::Get, 1 << 20, ports.http1),
        (Kind::NewConnection, 1024, ports.http1),
        (Kind::WebSocket, 100, ports.http1),
        (Kind::H2Get(4), 12, ports.http2),
        (Kind::H2Get(4), 1 << 20, ports.http2),
        (Kind::H2Post(4), 100, ports.http2),
        (Kind::GrpcUnary(4), 100, ports.http2),
    ];
    for (kind, bytes, target) in kinds {
        let load = Load { kind, connections: 3, bytes };
        let done = pass(target, load, Pace::Closed, LENGTH).unwrap();
        assert!(done.requests >= 3 && done.errors == 0, "{load:?}: {done:?}");
        assert_eq!(done.latency_us.len(), done.requests, "{load:?}");
    }
}

#[test]
fn an_open_loop_keeps_its_rate() {
    let load = Load { kind: Kind::Get, connections: 4, bytes: 12 };
    let length = Duration::from_millis(500);
    let done = pass(backend().http1, load, Pace::Open { per_second: 1000.0 }, length).unwrap();
    assert!(done.requests == 500 && done.errors == 0, "{done:?}");
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
    let done = pass(target, load, Pace::Open { per_second: 200.0 }, Duration::from_millis(400)).unwrap();
    assert!(done.percentile_ms(100.0) > 200.0, "{done:?}");
}

#[test]
fn who_is_not_there_is_an_error() {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let target = socket.local_addr().unwrap();
    drop(socket);
    let load = Load { kind: Kind::Get, connections: 2, bytes: 12 };
    assert!(pass(target, load, Pace::Closed, LENGTH).is_err());
    assert!(hold(target, 1).is_err());
}

#[test]
fn held_connections_have_been_answered() {
    let held = hold(backend().http1, 20).unwrap();
    assert_eq!(held.len(), 20);
}
