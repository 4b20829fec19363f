//! The containers and the volume that a pod gets.

use serde_json::{Value, json};

use super::names::{
    BOOTSTRAP, MOUNT, PROXY_ID, READY_PORT, REDIRECT_CONTAINER, ROOTS, SIDECAR_CONTAINER, TOKEN_AUDIENCE,
    VERIFIER_ID, VOLUME,
};
use super::probes::Probes;
use super::settings::{Redirect, Resources, Settings};
use super::tuning::{Ports, Quantity, Tuning};

/// How long the kubelet's tokens are good for; it replaces them at four fifths of it.
const TOKEN_LIFE_S: u32 = 3600;
/// How often the start of a sidecar is looked at, and how often in vain: a minute in all before the kubelet starts anew.
const START_PERIOD_S: u32 = 1;
const START_ATTEMPTS: u32 = 60;
/// How often its readiness is looked at afterwards, and how long that may take.
const READY_PERIOD_S: u32 = 10;
const READY_TIMEOUT_S: u32 = 3;

/// The sidecar.
pub(super) fn sidecar(settings: &Settings, tuning: &Tuning, native: bool) -> Value {
    let ready = |more: Value| {
        let mut probe =
            json!({"httpGet": {"path": "/ready", "port": READY_PORT}, "timeoutSeconds": READY_TIMEOUT_S});
        if let (Some(probe), Value::Object(more)) = (probe.as_object_mut(), more) {
            probe.extend(more);
        }
        probe
    };
    let drain = tuning.drain.unwrap_or(settings.drain);
    let mut container = base(SIDECAR_CONTAINER, settings, &resources(&settings.resources, tuning));
    container["args"] = json!(["--config", format!("{MOUNT}/outrider.yaml")]);
    container["env"] = json!([
        {"name": "OUTRIDER_NODE_ID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "OUTRIDER_LOG", "value": tuning.log_level.as_deref().unwrap_or("info")},
        {"name": "OUTRIDER_LOG_FORMAT", "value": "json"},
        {"name": "OUTRIDER_DRAIN_TIMEOUT_MS", "value": (u64::from(drain.0) * 1000).to_string()},
        {"name": "OUTRIDER_WORKERS", "value": settings.workers.to_string()},
        // The application reaches the port in the network namespace that they share.
        {"name": "OUTRIDER_ADMIN_CHANGES", "value": "off"},
    ]);
    container["securityContext"] = locked(PROXY_ID);
    container["startupProbe"] =
        ready(json!({"periodSeconds": START_PERIOD_S, "failureThreshold": START_ATTEMPTS}));
    container["readinessProbe"] = ready(json!({"periodSeconds": READY_PERIOD_S}));
    container["volumeMounts"] = json!([{"name": VOLUME, "mountPath": MOUNT, "readOnly": true}]);
    if native {
        container["restartPolicy"] = "Always".into();
    }
    container
}

/// The init container that sets the rules of redirection, or sees that a plugin has set them.
pub(super) fn redirect(settings: &Settings, tuning: &Tuning, probes: &Probes) -> Value {
    let mut arguments = vec!["redirect".to_owned()];
    let mut container = base(REDIRECT_CONTAINER, settings, &settings.resources);
    match settings.redirect {
        Redirect::Cni => {
            arguments.push("--verify".to_owned());
            container["securityContext"] = locked(VERIFIER_ID);
        }
        Redirect::Init => {
            let own = probes.grpc.iter().map(|one| Ports { first: one.outside, last: one.outside });
            let inbound: Vec<Ports> = tuning.skip_inbound.iter().copied().chain(own).collect();
            let mut option = |name: &str, value: String| {
                if !value.is_empty() {
                    arguments.extend([name.to_owned(), value]);
                }
            };
            option("--skip-inbound-ports", joined(&inbound));
            option("--skip-outbound-ports", joined(&tuning.skip_outbound));
            option("--skip-subnets", tuning.skip_subnets.join(","));
            option("--ip-families", settings.families.name().to_owned());
            container["securityContext"] = setting_rules();
        }
    }
    container["args"] = json!(arguments);
    container
}

/// Where the API server puts its token into every container.
const API_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Whether a container is the one that sets rules, with this image, and nothing in it would make it do anything else.
/// Who may say so is let pass where rights are looked at.
#[must_use]
pub fn is_own_redirect(container: &Value, image: &str) -> bool {
    const KNOWN: [&str; 9] = [
        "name",
        "image",
        "imagePullPolicy",
        "args",
        "resources",
        "securityContext",
        "terminationMessagePath",
        "terminationMessagePolicy",
        "volumeMounts",
    ];
    let fields = container.as_object().into_iter().flatten();
    let mounts = container["volumeMounts"].as_array().into_iter().flatten();
    container["name"] == REDIRECT_CONTAINER
        && container["image"] == image
        && container["args"].get(0).is_some_and(|first| first == "redirect")
        && container["securityContext"] == setting_rules()
        && fields.filter(|(_, value)| !value.is_null()).all(|(name, _)| KNOWN.contains(&name.as_str()))
        && mounts.into_iter().all(|mount| mount["mountPath"] == API_TOKEN)
}

/// Start-up file, roots and token in one directory. The first two stand in annotations of the pod, so that nothing need
/// be put into its namespace.
pub(super) fn volume() -> Value {
    let note = |name: &str| json!({"fieldPath": format!("metadata.annotations['{name}']")});
    json!({
        "name": VOLUME,
        "projected": {"sources": [
            {"downwardAPI": {"items": [
                {"path": "outrider.yaml", "fieldRef": note(BOOTSTRAP)},
                {"path": "roots.pem", "fieldRef": note(ROOTS)},
            ]}},
            {"serviceAccountToken": {
                "path": "token", "audience": TOKEN_AUDIENCE, "expirationSeconds": TOKEN_LIFE_S,
            }},
        ]},
    })
}

fn base(name: &str, settings: &Settings, resources: &Resources) -> Value {
    let mut container = json!({
        "name": name,
        "image": settings.image,
        "resources": resources_of(resources),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    });
    if let Some(policy) = &settings.pull_policy {
        container["imagePullPolicy"] = policy.as_str().into();
    }
    container
}

/// What a container that needs nothing has: no privilege of any kind.
fn locked(id: u32) -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]},
        "privileged": false,
        "readOnlyRootFilesystem": true,
        "runAsGroup": id,
        "runAsNonRoot": true,
        "runAsUser": id,
        "seccompProfile": {"type": "RuntimeDefault"},
    })
}

