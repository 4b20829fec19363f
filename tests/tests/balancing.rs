//! Who gets a request: the same configuration in Envoy and in ours chooses the same endpoint where the choice is
//! determined, and shares alike where it is not.

use std::collections::BTreeMap;

use outrider_tests::client::{self, Answer, Ask};
use outrider_tests::config::{address, web};
use outrider_tests::process::{Process, envoy_binary, free_port};
use outrider_tests::upstream::Upstream;

const ENDPOINTS: usize = 8;
/// Requests for a share.
const MANY: usize = 400;

/// Upstreams that answer with their number.
async fn fleet() -> Vec<Upstream> {
    let mut fleet = Vec::new();
    for number in 0..ENDPOINTS {
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{number}").into_bytes();
        fleet.push(Upstream::h1(move |_, _| answer.clone()).await);
    }
    fleet
}

fn endpoint(port: u16, more: &str) -> String {
    format!("{{endpoint: {{address: {}}}{more}}}", address(port))
}

/// A cluster of these groups of endpoints.
fn cluster(name: &str, more: &str, groups: &[String]) -> String {
    let groups = groups.join(", ");
    format!("{{name: {name}, {more}, load_assignment: {{cluster_name: {name}, endpoints: [{groups}]}}}}")
}

fn group(more: &str, endpoints: &[String]) -> String {
    format!("{{{more} lb_endpoints: [{}]}}", endpoints.join(", "))
}

fn clusters(fleet: &[Upstream]) -> Vec<String> {
    let plain = |range: std::ops::Range<usize>| -> Vec<String> {
        fleet[range].iter().map(|upstream| endpoint(upstream.port, "")).collect()
    };
    let all = [group("", &plain(0..8))];
    let weights: Vec<String> = [1, 2, 5]
        .iter()
        .zip(fleet)
        .map(|(weight, upstream)| endpoint(upstream.port, &format!(", load_balancing_weight: {weight}")))
        .collect();
    let labelled: Vec<String> = ["red", "red", "blue", "green"]
        .iter()
        .zip(fleet)
        .map(|(colour, upstream)| {
            endpoint(
                upstream.port,
                &format!(", metadata: {{filter_metadata: {{envoy.lb: {{colour: {colour}}}}}}}"),
            )
        })
        .collect();
    let ill = |range: std::ops::Range<usize>| -> Vec<String> {
        fleet[range].iter().map(|upstream| endpoint(upstream.port, ", health_status: UNHEALTHY")).collect()
    };
    let zone = |zone: &str, weight: u32, endpoints: &[String]| {
        group(&format!("locality: {{zone: {zone}}}, load_balancing_weight: {weight},"), endpoints)
    };
    let half = [ill(0..2), plain(2..4)].concat();
    vec![
        cluster("ring", "lb_policy: RING_HASH", &all),
        cluster("large", "lb_policy: RING_HASH, ring_hash_lb_config: {minimum_ring_size: 5000}", &all),
        cluster("heavy", "lb_policy: RING_HASH", &[group("", &weights)]),
        cluster("table", "lb_policy: MAGLEV", &all),
        cluster("small", "lb_policy: MAGLEV, maglev_lb_config: {table_size: 1009}", &[group("", &weights)]),
        cluster("turns", "lb_policy: ROUND_ROBIN", &[group("", &weights)]),
        cluster("chance", "lb_policy: RANDOM", &[group("", &weights)]),
        cluster("least", "lb_policy: LEAST_REQUEST", &all),
        cluster(
            "labels",
            "lb_subset_config: {fallback_policy: DEFAULT_SUBSET, default_subset: {colour: green}, subset_selectors: [{keys: [colour]}]}",
            &[group("", &labelled)],
        ),
        cluster(
            "strict",
            "lb_subset_config: {subset_selectors: [{keys: [colour]}]}",
            &[group("", &labelled)],
        ),
        cluster("spill", "lb_policy: ROUND_ROBIN", &[group("", &half), group("priority: 1,", &plain(4..8))]),
        cluster("panic", "lb_policy: ROUND_ROBIN", &[group("", &[ill(0..3), plain(3..4)].concat())]),
        cluster(
            "calm",
            "common_lb_config: {healthy_panic_threshold: {value: 10}}",
            &[group("", &[ill(0..3), plain(3..4)].concat())],
        ),
        cluster(
            "nobody",
            "common_lb_config: {healthy_panic_threshold: {value: 0}}",
            &[group("", &ill(0..2))],
        ),
        cluster(
            "zones",
            "common_lb_config: {locality_weighted_lb_config: {}}",
            &[
                zone("a", 3, &plain(0..1)),
                zone("b", 1, &plain(1..4)),
                zone("c", 4, &[ill(4..5), plain(5..6)].concat()),
            ],
        ),
    ]
}

