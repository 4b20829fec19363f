//! Response heads from upstreams. What is not exactly right is answered with 502, never passed on.

use http::{Method, StatusCode};

use super::field::{self, Coding, ConnectionOptions, FieldError};
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
    #[error("response head larger than {} bytes", crate::http::MAX_HEAD_BYTES)]
    TooLarge,
    /// More fields than the limit.
    #[error("more than {} header fields", crate::http::MAX_HEADERS)]
    TooManyHeaders,
    /// A field line is malformed.
    #[error("malformed header: {0}")]
    Field(#[from] FieldError),
    /// `Content-Length` is no number, or is there with different values.
    #[error("malformed Content-Length header")]
    ContentLength,
    /// `Transfer-Encoding` beside `Content-Length`.
    #[error("both Transfer-Encoding and Content-Length")]
    BothFramings,
    /// A transfer coding other than one `chunked`.
    #[error("unknown or malformed Transfer-Encoding header")]
    TransferEncoding,
    /// 101 to a request that asked for no upgrade.
    #[error("101 without a request to switch protocols")]
    UnaskedSwitch,
}

/// Reads one head; make a new one for the next.
#[derive(Debug, Default)]
pub struct ResponseParser {
    done: usize,
    searched: usize,
    seen_line: bool,
    length: Option<u64>,
    chunked: bool,
    codings: u8,
    options: ConnectionOptions,
}

impl ResponseParser {
    /// Reads on. `input` begins where the head begins, at every call; `method` is that of the request and
    /// `tunnel` whether it asked to switch protocols.
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
        loop {
            let rest = input.get(self.done..).unwrap_or_default();
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

    fn field(&mut self, line: &[u8], limits: &Limits, head: &mut ResponseHead) -> Result<(), HeadError> {
        let (name, value) = field::parse(line)?;
        if head.headers.len() >= limits.max_headers {
            return Err(HeadError::TooManyHeaders);
        }
        let is = |expected: &[u8]| name.eq_ignore_ascii_case(expected);
        match name.len() {
            7 if is(b"upgrade") => {
                head.upgrade.clear();
                head.upgrade.push_str(std::str::from_utf8(value).map_err(|_| FieldError::BadValue)?);
            }
            10 if is(b"connection") => self.options.add(value),
            10 if is(b"keep-alive") => {}
            14 if is(b"content-length") => {
                let length = field::content_length(value).ok_or(HeadError::ContentLength)?;
                if self.length.replace(length).is_some() {
                    return Err(HeadError::ContentLength);
                }
            }
            16 if is(b"proxy-connection") => {}
            17 if is(b"transfer-encoding") => {
                self.codings = self.codings.saturating_add(1);
                if field::coding(value) != Coding::Chunked || self.codings > 1 {
                    return Err(HeadError::TransferEncoding);
                }
                self.chunked = true;
            }
            _ => head.headers.append(name, value),
        }
        Ok(())
    }

    fn finish(&self, method: &Method, tunnel: bool, head: &mut ResponseHead) -> Result<Progress, HeadError> {
        if self.chunked && self.length.is_some() {
            return Err(HeadError::BothFramings);
        }
        if self.chunked && head.version == Version::Http10 {
            return Err(HeadError::TransferEncoding);
        }
        self.options.drop_nominated(&mut head.headers);
        let status = head.status;
        let switched = status == StatusCode::SWITCHING_PROTOCOLS;
        if switched && !tunnel {
            return Err(HeadError::UnaskedSwitch);
        }
        if !switched {
            head.upgrade.clear();
        }
        // The order is that of RFC 9112 section 6.3.
        head.body = if switched || (*method == Method::CONNECT && status.is_success()) {
            BodyLength::UntilClose
        } else if *method == Method::HEAD
            || status.is_informational()
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED
        {
            head.declared_length = self.length.filter(|_| status != StatusCode::NO_CONTENT);
            BodyLength::Empty
        } else if self.chunked {
            BodyLength::Streamed
        } else if let Some(length) = self.length {
            BodyLength::Known(length)
        } else {
            BodyLength::UntilClose
        };
        let keep_alive = match head.version {
            Version::Http10 => self.options.keep_alive && !self.options.close,
            Version::Http11 | Version::Http2 => !self.options.close,
        };
        Ok(Progress::Done { head_len: self.done, keep_alive })
    }
}

/// `HTTP/1.1 200 OK`; the reason may be empty, and some servers leave out the space before it.
fn status_line(line: &[u8], head: &mut ResponseHead) -> Result<(), HeadError> {
    let mut parts = line.splitn(3, |byte| *byte == b' ');
    head.version = match parts.next() {
        Some(b"HTTP/1.1") => Version::Http11,
        Some(b"HTTP/1.0") => Version::Http10,
        Some([b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'2'..=b'9']) => Version::Http11,
        Some(_) | None => return Err(HeadError::StatusLine),
    };
    let code = parts.next().ok_or(HeadError::StatusLine)?;
    if code.len() != 3 {
        return Err(HeadError::StatusLine);
    }
    head.status = StatusCode::from_bytes(code).map_err(|_| HeadError::StatusLine)?;
    let reason = parts.next().unwrap_or_default();
    // A reason goes no further than this hop, but a control character in it says that this is no HTTP.
    if reason.iter().any(|byte| *byte != b'\t' && (*byte < b' ' || *byte == 0x7f)) {
        return Err(HeadError::StatusLine);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, method: &Method, tunnel: bool) -> Result<(ResponseHead, bool), HeadError> {
        let mut head = ResponseHead::default();
        let mut parser = ResponseParser::default();
        match parser.parse(text.as_bytes(), &Limits::default(), method, tunnel, &mut head)? {
            Progress::Done { head_len, keep_alive } => {
                assert_eq!(head_len, text.len());
                Ok((head, keep_alive))
            }
            Progress::Partial => panic!("partial"),
        }
    }

    #[test]
    fn framing_follows_the_rfc() {
        for (text, method, body) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", Method::GET, BodyLength::Known(5)),
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", Method::HEAD, BodyLength::Empty),
            ("HTTP/1.1 304 x\r\ncontent-length: 5\r\n\r\n", Method::GET, BodyLength::Empty),
            ("HTTP/1.1 204 x\r\n\r\n", Method::GET, BodyLength::Empty),
            ("HTTP/1.1 200\r\ntransfer-encoding: Chunked\r\n\r\n", Method::GET, BodyLength::Streamed),
            ("HTTP/1.1 200 OK\r\n\r\n", Method::GET, BodyLength::UntilClose),
            ("HTTP/1.1 200 OK\r\n\r\n", Method::CONNECT, BodyLength::UntilClose),
        ] {
            assert_eq!(parse(text, &method, false).unwrap().0.body, body, "{text}");
        }
    }

