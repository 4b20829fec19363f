//! A route that forwards: which cluster, and under which conditions.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use outrider_proto::Path;
use outrider_proto::envoy::config::route::v3 as pb;
use regex::bytes::Regex;

use super::super::headers::HeaderChanges;
use super::super::labels::{Labels, SubsetKey};
use super::super::limits::Priority;
use super::super::matcher::part_regex;
use super::super::overrides::FilterOverrides;
use super::super::parse::{self, Share};
use super::super::retry::RetryPolicy;
use super::hash::HashPolicy;
use crate::http::h1::field::is_token;

/// Envoy's default of `RouteAction.timeout`.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

/// Where a request goes and under which conditions.
#[derive(Debug)]
pub struct ForwardAction {
    /// Which cluster.
    pub cluster: ClusterChoice,
    /// The status when that cluster does not exist.
    pub not_found_status: StatusCode,
    /// How the path changes.
    pub rewrite: Option<PathRewrite>,
    /// How the host changes.
    pub host: Option<HostRewrite>,
    /// From the end of the request to the end of the response; `None` is no limit.
    pub timeout: Option<Duration>,
    /// Without a byte in either direction; the outer `None` leaves it to the filter chain.
    pub idle_timeout: Option<Option<Duration>>,
    /// From the first byte of the request; the outer `None` leaves it to the filter chain.
    pub max_stream_duration: Option<Option<Duration>>,
    /// How the client's `grpc-timeout` bounds the stream.
    pub grpc_stream: Option<GrpcTimeout>,
    /// How it takes the place of `timeout`.
    pub grpc_route: Option<GrpcTimeout>,
    /// Which of the cluster's limits hold.
    pub priority: Priority,
    /// When attempts are made again.
    pub retry: Option<RetryPolicy>,
    /// Whether an attempt that is late is waited for while another is made.
    pub hedge: bool,
    /// Upgrades that the route allows or forbids, whatever the filter chain says.
    pub upgrades: Vec<(Box<str>, bool)>,
    /// Who else gets a copy.
    pub mirrors: Vec<Mirror>,
    /// What the choice of an endpoint by hash goes by.
    pub hash: Vec<HashPolicy>,
    /// Which endpoints of the cluster it must be.
    pub subset: Option<SubsetKey>,
}

/// How far a client's `grpc-timeout` is honoured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrpcTimeout {
    /// At most so long; `None` is no bound.
    pub max: Option<Duration>,
    /// Taken off it.
    pub offset: Duration,
}

/// A cluster that gets a copy of requests and whose answers nobody sees.
#[derive(Debug)]
pub struct Mirror {
    /// Its name.
    pub cluster: Arc<str>,
    /// Of how many requests.
    pub share: Option<Share>,
}

/// A change of the path, its query kept.
#[derive(Debug)]
pub enum PathRewrite {
    /// What the route matched is replaced.
    Prefix(Box<str>),
    /// What the expression finds is replaced.
    Regex(Arc<Regex>, Box<[u8]>),
}

/// A change of the host.
#[derive(Debug)]
pub enum HostRewrite {
    /// To this.
    Literal(Box<str>),
    /// To the value of this header, if it is there.
    Header(Box<[u8]>),
}

/// One cluster or a draw among several.
#[derive(Debug)]
pub enum ClusterChoice {
    /// Always this one.
    One(Arc<str>),
    /// By weight.
    Weighted {
        /// The clusters, with the sum of the weights up to and with each.
        entries: Vec<(u64, WeightedEntry)>,
        /// The sum of all weights.
        total: u64,
    },
}

/// One cluster of a draw.
#[derive(Debug)]
pub struct WeightedEntry {
    /// Its name.
    pub cluster: Arc<str>,
    /// Which of its endpoints it must be, instead of those that the route names.
    pub subset: Option<SubsetKey>,
    /// Changes to the request.
    pub request_headers: HeaderChanges,
    /// Changes to the response.
    pub response_headers: HeaderChanges,
    /// Settings of filters.
    pub filters: FilterOverrides,
}

impl ClusterChoice {
    /// Draws a cluster; the entry comes with it where there is one.
    #[must_use]
    pub fn pick(&self, random: u64) -> (&Arc<str>, Option<&WeightedEntry>) {
        match self {
            Self::One(cluster) => (cluster, None),
            Self::Weighted { entries, total } => {
                let draw = random % (*total).max(1);
                let index = entries.partition_point(|(below, _)| *below <= draw);
                // The draw is below the last sum, so there is such an entry.
                match entries.get(index).or_else(|| entries.last()) {
                    Some((_, entry)) => (&entry.cluster, Some(entry)),
                    None => (empty_name(), None),
                }
            }
        }
    }

