use std::collections::BTreeSet;

use outrider_proto::outrider::fault::v1 as pb;
use prost::Message as _;
use serde_json::{Value, json};

use super::*;
use crate::compile::Settings;
use crate::object::{AnyObject, Place};

fn own(kind: &str, name: &str, labels: Value, spec: Value) -> Value {
    json!({
        "apiVersion": "mesh.outrider.dev/v1alpha1", "kind": kind, "spec": spec,
        "metadata": {"name": name, "namespace": "shop", "labels": labels},
    })
}

fn workload(number: usize, labels: Value) -> Value {
    let spec = json!({"address": format!("10.0.0.{number}"), "ports": [{"port": 80}]});
    own("Workload", &format!("w{number}"), labels, spec)
}

fn fault(name: &str, spec: Value) -> Value {
    own("FaultInjection", name, json!({}), spec)
}

fn mesh(values: Vec<Value>, caps: Caps) -> Mesh {
    let mut objects = Objects::default();
    for value in values {
        objects.insert(AnyObject::from_value(value, &Place::default()).unwrap());
    }
    Mesh::with_settings(Arc::new(objects), Settings { faults: caps, ..Settings::default() })
}

fn proxy(number: usize) -> ProxyInfo {
    ProxyInfo {
        id: format!("p{number}").into(),
        namespace: "shop".into(),
        workload: format!("w{number}").into(),
        dialect: Dialect::Outrider,
        supports_ttl: true,
        ..ProxyInfo::default()
    }
}

/// The names of what a proxy is told, with `stop` and `opt_out` of the guard.
fn told(mesh: &Mesh, in_force: &InForce, proxy: &ProxyInfo) -> (Vec<String>, bool, bool) {
    let mut snapshot = Snapshot::default();
    mesh.inject(&mesh.injections(in_force), proxy, &mut snapshot);
    let all = snapshot.shared(Kind::Faults);
    let guard = all.get(GUARD_NAME).map(|one| pb::FaultInjection::decode(one.body.clone()).unwrap());
    let guard = match guard.and_then(|guard| guard.kind) {
        Some(pb::fault_injection::Kind::Guard(guard)) => guard,
        _ => pb::Guard::default(),
    };
    let faults: Vec<String> =
        all.keys().filter(|name| &***name != GUARD_NAME).map(ToString::to_string).collect();
    let leased: BTreeSet<_> = snapshot.ttls(Kind::Faults).map(|(name, _)| name.to_string()).collect();
    assert_eq!(leased, faults.iter().cloned().collect(), "a fault has a lease, and nothing else has");
    (faults, guard.stop, guard.opt_out)
}

fn refuse() -> Value {
    json!({"direction": "Inbound", "refuse": {}})
}

#[test]
fn a_fault_goes_to_the_workloads_that_it_selects() {
    let selected = json!({"direction": "Inbound", "refuse": {}, "selector": {"matchLabels": {"app": "a"}}});
    let all = vec![
        workload(1, json!({"app": "a"})),
        workload(2, json!({"app": "b"})),
        workload(3, json!({"app": "a", "mesh.outrider.dev/faults": "off"})),
        fault("f", selected),
        fault("g", refuse()),
    ];
    let mesh = mesh(all, Caps::default());
    let now = InForce::default();
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(told(&mesh, &now, &proxy(1)), (names(&["shop/f", "shop/g"]), false, false));
    assert_eq!(told(&mesh, &now, &proxy(2)), (names(&["shop/g"]), false, false));
    assert_eq!(told(&mesh, &now, &proxy(3)), (vec![], false, true), "it has opted out");
    assert_eq!(told(&mesh, &now, &ProxyInfo { namespace: "other".into(), ..proxy(1) }).0, names(&[]));
    assert_eq!(told(&mesh, &now, &ProxyInfo { supports_ttl: false, ..proxy(1) }), (vec![], false, false));
    let envoy = ProxyInfo { dialect: Dialect::Envoy, ..proxy(1) };
    let mut snapshot = Snapshot::default();
    mesh.inject(&mesh.injections(&now), &envoy, &mut snapshot);
    assert!(snapshot.kind(Kind::Faults).is_none());
    let over = InForce { over: [Key::new(ObjectKind::FaultInjection, "shop", "f")].into(), ..now };
    assert_eq!(told(&mesh, &over, &proxy(1)), (names(&["shop/g"]), false, false));
    let stopped = InForce { stopped: true, ..over };
    assert_eq!(told(&mesh, &stopped, &proxy(1)), (vec![], true, false));
    assert_eq!(told(&mesh, &stopped, &proxy(3)), (vec![], true, true));
    assert_eq!(mesh.injections(&stopped).running().count(), 0);
}