    #[test]
    fn keep_alive_follows_version_and_connection() {
        for (text, expected) in [
            ("HTTP/1.1 204 x\r\n\r\n", true),
            ("HTTP/1.1 204 x\r\nConnection: Close\r\n\r\n", false),
            ("HTTP/1.0 204 x\r\n\r\n", false),
            ("HTTP/1.0 204 x\r\nConnection: keep-alive\r\n\r\n", true),
        ] {
            assert_eq!(parse(text, &Method::GET, false).unwrap().1, expected, "{text}");
        }
    }

    #[test]
    fn what_is_ambiguous_is_refused() {
        for (text, error) in [
            (
                "HTTP/1.1 200 x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
                HeadError::BothFramings,
            ),
            ("HTTP/1.1 200 x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n", HeadError::ContentLength),
            ("HTTP/1.1 200 x\r\ncontent-length: +5\r\n\r\n", HeadError::ContentLength),
            ("HTTP/1.1 200 x\r\ntransfer-encoding: gzip, chunked\r\n\r\n", HeadError::TransferEncoding),
            ("HTTP/1.1 101 x\r\nupgrade: x\r\n\r\n", HeadError::UnaskedSwitch),
            ("HTTP/2.0 200 x\r\n\r\n", HeadError::StatusLine),
            ("HTTP/1.1 20 x\r\n\r\n", HeadError::StatusLine),
            ("HTTP/1.1 200 x\n\r\n", HeadError::Field(FieldError::BareLf)),
            ("HTTP/1.1 200 x\r\na : b\r\n\r\n", HeadError::Field(FieldError::BadName)),
        ] {
            assert_eq!(parse(text, &Method::GET, false).unwrap_err(), error, "{text}");
        }
    }

    #[test]
    fn a_switch_that_was_asked_for_opens_a_tunnel() {
        let text = "HTTP/1.1 101 x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n";
        let (head, _) = parse(text, &Method::GET, true).unwrap();
        assert_eq!((head.body, head.upgrade.as_str()), (BodyLength::UntilClose, "websocket"));
    }
}
