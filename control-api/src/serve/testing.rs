//! Snapshots of a few resources, for tests.

use std::sync::Arc;

use outrider_proto::envoy::config::cluster::v3::{Cluster, cluster};
use prost::Message as _;

use crate::snapshot::{Kind, Resource, Resources, Snapshot};

/// One resource: a kind, a name, a version.
pub(super) type One<'a> = (Kind, &'a str, &'a str);

/// A snapshot of these.
pub(super) fn snapshot(all: &[One<'_>]) -> Arc<Snapshot> {
    Arc::new(plain(all))
}

/// The same, still to be changed.
pub(super) fn plain(all: &[One<'_>]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for kind in Kind::ALL {
        let of_it = all.iter().filter(|(of, ..)| *of == kind);
        let resources: Resources = of_it.map(|one| (one.1.into(), resource(*one))).collect();
        snapshot.set(kind, Arc::new(resources));
    }
    snapshot
}

fn resource((kind, name, version): One<'_>) -> Resource {
    let body = if kind == Kind::Cluster {
        let kind = cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::Eds as i32);
        let name = name.to_owned();
        Cluster { name, cluster_discovery_type: Some(kind), ..Cluster::default() }.encode_to_vec()
    } else {
        version.as_bytes().to_vec()
    };
    Resource { version: version.into(), body: body.into(), origin: format!("Test/default/{name}").into() }
}
