//! What it costs to find a route, with 10 to 10,000 rules in one virtual host.
//!
//! For exact paths and for prefixes the figures must grow no worse than logarithmically; regular expressions are
//! tried one after the other and stand here for comparison. `cargo bench -p outrider-proxy --bench route_match`.

use std::fmt::Write as _;
use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use outrider_proto::envoy::config::route::v3::RouteConfiguration;
use outrider_proto::json;
use outrider_proxy::http::message::RequestHead;
use outrider_proxy::model::RouteTable;

const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];

/// A table whose rules are made by `rule` from their numbers.
fn table(count: usize, rule: impl Fn(usize) -> String) -> RouteTable {
    let mut yaml = String::from("virtual_hosts:\n- name: v\n  domains: ['*']\n  routes:\n");
    for number in 0..count {
        let _ = writeln!(yaml, "  - {{match: {{{}}}, direct_response: {{status: 200}}}}", rule(number));
    }
    let config: RouteConfiguration = json::from_yaml(&yaml).unwrap_or_default();
    let table = RouteTable::from_proto(&config);
    assert!(table.is_ok(), "{table:?}");
    table.unwrap_or_else(|_| std::process::abort())
}

fn measure(c: &mut Criterion, name: &str, rule: impl Fn(usize) -> String, path: impl Fn(usize) -> String) {
    let mut group = c.benchmark_group(name);
    for count in SIZES {
        let table = table(count, &rule);
        // The last rule is the dearest where they are tried in order.
        let head = RequestHead { authority: "a.test".into(), path: path(count - 1), ..RequestHead::default() };
        assert!(table.select(&head, 0).is_some());
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter(|| table.select(black_box(&head), 0).is_some());
        });
    }
    group.finish();
}

fn routes(c: &mut Criterion) {
    let path = |number: usize| format!("/api/v1/service-{number}/items/7?page=2");
    measure(c, "exact", |number| format!("path: /api/v1/service-{number}/items/7"), path);
    measure(c, "prefix", |number| format!("prefix: /api/v1/service-{number}/"), path);
    measure(c, "separated prefix", |number| format!("path_separated_prefix: /api/v1/service-{number}"), path);
    let nested = |number: usize| format!("prefix: {}/{number}/", "/a".repeat(number % 8));
    measure(c, "nested prefix", nested, |number| format!("{}/{number}/x", "/a".repeat(number % 8)));
    measure(c, "regex", |number| format!("safe_regex: {{regex: '/api/v1/service-{number}/.*'}}"), path);
}

criterion_group!(benches, routes);
criterion_main!(benches);
