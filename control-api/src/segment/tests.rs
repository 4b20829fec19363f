use super::*;
use crate::inject::manifest;
use crate::object::{AnyObject, Place};

pub(super) fn objects(text: &str) -> Objects {
    let mut objects = Objects::default();
    for document in manifest::documents(text) {
        let value = document.value().unwrap();
        objects.insert(AnyObject::from_value(value, &Place::default()).unwrap());
    }
    objects
}

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.0.0.1, selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}, {name: dns, port: 53, protocol: UDP}]}
---
";

/// The entries of `from` for the service's port; `None` when anybody may.
fn from(more: &str) -> Option<Value> {
    let all = network_policies(&objects(&format!("{SERVICE}{more}")), &Settings::default()).policies;
    let own = all.iter().find(|policy| policy["metadata"]["name"] == "outrider-web").unwrap();
    let rule =
        own["spec"]["ingress"].as_array().unwrap().iter().find(|rule| rule["ports"][0]["port"] == 8080);
    match rule {
        None => Some(json!([])),
        Some(rule) => {
            assert_eq!(rule["ports"], json!([{"port": 8080, "protocol": "TCP"}]));
            rule.get("from").cloned()
        }
    }
}

pub(super) fn policy_of(namespace: &str, spec: &str) -> String {
    format!(
        "apiVersion: mesh.outrider.dev/v1alpha1\nkind: AuthorizationPolicy\n\
         metadata: {{name: p-{}, namespace: {namespace}}}\nspec: {spec}\n---\n",
        spec.len()
    )
}

fn pod(name: &str, account: &str, labels: &str) -> String {
    pod_of("shop", name, account, labels)
}

pub(super) fn pod_of(namespace: &str, name: &str, account: &str, labels: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {labels}}}\n\
         spec: {{serviceAccountName: {account}, containers: [{{name: a, image: x}}]}}\n---\n"
    )
}

fn namespace(name: &str) -> Value {
    json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}})
}

#[test]
fn what_is_not_allowed_is_denied_in_every_namespace_that_serves() {
    let all = network_policies(&objects(SERVICE), &Settings::default()).policies;
    let names: Vec<_> = all.iter().map(|one| one["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["outrider.default-deny", "outrider-web", "outrider-egress.all"]);
    assert_eq!(all[0]["spec"]["podSelector"], json!({}));
    let metrics = json!([{"from": [{"namespaceSelector": {"matchLabels": {"outrider.dev/metrics": "allowed"}}}],
        "ports": [{"port": 15020, "protocol": "TCP"}]}]);
    assert_eq!(all[0]["spec"]["ingress"], metrics);
    assert_eq!(all[1]["spec"]["podSelector"], json!({"matchLabels": {"app": "web"}}));
    assert_eq!(network_policies(&Objects::default(), &Settings::default()), Network::default());
}

#[test]
fn defaults_are_those_of_the_sidecar() {
    let any_pod = Some(json!([{"namespaceSelector": {}}]));
    assert_eq!(from(""), any_pod);
    assert_eq!(from(&policy_of("shop", "{default: Deny}")), Some(json!([])));
    assert_eq!(from(&policy_of("shop", "{default: AllowAll}")), None);
    assert_eq!(from(&policy_of("shop", "{mtls: Permissive}")), None);
    assert_eq!(from(&policy_of("outrider-system", "{default: Deny}")), Some(json!([])));
    assert_eq!(from(&policy_of("elsewhere", "{default: Deny}")), any_pod);
    let narrow = policy_of("shop", "{default: AllowMesh, selector: {matchLabels: {app: web}}}");
    assert_eq!(from(&format!("{}{narrow}", policy_of("shop", "{default: Deny}"))), any_pod);
}

#[test]
fn sources_become_labels_and_addresses_and_never_fewer_than_the_sidecar_lets_in() {
    let rule = |from: &str| policy_of("shop", &format!("{{rules: [{{from: [{from}]}}]}}"));
    let table = [
        ("{namespaces: [a, b]}", Some(json!([namespace("a"), namespace("b")]))),
        ("{serviceAccounts: [a/cart]}", Some(json!([namespace("a")]))),
        ("{identities: ['spiffe://cluster.local/ns/a/sa/cart']}", Some(json!([namespace("a")]))),
        ("{identities: ['spiffe://cluster.local/ns/a/*']}", Some(json!([namespace("a")]))),
        ("{identities: ['spiffe://cluster.local/ns/a*']}", Some(json!([{"namespaceSelector": {}}]))),
        ("{identities: ['spiffe://other.test/ns/a/sa/b']}", None),
        ("{identities: ['*']}", None),
        ("{notIdentities: ['spiffe://cluster.local/ns/a/sa/cart']}", None),
        ("{ipBlocks: [10.1.0.0/16]}", Some(json!([{"ipBlock": {"cidr": "10.1.0.0/16"}}]))),
        ("{namespaces: [a], ipBlocks: [10.1.0.0/16]}", Some(json!([namespace("a")]))),
        ("{namespaces: [a]}, {serviceAccounts: [a/cart]}", Some(json!([namespace("a")]))),
    ];
    for (source, expected) in table {
        assert_eq!(from(&rule(source)), expected, "{source}");
    }
    assert_eq!(from(&policy_of("shop", "{rules: [{to: [{ports: [8080]}]}]}")), None);
    let audit = policy_of("shop", "{mode: Audit, rules: [{from: [{namespaces: [a]}]}]}");
    assert_eq!(from(&audit), Some(json!([{"namespaceSelector": {}}])));
    let deny = policy_of("shop", "{action: Deny, rules: [{from: [{namespaces: [a]}]}]}");
    assert_eq!(from(&deny), Some(json!([{"namespaceSelector": {}}])));
}

#[test]
fn the_pods_of_an_account_are_known_by_labels_that_last() {
    let rule = policy_of("shop", "{rules: [{from: [{serviceAccounts: [shop/cart]}]}]}");
    let cart = pod("cart-1", "cart", "{app: cart, pod-template-hash: abc}");
    let again = pod("cart-2", "cart", "{app: cart, pod-template-hash: def}");
    let other = pod("other", "other", "{app: other}");
    let found = from(&format!("{rule}{cart}{again}{other}")).unwrap();
    let mut expected = namespace("shop");
    expected["podSelector"] = json!({"matchLabels": {"app": "cart"}});
    assert_eq!(found, json!([expected]));
    assert_eq!(from(&format!("{rule}{}", pod("bare", "cart", "{}"))), Some(json!([namespace("shop")])));
}

#[test]
fn a_service_of_two_kinds_of_pods_lets_in_the_callers_of_both() {
    let for_v2 =
        policy_of("shop", "{selector: {matchLabels: {version: v2}}, rules: [{from: [{namespaces: [a]}]}]}");
    let deny = policy_of("shop", "{default: Deny}");
    let pods = pod("v1", "web", "{app: web, version: v1}") + &pod("v2", "web", "{app: web, version: v2}");
    assert_eq!(from(&format!("{for_v2}{deny}{pods}")), Some(json!([namespace("a")])));
    let open = policy_of("shop", "{default: AllowAll}");
    assert_eq!(from(&format!("{for_v2}{open}{pods}")), None);
}
