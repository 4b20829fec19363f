//! What comes over xDS or from the file, one resource at a time: compiled, and not yet taken over.

use std::sync::Arc;

use outrider_proto::envoy::config::cluster::v3 as pb_cluster;
use outrider_proto::envoy::config::endpoint::v3 as pb_endpoint;
use outrider_proto::envoy::config::listener::v3 as pb_listener;
use outrider_proto::envoy::config::route::v3 as pb_route;
use outrider_proto::envoy::extensions::transport_sockets::tls::v3 as pb_tls;
use outrider_proto::outrider::destination::v1 as pb_destination;
use outrider_proto::outrider::fault::v1 as pb_fault;
use outrider_proto::outrider::identity::v1 as pb_identity;
use tokio::time::Instant;

use crate::identity::Revoked;
use crate::model::destination::Destination;
use crate::model::injection::Injection;
use crate::model::tls::Secret;
use crate::model::{Cluster, EndpointSet, Listener, RouteTable};

/// One change that came over xDS.
#[derive(Debug)]
pub enum Change {
    /// A resource is there, until the moment given.
    Set(Box<Resource>, Option<Instant>),
    /// A resource is still there, until the moment given.
    Extend(Kind, Arc<str>, Option<Instant>),
    /// A resource is gone, or never was.
    Remove(Kind, Arc<str>),
}

/// A compiled resource with its message.
#[expect(clippy::large_enum_variant, reason = "there are few at a time, and each is in a box")]
#[derive(Debug)]
pub enum Resource {
    /// A listener.
    Listener(pb_listener::Listener, Listener),
    /// A cluster.
    Cluster(pb_cluster::Cluster, Cluster),
    /// A route configuration.
    Routes(pb_route::RouteConfiguration, RouteTable),
    /// A load assignment.
    Endpoints(pb_endpoint::ClusterLoadAssignment, EndpointSet),
    /// A secret.
    Secret(pb_tls::Secret, Secret),
    /// Who is cut off.
    Revocations(pb_identity::RevocationList, Revoked),
    /// A fault on a lease, or what holds faults back.
    Faults(pb_fault::FaultInjection, Injection),
    /// What handles connections to a destination.
    Destination(pb_destination::Destination, Destination),
}

/// The kinds of resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Clusters.
    Cluster,
    /// Load assignments.
    Endpoints,
    /// Listeners.
    Listener,
    /// Route configurations.
    Routes,
    /// Certificates and roots.
    Secret,
    /// Lists of who is cut off.
    Revocations,
    /// Faults on leases, and what holds them back.
    Faults,
    /// Destinations that were asked for.
    Destination,
}

impl Change {
    /// A listener that stays.
    #[must_use]
    pub fn listener(message: pb_listener::Listener, compiled: Listener) -> Self {
        Self::Set(Box::new(Resource::Listener(message, compiled)), None)
    }

    /// A cluster that stays.
    #[must_use]
    pub fn cluster(message: pb_cluster::Cluster, compiled: Cluster) -> Self {
        Self::Set(Box::new(Resource::Cluster(message, compiled)), None)
    }

    /// The kind of what changes.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Set(resource, _) => match &**resource {
                Resource::Listener(..) => Kind::Listener,
                Resource::Cluster(..) => Kind::Cluster,
                Resource::Routes(..) => Kind::Routes,
                Resource::Endpoints(..) => Kind::Endpoints,
                Resource::Secret(..) => Kind::Secret,
                Resource::Revocations(..) => Kind::Revocations,
                Resource::Faults(..) => Kind::Faults,
                Resource::Destination(..) => Kind::Destination,
            },
            Self::Extend(kind, ..) | Self::Remove(kind, _) => *kind,
        }
    }

    /// The name of what changes.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Set(resource, _) => match &**resource {
                Resource::Listener(_, listener) => &listener.name,
                Resource::Cluster(_, cluster) => &cluster.name,
                Resource::Routes(_, table) => &table.name,
                Resource::Endpoints(message, _) => &message.cluster_name,
                Resource::Secret(_, secret) => &secret.name,
                Resource::Revocations(message, _) => &message.name,
                Resource::Faults(message, _) => &message.name,
                Resource::Destination(_, destination) => &destination.name,
            },
            Self::Extend(_, name, _) | Self::Remove(_, name) => name,
        }
    }

    /// The listener whose address must be bound first.
    #[must_use]
    pub fn bindable(&self) -> Option<&Listener> {
        match self {
            Self::Set(resource, _) => match &**resource {
                Resource::Listener(_, listener) => Some(listener),
                Resource::Cluster(..)
                | Resource::Routes(..)
                | Resource::Endpoints(..)
                | Resource::Secret(..)
                | Resource::Revocations(..)
                | Resource::Faults(..)
                | Resource::Destination(..) => None,
            },
            Self::Extend(..) | Self::Remove(..) => None,
        }
    }
}
