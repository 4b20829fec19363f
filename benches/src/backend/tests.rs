use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use super::*;
use crate::wire::bulk;

fn talk(to: SocketAddr, pieces: &[&[u8]]) -> String {
    let mut stream = TcpStream::connect(to).unwrap();
    for piece in pieces {
        stream.write_all(piece).unwrap();
    }
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn http1_with_bodies_and_several_requests_at_once() {
    let backend = Backend::start(Options::default()).unwrap();
    let two = b"GET /bytes/3 HTTP/1.1\r\nhost: a\r\n\r\nHEAD /bytes/5 HTTP/1.1\r\nhost: a\r\n\r\n";
    let last = b"POST /bytes/4 HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n2\r\nab\r\n0\r\n\r\n";
    let answer = talk(backend.ports.http, &[two, last]);
    assert_eq!(answer.matches("HTTP/1.1 200 OK\r\n").count(), 3, "{answer}");
    assert!(answer.contains("content-length: 3\r\n\r\nxxxHTTP/1.1 200"), "{answer}");
    assert!(answer.contains("content-length: 5\r\n\r\nHTTP/1.1 200"), "{answer}");
    assert!(answer.ends_with("content-length: 4\r\n\r\nxxxx"), "{answer}");
}

#[test]
fn raw_frames() {
    let backend = Backend::start(Options::default()).unwrap();
    let mut stream = TcpStream::connect(backend.ports.tcp).unwrap();
    for (sent, wanted) in [(0, 5), (100_000, 1), (3, 200_000)] {
        stream.write_all(&bulk::Head { sent, wanted }.encode()).unwrap();
        stream.write_all(&vec![1; sent as usize]).unwrap();
        stream.read_exact(&mut vec![0; wanted as usize]).unwrap();
    }
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn a_port_that_is_taken_is_named() {
    let backend = Backend::start(Options::default()).unwrap();
    let wrong = Backend::start(Options { http: backend.ports.http, ..Options::default() });
    let text = format!("{:#}", wrong.err().unwrap());
    assert!(text.contains(&format!("cannot listen on {}", backend.ports.http)), "{text}");
}