fn routes() -> Vec<String> {
    let hash = "hash_policy: [{header: {header_name: x-key}, terminal: true}, {cookie: {name: key, ttl: 9s, path: /x}}, {query_parameter: {name: key}}]";
    let plain = |name: &str| format!("{{match: {{prefix: /{name}}}, route: {{cluster: {name}, {hash}}}}}");
    let labelled = |colour: &str, cluster: &str| {
        format!(
            "{{match: {{prefix: /{colour}-{cluster}}}, route: {{cluster: {cluster}, metadata_match: {{filter_metadata: {{envoy.lb: {{colour: {colour}}}}}}}}}}}"
        )
    };
    let names = [
        "ring", "large", "heavy", "table", "small", "turns", "chance", "least", "labels", "strict", "spill",
        "panic", "calm", "nobody", "zones",
    ];
    let mut routes: Vec<String> = names.iter().map(|name| plain(name)).collect();
    routes.push("{match: {prefix: /query}, route: {cluster: ring, hash_policy: [{query_parameter: {name: key}}, {header: {header_name: x-more}}]}}".to_owned());
    for colour in ["red", "blue", "pink"] {
        routes.extend([labelled(colour, "labels"), labelled(colour, "strict")]);
    }
    routes
}

struct Proxy {
    _process: Process,
    port: u16,
}

impl Proxy {
    fn start(envoy: Option<&std::path::Path>, clusters: &[String]) -> Self {
        let (admin, port) = (free_port(), free_port());
        let routes = routes();
        let routes: Vec<&str> = routes.iter().map(String::as_str).collect();
        let config = web(admin, port, "", &routes, clusters);
        let process = match envoy {
            Some(binary) => Process::envoy(binary, &config, admin),
            None => Process::outrider(&config, admin),
        };
        Self { _process: process, port }
    }

    async fn ask(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        client::h1(self.port, &Ask { path: path.to_owned(), headers, ..Ask::default() }).await
    }

