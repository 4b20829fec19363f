//! The contract between compiling and serving: the resources of one proxy, encoded once and shared.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use outrider_proto::type_url;

use crate::object::Key;

/// A kind of xDS resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `envoy.config.cluster.v3.Cluster`
    Cluster,
    /// `envoy.config.endpoint.v3.ClusterLoadAssignment`
    Endpoints,
    /// `envoy.config.listener.v3.Listener`
    Listener,
    /// `envoy.config.route.v3.RouteConfiguration`
    Route,
    /// `envoy.extensions.transport_sockets.tls.v3.Secret`
    Secret,
    /// `outrider.fault.v1.FaultInjection`
    Faults,
    /// `outrider.destination.v1.Destination`
    Destination,
    /// `outrider.identity.v1.RevocationList`
    Revocations,
}

impl Kind {
    /// Every kind, in the order in which they are sent: what is referred to comes before what refers to it.
    ///
    /// Who is cut off is more urgent than anything; next to it is the end of faults, which refer to others by name only.
    pub const ALL: [Self; 8] = [
        Self::Revocations,
        Self::Faults,
        Self::Secret,
        Self::Cluster,
        Self::Endpoints,
        Self::Listener,
        Self::Destination,
        Self::Route,
    ];

    /// Whether a client that names none of its resources asks for all of them, and all of them are in a response that says
    /// what there is.
    #[must_use]
    pub const fn is_asked_for_whole(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener | Self::Faults | Self::Revocations)
    }

    /// Whether its resources go as soon as they are gone, because no other resource refers to them.
    #[must_use]
    pub const fn goes_at_once(self) -> bool {
        matches!(self, Self::Listener | Self::Destination | Self::Faults | Self::Revocations)
    }

    /// The kind of a type URL, if it is one of ours.
    #[must_use]
    pub fn of_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }

    /// The type URL on the wire.
    #[must_use]
    pub fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => type_url::CLUSTER,
            Self::Endpoints => type_url::ENDPOINTS,
            Self::Listener => type_url::LISTENER,
            Self::Route => type_url::ROUTE,
            Self::Secret => type_url::SECRET,
            Self::Faults => type_url::FAULTS,
            Self::Destination => type_url::DESTINATIONS,
            Self::Revocations => type_url::REVOCATIONS,
        }
    }
}

/// One resource, encoded.
#[derive(Clone, Debug, Eq)]
pub struct Resource {
    /// Changes exactly when the content does: a hash of `body`.
    pub version: Arc<str>,
    /// The encoded message, without its `Any`.
    pub body: Bytes,
    /// Who is told when a proxy refuses it.
    pub origin: Origin,
}

/// The operator's objects that a resource was made of, as `Kind/namespace/name`: first the one that it stands for, then
/// those that say how it is to be, such as policies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    first: Arc<str>,
    others: Arc<[Arc<str>]>,
}

impl Origin {
    /// One object.
    #[must_use]
    pub fn of(key: &Key) -> Self {
        key.to_string().into()
    }

    /// The same, and these, each once.
    #[must_use]
    pub fn with<'a>(&self, others: impl IntoIterator<Item = &'a Key>) -> Self {
        let mut all: Vec<Arc<str>> = self.others.to_vec();
        for other in others {
            let other = other.to_string();
            if *other != *self.first && !all.iter().any(|one| **one == *other) {
                all.push(other.into());
            }
        }
        Self { first: Arc::clone(&self.first), others: all.into() }
    }

    /// The object that it stands for.
    #[must_use]
    pub fn first(&self) -> &Arc<str> {
        &self.first
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Arc<str>> {
        std::iter::once(&self.first).chain(&*self.others)
    }
}

impl From<&str> for Origin {
    fn from(first: &str) -> Self {
        Self { first: first.into(), others: Arc::default() }
    }
}

impl From<String> for Origin {
    fn from(first: String) -> Self {
        Self { first: first.into(), others: Arc::default() }
    }
}

impl fmt::Display for Origin {
    /// The object that it stands for.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.first)
    }
}

/// The version stands for the body: a listener of a large mesh has megabytes, and thousands of proxies compare it.
impl PartialEq for Resource {
    fn eq(&self, other: &Self) -> bool {
        self.version == other.version && self.origin == other.origin
    }
}

/// The resources of one kind, by name.
pub type Resources = BTreeMap<Arc<str>, Resource>;

/// What one proxy may be told, by kind and name. Equal parts are shared between proxies: two snapshots with the same
/// `Arc` of a kind are known to agree in it without a look inside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    kinds: BTreeMap<Kind, Arc<Resources>>,
    /// How long a resource holds unless it is said again, by kind and name; for those that are leased.
    ttls: BTreeMap<(Kind, Arc<str>), Duration>,
}

impl Snapshot {
    /// All resources of a kind, by name.
    #[must_use]
    pub fn kind(&self, kind: Kind) -> Option<&Resources> {
        self.kinds.get(&kind).map(AsRef::as_ref)
    }

    /// Puts the resources of a kind in place of those before.
    pub fn set(&mut self, kind: Kind, resources: Arc<Resources>) {
        self.kinds.insert(kind, resources);
    }

    /// All resources of a kind, shared; none where the kind was not set.
    #[must_use]
    pub fn shared(&self, kind: Kind) -> Arc<Resources> {
        self.kinds.get(&kind).cloned().unwrap_or_default()
    }

    /// Leases a resource: a proxy forgets it this long after it was last told.
    pub fn set_ttl(&mut self, kind: Kind, name: Arc<str>, ttl: Duration) {
        self.ttls.insert((kind, name), ttl);
    }

    /// The leases of a kind: how long each resource holds unless it is said again.
    pub fn ttls(&self, kind: Kind) -> impl Iterator<Item = (&Arc<str>, Duration)> {
        self.ttls.iter().filter(move |((of, _), _)| *of == kind).map(|((_, name), ttl)| (name, *ttl))
    }

    /// How long a resource holds unless it is said again; `None` for as long as it is there.
    #[must_use]
    pub fn ttl(&self, kind: Kind, name: &Arc<str>) -> Option<Duration> {
        if self.ttls.is_empty() { None } else { self.ttls.get(&(kind, Arc::clone(name))).copied() }
    }
}
