use std::time::Duration;

use outrider_proto::json;
use proptest::prelude::*;

use super::forward::GrpcTimeout;
use super::*;
use crate::model::retry::RetryOn;

fn compile(yaml: &str) -> Result<Route, Vec<String>> {
    let value: pb::Route = json::from_yaml(yaml).unwrap();
    let mut path = Path::root();
    let route = Route::from_proto(&value, (None, false), &mut path);
    path.finish(route).map_err(|faults| faults.iter().map(ToString::to_string).collect())
}

fn forward(action: &str) -> ForwardAction {
    match compile(&format!("{{match: {{prefix: /}}, route: {{cluster: c, {action}}}}}")).unwrap().action {
        RouteAction::Forward(action) => *action,
        RouteAction::Redirect(_) | RouteAction::Direct(_) => panic!("a forward action"),
    }
}

fn weighted(weights: &[u32]) -> ClusterChoice {
    let entries = weights.iter().enumerate().map(|(index, weight)| {
        let entry = WeightedEntry {
            subset: None,
            cluster: index.to_string().into(),
            filters: FilterOverrides::default(),
            request_headers: HeaderChanges::default(),
            response_headers: HeaderChanges::default(),
        };
        (*weight, entry)
    });
    ClusterChoice::weighted(entries.collect(), &mut Path::root()).unwrap()
}

#[test]
fn a_plain_action_has_envoys_defaults() {
    let action = forward("");
    assert_eq!(action.timeout, Some(Duration::from_secs(15)));
    assert_eq!((action.idle_timeout, action.max_stream_duration, action.grpc_stream), (None, None, None));
    assert_eq!(action.not_found_status, 503);
    assert!(action.retry.is_none() && action.rewrite.is_none() && action.host.is_none());
    assert!(action.upgrades.is_empty() && action.mirrors.is_empty());
}

#[test]
fn zero_is_no_limit_and_unset_is_the_chains() {
    let action = forward(
        "timeout: 0s, idle_timeout: 0s, max_stream_duration: {max_stream_duration: 0s, grpc_timeout_header_max: 0s}",
    );
    assert_eq!(
        (action.timeout, action.idle_timeout, action.max_stream_duration),
        (None, Some(None), Some(None))
    );
    assert_eq!(action.grpc_stream, Some(GrpcTimeout { max: None, offset: Duration::ZERO }));
    let action = forward("timeout: 1.5s, idle_timeout: 2s, max_stream_duration: {max_stream_duration: 3s}");
    assert_eq!(action.timeout, Some(Duration::from_millis(1500)));
    assert_eq!(action.idle_timeout, Some(Some(Duration::from_secs(2))));
    assert_eq!(action.max_stream_duration, Some(Some(Duration::from_secs(3))));
}

#[test]
fn a_routes_own_retry_policy_replaces_that_of_its_host() {
    let vhost: pb::RouteConfiguration = json::from_yaml(
        "virtual_hosts: [{name: v, domains: ['*'], retry_policy: {retry_on: 5xx, num_retries: 4}, routes: [\
         {match: {prefix: /own}, route: {cluster: c, retry_policy: {retry_on: 'reset, connect-failure'}}}, \
         {match: {prefix: /}, route: {cluster: c}}]}]",
    )
    .unwrap();
    let table = crate::model::RouteTable::from_proto(&vhost).unwrap();
    for (path, on, not, retries) in
        [("/own", RetryOn::RESET, RetryOn::SERVER_ERROR, 1), ("/x", RetryOn::SERVER_ERROR, RetryOn::RESET, 4)]
    {
        let head = RequestHead { path: path.into(), ..RequestHead::default() };
        let (_, route) = table.select(&head, 0).unwrap();
        let RouteAction::Forward(action) = &route.action else { panic!("a forward action") };
        let policy = action.retry.as_ref().unwrap();
        assert!(policy.on.has(on) && !policy.on.has(not), "{path}");
        assert_eq!(policy.retries, retries);
        assert_eq!((policy.base, policy.max), (Duration::from_millis(25), Duration::from_millis(250)));
    }
}

