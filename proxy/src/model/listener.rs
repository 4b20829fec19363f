//! Listeners: where connections come in and how their chain is found.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use outrider_proto::envoy::config::core::v3::TrafficDirection;
use outrider_proto::envoy::config::core::v3::address::Address;
use outrider_proto::envoy::config::listener::v3 as pb;
use outrider_proto::envoy::extensions::filters::listener::http_inspector::v3::HttpInspector;
use outrider_proto::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
use outrider_proto::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use outrider_proto::outrider::destination::v1::OnDemand;
use outrider_proto::{Fault, Path, unpack};

use super::access_log::{self, AccessLog};
use super::filter_chain::{ChainProtocol, FilterChains};
use super::http_chain::RouteSource;
use super::parse;

/// How long the first bytes are waited for where nothing is said.
const INSPECT_TIMEOUT: Duration = Duration::from_millis(100);

/// A compiled listener.
#[derive(Debug)]
pub struct Listener {
    /// Its name; unique.
    pub name: Arc<str>,
    /// Where it listens.
    pub address: SocketAddr,
    /// An IPv6 socket takes IPv4 too.
    pub dual_stack: bool,
    /// Which way its traffic goes, as a metric label.
    pub direction: &'static str,
    /// No leased fault strikes it: it answers for the sidecar itself.
    pub spared: bool,
    /// Where a connection was going is asked of the kernel.
    pub original_dst: bool,
    /// Where a redirected connection was going is asked of the control server; its own chains come after that.
    pub on_demand: bool,
    /// The first bytes are looked at for TLS: a listener filter says so, or the chains cannot be told apart without.
    pub inspect_tls: bool,
    /// The first bytes are looked at for HTTP.
    pub inspect_http: bool,
    /// How long that may take; `None` is for ever.
    pub inspect_timeout: Option<Duration>,
    /// Whether a connection that said nothing goes on as an opaque one, or is closed.
    pub continue_on_timeout: bool,
    /// What handles connections.
    pub chains: FilterChains,
    /// Lines about connections that found no chain.
    pub access_logs: Vec<Arc<AccessLog>>,
}

impl Listener {
    /// Compiles a listener.
    ///
    /// # Errors
    /// All faults, with the paths of the fields.
    pub fn from_proto(value: &pb::Listener) -> Result<Self, Vec<Fault>> {
        let mut path = Path::root();
        let listener = Self::compile(value, &mut path);
        path.finish(listener)
    }

    /// Compiles a listener of the start-up file. One that says no direction carries nobody's traffic to or from the
    /// workload: it answers who asks for the health or the metrics of the sidecar.
    ///
    /// # Errors
    /// All faults, with the paths of the fields.
    pub fn of_start_up(value: &pb::Listener) -> Result<Self, Vec<Fault>> {
        let spared = value.traffic_direction() == TrafficDirection::Unspecified;
        Self::from_proto(value).map(|listener| Self { spared, ..listener })
    }

    fn compile(value: &pb::Listener, path: &mut Path) -> Option<Self> {
        let address = parse::socket_address(value.address.as_ref(), path);
        let name = if value.name.is_empty() {
            address.map(|address| Arc::from(address.to_string()))
        } else {
            Some(value.name.as_str().into())
        };
        let mut filters = Inspection::default();
        for (index, filter) in value.listener_filters.iter().enumerate() {
            path.item("listener_filters", index, |path| filters.add(filter, path));
        }
        if value.enable_reuse_port == Some(false) {
            path.fault_at("enable_reuse_port", "must be true: every worker has a socket of its own");
        }
        if address.is_some_and(|address| address.is_ipv4()) && is_dual_stack(value) {
            path.fault_at("address.socket_address.ipv4_compat", "the address is IPv4 already");
        }
        let set = value.listener_filters_timeout.is_some();
        let inspect_timeout = parse::limit(
            value.listener_filters_timeout.as_ref(),
            Some(INSPECT_TIMEOUT),
            "listener_filters_timeout",
            path,
        );
        if filters.on_demand && !filters.original_dst {
            path.fault_at("listener_filters", "on demand needs the filter for original destinations, too");
        }
        let chains = FilterChains::from_proto(value, filters.on_demand, path);
        let access_logs = access_log::compile(&value.access_log, path);
        Some(Self {
            dual_stack: is_dual_stack(value),
            direction: match value.traffic_direction() {
                TrafficDirection::Unspecified => "unspecified",
                TrafficDirection::Inbound => "inbound",
                TrafficDirection::Outbound => "outbound",
            },
            spared: false,
            original_dst: filters.original_dst,
            on_demand: filters.on_demand,
            inspect_tls: filters.tls || chains.needs_tls(),
            inspect_http: filters.http,
            inspect_timeout,
            continue_on_timeout: !set || value.continue_on_listener_filters_timeout,
            chains,
            access_logs,
            name: name?,
            address: address?,
        })
    }

    /// A cluster that an inline route configuration with `validate_clusters` names and that does not exist.
    #[must_use]
    pub fn unknown_cluster(&self, exists: impl Fn(&str) -> bool) -> Option<&Arc<str>> {
        self.chains.all().find_map(|chain| match &chain.protocol {
            ChainProtocol::Http(http) => match &http.routes {
                RouteSource::Inline(table) => table.unknown_cluster(&exists),
                RouteSource::Named(_) => None,
            },
            ChainProtocol::Tcp(_) => None,
        })
    }
}

fn is_dual_stack(value: &pb::Listener) -> bool {
    match value.address.as_ref().and_then(|address| address.address.as_ref()) {
        Some(Address::SocketAddress(socket)) => socket.ipv4_compat,
        None => false,
    }
}

#[derive(Debug, Default)]
struct Inspection {
    original_dst: bool,
    on_demand: bool,
    tls: bool,
    http: bool,
}

impl Inspection {
    fn add(&mut self, filter: &pb::ListenerFilter, path: &mut Path) {
        parse::required(&filter.name, "name", path);
        let Some(pb::listener_filter::ConfigType::TypedConfig(any)) = &filter.config_type else {
            path.fault_at("typed_config", "missing");
            return;
        };
        if unpack::<OriginalDst>(any).is_some() {
            self.original_dst = true;
        } else if unpack::<TlsInspector>(any).is_some() {
            self.tls = true;
        } else if unpack::<OnDemand>(any).is_some() {
            self.on_demand = true;
        } else if unpack::<HttpInspector>(any).is_some() {
            self.http = true;
        } else {
            path.fault_at("typed_config", format!("\"{}\" is not a listener filter", any.type_url));
        }
    }
}

#[cfg(test)]
mod tests;
