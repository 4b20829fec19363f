//! Request heads, read line by line as they arrive.

use http::{Method, StatusCode};

use super::field::{self, Coding, ConnectionOptions, FieldError};
use crate::http::is_host_and_port;
use crate::http::message::{BodyLength, RequestHead, Version};

/// Bounds on a head.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// All of the head, in bytes; 431 beyond it.
    pub max_head_bytes: usize,
    /// The request line, in bytes; 414 beyond it.
    pub max_line_bytes: usize,
    /// Fields; 431 beyond it.
    pub max_headers: usize,
    /// Whether HTTP/1.0 is served (Envoy's `accept_http_10`).
    pub accept_http10: bool,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self {
            max_head_bytes: crate::http::MAX_HEAD_BYTES as usize,
            max_line_bytes: crate::http::MAX_REQUEST_LINE_BYTES,
            max_headers: crate::http::MAX_HEADERS,
            accept_http10: false,
        }
    }
}

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
    #[error("request line longer than {} bytes", crate::http::MAX_REQUEST_LINE_BYTES)]
    UriTooLong,
    /// The head is larger than its limit.
    #[error("request head larger than max_request_headers_kb")]
    TooLarge,
    /// More fields than the limit.
    #[error("more header fields than max_headers_count")]
    TooManyHeaders,
    /// A field line is malformed.
    #[error("malformed header: {0}")]
    Field(#[from] FieldError),
    /// No `Host` in HTTP/1.1.
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
            | Self::Field(_)
            | Self::NoHost
            | Self::SeveralHosts
            | Self::BadHost
            | Self::ContentLength
            | Self::BothFramings
            | Self::TransferEncoding => StatusCode::BAD_REQUEST,
        }
    }
}

/// How far a head has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More bytes are needed.
    Partial,
    /// The head is complete.
    Done {
        /// Its length in the input, in bytes.
        head_len: usize,
        /// Whether another request may follow on the connection.
        keep_alive: bool,
    },
}

/// Reads one head; call [`RequestParser::reset`] before the next.
#[derive(Debug, Default)]
pub struct RequestParser {
    /// How much of the input is done with, always at the start of a line.
    done: usize,
    /// How much after `done` is known to hold no line end.
    searched: usize,
    seen_line: bool,
    blank_lines: u8,
    hosts: u8,
    length: Option<u64>,
    lengths: u8,
    chunked: bool,
    codings: u8,
    fields: usize,
    options: ConnectionOptions,
}

impl RequestParser {
    /// Forgets the request that was read.
    pub fn reset(&mut self) {
        let mut options = std::mem::take(&mut self.options);
        options.clear();
        *self = Self { options, ..Self::default() };
    }

    /// Reads on. `input` begins where the head begins, at every call.
    ///
    /// # Errors
    /// When the head must be refused; final.
    pub fn parse(
        &mut self,
        input: &[u8],
        limits: &HeadLimits,
        head: &mut RequestHead,
    ) -> Result<Progress, HeadError> {
        loop {
            let rest = input.get(self.done..).unwrap_or_default();
            if !self.seen_line {
                check_first_line_so_far(rest, limits)?;
            }
            let unsearched = rest.get(self.searched..).unwrap_or_default();
            let Some(end) = memchr::memchr(b'\n', unsearched) else {
                self.searched = rest.len();
                return if input.len() > limits.max_head_bytes {
                    Err(HeadError::TooLarge)
                } else {
                    Ok(Progress::Partial)
                };
            };
            let Some((line, line_len)) = field::line(rest.get(..=self.searched + end).unwrap_or_default())?
            else {
                return Ok(Progress::Partial);
            };
            self.done += line_len;
            self.searched = 0;
            if self.done > limits.max_head_bytes {
                return Err(HeadError::TooLarge);
            }
            if self.seen_line && line.is_empty() {
                return self.finish(head);
            }
            self.line(line, limits, head)?;
        }
    }

    fn line(&mut self, line: &[u8], limits: &HeadLimits, head: &mut RequestHead) -> Result<(), HeadError> {
        if self.seen_line {
            return self.field(line, limits, head);
        }
        if line.is_empty() {
            // One empty line before a request is left over from an old client's body (RFC 9112 section 2.2).
            self.blank_lines += 1;
            return if self.blank_lines > 1 { Err(HeadError::RequestLine) } else { Ok(()) };
        }
        head.clear();
        self.options.clear();
        self.seen_line = true;
        request_line(line, limits, head)?;
        Ok(())
    }

    fn field(&mut self, line: &[u8], limits: &HeadLimits, head: &mut RequestHead) -> Result<(), HeadError> {
        let (name, value) = field::parse(line)?;
        self.fields += 1;
        if self.fields > limits.max_headers {
            return Err(HeadError::TooManyHeaders);
        }
        if !self.framing_or_hop(name, value, head)? {
            head.headers.append(name, value);
        }
        Ok(())
    }

