//! The fields that mean this hop only: framing (RFC 9112 section 6) and `Connection` (RFC 9110 section 7.6.1).

use super::field::is_token;
use crate::http::headers::{Headers, list_members};
use crate::http::message::{BodyLength, Version};

/// Most field names that the `Connection` fields of one message may nominate; more is an attempt to make us
/// search.
pub(super) const MAX_NOMINATED: usize = 16;

/// Why a message's framing is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FramingError {
    /// `Content-Length` is no number, or is there more than once.
    ContentLength,
    /// `Transfer-Encoding` beside `Content-Length`.
    Both,
    /// `Transfer-Encoding` is malformed, is there more than once, or is in HTTP/1.0.
    TransferEncoding,
    /// A well-formed coding that we do not know.
    UnknownCoding,
}

/// Collects the framing fields of one head.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Framing {
    pub length: Option<u64>,
    coding: Option<Coding>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    Chunked,
    Unknown,
}

impl Framing {
    /// Takes a `content-length` field. A second one is refused even when it agrees: somebody on the way may
    /// look at one of them only.
    pub(super) fn content_length(&mut self, value: &[u8]) -> Result<(), FramingError> {
        let length = content_length(value).ok_or(FramingError::ContentLength)?;
        if self.length.replace(length).is_some() {
            return Err(FramingError::ContentLength);
        }
        if self.coding.is_some() { Err(FramingError::Both) } else { Ok(()) }
    }

    /// Takes a `transfer-encoding` field, which must be one coding: lists are never understood, and HTTP/1.0
    /// has none (RFC 9112 section 6.1).
    pub(super) fn transfer_encoding(&mut self, value: &[u8], version: Version) -> Result<(), FramingError> {
        if self.length.is_some() {
            return Err(FramingError::Both);
        }
        let coding = if value.eq_ignore_ascii_case(b"chunked") {
            Coding::Chunked
        } else if is_token(value) {
            Coding::Unknown
        } else {
            return Err(FramingError::TransferEncoding);
        };
        if self.coding.replace(coding).is_some() || version == Version::Http10 {
            return Err(FramingError::TransferEncoding);
        }
        Ok(())
    }

    /// What the fields of the whole head say; `None` when they say nothing. An unknown coding is refused only
    /// here, because the head may yet turn out to be worse than unknown.
    pub(super) const fn body(&self) -> Result<Option<BodyLength>, FramingError> {
        match (self.coding, self.length) {
            (Some(Coding::Chunked), _) => Ok(Some(BodyLength::Streamed)),
            (Some(Coding::Unknown), _) => Err(FramingError::UnknownCoding),
            (None, Some(length)) => Ok(Some(BodyLength::Known(length))),
            (None, None) => Ok(None),
        }
    }
}

/// A decimal number of digits only (RFC 9110 section 8.6).
fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// Whether `Connection` may name this (lower-case) field as one to be dropped.
///
/// The RFC lets a sender name any field. But a field that a trusted hop before us has added (an identity, an
/// address, a trace, a decision) must not be lost because the client behind that hop named it, so what
/// identity, routing, policy, caching and tracing rest on stays whatever is named. Framing fields and `host`
/// are never in the section that is searched.
#[must_use]
fn may_be_nominated(name: &[u8]) -> bool {
    const KEPT: &[&[u8]] = &[
        b"accept",
        b"accept-encoding",
        b"age",
        b"authorization",
        b"b3",
        b"baggage",
        b"cache-control",
        b"cdn-loop",
        b"client-ip",
        b"cookie",
        b"date",
        b"etag",
        b"expires",
        b"forwarded",
        b"from",
        b"host",
        b"location",
        b"origin",
        b"pragma",
        b"proxy-authorization",
        b"range",
        b"referer",
        b"server",
        b"set-cookie",
        b"strict-transport-security",
        b"traceparent",
        b"tracestate",
        b"true-client-ip",
        b"user-agent",
        b"vary",
        b"via",
        b"www-authenticate",
    ];
    const KEPT_PREFIXES: &[&[u8]] =
        &[b"x-", b"content-", b"grpc-", b"outrider-", b"sec-", b"cf-", b"if-", b"access-control-", b"last-"];
    !KEPT.contains(&name) && !KEPT_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// A `Connection` field that is no list of tokens, or that nominates more than [`MAX_NOMINATED`] fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadConnection;

/// Collects what `Connection` fields say.
#[derive(Debug, Default)]
pub(super) struct ConnectionOptions {
    close: bool,
    keep_alive: bool,
    pub upgrade: bool,
    nominated_count: usize,
    /// The other members, in lower case, each with a comma behind it.
    nominated: Vec<u8>,
}

impl ConnectionOptions {
    /// Forgets everything but the memory.
    pub(super) fn clear(&mut self) {
        self.close = false;
        self.keep_alive = false;
        self.upgrade = false;
        self.nominated_count = 0;
        self.nominated.clear();
    }

    pub(super) fn add(&mut self, value: &[u8]) -> Result<(), BadConnection> {
        for member in list_members(value) {
            if member.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if member.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if member.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else if is_token(member) && self.nominated_count < MAX_NOMINATED {
                self.nominated_count += 1;
                self.nominated.extend(member.iter().map(u8::to_ascii_lowercase));
                self.nominated.push(b',');
            } else {
                return Err(BadConnection);
            }
        }
        Ok(())
    }

    /// Whether the connection may carry another message after this one (RFC 9112 section 9.3); `close` wins.
    pub(super) fn keep_alive(&self, version: Version) -> bool {
        !self.close && (self.keep_alive || version != Version::Http10)
    }

    pub(super) fn drop_nominated(&self, headers: &mut Headers) {
        for name in list_members(&self.nominated).filter(|name| may_be_nominated(name)) {
            headers.remove(name);
        }
    }
}

/// Whether a value is what `Upgrade` may hold: a list of `protocol-name [ "/" version ]` (RFC 9110 section 7.8).
pub(super) fn is_upgrade(value: &[u8]) -> bool {
    list_members(value).all(|member| member.splitn(2, |byte| *byte == b'/').all(is_token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_digits() {
        for (text, expected) in [
            ("5", Some(5)),
            ("005", Some(5)),
            ("", None),
            ("-1", None),
            ("+1", None),
            ("0x5", None),
            ("1_0", None),
            ("5;", None),
            ("5,5", None),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("00000000000000000000000000000018446744073709551615", Some(u64::MAX)),
        ] {
            assert_eq!(content_length(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn connection_is_a_short_list_of_tokens() {
        let add = |value: &str| ConnectionOptions::default().add(value.as_bytes());
        assert_eq!(add("close , ,x"), Ok(()));
        assert_eq!(add(""), Ok(()));
        assert_eq!(add("close;x"), Err(BadConnection));
        assert_eq!(add("a b"), Err(BadConnection));
        assert_eq!(add(&"x,".repeat(MAX_NOMINATED)), Ok(()));
        assert_eq!(add(&"x,".repeat(MAX_NOMINATED + 1)), Err(BadConnection));
    }

    #[test]
    fn upgrade_is_a_list_of_protocols() {
        for good in ["", "websocket", "a/1, b"] {
            assert!(is_upgrade(good.as_bytes()), "{good}");
        }
        for bad in ["a b", "a/", "/1", "a/1/2", "a;b"] {
            assert!(!is_upgrade(bad.as_bytes()), "{bad}");
        }
    }
}
