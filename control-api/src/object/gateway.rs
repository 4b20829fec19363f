//! What the routes of Gateway API have in common, and the shorter ones: `GRPCRoute` and `TCPRoute`.
//!
//! The shapes are those of Gateway API 1.6 (`gateway.networking.k8s.io/v1`). What is known upstream but not carried
//! by the mesh (`sessionPersistence`, `CORS`, extensions) is read, and said in the status of the route.

use outrider_proto::Path;
use serde::Deserialize;
use serde_json::Value;

use super::http_text::{check_changed_header, check_header_value, check_regex, matched_header_fault};
use super::{ObjectKind, Spec};

/// Most rules of a route, and most matches, filters or backends of a rule, as upstream.
pub const MAX_ITEMS: usize = 16;

/// What a route is attached to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ParentRef {
    /// The API group; `gateway.networking.k8s.io` when it is not said, empty for services.
    #[serde(default = "gateway_group")]
    pub group: String,
    /// The kind; `Gateway` when it is not said.
    #[serde(default = "gateway_kind")]
    pub kind: String,
    /// The namespace; the route's own when it is not said.
    #[serde(default)]
    pub namespace: Option<String>,
    /// The name.
    pub name: String,
    /// A listener of a gateway; none for services.
    #[serde(default)]
    pub section_name: Option<String>,
    /// One port of the service; all of them when it is not said.
    #[serde(default)]
    pub port: Option<u16>,
}

fn gateway_group() -> String {
    super::key::GATEWAY_GROUP.to_owned()
}

fn gateway_kind() -> String {
    "Gateway".to_owned()
}

/// Where requests go.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct BackendRef<F> {
    /// The API group; empty for services.
    #[serde(default)]
    pub group: String,
    /// The kind; `Service` when it is not said.
    #[serde(default = "service_kind")]
    pub kind: String,
    /// The namespace; the route's own when it is not said.
    #[serde(default)]
    pub namespace: Option<String>,
    /// The name.
    pub name: String,
    /// The port; services need one.
    #[serde(default)]
    pub port: Option<u16>,
    /// Its share, relative to the others.
    #[serde(default = "one")]
    pub weight: u32,
    /// For requests that go there only.
    #[serde(default = "Vec::new")]
    pub filters: Vec<F>,
}

/// Largest weight of a backend, as upstream.
const MAX_WEIGHT: u32 = 1_000_000;

impl<F> BackendRef<F> {
    pub(super) fn check(&self, path: &mut Path) {
        if self.weight > MAX_WEIGHT {
            path.fault_at("weight", format!("larger than {MAX_WEIGHT}"));
        }
        if self.port == Some(0) {
            path.fault_at("port", "must be from 1 to 65535");
        }
    }
}

fn service_kind() -> String {
    "Service".to_owned()
}

const fn one() -> u32 {
    1
}

/// How a header or a query parameter is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum MatchType {
    /// Equal.
    #[default]
    Exact,
    /// By a regular expression, over the whole of it.
    RegularExpression,
}

/// A condition on a header or a query parameter.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValueMatch {
    /// How it is compared.
    #[serde(default, rename = "type")]
    pub kind: MatchType,
    /// The name.
    pub name: String,
    /// What it is compared with.
    pub value: String,
}

impl ValueMatch {
    /// Of a header.
    pub(super) fn check_header(&self, path: &mut Path) {
        if let Some(fault) = matched_header_fault(&self.name) {
            path.fault_at("name", fault);
        }
        if self.kind == MatchType::Exact {
            check_header_value(&self.value, "value", path);
        }
        self.check_value(path);
    }

    /// Of a query parameter.
    pub(super) fn check(&self, path: &mut Path) {
        if self.name.is_empty() {
            path.fault_at("name", "missing");
        }
        self.check_value(path);
    }

    fn check_value(&self, path: &mut Path) {
        match self.kind {
            MatchType::RegularExpression => check_regex(&self.value, "value", path),
            MatchType::Exact if self.value.is_empty() => path.fault_at("value", "missing"),
            MatchType::Exact => {}
        }
    }
}

/// A name and a value.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderValue {
    /// The name.
    pub name: String,
    /// The value.
    pub value: String,
}

/// Changes to headers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderModifier {
    /// Put in place of what is there.
    #[serde(default)]
    pub set: Vec<HeaderValue>,
    /// Put beside what is there.
    #[serde(default)]
    pub add: Vec<HeaderValue>,
    /// Taken away.
    #[serde(default)]
    pub remove: Vec<String>,
}

impl HeaderModifier {
    pub(super) fn check(&self, path: &mut Path) {
        for (list, name) in [(&self.set, "set"), (&self.add, "add")] {
            for (index, header) in list.iter().enumerate() {
                path.item(name, index, |path| {
                    check_changed_header(&header.name, "name", path);
                    check_header_value(&header.value, "value", path);
                });
            }
        }
        for (index, header) in self.remove.iter().enumerate() {
            check_changed_header(header, &format!("remove[{index}]"), path);
        }
    }
}

