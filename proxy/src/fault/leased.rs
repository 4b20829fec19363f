//! A fault on a lease: what it does, to whom, and how often.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use http::{Method, StatusCode};

use super::chance::Chance;
use super::distribution::{Distribution, mix};
use super::lease::Lease;
use crate::http::message::RequestHead;
use crate::model::matcher::{HeaderMatcher, StringMatcher};

/// One leased fault.
#[derive(Debug)]
pub struct Leased {
    /// Its name, in logs, metrics and headers.
    pub name: Arc<str>,
    /// Where it happens.
    pub place: Place,
    /// To whom.
    pub rule: Rule,
    /// How often, at the end of its ramp.
    pub chance: Chance,
    /// What the draws come from.
    pub seed: u64,
    /// How often at the beginning, and how long it takes to the end.
    pub ramp: Option<(Chance, Duration)>,
    /// Requests and connections at a time.
    pub max_active: u32,
    /// Whether all requests of a connection have the same fate.
    pub per_connection: bool,
    /// What it does.
    pub action: Action,
    /// How long it goes on.
    pub lease: Lease,
    /// Requests and connections that have it now.
    pub(super) active: Arc<AtomicU32>,
    drawn: AtomicU64,
}

/// Where a fault happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On the way to the workload.
    Inbound,
    /// On the way from it.
    Outbound,
    /// At one attempt, after its endpoint was chosen.
    Upstream,
}

/// To whom a fault happens: all that is said has to match, of a list one.
#[derive(Debug, Default)]
pub struct Rule {
    /// Names of listeners.
    pub listeners: Vec<String>,
    /// Names of routes.
    pub routes: Vec<String>,
    /// Names of clusters.
    pub clusters: Vec<String>,
    /// Addresses of endpoints; any port where there is none.
    pub endpoints: Vec<(IpAddr, Option<u16>)>,
    /// Methods.
    pub methods: Vec<Method>,
    /// The path without its query.
    pub path: Option<StringMatcher>,
    /// All of these.
    pub headers: Vec<HeaderMatcher>,
    /// Proven identities.
    pub peers: Vec<StringMatcher>,
    /// Where connections were going.
    pub port: Option<u16>,
}

/// What is known of a request, an attempt or a connection.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The listener's name.
    pub listener: &'a str,
    /// Where the connection was going.
    pub destination: SocketAddr,
    /// The client's proven identity.
    pub peer: Option<&'a str>,
    /// The request, where there is one.
    pub head: Option<&'a RequestHead>,
    /// The route's name.
    pub route: &'a str,
    /// The cluster's name.
    pub cluster: &'a str,
    /// The endpoint of the attempt.
    pub endpoint: Option<SocketAddr>,
    /// Whether a handshake follows.
    pub tls: bool,
}

/// What a fault does.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Something comes later.
    Delay(Moment, Distribution),
    /// A request, or a connection, ends.
    Abort(Abort),
    /// Bytes per second from the client and to it; 0 is no limit.
    Bandwidth(u64, u64),
    /// So many bytes, and no more.
    Truncate(Side, u64),
    /// One of so many bytes is another.
    Corrupt(Side, u32),
    /// No answer.
    Blackhole,
    /// No connection.
    Refuse,
    /// No handshake; with this alert.
    TlsFailure(u8),
    /// A certificate whose time is over.
    ExpiredCertificate,
    /// So many bytes at a time, so far apart.
    Drip(Side, u32, Duration),
}

/// What comes later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The request.
    Request,
    /// The response.
    Response,
    /// Each piece of the response's body.
    Chunk,
}

/// How a request ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Abort {
    /// With this status.
    Http(StatusCode),
    /// With this gRPC status and message.
    Grpc(u32, Arc<str>),
    /// Its connection is reset, or its stream.
    Reset,
    /// Its stream is reset with this code.
    Stream(u32),
    /// Its connection is ended with this code.
    GoAway(u32),
    /// Its connection is closed in order.
    Close,
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// From the client.
    Request,
    /// To the client.
    Response,
}

impl Action {
    /// Its name in metrics.
    #[must_use]
    pub const fn effect(&self) -> &'static str {
        match self {
            Self::Delay(Moment::Request, _) => "delay",
            Self::Delay(Moment::Response, _) => "response_delay",
            Self::Delay(Moment::Chunk, _) => "chunk_delay",
            Self::Abort(_) => "abort",
            Self::Bandwidth(..) => "rate",
            Self::Truncate(..) => "truncate",
            Self::Corrupt(..) => "corrupt",
            Self::Blackhole => "blackhole",
            Self::Refuse => "refuse",
            Self::TlsFailure(_) => "tls_failure",
            Self::ExpiredCertificate => "expired_certificate",
            Self::Drip(..) => "drip",
        }
    }

    /// Whether it makes sense for this subject: only a request has an answer, and only TLS a handshake.
    #[must_use]
    pub const fn suits(&self, subject: &Subject<'_>) -> bool {
        match self {
            Self::Abort(Abort::Http(_) | Abort::Grpc(..)) | Self::Delay(Moment::Response, _) => {
                subject.head.is_some()
            }
            Self::TlsFailure(_) | Self::ExpiredCertificate => subject.tls,
            Self::Abort(_)
            | Self::Delay(..)
            | Self::Bandwidth(..)
            | Self::Truncate(..)
            | Self::Corrupt(..)
            | Self::Blackhole
            | Self::Refuse
            | Self::Drip(..) => true,
        }
    }

    /// Whether it happens to a client's connection before anything is known but where it goes.
    #[must_use]
    pub const fn is_before_all(&self) -> bool {
        matches!(self, Self::Refuse | Self::TlsFailure(_) | Self::ExpiredCertificate)
    }
}

