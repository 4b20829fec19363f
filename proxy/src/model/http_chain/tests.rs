use outrider_proto::json;

use super::*;

const ROUTER: &str =
    "{name: r, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}";

fn compile(yaml: &str) -> Result<HttpChain, Vec<String>> {
    let value: pb::HttpConnectionManager = json::from_yaml(yaml).unwrap();
    let mut path = Path::root();
    let chain = HttpChain::from_proto(&value, &mut path);
    path.finish(chain).map_err(|faults| faults.iter().map(ToString::to_string).collect())
}

/// A connection manager with this in it.
fn chain(more: &str) -> HttpChain {
    compile(&format!("{{stat_prefix: s, route_config: {{name: t}}, http_filters: [{ROUTER}], {more}}}"))
        .unwrap()
}

#[test]
fn a_plain_chain_has_the_defaults() {
    let chain = chain("");
    assert_eq!(&*chain.stat_prefix, "s");
    assert!(matches!(&chain.routes, RouteSource::Inline(table) if &*table.name == "t"));
    assert_eq!(chain.codec, Codec::Auto);
    assert_eq!(chain.stream_idle_timeout, Some(Duration::from_secs(300)));
    assert_eq!(chain.request_headers_timeout, Some(Duration::from_secs(10)));
    assert_eq!(chain.idle_timeout, Some(Duration::from_secs(3600)));
    assert_eq!(chain.request_timeout, None);
    assert_eq!((chain.max_connection_duration, chain.max_stream_duration), (None, None));
    assert_eq!((chain.max_headers, chain.max_head_bytes, chain.max_requests), (100, 60 * 1024, None));
    assert_eq!(chain.underscores, Underscores::Allow);
    assert_eq!(chain.http2.max_concurrent_streams, 100);
    assert!(chain.path.normalize && !chain.path.merge_slashes && chain.generate_request_id);
    assert!(
        !chain.accept_http10 && !chain.use_remote_address && !chain.preserve_request_id && !chain.strip_port
    );
    assert!(!chain.skip_xff_append && !chain.request_id_in_response && chain.trusted_hops == 0);
    assert!(!chain.allows_upgrade("websocket", &[]));
}

#[test]
fn what_is_said_is_taken() {
    let chain = chain(
        "codec_type: HTTP2, use_remote_address: true, xff_num_trusted_hops: 2, skip_xff_append: true, \
         generate_request_id: false, preserve_external_request_id: true, always_set_request_id_in_response: true, \
         stream_idle_timeout: 0s, request_timeout: 3s, request_headers_timeout: 0s, max_request_headers_kb: 255, \
         normalize_path: false, merge_slashes: true, path_with_escaped_slashes_action: UNESCAPE_AND_FORWARD, \
         strip_any_host_port: true, http_protocol_options: {accept_http_10: true}, \
         http2_protocol_options: {max_concurrent_streams: 5, allow_connect: true}, \
         common_http_protocol_options: {idle_timeout: 0s, max_headers_count: 7, max_connection_duration: 9s, \
         max_stream_duration: 8s, headers_with_underscores_action: REJECT_REQUEST, max_requests_per_connection: 6}",
    );
    assert_eq!((chain.codec, chain.trusted_hops), (Codec::Http2, 2));
    assert!(chain.use_remote_address && chain.skip_xff_append && !chain.generate_request_id);
    assert!(
        chain.preserve_request_id && chain.request_id_in_response && chain.strip_port && chain.accept_http10
    );
    assert_eq!(
        (chain.stream_idle_timeout, chain.request_headers_timeout, chain.idle_timeout),
        (None, None, None)
    );
    assert_eq!(chain.request_timeout, Some(Duration::from_secs(3)));
    assert_eq!(chain.max_connection_duration, Some(Duration::from_secs(9)));
    assert_eq!(chain.max_stream_duration, Some(Duration::from_secs(8)));
    assert_eq!((chain.max_headers, chain.max_head_bytes, chain.max_requests), (7, 255 * 1024, Some(6)));
    assert_eq!(chain.underscores, Underscores::Reject);
    assert_eq!((chain.http2.max_concurrent_streams, chain.http2.allow_connect), (5, true));
    let path =
        PathOptions { normalize: false, merge_slashes: true, escaped_slashes: EscapedSlashes::Unescape };
    assert_eq!(chain.path, path);
}

