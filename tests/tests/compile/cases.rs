//! The cases.

use std::fs;
use std::path::Path;

use outrider_control::compile::spans::Tracing;
use outrider_control::compile::status::ConditionKind;
use outrider_control::compile::{Mesh, Settings};
use outrider_control::object::{Key, ObjectKind};
use outrider_control::proxy_info::{Dialect, ProxyInfo};

use super::check::Judge;
use super::golden::{case, case_with, directory, objects, proxy, routes};

#[test]
fn a_shop_with_a_canary_and_a_policy() {
    case("shop", &[proxy("shop/front", "front"), proxy("shop/reviews-1", "reviews")]);
}

/// Where the spans of a mesh go.
pub fn traced() -> Settings {
    let tracing =
        Tracing { collector: "collector.observe:4317".parse().unwrap(), sampling: "2.5".parse().unwrap() };
    Settings { tracing: Some(tracing), ..Settings::default() }
}

#[test]
fn a_mesh_whose_requests_are_traced() {
    let ours = proxy("shop/reviews-1", "reviews");
    let envoy = ProxyInfo { id: "shop/reviews-1 as Envoy".into(), dialect: Dialect::Envoy, ..ours.clone() };
    case_with("traced", ("shop", traced()), &[ours, envoy]);
}

#[test]
fn policies_of_every_kind() {
    let ours = proxy("data/api-1", "api");
    let envoy = ProxyInfo { id: "data/api-1 as Envoy".into(), dialect: Dialect::Envoy, ..ours.clone() };
    let asking = ProxyInfo { id: "data/api-1 on demand".into(), on_demand: true, ..ours.clone() };
    case("policies", &[proxy("data/db-1", "db"), ours, envoy, asking]);
}

#[test]
fn policies_that_are_not_good() {
    directory(
        "denials",
        &[proxy("data/db-1", "db"), proxy("data/api-1", "api"), proxy("shop/front-1", "front")],
    );
}

#[test]
fn policies_of_traffic_in_full() {
    let ours = proxy("shop/web-1", "web");
    let envoy = ProxyInfo { id: "shop/web-1 as Envoy".into(), dialect: Dialect::Envoy, ..ours.clone() };
    case("traffic", &[ours, envoy]);
}

#[test]
fn faults_of_every_kind() {
    let ours = proxy("shop/front-1", "front");
    let envoy = ProxyInfo { id: "shop/front-1 as Envoy".into(), dialect: Dialect::Envoy, ..ours.clone() };
    case("faults", &[ours, envoy, proxy("shop/calm-1", "calm"), proxy("bank/ledger-1", "ledger")]);
}

#[test]
fn clients_of_grpc_without_a_proxy() {
    let client = ProxyInfo {
        id: "shop/client as gRPC".into(),
        dialect: Dialect::Grpc,
        ..proxy("shop/client", "client")
    };
    case("grpc", &[client]);
}

#[test]
fn the_examples_of_the_documentation_are_a_mesh_without_faults() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/objects.md");
    let text = fs::read_to_string(file).unwrap();
    let blocks: Vec<&str> =
        text.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    let mesh = Mesh::new(&objects(&blocks.join("---\n")));
    let problems: Vec<_> = mesh.statuses().iter().flat_map(|(_, status)| status.problems()).collect();
    assert!(problems.is_empty(), "{problems:#?}");
    assert!(mesh.objects().len() > 8 && !mesh.services().is_empty());
    for (name, account) in [("front-1", "front"), ("reviews-1", "reviews"), ("ledger-1", "ledger")] {
        let info = proxy(&format!("shop/{name}"), account);
        let refused = Judge::default().refusals(&info, &mesh.snapshot(&info));
        assert!(refused.is_empty(), "{refused:#?}");
    }
}

