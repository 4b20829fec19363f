//! A route configuration: virtual hosts by name, and their routes.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use outrider_proto::envoy::config::route::v3 as pb;
use outrider_proto::{Fault, Path};
use rustc_hash::FxHashMap;

use super::headers::HeaderChanges;
use super::overrides::{FilterKind, FilterOverrides};
use super::parse;
use super::retry::RetryPolicy;
use super::route::{Route, RouteAction};
use super::route_index::RouteIndex;
use crate::http::message::RequestHead;

/// Longest host name that is compared (RFC 1035 section 2.3.4, with a port behind it).
const MAX_HOST_BYTES: usize = 262;

/// A compiled route configuration.
#[derive(Debug)]
pub struct RouteTable {
    /// Its name.
    pub name: Arc<str>,
    hosts: Vec<VirtualHost>,
    by_name: HostIndex,
    ignore_port: bool,
    /// Changes to every request.
    pub request_headers: HeaderChanges,
    /// Changes to every response.
    pub response_headers: HeaderChanges,
    /// Settings of filters.
    pub filters: FilterOverrides,
    /// Whether the route's changes come last, instead of ours.
    pub most_specific_wins: bool,
    /// Whether all clusters must exist before the table is used. Not so by default, even where Envoy's default differs
    /// (in a listener): a route to a missing cluster is answered with its `cluster_not_found_response_code`.
    validate_clusters: bool,
    /// Whom the filters' settings are for. It is looked at with every publication, so it is put together once.
    said_to: Box<[(Box<str>, FilterKind)]>,
}

/// The routes of a set of host names.
#[derive(Debug)]
pub struct VirtualHost {
    /// Its name.
    pub name: Arc<str>,
    routes: Vec<Arc<Route>>,
    index: RouteIndex,
    /// Changes to its requests.
    pub request_headers: HeaderChanges,
    /// Changes to its responses.
    pub response_headers: HeaderChanges,
    /// Settings of filters.
    pub filters: FilterOverrides,
    /// Whether `x-envoy-attempt-count` is sent upstream.
    pub attempt_count: bool,
    /// Whether the response says so too.
    pub attempt_count_in_response: bool,
}

/// Host names, and the virtual hosts that they are of.
#[derive(Debug, Default)]
struct HostIndex {
    exact: FxHashMap<Box<str>, u32>,
    /// By what follows the `*`; the longest wins.
    suffixes: Parts,
    /// By what stands before the `*`; the longest wins.
    prefixes: Parts,
    any: Option<u32>,
}

/// Parts of host names, and their lengths, the longest first: there are few, so that a long host name costs no more
/// look-ups than a short one.
#[derive(Debug, Default)]
struct Parts {
    by_text: FxHashMap<Box<str>, u32>,
    lengths: Vec<usize>,
}

impl Parts {
    fn insert(&mut self, text: &str, host: u32) -> Option<u32> {
        if let Err(place) = self.lengths.binary_search_by(|length| text.len().cmp(length)) {
            self.lengths.insert(place, text.len());
        }
        self.by_text.insert(text.into(), host)
    }

    /// The host of the longest part that `cut` gives of a name.
    fn longest<'a>(&self, name: &'a str, cut: impl Fn(usize) -> Option<&'a str>) -> Option<u32> {
        // The `*` stands for at least one character.
        let shorter = self.lengths.iter().filter(|length| **length < name.len());
        shorter.filter_map(|length| cut(*length)).find_map(|part| self.by_text.get(part).copied())
    }
}

impl RouteTable {
    /// Compiles a route configuration.
    ///
    /// # Errors
    /// All faults, with the paths of the fields.
    pub fn from_proto(value: &pb::RouteConfiguration) -> Result<Self, Vec<Fault>> {
        let mut path = Path::root();
        let table = Self::compile(value, &mut path);
        path.finish(Some(table))
    }

