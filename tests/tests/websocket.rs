//! WebSockets between versions of HTTP: a library that checks the whole handshake of RFC 6455 at the ends that speak
//! HTTP/1.1, and peers of RFC 8441, which has no such handshake, at those that speak HTTP/2.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use bytes::Bytes;
use h2::ext::Protocol;
use http::{Method, Request, Response, StatusCode};
use outrider_tests::client::PATIENCE;
use outrider_tests::config::{self, HTTP2, TO_BE};
use outrider_tests::process::{Process, free_port};
use outrider_tests::upstream::Upstream;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// A Python with `websockets`, if there is one. In CI its absence is an error.
fn python() -> Option<PathBuf> {
    let has = |path: &PathBuf| {
        let output = Command::new(path).args(["-c", "import websockets"]).output();
        output.is_ok_and(|output| output.status.success())
    };
    let found = std::env::var_os("OUTRIDER_TEST_GRPC").map(PathBuf::from).filter(has);
    assert!(found.is_some() || std::env::var_os("CI").is_none(), "websockets is missing and CI must have it");
    if found.is_none() {
        println!("SKIPPED: OUTRIDER_TEST_GRPC is not a Python with websockets");
    }
    found
}

fn peer(python: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("websocket/peer.py")).args(arguments);
    command
}

/// A server of RFC 6455.
struct Server {
    process: Child,
    lines: BufReader<ChildStdout>,
    port: u16,
}

impl Server {
    fn start(python: &Path) -> Self {
        let mut process = peer(python, &["server"]).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap());
        let mut server = Self { process, lines, port: 0 };
        server.port = u16::try_from(server.says().as_u64().unwrap()).unwrap();
        server
    }

    fn says(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a client of RFC 6455 gets back for a word.
async fn library(python: &Path, port: u16, word: &str) -> Value {
    let mut command = peer(python, &["client", &port.to_string(), word]);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{complaint}"))
}

/// A proxy in front of this port.
fn proxy(upstream: u16, more: &str) -> (Process, u16) {
    let (admin, port) = (free_port(), free_port());
    let http = "http2_protocol_options: {allow_connect: true}, upgrade_configs: [{upgrade_type: websocket}]";
    let clusters = [config::cluster("be", upstream, more)];
    (Process::outrider(&config::web(admin, port, http, &[TO_BE], &clusters), admin), port)
}

/// A frame of text as a client masks it, with a mask of zeros; and as a server sends it.
fn text(word: &str, masked: bool) -> Vec<u8> {
    let mut frame = vec![0x81, u8::from(masked) << 7 | u8::try_from(word.len()).unwrap()];
    frame.extend_from_slice(&[0; 4][..usize::from(masked) * 4]);
    frame.extend_from_slice(word.as_bytes());
    frame
}

/// A server of RFC 8441, which says nothing of keys and answers each frame of at most 125 bytes with an unmasked one.
async fn native_server() -> u16 {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = socket.accept().await {
            tokio::spawn(async move {
                let mut builder = h2::server::Builder::new();
                builder.enable_connect_protocol();
                let mut connection = builder.handshake::<_, Bytes>(stream).await.unwrap();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tokio::spawn(echo(request, respond));
                }
            });
        }
    });
    port
}

async fn echo(request: Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>) {
    let (parts, mut recv) = request.into_parts();
    assert_eq!(parts.extensions.get::<Protocol>().map(Protocol::as_str), Some("websocket"));
    assert_eq!(parts.method, Method::CONNECT);
    let response = Response::builder().header("sec-websocket-protocol", "chat").body(()).unwrap();
    let mut send = respond.send_response(response, false).unwrap();
    let mut bytes = Vec::new();
    while let Some(Ok(chunk)) = recv.data().await {
        let _ = recv.flow_control().release_capacity(chunk.len());
        bytes.extend_from_slice(&chunk);
        while let [first, second, mask @ ..] = &bytes[..]
            && let length = usize::from(second & 0x7f)
            && let Some((mask, rest)) = mask.split_at_checked(4)
            && let Some(payload) = rest.get(..length)
        {
            let plain = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
            let answer: Vec<u8> = [*first, *second & 0x7f].into_iter().chain(plain).collect();
            bytes.drain(..6 + length);
            // A frame that closes is answered with another, and that is the end.
            let closes = answer.first() == Some(&0x88);
            let _ = send.send_data(answer.into(), closes);
        }
    }
}

