//! `AuthorizationPolicy`: who may talk to a workload, and how.

use std::collections::BTreeMap;

use outrider_proto::Path;
use schemars::JsonSchema;
use serde::Deserialize;

use super::http_text::matched_header_fault;
use super::scalar::Cidr;
use super::workload::Selector;
use super::{ObjectKind, Spec};

/// Most rules of a policy, and most entries of any list in it.
const MAX_ITEMS: usize = 512;

/// Who may talk to the workloads that it selects.
///
/// A policy in the mesh's own namespace that selects nothing holds for the whole mesh. What a `Deny` policy matches is
/// denied. Where `Allow` policies hold, only what one of them matches is allowed; where none does, the default holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct AuthorizationPolicy {
    /// Workloads of the policy's namespace; all of them when it is not said.
    #[serde(default)]
    pub selector: Option<Selector>,
    /// What holds where no `Allow` policy does; the narrowest scope wins: workload, namespace, mesh.
    #[serde(default)]
    pub default: Option<DefaultAction>,
    /// Whether plaintext is accepted; the narrowest scope wins.
    #[serde(default)]
    pub mtls: Option<MtlsMode>,
    /// What the rules do.
    #[serde(default)]
    pub action: Action,
    /// Whether they do it, or only say what they would do.
    #[serde(default)]
    pub mode: Mode,
    /// Requests that are meant; an entry matches when all that it says holds.
    #[serde(default)]
    #[schemars(length(max = 512))]
    pub rules: Vec<Rule>,
}

/// What happens to a request that nothing decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum DefaultAction {
    /// It is denied.
    Deny,
    /// It is allowed for callers with an identity of the mesh.
    AllowMesh,
    /// It is allowed.
    AllowAll,
}

/// Whether plaintext is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum MtlsMode {
    /// Only mutual TLS.
    Strict,
    /// Both, on one port.
    Permissive,
}

/// What rules do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Action {
    /// Allow what they match.
    #[default]
    Allow,
    /// Deny what they match.
    Deny,
}

/// Whether rules are enforced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Mode {
    /// They are.
    #[default]
    Enforce,
    /// What they would have decided is recorded, and nothing else happens.
    Audit,
}

/// Requests that are meant: by who sends them, and what they are. An empty rule means every request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// One of these; anybody when there are none.
    #[serde(default)]
    #[schemars(length(max = 512))]
    pub from: Vec<Source>,
    /// One of these; anything when there are none.
    #[serde(default)]
    #[schemars(length(max = 512))]
    pub to: Vec<Operation>,
}

/// Who sends: all that is said must hold, and of each list one entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Source {
    /// SPIFFE IDs; `*` at the end stands for anything, and alone for any identity.
    #[serde(default)]
    #[schemars(length(max = 512), inner(length(min = 1, max = 2048)))]
    pub identities: Vec<String>,
    /// None of these.
    #[serde(default)]
    #[schemars(length(max = 512), inner(length(min = 1, max = 2048)))]
    pub not_identities: Vec<String>,
    /// Identities of these namespaces.
    #[serde(default)]
    #[schemars(length(max = 512), inner(length(min = 1, max = 63)))]
    pub namespaces: Vec<String>,
    /// Identities of these service accounts, `NAMESPACE/NAME`.
    #[serde(default)]
    #[schemars(length(max = 512), inner(length(min = 1, max = 317)))]
    pub service_accounts: Vec<String>,
    /// The address that the connection comes from.
    #[serde(default)]
    #[schemars(length(max = 512))]
    pub ip_blocks: Vec<Cidr>,
}

/// What is sent: all that is said must hold, and of each list one entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    /// The workload's port.
    #[serde(default)]
    #[schemars(length(max = 64), inner(range(min = 1, max = 65535)))]
    pub ports: Vec<u16>,
    /// Methods of HTTP.
    #[serde(default)]
    #[schemars(length(max = 64), inner(length(min = 1, max = 32)))]
    pub methods: Vec<String>,
    /// Normalised paths without query; `*` at the beginning or the end stands for anything.
    #[serde(default)]
    #[schemars(length(max = 512), inner(length(min = 1, max = 1024)))]
    pub paths: Vec<String>,
    /// Headers by name, with the values of which one must be there; `*` as with paths.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 64))]
    pub headers: BTreeMap<String, Vec<String>>,
}

