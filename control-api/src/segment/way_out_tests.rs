//! The way out: both ends of every connection agree, and nothing is opened that nobody has declared.

use super::tests::{objects, pod_of, policy_of};
use super::*;
use crate::inject::yaml;
use crate::source::files::Directory;

/// A pod that calls or is called.
struct Pod(&'static str, &'static str);

const PODS: [Pod; 4] = [Pod("shop", "web"), Pod("shop", "cart"), Pod("edge", "front"), Pod("edge", "report")];

/// Three services, and a pod of each; a job that is no service.
fn mesh() -> String {
    let service = |namespace: &str, name: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
             spec: {{clusterIP: 10.0.0.1, selector: {{app: {name}}}, ports: [{{port: 80, targetPort: 8080}}]}}\n---\n"
        )
    };
    let services = service("shop", "web") + &service("shop", "cart") + &service("edge", "front");
    let pods = PODS.map(|Pod(namespace, app)| pod_of(namespace, app, app, &format!("{{app: {app}}}")));
    services + &pods.concat()
}

fn policies(text: &str) -> Vec<Value> {
    network_policies(&objects(text), &Settings::default()).policies
}

fn matches(selector: &Value, labels: &[(&str, &str)]) -> bool {
    let wanted = selector["matchLabels"].as_object().into_iter().flatten();
    wanted.into_iter().all(|(name, value)| labels.iter().any(|(own, is)| own == name && value == is))
}

/// Whether a network that holds itself to the policies lets a connection out of, or into, a pod (the API reference's
/// `NetworkPolicySpec`).
fn lets(direction: &str, policies: &[Value], (own, other): (&Pod, &Pod), port: u16) -> bool {
    let of_own = policies.iter().filter(|policy| {
        let spec = &policy["spec"];
        policy["metadata"]["namespace"] == own.0
            && matches(&spec["podSelector"], &[("app", own.1)])
            && spec["policyTypes"].as_array().unwrap().contains(&direction.into())
    });
    let of_own: Vec<_> = of_own.collect();
    let (rules, peers) = if direction == "Egress" { ("egress", "to") } else { ("ingress", "from") };
    let is_peer = |peer: &Value| {
        peer.get("ipBlock").is_none()
            && matches(&peer["namespaceSelector"], &[("kubernetes.io/metadata.name", other.0)])
            && matches(&peer["podSelector"], &[("app", other.1)])
    };
    let opens = |rule: &Value| {
        rule["ports"].as_array().is_none_or(|ports| ports.iter().any(|one| one["port"] == port))
            && rule.get(peers).is_none_or(|peers| peers.as_array().unwrap().iter().any(is_peer))
    };
    of_own.is_empty()
        || of_own.iter().any(|policy| policy["spec"][rules].as_array().into_iter().flatten().any(opens))
}

#[test]
fn both_ends_of_a_connection_agree_and_only_what_is_declared_is_open() {
    let nobody = policy_of("outrider-system", "{default: Deny}");
    let cart = |rules: &str| {
        policy_of("shop", &format!("{{selector: {{matchLabels: {{app: cart}}}}, rules: [{rules}]}}"))
    };
    let every = "web cart front report";
    let table = [
        // No policy says who calls: every pod of the mesh may.
        (String::new(), [every, every, every]),
        (nobody.clone(), ["", "", ""]),
        (format!("{nobody}{}", cart("{from: [{serviceAccounts: [shop/web]}]}")), ["", "web", ""]),
        (cart("{from: [{namespaces: [edge]}]}"), [every, "front report", every]),
        (nobody.clone() + &cart("{from: [{identities: ['spiffe://cluster.local/*']}]}"), ["", every, ""]),
        // A namespace and an account of it, an account alone, and one that has no pods that are known.
        (
            nobody.clone() + &cart("{from: [{namespaces: [edge]}, {serviceAccounts: [edge/front]}]}"),
            ["", "front report", ""],
        ),
        (nobody.clone() + &cart("{from: [{serviceAccounts: [edge/report]}]}"), ["", "report", ""]),
        (nobody.clone() + &cart("{from: [{serviceAccounts: [edge/other]}]}"), ["", "front report", ""]),
        // Another port, another way.
        (nobody.clone() + &cart("{from: [{namespaces: [edge]}], to: [{ports: [9090]}]}"), ["", "", ""]),
        (
            nobody + &cart("{from: [{namespaces: [edge]}], to: [{ports: [8080], methods: [GET]}]}"),
            ["", "front report", ""],
        ),
    ];
    for (more, expected) in table {
        let all = policies(&(mesh() + &more));
        for (called, expected) in PODS[..3].iter().zip(expected) {
            let calling = |direction: &str| {
                let callers = PODS.iter().filter(|caller| match direction {
                    "Egress" => lets("Egress", &all, (caller, called), 8080),
                    _ => lets("Ingress", &all, (called, caller), 8080),
                });
                callers.map(|caller| caller.1).collect::<Vec<_>>().join(" ")
            };
            assert_eq!(calling("Egress"), expected, "out to {}: {more}", called.1);
            assert_eq!(calling("Ingress"), expected, "into {}: {more}", called.1);
            // No other port.
            assert!(PODS.iter().all(|caller| !lets("Egress", &all, (caller, called), 8081)));
        }
        assert!(PODS.iter().all(|pod| !lets("Ingress", &all, (pod, &PODS[3]), 15_020)), "metrics");
    }
}

