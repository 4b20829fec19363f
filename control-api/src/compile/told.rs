//! What one proxy is told: the view that it shares with others, its own workload's listeners, and its way out of the mesh.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use outrider_proto::envoy::config::core::v3::TrafficDirection;
use outrider_proto::envoy::config::listener::v3 as listener;
use outrider_proto::fault as faulty;
use prost::Message as _;

use super::egress::Egress;
use super::inbound::Local;
use super::index::Index;
use super::own::inbound_cluster;
use super::view::{Outbound, Redirected, View};
use super::{Mesh, destination, inbound, local, model, upstreams, view, wire};
use crate::object::{Key, ObjectKind};
use crate::proxy_info::{Dialect, ProxyInfo};
use crate::snapshot::{Kind, Origin, Resources, Snapshot};

/// How the connections of a workload get out of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Way {
    /// The clients' namespace, if it has routes of its own.
    namespace: Option<Arc<str>>,
    /// What a policy lets out of the mesh.
    egress: Option<Egress>,
    /// Whether destinations are asked for.
    on_demand: bool,
    /// Whether IPv6 connections are redirected, too.
    has_ipv6: bool,
}

/// What is told to the workloads of one [`Way`].
#[derive(Clone, Debug)]
pub(super) struct WayOut {
    outbound: Vec<Outbound>,
    clusters: Arc<Resources>,
}

impl Mesh {
    /// What a proxy is told.
    #[must_use]
    pub fn snapshot(&self, proxy: &ProxyInfo) -> Snapshot {
        let namespace = self.consumers.get(&proxy.namespace).cloned();
        let view = self.view(namespace.as_ref(), proxy.dialect);
        let mut snapshot = Snapshot::default();
        snapshot.set(Kind::Endpoints, Arc::clone(&view.endpoints));
        snapshot.set(Kind::Route, Arc::clone(&view.routes));
        if proxy.dialect == Dialect::Grpc {
            snapshot.set(Kind::Cluster, view.clusters);
            snapshot.set(Kind::Listener, view.listeners);
            return snapshot;
        }
        if proxy.dialect == Dialect::Outrider {
            snapshot.set(Kind::Revocations, Arc::clone(&self.revocations));
        }
        let local = self.local(proxy);
        let objects = (&*self.objects, &self.services);
        let asked = (&self.settings, proxy.dialect);
        let egress = local.as_ref().and_then(|local| Egress::of(local, objects, asked));
        let on_demand = proxy.on_demand && proxy.dialect == Dialect::Outrider;
        if on_demand {
            snapshot.set(Kind::Destination, view.destinations(&self.compiled, namespace.as_deref()));
        }
        let has_ipv6 = local.as_ref().is_some_and(Local::has_ipv6);
        let way_out = if egress.is_some() || on_demand || has_ipv6 {
            self.way_out(Way { namespace: namespace.clone(), egress, on_demand, has_ipv6 }, &view)
        } else {
            WayOut { outbound: view.outbound.iter().cloned().collect(), clusters: view.clusters }
        };
        let listeners = self.listeners(local.as_ref(), namespace.as_deref(), way_out.outbound);
        snapshot.set(Kind::Listener, self.shared((&proxy.id, Kind::Listener), listeners));
        snapshot.set(Kind::Cluster, self.clusters(&proxy.id, local.as_ref(), way_out.clusters));
        snapshot
    }

    /// The workload that a proxy stands before, if it may know.
    pub(super) fn local(&self, proxy: &ProxyInfo) -> Option<Local> {
        let index = self.index.get_or_init(|| Index::new(&self.objects, &self.services));
        local::find(proxy, &self.objects, index, &self.settings)
    }

