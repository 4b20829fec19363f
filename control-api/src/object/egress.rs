//! `EgressPolicy`: what workloads may reach outside the mesh.

use outrider_proto::Path;
use schemars::JsonSchema;
use serde::Deserialize;

use super::scalar::Cidr;
use super::workload::Selector;
use super::{ObjectKind, Spec};

/// What the workloads that it selects may reach beside the services of the mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct EgressPolicy {
    /// Workloads of the policy's namespace; all of them when it is not said.
    #[serde(default)]
    pub selector: Option<Selector>,
    /// Destinations that may be reached.
    #[serde(default)]
    #[schemars(length(max = 512))]
    pub allow: Vec<Destination>,
    /// Cloud metadata, kubelet and Kubernetes API, which no range above opens.
    #[serde(default)]
    #[schemars(length(max = 3))]
    pub allow_sensitive: Vec<Sensitive>,
}

/// A destination outside the mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Destination {
    /// A host by its name, as a request's `Host` or the server name of TLS says it. Connections go to what the sidecar's
    /// name servers say of it. A name that begins with `*.` is understood, and not reached.
    #[serde(default)]
    #[schemars(length(min = 1, max = 253))]
    pub host: Option<String>,
    /// Addresses.
    #[serde(default)]
    pub cidr: Option<Cidr>,
    /// Ports; all when there are none, and of a host 80 and 443.
    #[serde(default)]
    #[schemars(length(max = 64), inner(range(min = 1, max = 65535)))]
    pub ports: Vec<u16>,
}

/// Where a breakout goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
pub enum Sensitive {
    /// Metadata services of cloud providers.
    CloudMetadata,
    /// The kubelet of the node.
    Kubelet,
    /// The Kubernetes API.
    KubernetesApi,
}

impl Spec for EgressPolicy {
    const KIND: ObjectKind = ObjectKind::EgressPolicy;

    fn check(&self, path: &mut Path) {
        if self.allow.is_empty() && self.allow_sensitive.is_empty() {
            path.fault_at("allow", "the policy allows nothing, as is the case without it");
        }
        for (index, destination) in self.allow.iter().enumerate() {
            path.item("allow", index, |path| {
                if destination.host.is_some() == destination.cidr.is_some() {
                    path.fault("exactly one of host and cidr is needed");
                }
                let host = destination.host.as_deref();
                let plain = host.map(|host| host.strip_prefix("*.").unwrap_or(host));
                if plain.is_some_and(|host| !super::meta::is_subdomain(host)) {
                    path.fault_at("host", "not a host name, nor one with \"*.\" before it");
                } else if plain.is_some_and(is_number) {
                    path.fault_at("host", "ends with a number, as an address does; use cidr");
                }
                if destination.ports.contains(&0) {
                    path.fault_at("ports", "must be from 1 to 65535");
                }
            });
        }
    }
}

/// Whether a resolver might take a host for an address: its last label is a number, decimal or hexadecimal (RFC 6943
/// section 3.1.1 has the forms that are about).
fn is_number(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or_default();
    let hexadecimal = last.strip_prefix("0x").or(last.strip_prefix("0X"));
    let is = |text: &str, radix| text.chars().all(|one| one.is_digit(radix));
    is(last, 10) || hexadecimal.is_some_and(|digits| is(digits, 16))
}
