use outrider_proto::json;
use tokio::time::advance;

use super::*;

const LISTENER: &str = "{name: l, address: {socket_address: {address: 127.0.0.1, port_value: 1}}, filter_chains: [{filters: [{name: h, typed_config: {
    '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: w,
    rds: {route_config_name: r, config_source: {ads: {}, resource_api_version: V3}},
    http_filters: [{name: r, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]}}]}]}";

fn listener() -> Resource {
    listener_of(LISTENER)
}

fn listener_of(yaml: &str) -> Resource {
    let message: pb_listener::Listener = json::from_yaml(yaml).unwrap();
    let compiled = Listener::from_proto(&message).unwrap();
    Resource::Listener(message, compiled)
}

fn routes() -> Resource {
    let message: pb_route::RouteConfiguration = json::from_yaml(
        "{name: r, virtual_hosts: [{name: v, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: c}}]}]}",
    )
    .unwrap();
    let compiled = RouteTable::from_proto(&message).unwrap();
    Resource::Routes(message, compiled)
}

fn cluster(kind: &str) -> Resource {
    let message: pb_cluster::Cluster = json::from_yaml(&format!("{{name: c, {kind}}}")).unwrap();
    let compiled = Cluster::from_proto(&message).unwrap();
    Resource::Cluster(message, compiled)
}

const EDS: &str = "type: EDS, eds_cluster_config: {eds_config: {ads: {}, resource_api_version: V3}}";
const DNS: &str = "type: STRICT_DNS, load_assignment: {cluster_name: c, endpoints: [{lb_endpoints: [{endpoint: \
                   {address: {socket_address: {address: name.test, port_value: 80}}}}]}]}";

fn endpoints() -> Resource {
    let message: pb_endpoint::ClusterLoadAssignment = json::from_yaml(
        "{cluster_name: c, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 80}}}}]}]}",
    )
    .unwrap();
    let compiled = EndpointSet::from_proto(&message).unwrap();
    Resource::Endpoints(message, compiled)
}

