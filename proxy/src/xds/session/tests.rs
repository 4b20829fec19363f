use outrider_proto::envoy::config::cluster::v3::Cluster;
use outrider_proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use outrider_proto::type_url;
use prost::Message as _;

use super::*;

fn session() -> Session {
    let source = AdsSource { cluster: "x".into(), listeners: true, clusters: true, on_demand: false };
    Session::new(Node { id: "me".into(), ..Node::default() }, source)
}

fn wanted(endpoints: &[&str]) -> Wanted {
    wanted_in(1, endpoints)
}

fn wanted_in(turn: u64, endpoints: &[&str]) -> Wanted {
    let mut wanted = Wanted::default();
    wanted.set(endpoints.iter().map(|name| (Kind::Endpoints, Arc::from(*name))).collect(), turn);
    wanted
}

fn cluster(name: &str, version: &str, message: &Cluster) -> pb::Resource {
    pb::Resource {
        name: name.into(),
        version: version.into(),
        resource: Some(prost_types::Any {
            type_url: type_url::CLUSTER.into(),
            value: message.encode_to_vec(),
        }),
        ttl: None,
    }
}

fn response(resources: Vec<pb::Resource>) -> pb::DeltaDiscoveryResponse {
    pb::DeltaDiscoveryResponse {
        resources,
        type_url: type_url::CLUSTER.into(),
        nonce: "n1".into(),
        ..pb::DeltaDiscoveryResponse::default()
    }
}

fn good(name: &str) -> Cluster {
    Cluster { name: name.into(), ..Cluster::default() }
}

#[tokio::test]
async fn the_node_is_sent_once_and_versions_on_reconnect() {
    let mut session = session();
    let first = session.open(&wanted(&[]), Instant::now());
    let urls: Vec<&str> = first.iter().map(|request| request.type_url.as_str()).collect();
    assert_eq!(urls, [type_url::REVOCATIONS, type_url::CLUSTER, type_url::LISTENER, type_url::FAULTS]);
    assert_eq!(first.iter().filter(|request| request.node.is_some()).count(), 1);

    let update = session.receive(response(vec![cluster("a", "7", &good("a"))]), Instant::now());
    assert_eq!(update.changes.len(), 1);
    let ack = session.answer(update, Vec::new());
    assert_eq!((ack.response_nonce.as_str(), ack.error_detail, ack.node), ("n1", None, None));

    let again = session.open(&wanted(&[]), Instant::now());
    assert_eq!(again[1].initial_resource_versions.get("a").map(String::as_str), Some("7"));
    assert!(again[0].node.is_some());
}

#[tokio::test]
async fn bad_resources_are_refused_by_name_and_good_ones_taken() {
    let mut session = session();
    let _ = session.open(&wanted(&[]), Instant::now());
    let bad = Cluster { lb_policy: 99, ..good("bad") };
    let mut wrong_type = cluster("wrong", "1", &good("wrong"));
    wrong_type.resource.as_mut().unwrap().type_url = type_url::LISTENER.into();
    let resources = vec![
        cluster("good", "1", &good("good")),
        cluster("bad", "1", &bad),
        cluster("other-name", "1", &good("x")),
        cluster("twice", "1", &good("twice")),
        cluster("twice", "2", &good("twice")),
        cluster("", "1", &good("")),
        wrong_type,
    ];
    let update = session.receive(response(resources), Instant::now());
    assert_eq!(update.changes.iter().map(Change::name).collect::<Vec<_>>(), ["good"]);
    let nack = session.answer(update, vec![("late".into(), vec![Fault::new("address", "taken")])]);
    let detail = nack.error_detail.unwrap().message;
    for part in [
        "bad: lb_policy: unknown value 99",
        "other-name: name:",
        "twice: name: there twice",
        "wrong: resource:",
        "late: address: taken",
    ] {
        assert!(detail.contains(part), "{part} not in {detail}");
    }
    let known = &session.open(&wanted(&[]), Instant::now())[1].initial_resource_versions;
    assert_eq!(known.keys().collect::<Vec<_>>(), ["good"], "what was refused is not claimed");
}

#[tokio::test]
async fn subscriptions_follow_what_is_wanted() {
    let mut session = session();
    let _ = session.open(&wanted(&["a"]), Instant::now());
    assert!(session.follow(&wanted(&["a"])).is_empty());
    let requests = session.follow(&wanted(&["b"]));
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].resource_names_subscribe, ["b"]);
    assert_eq!(requests[0].resource_names_unsubscribe, ["a"]);
}

fn assignment(name: &str) -> pb::DeltaDiscoveryResponse {
    let message = ClusterLoadAssignment { cluster_name: name.into(), ..ClusterLoadAssignment::default() };
    let wrapped = pb::Resource {
        name: name.into(),
        version: "1".into(),
        resource: Some(prost_types::Any {
            type_url: type_url::ENDPOINTS.into(),
            value: message.encode_to_vec(),
        }),
        ttl: None,
    };
    pb::DeltaDiscoveryResponse {
        resources: vec![wrapped],
        type_url: type_url::ENDPOINTS.into(),
        ..pb::DeltaDiscoveryResponse::default()
    }
}

