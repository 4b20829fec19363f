//! Filter chains and the choice among them.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use outrider_proto::envoy::config::listener::v3 as pb;
use outrider_proto::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use outrider_proto::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use outrider_proto::{Path, unpack};

use super::http_chain::HttpChain;
use super::tcp_chain::TcpChain;

/// What a connection is handled by.
#[derive(Debug)]
pub struct FilterChain {
    /// Its name; may be empty.
    pub name: Arc<str>,
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

/// How well a chain fits, compared in Envoy's order: port, address, server name, transport, application protocol.
/// A chain that says nothing about one of them ranks below one that says the right thing.
type Rank = (bool, u8, usize, bool, bool);

impl FilterChains {
    pub(super) fn from_proto(value: &pb::Listener, path: &mut Path) -> Self {
        let mut chains: Vec<(ChainMatch, Arc<FilterChain>)> = Vec::new();
        for (index, chain) in value.filter_chains.iter().enumerate() {
            path.item("filter_chains", index, |path| {
                let rule = chain.filter_chain_match.clone().unwrap_or_default();
                if value
                    .filter_chains
                    .iter()
                    .take(index)
                    .any(|other| other.filter_chain_match.clone().unwrap_or_default() == rule)
                {
                    path.fault_at("filter_chain_match", "the same as that of another chain");
                }
                let rule = path.field("filter_chain_match", |path| ChainMatch::from_proto(&rule, path));
                if let (Some(rule), Some(chain)) = (rule, FilterChain::from_proto(chain, path)) {
                    chains.push((rule, Arc::new(chain)));
                }
            });
        }
        let default = value.default_filter_chain.as_ref().and_then(|chain| {
            path.field("default_filter_chain", |path| FilterChain::from_proto(chain, path)).map(Arc::new)
        });
        if value.filter_chains.is_empty() && value.default_filter_chain.is_none() {
            path.fault_at("filter_chains", "missing");
        }
        Self { chains, default }
    }

    /// The chain for a connection, the most specific first.
    #[must_use]
    pub fn select(&self, query: &ChainQuery<'_>) -> Option<&Arc<FilterChain>> {
        let ranked =
            self.chains.iter().filter_map(|(rule, chain)| rule.rank(query).map(|rank| (rank, chain)));
        // Envoy decides dimension by dimension and never goes back, which is the maximum in lexical order.
        ranked.max_by_key(|(rank, _)| *rank).map(|(_, chain)| chain).or(self.default.as_ref())
    }

    /// All chains, the default one included.
    pub fn all(&self) -> impl Iterator<Item = &Arc<FilterChain>> {
        self.chains.iter().map(|(_, chain)| chain).chain(&self.default)
    }

    /// The only chain, if the choice does not depend on what the client sends.
    #[must_use]
    pub fn needs_inspection(&self) -> bool {
        self.chains.iter().any(|(rule, _)| {
            !rule.server_names.is_empty()
                || !rule.transport_protocol.is_empty()
                || !rule.application_protocols.is_empty()
        })
    }
}

impl FilterChain {
    fn from_proto(value: &pb::FilterChain, path: &mut Path) -> Option<Self> {
        let [filter] = value.filters.as_slice() else {
            return path.field("filters", |path| {
                path.refuse("exactly one is needed: HttpConnectionManager or TcpProxy")
            });
        };
        let protocol = path.item("filters", 0, |path| {
            let Some(pb::filter::ConfigType::TypedConfig(any)) = &filter.config_type else {
                return path.field("typed_config", |path| path.refuse("missing"));
            };
            path.field("typed_config", |path| {
                if let Some(http) = unpack::<HttpConnectionManager>(any) {
                    HttpChain::from_proto(&http, path).map(|chain| ChainProtocol::Http(Arc::new(chain)))
                } else if let Some(tcp) = unpack::<TcpProxy>(any) {
                    TcpChain::from_proto(&tcp, path).map(|chain| ChainProtocol::Tcp(Arc::new(chain)))
                } else {
                    path.refuse(format!("\"{}\" is not a network filter", any.type_url))
                }
            })
        });
        Some(Self { name: value.name.as_str().into(), protocol: protocol? })
    }
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

    fn rank(&self, query: &ChainQuery<'_>) -> Option<Rank> {
        if self.port.is_some_and(|port| port != query.destination.port()) {
            return None;
        }
        let address = if self.prefixes.is_empty() {
            0
        } else {
            let ip = query.destination.ip().to_canonical();
            let longest = self.prefixes.iter().filter(|(prefix, length)| covers(*prefix, *length, ip));
            longest.map(|(_, length)| *length).max()?.saturating_add(1)
        };
        let server = if self.server_names.is_empty() { 0 } else { self.server_rank(query.server_name?)? };
        if !self.transport_protocol.is_empty() && self.transport_protocol != query.transport_protocol {
            return None;
        }
        let has_protocol = |wanted: &String| query.application_protocols.contains(wanted);
        if !self.application_protocols.is_empty() && !self.application_protocols.iter().any(has_protocol) {
            return None;
        }
        let transport = !self.transport_protocol.is_empty();
        Some((self.port.is_some(), address, server, transport, !self.application_protocols.is_empty()))
    }

    /// A whole name ranks highest, then the longest suffix.
    fn server_rank(&self, name: &str) -> Option<usize> {
        let rank = |pattern: &String| match pattern.strip_prefix('*') {
            Some(suffix) => name.strip_suffix(suffix).filter(|front| !front.is_empty()).map(|_| suffix.len()),
            None => (name == pattern).then_some(usize::MAX),
        };
        self.server_names.iter().filter_map(rank).max()
    }
}

/// Whether the first `length` bits are the same.
fn covers(prefix: IpAddr, length: u8, ip: IpAddr) -> bool {
    match (prefix, ip) {
        (IpAddr::V4(prefix), IpAddr::V4(ip)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            prefix.to_bits() & mask == ip.to_bits() & mask
        }
        (IpAddr::V6(prefix), IpAddr::V6(ip)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            prefix.to_bits() & mask == ip.to_bits() & mask
        }
        _ => false,
    }
}
