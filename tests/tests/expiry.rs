//! What becomes of traffic when certificates end: renewed in time nobody notices; not renewed, it fails closed.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use outrider_tests::authority::Authority;
use outrider_tests::backend::Backend;
use outrider_tests::client::{self, PATIENCE, echoes};
use outrider_tests::config::{HCM, HTTP2, ROUTER, address, cluster};
use outrider_tests::identity_server::{Behaviour, IdentityServer};
use outrider_tests::mesh::{CLIENT, SERVER, TLS};
use outrider_tests::process::{Process, admin_get, free_port, scratch};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

const TCP_PROXY: &str = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
/// Within this of a certificate's end nothing goes on that rests on it: connections are looked at once a second.
const SOON: Duration = Duration::from_secs(3);

/// A sidecar whose certificates come from the control server.
struct Sidecar {
    proxy: Process,
    admin: u16,
    http: u16,
    tcp: u16,
}

/// What of the way between the sidecars is told of a peer, with the certificate and the roots of the workload's own.
fn socket(kind: &str, peer: &str, more: &str) -> String {
    format!(
        "transport_socket: {{name: tls, typed_config: {{\"@type\": {TLS}.{kind}{more}, common_tls_context: {{\
         tls_certificate_sds_secret_configs: [{{name: default}}], combined_validation_context: {{default_validation_context: \
         {{match_typed_subject_alt_names: [{{san_type: URI, matcher: {{exact: \"{peer}\"}}}}]}}, \
         validation_context_sds_secret_config: {{name: ROOTCA}}}}}}}}}}"
    )
}

impl Sidecar {
    /// One listener for HTTP and one for opaque connections, with `chain` behind their filters, before two clusters.
    fn start(server: &IdentityServer, token: &str, chain: &str, clusters: &[String; 2]) -> Self {
        let [admin, http, tcp] = [free_port(), free_port(), free_port()];
        let hcm = format!(
            "{{name: http, typed_config: {{\"@type\": {HCM}, stat_prefix: s, http_filters: [{{name: r, typed_config: {{\"@type\": \
             {ROUTER}}}}}], route_config: {{virtual_hosts: [{{name: v, domains: ['*'], routes: [{{match: {{prefix: /}}, \
             route: {{cluster: http}}}}]}}]}}}}}}"
        );
        let opaque =
            format!("{{name: t, typed_config: {{\"@type\": {TCP_PROXY}, stat_prefix: t, cluster: tcp}}}}");
        let listener = |name: &str, port: u16, filter: &str| {
            let address = address(port);
            format!("{{name: {name}, address: {address}, filter_chains: [{{filters: [{filter}]{chain}}}]}}")
        };
        let config = format!(
            "admin: {{address: {}}}\nstatic_resources: {{listeners: [{}, {}], clusters: [{}]}}\n",
            address(admin),
            listener("http", http, &hcm),
            listener("tcp", tcp, &opaque),
            clusters.join(", "),
        );
        let file = scratch("token").join("token");
        fs::write(&file, token).unwrap();
        let control = format!("http://127.0.0.1:{}", server.port);
        let env = [
            ("OUTRIDER_IDENTITY_CONTROL", control.as_str()),
            ("OUTRIDER_IDENTITY_TOKEN_FILE", file.to_str().unwrap()),
        ];
        Self { proxy: Process::outrider_with(&config, admin, &env), admin, http, tcp }
    }

    fn metric(&self, name: &str) -> f64 {
        let all = admin_get(self.admin, "/metrics").unwrap();
        all.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or(0.0)
    }

    fn ends(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs_f64(self.metric("outrider_identity_expiry_timestamp_seconds"))
    }
}

/// Two sidecars, the client's before the server's, with certificates of this life.
struct Pair {
    control: IdentityServer,
    backend: Backend,
    server: Sidecar,
    client: Sidecar,
}