impl Operation {
    /// Whether it says anything that opaque connections do not have.
    #[must_use]
    pub fn is_http(&self) -> bool {
        !self.methods.is_empty() || !self.paths.is_empty() || !self.headers.is_empty()
    }
}

impl Spec for AuthorizationPolicy {
    const KIND: ObjectKind = ObjectKind::AuthorizationPolicy;

    fn check(&self, path: &mut Path) {
        if self.rules.len() > MAX_ITEMS {
            path.fault_at("rules", format!("more than {MAX_ITEMS}"));
        }
        let settings_only = self.default.is_some() || self.mtls.is_some();
        if self.rules.is_empty() && self.action == Action::Deny {
            path.fault_at(
                "rules",
                "a Deny policy without rules denies nothing; to deny everything write [{}]",
            );
        } else if self.rules.is_empty() && self.mode == Mode::Audit {
            path.fault_at("mode", "there are no rules to audit; default and mtls are always enforced");
        } else if self.rules.is_empty() && !settings_only {
            path.fault_at("rules", "the policy says nothing: set rules, default or mtls");
        }
        for (index, rule) in self.rules.iter().enumerate() {
            path.item("rules", index, |path| {
                if rule.from.len() > MAX_ITEMS || rule.to.len() > MAX_ITEMS {
                    path.fault(format!("more than {MAX_ITEMS} entries"));
                }
                for (index, source) in rule.from.iter().enumerate() {
                    path.item("from", index, |path| source.check(path));
                }
                for (index, operation) in rule.to.iter().enumerate() {
                    path.item("to", index, |path| operation.check(path));
                }
            });
        }
    }
}

impl Source {
    fn check(&self, path: &mut Path) {
        if *self == Self::default() {
            path.fault("says nothing; leave `from` out to mean anybody");
        }
        for (list, name) in [(&self.identities, "identities"), (&self.not_identities, "notIdentities")] {
            for (index, identity) in list.iter().enumerate() {
                let text = identity.strip_suffix('*').unwrap_or(identity);
                let valid = text.starts_with("spiffe://") || identity == "*";
                if !valid || text.contains('*') {
                    path.item(name, index, |path| {
                        path.fault("must begin with spiffe://; * may only stand at the end, or alone");
                    });
                }
            }
        }
        for (index, name) in self.namespaces.iter().enumerate() {
            if !super::meta::is_label(name) {
                path.item("namespaces", index, |path| path.fault("not the name of a namespace"));
            }
        }
        for (index, account) in self.service_accounts.iter().enumerate() {
            let valid = account.split_once('/').is_some_and(|(namespace, name)| {
                super::meta::is_label(namespace) && super::meta::is_subdomain(name)
            });
            if !valid {
                path.item("serviceAccounts", index, |path| path.fault("must be NAMESPACE/NAME"));
            }
        }
    }
}

impl Operation {
    fn check(&self, path: &mut Path) {
        if *self == Self::default() {
            path.fault("says nothing; leave `to` out to mean anything");
        }
        if self.ports.contains(&0) {
            path.fault_at("ports", "must be from 1 to 65535");
        }
        for (index, method) in self.methods.iter().enumerate() {
            if method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-') {
                path.item("methods", index, |path| path.fault("must be upper-case letters, as on the wire"));
            }
        }
        for (index, text) in self.paths.iter().enumerate() {
            if !is_pattern(text) || !text.starts_with(['/', '*']) {
                path.item("paths", index, |path| {
                    path.fault(
                        "must begin with \"/\" or \"*\"; * may only stand at the beginning or the end",
                    );
                });
            } else if text.contains(['?', '#']) || text.contains("//") || text.contains("/../") {
                path.item("paths", index, |path| path.fault("would never match: paths are normalised"));
            }
        }
        for (name, values) in &self.headers {
            path.field("headers", |path| {
                path.key(name, |path| {
                    if let Some(fault) = matched_header_fault(name) {
                        path.fault(fault);
                    }
                    if values.is_empty() || !values.iter().all(|value| is_pattern(value)) {
                        path.fault(
                            "values are needed; * may only stand at the beginning or the end, or alone",
                        );
                    }
                });
            });
        }
    }
}

/// Whether a text is exact, or has one `*` at its beginning or its end.
pub(super) fn is_pattern(text: &str) -> bool {
    let inner = text.strip_prefix('*').or_else(|| text.strip_suffix('*')).unwrap_or(text);
    !text.is_empty() && !inner.contains('*')
}
