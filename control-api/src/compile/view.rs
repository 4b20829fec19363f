//! What all proxies of one kind are told alike: the services of the mesh, as clients of one namespace see them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, OnceLock};

use outrider_proto::envoy::config::core::v3::TrafficDirection;
use outrider_proto::envoy::config::listener::v3::{FilterChain, Listener};
use prost::Message;

use super::egress::Egress;
use super::forward::Forward;
use super::inbound::INSPECT_TIMEOUT;
use super::service::{Calling, Compiled};
use super::{Settings, ViewKey, WaysOut, chain, destination, egress, grpc, wire};
use crate::object::Key;
use crate::snapshot::{Origin, Resource, Resources};

/// The outbound listener, with its name.
pub(super) type Outbound = (Arc<str>, Resource);

/// Connections of which family are redirected to a listener: each comes to the loopback address of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Redirected {
    Ipv4,
    Ipv6,
}

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
    /// What proxies ask for on demand; made when one first does.
    pub(super) destinations: Arc<OnceLock<Arc<Resources>>>,
}

/// The listener that outbound connections are redirected to: a chain for each destination of the mesh, and those of the
/// policy, if there is one.
pub(super) fn outbound(
    (services, namespace): (&All, Option<&str>),
    egress: Option<&Egress>,
    redirected: Redirected,
) -> Option<Outbound> {
    let (name, listener) = without_chains(egress, redirected);
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
    (body.len() > empty).then(|| (name, wire::unchecked(body, &origin(egress))))
}

/// What the listener that outbound connections are redirected to is made of.
pub(super) fn origin(egress: Option<&Egress>) -> Origin {
    egress.map_or_else(|| "Mesh//outbound".into(), |egress| egress.origin.clone())
}

