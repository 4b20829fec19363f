//! A thousand random edits of a valid mesh: after each of them, what every proxy is told passes the proxy's decoder, and
//! compiling what changed gives the same as compiling everything anew.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use outrider_control::compile::faults::InForce;
use outrider_control::compile::{Mesh, Settings};
use outrider_control::object::{AnyObject, ObjectKind, Objects, Place, any};
use outrider_control::proxy_info::{Dialect, ProxyInfo};
use outrider_control::snapshot::{Kind, Snapshot};
use serde_json::{Value, json};

use super::check::Judge;
use super::golden::{self, proxy};

const EDITS: usize = 1000;
/// How many objects of a kind there are at most; few, so that edits meet.
const NAMES: usize = 4;

#[test]
fn a_thousand_random_edits_decode_and_compile_as_from_scratch() {
    let seed = std::env::var("OUTRIDER_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    let mut random = fastrand::Rng::with_seed(seed);
    let mut objects = Objects::default();
    let mut mesh = Mesh::with_settings(Arc::new(objects.clone()), Settings::default());
    let mut judge = Judge::default();
    let mut history = String::new();
    let (mut effects, mut shared, mut unshared, mut faulted) = (0, 0, 0, 0);
    for number in 0..EDITS {
        let edit = edit(&mut objects, &mut random);
        writeln!(history, "{number}: {edit}").unwrap();
        let injections = mesh.injections(&InForce::default());
        let before: Vec<Snapshot> =
            proxies().iter().map(|proxy| golden::told(&mesh, &injections, proxy)).collect();
        mesh = mesh.update(Arc::new(objects.clone()));
        let fresh = Mesh::remembering(Arc::new(objects.clone()), Settings::default(), &mesh.in_mesh());
        let (injections, injected) =
            (mesh.injections(&InForce::default()), fresh.injections(&InForce::default()));
        let said = |mesh: &Mesh| golden::statuses(mesh);
        assert_eq!(said(&mesh), said(&fresh), "seed {seed}, after {edit}");
        for (proxy, before) in proxies().iter().zip(&before) {
            let snapshot = golden::told(&mesh, &injections, proxy);
            faulted += usize::from(snapshot.kind(Kind::Faults).is_some_and(|faults| faults.len() > 1));
            let told = |what: &str| format!("seed {seed}, {}: {what} after\n{edit}", proxy.id);
            let refused = judge.refusals(proxy, &snapshot);
            assert!(refused.is_empty(), "{}: {refused:#?}", told("refused"));
            let fresh = golden::told(&fresh, &injected, proxy);
            assert!(
                snapshot == fresh,
                "{} {:?}",
                told("not as from scratch"),
                differences(&snapshot, &fresh)
            );
            effects += usize::from(snapshot != *before);
            // What proxies are told of faults is put in for each of them.
            for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Faults) {
                let (old, new) = (before.shared(kind), snapshot.shared(kind));
                let same = Arc::ptr_eq(&old, &new);
                shared += usize::from(same);
                unshared += usize::from(!same && old == new && !new.is_empty());
            }
        }
    }
    assert!(effects > EDITS / 2, "seed {seed}: only {effects} changes of snapshots\n{history}");
    assert!(faulted > 0, "seed {seed}: nobody was told of a fault\n{history}");
    // It happens when the last route of a consumer goes, and its proxies are told what all others are.
    assert!(unshared * 20 < shared, "seed {seed}: {unshared} equal parts were not shared, {shared} were");
}

/// The names of resources that only one of two has, or has otherwise.
fn differences(left: &Snapshot, right: &Snapshot) -> Vec<String> {
    let all = Kind::ALL.into_iter().flat_map(|kind| {
        let (left, right) = (left.shared(kind), right.shared(kind));
        let names: BTreeSet<Arc<str>> = left.keys().chain(right.keys()).cloned().collect();
        let differing = names.into_iter().filter(move |name| left.get(name) != right.get(name));
        differing.map(move |name| format!("{kind:?} {name}"))
    });
    all.collect()
}

