//! Envoy's format strings, for access logs and header values.
//!
//! Compiled with the configuration, filled in at the end of each request. `operator` lists what they may hold;
//! everything else is refused by name.

mod escape;
mod operator;
#[cfg(test)]
mod tests;
mod time;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::flags::Flags;
use super::trace::TraceId;
use crate::http::message::{RequestHead, ResponseHead};
use crate::policy::Authorized;
use operator::Operator;

/// Envoy's default line, and after it what else our own answers are explained with: reason code, why TLS failed, cluster, route, peer and policy.
const DEFAULT_LINE: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
    %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \
    \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \
    \"%UPSTREAM_HOST%\" %RESPONSE_CODE_DETAILS% %UPSTREAM_TRANSPORT_FAILURE_REASON% %UPSTREAM_CLUSTER% %ROUTE_NAME% \
    %DOWNSTREAM_PEER_URI_SAN% %DYNAMIC_METADATA(envoy.filters.http.rbac:enforced_effective_policy_id)%\n";

/// The form of an access log line.
#[derive(Clone, Debug)]
pub enum LineFormat {
    /// As the template says; it holds its own line end.
    Text(Template),
    /// An object with these keys.
    Json(Vec<(String, Template)>),
}

impl LineFormat {
    /// Envoy's default.
    #[must_use]
    pub fn envoy_default() -> Self {
        Self::Text(Template::parse(DEFAULT_LINE).unwrap_or_default())
    }

    /// Writes one line. Allocates nothing but what `out` grows by, unless a peer sent what must be escaped.
    pub fn render(&self, record: &Record<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Text(template) => template.render_line(record, out),
            Self::Json(fields) => {
                out.push(b'{');
                for (index, (key, template)) in fields.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    json_string(out, |out| out.extend_from_slice(key.as_bytes()));
                    out.push(b':');
                    template.render_json(record, out);
                }
                out.extend_from_slice(b"}\n");
            }
        }
    }
}

/// Writes what `write` writes as a JSON string.
fn json_string(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    let start = out.len();
    write(out);
    escape::json_from(out, start);
    out.push(b'"');
}

/// A compiled format string.
#[derive(Clone, Debug, Default)]
pub struct Template(Vec<Piece>);

#[derive(Clone, Debug)]
enum Piece {
    Text(Box<[u8]>),
    Operator(Operator),
}

/// Why a format string is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// A `%` without another.
    #[error("a \"%\" is not closed; write \"%%\" for the character itself")]
    Open,
    /// An operator that we do not know, or whose arguments are wrong.
    #[error("operator %{0}% is not supported")]
    Unknown(String),
    /// The text holds what no header or line may hold.
    #[error("a control character")]
    Control,
}

/// What is known of a request or connection; borrowed for the moment of writing.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// When it began.
    pub start: SystemTime,
    /// How long it took.
    pub duration: Duration,
    /// The names of the faults that were injected.
    pub faults: &'a [Arc<str>],
    /// When the response head was there, counted from the beginning.
    pub response_after: Option<Duration>,
    /// The request.
    pub request: Option<&'a RequestHead>,
    /// The response.
    pub response: Option<&'a ResponseHead>,
    /// The status that the client got; 0 when it got none.
    pub status: u16,
    /// What was unusual.
    pub flags: Flags,
    /// The reason code, if we answered.
    pub reason: Option<&'static str>,
    /// The code of why TLS with the last endpoint failed.
    pub transport_failure: Option<&'static str>,
    /// The SPIFFE ID that the client has proven.
    pub peer: Option<&'a str>,
    /// What policies have said, if any were asked.
    pub authorized: Option<&'a Authorized>,
    /// Body bytes from the client.
    pub received_bytes: u64,
    /// Body bytes to the client.
    pub sent_bytes: u64,
    /// The last endpoint that was tried.
    pub upstream: Option<SocketAddr>,
    /// The cluster.
    pub cluster: &'a str,
    /// The route's name.
    pub route: &'a str,
    /// How many attempts were made.
    pub attempts: u32,
    /// The trace that it belongs to.
    pub trace: Option<TraceId>,
    /// By SNI.
    pub server_name: Option<&'a str>,
    /// Our address.
    pub local: Option<SocketAddr>,
    /// The client's address.
    pub remote: Option<SocketAddr>,
}

