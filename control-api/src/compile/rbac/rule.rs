//! One rule of a policy.

use outrider_proto::envoy::config::rbac::v3 as pb;
use outrider_proto::envoy::config::route::v3 as route;
use outrider_proto::envoy::r#type::matcher::v3::{PathMatcher, StringMatcher, path_matcher};
use pb::permission::Rule as Permit;
use pb::principal::Identifier as Who;

use super::Layer;
use crate::compile::{Settings, wire};
use crate::object::authorization::{Action, Operation, Rule, Source};

/// A rule; `None` when it cannot match on this layer.
pub(super) fn policy(value: &Rule, action: Action, layer: Layer, settings: &Settings) -> Option<pb::Policy> {
    let mut permissions: Vec<pb::Permission> = Vec::new();
    for operation in &value.to {
        if layer == Layer::Connection && operation.is_http() && action == Action::Allow {
            continue;
        }
        permissions.push(permission(operation, layer));
    }
    match (value.to.is_empty(), permissions.is_empty()) {
        (true, _) => permissions.push(any_permission()),
        // It is about requests, and these are connections.
        (false, true) => return None,
        (false, false) => {}
    }
    let mut principals: Vec<pb::Principal> =
        value.from.iter().map(|source| principal(source, settings)).collect();
    if principals.is_empty() {
        principals.push(who(Who::Any(true)));
    }
    Some(pb::Policy { permissions, principals })
}

pub(super) fn any_permission() -> pb::Permission {
    permit(Permit::Any(true))
}

/// A peer with an identity like this.
pub(super) fn named(name: StringMatcher) -> pb::Principal {
    who(Who::Authenticated(pb::principal::Authenticated { principal_name: Some(name) }))
}

fn permission(value: &Operation, layer: Layer) -> pb::Permission {
    let mut all = Vec::new();
    if !value.ports.is_empty() {
        all.push(one_permission(value.ports.iter().map(|port| Permit::DestinationPort((*port).into()))));
    }
    if layer == Layer::Http {
        if !value.methods.is_empty() {
            let each = value.methods.iter().map(|method| header(":method", wire::exact(method)));
            all.push(one_permission(each.map(Permit::Header)));
        }
        if !value.paths.is_empty() {
            all.push(one_permission(value.paths.iter().map(|path| {
                Permit::UrlPath(PathMatcher { rule: Some(path_matcher::Rule::Path(wire::pattern(path))) })
            })));
        }
        for (name, values) in &value.headers {
            let name = name.to_ascii_lowercase();
            all.push(one_permission(
                values.iter().map(|value| Permit::Header(header(&name, wire::pattern(value)))),
            ));
        }
    }
    match all.len() {
        0 => any_permission(),
        1 => all.swap_remove(0),
        _ => permit(Permit::AndRules(pb::permission::Set { rules: all })),
    }
}

fn one_permission(rules: impl Iterator<Item = Permit>) -> pb::Permission {
    let mut rules: Vec<pb::Permission> = rules.map(permit).collect();
    match rules.len() {
        1 => rules.swap_remove(0),
        _ => permit(Permit::OrRules(pb::permission::Set { rules })),
    }
}

fn principal(value: &Source, settings: &Settings) -> pb::Principal {
    let mut all = Vec::new();
    if !value.identities.is_empty() {
        all.push(one_principal(value.identities.iter().map(|text| identity(text)).collect()));
    }
    if !value.not_identities.is_empty() {
        let any = one_principal(value.not_identities.iter().map(|text| identity(text)).collect());
        all.push(who(Who::NotId(Box::new(any))));
    }
    if !value.namespaces.is_empty() {
        let each = value
            .namespaces
            .iter()
            .map(|namespace| named(wire::prefix(&format!("{}ns/{namespace}/", settings.identities()))));
        all.push(one_principal(each.collect()));
    }
    if !value.service_accounts.is_empty() {
        let each = value.service_accounts.iter().filter_map(|account| account.split_once('/'));
        let each = each.map(|(namespace, name)| named(wire::exact(&settings.identity(namespace, name))));
        all.push(one_principal(each.collect()));
    }
    if !value.ip_blocks.is_empty() {
        let each = value.ip_blocks.iter();
        let each = each.map(|block| who(Who::DirectRemoteIp(wire::cidr(block.address, block.bits))));
        all.push(one_principal(each.collect()));
    }
    match all.len() {
        0 => who(Who::Any(true)),
        1 => all.swap_remove(0),
        _ => who(Who::AndIds(pb::principal::Set { ids: all })),
    }
}

fn one_principal(mut ids: Vec<pb::Principal>) -> pb::Principal {
    match ids.len() {
        1 => ids.swap_remove(0),
        _ => who(Who::OrIds(pb::principal::Set { ids })),
    }
}

fn identity(text: &str) -> pb::Principal {
    if text == "*" {
        who(Who::Authenticated(pb::principal::Authenticated { principal_name: None }))
    } else {
        named(wire::pattern(text))
    }
}

fn header(name: &str, value: StringMatcher) -> route::HeaderMatcher {
    route::HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(route::header_matcher::HeaderMatchSpecifier::StringMatch(value)),
        ..Default::default()
    }
}

fn permit(rule: Permit) -> pb::Permission {
    pb::Permission { rule: Some(rule) }
}

fn who(identifier: Who) -> pb::Principal {
    pb::Principal { identifier: Some(identifier) }
}
