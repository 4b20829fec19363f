//! The strict decoder and the compilers behind it: any bytes are a resource or a list of faults.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrider_proto::envoy::service::discovery::v3::Resource;
use outrider_proxy::control::store::Kind;
use outrider_proxy::xds::decode;

fuzz_target!(|data: (u8, &[u8])| {
    let (kind, bytes) = data;
    let kind = [Kind::Cluster, Kind::Endpoints, Kind::Listener, Kind::Routes][usize::from(kind % 4)];
    let any = any_of(decode::url(kind), bytes);
    let wrapped = Resource { name: "x".into(), version: "1".into(), resource: Some(any), ttl: None };
    if let Err(faults) = decode::resource(kind, &wrapped) {
        assert!(!faults.is_empty());
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = outrider_proxy::bootstrap::parse(text);
    }
});

fn any_of(type_url: &str, value: &[u8]) -> prost_types::Any {
    prost_types::Any { type_url: type_url.to_owned(), value: value.to_vec() }
}
