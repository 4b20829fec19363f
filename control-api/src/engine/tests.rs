use std::net::IpAddr;
use std::time::Duration;

use serde_json::json;
use tokio::time::timeout;

use super::*;
use crate::object::{AnyObject, Place};
use crate::proxy_info::{Dialect, WorkloadPort};
use crate::registry::Workloads;
use crate::snapshot::Kind;

const PATIENCE: Duration = Duration::from_secs(20);

fn view(ports: &[u16]) -> View {
    let ports: Vec<_> = ports.iter().map(|port| json!({"name": format!("p{port}"), "port": port})).collect();
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"clusterIP": "10.0.0.1", "ports": ports},
    });
    let mut objects = Objects::default();
    objects.insert(AnyObject::from_value(service, &Place::default()).unwrap());
    View { objects: Arc::new(objects), complete: true, ..View::default() }
}

fn workload(id: &str, name: &str) -> Arc<ProxyInfo> {
    Arc::new(ProxyInfo {
        id: id.into(),
        namespace: "shop".into(),
        workload: name.into(),
        service: Some("web".into()),
        address: Some(IpAddr::from([10, 0, 1, 1])),
        is_there: true,
        ports: vec![WorkloadPort { name: "".into(), number: 80 }],
        ..ProxyInfo::default()
    })
}

fn endpoints(engine: &Engine) -> usize {
    let services = engine.compiled().mesh.services().clone();
    services.values().flat_map(|service| &service.ports).map(|port| port.endpoints.len()).sum()
}

#[tokio::test]
async fn changes_of_the_source_and_of_workloads_become_snapshots() {
    let registry = Arc::new(Registry::new(Arc::new(Workloads::new(Duration::ZERO))));
    let engine = Arc::new(Engine::new(
        Settings::default(),
        &view(&[80]),
        Arc::clone(&registry),
        &InMesh::new(),
        Arc::default(),
    ));
    let (source, receiver) = watch::channel(view(&[80]));
    let mut changes = engine.changes();
    tokio::spawn(Arc::clone(&engine).run(receiver));
    let client = ProxyInfo { id: "c".into(), namespace: "shop".into(), ..ProxyInfo::default() };
    let clusters = |engine: &Engine| {
        engine.snapshot(&client).kind(Kind::Cluster).map_or(0, std::collections::BTreeMap::len)
    };
    let before = clusters(&engine);
    source.send_replace(view(&[80, 81]));
    let more = async {
        while clusters(&engine) <= before {
            changes.changed().await.unwrap();
        }
    };
    timeout(PATIENCE, more).await.unwrap();
    let connection = registry.connect(&workload("w", "w"), "delta");
    let registered = async {
        while endpoints(&engine) != 1 {
            changes.changed().await.unwrap();
        }
    };
    timeout(PATIENCE, registered).await.unwrap();
    drop(connection);
    registry.workloads().expire(tokio::time::Instant::now());
    let gone = async {
        while endpoints(&engine) != 0 {
            changes.changed().await.unwrap();
        }
    };
    timeout(PATIENCE, gone).await.unwrap();
}

#[tokio::test]
async fn who_has_changed_faults_can_wait_until_that_is_compiled() {
    let experiments = Arc::new(Experiments::default());
    let registry = Arc::new(Registry::default());
    let engine =
        Engine::new(Settings::default(), &view(&[80]), registry, &InMesh::new(), Arc::clone(&experiments));
    let engine = Arc::new(engine);
    let (_source, receiver) = watch::channel(view(&[80]));
    tokio::spawn(Arc::clone(&engine).run(receiver));
    let fault = json!({
        "apiVersion": "mesh.outrider.dev/v1alpha1", "kind": "FaultInjection",
        "metadata": {"name": "f", "namespace": "shop"}, "spec": {"direction": "Inbound", "refuse": {}},
    });
    let Ok(AnyObject::FaultInjection(fault)) = AnyObject::from_value(fault, &Place::default()) else {
        panic!()
    };
    let key = fault.key.clone();
    for _ in 0..20 {
        experiments.apply(vec![Arc::clone(&fault)], &Objects::default()).unwrap();
        engine.caught_up(engine.faults_changed(), PATIENCE).await;
        assert_eq!(engine.compiled().injections.running().count(), 1);
        assert!(experiments.stop(&key).unwrap());
        engine.caught_up(engine.faults_changed(), PATIENCE).await;
        assert!(engine.compiled().mesh.objects().faults.is_empty());
    }
}

#[tokio::test]
async fn who_is_cut_off_is_no_endpoint_and_that_is_told_at_once() {
    let registry = Arc::new(Registry::new(Arc::new(Workloads::new(Duration::from_secs(60)))));
    let settings = Settings::default();
    let (known, experiments) = (InMesh::new(), Arc::default());
    let engine = Arc::new(Engine::new(settings, &view(&[80]), Arc::clone(&registry), &known, experiments));
    let (source, receiver) = watch::channel(view(&[80]));
    let (mut changes, mut urgent) = (engine.changes(), engine.urgent());
    tokio::spawn(Arc::clone(&engine).run(receiver));
    let _connection = registry.connect(&workload("w", "w"), "delta");
    let mut until = async |count: usize| {
        let reached = async {
            while endpoints(&engine) != count {
                changes.changed().await.unwrap();
            }
        };
        timeout(PATIENCE, reached).await.unwrap();
    };
    until(1).await;
    let told = *urgent.borrow_and_update();
    let mut cut = view(&[80]);
    let object = json!({"apiVersion": "mesh.outrider.dev/v1alpha1", "kind": "Revocation",
        "metadata": {"name": "r"}, "spec": {"identities": ["spiffe://cluster.local/ns/shop/sa/default"]}});
    Arc::make_mut(&mut cut.objects).insert(AnyObject::from_value(object, &Place::default()).unwrap());
    source.send_replace(cut);
    until(0).await;
    timeout(PATIENCE, urgent.wait_for(|number| *number == told + 1)).await.unwrap().unwrap();
    let default = crate::auth::parse("spiffe://cluster.local/ns/shop/sa/default").unwrap();
    assert!(engine.revocations().now().identity(&default).is_some());
    let ours = ProxyInfo { dialect: Dialect::Outrider, ..ProxyInfo::clone(&workload("c", "c")) };
    assert_eq!(engine.snapshot(&ours).kind(Kind::Revocations).unwrap().len(), 1);
    // It is there again as soon as it is let in: its stream has not ended here.
    source.send_replace(view(&[80]));
    until(1).await;
    assert_eq!(*urgent.wait_for(|number| *number > told + 1).await.unwrap(), told + 2);
}
