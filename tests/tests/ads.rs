//! Control servers that misbehave: what they may cost, and what stays.

use std::time::Duration;

use outrider_proto::envoy::service::discovery::v3::{DeltaDiscoveryResponse, Resource};
use outrider_proto::type_url;
use outrider_tests::ads::Ads;
use outrider_tests::backend::Backend;
use outrider_tests::client::{self, Ask, PATIENCE};
use outrider_tests::config::{self, HCM, ROUTER};
use outrider_tests::process::{Process, admin_get, free_port};
use prost::Message;
use tokio::time::Instant;

struct Lab {
    ads: Ads,
    proxy: Process,
    admin: u16,
    /// Of a listener that comes over ADS.
    port: u16,
    /// Of a listener that is in the file.
    fixed: u16,
}

impl Lab {
    async fn start(resets: usize, kinds: &[&str]) -> Self {
        let (ads, backend) = (Ads::start(resets).await, Backend::start().await);
        let (admin, port, fixed) = (free_port(), free_port(), free_port());
        let clusters =
            [config::cluster("xds", ads.port, config::HTTP2), config::cluster("be", backend.port, "")];
        let kinds: String =
            kinds.iter().map(|kind| format!("{kind}: {{ads: {{}}, resource_api_version: V3}}, ")).collect();
        let config = format!(
            "{}node: {{id: me}}\ndynamic_resources: {{{kinds}ads_config: {{api_type: DELTA_GRPC, \
             transport_api_version: V3, grpc_services: [{{envoy_grpc: {{cluster_name: xds}}}}]}}}}\n",
            config::web(admin, fixed, "", &[config::TO_BE], &clusters)
        );
        let proxy = Process::outrider(&config, admin);
        Self { ads, proxy, admin, port, fixed }
    }

    async fn until(&self, what: &str, holds: impl AsyncFn() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !holds().await {
            let requests = self.ads.requests();
            assert!(Instant::now() < end, "{what}: {:?}", &requests[requests.len().saturating_sub(3)..]);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The status at a port; 0 when nobody listens there.
    async fn status(&self, port: u16, path: &str) -> u16 {
        if std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            return 0;
        }
        client::h1(port, &Ask { path: path.into(), ..Ask::default() }).await.status
    }

    /// Whether this response was answered; with a refusal, what it says.
    fn answer(&self, nonce: &str) -> Option<String> {
        let requests = self.ads.requests();
        let found = requests.iter().find(|request| request.response_nonce == nonce)?;
        Some(found.error_detail.as_ref().map(|error| error.message.clone()).unwrap_or_default())
    }

    async fn answered(&self, nonce: &str) -> String {
        self.until(nonce, async || self.answer(nonce).is_some()).await;
        self.answer(nonce).unwrap()
    }

    async fn subscribed(&self, kind: &str) {
        let asked = async || self.ads.requests().iter().any(|request| request.type_url == kind);
        self.until(kind, asked).await;
    }

    /// How often this was subscribed to.
    fn asked(&self, kind: &str, name: &str) -> usize {
        let requests = self.ads.requests();
        let of_kind = requests.iter().filter(|request| request.type_url == kind);
        of_kind.flat_map(|request| &request.resource_names_subscribe).filter(|asked| *asked == name).count()
    }

    /// The port of a listener that is published.
    fn listens(&self, name: &str) -> Option<u16> {
        let all = admin_get(self.admin, "/listeners").unwrap();
        let line = all.lines().find_map(|line| line.strip_prefix(&format!("{name}::127.0.0.1:")))?;
        line.parse().ok()
    }

    /// How many snapshots were published.
    fn published(&self) -> u64 {
        let dump = admin_get(self.admin, "/config_dump").unwrap();
        let json: serde_json::Value = serde_json::from_str(dump.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        json["version"].as_u64().unwrap()
    }
}

fn wrapped(kind: &str, name: &str, version: &str, message: &impl Message) -> Resource {
    Resource {
        name: name.into(),
        version: version.into(),
        resource: Some(prost_types::Any { type_url: kind.into(), value: message.encode_to_vec() }),
        ttl: None,
    }
}

fn response(kind: &str, nonce: &str, resources: Vec<Resource>) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: kind.into(),
        nonce: nonce.into(),
        resources,
        ..DeltaDiscoveryResponse::default()
    }
}