    /// How often each endpoint answers.
    async fn shares(&self, path: &str) -> BTreeMap<String, usize> {
        let mut shares = BTreeMap::new();
        for _ in 0..MANY {
            let answer = self.ask(path, &[]).await;
            let who = if answer.status == 200 { answer.body } else { answer.status.to_string() };
            *shares.entry(who).or_default() += 1;
        }
        shares
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hash_leads_where_envoys_does() {
    let fleet = fleet().await;
    let clusters = clusters(&fleet);
    let ours = Proxy::start(None, &clusters);
    let envoy = envoy_binary();
    let theirs = envoy.as_deref().map(|binary| Proxy::start(Some(binary), &clusters));
    for name in ["ring", "large", "heavy", "table", "small"] {
        let mut seen = BTreeMap::new();
        for key in 0..60 {
            let (path, key) = (format!("/{name}"), format!("key-{key}"));
            let found = ours.ask(&path, &[("x-key", &key)]).await.body;
            assert_eq!(ours.ask(&path, &[("x-key", &key)]).await.body, found, "{name} {key}");
            if let Some(theirs) = &theirs {
                assert_eq!(theirs.ask(&path, &[("x-key", &key)]).await.body, found, "{name} {key}");
            }
            *seen.entry(found).or_insert(0) += 1;
        }
        assert!(seen.len() >= 3, "{name} {seen:?}");
    }
    for (path, headers) in [
        ("/query?a=b&key=7", &[][..]),
        ("/query?key=", &[]),
        ("/query?key=9&key=10", &[("x-more", "more")]),
        ("/query?x", &[("x-more", "more")]),
        ("/table", &[("cookie", "a=b; key=value")]),
        ("/table", &[("cookie", "key=\"value\"")]),
        ("/table?key=a", &[("cookie", "key=c"), ("x-key", "d")]),
    ] {
        let found = ours.ask(path, headers).await;
        assert_eq!(found.status, 200);
        if let Some(theirs) = &theirs {
            assert_eq!(theirs.ask(path, headers).await.body, found.body, "{path} {headers:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_gets_a_cookie_that_leads_it_back() {
    let fleet = fleet().await;
    let clusters = clusters(&fleet);
    let envoy = envoy_binary();
    let mut proxies = vec![Proxy::start(None, &clusters)];
    proxies.extend(envoy.as_deref().map(|binary| Proxy::start(Some(binary), &clusters)));
    for proxy in proxies {
        for _ in 0..10 {
            let first = proxy.ask("/table", &[]).await;
            let set = first.header("set-cookie").unwrap().to_owned();
            let (pair, rest) = set.split_once(';').unwrap();
            assert!(pair.starts_with("key=\""), "{set}");
            assert_eq!(rest.to_ascii_lowercase().replace(' ', ""), "max-age=9;path=/x;httponly", "{set}");
            let again = proxy.ask("/table", &[("cookie", pair)]).await;
            assert_eq!(
                (again.body.as_str(), again.header("set-cookie")),
                (first.body.as_str(), None),
                "{set}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shares_are_those_of_envoy() {
    let fleet = fleet().await;
    let clusters = clusters(&fleet);
    let ours = Proxy::start(None, &clusters);
    let envoy = envoy_binary();
    let theirs = envoy.as_deref().map(|binary| Proxy::start(Some(binary), &clusters));
    // In percent, each more or less 9: far more than three deviations of 400 draws.
    for (path, expected) in [
        ("/turns", &[("0", 12), ("1", 25), ("2", 63)][..]),
        ("/least", &[("0", 12), ("1", 12), ("2", 12), ("3", 12), ("4", 12), ("5", 12), ("6", 12), ("7", 12)]),
        ("/red-labels", &[("0", 50), ("1", 50)]),
        ("/blue-labels", &[("2", 100)]),
        ("/pink-labels", &[("3", 100)]),
        ("/labels", &[("3", 100)]),
        ("/red-strict", &[("0", 50), ("1", 50)]),
        ("/pink-strict", &[("503", 100)]),
        ("/strict", &[("503", 100)]),
        ("/spill", &[("2", 35), ("3", 35), ("4", 7), ("5", 7), ("6", 7), ("7", 7)]),
        ("/panic", &[("0", 25), ("1", 25), ("2", 25), ("3", 25)]),
        ("/calm", &[("3", 100)]),
        ("/nobody", &[("503", 100)]),
        ("/zones", &[("0", 44), ("1", 5), ("2", 5), ("3", 5), ("5", 41)]),
    ] {
        let mut all = vec![("ours", ours.shares(path).await)];
        if let Some(theirs) = &theirs {
            all.push(("Envoy's", theirs.shares(path).await));
        }
        for (whose, shares) in all {
            let names: Vec<&str> = shares.keys().map(String::as_str).collect();
            assert_eq!(names, expected.iter().map(|(name, _)| *name).collect::<Vec<_>>(), "{whose} {path}");
            check(whose, path, &shares, expected);
        }
    }
    // Envoy's RANDOM does not look at weights; ours does, because no field is accepted and ignored.
    check("ours", "/chance", &ours.shares("/chance").await, &[("0", 12), ("1", 25), ("2", 63)]);
}

fn check(whose: &str, path: &str, shares: &BTreeMap<String, usize>, expected: &[(&str, usize)]) {
    for (name, percent) in expected {
        let found = shares[*name] * 100 / MANY;
        assert!(found.abs_diff(*percent) <= 9, "{whose} {path}: {name} has {found} %: {shares:?}");
    }
}
