//! Whether a pod gets a sidecar.
//!
//! What the pod says goes before what its namespace says, and our own names go before those of other meshes, of which
//! only the opt-out counts: who has told another mesh to stay away did not ask for ours either.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::names::{REDIRECT_CONTAINER, SIDECAR_CONTAINER, SWITCH};

/// Namespaces of Kubernetes itself: its own pods must start before a mesh can.
const SYSTEM_NAMESPACES: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];
/// Opt-outs of other meshes, as labels or annotations.
const FOREIGN: [(&str, &str); 3] = [
    ("sidecar.istio.io/inject", "false"),
    ("linkerd.io/inject", "disabled"),
    ("istio-injection", "disabled"),
];
/// Sidecars of other meshes: two that redirect the same connections do not go together.
const FOREIGN_SIDECARS: [&str; 2] = ["istio-proxy", "linkerd-proxy"];

/// Where a pod is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Its namespace.
    pub namespace: String,
    /// Labels and annotations of the namespace, as far as they are known.
    pub switches: BTreeMap<String, String>,
    /// Whether pods get a sidecar when nothing says anything.
    pub unless_said: bool,
}

/// What is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It gets one.
    Inject,
    /// It gets none.
    Skip(Reason),
}

/// Why a pod gets no sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It uses the network of its node.
    HostNetwork,
    /// The kubelet has made it from a file of its own.
    Mirror,
    /// It is not one of Linux.
    Windows,
    /// Kubernetes' own namespace, or the control server's.
    SystemNamespace,
    /// It, or its namespace, has said so.
    Disabled,
    /// It, or its namespace, has told another mesh so.
    ForeignOptOut,
    /// It has a sidecar of another mesh.
    ForeignSidecar,
    /// Nobody has asked for one.
    NotAsked,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HostNetwork => "it uses the network of its node",
            Self::Mirror => "it is a static pod of the kubelet",
            Self::Windows => "it runs on Windows",
            Self::SystemNamespace => "its namespace is one that is never injected",
            Self::Disabled => "outrider.dev/inject says so",
            Self::ForeignOptOut => "it, or its namespace, has opted out of a mesh",
            Self::ForeignSidecar => "it has a sidecar of another mesh",
            Self::NotAsked => "neither it nor its namespace says outrider.dev/inject: enabled",
        })
    }
}

/// Decides; `root_namespace` is that of the control server.
#[must_use]
pub fn decide(pod: &Value, around: &Surroundings, root_namespace: &str) -> Decision {
    let (spec, metadata) = (&pod["spec"], &pod["metadata"]);
    if spec["hostNetwork"] == true {
        return Decision::Skip(Reason::HostNetwork);
    }
    if metadata["annotations"].get("kubernetes.io/config.mirror").is_some() {
        return Decision::Skip(Reason::Mirror);
    }
    if spec["os"]["name"] == "windows" {
        return Decision::Skip(Reason::Windows);
    }
    if is_system(&around.namespace, root_namespace) {
        return Decision::Skip(Reason::SystemNamespace);
    }
    if names(pod).any(|name| FOREIGN_SIDECARS.contains(&name)) {
        return Decision::Skip(Reason::ForeignSidecar);
    }
    let of_pod = |name: &str| {
        let text = |part: &'static str| metadata[part].get(name).and_then(Value::as_str);
        text("labels").or_else(|| text("annotations"))
    };
    let of_namespace = |name: &str| around.switches.get(name).map(String::as_str);
    switch(of_pod).or_else(|| switch(of_namespace)).unwrap_or(if around.unless_said {
        Decision::Inject
    } else {
        Decision::Skip(Reason::NotAsked)
    })
}

fn switch<'a>(said: impl Fn(&str) -> Option<&'a str>) -> Option<Decision> {
    match said(SWITCH) {
        Some("enabled" | "true") => return Some(Decision::Inject),
        // Who mistypes it gets what is safe to see at once: a pod without a sidecar is refused by its peers.
        Some(_) => return Some(Decision::Skip(Reason::Disabled)),
        None => {}
    }
    let out = FOREIGN.iter().any(|(name, value)| said(name) == Some(value));
    out.then_some(Decision::Skip(Reason::ForeignOptOut))
}

