//! The mesh between objects and messages: services with their ports and endpoints, and how they are called.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::digest::Digest;
use crate::object::Key;
use crate::object::scalar::PortRef;
use crate::object::workload::{Health, Locality, PortProtocol};

/// What is spoken on a port of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Nobody said; opaque, unless a route says otherwise.
    Unset,
    /// HTTP of the version that the client speaks.
    Http,
    /// HTTP/2, gRPC among it.
    Http2,
    /// Opaque bytes.
    Tcp,
}

impl Protocol {
    /// By `appProtocol`, or else by what the port's name begins with, as is usual in Kubernetes meshes.
    #[must_use]
    pub fn of_port(app_protocol: Option<&str>, name: &str) -> Self {
        let word = |text: &str| match text {
            "http" | "kubernetes.io/ws" | "ws" => Some(Self::Http),
            "http2" | "h2c" | "kubernetes.io/h2c" | "grpc" => Some(Self::Http2),
            "tcp" | "tls" | "https" | "mongo" | "mysql" | "redis" | "postgres" | "kubernetes.io/wss" => {
                Some(Self::Tcp)
            }
            _ => None,
        };
        match app_protocol {
            Some(text) => word(text.to_ascii_lowercase().as_str()).unwrap_or(Self::Unset),
            None => name.split('-').next().and_then(word).unwrap_or(Self::Unset),
        }
    }

    /// Whether requests can be told apart.
    #[must_use]
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2)
    }
}

impl From<PortProtocol> for Protocol {
    fn from(value: PortProtocol) -> Self {
        match value {
            PortProtocol::Http => Self::Http,
            PortProtocol::Http2 | PortProtocol::Grpc => Self::Http2,
            PortProtocol::Tcp => Self::Tcp,
        }
    }
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshService {
    /// Its key.
    pub key: Key,
    /// Of its object.
    pub digest: Digest,
    /// Its cluster addresses.
    pub addresses: Vec<IpAddr>,
    /// Whether its clients connect to endpoints by their own addresses.
    pub headless: bool,
    /// Its ports.
    pub ports: Vec<ServicePort>,
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its number.
    pub number: u16,
    /// Its name; may be empty.
    pub name: String,
    /// What is spoken.
    pub protocol: Protocol,
    /// The workloads' port.
    pub target: PortRef,
    /// Who serves it, sorted by address.
    pub endpoints: Vec<Endpoint>,
    /// Whether one of its endpoints has, or ever had, an identity. It is not spoken to in plaintext then, even when the
    /// last such endpoint leaves.
    pub in_mesh: bool,
}

/// Who serves a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where.
    pub address: SocketAddr,
    /// Its share, at least 1.
    pub weight: u32,
    /// Whether it may get requests.
    pub health: Health,
    /// Where it stands.
    pub locality: Locality,
    /// Its identity; without one it has no sidecar.
    pub identity: Option<Arc<str>>,
}

impl MeshService {
    /// A port by its number.
    #[must_use]
    pub fn port(&self, number: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|port| port.number == number)
    }

    /// The cluster of a port.
    #[must_use]
    pub fn cluster(&self, port: u16) -> String {
        cluster_name(&self.key, port)
    }
}

impl ServicePort {
    /// The identities of those who serve it.
    #[must_use]
    pub fn identities(&self) -> BTreeSet<Arc<str>> {
        self.endpoints.iter().filter_map(|endpoint| endpoint.identity.clone()).collect()
    }
}

/// The ports that are in the mesh, by service: see [`ServicePort::in_mesh`].
pub type InMesh = BTreeSet<(Key, u16)>;

/// `outbound|PORT||NAME.NAMESPACE`: the cluster, the assignment and the routes of a port of a service.
#[must_use]
pub fn cluster_name(service: &Key, port: u16) -> String {
    format!("outbound|{port}||{}.{}", service.name, service.namespace)
}

/// The cluster of a port of the local application.
#[must_use]
pub fn inbound_cluster_name(port: u16) -> String {
    format!("inbound|{port}||")
}