const SERVICES: &str = "
{apiVersion: v1, kind: Service, metadata: {name: a, namespace: n},
 spec: {clusterIP: 10.0.0.1, ports: [{name: http, port: 80}, {name: http-2, port: 81}, {name: tcp-x, port: 82}, {port: 83}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: b, namespace: n},
 spec: {clusterIP: 10.0.0.2, ports: [{name: http, port: 80}]}}
---
";

#[test]
fn a_workload_leaves_the_mesh_only_where_a_policy_lets_it() {
    let base = "
{apiVersion: v1, kind: Service, metadata: {name: a, namespace: ns}, spec: {clusterIP: 10.0.0.1, ports: [{name: tcp, port: 443}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: kubernetes, namespace: default}, spec: {clusterIP: 10.0.0.9, ports: [{name: https, port: 443}]}}
---
{apiVersion: mesh.outrider.dev/v1alpha1, kind: Workload, metadata: {name: w, namespace: ns}, spec: {address: 10.1.0.1, ports: [{port: 80}]}}
";
    let chains = |egress: &str, dialect: Dialect| -> Vec<String> {
        let policy =
            "apiVersion: mesh.outrider.dev/v1alpha1\nkind: EgressPolicy\nmetadata: {name: p, namespace: ns}";
        let text = match egress {
            "" => base.to_owned(),
            spec => format!("{base}---\n{policy}\nspec: {spec}\n"),
        };
        let mesh = Mesh::new(&objects(&text));
        let info = ProxyInfo { dialect, ..proxy("ns/w", "default") };
        let snapshot = mesh.snapshot(&info);
        assert_eq!(Judge::default().refusals(&info, &snapshot), Vec::<String>::new());
        super::golden::chains(&snapshot, "outbound|15001")
    };
    let service = "10.0.0.1/32:443";
    let api = r#"refuse ["10.0.0.9:443"]"#;
    let cases: [(&str, Vec<String>); 6] = [
        // Not even the Kubernetes API, which is a service like any other.
        ("", vec![service.into()]),
        (
            "{allow: [{cidr: 192.0.2.0/24, ports: [80]}]}",
            vec![service.into(), format!("192.0.2.0/24:80 {api}")],
        ),
        // A port that a service has is said again for the range, or it would be looked for in vain.
        (
            "{allow: [{cidr: 10.0.0.7/8}]}",
            vec![service.into(), format!("10.0.0.0/8:443 {api}"), format!("10.0.0.0/8:any {api}")],
        ),
        // What a service has stays the service's.
        ("{allow: [{cidr: 10.0.0.1}]}", vec![service.into(), format!("10.0.0.1/32:any {api}")]),
        (
            "{allowSensitive: [KubernetesApi]}",
            vec![service.into(), r#"10.0.0.9/32:443 allow ["10.0.0.9:443"]"#.into()],
        ),
        (
            "{allow: [{cidr: 192.0.2.0/24, ports: [10250]}], allowSensitive: [Kubelet]}",
            vec![
                service.into(),
                format!(r#"192.0.2.0/24:10250 allow ["0.0.0.0:10250..10259", ":::10250..10259"] {api}"#),
            ],
        ),
    ];
    for (egress, expected) in cases {
        let mut found = chains(egress, Dialect::Outrider);
        found.sort();
        let mut expected = expected;
        expected.sort();
        assert_eq!(found, expected, "{egress}");
    }
    // A host has a port of its own, which is said again for the range.
    let hosts =
        chains("{allow: [{host: a.example, ports: [8443]}, {cidr: 192.0.2.0/24}]}", Dialect::Outrider);
    let own = r#"refuse ["127.0.0.0:any", "0.0.0.0:any", "::1:any", ":::any", "10.0.0.9:443"]"#;
    for expected in [format!("192.0.2.0/24:8443 {api}"), format!(":8443 {own}")] {
        assert!(hosts.contains(&expected), "{expected}: {hosts:#?}");
    }
    let envoy = chains("{allow: [{cidr: 0.0.0.0/0}]}", Dialect::Envoy);
    for protected in ["169.254.0.0", "10250", "10.0.0.9"] {
        assert!(
            envoy.iter().filter(|one| one.starts_with("0.0.0.0/0")).all(|one| one.contains(protected)),
            "{envoy:#?}"
        );
    }
}

/// A route object of a kind in a namespace, for service `n/a`, with this much of a spec.
fn route(kind: &str, name: &str, port: &str, rules: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap();
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: {kind}, metadata: {{name: {name}, namespace: {namespace}}}, \
         spec: {{parentRefs: [{{group: '', kind: Service, name: a, namespace: n{port}}}], rules: {rules}}}}}\n---\n"
    )
}

fn mesh(routes: &[String]) -> Mesh {
    Mesh::new(&objects(&format!("{SERVICES}{}", routes.concat())))
}

/// Where a rule goes by default.
const TO_B: &str = "backendRefs: [{name: b, namespace: n, port: 80}]";

fn of_port(mesh: &Mesh, port: u16) -> Vec<String> {
    routes(mesh, &proxy("n/any", "any"), &format!("outbound|{port}||a.n"))
}

fn condition(mesh: &Mesh, kind: ObjectKind, name: &str, condition: ConditionKind) -> String {
    let (namespace, name) = name.split_once('/').unwrap();
    let status = mesh.statuses().of(&Key::new(kind, namespace, name)).expect("a status");
    let all = status.parents.values().flatten();
    let found: Vec<_> = all.filter(|one| one.kind == condition).collect();
    found.iter().map(|one| format!("{} {}", one.holds, one.reason)).collect::<Vec<_>>().join(", ")
}

#[test]
fn the_more_specific_match_goes_first_whatever_the_order() {
    let rules = format!(
        "[{{matches: [{{path: {{value: /}}}}], {TO_B}}}, {{matches: [{{path: {{value: /long/path}}}}], {TO_B}}}, \
         {{matches: [{{path: {{value: /long/path}}, headers: [{{name: H, value: v}}]}}], {TO_B}}}, \
         {{matches: [{{path: {{value: /long/path}}, method: GET}}], {TO_B}}}, \
         {{matches: [{{path: {{value: /l, type: Exact}}}}], {TO_B}}}]"
    );
    let found = of_port(&mesh(&[route("HTTPRoute", "n/r", ", port: 80", &rules)]), 80);
    let order: Vec<&str> = found.iter().map(|one| one.split(" ->").next().unwrap()).collect();
    assert_eq!(
        order,
        [
            r#"{"path":"/l"}"#,
            r#"{"headers":[{"name":":method","string_match":{"exact":"GET"}}],"path_separated_prefix":"/long/path"}"#,
            r#"{"headers":[{"name":"h","string_match":{"exact":"v"}}],"path_separated_prefix":"/long/path"}"#,
            r#"{"path_separated_prefix":"/long/path"}"#,
            r#"{"prefix":"/"}"#,
        ]
    );
}

#[test]
fn a_slash_at_the_end_makes_no_longer_prefix() {
    let rules = format!(
        "[{{matches: [{{path: {{value: /foo/}}}}], {TO_B}}}, \
         {{matches: [{{path: {{value: /foo}}, method: GET}}], {TO_B}}}]"
    );
    let found = of_port(&mesh(&[route("HTTPRoute", "n/r", ", port: 80", &rules)]), 80);
    assert!(found[0].contains("GET") && !found[1].contains("GET"), "{found:#?}");
}

#[test]
fn a_grpc_route_is_ranked_by_its_service_then_by_its_method() {
    let matched = |method: &str| format!("{{matches: [{{method: {{{method}}}}}], {TO_B}}}");
    let by_header = format!("{{matches: [{{headers: [{{name: h, value: v}}]}}], {TO_B}}}");
    let rules = [
        by_header,
        matched("method: LongMethod"),
        matched("service: s.S, method: M"),
        matched("service: s.S"),
        matched("service: 's[.].*', type: RegularExpression"),
        matched("service: s.Longest"),
        matched("service: s.S, method: Get.*, type: RegularExpression"),
    ];
    let found =
        of_port(&mesh(&[route("GRPCRoute", "n/r", ", port: 80", &format!("[{}]", rules.join(", ")))]), 80);
    let order: Vec<&str> = found.iter().map(|one| one.split(" ->").next().unwrap()).collect();
    assert_eq!(
        order,
        [
            r#"{"prefix":"/s.Longest/"}"#,
            r#"{"safe_regex":{"regex":"/(?:s[.].*)/[^/]+"}}"#,
            r#"{"safe_regex":{"regex":"/(?:s.S)/(?:Get.*)"}}"#,
            r#"{"path":"/s.S/M"}"#,
            r#"{"prefix":"/s.S/"}"#,
            r#"{"safe_regex":{"regex":"/[^/]+/LongMethod"}}"#,
            r#"{"headers":[{"name":"h","string_match":{"exact":"v"}}],"prefix":"/"}"#,
        ]
    );
}

#[test]
fn a_route_holds_for_the_port_that_it_names() {
    let mesh = mesh(&[route("HTTPRoute", "n/r", ", port: 81", &format!("[{{{TO_B}}}]"))]);
    assert_eq!(of_port(&mesh, 80), [r#"{"prefix":"/"} -> outbound|80||a.n"#]);
    assert_eq!(of_port(&mesh, 81), [r#"{"prefix":"/"} -> outbound|80||b.n"#]);
}

#[test]
fn a_consumer_route_holds_for_its_own_namespace_only() {
    let producer =
        route("HTTPRoute", "n/r", "", &format!("[{{matches: [{{path: {{value: /p}}}}], {TO_B}}}]"));
    let consumer =
        route("HTTPRoute", "m/r", "", &format!("[{{matches: [{{path: {{value: /c}}}}], {TO_B}}}]"));
    let mesh = mesh(&[producer, consumer]);
    let for_proxy = |name: &str| routes(&mesh, &proxy(name, "x"), "outbound|80||a.n");
    assert_eq!(for_proxy("n/x"), [r#"{"path_separated_prefix":"/p"} -> outbound|80||b.n"#]);
    assert_eq!(for_proxy("other/x"), for_proxy("n/x"));
    assert_eq!(for_proxy("m/x"), [r#"{"path_separated_prefix":"/c"} -> outbound|80||b.n"#]);
}

#[test]
fn shares_of_nothing_are_left_out_and_missing_backends_answer_500() {
    let weighted = "[{backendRefs: [{name: b, port: 80, weight: 9}, {name: gone, port: 80, weight: 1}, {name: b, port: 80, weight: 0}]}]";
    let cases = [
        (weighted, r#"{"prefix":"/"} -> outbound|80||b.n*9 unresolved*1"#, "false BackendNotFound"),
        ("[{backendRefs: [{name: gone, port: 80}]}]", r#"{"prefix":"/"} -> 500"#, "false BackendNotFound"),
        ("[{backendRefs: [{name: b, port: 99}]}]", r#"{"prefix":"/"} -> 500"#, "false BackendNotFound"),
        (
            "[{backendRefs: [{name: b, kind: Thing, group: x.y, port: 80}]}]",
            r#"{"prefix":"/"} -> 500"#,
            "false InvalidKind",
        ),
        (
            "[{backendRefs: [{name: b, port: 80, weight: 0}]}]",
            r#"{"prefix":"/"} -> 500"#,
            "true ResolvedRefs",
        ),
        ("[{}]", r#"{"prefix":"/"} -> 500"#, "true ResolvedRefs"),
    ];
    for (rules, expected, resolved) in cases {
        let mesh = mesh(&[route("HTTPRoute", "n/r", ", port: 80", rules)]);
        assert_eq!(of_port(&mesh, 80), [expected], "{rules}");
        assert_eq!(
            condition(&mesh, ObjectKind::HttpRoute, "n/r", ConditionKind::ResolvedRefs),
            resolved,
            "{rules}"
        );
    }
}

#[test]
fn parents_that_are_not_there_are_said() {
    let cases = [
        (", port: 80", "true Accepted"),
        (", port: 99", "false NoMatchingParent"),
        (", sectionName: http", "true Accepted"),
        (", sectionName: nothing", "false NoMatchingParent"),
        (", port: 82", "false UnsupportedProtocol"),
        (", port: 83", "true Accepted"),
    ];
    for (port, expected) in cases {
        let mesh = mesh(&[route("HTTPRoute", "n/r", port, &format!("[{{{TO_B}}}]"))]);
        let found = condition(&mesh, ObjectKind::HttpRoute, "n/r", ConditionKind::Accepted);
        assert_eq!(found, expected, "{port}");
    }
}

#[test]
fn kinds_of_routes_on_one_port_are_in_conflict_and_one_wins() {
    let tcp = route("TCPRoute", "n/t", ", port: 80", &format!("[{{{TO_B}}}]"));
    let http = route("HTTPRoute", "n/h", ", port: 80", &format!("[{{{TO_B}}}]"));
    let grpc = route(
        "GRPCRoute",
        "n/g",
        ", port: 80",
        &format!("[{{matches: [{{method: {{service: s, method: m}}}}], {TO_B}}}]"),
    );
    let mesh = mesh(&[tcp, http, grpc]);
    assert_eq!(of_port(&mesh, 80), [r#"{"path":"/s/m"} -> outbound|80||b.n"#]);
    let accepted = |kind, name| condition(&mesh, kind, name, ConditionKind::Accepted);
    assert_eq!(accepted(ObjectKind::GrpcRoute, "n/g"), "true Accepted");
    assert_eq!(accepted(ObjectKind::HttpRoute, "n/h"), "false Conflicted");
    assert_eq!(accepted(ObjectKind::TcpRoute, "n/t"), "false Conflicted");
}

#[test]
fn a_rule_that_cannot_be_carried_answers_500_and_its_neighbours_work() {
    let rules = format!(
        "[{{matches: [{{path: {{value: /x}}}}], filters: [{{type: CORS, cors: {{}}}}], {TO_B}}}, \
         {{matches: [{{path: {{value: /y}}}}], {TO_B}}}]"
    );
    let mesh = mesh(&[route("HTTPRoute", "n/r", ", port: 80", &rules)]);
    assert_eq!(
        of_port(&mesh, 80),
        [r#"{"path_separated_prefix":"/x"} -> 500"#, r#"{"path_separated_prefix":"/y"} -> outbound|80||b.n"#]
    );
    let partly = condition(&mesh, ObjectKind::HttpRoute, "n/r", ConditionKind::PartiallyInvalid);
    assert_eq!(partly, "true UnsupportedValue");
}

#[test]
fn a_headless_service_of_very_many_endpoints_is_no_reason_to_refuse_the_listener() {
    let mut text = String::from(
        "{apiVersion: v1, kind: Service, metadata: {name: a, namespace: n}, \
         spec: {clusterIP: None, ports: [{name: http, port: 80}]}}\n",
    );
    for slice in 0..11 {
        let all: Vec<String> =
            (0..1000).map(|one| format!("10.{slice}.{}.{}", one / 250, one % 250)).collect();
        let endpoints: Vec<_> = all.iter().map(|ip| format!("{{addresses: [{ip}]}}")).collect();
        let ips: Vec<_> = all.iter().map(|ip| format!("{{ip: {ip}}}")).collect();
        text.push_str(&format!(
            "---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, metadata: {{name: s{slice}, \
             namespace: n, labels: {{kubernetes.io/service-name: a}}}}, endpoints: [{}], ports: [{{name: http, port: 80}}]}}\n\
             ---\n{{apiVersion: v1, kind: Pod, metadata: {{name: p{slice}, namespace: n}}, \
             spec: {{containers: [{{name: app}}]}}, status: {{podIPs: [{}]}}}}\n",
            endpoints.join(", "),
            ips.join(", "),
        ));
    }
    let mesh = Mesh::new(&objects(&text));
    for dialect in [Dialect::Outrider, Dialect::Envoy] {
        let info = ProxyInfo { dialect, ..proxy("n/w", "default") };
        let snapshot = mesh.snapshot(&info);
        assert_eq!(Judge::default().refusals(&info, &snapshot), Vec::<String>::new());
        let chains = super::golden::chains(&snapshot, "outbound|15001");
        let claims: usize = chains.iter().map(|chain| chain.matches("/32").count()).sum();
        assert_eq!((chains.len(), claims), (3, 11_000));
    }
}
