//! Request heads, read line by line as they arrive.

mod error;
mod line;

use http::Method;

use super::field::{self, FieldError, LineError, Lines};
use super::hop::{self, ConnectionOptions, Framing};
use crate::http::headers::list_members;
use crate::http::is_host_and_port;
use crate::http::message::{BodyLength, RequestHead, Version};

pub use error::HeadError;

/// Most empty lines before a request line (RFC 9112 section 2.2).
const MAX_BLANK_LINES: u8 = 1;

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

/// Reads one head, continuing where it stopped; call [`RequestParser::reset`] before the next. In the steady
/// state it allocates nothing: all memory is the head's and is used again.
#[derive(Debug, Default)]
pub struct RequestParser {
    lines: Lines,
    seen_line: bool,
    blank_lines: u8,
    /// Field lines so far, those that do not get into the head included.
    fields: usize,
    host_seen: bool,
    upgrade_seen: bool,
    framing: Framing,
    options: ConnectionOptions,
}

impl RequestParser {
    /// Forgets the request that was read.
    pub fn reset(&mut self) {
        let mut options = std::mem::take(&mut self.options);
        options.clear();
        *self = Self { options, ..Self::default() };
    }

    /// Reads on. `input` begins where the head begins, at every call. Bytes behind the head are not looked at.
    ///
    /// # Errors
    /// When the head must be refused; final. It does not depend on the pieces in which the input came.
    pub fn parse(
        &mut self,
        input: &[u8],
        limits: &HeadLimits,
        head: &mut RequestHead,
    ) -> Result<Progress, HeadError> {
        while !self.seen_line {
            if !self.first_line(input, limits, head)? {
                return Ok(Progress::Partial);
            }
        }
        loop {
            let line = match self.lines.next(input, limits.max_head_bytes) {
                Ok(Some(line)) => line,
                Ok(None) => return Ok(Progress::Partial),
                Err(LineError::TooLong) => return Err(HeadError::TooLarge),
                Err(LineError::BareLf) => return Err(self.fault(FieldError::BareLf)),
            };
            if line.is_empty() {
                return self.finish(head);
            }
            self.field(line, limits, head)?;
        }
    }

    /// Reads the request line or an empty line before it; `false` while it is incomplete.
    fn first_line(
        &mut self,
        input: &[u8],
        limits: &HeadLimits,
        head: &mut RequestHead,
    ) -> Result<bool, HeadError> {
        // What speaks another protocol is told so at once: it may never send a line.
        match input.get(self.lines.done..).unwrap_or_default() {
            [] | [b'\r'] | [b'\r', b'\n', ..] => {}
            [first, ..] if field::is_token(&[*first]) => {}
            _ => return Err(HeadError::RequestLine),
        }
        let longest = limits.max_line_bytes.saturating_add(2).saturating_add(self.lines.done);
        let line = match self.lines.next(input, longest.min(limits.max_head_bytes)) {
            Ok(Some(line)) => line,
            Ok(None) => return Ok(false),
            Err(LineError::TooLong) => return Err(HeadError::UriTooLong),
            Err(LineError::BareLf) => return Err(HeadError::RequestLine),
        };
        if line.is_empty() {
            // One empty line is what an old client's body may have left over (RFC 9112 section 2.2).
            self.blank_lines += 1;
            return if self.blank_lines > MAX_BLANK_LINES { Err(HeadError::RequestLine) } else { Ok(true) };
        }
        head.clear();
        self.seen_line = true;
        line::parse(line, limits, head)?;
        Ok(true)
    }

    fn fault(&self, fault: FieldError) -> HeadError {
        HeadError::Field { line: self.fields + 1, fault }
    }

    fn field(&mut self, line: &[u8], limits: &HeadLimits, head: &mut RequestHead) -> Result<(), HeadError> {
        if self.fields >= limits.max_headers {
            return Err(HeadError::TooManyHeaders);
        }
        let (name, value) = field::parse(line).map_err(|fault| self.fault(fault))?;
        self.fields += 1;
        if !self.framing_or_hop(name, value, head)? {
            head.headers.append(name, value);
        }
        Ok(())
    }