fn proxies() -> Vec<ProxyInfo> {
    let mut all = Vec::new();
    for namespace in ["one", "two"] {
        for name in ["a", "b"] {
            for dialect in [Dialect::Outrider, Dialect::Envoy, Dialect::Grpc] {
                let mut info = proxy(&format!("{namespace}/{name}"), "default");
                info.id = format!("{}-{}", info.id, dialect.name()).into();
                info.dialect = dialect;
                all.push(info);
            }
        }
        let asking = proxy(&format!("{namespace}/a"), "default");
        all.push(ProxyInfo { id: format!("{namespace}/a-on-demand").into(), on_demand: true, ..asking });
    }
    all
}

fn edit(objects: &mut Objects, random: &mut fastrand::Rng) -> String {
    let kinds = [
        ObjectKind::Service,
        ObjectKind::Service,
        ObjectKind::EndpointSlice,
        ObjectKind::Pod,
        ObjectKind::Workload,
        ObjectKind::Workload,
        ObjectKind::HttpRoute,
        ObjectKind::HttpRoute,
        ObjectKind::GrpcRoute,
        ObjectKind::TcpRoute,
        ObjectKind::AuthorizationPolicy,
        ObjectKind::TrafficPolicy,
        ObjectKind::EgressPolicy,
        ObjectKind::FaultInjection,
        ObjectKind::Revocation,
    ];
    let kind = kinds[random.usize(..kinds.len())];
    let (namespace, name) = (namespace(random), name(random));
    if random.u8(..5) == 0 {
        let key = any::key(kind, Some(namespace), name);
        objects.remove(&key);
        return format!("without {key}");
    }
    let mut value = object(kind, random);
    value["apiVersion"] = match kind.group() {
        "" => json!("v1"),
        group => json!(format!("{group}/{}", kind.versions()[0])),
    };
    value["kind"] = json!(kind.as_str());
    if kind.is_namespaced() {
        value["metadata"]["namespace"] = json!(namespace);
    }
    value["metadata"]["name"] = json!(name);
    let object = AnyObject::from_value(value.clone(), &Place::default());
    objects.insert(object.unwrap_or_else(|faults| panic!("{value}: {faults:?}")));
    value.to_string()
}

fn namespace(random: &mut fastrand::Rng) -> &'static str {
    one(random, &["one", "two", "outrider-system"])
}

fn name(random: &mut fastrand::Rng) -> &'static str {
    one(random, &["a", "b", "c", "d"][..NAMES])
}

fn one<T: Copy>(random: &mut fastrand::Rng, all: &[T]) -> T {
    all[random.usize(..all.len())]
}

/// Some of what is offered.
fn some<T: Clone>(random: &mut fastrand::Rng, all: &[T]) -> Vec<T> {
    all.iter().filter(|_| random.bool()).cloned().collect()
}

