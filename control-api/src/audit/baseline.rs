//! The standard "baseline": what lets a container take over its node with little effort.

use super::pod::{Container, Pod, found, texts};
use super::{Finding, Level, Rule};

const fn rule(name: &'static str, about: &'static str) -> Rule {
    Rule { name, level: Level::Baseline, about }
}

static HOST_PROCESS: Rule = rule("host-process", "A HostProcess container is a process of the node.");
static HOST_NAMESPACES: Rule = rule(
    "host-namespaces",
    "In a namespace of the node, processes, memory or network of others are in reach.",
);
static PRIVILEGED: Rule =
    rule("privileged", "A privileged container has the devices of the node and every capability.");
static CAPABILITIES: Rule =
    rule("capabilities", "Capabilities beyond those that container runtimes give by themselves.");
static HOST_PATH: Rule =
    rule("host-path", "A directory of the node holds what others run, or secrets of theirs.");
static HOST_PORTS: Rule = rule("host-ports", "A port of the node is not covered by policies for pods.");
static HOST_PROBES: Rule =
    rule("host-probes", "The kubelet can be made to ask any address in the name of the node.");
static APPARMOR: Rule =
    rule("apparmor", "Without its AppArmor profile a container reaches more of the kernel.");
static SELINUX: Rule = rule("selinux", "Another SELinux label than a container's reaches more of the node.");
static PROC_MOUNT: Rule =
    rule("proc-mount", "Without masks, /proc and /sys give the kernel's settings away.");
static SECCOMP: Rule =
    rule("seccomp-unconfined", "Without a seccomp profile every system call is there to be attacked.");
static SYSCTLS: Rule = rule("sysctls", "Some kernel parameters hold for the whole node.");

pub(super) const RULES: &[&Rule] = &[
    &HOST_PROCESS,
    &HOST_NAMESPACES,
    &PRIVILEGED,
    &CAPABILITIES,
    &HOST_PATH,
    &HOST_PORTS,
    &HOST_PROBES,
    &APPARMOR,
    &SELINUX,
    &PROC_MOUNT,
    &SECCOMP,
    &SYSCTLS,
];

/// What may be added: what runtimes give by themselves.
const USUAL_CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
const SELINUX_TYPES: [&str; 5] =
    ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
/// Those that hold for the pod alone.
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];
const APPARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
const SECCOMP_ANNOTATIONS: [&str; 2] =
    ["seccomp.security.alpha.kubernetes.io/pod", "container.seccomp.security.alpha.kubernetes.io/"];

pub(super) fn check(pod: &Pod<'_>, findings: &mut Vec<Finding>) {
    host(pod, findings);
    containers(pod, findings);
    probes(pod, findings);
    annotations(pod, findings);
    contexts(pod, findings);
}

fn host(pod: &Pod<'_>, findings: &mut Vec<Finding>) {
    for name in ["hostNetwork", "hostPID", "hostIPC"] {
        if pod.spec[name] == true {
            found(findings, &HOST_NAMESPACES, format!("spec.{name}"), "must not be true; remove it");
        }
    }
    for (path, volume) in pod.volumes() {
        if let Some(host) = volume.get("hostPath").filter(|host| !host.is_null()) {
            let directory = host["path"].as_str().unwrap_or_default();
            let reason =
                format!("mounts {directory} of the node; use emptyDir, a claim or a projected volume");
            found(findings, &HOST_PATH, format!("{path}.hostPath"), reason);
        }
    }
    let sysctls = pod.context()["sysctls"].as_array().into_iter().flatten().enumerate();
    for (index, sysctl) in sysctls {
        let name = sysctl["name"].as_str().unwrap_or_default();
        if !SAFE_SYSCTLS.contains(&name) {
            let reason = format!("\"{name}\" is not one that holds for the pod alone; remove it");
            found(findings, &SYSCTLS, format!("spec.securityContext.sysctls[{index}].name"), reason);
        }
    }
}

