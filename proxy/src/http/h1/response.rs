//! Response heads from upstreams. What is not exactly right is answered with 502, never passed on.

use http::{Method, StatusCode};

use super::field::{self, FieldError, LineError, Lines};
use super::hop::{self, BadConnection, ConnectionOptions, Framing, FramingError};
use crate::http::message::{BodyLength, ResponseHead, Version};

pub use super::request::Progress;

/// Bounds on a head.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// All of the head, in bytes.
    pub max_head_bytes: usize,
    /// Fields.
    pub max_headers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_head_bytes: crate::http::MAX_HEAD_BYTES as usize, max_headers: crate::http::MAX_HEADERS }
    }
}

/// Why a response is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Not `HTTP/1.x SP code SP reason`.
    #[error("malformed status line")]
    StatusLine,
    /// Larger than the limit.
    #[error("response head larger than max_head_bytes")]
    TooLarge,
    /// More fields than the limit.
    #[error("more header fields than max_headers")]
    TooManyHeaders,
    /// A field line is malformed.
    #[error("malformed header in line {line}: {fault}")]
    Field {
        /// Which line after the status line, from 1.
        line: usize,
        /// What is wrong with it.
        fault: FieldError,
    },
    /// `Content-Length` is no number, or is there more than once.
    #[error("malformed Content-Length header")]
    ContentLength,
    /// `Transfer-Encoding` beside `Content-Length`.
    #[error("both Transfer-Encoding and Content-Length")]
    BothFramings,
    /// A transfer coding other than one `chunked`.
    #[error("unknown or malformed Transfer-Encoding header")]
    TransferEncoding,
    /// Framing in a 1xx, which must not have any (RFC 9110 section 8.6, RFC 9112 section 6.1): a body behind it
    /// would be read as the next head.
    #[error("Content-Length or Transfer-Encoding in a 1xx response")]
    FramedInterim,
    /// `Connection` is no list of tokens, or nominates more than 16 fields.
    #[error("malformed Connection header, or more than {} names in it", hop::MAX_NOMINATED)]
    Connection,
    /// `Upgrade` is no list of protocols, or is there more than once.
    #[error("malformed or repeated Upgrade header")]
    Upgrade,
    /// 101 to a request that asked for no upgrade, or that does not say what it switches to.
    #[error("101 without a request to switch protocols, or without Upgrade and Connection: upgrade")]
    UnaskedSwitch,
}

impl HeadError {
    /// One stable word for logs and metrics. The status is 502 for all of them.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::StatusLine => "status_line",
            Self::TooLarge => "head_too_large",
            Self::TooManyHeaders => "too_many_headers",
            Self::Field { .. } => "header_syntax",
            Self::ContentLength => "content_length",
            Self::BothFramings => "both_framings",
            Self::TransferEncoding => "transfer_encoding",
            Self::FramedInterim => "framed_interim",
            Self::Connection => "connection",
            Self::Upgrade => "upgrade",
            Self::UnaskedSwitch => "unasked_switch",
        }
    }
}

impl From<FramingError> for HeadError {
    fn from(error: FramingError) -> Self {
        match error {
            FramingError::ContentLength => Self::ContentLength,
            FramingError::Both => Self::BothFramings,
            FramingError::TransferEncoding | FramingError::UnknownCoding => Self::TransferEncoding,
        }
    }
}

impl From<BadConnection> for HeadError {
    fn from(_: BadConnection) -> Self {
        Self::Connection
    }
}

/// Reads one head, continuing where it stopped; make a new one for the next.
#[derive(Debug, Default)]
pub struct ResponseParser {
    lines: Lines,
    seen_line: bool,
    /// Field lines so far, those that do not get into the head included.
    fields: usize,
    upgrade_seen: bool,
    framing: Framing,
    options: ConnectionOptions,
}

impl ResponseParser {
    /// Reads on. `input` begins where the head begins, at every call; `method` is that of the request and
    /// `tunnel` whether it asked to switch protocols. Heads of interim responses (1xx) are given out like
    /// others, and the caller goes on to the next.
    ///
    /// # Errors
    /// When the response must not be passed on; final.
    pub fn parse(
        &mut self,
        input: &[u8],
        limits: &Limits,
        method: &Method,
        tunnel: bool,
        head: &mut ResponseHead,
    ) -> Result<Progress, HeadError> {
        if !self.seen_line && !begins_as_http(input) {
            return Err(HeadError::StatusLine);
        }
        loop {
            let line = match self.lines.next(input, limits.max_head_bytes) {
                Ok(Some(line)) => line,
                Ok(None) => return Ok(Progress::Partial),
                Err(LineError::TooLong) => return Err(HeadError::TooLarge),
                Err(LineError::BareLf) if self.seen_line => return Err(self.fault(FieldError::BareLf)),
                Err(LineError::BareLf) => return Err(HeadError::StatusLine),
            };
            if !self.seen_line {
                self.seen_line = true;
                head.clear();
                status_line(line, head)?;
            } else if line.is_empty() {
                return self.finish(method, tunnel, head);
            } else {
                self.field(line, limits, head)?;
            }
        }
    }

