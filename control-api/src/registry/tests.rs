use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use tokio::time::Instant;

use super::*;
use crate::object::{Key, ObjectKind};
use crate::proxy_info::WorkloadPort;
use crate::serve::Item;
use crate::snapshot::{Origin, Resource, Resources};

fn info(id: &str) -> Arc<ProxyInfo> {
    Arc::new(ProxyInfo { id: id.into(), namespace: "shop".into(), ..ProxyInfo::default() })
}

fn set(all: &[(&str, &str, &str)]) -> Arc<Resources> {
    let one = |version: &str, origin: &str| Resource {
        version: version.into(),
        body: bytes::Bytes::new(),
        origin: origin.into(),
    };
    Arc::new(all.iter().map(|(name, version, origin)| (Arc::from(*name), one(version, origin))).collect())
}

fn standing(told: &Arc<Resources>, wildcard: bool, named: &[&str], settled: bool) -> (Kind, Standing) {
    let named = Arc::new(named.iter().map(|name| Arc::from(*name)).collect());
    (Kind::Cluster, Standing { told: Arc::clone(told), wildcard, named, settled })
}

fn answer(items: &[(&str, &str)], error: Option<&str>) -> Answer {
    let items = items
        .iter()
        .map(|(name, version)| Item { name: Arc::from(*name), version: Some(Arc::from(*version)) });
    Answer {
        kind: Kind::Cluster,
        nonce: "1".into(),
        error: error.map(ToOwned::to_owned),
        items: items.collect(),
        lapsed: Vec::new(),
    }
}

#[test]
fn objects_are_counted_once_for_each_proxy() {
    let registry = Arc::new(Registry::default());
    let told =
        set(&[("a", "1", "Service/shop/a"), ("a2", "1", "Service/shop/a"), ("b", "1", "Service/shop/b")]);
    let plain: Vec<_> =
        (0..11).map(|number| registry.connect(&info(&format!("p{number}")), "delta")).collect();
    for one in &plain {
        one.standing(std::iter::once(standing(&told, true, &[], true)));
    }
    // One has not answered, one refuses, one has asked for one cluster only.
    let slow = registry.connect(&info("slow"), "delta");
    slow.standing(std::iter::once(standing(&told, true, &[], false)));
    let bad = registry.connect(&info("bad"), "sotw");
    bad.standing(std::iter::once(standing(&told, true, &[], false)));
    bad.answered(&answer(&[("a", "1"), ("a2", "1"), ("b", "1")], Some("a2: lb_policy: not supported")));
    bad.standing(std::iter::once(standing(&told, true, &[], true)));
    let picky = registry.connect(&info("picky"), "delta");
    picky.standing(std::iter::once(standing(&told, false, &["b", "none"], true)));

    let objects = registry.objects();
    let a = &objects["Service/shop/a"];
    assert_eq!((a.proxies, a.acknowledged, a.refused), (13, 11, 1));
    let rejection = Rejection { proxy: "bad".into(), detail: "a2: lb_policy: not supported".into() };
    assert_eq!(a.rejections, [rejection]);
    let b = &objects["Service/shop/b"];
    assert_eq!((b.proxies, b.acknowledged, b.refused), (14, 13, 0), "what it did not name is accepted");
    let missing = &registry.resources("picky")[0].1;
    assert!(missing.iter().any(|one| *one.name == *"none" && one.state == ResourceState::Missing));

    // Another version takes the refusal away.
    let better =
        set(&[("a", "1", "Service/shop/a"), ("a2", "2", "Service/shop/a"), ("b", "1", "Service/shop/b")]);
    bad.standing(std::iter::once(standing(&better, true, &[], false)));
    assert_eq!(registry.objects()["Service/shop/a"].refused, 0);
    bad.answered(&answer(&[("a2", "2")], None));
    bad.standing(std::iter::once(standing(&better, true, &[], true)));
    assert_eq!(registry.objects()["Service/shop/a"].acknowledged, 12);
    assert!(
        registry
            .proxies()
            .iter()
            .all(|one| { one.kinds.get(&Kind::Cluster).is_some_and(|kind| kind.last_refused.is_none()) })
    );

    drop(plain);
    assert_eq!((registry.len(), registry.objects()["Service/shop/b"].proxies), (3, 3));
}

#[test]
fn everything_that_a_resource_is_made_of_is_counted() {
    let registry = Arc::new(Registry::default());
    let policy = Key::new(ObjectKind::TrafficPolicy, "shop", "t");
    let origin = Origin::from("Service/shop/a").with([&policy, &policy]);
    let one = Resource { version: "1".into(), body: bytes::Bytes::new(), origin };
    let told: Arc<Resources> = Arc::new([("a".into(), one)].into());
    let (well, bad) = (registry.connect(&info("well"), "delta"), registry.connect(&info("bad"), "delta"));
    well.standing(std::iter::once(standing(&told, true, &[], true)));
    bad.standing(std::iter::once(standing(&told, true, &[], false)));
    bad.answered(&answer(&[("a", "1")], Some("a: no")));
    for key in ["Service/shop/a", "TrafficPolicy/shop/t"] {
        let status = &registry.objects()[key];
        assert_eq!((status.proxies, status.acknowledged, status.refused), (2, 1, 1), "{key}");
    }
}

