//! Requests stay in the proxy's zone as far as they do with Envoy.

use std::collections::BTreeMap;
use std::path::Path;

use outrider_tests::client::{self, Ask};
use outrider_tests::config::{address, web};
use outrider_tests::process::{Process, envoy_binary, free_port};
use outrider_tests::upstream::Upstream;

const ZONES: &str = "common_lb_config: {zone_aware_lb_config: {}}";
const MANY: usize = 400;

fn group(zone: &str, ports: &[u16], more: &str) -> String {
    let endpoints: Vec<String> =
        ports.iter().map(|port| format!("{{endpoint: {{address: {}}}{more}}}", address(*port))).collect();
    format!("{{locality: {{region: r, zone: {zone}}}, lb_endpoints: [{}]}}", endpoints.join(", "))
}

fn cluster(name: &str, more: &str, groups: &[String]) -> String {
    format!(
        "{{name: {name}, {more}, load_assignment: {{cluster_name: {name}, endpoints: [{}]}}}}",
        groups.join(", ")
    )
}

fn clusters(ports: &[u16]) -> Vec<String> {
    let (a, b) = (ports[..2].to_vec(), ports[2..].to_vec());
    let two = |zone_a: &[u16], zone_b: &[u16]| vec![group("a", zone_a, ""), group("b", zone_b, "")];
    let ill = vec![group("a", &a, ", health_status: UNHEALTHY"), group("b", &b[..1], "")];
    vec![
        cluster("us", "connect_timeout: 1s", &two(&ports[..2], &ports[2..4])),
        cluster("short", ZONES, &two(&a, &b)),
        cluster("full", ZONES, &two(&ports[..4], &ports[4..])),
        cluster("few", ZONES, &two(&ports[..1], &ports[1..4])),
        cluster("away", ZONES, &[group("b", &ports[..3], ""), group("c", &ports[3..], "")]),
        cluster("chance", &format!("{ZONES}, lb_policy: RANDOM"), &two(&a, &b)),
        cluster("least", &format!("{ZONES}, lb_policy: LEAST_REQUEST"), &two(&a, &b)),
        cluster(
            "half",
            "common_lb_config: {zone_aware_lb_config: {routing_enabled: {value: 50}}}",
            &two(&ports[..4], &ports[4..]),
        ),
        cluster(
            "fails",
            "common_lb_config: {zone_aware_lb_config: {min_cluster_size: 1, fail_traffic_on_panic: true}}",
            &ill,
        ),
        cluster("plain", "connect_timeout: 1s", &two(&a, &b)),
    ]
}

fn start(envoy: Option<&Path>, clusters: &[String]) -> (Process, u16) {
    let names = ["short", "full", "few", "away", "chance", "least", "half", "fails", "plain"];
    let routes: Vec<String> = names
        .iter()
        .map(|name| format!("{{match: {{prefix: /{name}}}, route: {{cluster: {name}}}}}"))
        .collect();
    let routes: Vec<&str> = routes.iter().map(String::as_str).collect();
    let (admin, port) = (free_port(), free_port());
    let config = format!(
        "node: {{id: me, cluster: us, locality: {{region: r, zone: a}}}}\ncluster_manager: {{local_cluster_name: us}}\n{}",
        web(admin, port, "", &routes, clusters)
    );
    let process = match envoy {
        Some(binary) => Process::envoy(binary, &config, admin),
        None => Process::outrider_with(&config, admin, &[("OUTRIDER_WORKERS", "1")]),
    };
    (process, port)
}

async fn shares(port: u16, path: &str) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for _ in 0..MANY {
        let answer = client::h1(port, &Ask { path: path.to_owned(), ..Ask::default() }).await;
        let who = if answer.status == 200 { answer.body } else { answer.status.to_string() };
        *shares.entry(who).or_default() += 1;
    }
    shares
}

#[tokio::test(flavor = "multi_thread")]
async fn shares_of_zones_are_those_of_envoy() {
    let mut fleet = Vec::new();
    for number in 0..8 {
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{number}").into_bytes();
        fleet.push(Upstream::h1(move |_, _| answer.clone()).await);
    }
    let ports: Vec<u16> = fleet.iter().map(|upstream| upstream.port).collect();
    let clusters = clusters(&ports);
    let mut all = vec![("ours", start(None, &clusters))];
    all.extend(envoy_binary().map(|binary| ("Envoy's", start(Some(&binary), &clusters))));
    // In percent, each more or less 9: far more than three deviations of 400 draws.
    for (path, expected) in [
        // A quarter of the endpoints for half of the proxies: half of the requests stay.
        ("/short", &[("0", 25), ("1", 25), ("2", 8), ("3", 8), ("4", 8), ("5", 8), ("6", 8), ("7", 8)][..]),
        ("/chance", &[("0", 25), ("1", 25), ("2", 8), ("3", 8), ("4", 8), ("5", 8), ("6", 8), ("7", 8)]),
        ("/least", &[("0", 25), ("1", 25), ("2", 8), ("3", 8), ("4", 8), ("5", 8), ("6", 8), ("7", 8)]),
        ("/full", &[("0", 25), ("1", 25), ("2", 25), ("3", 25)]),
        ("/few", &[("0", 25), ("1", 25), ("2", 25), ("3", 25)]),
        // Of three eighths in b none goes where its own proxies take more than that.
        ("/away", &[("3", 20), ("4", 20), ("5", 20), ("6", 20), ("7", 20)]),
        ("/half", &[("0", 19), ("1", 19), ("2", 19), ("3", 19), ("4", 6), ("5", 6), ("6", 6), ("7", 6)]),
        ("/fails", &[("503", 100)]),
        // Nobody asked for it: whoever knows the zones prefers its own.
        ("/plain", &[("0", 25), ("1", 25), ("2", 8), ("3", 8), ("4", 8), ("5", 8), ("6", 8), ("7", 8)]),
    ] {
        for (whose, (_, port)) in &all {
            let found = shares(*port, path).await;
            let names: Vec<&str> = found.keys().map(String::as_str).collect();
            assert_eq!(
                names,
                expected.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
                "{whose} {path}: {found:?}"
            );
            for (name, percent) in expected {
                let share = found[*name] * 100 / MANY;
                assert!(share.abs_diff(*percent) <= 9, "{whose} {path}: {name} has {share} %: {found:?}");
            }
        }
    }
}
