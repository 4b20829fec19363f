//! Routes of requests: `HTTPRoute` and `GRPCRoute` into routes of xDS.

mod filters;
mod matches;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use outrider_proto::envoy::config::route::v3 as pb;
use outrider_proto::strict;
use prost::Message as _;

use super::backend::{RefFault, UNRESOLVED, resolve};
use super::model::MeshService;
use super::status::ConditionKind;
use super::traffic::Calls;
use super::wire;
use crate::object::gateway::BackendRef;
use crate::object::http_route::{Filter, Retry, Timeouts};
use crate::object::{Key, Metadata};

/// What decides which of two routes is asked first; the smaller one is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// Exact, then regular expressions, then prefixes.
    path_kind: u8,
    /// Of the path, or of the service of a gRPC method.
    path_length: Reverse<usize>,
    /// Of the method of a gRPC service.
    method_length: Reverse<usize>,
    any_method: bool,
    headers: Reverse<usize>,
    query: Reverse<usize>,
    age: (String, String, String),
    rule: usize,
}

/// Something that a route object says and that cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) route: Key,
    pub(super) kind: ConditionKind,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// A rule of either kind of route, without its matches.
pub(super) struct Rule<'a> {
    pub(super) index: usize,
    pub(super) filters: &'a [Filter],
    pub(super) backends: &'a [BackendRef<Filter>],
    pub(super) timeouts: Option<Timeouts>,
    pub(super) retry: Option<&'a Retry>,
    /// What a request gets whose backend is not there.
    pub(super) missing_status: u32,
    /// The name of something that is asked for and not carried.
    pub(super) unsupported: Option<&'static str>,
}

/// Compiles routes into the table of one port, and takes note of what cannot be had.
pub(super) struct Compiler<'a> {
    pub(super) services: &'a BTreeMap<Key, Arc<MeshService>>,
    pub(super) calls: &'a Calls,
    /// The cluster of the port itself.
    pub(super) own: String,
    pub(super) routes: Vec<(Rank, pb::Route)>,
    pub(super) findings: Vec<Finding>,
}

impl Compiler<'_> {
    /// The table, with what has precedence first. A port with routes answers 404 to what none of them matches.
    pub(super) fn table(mut self, attached: bool) -> (Vec<pb::Route>, Vec<Finding>) {
        if !attached {
            let action = self.forward(pb::route_action::ClusterSpecifier::Cluster(self.own.clone()));
            return (vec![route(matches::everything(), pb::route::Action::Route(action))], self.findings);
        }
        self.routes.sort_by(|(left, _), (right, _)| left.cmp(right));
        (self.routes.into_iter().map(|(_, route)| route).collect(), self.findings)
    }

    /// The routes of a rule, one for each match.
    fn rule(&mut self, key: &Key, rule: &Rule<'_>, matches: Vec<(Rank, pb::RouteMatch, Option<String>)>) {
        let name = rule_name(key, rule.index);
        for (rank, rule_match, prefix) in matches {
            let mut route = self.answer(key, rule, rule_match, prefix.as_deref());
            route.name.clone_from(&name);
            // The gate that every resource passes, here for each route, so that a bad one takes no other with it.
            if let Err(faults) = strict::decode::<pb::Route>(&route.encode_to_vec()) {
                self.unsupported(key, rule.index, &outrider_proto::fault::joined(&faults));
                route.action = Some(direct(500));
            }
            self.routes.push((rank, route));
        }
    }

    fn answer(
        &mut self,
        key: &Key,
        rule: &Rule<'_>,
        rule_match: pb::RouteMatch,
        prefix: Option<&str>,
    ) -> pb::Route {
        let mut built = route(rule_match, direct(500));
        if let Some(what) = rule.unsupported {
            self.unsupported(key, rule.index, &format!("{what} is not carried by the mesh"));
            return built;
        }
        let changes = match filters::Changes::of(rule.filters, prefix) {
            Ok(changes) => changes,
            Err(what) => {
                self.unsupported(key, rule.index, &what);
                return built;
            }
        };
        changes.put_on(&mut built);
        if let Some(redirect) = changes.redirect {
            built.action = Some(pb::route::Action::Redirect(redirect));
            return built;
        }
        let mut mirrors = Vec::new();
        for mirror in &changes.mirrors {
            match resolve(self.services, mirror.reference(&key.namespace)) {
                Ok(cluster) => mirrors.push(filters::mirror(mirror, cluster)),
                // A copy that nobody gets changes nothing for the client.
                Err(fault) => self.unresolved(key, fault),
            }
        }
        let Some(clusters) = self.clusters(key, rule) else {
            built.action = Some(direct(rule.missing_status));
            return built;
        };
        let mut action = self.forward(clusters);
        action.request_mirror_policies = mirrors;
        action.cluster_not_found_response_code = if rule.missing_status == 503 {
            pb::route_action::ClusterNotFoundResponseCode::ServiceUnavailable
        } else {
            pb::route_action::ClusterNotFoundResponseCode::InternalServerError
        }
        .into();
        changes.rewrite.put_on(&mut action);
        if let Some(retry) = rule.retry {
            super::traffic::retry(&mut action, retry);
        }
        if let Some(timeouts) = rule.timeouts {
            self.calls.limit(&mut action, timeouts);
        }
        built.action = Some(pb::route::Action::Route(action));
        built
    }

    /// Where the requests of a rule go; `None` when that is nowhere.
    fn clusters(&mut self, key: &Key, rule: &Rule<'_>) -> Option<pb::route_action::ClusterSpecifier> {
        let mut entries = Vec::new();
        for backend in rule.backends {
            let cluster = match resolve(self.services, backend.reference(&key.namespace)) {
                Ok(cluster) => cluster,
                Err(fault) => {
                    self.unresolved(key, fault);
                    UNRESOLVED.to_owned()
                }
            };
            let mut entry = pb::weighted_cluster::ClusterWeight {
                name: cluster,
                weight: Some(backend.weight),
                ..Default::default()
            };
            match filters::Changes::of(&backend.filters, None) {
                Ok(changes) if changes.is_headers_only() => changes.put_on_entry(&mut entry),
                Ok(_) => {
                    let what = "of a backend's filters only header modifiers are carried";
                    self.unsupported(key, rule.index, what);
                    UNRESOLVED.clone_into(&mut entry.name);
                }
                Err(what) => {
                    self.unsupported(key, rule.index, &what);
                    UNRESOLVED.clone_into(&mut entry.name);
                }
            }
            // Envoy refuses entries without a share.
            if backend.weight > 0 {
                entries.push(entry);
            }
        }
        match entries.as_slice() {
            [] => None,
            all if all.iter().all(|entry| entry.name == UNRESOLVED) => None,
            [one] if *one == plain(&one.name, one.weight) => {
                Some(pb::route_action::ClusterSpecifier::Cluster(one.name.clone()))
            }
            _ => Some(pb::route_action::ClusterSpecifier::WeightedClusters(pb::WeightedCluster {
                clusters: entries,
                total_weight: None,
            })),
        }
    }

    /// Forwarding as the service's policy wants it. Gateway API knows no default timeout.
    fn forward(&self, clusters: pb::route_action::ClusterSpecifier) -> pb::RouteAction {
        let mut action = pb::RouteAction { cluster_specifier: Some(clusters), ..Default::default() };
        self.calls.put_on(&mut action);
        action
    }

    fn unresolved(&mut self, route: &Key, fault: RefFault) {
        let RefFault { reason, message } = fault;
        self.note(Finding { route: route.clone(), kind: ConditionKind::ResolvedRefs, reason, message });
    }

    fn unsupported(&mut self, route: &Key, rule: usize, message: &str) {
        self.note(Finding {
            route: route.clone(),
            kind: ConditionKind::PartiallyInvalid,
            reason: "UnsupportedValue",
            message: format!("spec.rules[{rule}] answers 500: {message}"),
        });
    }

    fn note(&mut self, finding: Finding) {
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }
}

