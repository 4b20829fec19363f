//! What is done to requests and responses on the way.

use outrider_proto::envoy::config::core::v3 as core;
use outrider_proto::envoy::config::route::v3 as pb;
use outrider_proto::envoy::r#type::matcher::v3::RegexMatchAndSubstitute;
use outrider_proto::envoy::r#type::v3::{FractionalPercent, fractional_percent::DenominatorType};

use crate::compile::wire;
use crate::object::gateway::HeaderModifier;
use crate::object::http_route::{Filter, FilterType, Mirror, PathModifier, Redirect};

/// The filters of a rule or a backend, put together.
#[derive(Default)]
pub(super) struct Changes<'a> {
    request: Option<&'a HeaderModifier>,
    response: Option<&'a HeaderModifier>,
    pub(super) mirrors: Vec<&'a Mirror>,
    pub(super) redirect: Option<pb::RedirectAction>,
    pub(super) rewrite: Rewrites,
}

/// A new host or path.
#[derive(Default, PartialEq)]
pub(super) struct Rewrites {
    host: Option<String>,
    prefix: Option<String>,
    regex: Option<RegexMatchAndSubstitute>,
}

impl<'a> Changes<'a> {
    /// Of filters, where a prefix was matched (without the slash at its end) or something else.
    pub(super) fn of(filters: &'a [Filter], prefix: Option<&str>) -> Result<Self, String> {
        let mut changes = Self::default();
        for filter in filters {
            match filter.kind {
                FilterType::RequestHeaderModifier => {
                    changes.request = filter.request_header_modifier.as_ref();
                }
                FilterType::ResponseHeaderModifier => {
                    changes.response = filter.response_header_modifier.as_ref();
                }
                FilterType::RequestMirror => changes.mirrors.extend(filter.request_mirror.iter()),
                FilterType::RequestRedirect => {
                    let value = filter.request_redirect.clone().unwrap_or_default();
                    changes.redirect = Some(redirect(&value, prefix)?);
                }
                FilterType::UrlRewrite => {
                    let value = filter.url_rewrite.clone().unwrap_or_default();
                    changes.rewrite = path(value.path.as_ref(), prefix)?;
                    changes.rewrite.host = value.hostname;
                }
                FilterType::Cors => return Err("the filter CORS is not carried by the mesh".to_owned()),
                FilterType::ExternalAuth => {
                    return Err("the filter ExternalAuth is not carried by the mesh".to_owned());
                }
                FilterType::ExtensionRef => return Err("no extensions of filters are known".to_owned()),
            }
        }
        if changes.redirect.is_some() && changes.rewrite != Rewrites::default() {
            return Err("RequestRedirect and URLRewrite do not go together".to_owned());
        }
        Ok(changes)
    }

    pub(super) fn is_headers_only(&self) -> bool {
        self.mirrors.is_empty() && self.redirect.is_none() && self.rewrite == Rewrites::default()
    }

    pub(super) fn put_on(&self, route: &mut pb::Route) {
        if let Some(request) = self.request {
            route.request_headers_to_add = added(request);
            route.request_headers_to_remove.clone_from(&request.remove);
        }
        if let Some(response) = self.response {
            route.response_headers_to_add = added(response);
            route.response_headers_to_remove.clone_from(&response.remove);
        }
    }

    pub(super) fn put_on_entry(&self, entry: &mut pb::weighted_cluster::ClusterWeight) {
        if let Some(request) = self.request {
            entry.request_headers_to_add = added(request);
            entry.request_headers_to_remove.clone_from(&request.remove);
        }
        if let Some(response) = self.response {
            entry.response_headers_to_add = added(response);
            entry.response_headers_to_remove.clone_from(&response.remove);
        }
    }
}

impl Rewrites {
    pub(super) fn put_on(self, action: &mut pb::RouteAction) {
        action.host_rewrite_specifier =
            self.host.map(pb::route_action::HostRewriteSpecifier::HostRewriteLiteral);
        action.prefix_rewrite = self.prefix.unwrap_or_default();
        action.regex_rewrite = self.regex;
    }
}

