use super::*;
use crate::envoy::config::bootstrap::v3::Bootstrap;
use crate::envoy::config::bootstrap::v3::bootstrap::StaticResources;
use crate::envoy::config::cluster::v3::Cluster;
use crate::envoy::config::cluster::v3::cluster::LbConfig;
use crate::envoy::config::core::v3::socket_address::PortSpecifier;
use crate::envoy::config::core::v3::{Node, SocketAddress};
use crate::envoy::config::listener::v3::Listener;
use crate::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use crate::strict;

const HCM: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

fn faults<M: Message + Name + Default + std::fmt::Debug>(yaml: &str) -> Vec<String> {
    from_yaml::<M>(yaml).unwrap_err().iter().map(ToString::to_string).collect()
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
    assert_eq!(strict::decode::<Listener>(&listener.encode_to_vec()).as_ref(), Ok(listener));
}

#[test]
fn every_fault_is_named_at_once() {
    let yaml = format!(
        "
name: x
lb_policy: SHORTEST
connect_timout: 1s
upstream_bind_config: {{}}
circuit_breakers: {{thresholds: [{{max_requests: -1}}]}}
typed_extension_protocol_options: {{a: {{\"@type\": {HCM}, codec_type: 7}}, b: {{\"@type\": nope}}}}
"
    );
    let found = faults::<Cluster>(&yaml);
    assert_eq!(found.len(), 6, "{found:#?}");
    for (fault, expected) in found.iter().zip([
        "circuit_breakers.thresholds[0].max_requests: expected a whole number",
        "connect_timout: unknown field of Cluster; did you mean \"connect_timeout\"?",
        "lb_policy: \"SHORTEST\" is not supported; one of ROUND_ROBIN, LEAST_REQUEST",
        "upstream_bind_config: not supported: this field of Cluster is outside Outrider's subset",
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
    assert!(faults::<HttpConnectionManager>(yaml)[0].contains("only one of them may be set"));
}

#[test]
fn syntax_errors_and_aliases_are_refused_without_harm() {
    for yaml in ["{", "name: a\nname: b", "a: &a [*a]", "- 1", "\"\\xff\"", "name: 5"] {
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

#[test]
fn durations_are_in_seconds() {
    let cluster = |yaml: &str| from_yaml::<Cluster>(yaml).map_err(|faults| faults[0].to_string());
    let seconds =
        |yaml: &str| cluster(yaml).map(|read| read.connect_timeout.map(|time| (time.seconds, time.nanos)));
    assert_eq!(seconds("connect_timeout: 1.5s"), Ok(Some((1, 500_000_000))));
    assert_eq!(seconds("connectTimeout: 0.000000001s"), Ok(Some((0, 1))));
    assert_eq!(seconds("connect_timeout: -3s"), Ok(Some((-3, 0))));
    assert_eq!(seconds("connect_timeout: null"), Ok(None));
    for refused in ["1", "1.5", "1m", "s", "1.0000000001s", "315576000001s", "[]", "{seconds: 1}"] {
        let fault = seconds(&format!("connect_timeout: {refused}")).unwrap_err();
        assert!(fault.starts_with("connect_timeout: expected a duration in seconds"), "{refused}: {fault}");
    }
}

#[test]
fn numbers_are_read_as_the_mapping_says() {
    let choices = |value: &str| {
        let yaml = format!("least_request_lb_config: {{choice_count: {value}}}");
        from_yaml::<Cluster>(&yaml).map(|read| match read.lb_config {
            Some(LbConfig::LeastRequestLbConfig(config)) => config.choice_count,
            _ => None,
        })
    };
    assert_eq!(choices("3"), Ok(Some(3)));
    assert_eq!(choices("\"3\""), Ok(Some(3)));
    assert_eq!(choices("3.0"), Ok(Some(3)));
    assert_eq!(choices("4294967295"), Ok(Some(u32::MAX)));
    assert_eq!(choices("null"), Ok(None));
    for refused in
        ["4294967296", "-1", "1.5", "x", "\"+3\"", "\"03\"", "true", "[1]", "{value: 1}", "\"\"", "\" 3\""]
    {
        assert!(choices(refused).is_err(), "{refused}");
    }

    let port = |value: &str| {
        from_yaml::<SocketAddress>(&format!("port_value: {value}")).map(|read| read.port_specifier)
    };
    let read = |port| Ok(Some(PortSpecifier::PortValue(port)));
    assert_eq!(port("80"), read(80));
    assert_eq!(port("\"80\""), read(80));
    assert_eq!(port("8e1"), read(80));
    assert_eq!(port("0"), read(0));
    for refused in ["\"080\"", "\"+80\"", "-80", "4294967296", "0.5", "true", "http", "[80]", "1e40", ".inf"]
    {
        assert!(port(refused).is_err(), "{refused}");
    }
}

/// What YAML makes of words is where configurations go wrong unseen.
#[test]
fn yaml_words_are_not_guessed() {
    let compat = |value: &str| {
        from_yaml::<SocketAddress>(&format!("ipv4_compat: {value}")).map(|read| read.ipv4_compat)
    };
    assert_eq!(compat("true"), Ok(true));
    assert_eq!(compat("false"), Ok(false));
    for refused in ["yes", "on", "y", "1", "\"true\"", "[]"] {
        assert!(compat(refused).is_err(), "{refused}");
    }
    for refused in ["yes", "\"true\"", "1"] {
        let yaml = format!("use_remote_address: {refused}");
        assert!(from_yaml::<HttpConnectionManager>(&yaml).is_err(), "{refused}");
    }
    let address =
        |value: &str| from_yaml::<SocketAddress>(&format!("address: {value}")).map(|read| read.address);
    for text in ["no", "\"1.5\"", "10.0.0.1", "\"null\"", "a b", "\"\"", "::1"] {
        assert_eq!(address(text).as_deref(), Ok(text.trim_matches('"')), "{text}");
    }
    for refused in ["1.5", "true", "[a]", "{a: b}", "17"] {
        assert!(address(refused).is_err(), "{refused}");
    }
}

#[test]
fn merge_keys_and_aliases_are_read() {
    let yaml = "
clusters:
- &base {name: a, connect_timeout: 2s}
- {<<: *base, name: b}
";
    let read: StaticResources = from_yaml(yaml).unwrap();
    assert_eq!(read.clusters[1].name, "b");
    assert_eq!(read.clusters[1].connect_timeout, read.clusters[0].connect_timeout);
}

#[test]
fn a_field_given_twice_is_refused_in_every_spelling() {
    for yaml in [
        "ipv4_compat: false\nipv4Compat: true",
        "address: \"\"\naddress: b",
        "{\"address\": \"a\", \"address\": \"b\"}",
    ] {
        assert_eq!(faults::<SocketAddress>(yaml).len(), 1, "{yaml}");
    }
    // One that is null is not given.
    assert!(from_yaml::<HttpConnectionManager>("{route_config: {}, rds: null}").is_ok());
}

#[test]
fn a_fault_is_one_line_whatever_it_is_about() {
    let long = "x".repeat(100_000);
    for yaml in [
        "name: [",
        "name: a\n  b: c\n d: e",
        "\"a\\nb\": 1",
        "typed_extension_protocol_options: {\"a\\nb\": {\"@type\": \"c\\nd\"}}",
        "lb_policy: \"A\\nB\"",
        "connect_timeout: \"A\\nB\"",
        &format!("{long}: 1"),
        &format!("lb_policy: {long}"),
        &format!("typed_extension_protocol_options: {{a: {{\"@type\": {long}}}}}"),
    ] {
        for fault in faults::<Cluster>(yaml) {
            assert!(!fault.contains('\n') && fault.len() < 600, "{fault}");
        }
    }
    assert!(faults::<Cluster>("name: a\nname: b")[0].contains("line 2"), "no place");
}

#[test]
fn hostile_texts_are_refused_within_bounds() {
    let bomb = (1..12).fold("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned(), |text, level| {
        let alias = format!("*a{}", level - 1);
        format!("{text}a{level}: &a{level} [{}]\n", [alias.as_str(); 10].join(", "))
    });
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    let filter = "{http_filters: [{typed_config: {\"@type\": ".to_owned() + HCM + ", ";
    let nested = format!("{{{}", filter.repeat(500));
    let metadata = format!("metadata: {}{}", "{a: ".repeat(50), "}".repeat(50));
    for text in [&bomb, &deep, &nested] {
        assert!(from_yaml::<Cluster>(text).is_err());
    }
    assert!(from_yaml::<Node>(&format!("{metadata} }}")).is_err());
    assert!(from_yaml::<Node>(&metadata).is_err(), "deeper than an encoded message may be");
    let shallow = format!("metadata: {}{}", "{a: ".repeat(20), "}".repeat(20)).replace("{}", "{a: 1}");
    assert!(from_yaml::<Node>(&shallow).is_ok());
}

proptest::proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "[ -~\n]{0,200}") {
        let _ = from_yaml::<Bootstrap>(&text);
    }
}
