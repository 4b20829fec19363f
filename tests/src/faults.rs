//! A proxy whose faults a test injects over ADS.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use outrider_proto::envoy::service::discovery::v3::{DeltaDiscoveryResponse, Resource};
use outrider_proto::outrider::fault::v1::FaultInjection;
use outrider_proto::{json, type_url};
use prost::Message as _;
use prost_types::Any;

use crate::ads::Ads;
use crate::backend::Backend;
use crate::client::{self, Answer, Ask, PATIENCE};
use crate::config::{HCM, HTTP2, ROUTER, STDOUT, address, cluster};
use crate::process::{Process, admin_get, free_port, scratch};

const TCP_PROXY: &str = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
/// The status of a request that has met what only [`Lab::settle`] injects.
const SETTLED: u16 = 599;

/// What is special about a lab.
#[derive(Clone, Copy, Debug, Default)]
pub struct Setup<'a> {
    /// The proxy's environment.
    pub env: &'a [(&'a str, &'a str)],
    /// Whether the way to the control server leads through a process of its own, which can be killed and stopped.
    pub forwarded: bool,
    /// The transport socket of the listener `tls`.
    pub socket: &'a str,
    /// Further filters of the HTTP chains, each with a comma behind.
    pub filters: &'a str,
    /// Further settings of the HTTP chains, each with a comma behind.
    pub http: &'a str,
    /// Further clusters, each with a comma before.
    pub clusters: &'a str,
    /// What is special about the cluster `be`.
    pub cluster: &'a str,
    /// Where it leads instead of to the backend; nowhere else when 0.
    pub leads_to: u16,
}

/// One proxy with a listener of each kind before one backend, and its control server.
#[derive(Debug)]
pub struct Lab {
    /// The control server.
    pub ads: Ads,
    /// What stands between it and the proxy, where it was asked for: HAProxy.
    pub forwarder: Option<Process>,
    /// The proxy.
    pub proxy: Process,
    /// What everything goes to.
    pub backend: Backend,
    /// The second endpoint of what `/retry` goes to.
    pub other: Backend,
    /// Where the operator's endpoints are.
    pub admin: u16,
    /// Inbound HTTP.
    pub inbound: u16,
    /// Outbound HTTP.
    pub outbound: u16,
    /// Inbound, opaque.
    pub tcp: u16,
    /// HTTP without a direction, as the sidecar's own ports have it.
    pub own: u16,
    /// Inbound HTTP over TLS, where a socket was given.
    pub tls: u16,
    nonce: AtomicU32,
}

fn listener(name: &str, port: u16, direction: &str, filter: &str, socket: &str) -> String {
    format!(
        "{{name: {name}, address: {}, traffic_direction: {direction}, filter_chains: [{{filters: [{filter}]{socket}}}]}}",
        address(port)
    )
}