#[test]
fn a_namespace_that_wants_none_gets_none() {
    let labels = json!({"mesh.outrider.dev/faults": "off"});
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": labels}});
    let mesh = mesh(vec![namespace, workload(1, json!({})), fault("f", refuse())], Caps::default());
    assert_eq!(told(&mesh, &InForce::default(), &proxy(1)), (vec![], false, true));
    // Nor does a proxy of it that no object speaks of.
    assert_eq!(told(&mesh, &InForce::default(), &proxy(9)), (vec![], false, true));
}

#[test]
fn caps_leave_some_workloads_only_and_always_the_same() {
    let concerned = |mesh: &Mesh| -> Vec<usize> {
        (1..=20).filter(|number| !told(mesh, &InForce::default(), &proxy(*number)).0.is_empty()).collect()
    };
    let all = |more: Value| {
        let mut all: Vec<Value> = (1..=20).map(|number| workload(number, json!({"n": "1"}))).collect();
        all.extend([fault("f", more), fault("g", refuse())]);
        all
    };
    let cap = |text: &str| Caps { max_workloads: text.parse().unwrap(), ..Caps::default() };
    assert_eq!(concerned(&mesh(all(refuse()), Caps::default())).len(), 20);
    let some = concerned(&mesh(all(refuse()), cap("29.9")));
    assert_eq!(some.len(), 5, "rounded down");
    assert_eq!(some, concerned(&mesh(all(refuse()), cap("29.9"))));
    assert_eq!(concerned(&mesh(all(refuse()), cap("0"))), [0; 0]);
    let own = json!({"direction": "Inbound", "refuse": {}, "maxWorkloadsPercent": 10});
    let mut own = all(own);
    own.pop();
    assert_eq!(concerned(&mesh(own, Caps::default())).len(), 2);
}

#[test]
fn every_field_reaches_the_proxy() {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"clusterIP": "10.1.0.1", "ports": [{"name": "http", "port": 80}, {"name": "b", "port": 81}]},
    });
    let rule = json!({
        "services": [{"name": "web"}, {"name": "gone", "namespace": "far", "port": 7}], "port": 80,
        "routes": ["r", "two"], "methods": ["GET"], "path": "/a*", "headers": {"X-A": "*", "b": "c"},
        "identities": ["spiffe://cluster.local/ns/shop/*"], "endpoints": ["10.0.0.1:80"],
    });
    let spec = json!({
        "direction": "Upstream", "match": rule, "percent": 12.5, "seed": 7, "perConnection": true, "maxActive": 3,
        "ramp": {"from": 1, "over": "1m"}, "ttl": "3s",
        "delay": {"pareto": {"scale": "10ms", "shape": 1.5, "max": "1s"}, "moment": "BeforeResponse"},
    });
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "two", "namespace": "shop"},
        "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "web"}], "rules": [{}, {}]},
    });
    let all = vec![workload(1, json!({})), service, route, fault("f", spec)];
    let mesh = mesh(all, Caps::default());
    let mut snapshot = Snapshot::default();
    mesh.inject(&mesh.injections(&InForce::default()), &proxy(1), &mut snapshot);
    let told = snapshot.shared(Kind::Faults)["shop/f"].clone();
    let message = pb::FaultInjection::decode(told.body).unwrap();
    let json = outrider_proto::json::to_json(&message).unwrap();
    let expected = json!({"name": "shop/f", "fault": {
        "place": "UPSTREAM",
        "match": {
            "routes": ["HTTPRoute/shop/r", "HTTPRoute/shop/two#0", "HTTPRoute/shop/two#1"],
            "clusters": ["outbound|80||web.shop", "outbound|81||web.shop", "outbound|7||gone.far"],
            "endpoints": ["10.0.0.1:80"], "methods": ["GET"], "path": {"prefix": "/a"},
            "headers": [
                {"name": "x-a", "string_match": {"safe_regex": {"regex": ".*"}}},
                {"name": "b", "string_match": {"exact": "c"}},
            ],
            "peers": [{"prefix": "spiffe://cluster.local/ns/shop/"}],
            "port": 80,
        },
        "percentage": {"numerator": 125_000, "denominator": "MILLION"},
        "seed": "7", "max_active": 3, "per_connection": true,
        "ramp": {"from": {"numerator": 10_000, "denominator": "MILLION"}, "over": "60s"},
        "delay": {"pareto": {"scale": "0.010s", "shape": 1.5, "max": "1s"}, "moment": "BEFORE_RESPONSE"},
    }});
    assert_eq!(json, expected);
    assert_eq!(snapshot.ttl(Kind::Faults, &"shop/f".into()), Some(std::time::Duration::from_secs(3)));
    let problems = mesh.statuses().of(&Key::new(ObjectKind::FaultInjection, "shop", "f")).unwrap();
    let problems: Vec<_> = problems.problems().map(|(_, one)| (one.reason, one.message.clone())).collect();
    assert_eq!(
        problems,
        [("TargetNotFound", "there is no Service/far/gone; there is no HTTPRoute or GRPCRoute r".to_owned())]
    );
}

