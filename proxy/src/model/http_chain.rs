//! HTTP on a filter chain: a compiled `HttpConnectionManager`.

use std::sync::Arc;
use std::time::Duration;

use outrider_proto::Path;
use outrider_proto::envoy::config::core::v3 as core;
use outrider_proto::envoy::extensions::filters::network::http_connection_manager::v3 as pb;
use pb::http_connection_manager::{CodecType, PathWithEscapedSlashesAction, RouteSpecifier, StripPortMode};

use super::access_log::{self, AccessLog};
use super::http_filters::filters;
use super::overrides::FilterKind;
use super::parse;
use super::rate_limit::HttpLimit;
use super::rbac::HttpPolicies;
use super::route_table::RouteTable;
use super::tracing::{self, Tracing};
use crate::fault::HttpFaults;
use crate::http::path::{EscapedSlashes, PathOptions};
use crate::limit::gradient::Gradient;

/// Envoy's default of `stream_idle_timeout`.
const STREAM_IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// Envoy's default of `common_http_protocol_options.idle_timeout`.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// Ours; Envoy has none, which lets a slow client hold a connection for ever.
const REQUEST_HEADERS_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest `max_request_headers_kb`.
const MAX_HEAD_KB: u32 = crate::http::MOST_HEAD_BYTES / 1024;

/// What is done with `x-forwarded-client-cert`; the names are Envoy's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardClientCert {
    /// It is taken away.
    Sanitize,
    /// It is left alone if the client showed a certificate.
    ForwardOnly,
    /// The client is added to it.
    AppendForward,
    /// It names the client and nobody else.
    SanitizeSet,
    /// It is left alone.
    AlwaysForwardOnly,
}

/// What `x-forwarded-client-cert` says besides the certificate's hash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientCertDetails {
    /// The subject.
    pub subject: bool,
    /// DNS names.
    pub dns: bool,
    /// URI names.
    pub uri: bool,
}

/// A compiled connection manager.
#[derive(Debug)]
pub struct HttpChain {
    /// Which HTTP is spoken.
    pub codec: Codec,
    /// The name in metrics.
    pub stat_prefix: Arc<str>,
    /// Where the routes are.
    pub routes: RouteSource,
    /// Authorization, in the order of the filters: all of them must allow.
    pub policies: Vec<HttpPolicies>,
    /// Fault filters, in their order.
    pub faults: Vec<HttpFaults>,
    /// Limits on the rate of requests, in the order of the filters.
    pub limits: Vec<HttpLimit>,
    /// Limit on requests at a time.
    pub concurrency: Option<Arc<Gradient>>,
    /// HTTP/1.0 is served.
    pub accept_http10: bool,
    /// HTTP/2 settings.
    pub http2: Http2Settings,
    /// Lines about requests.
    pub access_logs: Vec<Arc<AccessLog>>,
    /// Spans about requests.
    pub tracing: Option<Tracing>,
    /// The peer's address is the client's address, and is appended to `x-forwarded-for`.
    pub use_remote_address: bool,
    /// Proxies in front of us that may be believed.
    pub trusted_hops: u32,
    /// `x-forwarded-for` is left alone.
    pub skip_xff_append: bool,
    /// `x-request-id` is made where there is none.
    pub generate_request_id: bool,
    /// A client's `x-request-id` is kept although the client is the edge.
    pub preserve_request_id: bool,
    /// What is done with `x-forwarded-client-cert`.
    pub forward_client_cert: ForwardClientCert,
    /// What it says besides the certificate's hash.
    pub client_cert_details: ClientCertDetails,
    /// `x-request-id` is put on responses.
    pub request_id_in_response: bool,
    /// Upgrades that are allowed or forbidden.
    pub upgrades: Vec<(Box<str>, bool)>,
    /// Without a byte in either direction of a request.
    pub stream_idle_timeout: Option<Duration>,
    /// For the whole request to come in.
    pub request_timeout: Option<Duration>,
    /// From the first to the last byte of a head.
    pub request_headers_timeout: Option<Duration>,
    /// For a connection without a request.
    pub idle_timeout: Option<Duration>,
    /// For a connection altogether, after which it is drained.
    pub max_connection_duration: Option<Duration>,
    /// For a request and its response altogether.
    pub max_stream_duration: Option<Duration>,
    /// Requests on one connection.
    pub max_requests: Option<u32>,
    /// Fields in a head.
    pub max_headers: usize,
    /// All of a head, in bytes.
    pub max_head_bytes: usize,
    /// What happens to names with underscores.
    pub underscores: Underscores,
    /// How paths are normalised.
    pub path: PathOptions,
    /// The port is cut off the host before routing.
    pub strip_port: bool,
}