impl Pair {
    async fn start(life: Duration, http2: bool) -> Self {
        let (authority, backend) = (Arc::new(Authority::new("mesh.test")), Backend::start().await);
        let mut behaviour = Behaviour::one("server", SERVER, life);
        behaviour.tokens.insert("client".into(), CLIENT.into());
        let control = IdentityServer::start(&authority, behaviour);
        let chain =
            format!(", {}", socket("DownstreamTlsContext", CLIENT, ", require_client_certificate: true"));
        let to_app = ["http", "tcp"].map(|name| cluster(name, backend.port, ""));
        let server = Sidecar::start(&control, "server", &chain, &to_app);
        let upstream = socket("UpstreamTlsContext", SERVER, "");
        let http = if http2 { format!("{upstream}, {HTTP2}") } else { upstream.clone() };
        let to_server = [cluster("http", server.http, &http), cluster("tcp", server.tcp, &upstream)];
        let client = Sidecar::start(&control, "client", "", &to_server);
        let pair = Self { control, backend, server, client };
        let end = Instant::now() + PATIENCE;
        while pair.client.ask(&mut None).await != Some(200) {
            assert!(Instant::now() < end, "{}\n{}", pair.client.proxy.log(), pair.server.proxy.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        pair
    }
}

impl Sidecar {
    /// The status of a request on a connection that is kept; a new one is made where there is none.
    async fn ask(&self, kept: &mut Option<TcpStream>) -> Option<u16> {
        let mut stream = match kept.take() {
            Some(stream) => stream,
            None => client::connect(self.http).await,
        };
        stream.write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").await.ok()?;
        let mut bytes = Vec::new();
        loop {
            let read = timeout(PATIENCE, stream.read_buf(&mut bytes)).await.ok()?.ok()?;
            let answer = client::parse_h1(&bytes, false);
            if answer.whole {
                *kept = (answer.header("connection") != Some("close")).then_some(stream);
                return Some(answer.status);
            }
            if read == 0 {
                return None;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_goes_on_to_the_end_of_the_certificates_and_then_fails_closed() {
    for http2 in [false, true] {
        let pair = Pair::start(Duration::from_secs(8), http2).await;
        let mut tunnel = client::websocket(pair.client.tcp).await;
        assert!(echoes(&mut tunnel, b"begun").await);
        let Pair { control, backend, server, client } = pair;
        drop(control);
        let (first, last) = (server.ends().min(client.ends()), server.ends().max(client.ends()));

        let (mut kept, mut asked) = (None, 0);
        // A request under way when the second ends may be either.
        while SystemTime::now() + Duration::from_millis(300) < first {
            assert_eq!(client.ask(&mut kept).await, Some(200), "{}", client.proxy.log());
            asked += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(asked > 20, "{asked}: the lives were too short for this to show anything");
        assert!(echoes(&mut tunnel, b"still there").await);
        assert!(client.metric("outrider_identity_renewals_total{outcome=\"unreachable\"}") >= 1.0);

        while SystemTime::now() < last + SOON {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let before = backend.seen().len();
        for _ in 0..20 {
            assert_eq!(client.ask(&mut None).await, Some(503), "HTTP/2: {http2}");
            assert_ne!(client.ask(&mut kept).await, Some(200), "HTTP/2: {http2}");
        }
        assert_eq!(backend.seen().len(), before, "nothing came through");
        let mut byte = [0];
        let ended = timeout(PATIENCE, tunnel.read(&mut byte)).await.expect("the tunnel is ended");
        assert!(!matches!(ended, Ok(1..)));
        let cut = "outrider_connections_cut_total{reason=\"identity_expired\"}";
        assert!(server.metric(cut) + client.metric(cut) >= 1.0);
        let refused = "outrider_tls_handshakes_total{side=\"upstream\",outcome=\"tls_not_ready\"}";
        assert!(client.metric(refused) >= 1.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_retired_before_their_certificates_end_and_no_request_fails() {
    const LIFE: Duration = Duration::from_secs(4);
    for http2 in [false, true] {
        let pair = Pair::start(LIFE, http2).await;
        let until = Instant::now() + LIFE * 3;
        let one = async || {
            let (mut kept, mut asked) = (None, 0_u32);
            while Instant::now() < until {
                let status = pair.client.ask(&mut kept).await;
                assert_eq!(status, Some(200), "after {asked}\n{}", pair.client.proxy.log());
                asked += 1;
            }
            asked
        };
        let asked = tokio::join!(one(), one(), one(), one());
        assert!(asked.0 > 100, "{asked:?}");
        let renewed = pair.client.metric("outrider_identity_renewals_total{outcome=\"ok\"}");
        assert!(renewed >= 4.0, "{renewed}");
        // Each connection between the two lived no longer than its certificates.
        let shaken = |outcome: &str| {
            let name = format!("outrider_tls_handshakes_total{{side=\"downstream\",outcome=\"{outcome}\"}}");
            pair.server.metric(&name)
        };
        assert!(shaken("ok") + shaken("resumed") >= 3.0);
        let cut = "outrider_connections_cut_total{reason=\"identity_expired\"}";
        assert_eq!(pair.server.metric(cut) + pair.client.metric(cut), 0.0);
        drop(pair.control);
    }
}
