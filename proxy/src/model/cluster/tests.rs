use outrider_proto::json;

use super::*;
use crate::model::dns::{DNS_REFRESH, DnsFamily};
use crate::model::limits::{CircuitLimits, Priority, RetryLimit};
use crate::model::{Balancer, Balancing};

const HTTP: &str = "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: \
                    {'@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

fn cluster(more: &str) -> Cluster {
    Cluster::from_proto(&json::from_yaml(&format!("{{name: c, {more}}}")).unwrap()).unwrap()
}

fn faults(more: &str) -> Vec<String> {
    let value: pb::Cluster = json::from_yaml(&format!("{{name: c, {more}}}")).unwrap();
    Cluster::from_proto(&value).unwrap_err().iter().map(ToString::to_string).collect()
}

/// With these HTTP options.
fn http(options: &str) -> String {
    format!("{HTTP}, {options}}}}}")
}

fn assignment(host: &str) -> String {
    format!(
        "load_assignment: {{cluster_name: c, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {host}, port_value: 1}}}}}}}}]}}]}}"
    )
}

#[test]
fn a_plain_cluster_has_envoys_defaults() {
    let cluster = cluster("type: STATIC");
    assert_eq!(cluster.connect_timeout, Duration::from_secs(5));
    assert_eq!(cluster.balancing, Balancing::default());
    let limits = CircuitLimits {
        max_connections: 1024,
        max_pending_requests: 1024,
        max_requests: 1024,
        retries: RetryLimit::Budget,
    };
    assert_eq!(*cluster.limits.of(Priority::Default), limits);
    assert_eq!(cluster.protocol, ProtocolChoice::Http1);
    assert_eq!(cluster.idle_timeout, Some(Duration::from_secs(3600)));
    assert_eq!(cluster.max_requests_per_connection, None);
    assert!(matches!(cluster.discovery, Discovery::Static(set) if set.endpoints.is_empty()));
}

#[test]
fn endpoints_come_from_where_the_type_says() {
    assert!(
        matches!(cluster(&assignment("10.0.0.1")).discovery, Discovery::Static(set) if set.endpoints.len() == 1)
    );
    let Discovery::Eds(name) = cluster("type: EDS, eds_cluster_config: {eds_config: {ads: {}}}").discovery
    else {
        panic!("EDS");
    };
    assert_eq!(&*name, "c");
    let eds =
        "type: EDS, eds_cluster_config: {eds_config: {ads: {}, initial_fetch_timeout: 15s}, service_name: s}";
    assert!(matches!(cluster(eds).discovery, Discovery::Eds(name) if &*name == "s"));
    let original = cluster("type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED");
    assert!(matches!(original.discovery, Discovery::OriginalDst));
    assert_eq!(original.balancing.balancer, Balancer::OriginalDst);
}

#[test]
fn names_are_resolved_as_asked() {
    for (more, family, refresh) in [
        ("", DnsFamily::V6Preferred, DNS_REFRESH),
        ("dns_lookup_family: V4_ONLY", DnsFamily::V4Only, DNS_REFRESH),
        ("dns_lookup_family: V6_ONLY", DnsFamily::V6Only, DNS_REFRESH),
        ("dns_lookup_family: V4_PREFERRED", DnsFamily::V4Preferred, DNS_REFRESH),
        ("dns_lookup_family: ALL, dns_refresh_rate: 0.5s", DnsFamily::All, Duration::from_millis(500)),
    ] {
        let cluster = cluster(&format!("type: STRICT_DNS, {}, {more}", assignment("name.test")));
        let Discovery::Dns { hosts, settings } = cluster.discovery else {
            panic!("STRICT_DNS");
        };
        assert_eq!((settings.family, settings.refresh), (family, refresh), "{more}");
        assert_eq!((hosts[0].host.as_str(), hosts[0].port), ("name.test", 1));
    }
}