impl Lab {
    /// Starts it.
    pub async fn start(setup: Setup<'_>) -> Self {
        let (ads, backend, other) = (Ads::start(0).await, Backend::start().await, Backend::start().await);
        let ports: [u16; 6] = std::array::from_fn(|_| free_port());
        let [admin, inbound, outbound, tcp, own, tls] = ports;
        let (forwarder, control) = if setup.forwarded {
            let port = free_port();
            (Some(forward(port, ads.port)), port)
        } else {
            (None, ads.port)
        };
        let log = format!(
            "access_log: [{{name: log, typed_config: {{\"@type\": {STDOUT}, log_format: {{text_format_source: \
             {{inline_string: \"LINE %REQ(X-KEY)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %DYNAMIC_METADATA(outrider.fault:names)%\\n\"}}}}}}}}]"
        );
        let http = format!(
            "{{name: http, typed_config: {{\"@type\": {HCM}, stat_prefix: s, {log}, {}http_filters: [{}{{name: r, typed_config: {{\"@type\": \
             {ROUTER}}}}}], route_config: {{virtual_hosts: [{{name: v, domains: ['*'], routes: [{{match: {{prefix: /retry}}, name: retry, \
             route: {{cluster: two, retry_policy: {{retry_on: 'connect-failure,5xx,reset', num_retries: 3, per_try_timeout: 0.3s, \
             retry_back_off: {{base_interval: 0.001s, max_interval: 0.002s}}}}}}}}, \
             {{match: {{prefix: /}}, name: all, route: {{cluster: be, timeout: 60s}}}}]}}]}}}}}}",
            setup.http, setup.filters
        );
        let opaque = format!(
            "{{name: tcp, typed_config: {{\"@type\": {TCP_PROXY}, stat_prefix: t, cluster: be, max_connect_attempts: 2, {log}}}}}"
        );
        let mut listeners = vec![
            listener("in", inbound, "INBOUND", &http, ""),
            listener("out", outbound, "OUTBOUND", &http, ""),
            listener("tcp", tcp, "INBOUND", &opaque, ""),
            listener("own", own, "UNSPECIFIED", &http, ""),
        ];
        if !setup.socket.is_empty() {
            listeners.push(listener("tls", tls, "INBOUND", &http, &format!(", {}", setup.socket)));
        }
        let two = format!(
            "{{name: two, type: STATIC, load_assignment: {{cluster_name: two, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {}}}}}, \
             {{endpoint: {{address: {}}}}}]}}]}}}}",
            address(backend.port),
            address(other.port)
        );
        let config = format!(
            "admin: {{address: {}}}\nnode: {{id: me}}\ndynamic_resources: {{cds_config: {{ads: {{}}, resource_api_version: V3}}, \
             ads_config: {{api_type: DELTA_GRPC, transport_api_version: V3, grpc_services: [{{envoy_grpc: {{cluster_name: xds}}}}]}}}}\n\
             static_resources: {{listeners: [{}], clusters: [{}, {two}, {}{}]}}\n",
            address(admin),
            listeners.join(", "),
            cluster("be", if setup.leads_to == 0 { backend.port } else { setup.leads_to }, setup.cluster),
            cluster("xds", control, HTTP2),
            setup.clusters
        );
        let env: Vec<_> = setup.env.iter().copied().chain([("OUTRIDER_WORKERS", "1")]).collect();
        let proxy = Process::outrider_with(&config, admin, &env);
        let lab = Self {
            ads,
            forwarder,
            proxy,
            backend,
            other,
            admin,
            inbound,
            outbound,
            tcp,
            own,
            tls,
            nonce: AtomicU32::new(0),
        };
        lab.until("a stream", || !lab.ads.opened().is_empty()).await;
        lab
    }

