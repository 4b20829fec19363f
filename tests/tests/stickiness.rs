//! How many keys of a hash move when one of a hundred endpoints leaves, counted at the endpoints.

use std::collections::BTreeMap;

use outrider_tests::client::{self, Ask, PATIENCE};
use outrider_tests::config::{address, web};
use outrider_tests::process::{Process, free_port};
use outrider_tests::upstream::Upstream;

const ENDPOINTS: usize = 100;
const KEYS: usize = 2000;
const ROUTES: &[&str] = &[
    "{match: {prefix: /ring}, route: {cluster: ring, hash_policy: [{header: {header_name: x-key}}]}}",
    "{match: {prefix: /table}, route: {cluster: table, hash_policy: [{header: {header_name: x-key}}]}}",
];

fn config(admin: u16, port: u16, fleet: &[Upstream]) -> String {
    let endpoints: Vec<String> = fleet
        .iter()
        .map(|upstream| format!("{{endpoint: {{address: {}}}}}", address(upstream.port)))
        .collect();
    let cluster = |name: &str, policy: &str| {
        format!(
            "{{name: {name}, {policy}, load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: [{}]}}]}}}}",
            endpoints.join(", ")
        )
    };
    // With this size each endpoint has 50 places on the ring, of a hundred endpoints and of ninety-nine. Where the places
    // of all change with their number, as many keys again may move; so it is with Envoy.
    let ring = "lb_policy: RING_HASH, ring_hash_lb_config: {minimum_ring_size: 4925}";
    web(admin, port, "", ROUTES, &[cluster("ring", ring), cluster("table", "lb_policy: MAGLEV")])
}

/// Which endpoint each key leads to.
async fn owners(port: u16, path: &str) -> BTreeMap<usize, String> {
    let mut owners = BTreeMap::new();
    for key in 0..KEYS {
        let headers = vec![("x-key".to_owned(), format!("user-{key}"))];
        let answer = client::h1(port, &Ask { path: path.to_owned(), headers, ..Ask::default() }).await;
        assert_eq!(answer.status, 200);
        owners.insert(key, answer.body);
    }
    owners
}

#[tokio::test(flavor = "multi_thread")]
async fn few_keys_move_when_an_endpoint_leaves() {
    let mut fleet = Vec::new();
    for number in 0..ENDPOINTS {
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{number:02}").into_bytes();
        fleet.push(Upstream::h1(move |_, _| answer.clone()).await);
    }
    let (admin, port) = (free_port(), free_port());
    let proxy = Process::outrider(&config(admin, port, &fleet), admin);
    let before = [owners(port, "/ring").await, owners(port, "/table").await];
    let gone = before[0][&7].clone();
    let number: usize = gone.parse().unwrap();
    let leaver = fleet.remove(number);
    std::fs::write(proxy.directory.join("config.yaml"), config(admin, port, &fleet)).unwrap();
    let reloaded = |log: &str| log.contains("start-up file read again");
    proxy.signal("HUP");
    let begun = std::time::Instant::now();
    while !reloaded(&proxy.log()) {
        assert!(begun.elapsed() < PATIENCE, "{}", proxy.log());
        tokio::task::yield_now().await;
    }
    let asked = leaver.requests().len();
    for (before, (path, most_percent)) in before.iter().zip([("/ring", 2.0), ("/table", 3.0)]) {
        // A worker that has not seen the change yet would still ask the one that left.
        let after = loop {
            let after = owners(port, path).await;
            if after.values().all(|owner| *owner != gone) {
                break after;
            }
            assert!(begun.elapsed() < PATIENCE * 6, "the endpoint is still asked");
        };
        let own = before.values().filter(|owner| **owner == gone).count();
        let moved = before.iter().filter(|(key, owner)| after[key] != **owner).count();
        #[expect(clippy::cast_precision_loss, reason = "few")]
        let percent = moved as f64 * 100.0 / KEYS as f64;
        eprintln!("{path}: {own} of {KEYS} keys were its own, {percent} % moved");
        assert!(moved >= own && own > 0, "{path}: {moved} {own}");
        assert!(percent <= most_percent, "{path}: {percent} % moved");
    }
    assert!(leaver.requests().len() - asked <= KEYS, "it is asked for ever");
}
