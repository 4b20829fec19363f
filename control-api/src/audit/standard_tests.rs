//! A table of each control of the Pod Security Standards, good and bad: what is changed of a pod that is otherwise let
//! pass at the level, and the rule that says so. It covers what the examples cover that Kubernetes publishes, which
//! `tests/tests/standards.rs` reads where they are.

use serde_json::{Value, json};

use super::{Level, audit};

/// Rules of our own that the standards do not have.
const OURS: [&str; 4] = ["token-automount", "dangerous-capability", "node-files", "runtime-socket"];

/// `main` is the container, `first` the init container, `pod` the pod's security context, `spec` and `metadata` those.
const BASELINE: &[(&str, &str)] = &[
    ("", "{}"),
    (
        "",
        r#"{"metadata": {"annotations": {"container.apparmor.security.beta.kubernetes.io/main": "localhost/p"}}}"#,
    ),
    (
        "",
        r#"{"metadata": {"annotations": {"container.apparmor.security.beta.kubernetes.io/main": "runtime/default"}}}"#,
    ),
    (
        "apparmor",
        r#"{"metadata": {"annotations": {"container.apparmor.security.beta.kubernetes.io/main": "unconfined"}}}"#,
    ),
    (
        "apparmor",
        r#"{"metadata": {"annotations": {"container.apparmor.security.beta.kubernetes.io/first": "unconfined"}}}"#,
    ),
    ("apparmor", r#"{"main": {"appArmorProfile": {"type": "Unconfined"}}}"#),
    (
        "",
        r#"{"pod": {"appArmorProfile": {"type": "RuntimeDefault"}}, "main": {"appArmorProfile": {"type": "Localhost"}}}"#,
    ),
    (
        "",
        r#"{"main": {"capabilities": {"add": ["AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD",
            "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"]}}}"#,
    ),
    ("capabilities", r#"{"main": {"capabilities": {"add": ["NET_RAW"]}}}"#),
    ("capabilities", r#"{"first": {"capabilities": {"add": ["NET_RAW"]}}}"#),
    // Names are compared as they are written.
    ("capabilities", r#"{"main": {"capabilities": {"add": ["chown"]}}}"#),
    ("capabilities", r#"{"main": {"capabilities": {"add": ["CAP_CHOWN"]}}}"#),
    ("host-namespaces", r#"{"spec": {"hostIPC": true}}"#),
    ("host-namespaces", r#"{"spec": {"hostNetwork": true}}"#),
    ("host-namespaces", r#"{"spec": {"hostPID": true}}"#),
    ("", r#"{"spec": {"hostIPC": false, "hostNetwork": false, "hostPID": false}}"#),
    (
        "host-path",
        r#"{"spec": {"volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "hostPath": {"path": "/a"}}]}}"#,
    ),
    (
        "host-path",
        r#"{"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/a"}}, {"name": "w", "hostPath": {"path": "/b"}}]}}"#,
    ),
    ("", r#"{"spec": {"containers": [{"name": "main", "ports": [{"containerPort": 12345}]}]}}"#),
    (
        "host-ports",
        r#"{"spec": {"containers": [{"name": "main", "ports": [{"containerPort": 1, "hostPort": 1}]}]}}"#,
    ),
    (
        "host-ports",
        r#"{"spec": {"initContainers": [{"name": "first", "ports": [{"containerPort": 2, "hostPort": 2}]}]}}"#,
    ),
    ("", r#"{"spec": {"containers": [{"name": "main", "livenessProbe": {"httpGet": {"port": 8080}}}]}}"#),
    ("", r#"{"spec": {"containers": [{"name": "main", "readinessProbe": {"tcpSocket": {"port": 8080}}}]}}"#),
    (
        "host-probes",
        r#"{"spec": {"containers": [{"name": "main", "livenessProbe": {"httpGet": {"host": "bad.host", "port": 1}}}]}}"#,
    ),
    (
        "host-probes",
        r#"{"spec": {"containers": [{"name": "main", "livenessProbe": {"httpGet": {"host": "127.0.0.1", "port": 1}}}]}}"#,
    ),
    (
        "host-probes",
        r#"{"spec": {"containers": [{"name": "main", "readinessProbe": {"tcpSocket": {"host": "::1", "port": 1}}}]}}"#,
    ),
    (
        "host-probes",
        r#"{"spec": {"containers": [{"name": "main", "startupProbe": {"tcpSocket": {"host": "a", "port": 1}}}]}}"#,
    ),
    (
        "host-probes",
        r#"{"spec": {"containers": [{"name": "main", "lifecycle": {"postStart": {"httpGet": {"host": "a", "port": 1}}}}]}}"#,
    ),
    (
        "host-probes",
        r#"{"spec": {"initContainers": [{"name": "first", "restartPolicy": "Always",
            "readinessProbe": {"tcpSocket": {"host": "8.8.8.8", "port": 1}}}]}}"#,
    ),
    ("", r#"{"main": {"privileged": false}}"#),
    ("privileged", r#"{"main": {"privileged": true}}"#),
    ("privileged", r#"{"first": {"privileged": true}}"#),
    ("", r#"{"main": {"procMount": "Default"}}"#),
    (
        "",
        r#"{"main": {"procMount": "Unmasked"}, "first": {"procMount": "Unmasked"}, "spec": {"hostUsers": false}}"#,
    ),
    ("proc-mount", r#"{"main": {"procMount": "Unmasked"}}"#),
    ("proc-mount", r#"{"main": {"procMount": "Unmasked"}, "spec": {"hostUsers": true}}"#),
    ("proc-mount", r#"{"first": {"procMount": "Unmasked"}, "spec": {"hostUsers": true}}"#),
    (
        "",
        r#"{"pod": {"seccompProfile": {"type": "RuntimeDefault"}}, "main": {"seccompProfile": {"type": "Localhost"}}}"#,
    ),
    ("seccomp-unconfined", r#"{"pod": {"seccompProfile": {"type": "Unconfined"}}}"#),
    ("seccomp-unconfined", r#"{"main": {"seccompProfile": {"type": "Unconfined"}}}"#),
    ("seccomp-unconfined", r#"{"first": {"seccompProfile": {"type": "Unconfined"}}}"#),
    (
        "",
        r#"{"first": {"seLinuxOptions": {}}, "pod": {"seLinuxOptions": {"type": "container_t", "level": "l"}}}"#,
    ),
    (
        "",
        r#"{"main": {"seLinuxOptions": {"type": "container_init_t"}}, "first": {"seLinuxOptions": {"type": "container_kvm_t"}}}"#,
    ),
    ("", r#"{"main": {"seLinuxOptions": {"type": "container_engine_t"}}}"#),
    ("selinux", r#"{"pod": {"seLinuxOptions": {"type": "other"}}}"#),
    ("selinux", r#"{"main": {"seLinuxOptions": {"type": "other"}}}"#),
    ("selinux", r#"{"first": {"seLinuxOptions": {"type": "other"}}}"#),
    ("selinux", r#"{"pod": {"seLinuxOptions": {"user": "other"}}}"#),
    ("selinux", r#"{"pod": {"seLinuxOptions": {"role": "other"}}}"#),
    (
        "",
        r#"{"pod": {"sysctls": [{"name": "net.ipv4.tcp_rmem", "value": "1"}, {"name": "net.ipv4.tcp_wmem", "value": "1"}]}}"#,
    ),
    ("sysctls", r#"{"pod": {"sysctls": [{"name": "other", "value": "1"}]}}"#),
    ("host-process", r#"{"pod": {"windowsOptions": {"hostProcess": true}}}"#),
    ("host-process", r#"{"main": {"windowsOptions": {"hostProcess": true}}}"#),
    ("host-process", r#"{"first": {"windowsOptions": {"hostProcess": true}}}"#),
];

const RESTRICTED: &[(&str, &str)] = &[
    ("", r#"{"spec": {"os": {"name": "linux"}}}"#),
    ("privilege-escalation", r#"{"main": {"allowPrivilegeEscalation": true}}"#),
    ("privilege-escalation", r#"{"first": {"allowPrivilegeEscalation": true}}"#),
    ("privilege-escalation", r#"{"main": {"allowPrivilegeEscalation": null}}"#),
    ("", r#"{"main": {"capabilities": {"add": ["NET_BIND_SERVICE"], "drop": ["ALL"]}}}"#),
    ("capabilities-drop", r#"{"main": {"capabilities": {"drop": null}}}"#),
    ("capabilities-drop", r#"{"first": {"capabilities": {"drop": []}}}"#),
    (
        "capabilities-drop",
        r#"{"main": {"capabilities": {"drop": ["SYS_ADMIN", "NET_RAW", "SYS_PTRACE", "MKNOD"]}}}"#,
    ),
    ("capabilities-drop", r#"{"main": {"capabilities": {"add": ["CHOWN", "NET_BIND_SERVICE"]}}}"#),
    ("proc-mount", r#"{"main": {"procMount": "Unmasked"}, "spec": {"hostUsers": false}}"#),
    ("proc-mount", r#"{"first": {"procMount": "Unmasked"}, "spec": {"hostUsers": false}}"#),
    ("", r#"{"main": {"procMount": "Default"}, "spec": {"hostUsers": false}}"#),
    (
        "",
        r#"{"pod": {"runAsNonRoot": null}, "main": {"runAsNonRoot": true}, "first": {"runAsNonRoot": true}}"#,
    ),
    ("", r#"{"pod": {"runAsNonRoot": null}, "spec": {"hostUsers": false}}"#),
    ("run-as-non-root", r#"{"pod": {"runAsNonRoot": null}}"#),
    ("run-as-non-root", r#"{"pod": {"runAsNonRoot": false}}"#),
    ("run-as-non-root", r#"{"main": {"runAsNonRoot": false}}"#),
    ("run-as-non-root", r#"{"first": {"runAsNonRoot": false}}"#),
    ("", r#"{"pod": {"runAsUser": 1000}, "main": {"runAsUser": 1000}, "first": {"runAsUser": 1000}}"#),
    ("", r#"{"pod": {"runAsUser": 0}, "main": {"runAsUser": 0}, "spec": {"hostUsers": false}}"#),
    ("run-as-user", r#"{"pod": {"runAsUser": 0}}"#),
    ("run-as-user", r#"{"main": {"runAsUser": 0}}"#),
    ("run-as-user", r#"{"first": {"runAsUser": 0}}"#),
    ("", r#"{"pod": {"seccompProfile": {"type": "Localhost", "localhostProfile": "p"}}}"#),
    (
        "",
        r#"{"pod": {"seccompProfile": null}, "main": {"seccompProfile": {"type": "RuntimeDefault"}},
            "first": {"seccompProfile": {"type": "Localhost", "localhostProfile": "p"}}}"#,
    ),
    ("seccomp", r#"{"pod": {"seccompProfile": null}}"#),
    ("seccomp", r#"{"pod": {"seccompProfile": {"type": "Unconfined"}}}"#),
    (
        "seccomp",
        r#"{"pod": {"seccompProfile": null}, "main": {"seccompProfile": {"type": "RuntimeDefault"}}}"#,
    ),
    (
        "seccomp",
        r#"{"pod": {"seccompProfile": null}, "first": {"seccompProfile": {"type": "RuntimeDefault"}}}"#,
    ),
    (
        "",
        r#"{"spec": {"os": {"name": "windows"}}, "pod": {"seccompProfile": null}, "main": {"allowPrivilegeEscalation": null,
            "capabilities": null}}"#,
    ),
    ("run-as-non-root", r#"{"spec": {"os": {"name": "windows"}}, "pod": {"runAsNonRoot": null}}"#),
];

/// What a volume may be at `restricted`, and what not; one that says nothing is an `emptyDir`.
const VOLUMES: [&str; 9] = [
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
const OTHER_VOLUMES: [&str; 20] = [
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "gitRepo",
    "glusterfs",
    "hostPath",
    "iscsi",
    "nfs",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
];

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(from)) if into.first().is_some_and(Value::is_object) => {
            for (into, from) in into.iter_mut().zip(from) {
                merge(into, from);
            }
        }
        (into, from) => *into = from,
    }
}

/// A pod that is let pass at the level, changed.
fn pod(level: Level, change: &str) -> Value {
    let (context, container) = match level {
        Level::Baseline => (json!({}), json!({})),
        Level::Restricted => (
            json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}}),
            json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}),
        ),
    };
    let mut pod = json!({"metadata": {}, "spec": {
        "securityContext": context,
        "containers": [{"name": "main", "securityContext": container}],
        "initContainers": [{"name": "first", "securityContext": container}],
    }});
    for (part, value) in serde_json::from_str::<Value>(change).unwrap().as_object().unwrap().clone() {
        let pointer = match part.as_str() {
            "main" => "/spec/containers/0/securityContext",
            "first" => "/spec/initContainers/0/securityContext",
            "pod" => "/spec/securityContext",
            "spec" => "/spec",
            other => &format!("/{other}"),
        };
        merge(pod.pointer_mut(pointer).unwrap(), value);
    }
    pod
}

fn found(pod: &Value, level: Level) -> Vec<&'static str> {
    let mut found: Vec<_> = audit(pod, level, None).iter().map(|finding| finding.rule.name).collect();
    found.retain(|name| !OURS.contains(name));
    found.dedup();
    found
}

#[test]
fn baseline_is_the_standard() {
    for (rule, change) in BASELINE {
        let expected: Vec<&str> = rule.split(' ').filter(|rule| !rule.is_empty()).collect();
        assert_eq!(found(&pod(Level::Baseline, change), Level::Baseline), expected, "{change}");
        // Whatever is refused there is refused at the level above as well.
        if !rule.is_empty() {
            assert!(found(&pod(Level::Restricted, change), Level::Restricted).contains(rule), "{change}");
        }
    }
}

#[test]
fn restricted_is_the_standard() {
    for (rule, change) in RESTRICTED {
        let pod = pod(Level::Restricted, change);
        let mut found = found(&pod, Level::Restricted);
        found.retain(|name| *name != "seccomp-unconfined");
        let expected: Vec<&str> = rule.split(' ').filter(|rule| !rule.is_empty()).collect();
        assert_eq!(found, expected, "{change}");
    }
    for (kinds, expected) in [(&VOLUMES[..], false), (&OTHER_VOLUMES[..], true)] {
        for kind in kinds {
            let pod = pod(
                Level::Restricted,
                &format!(r#"{{"spec": {{"volumes": [{{"name": "v", "{kind}": {{}}}}]}}}}"#),
            );
            assert_eq!(found(&pod, Level::Restricted).contains(&"volume-types"), expected, "{kind}");
        }
    }
    let plain = pod(Level::Restricted, r#"{"spec": {"volumes": [{"name": "v"}]}}"#);
    assert_eq!(found(&plain, Level::Restricted), Vec::<&str>::new());
}
