//! Why request heads are refused, and what the client is told.

use http::StatusCode;

use crate::http::h1::field::FieldError;
use crate::http::h1::hop::{self, BadConnection, FramingError};

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Not `METHOD SP target SP HTTP/1.x`.
    #[error("malformed request line")]
    RequestLine,
    /// The target is in none of the four forms, or its form does not fit the method.
    #[error("malformed request target")]
    Target,
    /// HTTP/0.9, HTTP/2.0 and others.
    #[error("HTTP version not supported")]
    Version,
    /// HTTP/1.0 where it is not accepted.
    #[error("HTTP/1.0 is not accepted here")]
    Http10,
    /// The request line is longer than its limit.
    #[error("request line longer than max_line_bytes")]
    UriTooLong,
    /// The head is larger than its limit.
    #[error("request head larger than max_request_headers_kb")]
    TooLarge,
    /// More fields than the limit.
    #[error("more header fields than max_headers_count")]
    TooManyHeaders,
    /// A field line is malformed.
    #[error("malformed header in line {line}: {fault}")]
    Field {
        /// Which line after the request line, from 1.
        line: usize,
        /// What is wrong with it.
        fault: FieldError,
    },
    /// No `Host` in HTTP/1.1, or in HTTP/1.0 without an authority in the target.
    #[error("no Host header")]
    NoHost,
    /// More than one `Host`.
    #[error("more than one Host header")]
    SeveralHosts,
    /// `Host` or the target's authority is no host and port.
    #[error("malformed Host header")]
    BadHost,
    /// `Content-Length` is no number, or is there more than once.
    #[error("malformed Content-Length header")]
    ContentLength,
    /// `Transfer-Encoding` beside `Content-Length`.
    #[error("both Transfer-Encoding and Content-Length")]
    BothFramings,
    /// `Transfer-Encoding` is malformed, or is there more than once, or in HTTP/1.0.
    #[error("malformed Transfer-Encoding header")]
    TransferEncoding,
    /// A transfer coding other than `chunked`.
    #[error("unknown transfer coding")]
    UnknownCoding,
    /// `Connection` is no list of tokens, or nominates more than 16 fields.
    #[error("malformed Connection header, or more than {} names in it", hop::MAX_NOMINATED)]
    Connection,
    /// `Upgrade` is no list of protocols, or is there more than once.
    #[error("malformed or repeated Upgrade header")]
    Upgrade,
    /// `CONNECT` or `TRACE` with a body, which has no meaning (RFC 9110 sections 9.3.6 and 9.3.8).
    #[error("a body in a request whose method has none")]
    UnexpectedBody,
    /// `Expect` with something other than `100-continue`.
    #[error("unknown expectation")]
    Expectation,
}

impl HeadError {
    /// The status that tells the client.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::UriTooLong => StatusCode::URI_TOO_LONG,
            Self::TooLarge | Self::TooManyHeaders => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::Http10 => StatusCode::UPGRADE_REQUIRED,
            Self::UnknownCoding => StatusCode::NOT_IMPLEMENTED,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            Self::RequestLine
            | Self::Target
            | Self::Field { .. }
            | Self::NoHost
            | Self::SeveralHosts
            | Self::BadHost
            | Self::ContentLength
            | Self::BothFramings
            | Self::TransferEncoding
            | Self::Connection
            | Self::Upgrade
            | Self::UnexpectedBody => StatusCode::BAD_REQUEST,
        }
    }

    /// One stable word for logs and metrics.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::RequestLine => "request_line",
            Self::Target => "request_target",
            Self::Version => "http_version",
            Self::Http10 => "http10",
            Self::UriTooLong => "uri_too_long",
            Self::TooLarge => "head_too_large",
            Self::TooManyHeaders => "too_many_headers",
            Self::Field { .. } => "header_syntax",
            Self::NoHost => "no_host",
            Self::SeveralHosts => "several_hosts",
            Self::BadHost => "bad_host",
            Self::ContentLength => "content_length",
            Self::BothFramings => "both_framings",
            Self::TransferEncoding => "transfer_encoding",
            Self::UnknownCoding => "unknown_coding",
            Self::Connection => "connection",
            Self::Upgrade => "upgrade",
            Self::UnexpectedBody => "unexpected_body",
            Self::Expectation => "expectation",
        }
    }
}

impl From<FramingError> for HeadError {
    fn from(error: FramingError) -> Self {
        match error {
            FramingError::ContentLength => Self::ContentLength,
            FramingError::Both => Self::BothFramings,
            FramingError::TransferEncoding => Self::TransferEncoding,
            FramingError::UnknownCoding => Self::UnknownCoding,
        }
    }
}

impl From<BadConnection> for HeadError {
    fn from(_: BadConnection) -> Self {
        Self::Connection
    }
}