    /// Takes the fields that are ours to understand; `false` for end-to-end fields, among them `trailer`, which
    /// announces what the trailers that we forward will hold.
    fn framing_or_hop(
        &mut self,
        name: &[u8],
        value: &[u8],
        head: &mut RequestHead,
    ) -> Result<bool, HeadError> {
        let is = |expected: &[u8]| name.eq_ignore_ascii_case(expected);
        match name.len() {
            2 if is(b"te") => {
                head.te_trailers |= list_members(value).any(|part| part.eq_ignore_ascii_case(b"trailers"))
            }
            4 if is(b"host") => self.host(value, head)?,
            6 if is(b"expect") => match value.eq_ignore_ascii_case(b"100-continue") {
                // HTTP/1.0 has no interim responses: there it is ignored (RFC 9110 section 10.1.1).
                true => head.expects_continue = head.version != Version::Http10,
                false => return Err(HeadError::Expectation),
            },
            7 if is(b"upgrade") => self.upgrade(value, head)?,
            10 if is(b"connection") => self.options.add(value)?,
            10 if is(b"keep-alive") => {}
            14 if is(b"content-length") => self.framing.content_length(value)?,
            14 if is(b"http2-settings") => {}
            16 if is(b"proxy-connection") => {}
            17 if is(b"transfer-encoding") => self.framing.transfer_encoding(value, head.version)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn host(&mut self, value: &[u8], head: &mut RequestHead) -> Result<(), HeadError> {
        if std::mem::replace(&mut self.host_seen, true) {
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

    fn upgrade(&mut self, value: &[u8], head: &mut RequestHead) -> Result<(), HeadError> {
        if std::mem::replace(&mut self.upgrade_seen, true) || !hop::is_upgrade(value) {
            return Err(HeadError::Upgrade);
        }
        head.upgrade.push_str(std::str::from_utf8(value).map_err(|_| HeadError::Upgrade)?);
        Ok(())
    }

    fn finish(&mut self, head: &mut RequestHead) -> Result<Progress, HeadError> {
        // HTTP/1.0 did not know `Host`, but without an authority there is nothing to route by.
        let needs_host = head.version != Version::Http10 || head.authority.is_empty();
        if !self.host_seen && needs_host {
            return Err(HeadError::NoHost);
        }
        head.body = self.framing.body()?.unwrap_or_default();
        if matches!(head.method, Method::CONNECT | Method::TRACE)
            && !matches!(head.body, BodyLength::Empty | BodyLength::Known(0))
        {
            return Err(HeadError::UnexpectedBody);
        }
        self.options.drop_nominated(&mut head.headers);
        // With a body it is an ordinary request, as whoever is asked may take it (RFC 9110 section 7.8): before the
        // answer nobody could say where the body ends and the other protocol begins.
        let bodiless = matches!(head.body, BodyLength::Empty | BodyLength::Known(0));
        if !self.options.upgrade || head.version != Version::Http11 || names_http(&head.upgrade) || !bodiless
        {
            head.upgrade.clear();
        }
        Ok(Progress::Done { head_len: self.lines.done, keep_alive: self.options.keep_alive(head.version) })
    }
}

/// Whether an upgrade would lead to HTTP again: HTTP/2 begins with its preface only, never by upgrade (RFC 9113
/// section 3.1), and inside a tunnel nobody would look at its requests.
fn names_http(upgrade: &str) -> bool {
    list_members(upgrade.as_bytes()).any(|protocol| {
        let name = protocol.split(|byte| *byte == b'/').next().unwrap_or_default();
        [&b"h2c"[..], b"h2", b"h3", b"http"].iter().any(|http| name.eq_ignore_ascii_case(http))
    })
}

#[cfg(test)]
mod tests;