fn object(kind: ObjectKind, random: &mut fastrand::Rng) -> Value {
    match kind {
        ObjectKind::Service => service(random),
        ObjectKind::EndpointSlice => json!({
            "metadata": {"labels": {"kubernetes.io/service-name": name(random)}},
            "addressType": "IPv4",
            "endpoints": [
                {"addresses": [format!("10.1.0.{}", random.u8(1..9))], "zone": "z",
                 "conditions": {"ready": random.bool(), "terminating": random.bool(), "serving": random.bool()}},
            ],
            "ports": [{"name": "http", "port": 8080}, {"name": "", "port": 8081}],
        }),
        ObjectKind::Pod => json!({
            "metadata": {"labels": {"app": name(random)}},
            "spec": {
                "serviceAccountName": one(random, &["", "default", "other"]),
                "containers": [
                    {"name": one(random, &["outrider-proxy", "x"])},
                    {"name": "app", "ports": [{"name": "http", "containerPort": random.u16(8080..8083)}]},
                ],
            },
            "status": {"podIP": format!("10.1.0.{}", random.u8(1..9))},
        }),
        ObjectKind::Workload => workload(random),
        ObjectKind::HttpRoute => http_route(random),
        ObjectKind::GrpcRoute => json!({"spec": {
            "parentRefs": [parent(random)],
            "rules": [{
                "matches": some(random, &[
                    json!({"method": {"service": "s.S", "method": "M"}}),
                    json!({"method": {"service": "s.S"}}),
                    json!({"method": {"type": "RegularExpression", "service": "a|b"}}),
                    json!({"headers": [{"name": "h", "value": "v"}]}),
                ]),
                "backendRefs": backends(random),
            }],
        }}),
        ObjectKind::TcpRoute => {
            json!({"spec": {"parentRefs": [parent(random)], "rules": [{"backendRefs": backends(random)}]}})
        }
        ObjectKind::AuthorizationPolicy => authorization(random),
        ObjectKind::TrafficPolicy => traffic(random),
        ObjectKind::EgressPolicy => json!({"spec": {
            "allow": [
                {"cidr": one(random, &["0.0.0.0/0", "10.96.0.1", "10.96.0.2/31", "10.0.0.1/8", "::/0"])},
                {"cidr": one(random, &["10.0.0.0/8", "10.96.0.3/32"]), "ports": [random.u16(80..84), 443]},
                {"host": "*.example.org"},
            ],
            "allowSensitive": some(random, &["CloudMetadata", "Kubelet", "KubernetesApi"]),
        }}),
        ObjectKind::FaultInjection => fault(random),
        ObjectKind::Revocation => json!({"spec": {
            "identities": some(random, &[
                "spiffe://cluster.local/ns/one/sa/default",
                "spiffe://cluster.local/ns/outrider-system/sa/outrider-control",
                "spiffe://elsewhere/vm/1",
            ]),
            "serialNumbers": [format!("{:x}", random.u8(1..))],
        }}),
        ObjectKind::Namespace => unreachable!("it is in no namespace"),
    }
}

fn service(random: &mut fastrand::Rng) -> Value {
    let mut ports = some(
        random,
        &[
            json!({"name": "http", "port": 80, "targetPort": 8080}),
            json!({"name": "grpc", "port": 81, "targetPort": "http", "appProtocol": "grpc"}),
            json!({"name": "tcp-x", "port": 82, "targetPort": 8081}),
            json!({"name": "x", "port": 83}),
            json!({"name": "u", "port": 53, "protocol": "UDP"}),
        ],
    );
    if ports.is_empty() {
        ports.push(json!({"port": 80, "targetPort": 8080}));
    }
    // Sometimes the address of another service.
    let address = one(random, &["None", "10.96.0.1", "10.96.0.2", "10.96.0.3", "fd00::1", ""]);
    json!({"spec": {"clusterIP": address, "ports": ports, "selector": {"app": name(random)}}})
}

fn workload(random: &mut fastrand::Rng) -> Value {
    let mut spec = json!({
        "address": format!("10.2.0.{}", random.u8(1..9)),
        "serviceAccount": one(random, &["default", "default", "other"]),
        "ports": [{"name": "http", "port": 8080}, {"name": "x", "port": random.u16(8081..8084)}],
        "weight": random.u32(1..5),
        "health": one(random, &["Healthy", "Unhealthy", "Draining"]),
        "sidecar": random.bool(),
        "locality": {"zone": one(random, &["a", "b"])},
    });
    if random.bool() {
        spec["ports"][0]["appPort"] = json!(9080);
        spec["ports"][0]["protocol"] = json!(one(random, &["HTTP", "HTTP2", "GRPC", "TCP"]));
    }
    if random.bool() {
        spec["service"] = json!(name(random));
    }
    if random.bool() {
        spec["upstreams"] = json!([
            {"service": name(random), "namespace": namespace(random), "port": 80, "bind": "127.0.0.1:9001"}
        ]);
    }
    let faults = one(random, &["on", "on", "off"]);
    let labels = json!({"app": name(random), "mesh.outrider.dev/faults": faults});
    json!({"metadata": {"labels": labels}, "spec": spec})
}

