use outrider_proto::json;

use super::*;

const TCP: &str = "{name: t, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: c}}";

/// A listener with this in it besides a chain.
fn yaml(more: &str) -> String {
    format!("{{filter_chains: [{{filters: [{TCP}]}}], {more}}}")
}

fn listener(more: &str) -> Listener {
    Listener::from_proto(&json::from_yaml(&yaml(more)).unwrap()).unwrap()
}

fn faults(yaml: &str) -> Vec<String> {
    Listener::from_proto(&json::from_yaml(yaml).unwrap())
        .unwrap_err()
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn address(host: &str, port: u32) -> String {
    format!("address: {{socket_address: {{address: '{host}', port_value: {port}}}}}")
}

fn filter(name: &str, message: &str) -> String {
    format!(
        "{{name: n, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.listener.{name}.v3.{message}}}}}"
    )
}

#[test]
fn a_plain_listener_has_the_defaults() {
    let listener = listener(&address("127.0.0.1", 80));
    assert_eq!(&*listener.name, "127.0.0.1:80");
    assert_eq!(listener.address, "127.0.0.1:80".parse().unwrap());
    assert_eq!(listener.direction, "unspecified");
    assert!(
        !listener.dual_stack && !listener.original_dst && !listener.inspect_tls && !listener.inspect_http
    );
    assert_eq!((listener.inspect_timeout, listener.continue_on_timeout), (Some(INSPECT_TIMEOUT), true));
}

#[test]
fn what_is_said_is_taken() {
    let filters = [
        filter("original_dst", "OriginalDst"),
        filter("tls_inspector", "TlsInspector"),
        filter("http_inspector", "HttpInspector"),
    ];
    let listener = listener(&format!(
        "name: in, traffic_direction: INBOUND, enable_reuse_port: true, listener_filters: [{}], \
         address: {{socket_address: {{address: '::', port_value: 1, ipv4_compat: true}}}}",
        filters.join(",")
    ));
    assert_eq!((&*listener.name, listener.direction), ("in", "inbound"));
    assert!(listener.dual_stack && listener.original_dst && listener.inspect_tls && listener.inspect_http);
}

#[test]
fn the_wait_for_the_first_bytes_is_as_in_envoy_once_it_is_set() {
    for (more, wait, go_on) in [
        ("listener_filters_timeout: 2s", Some(Duration::from_secs(2)), false),
        (
            "listener_filters_timeout: 2s, continue_on_listener_filters_timeout: true",
            Some(Duration::from_secs(2)),
            true,
        ),
        ("listener_filters_timeout: 0s", None, false),
        ("continue_on_listener_filters_timeout: true", Some(INSPECT_TIMEOUT), true),
    ] {
        let listener = listener(&format!("{}, {more}", address("::1", 1)));
        assert_eq!((listener.inspect_timeout, listener.continue_on_timeout), (wait, go_on), "{more}");
    }
}

#[test]
fn chains_that_tls_tells_apart_bring_the_inspector_with_them() {
    for (rule, expected) in [
        ("{destination_port: 1}", false),
        ("{transport_protocol: tls}", true),
        ("{transport_protocol: raw_buffer}", false),
        ("{server_names: [a.b]}", true),
        ("{application_protocols: [h2]}", true),
        ("{transport_protocol: raw_buffer, application_protocols: [h2c]}", false),
    ] {
        let yaml = format!(
            "{{{}, filter_chains: [{{filter_chain_match: {rule}, filters: [{TCP}]}}]}}",
            address("::1", 1)
        );
        let listener = Listener::from_proto(&json::from_yaml(&yaml).unwrap()).unwrap();
        assert_eq!(listener.inspect_tls, expected, "{rule}");
    }
}

#[test]
fn faults_name_their_fields() {
    let good = address("127.0.0.1", 1);
    for (more, expected) in [
        ("name: a".to_owned(), "address: missing; a socket_address is needed"),
        ("address: {}".into(), "address: missing; a socket_address is needed"),
        (address("", 1), "address.socket_address.address: missing"),
        (
            address("a.b", 1),
            "address.socket_address.address: \"a.b\" is not an IP address; host names need a STRICT_DNS cluster",
        ),
        (address("1.1.1.1", 65_536), "address.socket_address.port_value: 65536 is larger than 65535"),
        (
            "address: {socket_address: {address: 1.1.1.1}}".into(),
            "address.socket_address.port_value: missing",
        ),
        (
            "address: {socket_address: {address: 1.1.1.1, port_value: 1, ipv4_compat: true}}".into(),
            "address.socket_address.ipv4_compat: the address is IPv4 already",
        ),
        (
            format!("{good}, enable_reuse_port: false"),
            "enable_reuse_port: must be true: every worker has a socket of its own",
        ),
        (format!("{good}, listener_filters_timeout: -1s"), "listener_filters_timeout: must not be negative"),
        (format!("{good}, listener_filters: [{{name: a}}]"), "listener_filters[0].typed_config: missing"),
        (
            format!(
                "{good}, listener_filters: [{}]",
                filter("tls_inspector", "TlsInspector").replace("name: n,", "")
            ),
            "listener_filters[0].name: missing",
        ),
        (format!("{good}, access_log: [{{name: a}}]"), "access_log[0].typed_config: missing"),
    ] {
        assert_eq!(faults(&yaml(&more)), [expected], "{more}");
    }
}

#[test]
fn all_faults_are_found_at_once() {
    let found =
        faults("{address: {}, listener_filters_timeout: -1s, filter_chains: [{}, {filters: [{name: a}]}]}");
    let fields: Vec<&str> =
        found.iter().filter_map(|fault| fault.split_once(": ")).map(|(field, _)| field).collect();
    let mut expected = [
        "address",
        "listener_filters_timeout",
        "filter_chains[0].filters",
        "filter_chains[1].filters[0].typed_config",
    ];
    expected.sort_unstable();
    let mut sorted: Vec<&str> =
        fields.into_iter().filter(|field| !field.ends_with("filter_chain_match")).collect();
    sorted.sort_unstable();
    assert_eq!(sorted, expected, "{found:?}");
}

#[test]
fn clusters_are_looked_for_where_the_routes_want_it() {
    let hcm = |validate: bool| {
        format!(
            "{{{}, filter_chains: [{{filters: [{{name: h, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, \
             stat_prefix: s, http_filters: [{{name: r, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}], \
             route_config: {{validate_clusters: {validate}, virtual_hosts: [{{name: v, domains: ['*'], routes: [{{match: {{prefix: /}}, \
             route: {{cluster: there, request_mirror_policies: [{{cluster: gone}}]}}}}]}}]}}}}}}]}}]}}",
            address("::1", 1)
        )
    };
    for (validate, expected) in [(true, Some("gone")), (false, None)] {
        let listener = Listener::from_proto(&json::from_yaml(&hcm(validate)).unwrap()).unwrap();
        assert_eq!(listener.unknown_cluster(|name| name == "there").map(|name| &**name), expected);
    }
}
