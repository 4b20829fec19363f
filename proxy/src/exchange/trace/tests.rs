//! The trace of an exchange: taken up, begun, carried on.

use std::time::Duration;

use super::*;
use crate::model::tracing::{Collector, Sampling};

const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn tracing(random: f64, overall: f64) -> Tracing {
    let timeout = Duration::from_secs(1);
    Tracing {
        client: Sampling::from_percent(100.0),
        random: Sampling::from_percent(random),
        overall: Sampling::from_percent(overall),
        max_path_bytes: 4,
        tags: Vec::new(),
        upstream_spans: true,
        collector: Arc::new(Collector { cluster: "c".into(), service: None, timeout }),
    }
}

fn head(fields: &[(&str, &str)]) -> RequestHead {
    let mut head = RequestHead { path: "/h\u{e9}llo?secret".to_owned(), ..RequestHead::default() };
    for (name, value) in fields {
        head.headers.append(name.as_bytes(), value.as_bytes());
    }
    head
}

fn carried(head: &RequestHead) -> Parent {
    Parent::of(&head.headers).expect("a traceparent")
}

#[test]
fn a_trace_goes_on_under_the_callers_decision() {
    let mut random = fastrand::Rng::with_seed(1);
    for (fields, shares, sampled) in [
        (&[("traceparent", GOOD)][..], (0.0, 100.0), true),
        (&[("traceparent", &*GOOD.replace("-01", "-00"))][..], (100.0, 100.0), false),
        (&[("traceparent", GOOD)][..], (100.0, 0.0), false),
        (&[][..], (100.0, 100.0), true),
        (&[][..], (0.0, 100.0), false),
        (&[("x-client-trace-id", "1")][..], (0.0, 100.0), true),
        (&[("x-client-trace-id", "1")][..], (0.0, 0.0), false),
        (&[("b3", "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331")][..], (0.0, 100.0), false),
    ] {
        let mut request = head(fields);
        let trace = Trace::begin(&tracing(shares.0, shares.1), &mut request, &mut random);
        let sent = carried(&request);
        assert_eq!(sent.sampled, Some(sampled), "{fields:?} {shares:?}");
        assert_eq!(trace.told.is_some(), sampled, "what is not recorded costs no more than its headers");
        let same = sent.trace == Parent::parse(GOOD.as_bytes()).unwrap().trace;
        assert_eq!(same, fields.iter().any(|(name, _)| matches!(*name, "traceparent" | "b3")));
        assert_eq!(sent.span, Some(trace.carried.span), "the next one's parent is our span");
        assert_eq!(sent.trace, trace.id());
    }
}

#[test]
fn a_malformed_one_begins_another_and_loses_its_state() {
    let mut random = fastrand::Rng::with_seed(1);
    let mut request = head(&[("traceparent", "00-XYZ"), ("tracestate", "a=1")]);
    let trace = Trace::begin(&tracing(100.0, 100.0), &mut request, &mut random);
    assert!(trace.parent.is_none() && !request.headers.contains(b"tracestate"));
    let mut request = head(&[("traceparent", GOOD), ("tracestate", "a=1")]);
    let trace = Trace::begin(&tracing(100.0, 100.0), &mut request, &mut random);
    assert_eq!(request.headers.first(b"tracestate"), Some(&b"a=1"[..]));
    let told = trace.told.as_ref().unwrap();
    assert_eq!(
        (told.state.as_str(), told.path.as_str()),
        ("a=1", "/h\u{e9}"),
        "cut at a whole letter, no query"
    );
}

#[test]
fn every_attempt_carries_a_span_of_its_own_up_to_a_bound() {
    let mut random = fastrand::Rng::with_seed(1);
    let mut request = head(&[]);
    let mut trace = Trace::begin(&tracing(100.0, 100.0), &mut request, &mut random);
    let at: SocketAddr = "10.0.0.1:80".parse().unwrap();
    let bound = u32::try_from(MAX_ATTEMPT_SPANS).unwrap();
    let mut seen = vec![trace.carried.span];
    for number in 1..=bound {
        trace.attempt((number, at), &mut request, &mut random);
        trace.injected(number, [Arc::from("f"), Arc::from("f")].iter());
        trace.attempted(number, Err("upstream_reset"));
        let span = carried(&request).span.unwrap();
        assert!(!seen.contains(&span));
        seen.push(span);
    }
    trace.attempt((bound + 1, at), &mut request, &mut random);
    trace.attempted(bound + 1, Ok(200));
    assert_eq!(carried(&request).span, Some(trace.carried.span), "beyond it, that of the exchange");
    let told = trace.told.as_ref().unwrap();
    assert_eq!(told.attempts.len(), MAX_ATTEMPT_SPANS);
    assert!(told.attempts.iter().all(|one| one.ended.is_some() && one.faults.len() == 1));
    request.headers.remove(TRACEPARENT);
    trace.attempt((bound + 2, at), &mut request, &mut random);
    assert!(!request.headers.contains(TRACEPARENT), "what a route takes away stays away");
}

#[test]
fn an_attempt_overtaken_late_has_its_answer_after_all() {
    let mut random = fastrand::Rng::with_seed(1);
    let mut request = head(&[]);
    let mut trace = Trace::begin(&tracing(100.0, 100.0), &mut request, &mut random);
    trace.attempt((1, "10.0.0.1:80".parse().unwrap()), &mut request, &mut random);
    trace.attempted(1, Err("per_try_timeout"));
    trace.attempted(1, Ok(200));
    let attempt = &trace.told.as_ref().unwrap().attempts[0];
    assert_eq!((attempt.status, attempt.failure, attempt.ended), (200, None, None));
}