fn listener(port: u16, version: &str) -> Resource {
    named("l", (port, "r"), version)
}

/// A listener at a port, with the name of its routes.
fn named(name: &str, (port, routes): (u16, &str), version: &str) -> Resource {
    let yaml = format!(
        "{{name: {name}, address: {}, filter_chains: [{{filters: [{{name: h, typed_config: {{'@type': {HCM}, stat_prefix: w, \
         rds: {{route_config_name: {routes}, config_source: {{ads: {{}}, resource_api_version: V3}}}}, \
         http_filters: [{{name: r, typed_config: {{'@type': {ROUTER}}}}}]}}}}]}}]}}",
        config::address(port)
    );
    let message: outrider_proto::envoy::config::listener::v3::Listener =
        outrider_proto::json::from_yaml(&yaml).unwrap();
    wrapped(type_url::LISTENER, name, version, &message)
}

fn routes(status: u32, version: &str) -> Resource {
    routes_named("r", status, version)
}

fn routes_named(name: &str, status: u32, version: &str) -> Resource {
    let yaml = format!(
        "{{name: {name}, virtual_hosts: [{{name: v, domains: ['*'], routes: [{{match: {{prefix: /}}, direct_response: {{status: {status}}}}}]}}]}}"
    );
    let message: outrider_proto::envoy::config::route::v3::RouteConfiguration =
        outrider_proto::json::from_yaml(&yaml).unwrap();
    wrapped(type_url::ROUTE, name, version, &message)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_resets_every_stream_is_asked_less_and_less_often() {
    let lab = Lab::start(4, &["lds_config"]).await;
    lab.until("a good stream", async || lab.ads.opened().len() >= 5).await;
    let opened = lab.ads.opened();
    // Half of 0.25, 0.5, 1 and 2 s at the least, and not the same every time.
    assert!(opened[4] - opened[0] >= Duration::from_millis(1875), "{opened:?}");
    assert_eq!(lab.status(lab.fixed, "/").await, 200, "what is there goes on");
    lab.subscribed(type_url::LISTENER).await;
    lab.ads.send(response(type_url::LISTENER, "1", vec![listener(lab.port, "1")]));
    assert_eq!(lab.answered("1").await, "");
    lab.subscribed(type_url::ROUTE).await;
    lab.ads.send(response(type_url::ROUTE, "2", vec![routes(201, "1")]));
    lab.until("the state converges", async || lab.status(lab.port, "/").await == 201).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_is_ready_when_its_listeners_and_clusters_were_told_and_stays_so() {
    let lab = Lab::start(0, &["lds_config", "cds_config"]).await;
    let ready = || admin_get(lab.admin, "/ready").unwrap();
    lab.subscribed(type_url::LISTENER).await;
    assert!(ready().contains(" 503 ") && ready().contains("INITIALIZING"));
    assert_eq!(lab.status(lab.fixed, "/").await, 200, "what is in the file is served already");
    lab.ads.send(response(type_url::CLUSTER, "c1", Vec::new()));
    lab.answered("c1").await;
    assert!(ready().contains("INITIALIZING"), "there are no clusters, and nothing is known of listeners");
    lab.ads.send(response(type_url::LISTENER, "l1", vec![listener(lab.port, "1")]));
    lab.answered("l1").await;
    assert!(ready().contains("INITIALIZING"), "the listener waits for its routes");
    lab.ads.send(response(type_url::ROUTE, "r1", vec![routes(204, "1")]));
    lab.until("ready", async || ready().contains(" 200 ")).await;
    assert_eq!(lab.status(lab.port, "/").await, 204);

    // A listener that waits for its routes later on makes it unready no more.
    let late = named("late", (free_port(), "other"), "1");
    lab.ads.send(response(type_url::LISTENER, "l2", vec![late]));
    lab.answered("l2").await;
    assert!(ready().contains(" 200 "));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_updates_in_a_second_become_a_few() {
    let lab = Lab::start(0, &["lds_config"]).await;
    lab.subscribed(type_url::LISTENER).await;
    lab.ads.send(response(type_url::LISTENER, "l", vec![listener(lab.port, "1")]));
    lab.subscribed(type_url::ROUTE).await;
    let (before, begun) = (lab.published(), Instant::now());
    for number in 0..1000 {
        let last = routes(if number == 999 { 202 } else { 201 }, &number.to_string());
        lab.ads.send(response(type_url::ROUTE, &number.to_string(), vec![last]));
    }
    assert_eq!(lab.answered("999").await, "");
    lab.until("the last one counts", async || lab.status(lab.port, "/").await == 202).await;
    let (published, took) = (lab.published() - before, begun.elapsed());
    let most = 2 + took.as_millis() as u64 / 50;
    println!("1000 updates in {took:?}: {published} snapshots");
    assert!(published <= most, "{published} snapshots in {took:?}");
    let answered = (0..1000).filter(|number| lab.answer(&number.to_string()).is_some()).count();
    assert_eq!(answered, 1000, "every response is acknowledged");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_asked_for_changes_nothing() {
    let mut lab = Lab::start(0, &["cds_config"]).await;
    lab.subscribed(type_url::CLUSTER).await;
    lab.ads.send(response(type_url::LISTENER, "1", vec![listener(lab.port, "1")]));
    lab.ads.send(response(type_url::ROUTE, "2", vec![routes(201, "1")]));
    lab.ads.send(response("type.googleapis.com/no.such.Type", "3", Vec::new()));
    assert_eq!(lab.answered("1").await, "");
    assert_eq!(lab.answered("2").await, "");
    assert!(lab.answered("3").await.contains("was not asked for"));
    assert_eq!(lab.status(lab.port, "/").await, 0, "nobody listens");
    assert_eq!(lab.status(lab.fixed, "/").await, 200);
    assert!(lab.proxy.is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_lives_as_long_as_its_ttl_is_renewed() {
    let lab = Lab::start(0, &["lds_config"]).await;
    lab.subscribed(type_url::LISTENER).await;
    lab.ads.send(response(type_url::LISTENER, "l", vec![listener(lab.port, "1")]));
    lab.subscribed(type_url::ROUTE).await;
    let mut leased = routes(201, "1");
    leased.ttl = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    lab.ads.send(response(type_url::ROUTE, "first", vec![leased.clone()]));
    lab.until("there", async || lab.status(lab.port, "/").await == 201).await;
    leased.resource = None;
    let begun = Instant::now();
    let mut beats = 0;
    while begun.elapsed() < Duration::from_secs(2) {
        let nonce = format!("beat {beats}");
        lab.ads.send(response(type_url::ROUTE, &nonce, vec![leased.clone()]));
        assert_eq!(lab.answered(&nonce).await, "");
        assert_eq!(lab.status(lab.port, "/").await, 201, "after {:?}", begun.elapsed());
        beats += 1;
    }
    lab.until("its lease has run out", async || lab.status(lab.port, "/").await == 404).await;
    lab.ads.send(response(type_url::ROUTE, "late", vec![leased]));
    assert!(lab.answered("late").await.contains("ttl: had run out"));
    lab.ads.send(response(type_url::ROUTE, "again", vec![routes(201, "1")]));
    lab.until("there again", async || lab.status(lab.port, "/").await == 201).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn types_that_a_control_server_makes_up_are_counted_together() {
    const MADE_UP: usize = 20;
    let lab = Lab::start(0, &["cds_config"]).await;
    lab.subscribed(type_url::CLUSTER).await;
    for number in 0..MADE_UP {
        let kind = format!("type.googleapis.com/made.up.Number{number}");
        lab.ads.send(response(&kind, &format!("u{number}"), Vec::new()));
        lab.answered(&format!("u{number}")).await;
    }
    let metrics = admin_get(lab.admin, "/metrics").unwrap();
    assert!(
        metrics.contains(&format!("outrider_xds_updates_total{{type=\"other\"}} {MADE_UP}\n")),
        "{metrics}"
    );
    assert!(!metrics.contains("made.up"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_comes_at_the_address_of_one_that_goes() {
    let lab = Lab::start(0, &["lds_config"]).await;
    lab.subscribed(type_url::LISTENER).await;
    lab.ads.send(response(type_url::LISTENER, "a", vec![named("a", (lab.port, "r"), "1")]));
    lab.subscribed(type_url::ROUTE).await;
    lab.ads.send(response(type_url::ROUTE, "r", vec![routes(201, "1")]));
    lab.until("there", async || lab.status(lab.port, "/").await == 201).await;
    let mut renamed = response(type_url::LISTENER, "b", vec![named("b", (lab.port, "r"), "1")]);
    renamed.removed_resources = vec!["a".into()];
    lab.ads.send(renamed);
    assert_eq!(lab.answered("b").await, "");
    lab.until("renamed", async || lab.listens("b").is_some() && lab.listens("a").is_none()).await;
    assert_eq!(lab.status(lab.port, "/").await, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_moves_when_its_routes_are_there_and_not_when_it_is_refused() {
    let lab = Lab::start(0, &["lds_config"]).await;
    let other = free_port();
    lab.subscribed(type_url::LISTENER).await;
    // The name is that of the start-up file's.
    lab.ads.send(response(type_url::LISTENER, "static", vec![named("web", (other, "r"), "1")]));
    assert!(lab.answered("static").await.contains("start-up file has a resource of this name"));
    assert_eq!((lab.status(lab.fixed, "/").await, lab.status(other, "/").await), (200, 0));

    lab.ads.send(response(type_url::LISTENER, "l", vec![listener(lab.port, "1")]));
    lab.subscribed(type_url::ROUTE).await;
    lab.ads.send(response(type_url::ROUTE, "r", vec![routes(201, "1")]));
    lab.until("there", async || lab.status(lab.port, "/").await == 201).await;
    lab.ads.send(response(type_url::LISTENER, "moved", vec![named("l", (other, "s"), "2")]));
    assert_eq!(lab.answered("moved").await, "");
    let asked = async || lab.asked(type_url::ROUTE, "s") == 1;
    lab.until("its routes are asked for", asked).await;
    assert_eq!(lab.listens("l"), Some(lab.port), "it waits for them where it is");
    assert_eq!(lab.status(lab.port, "/").await, 201);
    lab.ads.send(response(type_url::ROUTE, "s", vec![routes_named("s", 202, "1")]));
    lab.until("it has moved", async || lab.listens("l") == Some(other)).await;
    assert_eq!(lab.status(other, "/").await, 202);
    lab.until("nobody is left", async || lab.status(lab.port, "/").await == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_reload_comes_to_want_is_asked_for_and_asked_for_again() {
    let lab = Lab::start(0, &["lds_config"]).await;
    lab.subscribed(type_url::LISTENER).await;
    let file = lab.proxy.directory.join("config.yaml");
    let without = std::fs::read_to_string(&file).unwrap();
    let cluster =
        "{name: e, type: EDS, eds_cluster_config: {eds_config: {ads: {}, resource_api_version: V3}}}";
    let with = without.replace("clusters: [", &format!("clusters: [{cluster}, "));
    for (round, (config, wanted)) in [(&with, true), (&without, false), (&with, true)].into_iter().enumerate()
    {
        std::fs::write(&file, config).unwrap();
        lab.proxy.signal("HUP");
        let reloads = format!("outrider_reloads_total{{outcome=\"ok\"}} {}", round + 1);
        lab.until("read again", async || admin_get(lab.admin, "/metrics").unwrap().contains(&reloads)).await;
        let times = 1 + round / 2;
        lab.until("asked for", async || !wanted || lab.asked(type_url::ENDPOINTS, "e") == times).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_takes_nothing_from_the_control_server() {
    let lab = Lab::start(0, &["lds_config"]).await;
    lab.subscribed(type_url::LISTENER).await;
    lab.ads.send(response(type_url::LISTENER, "l", vec![listener(lab.port, "1")]));
    lab.subscribed(type_url::ROUTE).await;
    lab.ads.send(response(type_url::ROUTE, "r", vec![routes(201, "1")]));
    lab.until("there", async || lab.status(lab.port, "/").await == 201).await;
    let file = lab.proxy.directory.join("config.yaml");
    let config = std::fs::read_to_string(&file).unwrap().replace("name: web", "name: l");
    std::fs::write(&file, config).unwrap();
    lab.proxy.signal("HUP");
    let refused = "outrider_reloads_total{outcome=\"refused\"} 1";
    lab.until("refused", async || admin_get(lab.admin, "/metrics").unwrap().contains(refused)).await;
    let reason = "static_resources.listeners[0].name: a resource of this name came over xDS";
    assert!(lab.proxy.log().contains(reason), "{}", lab.proxy.log());
    assert_eq!((lab.status(lab.port, "/").await, lab.status(lab.fixed, "/").await), (201, 200));
}
