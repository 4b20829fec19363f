//! One route: what it matches, and what is done then.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use outrider_proto::Path;
use outrider_proto::envoy::config::core::v3 as core;
use outrider_proto::envoy::config::route::v3 as pb;
use regex::bytes::Regex;

use super::headers::HeaderChanges;
use super::matcher::{Case, HeaderMatcher, QueryMatcher, full_regex, part_regex};
use super::parse::{self, Share};
use super::retry::RetryPolicy;
use super::route_index::PathKey;
use crate::http::message::RequestHead;

/// Envoy's default of `RouteAction.timeout`.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);
/// Envoy's bound on a direct response's body.
const MAX_DIRECT_BODY_BYTES: usize = 4096;

/// A compiled route.
#[derive(Debug)]
pub struct Route {
    /// Its name, for logs; may be empty.
    pub name: Arc<str>,
    rule: RouteRule,
    /// What is done.
    pub action: RouteAction,
    /// Changes to the request on its way upstream.
    pub request_headers: HeaderChanges,
    /// Changes to the response on its way downstream.
    pub response_headers: HeaderChanges,
}

/// What a route does with a request.
#[derive(Debug)]
pub enum RouteAction {
    /// It goes to a cluster.
    Forward(Box<ForwardAction>),
    /// The client is sent elsewhere.
    Redirect(Box<RedirectAction>),
    /// The proxy answers.
    Direct(DirectAction),
}

#[derive(Debug)]
struct RouteRule {
    path: PathRule,
    case: Case,
    headers: Vec<HeaderMatcher>,
    query: Vec<QueryMatcher>,
    grpc: bool,
    share: Option<Share>,
}

#[derive(Debug)]
enum PathRule {
    Prefix(Box<str>),
    Exact(Box<str>),
    Separated(Box<str>),
    Regex(Arc<Regex>),
}

impl Route {
    pub(super) fn from_proto(
        value: &pb::Route,
        vhost_retry: Option<&RetryPolicy>,
        path: &mut Path,
    ) -> Option<Self> {
        let rule = path.field("match", |path| match &value.r#match {
            Some(rule) => RouteRule::from_proto(rule, path),
            None => path.refuse("missing"),
        });
        let action = match &value.action {
            Some(pb::route::Action::Route(action)) => path
                .field("route", |path| ForwardAction::from_proto(action, vhost_retry, path))
                .map(|action| RouteAction::Forward(Box::new(action))),
            Some(pb::route::Action::Redirect(action)) => path
                .field("redirect", |path| RedirectAction::from_proto(action, path))
                .map(|action| RouteAction::Redirect(Box::new(action))),
            Some(pb::route::Action::DirectResponse(action)) => path
                .field("direct_response", |path| DirectAction::from_proto(action, path))
                .map(RouteAction::Direct),
            None => path.refuse("one of route, redirect and direct_response is needed"),
        };
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
        Some(Self {
            name: value.name.as_str().into(),
            rule: rule?,
            action: action?,
            request_headers,
            response_headers,
        })
    }

    /// How the index finds this route.
    pub(super) fn key(&self) -> PathKey<'_> {
        match (&self.rule.path, self.rule.case) {
            (PathRule::Exact(path), Case::Sensitive) => PathKey::Exact(path),
            (PathRule::Prefix(prefix) | PathRule::Separated(prefix), Case::Sensitive) => {
                PathKey::Prefix(prefix)
            }
            _ => PathKey::Any,
        }
    }

    /// Whether all conditions hold; `random` is drawn once per request.
    #[must_use]
    pub fn matches(&self, head: &RequestHead, random: u64) -> bool {
        let rule = &self.rule;
        let path = head.path_only();
        let path_matches = match &rule.path {
            PathRule::Prefix(prefix) => rule.case.starts_with(path.as_bytes(), prefix.as_bytes()),
            PathRule::Exact(exact) => rule.case.equal(path.as_bytes(), exact.as_bytes()),
            PathRule::Separated(prefix) => {
                rule.case.starts_with(path.as_bytes(), prefix.as_bytes())
                    && matches!(path.as_bytes().get(prefix.len()), None | Some(b'/'))
            }
            PathRule::Regex(regex) => regex.is_match(path.as_bytes()),
        };
        let pseudo = |name: &[u8]| match name {
            b":method" => Some(head.method.as_str().as_bytes()),
            b":path" => Some(head.path.as_bytes()),
            b":authority" => Some(head.authority.as_bytes()),
            b":scheme" => Some(if head.secure { &b"https"[..] } else { b"http" }),
            _ => None,
        };
        path_matches
            && rule.share.is_none_or(|share| share.covers(random))
            && (!rule.grpc || head.is_grpc())
            && rule.headers.iter().all(|matcher| matcher.matches(&head.headers, pseudo))
            && rule.query.iter().all(|matcher| matcher.matches(head.query()))
    }

    /// What of the path a prefix rewrite replaces.
    #[must_use]
    pub fn matched_len(&self, path: &str) -> usize {
        match &self.rule.path {
            PathRule::Prefix(prefix) | PathRule::Separated(prefix) => prefix.len(),
            PathRule::Exact(_) | PathRule::Regex(_) => path.split('?').next().unwrap_or_default().len(),
        }
    }
}

