//! What is compiled and what is refused.

use std::net::SocketAddr;

use outrider_proto::json;

use super::*;
use crate::http::message::RequestHead;
use crate::policy::Subject;

fn http(yaml: &str) -> Result<Filter, Vec<String>> {
    let value: http::Rbac = json::from_yaml(yaml).unwrap();
    let mut path = Path::root();
    let filter = http_filter(&value, &mut path);
    path.finish(Some(filter)).map_err(|faults| faults.iter().map(ToString::to_string).collect())
}

fn connection(yaml: &str) -> Result<Filter, Vec<String>> {
    let value: network::Rbac = json::from_yaml(yaml).unwrap();
    let mut path = Path::root();
    let filter = network_filter(&value, &mut path);
    path.finish(Some(filter)).map_err(|faults| faults.iter().map(ToString::to_string).collect())
}

/// The rules of one policy `p`.
fn rules(action: &str, permission: &str, principal: &str) -> String {
    format!(
        "{{rules: {{action: {action}, policies: {{p: {{permissions: [{permission}], principals: [{principal}]}}}}}}}}"
    )
}

/// A request of `spiffe://td/ns/a/sa/b` from 10.0.0.1, on behalf of 192.0.2.1, to 10.0.0.2:8080 with the SNI
/// `b.example`: `GET /data/x?q` with the header `x: 1`.
fn holds(filter: &Filter) -> bool {
    let mut head = RequestHead { path: "/data/x?q".into(), ..RequestHead::default() };
    head.headers.append(b"x", b"1");
    let subject = Subject {
        peer: Some("spiffe://td/ns/a/sa/b"),
        direct_remote: "10.0.0.1".parse().unwrap(),
        remote: "192.0.2.1".parse().unwrap(),
        local: SocketAddr::new("10.0.0.2".parse().unwrap(), 8080),
        server_name: Some("b.example"),
        head: Some(&head),
    };
    filter.decide(&subject).is_allowed()
}

#[test]
fn permissions_are_what_is_done() {
    for (permission, expected) in [
        ("{any: true}", true),
        ("{header: {name: ':method', string_match: {exact: GET}}}", true),
        ("{header: {name: ':path', string_match: {exact: /data/x}}}", false),
        ("{header: {name: X, string_match: {exact: '1'}}}", true),
        ("{header: {name: y, string_match: {exact: '1'}, invert_match: true}}", false),
        ("{url_path: {path: {exact: /data/x}}}", true),
        ("{url_path: {path: {prefix: /data/x?}}}", false),
        ("{url_path: {path: {suffix: x}}}", true),
        ("{destination_ip: {address_prefix: 10.0.0.0, prefix_len: 30}}", true),
        ("{destination_ip: {address_prefix: 10.0.0.0, prefix_len: 31}}", false),
        ("{destination_port: 8080}", true),
        ("{destination_port: 80}", false),
        ("{destination_port_range: {start: 80, end: 8080}}", false),
        ("{destination_port_range: {start: 8080, end: 8081}}", true),
        ("{requested_server_name: {suffix: .example}}", true),
        ("{requested_server_name: {exact: ''}}", false),
        ("{not_rule: {destination_port: 8080}}", false),
        ("{and_rules: {rules: [{any: true}, {destination_port: 80}]}}", false),
        ("{or_rules: {rules: [{destination_port: 80}, {destination_port: 8080}]}}", true),
        ("{destination_port: 80}, {destination_port: 8080}", true),
    ] {
        for (action, expected) in [("ALLOW", expected), ("DENY", !expected), ("LOG", true)] {
            let filter = http(&rules(action, permission, "{any: true}")).unwrap();
            assert_eq!(holds(&filter), expected, "{action} {permission}");
        }
    }
}

