//! Ways out of a container that the standards do not name, or name without saying how bad they are.

use serde_json::Value;

use super::pod::{Pod, found, texts};
use super::{Finding, Level, Rule};
use crate::inject::names::PROXY_ID;

static RUNTIME_SOCKET: Rule = Rule {
    name: "runtime-socket",
    level: Level::Baseline,
    about: "Who talks to the container runtime starts a privileged container, and is root on the node.",
};
static NODE_FILES: Rule = Rule {
    name: "node-files",
    level: Level::Baseline,
    about: "Files of the node that are as good as root on it: its root, the kubelet's, the kernel's, devices.",
};
static DANGEROUS: Rule = Rule {
    name: "dangerous-capability",
    level: Level::Baseline,
    about: "Capabilities with which a container is known to be left.",
};
static PROPAGATION: Rule = Rule {
    name: "mount-propagation",
    level: Level::Baseline,
    about: "What a container mounts appears on the node.",
};
static PROXY_IDENTITY: Rule = Rule {
    name: "proxy-identity",
    level: Level::Baseline,
    about: "Connections of the sidecar's user and group are not redirected: policies of the mesh would not hold.",
};
static AUTOMOUNT: Rule = Rule {
    name: "token-automount",
    level: Level::Restricted,
    about: "A token for the API server is the first thing that an intruder looks for.",
};
static SHARED_PROCESSES: Rule = Rule {
    name: "shared-processes",
    level: Level::Restricted,
    about: "Containers of a pod see, and with the same user may end, each other's processes, the sidecar's too.",
};

pub(super) const RULES: &[&Rule] =
    &[&RUNTIME_SOCKET, &NODE_FILES, &DANGEROUS, &PROPAGATION, &PROXY_IDENTITY, &AUTOMOUNT, &SHARED_PROCESSES];

const SOCKETS: [&str; 7] = [
    "docker.sock",
    "containerd.sock",
    "crio.sock",
    "cri-dockerd.sock",
    "podman.sock",
    "dockershim.sock",
    "buildkitd.sock",
];
/// Directories with such sockets in them.
const SOCKET_DIRECTORIES: [&str; 6] =
    ["/run", "/var/run", "/run/containerd", "/var/run/containerd", "/run/crio", "/var/run/crio"];
/// Directories that nothing below is harmless of.
const SENSITIVE: [&str; 10] = [
    "/boot",
    "/dev",
    "/etc",
    "/home",
    "/lib/modules",
    "/proc",
    "/root",
    "/sys",
    "/var/lib/etcd",
    "/var/lib/kubelet",
];
const WHAT_FOR: [(&str, &str); 14] = [
    ("ALL", "all of them, mounting and loading kernel modules included"),
    ("SYS_ADMIN", "mounts the disks of the node"),
    ("SYS_MODULE", "loads kernel modules"),
    ("SYS_PTRACE", "takes over processes, those of the node with hostPID"),
    ("SYS_RAWIO", "writes to the memory and the ports of the machine"),
    ("SYS_BOOT", "replaces the running kernel"),
    ("DAC_READ_SEARCH", "opens any file of the node by its handle"),
    ("BPF", "runs programs in the kernel"),
    ("PERFMON", "reads the kernel's memory"),
    ("MAC_ADMIN", "changes the rules of AppArmor and SELinux"),
    ("MAC_OVERRIDE", "is not bound by them"),
    ("NET_ADMIN", "removes the rules that lead its connections through the sidecar"),
    ("NET_RAW", "forges packets and answers of DNS"),
    ("SYSLOG", "reads the kernel's log, with addresses in it"),
];

pub(super) fn check(pod: &Pod<'_>, findings: &mut Vec<Finding>) {
    for (path, volume) in pod.volumes() {
        if let Some(directory) = volume["hostPath"]["path"].as_str() {
            host_path(&path, directory, findings);
        }
    }
    for container in &pod.containers {
        let path = &container.path;
        for name in texts(&container.context["capabilities"]["add"]).filter(|_| !container.own_redirect) {
            let name = name.strip_prefix("CAP_").unwrap_or(name);
            if let Some((_, what)) = WHAT_FOR.iter().find(|(known, _)| *known == name) {
                let reason = format!("{name} {what}; remove it");
                found(findings, &DANGEROUS, format!("{path}.securityContext.capabilities.add"), reason);
            }
        }
        let mounts = container.value["volumeMounts"].as_array().into_iter().flatten().enumerate();
        for (index, _) in mounts.filter(|(_, mount)| mount["mountPropagation"] == "Bidirectional") {
            let field = format!("{path}.volumeMounts[{index}].mountPropagation");
            found(findings, &PROPAGATION, field, "must not be Bidirectional; use HostToContainer or None");
        }
        let id = |name: &str| {
            let own = &container.context[name];
            if own.is_null() { pod.context()[name].as_u64() } else { own.as_u64() }
        };
        let proxy = Some(u64::from(PROXY_ID));
        let sidecar = container.value["name"] == crate::inject::names::SIDECAR_CONTAINER;
        if id("runAsUser") == proxy && id("runAsGroup") == proxy && !sidecar {
            let reason = format!("user and group {PROXY_ID} are the sidecar's; use others");
            found(findings, &PROXY_IDENTITY, format!("{path}.securityContext"), reason);
        }
    }
    if pod.spec["shareProcessNamespace"] == true {
        found(findings, &SHARED_PROCESSES, "spec.shareProcessNamespace", "must not be true; remove it");
    }
    if pod.spec["automountServiceAccountToken"] != Value::Bool(false) && !pod.windows {
        let reason = "must be false; a pod that needs the API server mounts a projected token of its own";
        found(findings, &AUTOMOUNT, "spec.automountServiceAccountToken", reason);
    }
}

fn host_path(path: &str, directory: &str, findings: &mut Vec<Finding>) {
    let field = format!("{path}.hostPath.path");
    let clean = format!(
        "/{}",
        directory.split('/').filter(|part| !matches!(*part, "" | ".")).collect::<Vec<_>>().join("/")
    );
    let file = clean.rsplit('/').next().unwrap_or_default();
    if SOCKETS.contains(&file) || SOCKET_DIRECTORIES.contains(&clean.as_str()) {
        let reason = format!(
            "{clean} gives the container runtime away; build or start containers over an API instead"
        );
        found(findings, &RUNTIME_SOCKET, field, reason);
    } else if clean == "/" || clean.split('/').any(|part| part == "..") || below(&clean) {
        let reason = format!("{clean} of the node is as good as root on it; remove the volume");
        found(findings, &NODE_FILES, field, reason);
    }
}

fn below(path: &str) -> bool {
    SENSITIVE
        .iter()
        .any(|known| path.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}
