//! Kinds of Kubernetes itself: only the fields that a mesh needs. Other fields are upstream's business and are skipped.

use std::collections::BTreeMap;
use std::net::IpAddr;

use outrider_proto::Path;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::scalar::PortRef;
use super::{ObjectKind, Spec, typed};

/// A sidecar's container is called so; a pod with one speaks mutual TLS.
pub const SIDECAR_CONTAINER: &str = "outrider-proxy";
/// The label by which an `EndpointSlice` names its `Service`.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// What `clusterIP` says when there is none.
const HEADLESS: &str = "None";

/// `v1/Namespace`: only its name and labels matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace;

impl<'de> Deserialize<'de> for Namespace {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde::de::IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

impl Spec for Namespace {
    const KIND: ObjectKind = ObjectKind::Namespace;

    fn from_body(_: Map<String, Value>, _: Option<&Value>, _: &mut Path) -> Option<Self> {
        Some(Self)
    }
}

/// `v1/Service`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    #[serde(default, rename = "clusterIP")]
    cluster_ip: String,
    #[serde(default, rename = "clusterIPs")]
    cluster_ips: Vec<String>,
    /// What it offers.
    #[serde(default)]
    pub ports: Vec<ServicePort>,
    /// Which workloads serve it; none when it is empty.
    #[serde(default)]
    pub selector: BTreeMap<String, String>,
    /// `ClusterIP`, `ExternalName` and so on.
    #[serde(default, rename = "type")]
    pub kind: String,
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// Its name; may be empty when it is the only one.
    #[serde(default)]
    pub name: String,
    /// Its number.
    pub port: u16,
    /// The workloads' port; the same number when there is none.
    #[serde(default)]
    pub target_port: Option<PortRef>,
    /// `TCP`, `UDP` or `SCTP`.
    #[serde(default)]
    pub protocol: Option<String>,
    /// What is spoken, for example `http`, `kubernetes.io/h2c`.
    #[serde(default)]
    pub app_protocol: Option<String>,
}

impl ServicePort {
    /// Whether it is one that a mesh can carry.
    #[must_use]
    pub fn is_tcp(&self) -> bool {
        self.protocol.as_deref().is_none_or(|protocol| protocol == "TCP")
    }
}

impl Service {
    /// The cluster addresses; empty for a headless service.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        let mut all: Vec<IpAddr> =
            self.cluster_ips.iter().chain([&self.cluster_ip]).filter_map(|text| text.parse().ok()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Whether it says of itself that it has no address.
    #[must_use]
    pub fn is_headless(&self) -> bool {
        self.cluster_ip == HEADLESS
    }
}

impl Spec for Service {
    const KIND: ObjectKind = ObjectKind::Service;

    fn check(&self, path: &mut Path) {
        for (index, ip) in self.cluster_ips.iter().enumerate() {
            if ip.parse::<IpAddr>().is_err() && ip != HEADLESS {
                path.item("clusterIPs", index, |path| path.fault("not an IP address, nor \"None\""));
            }
        }
        if !self.cluster_ip.is_empty()
            && self.cluster_ip != HEADLESS
            && self.cluster_ip.parse::<IpAddr>().is_err()
        {
            path.fault_at("clusterIP", "not an IP address, nor \"None\"");
        }
        for (index, port) in self.ports.iter().enumerate() {
            if port.port == 0 {
                path.item("ports", index, |path| path.fault_at("port", "must be from 1 to 65535"));
            }
            let before = self.ports.get(..index).unwrap_or_default();
            if before.iter().any(|other| other.port == port.port && other.is_tcp() == port.is_tcp()) {
                path.item("ports", index, |path| path.fault_at("port", "another port has this number"));
            }
        }
    }
}

/// `discovery.k8s.io/v1/EndpointSlice`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSlice {
    /// `IPv4`, `IPv6` or `FQDN`; the last is not used.
    pub address_type: String,
    /// Who serves.
    #[serde(default)]
    pub endpoints: Vec<SliceEndpoint>,
    /// On which ports.
    #[serde(default)]
    pub ports: Vec<SlicePort>,
}