#[test]
fn principals_are_who_does_it() {
    for (principal, expected) in [
        ("{any: true}", true),
        ("{authenticated: {}}", true),
        ("{authenticated: {principal_name: {exact: 'spiffe://td/ns/a/sa/b'}}}", true),
        ("{authenticated: {principal_name: {prefix: 'spiffe://td/ns/a/'}}}", true),
        ("{authenticated: {principal_name: {exact: 'td/ns/a/sa/b'}}}", false),
        ("{authenticated: {principal_name: {safe_regex: {regex: 'spiffe://td/ns/[^/]+/sa/b'}}}}", true),
        ("{direct_remote_ip: {address_prefix: 10.0.0.1, prefix_len: 32}}", true),
        ("{source_ip: {address_prefix: 10.0.0.1, prefix_len: 32}}", true),
        ("{remote_ip: {address_prefix: 10.0.0.1, prefix_len: 32}}", false),
        ("{remote_ip: {address_prefix: 192.0.2.0, prefix_len: 24}}", true),
        ("{remote_ip: {address_prefix: '::'}}", false),
        ("{remote_ip: {address_prefix: 0.0.0.0}}", true),
        ("{header: {name: x, present_match: true}}", true),
        ("{url_path: {path: {prefix: /data}}}", true),
        ("{not_id: {authenticated: {}}}", false),
        ("{and_ids: {ids: [{any: true}, {header: {name: y}}]}}", false),
        ("{or_ids: {ids: [{header: {name: y}}, {any: true}]}}", true),
    ] {
        let filter = http(&rules("ALLOW", "{any: true}", principal)).unwrap();
        assert_eq!(holds(&filter), expected, "{principal}");
    }
}

#[test]
fn without_policies_allow_denies_and_deny_allows() {
    assert!(holds(&http("{}").unwrap()));
    assert!(!holds(&http("{rules: {}}").unwrap()));
    assert!(!holds(&http("{rules: {action: ALLOW}}").unwrap()));
    assert!(holds(&http("{rules: {action: DENY}}").unwrap()));
    assert!(holds(&http("{shadow_rules: {}}").unwrap()));
}

#[test]
fn the_first_policy_by_name_is_reported_and_metrics_have_the_prefix() {
    let policy = "{permissions: [{any: true}], principals: [{any: true}]}";
    let policies = format!("{{b: {policy}, B: {policy}, a2: {policy}, a10: {policy}}}");
    let filter = http(&format!(
        "{{rules: {{policies: {policies}}}, rules_stat_prefix: one, shadow_rules: {{action: DENY, policies: {policies}}}, \
         shadow_rules_stat_prefix: 'two.'}}"
    ))
    .unwrap();
    let subject = Subject {
        peer: None,
        direct_remote: "::1".parse().unwrap(),
        remote: "::1".parse().unwrap(),
        local: "[::1]:1".parse().unwrap(),
        server_name: None,
        head: None,
    };
    let decision = filter.decide(&subject);
    let (enforced, shadow) = (decision.enforced.unwrap(), decision.shadow.unwrap());
    assert_eq!((enforced.allowed, &**enforced.policy.unwrap(), &**enforced.label), (true, "B", "one.B"));
    assert_eq!((shadow.allowed, &**shadow.policy.unwrap(), &**shadow.label), (false, "B", "two.B"));
}

