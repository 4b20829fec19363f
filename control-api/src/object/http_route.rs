//! `HTTPRoute` of Gateway API.

use outrider_proto::Path;
use serde::Deserialize;
use serde_json::Value;

use super::gateway::{BackendRef, HeaderModifier, ParentRef, ValueMatch, check_count};
use super::http_text::{check_new_path, check_path, check_regex};
use super::scalar::Span;
use super::{ObjectKind, Spec};

/// Most attempts after the first.
pub const MAX_RETRIES: u32 = 20;

/// `HTTPRoute`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HttpRoute {
    /// What it is attached to.
    #[serde(default)]
    pub parent_refs: Vec<ParentRef>,
    /// Of no effect in a mesh: the destination is what the connection was going to.
    #[serde(default)]
    pub hostnames: Vec<String>,
    /// What is done.
    #[serde(default = "everything")]
    pub rules: Vec<HttpRule>,
}

fn everything() -> Vec<HttpRule> {
    vec![HttpRule::default()]
}

/// A rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HttpRule {
    /// For people.
    #[serde(default)]
    pub name: Option<String>,
    /// One of them must match; everything matches without.
    #[serde(default)]
    pub matches: Vec<HttpMatch>,
    /// What is done on the way.
    #[serde(default)]
    pub filters: Vec<Filter>,
    /// Where requests go.
    #[serde(default)]
    pub backend_refs: Vec<BackendRef<Filter>>,
    /// How long it may take.
    #[serde(default)]
    pub timeouts: Option<Timeouts>,
    /// When it is tried again.
    #[serde(default)]
    pub retry: Option<Retry>,
    /// Not carried by the mesh.
    #[serde(default)]
    pub session_persistence: Option<Value>,
}

/// Conditions; all of them must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HttpMatch {
    /// The path.
    #[serde(default)]
    pub path: PathMatch,
    /// Headers.
    #[serde(default)]
    pub headers: Vec<ValueMatch>,
    /// Query parameters.
    #[serde(default)]
    pub query_params: Vec<ValueMatch>,
    /// The method.
    #[serde(default)]
    pub method: Option<Method>,
}

/// A condition on the path.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PathMatch {
    /// How it is compared.
    #[serde(default, rename = "type")]
    pub kind: PathMatchType,
    /// What it is compared with.
    #[serde(default = "root")]
    pub value: String,
}

impl Default for PathMatch {
    fn default() -> Self {
        Self { kind: PathMatchType::PathPrefix, value: root() }
    }
}

fn root() -> String {
    "/".to_owned()
}

/// How a path is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum PathMatchType {
    /// Equal.
    Exact,
    /// Whole segments at its beginning.
    #[default]
    PathPrefix,
    /// By a regular expression, over the whole of it.
    RegularExpression,
}

/// A method of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Trace,
    Patch,
}

impl Method {
    /// As on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
            Self::Options => "OPTIONS",
            Self::Trace => "TRACE",
            Self::Patch => "PATCH",
        }
    }
}

/// A filter: a type, and the settings of that type.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Filter {
    /// Which of the fields below is there.
    #[serde(rename = "type")]
    pub kind: FilterType,
    /// Changes to the request's headers.
    #[serde(default)]
    pub request_header_modifier: Option<HeaderModifier>,
    /// Changes to the response's headers.
    #[serde(default)]
    pub response_header_modifier: Option<HeaderModifier>,
    /// A copy for somebody else, whose answer is dropped.
    #[serde(default)]
    pub request_mirror: Option<Mirror>,
    /// The client is sent elsewhere.
    #[serde(default)]
    pub request_redirect: Option<Redirect>,
    /// Changes to host and path.
    #[serde(default)]
    pub url_rewrite: Option<Rewrite>,
    /// Not carried by the mesh.
    #[serde(default)]
    pub cors: Option<Value>,
    /// Not carried by the mesh.
    #[serde(default)]
    pub external_auth: Option<Value>,
    /// Not carried by the mesh.
    #[serde(default)]
    pub extension_ref: Option<Value>,
}

/// The types of filters that Gateway API knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[expect(missing_docs, reason = "the fields of Filter say it")]
pub enum FilterType {
    RequestHeaderModifier,
    ResponseHeaderModifier,
    RequestMirror,
    RequestRedirect,
    #[serde(rename = "URLRewrite")]
    UrlRewrite,
    #[serde(rename = "CORS")]
    Cors,
    ExternalAuth,
    ExtensionRef,
}