/// Which HTTP a chain speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// The first bytes tell.
    Auto,
    /// HTTP/1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// Where the routes of a chain are.
#[derive(Debug)]
pub enum RouteSource {
    /// In the listener itself.
    Inline(Arc<RouteTable>),
    /// A resource of this name.
    Named(Arc<str>),
}

/// What is done with header names that hold an underscore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Underscores {
    /// Nothing.
    Allow,
    /// The request is refused.
    Reject,
    /// The field is left out.
    Drop,
}

/// HTTP/2 settings of a listener or a cluster.
#[derive(Clone, Copy, Debug)]
pub struct Http2Settings {
    /// Streams at a time on a connection: of a listener, that clients may open; of a cluster, that we open, where the
    /// upstream allows as many.
    pub max_concurrent_streams: u32,
    /// Window of a new stream.
    pub initial_stream_window_bytes: u32,
    /// Window of the connection.
    pub initial_connection_window_bytes: u32,
    /// Extended CONNECT (RFC 8441).
    pub allow_connect: bool,
}

impl Http2Settings {
    /// Of a listener that says nothing.
    pub const DOWNSTREAM: Self = Self {
        max_concurrent_streams: 100,
        initial_stream_window_bytes: 256 * 1024,
        initial_connection_window_bytes: 1024 * 1024,
        allow_connect: false,
    };
    /// Of a cluster that says nothing.
    pub const UPSTREAM: Self = Self { max_concurrent_streams: 1024, ..Self::DOWNSTREAM };

    pub(super) fn from_proto(
        value: Option<&core::Http2ProtocolOptions>,
        default: Self,
        path: &mut Path,
    ) -> Self {
        let Some(value) = value else { return default };
        let mut window = |value: Option<u32>, default: u32, name: &str| match value {
            None => default,
            Some(size) if (65_535..=0x7fff_ffff).contains(&size) => size,
            Some(_) => {
                path.fault_at(name, "must be from 65535 to 2147483647");
                default
            }
        };
        Self {
            initial_stream_window_bytes: window(
                value.initial_stream_window_size,
                default.initial_stream_window_bytes,
                "initial_stream_window_size",
            ),
            initial_connection_window_bytes: window(
                value.initial_connection_window_size,
                default.initial_connection_window_bytes,
                "initial_connection_window_size",
            ),
            max_concurrent_streams: match value.max_concurrent_streams {
                None => default.max_concurrent_streams,
                Some(count) if (1..=0x7fff_ffff).contains(&count) => count,
                Some(_) => {
                    path.fault_at("max_concurrent_streams", "must be from 1 to 2147483647");
                    default.max_concurrent_streams
                }
            },
            allow_connect: value.allow_connect,
        }
    }
}

