//! The operators between two `%` of a format string.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use super::time::TimeFormat;
use super::{FormatError, Record};
use crate::http::message::{RequestHead, ResponseHead, Version};
use crate::policy::Authorized;

/// The argument of `DYNAMIC_METADATA` for the names of the faults that were injected; Envoy writes `-` for it.
const FAULTS: &str = "outrider.fault:names";

/// One operator, its arguments checked.
#[derive(Clone, Debug)]
pub(super) enum Operator {
    Request(Names),
    Response(Names),
    StartTime(TimeFormat),
    Protocol,
    ResponseCode,
    ResponseCodeDetails,
    ResponseFlags,
    BytesReceived,
    BytesSent,
    Duration,
    ResponseDuration,
    Upstream(Part),
    UpstreamCluster,
    RouteName,
    Attempts,
    TraceId,
    ServerName,
    TerminationDetails,
    TransportFailure,
    Local(Part),
    Remote(Part),
    Peer,
    Authorization(Said),
    /// The names of the faults that were injected.
    Faults,
    /// Read once; `None` where the system has none.
    Hostname(Option<Box<str>>),
}

/// Which part of an address.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    Whole,
    Ip,
    Port,
}

/// What a policy said, as Envoy's filters leave it in dynamic metadata.
#[derive(Clone, Copy, Debug)]
pub(super) enum Said {
    EnforcedPolicy,
    EnforcedResult,
    ShadowPolicy,
    ShadowResult,
    Log,
}

/// A header, or else another, of which so many bytes are shown.
#[derive(Clone, Debug)]
pub(super) struct Names {
    first: Box<[u8]>,
    other: Option<Box<[u8]>>,
    limit_bytes: Option<usize>,
}

/// The pieces of an operator as it is written: `NAME(argument):limit`.
struct Written<'a> {
    name: &'a str,
    argument: Option<&'a str>,
    limit: Option<usize>,
}

impl Operator {
    /// Reads an operator after its first `%`; what follows its last one is left over.
    ///
    /// # Errors
    /// When there is no last `%`, the operator is not known or its arguments are wrong.
    pub(super) fn parse(text: &str) -> Result<(Self, &str), FormatError> {
        let (whole, _) = text.split_once('%').ok_or(FormatError::Open)?;
        let unknown = || FormatError::Unknown(whole.to_owned());
        let (written, rest) = Written::read(text).ok_or_else(unknown)?;
        let length = text.len() - rest.len() - 1;
        let unknown = || FormatError::Unknown(text.get(..length).unwrap_or(whole).to_owned());
        Ok((Self::from_written(&written).ok_or_else(unknown)?, rest))
    }

    fn from_written(written: &Written<'_>) -> Option<Self> {
        match written.name {
            "REQ" | "REQUEST_HEADER" => {
                return written.names(&[":method", ":path", ":authority", ":scheme"]).map(Self::Request);
            }
            "RESP" | "RESPONSE_HEADER" => return written.names(&[":status"]).map(Self::Response),
            _ => {}
        }
        if written.limit.is_some() {
            return None;
        }
        if written.name == "START_TIME" {
            let format = written.argument.filter(|format| !format.is_empty());
            return format
                .map_or_else(|| Some(TimeFormat::rfc3339()), TimeFormat::parse)
                .map(Self::StartTime);
        }
        if written.name == "DYNAMIC_METADATA" {
            return match written.argument? {
                FAULTS => Some(Self::Faults),
                argument => Said::parse(argument).map(Self::Authorization),
            };
        }
        if written.argument.is_some_and(|argument| !argument.is_empty()) {
            return None;
        }
        Self::without_argument(written.name)
    }