/// A copy for somebody else.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Mirror {
    /// Who gets it.
    pub backend_ref: MirrorBackend,
    /// Of a hundred requests.
    #[serde(default)]
    pub percent: Option<u32>,
    /// Of so many requests, if not of a hundred.
    #[serde(default)]
    pub fraction: Option<Fraction>,
}

/// Who gets copies.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the fields of BackendRef")]
pub struct MirrorBackend {
    #[serde(default)]
    pub group: String,
    #[serde(default)]
    pub kind: Option<String>,
    #[serde(default)]
    pub namespace: Option<String>,
    pub name: String,
    #[serde(default)]
    pub port: Option<u16>,
}

/// A share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Fraction {
    pub numerator: u32,
    #[serde(default = "hundred")]
    pub denominator: u32,
}

const fn hundred() -> u32 {
    100
}

/// Where the client is sent; what is not said stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[expect(missing_docs, reason = "the names say it")]
pub struct Redirect {
    #[serde(default)]
    pub scheme: Option<String>,
    #[serde(default)]
    pub hostname: Option<String>,
    #[serde(default)]
    pub path: Option<PathModifier>,
    #[serde(default)]
    pub port: Option<u16>,
    #[serde(default)]
    pub status_code: Option<u16>,
}

/// Changes to host and path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Rewrite {
    #[serde(default)]
    pub hostname: Option<String>,
    #[serde(default)]
    pub path: Option<PathModifier>,
}

/// A new path.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub enum PathModifier {
    /// In place of all of it.
    ReplaceFullPath {
        /// The new path.
        #[serde(rename = "replaceFullPath")]
        replace_full_path: String,
    },
    /// In place of the prefix that matched.
    ReplacePrefixMatch {
        /// The new prefix.
        #[serde(rename = "replacePrefixMatch")]
        replace_prefix_match: String,
    },
}

/// How long it may take; 0 is for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Timeouts {
    /// A request with all its attempts.
    #[serde(default)]
    pub request: Option<Span>,
    /// One attempt.
    #[serde(default)]
    pub backend_request: Option<Span>,
}

/// When a request is tried again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// On these status codes.
    #[serde(default)]
    pub codes: Vec<u16>,
    /// How often.
    #[serde(default)]
    pub attempts: Option<u32>,
    /// How long is waited before.
    #[serde(default)]
    pub backoff: Option<Span>,
}

impl Spec for HttpRoute {
    const KIND: ObjectKind = ObjectKind::HttpRoute;

    fn check(&self, path: &mut Path) {
        check_count(self.rules.len(), "rules", path);
        for (index, rule) in self.rules.iter().enumerate() {
            path.item("rules", index, |path| rule.check(path));
        }
    }
}

impl HttpRule {
    fn check(&self, path: &mut Path) {
        check_count(self.backend_refs.len(), "backendRefs", path);
        if self.matches.len() > 64 {
            path.fault_at("matches", "more than 64");
        }
        for (index, one) in self.matches.iter().enumerate() {
            path.item("matches", index, |path| one.check(path));
        }
        check_filters(&self.filters, path);
        for (index, backend) in self.backend_refs.iter().enumerate() {
            path.item("backendRefs", index, |path| {
                backend.check(path);
                check_filters(&backend.filters, path);
            });
        }
        if let Some(Timeouts { request: Some(all), backend_request: Some(one) }) = self.timeouts
            && one > all
            && !all.0.is_zero()
        {
            path.fault_at("timeouts.backendRequest", "longer than timeouts.request");
        }
        if let Some(retry) = &self.retry {
            if retry.attempts.is_some_and(|attempts| attempts > MAX_RETRIES) {
                path.fault_at("retry.attempts", format!("more than {MAX_RETRIES}"));
            }
            if retry.codes.iter().any(|code| !(400..600).contains(code)) {
                path.fault_at("retry.codes", "must be from 400 to 599");
            }
        }
    }
}

impl HttpMatch {
    fn check(&self, path: &mut Path) {
        path.field("path", |path| match self.path.kind {
            PathMatchType::RegularExpression => check_regex(&self.path.value, "value", path),
            PathMatchType::Exact | PathMatchType::PathPrefix => check_path(&self.path.value, "value", path),
        });
        for (index, header) in self.headers.iter().enumerate() {
            path.item("headers", index, |path| header.check_header(path));
        }
        for (index, query) in self.query_params.iter().enumerate() {
            path.item("queryParams", index, |path| query.check(path));
        }
    }
}

