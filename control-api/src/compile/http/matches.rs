//! When a rule holds.

use std::cmp::Reverse;

use outrider_proto::envoy::config::route::v3 as pb;
use pb::route_match::PathSpecifier;

use super::{Compiler, Rank, Rule, header, rank, whole};
use crate::compile::wire;
use crate::object::Object;
use crate::object::gateway::{GrpcMatch, GrpcRoute, MatchType, ValueMatch};
use crate::object::http_route::{HttpMatch, HttpRoute, PathMatchType};

/// Every request.
pub(super) fn everything() -> pb::RouteMatch {
    pb::RouteMatch { path_specifier: Some(PathSpecifier::Prefix("/".to_owned())), ..Default::default() }
}

impl Compiler<'_> {
    /// Adds the rules of an `HTTPRoute`.
    pub(in crate::compile) fn http(&mut self, route: &Object<HttpRoute>) {
        for (index, rule) in route.spec.rules.iter().enumerate() {
            let common = Rule {
                index,
                filters: &rule.filters,
                backends: &rule.backend_refs,
                timeouts: rule.timeouts,
                retry: rule.retry.as_ref(),
                missing_status: 500,
                unsupported: rule.session_persistence.as_ref().map(|_| "sessionPersistence"),
            };
            let rank = rank(&route.meta, index);
            let all = [HttpMatch::default()];
            let matches = if rule.matches.is_empty() { &all[..] } else { &rule.matches };
            let matches = matches.iter().map(|one| http(one, rank.clone())).collect();
            self.rule(&route.key, &common, matches);
        }
    }

    /// Adds the rules of a `GRPCRoute`.
    pub(in crate::compile) fn grpc(&mut self, route: &Object<GrpcRoute>) {
        for (index, rule) in route.spec.rules.iter().enumerate() {
            let common = Rule {
                index,
                filters: &rule.filters,
                backends: &rule.backend_refs,
                timeouts: None,
                retry: None,
                // What a gRPC client takes for UNAVAILABLE.
                missing_status: 503,
                unsupported: rule.session_persistence.as_ref().map(|_| "sessionPersistence"),
            };
            let rank = rank(&route.meta, index);
            let all = [GrpcMatch::default()];
            let matches = if rule.matches.is_empty() { &all[..] } else { &rule.matches };
            let matches = matches.iter().map(|one| grpc(one, rank.clone())).collect();
            self.rule(&route.key, &common, matches);
        }
    }
}

/// A match, its rank, and the prefix that it takes if it takes one.
fn http(value: &HttpMatch, mut rank: Rank) -> (Rank, pb::RouteMatch, Option<String>) {
    let text = value.path.value.as_str();
    rank.path_length = Reverse(text.len());
    let mut prefix = None;
    let path = match value.path.kind {
        PathMatchType::Exact => {
            rank.path_kind = 0;
            PathSpecifier::Path(text.to_owned())
        }
        PathMatchType::RegularExpression => {
            rank.path_kind = 1;
            PathSpecifier::SafeRegex(wire::regex(text))
        }
        PathMatchType::PathPrefix => {
            let trimmed = text.trim_end_matches('/');
            // With a slash at the end it is the same prefix.
            rank.path_length = Reverse(trimmed.len());
            prefix = Some(trimmed.to_owned());
            match trimmed {
                "" => PathSpecifier::Prefix("/".to_owned()),
                trimmed => PathSpecifier::PathSeparatedPrefix(trimmed.to_owned()),
            }
        }
    };
    let mut headers = header_matches(&value.headers);
    rank.headers = Reverse(headers.len());
    rank.query = Reverse(value.query_params.len());
    rank.any_method = value.method.is_none();
    if let Some(method) = value.method {
        headers.push(header(":method", wire::exact(method.as_str())));
    }
    let query = value.query_params.iter().map(|one| pb::QueryParameterMatcher {
        name: one.name.clone(),
        query_parameter_match_specifier: Some(
            pb::query_parameter_matcher::QueryParameterMatchSpecifier::StringMatch(match one.kind {
                MatchType::Exact => wire::exact(&one.value),
                MatchType::RegularExpression => whole(&one.value),
            }),
        ),
    });
    let rule = pb::RouteMatch {
        path_specifier: Some(path),
        headers,
        query_parameters: query.collect(),
        ..Default::default()
    };
    (rank, rule, prefix)
}

fn grpc(value: &GrpcMatch, mut rank: Rank) -> (Rank, pb::RouteMatch, Option<String>) {
    let headers = header_matches(&value.headers);
    rank.headers = Reverse(headers.len());
    let method = value.method.as_ref();
    let (service, name) =
        method.map_or((None, None), |method| (method.service.as_deref(), method.method.as_deref()));
    let exact = method.is_none_or(|method| method.kind == MatchType::Exact);
    // Whatever the kind of the match: characters of the service, then those of the method.
    rank.path_length = Reverse(service.map_or(0, str::len));
    rank.method_length = Reverse(name.map_or(0, str::len));
    let path = match (service, name, exact) {
        (None, None, _) => PathSpecifier::Prefix("/".to_owned()),
        (Some(service), Some(name), true) => PathSpecifier::Path(format!("/{service}/{name}")),
        (Some(service), None, true) => PathSpecifier::Prefix(format!("/{service}/")),
        (service, name, exact) => {
            let part = |text: Option<&str>| match text {
                None => "[^/]+".to_owned(),
                Some(text) if exact => regex::escape(text),
                // A group, so that an alternative in it ends with the part.
                Some(text) => format!("(?:{text})"),
            };
            PathSpecifier::SafeRegex(wire::regex(&format!("/{}/{}", part(service), part(name))))
        }
    };
    (rank, pb::RouteMatch { path_specifier: Some(path), headers, ..Default::default() }, None)
}

fn header_matches(values: &[ValueMatch]) -> Vec<pb::HeaderMatcher> {
    let mut all: Vec<pb::HeaderMatcher> = Vec::new();
    for one in values {
        let name = one.name.to_ascii_lowercase();
        // Of several with one name the first counts, as upstream says.
        if all.iter().any(|other| other.name == name) {
            continue;
        }
        all.push(match one.kind {
            MatchType::Exact => header(&name, wire::exact(&one.value)),
            MatchType::RegularExpression => header(&name, whole(&one.value)),
        });
    }
    all
}
