use std::time::Duration;

use outrider_proto::json;
use tokio::time::Instant;

use super::*;
use crate::http::message::RequestHead;
use crate::limit::descriptor::Subject;

const ON: &str = "stat_prefix: s, filter_enabled: {default_value: {numerator: 100}}, filter_enforced: {default_value: {numerator: 100}}";

fn compiled(yaml: &str) -> Result<RateLimit, String> {
    let value: http_filter::LocalRateLimit = json::from_yaml(&format!("{{{ON}, {yaml}}}")).unwrap();
    let mut path = Path::root();
    let limit = requests(&value, &mut path);
    path.finish(limit).map_err(|faults| format!("{faults:?}"))
}

/// How many of ten requests with these headers pass.
fn passes(limit: &RateLimit, headers: &[(&str, &str)], peer: Option<&str>, now: Instant) -> usize {
    let mut head = RequestHead { path: "/".into(), ..RequestHead::default() };
    for (name, value) in headers {
        head.headers.set(name.as_bytes(), value.as_bytes());
    }
    let remote = "10.0.0.1".parse().unwrap();
    let subject = Subject { head: &head, remote, peer, cluster: None };
    (0..10).filter(|_| limit.limits(&subject, (now, 0), &mut None).is_none()).count()
}

#[test]
fn descriptors_have_tokens_of_their_own() {
    let user = "{request_headers: {header_name: User, descriptor_key: user}}";
    let plan = "{request_headers: {header_name: plan, descriptor_key: plan}}";
    let limit = compiled(&format!(
        "token_bucket: {{max_tokens: 9, fill_interval: 1s}}, \
         descriptors: [{{entries: [{{key: user}}], token_bucket: {{max_tokens: 3, fill_interval: 1s}}}}, \
         {{entries: [{{key: user, value: root}}], token_bucket: {{max_tokens: 1, fill_interval: 60s}}}}, \
         {{entries: [{{key: user}}, {{key: plan, value: free}}], token_bucket: {{max_tokens: 2, fill_interval: 9s}}}}], \
         rate_limits: [{{actions: [{user}]}}, {{actions: [{user}, {plan}]}}]"
    ))
    .unwrap();
    let now = Instant::now();
    assert_eq!(passes(&limit, &[("user", "a")], None, now), 3);
    assert_eq!(passes(&limit, &[("user", "b"), ("plan", "free")], None, now), 2);
    // Nine for all together.
    assert_eq!(passes(&limit, &[("user", "root")], None, now), 1);
    assert_eq!(passes(&limit, &[], None, now), 3);
    let later = now + Duration::from_secs(2);
    assert_eq!(passes(&limit, &[("user", "a")], None, later), 2);
    // Two that have come back for the value are not there for all.
    assert_eq!(passes(&limit, &[], None, later), 0);
}

#[test]
fn the_bucket_of_all_is_for_the_others_where_that_is_said() {
    let limit = compiled(
        "token_bucket: {max_tokens: 2, fill_interval: 1s}, always_consume_default_token_bucket: false, \
         descriptors: [{entries: [{key: peer_identity}], token_bucket: {max_tokens: 5, fill_interval: 1s}}], \
         rate_limits: [{actions: [{extension: {name: x, typed_config: {'@type': type.googleapis.com/outrider.rate_limit.v1.PeerIdentity}}}]}]",
    )
    .unwrap();
    let now = Instant::now();
    assert_eq!(passes(&limit, &[], Some("spiffe://a/b"), now), 5);
    assert_eq!(passes(&limit, &[], Some("spiffe://a/c"), now), 5);
    assert_eq!(passes(&limit, &[], None, now), 2);
}

#[test]
fn what_has_no_effect_is_refused() {
    let bucket = "token_bucket: {max_tokens: 1, fill_interval: 1s}";
    let kinds = "descriptors: [{entries: [{key: a}], token_bucket: {max_tokens: 1, fill_interval: 1s}}]";
    for (yaml, part) in [
        ("token_bucket: {max_tokens: 1}".to_owned(), "token_bucket.fill_interval"),
        (
            "token_bucket: {max_tokens: 1, fill_interval: 1s, tokens_per_fill: 0}".to_owned(),
            "tokens_per_fill",
        ),
        (String::new(), "token_bucket"),
        (format!("{bucket}, {kinds}"), "rate_limits"),
        (format!("{bucket}, rate_limits: [{{actions: [{{remote_address: {{}}}}]}}]"), "descriptors"),
        (format!("{bucket}, {kinds}, rate_limits: [{{actions: []}}]"), "actions"),
        (format!("{bucket}, {kinds}, rate_limits: [{{actions: [{{}}]}}]"), "actions[0]"),
        (format!("{bucket}, max_dynamic_descriptors: 0"), "max_dynamic_descriptors"),
        (
            format!(
                "{bucket}, {kinds}, rate_limits: [{{actions: [{{masked_remote_address: {{v4_prefix_mask_len: 33}}}}]}}]"
            ),
            "v4_prefix_mask_len",
        ),
    ] {
        let error = compiled(&yaml).unwrap_err();
        assert!(error.contains(part), "{part} not in {error}");
    }
    assert_eq!(compiled(bucket).unwrap().status.as_u16(), 429);
}