fn plain(name: &str, weight: Option<u32>) -> pb::weighted_cluster::ClusterWeight {
    pb::weighted_cluster::ClusterWeight { name: name.to_owned(), weight, ..Default::default() }
}

fn route(rule: pb::RouteMatch, action: pb::route::Action) -> pb::Route {
    pb::Route { r#match: Some(rule), action: Some(action), ..Default::default() }
}

fn direct(status: u32) -> pb::route::Action {
    pb::route::Action::DirectResponse(pb::DirectResponseAction { status, body: None })
}

fn rank(meta: &Metadata, rule: usize) -> Rank {
    let (created, namespace, name) = super::attach::age(meta);
    Rank {
        path_kind: 2,
        path_length: Reverse(0),
        method_length: Reverse(0),
        any_method: true,
        headers: Reverse(0),
        query: Reverse(0),
        age: (created.to_owned(), namespace.to_owned(), name.to_owned()),
        rule,
    }
}

/// The route table of a port, whatever host is named: the connection's destination decided already.
pub(super) fn configuration(name: &str, routes: Vec<pb::Route>) -> pb::RouteConfiguration {
    pb::RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: vec![pb::VirtualHost {
            name: name.to_owned(),
            domains: vec!["*".to_owned()],
            routes,
            ..Default::default()
        }],
        validate_clusters: Some(false),
        ..Default::default()
    }
}

/// What a rule is called: in access logs, and by faults.
pub(super) fn rule_name(route: &Key, index: usize) -> String {
    format!("{route}#{index}")
}

/// A condition on a header.
fn header(name: &str, value: outrider_proto::envoy::r#type::matcher::v3::StringMatcher) -> pb::HeaderMatcher {
    pb::HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(pb::header_matcher::HeaderMatchSpecifier::StringMatch(value)),
        ..Default::default()
    }
}

/// A regular expression over the whole text.
fn whole(text: &str) -> outrider_proto::envoy::r#type::matcher::v3::StringMatcher {
    use outrider_proto::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
    wire::string(MatchPattern::SafeRegex(wire::regex(text)))
}
