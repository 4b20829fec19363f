//! A backend that answers as the request asks and says what it saw, over HTTP/1.1 and HTTP/2 on one port.
//!
//! Request headers steer it: `x-reply-status`, `x-reply-header: name=value`, `x-reply-body`, `x-reply-size`,
//! `x-reply-trailer: name=value`, `x-reply-close` (`before` or `mid`), `x-reply-never`, `x-reply-fail-times: N`
//! (the first N requests with the same `x-key` get a 503). Without a body of its own the answer is a JSON object of
//! what came in.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A running backend.
#[derive(Clone, Debug)]
pub struct Backend {
    /// Where it listens.
    pub port: u16,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    seen: Mutex<Vec<Seen>>,
    failures: Mutex<HashMap<String, u32>>,
    bytes: Mutex<u64>,
}

/// A request as the backend saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The method.
    pub method: String,
    /// The target.
    pub path: String,
    /// Fields; several of one name are joined with `, `.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: String,
    /// The trailers.
    pub trailers: BTreeMap<String, String>,
}

impl Backend {
    /// Starts one on a port of its own.
    ///
    /// # Panics
    /// When no port can be had.
    pub async fn start() -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let backend = Self { port: socket.local_addr().expect("its address").port(), state: Arc::default() };
        let state = Arc::clone(&backend.state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = socket.accept().await {
                let _ = stream.set_nodelay(true);
                tokio::spawn(serve(stream, Arc::clone(&state)));
            }
        });
        backend
    }

    /// All requests so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().expect("the list").clone()
    }

    /// Bytes that reached it so far, requests or not.
    #[must_use]
    pub fn received_bytes(&self) -> u64 {
        *self.state.bytes.lock().expect("the count")
    }
}

/// What to answer.
struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    trailers: Vec<(String, String)>,
    close: String,
    never: bool,
    streamed: bool,
}

fn reply(seen: &Seen, state: &State) -> Reply {
    state.seen.lock().expect("the list").push(seen.clone());
    let asked = |name: &str| seen.headers.get(name).cloned();
    let pairs = |name: &str| -> Vec<(String, String)> {
        let all = asked(name).unwrap_or_default();
        all.split(", ")
            .filter_map(|pair| pair.split_once('='))
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .collect()
    };
    let mut status = asked("x-reply-status").and_then(|status| status.parse().ok()).unwrap_or(200);
    if let Some(times) = asked("x-reply-fail-times").and_then(|times| times.parse::<u32>().ok()) {
        let mut failures = state.failures.lock().expect("the counts");
        let count = failures.entry(asked("x-key").unwrap_or_default()).or_default();
        *count += 1;
        if *count <= times {
            status = 503;
        }
    }
    let body =
        match (asked("x-reply-body"), asked("x-reply-size").and_then(|size| size.parse::<usize>().ok())) {
            (Some(body), _) => body.into_bytes(),
            (None, Some(size)) => (0..size).map(|at| b'a' + (at % 26) as u8).collect(),
            (None, None) => json!({
                "method": seen.method, "path": seen.path, "headers": seen.headers,
                "body": seen.body, "trailers": seen.trailers,
            })
            .to_string()
            .into_bytes(),
        };
    Reply {
        status,
        headers: pairs("x-reply-header"),
        body: if matches!(status, 204 | 304) { Vec::new() } else { body },
        trailers: pairs("x-reply-trailer"),
        close: asked("x-reply-close").unwrap_or_default(),
        never: asked("x-reply-never").is_some(),
        streamed: asked("x-reply-streamed").is_some(),
    }
}

async fn serve(stream: TcpStream, state: Arc<State>) {
    let mut first = [0_u8; 24];
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let count = loop {
        match stream.peek(&mut first).await {
            Ok(count) if count > 0 && count < preface.len() && preface.starts_with(&first[..count]) => {
                tokio::task::yield_now().await;
            }
            Ok(count) => break count,
            Err(_) => return,
        }
    };
    if first[..count] == preface[..] {
        serve_h2(stream, state).await;
    } else {
        serve_h1(stream, state).await;
    }
}

