//! Envoy's format strings, for access logs and header values.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::flags::Flags;
use crate::http::message::{RequestHead, ResponseHead, Version};

/// Envoy's default line, without the fields of features that we do not have.
const DEFAULT_LINE: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% \
    %RESPONSE_CODE_DETAILS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \
    \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER% %ROUTE_NAME%\n";

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

    /// Writes one line.
    pub fn render(&self, record: &Record<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Text(template) => template.render_line(record, out),
            Self::Json(fields) => {
                let mut text = Vec::new();
                out.push(b'{');
                for (index, (key, template)) in fields.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    text.clear();
                    template.render_value(record, &mut text);
                    // Writing a string into memory cannot fail.
                    let _ = serde_json::to_writer(&mut *out, key);
                    out.push(b':');
                    let _ = serde_json::to_writer(&mut *out, &String::from_utf8_lossy(&text));
                }
                out.extend_from_slice(b"}\n");
            }
        }
    }
}

/// A compiled format string.
#[derive(Clone, Debug, Default)]
pub struct Template(Vec<Piece>);

#[derive(Clone, Debug)]
enum Piece {
    Text(Box<[u8]>),
    Operator(Operator),
}

#[derive(Clone, Debug)]
enum Operator {
    Request(Vec<Box<[u8]>>, Option<usize>),
    Response(Vec<Box<[u8]>>, Option<usize>),
    StartTime,
    Protocol,
    ResponseCode,
    ResponseCodeDetails,
    ResponseFlags,
    BytesReceived,
    BytesSent,
    Duration,
    ResponseDuration,
    UpstreamHost,
    UpstreamCluster,
    RouteName,
    Attempts,
    ServerName,
    Local { port: bool },
    Remote { port: bool },
    Hostname,
}

/// Why a format string is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// A `%` without another.
    #[error("a \"%\" is not closed; write \"%%\" for the character itself")]
    Open,
    /// An operator that we do not know.
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
            received_bytes: 0,
            sent_bytes: 0,
            upstream: None,
            cluster: "",
            route: "",
            attempts: 0,
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
            let (operator, after) = after.split_once('%').ok_or(FormatError::Open)?;
            if !literal.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut literal).into()));
            }
            pieces.push(Piece::Operator(Operator::parse(operator)?));
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

    /// Writes the value of a header: what is missing is nothing.
    pub fn render_value(&self, record: &Record<'_>, out: &mut Vec<u8>) {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text),
                Piece::Operator(operator) => {
                    operator.render(record, out);
                }
            }
        }
        out.retain(|byte| !matches!(byte, b'\r' | b'\n' | 0));
    }

    /// Writes a log line: what is missing is `-`, and what a peer sent cannot break the line.
    pub fn render_line(&self, record: &Record<'_>, out: &mut Vec<u8>) {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text),
                Piece::Operator(operator) => {
                    let start = out.len();
                    if !operator.render(record, out) || out.len() == start {
                        out.push(b'-');
                    }
                    escape_from(out, start);
                }
            }
        }
    }
}

/// Makes control characters and quotes visible in what was written since `start`.
fn escape_from(out: &mut Vec<u8>, start: usize) {
    let unsafe_byte = |byte: &u8| byte.is_ascii_control() || matches!(byte, b'"' | b'\\');
    if !out.get(start..).unwrap_or_default().iter().any(unsafe_byte) {
        return;
    }
    let raw = out.split_off(start);
    for byte in raw {
        if unsafe_byte(&byte) {
            out.extend(std::ascii::escape_default(byte));
        } else {
            out.push(byte);
        }
    }
}