    /// Waits until this holds.
    pub async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !holds() {
            assert!(Instant::now() < end, "{what}\n{}", self.proxy.log());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Says faults (name and the rest, in YAML) with a TTL, takes others away, and waits until the proxy has answered;
    /// what it refuses is returned.
    ///
    /// # Panics
    /// When a fault is no valid message, or no answer comes.
    pub async fn push(
        &self,
        faults: &[(&str, &str)],
        ttl: Option<Duration>,
        gone: &[&str],
    ) -> Option<String> {
        let nonce = format!("n{}", self.nonce.fetch_add(1, Ordering::Relaxed));
        let resources = faults.iter().map(|(name, rest)| {
            let text = format!("{{name: {name}, {rest}}}");
            let message: FaultInjection = json::from_yaml(&text).expect(&text);
            wrapped(name, rest, Some(&message), ttl)
        });
        self.ads.send(DeltaDiscoveryResponse {
            type_url: type_url::FAULTS.into(),
            nonce: nonce.clone(),
            resources: resources.collect(),
            removed_resources: gone.iter().map(|name| (*name).to_owned()).collect(),
            ..DeltaDiscoveryResponse::default()
        });
        let answer = || self.ads.requests().into_iter().find(|request| request.response_nonce == nonce);
        self.until("an answer", || answer().is_some()).await;
        answer().and_then(|answer| answer.error_detail).map(|error| error.message)
    }

    /// Says that a fault goes on, and does not wait.
    pub fn beat(&self, name: &str, rest: &str, ttl: Duration) {
        self.ads.send(DeltaDiscoveryResponse {
            type_url: type_url::FAULTS.into(),
            nonce: "beat".into(),
            resources: vec![wrapped(name, rest, None, Some(ttl))],
            ..DeltaDiscoveryResponse::default()
        });
    }

    /// Puts these faults, and no others, in force for a minute.
    pub async fn inject(&self, faults: &[&str]) {
        let old: Vec<String> = (0..10).map(|index| format!("f{index}")).collect();
        let gone: Vec<&str> = old.iter().map(String::as_str).skip(faults.len()).collect();
        let faults: Vec<String> = faults.iter().map(|fault| format!("fault: {{{fault}}}")).collect();
        let named: Vec<(&str, &str)> =
            old.iter().zip(&faults).map(|(name, fault)| (name.as_str(), fault.as_str())).collect();
        let refused = self.push(&named, Some(Duration::from_secs(60)), &gone).await;
        assert_eq!(refused, None);
        self.settle().await;
    }

    /// Waits until everything that was said before is in force.
    ///
    /// # Panics
    /// When it is not.
    pub async fn settle(&self) {
        let path = format!("/settle/{}", self.nonce.load(Ordering::Relaxed));
        let probe = format!(
            "fault: {{place: INBOUND, match: {{path: {{exact: {path}}}}}, abort: {{http_status: {SETTLED}}}}}"
        );
        let refused = self.push(&[("a-settle", &probe)], Some(Duration::from_secs(60)), &[]).await;
        assert_eq!(refused, None);
        let end = Instant::now() + PATIENCE;
        // What is still in force may hold the request up.
        let soon = Duration::from_secs(1);
        let settled = async || {
            let answer = tokio::time::timeout(soon, self.get(self.inbound, &path)).await;
            answer.is_ok_and(|answer| answer.status == SETTLED)
        };
        while !settled().await {
            assert!(Instant::now() < end, "not in force\n{}", self.proxy.log());
        }
    }

    /// One request over HTTP/1.1.
    pub async fn get(&self, port: u16, path: &str) -> Answer {
        client::h1(port, &Ask { path: path.into(), ..Ask::default() }).await
    }

    /// A request with fields, and how long its answer took.
    pub async fn timed(&self, port: u16, path: &str, headers: &[(&str, &str)]) -> (Answer, Duration) {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let begun = Instant::now();
        let answer = client::h1(port, &Ask { path: path.into(), headers, ..Ask::default() }).await;
        (answer, begun.elapsed())
    }

    /// The value of a series; 0 when it is not there.
    ///
    /// # Panics
    /// When the operator's endpoints do not answer.
    #[must_use]
    pub fn metric(&self, series: &str) -> f64 {
        let all = admin_get(self.admin, "/metrics").expect("metrics");
        all.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok()).unwrap_or(0.0)
    }

    /// What the access log says of a request with this `x-key`.
    pub async fn line(&self, key: &str) -> String {
        let prefix = format!("LINE {key} ");
        let found =
            || self.proxy.log().lines().find_map(|line| line.strip_prefix(&prefix).map(str::to_owned));
        self.until("a line", || found().is_some()).await;
        found().unwrap_or_default()
    }
}

/// A resource as it goes over the wire; without a message it is a heartbeat.
fn wrapped(name: &str, version: &str, message: Option<&FaultInjection>, ttl: Option<Duration>) -> Resource {
    Resource {
        name: name.into(),
        version: version.into(),
        resource: message
            .map(|message| Any { type_url: type_url::FAULTS.into(), value: message.encode_to_vec() }),
        ttl: ttl.and_then(|ttl| ttl.try_into().ok()),
    }
}

/// HAProxy from one port to another.
fn forward(from: u16, to: u16) -> Process {
    let directory = scratch("forwarder");
    let file = directory.join("haproxy.cfg");
    let config = format!(
        "global\n  nbthread 1\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n\
         listen f\n  bind 127.0.0.1:{from}\n  server s 127.0.0.1:{to}\n"
    );
    std::fs::write(&file, config).expect("the configuration");
    let mut command = Command::new(haproxy().expect("HAProxy"));
    command.args(["-db", "-f"]).arg(&file);
    Process::spawn(command, directory, "haproxy")
}

/// HAProxy, if it is there. In CI its absence is an error.
#[must_use]
pub fn haproxy() -> Option<PathBuf> {
    let places = ["/usr/sbin/haproxy", "/usr/local/sbin/haproxy", "/usr/bin/haproxy"];
    let found = places.iter().map(PathBuf::from).find(|path| path.exists());
    assert!(found.is_some() || std::env::var_os("CI").is_none(), "HAProxy is missing and CI must have it");
    found
}