#[tokio::test]
async fn what_was_let_go_of_is_asked_for_again_although_nobody_saw_it_go() {
    let mut session = session();
    let now = Instant::now();
    let claimed = |requests: &[pb::DeltaDiscoveryRequest]| {
        let all = requests.iter().filter(|request| request.type_url == type_url::ENDPOINTS);
        all.map(|request| request.initial_resource_versions.len()).sum::<usize>()
    };
    let _ = session.open(&wanted_in(1, &["a"]), now);
    let update = session.receive(assignment("a"), now);
    let _ = session.answer(update, Vec::new());
    let requests = session.follow(&wanted_in(2, &["a"]));
    assert_eq!(requests[0].resource_names_subscribe, ["a"]);
    assert!(requests[0].resource_names_unsubscribe.is_empty());

    let update = session.receive(assignment("a"), now);
    let _ = session.answer(update, Vec::new());
    assert_eq!(claimed(&session.open(&wanted_in(2, &["a"]), now)), 1);
    assert_eq!(claimed(&session.open(&wanted_in(3, &["a"]), now)), 0, "between two streams too");
}

#[tokio::test]
async fn what_was_not_asked_for_is_left_alone() {
    let mut session = session();
    let _ = session.open(&wanted(&["a"]), Instant::now());
    let update = session.receive(assignment("z"), Instant::now());
    assert!(update.changes.is_empty() && update.refused.is_empty());
    let unknown =
        pb::DeltaDiscoveryResponse { type_url: "t/x".into(), ..pb::DeltaDiscoveryResponse::default() };
    let update = session.receive(unknown, Instant::now());
    assert!(session.answer(update, Vec::new()).error_detail.unwrap().message.contains("was not asked for"));
}

#[tokio::test]
async fn heartbeats_extend_and_removals_remove() {
    let mut session = session();
    let _ = session.open(&wanted(&[]), Instant::now());
    let now = Instant::now();
    let mut leased = cluster("a", "1", &good("a"));
    leased.ttl = Some(prost_types::Duration { seconds: 5, nanos: 0 });
    let update = session.receive(response(vec![leased.clone()]), now);
    assert!(matches!(&update.changes[0], Change::Set(_, Some(at)) if *at == now + Duration::from_secs(5)));
    let _ = session.answer(update, Vec::new());
    leased.resource = None;
    let update = session.receive(response(vec![leased.clone()]), now);
    assert!(matches!(&update.changes[0], Change::Extend(Kind::Cluster, name, Some(_)) if &**name == "a"));
    leased.version = "2".into();
    let update = session.receive(response(vec![leased]), now);
    assert_eq!(update.refused[0].1[0].path, "resource", "a new version needs a body");
    let mut gone = response(Vec::new());
    gone.removed_resources = vec!["a".into()];
    let update = session.receive(gone, now);
    let _ = session.answer(update, Vec::new());
    assert!(session.open(&wanted(&[]), Instant::now())[1].initial_resource_versions.is_empty());
}

#[tokio::test]
async fn a_lease_that_has_run_out_is_not_claimed_and_not_renewed() {
    let mut session = session();
    let now = Instant::now();
    let _ = session.open(&wanted(&[]), now);
    let mut leased = cluster("a", "1", &good("a"));
    leased.ttl = Some(prost_types::Duration { seconds: 5, nanos: 0 });
    let update = session.receive(response(vec![leased.clone()]), now);
    let _ = session.answer(update, Vec::new());
    leased.resource = None;
    let beat = session.receive(response(vec![leased.clone()]), now + Duration::from_secs(4));
    let _ = session.answer(beat, Vec::new());
    let known = |session: &mut Session, after_s: u64| {
        let requests = session.open(&wanted(&[]), now + Duration::from_secs(after_s));
        requests[1].initial_resource_versions.len()
    };
    assert_eq!(known(&mut session, 8), 1, "the heartbeat renewed it");
    assert_eq!(known(&mut session, 9), 0, "what is gone here must be sent again");
    let late = session.receive(response(vec![leased.clone()]), now + Duration::from_secs(10));
    assert!(late.changes.is_empty());
    assert_eq!(late.refused[0].1[0].path, "ttl");
    for seconds in [-1, i64::MAX] {
        leased.ttl = Some(prost_types::Duration { seconds, nanos: 0 });
        let odd = session.receive(response(vec![leased.clone()]), now);
        assert_eq!(odd.refused[0].1[0].path, "ttl", "{seconds}");
    }
}

#[tokio::test]
async fn a_kind_that_does_not_come_over_xds_is_left_alone() {
    let source = AdsSource { cluster: "x".into(), listeners: true, clusters: false, on_demand: false };
    let mut session = Session::new(Node::default(), source);
    let _ = session.open(&wanted(&[]), Instant::now());
    let update = session.receive(response(vec![cluster("a", "1", &good("a"))]), Instant::now());
    assert!(update.changes.is_empty() && update.refused.is_empty());
}