#[test]
fn every_action_passes_the_gate() {
    for action in [
        json!({"delay": {"fixed": "1s"}}),
        json!({"delay": {"uniform": {"min": "1s", "max": "2s"}}}),
        json!({"delay": {"normal": {"mean": "1s", "deviation": "2s"}, "moment": "PerChunk"}}),
        json!({"abort": {"httpStatus": 503}}),
        json!({"abort": {"grpc": {"status": 14, "message": "no"}}}),
        json!({"abort": {"reset": {}}}),
        json!({"abort": {"streamCode": 7}}),
        json!({"abort": {"goAwayCode": 11}}),
        json!({"abort": {"close": {}}}),
        json!({"bandwidth": {"requestBytesPerSecond": 1}}),
        json!({"truncate": {"side": "Request", "afterBytes": 0}}),
        json!({"corrupt": {"oneInBytes": 1}}),
        json!({"blackhole": {}}),
        json!({"refuse": {}}),
        json!({"tlsFailure": {"alert": 45}}),
        json!({"expiredCertificate": {}}),
        json!({"drip": {"chunkBytes": 1, "interval": "1s"}}),
    ] {
        let mut spec = action.clone();
        spec["direction"] = "Inbound".into();
        let mesh = mesh(vec![workload(1, json!({})), fault("f", spec)], Caps::default());
        let told = told(&mesh, &InForce::default(), &proxy(1));
        assert_eq!(told.0, ["shop/f"], "{action}");
        let name = action.as_object().unwrap().keys().next().unwrap().replace("tlsFailure", "tls_failure");
        let name = name.replace("expiredCertificate", "expired_certificate");
        let resource = mesh.injections(&InForce::default()).faults[0].compiled.resource.clone();
        let message = pb::FaultInjection::decode(resource.body).unwrap();
        let json = outrider_proto::json::to_json(&message).unwrap();
        assert!(json["fault"].get(&name).is_some(), "{action}: {json}");
    }
}

#[test]
fn proxies_that_take_no_faults_are_counted_where_one_is_meant_for_them() {
    let selected = json!({"direction": "Inbound", "refuse": {}, "selector": {"matchLabels": {"app": "a"}}});
    let label = |app: &str| json!({"app": app});
    let off = json!({"app": "a", "mesh.outrider.dev/faults": "off"});
    let all = vec![workload(1, label("a")), workload(2, label("b")), workload(3, off), fault("f", selected)];
    let mesh = mesh(all, Caps::default());
    let envoy = |number| Arc::new(ProxyInfo { dialect: Dialect::Envoy, ..proxy(number) });
    let proxies = [envoy(1), envoy(2), envoy(3), Arc::new(proxy(1))];
    let counted = |in_force: &InForce| mesh.without_faults(&mesh.injections(in_force), &proxies);
    let key = Key::new(ObjectKind::FaultInjection, "shop", "f");
    assert_eq!(counted(&InForce::default()), BTreeMap::from([(key.clone(), 1)]));
    assert!(counted(&InForce { stopped: false, over: BTreeSet::from([key]) }).is_empty());
}