    /// Takes the fields that are ours to understand; `false` for end-to-end fields.
    fn framing_or_hop(
        &mut self,
        name: &[u8],
        value: &[u8],
        head: &mut RequestHead,
    ) -> Result<bool, HeadError> {
        let is = |expected: &[u8]| name.eq_ignore_ascii_case(expected);
        match name.len() {
            4 if is(b"host") => self.host(value, head)?,
            2 if is(b"te") => head.te_trailers |= value.eq_ignore_ascii_case(b"trailers"),
            6 if is(b"expect") && value.eq_ignore_ascii_case(b"100-continue") => head.expects_continue = true,
            6 if is(b"expect") => return Err(HeadError::Expectation),
            7 if is(b"upgrade") => {
                let protocol = std::str::from_utf8(value).map_err(|_| FieldError::BadValue)?;
                head.upgrade.clear();
                head.upgrade.push_str(protocol);
            }
            10 if is(b"connection") => self.options.add(value),
            10 if is(b"keep-alive") => {}
            14 if is(b"content-length") => {
                self.lengths = self.lengths.saturating_add(1);
                self.length = Some(field::content_length(value).ok_or(HeadError::ContentLength)?);
            }
            14 if is(b"http2-settings") => {}
            16 if is(b"proxy-connection") => {}
            17 if is(b"transfer-encoding") => {
                self.codings = self.codings.saturating_add(1);
                match field::coding(value) {
                    Coding::Chunked => self.chunked = true,
                    Coding::Unknown => return Err(HeadError::UnknownCoding),
                    Coding::Malformed => return Err(HeadError::TransferEncoding),
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn host(&mut self, value: &[u8], head: &mut RequestHead) -> Result<(), HeadError> {
        self.hosts = self.hosts.saturating_add(1);
        if self.hosts > 1 {
            return Err(HeadError::SeveralHosts);
        }
        if !is_host_and_port(value) {
            return Err(HeadError::BadHost);
        }
        // A target in absolute or authority form wins over Host (RFC 9112 section 3.2.2).
        if head.authority.is_empty() {
            head.authority.push_str(std::str::from_utf8(value).map_err(|_| HeadError::BadHost)?);
        }
        Ok(())
    }

    fn finish(&mut self, head: &mut RequestHead) -> Result<Progress, HeadError> {
        if self.hosts == 0 && head.version != Version::Http10 {
            return Err(HeadError::NoHost);
        }
        if self.lengths > 1 {
            return Err(HeadError::ContentLength);
        }
        if self.codings > 1 || (self.chunked && head.version == Version::Http10) {
            return Err(HeadError::TransferEncoding);
        }
        if self.chunked && self.length.is_some() {
            return Err(HeadError::BothFramings);
        }
        head.body = match self.length {
            _ if self.chunked => BodyLength::Streamed,
            Some(length) => BodyLength::Known(length),
            None => BodyLength::Empty,
        };
        self.options.drop_nominated(&mut head.headers);
        let upgradable = self.options.upgrade && head.version == Version::Http11 && !head.upgrade.is_empty();
        // HTTP/2 begins with its preface only, never by upgrade (RFC 9113 section 3.1).
        if !upgradable || head.upgrade.eq_ignore_ascii_case("h2c") {
            head.upgrade.clear();
        }
        let keep_alive = match head.version {
            Version::Http10 => self.options.keep_alive && !self.options.close,
            Version::Http11 | Version::Http2 => !self.options.close,
        };
        Ok(Progress::Done { head_len: self.done, keep_alive })
    }
}

/// Refuses what cannot become a request line any more, before its end is there.
fn check_first_line_so_far(rest: &[u8], limits: &HeadLimits) -> Result<(), HeadError> {
    if let Some(first) = rest.first()
        && !matches!(first, b'\r' | b'\n')
        && !first.is_ascii_alphabetic()
        && !field::is_token(&[*first])
    {
        return Err(HeadError::RequestLine);
    }
    let line = rest.get(..=limits.max_line_bytes);
    match line {
        Some(line) if memchr::memchr(b'\n', line).is_none() => Err(HeadError::UriTooLong),
        Some(_) | None => Ok(()),
    }
}

fn request_line(line: &[u8], limits: &HeadLimits, head: &mut RequestHead) -> Result<(), HeadError> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(HeadError::RequestLine);
    };
    if !field::is_token(method) {
        return Err(HeadError::RequestLine);
    }
    head.method = Method::from_bytes(method).map_err(|_| HeadError::RequestLine)?;
    head.version = match version {
        b"HTTP/1.1" => Version::Http11,
        b"HTTP/1.0" if limits.accept_http10 => Version::Http10,
        b"HTTP/1.0" => return Err(HeadError::Http10),
        // A higher minor version of the same major one is spoken as ours (RFC 9110 section 2.5).
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'2'..=b'9'] => Version::Http11,
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            return Err(HeadError::Version);
        }
        _ => return Err(HeadError::RequestLine),
    };
    self::target(target, head)
}

/// The four forms of RFC 9112 section 3.2.
fn target(target: &[u8], head: &mut RequestHead) -> Result<(), HeadError> {
    // Visible ASCII only, and no fragment: whoever sends one means something else than we would.
    if !target.iter().all(|byte| (0x21..0x7f).contains(byte) && *byte != b'#') {
        return Err(HeadError::Target);
    }
    let target = std::str::from_utf8(target).map_err(|_| HeadError::Target)?;
    if head.method == Method::CONNECT {
        if !is_host_and_port(target.as_bytes()) || !target.contains(':') {
            return Err(HeadError::Target);
        }
        head.authority.push_str(target);
    } else if target.starts_with('/') {
        head.path.push_str(target);
    } else if target == "*" && head.method == Method::OPTIONS {
        head.path.push('*');
    } else {
        absolute(target, head)?;
    }
    Ok(())
}

fn absolute(target: &str, head: &mut RequestHead) -> Result<(), HeadError> {
    let (scheme, rest) = target.split_once("://").ok_or(HeadError::Target)?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(HeadError::Target);
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if !is_host_and_port(authority.as_bytes()) {
        return Err(HeadError::BadHost);
    }
    head.authority.push_str(authority);
    if !path.starts_with('/') {
        head.path.push('/');
    }
    head.path.push_str(path);
    Ok(())
}

#[cfg(test)]
mod tests;