impl Operator {
    fn parse(text: &str) -> Result<Self, FormatError> {
        let unknown = || FormatError::Unknown(text.to_owned());
        let (name, argument) = match text.split_once('(') {
            Some((name, rest)) => {
                let (argument, limit) = rest.rsplit_once(')').ok_or_else(unknown)?;
                let limit = match limit.strip_prefix(':') {
                    Some(limit) => Some(limit.parse().map_err(|_| unknown())?),
                    None if limit.is_empty() => None,
                    None => return Err(unknown()),
                };
                (name, Some((argument, limit)))
            }
            None => (text, None),
        };
        let names = |argument: &str| {
            argument.split('?').map(|name| name.to_ascii_lowercase().into_bytes().into()).collect()
        };
        Ok(match (name, argument) {
            ("REQ", Some((argument, limit))) => Self::Request(names(argument), limit),
            ("RESP", Some((argument, limit))) => Self::Response(names(argument), limit),
            ("START_TIME", None) => Self::StartTime,
            ("PROTOCOL", None) => Self::Protocol,
            ("RESPONSE_CODE", None) => Self::ResponseCode,
            ("RESPONSE_CODE_DETAILS", None) => Self::ResponseCodeDetails,
            ("RESPONSE_FLAGS", None) => Self::ResponseFlags,
            ("BYTES_RECEIVED", None) => Self::BytesReceived,
            ("BYTES_SENT", None) => Self::BytesSent,
            ("DURATION", None) => Self::Duration,
            ("RESPONSE_DURATION", None) => Self::ResponseDuration,
            ("UPSTREAM_HOST", None) => Self::UpstreamHost,
            ("UPSTREAM_CLUSTER", None) => Self::UpstreamCluster,
            ("ROUTE_NAME", None) => Self::RouteName,
            ("UPSTREAM_REQUEST_ATTEMPT_COUNT", None) => Self::Attempts,
            ("REQUESTED_SERVER_NAME", None) => Self::ServerName,
            ("DOWNSTREAM_LOCAL_ADDRESS", None) => Self::Local { port: true },
            ("DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", None) => Self::Local { port: false },
            ("DOWNSTREAM_REMOTE_ADDRESS" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS", None) => {
                Self::Remote { port: true }
            }
            (
                "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT",
                None,
            ) => Self::Remote { port: false },
            ("HOSTNAME", None) => Self::Hostname,
            _ => return Err(unknown()),
        })
    }

    /// Writes the value; `false` when there is none.
    fn render(&self, record: &Record<'_>, out: &mut Vec<u8>) -> bool {
        let number = |out: &mut Vec<u8>, value: u64| {
            out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
            true
        };
        let text = |out: &mut Vec<u8>, value: &str| {
            out.extend_from_slice(value.as_bytes());
            !value.is_empty()
        };
        match self {
            Self::Request(names, limit) => {
                let Some(head) = record.request else { return false };
                first(names, *limit, out, |name| request_value(head, name))
            }
            Self::Response(names, limit) => {
                let Some(head) = record.response else { return false };
                first(names, *limit, out, |name| head.headers.first(name))
            }
            Self::StartTime => write_time(record.start, out),
            Self::Protocol => match record.request.map(|head| head.version) {
                Some(Version::Http10) => text(out, "HTTP/1.0"),
                Some(Version::Http11) => text(out, "HTTP/1.1"),
                Some(Version::Http2) => text(out, "HTTP/2"),
                None => false,
            },
            Self::ResponseCode => number(out, u64::from(record.status)),
            Self::ResponseCodeDetails => {
                let upstream = if record.status > 0 { "via_upstream" } else { "" };
                text(out, record.reason.unwrap_or(upstream))
            }
            Self::ResponseFlags => write!(out, "{}", record.flags).is_ok(),
            Self::BytesReceived => number(out, record.received_bytes),
            Self::BytesSent => number(out, record.sent_bytes),
            Self::Duration => number(out, millis(record.duration)),
            Self::ResponseDuration => record.response_after.is_some_and(|after| number(out, millis(after))),
            Self::UpstreamHost => record.upstream.is_some_and(|address| write!(out, "{address}").is_ok()),
            Self::UpstreamCluster => text(out, record.cluster),
            Self::RouteName => text(out, record.route),
            Self::Attempts => number(out, u64::from(record.attempts)),
            Self::ServerName => text(out, record.server_name.unwrap_or_default()),
            Self::Local { port } => address(record.local, *port, out),
            Self::Remote { port } => address(record.remote, *port, out),
            Self::Hostname => text(out, &std::env::var("HOSTNAME").unwrap_or_default()),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn address(address: Option<SocketAddr>, port: bool, out: &mut Vec<u8>) -> bool {
    match address {
        Some(address) if port => write!(out, "{address}").is_ok(),
        Some(address) => write!(out, "{}", address.ip()).is_ok(),
        None => false,
    }
}

fn request_value<'a>(head: &'a RequestHead, name: &[u8]) -> Option<&'a [u8]> {
    match name {
        b":method" => Some(head.method.as_str().as_bytes()),
        b":path" => Some(head.path.as_bytes()),
        b":authority" | b"host" => Some(head.authority.as_bytes()),
        b":scheme" => Some(if head.secure { b"https" } else { b"http" }),
        name => head.headers.first(name),
    }
}

fn first<'a>(
    names: &[Box<[u8]>],
    limit: Option<usize>,
    out: &mut Vec<u8>,
    value: impl Fn(&[u8]) -> Option<&'a [u8]>,
) -> bool {
    let Some(value) = names.iter().find_map(|name| value(name)) else {
        return false;
    };
    let value = limit.and_then(|limit| value.get(..limit)).unwrap_or(value);
    out.extend_from_slice(value);
    true
}