fn set(store: &mut Store, resource: Resource, ttl_s: Option<u64>) {
    let expires = ttl_s.map(|ttl| Instant::now() + Duration::from_secs(ttl));
    store.apply(Change::Set(Box::new(resource), expires)).unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_has_outlived_its_ttl_is_gone_at_once() {
    let mut store = Store::default();
    for resource in [cluster(EDS), endpoints(), listener(), routes()] {
        set(&mut store, resource, Some(10));
    }
    let snapshot = store.assemble(1);
    assert_eq!(snapshot.clusters["c"].endpoints.endpoints.len(), 1);
    assert!(snapshot.route_tables.contains_key("r") && snapshot.listeners.contains_key("l"));

    advance(Duration::from_secs(6)).await;
    let renewed = Some(Instant::now() + Duration::from_secs(10));
    for (kind, name) in [(Kind::Cluster, "c"), (Kind::Listener, "l")] {
        store.apply(Change::Extend(kind, name.into(), renewed)).unwrap();
    }
    assert!(!store.expire(Instant::now()), "nothing has run out yet");

    advance(Duration::from_secs(5)).await;
    assert!(store.expire(Instant::now()));
    let snapshot = store.assemble(2);
    assert!(snapshot.clusters["c"].endpoints.endpoints.is_empty(), "its endpoints were not renewed");
    assert!(snapshot.listeners.contains_key("l"), "a heartbeat renewed it");
    assert!(snapshot.route_tables.is_empty(), "routes that have run out are not used until they come again");

    set(&mut store, routes(), None);
    assert!(store.assemble(3).route_tables.contains_key("r"));
    advance(Duration::from_secs(10)).await;
    assert!(store.expire(Instant::now()));
    let snapshot = store.assemble(4);
    assert!(snapshot.clusters.is_empty() && snapshot.listeners.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_resource_that_is_missing_is_waited_for_and_taken_when_it_comes_late() {
    let mut store = Store::default();
    set(&mut store, cluster(EDS), None);
    set(&mut store, listener(), None);
    let snapshot = store.assemble(1);
    assert!(snapshot.listeners.is_empty(), "a listener without its routes is held back");
    assert!(!store.is_settled());

    advance(MISSING_AFTER * 3).await;
    assert!(store.expire(Instant::now()), "what is waited for in vain is given up, however late it is seen");
    assert!(!store.expire(Instant::now()), "once");
    assert!(store.is_settled());
    assert!(store.assemble(2).listeners.contains_key("l"), "it answers, if only with 404");

    set(&mut store, routes(), None);
    set(&mut store, endpoints(), None);
    let snapshot = store.assemble(3);
    assert!(snapshot.route_tables.contains_key("r"));
    assert_eq!(snapshot.clusters["c"].endpoints.endpoints.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn names_are_resolved_once_before_a_cluster_counts_as_there() {
    let mut store = Store::default();
    set(&mut store, cluster(DNS), None);
    assert!(store.assemble(1).clusters.contains_key("c"));
    assert!(!store.is_settled(), "its names are still looked up");
    let hosts = names(&store);
    let answer = |endpoints| Resolved { cluster: "c".into(), hosts: Arc::clone(&hosts), endpoints };
    let Resource::Endpoints(_, set_of_one) = endpoints() else { panic!("endpoints") };
    assert!(store.resolved(answer(Some(set_of_one))));
    assert_eq!(store.assemble(2).clusters["c"].endpoints.endpoints.len(), 1);
    assert!(store.is_settled());
    assert!(!store.resolved(answer(None)), "a failure keeps the last answer");

    let mut failing = Store::default();
    set(&mut failing, cluster(DNS), None);
    let _ = failing.assemble(1);
    assert!(failing.resolved(answer(None)), "a failure is an answer too");
    let _ = failing.assemble(2);
    assert!(failing.is_settled());

    let mut silent = Store::default();
    set(&mut silent, cluster(DNS), None);
    let _ = silent.assemble(1);
    advance(UNRESOLVED_AFTER).await;
    assert!(silent.expire(Instant::now()) && silent.is_settled(), "nobody waits for ever");
}

/// The names of the only cluster.
fn names(store: &Store) -> Arc<[NamedEndpoint]> {
    let Discovery::Dns { hosts, .. } = &store.clusters["c"].compiled.discovery else { panic!("names") };
    hosts.as_slice().into()
}

#[tokio::test(start_paused = true)]
async fn the_addresses_of_other_names_are_not_a_clusters() {
    let mut store = Store::default();
    set(&mut store, cluster(DNS), None);
    let old = names(&store);
    let Resource::Endpoints(_, found) = endpoints() else { panic!("endpoints") };
    assert!(store.resolved(Resolved {
        cluster: "c".into(),
        hosts: Arc::clone(&old),
        endpoints: Some(found)
    }));
    let _ = store.assemble(1);
    set(&mut store, cluster(&DNS.replace("name.test", "other.test")), None);
    let before = |store: &mut Store, version| {
        let snapshot = store.assemble(version);
        let entry = &snapshot.clusters["c"];
        assert_eq!(entry.endpoints.endpoints.len(), 1);
        matches!(&entry.config.discovery, Discovery::Dns { hosts, .. } if hosts.as_slice() == &*old)
    };
    assert!(before(&mut store, 2), "it goes on as it was");
    let Resource::Endpoints(_, late) = endpoints() else { panic!("endpoints") };
    let answer = Resolved { cluster: "c".into(), hosts: Arc::clone(&old), endpoints: Some(late) };
    assert!(!store.resolved(answer), "an answer that was under way is not about it");
    assert!(before(&mut store, 3) && !store.is_settled());
    advance(UNRESOLVED_AFTER).await;
    assert!(store.expire(Instant::now()));
    let snapshot = store.assemble(4);
    assert!(snapshot.clusters["c"].endpoints.endpoints.is_empty(), "not the old addresses for ever");
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_becomes_one_of_names_keeps_its_endpoints_until_they_are_known() {
    let mut store = Store::default();
    set(&mut store, cluster(EDS), None);
    set(&mut store, endpoints(), None);
    let _ = store.assemble(1);
    set(&mut store, cluster(DNS), None);
    assert_eq!(store.assemble(2).clusters["c"].endpoints.endpoints.len(), 1);
    assert!(store.resolved(Resolved { cluster: "c".into(), hosts: names(&store), endpoints: None }));
    assert!(store.assemble(3).clusters["c"].endpoints.endpoints.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_list_of_who_is_cut_off_does_not_run_out() {
    let mut store = Store::default();
    let list = || {
        let message = pb_identity::RevocationList {
            name: "cut".into(),
            spiffe_ids: vec!["spiffe://a/b".into()],
            ..pb_identity::RevocationList::default()
        };
        let compiled = crate::model::revocation::compile(&message).unwrap();
        Box::new(Resource::Revocations(message, compiled))
    };
    let soon = Some(Instant::now() + Duration::from_secs(5));
    let refused = store.apply(Change::Set(list(), soon)).unwrap_err();
    assert_eq!(refused[0].path, "ttl");
    store.apply(Change::Set(list(), None)).unwrap();
    let refused = store.apply(Change::Extend(Kind::Revocations, "cut".into(), soon)).unwrap_err();
    assert_eq!(refused[0].path, "ttl");
    advance(Duration::from_secs(10)).await;
    assert!(!store.expire(Instant::now()) && store.revoked().identities.len() == 1);
}

#[tokio::test(start_paused = true)]
async fn what_was_let_go_of_is_wanted_in_another_turn() {
    let mut store = Store::default();
    set(&mut store, cluster(EDS), None);
    set(&mut store, endpoints(), None);
    let _ = store.assemble(1);
    let first = store.wanted().clone();
    let _ = store.assemble(2);
    assert_eq!(*store.wanted(), first, "nothing has changed");
    store.apply(Change::Remove(Kind::Cluster, "c".into())).unwrap();
    let _ = store.assemble(3);
    assert!(!store.wanted().has(Kind::Endpoints, "c"));
    set(&mut store, cluster(EDS), None);
    let _ = store.assemble(4);
    assert!(store.wanted().has(Kind::Endpoints, "c"));
    assert_ne!(*store.wanted(), first, "the endpoints are gone, and must be asked for again");
}

const DENY: &str = "{'@type': type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute, rbac: {rules: {action: ALLOW}}}";

/// The listener with an authorization filter of this name.
fn guarded(name: &str) -> Resource {
    let filter = format!(
        "http_filters: [{{name: {name}, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC}}}}, "
    );
    listener_of(&LISTENER.replace("http_filters: [", &filter))
}

/// Routes that say something to an authorization filter of this name.
fn routes_for(name: &str) -> Resource {
    let message: pb_route::RouteConfiguration = json::from_yaml(&format!(
        "{{name: r, virtual_hosts: [{{name: v, domains: ['*'], routes: [{{match: {{prefix: /}}, route: {{cluster: c}}, \
         typed_per_filter_config: {{{name}: {DENY}}}}}]}}]}}"
    ))
    .unwrap();
    let compiled = RouteTable::from_proto(&message).unwrap();
    Resource::Routes(message, compiled)
}

fn heard(snapshot: &Snapshot) -> Option<(String, String)> {
    let filter = snapshot.route_tables.get("r")?.filter_names().next()?.0.to_owned();
    let (_, chain) = snapshot.listeners.get("l")?.chains.named_chains().next()?;
    Some((filter, chain.policies.first()?.name.to_string()))
}

#[tokio::test(start_paused = true)]
async fn what_routes_say_to_a_filter_is_heard_by_one() {
    let mut store = Store::default();
    set(&mut store, guarded("authz"), None);
    let refused = store.apply(Change::Set(Box::new(routes_for("rbac")), None)).unwrap_err();
    assert_eq!(refused[0].path, "typed_per_filter_config");
    assert!(refused[0].reason.contains("\"rbac\"") && refused[0].reason.contains("\"l\""), "{refused:?}");
    assert!(store.assemble(1).listeners.is_empty(), "it waits for routes as if none had come");

    set(&mut store, routes_for("authz"), None);
    let both = |name: &str| Some((name.to_owned(), name.to_owned()));
    assert_eq!(heard(&store.assemble(2)), both("authz"));

    // The filter has another name now, and the routes are not there yet.
    set(&mut store, guarded("rbac"), None);
    assert_eq!(heard(&store.assemble(3)), both("authz"), "held back");
    advance(MISSING_AFTER * 2).await;
    let _ = store.expire(Instant::now());
    assert_eq!(heard(&store.assemble(4)), both("authz"), "and never opened");
    set(&mut store, routes_for("rbac"), None);
    assert_eq!(heard(&store.assemble(5)), both("rbac"));
}

#[tokio::test(start_paused = true)]
async fn routes_go_into_force_with_the_listener_that_hears_them() {
    let mut store = Store::default();
    set(&mut store, guarded("authz"), None);
    set(&mut store, routes_for("authz"), None);
    let _ = store.assemble(1);
    // The successor has another chain besides, which waits for routes of its own.
    let Resource::Listener(mut message, _) = guarded("rbac") else { panic!("a listener") };
    let other = json::from_yaml::<pb_listener::Listener>(
        &LISTENER.replace("route_config_name: r", "route_config_name: s"),
    );
    message.default_filter_chain = other.unwrap().filter_chains.pop();
    let compiled = Listener::from_proto(&message).unwrap();
    set(&mut store, Resource::Listener(message, compiled), None);
    set(&mut store, routes_for("rbac"), None);
    let both = |name: &str| Some((name.to_owned(), name.to_owned()));
    assert_eq!(heard(&store.assemble(2)), both("authz"), "the listener waits, and its routes with it");
    advance(MISSING_AFTER).await;
    assert!(store.expire(Instant::now()));
    assert_eq!(heard(&store.assemble(3)), both("rbac"));
}