#[test]
fn faults_name_their_fields() {
    let any = "{any: true}";
    for (permission, principal, expected) in [
        ("{any: false}", any, "permissions[0].any: must be true"),
        ("{}", any, "permissions[0]: no rule is set"),
        (any, "{}", "principals[0]: no identifier is set"),
        ("", any, "permissions: missing; {any: true} takes everything"),
        (any, "", "principals: missing; {any: true} takes everything"),
        ("{and_rules: {}}", any, "permissions[0].and_rules.rules: missing; {any: true} takes everything"),
        (any, "{or_ids: {}}", "principals[0].or_ids.ids: missing; {any: true} takes everything"),
        ("{destination_port: 65536}", any, "permissions[0].destination_port: larger than 65535"),
        (
            "{destination_port_range: {start: 2, end: 2}}",
            any,
            "permissions[0].destination_port_range: start must be less than end, and both from 0 to 65536",
        ),
        (
            "{destination_ip: {address_prefix: a}}",
            any,
            "permissions[0].destination_ip.address_prefix: not an IP address",
        ),
        (
            any,
            "{not_id: {remote_ip: {address_prefix: 10.0.0.0, prefix_len: 33}}}",
            "principals[0].not_id.remote_ip.prefix_len: more bits than an address has",
        ),
        ("{url_path: {}}", any, "permissions[0].url_path: no path is set"),
        ("{url_path: {path: {}}}", any, "permissions[0].url_path.path: no pattern is set"),
        (
            any,
            "{authenticated: {principal_name: {}}}",
            "principals[0].authenticated.principal_name: no pattern is set",
        ),
        (
            "{header: {name: te}}",
            any,
            "permissions[0].header.name: \"te\" belongs to the connection and cannot be matched",
        ),
    ] {
        let faults = http(&rules("ALLOW", permission, principal)).unwrap_err();
        assert_eq!(faults, [format!("rules.policies[\"p\"].{expected}")], "{permission} {principal}");
    }
}

#[test]
fn rules_are_nested_within_bounds() {
    let nested = |depth: usize| format!("{}{{any: true}}{}", "{not_rule: ".repeat(depth), "}".repeat(depth));
    assert!(http(&rules("ALLOW", &nested(MAX_DEPTH), "{any: true}")).is_ok());
    let faults = http(&rules("ALLOW", &nested(MAX_DEPTH + 1), "{any: true}")).unwrap_err();
    assert!(faults[0].ends_with("rules are nested more than 32 deep"), "{faults:?}");
}

#[test]
fn connections_have_no_head() {
    let of = |permission: &str, principal: &str| {
        let rules = rules("ALLOW", permission, principal);
        connection(&rules.replacen('{', "{stat_prefix: s, ", 1))
    };
    assert!(of("{destination_port: 1}", "{authenticated: {}}").is_ok());
    for (permission, principal, place) in [
        ("{header: {name: x}}", "{any: true}", "permissions[0].header"),
        ("{any: true}", "{url_path: {path: {exact: /}}}", "principals[0].url_path"),
    ] {
        let expected = format!("rules.policies[\"p\"].{place}: a connection has none; use the HTTP filter");
        assert_eq!(of(permission, principal).unwrap_err(), [expected]);
    }
    assert_eq!(connection("{}").unwrap_err(), ["stat_prefix: missing"]);
}

#[test]
fn a_header_that_comes_twice_is_read_to_the_harm_of_who_sends_it() {
    let mut head = RequestHead { path: "/".into(), ..RequestHead::default() };
    head.headers.append(b"x", b"good");
    head.headers.append(b"x", b"bad");
    let subject = Subject {
        peer: None,
        direct_remote: "::1".parse().unwrap(),
        remote: "::1".parse().unwrap(),
        local: "[::1]:1".parse().unwrap(),
        server_name: None,
        head: Some(&head),
    };
    for (action, header) in [
        ("DENY", "{header: {name: x, string_match: {exact: bad}}}"),
        ("DENY", "{header: {name: x, string_match: {exact: good}, invert_match: true}}"),
        ("DENY", "{not_rule: {header: {name: x, string_match: {exact: good}}}}"),
        ("ALLOW", "{header: {name: x, string_match: {exact: good}}}"),
        ("ALLOW", "{header: {name: x, string_match: {exact: bad}, invert_match: true}}"),
        ("ALLOW", "{not_rule: {header: {name: x, string_match: {exact: bad}}}}"),
    ] {
        let filter = http(&rules(action, header, "{any: true}")).unwrap();
        assert!(!filter.decide(&subject).is_allowed(), "{action} {header}");
    }
}