impl HttpChain {
    pub(super) fn from_proto(value: &pb::HttpConnectionManager, path: &mut Path) -> Option<Self> {
        let stat_prefix = parse::required(&value.stat_prefix, "stat_prefix", path);
        let routes = routes(value, path);
        let filters = filters(&value.http_filters, path);
        let default_options = core::HttpProtocolOptions::default();
        let common = value.common_http_protocol_options.as_ref().unwrap_or(&default_options);
        let timeouts = Timeouts::from_proto(value, common, path);
        let head_kb = value.max_request_headers_kb.unwrap_or(crate::http::MAX_HEAD_BYTES / 1024);
        if !(1..=MAX_HEAD_KB).contains(&head_kb) {
            path.fault_at("max_request_headers_kb", format!("must be from 1 to {MAX_HEAD_KB}"));
        }
        if common.max_headers_count == Some(0) {
            path.fault_at("common_http_protocol_options.max_headers_count", "must be at least 1");
        }
        let http2 = path.field("http2_protocol_options", |path| {
            Http2Settings::from_proto(value.http2_protocol_options.as_ref(), Http2Settings::DOWNSTREAM, path)
        });
        let tracing = value.tracing.as_ref();
        let tracing = tracing.and_then(|value| path.field("tracing", |path| tracing::compile(value, path)));
        let chain = Self {
            tracing,
            codec: match value.codec_type() {
                CodecType::Auto => Codec::Auto,
                CodecType::Http1 => Codec::Http1,
                CodecType::Http2 => Codec::Http2,
            },
            accept_http10: value.http_protocol_options.is_some_and(|http1| http1.accept_http_10),
            http2,
            access_logs: access_log::compile(&value.access_log, path),
            use_remote_address: value.use_remote_address.unwrap_or(false),
            trusted_hops: value.xff_num_trusted_hops,
            skip_xff_append: value.skip_xff_append,
            generate_request_id: value.generate_request_id.unwrap_or(true),
            preserve_request_id: value.preserve_external_request_id,
            forward_client_cert: forward_client_cert(value),
            client_cert_details: client_cert_details(value, path),
            request_id_in_response: value.always_set_request_id_in_response,
            upgrades: parse::upgrades(
                value.upgrade_configs.iter().map(|upgrade| (upgrade.upgrade_type.as_str(), upgrade.enabled)),
                path,
            ),
            stream_idle_timeout: timeouts.stream_idle,
            request_timeout: timeouts.request,
            request_headers_timeout: timeouts.request_headers,
            idle_timeout: timeouts.idle,
            max_connection_duration: timeouts.connection,
            max_stream_duration: timeouts.stream,
            max_requests: common.max_requests_per_connection.filter(|count| *count > 0),
            max_headers: common.max_headers_count.map_or(crate::http::MAX_HEADERS, |count| count as usize),
            max_head_bytes: head_kb as usize * 1024,
            underscores: match common.headers_with_underscores_action() {
                core::http_protocol_options::HeadersWithUnderscoresAction::Allow => Underscores::Allow,
                core::http_protocol_options::HeadersWithUnderscoresAction::RejectRequest => {
                    Underscores::Reject
                }
                core::http_protocol_options::HeadersWithUnderscoresAction::DropHeader => Underscores::Drop,
            },
            path: path_options(value),
            strip_port: matches!(value.strip_port_mode, Some(StripPortMode::StripAnyHostPort(true))),
            stat_prefix: stat_prefix?,
            routes: routes?,
            policies: filters.policies,
            faults: filters.faults,
            limits: filters.limits,
            concurrency: filters.concurrency.map(Arc::new),
        };
        chain.check_own_routes(path);
        Some(chain)
    }

    /// What the listener's own routes say to filters must be heard by one.
    fn check_own_routes(&self, path: &mut Path) {
        if let RouteSource::Inline(table) = &self.routes
            && let Some(filter) = self.unheard(table)
        {
            let reason = format!(
                "typed_per_filter_config names \"{filter}\", which is none of http_filters that hears it"
            );
            path.fault_at("route_config", reason);
        }
    }

    /// The name of a filter that routes say something to and that this chain does not have, or one of another kind.
    #[must_use]
    pub fn unheard<'a>(&self, routes: &'a RouteTable) -> Option<&'a str> {
        let hears = |name: &str, kind: FilterKind| match kind {
            FilterKind::Policies => self.policies.iter().any(|filter| &*filter.name == name),
            FilterKind::Faults => self.faults.iter().any(|filter| &*filter.name == name),
            FilterKind::Limit => self.limits.iter().any(|filter| &*filter.name == name),
        };
        routes.filter_names().find(|(name, kind)| !hears(name, *kind)).map(|(name, _)| name)
    }

    /// Whether an upgrade to this protocol is allowed; what a route says comes first.
    #[must_use]
    pub fn allows_upgrade(&self, protocol: &str, by_route: &[(Box<str>, bool)]) -> bool {
        let find = |rules: &[(Box<str>, bool)]| {
            rules.iter().find(|(name, _)| name.eq_ignore_ascii_case(protocol)).map(|(_, enabled)| *enabled)
        };
        find(by_route).or_else(|| find(&self.upgrades)).unwrap_or(false)
    }
}

