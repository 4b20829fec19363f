use outrider_proto::envoy::config::{cluster::v3::Cluster as PbCluster, route::v3::RouteConfiguration};
use outrider_proto::json;

use super::super::{Change, Resource, Wanted};
use super::*;
use crate::model::Cluster;
use crate::model::destination::InUse;

const IDLE: Duration = Duration::from_secs(60);
const AT: &str = "10.0.0.1:80";

fn set(store: &mut Store, resource: Resource) {
    store.apply(Change::Set(Box::new(resource), None)).unwrap();
}

/// A destination whose routes are called `r`.
fn destination(store: &mut Store) {
    let message: pb::Destination = json::from_yaml(&format!(
        "{{name: '{AT}', filter_chains: [{{filters: [{{name: h, typed_config: {{
        '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: w,
        rds: {{route_config_name: r, config_source: {{ads: {{}}, resource_api_version: V3}}}},
        http_filters: [{{name: r, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]}}}}]}}]}}"
    ))
    .unwrap();
    let compiled = Destination::from_proto(message.clone()).unwrap();
    set(store, Resource::Destination(message, compiled));
}

/// The routes `r`, which send to this cluster.
fn routes(store: &mut Store, cluster: &str) {
    let message: RouteConfiguration = json::from_yaml(&format!(
        "{{name: r, virtual_hosts: [{{name: v, domains: ['*'], routes: [{{match: {{prefix: /}}, route: {{cluster: {cluster}}}}}]}}]}}"
    ))
    .unwrap();
    let compiled = RouteTable::from_proto(&message).unwrap();
    set(store, Resource::Routes(message, compiled));
}

fn cluster(store: &mut Store, name: &str) {
    let message: PbCluster = json::from_yaml(&format!(
        "{{name: {name}, load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: [{{endpoint: {{address: \
         {{socket_address: {{address: 127.0.0.1, port_value: 1}}}}}}}}]}}]}}}}"
    ))
    .unwrap();
    let compiled = Cluster::from_proto(&message).unwrap();
    set(store, Resource::Cluster(message, compiled));
}

fn asked() -> (Store, SocketAddr, Instant) {
    let (mut store, address, now) = (Store::default(), AT.parse().unwrap(), Instant::now());
    store.on_demand(IDLE, None);
    assert!(store.ask(address, now) && !store.ask(address, now));
    (store, address, now)
}