/// RFC 3339 in UTC with milliseconds.
fn write_time(time: SystemTime, out: &mut Vec<u8>) -> bool {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let mut text = String::new();
    let clock = (seconds / 3600, seconds / 60 % 60, seconds % 60, since.subsec_millis());
    let written = write!(
        text,
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        clock.0, clock.1, clock.2, clock.3
    );
    out.extend_from_slice(text.as_bytes());
    written.is_ok()
}

/// Year, month and day of a day number since 1970-01-01, in the Gregorian calendar.
const fn civil(days: u64) -> (u64, u64, u64) {
    // Counted in years that begin in March, so that the leap day comes last.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(template: &str, record: &Record<'_>) -> String {
        let mut out = Vec::new();
        Template::parse(template).unwrap().render_line(record, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn operators_are_filled_in() {
        let mut head = RequestHead::default();
        head.path.push_str("/a?b");
        head.headers.append(b"x", b"1\"\n2");
        let start = UNIX_EPOCH + Duration::from_millis(1_709_164_800_123);
        let record =
            Record { start, request: Some(&head), status: 503, flags: Flags::UF, ..Record::default() };
        assert_eq!(render("%REQ(:METHOD)% %REQ(:PATH):2% 100%%", &record), "GET /a 100%");
        assert_eq!(render("%REQ(Y?X)% %REQ(Z)% %UPSTREAM_HOST%", &record), "1\\\"\\n2 - -");
        assert_eq!(render("%START_TIME%", &record), "2024-02-29T00:00:00.123Z");
        assert_eq!(render("%RESPONSE_CODE% %RESPONSE_FLAGS%", &record), "503 UF");
    }

    #[test]
    fn what_is_not_supported_is_named() {
        for (text, error) in [
            ("%FOO%", FormatError::Unknown("FOO".into())),
            ("%REQ%", FormatError::Unknown("REQ".into())),
            ("%REQ(a):x%", FormatError::Unknown("REQ(a):x".into())),
            ("50%", FormatError::Open),
        ] {
            assert_eq!(Template::parse(text).unwrap_err(), error);
        }
    }

    #[test]
    fn json_lines_are_json() {
        let mut head = RequestHead::default();
        head.headers.append(b"x", b"a\"b");
        let fields = vec![("k\"".to_owned(), Template::parse("%REQ(X)%").unwrap())];
        let mut out = Vec::new();
        LineFormat::Json(fields).render(&Record { request: Some(&head), ..Record::default() }, &mut out);
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value, serde_json::json!({"k\"": "a\"b"}));
    }

    #[test]
    fn the_default_line_is_in_the_subset() {
        assert!(Template::parse(DEFAULT_LINE).is_ok());
    }
}
