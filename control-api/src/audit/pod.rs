//! A pod as rules look at it: every container with its path, and what holds for a container that says nothing itself.

use outrider_proto::Fault;
use serde_json::Value;

use super::{Finding, Rule};
use crate::inject::is_own_redirect;

/// The lists of containers; one that is added to a running pod for debugging is held to the same.
const LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// A pod.
pub(super) struct Pod<'a> {
    /// Its `metadata`.
    pub(super) metadata: &'a Value,
    /// Its `spec`.
    pub(super) spec: &'a Value,
    /// What runs in it.
    pub(super) containers: Vec<Container<'a>>,
    /// Whether it says that it is for Windows, where some rules mean nothing.
    pub(super) windows: bool,
    /// Whether its users are its own (`hostUsers: false`): root of the pod is nobody on the node.
    pub(super) own_users: bool,
}

/// A container.
pub(super) struct Container<'a> {
    /// Where it stands.
    pub(super) path: String,
    /// The container.
    pub(super) value: &'a Value,
    /// Its `securityContext`.
    pub(super) context: &'a Value,
    /// Whether it is the mesh's own, which sets the rules of redirection and nothing else.
    pub(super) own_redirect: bool,
}

impl<'a> Pod<'a> {
    pub(super) fn new(pod: &'a Value, own_image: Option<&str>) -> Self {
        let spec = &pod["spec"];
        let containers = LISTS.into_iter().flat_map(|list| {
            spec[list].as_array().into_iter().flatten().enumerate().map(move |(index, value)| Container {
                path: format!("spec.{list}[{index}]"),
                value,
                context: &value["securityContext"],
                own_redirect: list == "initContainers"
                    && own_image.is_some_and(|image| is_own_redirect(value, image)),
            })
        });
        Self {
            metadata: &pod["metadata"],
            spec,
            containers: containers.collect(),
            windows: spec["os"]["name"] == "windows",
            own_users: spec["hostUsers"] == false,
        }
    }

    /// The `securityContext` of the pod.
    pub(super) fn context(&self) -> &'a Value {
        &self.spec["securityContext"]
    }

    /// The contexts of the pod and of its containers, with their paths.
    pub(super) fn contexts(&self) -> impl Iterator<Item = (String, &'a Value)> {
        let own = ("spec.securityContext".to_owned(), self.context());
        let each = self.containers.iter().map(|one| (format!("{}.securityContext", one.path), one.context));
        std::iter::once(own).chain(each)
    }

    /// The volumes with their paths.
    pub(super) fn volumes(&self) -> impl Iterator<Item = (String, &'a Value)> {
        let volumes = self.spec["volumes"].as_array().into_iter().flatten().enumerate();
        volumes.map(|(index, volume)| (format!("spec.volumes[{index}]"), volume))
    }
}

/// Notes what is wrong.
pub(super) fn found(
    findings: &mut Vec<Finding>,
    rule: &'static Rule,
    path: impl Into<String>,
    reason: impl Into<String>,
) {
    findings.push(Finding { rule, fault: Fault::new(path, reason) });
}

/// The texts of a list.
pub(super) fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}
