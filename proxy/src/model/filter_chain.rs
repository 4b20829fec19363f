//! Filter chains and the choice among them.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use outrider_proto::envoy::config::core::v3::TrafficDirection;
use outrider_proto::envoy::config::listener::v3 as pb;
use outrider_proto::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use outrider_proto::envoy::extensions::filters::network::local_ratelimit::v3::LocalRateLimit;
use outrider_proto::envoy::extensions::filters::network::rbac::v3::Rbac;
use outrider_proto::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use outrider_proto::outrider::egress::v1 as egress_pb;
use outrider_proto::{Path, unpack};
use prost_types::Any;
use rustc_hash::{FxHashMap, FxHashSet};

use super::egress;
use super::http_chain::HttpChain;
use super::parse;
use super::rate_limit::{self, ConnectionLimit};
use super::rbac;
use super::tcp_chain::TcpChain;
use super::tls::DownstreamTls;
use crate::policy::Filter;
use crate::policy::egress::EgressGuard;

/// Combinations of prefix, server name and application protocol that one chain may match.
const MAX_CLAIMS: usize = 10_000;

/// One combination that a chain matches: port, prefix, server name, transport and application protocol.
type Claim = (Option<u16>, Option<(IpAddr, u8)>, Option<String>, String, Option<String>);

/// What a connection is handled by.
#[derive(Debug)]
pub struct FilterChain {
    /// Its name; may be empty.
    pub name: Arc<str>,
    /// Its encryption; plaintext without.
    pub tls: Option<DownstreamTls>,
    /// Authorization of connections, in order: all of them must allow.
    pub policies: Vec<Filter>,
    /// What may be reached through it; anything without.
    pub egress: Option<EgressGuard>,
    /// Limits on the rate of connections.
    pub limits: Vec<ConnectionLimit>,
    /// Its terminal filter.
    pub protocol: ChainProtocol,
}

/// The terminal filter of a chain.
#[derive(Clone, Debug)]
pub enum ChainProtocol {
    /// HTTP.
    Http(Arc<HttpChain>),
    /// Opaque.
    Tcp(Arc<TcpChain>),
}

/// The chains of a listener.
#[derive(Debug)]
pub struct FilterChains {
    chains: Vec<(ChainMatch, Arc<FilterChain>)>,
    /// Positions in `chains` of those that name a port.
    by_port: FxHashMap<u16, Vec<usize>>,
    /// Positions of those that do not.
    any_port: Vec<usize>,
    /// The ports whose chains are told apart by what a client says first; `None` stands for those that no chain names.
    looked_at: FxHashSet<Option<u16>>,
    default: Option<Arc<FilterChain>>,
}

/// What is known of a connection when its chain is chosen.
#[derive(Clone, Copy, Debug)]
pub struct ChainQuery<'a> {
    /// Where it was going.
    pub destination: SocketAddr,
    /// `tls`, or `raw_buffer` for anything else.
    pub transport_protocol: &'a str,
    /// By ALPN, or `http/1.1` and `h2c` as found by looking.
    pub application_protocols: &'a [String],
    /// By SNI, in lower case.
    pub server_name: Option<&'a str>,
}

#[derive(Debug, Default)]
struct ChainMatch {
    port: Option<u16>,
    prefixes: Vec<(IpAddr, u8)>,
    /// Lower case; `*.` at the front stands for any labels.
    server_names: Vec<String>,
    transport_protocol: String,
    application_protocols: Vec<String>,
}