pub(super) fn check_filters(filters: &[Filter], path: &mut Path) {
    check_count(filters.len(), "filters", path);
    for (index, filter) in filters.iter().enumerate() {
        path.item("filters", index, |path| filter.check(path));
        let repeats = filter.kind != FilterType::RequestMirror
            && filters.get(..index).unwrap_or_default().iter().any(|other| other.kind == filter.kind);
        if repeats {
            path.item("filters", index, |path| path.fault_at("type", "only one filter of this type"));
        }
    }
}

impl Filter {
    fn check(&self, path: &mut Path) {
        let fields = [
            (
                "requestHeaderModifier",
                FilterType::RequestHeaderModifier,
                self.request_header_modifier.is_some(),
            ),
            (
                "responseHeaderModifier",
                FilterType::ResponseHeaderModifier,
                self.response_header_modifier.is_some(),
            ),
            ("requestMirror", FilterType::RequestMirror, self.request_mirror.is_some()),
            ("requestRedirect", FilterType::RequestRedirect, self.request_redirect.is_some()),
            ("urlRewrite", FilterType::UrlRewrite, self.url_rewrite.is_some()),
            ("cors", FilterType::Cors, self.cors.is_some()),
            ("externalAuth", FilterType::ExternalAuth, self.external_auth.is_some()),
            ("extensionRef", FilterType::ExtensionRef, self.extension_ref.is_some()),
        ];
        for (name, kind, is_set) in fields {
            match (kind == self.kind, is_set) {
                (true, false) => path.fault_at(name, "missing, though type says so"),
                (false, true) => path.fault_at(name, "does not go with this type"),
                (true, true) | (false, false) => {}
            }
        }
        for (changes, name) in [
            (&self.request_header_modifier, "requestHeaderModifier"),
            (&self.response_header_modifier, "responseHeaderModifier"),
        ] {
            if let Some(changes) = changes {
                path.field(name, |path| changes.check(path));
            }
        }
        if let Some(redirect) = &self.request_redirect {
            path.field("requestRedirect", |path| redirect.check(path));
        }
        if let Some(rewrite) = &self.url_rewrite {
            path.field("urlRewrite", |path| {
                check_host(rewrite.hostname.as_deref(), path);
                check_modifier(rewrite.path.as_ref(), path);
            });
        }
        if let Some(mirror) = &self.request_mirror {
            path.field("requestMirror", |path| mirror.check(path));
        }
    }
}

impl Redirect {
    fn check(&self, path: &mut Path) {
        if !matches!(self.scheme.as_deref(), None | Some("http" | "https")) {
            path.fault_at("scheme", "must be http or https");
        }
        if !matches!(self.status_code, None | Some(301 | 302 | 303 | 307 | 308)) {
            path.fault_at("statusCode", "must be 301, 302, 303, 307 or 308");
        }
        check_host(self.hostname.as_deref(), path);
        check_modifier(self.path.as_ref(), path);
    }
}

impl Mirror {
    fn check(&self, path: &mut Path) {
        if self.percent.is_some_and(|percent| percent > 100) {
            path.fault_at("percent", "must be from 0 to 100");
        }
        if self.percent.is_some() && self.fraction.is_some() {
            path.fault_at("fraction", "only one of percent and fraction");
        }
        if self.fraction.is_some_and(|part| part.denominator == 0 || part.numerator > part.denominator) {
            path.fault_at("fraction", "must be from 0 to 1");
        }
    }
}

fn check_host(host: Option<&str>, path: &mut Path) {
    if host.is_some_and(|host| !super::meta::is_subdomain(host)) {
        path.fault_at("hostname", "not a host name");
    }
}

fn check_modifier(modifier: Option<&PathModifier>, path: &mut Path) {
    path.field("path", |path| match modifier {
        Some(PathModifier::ReplaceFullPath { replace_full_path }) => {
            check_new_path(replace_full_path, "replaceFullPath", path);
        }
        // An empty prefix takes the one that matched away.
        Some(PathModifier::ReplacePrefixMatch { replace_prefix_match })
            if replace_prefix_match.is_empty() => {}
        Some(PathModifier::ReplacePrefixMatch { replace_prefix_match }) => {
            check_new_path(replace_prefix_match, "replacePrefixMatch", path);
        }
        None => {}
    });
}