/// The listener that outbound connections are redirected to, with its name.
pub(super) fn without_chains(egress: Option<&Egress>, redirected: Redirected) -> (Arc<str>, Listener) {
    let (address, family): (IpAddr, _) = match redirected {
        Redirected::Ipv4 => (Ipv4Addr::LOCALHOST.into(), ""),
        Redirected::Ipv6 => (Ipv6Addr::LOCALHOST.into(), "|ipv6"),
    };
    let bind = SocketAddr::new(address, OUTBOUND_PORT);
    let name: Arc<str> = format!("outbound|{OUTBOUND_PORT}{family}").into();
    let mut listener = chain::listener(&name, bind, TrafficDirection::Outbound);
    listener.listener_filters = vec![chain::original_dst()];
    if egress.is_some_and(Egress::has_hosts) {
        listener.listener_filters.push(chain::tls_inspector());
        listener.listener_filters_timeout = Some(wire::duration(INSPECT_TIMEOUT));
        listener.continue_on_listener_filters_timeout = true;
    }
    (name, listener)
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
        view.outbound = outbound((services, namespace), None, Redirected::Ipv4);
        (view.clusters, view.endpoints, view.routes) =
            (Arc::new(clusters), Arc::new(endpoints), Arc::new(routes));
        view
    }

    /// As gRPC clients see it, made from what proxies see.
    pub(super) fn of_grpc(proxies: &Self, services: &All, settings: &Settings) -> Self {
        let clusters = proxies.clusters.iter().filter(|(name, _)| proxies.endpoints.contains_key(*name));
        let made = |make: fn(&Resource) -> Option<Resource>, all: Vec<_>| {
            let each = all.into_iter().filter_map(|(name, resource): (&Arc<str>, &Resource)| {
                Some((Arc::clone(name), make(resource)?))
            });
            each.collect::<Resources>()
        };
        let mut listeners = Resources::new();
        for (key, compiled) in services {
            let origin = Origin::of(key);
            for (port, routes) in &compiled.tables {
                for target in grpc::targets(key, *port, settings) {
                    listeners.insert(target.as_str().into(), grpc::listener(&target, routes, &origin));
                }
            }
        }
        Self {
            clusters: Arc::new(made(grpc::cluster, clusters.collect())),
            endpoints: Arc::new(made(grpc::endpoints, proxies.endpoints.iter().collect())),
            routes: Arc::new(made(grpc::routes, proxies.routes.iter().collect())),
            listeners: Arc::new(listeners),
            outbound: None,
            destinations: Arc::default(),
        }
    }

    /// What proxies ask for on demand.
    pub(super) fn destinations(&self, services: &All, namespace: Option<&str>) -> Arc<Resources> {
        let made = || Arc::new(destination::all(services, namespace));
        Arc::clone(self.destinations.get_or_init(made))
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

/// What is kept of a mesh to make the views of the next one.
#[derive(Clone, Debug, Default)]
pub(super) struct Older {
    pub(super) views: BTreeMap<ViewKey, View>,
    pub(super) ways_out: WaysOut,
    pub(super) inbound: Arc<Resources>,
    /// What has changed since; `None` when that is too much to go on from there.
    pub(super) changes: Option<Arc<Changes>>,
}

/// The services that are compiled otherwise than before.
#[derive(Debug)]
pub(super) struct Changes {
    before: All,
    after: All,
    same_chains: bool,
}

impl Changes {
    /// What has changed; `None` when it is so much that views are better made from scratch.
    pub(super) fn between(old: &All, new: &All) -> Option<Self> {
        let differing = |these: &All, those: &All| -> All {
            let mut others = Forward::new(those);
            let changed = these
                .iter()
                .filter(|(key, compiled)| others.find(key).is_none_or(|other| !Arc::ptr_eq(other, compiled)));
            changed.map(|(key, compiled)| (key.clone(), Arc::clone(compiled))).collect()
        };
        let (before, after) = (differing(old, new), differing(new, old));
        if before.len() + after.len() > new.len() / 2 {
            return None;
        }
        let same_chains = before.len() == after.len()
            && before
                .iter()
                .all(|(key, before)| after.get(key).is_some_and(|after| same_chains(before, after)));
        Some(Self { before, after, same_chains })
    }

    /// Whether the filter chains of all services are what they were.
    pub(super) fn chains_are_the_same(&self) -> bool {
        self.same_chains
    }

    /// An older view with these changes, but for its outbound listener. `make` makes a view of some services.
    pub(super) fn apply(
        &self,
        view: &View,
        (old_inbound, (inbound, ours)): (&Resources, (&Resources, bool)),
        make: &dyn Fn(&All, (&Resources, bool)) -> View,
    ) -> View {
        let none = Resources::new();
        let same = std::ptr::eq(old_inbound, inbound) || old_inbound == inbound;
        let (old_inbound, inbound) = if same { (&none, &none) } else { (old_inbound, inbound) };
        let (gone, new) = (make(&self.before, (old_inbound, ours)), make(&self.after, (inbound, ours)));
        View {
            clusters: patched(&view.clusters, &gone.clusters, &new.clusters),
            endpoints: patched(&view.endpoints, &gone.endpoints, &new.endpoints),
            routes: patched(&view.routes, &gone.routes, &new.routes),
            listeners: patched(&view.listeners, &gone.listeners, &new.listeners),
            outbound: view.outbound.clone(),
            destinations: Arc::clone(&view.destinations),
        }
    }
}

fn same_chains(before: &Compiled, after: &Compiled) -> bool {
    let mut consumers = before.consumers.keys().chain(after.consumers.keys());
    let same = |namespace| before.calling(namespace).chains == after.calling(namespace).chains;
    same(None) && consumers.all(|namespace| same(Some(&**namespace)))
}

/// Some resources without those that have gone, and with those that are new; the same ones if nothing differs.
fn patched(all: &Arc<Resources>, gone: &Resources, new: &Resources) -> Arc<Resources> {
    let removed = || gone.keys().filter(|name| !new.contains_key(*name));
    let mut changed = new.iter().filter(|(name, resource)| all.get(*name) != Some(resource)).peekable();
    if removed().next().is_none() && changed.peek().is_none() {
        return Arc::clone(all);
    }
    let mut patched = Resources::clone(all);
    removed().for_each(|name| drop(patched.remove(name)));
    patched.extend(changed.map(|(name, resource)| (Arc::clone(name), resource.clone())));
    Arc::new(patched)
}
