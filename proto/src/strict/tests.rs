use proptest::prelude::*;

use super::*;
use crate::envoy::config::cluster::v3::Cluster;
use crate::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter::ConfigType};
use crate::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, http_filter,
};
use crate::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;

/// A length-delimited or varint field that no message of the subset has.
const UNKNOWN: &[u8] = &[0xc2, 0x3e, 0x01, 0x78];

fn listener_with(any: Any) -> Listener {
    let filter = Filter { name: "f".into(), config_type: Some(ConfigType::TypedConfig(any)) };
    let chain = FilterChain { filters: vec![filter], ..FilterChain::default() };
    Listener { name: "l".into(), filter_chains: vec![chain], ..Listener::default() }
}

fn faults(bytes: &[u8]) -> Vec<String> {
    decode::<Listener>(bytes).unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn every_extension_and_resource_is_in_the_pool() {
    for name in type_url::EXTENSIONS.iter().chain(&[
        type_url::LISTENER,
        type_url::ROUTE,
        type_url::CLUSTER,
        type_url::ENDPOINTS,
    ]) {
        assert!(pool::message(name).is_some(), "{name}");
    }
}

#[test]
fn an_unknown_field_is_named_at_any_depth() {
    let mut bytes = Listener::default().encode_to_vec();
    bytes.extend_from_slice(UNKNOWN);
    assert_eq!(faults(&bytes), ["field 1000: not supported in envoy.config.listener.v3.Listener"]);

    let mut inner = TcpProxy { stat_prefix: "s".into(), ..TcpProxy::default() }.encode_to_vec();
    inner.extend_from_slice(UNKNOWN);
    let any = Any { type_url: format!("{}{}", type_url::PREFIX, TcpProxy::full_name()), value: inner };
    let found = faults(&listener_with(any).encode_to_vec());
    assert_eq!(found.len(), 1);
    assert!(
        found[0].starts_with("filter_chains[0].filters[0].typed_config.field 1000: not supported in"),
        "{found:?}"
    );
}

#[test]
fn unknown_enum_numbers_are_named() {
    let cluster = Cluster { lb_policy: 77, ..Cluster::default() };
    let found = decode::<Cluster>(&cluster.encode_to_vec()).unwrap_err();
    assert_eq!(
        found[0].to_string(),
        "lb_policy: unknown value 77 of envoy.config.cluster.v3.Cluster.LbPolicy"
    );
}

#[test]
fn unlisted_and_garbage_extensions_are_named() {
    let unlisted =
        Any { type_url: "type.googleapis.com/envoy.config.cluster.v3.Cluster".into(), value: vec![] };
    assert!(faults(&listener_with(unlisted).encode_to_vec())[0].contains("is not supported"));
    let garbage = Any {
        type_url: format!("{}{}", type_url::PREFIX, TcpProxy::full_name()),
        value: vec![0xff, 0xff, 0xff],
    };
    let found = faults(&listener_with(garbage).encode_to_vec());
    assert!(found[0].starts_with("filter_chains[0].filters[0].typed_config: not a valid"), "{found:?}");
}

#[test]
fn a_wrong_wire_type_is_refused() {
    // Field 1 (name) as a varint.
    assert!(decode::<Listener>(&[0x08, 0x01]).is_err());
}

/// Appends a length-delimited field to an encoding.
fn delimited(bytes: &mut Vec<u8>, number: u32, value: &[u8]) {
    prost::encoding::encode_key(number, prost::encoding::WireType::LengthDelimited, bytes);
    prost::encoding::encode_varint(value.len() as u64, bytes);
    bytes.extend_from_slice(value);
}

fn lines<M: Message + Name + Default>(bytes: &[u8]) -> Vec<String> {
    let faults = decode::<M>(bytes).err().unwrap_or_default();
    faults.iter().map(ToString::to_string).collect()
}

#[test]
fn a_field_that_envoy_has_is_refused_by_its_name() {
    let mut bytes = Cluster::default().encode_to_vec();
    delimited(&mut bytes, 21, &[]);
    assert_eq!(
        lines::<Cluster>(&bytes),
        ["upstream_bind_config: not supported in envoy.config.cluster.v3.Cluster"]
    );
}

#[test]
fn an_unknown_field_beside_the_type_of_an_any_is_refused() {
    let any = Any { type_url: format!("{}{}", type_url::PREFIX, TcpProxy::full_name()), value: vec![] };
    let mut any = any.encode_to_vec();
    any.extend_from_slice(UNKNOWN);
    let mut filter = Vec::new();
    delimited(&mut filter, 4, &any);
    assert_eq!(lines::<Filter>(&filter), ["typed_config.field 1000: not supported in google.protobuf.Any"]);
}

#[test]
fn map_values_are_looked_at_and_reported_in_order() {
    let unknown = Any { type_url: "no\nbody".into(), value: vec![] };
    let names = ["c", "a", "b"].map(str::to_owned);
    let cluster = Cluster {
        typed_extension_protocol_options: names.into_iter().map(|name| (name, unknown.clone())).collect(),
        ..Cluster::default()
    };
    assert_eq!(
        lines::<Cluster>(&cluster.encode_to_vec()),
        ["a", "b", "c"].map(|key| format!(
            r#"typed_extension_protocol_options["{key}"]: extension "no\nbody" is not supported"#
        ))
    );
}

#[test]
fn extensions_inside_extensions_are_bounded_in_depth() {
    // prost's bound starts anew in each `Any`, so only ours can stop this before the stack ends.
    let wrap = |value: Vec<u8>| Any {
        type_url: format!("{}{}", type_url::PREFIX, HttpConnectionManager::full_name()),
        value,
    };
    let mut any = wrap(vec![]);
    for _ in 0..2000 {
        let filter =
            HttpFilter { name: String::new(), config_type: Some(http_filter::ConfigType::TypedConfig(any)) };
        let manager =
            HttpConnectionManager { http_filters: vec![filter], ..HttpConnectionManager::default() };
        any = wrap(manager.encode_to_vec());
    }
    let found = lines::<Listener>(&listener_with(any).encode_to_vec());
    assert_eq!(found.len(), 1);
    assert!(found[0].ends_with("extensions are nested more than 16 deep"), "{found:?}");
}

#[test]
fn faults_are_bounded() {
    let bytes = UNKNOWN.repeat(100_000);
    assert_eq!(lines::<Cluster>(&bytes).len(), crate::fault::MAX_FAULTS);
}

proptest! {
    /// Bytes that begin like a message get further in than random ones.
    #[test]
    fn damaged_messages_never_panic(at in 0_usize..200, bit in 0_u8..8, cut in 0_usize..200) {
        let proxy = TcpProxy { stat_prefix: "s".into(), ..TcpProxy::default() };
        let any = Any {
            type_url: format!("{}{}", type_url::PREFIX, TcpProxy::full_name()),
            value: proxy.encode_to_vec(),
        };
        let mut bytes = listener_with(any).encode_to_vec();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        bytes.truncate(bytes.len() - cut % bytes.len());
        if let Ok(message) = decode::<Listener>(&bytes) {
            prop_assert_eq!(message, Listener::decode(bytes.as_slice()).unwrap());
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = decode::<Listener>(&bytes);
        let _ = decode::<Cluster>(&bytes);
    }
}
