//! One route: what it matches, and what is done then.

mod answer;
mod forward;
pub mod hash;

use std::sync::Arc;

use outrider_proto::Path;
use outrider_proto::envoy::config::route::v3 as pb;
use regex::bytes::Regex;

use super::headers::HeaderChanges;
use super::matcher::{Case, HeaderMatcher, QueryMatcher, full_regex};
use super::overrides::{FilterKind, FilterOverrides};
use super::parse::Share;
use super::retry::RetryPolicy;
use super::route_index::PathKey;
use crate::http::message::RequestHead;

pub use answer::{DirectAction, RedirectAction, RedirectPath};
pub use forward::{ClusterChoice, ForwardAction, HostRewrite, Mirror, PathRewrite, WeightedEntry};
pub use hash::HashPolicy;

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
    /// Settings of filters.
    pub filters: FilterOverrides,
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
        vhost: (Option<&RetryPolicy>, bool),
        path: &mut Path,
    ) -> Option<Self> {
        let rule = path.field("match", |path| match &value.r#match {
            Some(rule) => RouteRule::from_proto(rule, path),
            None => path.refuse("missing"),
        });
        let action = match &value.action {
            Some(pb::route::Action::Route(action)) => path
                .field("route", |path| ForwardAction::from_proto(action, vhost, path))
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
            filters: FilterOverrides::from_proto(&value.typed_per_filter_config, path),
        })
    }

    /// The names of the filters that something is said to, by the route or one of its weighted clusters.
    pub(super) fn filter_names(&self) -> impl Iterator<Item = (&str, FilterKind)> {
        let entries = match &self.action {
            RouteAction::Forward(action) => action.cluster.entries(),
            RouteAction::Redirect(_) | RouteAction::Direct(_) => &[],
        };
        self.filters.names().chain(entries.iter().flat_map(|(_, entry)| entry.filters.names()))
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
        path_matches
            && rule.share.is_none_or(|share| share.covers(random))
            && (!rule.grpc || head.is_grpc())
            && rule.headers.iter().all(|matcher| matcher.matches(head))
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

#[cfg(test)]
mod tests;
