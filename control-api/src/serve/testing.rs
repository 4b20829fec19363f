//! Snapshots of a few resources, and TLS, for tests.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::{ClientConfig, RootCertStore};
use tokio::sync::watch;

use outrider_proto::envoy::config::cluster::v3::{Cluster, cluster};
use prost::Message as _;

use super::listen::Tls;
use super::tls::{Keeper, Names};
use crate::ca::state::StateDir;
use crate::ca::testing::Scratch;
use crate::ca::{Authority, Lives, Origin};
use crate::snapshot::{Kind, Resource, Resources, Snapshot};

/// TLS of a control server called `localhost`, and what a client needs that trusts it.
pub(crate) fn server_and_client(scratch: &Scratch) -> (watch::Receiver<Arc<Tls>>, Arc<ClientConfig>) {
    let (origin, now) = (Origin::Own(StateDir::open(&scratch.path().join("ca")).unwrap()), SystemTime::now());
    let authority = Arc::new(Authority::open("a", origin, Lives::default(), now).unwrap());
    let identity = crate::auth::parse("spiffe://a/ns/outrider-system/sa/outrider-control").unwrap();
    let names = Names { identity, dns: vec!["localhost".to_owned()], addresses: Vec::new() };
    let mut roots = RootCertStore::empty();
    for root in authority.roots() {
        roots.add(root).unwrap();
    }
    let tls = Keeper::new(authority, names, now).unwrap().watch();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (tls, Arc::new(client))
}

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