    /// What is told to the workloads of a way out; the same ones share it.
    fn way_out(&self, way: Way, view: &View) -> WayOut {
        let mut known = self.ways_out.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(told) = known.get(&way) {
            return told.clone();
        }
        let (namespace, egress) = (way.namespace.as_deref(), way.egress.as_ref());
        let second = way.has_ipv6.then_some(Redirected::Ipv6);
        let each = [Redirected::Ipv4].into_iter().chain(second).filter_map(|redirected| {
            if way.on_demand {
                destination::listener((&self.compiled, namespace), egress, redirected)
            } else {
                view::outbound((&self.compiled, namespace), egress, redirected)
            }
        });
        let outbound = each.collect();
        let mut clusters = Arc::clone(&view.clusters);
        if let Some(egress) = egress.filter(|egress| egress.has_hosts()) {
            let mut all = Resources::clone(&clusters);
            all.extend(egress.clusters().map(|(cluster, resource)| (cluster.name.into(), resource)));
            let old = self.old.lock().unwrap_or_else(PoisonError::into_inner);
            let same = old.ways_out.get(&way).filter(|old| *old.clusters == all);
            clusters = same.map_or_else(|| Arc::new(all), |old| Arc::clone(&old.clusters));
        }
        let told = WayOut { outbound, clusters };
        known.insert(way, told.clone());
        told
    }

    fn listeners(
        &self,
        local: Option<&Local>,
        namespace: Option<&str>,
        outbound: Vec<Outbound>,
    ) -> Resources {
        let (mut built, mut policies) = (Vec::new(), Vec::new());
        let mut origin: Origin = "Mesh//outbound".into();
        let mut all = Resources::new();
        if let Some(local) = local {
            origin = Origin::of(&local.origin);
            (built, policies) = inbound::listeners(local, (&self.objects, &self.policies), &self.settings);
            for upstream in &local.upstreams {
                let namespace_of = upstream.namespace.as_deref().unwrap_or(&local.namespace);
                let key = Key::new(ObjectKind::Service, namespace_of, &upstream.service);
                let calling = self.compiled.get(&key).map(|service| service.calling(namespace));
                let chain = calling
                    .and_then(|calling| calling.chains.iter().find(|chain| chain.port == upstream.port))
                    .and_then(|chain| listener::FilterChain::decode(chain.encoded.clone()).ok());
                let chain =
                    chain.unwrap_or_else(|| upstreams::closed(upstream, self.settings.tracing.as_ref()));
                built.push(inbound::upstream(upstream, chain));
            }
        }
        let guarded = origin.with(&policies);
        for listener in &built {
            let is_inbound = listener.traffic_direction == i32::from(TrafficDirection::Inbound);
            match wire::resource(listener, if is_inbound { &guarded } else { &origin }) {
                Ok(resource) => {
                    all.insert(listener.name.as_str().into(), resource);
                }
                // Closed, not open: without its listener a port cannot be reached.
                Err(faults) => {
                    tracing::error!(listener = listener.name, faults = faulty::joined(&faults), "left out");
                }
            }
        }
        if local.is_none_or(|local| local.redirected) {
            all.extend(outbound);
        }
        all
    }

    /// The clusters of the view, which know all local ports but those that only the proxy itself speaks of.
    fn clusters(&self, proxy: &Arc<str>, local: Option<&Local>, common: Arc<Resources>) -> Arc<Resources> {
        let ports = local.into_iter().flat_map(|local| &local.ports);
        let missing: BTreeSet<u16> = ports
            .map(|(number, port)| port.application(*number))
            .filter(|port| !common.contains_key(model::inbound_cluster_name(*port).as_str()))
            .collect();
        if missing.is_empty() {
            return common;
        }
        let mut own = Resources::clone(&common);
        own.extend(missing.into_iter().filter_map(inbound_cluster));
        self.shared((proxy, Kind::Cluster), own)
    }

    /// What is equal to what this proxy was told before becomes the same.
    pub(super) fn shared(&self, (proxy, kind): (&Arc<str>, Kind), resources: Resources) -> Arc<Resources> {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        own.shared(&self.old_own, (proxy, kind), resources)
    }
}
