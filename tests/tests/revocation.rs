//! Identities that are cut off, and certificates that are replaced, over ADS and under load.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use outrider_proto::envoy::extensions::transport_sockets::tls::v3 as pb_tls;
use outrider_proto::envoy::service::discovery::v3::{DeltaDiscoveryResponse, Resource};
use outrider_proto::outrider::identity::v1::RevocationList;
use outrider_proto::type_url;
use outrider_tests::ads::Ads;
use outrider_tests::authority::{Authority, Credentials};
use outrider_tests::backend::Backend;
use outrider_tests::client::{self, Ask, PATIENCE, echoes, websocket};
use outrider_tests::config::{HCM, HTTP2, ROUTER, address, cluster};
use outrider_tests::mesh::{CLIENT, DAY, Mesh, SERVER, TLS};
use outrider_tests::process::{Process, admin_get, free_port};
use prost::Message;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

/// The roots of either side, in the folder of the mesh.
const SERVER_ROOTS: &str = "of-server.pem";
const CLIENT_ROOTS: &str = "of-client.pem";

/// Two sidecars with mutual TLS between them, and a control server for each.
struct Pair {
    server_ads: Ads,
    client_ads: Ads,
    mesh: Mesh,
    server: Process,
    client: Process,
    server_admin: u16,
    client_admin: u16,
    /// Where the application asks.
    port: u16,
    backend: Backend,
}

fn chain(port: u16, socket: &str) -> String {
    format!(
        "{{name: l, address: {}, filter_chains: [{{filters: [{{name: http, typed_config: {{\"@type\": {HCM}, stat_prefix: s, \
         upgrade_configs: [{{upgrade_type: websocket}}], http_filters: [{{name: r, typed_config: {{\"@type\": {ROUTER}}}}}], \
         route_config: {{virtual_hosts: [{{name: v, domains: ['*'], routes: [{{match: {{prefix: /}}, route: {{cluster: be}}}}]}}]}}}}}}]{socket}}}]}}",
        address(port)
    )
}

fn config(admin: u16, listener: &str, be: &str, ads: &Ads) -> String {
    format!(
        "admin: {{address: {}}}\nnode: {{id: me}}\ndynamic_resources: {{cds_config: {{ads: {{}}, resource_api_version: V3}}, \
         ads_config: {{api_type: DELTA_GRPC, transport_api_version: V3, grpc_services: [{{envoy_grpc: {{cluster_name: xds}}}}]}}}}\n\
         static_resources: {{listeners: [{listener}], clusters: [{be}, {}]}}\n",
        address(admin),
        cluster("xds", ads.port, HTTP2)
    )
}

impl Pair {
    /// The server's certificate comes from its control server when `sds` is set.
    async fn start(sds: bool) -> Self {
        Self::of(Mesh::new("revocation"), sds, "http/1.1").await
    }

    /// Each side has a file of roots of its own, and this is what they speak with each other.
    async fn of(mesh: Mesh, sds: bool, protocol: &str) -> Self {
        let backend = Backend::start().await;
        for side in [SERVER_ROOTS, CLIENT_ROOTS] {
            fs::write(mesh.folder.join(side), mesh.authority.root_pem()).unwrap();
        }
        let (server_ads, client_ads) = (Ads::start(0).await, Ads::start(0).await);
        let (server_admin, client_admin) = (free_port(), free_port());
        let (inner, port) = (free_port(), free_port());
        let socket = if sds {
            format!(
                ", transport_socket: {{name: tls, typed_config: {{\"@type\": {TLS}.DownstreamTlsContext, \
                 require_client_certificate: true, common_tls_context: {{alpn_protocols: [http/1.1], \
                 tls_certificate_sds_secret_configs: [{{name: mine, sds_config: {{ads: {{}}, resource_api_version: V3}}}}], \
                 validation_context: {{trusted_ca: {{filename: {}}}}}}}}}}}",
                mesh.folder.join(SERVER_ROOTS).display()
            )
        } else {
            format!(", {}", mesh.downstream().replace("ca.pem", SERVER_ROOTS))
        };
        let server =
            config(server_admin, &chain(inner, &socket), &cluster("be", backend.port, ""), &server_ads);
        let server = Process::outrider(&server, server_admin);
        // Each request has a handshake of its own where certificates are to be seen.
        let fresh = "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: \
                     {\"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, \
                     common_http_protocol_options: {max_requests_per_connection: 1}, explicit_http_config: {http_protocol_options: {}}}}";
        let upstream = mesh.upstream(protocol).replace("ca.pem", CLIENT_ROOTS);
        let more = match protocol {
            "h2" => format!("{upstream}, {HTTP2}"),
            _ if sds => format!("{upstream}, {fresh}"),
            _ => upstream,
        };
        let client = config(client_admin, &chain(port, ""), &cluster("be", inner, &more), &client_ads);
        let client = Process::outrider(&client, client_admin);
        Self { server_ads, client_ads, mesh, server, client, server_admin, client_admin, port, backend }
    }
}