    fn without_argument(name: &str) -> Option<Self> {
        Some(match name {
            "PROTOCOL" => Self::Protocol,
            "RESPONSE_CODE" => Self::ResponseCode,
            "RESPONSE_CODE_DETAILS" => Self::ResponseCodeDetails,
            "RESPONSE_FLAGS" => Self::ResponseFlags,
            "BYTES_RECEIVED" => Self::BytesReceived,
            "BYTES_SENT" => Self::BytesSent,
            "DURATION" => Self::Duration,
            "RESPONSE_DURATION" => Self::ResponseDuration,
            "UPSTREAM_HOST" | "UPSTREAM_REMOTE_ADDRESS" => Self::Upstream(Part::Whole),
            "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Self::Upstream(Part::Ip),
            "UPSTREAM_REMOTE_PORT" => Self::Upstream(Part::Port),
            "UPSTREAM_CLUSTER" => Self::UpstreamCluster,
            "ROUTE_NAME" => Self::RouteName,
            "UPSTREAM_REQUEST_ATTEMPT_COUNT" => Self::Attempts,
            "TRACE_ID" => Self::TraceId,
            "REQUESTED_SERVER_NAME" => Self::ServerName,
            "CONNECTION_TERMINATION_DETAILS" => Self::TerminationDetails,
            "UPSTREAM_TRANSPORT_FAILURE_REASON" => Self::TransportFailure,
            "DOWNSTREAM_LOCAL_ADDRESS" => Self::Local(Part::Whole),
            "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Self::Local(Part::Ip),
            "DOWNSTREAM_LOCAL_PORT" => Self::Local(Part::Port),
            // The client's address is always that of the connection: nothing that it sends can change it.
            "DOWNSTREAM_REMOTE_ADDRESS" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => Self::Remote(Part::Whole),
            "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => {
                Self::Remote(Part::Ip)
            }
            "DOWNSTREAM_REMOTE_PORT" | "DOWNSTREAM_DIRECT_REMOTE_PORT" => Self::Remote(Part::Port),
            "DOWNSTREAM_PEER_URI_SAN" => Self::Peer,
            "HOSTNAME" => Self::Hostname(hostname()),
            _ => return None,
        })
    }

    /// Whether the value is a number in JSON, too.
    pub(super) const fn is_number(&self) -> bool {
        matches!(
            self,
            Self::ResponseCode
                | Self::BytesReceived
                | Self::BytesSent
                | Self::Duration
                | Self::ResponseDuration
                | Self::Attempts
                | Self::Upstream(Part::Port)
                | Self::Local(Part::Port)
                | Self::Remote(Part::Port)
        )
    }

    /// Writes the value; `false` when there is none.
    pub(super) fn render(&self, record: &Record<'_>, out: &mut Vec<u8>) -> bool {
        match self {
            Self::Request(names) => {
                record.request.is_some_and(|head| names.write(|name| request_value(head, name), out))
            }
            Self::Response(names) => record.response.is_some_and(|head| names.write_response(head, out)),
            Self::StartTime(format) => {
                format.write(record.start, out);
                true
            }
            Self::Protocol => match record.request.map(|head| head.version) {
                Some(Version::Http10) => text("HTTP/1.0", out),
                Some(Version::Http11) => text("HTTP/1.1", out),
                Some(Version::Http2) => text("HTTP/2", out),
                None => false,
            },
            Self::ResponseCode => number(u64::from(record.status), out),
            Self::ResponseCodeDetails => {
                let upstream = if record.status > 0 { "via_upstream" } else { "" };
                text(record.reason.unwrap_or(upstream), out)
            }
            Self::ResponseFlags => write!(out, "{}", record.flags).is_ok(),
            Self::BytesReceived => number(record.received_bytes, out),
            Self::BytesSent => number(record.sent_bytes, out),
            Self::Duration => number(millis(record.duration), out),
            Self::ResponseDuration => record.response_after.is_some_and(|after| number(millis(after), out)),
            Self::Upstream(part) => part.write(record.upstream, out),
            Self::UpstreamCluster => text(record.cluster, out),
            Self::RouteName => text(record.route, out),
            Self::Attempts => number(u64::from(record.attempts), out),
            Self::TraceId => record.trace.is_some_and(|trace| {
                out.extend_from_slice(&trace.to_hex());
                true
            }),
            Self::ServerName => text(record.server_name.unwrap_or_default(), out),
            // Of an opaque connection: there is no response that the code could explain.
            Self::TerminationDetails => {
                text(record.reason.filter(|_| record.request.is_none()).unwrap_or_default(), out)
            }
            Self::TransportFailure => text(record.transport_failure.unwrap_or_default(), out),
            Self::Local(part) => part.write(record.local, out),
            Self::Remote(part) => part.write(record.remote, out),
            Self::Peer => text(record.peer.unwrap_or_default(), out),
            Self::Authorization(said) => {
                record.authorized.is_some_and(|authorized| said.write(authorized, out))
            }
            Self::Faults => {
                for (index, name) in record.faults.iter().enumerate() {
                    out.extend_from_slice(if index > 0 { b"," } else { b"" });
                    out.extend_from_slice(name.as_bytes());
                }
                !record.faults.is_empty()
            }
            Self::Hostname(name) => text(name.as_deref().unwrap_or_default(), out),
        }
    }
}

