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
