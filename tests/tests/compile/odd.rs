//! Odd values in every text of an object: either the object is refused with a reason, or what is made of it passes the
//! proxy's decoder. In between would be an object that breaks the proxies that get it.

use outrider_control::compile::Mesh;
use outrider_control::object::{AnyObject, Objects, Place};
use serde_json::{Value, json};

use super::check::Judge;
use super::golden::{objects, proxy};

const ODD: &[&str] = &[
    "",
    " ",
    "/",
    "//",
    "/a//b",
    "/../x",
    "/a/../b",
    "/a/./b",
    "a b",
    "/a b",
    "/a?b",
    "/a#b",
    "/%zz",
    "/%2e%2e/x",
    "/é",
    "é",
    "\u{0}",
    "\r\nx: y",
    "\t",
    "*",
    "**",
    "/*",
    "a*b",
    "*a*",
    "(",
    "(?i)x",
    "(?=x)",
    "a{1000}{1000}",
    "[[:alpha:]]+",
    "\\1",
    "\\",
    "%REQ(x)%",
    "50%",
    "host",
    ":method",
    ":authority",
    "Content-Length",
    "transfer-encoding",
    "x-envoy-original-path",
    "h.example:80",
    "h_x",
    "-h",
    "h..x",
    "http://h/x",
    "spiffe://",
    "spiffe://*",
    "spiffe://x/ns/a/sa/b/*",
    "99999999999999999999",
    "0",
    "65536",
    "1ms",
    "0s",
    "99999h",
    "10.0.0.0/33",
    "::/0",
    "0.0.0.0",
    "224.0.0.1",
    "None",
];

const BASE: &str = "
{apiVersion: v1, kind: Service, metadata: {name: a, namespace: ns},
 spec: {clusterIP: 10.0.0.1, selector: {app: a}, ports: [{name: http, port: 80, targetPort: 8080}]}}
---
{apiVersion: mesh.outrider.dev/v1alpha1, kind: Workload, metadata: {name: w, namespace: ns, labels: {app: a}},
 spec: {address: 10.0.1.1, ports: [{name: http, port: 8080}], upstreams: [{service: a, port: 80, bind: '127.0.0.1:9001'}]}}
";

