//! Field lines (RFC 9112 section 5), and what heads and trailers have in common.

use memchr::memchr;

use crate::http::headers::list_members;

/// Why a field line is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// The line does not end in CR LF.
    #[error("a line ends in a bare LF")]
    BareLf,
    /// No colon.
    #[error("a field line has no colon")]
    NoColon,
    /// An empty name, or a character that no name may hold; white space before the colon included.
    #[error("a field name holds an illegal character")]
    BadName,
    /// A control character in a value: NUL, a bare CR.
    #[error("the value of a field holds a control character")]
    BadValue,
    /// A line that begins with white space (RFC 9112 section 5.2).
    #[error("a field is folded over several lines")]
    Folded,
}

/// The line at the front of `input`, without its line end, and its length with it; `None` while it is incomplete.
pub(super) fn line(input: &[u8]) -> Result<Option<(&[u8], usize)>, FieldError> {
    let Some(end) = memchr(b'\n', input) else {
        return Ok(None);
    };
    match input.get(..end).and_then(|line| line.strip_suffix(b"\r")) {
        Some(line) => Ok(Some((line, end + 1))),
        None => Err(FieldError::BareLf),
    }
}

/// Name and trimmed value of a line.
pub(super) fn parse(line: &[u8]) -> Result<(&[u8], &[u8]), FieldError> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(FieldError::Folded);
    }
    let colon = memchr(b':', line).ok_or(FieldError::NoColon)?;
    let (name, rest) = line.split_at(colon);
    if !is_token(name) {
        return Err(FieldError::BadName);
    }
    let value = trim_ows(rest.get(1..).unwrap_or_default());
    if value.iter().all(|byte| is_value_byte(*byte)) { Ok((name, value)) } else { Err(FieldError::BadValue) }
}

/// Whether this is a token (RFC 9110 section 5.6.2), which is never empty.
#[must_use]
pub fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| is_token_byte(*byte))
}

const fn is_token_byte(byte: u8) -> bool {
    matches!(byte,
        b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z'
        | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
}

/// HTAB, visible characters, space and obs-text (RFC 9110 section 5.5).
const fn is_value_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

fn trim_ows(value: &[u8]) -> &[u8] {
    let is_ows = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = value.iter().position(|byte| !is_ows(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !is_ows(byte)).map_or(start, |last| last + 1);
    value.get(start..end).unwrap_or_default()
}

/// A decimal number of digits only (RFC 9110 section 8.6).
pub(super) fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// What a `transfer-encoding` field says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Chunked,
    /// A well-formed coding that we do not know.
    Unknown,
    Malformed,
}

/// Reads a whole `transfer-encoding` value; lists are never understood.
pub(super) fn coding(value: &[u8]) -> Coding {
    if value.eq_ignore_ascii_case(b"chunked") {
        Coding::Chunked
    } else if is_token(value) {
        Coding::Unknown
    } else {
        Coding::Malformed
    }
}

/// Whether `Connection` may name this (lower-case) field as one to be dropped. What identity, routing, policy
/// and tracing rest on, and what we set ourselves, is kept whatever a client names.
#[must_use]
pub fn may_be_nominated(name: &[u8]) -> bool {
    const KEPT: &[&[u8]] = &[
        b"authorization",
        b"cookie",
        b"set-cookie",
        b"forwarded",
        b"traceparent",
        b"tracestate",
        b"via",
        b"date",
        b"cache-control",
        b"b3",
    ];
    const KEPT_PREFIXES: &[&[u8]] = &[b"x-", b"content-", b"grpc-"];
    !KEPT.contains(&name) && !KEPT_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Collects what `Connection` fields say.
#[derive(Debug, Default)]
pub(super) struct ConnectionOptions {
    pub close: bool,
    pub keep_alive: bool,
    pub upgrade: bool,
    /// Other members, in lower case, one after the other with a comma behind each.
    nominated: Vec<u8>,
}

impl ConnectionOptions {
    pub(super) fn clear(&mut self) {
        self.close = false;
        self.keep_alive = false;
        self.upgrade = false;
        self.nominated.clear();
    }

    pub(super) fn add(&mut self, value: &[u8]) {
        for member in list_members(value) {
            if member.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if member.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if member.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else {
                self.nominated.extend(member.iter().map(u8::to_ascii_lowercase));
                self.nominated.push(b',');
            }
        }
    }

    pub(super) fn drop_nominated(&self, headers: &mut crate::http::headers::Headers) {
        for name in list_members(&self.nominated).filter(|name| may_be_nominated(name)) {
            headers.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_strict() {
        assert_eq!(parse(b"a: b"), Ok((&b"a"[..], &b"b"[..])));
        assert_eq!(parse(b"a:\t b c \t"), Ok((&b"a"[..], &b"b c"[..])));
        assert_eq!(parse(b"a:"), Ok((&b"a"[..], &b""[..])));
        assert_eq!(parse(b"a : b"), Err(FieldError::BadName));
        assert_eq!(parse(b": b"), Err(FieldError::BadName));
        assert_eq!(parse(b"a b"), Err(FieldError::NoColon));
        assert_eq!(parse(b" a: b"), Err(FieldError::Folded));
        assert_eq!(parse(b"a: b\rc"), Err(FieldError::BadValue));
        assert_eq!(parse(b"a: b\0c"), Err(FieldError::BadValue));
        assert_eq!(line(b"a: b\n"), Err(FieldError::BareLf));
        assert_eq!(line(b"a: b\r"), Ok(None));
    }

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
        ] {
            assert_eq!(content_length(text.as_bytes()), expected, "{text}");
        }
    }
}