#[test]
fn each_weight_gets_its_share() {
    let choice = weighted(&[1, 0, 3]);
    let drawn: Vec<String> = (0..8).map(|random| choice.pick(random).0.to_string()).collect();
    assert_eq!(drawn, ["0", "2", "2", "2", "0", "2", "2", "2"]);
    assert_eq!(choice.names().map(|name| &**name).collect::<Vec<_>>(), ["0", "2"]);
    let most = weighted(&[u32::MAX - 1, 1]);
    assert_eq!(&**most.pick(u64::from(u32::MAX) - 1).0, "1");
    assert_eq!(&**most.pick(u64::from(u32::MAX) - 2).0, "0");
}

proptest! {
    /// Over one whole turn every cluster is drawn as often as its weight says.
    #[test]
    fn shares_are_exact(weights in proptest::collection::vec(0_u32..20, 1..8)) {
        let total: u32 = weights.iter().sum();
        prop_assume!(total > 0);
        let choice = weighted(&weights);
        let mut counts = vec![0; weights.len()];
        for random in 0..u64::from(total) {
            let index: usize = choice.pick(random).0.parse().unwrap();
            counts[index] += 1;
        }
        prop_assert_eq!(counts, weights);
    }
}

/// What Envoy 1.40 refuses is refused; so is what could never do what it says.
#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn faults_of_forwarding_name_their_fields() {
    for (action, expected) in [
        ("{}", "route: one of cluster and weighted_clusters is needed"),
        ("{cluster: ''}", "route.cluster: missing"),
        ("{weighted_clusters: {}}", "route.weighted_clusters: the weights must add up to 1 to 4294967295"),
        (
            "{weighted_clusters: {clusters: [{name: a}]}}",
            "route.weighted_clusters.clusters[0].weight: missing",
        ),
        (
            "{weighted_clusters: {clusters: [{weight: 1}]}}",
            "route.weighted_clusters.clusters[0].name: missing",
        ),
        (
            "{weighted_clusters: {clusters: [{name: a, weight: 4294967295}, {name: b, weight: 1}]}}",
            "route.weighted_clusters: the weights must add up to 1 to 4294967295",
        ),
        ("{cluster: a, timeout: -1s}", "route.timeout: must not be negative"),
        ("{cluster: a, prefix_rewrite: x}", "route.prefix_rewrite: must begin with \"/\""),
        (
            "{cluster: a, prefix_rewrite: '/a b'}",
            "route.prefix_rewrite: holds a character that must be escaped in a URI",
        ),
        (
            "{cluster: a, prefix_rewrite: '/a?b'}",
            "route.prefix_rewrite: holds a \"?\" or \"#\"; the request's own query is kept",
        ),
        (
            "{cluster: a, prefix_rewrite: /, regex_rewrite: {pattern: {regex: a}, substitution: b}}",
            "route: prefix_rewrite and regex_rewrite are both set",
        ),
        ("{cluster: a, regex_rewrite: {}}", "route.regex_rewrite.pattern: missing"),
        (
            "{cluster: a, regex_rewrite: {pattern: {regex: '(a)'}, substitution: '\\2'}}",
            "route.regex_rewrite.substitution: the pattern has no group 2",
        ),
        (
            "{cluster: a, regex_rewrite: {pattern: {regex: a}, substitution: 'b\\'}}",
            "route.regex_rewrite.substitution: a backslash must be followed by a digit or a backslash",
        ),
        (
            "{cluster: a, host_rewrite_literal: 'a/b'}",
            "route.host_rewrite_literal: not a host with an optional port",
        ),
        (
            "{cluster: a, host_rewrite_header: ':path'}",
            "route.host_rewrite_header: \":path\" is not a header name",
        ),
        ("{cluster: a, request_mirror_policies: [{}]}", "route.request_mirror_policies[0].cluster: missing"),
        (
            "{cluster: a, upgrade_configs: [{upgrade_type: a}, {upgrade_type: A}]}",
            "route.upgrade_configs[1].upgrade_type: \"A\" is there twice",
        ),
        ("{cluster: a, retry_policy: {num_retries: 21}}", "route.retry_policy.num_retries: more than 20"),
        (
            "{cluster: a, retry_policy: {retriable_status_codes: [99]}}",
            "route.retry_policy.retriable_status_codes[0]: not a status code",
        ),
        (
            "{cluster: a, retry_policy: {retry_back_off: {}}}",
            "route.retry_policy.retry_back_off.base_interval: must be at least 1ms",
        ),
        (
            "{cluster: a, retry_policy: {retry_back_off: {base_interval: 2s, max_interval: 1s}}}",
            "route.retry_policy.retry_back_off.max_interval: shorter than base_interval",
        ),
    ] {
        assert_eq!(
            compile(&format!("{{match: {{prefix: /}}, route: {action}}}")).unwrap_err(),
            [expected],
            "{action}"
        );
    }
}