/// A copy for a cluster.
pub(super) fn mirror(value: &Mirror, cluster: String) -> pb::route_action::RequestMirrorPolicy {
    let share = match (value.percent, value.fraction) {
        (Some(percent), _) => Some((percent, DenominatorType::Hundred)),
        // Rounded down to a millionth, which is as fine as the wire can say it.
        (None, Some(part)) => {
            let millionths = u64::from(part.numerator) * 1_000_000 / u64::from(part.denominator.max(1));
            Some((u32::try_from(millionths).unwrap_or(1_000_000), DenominatorType::Million))
        }
        (None, None) => None,
    };
    let fraction = share.map(|(numerator, denominator)| core::RuntimeFractionalPercent {
        default_value: Some(FractionalPercent { numerator, denominator: denominator.into() }),
    });
    pb::route_action::RequestMirrorPolicy { cluster, runtime_fraction: fraction }
}

fn added(changes: &HeaderModifier) -> Vec<core::HeaderValueOption> {
    use core::header_value_option::HeaderAppendAction as Append;
    let set = changes.set.iter().map(|header| (header, Append::OverwriteIfExistsOrAdd));
    let add = changes.add.iter().map(|header| (header, Append::AppendIfExistsOrAdd));
    set.chain(add)
        .map(|(header, append)| core::HeaderValueOption {
            header: Some(core::HeaderValue {
                key: header.name.clone(),
                // Envoy takes a percent sign for the beginning of an operator.
                value: header.value.replace('%', "%%"),
            }),
            append: None,
            append_action: append.into(),
            keep_empty_value: true,
        })
        .collect()
}

fn redirect(value: &Redirect, prefix: Option<&str>) -> Result<pb::RedirectAction, String> {
    use pb::redirect_action::{PathRewriteSpecifier, RedirectResponseCode as Code, SchemeRewriteSpecifier};
    let rewrites = path(value.path.as_ref(), prefix)?;
    let whole = match &value.path {
        Some(PathModifier::ReplaceFullPath { replace_full_path }) => Some(replace_full_path.clone()),
        Some(PathModifier::ReplacePrefixMatch { .. }) | None => None,
    };
    let code = match value.status_code {
        None | Some(302) => Code::Found,
        Some(301) => Code::MovedPermanently,
        Some(303) => Code::SeeOther,
        Some(307) => Code::TemporaryRedirect,
        Some(308) => Code::PermanentRedirect,
        Some(other) => return Err(format!("a redirect with status {other} is not carried")),
    };
    let path = whole
        .map(PathRewriteSpecifier::PathRedirect)
        .or(rewrites.prefix.map(PathRewriteSpecifier::PrefixRewrite))
        .or(rewrites.regex.map(PathRewriteSpecifier::RegexRewrite));
    Ok(pb::RedirectAction {
        host_redirect: value.hostname.clone().unwrap_or_default(),
        path_rewrite_specifier: path,
        response_code: code.into(),
        scheme_rewrite_specifier: value.scheme.clone().map(SchemeRewriteSpecifier::SchemeRedirect),
        strip_query: false,
        port_redirect: u32::from(value.port.unwrap_or_default()),
    })
}

/// A new path for the whole of it, or for the prefix that was matched.
fn path(value: Option<&PathModifier>, prefix: Option<&str>) -> Result<Rewrites, String> {
    let regex = |pattern: String, substitution: String| Rewrites {
        regex: Some(RegexMatchAndSubstitute { pattern: Some(wire::regex(&pattern)), substitution }),
        ..Rewrites::default()
    };
    let Some(value) = value else { return Ok(Rewrites::default()) };
    match value {
        PathModifier::ReplaceFullPath { replace_full_path } => {
            Ok(regex("^/.*$".to_owned(), escaped(replace_full_path)))
        }
        PathModifier::ReplacePrefixMatch { replace_prefix_match } => {
            let Some(prefix) = prefix else {
                return Err("replacePrefixMatch needs matches of type PathPrefix".to_owned());
            };
            let replacement = replace_prefix_match.trim_end_matches('/');
            match (prefix, replacement) {
                // Nothing in place of a prefix: one slash must be left.
                (prefix, "") => Ok(regex(format!("^{}/*(.*)$", regex::escape(prefix)), "/\\1".to_owned())),
                // A prefix before everything: it ends where the path begins.
                ("", replacement) => Ok(regex("^(/.*)$".to_owned(), format!("{}\\1", escaped(replacement)))),
                (_, replacement) => {
                    Ok(Rewrites { prefix: Some(replacement.to_owned()), ..Rewrites::default() })
                }
            }
        }
    }
}

/// Without groups by accident.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
}