fn templates() -> Vec<Value> {
    let gateway = "gateway.networking.k8s.io/v1";
    let own = "mesh.outrider.dev/v1alpha1";
    let parent = json!([{"group": "", "kind": "Service", "name": "a", "port": 80}]);
    vec![
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "namespace": "ns"}, "spec": {
            "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "selector": {"app": "a"}, "type": "ClusterIP",
            "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP", "appProtocol": "http"}]}}),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "s", "namespace": "ns", "labels": {"kubernetes.io/service-name": "a"}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 80}],
            "endpoints": [{"addresses": ["10.0.2.1"], "zone": "z", "targetRef": {"kind": "Pod", "name": "p"}}]}),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "ns"}, "spec": {
            "serviceAccountName": "x", "containers": [{"name": "outrider-proxy", "ports": [{"name": "http", "containerPort": 8080}]}]},
            "status": {"podIP": "10.0.2.1"}}),
        json!({"apiVersion": own, "kind": "Workload", "metadata": {"name": "w", "namespace": "ns", "labels": {"app": "a"}}, "spec": {
            "address": "10.0.1.1", "service": "a", "serviceAccount": "x", "locality": {"region": "r", "zone": "z"},
            "health": "Healthy", "ports": [{"name": "http", "port": 8080, "appPort": 9080, "protocol": "HTTP"}],
            "upstreams": [{"service": "a", "namespace": "ns", "port": 80, "bind": "127.0.0.1:9001"}]}}),
        json!({"apiVersion": gateway, "kind": "HTTPRoute", "metadata": {"name": "r", "namespace": "ns"}, "spec": {
            "parentRefs": parent, "hostnames": ["h"], "rules": [{
                "name": "n",
                "matches": [{"path": {"type": "PathPrefix", "value": "/p"}, "method": "GET",
                    "headers": [{"name": "x", "type": "RegularExpression", "value": "v"}, {"name": "y", "value": "v"}],
                    "queryParams": [{"name": "q", "type": "RegularExpression", "value": "v"}, {"name": "z", "value": "v"}]}],
                "filters": [
                    {"type": "RequestHeaderModifier", "requestHeaderModifier":
                        {"set": [{"name": "a", "value": "b"}], "add": [{"name": "c", "value": "d"}], "remove": ["e"]}},
                    {"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": [{"name": "a", "value": "b"}]}},
                    {"type": "URLRewrite", "urlRewrite": {"hostname": "h.example", "path":
                        {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/n"}}}],
                "timeouts": {"request": "2s", "backendRequest": "1s"},
                "retry": {"attempts": 2, "codes": [503], "backoff": "10ms"},
                "backendRefs": [{"name": "a", "port": 80, "weight": 2}, {"name": "a", "port": 80, "weight": 1, "filters": [
                    {"type": "RequestHeaderModifier", "requestHeaderModifier": {"add": [{"name": "c", "value": "d"}]}}]}]}]}}),
        json!({"apiVersion": gateway, "kind": "HTTPRoute", "metadata": {"name": "r", "namespace": "ns"}, "spec": {
            "parentRefs": parent, "rules": [
                {"matches": [{"path": {"type": "RegularExpression", "value": "/p"}}], "filters": [{"type": "RequestRedirect",
                    "requestRedirect": {"scheme": "https", "hostname": "h.example", "port": 8443, "statusCode": 301,
                        "path": {"type": "ReplaceFullPath", "replaceFullPath": "/n"}}}]},
                {"matches": [{"path": {"type": "Exact", "value": "/p"}}], "backendRefs": [{"name": "a", "port": 80}], "filters": [
                    {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "a", "port": 80}}},
                    {"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplaceFullPath", "replaceFullPath": "/n"}}}]}]}}),
        json!({"apiVersion": gateway, "kind": "GRPCRoute", "metadata": {"name": "r", "namespace": "ns"}, "spec": {
            "parentRefs": parent, "rules": [{"matches": [
                {"method": {"type": "Exact", "service": "s.S", "method": "M"}, "headers": [{"name": "x", "value": "v"}]},
                {"method": {"type": "RegularExpression", "service": "s.S", "method": "M"}}],
                "backendRefs": [{"name": "a", "port": 80}]}]}}),
        json!({"apiVersion": gateway, "kind": "TCPRoute", "metadata": {"name": "r", "namespace": "ns"}, "spec": {
            "parentRefs": parent, "rules": [{"backendRefs": [
                {"name": "a", "port": 80, "weight": 1}, {"name": "a", "namespace": "ns", "port": 80, "weight": 2}]}]}}),
        json!({"apiVersion": own, "kind": "AuthorizationPolicy", "metadata": {"name": "p", "namespace": "ns"}, "spec": {
            "action": "Allow", "mode": "Enforce", "rules": [{
                "from": [{"identities": ["spiffe://x/*"], "notIdentities": ["spiffe://x/y"], "namespaces": ["ns"],
                    "serviceAccounts": ["ns/x"], "ipBlocks": ["10.0.0.0/8"]}],
                "to": [{"methods": ["GET"], "paths": ["/p*"], "headers": {"x": ["v"]}}]}]}}),
        json!({"apiVersion": own, "kind": "EgressPolicy", "metadata": {"name": "p", "namespace": "ns"}, "spec": {
            "allow": [{"host": "h.example", "ports": [443]}, {"cidr": "10.0.0.0/8", "ports": [80]}, {"cidr": "::1"}],
            "allowSensitive": ["CloudMetadata", "Kubelet", "KubernetesApi"]}}),
        json!({"apiVersion": own, "kind": "TrafficPolicy", "metadata": {"name": "p", "namespace": "ns"}, "spec": {
            "targetRefs": [{"name": "a", "sectionName": "http"}],
            "loadBalancer": {"policy": "LeastRequest", "choices": 3},
            "retries": {"attempts": 2, "on": ["5xx"], "codes": [503], "perTryTimeout": "1s", "backoff": "10ms"},
            "timeouts": {"request": "2s", "idle": "2s", "connect": "2s"},
            "outlierDetection": {"consecutiveErrors": 5, "interval": "1s", "baseEjectionTime": "1s", "maxEjectionPercent": 10},
            "circuitBreaker": {"maxConnections": 1, "maxPendingRequests": 1, "maxRequests": 1, "maxRetries": 1}}}),
        json!({"apiVersion": own, "kind": "TrafficPolicy", "metadata": {"name": "p", "namespace": "ns"}, "spec": {
            "targetRefs": [{"name": "a"}],
            "loadBalancer": {"policy": "RoundRobin", "slowStart": "5s", "panicThreshold": 40},
            "retries": {"attempts": 2, "perTryTimeout": "1s", "hedge": true, "budget": {"percent": 30, "minConcurrency": 5}},
            "healthCheck": {"http": {"path": "/x"}, "interval": "1s", "timeout": "1s", "unhealthyAfter": 2, "healthyAfter": 2},
            "rateLimit": {"requests": 10, "per": "1s", "burst": 20}, "adaptiveConcurrency": {},
            "shedding": {"percentile": 20}}}),
        json!({"apiVersion": own, "kind": "TrafficPolicy", "metadata": {"name": "p", "namespace": "ns"}, "spec": {
            "targetRefs": [{"name": "a"}],
            "loadBalancer": {"policy": "RingHash", "hash": [{"header": "x"}, {"cookie": "c"}, {"queryParameter": "q"}]},
            "healthCheck": {"grpc": {"service": "s"}}}}),
    ]
}