#[test]
fn a_name_that_is_not_complete_is_wide_on_the_way_in_and_not_on_the_way_out() {
    let rule = "{rules: [{from: [{identities: ['spiffe://cluster.local/ns/ed*']}]}]}";
    let all =
        policies(&(mesh() + &policy_of("outrider-system", "{default: Deny}") + &policy_of("shop", rule)));
    let [web, cart, front, report] = &PODS;
    // A network knows no beginnings of names, and a namespace may come tomorrow.
    assert!([web, front, report].iter().all(|caller| lets("Ingress", &all, (cart, caller), 8080)));
    assert!([front, report].iter().all(|caller| lets("Egress", &all, (caller, cart), 8080)));
    assert!(!lets("Egress", &all, (web, cart), 8080));
}

#[test]
fn every_pod_reaches_dns_and_the_control_server_and_nothing_else() {
    let settings = Settings { root_namespace: "mesh".to_owned(), ..Settings::default() };
    let all = network_policies(&objects(&mesh()), &settings).policies;
    for (policy, namespace) in all.iter().zip(["edge", "shop"]) {
        assert_eq!(policy["metadata"]["name"], "outrider.default-deny");
        assert_eq!(policy["metadata"]["namespace"], namespace);
        assert_eq!(policy["spec"]["podSelector"], json!({}));
        assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
        let named = |name: &str| json!({"matchLabels": {"kubernetes.io/metadata.name": name}});
        let dns = json!({"namespaceSelector": named("kube-system"),
            "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}});
        let control = json!({"namespaceSelector": named("mesh"),
            "podSelector": {"matchLabels": {"app.kubernetes.io/name": "outrider-control"}}});
        let expected = json!([
            {"to": [dns], "ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]},
            {"to": [control], "ports": [{"port": 15012, "protocol": "TCP"}]},
        ]);
        assert_eq!(policy["spec"]["egress"], expected);
    }
}

/// The rules of a policy by its name.
fn egress(all: &[Value], name: &str) -> Value {
    let found = all.iter().find(|policy| policy["metadata"]["name"] == name);
    found.map_or(Value::Null, |policy| policy["spec"]["egress"].clone())
}

#[test]
fn what_is_no_pod_is_reached_at_its_address() {
    let outside = "
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIP: 10.0.0.9, ports: [{name: tcp, port: 5432}, {name: late, port: 9}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, namespace: shop, labels: {kubernetes.io/service-name: db}}
addressType: IPv6
ports: [{name: tcp, port: 15432}]
endpoints: [{addresses: ['2001:db8::5']}]
---
apiVersion: mesh.outrider.dev/v1alpha1
kind: Workload
metadata: {name: db-2, namespace: shop, labels: {app: db}}
spec: {address: 192.0.2.7, service: db, serviceAccount: db, ports: [{port: 5432}]}
---
";
    let all = policies(&(mesh() + outside));
    let rules = egress(&all, "outrider-egress.all").to_string();
    assert!(rules.contains(
        r#"{"ports":[{"port":15432,"protocol":"TCP"}],"to":[{"ipBlock":{"cidr":"2001:db8::5/128"}}]}"#
    ));
    assert!(rules.contains(
        r#"{"ports":[{"port":5432,"protocol":"TCP"}],"to":[{"ipBlock":{"cidr":"192.0.2.7/32"}}]}"#
    ));
    // And it is let in by its address where its account may call.
    let web = "{selector: {matchLabels: {app: web}}, rules: [{from: [{serviceAccounts: [shop/db]}]}]}";
    let all = policies(&(mesh() + outside + &policy_of("shop", web)));
    let own = all.iter().find(|policy| policy["metadata"]["name"] == "outrider-web").unwrap();
    assert!(own.to_string().contains(r#"{"ipBlock":{"cidr":"192.0.2.7/32"}}"#), "{own}");
}

#[test]
fn an_address_or_another_mesh_is_none_of_ours() {
    let deny = policy_of("outrider-system", "{default: Deny}");
    for from in ["{ipBlocks: [10.0.0.0/8]}", "{identities: ['spiffe://other.test/ns/shop/sa/web']}"] {
        let more = policy_of("shop", &format!("{{rules: [{{from: [{from}]}}]}}"));
        let all = policies(&(mesh() + &deny + &more));
        assert!(
            !all.iter().any(|policy| policy["metadata"]["name"].to_string().contains("egress")),
            "{from}"
        );
    }
}

#[test]
fn pods_of_one_account_with_several_sets_of_labels_have_a_policy_each() {
    let more = pod_of("edge", "other", "report", "{app: late}")
        + &policy_of("outrider-system", "{default: Deny}")
        + &policy_of("shop", "{rules: [{from: [{serviceAccounts: [edge/report]}]}]}");
    let all = policies(&(mesh() + &more));
    let names: Vec<&str> = all.iter().map(|policy| policy["metadata"]["name"].as_str().unwrap()).collect();
    let of_report: Vec<&&str> =
        names.iter().filter(|name| name.starts_with("outrider-egress.account-")).collect();
    assert!(of_report.len() == 2 && of_report[0] != of_report[1], "{names:?}");
    assert!(of_report.iter().all(|name| name.ends_with(".report")), "{names:?}");
    let long = policy_name("x".repeat(300));
    assert!(long.len() <= 253 && long != policy_name("y".repeat(300)), "{long}");
}

#[test]
fn namespaces_of_kubernetes_and_of_who_stays_away_are_left_alone() {
    let service = |namespace: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: dns, namespace: {namespace}}}\n\
             spec: {{selector: {{k8s-app: kube-dns}}, ports: [{{port: 53}}, {{port: 53, protocol: UDP}}]}}\n---\n"
        )
    };
    let away = "apiVersion: v1\nkind: Namespace\nmetadata: {name: away, labels: {outrider.dev/inject: disabled}}\n---\n";
    let asks = "apiVersion: v1\nkind: Namespace\nmetadata: {name: asks, labels: {outrider.dev/inject: enabled}}\n---\n";
    let text = service("kube-system") + &service("outrider-system") + &service("away") + away + asks;
    let made = policies(&text);
    let named: BTreeSet<&str> =
        made.iter().map(|one| one["metadata"]["namespace"].as_str().unwrap()).collect();
    assert_eq!(named, BTreeSet::from(["asks"]));
}

fn opened(policies_text: &str, name: &str) -> Value {
    let api = "
apiVersion: v1
kind: Service
metadata: {name: kubernetes, namespace: default}
spec: {clusterIP: 10.96.0.1, ports: [{name: https, port: 443, targetPort: 6443}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kubernetes, namespace: default, labels: {kubernetes.io/service-name: kubernetes}}
addressType: IPv4
ports: [{name: https, port: 6443}]
endpoints: [{addresses: [172.18.0.2]}]
---
";
    egress(&policies(&format!("{api}{policies_text}")), &format!("outrider-egress.policy.{name}"))
}

fn egress_policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: mesh.outrider.dev/v1alpha1\nkind: EgressPolicy\n\
         metadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n---\n"
    )
}

