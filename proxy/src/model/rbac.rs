//! Authorization filters: the rules of HTTP requests, of connections, and of single routes.

use std::sync::Arc;

use outrider_proto::Path;
use outrider_proto::envoy::config::core::v3 as core;
use outrider_proto::envoy::config::rbac::v3 as pb;
use outrider_proto::envoy::extensions::filters::http::rbac::v3 as http;
use outrider_proto::envoy::extensions::filters::network::rbac::v3 as network;
use outrider_proto::envoy::r#type::matcher::v3 as matcher;

use super::matcher::{HeaderMatcher, StringMatcher};
use super::parse;
use crate::policy::{Action, Filter, IpRange, Policy, PolicySet, Rule};

/// Policies of one set.
const MAX_POLICIES: usize = 100_000;
/// How deep rules may be nested in each other.
const MAX_DEPTH: usize = 32;

/// An authorization filter under its name.
#[derive(Debug)]
pub struct HttpPolicies {
    /// What routes call it by.
    pub name: Arc<str>,
    /// What holds where a route does not say otherwise.
    pub filter: Filter,
}

/// The filter of HTTP requests.
pub(super) fn http_filter(value: &http::Rbac, path: &mut Path) -> Filter {
    let sets = Sets { rules: value.rules.as_ref(), shadow: value.shadow_rules.as_ref() };
    sets.compile(Scope::Http, (&value.rules_stat_prefix, &value.shadow_rules_stat_prefix), path)
}

/// What a route says to it.
pub(super) fn per_route(value: &http::RbacPerRoute, path: &mut Path) -> Filter {
    match &value.rbac {
        Some(rbac) => path.field("rbac", |path| http_filter(rbac, path)),
        None => Filter::default(),
    }
}

/// The filter of connections.
pub(super) fn network_filter(value: &network::Rbac, path: &mut Path) -> Filter {
    parse::required(&value.stat_prefix, "stat_prefix", path);
    let sets = Sets { rules: value.rules.as_ref(), shadow: value.shadow_rules.as_ref() };
    sets.compile(Scope::Connection, ("", &value.shadow_rules_stat_prefix), path)
}

/// What rules are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    Http,
    Connection,
}

struct Sets<'a> {
    rules: Option<&'a pb::Rbac>,
    shadow: Option<&'a pb::Rbac>,
}

impl Sets<'_> {
    fn compile(&self, scope: Scope, (prefix, shadow_prefix): (&str, &str), path: &mut Path) -> Filter {
        let mut one = |value: Option<&pb::Rbac>, name: &str, prefix: &str| {
            value.map(|value| path.field(name, |path| policy_set(value, scope, prefix, path)))
        };
        Filter {
            rules: one(self.rules, "rules", prefix),
            shadow: one(self.shadow, "shadow_rules", shadow_prefix),
        }
    }
}

fn policy_set(value: &pb::Rbac, scope: Scope, prefix: &str, path: &mut Path) -> PolicySet {
    let action = match value.action() {
        pb::rbac::Action::Allow => Action::Allow,
        pb::rbac::Action::Deny => Action::Deny,
        pb::rbac::Action::Log => Action::Log,
    };
    if value.policies.len() > MAX_POLICIES {
        path.fault_at("policies", format!("more than {MAX_POLICIES}"));
    }
    // As Envoy joins the parts of a name in metrics.
    let prefix = match prefix.trim_end_matches('.') {
        "" => String::new(),
        prefix => format!("{prefix}."),
    };
    let mut sorted: Vec<_> = value.policies.iter().take(MAX_POLICIES).collect();
    sorted.sort_by_key(|(name, _)| *name);
    let policies = sorted.into_iter().filter_map(|(name, policy)| {
        path.field("policies", |path| {
            path.key(name, |path| {
                let rule = policy_rule(policy, scope, path)?;
                let name: Arc<str> = name.as_str().into();
                let label =
                    if prefix.is_empty() { Arc::clone(&name) } else { format!("{prefix}{name}").into() };
                Some(Policy { name, label, rule })
            })
        })
    });
    let policies = policies.collect();
    PolicySet::new(action, policies, &prefix)
}

fn policy_rule(value: &pb::Policy, scope: Scope, path: &mut Path) -> Option<Rule> {
    let mut compile = Compile { scope, depth: 0, path };
    let what = compile.list(&value.permissions, "permissions", Compile::permission);
    let who = compile.list(&value.principals, "principals", Compile::principal);
    Some(Rule::All([one_of(what?), one_of(who?)].into()))
}

fn one_of(mut rules: Vec<Rule>) -> Rule {
    match rules.pop() {
        Some(only) if rules.is_empty() => only,
        Some(last) => {
            rules.push(last);
            Rule::One(rules.into())
        }
        None => Rule::One(Box::default()),
    }
}

/// The way through nested rules.
struct Compile<'a> {
    scope: Scope,
    depth: usize,
    path: &'a mut Path,
}

