use outrider_proto::json;

use super::*;

fn endpoint(host: &str, more: &str) -> String {
    format!("{{endpoint: {{address: {{socket_address: {{address: '{host}', port_value: 80}}}}}}{more}}}")
}

fn assignment(yaml: &str) -> pb::ClusterLoadAssignment {
    json::from_yaml(&format!("{{cluster_name: c, endpoints: [{yaml}]}}")).unwrap()
}

fn set(yaml: &str) -> Vec<Endpoint> {
    EndpointSet::from_proto(&assignment(yaml)).unwrap().endpoints
}

fn faults(value: &pb::ClusterLoadAssignment) -> Vec<String> {
    EndpointSet::from_proto(value).unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn endpoints_of_all_localities_are_taken() {
    let found = set(&format!(
        "{{locality: {{region: r, zone: z, sub_zone: s}}, lb_endpoints: [{}, {}]}}, {{lb_endpoints: [{}]}}",
        endpoint("10.0.0.1", ", load_balancing_weight: 7"),
        endpoint("::1", "").replace("endpoint: {", "endpoint: {hostname: h, "),
        endpoint("10.0.0.2", "")
    ));
    let addresses: Vec<String> = found.iter().map(|endpoint| endpoint.address.to_string()).collect();
    assert_eq!(addresses, ["10.0.0.1:80", "[::1]:80", "10.0.0.2:80"]);
    assert_eq!(found.iter().map(|endpoint| endpoint.weight).collect::<Vec<_>>(), [7, 1, 1]);
    assert_eq!(found[1].hostname.as_deref(), Some("h"));
    assert_eq!(
        (&*found[0].locality.region, &*found[0].locality.zone, &*found[0].locality.sub_zone),
        ("r", "z", "s")
    );
    assert!(Arc::ptr_eq(&found[0].locality, &found[1].locality));
    assert_eq!(*found[2].locality, Locality::default());
}

#[test]
fn the_first_of_two_with_the_same_address_counts() {
    let found = set(&format!(
        "{{lb_endpoints: [{}, {}]}}, {{lb_endpoints: [{}]}}",
        endpoint("10.0.0.1", ", load_balancing_weight: 3"),
        endpoint("10.0.0.1", ", load_balancing_weight: 4"),
        endpoint("10.0.0.1", "")
    ));
    assert_eq!(found.iter().map(|endpoint| endpoint.weight).collect::<Vec<_>>(), [3]);
}

#[test]
fn the_unwell_get_nothing() {
    for (status, available) in [
        ("UNKNOWN", true),
        ("HEALTHY", true),
        ("DEGRADED", true),
        ("UNHEALTHY", false),
        ("DRAINING", false),
        ("TIMEOUT", false),
    ] {
        let found =
            set(&format!("{{lb_endpoints: [{}]}}", endpoint("::1", &format!(", health_status: {status}"))));
        assert_eq!(found[0].health == Health::Well, available, "{status}");
    }
}

#[test]
fn names_keep_their_order() {
    let value = assignment(&format!(
        "{{locality: {{zone: z}}, lb_endpoints: [{}, {}]}}",
        endpoint("b.test", ", load_balancing_weight: 2"),
        endpoint("10.0.0.1", ", health_status: DRAINING")
    ));
    let mut path = Path::root();
    let found = named(&value, &mut path);
    assert_eq!(path.count(), 0);
    let essence: Vec<_> = found
        .iter()
        .map(|host| (host.host.as_str(), host.port, host.weight, host.health == Health::Well))
        .collect();
    assert_eq!(essence, [("b.test", 80, 2, true), ("10.0.0.1", 80, 1, false)]);
    assert_eq!(&*found[0].locality.zone, "z");
}

#[test]
fn faults_name_their_fields() {
    let at = "endpoints[0].lb_endpoints[0]";
    for (one, expected) in [
        ("{}".to_owned(), format!("{at}.endpoint: missing")),
        ("{endpoint: {}}".into(), format!("{at}.endpoint.address: missing; a socket_address is needed")),
        (
            endpoint("::1", ", load_balancing_weight: 0"),
            format!("{at}.load_balancing_weight: must be at least 1"),
        ),
        (
            endpoint("::1", "").replace("port_value: 80", "port_value: 1, ipv4_compat: true"),
            format!("{at}.endpoint.address.socket_address.ipv4_compat: only for the address of a listener"),
        ),
    ] {
        assert_eq!(faults(&assignment(&format!("{{lb_endpoints: [{one}]}}"))), [expected], "{one}");
    }
    assert_eq!(faults(&json::from_yaml("{}").unwrap()), ["cluster_name: missing"]);
    let mut path = Path::root();
    let value = assignment(&format!(
        "{{lb_endpoints: [{}]}}",
        endpoint("a.test", "").replace("endpoint: {", "endpoint: {hostname: h, ")
    ));
    named(&value, &mut path);
    let found = path.finish(Some(())).unwrap_err();
    assert_eq!(
        found[0].to_string(),
        format!("{at}.endpoint.hostname: has no effect beside an address that is a name")
    );
}