#[test]
fn balancers_and_limits_are_as_said() {
    for (more, expected) in [
        ("lb_policy: RANDOM", Balancer::Random),
        ("lb_policy: LEAST_REQUEST", Balancer::LeastRequest { choices: 2, bias: 1.0 }),
        (
            "lb_policy: LEAST_REQUEST, least_request_lb_config: {choice_count: 5}",
            Balancer::LeastRequest { choices: 5, bias: 1.0 },
        ),
    ] {
        assert_eq!(cluster(more).balancing.balancer, expected, "{more}");
    }
    let cluster = cluster(
        "circuit_breakers: {thresholds: [{max_connections: 1, max_pending_requests: 0, max_requests: 3}]}",
    );
    let limits = CircuitLimits {
        max_connections: 1,
        max_pending_requests: 0,
        max_requests: 3,
        retries: RetryLimit::Budget,
    };
    assert_eq!(*cluster.limits.of(Priority::Default), limits);
    assert_eq!(*cluster.limits.of(Priority::High), CircuitLimits::default());
    for (more, expected) in [
        ("max_retries: 5", RetryLimit::Concurrent(5)),
        ("retry_budget: {}", RetryLimit::Share { percent: 20.0, min: 3 }),
        (
            "retry_budget: {budget_percent: {value: 7.5}, min_retry_concurrency: 1}",
            RetryLimit::Share { percent: 7.5, min: 1 },
        ),
    ] {
        let cluster =
            self::cluster(&format!("circuit_breakers: {{thresholds: [{{priority: HIGH, {more}}}]}}"));
        assert_eq!(cluster.limits.of(Priority::High).retries, expected);
        assert_eq!(cluster.limits.of(Priority::Default).retries, RetryLimit::Budget);
    }
}

#[test]
fn the_protocol_is_as_said() {
    for (options, expected) in [
        ("explicit_http_config: {http_protocol_options: {}}", ProtocolChoice::Http1),
        ("explicit_http_config: {http2_protocol_options: {}}", ProtocolChoice::Http2),
        ("use_downstream_protocol_config: {}", ProtocolChoice::Downstream),
    ] {
        assert_eq!(cluster(&http(options)).protocol, expected, "{options}");
    }
    let tls = "transport_socket: {name: tls, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, \
               sni: a.test, common_tls_context: {validation_context: {trusted_ca: {filename: /ca}}}}}";
    let agreed = cluster(&format!("{}, {tls}", http("auto_config: {}")));
    assert_eq!(agreed.protocol, ProtocolChoice::Agreed);
    let offered = &agreed.tls.as_ref().unwrap().settings.protocols;
    assert_eq!(offered, &[b"h2".to_vec(), b"http/1.1".to_vec()]);
    let cluster = cluster(&http(
        "explicit_http_config: {http2_protocol_options: {initial_stream_window_size: 65535, initial_connection_window_size: 2147483647}}, \
         common_http_protocol_options: {idle_timeout: 0s, max_requests_per_connection: 7}",
    ));
    assert_eq!(cluster.http2.initial_stream_window_bytes, 65_535);
    assert_eq!(cluster.http2.initial_connection_window_bytes, 0x7fff_ffff);
    assert_eq!((cluster.idle_timeout, cluster.max_requests_per_connection), (None, Some(7)));
}