async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::task::yield_now().await;
        }
    };
    assert!(timeout(PATIENCE, waiting).await.is_ok(), "{what}");
}

fn response(kind: &str, nonce: &str, name: &str, message: &impl Message) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: kind.into(),
        nonce: nonce.into(),
        resources: vec![Resource {
            name: name.into(),
            version: nonce.into(),
            resource: Some(prost_types::Any { type_url: kind.into(), value: message.encode_to_vec() }),
            ttl: None,
        }],
        ..DeltaDiscoveryResponse::default()
    }
}

async fn subscribed(ads: &Ads, kind: &str) {
    until(kind, async || ads.requests().iter().any(|request| request.type_url == kind)).await;
}

async fn acknowledged(ads: &Ads, nonce: &str) {
    until(nonce, async || {
        ads.requests().iter().any(|request| {
            assert!(request.error_detail.is_none(), "{request:?}");
            request.response_nonce == nonce
        })
    })
    .await;
}

async fn status(port: u16) -> u16 {
    client::h1(port, &Ask::default()).await.status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_identity_is_cut_off_on_either_side_and_let_in_again() {
    for (at_server, revoked) in [(true, CLIENT), (false, SERVER)] {
        let pair = Pair::start(false).await;
        let (ads, admin) = if at_server {
            (&pair.server_ads, pair.server_admin)
        } else {
            (&pair.client_ads, pair.client_admin)
        };
        let mut tunnel = websocket(pair.port).await;
        assert!(echoes(&mut tunnel, b"before").await);
        assert_eq!(status(pair.port).await, 200);

        subscribed(ads, type_url::REVOCATIONS).await;
        let list = RevocationList {
            name: "cut".into(),
            spiffe_ids: vec![revoked.into()],
            ..RevocationList::default()
        };
        let pushed = Instant::now();
        ads.send(response(type_url::REVOCATIONS, "n1", "cut", &list));
        let mut byte = [0];
        let ended = timeout(PATIENCE, tunnel.read(&mut byte)).await.expect("the tunnel is ended");
        assert!(!matches!(ended, Ok(1..)), "{revoked}");
        until("new connections are refused", async || status(pair.port).await == 503).await;
        let took = pushed.elapsed();
        assert!(took < Duration::from_secs(1), "{revoked}: {took:?}");
        let metrics = admin_get(admin, "/metrics").unwrap();
        assert!(metrics.contains("outrider_connections_cut_total{reason=\"identity_revoked\"}"), "{metrics}");
        assert!(metrics.contains("outcome=\"tls_revoked\"}"), "{metrics}");

        ads.send(DeltaDiscoveryResponse {
            type_url: type_url::REVOCATIONS.into(),
            nonce: "n2".into(),
            removed_resources: vec!["cut".into()],
            ..DeltaDiscoveryResponse::default()
        });
        until("it is let in again", async || status(pair.port).await == 200).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_whose_root_is_gone_is_cut_off_on_either_side() {
    let other = Authority::new("mesh.test").root_pem();
    for roots in [SERVER_ROOTS, CLIENT_ROOTS] {
        let pair = Pair::start(false).await;
        let admin = if roots == SERVER_ROOTS { pair.server_admin } else { pair.client_admin };
        let mut tunnel = websocket(pair.port).await;
        assert!(echoes(&mut tunnel, b"before").await);
        fs::write(pair.mesh.folder.join(roots), &other).unwrap();
        let mut byte = [0];
        let ended = timeout(PATIENCE, tunnel.read(&mut byte)).await.expect("the tunnel is ended");
        assert!(!matches!(ended, Ok(1..)), "{roots}");
        let metrics = admin_get(admin, "/metrics").unwrap();
        assert!(metrics.contains("outrider_connections_cut_total{reason=\"policy_changed\"}"), "{metrics}");
        until("new connections are refused", async || status(pair.port).await == 503).await;
        fs::write(pair.mesh.folder.join(roots), pair.mesh.authority.root_pem()).unwrap();
        until("it is let in again", async || status(pair.port).await == 200).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_of_a_cluster_that_is_gone_is_cut_off_with_its_root_too() {
    let pair = Pair::start(false).await;
    let mut tunnel = websocket(pair.port).await;
    assert!(echoes(&mut tunnel, b"before").await);
    let file = pair.client.directory.join("config.yaml");
    let mut text = fs::read_to_string(&file).unwrap();
    for field in ["cluster: ", "name: ", "cluster_name: "] {
        text = text.replace(&format!("{field}be"), &format!("{field}other"));
    }
    fs::write(&file, text).unwrap();
    pair.client.signal("HUP");
    until("the cluster is gone", async || {
        status(pair.port).await == 200 && !admin_get(pair.client_admin, "/clusters").unwrap().contains("be::")
    })
    .await;
    assert!(echoes(&mut tunnel, b"what is under way goes on").await);
    fs::write(pair.mesh.folder.join(CLIENT_ROOTS), Authority::new("mesh.test").root_pem()).unwrap();
    let ended = timeout(PATIENCE, tunnel.read(&mut [0])).await.expect("the tunnel is ended");
    assert!(!matches!(ended, Ok(1..)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_connection_outlives_a_certificate_and_no_request_fails_for_it() {
    tokio::join!(
        outlived("client", "http/1.1"),
        outlived("server", "http/1.1"),
        outlived("client", "h2"),
        outlived("server", "h2"),
    );
}

/// Renews a certificate that ends soon, while requests go on and one connection stays as it is.
async fn outlived(who: &str, protocol: &str) {
    const LIFE: Duration = Duration::from_secs(25);
    let mesh = Mesh::new(&format!("expiry-{who}-{}", protocol.len()));
    let id = if who == "client" { CLIENT } else { SERVER };
    mesh.write(who, &mesh.authority.svid(id, LIFE));
    let pair = Pair::of(mesh, false, protocol).await;
    let mut held = if protocol == "h2" { upload(&pair).await } else { websocket(pair.port).await };
    assert_eq!(status(pair.port).await, 200);
    pair.mesh.write(who, &pair.mesh.authority.svid(id, DAY));
    let mut byte = [0];
    let ended = async {
        loop {
            tokio::select! {
                _ = held.read(&mut byte) => return,
                // On connections that are kept, as long as they are.
                status = status(pair.port) => assert_eq!(status, 200, "{who} {protocol}"),
            }
        }
    };
    timeout(LIFE + PATIENCE, ended).await.expect("it is ended");
    assert_eq!(status(pair.port).await, 200);
    let admin = if who == "client" { pair.server_admin } else { pair.client_admin };
    let metrics = admin_get(admin, "/metrics").unwrap();
    let cut = "outrider_connections_cut_total{reason=\"identity_expired\"} 1\n";
    assert!(metrics.contains(cut), "{who} {protocol}: only one was still there: {metrics}");
}

/// Begins a request whose body does not end, and waits until it has come through.
async fn upload(pair: &Pair) -> tokio::net::TcpStream {
    let mut stream = client::connect(pair.port).await;
    stream.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nbegun").await.unwrap();
    until("the body", async || pair.backend.received_bytes() >= 5).await;
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_revoked_is_cut_off_in_a_drain_too() {
    let mut pair = Pair::start(false).await;
    let mut tunnel = websocket(pair.port).await;
    assert!(echoes(&mut tunnel, b"before").await);
    subscribed(&pair.server_ads, type_url::REVOCATIONS).await;
    pair.server.signal("TERM");
    until("draining", async || {
        admin_get(pair.server_admin, "/ready").is_some_and(|answer| answer.contains("DRAINING"))
    })
    .await;
    assert!(echoes(&mut tunnel, b"in the drain").await);
    let list =
        RevocationList { name: "cut".into(), spiffe_ids: vec![CLIENT.into()], ..RevocationList::default() };
    pair.server_ads.send(response(type_url::REVOCATIONS, "n1", "cut", &list));
    let ended = timeout(PATIENCE, tunnel.read(&mut [0])).await.expect("long before the drain's end");
    assert!(!matches!(ended, Ok(1..)));
    assert_eq!(pair.server.wait(PATIENCE), Some(0), "nothing is left");
    assert!(pair.server.log().contains("identity_revoked"), "{}", pair.server.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_with_a_typing_error_is_refused_and_the_last_one_stays() {
    let pair = Pair::start(false).await;
    subscribed(&pair.server_ads, type_url::REVOCATIONS).await;
    let list = |id: &str| RevocationList {
        name: "cut".into(),
        spiffe_ids: vec![id.into()],
        ..RevocationList::default()
    };
    pair.server_ads.send(response(type_url::REVOCATIONS, "n1", "cut", &list(CLIENT)));
    until("refused", async || status(pair.port).await == 503).await;
    pair.server_ads.send(response(type_url::REVOCATIONS, "n2", "cut", &list("spiffe:/typing/error")));
    until("the refusal names the field", async || {
        let requests = pair.server_ads.requests();
        let refusal = requests.iter().find(|request| request.response_nonce == "n2");
        refusal.is_some_and(|request| {
            request.error_detail.as_ref().is_some_and(|error| error.message.contains("spiffe_ids[0]"))
        })
    })
    .await;
    assert_eq!(status(pair.port).await, 503);
}

fn secret(credentials: &Credentials) -> pb_tls::Secret {
    let yaml = serde_json::json!({
        "name": "mine",
        "tls_certificate": {
            "certificate_chain": {"inline_string": credentials.chain_pem},
            "private_key": {"inline_string": credentials.key_pem},
        },
    });
    outrider_proto::json::from_yaml(&yaml.to_string()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_rotations_under_load_and_no_request_fails() {
    const ROTATIONS: usize = 1000;
    const CLIENTS: usize = 4;
    let pair = Pair::start(true).await;
    subscribed(&pair.server_ads, type_url::SECRET).await;
    pair.server_ads.send(response(
        type_url::SECRET,
        "n0",
        "mine",
        &secret(&pair.mesh.authority.svid(SERVER, DAY)),
    ));
    until("the first certificate", async || status(pair.port).await == 200).await;
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (stop, asked, port) = (Arc::clone(&stop), Arc::clone(&asked), pair.port);
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(status(port).await, 200);
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for rotation in 1..=ROTATIONS {
        let credentials = pair.mesh.authority.svid(SERVER, DAY);
        let nonce = format!("n{rotation}");
        let before = asked.load(Ordering::Relaxed);
        pair.server_ads.send(response(type_url::SECRET, &nonce, "mine", &secret(&credentials)));
        acknowledged(&pair.server_ads, &nonce).await;
        until("a request under this certificate", async || asked.load(Ordering::Relaxed) > before).await;
    }
    stop.store(true, Ordering::Relaxed);
    for client in load {
        client.await.expect("no request failed");
    }
    println!("{ROTATIONS} rotations, {} requests, none failed", asked.load(Ordering::Relaxed));
    // Its control server never says what clusters there are.
    let log = pair.client.log().replace("WARN outrider_proxy::control::starting", "");
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
}