fn fault(random: &mut fastrand::Rng) -> Value {
    let actions = [
        json!({"delay": {"uniform": {"min": "1ms", "max": "20ms"}}}),
        json!({"abort": {"httpStatus": 503}}),
        json!({"abort": {"grpc": {"status": 14, "message": "no"}}}),
        json!({"bandwidth": {"responseBytesPerSecond": 1000}}),
        json!({"truncate": {"afterBytes": 7}}),
        json!({"drip": {"chunkBytes": 1, "interval": "5ms"}}),
        json!({"blackhole": {}}),
    ];
    let mut spec = actions[random.usize(..actions.len())].clone();
    let direction = one(random, &["Inbound", "Outbound", "Upstream"]);
    spec["direction"] = json!(direction);
    spec["percent"] = json!(random.u32(1..101));
    let services = [
        json!({"name": name(random), "namespace": namespace(random)}),
        json!({"name": name(random), "port": 80}),
    ];
    spec["match"] = json!({
        "services": if direction == "Inbound" { Vec::new() } else { some(random, &services) },
        "routes": if direction == "Inbound" { Vec::new() } else { some(random, &["a", "b"]) },
        "methods": some(random, &["GET", "POST"]),
        "headers": {"X-Chaos": one(random, &["1", "a*"])},
        "identities": some(random, &["spiffe://cluster.local/ns/one/*"]),
    });
    if random.bool() {
        spec["selector"] = json!({"matchLabels": {"app": name(random)}});
    }
    if random.bool() {
        spec["ramp"] = json!({"from": 1, "over": "10s"});
        spec["seed"] = json!(random.u32(..));
    }
    json!({"spec": spec})
}

fn parent(random: &mut fastrand::Rng) -> Value {
    let mut parent =
        json!({"group": "", "kind": "Service", "name": name(random), "namespace": namespace(random)});
    if random.bool() {
        parent["port"] = json!(random.u16(80..84));
    }
    parent
}

fn backends(random: &mut fastrand::Rng) -> Vec<Value> {
    let each = (0..random.usize(..4)).map(|_| {
        let mut backend = json!({
            "name": name(random), "namespace": namespace(random), "weight": random.u32(..3),
        });
        if random.u8(..8) > 0 {
            backend["port"] = json!(random.u16(80..84));
        }
        backend
    });
    each.collect()
}

fn http_route(random: &mut fastrand::Rng) -> Value {
    let rules = (0..random.usize(1..4)).map(|_| {
        let matches = some(random, &[
            json!({"path": {"value": "/p"}}),
            json!({"path": {"type": "Exact", "value": "/e%20x"}, "method": "GET"}),
            json!({"path": {"type": "RegularExpression", "value": "/r/[0-9]+"}}),
            json!({"headers": [{"name": "X", "value": "1"}, {"name": "x", "value": "2"}]}),
            json!({"headers": [{"name": "x", "type": "RegularExpression", "value": "a|b"}]}),
            json!({"queryParams": [{"name": "q", "value": "v"}]}),
        ]);
        let copy = name(random);
        let filters = some(random, &[
            json!({"type": "RequestHeaderModifier", "requestHeaderModifier":
                   {"set": [{"name": "a", "value": "50%"}], "add": [{"name": "b", "value": "c"}], "remove": ["d"]}}),
            json!({"type": "ResponseHeaderModifier", "responseHeaderModifier": {"remove": ["server"]}}),
            json!({"type": "URLRewrite", "urlRewrite": {"hostname": "h.example", "path":
                   {"type": "ReplaceFullPath", "replaceFullPath": "/a\\1"}}}),
            json!({"type": "RequestMirror", "requestMirror": {"backendRef": {"name": copy, "port": 80}, "percent": 5}}),
            json!({"type": "CORS", "cors": {}}),
        ]);
        let mut rule = json!({"matches": matches, "filters": filters, "backendRefs": backends(random)});
        if random.bool() {
            rule["timeouts"] = json!({"request": "2s", "backendRequest": "500ms"});
            rule["retry"] = json!({"attempts": random.u32(..4), "codes": [503], "backoff": "10ms"});
        }
        rule
    });
    let rules: Vec<Value> = rules.collect();
    json!({"spec": {"parentRefs": [parent(random), parent(random)], "rules": rules}})
}