    pub(super) fn compile(value: &pb::RouteConfiguration, path: &mut Path) -> Self {
        let mut by_name = HostIndex::default();
        let mut names = HashMap::new();
        let mut hosts = Vec::with_capacity(value.virtual_hosts.len());
        for (index, host) in value.virtual_hosts.iter().enumerate() {
            path.item("virtual_hosts", index, |path| {
                if names.insert(host.name.clone(), index).is_some() {
                    path.fault_at("name", format!("\"{}\" is the name of two virtual hosts", host.name));
                }
                if let Some(compiled) = VirtualHost::compile(host, path) {
                    let position = u32::try_from(hosts.len()).unwrap_or(u32::MAX);
                    by_name.add(&host.domains, position, path);
                    hosts.push(compiled);
                }
            });
        }
        let request_headers = HeaderChanges::from_proto(
            &value.request_headers_to_add,
            &value.request_headers_to_remove,
            "request",
            path,
        );
        let response_headers = HeaderChanges::from_proto(
            &value.response_headers_to_add,
            &value.response_headers_to_remove,
            "response",
            path,
        );
        let filters = FilterOverrides::from_proto(&value.typed_per_filter_config, path);
        Self {
            name: value.name.as_str().into(),
            said_to: said_to(&filters, &hosts),
            hosts,
            by_name,
            ignore_port: value.ignore_port_in_host_matching,
            request_headers,
            response_headers,
            filters,
            most_specific_wins: value.most_specific_header_mutations_wins,
            validate_clusters: value.validate_clusters.unwrap_or(false),
        }
    }

    /// The virtual host and the route for a request; `random` is drawn once per request.
    #[must_use]
    pub fn select(&self, head: &RequestHead, random: u64) -> Option<(&VirtualHost, &Arc<Route>)> {
        let host = self.hosts.get(self.by_name.find(&head.authority, self.ignore_port)? as usize)?;
        host.select(head, random).map(|route| (host, route))
    }

    /// The first cluster that is missing although all have to be there.
    pub fn unknown_cluster(&self, exists: impl Fn(&str) -> bool) -> Option<&Arc<str>> {
        self.clusters().filter(|_| self.validate_clusters).find(|name| !exists(name))
    }

    /// The names of the filters that something is said to, at any level, and which kind hears it; each once.
    pub fn filter_names(&self) -> impl Iterator<Item = (&str, FilterKind)> {
        self.said_to.iter().map(|(name, kind)| (&**name, *kind))
    }

    /// The names of all clusters that requests may go to.
    pub fn clusters(&self) -> impl Iterator<Item = &Arc<str>> {
        self.hosts
            .iter()
            .flat_map(|host| &host.routes)
            .filter_map(|route| match &route.action {
                RouteAction::Forward(action) => Some(action),
                RouteAction::Redirect(_) | RouteAction::Direct(_) => None,
            })
            .flat_map(|action| {
                action.cluster.names().chain(action.mirrors.iter().map(|mirror| &mirror.cluster))
            })
    }
}

fn said_to(filters: &FilterOverrides, hosts: &[VirtualHost]) -> Box<[(Box<str>, FilterKind)]> {
    let in_hosts = hosts.iter().flat_map(|host| {
        let routes = host.routes.iter().flat_map(|route| route.filter_names());
        host.filters.names().chain(routes)
    });
    let all: BTreeSet<(&str, FilterKind)> = filters.names().chain(in_hosts).collect();
    all.into_iter().map(|(name, kind)| (name.into(), kind)).collect()
}