/// What Envoy 1.40 refuses is refused; so is what would have no effect here.
#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn faults_name_their_fields() {
    let inside =
        "typed_extension_protocol_options[\"envoy.extensions.upstreams.http.v3.HttpProtocolOptions\"]";
    let of = |field: &str| format!("{inside}{field}");
    for (more, expected) in [
        ("connect_timeout: 0s".to_owned(), "connect_timeout: must be longer than 0".to_owned()),
        (
            "lb_policy: CLUSTER_PROVIDED".into(),
            "lb_policy: CLUSTER_PROVIDED is only for clusters of type ORIGINAL_DST".into(),
        ),
        ("type: ORIGINAL_DST".into(), "lb_policy: must be CLUSTER_PROVIDED for ORIGINAL_DST".into()),
        (
            format!("type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED, {}", assignment("1.1.1.1")),
            "load_assignment: only STATIC, STRICT_DNS and LOGICAL_DNS clusters hold their endpoints themselves".into(),
        ),
        (
            "eds_cluster_config: {eds_config: {ads: {}}}".into(),
            "eds_cluster_config: only for clusters of type EDS".into(),
        ),
        ("type: EDS".into(), "eds_cluster_config: missing".into()),
        (
            "type: EDS, eds_cluster_config: {}".into(),
            "eds_cluster_config.eds_config: missing; must be \"ads: {}\"".into(),
        ),
        (
            "type: EDS, eds_cluster_config: {eds_config: {}}".into(),
            "eds_cluster_config.eds_config: must be \"ads: {}\"".into(),
        ),
        (
            "type: EDS, eds_cluster_config: {eds_config: {ads: {}, initial_fetch_timeout: 1s}}".into(),
            "eds_cluster_config.eds_config.initial_fetch_timeout: only 15s, the default, is supported".into(),
        ),
        ("load_assignment: {}".into(), "load_assignment.cluster_name: missing".into()),
        ("type: STRICT_DNS, load_assignment: {}".into(), "load_assignment.cluster_name: missing".into()),
        ("type: STRICT_DNS, dns_refresh_rate: 0s".into(), "dns_refresh_rate: must be at least 1ms".into()),
        (
            "lb_policy: LEAST_REQUEST, least_request_lb_config: {choice_count: 1}".into(),
            "least_request_lb_config.choice_count: must be from 2 to 32".into(),
        ),
        (
            "circuit_breakers: {thresholds: [{}, {}]}".into(),
            "circuit_breakers.thresholds: more than one for the same priority".into(),
        ),
        (
            format!("type: STATIC, {}", assignment("a.b")),
            "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address: \
             \"a.b\" is not an IP address; host names need a STRICT_DNS cluster"
                .into(),
        ),
        (
            http("common_http_protocol_options: {}"),
            of(": one of explicit_http_config, use_downstream_protocol_config and auto_config is needed"),
        ),
        (
            http("explicit_http_config: {}"),
            of(".explicit_http_config: one of http_protocol_options and http2_protocol_options is needed"),
        ),
        (
            http("explicit_http_config: {http_protocol_options: {accept_http_10: true}}"),
            of(".explicit_http_config.http_protocol_options.accept_http_10: has no meaning for a cluster"),
        ),
        (
            http("use_downstream_protocol_config: {http2_protocol_options: {max_concurrent_streams: 0}}"),
            of(
                ".use_downstream_protocol_config.http2_protocol_options.max_concurrent_streams: must be from 1 to 2147483647",
            ),
        ),
        (
            http("explicit_http_config: {http2_protocol_options: {initial_stream_window_size: 65534}}"),
            of(
                ".explicit_http_config.http2_protocol_options.initial_stream_window_size: must be from 65535 to 2147483647",
            ),
        ),
    ] {
        assert_eq!(faults(&more), [expected], "{more}");
    }
    let options = "explicit_http_config: {http_protocol_options: {}}, common_http_protocol_options: \
                   {max_headers_count: 1, max_connection_duration: 1s, max_stream_duration: 1s, headers_with_underscores_action: DROP_HEADER}";
    let found = faults(&http(options));
    let expected = [
        "max_headers_count",
        "max_connection_duration",
        "max_stream_duration",
        "headers_with_underscores_action",
    ]
    .map(|name| of(&format!(".common_http_protocol_options.{name}: not supported for clusters")));
    assert_eq!(found, expected);
    let other = "typed_extension_protocol_options: {x: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}";
    assert_eq!(
        faults(other),
        [
            "typed_extension_protocol_options[\"x\"]: \"type.googleapis.com/envoy.extensions.filters.http.router.v3.Router\" is not supported here"
        ]
    );
}