#[test]
fn routes_may_come_over_ads() {
    let yaml = format!(
        "{{stat_prefix: s, rds: {{route_config_name: n, config_source: {{ads: {{}}, resource_api_version: V3}}}}, http_filters: [{ROUTER}]}}"
    );
    assert!(matches!(compile(&yaml).unwrap().routes, RouteSource::Named(name) if &*name == "n"));
}

#[test]
fn a_route_has_the_last_word_on_upgrades() {
    let chain = chain("upgrade_configs: [{upgrade_type: websocket}, {upgrade_type: other, enabled: false}]");
    for (name, by_route, expected) in [
        ("WebSocket", None, true),
        ("other", None, false),
        ("third", None, false),
        ("websocket", Some(false), false),
        ("other", Some(true), true),
        ("third", Some(true), true),
    ] {
        let rules: Vec<(Box<str>, bool)> =
            by_route.map(|enabled| (name.into(), enabled)).into_iter().collect();
        assert_eq!(chain.allows_upgrade(name, &rules), expected, "{name} {by_route:?}");
    }
}

#[test]
fn faults_name_their_fields() {
    let whole = format!("stat_prefix: s, route_config: {{}}, http_filters: [{ROUTER}]");
    for (more, expected) in [
        ("stream_idle_timeout: -1s", "stream_idle_timeout: must not be negative"),
        ("request_timeout: 315360001s", "request_timeout: longer than ten years"),
        ("max_request_headers_kb: 0", "max_request_headers_kb: must be from 1 to 255"),
        ("max_request_headers_kb: 256", "max_request_headers_kb: must be from 1 to 255"),
        (
            "common_http_protocol_options: {max_headers_count: 0}",
            "common_http_protocol_options.max_headers_count: must be at least 1",
        ),
        (
            "common_http_protocol_options: {idle_timeout: -1s}",
            "common_http_protocol_options.idle_timeout: must not be negative",
        ),
        (
            "http2_protocol_options: {initial_connection_window_size: 1}",
            "http2_protocol_options.initial_connection_window_size: must be from 65535 to 2147483647",
        ),
        (
            "upgrade_configs: [{upgrade_type: websocket}, {upgrade_type: WebSocket}]",
            "upgrade_configs[1].upgrade_type: \"WebSocket\" is there twice",
        ),
        (
            "upgrade_configs: [{upgrade_type: CONNECT}]",
            "upgrade_configs[0].upgrade_type: \"CONNECT\" is not supported: CONNECT is not routed",
        ),
        (
            "upgrade_configs: [{}]",
            "upgrade_configs[0].upgrade_type: must be the name of a protocol, such as \"websocket\"",
        ),
    ] {
        assert_eq!(compile(&format!("{{{whole}, {more}}}")).unwrap_err(), [expected], "{more}");
    }
    for (yaml, expected) in [
        (whole.replace("stat_prefix: s, ", ""), "stat_prefix: missing"),
        (whole.replace("route_config: {}, ", ""), "one of route_config and rds is needed"),
        (
            whole.replace("route_config: {}", "rds: {route_config_name: a}"),
            "rds.config_source: missing; must be \"ads: {}\"",
        ),
        (
            whole.replace("route_config: {}", "rds: {config_source: {ads: {}}}"),
            "rds.route_config_name: missing",
        ),
        (whole.replace(ROUTER, ""), "http_filters: missing; the last filter must be the router"),
        (
            whole.replace(ROUTER, &format!("{ROUTER}, {ROUTER}")),
            "http_filters[0]: the router must be the last filter",
        ),
        (whole.replace("name: r, ", ""), "http_filters[0].name: missing"),
        (whole.replace(ROUTER, "{name: r}"), "http_filters[0].typed_config: missing"),
    ] {
        assert_eq!(compile(&format!("{{{yaml}}}")).unwrap_err(), [expected], "{yaml}");
    }
}
