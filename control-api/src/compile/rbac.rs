//! `AuthorizationPolicy` into the authorization filters of a workload.
//!
//! Two filters: what is denied, then what is allowed. Policies in audit mode stand in the shadow rules of either. A
//! connection has no methods, paths or headers: there a rule about them allows nothing, and denies whatever else fits.

mod rule;

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::Arc;

use outrider_proto::envoy::config::listener::v3 as listener;
use outrider_proto::envoy::config::rbac::v3 as pb;
use outrider_proto::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use outrider_proto::type_url;
use prost::Message;
use prost_types::Any;

use super::{Settings, chain};
use crate::object::authorization::{Action, AuthorizationPolicy, DefaultAction, Mode, MtlsMode};
use crate::object::meta::selects;
use crate::object::{Key, Object, Objects};

const HTTP_RBAC: &str = "envoy.extensions.filters.http.rbac.v3.RBAC";
const NETWORK_RBAC: &str = "envoy.extensions.filters.network.rbac.v3.RBAC";
/// The filter that denies.
const DENY: &str = "outrider.authorization.deny";
/// The filter that allows.
const ALLOW: &str = "outrider.authorization.allow";

/// The filter that denies protected destinations.
const DENY_EGRESS: &str = "outrider.egress.deny";

/// Both filters' messages, with the rules encoded already: a map's order on the wire must not be left to chance, or equal
/// configurations would look different.
#[derive(Clone, PartialEq, Message)]
struct HttpRbac {
    #[prost(bytes = "vec", optional, tag = "1")]
    rules: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "2")]
    shadow_rules: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct NetworkRbac {
    #[prost(bytes = "vec", optional, tag = "1")]
    rules: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "2")]
    shadow_rules: Option<Vec<u8>>,
    #[prost(string, tag = "3")]
    stat_prefix: String,
}

/// The policies that hold for one workload.
#[derive(Debug)]
pub(super) struct Guard<'a> {
    settings: &'a Settings,
    policies: Vec<Arc<Object<AuthorizationPolicy>>>,
    default: Option<DefaultAction>,
    mtls: MtlsMode,
}

/// What rules are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layer {
    Http,
    Connection,
}

type Policies = BTreeMap<String, pb::Policy>;

/// A filter that is needed.
struct Needed {
    name: &'static str,
    /// What is enforced, encoded.
    rules: Option<Vec<u8>>,
    /// What is only recorded, encoded.
    shadow_rules: Option<Vec<u8>>,
}

impl<'a> Guard<'a> {
    /// What holds for a workload of this namespace and with these labels.
    pub(super) fn new(
        objects: &Objects,
        settings: &'a Settings,
        namespace: &str,
        labels: &BTreeMap<String, String>,
    ) -> Self {
        let mut policies: Vec<(u8, Arc<Object<AuthorizationPolicy>>)> = Vec::new();
        for policy in objects.authorization.values() {
            let of_mesh = *policy.key.namespace == *settings.root_namespace && policy.spec.selector.is_none();
            let of_namespace = *policy.key.namespace == *namespace;
            let width = match &policy.spec.selector {
                None if of_namespace => 1,
                None if of_mesh => 2,
                Some(selector) if of_namespace && selects(&selector.match_labels, labels) => 0,
                Some(_) | None => continue,
            };
            policies.push((width, Arc::clone(policy)));
        }
        // The narrowest first; among equals the older one.
        policies.sort_by(|(left_width, left), (right_width, right)| {
            left_width
                .cmp(right_width)
                .then_with(|| super::attach::age(&left.meta).cmp(&super::attach::age(&right.meta)))
        });
        let default = policies.iter().find_map(|(_, policy)| policy.spec.default);
        let mtls = policies.iter().find_map(|(_, policy)| policy.spec.mtls).unwrap_or(MtlsMode::Strict);
        let policies = policies.into_iter().map(|(_, policy)| policy).collect();
        Self { settings, policies, default, mtls }
    }

    /// Which policies those are.
    pub(super) fn policies(&self) -> impl Iterator<Item = &Key> {
        self.policies.iter().map(|policy| &policy.key)
    }

    /// Whether plaintext is accepted beside mutual TLS.
    pub(super) fn accepts_plaintext(&self) -> bool {
        self.mtls == MtlsMode::Permissive
    }

    /// The filters of requests.
    pub(super) fn http(&self) -> Vec<HttpFilter> {
        let filters = self.filters(Layer::Http).into_iter().map(|Needed { name, rules, shadow_rules }| {
            let message = HttpRbac { rules, shadow_rules };
            chain::http_filter(name, packed(HTTP_RBAC, &message))
        });
        filters.collect()
    }