    /// The names of all clusters that may be drawn.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        let one = match self {
            Self::One(cluster) => Some(cluster),
            Self::Weighted { .. } => None,
        };
        one.into_iter().chain(self.entries().iter().map(|(_, entry)| &entry.cluster))
    }

    /// What may be drawn, where a draw is made.
    pub(in super::super) fn entries(&self) -> &[(u64, WeightedEntry)] {
        match self {
            Self::One(_) => &[],
            Self::Weighted { entries, .. } => entries,
        }
    }

    /// Builds a draw from entries with weights; a sum of 0 or beyond 32 bits is a fault.
    pub(in super::super) fn weighted(entries: Vec<(u32, WeightedEntry)>, path: &mut Path) -> Option<Self> {
        let mut total = 0_u64;
        let entries: Vec<_> = entries
            .into_iter()
            .filter(|(weight, _)| *weight > 0)
            .map(|(weight, entry)| {
                total += u64::from(weight);
                (total, entry)
            })
            .collect();
        if total == 0 || total > u64::from(u32::MAX) {
            return path.refuse("the weights must add up to 1 to 4294967295");
        }
        Some(Self::Weighted { entries, total })
    }
}

fn empty_name() -> &'static Arc<str> {
    static EMPTY: std::sync::LazyLock<Arc<str>> = std::sync::LazyLock::new(|| Arc::from(""));
    &EMPTY
}

impl ForwardAction {
    pub(super) fn from_proto(
        value: &pb::RouteAction,
        (vhost_retry, vhost_hedge): (Option<&RetryPolicy>, bool),
        path: &mut Path,
    ) -> Option<Self> {
        use pb::route_action::ClusterNotFoundResponseCode as NotFound;
        let labels =
            path.field("metadata_match", |path| Labels::from_proto(value.metadata_match.as_ref(), path));
        let cluster = cluster_choice(value, &labels, path);
        let (rewrite, host) = rewrites(value, path);
        let not_found_status = match value.cluster_not_found_response_code() {
            NotFound::ServiceUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            NotFound::NotFound => StatusCode::NOT_FOUND,
            NotFound::InternalServerError => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let stream = value.max_stream_duration.as_ref();
        let longest = stream.and_then(|stream| stream.max_stream_duration.as_ref());
        let grpc_stream = path.field("max_stream_duration", |path| {
            let (max, offset) = stream.map_or((None, None), |stream| {
                (stream.grpc_timeout_header_max.as_ref(), stream.grpc_timeout_header_offset.as_ref())
            });
            grpc_timeout((max, "grpc_timeout_header_max"), (offset, "grpc_timeout_header_offset"), path)
        });
        let (max, offset) = (value.max_grpc_timeout.as_ref(), value.grpc_timeout_offset.as_ref());
        let grpc_route = grpc_timeout((max, "max_grpc_timeout"), (offset, "grpc_timeout_offset"), path);
        let own_retry = value
            .retry_policy
            .as_ref()
            .map(|policy| path.field("retry_policy", |path| RetryPolicy::from_proto(policy, path)));
        let mirrors = value.request_mirror_policies.iter().enumerate();
        let mirrors = mirrors
            .filter_map(|(index, mirror)| {
                path.item("request_mirror_policies", index, |path| {
                    let share = mirror.runtime_fraction.as_ref();
                    let share = share.and_then(|share| {
                        path.field("runtime_fraction", |path| Share::from_runtime(share, path))
                    });
                    parse::required(&mirror.cluster, "cluster", path).map(|cluster| Mirror { cluster, share })
                })
            })
            .collect();
        let hash = value.hash_policy.iter().enumerate();
        let hash = hash
            .filter_map(|(index, policy)| {
                path.item("hash_policy", index, |path| HashPolicy::from_proto(policy, path))
            })
            .collect();
        Some(Self {
            hash,
            subset: Some(labels).filter(|labels| !labels.is_empty()).map(|labels| labels.key()),
            not_found_status,
            timeout: parse::limit(value.timeout.as_ref(), Some(DEFAULT_TIMEOUT), "timeout", path),
            idle_timeout: value
                .idle_timeout
                .as_ref()
                .map(|idle| parse::limit(Some(idle), None, "idle_timeout", path)),
            max_stream_duration: longest
                .map(|longest| parse::limit(Some(longest), None, "max_stream_duration", path)),
            grpc_stream,
            grpc_route,
            priority: Priority::from_proto(value.priority()),
            retry: own_retry.or_else(|| vhost_retry.cloned()),
            hedge: value.hedge_policy.as_ref().map_or(vhost_hedge, |hedge| hedge.hedge_on_per_try_timeout),
            upgrades: parse::upgrades(
                value.upgrade_configs.iter().map(|upgrade| (upgrade.upgrade_type.as_str(), upgrade.enabled)),
                path,
            ),
            mirrors,
            rewrite,
            host,
            cluster: cluster?,
        })
    }
}

fn grpc_timeout(
    (max, max_name): (Option<&prost_types::Duration>, &str),
    (offset, offset_name): (Option<&prost_types::Duration>, &str),
    path: &mut Path,
) -> Option<GrpcTimeout> {
    if max.is_none() && offset.is_some() {
        path.fault_at(offset_name, format!("has no effect without {max_name}"));
    }
    Some(GrpcTimeout {
        max: parse::limit(Some(max?), None, max_name, path),
        offset: parse::duration(offset, Duration::ZERO, offset_name, path),
    })
}

fn cluster_choice(value: &pb::RouteAction, labels: &Labels, path: &mut Path) -> Option<ClusterChoice> {
    use pb::route_action::ClusterSpecifier;
    match &value.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => {
            parse::required(name, "cluster", path).map(ClusterChoice::One)
        }
        Some(ClusterSpecifier::WeightedClusters(clusters)) => path.field("weighted_clusters", |path| {
            let entries = clusters.clusters.iter().enumerate();
            let entries: Vec<_> = entries
                .filter_map(|(index, entry)| {
                    path.item("clusters", index, |path| weighted_entry(entry, labels, path))
                })
                .collect();
            if entries.len() < clusters.clusters.len() {
                return None;
            }
            let sum: u64 = entries.iter().map(|(weight, _)| u64::from(*weight)).sum();
            if clusters.total_weight.is_some_and(|total| u64::from(total) != sum) {
                path.fault_at("total_weight", format!("the weights add up to {sum}"));
            }
            ClusterChoice::weighted(entries, path)
        }),
        None => path.refuse("one of cluster and weighted_clusters is needed"),
    }
}

