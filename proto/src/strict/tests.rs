use proptest::prelude::*;

use super::*;
use crate::envoy::config::cluster::v3::Cluster;
use crate::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter::ConfigType};
use crate::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;

/// A length-delimited or varint field that no message of the subset has.
const UNKNOWN: &[u8] = &[0xc2, 0x3e, 0x01, 0x78];

fn listener_with(any: Any) -> Listener {
    let filter = Filter {
        name: "f".into(),
        config_type: Some(ConfigType::TypedConfig(any)),
    };
    let chain = FilterChain {
        filters: vec![filter],
        ..FilterChain::default()
    };
    Listener {
        name: "l".into(),
        filter_chains: vec![chain],
        ..Listener::default()
    }
}

fn faults(bytes: &[u8]) -> Vec<String> {
    decode::<Listener>(bytes)
        .unwrap_err()
        .iter()
        .map(ToString::to_string)
        .collect()
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
    assert_eq!(
        faults(&bytes),
        ["field 1000: not supported in envoy.config.listener.v3.Listener"]
    );

    let mut inner = TcpProxy {
        stat_prefix: "s".into(),
        ..TcpProxy::default()
    }
    .encode_to_vec();
    inner.extend_from_slice(UNKNOWN);
    let any = Any {
        type_url: format!("{}{}", type_url::PREFIX, TcpProxy::full_name()),
        value: inner,
    };
    let found = faults(&listener_with(any).encode_to_vec());
    assert_eq!(found.len(), 1);
    assert!(
        found[0].starts_with("filter_chains[0].filters[0].typed_config.field 1000: not supported in"),
        "{found:?}"
    );
}

#[test]
fn unknown_enum_numbers_are_named() {
    let cluster = Cluster {
        lb_policy: 77,
        ..Cluster::default()
    };
    let found = decode::<Cluster>(&cluster.encode_to_vec()).unwrap_err();
    assert_eq!(
        found[0].to_string(),
        "lb_policy: unknown value 77 of envoy.config.cluster.v3.Cluster.LbPolicy"
    );
}

#[test]
fn unlisted_and_garbage_extensions_are_named() {
    let unlisted = Any {
        type_url: "type.googleapis.com/envoy.config.cluster.v3.Cluster".into(),
        value: vec![],
    };
    assert!(faults(&listener_with(unlisted).encode_to_vec())[0].contains("is not supported"));
    let garbage = Any {
        type_url: format!("{}{}", type_url::PREFIX, TcpProxy::full_name()),
        value: vec![0xff, 0xff, 0xff],
    };
    let found = faults(&listener_with(garbage).encode_to_vec());
    assert!(
        found[0].starts_with("filter_chains[0].filters[0].typed_config: not a valid"),
        "{found:?}"
    );
}

#[test]
fn a_wrong_wire_type_is_refused() {
    // Field 1 (name) as a varint.
    assert!(decode::<Listener>(&[0x08, 0x01]).is_err());
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = decode::<Listener>(&bytes);
        let _ = decode::<Cluster>(&bytes);
    }
}
