//! Destinations that are told on demand: `outrider.destination.v1.Destination`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use outrider_proto::envoy::config::core::v3::TrafficDirection;
use outrider_proto::envoy::config::listener::v3::Listener;
use outrider_proto::outrider::destination::v1 as pb;
use outrider_proto::{Fault, Path};
use tokio::time::{Duration, Instant};

use super::filter_chain::{ChainProtocol, FilterChains};
use super::http_chain::{HttpChain, RouteSource};
use super::parse;

/// What handles connections to one address and port.
#[derive(Debug)]
pub struct Destination {
    /// Its name: the address and the port.
    pub name: Arc<str>,
    /// The same.
    pub address: SocketAddr,
    /// What handles connections.
    pub chains: FilterChains,
}

impl Destination {
    /// Compiles a destination.
    ///
    /// # Errors
    /// All faults, with the paths of the fields.
    pub fn from_proto(value: pb::Destination) -> Result<Self, Vec<Fault>> {
        let mut path = Path::root();
        let name = parse::required(&value.name, "name", &mut path);
        let address = name.as_ref().and_then(|name| match name.parse() {
            Ok(address) => Some(address),
            Err(_) => path.field("name", |path| path.refuse("must be ADDRESS:PORT")),
        });
        let chains = Listener {
            filter_chains: value.filter_chains,
            traffic_direction: TrafficDirection::Outbound.into(),
            ..Listener::default()
        };
        let chains = FilterChains::from_proto(&chains, false, &mut path);
        let destination = name.zip(address).map(|(name, address)| Self { name, address, chains });
        path.finish(destination)
    }
}

impl FilterChains {
    /// The names of the route configurations that the chains want.
    pub fn named_routes(&self) -> impl Iterator<Item = &Arc<str>> {
        self.named_chains().map(|(name, _)| name)
    }

    /// The chains that want a route configuration, with its name.
    pub fn named_chains(&self) -> impl Iterator<Item = (&Arc<str>, &HttpChain)> {
        self.all().filter_map(|chain| match &chain.protocol {
            ChainProtocol::Http(http) => match &http.routes {
                RouteSource::Named(name) => Some((name, &**http)),
                RouteSource::Inline(_) => None,
            },
            ChainProtocol::Tcp(_) => None,
        })
    }

    /// The names of the clusters that the chains themselves send to; those of named route configurations come on top.
    pub fn clusters(&self) -> impl Iterator<Item = &Arc<str>> {
        self.all().flat_map(|chain| {
            let all: Box<dyn Iterator<Item = &Arc<str>>> = match &chain.protocol {
                ChainProtocol::Http(http) => match &http.routes {
                    RouteSource::Inline(table) => Box::new(table.clusters()),
                    RouteSource::Named(_) => Box::new(std::iter::empty()),
                },
                ChainProtocol::Tcp(tcp) => Box::new(tcp.cluster.names()),
            };
            all
        })
    }
}

/// What is known of a destination that was asked for.
#[derive(Clone, Debug)]
pub struct Told {
    /// `None` where the mesh has nothing there: the listener's own chains decide.
    pub destination: Option<Arc<Destination>>,
    /// Who uses it.
    pub usage: Arc<DestinationUse>,
}

/// What stands instead of a number of connections once a destination was let go of.
const LET_GO: usize = usize::MAX;

/// Whether a destination is in use, and when it was last. Shared by all workers.
///
/// It is either used or let go of, never both: whoever still has an old configuration cannot begin to use what was let
/// go of meanwhile, and what somebody has begun to use is not let go of.
#[derive(Debug)]
pub struct DestinationUse {
    began: Instant,
    /// Or [`LET_GO`].
    connections: AtomicUsize,
    /// Since `began`.
    last_ms: AtomicU64,
}

impl DestinationUse {
    /// Used just now.
    #[must_use]
    pub fn new(now: Instant) -> Arc<Self> {
        Arc::new(Self { began: now, connections: AtomicUsize::new(0), last_ms: AtomicU64::new(0) })
    }

    /// For how long nobody has used it; `None` while somebody does.
    #[must_use]
    pub fn idle(&self, now: Instant) -> Option<Duration> {
        let last = self.began + Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
        (self.connections.load(Ordering::Relaxed) == 0).then(|| now.saturating_duration_since(last))
    }

    /// Lets go of it for good, unless somebody uses it; whether it is let go of.
    #[must_use]
    pub fn let_go(&self) -> bool {
        self.connections.compare_exchange(0, LET_GO, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    fn touch(&self) {
        let elapsed_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.fetch_max(elapsed_ms, Ordering::Relaxed);
    }
}

/// A connection to a destination; it is in use until this is dropped.
#[derive(Debug)]
pub struct InUse(Arc<DestinationUse>);

impl InUse {
    /// One connection more; `None` where the destination was let go of, so that it is to be asked for again.
    #[must_use]
    pub fn new(usage: &Arc<DestinationUse>) -> Option<Self> {
        let more = |connections: usize| (connections != LET_GO).then(|| connections + 1);
        usage.connections.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        usage.touch();
        Some(Self(Arc::clone(usage)))
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.touch();
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_idle_when_its_last_connection_has_ended() {
        let now = Instant::now();
        let usage = DestinationUse::new(now);
        assert!(usage.idle(now + Duration::from_secs(3)).is_some_and(|idle| idle > Duration::from_secs(2)));
        let (one, two) = (InUse::new(&usage).unwrap(), InUse::new(&usage).unwrap());
        assert_eq!(usage.idle(now + Duration::from_secs(3)), None);
        drop(one);
        assert_eq!(usage.idle(now + Duration::from_secs(3)), None);
        drop(two);
        assert!(usage.idle(now + Duration::from_secs(3)).is_some());
    }

    #[test]
    fn a_destination_is_used_or_let_go_of_never_both() {
        let usage = DestinationUse::new(Instant::now());
        let in_use = InUse::new(&usage).unwrap();
        assert!(!usage.let_go(), "somebody uses it");
        drop(in_use);
        assert!(usage.let_go() && !usage.let_go());
        assert!(InUse::new(&usage).is_none() && usage.idle(Instant::now()).is_none());
    }

    #[test]
    fn faults_name_their_fields() {
        for (name, expected) in [("", "name: missing"), ("10.0.0.1", "name: must be ADDRESS:PORT")] {
            let value = pb::Destination { name: name.to_owned(), filter_chains: Vec::new() };
            let faults = Destination::from_proto(value).unwrap_err();
            let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
            assert_eq!(faults, [expected, "filter_chains: missing"]);
        }
    }
}