    /// The filters of connections.
    pub(super) fn connection(&self) -> Vec<listener::Filter> {
        let filters =
            self.filters(Layer::Connection).into_iter().map(|Needed { name, rules, shadow_rules }| {
                let message = NetworkRbac { rules, shadow_rules, stat_prefix: name.to_owned() };
                chain::filter(name, packed(NETWORK_RBAC, &message))
            });
        filters.collect()
    }

    /// The filters that are needed, in their order.
    fn filters(&self, layer: Layer) -> Vec<Needed> {
        let deny = self.of(Action::Deny, Mode::Enforce, layer);
        let deny_audit = self.of(Action::Deny, Mode::Audit, layer);
        let allow = self.of(Action::Allow, Mode::Enforce, layer);
        let allow_audit = self.of(Action::Allow, Mode::Audit, layer);
        let mut filters = Vec::new();
        if deny.is_some() || deny_audit.is_some() {
            filters.push(Needed {
                name: DENY,
                rules: deny.map(|policies| encoded(pb::rbac::Action::Deny, &policies)),
                shadow_rules: deny_audit.map(|policies| encoded(pb::rbac::Action::Deny, &policies)),
            });
        }
        let shadow = allow_audit.map(|mut policies| {
            // What would hold if these were enforced too.
            policies.extend(allow.clone().unwrap_or_default());
            encoded(pb::rbac::Action::Allow, &policies)
        });
        let rules = allow
            .or_else(|| self.unless_allowed())
            .map(|policies| encoded(pb::rbac::Action::Allow, &policies));
        if rules.is_some() || shadow.is_some() {
            filters.push(Needed { name: ALLOW, rules, shadow_rules: shadow });
        }
        filters
    }

    /// What holds where no policy allows anything: `None` is everything.
    fn unless_allowed(&self) -> Option<Policies> {
        let implied = match self.mtls {
            MtlsMode::Strict => DefaultAction::AllowMesh,
            MtlsMode::Permissive => DefaultAction::AllowAll,
        };
        match self.default.unwrap_or(implied) {
            DefaultAction::AllowAll => None,
            DefaultAction::Deny => Some(Policies::new()),
            DefaultAction::AllowMesh => Some(Policies::from([(
                "default/allow-mesh".to_owned(),
                pb::Policy {
                    permissions: vec![rule::any_permission()],
                    principals: vec![rule::named(super::wire::prefix(&self.settings.identities()))],
                },
            )])),
        }
    }

    /// The policies of an action and a mode; `None` when there are none, which is not the same as none that match.
    fn of(&self, action: Action, mode: Mode, layer: Layer) -> Option<Policies> {
        let mut found = None;
        for policy in &self.policies {
            if policy.spec.rules.is_empty() || policy.spec.action != action || policy.spec.mode != mode {
                continue;
            }
            let list: &mut Policies = found.get_or_insert_default();
            for (index, one) in policy.spec.rules.iter().enumerate() {
                let name = format!("{}/{}[{index}]", policy.key.namespace, policy.key.name);
                if let Some(built) = rule::policy(one, action, layer, self.settings) {
                    list.insert(name, built);
                }
            }
        }
        found
    }
}

/// Ends connections to these destinations.
pub(super) fn denied_destinations(rules: Vec<pb::permission::Rule>) -> listener::Filter {
    let policy = pb::Policy {
        permissions: rules.into_iter().map(|rule| pb::Permission { rule: Some(rule) }).collect(),
        principals: vec![pb::Principal { identifier: Some(pb::principal::Identifier::Any(true)) }],
    };
    let policies = Policies::from([("egress/protected".to_owned(), policy)]);
    let message = NetworkRbac {
        rules: Some(encoded(pb::rbac::Action::Deny, &policies)),
        shadow_rules: None,
        stat_prefix: DENY_EGRESS.to_owned(),
    };
    chain::filter(DENY_EGRESS, packed(NETWORK_RBAC, &message))
}

/// The rules with their policies in the order of their names. Messages that are written one after the other are merged by
/// who reads them: a map gets all entries.
fn encoded(action: pb::rbac::Action, policies: &Policies) -> Vec<u8> {
    let mut bytes = pb::Rbac { action: action.into(), policies: HashMap::new() }.encode_to_vec();
    for (name, policy) in policies {
        let one = pb::Rbac { action: 0, policies: HashMap::from([(name.clone(), policy.clone())]) };
        bytes.extend(one.encode_to_vec());
    }
    bytes
}

fn packed(name: &str, message: &impl Message) -> Any {
    Any { type_url: format!("{}{name}", type_url::PREFIX), value: message.encode_to_vec() }
}
