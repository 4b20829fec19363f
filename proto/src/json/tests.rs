use super::*;
use crate::envoy::config::bootstrap::v3::Bootstrap;
use crate::envoy::config::cluster::v3::Cluster;
use crate::envoy::config::listener::v3::Listener;
use crate::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use crate::strict;

const HCM: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

fn faults<M: Message + Name + Default + std::fmt::Debug>(yaml: &str) -> Vec<String> {
    from_yaml::<M>(yaml)
        .unwrap_err()
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn an_envoy_yaml_is_read() {
    let yaml = format!(
        "
static_resources:
  listeners:
  - name: web
    address: {{socket_address: {{address: 0.0.0.0, portValue: 8080}}}}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          \"@type\": {HCM}
          stat_prefix: web
          codec_type: HTTP2
          stream_idle_timeout: 1.5s
          route_config: {{name: r}}
"
    );
    let bootstrap: Bootstrap = from_yaml(&yaml).unwrap();
    let listener = &bootstrap.static_resources.unwrap().listeners[0];
    let crate::envoy::config::listener::v3::filter::ConfigType::TypedConfig(any) =
        listener.filter_chains[0].filters[0].config_type.as_ref().unwrap();
    let hcm: HttpConnectionManager = strict::unpack(any).unwrap();
    assert_eq!(hcm.codec_type, 2);
    assert_eq!(hcm.stream_idle_timeout.unwrap().nanos, 500_000_000);
    // What was read is written and read again the same, and decodes strictly.
    let again: Listener = from_json(&to_json(listener).unwrap()).unwrap();
    assert_eq!(&again, listener);
    assert_eq!(
        strict::decode::<Listener>(&listener.encode_to_vec()).as_ref(),
        Ok(listener)
    );
}

#[test]
fn every_fault_is_named_at_once() {
    let yaml = format!(
        "
name: x
lb_policy: MAGLEV
connect_timout: 1s
outlier_detection: {{}}
circuit_breakers: {{thresholds: [{{max_requests: -1}}]}}
typed_extension_protocol_options: {{a: {{\"@type\": {HCM}, codec_type: 7}}, b: {{\"@type\": nope}}}}
"
    );
    let found = faults::<Cluster>(&yaml);
    assert_eq!(found.len(), 6, "{found:#?}");
    for (fault, expected) in found.iter().zip([
        "circuit_breakers.thresholds[0].max_requests: expected a whole number",
        "connect_timout: unknown field of Cluster; did you mean \"connect_timeout\"?",
        "lb_policy: \"MAGLEV\" is not supported; one of ROUND_ROBIN, LEAST_REQUEST",
        "outlier_detection: not supported: Cluster has no such field",
        "typed_extension_protocol_options[\"a\"].codec_type: 7 is not supported",
        "typed_extension_protocol_options[\"b\"]: extension \"nope\" is not supported",
    ]) {
        assert!(
            found.iter().any(|fault| fault.starts_with(expected)),
            "{expected} not in {found:#?} ({fault})"
        );
    }
}

#[test]
fn a_choice_made_twice_is_refused() {
    let yaml = "route_config: {}\nrds: {route_config_name: x}\nstat_prefix: s";
    assert!(faults::<HttpConnectionManager>(yaml)[0].contains("set twice"));
}

#[test]
fn syntax_errors_and_aliases_are_refused_without_harm() {
    for yaml in [
        "{",
        "name: a\nname: b",
        "a: &a [*a]",
        "- 1",
        "\"\\xff\"",
        "name: 5",
    ] {
        assert!(from_yaml::<Cluster>(yaml).is_err(), "{yaml}");
    }
}

#[test]
fn names_are_near_by_edit_distance() {
    assert_eq!(edit_distance("abc", "abc"), 0);
    assert_eq!(edit_distance("abc", "ac"), 1);
    assert_eq!(edit_distance("connect_timeout", "connect_timout"), 1);
    assert_eq!(edit_distance("", "abc"), 3);
}