/// Whether a namespace is one of Kubernetes itself, or the control server's: never part of the mesh.
#[must_use]
pub fn is_system(namespace: &str, root_namespace: &str) -> bool {
    namespace == root_namespace || SYSTEM_NAMESPACES.contains(&namespace)
}

/// The names of all containers, init containers included.
fn names(pod: &Value) -> impl Iterator<Item = &str> {
    ["containers", "initContainers"]
        .into_iter()
        .filter_map(|list| pod["spec"][list].as_array())
        .flatten()
        .filter_map(|container| container["name"].as_str())
}

/// Whether a pod uses a name of ours for a container or volume without that an injection has made it.
pub(super) fn reserved_name(pod: &Value) -> Option<&str> {
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let mut volumes = volumes.filter_map(|volume| volume["name"].as_str());
    names(pod)
        .find(|name| [SIDECAR_CONTAINER, REDIRECT_CONTAINER].contains(name))
        .or_else(|| volumes.find(|name| *name == super::names::VOLUME))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    type Labels = &'static [(&'static str, &'static str)];

    fn around(switches: &[(&str, &str)]) -> Surroundings {
        Surroundings {
            namespace: "shop".to_owned(),
            switches: switches
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            unless_said: false,
        }
    }

    #[test]
    fn pods_go_before_namespaces_and_own_names_before_foreign_ones() {
        let own = |value: &str| json!({"metadata": {"labels": {SWITCH: value}}});
        let noted = |name: &str, value: &str| json!({"metadata": {"annotations": {name: value}}});
        let both = json!({"metadata": {"labels": {SWITCH: "enabled"},
            "annotations": {"linkerd.io/inject": "disabled"}}});
        let on: Labels = &[(SWITCH, "enabled")];
        let table: [(Value, Labels, Decision); 12] = [
            (json!({}), &[], Decision::Skip(Reason::NotAsked)),
            (json!({}), on, Decision::Inject),
            (json!({}), &[(SWITCH, "disabled")], Decision::Skip(Reason::Disabled)),
            (own("enabled"), &[(SWITCH, "disabled")], Decision::Inject),
            (own("disabled"), on, Decision::Skip(Reason::Disabled)),
            (own("enabeld"), on, Decision::Skip(Reason::Disabled)),
            (own("true"), &[], Decision::Inject),
            (noted(SWITCH, "enabled"), &[], Decision::Inject),
            (noted("sidecar.istio.io/inject", "false"), on, Decision::Skip(Reason::ForeignOptOut)),
            (noted("sidecar.istio.io/inject", "true"), &[], Decision::Skip(Reason::NotAsked)),
            (both, &[], Decision::Inject),
            (json!({}), &[("istio-injection", "disabled")], Decision::Skip(Reason::ForeignOptOut)),
        ];
        for (pod, switches, decision) in table {
            assert_eq!(decide(&pod, &around(switches), "outrider-system"), decision, "{pod} {switches:?}");
        }
    }

    #[test]
    fn what_can_have_no_sidecar_gets_none_whatever_it_says() {
        let asked = |spec: Value| json!({"metadata": {"labels": {SWITCH: "enabled"}}, "spec": spec});
        let none = |pod: Value, namespace: &str| {
            let around = Surroundings { namespace: namespace.to_owned(), ..around(&[]) };
            decide(&pod, &around, "outrider-system")
        };
        assert_eq!(none(asked(json!({"hostNetwork": true})), "shop"), Decision::Skip(Reason::HostNetwork));
        assert_eq!(none(asked(json!({"os": {"name": "windows"}})), "shop"), Decision::Skip(Reason::Windows));
        for namespace in ["outrider-system", "kube-system"] {
            assert_eq!(none(asked(json!({})), namespace), Decision::Skip(Reason::SystemNamespace));
        }
        let other = json!({"initContainers": [{"name": "istio-proxy"}]});
        assert_eq!(none(asked(other), "shop"), Decision::Skip(Reason::ForeignSidecar));
    }
}
