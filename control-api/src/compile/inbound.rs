//! What stands before the local workload: its ports with mutual TLS and authorization, and the local ports through which
//! it calls others.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use outrider_proto::envoy::config::core::v3::TrafficDirection;
use outrider_proto::envoy::config::listener::v3 as pb;
use outrider_proto::envoy::config::route::v3 as route;
use outrider_proto::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;

use super::limits::Served;
use super::model::{Protocol, inbound_cluster_name};
use super::rbac::Guard;
use super::traffic::Policies;
use super::{Settings, chain, http, limits, tls, wire};
use crate::object::workload::Upstream;
use crate::object::{Key, Objects};

/// The port to which inbound connections are redirected.
const INBOUND_PORT: u16 = 15006;
/// How long the first bytes are waited for where plaintext is accepted, because the server may have to speak first.
pub(super) const INSPECT_TIMEOUT: Duration = Duration::from_secs(1);

/// A workload as its own sidecar sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Local {
    /// What it is made of; the origin of its listeners.
    pub(super) origin: Key,
    pub(super) namespace: Arc<str>,
    pub(super) labels: BTreeMap<String, String>,
    /// The first is the one that others know it by.
    pub(super) addresses: Vec<IpAddr>,
    pub(super) ports: BTreeMap<u16, LocalPort>,
    /// Which ports of which services are served by which of its ports.
    pub(super) serves: BTreeMap<u16, Served>,
    pub(super) upstreams: Vec<Upstream>,
    /// Whether its connections come to the sidecar by redirection.
    pub(super) redirected: bool,
}

impl Local {
    /// Whether it has an IPv6 address, beside others or alone.
    pub(super) fn has_ipv6(&self) -> bool {
        self.addresses.iter().any(IpAddr::is_ipv6)
    }

    /// Every address; where one of its own is IPv6, of both families.
    fn any_address(&self) -> IpAddr {
        if self.has_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
    }
}

/// A port of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LocalPort {
    pub(super) protocol: Protocol,
    /// Where the application listens, when the sidecar listens on the port itself.
    pub(super) app_port: Option<u16>,
}

impl LocalPort {
    /// Where the application listens.
    pub(super) fn application(self, port: u16) -> u16 {
        self.app_port.unwrap_or(port)
    }
}

/// The inbound listeners of a workload, and the policies that hold for them.
pub(super) fn listeners(
    local: &Local,
    (objects, policies): (&Objects, &Policies),
    settings: &Settings,
) -> (Vec<pb::Listener>, Vec<Key>) {
    let guard = Guard::new(objects, settings, &local.namespace, &local.labels);
    let mut holding: Vec<Key> = guard.policies().cloned().collect();
    let mut listeners = Vec::new();
    let mut redirected = Vec::new();
    for (number, port) in &local.ports {
        let limiting = local.serves.get(number).and_then(|served| limits::policy(served, policies));
        holding.extend(limiting.map(|policy| policy.key.clone()));
        let limits = limiting.map(limits::filters);
        let port = &Port { number: *number, local: *port, limits: limits.unwrap_or_default() };
        match (port.local.app_port, local.addresses.first()) {
            (Some(_), Some(address)) => {
                let bind = SocketAddr::new(*address, *number);
                let name = format!("inbound|{bind}");
                let mut listener = chain::listener(&name, bind, TrafficDirection::Inbound);
                listener.filter_chains = chains(port, &guard, settings, false);
                listener.listener_filters = vec![chain::tls_inspector()];
                listeners.push(listener);
            }
            // Without an address nobody can say where to listen.
            (Some(_), None) => {}
            (None, _) => redirected.extend(chains(port, &guard, settings, true)),
        }
    }
    if !redirected.is_empty() {
        let bind = SocketAddr::new(local.any_address(), INBOUND_PORT);
        let mut listener =
            chain::listener(&format!("inbound|{INBOUND_PORT}"), bind, TrafficDirection::Inbound);
        listener.filter_chains = redirected;
        listener.listener_filters = vec![chain::original_dst(), chain::tls_inspector()];
        listeners.push(listener);
    }
    if guard.accepts_plaintext() {
        for listener in &mut listeners {
            listener.listener_filters_timeout = Some(wire::duration(INSPECT_TIMEOUT));
            listener.continue_on_listener_filters_timeout = true;
        }
    }
    (listeners, holding)
}

/// A port, and what requests to it are held to.
struct Port {
    number: u16,
    local: LocalPort,
    limits: Vec<HttpFilter>,
}

/// The chains of a port: with TLS, and where plaintext is accepted, without.
fn chains(port: &Port, guard: &Guard<'_>, settings: &Settings, redirected: bool) -> Vec<pb::FilterChain> {
    let number = port.number;
    let name = format!("inbound|{number}||");
    let cluster = inbound_cluster_name(port.local.application(number));
    let filters = match port.local.protocol {
        Protocol::Http | Protocol::Http2 => {
            let routes = local_routes(&name, cluster);
            let mut filters = guard.http();
            filters.extend_from_slice(&port.limits);
            vec![chain::inbound_http(&name, routes, filters, settings.tracing.as_ref())]
        }
        Protocol::Tcp | Protocol::Unset => {
            let mut filters = guard.connection();
            filters.push(chain::opaque(&name, &[(cluster, 1)], None));
            filters
        }
    };
    let one = |transport: &str| pb::FilterChain {
        name: format!("inbound|{number}|{transport}"),
        filter_chain_match: Some(pb::FilterChainMatch {
            destination_port: redirected.then(|| number.into()),
            transport_protocol: transport.to_owned(),
            ..Default::default()
        }),
        filters: filters.clone(),
        transport_socket: (transport == "tls").then(|| tls::downstream(settings)),
    };
    let mut chains = vec![one("tls")];
    if guard.accepts_plaintext() {
        chains.push(one("raw_buffer"));
    }
    chains
}

/// Everything goes to the application; how long that may take is the caller's affair.
fn local_routes(name: &str, cluster: String) -> route::RouteConfiguration {
    let action = route::RouteAction {
        cluster_specifier: Some(route::route_action::ClusterSpecifier::Cluster(cluster)),
        timeout: Some(wire::duration(Duration::ZERO)),
        ..Default::default()
    };
    let everything = route::RouteMatch {
        path_specifier: Some(route::route_match::PathSpecifier::Prefix("/".to_owned())),
        ..Default::default()
    };
    let route = route::Route {
        r#match: Some(everything),
        action: Some(route::route::Action::Route(action)),
        ..Default::default()
    };
    http::configuration(name, vec![route])
}

/// A local port through which a service is called: the service's chain, whatever the destination.
pub(super) fn upstream(value: &Upstream, mut chain: pb::FilterChain) -> pb::Listener {
    let name = format!("upstream|{}", value.bind);
    let mut listener = chain::listener(&name, value.bind, TrafficDirection::Outbound);
    chain.filter_chain_match = None;
    listener.filter_chains = vec![chain];
    listener
}
