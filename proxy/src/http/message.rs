//! Request and response heads, the same for every HTTP version.

use http::{Method, StatusCode};

use super::headers::Headers;

/// The version that a message came in, for logs and for what the hop may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0 (RFC 1945), accepted only where configured.
    Http10,
    /// HTTP/1.1 (RFC 9112).
    #[default]
    Http11,
    /// HTTP/2 (RFC 9113).
    Http2,
}

/// How much body follows a head, as its framing says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyLength {
    /// No body at all.
    #[default]
    Empty,
    /// Exactly this many bytes.
    Known(u64),
    /// Ends by its own framing: the last chunk, or END_STREAM.
    Streamed,
    /// Ends when the connection does: an HTTP/1 response without framing, or a tunnel after an upgrade.
    UntilClose,
}

/// The head of a request.
///
/// `content-length`, `transfer-encoding` and the other hop-by-hop fields (RFC 9110 section 7.6.1) are not in
/// [`RequestHead::headers`]: the codec turns them into the typed members below, and the codec of the next hop
/// writes its own. `host` and `:authority` are in [`RequestHead::authority`] only.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// The method; `CONNECT` for a tunnel.
    pub method: Method,
    /// Whether the downstream hop is TLS, whatever a client's `:scheme` says; becomes `:scheme` and `x-forwarded-proto`.
    pub secure: bool,
    /// The target's authority, without userinfo, lower case kept as it came.
    pub authority: String,
    /// Path and query (origin form), after normalisation what everybody downstream of it sees; `*` for `OPTIONS *`.
    pub path: String,
    /// What came in.
    pub version: Version,
    /// End-to-end fields.
    pub headers: Headers,
    /// How the body is framed.
    pub body: BodyLength,
    /// `Expect: 100-continue` was asked (RFC 9110 section 10.1.1).
    pub expects_continue: bool,
    /// The protocol asked for by `Upgrade` with `Connection: upgrade`, or by `:protocol` (RFC 8441); empty when none.
    pub upgrade: String,
    /// `te: trailers` was sent; forwarded to HTTP/2 upstreams (gRPC wants it).
    pub te_trailers: bool,
}

impl Default for RequestHead {
    fn default() -> Self {
        Self {
            method: Method::GET,
            secure: false,
            authority: String::new(),
            path: String::new(),
            version: Version::default(),
            headers: Headers::new(),
            body: BodyLength::Empty,
            expects_continue: false,
            upgrade: String::new(),
            te_trailers: false,
        }
    }
}

impl RequestHead {
    /// Makes it ready for the next request of the connection, keeping the memory.
    pub fn clear(&mut self) {
        self.method = Method::GET;
        self.secure = false;
        self.authority.clear();
        self.path.clear();
        self.version = Version::default();
        self.headers.clear();
        self.body = BodyLength::Empty;
        self.expects_continue = false;
        self.upgrade.clear();
        self.te_trailers = false;
    }

    /// The path without its query.
    #[must_use]
    pub fn path_only(&self) -> &str {
        self.path.split_once('?').map_or(self.path.as_str(), |(path, _)| path)
    }

    /// The query without its `?`, where there is one.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.path.split_once('?').map(|(_, query)| query)
    }

    /// Whether this is a gRPC request (content type `application/grpc`, with an optional `+` or `;` suffix).
    #[must_use]
    pub fn is_grpc(&self) -> bool {
        is_grpc(&self.headers)
    }
}

/// The head of a final or informational response. Hop-by-hop fields are typed members as in [`RequestHead`].
#[derive(Debug)]
pub struct ResponseHead {
    /// The status code.
    pub status: StatusCode,
    /// What came in.
    pub version: Version,
    /// End-to-end fields.
    pub headers: Headers,
    /// How the body is framed, after the rules for `HEAD`, 1xx, 204 and 304 (RFC 9112 section 6.3).
    pub body: BodyLength,
    /// The `content-length` that was declared on a response which has no body (`HEAD`, 304): forwarded as it is.
    pub declared_length: Option<u64>,
    /// The protocol that a 101 switched to; empty when none.
    pub upgrade: String,
}

impl Default for ResponseHead {
    fn default() -> Self {
        Self {
            status: StatusCode::OK,
            version: Version::default(),
            headers: Headers::new(),
            body: BodyLength::Empty,
            declared_length: None,
            upgrade: String::new(),
        }
    }
}

impl ResponseHead {
    /// Whether another head follows this one (RFC 9110 section 15.2); after 101 none does.
    #[must_use]
    pub fn is_interim(&self) -> bool {
        self.status.is_informational() && self.status != StatusCode::SWITCHING_PROTOCOLS
    }

    /// Makes it ready for the next response, keeping the memory.
    pub fn clear(&mut self) {
        self.status = StatusCode::OK;
        self.version = Version::default();
        self.headers.clear();
        self.body = BodyLength::Empty;
        self.declared_length = None;
        self.upgrade.clear();
    }
}

/// Whether these headers are of a gRPC message.
#[must_use]
pub fn is_grpc(headers: &Headers) -> bool {
    headers
        .first(b"content-type")
        .and_then(|value| value.strip_prefix(b"application/grpc"))
        .is_some_and(|rest| rest.first().is_none_or(|byte| matches!(byte, b'+' | b';')))
}