#[test]
fn faults_of_matches_name_their_fields() {
    for (rule, expected) in [
        ("{}", "match: one of prefix, path, path_separated_prefix and safe_regex is needed"),
        ("{path: a}", "match.path: must begin with \"/\""),
        (
            "{path_separated_prefix: /a/}",
            "match.path_separated_prefix: must begin with \"/\", not end with it, and hold no \"?\" or \"#\"",
        ),
        ("{safe_regex: {}}", "match.safe_regex.regex: missing"),
        ("{prefix: /, headers: [{}]}", "match.headers[0].name: missing"),
        ("{prefix: /, query_parameters: [{}]}", "match.query_parameters[0].name: missing"),
        ("{prefix: /, runtime_fraction: {}}", "match.runtime_fraction.default_value: missing"),
        (
            "{prefix: /, runtime_fraction: {default_value: {numerator: 101}}}",
            "match.runtime_fraction.default_value: more than the whole",
        ),
    ] {
        let found = compile(&format!("{{match: {rule}, direct_response: {{status: 200}}}}")).unwrap_err();
        assert_eq!(found, [expected], "{rule}");
    }
    assert_eq!(compile("{route: {cluster: a}}").unwrap_err(), ["match: missing"]);
    let found = compile("{match: {prefix: /}}").unwrap_err();
    assert_eq!(found, ["one of route, redirect and direct_response is needed"]);
}

#[test]
fn faults_of_answers_name_their_fields() {
    for (action, expected) in [
        ("redirect: {host_redirect: 'a b'}", "redirect.host_redirect: not a host with an optional port"),
        (
            "redirect: {host_redirect: 'a:1', port_redirect: 2}",
            "redirect.port_redirect: host_redirect holds a port already",
        ),
        ("redirect: {port_redirect: 65536}", "redirect.port_redirect: larger than 65535"),
        ("redirect: {scheme_redirect: 'a b'}", "redirect.scheme_redirect: not a scheme"),
        ("redirect: {scheme_redirect: '1a'}", "redirect.scheme_redirect: not a scheme"),
        ("redirect: {path_redirect: a}", "redirect.path_redirect: must begin with \"/\""),
        (
            "redirect: {path_redirect: \"/a\\r\\nb: c\"}",
            "redirect.path_redirect: holds a character that must be escaped in a URI",
        ),
        ("redirect: {prefix_rewrite: a}", "redirect.prefix_rewrite: must begin with \"/\""),
        ("redirect: {regex_rewrite: {}}", "redirect.regex_rewrite.pattern: missing"),
        ("direct_response: {status: 199}", "direct_response.status: must be from 200 to 599"),
        ("direct_response: {status: 600}", "direct_response.status: must be from 200 to 599"),
        ("direct_response: {status: 65736}", "direct_response.status: must be from 200 to 599"),
        (
            "direct_response: {status: 200, body: {}}",
            "direct_response.body: one of filename, inline_bytes and inline_string is needed",
        ),
        (
            "direct_response: {status: 200, body: {filename: /dev/zero}}",
            "direct_response.body.filename: \"/dev/zero\": not a regular file",
        ),
    ] {
        assert_eq!(
            compile(&format!("{{match: {{prefix: /}}, {action}}}")).unwrap_err(),
            [expected],
            "{action}"
        );
    }
}

#[test]
fn a_direct_body_has_a_bound() {
    let yaml = |bytes: usize| {
        format!(
            "{{match: {{prefix: /}}, direct_response: {{status: 200, body: {{inline_string: {}}}}}}}",
            "x".repeat(bytes)
        )
    };
    assert!(
        matches!(compile(&yaml(4096)).unwrap().action, RouteAction::Direct(action) if action.body.len() == 4096)
    );
    assert_eq!(compile(&yaml(4097)).unwrap_err(), ["direct_response.body: more than 4096 bytes"]);
}
