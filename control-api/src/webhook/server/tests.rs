use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::super::OnError;
use super::*;
use crate::ca::testing::Scratch;
use crate::inject::Settings;
use crate::serve::testing::server_and_client;

pub(super) const QUESTION: &str = r#"{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u",
    "kind": {"version": "v1", "kind": "Pod"}, "operation": "CREATE", "namespace": "shop", "object": {"spec": {}}}}"#;

/// A server of webhooks, and how to connect to it.
struct Lab {
    address: SocketAddr,
    client: TlsConnector,
    _end: watch::Sender<bool>,
    _policy: watch::Sender<Arc<Policy>>,
}

impl Lab {
    async fn start(scratch: &Scratch) -> Self {
        let (tls, client) = server_and_client(scratch);
        let settings = Settings::new("example.org/p:1", ("control", 15012), "-----BEGIN CERTIFICATE-----\n");
        let policy = Policy { settings, exemptions: Vec::new(), on_error: OnError::Deny };
        let ((end, ending), (policy, policies)) = (watch::channel(false), watch::channel(Arc::new(policy)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(run(listener, policies, Certificates::new(tls), ending));
        Self { address, client: client.into(), _end: end, _policy: policy }
    }

    async fn connect(&self, from: &str) -> TlsStream<TcpStream> {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
        let stream = socket.connect(self.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        self.client.connect(name, stream).await.unwrap()
    }

    /// A question of which the head promises so many bytes.
    async fn ask(&self, from: &str, length: usize, body: &[u8]) -> TlsStream<TcpStream> {
        let mut stream = self.connect(from).await;
        let head =
            format!("POST /audit/warn/baseline HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        // The answer may come before all of it is sent.
        let _ = stream.write_all(body).await;
        stream.flush().await.unwrap();
        stream
    }

    /// The status of the answer to a question that comes whole.
    async fn answer(&self, from: &str, body: &[u8]) -> String {
        status(self.ask(from, body.len(), body).await).await
    }
}

async fn status(mut stream: TlsStream<TcpStream>) -> String {
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.unwrap();
    String::from_utf8_lossy(&head[9..]).into_owned()
}

#[tokio::test]
async fn slow_questions_of_one_source_hold_up_no_other() {
    let scratch = Scratch::new("webhook-slow");
    let lab = Lab::start(&scratch).await;
    let mut slow = Vec::new();
    for _ in 0..MAX_ROOMS + 1 {
        slow.push(lab.ask("127.0.0.9", 1000, b"{").await);
    }
    assert_eq!(lab.answer("127.0.0.1", QUESTION.as_bytes()).await, "200");
    // Not because those have been given up.
    let last = status(slow.pop().unwrap());
    assert!(timeout(Duration::ZERO, last).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_takes_the_most_memory_takes_it_twice_at_the_most() {
    let scratch = Scratch::new("webhook-large");
    let lab = Arc::new(Lab::start(&scratch).await);
    assert_eq!(lab.answer("127.0.0.1", &vec![b' '; MAX_BODY_BYTES + 1]).await, "413");
    let mut dense = vec![b'['];
    while dense.len() < MAX_BODY_BYTES - 4 {
        dense.extend(b"0,");
    }
    dense.extend(b"0]");
    let dense = Arc::new(dense);
    let before = resident_bytes();
    let asked: Vec<_> = (0..MAX_ROOMS_OF_ONE)
        .map(|_| {
            let (lab, dense) = (Arc::clone(&lab), Arc::clone(&dense));
            tokio::spawn(async move { lab.answer("127.0.0.9", &dense).await })
        })
        .collect();
    for one in asked {
        assert_eq!(one.await.unwrap(), "400");
    }
    // Each of them takes 130 MB and more; the rest is their bytes, which are sent from here as well.
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 600_000_000, "{grown}");
}

/// The most that the process has had at a time.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[tokio::test]
async fn wrong_questions_end_the_connection_and_good_ones_do_not() {
    let scratch = Scratch::new("webhook-wrong");
    let lab = Lab::start(&scratch).await;
    for (method, path, body, expected) in [
        (Method::GET, "/inject", "", 405),
        (Method::POST, "/inject/x", QUESTION, 404),
        (Method::POST, "/inject", "{", 400),
        (Method::POST, "/inject", "{}", 400),
    ] {
        let stream = TokioIo::new(lab.connect("127.0.0.1").await);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        let connection = tokio::spawn(connection);
        let good = (&Method::POST, "/inject", QUESTION, 200);
        for (method, path, body, expected) in [good, good, (&method, path, body, expected)] {
            let body = Full::<Bytes>::from(body);
            let request = Request::builder().method(method).uri(path).body(body).unwrap();
            sender.ready().await.unwrap();
            let answer = sender.send_request(request).await.unwrap();
            assert_eq!(answer.status(), expected, "{path}");
            answer.into_body().collect().await.unwrap();
        }
        // Not only when it has been silent for a while.
        let closed = timeout(PATIENCE / 2, connection).await.expect("closed").unwrap();
        closed.unwrap();
    }
}