impl Leased {
    /// A fault that has happened to nobody, on a lease that has not begun.
    #[must_use]
    pub fn new(name: Arc<str>, place: Place, action: Action) -> Self {
        Self {
            name,
            place,
            action,
            rule: Rule::default(),
            chance: Chance::ALWAYS,
            seed: fastrand::u64(..),
            ramp: None,
            max_active: u32::MAX,
            per_connection: false,
            lease: Lease::default(),
            active: Arc::default(),
            drawn: AtomicU64::new(0),
        }
    }

    /// Whether it happens to the next that matches, and a draw for how it does. `connection` is the number of the
    /// connection.
    pub(super) fn strikes(&self, connection: u64) -> Option<u64> {
        let n = self.drawn.fetch_add(1, Ordering::Relaxed);
        let fate = mix(self.seed, if self.per_connection { connection } else { n });
        let share = match self.ramp {
            None => self.chance.millionths(),
            Some((from, over)) => ramped(from, self.chance, self.lease.age(), over),
        };
        (fate % 1_000_000 < u64::from(share)).then(|| mix(!self.seed, n))
    }
}

/// The share after some time of a ramp, in parts of a million.
fn ramped(from: Chance, to: Chance, age: Duration, over: Duration) -> u32 {
    if age >= over {
        return to.millionths();
    }
    let (from, to) = (i64::from(from.millionths()), i64::from(to.millionths()));
    let ms = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX / 2_000_000);
    u32::try_from(from + (to - from) * ms(age) / ms(over).max(1)).unwrap_or(0)
}

impl Rule {
    /// Whether it is about requests only.
    #[must_use]
    pub const fn is_about_requests(&self) -> bool {
        !(self.routes.is_empty() && self.methods.is_empty() && self.path.is_none() && self.headers.is_empty())
    }

    /// Whether all that it says holds.
    #[must_use]
    pub fn matches(&self, subject: &Subject<'_>) -> bool {
        let any = |list: &[String], value: &str| list.is_empty() || list.iter().any(|one| one == value);
        let endpoint = || {
            subject.endpoint.is_some_and(|at| {
                let same = |(ip, port): &(IpAddr, Option<u16>)| {
                    *ip == at.ip().to_canonical() && port.is_none_or(|port| port == at.port())
                };
                self.endpoints.iter().any(same)
            })
        };
        let peer =
            || subject.peer.is_some_and(|peer| self.peers.iter().any(|one| one.matches(peer.as_bytes())));
        any(&self.listeners, subject.listener)
            && any(&self.clusters, subject.cluster)
            && self.port.is_none_or(|port| port == subject.destination.port())
            && (self.endpoints.is_empty() || endpoint())
            && (self.peers.is_empty() || peer())
            && (!self.is_about_requests()
                || subject.head.is_some_and(|head| self.matches_head(head, subject)))
    }

    fn matches_head(&self, head: &RequestHead, subject: &Subject<'_>) -> bool {
        (self.routes.is_empty() || self.routes.iter().any(|name| name == subject.route))
            && (self.methods.is_empty() || self.methods.contains(&head.method))
            && self.path.as_ref().is_none_or(|path| path.matches(head.path_only().as_bytes()))
            && self.headers.iter().all(|matcher| matcher.matches(head))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_a_run_and_shares_are_met() {
        let fates = |seed: u64| {
            let mut fault = Leased::new("f".into(), Place::Inbound, Action::Blackhole);
            fault.seed = seed;
            fault.chance = Chance::ALWAYS.at_most(30);
            (0..10_000).map(|_| fault.strikes(0).is_some()).collect::<Vec<bool>>()
        };
        assert_eq!(fates(7), fates(7));
        assert_ne!(fates(7), fates(8));
        let struck = fates(9).iter().filter(|struck| **struck).count();
        // Four standard deviations.
        assert!(struck.abs_diff(3_000) < 184, "{struck}");
    }

    #[test]
    fn a_ramp_grows_evenly() {
        let (from, to) = (Chance::NEVER, Chance::ALWAYS);
        let second = Duration::from_secs(1);
        for (age, expected) in [(0, 0), (250, 250_000), (999, 999_000), (1000, 1_000_000), (9000, 1_000_000)]
        {
            assert_eq!(ramped(from, to, Duration::from_millis(age), second), expected);
        }
        assert_eq!(ramped(to, from, second / 4, second), 750_000);
    }
}