fn weighted_entry(
    value: &pb::weighted_cluster::ClusterWeight,
    route_labels: &Labels,
    path: &mut Path,
) -> Option<(u32, WeightedEntry)> {
    let Some(weight) = value.weight else {
        return path.field("weight", |path| path.refuse("missing"));
    };
    let cluster = parse::required(&value.name, "name", path)?;
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
    let labels = path.field("metadata_match", |path| Labels::from_proto(value.metadata_match.as_ref(), path));
    let subset = (!labels.is_empty()).then(|| labels.or(route_labels).key());
    let filters = FilterOverrides::from_proto(&value.typed_per_filter_config, path);
    Some((weight, WeightedEntry { cluster, subset, request_headers, response_headers, filters }))
}

fn rewrites(value: &pb::RouteAction, path: &mut Path) -> (Option<PathRewrite>, Option<HostRewrite>) {
    use pb::route_action::HostRewriteSpecifier;
    if !value.prefix_rewrite.is_empty() && value.regex_rewrite.is_some() {
        path.fault("prefix_rewrite and regex_rewrite are both set");
    }
    let rewrite = match &value.regex_rewrite {
        Some(rewrite) => path.field("regex_rewrite", |path| regex_rewrite(rewrite, path)),
        None if value.prefix_rewrite.is_empty() => None,
        None => {
            check_path(&value.prefix_rewrite, "prefix_rewrite", path);
            if value.prefix_rewrite.contains(['?', '#']) {
                path.fault_at("prefix_rewrite", "holds a \"?\" or \"#\"; the request's own query is kept");
            }
            Some(PathRewrite::Prefix(value.prefix_rewrite.as_str().into()))
        }
    };
    let host = match &value.host_rewrite_specifier {
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => {
            if !crate::http::is_host_and_port(host.as_bytes()) {
                path.fault_at("host_rewrite_literal", "not a host with an optional port");
            }
            Some(HostRewrite::Literal(host.as_str().into()))
        }
        Some(HostRewriteSpecifier::HostRewriteHeader(name)) => {
            if !is_token(name.as_bytes()) {
                path.fault_at("host_rewrite_header", format!("\"{name}\" is not a header name"));
            }
            Some(HostRewrite::Header(name.to_ascii_lowercase().into_bytes().into()))
        }
        None => None,
    };
    (rewrite, host)
}

/// A text that takes the place of a path or of its beginning.
pub(super) fn check_path(text: &str, name: &str, path: &mut Path) {
    if !text.starts_with('/') {
        path.fault_at(name, "must begin with \"/\"");
    } else if !text.bytes().all(|byte| (0x21..0x7f).contains(&byte)) {
        path.fault_at(name, "holds a character that must be escaped in a URI");
    }
}

pub(super) fn regex_rewrite(
    value: &outrider_proto::envoy::r#type::matcher::v3::RegexMatchAndSubstitute,
    path: &mut Path,
) -> Option<PathRewrite> {
    let regex = path.field("pattern", |path| match &value.pattern {
        Some(pattern) => part_regex(pattern, path),
        None => path.refuse("missing"),
    })?;
    // RE2 writes groups as \1, the regex crate as ${1}.
    let mut substitution = String::new();
    let mut letters = value.substitution.chars();
    while let Some(letter) = letters.next() {
        match (letter, letter == '\\') {
            (_, true) => match letters.next() {
                Some(digit) if digit.is_ascii_digit() => {
                    if digit.to_digit(10).is_some_and(|group| group as usize >= regex.captures_len()) {
                        path.fault_at("substitution", format!("the pattern has no group {digit}"));
                    }
                    substitution.push_str(&format!("${{{digit}}}"));
                }
                Some('\\') => substitution.push('\\'),
                _ => path.fault_at("substitution", "a backslash must be followed by a digit or a backslash"),
            },
            ('$', _) => substitution.push_str("$$"),
            (letter, _) => substitution.push(letter),
        }
    }
    Some(PathRewrite::Regex(regex, substitution.into_bytes().into()))
}