    fn fault(&self, fault: FieldError) -> HeadError {
        HeadError::Field { line: self.fields + 1, fault }
    }

    fn field(&mut self, line: &[u8], limits: &Limits, head: &mut ResponseHead) -> Result<(), HeadError> {
        if self.fields >= limits.max_headers {
            return Err(HeadError::TooManyHeaders);
        }
        let (name, value) = field::parse(line).map_err(|fault| self.fault(fault))?;
        self.fields += 1;
        let is = |expected: &[u8]| name.eq_ignore_ascii_case(expected);
        match name.len() {
            7 if is(b"upgrade") => {
                if std::mem::replace(&mut self.upgrade_seen, true) || !hop::is_upgrade(value) {
                    return Err(HeadError::Upgrade);
                }
                head.upgrade.push_str(std::str::from_utf8(value).map_err(|_| HeadError::Upgrade)?);
            }
            10 if is(b"connection") => self.options.add(value)?,
            10 if is(b"keep-alive") => {}
            14 if is(b"content-length") => self.framing.content_length(value)?,
            16 if is(b"proxy-connection") => {}
            17 if is(b"transfer-encoding") => self.framing.transfer_encoding(value, head.version)?,
            _ => head.headers.append(name, value),
        }
        Ok(())
    }

    fn finish(&self, method: &Method, tunnel: bool, head: &mut ResponseHead) -> Result<Progress, HeadError> {
        let framed = self.framing.body()?;
        let status = head.status;
        let switched = status == StatusCode::SWITCHING_PROTOCOLS;
        if switched && (!tunnel || !self.options.upgrade || head.upgrade.is_empty()) {
            return Err(HeadError::UnaskedSwitch);
        }
        if status.is_informational() && framed.is_some() {
            return Err(HeadError::FramedInterim);
        }
        if !switched {
            head.upgrade.clear();
        }
        self.options.drop_nominated(&mut head.headers);
        let mut keep_alive = self.options.keep_alive(head.version);
        // The order is that of RFC 9112 section 6.3.
        head.body = if switched || (*method == Method::CONNECT && status.is_success()) {
            BodyLength::UntilClose
        } else if *method == Method::HEAD || status == StatusCode::NOT_MODIFIED {
            head.declared_length = self.framing.length;
            BodyLength::Empty
        } else if status.is_informational() || status == StatusCode::NO_CONTENT {
            // Framing must not be here. Whoever sends it may send the body too, so nothing can follow.
            keep_alive &= matches!(framed, None | Some(BodyLength::Known(0)));
            BodyLength::Empty
        } else {
            framed.unwrap_or(BodyLength::UntilClose)
        };
        keep_alive &= head.body != BodyLength::UntilClose;
        Ok(Progress::Done { head_len: self.lines.done, keep_alive })
    }
}

/// Whether the input can still become a status line; what speaks another protocol may never end its line.
fn begins_as_http(input: &[u8]) -> bool {
    const BEGINNING: &[u8] = b"HTTP/1.";
    input.iter().zip(BEGINNING).all(|(found, expected)| found == expected)
}

/// `HTTP/1.1 200 OK`; the reason may be empty, and some servers leave out the space before it, which changes
/// nothing about where the message ends.
fn status_line(line: &[u8], head: &mut ResponseHead) -> Result<(), HeadError> {
    let (version, rest) = line.split_first_chunk::<8>().ok_or(HeadError::StatusLine)?;
    head.version = match version {
        b"HTTP/1.1" => Version::Http11,
        b"HTTP/1.0" => Version::Http10,
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'2'..=b'9'] => Version::Http11,
        _ => return Err(HeadError::StatusLine),
    };
    let [b' ', a @ b'1'..=b'5', b @ b'0'..=b'9', c @ b'0'..=b'9', reason @ ..] = rest else {
        return Err(HeadError::StatusLine);
    };
    head.status = StatusCode::from_bytes(&[*a, *b, *c]).map_err(|_| HeadError::StatusLine)?;
    // A reason goes no further than this hop, but a control character in it says that this is no HTTP.
    let well_formed = reason.first().is_none_or(|byte| *byte == b' ') && field::is_value(reason);
    if well_formed { Ok(()) } else { Err(HeadError::StatusLine) }
}

#[cfg(test)]
mod tests;
