//! Clients: HTTP/1 over a plain socket, HTTP/2 over the `h2` crate.

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// For anything that a test waits for.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A request as a test says it.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ask {
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// `Host` or `:authority`.
    pub host: String,
    /// Fields, in order.
    pub headers: Vec<(String, String)>,
    /// The body; none when it is missing.
    pub body: Option<String>,
    /// Whether the body is sent without a length.
    pub chunked: bool,
    /// Trailers behind a chunked body.
    pub trailers: Vec<(String, String)>,
}

impl Default for Ask {
    fn default() -> Self {
        Self {
            method: "GET".into(),
            path: "/".into(),
            host: "example.com".into(),
            headers: Vec::new(),
            body: None,
            chunked: false,
            trailers: Vec::new(),
        }
    }
}

/// An answer as a client sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The status; 0 when there was none.
    pub status: u16,
    /// Fields in lower case, sorted.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
    /// Trailers, sorted.
    pub trailers: Vec<(String, String)>,
    /// Whether it ended as its framing says.
    pub whole: bool,
}

impl Answer {
    /// The value of a field.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Opens a connection to a local port.
///
/// # Panics
/// When nobody listens.
pub async fn connect(port: u16) -> TcpStream {
    timeout(PATIENCE, TcpStream::connect(("127.0.0.1", port))).await.expect("in time").expect("a connection")
}

/// Sends bytes as they are and reads to the end of the connection.
///
/// # Panics
/// When the other side leaves it open.
pub async fn raw(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(port).await;
    // The other side may close while we still write; what it answered counts.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let ended = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    assert!(ended.is_ok(), "left open after {:?}", String::from_utf8_lossy(&answer));
    answer
}

/// The bytes of a request in HTTP/1.1 that asks for the connection to be closed.
#[must_use]
pub fn h1_bytes(ask: &Ask) -> Vec<u8> {
    let mut text = format!("{} {} HTTP/1.1\r\nhost: {}\r\n", ask.method, ask.path, ask.host);
    for (name, value) in &ask.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if !ask.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("connection")) {
        text.push_str("connection: close\r\n");
    }
    match &ask.body {
        Some(body) if ask.chunked => {
            text.push_str("transfer-encoding: chunked\r\n\r\n");
            if !body.is_empty() {
                text.push_str(&format!("{:x}\r\n{body}\r\n", body.len()));
            }
            text.push_str("0\r\n");
            for (name, value) in &ask.trailers {
                text.push_str(&format!("{name}: {value}\r\n"));
            }
            text.push_str("\r\n");
        }
        Some(body) => text.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len())),
        None => text.push_str("\r\n"),
    }
    text.into_bytes()
}

/// One request over HTTP/1.1 on a connection of its own. One that is reset at once is no answer, as one that is reset a
/// little later: which of both it is, is chance.
///
/// # Panics
/// When nobody listens.
pub async fn h1(port: u16, ask: &Ask) -> Answer {
    let connected = timeout(PATIENCE, TcpStream::connect(("127.0.0.1", port))).await.expect("in time");
    let mut stream = match connected {
        Ok(stream) => stream,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Answer::default(),
        Err(error) => panic!("a connection: {error}"),
    };
    // The other side may close while we still write; what it answered counts.
    let _ = stream.write_all(&h1_bytes(ask)).await;
    let head = ask.method == "HEAD";
    let mut bytes = Vec::new();
    let reading = async {
        while stream.read_buf(&mut bytes).await.is_ok_and(|count| count > 0) {
            let answer = parse_h1(&bytes, head);
            let framed = head
                || matches!(answer.status, 204 | 304)
                || answer.header("content-length").is_some()
                || answer.header("transfer-encoding").is_some();
            if answer.whole && framed {
                break;
            }
        }
    };
    let _ = timeout(PATIENCE, reading).await;
    parse_h1(&bytes, head)
}

/// Reads the last response in these bytes; interim ones are skipped.
#[must_use]
pub fn parse_h1(bytes: &[u8], head: bool) -> Answer {
    let mut rest = bytes;
    loop {
        let Some(end) = rest.windows(4).position(|window| window == b"\r\n\r\n") else {
            return Answer::default();
        };
        let text = String::from_utf8_lossy(&rest[..end]).into_owned();
        rest = &rest[end + 4..];
        let mut lines = text.split("\r\n");
        let status: u16 = lines
            .next()
            .and_then(|line| line.split(' ').nth(1))
            .and_then(|code| code.parse().ok())
            .unwrap_or(0);
        if (100..200).contains(&status) && status != 101 {
            continue;
        }
        let mut headers = fields(lines);
        headers.sort();
        let mut answer = Answer { status, headers, ..Answer::default() };
        let length = answer.header("content-length").and_then(|length| length.parse::<usize>().ok());
        let chunked = answer.header("transfer-encoding") == Some("chunked");
        if head || matches!(status, 204 | 304) {
            answer.whole = rest.is_empty();
        } else if chunked {
            read_chunks(rest, &mut answer);
        } else {
            answer.body = String::from_utf8_lossy(rest).into_owned();
            answer.whole = length.is_none_or(|length| length == rest.len());
        }
        return answer;
    }
}