impl RouteRule {
    fn from_proto(value: &pb::RouteMatch, path: &mut Path) -> Option<Self> {
        use pb::route_match::PathSpecifier;
        let path_rule = match &value.path_specifier {
            Some(PathSpecifier::Prefix(prefix)) => Some(PathRule::Prefix(prefix.as_str().into())),
            Some(PathSpecifier::Path(exact)) if exact.starts_with('/') => {
                Some(PathRule::Exact(exact.as_str().into()))
            }
            Some(PathSpecifier::Path(_)) => path.field("path", |path| path.refuse("must begin with \"/\"")),
            Some(PathSpecifier::PathSeparatedPrefix(prefix)) => {
                let valid = prefix.starts_with('/') && !prefix.ends_with('/') && !prefix.contains(['?', '#']);
                path.field("path_separated_prefix", |path| {
                    if valid {
                        Some(PathRule::Separated(prefix.as_str().into()))
                    } else {
                        path.refuse("must begin with \"/\", not end with it, and hold no \"?\" or \"#\"")
                    }
                })
            }
            Some(PathSpecifier::SafeRegex(regex)) => {
                path.field("safe_regex", |path| full_regex(regex, path)).map(PathRule::Regex)
            }
            None => path.refuse("one of prefix, path, path_separated_prefix and safe_regex is needed"),
        };
        let case = if value.case_sensitive.unwrap_or(true) { Case::Sensitive } else { Case::Ignored };
        let headers = value.headers.iter().enumerate();
        let headers = headers
            .filter_map(|(index, matcher)| {
                path.item("headers", index, |path| HeaderMatcher::from_proto(matcher, path))
            })
            .collect();
        let query = value.query_parameters.iter().enumerate();
        let query = query
            .filter_map(|(index, matcher)| {
                path.item("query_parameters", index, |path| QueryMatcher::from_proto(matcher, path))
            })
            .collect();
        let share = value
            .runtime_fraction
            .as_ref()
            .and_then(|share| path.field("runtime_fraction", |path| Share::from_runtime(share, path)));
        Some(Self { path: path_rule?, case, headers, query, grpc: value.grpc.is_some(), share })
    }
}

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
    /// Whether and how far the client's `grpc-timeout` bounds the stream; 0 is no bound on it.
    pub grpc_timeout_max: Option<Duration>,
    /// When attempts are made again.
    pub retry: Option<RetryPolicy>,
    /// Upgrades that the route allows or forbids, whatever the filter chain says.
    pub upgrades: Vec<(Box<str>, bool)>,
    /// Who else gets a copy.
    pub mirrors: Vec<Mirror>,
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
    /// Changes to the request.
    pub request_headers: HeaderChanges,
    /// Changes to the response.
    pub response_headers: HeaderChanges,
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
        let (one, many) = match self {
            Self::One(cluster) => (Some(cluster), &[][..]),
            Self::Weighted { entries, .. } => (None, entries.as_slice()),
        };
        one.into_iter().chain(many.iter().map(|(_, entry)| &entry.cluster))
    }

    /// Builds a draw from entries with weights; a sum of 0 or beyond 32 bits is a fault.
    pub(super) fn weighted(entries: Vec<(u32, WeightedEntry)>, path: &mut Path) -> Option<Self> {
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
    fn from_proto(
        value: &pb::RouteAction,
        vhost_retry: Option<&RetryPolicy>,
        path: &mut Path,
    ) -> Option<Self> {
        use pb::route_action::ClusterNotFoundResponseCode as NotFound;
        let cluster = cluster_choice(value, path);
        let (rewrite, host) = rewrites(value, path);
        let not_found_status = match value.cluster_not_found_response_code() {
            NotFound::ServiceUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            NotFound::NotFound => StatusCode::NOT_FOUND,
            NotFound::InternalServerError => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let stream = value.max_stream_duration.as_ref();
        let longest = stream.and_then(|stream| stream.max_stream_duration.as_ref());
        let grpc = stream.and_then(|stream| stream.grpc_timeout_header_max.as_ref());
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
        Some(Self {
            not_found_status,
            timeout: parse::limit(value.timeout.as_ref(), Some(DEFAULT_TIMEOUT), "timeout", path),
            idle_timeout: value
                .idle_timeout
                .as_ref()
                .map(|idle| parse::limit(Some(idle), None, "idle_timeout", path)),
            max_stream_duration: longest
                .map(|longest| parse::limit(Some(longest), None, "max_stream_duration", path)),
            grpc_timeout_max: grpc.map(|grpc| {
                parse::duration(
                    Some(grpc),
                    Duration::ZERO,
                    "max_stream_duration.grpc_timeout_header_max",
                    path,
                )
            }),
            retry: own_retry.or_else(|| vhost_retry.cloned()),
            upgrades: value
                .upgrade_configs
                .iter()
                .map(|upgrade| (upgrade.upgrade_type.as_str().into(), upgrade.enabled.unwrap_or(true)))
                .collect(),
            mirrors,
            rewrite,
            host,
            cluster: cluster?,
        })
    }
}

fn cluster_choice(value: &pb::RouteAction, path: &mut Path) -> Option<ClusterChoice> {
    use pb::route_action::ClusterSpecifier;
    match &value.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => {
            parse::required(name, "cluster", path).map(ClusterChoice::One)
        }
        Some(ClusterSpecifier::WeightedClusters(clusters)) => path.field("weighted_clusters", |path| {
            let entries = clusters.clusters.iter().enumerate();
            let entries: Vec<_> = entries
                .filter_map(|(index, entry)| path.item("clusters", index, |path| weighted_entry(entry, path)))
                .collect();
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
    Some((weight, WeightedEntry { cluster, request_headers, response_headers }))
}

fn rewrites(value: &pb::RouteAction, path: &mut Path) -> (Option<PathRewrite>, Option<HostRewrite>) {
    use pb::route_action::HostRewriteSpecifier;
    if !value.prefix_rewrite.is_empty() && value.regex_rewrite.is_some() {
        path.fault("prefix_rewrite and regex_rewrite are both set");
    }
    let rewrite = match &value.regex_rewrite {
        Some(rewrite) => path.field("regex_rewrite", |path| regex_rewrite(rewrite, path)),
        None if value.prefix_rewrite.is_empty() => None,
        None => Some(PathRewrite::Prefix(value.prefix_rewrite.as_str().into())),
    };
    let host = match &value.host_rewrite_specifier {
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => {
            if !crate::http::is_host_and_port(host.as_bytes()) {
                path.fault_at("host_rewrite_literal", "not a host with an optional port");
            }
            Some(HostRewrite::Literal(host.as_str().into()))
        }
        Some(HostRewriteSpecifier::HostRewriteHeader(name)) => {
            Some(HostRewrite::Header(name.to_ascii_lowercase().into_bytes().into()))
        }
        None => None,
    };
    (rewrite, host)
}

fn regex_rewrite(
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
                Some(digit) if digit.is_ascii_digit() => substitution.push_str(&format!("${{{digit}}}")),
                Some('\\') => substitution.push('\\'),
                _ => path.fault_at("substitution", "a backslash must be followed by a digit or a backslash"),
            },
            ('$', _) => substitution.push_str("$$"),
            (letter, _) => substitution.push(letter),
        }
    }
    Some(PathRewrite::Regex(regex, substitution.into_bytes().into()))
}