#[test]
fn what_egress_policies_open_is_without_what_is_protected() {
    let one = |spec: &str| opened(&egress_policy("out", spec), "out");
    let port = |port: u16| json!({"port": port, "protocol": "TCP"});
    let span = |first: u16, last: u16| json!({"port": first, "endPort": last, "protocol": "TCP"});
    let table = [
        (
            "{allow: [{cidr: 203.0.113.9/24, ports: [443, 80]}]}",
            json!([{"to": [{"ipBlock": {"cidr": "203.0.113.0/24"}}], "ports": [port(80), port(443)]}]),
        ),
        ("{allow: [{host: example.org, ports: [443]}]}", Value::Null),
        ("{allow: [{cidr: 169.254.169.254, ports: [80]}]}", Value::Null),
        ("{allow: [{cidr: 192.0.2.0/24, ports: [10250]}]}", Value::Null),
        (
            "{allow: [{cidr: 192.0.2.0/24, ports: [10250, 443]}], allowSensitive: [Kubelet]}",
            json!([{"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}], "ports": [port(443), port(10250)]}]),
        ),
        (
            "{allow: [{cidr: 192.0.2.0/24}], allowSensitive: [Kubelet]}",
            json!([{"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}], "ports": [{"protocol": "TCP"}]}]),
        ),
        (
            "{allow: [{cidr: 169.254.0.0/15, ports: [80]}]}",
            json!([{"to": [{"ipBlock": {"cidr": "169.254.0.0/15", "except": ["169.254.0.0/16"]}}], "ports": [port(80)]}]),
        ),
        // Where the Kubernetes API is, everything but the API.
        (
            "{allow: [{cidr: 172.18.0.0/16, ports: [6443, 80]}]}",
            json!([
                {"to": [{"ipBlock": {"cidr": "172.18.0.2/32"}}], "ports": [port(80)]},
                {"to": [{"ipBlock": {"cidr": "172.18.0.0/16", "except": ["172.18.0.2/32"]}}], "ports": [port(80), port(6443)]},
            ]),
        ),
        ("{allow: [{cidr: 172.18.0.2, ports: [6443]}]}", Value::Null),
        (
            "{allowSensitive: [KubernetesApi]}",
            json!([
                {"to": [{"ipBlock": {"cidr": "10.96.0.1/32"}}], "ports": [port(443)]},
                {"to": [{"ipBlock": {"cidr": "172.18.0.2/32"}}], "ports": [port(6443)]},
            ]),
        ),
        (
            "{allow: [{cidr: 192.0.2.0/24}]}",
            json!([{"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}], "ports": [
                span(1, 10_249), span(10_251, 10_254), port(10_256), port(10_258), span(10_260, 65_535),
            ]}]),
        ),
    ];
    for (spec, expected) in table {
        assert_eq!(one(spec), expected, "{spec}");
    }
    let metadata = one("{allowSensitive: [CloudMetadata]}");
    assert!(metadata.to_string().contains("169.254.0.0/16"), "{metadata}");
    let all = one("{allow: [{cidr: 0.0.0.0/0, ports: [443]}, {cidr: '::/0', ports: [443]}]}").to_string();
    for left_out in ["169.254.0.0/16", "100.100.100.200/32", "fd00:ec2::/32", "fe80::/10", "172.18.0.2/32"] {
        assert!(all.contains(&format!("\"{left_out}\"")), "{left_out}: {all}");
    }
}

#[test]
fn policies_for_one_workload_count_together_as_in_its_sidecar() {
    let both = egress_policy("wide", "{allow: [{cidr: 192.0.2.0/24, ports: [443, 10250]}]}")
        + &egress_policy("narrow", "{selector: {matchLabels: {app: agent}}, allowSensitive: [Kubelet]}");
    let has_kubelet = |name: &str| opened(&both, name).to_string().contains("10250");
    assert!(has_kubelet("narrow") && !has_kubelet("wide"));
}

#[test]
fn names_are_not_opened_and_it_is_said() {
    let text = egress_policy("out", "{allow: [{cidr: 192.0.2.1}, {host: '*.example.org'}]}");
    let notes = network_policies(&objects(&text), &Settings::default()).notes;
    assert_eq!(notes.len(), 1);
    assert!(notes[0].contains("spec.allow[1].host: *.example.org is not opened"), "{notes:?}");
}

#[test]
fn a_mesh_as_its_users_write_it_comes_out_as_it_should() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/segment/golden");
    let view = Directory::new(&folder.join("mesh")).scan().unwrap();
    assert!(view.diagnostics.is_empty(), "{:?}", view.diagnostics);
    let made = network_policies(&view.objects, &Settings::default());
    let text: String = made.policies.iter().map(|one| format!("---\n{}", yaml::write(one))).collect();
    let file = folder.join("network.yaml");
    if std::env::var_os("OUTRIDER_BLESS").is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(text == expected, "OUTRIDER_BLESS=1 writes it anew:\n{text}");
}