pub(super) fn check_count(count: usize, name: &str, path: &mut Path) {
    if count > MAX_ITEMS {
        path.fault_at(name, format!("{count} of them; {MAX_ITEMS} at most"));
    }
}

/// `GRPCRoute`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct GrpcRoute {
    /// What it is attached to.
    #[serde(default)]
    pub parent_refs: Vec<ParentRef>,
    /// Of no effect in a mesh.
    #[serde(default)]
    pub hostnames: Vec<String>,
    /// What is done.
    #[serde(default)]
    pub rules: Vec<GrpcRule>,
}

/// A rule of a `GRPCRoute`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct GrpcRule {
    /// For people.
    #[serde(default)]
    pub name: Option<String>,
    /// One of them must match; everything matches without.
    #[serde(default)]
    pub matches: Vec<GrpcMatch>,
    /// What is done on the way.
    #[serde(default)]
    pub filters: Vec<super::http_route::Filter>,
    /// Where calls go.
    #[serde(default)]
    pub backend_refs: Vec<BackendRef<super::http_route::Filter>>,
    /// Not carried by the mesh.
    #[serde(default)]
    pub session_persistence: Option<Value>,
}

/// Conditions on a call; all of them must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrpcMatch {
    /// What is called.
    #[serde(default)]
    pub method: Option<GrpcMethod>,
    /// Metadata.
    #[serde(default)]
    pub headers: Vec<ValueMatch>,
}

/// A method of a gRPC service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrpcMethod {
    /// How both are compared.
    #[serde(default, rename = "type")]
    pub kind: MatchType,
    /// The service, with its package.
    #[serde(default)]
    pub service: Option<String>,
    /// The method.
    #[serde(default)]
    pub method: Option<String>,
}

impl Spec for GrpcRoute {
    const KIND: ObjectKind = ObjectKind::GrpcRoute;

    fn check(&self, path: &mut Path) {
        check_count(self.rules.len(), "rules", path);
        for (index, rule) in self.rules.iter().enumerate() {
            path.item("rules", index, |path| rule.check(path));
        }
    }
}

impl GrpcRule {
    fn check(&self, path: &mut Path) {
        check_count(self.matches.len(), "matches", path);
        check_count(self.backend_refs.len(), "backendRefs", path);
        for (index, one) in self.matches.iter().enumerate() {
            path.item("matches", index, |path| {
                for (index, header) in one.headers.iter().enumerate() {
                    path.item("headers", index, |path| header.check_header(path));
                }
                if let Some(method) = &one.method {
                    path.field("method", |path| method.check(path));
                }
            });
        }
        super::http_route::check_filters(&self.filters, path);
        for (index, backend) in self.backend_refs.iter().enumerate() {
            path.item("backendRefs", index, |path| {
                backend.check(path);
                super::http_route::check_filters(&backend.filters, path);
            });
        }
    }
}

impl GrpcMethod {
    fn check(&self, path: &mut Path) {
        if self.service.is_none() && self.method.is_none() {
            path.fault("service or method is needed");
        }
        for (text, name) in [(&self.service, "service"), (&self.method, "method")] {
            let Some(text) = text else { continue };
            match self.kind {
                MatchType::RegularExpression => check_regex(text, name, path),
                MatchType::Exact if text.is_empty() || text.contains('/') => {
                    path.fault_at(name, "must not be empty and must not hold \"/\"");
                }
                MatchType::Exact => {}
            }
        }
    }
}

/// `TCPRoute`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TcpRoute {
    /// What it is attached to.
    #[serde(default)]
    pub parent_refs: Vec<ParentRef>,
    /// What is done.
    #[serde(default)]
    pub rules: Vec<TcpRule>,
}

/// The rule of a `TCPRoute`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TcpRule {
    /// For people.
    #[serde(default)]
    pub name: Option<String>,
    /// Where connections go.
    #[serde(default)]
    pub backend_refs: Vec<BackendRef<NoFilter>>,
}

/// Connections have no filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum NoFilter {}

impl Spec for TcpRoute {
    const KIND: ObjectKind = ObjectKind::TcpRoute;

    fn check(&self, path: &mut Path) {
        if self.rules.len() != 1 {
            path.fault_at("rules", "exactly one is needed: connections have nothing to tell them apart by");
        }
        for (index, rule) in self.rules.iter().enumerate() {
            path.item("rules", index, |path| {
                check_count(rule.backend_refs.len(), "backendRefs", path);
                for (index, backend) in rule.backend_refs.iter().enumerate() {
                    path.item("backendRefs", index, |path| backend.check(path));
                }
            });
        }
    }
}