impl Default for Record<'_> {
    fn default() -> Self {
        Self {
            start: UNIX_EPOCH,
            duration: Duration::ZERO,
            response_after: None,
            request: None,
            response: None,
            status: 0,
            flags: Flags::NONE,
            reason: None,
            transport_failure: None,
            peer: None,
            authorized: None,
            faults: &[],
            received_bytes: 0,
            sent_bytes: 0,
            upstream: None,
            cluster: "",
            route: "",
            attempts: 0,
            trace: None,
            server_name: None,
            local: None,
            remote: None,
        }
    }
}

impl Template {
    /// Compiles a format string.
    ///
    /// # Errors
    /// When an operator is not supported.
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        let mut pieces = Vec::new();
        let mut literal = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            literal.extend_from_slice(before.as_bytes());
            if let Some(after) = after.strip_prefix('%') {
                literal.push(b'%');
                rest = after;
                continue;
            }
            let (operator, after) = Operator::parse(after)?;
            if !literal.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut literal).into()));
            }
            pieces.push(Piece::Operator(operator));
            rest = after;
        }
        literal.extend_from_slice(rest.as_bytes());
        if literal.iter().any(|byte| matches!(byte, 0 | b'\r')) {
            return Err(FormatError::Control);
        }
        if !literal.is_empty() {
            pieces.push(Piece::Text(literal.into()));
        }
        Ok(Self(pieces))
    }

    /// The text, if it is the same for every request.
    #[must_use]
    pub fn as_literal(&self) -> Option<&[u8]> {
        match self.0.as_slice() {
            [] => Some(b""),
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Writes the value of a header: what is missing is nothing, and what must not stand in a field value (RFC 9110,
    /// section 5.5) is left out.
    pub fn render_value(&self, record: &Record<'_>, out: &mut Vec<u8>) {
        let start = out.len();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text),
                Piece::Operator(operator) => {
                    operator.render(record, out);
                }
            }
        }
        let refused = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
        if out.get(start..).unwrap_or_default().iter().any(refused) {
            let mut value = out.split_off(start);
            value.retain(|byte| !refused(byte));
            out.append(&mut value);
        }
    }

    /// Writes a log line: what is missing is `-`, and what a peer sent cannot break the line.
    pub fn render_line(&self, record: &Record<'_>, out: &mut Vec<u8>) {
        for piece in &self.0 {
            let start = out.len();
            if piece.render_or_dash(record, out) {
                escape::text_from(out, start);
            }
        }
    }

    /// Writes a JSON value as Envoy does: an operator alone keeps its type, and is `null` when there is nothing; in
    /// a text what is missing is `-`.
    fn render_json(&self, record: &Record<'_>, out: &mut Vec<u8>) {
        if let [Piece::Operator(operator)] = self.0.as_slice() {
            let start = out.len();
            out.push(b'"');
            if !operator.render(record, out) {
                out.truncate(start);
                out.extend_from_slice(b"null");
            } else if operator.is_number() {
                out.remove(start);
            } else {
                escape::json_from(out, start + 1);
                out.push(b'"');
            }
            return;
        }
        json_string(out, |out| {
            for piece in &self.0 {
                piece.render_or_dash(record, out);
            }
        });
    }
}

impl Piece {
    /// Writes it; whether it is a value, which may have come from a peer.
    fn render_or_dash(&self, record: &Record<'_>, out: &mut Vec<u8>) -> bool {
        match self {
            Self::Text(text) => {
                out.extend_from_slice(text);
                false
            }
            Self::Operator(operator) => {
                let start = out.len();
                if !operator.render(record, out) || out.len() == start {
                    out.push(b'-');
                }
                true
            }
        }
    }
}