async fn serve_h1(mut stream: TcpStream, state: Arc<State>) {
    let mut buffer = Vec::new();
    while let Some(seen) = read_request(&mut stream, &mut buffer, &state).await {
        if seen.headers.get("upgrade").is_some_and(|upgrade| upgrade == "websocket")
            && !seen.headers.contains_key("x-reply-status")
        {
            state.seen.lock().expect("the list").push(seen.clone());
            let proof = seen.headers.get("sec-websocket-key").map(|key| proof(key)).unwrap_or_default();
            let head = format!(
                "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n{proof}\r\n"
            );
            let _ = stream.write_all(head.as_bytes()).await;
            let _ = stream.write_all(&buffer).await;
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
            return;
        }
        let reply = reply(&seen, &state);
        if reply.never {
            std::future::pending::<()>().await;
        }
        if reply.close == "before" {
            return;
        }
        let chunked = reply.streamed || !reply.trailers.is_empty();
        let mut head = format!("HTTP/1.1 {} X\r\n", reply.status);
        for (name, value) in &reply.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if chunked {
            head.push_str("transfer-encoding: chunked\r\n");
        } else if reply.status != 204 {
            head.push_str(&format!("content-length: {}\r\n", reply.body.len()));
        }
        head.push_str("\r\n");
        let mut out = head.into_bytes();
        let half = reply.body.len() / 2;
        if reply.close == "mid" {
            out.extend_from_slice(&reply.body[..half]);
            let _ = stream.write_all(&out).await;
            return;
        }
        if seen.method != "HEAD" && chunked {
            for part in [&reply.body[..half], &reply.body[half..]].iter().filter(|part| !part.is_empty()) {
                out.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
                out.extend_from_slice(part);
                out.extend_from_slice(b"\r\n");
            }
            out.extend_from_slice(b"0\r\n");
            for (name, value) in &reply.trailers {
                out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
            }
            out.extend_from_slice(b"\r\n");
        } else if seen.method != "HEAD" {
            out.extend_from_slice(&reply.body);
        }
        if stream.write_all(&out).await.is_err() {
            return;
        }
    }
}

async fn fill(stream: &mut TcpStream, buffer: &mut Vec<u8>, state: &State) -> Option<()> {
    let before = buffer.len();
    stream.read_buf(buffer).await.ok().filter(|count| *count > 0)?;
    *state.bytes.lock().expect("the count") += (buffer.len() - before) as u64;
    Some(())
}

async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>, state: &State) -> Option<Seen> {
    let end = loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        fill(stream, buffer, state).await?;
    };
    let text = String::from_utf8_lossy(&buffer[..end]).into_owned();
    buffer.drain(..end + 4);
    let mut lines = text.split("\r\n");
    let mut line = lines.next()?.split(' ');
    let mut seen = Seen { method: line.next()?.to_owned(), path: line.next()?.to_owned(), ..Seen::default() };
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        add(&mut seen.headers, name, value);
    }
    if seen.headers.get("transfer-encoding").is_some_and(|coding| coding == "chunked") {
        let mut body = Vec::new();
        loop {
            let size = read_line(stream, buffer, state).await?;
            let size = usize::from_str_radix(&size, 16).ok()?;
            if size == 0 {
                break;
            }
            while buffer.len() < size + 2 {
                fill(stream, buffer, state).await?;
            }
            body.extend(buffer.drain(..size));
            buffer.drain(..2);
        }
        loop {
            let line = read_line(stream, buffer, state).await?;
            match line.split_once(':') {
                Some((name, value)) => add(&mut seen.trailers, name, value),
                None => break,
            }
        }
        seen.body = String::from_utf8_lossy(&body).into_owned();
    } else if let Some(length) =
        seen.headers.get("content-length").and_then(|length| length.parse::<usize>().ok())
    {
        while buffer.len() < length {
            fill(stream, buffer, state).await?;
        }
        let body: Vec<u8> = buffer.drain(..length).collect();
        seen.body = String::from_utf8_lossy(&body).into_owned();
    }
    Some(seen)
}

