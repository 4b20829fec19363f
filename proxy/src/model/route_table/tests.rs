use outrider_proto::json;

use super::*;

fn table(yaml: &str) -> RouteTable {
    let config: pb::RouteConfiguration = json::from_yaml(yaml).unwrap();
    RouteTable::from_proto(&config).unwrap()
}

fn faults(yaml: &str) -> Vec<String> {
    let config: pb::RouteConfiguration = json::from_yaml(yaml).unwrap();
    RouteTable::from_proto(&config).unwrap_err().iter().map(ToString::to_string).collect()
}

fn request(authority: &str, path: &str) -> RequestHead {
    RequestHead { authority: authority.into(), path: path.into(), ..RequestHead::default() }
}

fn route(name: &str, rule: &str) -> String {
    format!("{{name: {name}, match: {rule}, direct_response: {{status: 200}}}}")
}

#[test]
fn the_most_specific_host_wins() {
    let host = |name: &str, domains: &str| {
        format!("{{name: {name}, domains: {domains}, routes: [{}]}}", route("r", "{prefix: /}"))
    };
    let hosts = [
        host("exact", "[a.b.c, 'x.y:80']"),
        host("suffix", "['*.b.c']"),
        host("longer", "['*.a.b.c']"),
        host("prefix", "['a.*']"),
        host("any", "['*']"),
    ];
    let table = table(&format!("virtual_hosts: [{}]", hosts.join(",")));
    for (authority, expected) in [
        ("a.b.c", "exact"),
        ("A.B.C", "exact"),
        ("z.b.c", "suffix"),
        ("z.a.b.c", "longer"),
        ("b.c", "any"),
        ("a.z", "prefix"),
        ("x.y:80", "exact"),
        ("x.y", "any"),
        ("a.b.c:80", "prefix"),
        ("", "any"),
    ] {
        let (host, _) = table.select(&request(authority, "/"), 0).unwrap();
        assert_eq!(&*host.name, expected, "{authority}");
    }
}

#[test]
fn ports_are_ignored_where_asked() {
    let yaml = format!(
        "ignore_port_in_host_matching: true\nvirtual_hosts: [{{name: v, domains: [a.b, '[::1]'], routes: [{}]}}]",
        route("r", "{prefix: /}")
    );
    let table = table(&yaml);
    for (authority, found) in
        [("a.b:8080", true), ("a.b", true), ("[::1]:80", true), ("[::1]", true), ("c", false)]
    {
        assert_eq!(table.select(&request(authority, "/"), 0).is_some(), found, "{authority}");
    }
}

#[test]
fn the_first_matching_route_wins() {
    let routes = [
        route("header", "{prefix: /, headers: [{name: x-a, string_match: {exact: '1'}}]}"),
        route("query", "{prefix: /, query_parameters: [{name: q, string_match: {prefix: v}}]}"),
        route("grpc", "{prefix: /, grpc: {}}"),
        route("exact", "{path: /exact}"),
        route("separated", "{path_separated_prefix: /sep}"),
        route("regex", "{safe_regex: {regex: '/r/[0-9]+'}}"),
        route("nocase", "{path: /NoCase, case_sensitive: false}"),
        route("half", "{prefix: /half, runtime_fraction: {default_value: {numerator: 50}}}"),
        route("rest", "{prefix: /}"),
    ];
    let table =
        table(&format!("virtual_hosts: [{{name: v, domains: ['*'], routes: [{}]}}]", routes.join(",")));
    let name = |head: &RequestHead, random: u64| table.select(head, random).unwrap().1.name.to_string();
    for (path, expected) in [
        ("/exact", "exact"),
        ("/exact?x=y", "exact"),
        ("/exact/", "rest"),
        ("/sep", "separated"),
        ("/sep/x", "separated"),
        ("/separate", "rest"),
        ("/r/12", "regex"),
        ("/r/12x", "rest"),
        ("/nocase", "nocase"),
        ("/x?a=b&q=value", "query"),
        ("/x?a=b&q=other", "rest"),
    ] {
        assert_eq!(name(&request("a", path), 0), expected, "{path}");
    }
    assert_eq!(name(&request("a", "/half"), 499_999), "half");
    assert_eq!(name(&request("a", "/half"), 500_000), "rest");
    let mut head = request("a", "/exact");
    head.headers.append(b"x-a", b"1");
    assert_eq!(name(&head, 0), "header");
    let mut head = request("a", "/exact");
    head.headers.append(b"content-type", b"application/grpc+proto");
    assert_eq!(name(&head, 0), "grpc");
}