fn fields<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<(String, String)> {
    lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect()
}

fn read_chunks(mut rest: &[u8], answer: &mut Answer) {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|window| window == b"\r\n") {
        let size = usize::from_str_radix(&String::from_utf8_lossy(&rest[..end]), 16).unwrap_or(0);
        rest = &rest[end + 2..];
        if size == 0 {
            let text = String::from_utf8_lossy(rest).into_owned();
            answer.whole = text.ends_with("\r\n");
            answer.trailers = fields(text.split("\r\n"));
            answer.trailers.sort();
            break;
        }
        if rest.len() < size + 2 {
            break;
        }
        body.extend_from_slice(&rest[..size]);
        rest = &rest[size + 2..];
    }
    answer.body = String::from_utf8_lossy(&body).into_owned();
}

/// One request over HTTP/2 on a connection of its own.
pub async fn h2(port: u16, ask: &Ask) -> Answer {
    timeout(PATIENCE, h2_once(port, ask)).await.unwrap_or_default()
}

async fn h2_once(port: u16, ask: &Ask) -> Answer {
    let Ok((mut send, connection)) = h2::client::handshake(connect(port).await).await else {
        return Answer::default();
    };
    let driving = tokio::spawn(connection);
    let uri = format!("http://{}{}", ask.host, ask.path);
    let mut request = http::Request::builder().method(ask.method.as_str()).uri(uri);
    for (name, value) in &ask.headers {
        request = request.header(name.to_ascii_lowercase(), value);
    }
    if let Some(body) = ask.body.as_ref().filter(|_| !ask.chunked) {
        request = request.header("content-length", body.len());
    }
    let request = request.body(()).expect("a request");
    let Ok((response, mut stream)) = send.send_request(request, ask.body.is_none()) else {
        return Answer::default();
    };
    if let Some(body) = &ask.body {
        let _ = stream.send_data(Bytes::from(body.clone()), ask.trailers.is_empty());
        if !ask.trailers.is_empty() {
            let mut trailers = http::HeaderMap::new();
            for (name, value) in &ask.trailers {
                let name: http::HeaderName = name.parse().expect("a name");
                trailers.append(name, value.parse().expect("a value"));
            }
            let _ = stream.send_trailers(trailers);
        }
    }
    let mut answer = Answer::default();
    if let Ok(response) = response.await {
        answer.status = response.status().as_u16();
        answer.headers = map(response.headers());
        let mut body = response.into_body();
        let mut bytes = Vec::new();
        answer.whole = true;
        while let Some(chunk) = body.data().await {
            let Ok(chunk) = chunk else {
                answer.whole = false;
                break;
            };
            let _ = body.flow_control().release_capacity(chunk.len());
            bytes.extend_from_slice(&chunk);
        }
        answer.body = String::from_utf8_lossy(&bytes).into_owned();
        if let Ok(Some(trailers)) = body.trailers().await {
            answer.trailers = map(&trailers);
        }
    }
    driving.abort();
    answer
}

fn map(fields: &http::HeaderMap) -> Vec<(String, String)> {
    let mut list: Vec<(String, String)> = fields
        .iter()
        .map(|(name, value)| {
            (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        })
        .collect();
    list.sort();
    list
}

/// Opens a WebSocket through the proxy, to a backend that echoes.
///
/// # Panics
/// When the switch is refused.
pub async fn websocket(port: u16) -> TcpStream {
    let mut stream = connect(port).await;
    let ask = b"GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    stream.write_all(ask).await.expect("a connection");
    let head = read_head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    stream
}

/// Whether a tunnel still echoes.
pub async fn echoes(stream: &mut TcpStream, word: &[u8]) -> bool {
    let mut answer = vec![0; word.len()];
    stream.write_all(word).await.is_ok()
        && matches!(timeout(PATIENCE, stream.read_exact(&mut answer)).await, Ok(Ok(_)))
        && answer == word
}

/// Reads one head, and not a byte more.
///
/// # Panics
/// When the connection ends before it does.
pub async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = timeout(PATIENCE, stream.read_u8()).await.expect("in time");
        head.push(byte.unwrap_or_else(|error| panic!("{error} after {:?}", String::from_utf8_lossy(&head))));
    }
    String::from_utf8_lossy(&head).into_owned()
}
