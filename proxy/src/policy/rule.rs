//! One condition, made of others.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use super::ip::IpRange;
use crate::http::message::RequestHead;
use crate::model::matcher::{HeaderMatcher, StringMatcher};

/// What is known of a connection, or of a request on it; borrowed for the moment of a decision.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The verified SPIFFE ID of the peer.
    pub peer: Option<&'a str>,
    /// Who opened the connection.
    pub direct_remote: IpAddr,
    /// On whose behalf, as far as `x-forwarded-for` can be trusted.
    pub remote: IpAddr,
    /// Where the connection was going.
    pub local: SocketAddr,
    /// By SNI.
    pub server_name: Option<&'a str>,
    /// The request, its path normalised; `None` for a connection.
    pub head: Option<&'a RequestHead>,
}

/// How a header that comes several times is read: the parties behind us may look at any of its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// It matches when one of the values does: for what is denied.
    Any,
    /// It matches when all of them do: for what is allowed.
    All,
}

impl Reading {
    const fn opposite(self) -> Self {
        match self {
            Self::Any => Self::All,
            Self::All => Self::Any,
        }
    }
}

/// A compiled `Permission` or `Principal`.
#[derive(Clone, Debug)]
pub enum Rule {
    /// Always holds.
    Any,
    /// All of them hold.
    All(Box<[Self]>),
    /// One of them holds.
    One(Box<[Self]>),
    /// It does not hold.
    Not(Box<Self>),
    /// A header or pseudo-header of the request.
    Header(HeaderMatcher),
    /// The path of the request without its query.
    Path(StringMatcher),
    /// Where the connection was going.
    Destination(IpRange),
    /// To which port: from the first, up to but without the last.
    Port(Range<u32>),
    /// By SNI; empty when there is none.
    ServerName(StringMatcher),
    /// The peer's verified identity, of a certain name or of any.
    Authenticated(Option<StringMatcher>),
    /// Who opened the connection.
    DirectRemote(IpRange),
    /// On whose behalf.
    Remote(IpRange),
}

impl Rule {
    /// Whether it holds. What is asked of a request does not hold for a connection.
    #[must_use]
    pub fn matches(&self, subject: &Subject<'_>, reading: Reading) -> bool {
        match self {
            Self::Any => true,
            Self::All(rules) => rules.iter().all(|rule| rule.matches(subject, reading)),
            Self::One(rules) => rules.iter().any(|rule| rule.matches(subject, reading)),
            Self::Not(rule) => !rule.matches(subject, reading.opposite()),
            Self::Header(matcher) => subject.head.is_some_and(|head| matcher.matches_as(head, reading)),
            Self::Path(matcher) => {
                subject.head.is_some_and(|head| matcher.matches(head.path_only().as_bytes()))
            }
            Self::Destination(range) => range.holds(subject.local.ip()),
            Self::Port(ports) => ports.contains(&u32::from(subject.local.port())),
            Self::ServerName(matcher) => matcher.matches(subject.server_name.unwrap_or_default().as_bytes()),
            Self::Authenticated(None) => subject.peer.is_some(),
            Self::Authenticated(Some(matcher)) => {
                subject.peer.is_some_and(|peer| matcher.matches(peer.as_bytes()))
            }
            Self::DirectRemote(range) => range.holds(subject.direct_remote),
            Self::Remote(range) => range.holds(subject.remote),
        }
    }
}