fn authorization(random: &mut fastrand::Rng) -> Value {
    let mut spec = json!({
        "action": one(random, &["Allow", "Deny"]),
        "mode": one(random, &["Enforce", "Audit"]),
        "rules": [{
            "from": some(random, &[
                json!({"identities": ["spiffe://cluster.local/ns/one/*"], "notIdentities": ["*"]}),
                json!({"namespaces": ["one", "two"], "ipBlocks": ["10.0.0.0/8", "::1"]}),
                json!({"serviceAccounts": ["one/default"]}),
            ]),
            "to": some(random, &[
                json!({"ports": [8080]}),
                json!({"methods": ["GET", "POST"], "paths": ["/a/*", "*.css", "*"]}),
                json!({"headers": {"X-User": ["a*", "*"]}}),
            ]),
        }],
    });
    if random.bool() {
        spec["selector"] = json!({"matchLabels": {"app": name(random)}});
    }
    if random.bool() {
        spec["mtls"] = json!(one(random, &["Strict", "Permissive"]));
    }
    if random.bool() {
        spec["default"] = json!(one(random, &["Deny", "AllowMesh", "AllowAll"]));
    }
    json!({"spec": spec})
}

fn traffic(random: &mut fastrand::Rng) -> Value {
    let balancers = [
        json!({"policy": "RoundRobin", "slowStart": "5s"}),
        json!({"policy": "LeastRequest", "choices": 3}),
        json!({"policy": "Random", "panicThreshold": 0}),
        json!({"policy": "PeakEwma"}),
        json!({"policy": "RingHash", "hash": [{"header": "X-User"}, {"sourceAddress": true}]}),
        json!({"policy": "Maglev", "hash": [{"cookie": "who"}, {"queryParameter": "q"}]}),
    ];
    let mut spec = json!({
        "targetRefs": [{"name": name(random)}],
        "loadBalancer": balancers[random.usize(..balancers.len())],
        "retries": {
            "attempts": random.u32(..4), "on": ["5xx", "reset"], "codes": [429], "backoff": "20ms",
            "perTryTimeout": "1s", "hedge": random.bool(),
        },
        "timeouts": {"connect": "1s", "request": "3s", "idle": "60s"},
        "circuitBreaker": {"maxRequests": 100, "maxRetries": 3},
    });
    if random.bool() {
        spec["mtls"] = json!(one(random, &["Disabled", "Required"]));
    }
    if random.bool() {
        spec["outlierDetection"] = json!({"consecutiveErrors": random.u32(1..5), "interval": "2s"});
    }
    if random.bool() {
        spec["rateLimit"] = json!({"requests": random.u32(1..5), "per": "1s"});
    }
    if random.bool() {
        spec["adaptiveConcurrency"] = json!({});
    }
    if random.bool() {
        let checks = [json!({"http": {"path": "/x"}}), json!({"grpc": {}}), json!({"tcp": {}})];
        spec["healthCheck"] = checks[random.usize(..checks.len())].clone();
        spec["shedding"] = json!({"percentile": random.u32(1..51)});
    }
    if random.bool() {
        spec["targetRefs"][0]["sectionName"] = json!(one(random, &["http", "81", "nothing"]));
    }
    json!({"spec": spec})
}
