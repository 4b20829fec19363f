//! `Workload`: an instance of a service outside Kubernetes.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use outrider_proto::Path;
use schemars::JsonSchema;
use serde::Deserialize;

use super::meta::{is_label, is_subdomain};
use super::{ObjectKind, Spec};

/// Most ports, and most upstreams, of a workload.
const MAX_PORTS: usize = 64;

/// An instance of a service outside Kubernetes, with a sidecar beside it.
///
/// Services select it by its labels, or it names its service itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Workload {
    /// Where its sidecar is reached.
    #[schemars(with = "String", length(min = 1, max = 45))]
    pub address: IpAddr,
    /// What it offers.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub ports: Vec<WorkloadPort>,
    /// A service of the same namespace that it belongs to, whatever that one selects.
    #[serde(default)]
    #[schemars(length(max = 253))]
    pub service: Option<String>,
    /// Its identity is `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/` and this name.
    #[serde(default = "default_account")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account: String,
    /// Where it stands.
    #[serde(default)]
    pub locality: Locality,
    /// Its share of requests, relative to the other endpoints of the service; at least 1.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub weight: u32,
    /// Whether it may get requests.
    #[serde(default)]
    pub health: Health,
    /// Services that it calls through a local port, where connections are not redirected to the sidecar.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub upstreams: Vec<Upstream>,
    /// Whether a sidecar stands before it; without, it is spoken to in plaintext.
    #[serde(default = "yes")]
    pub sidecar: bool,
    /// Whether nobody wrote it: its own sidecar says all of this.
    #[serde(skip)]
    pub registered: bool,
}

/// A port of a workload.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct WorkloadPort {
    /// What services call it by.
    #[serde(default)]
    #[schemars(length(max = 63))]
    pub name: String,
    /// Where others connect to.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// Where the application listens on the loopback address, when it is not redirected: the sidecar then listens on
    /// `port` itself. Without it the sidecar's inbound listener gets connections to `port` by redirection.
    #[serde(default)]
    #[schemars(range(min = 1, max = 65535))]
    pub app_port: Option<u16>,
    /// What is spoken; looked at when it is not said.
    #[serde(default)]
    pub protocol: Option<PortProtocol>,
}

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, JsonSchema)]
pub enum PortProtocol {
    /// HTTP/1.1, or HTTP/2 where the client speaks it.
    #[serde(rename = "HTTP")]
    Http,
    /// HTTP/2 only.
    #[serde(rename = "HTTP2")]
    Http2,
    /// gRPC, which is HTTP/2.
    #[serde(rename = "GRPC")]
    Grpc,
    /// Opaque bytes.
    #[serde(rename = "TCP")]
    Tcp,
}

/// Where something stands; each part may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Locality {
    /// The region.
    #[serde(default)]
    #[schemars(length(max = 63))]
    pub region: String,
    /// The zone of the region.
    #[serde(default)]
    #[schemars(length(max = 63))]
    pub zone: String,
}

/// Whether an instance may get requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Health {
    /// It may.
    #[default]
    Healthy,
    /// It may not.
    Unhealthy,
    /// It finishes what it has.
    Draining,
}

/// A service that is called through a local port.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Upstream {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub service: String,
    /// Its namespace; the workload's own when it is not said.
    #[serde(default)]
    #[schemars(length(max = 63))]
    pub namespace: Option<String>,
    /// The service's port.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// Where the sidecar listens for it: a loopback address and a port.
    #[schemars(with = "String", length(min = 1, max = 64))]
    pub bind: SocketAddr,
}

fn default_account() -> String {
    "default".to_owned()
}

const fn one() -> u32 {
    1
}

const fn yes() -> bool {
    true
}

impl Spec for Workload {
    const KIND: ObjectKind = ObjectKind::Workload;

    fn check(&self, path: &mut Path) {
        if self.address.is_unspecified() || self.address.is_multicast() {
            path.fault_at("address", "not the address of a host");
        }
        if !is_subdomain(&self.service_account) {
            path.fault_at("serviceAccount", "not a name of an object");
        }
        if self.service.as_deref().is_some_and(|name| !is_subdomain(name)) {
            path.fault_at("service", "not a name of an object");
        }
        if !(1..=1_000_000).contains(&self.weight) {
            path.fault_at("weight", "must be from 1 to 1000000");
        }
        for (count, name) in [(self.ports.len(), "ports"), (self.upstreams.len(), "upstreams")] {
            if count > MAX_PORTS {
                path.fault_at(name, format!("more than {MAX_PORTS}"));
            }
        }
        for (index, port) in self.ports.iter().enumerate() {
            let before = self.ports.get(..index).unwrap_or_default();
            path.item("ports", index, |path| port.check(before, path));
        }
        for (index, upstream) in self.upstreams.iter().enumerate() {
            let before = self.upstreams.get(..index).unwrap_or_default();
            path.item("upstreams", index, |path| upstream.check(before, path));
        }
    }
}

impl WorkloadPort {
    fn check(&self, before: &[Self], path: &mut Path) {
        if self.port == 0 {
            path.fault_at("port", "must be from 1 to 65535");
        }
        if self.app_port == Some(0) {
            path.fault_at("appPort", "must be from 1 to 65535");
        }
        if !self.name.is_empty() && !is_label(&self.name) {
            path.fault_at("name", "must be lower-case letters, digits and \"-\"");
        }
        if before.iter().any(|other| other.port == self.port) {
            path.fault_at("port", "another port has this number");
        }
        if before.iter().any(|other| other.name == self.name) {
            path.fault_at("name", "another port has this name");
        }
    }
}

impl Upstream {
    fn check(&self, before: &[Self], path: &mut Path) {
        if !is_subdomain(&self.service) {
            path.fault_at("service", "not a name of an object");
        }
        if self.port == 0 {
            path.fault_at("port", "must be from 1 to 65535");
        }
        // What listens elsewhere would lend the workload's identity to everybody who reaches it.
        if !self.bind.ip().is_loopback() || self.bind.port() == 0 {
            path.fault_at("bind", "must be a loopback address and a port, for example 127.0.0.1:9001");
        }
        if before.iter().any(|other| other.bind == self.bind) {
            path.fault_at("bind", "another upstream listens there");
        }
    }
}

/// Labels that an object must have; an empty selector fits every object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Selector {
    /// All of these labels.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 64))]
    pub match_labels: BTreeMap<String, String>,
}
