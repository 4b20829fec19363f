//! Who a proxy is: what it says of itself, and what it has proved.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Which of the three forms of a snapshot a proxy is to be told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dialect {
    /// Our own proxy: delta, on demand.
    Outrider,
    /// Envoy: delta or state of the world, the full set.
    #[default]
    Envoy,
    /// A gRPC client without a proxy: state of the world, `api_listener`s.
    Grpc,
}

impl Dialect {
    /// Its name in the API, in metrics and in logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Outrider => "outrider",
            Self::Envoy => "envoy",
            Self::Grpc => "grpc",
        }
    }
}

/// An identity that was proved: `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// The name of the trust domain.
    pub trust_domain: Arc<str>,
    /// The namespace.
    pub namespace: Arc<str>,
    /// The service account.
    pub service_account: Arc<str>,
}

/// A port on which the workload serves.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WorkloadPort {
    /// Its name; empty when it has none.
    pub name: Arc<str>,
    /// Its number.
    pub number: u16,
}

/// A proxy, as its stream began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyInfo {
    /// `node.id`, which is unique among the proxies.
    pub id: Arc<str>,
    /// Whose configuration it gets: that of its identity, or where none was asked for, what the node says.
    pub namespace: Arc<str>,
    /// The service account, likewise; empty when it is not known.
    pub service_account: Arc<str>,
    /// The service whose instance the workload says it is, in its own namespace.
    pub service: Option<Arc<str>>,
    /// The workload's name; `id` when it has none.
    pub workload: Arc<str>,
    /// The workload's labels.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// Where the workload says it is reached.
    pub address: Option<IpAddr>,
    /// Whether that is believed, so that it can register itself.
    pub is_there: bool,
    /// Where the workload serves.
    pub ports: Vec<WorkloadPort>,
    /// How it is told.
    pub dialect: Dialect,
    /// What it has proved; `None` where the control server listens in plaintext on loopback, and believes everybody.
    pub identity: Option<Identity>,
    /// Whether it asks for destinations when its workload calls them, and need not be told everything.
    pub on_demand: bool,
    /// Whether it lets resources go when their time to live is over.
    pub supports_ttl: bool,
}

impl ProxyInfo {
    /// Whether it wants to be an endpoint of a service.
    #[must_use]
    pub fn registers(&self) -> bool {
        self.service.is_some() && self.address.is_some() && !self.ports.is_empty()
    }
}