/// What a client of RFC 8441 gets: the head, and the frame that comes back for a word.
async fn native(port: u16, word: &str) -> (Response<()>, Vec<u8>) {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let expected = text(word, false).len();
    let talk = async {
        // Its settings come with the answer to a first request.
        let first = Request::get("http://a/first").body(()).unwrap();
        let _ = client.send_request(first, true).unwrap().0.await;
        assert!(client.is_extended_connect_protocol_enabled());
        let ask = Request::builder().method(Method::CONNECT).uri("http://a/talk");
        let ask = ask.header("sec-websocket-version", "13").header("sec-websocket-protocol", "chat");
        let ask = ask.extension(Protocol::from_static("websocket")).body(()).unwrap();
        let (response, mut send) = client.send_request(ask, false).unwrap();
        let (parts, mut recv) = response.await.unwrap().into_parts();
        let mut answer = Vec::new();
        if parts.status == StatusCode::OK {
            send.send_data(text(word, true).into(), false).unwrap();
            while answer.len() < expected {
                let chunk = recv.data().await.unwrap().unwrap();
                let _ = recv.flow_control().release_capacity(chunk.len());
                answer.extend_from_slice(&chunk);
            }
        }
        (Response::from_parts(parts, ()), answer)
    };
    timeout(PATIENCE, talk).await.expect("in time")
}

fn talked(answered: &(Response<()>, Vec<u8>), word: &str) {
    let (head, frame) = answered;
    assert_eq!((head.status(), frame), (StatusCode::OK, &text(word, false)), "{head:?}");
    assert_eq!(head.headers().get("sec-websocket-protocol").map(|name| name.as_bytes()), Some(&b"chat"[..]));
    assert!(!head.headers().contains_key("sec-websocket-accept"), "{head:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn libraries_talk_through_one_proxy_and_through_two_over_http2() {
    let Some(python) = python() else { return };
    let mut server = Server::start(&python);
    let (_inner, inner) = proxy(server.port, "");
    let (_outer, outer) = proxy(inner, HTTP2);
    for (port, word) in [(inner, "one"), (outer, "first"), (outer, "second")] {
        assert_eq!(library(&python, port, word).await, json!({"answer": word, "subprotocol": "chat"}));
        assert_eq!(server.says(), json!({"path": "/talk", "subprotocol": "chat"}));
    }
    // A client that speaks HTTP/2 has no key; the server gets one all the same.
    for (port, word) in [(inner, "native"), (outer, "native through two")] {
        talked(&native(port, word).await, word);
        assert_eq!(server.says(), json!({"path": "/talk", "subprotocol": "chat"}));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_http2_proves_nothing_and_is_understood() {
    let server = native_server().await;
    let (_proxy, port) = proxy(server, HTTP2);
    let (_outer, outer) = proxy(port, HTTP2);
    for (port, word) in [(port, "one"), (outer, "two")] {
        talked(&native(port, word).await, word);
    }
    let Some(python) = python() else { return };
    for (port, word) in [(port, "one"), (outer, "two")] {
        assert_eq!(library(&python, port, word).await, json!({"answer": word, "subprotocol": "chat"}));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_not_read_the_key_is_not_believed() {
    for accept in ["", "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"] {
        let answer = format!("HTTP/1.1 101 S\r\nconnection: upgrade\r\nupgrade: websocket\r\n{accept}\r\n");
        let upstream = Upstream::h1(move |_, head| match head.contains("sec-websocket-key: ") {
            true => answer.clone().into_bytes(),
            false => b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec(),
        })
        .await;
        let (_proxy, port) = proxy(upstream.port, "");
        let (head, _) = native(port, "word").await;
        assert_eq!(head.status(), StatusCode::BAD_GATEWAY);
        assert_eq!(head.headers()["outrider-error"], "upstream_protocol_error");
    }
}
