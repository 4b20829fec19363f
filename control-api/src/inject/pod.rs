//! A pod with its sidecar.

use std::collections::BTreeMap;

use outrider_proto::Fault;
use serde_json::{Value, json};

use super::bootstrap::bootstrap;
use super::decide::{self, Decision, Reason, Surroundings};
use super::names::{BOOTSTRAP, PROXY_ID, ROOTS, STATUS};
use super::plain::plain;
use super::probes::Probes;
use super::settings::Settings;
use super::{container, tuning};

/// What tells Prometheus where metrics are.
pub(super) const SCRAPE: [(&str, &str); 3] =
    [("prometheus.io/scrape", "true"), ("prometheus.io/port", "15020"), ("prometheus.io/path", "/metrics")];
/// Ports on which the sidecar listens, of which an application can have none.
const OWN_PORTS: [u16; 5] = [15_000, 15_001, 15_006, 15_020, 15_021];

/// What becomes of a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It has a sidecar now.
    Injected(Injected),
    /// It stays as it is.
    Skipped(Reason),
}

/// A pod with its sidecar.
#[derive(Clone, Debug, PartialEq)]
pub struct Injected {
    /// The pod.
    pub pod: Value,
    /// What its owner should know.
    pub warnings: Vec<String>,
}

/// Why a pod can have no sidecar that works, by field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct InjectError(pub Vec<Fault>);

/// Gives a pod, or a pod's template, its sidecar. Doing it again changes nothing, or brings what an older version or
/// other settings have done up to date.
///
/// # Errors
/// When its annotations cannot be meant, when its probes cannot be led through the sidecar, when it takes a name or a
/// port that the sidecar needs, or would be taken for the sidecar itself.
pub fn inject(pod: &Value, around: &Surroundings, settings: &Settings) -> Result<Outcome, InjectError> {
    if let Decision::Skip(reason) = decide::decide(pod, around, &settings.root_namespace) {
        return Ok(Outcome::Skipped(reason));
    }
    let mut pod = plain(pod);
    let tuning = tuning::read(&annotations(&pod)).map_err(InjectError)?;
    check(&pod).map_err(InjectError)?;
    let native = tuning.native.unwrap_or(settings.native);
    let mut probes = Probes::default();
    let spec = pod.get_mut("spec").ok_or_else(|| InjectError(vec![Fault::new("spec", "missing")]))?;
    let before = probes.redirect(spec, &tuning.skip_inbound).map_err(InjectError)?;
    let mut warnings = warnings(spec, native);
    warnings.append(&mut probes.warnings);
    let (redirect, sidecar) =
        (container::redirect(settings, &tuning, &probes), container::sidecar(settings, &tuning, native));
    if native {
        // Before the application's own init containers, which may want to speak to others.
        put(spec, "initContainers", 0, [redirect, sidecar]);
    } else {
        // After them: while there is no proxy, rules would cut them off.
        put(spec, "initContainers", usize::MAX, [redirect]);
        put(spec, "containers", 0, [sidecar]);
    }
    put(spec, "volumes", usize::MAX, [container::volume()]);
    annotate(&mut pod, &bootstrap(settings, &probes), (&before, &settings.roots));
    Ok(Outcome::Injected(Injected { pod, warnings }))
}

/// The annotations of a pod that are text; the API server lets no others pass.
fn annotations(pod: &Value) -> BTreeMap<String, String> {
    let all = pod["metadata"]["annotations"].as_object().into_iter().flatten();
    all.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
}

/// Puts members into a list at a place, which is the end when it is behind it.
fn put<const N: usize>(spec: &mut Value, list: &str, place: usize, members: [Value; N]) {
    let Some(fields) = spec.as_object_mut() else { return };
    let slot = fields.entry(list).or_insert_with(|| json!([]));
    if slot.is_null() {
        *slot = json!([]);
    }
    if let Some(all) = slot.as_array_mut() {
        let place = place.min(all.len());
        all.splice(place..place, members);
    }
}

fn annotate(pod: &mut Value, bootstrap: &Value, (before, roots): (&Value, &str)) {
    if !pod["metadata"].is_object() {
        pod["metadata"] = json!({});
    }
    let metadata = &mut pod["metadata"];
    if !metadata["annotations"].is_object() {
        metadata["annotations"] = json!({});
    }
    let Some(annotations) = metadata["annotations"].as_object_mut() else { return };
    // Who says where metrics are means the application's, and there is room for one place.
    let scrape = !SCRAPE.iter().any(|(name, _)| annotations.contains_key(*name));
    if scrape {
        annotations.extend(SCRAPE.map(|(name, value)| (name.to_owned(), value.into())));
    }
    let mut status = json!({"version": env!("CARGO_PKG_VERSION"), "scrape": scrape});
    if before.as_object().is_some_and(|before| !before.is_empty()) {
        status["probes"] = before.clone();
    }
    annotations.insert(STATUS.to_owned(), status.to_string().into());
    annotations.insert(BOOTSTRAP.to_owned(), bootstrap.to_string().into());
    annotations.insert(ROOTS.to_owned(), roots.into());
}

fn warnings(spec: &Value, native: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    if !native && matches!(spec["restartPolicy"].as_str(), Some("Never" | "OnFailure")) {
        warnings.push(
            "config.outrider.dev/native-sidecar: a pod that is to end does not, because its sidecar goes on; use a \
             native sidecar"
                .to_owned(),
        );
    }
    warnings
}

/// What cannot be in a pod with a sidecar.
fn check(pod: &Value) -> Result<(), Vec<Fault>> {
    let (spec, mut faults) = (&pod["spec"], Vec::new());
    if spec["containers"].as_array().is_none_or(Vec::is_empty) {
        faults.push(Fault::new("spec.containers", "missing"));
    }
    if let Some(name) = decide::reserved_name(pod) {
        faults.push(Fault::new("spec", format!("the name \"{name}\" is kept for the sidecar; use another")));
    }
    for list in ["containers", "initContainers"] {
        for (index, container) in spec[list].as_array().into_iter().flatten().enumerate() {
            let path = format!("spec.{list}[{index}]");
            let id = |name: &str| {
                let own = &container["securityContext"][name];
                if own.is_null() { spec["securityContext"][name].as_u64() } else { own.as_u64() }
            };
            if id("runAsUser") == Some(PROXY_ID.into()) && id("runAsGroup") == Some(PROXY_ID.into()) {
                let reason = format!(
                    "user and group {PROXY_ID} are the sidecar's, whose connections are not redirected; use others"
                );
                faults.push(Fault::new(format!("{path}.securityContext"), reason));
            }
            let ports = container["ports"].as_array().into_iter().flatten();
            for (index, port) in ports.enumerate() {
                let number = port["containerPort"].as_u64().and_then(|number| u16::try_from(number).ok());
                if number.is_some_and(|number| OWN_PORTS.contains(&number)) {
                    let reason = "is a port of the sidecar; use another";
                    faults.push(Fault::new(format!("{path}.ports[{index}].containerPort"), reason));
                }
            }
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}