impl Said {
    /// From the argument of `DYNAMIC_METADATA`: a filter's namespace and a key.
    fn parse(argument: &str) -> Option<Self> {
        let (space, key) = argument.split_once(':')?;
        Some(match (space, key) {
            ("envoy.common", "access_log_hint") => Self::Log,
            ("envoy.filters.http.rbac" | "envoy.filters.network.rbac", key) => match key {
                "enforced_effective_policy_id" => Self::EnforcedPolicy,
                "enforced_engine_result" => Self::EnforcedResult,
                "shadow_effective_policy_id" => Self::ShadowPolicy,
                "shadow_engine_result" => Self::ShadowResult,
                _ => return None,
            },
            _ => return None,
        })
    }

    fn write(self, authorized: &Authorized, out: &mut Vec<u8>) -> bool {
        let ruling = match self {
            Self::EnforcedPolicy | Self::EnforcedResult => &authorized.enforced,
            Self::ShadowPolicy | Self::ShadowResult => &authorized.shadow,
            Self::Log => {
                return authorized.log.is_some_and(|log| text(if log { "true" } else { "false" }, out));
            }
        };
        ruling.as_ref().is_some_and(|ruling| match self {
            Self::EnforcedPolicy | Self::ShadowPolicy => {
                ruling.policy.as_ref().is_some_and(|policy| text(policy, out))
            }
            Self::EnforcedResult | Self::ShadowResult | Self::Log => text(ruling.result(), out),
        })
    }
}

impl<'a> Written<'a> {
    /// Reads up to the last `%`. An argument ends at the first `)` after which the operator can end.
    fn read(text: &'a str) -> Option<(Self, &'a str)> {
        let is_name = |letter: char| letter.is_ascii_uppercase() || letter.is_ascii_digit() || letter == '_';
        let (name, rest) = text.split_at_checked(text.find(|letter| !is_name(letter))?)?;
        let Some(after) = rest.strip_prefix('(') else {
            let (limit, rest) = Self::end(rest)?;
            return Some((Self { name, argument: None, limit }, rest));
        };
        for (index, _) in after.match_indices(')') {
            let (argument, closed) = after.split_at_checked(index)?;
            if let Some((limit, left)) = closed.get(1..).and_then(Self::end) {
                return Some((Self { name, argument: Some(argument), limit }, left));
            }
        }
        None
    }

    /// An optional limit and the `%`.
    fn end(text: &str) -> Option<(Option<usize>, &str)> {
        if let Some(rest) = text.strip_prefix('%') {
            return Some((None, rest));
        }
        let (limit, rest) = text.strip_prefix(':')?.split_once('%')?;
        let digits = !limit.is_empty() && limit.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| limit.parse().ok().map(|limit| (Some(limit), rest))).flatten()
    }

    /// One header name, or two with a `?` between; of those in pseudo-headers only `known`.
    fn names(&self, known: &[&str]) -> Option<Names> {
        let lower = self.argument?.to_ascii_lowercase();
        let mut names = lower.split('?');
        let checked = |name: &str| {
            let valid = match name.strip_prefix(':') {
                Some(_) => known.contains(&name),
                None => http::HeaderName::from_bytes(name.as_bytes()).is_ok(),
            };
            valid.then(|| Box::from(name.as_bytes()))
        };
        let first = checked(names.next()?)?;
        let other = match names.next() {
            Some(name) => Some(checked(name)?),
            None => None,
        };
        names.next().is_none().then_some(Names { first, other, limit_bytes: self.limit })
    }
}

impl Names {
    fn write<'a>(&self, value: impl Fn(&[u8]) -> Option<&'a [u8]>, out: &mut Vec<u8>) -> bool {
        let Some(found) = value(&self.first).or_else(|| self.other.as_deref().and_then(value)) else {
            return false;
        };
        out.extend_from_slice(self.limit_bytes.and_then(|limit| found.get(..limit)).unwrap_or(found));
        true
    }

    fn write_response(&self, head: &ResponseHead, out: &mut Vec<u8>) -> bool {
        let value = |name: &[u8]| match name {
            b":status" => Some(head.status.as_str().as_bytes()),
            name => head.headers.first(name),
        };
        self.write(value, out)
    }
}

impl Part {
    fn write(self, address: Option<SocketAddr>, out: &mut Vec<u8>) -> bool {
        let Some(address) = address else { return false };
        match self {
            Self::Whole => write!(out, "{address}").is_ok(),
            Self::Ip => write!(out, "{}", address.ip()).is_ok(),
            Self::Port => number(u64::from(address.port()), out),
        }
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

fn number(value: u64, out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    true
}

fn text(value: &str, out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(value.as_bytes());
    !value.is_empty()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn hostname() -> Option<Box<str>> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim()).filter(|name| !name.is_empty()).map(Box::from)
}
