use std::future::poll_fn;
use std::sync::LazyLock;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use rustls::unbuffered::ConnectionState;

use super::records::BATCH_BYTES;
use super::*;
use crate::transport::Transport;

static CONFIGS: LazyLock<(Arc<ServerConfig>, Arc<ClientConfig>)> = LazyLock::new(|| {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["server.test".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    (Arc::new(server), Arc::new(client))
});

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
    (client.unwrap(), server.unwrap().0)
}

async fn connected(name: &str) -> (Transport, Transport, io::Result<()>, io::Result<()>) {
    let (client, server) = sockets().await;
    let (mut client, mut server) = (Transport::new(client).unwrap(), Transport::new(server).unwrap());
    let pool = Rc::new(BufferPool::default());
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connecting = client.connect_tls(Arc::clone(&CONFIGS.1), name, Rc::clone(&pool));
    let accepting = server.accept_tls(Arc::clone(&CONFIGS.0), pool);
    let (connected, accepted) = tokio::join!(connecting, accepting);
    (client, server, connected, accepted)
}

async fn pair() -> (Transport, Transport) {
    let (client, server, connected, accepted) = connected("server.test").await;
    connected.unwrap();
    accepted.unwrap();
    (client, server)
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| u8::try_from(n.wrapping_mul(31) % 251).unwrap()).collect()
}

#[tokio::test(flavor = "current_thread")]
async fn every_length_passes_in_both_directions_at_once() {
    for len in [1, 100, RECORD_BYTES - 1, RECORD_BYTES, RECORD_BYTES + 1, BATCH_BYTES + 1, 3_000_000] {
        let (mut client, mut server) = pair().await;
        let sent = pattern(len);
        let one = async {
            client.write_all(&sent).await.unwrap();
            client.flush().await.unwrap();
            let mut got = vec![0; len];
            client.read_exact(&mut got).await.unwrap();
            assert!(got == sent);
        };
        let other = async {
            let mut got = vec![0; len];
            server.read_exact(&mut got).await.unwrap();
            assert!(got == sent);
            server.write_all(&got).await.unwrap();
            server.flush().await.unwrap();
        };
        tokio::join!(one, other);
    }
}

#[tokio::test(flavor = "current_thread")]
async fn both_may_write_much_before_either_reads() {
    let (client, server) = pair().await;
    let len = 8_000_000;
    let side = |transport: Transport| async move {
        let (mut read, mut write) = tokio::io::split(transport);
        let sending = async {
            write.write_all(&pattern(len)).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let receiving = async {
            let mut got = Vec::new();
            read.read_to_end(&mut got).await.unwrap();
            assert!(got == pattern(len));
        };
        tokio::join!(sending, receiving);
    };
    tokio::join!(side(client), side(server));
}

#[tokio::test(flavor = "current_thread")]
async fn one_side_ends_and_the_other_goes_on() {
    let (mut client, mut server) = pair().await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let mut got = Vec::new();
    server.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"question");
    server.write_all(b"answer").await.unwrap();
    server.shutdown().await.unwrap();
    got.clear();
    client.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"answer");
    assert!(client.write_all(b"more").await.is_err(), "nothing may follow the end");
}

#[tokio::test(flavor = "current_thread")]
async fn an_end_that_tls_did_not_say_is_an_error() {
    let (mut client, mut server) = pair().await;
    client.write_all(b"half of it").await.unwrap();
    client.flush().await.unwrap();
    socket2::SockRef::from(client.socket()).shutdown(std::net::Shutdown::Write).unwrap();
    let mut got = Vec::new();
    let error = server.read_to_end(&mut got).await.unwrap_err();
    assert_eq!((error.kind(), &got[..]), (io::ErrorKind::UnexpectedEof, &b"half of it"[..]));
}

#[tokio::test(flavor = "current_thread")]
async fn a_server_of_another_name_is_refused_on_both_sides() {
    let (_client, _server, connected, accepted) = connected("other.test").await;
    let connected = connected.unwrap_err();
    assert!(connected.get_ref().unwrap().is::<rustls::Error>(), "{connected}");
    let accepted = accepted.unwrap_err().to_string();
    assert!(accepted.contains("BadCertificate") || accepted.contains("CertificateUnknown"), "{accepted}");
}

#[tokio::test(flavor = "current_thread")]
async fn what_is_not_tls_gets_an_alert() {
    let (mut client, server) = sockets().await;
    let mut server = Transport::new(server).unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let error = server.accept_tls(Arc::clone(&CONFIGS.0), Rc::default()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    drop(server);
    let mut got = Vec::new();
    // The rest of the request was not read, so the close may be a reset; the alert comes before it.
    let _ = client.read_to_end(&mut got).await;
    assert_eq!(got.first(), Some(&21), "an alert record: {got:?}");
}

#[tokio::test(flavor = "current_thread")]
async fn bytes_that_were_looked_at_take_part_in_the_handshake() {
    let (client, server) = sockets().await;
    let (mut client, mut server) = (Transport::new(client).unwrap(), Transport::new(server).unwrap());
    let name = ServerName::try_from("server.test").unwrap();
    let connecting = client.connect_tls(Arc::clone(&CONFIGS.1), name, Rc::default());
    let accepting = async {
        let count = poll_fn(|cx| server.poll_look(cx)).await.unwrap();
        assert_eq!(server.front().len(), count);
        server.accept_tls(Arc::clone(&CONFIGS.0), Rc::default()).await.unwrap();
    };
    let (connected, ()) = tokio::join!(connecting, accepting);
    connected.unwrap();
    assert_eq!(server.tls().unwrap().alpn(), Some(&b"http/1.1"[..]));
    assert_eq!(client.tls().unwrap().peer_certificates().unwrap().len(), 1);
}

#[tokio::test(flavor = "current_thread")]
async fn an_idle_connection_holds_no_buffer() {
    let (mut client, mut server) = pair().await;
    for _ in 0..3 {
        client.write_all(b"ping").await.unwrap();
        client.flush().await.unwrap();
        let mut space = [0; 4];
        server.read_exact(&mut space).await.unwrap();
        server.write_all(b"pong").await.unwrap();
        server.flush().await.unwrap();
        client.read_exact(&mut space).await.unwrap();
    }
    for transport in [&mut client, &mut server] {
        let mut space = [0; 16];
        let mut waiting = Box::pin(poll_fn(|cx| transport.poll_read_into(cx, &mut space)));
        assert!(futures_pending(&mut waiting).await);
        drop(waiting);
        let tls = transport.tls().unwrap();
        for buffer in [&tls.incoming, &tls.plain, &tls.outgoing] {
            assert!(buffer.holds_nothing(), "{buffer:?}");
        }
    }
}

async fn futures_pending<F: Future + Unpin>(future: &mut F) -> bool {
    poll_fn(|cx| Poll::Ready(Pin::new(&mut *future).poll(cx).is_pending())).await
}

#[tokio::test(flavor = "current_thread")]
async fn keys_are_changed_under_way() {
    let (mut client, mut server) = pair().await;
    let Role::Client(connection) = &mut client.tls_mut().unwrap().role else { panic!("the client") };
    let status = connection.process_tls_records(&mut []);
    let Ok(ConnectionState::WriteTraffic(traffic)) = status.state else { panic!("connected") };
    traffic.refresh_traffic_keys().unwrap();
    client.write_all(b"under new keys").await.unwrap();
    client.flush().await.unwrap();
    let mut got = [0; 14];
    server.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"under new keys");
    server.write_all(b"here as well").await.unwrap();
    server.flush().await.unwrap();
    let mut got = [0; 12];
    client.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"here as well");
}