/// Capabilities of Kubernetes are those of root only, so it is root with one of them.
fn setting_rules() -> Value {
    let mut context = locked(0);
    context["runAsNonRoot"] = false.into();
    context["capabilities"]["add"] = json!(["NET_ADMIN"]);
    context
}

fn joined(ports: &[Ports]) -> String {
    ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn resources(usual: &Resources, tuning: &Tuning) -> Resources {
    let usual = usual.clone();
    Resources {
        cpu_request: tuning.cpu_request.clone().unwrap_or(usual.cpu_request),
        cpu_limit: tuning.cpu_limit.clone().or(usual.cpu_limit),
        memory_request: tuning.memory_request.clone().unwrap_or(usual.memory_request),
        memory_limit: tuning.memory_limit.clone().or(usual.memory_limit),
    }
}

fn resources_of(resources: &Resources) -> Value {
    let mut limits = serde_json::Map::new();
    let mut limit = |name: &str, value: &Option<Quantity>| {
        if let Some(value) = value {
            limits.insert(name.to_owned(), value.as_str().into());
        }
    };
    limit("cpu", &resources.cpu_limit);
    limit("memory", &resources.memory_limit);
    let requests =
        json!({"cpu": resources.cpu_request.as_str(), "memory": resources.memory_request.as_str()});
    let mut all = json!({"requests": requests});
    if !limits.is_empty() {
        all["limits"] = limits.into();
    }
    all
}