impl Compile<'_> {
    /// A list that must not be empty: an empty one would match everything or nothing, by the reader's taste.
    fn list<T>(
        &mut self,
        values: &[T],
        name: &str,
        one: fn(&mut Compile<'_>, &T) -> Option<Rule>,
    ) -> Option<Vec<Rule>> {
        if values.is_empty() {
            return self.path.field(name, |path| path.refuse("missing; {any: true} takes everything"));
        }
        let rules: Vec<Rule> = values
            .iter()
            .enumerate()
            .filter_map(|(index, value)| self.item(name, index, |deeper| one(deeper, value)))
            .collect();
        // One that is left out has had its fault.
        (rules.len() == values.len()).then_some(rules)
    }

    fn item<T>(&mut self, name: &str, index: usize, body: impl FnOnce(&mut Compile<'_>) -> T) -> T {
        self.field(&format!("{name}[{index}]"), body)
    }

    fn field<T>(&mut self, name: &str, body: impl FnOnce(&mut Compile<'_>) -> T) -> T {
        let (scope, depth) = (self.scope, self.depth);
        self.path.field(name, |path| body(&mut Compile { scope, depth, path }))
    }

    /// Goes one rule deeper.
    fn deeper<T>(&mut self, name: &str, body: impl FnOnce(&mut Compile<'_>) -> Option<T>) -> Option<T> {
        self.field(name, |deeper| {
            deeper.depth += 1;
            if deeper.depth > MAX_DEPTH {
                return deeper.path.refuse(format!("rules are nested more than {MAX_DEPTH} deep"));
            }
            body(deeper)
        })
    }

    fn permission(this: &mut Compile<'_>, value: &pb::Permission) -> Option<Rule> {
        use pb::permission::Rule as Pb;
        match &value.rule {
            Some(Pb::AndRules(set)) => this
                .deeper("and_rules", |this| this.list(&set.rules, "rules", Compile::permission))
                .map(|rules| Rule::All(rules.into())),
            Some(Pb::OrRules(set)) => this
                .deeper("or_rules", |this| this.list(&set.rules, "rules", Compile::permission))
                .map(one_of),
            Some(Pb::NotRule(rule)) => this
                .deeper("not_rule", |this| Compile::permission(this, rule))
                .map(|rule| Rule::Not(Box::new(rule))),
            Some(Pb::Any(any)) => this.any(*any),
            Some(Pb::Header(header)) => this.header(header),
            Some(Pb::UrlPath(url)) => this.url_path(url),
            Some(Pb::DestinationIp(range)) => this.range(range, "destination_ip").map(Rule::Destination),
            Some(Pb::DestinationPort(port)) => match u16::try_from(*port) {
                Ok(port) => Some(Rule::Port(port.into()..u32::from(port) + 1)),
                Err(_) => this.path.field("destination_port", |path| path.refuse("larger than 65535")),
            },
            Some(Pb::DestinationPortRange(range)) => {
                this.path.field("destination_port_range", |path| parse::ports(*range, path)).map(Rule::Port)
            }
            Some(Pb::RequestedServerName(name)) => this
                .path
                .field("requested_server_name", |path| StringMatcher::from_proto(name, path))
                .map(Rule::ServerName),
            None => this.path.refuse("no rule is set"),
        }
    }

    fn principal(this: &mut Compile<'_>, value: &pb::Principal) -> Option<Rule> {
        use pb::principal::Identifier as Pb;
        match &value.identifier {
            Some(Pb::AndIds(set)) => this
                .deeper("and_ids", |this| this.list(&set.ids, "ids", Compile::principal))
                .map(|rules| Rule::All(rules.into())),
            Some(Pb::OrIds(set)) => {
                this.deeper("or_ids", |this| this.list(&set.ids, "ids", Compile::principal)).map(one_of)
            }
            Some(Pb::NotId(id)) => this
                .deeper("not_id", |this| Compile::principal(this, id))
                .map(|rule| Rule::Not(Box::new(rule))),
            Some(Pb::Any(any)) => this.any(*any),
            Some(Pb::Authenticated(peer)) => match &peer.principal_name {
                None => Some(Rule::Authenticated(None)),
                Some(name) => this
                    .path
                    .field("authenticated.principal_name", |path| StringMatcher::from_proto(name, path))
                    .map(|name| Rule::Authenticated(Some(name))),
            },
            Some(Pb::Header(header)) => this.header(header),
            Some(Pb::UrlPath(url)) => this.url_path(url),
            Some(Pb::SourceIp(range)) => this.range(range, "source_ip").map(Rule::DirectRemote),
            Some(Pb::DirectRemoteIp(range)) => this.range(range, "direct_remote_ip").map(Rule::DirectRemote),
            Some(Pb::RemoteIp(range)) => this.range(range, "remote_ip").map(Rule::Remote),
            None => this.path.refuse("no identifier is set"),
        }
    }

    fn any(&mut self, any: bool) -> Option<Rule> {
        if any { Some(Rule::Any) } else { self.path.field("any", |path| path.refuse("must be true")) }
    }

    fn header(&mut self, value: &outrider_proto::envoy::config::route::v3::HeaderMatcher) -> Option<Rule> {
        let scope = self.scope;
        self.path.field("header", |path| {
            only_http(scope, path)?;
            HeaderMatcher::from_proto(value, path).map(Rule::Header)
        })
    }

    fn url_path(&mut self, value: &matcher::PathMatcher) -> Option<Rule> {
        let scope = self.scope;
        self.path.field("url_path", |path| {
            only_http(scope, path)?;
            let Some(matcher::path_matcher::Rule::Path(rule)) = &value.rule else {
                return path.refuse("no path is set");
            };
            path.field("path", |path| StringMatcher::from_proto(rule, path)).map(Rule::Path)
        })
    }

    fn range(&mut self, value: &core::CidrRange, name: &str) -> Option<IpRange> {
        self.path.field(name, |path| parse::ip_range(value, path))
    }
}

/// A connection has no head: such a rule would never hold, or always.
fn only_http(scope: Scope, path: &mut Path) -> Option<()> {
    match scope {
        Scope::Http => Some(()),
        Scope::Connection => path.refuse("a connection has none; use the HTTP filter"),
    }
}

#[cfg(test)]
mod tests;
