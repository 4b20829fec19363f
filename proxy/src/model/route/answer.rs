//! A route that answers itself: a redirect, or a response that stands in the configuration.

use http::StatusCode;
use outrider_proto::Path;
use outrider_proto::envoy::config::route::v3 as pb;

use super::super::parse;
use super::super::route_table::without_port;
use super::forward::{PathRewrite, check_path, regex_rewrite};

/// Envoy's bound on a direct response's body.
const MAX_DIRECT_BODY_BYTES: usize = 4096;

/// Where a client is sent.
#[derive(Debug)]
pub struct RedirectAction {
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    /// The scheme, if it changes.
    pub scheme: Option<Box<str>>,
    /// The host, if it changes.
    pub host: Option<Box<str>>,
    /// The port, if it changes.
    pub port: Option<u16>,
    /// The path, if it changes.
    pub path: Option<RedirectPath>,
    /// Whether the query is dropped.
    pub strip_query: bool,
}

/// How a redirect changes the path.
#[derive(Debug)]
pub enum RedirectPath {
    /// To this, with its own query if it has one.
    Whole(Box<str>),
    /// As a rewrite would.
    Rewrite(PathRewrite),
}

impl RedirectAction {
    pub(super) fn from_proto(value: &pb::RedirectAction, path: &mut Path) -> Option<Self> {
        use pb::redirect_action::{
            PathRewriteSpecifier, RedirectResponseCode as Code, SchemeRewriteSpecifier,
        };
        let scheme = match &value.scheme_rewrite_specifier {
            Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some("https".into()),
            Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => Some(scheme.as_str().into()),
            Some(SchemeRewriteSpecifier::HttpsRedirect(false)) | None => None,
        };
        let new_path = match &value.path_rewrite_specifier {
            Some(PathRewriteSpecifier::PathRedirect(whole)) => {
                Some(RedirectPath::Whole(whole.as_str().into()))
            }
            Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => {
                Some(RedirectPath::Rewrite(PathRewrite::Prefix(prefix.as_str().into())))
            }
            Some(PathRewriteSpecifier::RegexRewrite(rewrite)) => {
                path.field("regex_rewrite", |path| regex_rewrite(rewrite, path)).map(RedirectPath::Rewrite)
            }
            None => None,
        };
        let port = match u16::try_from(value.port_redirect) {
            Ok(0) => None,
            Ok(port) => Some(port),
            Err(_) => path.field("port_redirect", |path| path.refuse("larger than 65535")),
        };
        check_redirect(value, path);
        Some(Self {
            status: match value.response_code() {
                Code::MovedPermanently => StatusCode::MOVED_PERMANENTLY,
                Code::Found => StatusCode::FOUND,
                Code::SeeOther => StatusCode::SEE_OTHER,
                Code::TemporaryRedirect => StatusCode::TEMPORARY_REDIRECT,
                Code::PermanentRedirect => StatusCode::PERMANENT_REDIRECT,
            },
            scheme,
            host: (!value.host_redirect.is_empty()).then(|| value.host_redirect.as_str().into()),
            port,
            path: new_path,
            strip_query: value.strip_query,
        })
    }
}

/// What is put into a URI must not be able to end the header or to mean something else.
fn check_redirect(value: &pb::RedirectAction, path: &mut Path) {
    use pb::redirect_action::{PathRewriteSpecifier, SchemeRewriteSpecifier};
    if !value.host_redirect.is_empty() && !crate::http::is_host_and_port(value.host_redirect.as_bytes()) {
        path.fault_at("host_redirect", "not a host with an optional port");
    } else if value.port_redirect != 0 && without_port(&value.host_redirect) != value.host_redirect {
        path.fault_at("port_redirect", "host_redirect holds a port already");
    }
    // RFC 3986 section 3.1
    let in_scheme = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    match &value.scheme_rewrite_specifier {
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme))
            if !scheme.starts_with(|first: char| first.is_ascii_alphabetic())
                || !scheme.bytes().all(in_scheme) =>
        {
            path.fault_at("scheme_redirect", "not a scheme");
        }
        Some(SchemeRewriteSpecifier::SchemeRedirect(_) | SchemeRewriteSpecifier::HttpsRedirect(_)) | None => {
        }
    }
    match &value.path_rewrite_specifier {
        Some(PathRewriteSpecifier::PathRedirect(text)) => check_path(text, "path_redirect", path),
        Some(PathRewriteSpecifier::PrefixRewrite(text)) => check_path(text, "prefix_rewrite", path),
        Some(PathRewriteSpecifier::RegexRewrite(_)) | None => {}
    }
}

/// An answer that stands in the configuration.
#[derive(Debug)]
pub struct DirectAction {
    /// The status.
    pub status: StatusCode,
    /// The body; may be empty.
    pub body: bytes::Bytes,
}

impl DirectAction {
    pub(super) fn from_proto(value: &pb::DirectResponseAction, path: &mut Path) -> Option<Self> {
        let status = u16::try_from(value.status).ok().filter(|status| (200..600).contains(status));
        let status = status.and_then(|status| StatusCode::from_u16(status).ok());
        if status.is_none() {
            path.fault_at("status", "must be from 200 to 599");
        }
        let body = match &value.body {
            Some(source) => {
                path.field("body", |path| parse::data_source(source, MAX_DIRECT_BODY_BYTES, path))?
            }
            None => Vec::new(),
        };
        Some(Self { status: status?, body: body.into() })
    }
}
