//! What one proxy is told: the view that it shares with others, its own workload's listeners, and its way out of the mesh.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use outrider_proto::envoy::config::listener::v3 as listener;
use outrider_proto::fault as faulty;
use prost::Message as _;

use super::egress::Egress;
use super::inbound::Local;
use super::own::inbound_cluster;
use super::view::{Outbound, View};
use super::{Mesh, inbound, local, model, view, wire};
use crate::object::{Key, ObjectKind};
use crate::proxy_info::{Dialect, ProxyInfo};
use crate::snapshot::{Kind, Resources, Snapshot};

/// What workloads are told that a policy lets out of the mesh.
#[derive(Clone, Debug)]
pub(super) struct WayOut {
    outbound: Option<Outbound>,
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
        let local = local::find(proxy, &self.objects, &self.services, &self.settings);
        let objects = (&*self.objects, &self.services);
        let asked = (&self.settings, proxy.dialect);
        let egress = local.as_ref().and_then(|local| Egress::of(local, objects, asked));
        let way_out = match egress {
            Some(egress) => self.way_out(namespace.as_ref(), egress, &view),
            None => WayOut { outbound: view.outbound.clone(), clusters: view.clusters },
        };
        let listeners = self.listeners(local.as_ref(), namespace.as_deref(), way_out.outbound);
        snapshot.set(Kind::Listener, self.shared((&proxy.id, Kind::Listener), listeners));
        snapshot.set(Kind::Cluster, self.clusters(&proxy.id, local.as_ref(), way_out.clusters));
        snapshot
    }

    /// What is told to the workloads that a policy lets out; the same ones share it.
    fn way_out(&self, namespace: Option<&Arc<str>>, egress: Egress, view: &View) -> WayOut {
        let key = (namespace.cloned(), egress);
        let mut known = self.ways_out.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(way) = known.get(&key) {
            return way.clone();
        }
        let outbound = view::outbound(&self.compiled, namespace.map(AsRef::as_ref), Some(&key.1));
        let mut clusters = Arc::clone(&view.clusters);
        if key.1.has_hosts() {
            let mut all = Resources::clone(&clusters);
            all.extend(key.1.clusters().map(|(cluster, resource)| (cluster.name.into(), resource)));
            let old = self.old.lock().unwrap_or_else(PoisonError::into_inner);
            let same = old.ways_out.get(&key).filter(|old| *old.clusters == all);
            clusters = same.map_or_else(|| Arc::new(all), |old| Arc::clone(&old.clusters));
        }
        let way = WayOut { outbound, clusters };
        known.insert(key, way.clone());
        way
    }

    fn listeners(
        &self,
        local: Option<&Local>,
        namespace: Option<&str>,
        outbound: Option<Outbound>,
    ) -> Resources {
        let mut built = Vec::new();
        let mut origin: Arc<str> = "Mesh//outbound".into();
        let mut all = Resources::new();
        if let Some(local) = local {
            origin = local.origin.to_string().into();
            built = inbound::listeners(local, (&self.objects, &self.policies), &self.settings);
            for upstream in &local.upstreams {
                let namespace_of = upstream.namespace.as_deref().unwrap_or(&local.namespace);
                let key = Key::new(ObjectKind::Service, namespace_of, &upstream.service);
                let calling = self.compiled.get(&key).map(|service| service.calling(namespace));
                let chain = calling
                    .and_then(|calling| calling.chains.iter().find(|chain| chain.port == upstream.port))
                    .and_then(|chain| listener::FilterChain::decode(chain.encoded.clone()).ok());
                if let Some(chain) = chain {
                    built.push(inbound::upstream(upstream, chain));
                }
            }
        }
        for listener in &built {
            match wire::resource(listener, &origin) {
                Ok(resource) => {
                    all.insert(listener.name.as_str().into(), resource);
                }
                // Closed, not open: without its listener a port cannot be reached.
                Err(faults) => {
                    tracing::error!(listener = listener.name, faults = faulty::joined(&faults), "left out");
                }
            }
        }
        if local.is_none_or(|local| local.redirected)
            && let Some((name, resource)) = outbound
        {
            all.insert(name, resource);
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
        let key = (Arc::clone(proxy), kind);
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let old = own.get(&key).or_else(|| self.old_own.get(&key)).filter(|old| ***old == resources);
        let resources = old.cloned().unwrap_or_else(|| Arc::new(resources));
        own.insert(key, Arc::clone(&resources));
        resources
    }
}