#[test]
fn odd_values_are_refused_or_pass_the_proxys_decoder() {
    let base = objects(BASE);
    let mut judge = Judge::default();
    let (mut refused, mut passed, mut wrong) = (0, 0, Vec::new());
    for template in templates() {
        assert_eq!(try_one(&base, &template, &mut judge), Some(Vec::new()), "{template}");
        let mut pointers = Vec::new();
        leaves(&template, String::new(), &mut pointers);
        for pointer in pointers {
            for odd in odd_values(template.pointer(&pointer).unwrap()) {
                let mut value = template.clone();
                *value.pointer_mut(&pointer).unwrap() = odd.clone();
                match try_one(&base, &value, &mut judge) {
                    None => refused += 1,
                    Some(faults) if faults.is_empty() => passed += 1,
                    Some(faults) => wrong.push(format!("{} {pointer} = {odd}: {faults:?}", value["kind"])),
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}: {:#?}", wrong.len(), &wrong[..wrong.len().min(60)]);
    assert!(refused > 1000 && passed > 1000, "{refused} refused, {passed} passed");
}

/// What the proxies refuse of a mesh with this object in it; `None` when the object itself is refused, with a reason.
fn try_one(base: &Objects, value: &Value, judge: &mut Judge) -> Option<Vec<String>> {
    let object = match AnyObject::from_value(value.clone(), &Place::default()) {
        Ok(object) => object,
        Err(faults) => {
            assert!(!faults.is_empty() && faults.iter().all(|fault| !fault.reason.is_empty()), "{value}");
            return None;
        }
    };
    let mut objects = base.clone();
    objects.insert(object);
    let mesh = Mesh::new(&objects);
    let told = |name: &str, account: &str| {
        let proxy = proxy(name, account);
        (mesh.snapshot(&proxy), proxy)
    };
    let all = [told("ns/w", "default"), told("ns/w", "x"), told("ns/p", "x")];
    let mut faults = Vec::new();
    for (snapshot, proxy) in &all {
        faults.extend(judge.refusals(proxy, snapshot));
    }
    Some(faults)
}

/// Pointers to all texts and numbers below, but those that say what the object is.
fn leaves(value: &Value, at: String, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if at.is_empty() && (name == "apiVersion" || name == "kind") {
                    continue;
                }
                leaves(value, format!("{at}/{}", name.replace('~', "~0").replace('/', "~1")), found);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                leaves(value, format!("{at}/{index}"), found);
            }
        }
        Value::String(_) | Value::Number(_) => found.push(at),
        Value::Null | Value::Bool(_) => {}
    }
}

fn odd_values(of: &Value) -> Vec<Value> {
    if of.is_number() {
        return vec![
            json!(0),
            json!(1),
            json!(-1),
            json!(99),
            json!(600),
            json!(65_536),
            json!(u32::MAX),
            json!(u64::MAX),
        ];
    }
    let long = ["a".repeat(300), format!("/{}", "a".repeat(5000)), "é".repeat(1000)];
    ODD.iter().map(|text| json!(text)).chain(long.iter().map(|text| json!(text))).collect()
}