/// The timeouts of a chain.
struct Timeouts {
    stream_idle: Option<Duration>,
    request: Option<Duration>,
    request_headers: Option<Duration>,
    idle: Option<Duration>,
    connection: Option<Duration>,
    stream: Option<Duration>,
}

impl Timeouts {
    fn from_proto(
        value: &pb::HttpConnectionManager,
        common: &core::HttpProtocolOptions,
        path: &mut Path,
    ) -> Self {
        let mut own = |value: &Option<prost_types::Duration>, default, name: &str| {
            parse::limit(value.as_ref(), default, name, path)
        };
        let stream_idle = own(&value.stream_idle_timeout, Some(STREAM_IDLE_TIMEOUT), "stream_idle_timeout");
        let request = own(&value.request_timeout, None, "request_timeout");
        let headers = &value.request_headers_timeout;
        let request_headers = own(headers, Some(REQUEST_HEADERS_TIMEOUT), "request_headers_timeout");
        path.field("common_http_protocol_options", |path| Self {
            stream_idle,
            request,
            request_headers,
            idle: parse::limit(common.idle_timeout.as_ref(), Some(IDLE_TIMEOUT), "idle_timeout", path),
            connection: parse::limit(
                common.max_connection_duration.as_ref(),
                None,
                "max_connection_duration",
                path,
            ),
            stream: parse::limit(common.max_stream_duration.as_ref(), None, "max_stream_duration", path),
        })
    }
}

fn path_options(value: &pb::HttpConnectionManager) -> PathOptions {
    PathOptions {
        normalize: value.normalize_path.unwrap_or(true),
        merge_slashes: value.merge_slashes,
        escaped_slashes: match value.path_with_escaped_slashes_action() {
            PathWithEscapedSlashesAction::ImplementationSpecificDefault => EscapedSlashes::default(),
            PathWithEscapedSlashesAction::KeepUnchanged => EscapedSlashes::Keep,
            PathWithEscapedSlashesAction::RejectRequest => EscapedSlashes::Reject,
            PathWithEscapedSlashesAction::UnescapeAndRedirect => EscapedSlashes::UnescapeAndRedirect,
            PathWithEscapedSlashesAction::UnescapeAndForward => EscapedSlashes::Unescape,
        },
    }
}

fn routes(value: &pb::HttpConnectionManager, path: &mut Path) -> Option<RouteSource> {
    match &value.route_specifier {
        Some(RouteSpecifier::RouteConfig(config)) => {
            let table = path.field("route_config", |path| RouteTable::compile(config, path));
            Some(RouteSource::Inline(Arc::new(table)))
        }
        Some(RouteSpecifier::Rds(rds)) => path.field("rds", |path| {
            parse::over_ads(rds.config_source.as_ref(), "config_source", path);
            parse::required(&rds.route_config_name, "route_config_name", path).map(RouteSource::Named)
        }),
        None => path.refuse("one of route_config and rds is needed"),
    }
}

fn forward_client_cert(value: &pb::HttpConnectionManager) -> ForwardClientCert {
    use pb::http_connection_manager::ForwardClientCertDetails as Details;
    match value.forward_client_cert_details() {
        Details::Sanitize => ForwardClientCert::Sanitize,
        Details::ForwardOnly => ForwardClientCert::ForwardOnly,
        Details::AppendForward => ForwardClientCert::AppendForward,
        Details::SanitizeSet => ForwardClientCert::SanitizeSet,
        Details::AlwaysForwardOnly => ForwardClientCert::AlwaysForwardOnly,
    }
}

fn client_cert_details(value: &pb::HttpConnectionManager, path: &mut Path) -> ClientCertDetails {
    let Some(details) = &value.set_current_client_cert_details else {
        return ClientCertDetails::default();
    };
    let sets = matches!(
        forward_client_cert(value),
        ForwardClientCert::AppendForward | ForwardClientCert::SanitizeSet
    );
    if !sets {
        path.fault_at(
            "set_current_client_cert_details",
            "has an effect with APPEND_FORWARD and SANITIZE_SET only",
        );
    }
    ClientCertDetails { subject: details.subject.unwrap_or(false), dns: details.dns, uri: details.uri }
}

#[cfg(test)]
mod tests;
