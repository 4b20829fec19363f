//! What a request's stages cost by themselves: reading heads, changing headers, picking an endpoint, recording metrics.

#![expect(clippy::unwrap_used, reason = "a benchmark of what is refused would measure nothing")]

use std::hint::black_box;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use http::Method;
use outrider_proto::envoy::config::route::v3 as pb;
use outrider_proto::json;
use outrider_proxy::balance::levels::Member;
use outrider_proxy::balance::{Group, Wish};
use outrider_proxy::http::h1::request::{HeadLimits, RequestParser};
use outrider_proxy::http::h1::response::{Limits, ResponseParser};
use outrider_proxy::http::h1::write;
use outrider_proxy::http::headers::Headers;
use outrider_proxy::http::message::{RequestHead, ResponseHead};
use outrider_proxy::model::balancing::PeakEwma;
use outrider_proxy::model::endpoint::Health;
use outrider_proxy::model::headers::Values;
use outrider_proxy::model::{Balancer, Balancing, RouteTable};
use outrider_proxy::observe::Flags;
use outrider_proxy::observe::format::Record;
use outrider_proxy::observe::metrics::Shard;
use outrider_proxy::observe::series::{Outcome, RequestSeries};
use outrider_proxy::upstream::EndpointState;
use serde_json::json;

/// What `wrk` sends.
const SMALL: &str = "GET /bytes/12 HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n";

/// What a browser sends, about.
const LARGE: &str = "GET /shop/basket?item=1234&colour=green HTTP/1.1\r\nHost: shop.example.com\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
    Accept-Language: en-GB,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n\
    Referer: https://shop.example.com/\r\nConnection: keep-alive\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef; theme=dark; seen=1763712000\r\n\
    Sec-Fetch-Dest: document\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Site: same-origin\r\n\
    traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\
    X-Request-Id: 6f0a2f2e-4f57-4b0e-9f0e-0b6f1c1f0d11\r\n\r\n";

const ANSWER: &str = "HTTP/1.1 200 OK\r\nserver: backend\r\ndate: Fri, 21 Nov 2026 08:00:00 GMT\r\n\
    content-type: application/json\r\ncontent-length: 12\r\ncache-control: no-store\r\n\r\n";

/// As in an exchange: the parser and the head live on, nothing is allocated anew.
fn heads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("head_parsing");
    let (limits, mut parser, mut head) =
        (HeadLimits::default(), RequestParser::default(), RequestHead::default());
    for (name, text) in [("request, 1 field", SMALL), ("request, 13 fields", LARGE)] {
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                parser.reset();
                parser.parse(black_box(text.as_bytes()), &limits, &mut head).unwrap()
            });
        });
    }
    let (limits, mut head) = (Limits::default(), ResponseHead::default());
    group.throughput(Throughput::Bytes(ANSWER.len() as u64));
    group.bench_function("response, 5 fields", |bencher| {
        bencher.iter(|| {
            let mut parser = ResponseParser::default();
            parser.parse(black_box(ANSWER.as_bytes()), &limits, &Method::GET, false, &mut head).unwrap()
        });
    });
    group.finish();
    let mut group = criterion.benchmark_group("head_writing");
    let mut out = Vec::new();
    for (name, text) in [("request, 1 field", SMALL), ("request, 13 fields", LARGE)] {
        let head = parsed(text);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                out.clear();
                write::request_head(&mut out, black_box(&head));
            });
        });
    }
    group.finish();
}

