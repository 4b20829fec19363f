//! One question to the control server's HTTP API.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use serde_json::Value;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the server may say nothing: the configuration of a large mesh takes a while.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Largest answer, in bytes.
const MAX_ANSWER_BYTES: u64 = 1 << 30;

/// The answer to a GET.
///
/// # Errors
/// When there is none, or none that is JSON.
pub(in crate::cli) fn ask(address: &str, path: &str) -> io::Result<Value> {
    exchange(address, &format!("GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n"))
}

/// The answer to a POST, with the operator's token where there is one.
///
/// # Errors
/// When there is none, or none that is JSON.
pub(in crate::cli) fn tell(
    address: &str,
    path: &str,
    (token, body): (Option<&str>, &str),
) -> io::Result<Value> {
    let token = token.map_or_else(String::new, |token| format!("authorization: Bearer {token}\r\n"));
    let length = body.len();
    let head = format!("POST {path} HTTP/1.0\r\nhost: {address}\r\n{token}content-length: {length}\r\n\r\n");
    exchange(address, &(head + body))
}

fn exchange(address: &str, request: &str) -> io::Result<Value> {
    let failed = |error: io::Error| {
        io::Error::new(error.kind(), format!("control server {address}: {error}; is --control right?"))
    };
    let mut stream = connect(address).map_err(failed)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).map_err(failed)?;
    let answer = String::from_utf8(answer).map_err(io::Error::other)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status != "200" {
        return Err(io::Error::other(format!("control server {address}: {status}: {}", body.trim_end())));
    }
    serde_json::from_str(body).map_err(|error| io::Error::other(format!("control server {address}: {error}")))
}

/// The first of the addresses of a name that answers.
fn connect(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for one in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&one, CONNECT_TIMEOUT) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// What can be connected to, as it is written; whether there is such a host shows itself later.
pub(super) fn host_and_port(text: &str) -> Result<String, String> {
    match text.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>())) {
        Some((host, Ok(_))) if !host.is_empty() && (!host.contains(':') || host.starts_with('[')) => {
            Ok(text.to_owned())
        }
        Some(_) | None => Err("HOST:PORT is needed, for example localhost:15080 or [::1]:15080".to_owned()),
    }
}

/// Percent-encoded, as a part of a path or a parameter.
pub(in crate::cli) fn encoded(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}