fn containers(pod: &Pod<'_>, findings: &mut Vec<Finding>) {
    for container in &pod.containers {
        let context = format!("{}.securityContext", container.path);
        if container.context["privileged"] == true {
            found(findings, &PRIVILEGED, format!("{context}.privileged"), "must be false");
        }
        if !container.own_redirect {
            for name in texts(&container.context["capabilities"]["add"]) {
                if !USUAL_CAPABILITIES.contains(&name) {
                    let reason = format!("{name} must not be added; remove it");
                    found(findings, &CAPABILITIES, format!("{context}.capabilities.add"), reason);
                }
            }
        }
        if !pod.own_users {
            proc_mount(container, findings);
        }
        let ports = container.value["ports"].as_array().into_iter().flatten().enumerate();
        for (index, port) in ports.filter(|(_, port)| port["hostPort"].as_u64().is_some_and(|port| port > 0))
        {
            let reason = format!("must not take port {} of the node; use a Service", port["hostPort"]);
            found(findings, &HOST_PORTS, format!("{}.ports[{index}].hostPort", container.path), reason);
        }
    }
}

/// Since Kubernetes 1.35 the standard "baseline" asks it only of pods with the node's users, "restricted" of all.
pub(super) fn proc_mount(container: &Container<'_>, findings: &mut Vec<Finding>) {
    let mount = &container.context["procMount"];
    if !mount.is_null() && mount != "Default" {
        let path = format!("{}.securityContext.procMount", container.path);
        found(findings, &PROC_MOUNT, path, "must be Default");
    }
}

fn probes(pod: &Pod<'_>, findings: &mut Vec<Finding>) {
    const HANDLERS: [&str; 5] =
        ["/livenessProbe", "/readinessProbe", "/startupProbe", "/lifecycle/postStart", "/lifecycle/preStop"];
    for container in &pod.containers {
        for (place, kind) in HANDLERS.iter().flat_map(|place| [(place, "httpGet"), (place, "tcpSocket")]) {
            let host = container.value.pointer(place).and_then(|handler| handler[kind]["host"].as_str());
            if host.is_some_and(|host| !host.is_empty()) {
                let path = format!("{}{}.{kind}.host", container.path, place.replace('/', "."));
                found(findings, &HOST_PROBES, path, "must not be set; the pod itself is asked then");
            }
        }
    }
}

fn annotations(pod: &Pod<'_>, findings: &mut Vec<Finding>) {
    for (name, value) in pod.metadata["annotations"].as_object().into_iter().flatten() {
        let (path, value) = (format!("metadata.annotations[{name}]"), value.as_str().unwrap_or_default());
        let good = value.is_empty() || value == "runtime/default" || value.starts_with("localhost/");
        if name.starts_with(APPARMOR_ANNOTATION) && !good {
            found(findings, &APPARMOR, path, "must be runtime/default or localhost/PROFILE");
        } else if SECCOMP_ANNOTATIONS.iter().any(|known| name.starts_with(known)) && value == "unconfined" {
            found(findings, &SECCOMP, path, "must not be unconfined; use securityContext.seccompProfile");
        }
    }
}

fn contexts(pod: &Pod<'_>, findings: &mut Vec<Finding>) {
    for (path, context) in pod.contexts() {
        if context["windowsOptions"]["hostProcess"] == true {
            found(findings, &HOST_PROCESS, format!("{path}.windowsOptions.hostProcess"), "must not be true");
        }
        if context["seccompProfile"]["type"] == "Unconfined" {
            found(
                findings,
                &SECCOMP,
                format!("{path}.seccompProfile.type"),
                "must be RuntimeDefault or Localhost",
            );
        }
        if context["appArmorProfile"]["type"] == "Unconfined" {
            found(
                findings,
                &APPARMOR,
                format!("{path}.appArmorProfile.type"),
                "must be RuntimeDefault or Localhost",
            );
        }
        let labels = &context["seLinuxOptions"];
        let text = |name: &str| labels[name].as_str().unwrap_or_default();
        if !SELINUX_TYPES.contains(&text("type")) {
            let reason = format!("must be one of{}", SELINUX_TYPES.join(" "));
            found(findings, &SELINUX, format!("{path}.seLinuxOptions.type"), reason);
        }
        for name in ["user", "role"].into_iter().filter(|name| !text(name).is_empty()) {
            found(findings, &SELINUX, format!("{path}.seLinuxOptions.{name}"), "must not be set");
        }
    }
}
