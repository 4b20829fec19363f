//! Who is slow, or too many, on real sockets. The clock goes on a step whenever everybody waits, so minutes take no time and
//! nothing hangs on how fast the machine is.

use std::time::SystemTime;

use http_body_util::Empty;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::time::{Instant, pause, sleep};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::tests::QUESTION;
use super::*;
use crate::accept::HELLO;
use crate::ca::state::StateDir;
use crate::ca::testing::Scratch;
use crate::ca::{Authority, Lives, Origin};
use crate::inject::Settings;
use crate::serve::tls::{Keeper, Names};
use crate::webhook::OnError;

/// A step of the clock: much shorter than any bound, and long enough for minutes to be few of them.
const STEP: Duration = Duration::from_millis(10);
/// How much later than its bound something may be: one breath of who is slow.
const BREATH: Duration = Duration::from_secs(1);

/// A webhook that listens.
struct Webhook {
    address: SocketAddr,
    client: TlsConnector,
    _ending: watch::Sender<bool>,
    _keeper: Keeper,
    _scratch: Scratch,
}

impl Webhook {
    async fn start() -> Self {
        let scratch = Scratch::new("webhook");
        let state = StateDir::open(&scratch.path().join("ca")).unwrap();
        let now = SystemTime::now();
        let authority = Arc::new(Authority::open("a", Origin::Own(state), Lives::default(), now).unwrap());
        let identity = crate::auth::parse("spiffe://a/ns/outrider-system/sa/outrider-control").unwrap();
        let names = Names { identity, dns: vec!["webhook".to_owned()], addresses: Vec::new() };
        let keeper = Keeper::new(Arc::clone(&authority), names, now).unwrap();
        let mut roots = RootCertStore::empty();
        authority.roots().into_iter().for_each(|root| roots.add(root).unwrap());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let settings = Settings::new("p:1", ("control", 15_012), "-----BEGIN CERTIFICATE-----\n");
        let policy = Policy { settings, exemptions: Vec::new(), on_error: OnError::Deny };
        let (_, policies) = watch::channel(Arc::new(policy));
        let (ending, ended) = watch::channel(false);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(run(listener, policies, Certificates::new(keeper.watch()), ended));
        let client = TlsConnector::from(Arc::new(config));
        Self { address, client, _ending: ending, _keeper: keeper, _scratch: scratch }
    }

    async fn connect(&self) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        self.client.connect(ServerName::try_from("webhook").unwrap(), stream).await.unwrap()
    }

    /// A question that is well asked.
    async fn ask(&self) -> StatusCode {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(self.connect().await)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get("/inject").body(Empty::<Bytes>::new()).unwrap();
        sender.send_request(request).await.unwrap().status()
    }
}

/// From now on time goes by in steps: a stopped clock would otherwise jump to whatever is waited for next, although an
/// answer is already on its way.
fn steps(step: Duration) {
    pause();
    tokio::spawn(async move {
        loop {
            // The kernel, too, needs a while to hand bytes over.
            std::thread::sleep(Duration::from_micros(500));
            sleep(step).await;
        }
    });
}

/// What comes back until the connection is closed.
async fn rest(mut stream: impl tokio::io::AsyncRead + Unpin) -> String {
    let mut answer = Vec::new();
    // That it ends without TLS's own farewell is no matter here.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

/// Sends the beginning, then a piece each breath, and tells what was answered and after how long it was cut off.
async fn slowly(webhook: &Webhook, beginning: &str, piece: &'static str) -> (String, Duration) {
    let (reader, mut writer) = tokio::io::split(webhook.connect().await);
    writer.write_all(beginning.as_bytes()).await.unwrap();
    writer.flush().await.unwrap();
    steps(STEP);
    let begun = Instant::now();
    let sending = tokio::spawn(async move {
        while writer.write_all(piece.as_bytes()).await.is_ok() && writer.flush().await.is_ok() {
            sleep(BREATH).await;
        }
    });
    let answer = rest(reader).await;
    let taken = begun.elapsed();
    sending.abort();
    (answer, taken)
}

#[tokio::test]
async fn a_body_that_comes_in_drops_is_cut_off_in_time() {
    let webhook = Webhook::start().await;
    let head = "POST /inject HTTP/1.1\r\nhost: webhook\r\ncontent-length: 1000000\r\n\r\n";
    let (answer, taken) = slowly(&webhook, head, " ").await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.ends_with("the body did not come in time\n"), "{answer}");
    assert!(taken >= PATIENCE - BREATH && taken <= PATIENCE + 3 * BREATH, "{taken:?}");
    assert_eq!(webhook.ask().await, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn so_is_a_head_that_comes_in_drops() {
    let webhook = Webhook::start().await;
    let (answer, taken) = slowly(&webhook, "POST /inject HTTP/1.1\r\n", "a: b\r\n").await;
    assert!(!answer.contains(" 200 "), "{answer}");
    assert!(taken >= FIRST_QUESTION - BREATH && taken <= FIRST_QUESTION + BREATH, "{taken:?}");
    assert_eq!(webhook.ask().await, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn so_is_a_handshake_that_does_not_come() {
    let webhook = Webhook::start().await;
    let stream = TcpStream::connect(webhook.address).await.unwrap();
    steps(STEP);
    let begun = Instant::now();
    assert_eq!(rest(stream).await, "");
    let taken = begun.elapsed();
    assert!(taken >= HELLO - BREATH && taken <= HELLO + BREATH, "{taken:?}");
    assert_eq!(webhook.ask().await, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn so_is_a_connection_without_a_question() {
    let webhook = Webhook::start().await;
    let stream = webhook.connect().await;
    steps(STEP);
    let begun = Instant::now();
    assert_eq!(rest(stream).await, "");
    let taken = begun.elapsed();
    assert!(taken >= FIRST_QUESTION - BREATH && taken <= FIRST_QUESTION + BREATH, "{taken:?}");
    assert_eq!(webhook.ask().await, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn a_connection_that_is_used_for_ever_ends_all_the_same() {
    let webhook = Webhook::start().await;
    let stream = TokioIo::new(webhook.connect().await);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let begun = Instant::now();
    let mut answers = 0;
    loop {
        let request = Request::post("/inject").body(Full::<Bytes>::from(QUESTION)).unwrap();
        match sender.send_request(request).await {
            Ok(answer) => assert_eq!(answer.status(), StatusCode::OK),
            Err(_) => break,
        }
        answers += 1;
        if answers == 1 {
            // Not before there has been a question: the first one is not waited for for long.
            steps(10 * STEP);
        }
        sleep(PATIENCE / 2).await;
    }
    let taken = begun.elapsed();
    assert!(taken >= LIFE - PATIENCE && taken <= LIFE + PATIENCE && answers >= 100, "{taken:?} {answers}");
}

#[tokio::test]
async fn who_takes_all_places_keeps_nobody_waiting() {
    let webhook = Webhook::start().await;
    let mut silent = Vec::new();
    for number in 0..MAX_CONNECTIONS + 1 {
        // More sources than can have all of theirs.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("127.0.0.{}:0", 10 + number % 5).parse().unwrap()).unwrap();
        silent.push(socket.connect(webhook.address).await.unwrap());
        // The system keeps few of them at a time for who does not take them in.
        tokio::task::yield_now().await;
    }
    steps(STEP / 10);
    let begun = Instant::now();
    assert_eq!(webhook.ask().await, StatusCode::METHOD_NOT_ALLOWED);
    let taken = begun.elapsed();
    assert!(taken < HELLO, "{taken:?}: not because those have been given up");
    drop(silent);
}
