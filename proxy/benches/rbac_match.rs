//! What a decision costs, over the number of policies: by identity and path, and for a caller that no policy knows.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use outrider_proxy::http::message::RequestHead;
use outrider_proxy::model::matcher::{Case, StringMatcher};
use outrider_proxy::policy::{Action, Policy, PolicySet, Rule, Subject};

/// One service account may use one part of the API on one port, as an `AuthorizationPolicy` says it.
fn policy(number: usize) -> Policy {
    let identity = format!("spiffe://mesh.test/ns/n{}/sa/client-{number}", number % 50);
    let path = format!("/api/v1/part-{}/", number % 400);
    let name: std::sync::Arc<str> = format!("policy-{number:05}").into();
    let exact = StringMatcher::Exact(identity.into_bytes().into(), Case::Sensitive);
    let prefix = StringMatcher::Prefix(path.into_bytes().into(), Case::Sensitive);
    let what = Rule::All([Rule::Path(prefix), Rule::Port(8080..8081)].into());
    Policy {
        label: std::sync::Arc::clone(&name),
        name,
        rule: Rule::All([what, Rule::Authenticated(Some(exact))].into()),
    }
}

fn subject<'a>(peer: &'a str, head: &'a RequestHead) -> Subject<'a> {
    let client = IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3));
    Subject {
        peer: Some(peer),
        direct_remote: client,
        remote: client,
        local: SocketAddr::from(([10, 0, 0, 1], 8080)),
        server_name: None,
        head: Some(head),
    }
}

fn rbac_match(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rbac_match");
    for count in [10, 100, 1_000, 10_000] {
        let set = PolicySet::new(Action::Allow, (0..count).map(policy).collect(), "");
        let number = count / 2;
        let known = format!("spiffe://mesh.test/ns/n{}/sa/client-{number}", number % 50);
        let path = format!("/api/v1/part-{}/items?limit=3", number % 400);
        let head = RequestHead { path, authority: "api.shop".into(), ..RequestHead::default() };
        for (name, peer) in [("allowed", known.as_str()), ("denied", "spiffe://mesh.test/ns/n1/sa/thief")] {
            let subject = subject(peer, &head);
            assert_eq!(set.decide(&subject).0, name == "allowed");
            group.bench_function(BenchmarkId::new(name, count), |bencher| {
                bencher.iter(|| set.decide(black_box(&subject)).0);
            });
        }
    }
    group.finish();
}

criterion_group!(benches, rbac_match);
criterion_main!(benches);
