//! What objects are called.

use std::fmt;
use std::sync::Arc;

/// The API group of our own kinds.
pub const OWN_GROUP: &str = "mesh.outrider.dev";
/// The version of our own kinds.
pub const OWN_VERSION: &str = "v1alpha1";
/// The API group of routes.
pub const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

/// A kind that is understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// `v1`
    Namespace,
    /// `v1`
    Service,
    /// `discovery.k8s.io/v1`
    EndpointSlice,
    /// `v1`
    Pod,
    /// `gateway.networking.k8s.io/v1`
    HttpRoute,
    /// `gateway.networking.k8s.io/v1`
    GrpcRoute,
    /// `gateway.networking.k8s.io/v1`, and `v1alpha2` of before Gateway API 1.6
    TcpRoute,
    /// `mesh.outrider.dev/v1alpha1`
    Workload,
    /// `mesh.outrider.dev/v1alpha1`
    TrafficPolicy,
    /// `mesh.outrider.dev/v1alpha1`
    AuthorizationPolicy,
    /// `mesh.outrider.dev/v1alpha1`
    EgressPolicy,
    /// `mesh.outrider.dev/v1alpha1`
    FaultInjection,
    /// `mesh.outrider.dev/v1alpha1`
    Revocation,
}

impl ObjectKind {
    /// Every kind.
    pub const ALL: [Self; 13] = [
        Self::Namespace,
        Self::Service,
        Self::EndpointSlice,
        Self::Pod,
        Self::HttpRoute,
        Self::GrpcRoute,
        Self::TcpRoute,
        Self::Workload,
        Self::TrafficPolicy,
        Self::AuthorizationPolicy,
        Self::EgressPolicy,
        Self::FaultInjection,
        Self::Revocation,
    ];

    /// As in the field `kind`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Pod => "Pod",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::TcpRoute => "TCPRoute",
            Self::Workload => "Workload",
            Self::TrafficPolicy => "TrafficPolicy",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::EgressPolicy => "EgressPolicy",
            Self::FaultInjection => "FaultInjection",
            Self::Revocation => "Revocation",
        }
    }

    /// The API group; empty for the core group.
    #[must_use]
    pub const fn group(self) -> &'static str {
        match self {
            Self::Namespace | Self::Service | Self::Pod => "",
            Self::EndpointSlice => "discovery.k8s.io",
            Self::HttpRoute | Self::GrpcRoute | Self::TcpRoute => GATEWAY_GROUP,
            Self::Workload
            | Self::TrafficPolicy
            | Self::AuthorizationPolicy
            | Self::EgressPolicy
            | Self::FaultInjection
            | Self::Revocation => OWN_GROUP,
        }
    }

    /// The versions that are understood, the one preferred first.
    #[must_use]
    pub const fn versions(self) -> &'static [&'static str] {
        match self {
            Self::TcpRoute => &["v1", "v1alpha2"],
            Self::Workload
            | Self::TrafficPolicy
            | Self::AuthorizationPolicy
            | Self::EgressPolicy
            | Self::FaultInjection
            | Self::Revocation => &[OWN_VERSION],
            Self::Namespace
            | Self::Service
            | Self::Pod
            | Self::EndpointSlice
            | Self::HttpRoute
            | Self::GrpcRoute => &["v1"],
        }
    }

    /// In the paths of the Kubernetes API.
    #[must_use]
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Namespace => "namespaces",
            Self::Service => "services",
            Self::EndpointSlice => "endpointslices",
            Self::Pod => "pods",
            Self::HttpRoute => "httproutes",
            Self::GrpcRoute => "grpcroutes",
            Self::TcpRoute => "tcproutes",
            Self::Workload => "workloads",
            Self::TrafficPolicy => "trafficpolicies",
            Self::AuthorizationPolicy => "authorizationpolicies",
            Self::EgressPolicy => "egresspolicies",
            Self::FaultInjection => "faultinjections",
            Self::Revocation => "revocations",
        }
    }

    /// Whether its objects live in a namespace. Whoever owns one namespace must not cut off another's workloads.
    #[must_use]
    pub const fn is_namespaced(self) -> bool {
        !matches!(self, Self::Namespace | Self::Revocation)
    }

    /// Whether its objects are written by operators for the mesh, and have conditions of ours.
    #[must_use]
    pub const fn has_status(self) -> bool {
        !matches!(self, Self::Namespace | Self::Service | Self::EndpointSlice | Self::Pod)
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An object's kind, namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The kind.
    pub kind: ObjectKind,
    /// The namespace; empty for kinds without.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl Key {
    /// A key of its parts.
    #[must_use]
    pub fn new(kind: ObjectKind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Key {
    /// `Kind/namespace/name`, as in [`crate::snapshot::Resource::origin`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.kind, self.namespace, self.name)
    }
}
