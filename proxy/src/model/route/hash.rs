//! What of a request the choice of an endpoint by hash goes by (Envoy's `hash_policy`).

use std::net::SocketAddr;
use std::time::Duration;

use outrider_proto::Path;
use outrider_proto::envoy::config::route::v3::route_action as pb;
use twox_hash::XxHash64;

use super::super::parse;
use crate::http::h1::field::is_token;
use crate::http::message::RequestHead;

/// One ingredient of the hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashPolicy {
    /// What is hashed.
    pub source: HashSource,
    /// Nothing more is looked at once there is a hash.
    pub terminal: bool,
}

/// What is hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashSource {
    /// The values of a header.
    Header(Box<[u8]>),
    /// The value of a cookie; with a time to live, a client without one gets one.
    Cookie {
        /// Its name.
        name: Box<str>,
        /// How long a new one lives; zero is as long as the client's session.
        ttl: Option<Duration>,
        /// For which paths a new one is.
        path: Box<str>,
    },
    /// The client's IP address.
    SourceIp,
    /// The value of a parameter of the query.
    Query(Box<str>),
}

impl HashPolicy {
    pub(super) fn from_proto(value: &pb::HashPolicy, path: &mut Path) -> Option<Self> {
        use pb::hash_policy::PolicySpecifier;
        let source = match &value.policy_specifier {
            Some(PolicySpecifier::Header(header)) if is_token(header.header_name.as_bytes()) => {
                HashSource::Header(header.header_name.to_ascii_lowercase().into_bytes().into())
            }
            Some(PolicySpecifier::Header(_)) => {
                return path.field("header.header_name", |path| path.refuse("not a header name"));
            }
            Some(PolicySpecifier::Cookie(cookie)) => path.field("cookie", |path| {
                if !is_token(cookie.name.as_bytes()) {
                    path.fault_at("name", "not the name of a cookie");
                }
                if !cookie.path.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b';') {
                    path.fault_at("path", "holds what a cookie's path may not");
                }
                let ttl = cookie.ttl.as_ref();
                HashSource::Cookie {
                    name: cookie.name.as_str().into(),
                    ttl: ttl.map(|ttl| parse::duration(Some(ttl), Duration::ZERO, "ttl", path)),
                    path: cookie.path.as_str().into(),
                }
            }),
            Some(PolicySpecifier::ConnectionProperties(properties)) => {
                if !properties.source_ip {
                    path.fault_at("connection_properties.source_ip", "must be true");
                }
                HashSource::SourceIp
            }
            Some(PolicySpecifier::QueryParameter(parameter)) => HashSource::Query(
                parse::required(&parameter.name, "query_parameter.name", path)?.as_ref().into(),
            ),
            None => {
                return path
                    .refuse("one of header, cookie, connection_properties and query_parameter is needed");
            }
        };
        Some(Self { source, terminal: value.terminal })
    }

    /// The hashes of all ingredients together, as Envoy puts them together; `None` when there is none of them.
    #[must_use]
    pub fn hash(policies: &[Self], mut one: impl FnMut(&HashSource) -> Option<u64>) -> Option<u64> {
        let mut hash: Option<u64> = None;
        for policy in policies {
            if let Some(found) = one(&policy.source) {
                hash = Some(hash.map_or(found, |before| before.rotate_left(1) ^ found));
            }
            if policy.terminal && hash.is_some() {
                break;
            }
        }
        hash
    }
}

impl HashSource {
    /// The hash of what the request has of it.
    #[must_use]
    pub fn hash(&self, head: &RequestHead, client: Option<SocketAddr>) -> Option<u64> {
        match self {
            Self::Header(name) if &**name == b":authority" => Some(xxhash(head.authority.as_bytes())),
            Self::Header(name) => {
                let mut values = head.headers.all(name);
                let mut hash = xxhash(values.next()?);
                for value in values {
                    hash = XxHash64::oneshot(hash, value);
                }
                Some(hash)
            }
            Self::Cookie { name, .. } => cookie(head, name).map(xxhash),
            Self::SourceIp => {
                use std::io::Write as _;
                let mut text = [0_u8; 64];
                let mut rest = &mut text[..];
                write!(rest, "{}", client?.ip().to_canonical()).ok()?;
                let len = 64 - rest.len();
                text.get(..len).map(xxhash)
            }
            Self::Query(name) => query(head.query()?, name).map(|value| xxhash(value.as_bytes())),
        }
    }
}

/// The value of a cookie.
#[must_use]
pub fn cookie<'a>(head: &'a RequestHead, name: &str) -> Option<&'a [u8]> {
    let pairs = head.headers.all(b"cookie").flat_map(|line| line.split(|byte| *byte == b';'));
    let named = pairs.filter_map(|pair| {
        let pair = pair.trim_ascii();
        let value = pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        Some(value.strip_prefix(b"\"").and_then(|inner| inner.strip_suffix(b"\"")).unwrap_or(value))
    });
    let mut named = named.filter(|value| !value.is_empty());
    named.next()
}

fn query<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| match pair.split_once('=') {
        Some((found, value)) => (found == name).then_some(value),
        None => (pair == name).then_some(""),
    })
}

/// The hash that Envoy uses everywhere, so that both choose the same endpoint.
#[must_use]
pub fn xxhash(bytes: &[u8]) -> u64 {
    XxHash64::oneshot(0, bytes)
}