impl VirtualHost {
    fn compile(value: &pb::VirtualHost, path: &mut Path) -> Option<Self> {
        let name = parse::required(&value.name, "name", path);
        if value.domains.is_empty() {
            path.fault_at("domains", "missing; \"*\" takes every host");
        }
        let retry = value
            .retry_policy
            .as_ref()
            .map(|policy| path.field("retry_policy", |path| RetryPolicy::from_proto(policy, path)));
        let hedge = value.hedge_policy.as_ref().is_some_and(|hedge| hedge.hedge_on_per_try_timeout);
        let routes: Vec<Arc<Route>> = value
            .routes
            .iter()
            .enumerate()
            .filter_map(|(index, route)| {
                path.item("routes", index, |path| Route::from_proto(route, (retry.as_ref(), hedge), path))
            })
            .map(Arc::new)
            .collect();
        let request_headers = HeaderChanges::from_proto(
            &value.request_headers_to_add,
            &value.request_headers_to_remove,
            "request",
            path,
        );
        let response_headers = HeaderChanges::from_proto(
            &value.response_headers_to_add,
            &value.response_headers_to_remove,
            "response",
            path,
        );
        let index = RouteIndex::new(routes.iter().map(|route| route.key()));
        let attempt_count = value.include_request_attempt_count;
        let filters = FilterOverrides::from_proto(&value.typed_per_filter_config, path);
        let attempt_count_in_response = value.include_attempt_count_in_response;
        Some(Self {
            name: name?,
            routes,
            index,
            request_headers,
            response_headers,
            filters,
            attempt_count,
            attempt_count_in_response,
        })
    }

    fn select(&self, head: &RequestHead, random: u64) -> Option<&Arc<Route>> {
        let accept = |position: u32| {
            self.routes.get(position as usize).is_some_and(|route| route.matches(head, random))
        };
        self.index.first(head.path_only(), accept).and_then(|position| self.routes.get(position as usize))
    }
}

impl HostIndex {
    fn add(&mut self, domains: &[String], host: u32, path: &mut Path) {
        for (index, domain) in domains.iter().enumerate() {
            let lower = domain.to_ascii_lowercase();
            let replaced = match (lower.strip_prefix('*'), lower.strip_suffix('*')) {
                _ if lower.is_empty() || lower.len() > MAX_HOST_BYTES || !has_star_at_one_end(&lower) => {
                    path.item("domains", index, |path| {
                        path.fault("a name, or one with \"*\" at its beginning or end")
                    });
                    continue;
                }
                (Some(""), _) => self.any.replace(host),
                (Some(suffix), _) => self.suffixes.insert(suffix, host),
                (None, Some(prefix)) => self.prefixes.insert(prefix, host),
                (None, None) => self.exact.insert(lower.as_str().into(), host),
            };
            if replaced.is_some() {
                path.item("domains", index, |path| path.fault(format!("\"{domain}\" is there twice")));
            }
        }
    }

    fn find(&self, authority: &str, ignore_port: bool) -> Option<u32> {
        if self.exact.is_empty() && self.suffixes.lengths.is_empty() && self.prefixes.lengths.is_empty() {
            return self.any;
        }
        let mut buffer = [0_u8; MAX_HOST_BYTES];
        let authority = if ignore_port { without_port(authority) } else { authority };
        let Some(lower) = buffer.get_mut(..authority.len()) else {
            return self.any;
        };
        lower.copy_from_slice(authority.as_bytes());
        lower.make_ascii_lowercase();
        let name = std::str::from_utf8(lower).ok()?;
        let exact = self.exact.get(name).copied();
        exact
            .or_else(|| self.suffixes.longest(name, |length| name.get(name.len() - length..)))
            .or_else(|| self.prefixes.longest(name, |length| name.get(..length)))
            .or(self.any)
    }
}

/// Whether there is no `*`, or one that is the first or the last character.
fn has_star_at_one_end(domain: &str) -> bool {
    let rest = domain.strip_prefix('*').or_else(|| domain.strip_suffix('*')).unwrap_or(domain);
    !rest.contains('*')
}

/// The host without `:port`, brackets kept.
#[must_use]
pub fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port))
            if !host.is_empty()
                && port.bytes().all(|byte| byte.is_ascii_digit())
                && (!host.contains(':') || host.ends_with(']')) =>
        {
            host
        }
        Some(_) | None => authority,
    }
}

#[cfg(test)]
mod tests;