/// Where a client is sent.
#[derive(Debug)]
pub struct RedirectAction {
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    /// The scheme, if it changes.
    pub scheme: Option<Box<str>>,
    /// The host, if it changes.
    pub host: Option<Box<str>>,
    /// The port, if it changes.
    pub port: Option<u16>,
    /// The path, if it changes.
    pub path: Option<RedirectPath>,
    /// Whether the query is dropped.
    pub strip_query: bool,
}

/// How a redirect changes the path.
#[derive(Debug)]
pub enum RedirectPath {
    /// To this, with its own query if it has one.
    Whole(Box<str>),
    /// As a rewrite would.
    Rewrite(PathRewrite),
}

impl RedirectAction {
    fn from_proto(value: &pb::RedirectAction, path: &mut Path) -> Option<Self> {
        use pb::redirect_action::{
            PathRewriteSpecifier, RedirectResponseCode as Code, SchemeRewriteSpecifier,
        };
        let scheme = match &value.scheme_rewrite_specifier {
            Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some("https".into()),
            Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => Some(scheme.as_str().into()),
            Some(SchemeRewriteSpecifier::HttpsRedirect(false)) | None => None,
        };
        let new_path = match &value.path_rewrite_specifier {
            Some(PathRewriteSpecifier::PathRedirect(whole)) => {
                Some(RedirectPath::Whole(whole.as_str().into()))
            }
            Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => {
                Some(RedirectPath::Rewrite(PathRewrite::Prefix(prefix.as_str().into())))
            }
            Some(PathRewriteSpecifier::RegexRewrite(rewrite)) => {
                path.field("regex_rewrite", |path| regex_rewrite(rewrite, path)).map(RedirectPath::Rewrite)
            }
            None => None,
        };
        let port = match u16::try_from(value.port_redirect) {
            Ok(0) => None,
            Ok(port) => Some(port),
            Err(_) => path.field("port_redirect", |path| path.refuse("larger than 65535")),
        };
        let printable = |text: &str| text.bytes().all(|byte| (0x21..0x7f).contains(&byte));
        if !printable(&value.host_redirect) {
            path.fault_at("host_redirect", "holds a character that no header may hold");
        }
        Some(Self {
            status: match value.response_code() {
                Code::MovedPermanently => StatusCode::MOVED_PERMANENTLY,
                Code::Found => StatusCode::FOUND,
                Code::SeeOther => StatusCode::SEE_OTHER,
                Code::TemporaryRedirect => StatusCode::TEMPORARY_REDIRECT,
                Code::PermanentRedirect => StatusCode::PERMANENT_REDIRECT,
            },
            scheme,
            host: (!value.host_redirect.is_empty()).then(|| value.host_redirect.as_str().into()),
            port,
            path: new_path,
            strip_query: value.strip_query,
        })
    }
}

