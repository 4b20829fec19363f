//! The contract between compiling and serving: the resources of one proxy, encoded once and shared.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use outrider_proto::type_url;

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
}

impl Kind {
    /// Every kind, in the order in which they are sent: what is referred to comes before what refers to it.
    pub const ALL: [Self; 5] = [Self::Secret, Self::Cluster, Self::Endpoints, Self::Listener, Self::Route];

    /// The type URL on the wire.
    #[must_use]
    pub fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => type_url::CLUSTER,
            Self::Endpoints => type_url::ENDPOINTS,
            Self::Listener => type_url::LISTENER,
            Self::Route => type_url::ROUTE,
            Self::Secret => type_url::SECRET,
        }
    }
}

/// One resource, encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Changes exactly when the content does: a hash of `body`.
    pub version: Arc<str>,
    /// The encoded message, without its `Any`.
    pub body: Bytes,
    /// The operator's object that it was made of, as `Kind/namespace/name`: who is told when a proxy refuses it.
    pub origin: Arc<str>,
}

/// What one proxy may be told, by kind and name. Equal parts are shared between proxies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    kinds: BTreeMap<Kind, Arc<BTreeMap<Arc<str>, Resource>>>,
}

impl Snapshot {
    /// All resources of a kind, by name.
    #[must_use]
    pub fn kind(&self, kind: Kind) -> Option<&BTreeMap<Arc<str>, Resource>> {
        self.kinds.get(&kind).map(AsRef::as_ref)
    }

    /// Puts the resources of a kind in place of those before.
    pub fn set(&mut self, kind: Kind, resources: Arc<BTreeMap<Arc<str>, Resource>>) {
        self.kinds.insert(kind, resources);
    }
}
