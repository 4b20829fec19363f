//! One question to the control server's HTTP API.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use serde_json::Value;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the server may say nothing, and may read nothing: the configuration of a large mesh takes a moment.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How an answer begins.
const BEGIN: &[u8] = b"HTTP/1.";
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
    let stream = connect(address).map_err(failed)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let answer = answer(stream, request);
    let answer = answer.map_err(|reason| io::Error::other(format!("control server {address}: {reason}")))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status != "200" {
        return Err(io::Error::other(format!("control server {address}: {status}: {}", body.trim_end())));
    }
    serde_json::from_str(body).map_err(|error| io::Error::other(format!("control server {address}: {error}")))
}

/// What the other end says to a request; it is HTTP, whatever else may be wrong with it.
fn answer(mut stream: TcpStream, request: &str) -> Result<String, String> {
    let waited =
        |error: &io::Error| matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
    let failed = |error: io::Error| match waited(&error) {
        true => format!("gave no answer within {} s (is this the port of the API?)", TIMEOUT.as_secs()),
        false => format!("gave no HTTP answer: {error} (is this the port of the API?)"),
    };
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let mut answer = Vec::new();
    // What is something else need not be read to its end, which may never come.
    (&mut stream).take(BEGIN.len() as u64).read_to_end(&mut answer).map_err(failed)?;
    if answer != BEGIN {
        return Err("gave no HTTP answer (is this the port of the API?)".to_owned());
    }
    stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).map_err(failed)?;
    String::from_utf8(answer).map_err(|_| "gave an answer that is not text".to_owned())
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