fn wanted(store: &mut Store, kind: Kind) -> Vec<String> {
    store.follow_references();
    store.wanted().of(kind).into_iter().flatten().map(|(name, _)| name.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_destination_is_published_with_all_that_it_needs_and_let_go_of_when_it_is_idle() {
    let (mut store, address, now) = asked();
    assert_eq!(wanted(&mut store, Kind::Destination), [AT]);
    destination(&mut store);
    assert_eq!(wanted(&mut store, Kind::Routes), ["r"]);
    assert!(store.assemble(1).destinations.is_empty(), "its routes are missing");
    routes(&mut store, "c");
    assert_eq!(wanted(&mut store, Kind::Cluster), ["c"]);
    assert!(store.assemble(2).destinations.is_empty(), "its cluster is missing");
    cluster(&mut store, "c");
    let snapshot = store.assemble(3);
    let told = snapshot.destinations.get(&address).unwrap();
    assert!(told.destination.is_some() && snapshot.clusters.contains_key("c"));

    let in_use = InUse::new(&told.usage).unwrap();
    assert!(!store.let_go(now + 2 * IDLE), "somebody uses it");
    drop(in_use);
    assert!(!store.let_go(now + IDLE / 2));
    assert!(store.let_go(now + 2 * IDLE));
    assert!(InUse::new(&told.usage).is_none(), "who has the configuration of before cannot use it");
    let snapshot = store.assemble(4);
    assert!(snapshot.destinations.is_empty() && snapshot.route_tables.is_empty());
    let snapshot = store.assemble(5);
    assert!(snapshot.clusters.is_empty() && *store.wanted() == Wanted::default());
}

#[tokio::test(start_paused = true)]
async fn routes_wait_for_their_clusters_but_not_for_such_as_there_are_not() {
    let (mut store, _, _) = asked();
    destination(&mut store);
    routes(&mut store, "c");
    cluster(&mut store, "c");
    store.assemble(1);
    let sends_to = |store: &mut Store| -> Vec<String> {
        let snapshot = store.assemble(2);
        snapshot.route_tables["r"].clusters().map(ToString::to_string).collect()
    };
    routes(&mut store, "d");
    assert_eq!(sends_to(&mut store), ["c"]);
    assert_eq!(wanted(&mut store, Kind::Cluster), ["c", "d"]);
    cluster(&mut store, "d");
    assert_eq!(sends_to(&mut store), ["d"]);
    routes(&mut store, "nowhere");
    assert_eq!(sends_to(&mut store), ["d"]);
    store.apply(Change::Remove(Kind::Cluster, "nowhere".into())).unwrap();
    assert_eq!(sends_to(&mut store), ["nowhere"]);
}

#[test]
fn what_the_mesh_does_not_have_is_known_and_others_are_not_taken() {
    let (mut store, address, _) = asked();
    store.apply(Change::Remove(Kind::Destination, AT.into())).unwrap();
    let snapshot = store.assemble(1);
    assert!(snapshot.destinations[&address].destination.is_none());
    let mut other = Store::default();
    other.on_demand(IDLE, None);
    destination(&mut other);
    assert_eq!(other.told_destinations().count(), 0, "nobody asked");
    assert!(!Store::default().ask(address, Instant::now()), "everything is told");
}

#[tokio::test(start_paused = true)]
async fn where_there_is_no_room_the_one_goes_that_was_not_used_for_longest() {
    let (mut store, first, now) = asked();
    for port in 1..MAX_DESTINATIONS {
        let port = u16::try_from(port).unwrap();
        assert!(store.ask(SocketAddr::from(([10, 0, 0, 2], port)), now + Duration::from_secs(1)));
    }
    assert_eq!(wanted(&mut store, Kind::Destination).len(), MAX_DESTINATIONS);
    assert!(store.ask(SocketAddr::from(([10, 0, 0, 3], 1)), now + Duration::from_secs(2)));
    let wanted = wanted(&mut store, Kind::Destination);
    assert!(wanted.len() == MAX_DESTINATIONS && !wanted.contains(&first.to_string()));
}

#[tokio::test(start_paused = true)]
async fn what_is_in_use_stays_and_what_went_is_not_used_any_more() {
    let (mut store, first, now) = asked();
    destination(&mut store);
    routes(&mut store, "c");
    cluster(&mut store, "c");
    let told = store.assemble(1).destinations[&first].clone();
    let fill = |store: &mut Store, ports: std::ops::Range<u16>| {
        for port in ports {
            store.ask(SocketAddr::from(([10, 0, 0, 2], port)), now + Duration::from_secs(1));
        }
    };
    let all = u16::try_from(MAX_DESTINATIONS).unwrap();
    let in_use = InUse::new(&told.usage).unwrap();
    fill(&mut store, 1..all + 1);
    assert!(Arc::ptr_eq(&store.assemble(2).destinations[&first].usage, &told.usage), "somebody uses it");
    drop(in_use);
    // Now it is the one that was not used for longest. A worker still has what was published before.
    fill(&mut store, all + 1..all + 2);
    assert!(InUse::new(&told.usage).is_none());
    // It is asked for anew, and incomplete at first: what went does not come back.
    assert!(store.ask(first, now + Duration::from_secs(2)));
    destination(&mut store);
    store.routes.clear();
    assert!(!store.assemble(3).destinations.contains_key(&first));
    routes(&mut store, "c");
    cluster(&mut store, "c");
    assert!(InUse::new(&store.assemble(4).destinations[&first].usage).is_some());
}