#[test]
fn faults_name_their_fields() {
    for (yaml, expected) in [
        ("virtual_hosts: [{name: v}]", "virtual_hosts[0].domains: missing"),
        ("virtual_hosts: [{domains: [a]}]", "virtual_hosts[0].name: missing"),
        ("virtual_hosts: [{name: a, domains: [a, A]}]", "virtual_hosts[0].domains[1]: \"A\" is there twice"),
        ("virtual_hosts: [{name: a, domains: [a, 'b*c']}]", "virtual_hosts[0].domains[1]: a name"),
        (
            "virtual_hosts: [{name: a, domains: [a], routes: [{match: {safe_regex: {regex: '('}}, direct_response: {status: 200}}]}]",
            "virtual_hosts[0].routes[0].match.safe_regex.regex: regex parse error",
        ),
        (
            "virtual_hosts: [{name: a, domains: [a], routes: [{match: {prefix: /}, direct_response: {status: 99}}]}]",
            "virtual_hosts[0].routes[0].direct_response.status: must be from 200 to 599",
        ),
        (
            "virtual_hosts: [{name: a, domains: [a], routes: [{match: {prefix: /}, route: {weighted_clusters: {clusters: [{name: c, weight: 0}]}}}]}]",
            "virtual_hosts[0].routes[0].route.weighted_clusters: the weights must add up",
        ),
        (
            "virtual_hosts: [{name: a, domains: [a], routes: [{match: {prefix: /}, route: {cluster: c, retry_policy: {retry_on: 'no'}}}]}]",
            "virtual_hosts[0].routes[0].route.retry_policy.retry_on: condition \"no\" is not supported",
        ),
        (
            "request_headers_to_add: [{header: {key: host, value: x}}]",
            "request_headers_to_add[0].header.key: \"host\" cannot be changed this way",
        ),
        (
            "request_headers_to_add: [{header: {key: a, value: '%NOPE%'}}]",
            "request_headers_to_add[0].header.value: operator %NOPE% is not supported",
        ),
    ] {
        let found = faults(yaml);
        assert!(found[0].starts_with(expected), "{found:?} does not begin with {expected}");
    }
}

/// The answers are those of Envoy 1.40.
#[test]
fn a_star_stands_for_at_least_one_character() {
    let host = |name: &str, domains: &str| {
        format!("{{name: {name}, domains: {domains}, routes: [{}]}}", route("r", "{prefix: /}"))
    };
    let hosts = [
        host("suffix", "['*.ex.com', '*-x.com']"),
        host("prefix", "['pre.*']"),
        host("longer-prefix", "['pre.ex.*']"),
        host("whole", "['[::1]', dot.com.]"),
    ];
    let table = table(&format!("virtual_hosts: [{}]", hosts.join(",")));
    for (authority, expected) in [
        ("a.ex.com", "suffix"),
        (".ex.com", ""),
        ("ex.com", ""),
        ("a-x.com", "suffix"),
        ("-x.com", ""),
        ("pre.q", "prefix"),
        ("pre.", ""),
        ("pre.ex.q", "longer-prefix"),
        ("pre.ex.com", "suffix"),
        ("[::1]", "whole"),
        ("dot.com.", "whole"),
        ("dot.com", ""),
        ("a.ex.com:80", ""),
    ] {
        let found = table.select(&request(authority, "/"), 0).map(|(host, _)| host.name.to_string());
        assert_eq!(found.unwrap_or_default(), expected, "{authority}");
    }
    // Longer than any host name: nothing but "*" takes it.
    assert!(table.select(&request(&format!("{}.ex.com", "a".repeat(MAX_HOST_BYTES)), "/"), 0).is_none());
}

