//! What finding a route costs, over the number of routes in one virtual host.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use outrider_proto::envoy::config::route::v3 as pb;
use outrider_proto::json;
use outrider_proxy::http::message::RequestHead;
use outrider_proxy::model::RouteTable;
use serde_json::json;

fn table(count: usize, rule: impl Fn(usize) -> serde_json::Value) -> Option<RouteTable> {
    let routes: Vec<serde_json::Value> =
        (0..count).map(|number| json!({"match": rule(number), "direct_response": {"status": 200}})).collect();
    let config = json!({"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": routes}]});
    let config: pb::RouteConfiguration = json::from_json(&config).ok()?;
    RouteTable::from_proto(&config).ok()
}

fn route_match(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route_match");
    for count in [10, 100, 1_000, 10_000] {
        let exact = table(count, |number| json!({"path": format!("/service/{number}/method")}));
        let prefix = table(count, |number| json!({"prefix": format!("/service/{number}/")}));
        let path = format!("/service/{}/method", count - 1);
        let head = RequestHead { path, authority: "a.example".into(), ..RequestHead::default() };
        for (name, table) in [("exact", exact), ("prefix", prefix)] {
            let Some(table) = table else { continue };
            group.bench_function(BenchmarkId::new(name, count), |bencher| {
                bencher.iter(|| table.select(std::hint::black_box(&head), 0).is_some());
            });
        }
    }
    group.finish();
}

criterion_group!(benches, route_match);
criterion_main!(benches);