async fn read_line(stream: &mut TcpStream, buffer: &mut Vec<u8>, state: &State) -> Option<String> {
    loop {
        if let Some(end) = buffer.windows(2).position(|window| window == b"\r\n") {
            let line = String::from_utf8_lossy(&buffer[..end]).into_owned();
            buffer.drain(..end + 2);
            return Some(line);
        }
        fill(stream, buffer, state).await?;
    }
}

fn add(fields: &mut BTreeMap<String, String>, name: &str, value: &str) {
    let value = value.trim();
    fields
        .entry(name.to_ascii_lowercase())
        .and_modify(|known| {
            known.push_str(", ");
            known.push_str(value);
        })
        .or_insert_with(|| value.to_owned());
}

/// The field that proves that a WebSocket's key was read (RFC 6455 section 4.2.2).
fn proof(key: &str) -> String {
    let key = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, key.as_bytes());
    format!("sec-websocket-accept: {}\r\n", STANDARD.encode(digest))
}

async fn serve_h2(stream: TcpStream, state: Arc<State>) {
    let mut builder = h2::server::Builder::new();
    builder.enable_connect_protocol();
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(serve_stream(request, respond, Arc::clone(&state)));
    }
}

async fn serve_stream(
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    state: Arc<State>,
) {
    let (parts, mut recv) = request.into_parts();
    let mut seen = Seen { method: parts.method.to_string(), ..Seen::default() };
    seen.path = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    add(&mut seen.headers, "host", &parts.uri.authority().map(ToString::to_string).unwrap_or_default());
    for (name, value) in &parts.headers {
        add(&mut seen.headers, name.as_str(), &String::from_utf8_lossy(value.as_bytes()));
    }
    if let Some(protocol) = parts.extensions.get::<h2::ext::Protocol>() {
        add(&mut seen.headers, "upgrade", protocol.as_str());
        state.seen.lock().expect("the list").push(seen);
        let Ok(mut send) = respond.send_response(http::Response::new(()), false) else { return };
        while let Some(Ok(chunk)) = recv.data().await {
            let _ = recv.flow_control().release_capacity(chunk.len());
            let _ = send.send_data(chunk, false);
        }
        let _ = send.send_data(Bytes::new(), true);
        return;
    }
    let mut body = Vec::new();
    while let Some(chunk) = recv.data().await {
        let Ok(chunk) = chunk else { return };
        let _ = recv.flow_control().release_capacity(chunk.len());
        *state.bytes.lock().expect("the count") += chunk.len() as u64;
        body.extend_from_slice(&chunk);
    }
    seen.body = String::from_utf8_lossy(&body).into_owned();
    if let Ok(Some(trailers)) = recv.trailers().await {
        for (name, value) in &trailers {
            add(&mut seen.trailers, name.as_str(), &String::from_utf8_lossy(value.as_bytes()));
        }
    }
    let reply = reply(&seen, &state);
    if reply.never {
        std::future::pending::<()>().await;
    }
    if reply.close == "before" {
        respond.send_reset(h2::Reason::INTERNAL_ERROR);
        return;
    }
    let mut response = http::Response::builder().status(reply.status);
    for (name, value) in &reply.headers {
        response = response.header(name, value);
    }
    let streamed = reply.streamed || !reply.trailers.is_empty();
    if !streamed && reply.status != 204 {
        response = response.header("content-length", reply.body.len());
    }
    let bodiless = seen.method == "HEAD" || reply.body.is_empty();
    let ends = bodiless && reply.trailers.is_empty();
    let Ok(mut send) = respond.send_response(response.body(()).expect("a response"), ends) else { return };
    if reply.close == "mid" {
        let _ = send.send_data(Bytes::copy_from_slice(&reply.body[..reply.body.len() / 2]), false);
        tokio::task::yield_now().await;
        send.send_reset(h2::Reason::INTERNAL_ERROR);
        return;
    }
    if !bodiless {
        let _ = send.send_data(Bytes::from(reply.body), reply.trailers.is_empty());
    }
    if !reply.trailers.is_empty() {
        let mut trailers = http::HeaderMap::new();
        for (name, value) in &reply.trailers {
            let name: http::HeaderName = name.parse().expect("a name");
            trailers.append(name, value.parse().expect("a value"));
        }
        let _ = send.send_trailers(trailers);
    }
}
