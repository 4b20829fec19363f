//! What all proxies of one kind are told alike: the services of the mesh, as clients of one namespace see them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use outrider_proto::envoy::config::core::v3::TrafficDirection;
use outrider_proto::envoy::config::listener::v3::FilterChain;
use prost::Message;

use super::egress::Egress;
use super::service::{Calling, Compiled};
use super::{Settings, chain, egress, grpc, wire};
use crate::object::Key;
use crate::snapshot::{Resource, Resources};

/// The outbound listener, with its name.
pub(super) type Outbound = (Arc<str>, Resource);

/// The port to which outbound connections are redirected; only on the loopback address, because whoever reached it would
/// speak with the workload's identity.
const OUTBOUND_PORT: u16 = 15001;
/// Field 3 of a `Listener`, length-delimited.
const FILTER_CHAIN_TAG: u8 = 0x1a;

/// What proxies of one kind are told alike.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    pub(super) clusters: Arc<Resources>,
    pub(super) endpoints: Arc<Resources>,
    pub(super) routes: Arc<Resources>,
    /// Of gRPC clients.
    pub(super) listeners: Arc<Resources>,
    /// The common outbound listener of proxies.
    pub(super) outbound: Option<Outbound>,
}

/// The listener that outbound connections are redirected to: a chain for each destination of the mesh, and those of the
/// policy, if there is one.
pub(super) fn outbound(services: &All, namespace: Option<&str>, egress: Option<&Egress>) -> Option<Outbound> {
    let bind = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), OUTBOUND_PORT);
    let name: Arc<str> = format!("outbound|{OUTBOUND_PORT}").into();
    let mut listener = chain::listener(&name, bind, TrafficDirection::Outbound);
    listener.listener_filters = vec![chain::original_dst()];
    let mut body = listener.encode_to_vec();
    let empty = body.len();
    let mut taken = BTreeSet::new();
    for (key, compiled) in services {
        let is_api = egress::is_api(key);
        if is_api && !egress.is_some_and(Egress::opens_api) {
            continue;
        }
        for chain in &compiled.calling(namespace).chains {
            let claims = || chain.claims.iter().map(|(address, port)| (*port, *address));
            // Two chains for one destination would make a proxy refuse the whole listener.
            if chain.claims.is_empty() || claims().any(|claim| taken.contains(&claim)) {
                continue;
            }
            taken.extend(claims());
            match egress.filter(|_| is_api).zip(FilterChain::decode(chain.encoded.clone()).ok()) {
                Some((egress, mut opened)) => {
                    egress.open_api(&mut opened);
                    append(&mut body, &opened.encode_to_vec());
                }
                None => append(&mut body, &chain.encoded),
            }
        }
    }
    for chain in egress.map(|egress| egress.chains(&taken)).unwrap_or_default() {
        append(&mut body, &chain.encode_to_vec());
    }
    let origin: Arc<str> =
        egress.map_or_else(|| "Mesh//outbound".into(), |egress| Arc::clone(&egress.origin));
    (body.len() > empty).then(|| (name, wire::unchecked(body, &origin)))
}

fn append(listener: &mut Vec<u8>, chain: &[u8]) {
    listener.push(FILTER_CHAIN_TAG);
    // A `Vec` takes what it is given.
    let _ = prost::encode_length_delimiter(chain.len(), listener);
    listener.extend_from_slice(chain);
}

/// The services, compiled.
pub(super) type All = BTreeMap<Key, Arc<Compiled>>;

impl View {
    /// As proxies see it. `inbound` are the clusters of local applications, which are the same for everybody.
    /// `ours` is for our own proxy.
    pub(super) fn of_proxies(
        services: &All,
        namespace: Option<&str>,
        (inbound, ours): (&Resources, bool),
    ) -> Self {
        let mut view = Self::default();
        let (mut clusters, mut endpoints, mut routes) = (inbound.clone(), Resources::new(), Resources::new());
        for compiled in services.values() {
            clusters.extend(compiled.clusters.iter().cloned());
            clusters.extend(compiled.ours.iter().filter(|_| ours).cloned());
            endpoints.extend(compiled.endpoints.iter().cloned());
            routes.extend(compiled.calling(namespace).routes.iter().cloned());
        }
        view.outbound = outbound(services, namespace, None);
        (view.clusters, view.endpoints, view.routes) =
            (Arc::new(clusters), Arc::new(endpoints), Arc::new(routes));
        view
    }

    /// As gRPC clients see it, made from what proxies see.
    pub(super) fn of_grpc(
        proxies: &Self,
        services: &All,
        settings: &Settings,
        before: Option<(&Self, &Self)>,
    ) -> Self {
        let clusters = proxies.clusters.iter().filter(|(name, _)| proxies.endpoints.contains_key(*name));
        let (old_proxies, old) = before.unzip();
        let again = |kind: fn(&Self) -> &Resources, name: &Arc<str>, resource: &Resource| {
            let same = old_proxies.and_then(|old| kind(old).get(name)) == Some(resource);
            same.then(|| old.and_then(|old| kind(old).get(name)).cloned()).flatten()
        };
        let made = |kind: fn(&Self) -> &Resources, make: fn(&Resource) -> Option<Resource>, all: Vec<_>| {
            all.into_iter()
                .filter_map(|(name, resource): (&Arc<str>, &Resource)| {
                    let built = again(kind, name, resource).or_else(|| make(resource))?;
                    Some((Arc::clone(name), built))
                })
                .collect::<Resources>()
        };
        let mut listeners = Resources::new();
        for (key, compiled) in services {
            let origin: Arc<str> = key.to_string().into();
            for (port, routes) in &compiled.tables {
                for target in grpc::targets(key, *port, settings) {
                    listeners.insert(target.as_str().into(), grpc::listener(&target, routes, &origin));
                }
            }
        }
        Self {
            clusters: Arc::new(made(|view| &view.clusters, grpc::cluster, clusters.collect())),
            endpoints: Arc::new(made(
                |view| &view.endpoints,
                grpc::endpoints,
                proxies.endpoints.iter().collect(),
            )),
            routes: Arc::new(made(|view| &view.routes, grpc::routes, proxies.routes.iter().collect())),
            listeners: Arc::new(listeners),
            outbound: None,
        }
    }

    /// Parts that are equal to those of an older view become the same, so that who compares sees it at once.
    pub(super) fn sharing(mut self, old: &Self) -> Self {
        for (new, old) in [
            (&mut self.clusters, &old.clusters),
            (&mut self.endpoints, &old.endpoints),
            (&mut self.routes, &old.routes),
            (&mut self.listeners, &old.listeners),
        ] {
            if *new == *old {
                *new = Arc::clone(old);
            }
        }
        self
    }
}

impl Compiled {
    /// Routes and chains for clients of a namespace.
    pub(super) fn calling(&self, namespace: Option<&str>) -> &Calling {
        namespace.and_then(|namespace| self.consumers.get(namespace)).unwrap_or(&self.producer)
    }
}