/// An answer that stands in the configuration.
#[derive(Debug)]
pub struct DirectAction {
    /// The status.
    pub status: StatusCode,
    /// The body; may be empty.
    pub body: bytes::Bytes,
}

impl DirectAction {
    fn from_proto(value: &pb::DirectResponseAction, path: &mut Path) -> Option<Self> {
        let status = u16::try_from(value.status).ok().filter(|status| (200..600).contains(status));
        let status = status.and_then(|status| StatusCode::from_u16(status).ok());
        if status.is_none() {
            path.fault_at("status", "must be from 200 to 599");
        }
        let body = match &value.body {
            Some(source) => path.field("body", |path| data_source(source, MAX_DIRECT_BODY_BYTES, path))?,
            None => Vec::new(),
        };
        Some(Self { status: status?, body: body.into() })
    }
}

/// The bytes of a data source, from the configuration itself or from a file.
pub(super) fn data_source(source: &core::DataSource, max_bytes: usize, path: &mut Path) -> Option<Vec<u8>> {
    use core::data_source::Specifier;
    let bytes = match &source.specifier {
        Some(Specifier::InlineString(text)) => text.as_bytes().to_vec(),
        Some(Specifier::InlineBytes(bytes)) => bytes.clone(),
        Some(Specifier::Filename(name)) => match std::fs::read(name) {
            Ok(bytes) => bytes,
            Err(error) => return path.field("filename", |path| path.refuse(format!("\"{name}\": {error}"))),
        },
        None => return path.refuse("one of filename, inline_bytes and inline_string is needed"),
    };
    if bytes.len() > max_bytes {
        return path.refuse(format!("{} bytes, more than {max_bytes}", bytes.len()));
    }
    Some(bytes)
}
