//! What faults cost a request that none of them is about: over how many there are, and what tells them apart from it.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use outrider_proxy::fault::leased::Subject;
use outrider_proxy::fault::{Action, FaultSet, Guard, Leased, Place, Stage, Tally};
use outrider_proxy::http::message::RequestHead;
use outrider_proxy::model::matcher::{Case, StringMatcher};
use tokio::time::Instant;

/// A live fault of another cluster, or of another path of this one.
fn fault(number: usize, by_path: bool) -> Arc<Leased> {
    let mut fault = Leased::new(format!("shop/fault-{number}").into(), Place::Outbound, Action::Blackhole);
    if by_path {
        let path = format!("/api/v1/part-{number}/");
        fault.rule.path = Some(StringMatcher::Prefix(path.into_bytes().into(), Case::Sensitive));
    } else {
        fault.rule.clusters = vec![format!("outbound|80||service-{number}.shop")];
    }
    fault.lease.extend(Instant::now() + Duration::from_secs(24 * 3600));
    Arc::new(fault)
}

fn fault_off(criterion: &mut Criterion) {
    let head =
        RequestHead { path: "/index.html".into(), authority: "web.shop".into(), ..RequestHead::default() };
    let subject = Subject {
        listener: "outbound",
        destination: SocketAddr::from(([10, 0, 0, 1], 80)),
        peer: Some("spiffe://mesh.test/ns/shop/sa/client"),
        head: Some(&head),
        route: "HTTPRoute/shop/web",
        cluster: "outbound|80||web.shop",
        endpoint: None,
        tls: false,
    };
    let mut group = criterion.benchmark_group("fault_off");
    let none: Option<Arc<FaultSet>> = None;
    let at = (Place::Outbound, Stage::Whole);
    let concerns = |set: &Option<Arc<FaultSet>>| set.as_ref().is_some_and(|set| set.concerns(at, &subject));
    group.bench_function("no faults", |bencher| bencher.iter(|| concerns(black_box(&none))));
    for (name, by_path) in [("of other clusters", false), ("of other paths", true)] {
        for count in [1, 10, 99] {
            let faults = (0..count).map(|number| fault(number, by_path)).collect();
            let set = FaultSet::new(faults, Guard::default(), &Arc::new(Tally::default())).map(Arc::new);
            assert!(set.is_some() && !concerns(&set));
            group.bench_function(BenchmarkId::new(name, count), |bencher| {
                bencher.iter(|| concerns(black_box(&set)));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, fault_off);
criterion_main!(benches);