/// One of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SliceEndpoint {
    /// Several addresses mean the same endpoint; the first is used.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// How it fares.
    #[serde(default)]
    pub conditions: SliceConditions,
    /// Where it stands.
    #[serde(default)]
    pub zone: Option<String>,
    /// The pod behind it.
    #[serde(default)]
    pub target_ref: Option<TargetRef>,
}

/// How an endpoint fares; what is not said is taken for good, as upstream says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct SliceConditions {
    /// May get new requests.
    #[serde(default)]
    pub ready: Option<bool>,
    /// Still answers, though it may be ending.
    #[serde(default)]
    pub serving: Option<bool>,
    /// Is ending.
    #[serde(default)]
    pub terminating: Option<bool>,
}

/// A port of all endpoints of a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct SlicePort {
    /// The service's port of this name.
    #[serde(default)]
    pub name: String,
    /// The number; all ports when there is none, which a mesh cannot use.
    #[serde(default)]
    pub port: Option<u16>,
    /// `TCP`, `UDP` or `SCTP`.
    #[serde(default)]
    pub protocol: Option<String>,
}

/// What an endpoint is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct TargetRef {
    /// Usually `Pod`.
    #[serde(default)]
    pub kind: String,
    /// Its name.
    #[serde(default)]
    pub name: String,
}

impl Spec for EndpointSlice {
    const KIND: ObjectKind = ObjectKind::EndpointSlice;

    fn from_body(body: Map<String, Value>, _: Option<&Value>, path: &mut Path) -> Option<Self> {
        typed(Value::Object(body), path)
    }

    fn check(&self, path: &mut Path) {
        if self.address_type == "FQDN" {
            return;
        }
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            path.item("endpoints", index, |path| match endpoint.addresses.first() {
                Some(address) if address.parse::<IpAddr>().is_ok() => {}
                Some(_) => path.item("addresses", 0, |path| path.fault("not an IP address")),
                None => path.fault_at("addresses", "missing"),
            });
        }
    }
}

/// `v1/Pod`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its containers.
    pub spec: PodSpec,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// What a pod is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    /// Its identity; `default` when it names none.
    #[serde(default)]
    pub service_account_name: String,
    /// What runs in it.
    #[serde(default)]
    pub containers: Vec<Container>,
    /// What runs before, or beside, those.
    #[serde(default)]
    pub init_containers: Vec<Container>,
}

/// A container of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// The ports that it names.
    #[serde(default)]
    pub ports: Vec<ContainerPort>,
}

/// A port of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPort {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Its number.
    #[serde(default)]
    pub container_port: u16,
}

/// The part of a pod's status that matters.
#[derive(Debug, Default, Deserialize)]
struct PodStatus {
    #[serde(default, rename = "podIP")]
    ip: String,
    #[serde(default, rename = "podIPs")]
    ips: Vec<PodIp>,
}

#[derive(Debug, Default, Deserialize)]
struct PodIp {
    #[serde(default)]
    ip: String,
}

impl Pod {
    /// Whether a sidecar of ours runs beside it.
    #[must_use]
    pub fn has_sidecar(&self) -> bool {
        self.spec.containers.iter().chain(&self.spec.init_containers).any(|one| one.name == SIDECAR_CONTAINER)
    }

    /// The name of its service account.
    #[must_use]
    pub fn service_account(&self) -> &str {
        match self.spec.service_account_name.as_str() {
            "" => "default",
            name => name,
        }
    }
}

impl<'de> Deserialize<'de> for Pod {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        PodSpec::deserialize(deserializer).map(|spec| Self { spec, addresses: Vec::new() })
    }
}

impl Spec for Pod {
    const KIND: ObjectKind = ObjectKind::Pod;

    fn from_body(body: Map<String, Value>, status: Option<&Value>, path: &mut Path) -> Option<Self> {
        let mut pod: Self = super::spec_only(body, path)?;
        let status: PodStatus = match status {
            Some(status) => path.field("status", |path| typed(status.clone(), path))?,
            None => PodStatus::default(),
        };
        let texts = [status.ip].into_iter().chain(status.ips.into_iter().map(|one| one.ip));
        pod.addresses = texts.filter_map(|text| text.parse().ok()).collect();
        pod.addresses.sort_unstable();
        pod.addresses.dedup();
        Some(pod)
    }
}