/// How well a chain fits in one respect; 0 when it says nothing about it, `None` when it says something else.
type Fit = fn(&ChainMatch, &ChainQuery<'_>) -> Option<usize>;

/// The respects in Envoy's order, after the port.
const RESPECTS: [Fit; 4] =
    [ChainMatch::address_fit, ChainMatch::server_fit, ChainMatch::transport_fit, ChainMatch::application_fit];

impl FilterChains {
    /// Compiles the chains of a listener, which may have none where destinations are asked for.
    pub(super) fn from_proto(value: &pb::Listener, may_be_empty: bool, path: &mut Path) -> Self {
        let mut chains: Vec<(ChainMatch, Arc<FilterChain>)> = Vec::new();
        let mut taken = HashSet::new();
        let outbound = value.traffic_direction() == TrafficDirection::Outbound;
        for (index, chain) in value.filter_chains.iter().enumerate() {
            path.item("filter_chains", index, |path| {
                let rule = path.field("filter_chain_match", |path| {
                    let rule = chain.filter_chain_match.clone().unwrap_or_default();
                    let rule = ChainMatch::from_proto(&rule, path)?;
                    rule.claim(&mut taken, path).then_some(rule)
                });
                if let (Some(chain), Some(rule)) = (FilterChain::from_proto(chain, outbound, path), rule) {
                    chains.push((rule, Arc::new(chain)));
                }
            });
        }
        let default = value.default_filter_chain.as_ref().and_then(|chain| {
            path.field("default_filter_chain", |path| {
                if chain.filter_chain_match.is_some() {
                    path.fault_at(
                        "filter_chain_match",
                        "the default chain takes what no other does; remove it",
                    );
                }
                FilterChain::from_proto(chain, outbound, path)
            })
        });
        if !may_be_empty && value.filter_chains.is_empty() && value.default_filter_chain.is_none() {
            path.fault_at("filter_chains", "missing");
        }
        let mut by_port: FxHashMap<u16, Vec<usize>> = FxHashMap::default();
        let mut any_port = Vec::new();
        for (position, (rule, _)) in chains.iter().enumerate() {
            rule.port.map_or(&mut any_port, |port| by_port.entry(port).or_default()).push(position);
        }
        let looked_at = chains.iter().filter(|(rule, _)| rule.looks()).map(|(rule, _)| rule.port).collect();
        Self { chains, by_port, any_port, looked_at, default: default.map(Arc::new) }
    }

    /// Whether what a client says first decides which chain a connection to this port gets.
    #[must_use]
    pub fn look_at(&self, port: u16) -> bool {
        let named = self.by_port.contains_key(&port).then_some(port);
        self.looked_at.contains(&named)
    }

    /// The chain for a connection.
    ///
    /// Envoy's order: destination port, longest address prefix, server name, transport protocol, application
    /// protocol. What is most specific in one respect is decided before the next one is looked at, and never
    /// taken back: where nothing is left in the end, the default chain it is.
    #[must_use]
    pub fn select(&self, query: &ChainQuery<'_>) -> Option<&Arc<FilterChain>> {
        let mut left: Vec<_> = self.of_port(query.destination.port()).collect();
        for fit in RESPECTS {
            let best = left.iter().filter_map(|(rule, _)| fit(rule, query)).max();
            left.retain(|(rule, _)| best.is_some() && fit(rule, query) == best);
        }
        left.first().map(|(_, chain)| chain).or(self.default.as_ref())
    }

    /// Those among which the port leaves a choice.
    fn of_port(&self, port: u16) -> impl Iterator<Item = &(ChainMatch, Arc<FilterChain>)> {
        let positions = self.by_port.get(&port).unwrap_or(&self.any_port);
        positions.iter().filter_map(|position| self.chains.get(*position))
    }

    /// Whether there is a chain for what is not TLS on this port.
    #[must_use]
    pub fn takes_plaintext(&self, port: u16) -> bool {
        let may_be_plain =
            |rule: &ChainMatch| rule.transport_protocol != "tls" && rule.server_names.is_empty();
        let chosen = self.of_port(port).filter(|(rule, _)| may_be_plain(rule)).map(|(_, chain)| chain);
        chosen.chain(&self.default).any(|chain| chain.tls.is_none())
    }

    /// All chains, the default one included.
    pub fn all(&self) -> impl Iterator<Item = &Arc<FilterChain>> {
        self.chains.iter().map(|(_, chain)| chain).chain(&self.default)
    }

    /// Whether the choice depends on what a TLS client says first (Envoy then adds its TLS inspector by itself).
    #[must_use]
    pub(super) fn needs_tls(&self) -> bool {
        self.chains.iter().any(|(rule, _)| match rule.transport_protocol.as_str() {
            "tls" => true,
            "" => !rule.server_names.is_empty() || !rule.application_protocols.is_empty(),
            _ => false,
        })
    }
}

impl FilterChain {
    fn from_proto(value: &pb::FilterChain, outbound: bool, path: &mut Path) -> Option<Self> {
        let Some((last, before)) = value.filters.split_last() else {
            return path.field("filters", |path| {
                path.refuse("missing; the last one must be HttpConnectionManager or TcpProxy")
            });
        };
        let (mut policies, mut limits) = (Vec::new(), Vec::new());
        let mut guard = outbound.then(EgressGuard::outbound);
        for (index, filter) in before.iter().enumerate() {
            match NetworkFilter::from_proto(filter, index, path) {
                Some(NetworkFilter::Policies(filter)) => policies.push(filter),
                Some(NetworkFilter::Limit(limit)) => limits.push(limit),
                Some(NetworkFilter::Egress(said)) => guard = Some(said),
                None => {}
            }
        }
        let protocol = network_filter(last, before.len(), path, |any, path| {
            if let Some(http) = unpack::<HttpConnectionManager>(any) {
                HttpChain::from_proto(&http, path).map(|chain| ChainProtocol::Http(Arc::new(chain)))
            } else if let Some(tcp) = unpack::<TcpProxy>(any) {
                TcpChain::from_proto(&tcp, path).map(|chain| ChainProtocol::Tcp(Arc::new(chain)))
            } else if unpack::<Rbac>(any).is_some() || unpack::<egress_pb::EgressGuard>(any).is_some() {
                path.refuse("the last filter must be HttpConnectionManager or TcpProxy")
            } else {
                path.refuse(format!("\"{}\" is not a network filter", any.type_url))
            }
        });
        let tls = match &value.transport_socket {
            Some(socket) => {
                Some(path.field("transport_socket", |path| DownstreamTls::from_proto(socket, path))?)
            }
            None => None,
        };
        Some(Self {
            name: value.name.as_str().into(),
            tls,
            policies,
            egress: guard,
            limits,
            protocol: protocol?,
        })
    }
}

/// A filter before the last one.
enum NetworkFilter {
    Policies(Filter),
    Limit(ConnectionLimit),
    Egress(EgressGuard),
}

impl NetworkFilter {
    fn from_proto(filter: &pb::Filter, index: usize, path: &mut Path) -> Option<Self> {
        network_filter(filter, index, path, |any, path| {
            if let Some(value) = unpack::<Rbac>(any) {
                Some(Self::Policies(rbac::network_filter(&value, path)))
            } else if let Some(value) = unpack::<LocalRateLimit>(any) {
                rate_limit::connections(&value, path).map(Self::Limit)
            } else if let Some(value) = unpack::<egress_pb::EgressGuard>(any) {
                egress::compile(&value, path).map(Self::Egress)
            } else {
                path.refuse(format!("\"{}\" must be the last filter, or is none that is known", any.type_url))
            }
        })
    }
}

fn network_filter<T>(
    filter: &pb::Filter,
    index: usize,
    path: &mut Path,
    compile: impl FnOnce(&Any, &mut Path) -> Option<T>,
) -> Option<T> {
    path.item("filters", index, |path| {
        parse::required(&filter.name, "name", path);
        let Some(pb::filter::ConfigType::TypedConfig(any)) = &filter.config_type else {
            return path.field("typed_config", |path| path.refuse("missing"));
        };
        path.field("typed_config", |path| compile(any, path))
    })
}

impl ChainMatch {
    fn from_proto(value: &pb::FilterChainMatch, path: &mut Path) -> Option<Self> {
        let port = match value.destination_port.map(u16::try_from) {
            None => None,
            Some(Ok(port)) if port > 0 => Some(port),
            Some(_) => return path.field("destination_port", |path| path.refuse("must be from 1 to 65535")),
        };
        let prefixes = value.prefix_ranges.iter().enumerate();
        let prefixes = prefixes
            .filter_map(|(index, range)| {
                path.item("prefix_ranges", index, |path| {
                    let Ok(address) = range.address_prefix.parse::<IpAddr>() else {
                        return path.field("address_prefix", |path| path.refuse("not an IP address"));
                    };
                    let longest = if address.is_ipv4() { 32 } else { 128 };
                    let length = range.prefix_len.unwrap_or(0);
                    match u8::try_from(length) {
                        Ok(length) if length <= longest => Some((address, length)),
                        _ => path.field("prefix_len", |path| path.refuse(format!("more than {longest}"))),
                    }
                })
            })
            .collect();
        if !matches!(value.transport_protocol.as_str(), "" | "tls" | "raw_buffer") {
            path.fault_at("transport_protocol", "only \"tls\" and \"raw_buffer\" are supported");
        }
        for (index, name) in value.server_names.iter().enumerate() {
            if name.is_empty() || name.strip_prefix("*.").unwrap_or(name).contains('*') {
                path.item("server_names", index, |path| {
                    path.fault("a name, or one with \"*.\" at its beginning")
                });
            }
        }
        Some(Self {
            port,
            prefixes,
            server_names: value.server_names.iter().map(|name| name.to_ascii_lowercase()).collect(),
            transport_protocol: value.transport_protocol.clone(),
            application_protocols: value.application_protocols.clone(),
        })
    }

    /// Takes note of every combination that the chain claims; `false` when another chain has one of them.
    fn claim(&self, taken: &mut HashSet<Claim>, path: &mut Path) -> bool {
        let prefixes: Vec<_> =
            self.prefixes.iter().map(|(ip, length)| Some((masked(*ip, *length), *length))).collect();
        let names: Vec<_> = self.server_names.iter().cloned().map(Some).collect();
        let protocols: Vec<_> = self.application_protocols.iter().cloned().map(Some).collect();
        let count = |list: usize| list.max(1);
        if count(prefixes.len()).saturating_mul(count(names.len())).saturating_mul(count(protocols.len()))
            > MAX_CLAIMS
        {
            path.fault(format!("more than {MAX_CLAIMS} combinations; use several chains"));
            return false;
        }
        let or_any = |list: Vec<_>| if list.is_empty() { vec![None] } else { list };
        let (names, protocols) = (or_any(names), or_any(protocols));
        let mut own = HashSet::new();
        for prefix in if prefixes.is_empty() { vec![None] } else { prefixes } {
            for name in &names {
                own.extend(protocols.iter().map(|protocol| {
                    (self.port, prefix, name.clone(), self.transport_protocol.clone(), protocol.clone())
                }));
            }
        }
        if own.iter().any(|claim| taken.contains(claim)) {
            path.fault("another chain matches the same connections");
            return false;
        }
        taken.extend(own);
        true
    }

    /// Whether it depends on what a client says first.
    fn looks(&self) -> bool {
        !(self.transport_protocol.is_empty()
            && self.server_names.is_empty()
            && self.application_protocols.is_empty())
    }

    /// The longest prefix that covers the destination.
    fn address_fit(&self, query: &ChainQuery<'_>) -> Option<usize> {
        if self.prefixes.is_empty() {
            return Some(0);
        }
        let ip = query.destination.ip().to_canonical();
        let covering =
            self.prefixes.iter().filter(|(prefix, length)| masked(ip, *length) == masked(*prefix, *length));
        covering.map(|(_, length)| usize::from(*length)).max()
    }

    /// A whole name ranks highest, then the longest suffix.
    fn server_fit(&self, query: &ChainQuery<'_>) -> Option<usize> {
        if self.server_names.is_empty() {
            return Some(0);
        }
        let name = query.server_name?;
        let fit = |pattern: &String| match pattern.strip_prefix('*') {
            Some(suffix) => name.strip_suffix(suffix).filter(|front| !front.is_empty()).map(|_| suffix.len()),
            None => (name == pattern).then_some(usize::MAX),
        };
        self.server_names.iter().filter_map(fit).max()
    }

    fn transport_fit(&self, query: &ChainQuery<'_>) -> Option<usize> {
        match self.transport_protocol.as_str() {
            "" => Some(0),
            wanted => (wanted == query.transport_protocol).then_some(1),
        }
    }

    /// What the client would rather have ranks higher.
    fn application_fit(&self, query: &ChainQuery<'_>) -> Option<usize> {
        if self.application_protocols.is_empty() {
            return Some(0);
        }
        let place = query
            .application_protocols
            .iter()
            .position(|offered| self.application_protocols.contains(offered));
        place.map(|place| usize::MAX - place)
    }
}

/// The first `length` bits of an address, the others 0; an address of its own family each.
fn masked(ip: IpAddr, length: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(length.into())).unwrap_or(0);
            Ipv4Addr::from_bits(ip.to_bits() & mask).into()
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(length.into())).unwrap_or(0);
            Ipv6Addr::from_bits(ip.to_bits() & mask).into()
        }
    }
}

#[cfg(test)]
mod tests;
