use outrider_proto::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::model::ChainProtocol;

const TCP: &str = "{name: t, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: c}}";
const HTTP: &str = "{name: h, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: h, http_filters: [{name: r, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}], route_config: {name: r, virtual_hosts: [{name: v, domains: ['*'], routes: [{match: {prefix: /}, direct_response: {status: 200}}]}]}}}";
const TLS_INSPECTOR: &str = "{name: n, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}}";

/// A listener that looks for TLS, with chains of these transport protocols.
fn listener(transports: &[&str], filter: &str, more: &str) -> Listener {
    let chains: Vec<_> = transports
        .iter()
        .map(|wanted| {
            format!("{{filter_chain_match: {{transport_protocol: {wanted}}}, filters: [{filter}]}}")
        })
        .collect();
    let yaml = format!(
        "{{address: {{socket_address: {{address: 127.0.0.1, port_value: 1}}}}, filter_chains: [{}], \
         listener_filters: [{TLS_INSPECTOR}]{more}}}",
        chains.join(", ")
    );
    Listener::from_proto(&json::from_yaml(&yaml).unwrap()).unwrap()
}

/// A client, and a server to whose socket this has come.
async fn said(bytes: &[u8]) -> (TcpStream, Transport) {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(socket.local_addr().unwrap()).await.unwrap();
    let server = Transport::new(socket.accept().await.unwrap().0).unwrap();
    if !bytes.is_empty() {
        client.write_all(bytes).await.unwrap();
        server.socket().readable().await.unwrap();
    }
    (client, server)
}

#[tokio::test(flavor = "current_thread")]
async fn nothing_of_what_was_looked_at_is_lost() {
    let listener = listener(&["tls", "raw_buffer"], HTTP, "");
    let ChainProtocol::Http(chain) = listener.chains.all().next().unwrap().protocol.clone() else {
        panic!("not an HTTP chain");
    };
    let rest = format!("ET / HTTP/1.1\r\nhost: a\r\nx-long: {}\r\n\r\n", "x".repeat(9000));
    let (mut client, mut server) = said(b"G").await;
    assert_eq!(poll_fn(|cx| server.poll_look(cx)).await.unwrap(), 1);
    client.write_all(rest.as_bytes()).await.unwrap();
    let (found, _) = look(&mut server, "127.0.0.1:1".parse().unwrap(), &listener).await;
    assert!(!found.unwrap().tls);
    assert!(server.front().len() > 1, "the second look has come after the first");
    assert_eq!(is_h2(&mut server, &chain, &Drain::default()).await, Some(false));
    let mut read = vec![0; 1 + rest.len()];
    server.read_exact(&mut read).await.unwrap();
    assert_eq!(String::from_utf8(read).unwrap(), format!("G{rest}"));
}

#[tokio::test(flavor = "current_thread")]
async fn what_has_begun_as_tls_is_waited_for_and_is_never_plaintext() {
    const BOTH: &[&str] = &["tls", "raw_buffer"];
    const STRICT: &[&str] = &["tls"];
    let closing = ", listener_filters_timeout: 1s";
    for (transports, more, bytes, tls, waited_ms) in [
        (BOTH, "", &b""[..], Some(false), 100),
        (BOTH, "", b"HEL", Some(false), 100),
        (BOTH, "", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", Some(true), 10_000),
        (BOTH, "", b"\x16", Some(true), 10_000),
        (STRICT, "", b"", Some(false), 10_000),
        (STRICT, "", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", Some(true), 10_000),
        (STRICT, closing, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", None, 1000),
    ] {
        let listener = listener(transports, TCP, more);
        let (_client, mut server) = said(bytes).await;
        tokio::time::pause();
        let begin = Instant::now();
        let (found, _) = look(&mut server, "127.0.0.1:1".parse().unwrap(), &listener).await;
        let waited = begin.elapsed().as_millis();
        tokio::time::resume();
        assert_eq!(found.map(|found| found.tls), tls, "{transports:?} {bytes:?}");
        // Timers are a millisecond coarse.
        assert!((waited_ms..waited_ms + 10).contains(&waited), "{transports:?} {bytes:?}: {waited} ms");
    }
}
