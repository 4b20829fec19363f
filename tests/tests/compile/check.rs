//! The judge of every snapshot: the decoder that the proxy itself has, and what hangs together.

use std::collections::BTreeSet;

use outrider_control::proxy_info::{Dialect, ProxyInfo};
use outrider_control::snapshot::{Kind, Snapshot};
use outrider_proto::envoy::service::discovery::v3 as discovery;
use outrider_proxy::control::store::Kind as ProxyKind;
use outrider_proxy::xds::decode;

/// What the proxy would refuse, each with the kind and the name of the resource. Messages for gRPC clients hold fields
/// that our proxy does not know; those are judged by a real client elsewhere.
pub fn refusals(proxy: &ProxyInfo, snapshot: &Snapshot) -> Vec<String> {
    let mut refused = Vec::new();
    for (kind, name, faults) in decoded(snapshot) {
        if proxy.dialect != Dialect::Grpc {
            refused.extend(faults.into_iter().map(|fault| format!("{kind:?} {name}: {fault}")));
        }
    }
    refused.extend(dangling(snapshot));
    refused
}

fn decoded(snapshot: &Snapshot) -> Vec<(Kind, String, Vec<String>)> {
    let mut all = Vec::new();
    for kind in Kind::ALL {
        for (name, resource) in snapshot.kind(kind).into_iter().flatten() {
            let wrapped = discovery::Resource {
                name: name.to_string(),
                version: resource.version.to_string(),
                resource: Some(prost_types::Any {
                    type_url: kind.type_url().to_owned(),
                    value: resource.body.to_vec(),
                }),
                ..Default::default()
            };
            let faults = match decode::resource(proxy_kind(kind), &wrapped) {
                Ok(_) => Vec::new(),
                Err(faults) => faults.iter().map(ToString::to_string).collect(),
            };
            all.push((kind, name.to_string(), faults));
        }
    }
    all
}

/// Names that are referred to and are not there: a proxy would wait for them.
fn dangling(snapshot: &Snapshot) -> Vec<String> {
    let names = |kind| -> BTreeSet<&str> {
        snapshot.kind(kind).into_iter().flatten().map(|(name, _)| &**name).collect()
    };
    let (clusters, endpoints) = (names(Kind::Cluster), names(Kind::Endpoints));
    let mut all = Vec::new();
    for name in clusters.iter().filter(|name| name.starts_with("outbound|") && !name.contains("|direct|")) {
        if !endpoints.contains(name) {
            all.push(format!("the endpoints of {name} are missing"));
        }
    }
    all.extend(endpoints.difference(&clusters).map(|name| format!("the cluster of {name} is missing")));
    all
}

fn proxy_kind(kind: Kind) -> ProxyKind {
    match kind {
        Kind::Cluster => ProxyKind::Cluster,
        Kind::Endpoints => ProxyKind::Endpoints,
        Kind::Listener => ProxyKind::Listener,
        Kind::Route => ProxyKind::Routes,
        Kind::Secret => ProxyKind::Secret,
    }
}
