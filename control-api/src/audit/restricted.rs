//! The standard "restricted": no more rights than an application needs.

use serde_json::Value;

use super::baseline::proc_mount;
use super::pod::{Container, Pod, found, texts};
use super::{Finding, Level, Rule};

const fn rule(name: &'static str, about: &'static str) -> Rule {
    Rule { name, level: Level::Restricted, about }
}

static VOLUMES: Rule =
    rule("volume-types", "Only volumes that hold nothing of the node or of other systems.");
static ESCALATION: Rule = rule("privilege-escalation", "A set-user-id program could gain rights.");
static NON_ROOT: Rule = rule("run-as-non-root", "Root of a container is root of the node when it gets out.");
static ROOT_USER: Rule = rule("run-as-user", "User 0 is root.");
static SECCOMP: Rule = rule("seccomp", "A seccomp profile keeps most of the kernel out of reach.");
static DROP_ALL: Rule =
    rule("capabilities-drop", "What is not dropped is there, and few applications need any of it.");

pub(super) const RULES: &[&Rule] = &[&VOLUMES, &ESCALATION, &NON_ROOT, &ROOT_USER, &SECCOMP, &DROP_ALL];

/// As Kubernetes has them since 1.33: what an image holds may be mounted where it may be run.
const VOLUME_TYPES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

pub(super) fn check(pod: &Pod<'_>, findings: &mut Vec<Finding>) {
    for (path, volume) in pod.volumes() {
        let kinds = volume.as_object().into_iter().flatten();
        let kinds = kinds.filter(|(name, value)| *name != "name" && !value.is_null());
        for (kind, _) in kinds.filter(|(kind, _)| !VOLUME_TYPES.contains(&kind.as_str())) {
            let reason =
                format!("volumes of this kind are not allowed; use one of {}", VOLUME_TYPES.join(", "));
            found(findings, &VOLUMES, format!("{path}.{kind}"), reason);
        }
    }
    if !pod.own_users && pod.context()["runAsUser"].as_i64() == Some(0) {
        found(findings, &ROOT_USER, "spec.securityContext.runAsUser", "must not be 0");
    }
    let (non_root, profile) = (&pod.context()["runAsNonRoot"], &pod.context()["seccompProfile"]["type"]);
    for container in &pod.containers {
        if pod.own_users {
            proc_mount(container, findings);
        } else if !container.own_redirect {
            user(container, non_root, findings);
        }
        if !pod.windows {
            one(container, profile, findings);
        }
    }
}

/// Root of a pod with users of its own is nobody on the node, and the standard lets it pass since Kubernetes 1.35.
fn user(container: &Container<'_>, of_pod: &Value, findings: &mut Vec<Finding>) {
    let (context, path) = (container.context, format!("{}.securityContext", container.path));
    if own_or(&context["runAsNonRoot"], of_pod) != true {
        let reason = "must be true, here or in the pod's securityContext";
        found(findings, &NON_ROOT, format!("{path}.runAsNonRoot"), reason);
    }
    if context["runAsUser"].as_i64() == Some(0) {
        found(findings, &ROOT_USER, format!("{path}.runAsUser"), "must not be 0");
    }
}

fn own_or(own: &Value, of_pod: &Value) -> Value {
    if own.is_null() { of_pod.clone() } else { own.clone() }
}

/// What means nothing to Windows.
fn one(container: &Container<'_>, pod_profile: &Value, findings: &mut Vec<Finding>) {
    let context = container.context;
    let path = |field: &str| format!("{}.securityContext.{field}", container.path);
    if context["allowPrivilegeEscalation"] != false {
        found(findings, &ESCALATION, path("allowPrivilegeEscalation"), "must be false");
    }
    let profile = own_or(&context["seccompProfile"]["type"], pod_profile);
    if profile != "RuntimeDefault" && profile != "Localhost" {
        let reason = "must be RuntimeDefault or Localhost, here or in the pod's securityContext";
        found(findings, &SECCOMP, path("seccompProfile.type"), reason);
    }
    let capabilities = &context["capabilities"];
    if !texts(&capabilities["drop"]).any(|name| name == "ALL") {
        found(findings, &DROP_ALL, path("capabilities.drop"), "must hold ALL");
    }
    if !container.own_redirect {
        for name in texts(&capabilities["add"]).filter(|name| *name != "NET_BIND_SERVICE") {
            let reason = format!("{name} must not be added; only NET_BIND_SERVICE may");
            found(findings, &DROP_ALL, path("capabilities.add"), reason);
        }
    }
}