#[test]
fn stars_elsewhere_are_refused() {
    for domain in ["a*b", "**", "*a*", "", "a.*.b"] {
        let found = faults(&format!("virtual_hosts: [{{name: v, domains: ['{domain}']}}]"));
        let expected = "virtual_hosts[0].domains[0]: a name, or one with \"*\" at its beginning or end";
        assert_eq!(found, [expected], "{domain}");
    }
    let twice =
        "virtual_hosts: [{name: v, domains: ['*']}, {name: w, domains: ['*']}, {name: w, domains: [a]}]";
    assert_eq!(
        faults(twice),
        [
            "virtual_hosts[1].domains[0]: \"*\" is there twice",
            "virtual_hosts[2].name: \"w\" is the name of two virtual hosts"
        ]
    );
}

mod against_a_scan {
    use proptest::prelude::*;

    use super::*;

    /// What decides about one route, with which the same decision is made the slow way.
    #[derive(Clone, Debug)]
    enum Rule {
        Prefix(String),
        Exact(String),
        Separated(String),
        Regex(String),
        NoCase(String),
        WithHeader(String),
    }

    impl Rule {
        fn yaml(&self) -> String {
            match self {
                Self::Prefix(text) => format!("{{prefix: '{text}'}}"),
                Self::Exact(text) => format!("{{path: '{text}'}}"),
                Self::Separated(text) => format!("{{path_separated_prefix: '{text}'}}"),
                Self::Regex(text) => format!("{{safe_regex: {{regex: '{text}.*'}}}}"),
                Self::NoCase(text) => format!("{{prefix: '{text}', case_sensitive: false}}"),
                Self::WithHeader(text) => format!("{{prefix: '{text}', headers: [{{name: x-h}}]}}"),
            }
        }

        fn takes(&self, path: &str, with_header: bool) -> bool {
            match self {
                Self::Prefix(text) | Self::Regex(text) => path.starts_with(text.as_str()),
                Self::Exact(text) => path == text,
                Self::Separated(text) => path
                    .strip_prefix(text.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
                Self::NoCase(text) => path.to_ascii_lowercase().starts_with(&text.to_ascii_lowercase()),
                Self::WithHeader(text) => with_header && path.starts_with(text.as_str()),
            }
        }
    }

    fn rule() -> impl Strategy<Value = Rule> {
        let path = || "(/[abA]{1,2}){1,3}";
        prop_oneof![
            4 => path().prop_map(Rule::Prefix),
            4 => path().prop_map(Rule::Exact),
            2 => path().prop_map(Rule::Separated),
            1 => path().prop_map(Rule::Regex),
            1 => path().prop_map(Rule::NoCase),
            2 => path().prop_map(Rule::WithHeader),
        ]
    }

    proptest! {
        #[test]
        fn the_first_route_in_order_is_found(
            rules in proptest::collection::vec(rule(), 1..30),
            path in "(/[abA]{1,2}){1,4}",
            with_header: bool,
        ) {
            let routes: Vec<String> =
                rules.iter().enumerate().map(|(index, rule)| route(&format!("'{index}'"), &rule.yaml())).collect();
            let table =
                table(&format!("virtual_hosts: [{{name: v, domains: ['*'], routes: [{}]}}]", routes.join(",")));
            let mut head = request("a", &format!("{path}?query"));
            if with_header {
                head.headers.append(b"x-h", b"1");
            }
            let found = table.select(&head, 0).map(|(_, route)| route.name.to_string());
            let expected = rules.iter().position(|rule| rule.takes(&path, with_header)).map(|index| index.to_string());
            prop_assert_eq!(found, expected);
        }
    }
}