#[test]
fn the_newer_stream_of_a_proxy_counts() {
    let registry = Arc::new(Registry::default());
    let old = registry.connect(&info("a"), "delta");
    let new = registry.connect(&info("a"), "sotw");
    drop(old);
    assert_eq!(registry.proxies()[0].protocol, "sotw");
    drop(new);
    assert!(registry.is_empty());
}

/// Two proxies by mistake, or one that has connected again and whose old stream was the one that held.
#[test]
fn the_stream_that_is_left_counts_whichever_ends_first() {
    let registry = Arc::new(Registry::default());
    let told = set(&[("a", "1", "Service/shop/a")]);
    let first = registry.connect(&info("a"), "delta");
    first.standing(std::iter::once(standing(&told, true, &[], true)));
    let second = registry.connect(&info("a"), "sotw");
    assert_eq!((registry.len(), registry.streams(), registry.objects().len()), (1, 2, 0));
    drop(second);
    assert_eq!((registry.len(), registry.streams()), (1, 1));
    assert_eq!(registry.proxies()[0].protocol, "delta");
    assert_eq!(registry.objects()["Service/shop/a"].acknowledged, 1);
    drop(first);
    assert_eq!((registry.len(), registry.streams()), (0, 0));
}

#[test]
fn nobody_of_another_account_stands_in_for_a_proxy_by_its_id() {
    let registry = Arc::new(Registry::default());
    let of = |account: &str| {
        let identity = crate::auth::parse(&format!("spiffe://mesh/ns/shop/sa/{account}"));
        Arc::new(ProxyInfo { identity, service_account: account.into(), ..ProxyInfo::clone(&info("a")) })
    };
    let _own = registry.connect(&of("web"), "delta");
    let stranger = registry.connect(&of("stranger"), "delta");
    assert_eq!((registry.len(), registry.resources("a").len()), (2, 2));
    drop(stranger);
    assert_eq!(registry.proxies()[0].info.service_account.as_ref(), "web");
}

#[tokio::test(start_paused = true)]
async fn a_workload_goes_a_while_after_its_stream() {
    let workloads = Arc::new(Workloads::new(Duration::from_secs(5)));
    let registry = Arc::new(Registry::new(Arc::clone(&workloads)));
    let mut seen = workloads.watch();
    let port = WorkloadPort { name: "".into(), number: 80 };
    let registered = Arc::new(ProxyInfo {
        service: Some("web".into()),
        address: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        is_there: true,
        ports: vec![port],
        ..ProxyInfo::clone(&info("a"))
    });
    let _other = registry.connect(&info("no workload"), "delta");
    let elsewhere = ProxyInfo { id: "b".into(), is_there: false, ..ProxyInfo::clone(&registered) };
    let _elsewhere = registry.connect(&Arc::new(elsewhere), "delta");
    assert!(seen.borrow_and_update().is_empty());
    let first = registry.connect(&registered, "delta");
    assert!(seen.borrow_and_update()[0].connected);
    drop(first);
    assert!(!seen.borrow_and_update()[0].connected);
    let end = workloads.expire(Instant::now()).unwrap();
    assert_eq!(end, Instant::now() + Duration::from_secs(5));
    // It comes back in time: the end of the stream before takes nothing away.
    let second = registry.connect(&registered, "delta");
    // The end of one of two streams takes nothing away, nor does what it said hold on.
    let moved =
        ProxyInfo { address: Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9))), ..ProxyInfo::clone(&registered) };
    drop(registry.connect(&Arc::new(moved), "delta"));
    assert_eq!(seen.borrow_and_update()[0].info.address, registered.address);
    assert_eq!(workloads.expire(end), None);
    assert!(seen.borrow_and_update()[0].connected);
    drop(second);
    tokio::select! {
        () = workloads.run() => {}
        gone = seen.wait_for(|all| all.is_empty()) => assert!(gone.is_ok()),
    }
    assert_eq!(Instant::now(), end);
}

#[tokio::test(start_paused = true)]
async fn a_workload_of_before_a_restart_is_waited_for() {
    let workloads = Arc::new(Workloads::new(Duration::from_secs(5)));
    let registry = Arc::new(Registry::new(Arc::clone(&workloads)));
    let info = |id: &str| ProxyInfo {
        service: Some("web".into()),
        address: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        is_there: true,
        ports: vec![WorkloadPort { name: "".into(), number: 80 }],
        ..ProxyInfo::clone(&info(id))
    };
    workloads.restore(vec![info("back"), info("gone")]);
    let mut seen = workloads.watch();
    assert!(seen.borrow_and_update().iter().all(|one| one.connected));
    let _back = registry.connect(&Arc::new(info("back")), "delta");
    assert!(!seen.has_changed().unwrap(), "nobody need hear of it");
    let end = workloads.expire(Instant::now()).unwrap();
    assert_eq!(end, Instant::now() + RESTORED_GRACE);
    assert_eq!(workloads.expire(end), None);
    let left: Vec<_> = seen.borrow_and_update().iter().map(|one| Arc::clone(&one.info.id)).collect();
    assert_eq!(left, ["back".into()]);
}
