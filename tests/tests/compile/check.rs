//! The judge of every snapshot: the decoder that the proxy itself has, and what hangs together.

use std::collections::BTreeSet;
use std::sync::Arc;

use outrider_control::proxy_info::{Dialect, ProxyInfo};
use outrider_control::snapshot::{Kind, Resource, Snapshot};
use outrider_proto::envoy::service::discovery::v3 as discovery;
use outrider_proto::{Fault, fault};
use outrider_proxy::control::store::Kind as ProxyKind;
use outrider_proxy::xds::decode;

/// What passed already, so that a mesh that changes a little takes little.
#[derive(Default)]
pub struct Judge {
    passed: BTreeSet<(Kind, Arc<str>, Arc<str>)>,
}

impl Judge {
    /// What the proxy would refuse, each with the kind and the name of the resource. Messages for gRPC clients hold
    /// fields that our proxy does not know; those are judged by a real client elsewhere.
    pub fn refusals(&mut self, proxy: &ProxyInfo, snapshot: &Snapshot) -> Vec<String> {
        let mut refused = dangling(snapshot);
        let kinds = Kind::ALL.into_iter().filter(|_| proxy.dialect != Dialect::Grpc);
        for (kind, resources) in kinds.filter_map(|kind| Some((kind, snapshot.kind(kind)?))) {
            for (name, resource) in resources {
                let key = (kind, Arc::clone(name), Arc::clone(&resource.version));
                if self.passed.contains(&key) {
                    continue;
                }
                match decoded(kind, name, resource) {
                    Ok(()) => drop(self.passed.insert(key)),
                    Err(faults) => refused.push(format!("{kind:?} {name}: {}", fault::joined(&faults))),
                }
            }
        }
        refused
    }
}

fn decoded(kind: Kind, name: &str, resource: &Resource) -> Result<(), Vec<Fault>> {
    let wrapped = discovery::Resource {
        name: name.to_owned(),
        version: resource.version.to_string(),
        resource: Some(prost_types::Any {
            type_url: kind.type_url().to_owned(),
            value: resource.body.to_vec(),
        }),
        ..Default::default()
    };
    decode::resource(proxy_kind(kind), &wrapped).map(drop)
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
        Kind::Faults => ProxyKind::Faults,
        Kind::Destination => ProxyKind::Destination,
        Kind::Revocations => ProxyKind::Revocations,
    }
}