/// The two steps of a route's changes on a request that came with many fields.
fn header_mutation(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("header_mutation");
    let fixed = json!([
        {"header": {"key": "x-mesh", "value": "outrider"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"},
        {"header": {"key": "x-zone", "value": "eu-west"}},
    ]);
    let rendered = json!([
        {"header": {"key": "x-from", "value": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"}},
        {"header": {"key": "x-path", "value": "%REQ(:path)%"}},
    ]);
    let head = parsed(LARGE);
    for (name, add) in [("2 fixed added, 2 removed", fixed), ("2 rendered added, 2 removed", rendered)] {
        let config = json!({
            "virtual_hosts": [],
            "request_headers_to_add": add,
            "request_headers_to_remove": ["cookie", "x-request-id"],
        });
        let config: pb::RouteConfiguration = json::from_json(&config).unwrap();
        let table = RouteTable::from_proto(&config).unwrap();
        let (mut headers, mut values) = (Headers::new(), Values::default());
        let changes = &table.request_headers;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                headers.clone_from(black_box(&head.headers));
                changes.remove_from(&mut headers);
                let record = Record {
                    request: Some(&head),
                    remote: Some(SocketAddr::from(([10, 0, 0, 7], 5000))),
                    ..Record::default()
                };
                changes.render(&record, &mut values);
                changes.add_to(&mut headers, &values);
                headers.len()
            });
        });
    }
    // To be taken off the above: what putting the fields back costs.
    let mut headers = Headers::new();
    group.bench_function("nothing, the copy alone", |bencher| {
        bencher.iter(|| {
            headers.clone_from(black_box(&head.headers));
            headers.len()
        });
    });
    group.finish();
}

fn balancer_pick(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("balancer_pick");
    for count in [3_u16, 100, 1_000] {
        let member = |port: u16, weight| Member {
            state: Rc::new(EndpointState::new(([127, 0, 0, 1], port).into(), None, Arc::default())),
            weight,
            health: Health::Well,
            locality: Arc::default(),
        };
        let same: Vec<Member> = (1..=count).map(|port| member(port, 1)).collect();
        let uneven: Vec<Member> = (1..=count).map(|port| member(port, 1 + u32::from(port % 7))).collect();
        for (name, balancer, members) in [
            ("round robin", Balancer::RoundRobin, &same),
            ("round robin, weighted", Balancer::RoundRobin, &uneven),
            ("random", Balancer::Random, &uneven),
            ("least request", Balancer::LeastRequest { choices: 2, bias: 1.0 }, &same),
            ("peak EWMA", Balancer::PeakEwma(PeakEwma::default()), &same),
            ("ring hash", Balancer::RingHash { min: 1024, max: 8192 }, &same),
            ("maglev", Balancer::Maglev(65_537), &same),
        ] {
            let balancing = Balancing { balancer, ..Balancing::default() };
            let shares = members.iter().map(|member| f64::from(member.weight)).collect();
            let group_of = Group::new(&members.iter().collect::<Vec<_>>(), shares, &balancing);
            let (mut random, wish) =
                (fastrand::Rng::with_seed(7), Wish { hash: Some(0x5bd1_e995_0bad_cafe), again: 0 });
            group.bench_function(BenchmarkId::new(name, count), |bencher| {
                bencher.iter(|| group_of.pick(black_box(&wish), &mut random).unwrap().address());
            });
        }
    }
    group.finish();
}

/// A request that was seen before, which is what nearly all are, with so many other combinations beside it.
fn metrics_record(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("metrics_record");
    let (shard, listener) = (Shard::default(), Arc::from("outbound_8080"));
    for combinations in [1_u16, 8] {
        let series = RequestSeries::new(&Arc::from("shop"));
        let outcome = |status| Outcome {
            status,
            flags: Flags::NONE,
            duration: Duration::from_micros(730),
            received_bytes: 0,
            sent_bytes: 12,
        };
        for status in 0..combinations {
            series.record(&shard, &listener, "outbound", &outcome(200 + status));
        }
        let last = outcome(199 + combinations);
        group.bench_function(BenchmarkId::new("combinations", combinations), |bencher| {
            bencher.iter(|| series.record(&shard, &listener, "outbound", black_box(&last)));
        });
    }
    group.finish();
}

fn parsed(text: &str) -> RequestHead {
    let mut head = RequestHead::default();
    RequestParser::default().parse(text.as_bytes(), &HeadLimits::default(), &mut head).unwrap();
    head
}

criterion_group!(benches, heads, header_mutation, balancer_pick, metrics_record);
criterion_main!(benches);
