//! A pod as it was before an injection.

use serde_json::{Map, Value};

use super::names::{BOOTSTRAP, REDIRECT_CONTAINER, ROOTS, SIDECAR_CONTAINER, STATUS, VOLUME};
use super::pod::SCRAPE;
use super::probes;

/// Undoes what an injection did to a pod or a pod's template; one without the mark of an injection stays as it is.
#[must_use]
pub fn plain(pod: &Value) -> Value {
    let mut pod = pod.clone();
    let noted = pod["metadata"]["annotations"][STATUS].as_str().map(str::to_owned);
    let Some(noted) = noted else { return pod };
    // What cannot be read holds no probes to put back; the rest of the injection is undone all the same.
    let status: Value = serde_json::from_str(&noted).unwrap_or_default();
    if let Some(spec) = pod.get_mut("spec") {
        remove(spec, "containers", &[SIDECAR_CONTAINER]);
        remove(spec, "initContainers", &[SIDECAR_CONTAINER, REDIRECT_CONTAINER]);
        remove(spec, "volumes", &[VOLUME]);
        if let Some(before) = status.get("probes").filter(|before| before.is_object()) {
            probes::restore(spec, before);
        }
    }
    let scraped = status["scrape"] == true;
    if let Some(annotations) = pod.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        for name in [STATUS, BOOTSTRAP, ROOTS] {
            annotations.remove(name);
        }
        for (name, value) in SCRAPE {
            if scraped && annotations.get(name).is_some_and(|current| current == value) {
                annotations.remove(name);
            }
        }
    }
    for (at, name) in [("", "metadata"), ("/metadata", "annotations")].into_iter().rev() {
        drop_empty(pod.pointer_mut(at), name);
    }
    pod
}

/// Takes the members of a list that have one of the names, and the list with its last member.
fn remove(spec: &mut Value, list: &str, names: &[&str]) {
    let Some(members) = spec.get_mut(list).and_then(Value::as_array_mut) else { return };
    members.retain(|member| !member["name"].as_str().is_some_and(|name| names.contains(&name)));
    if members.is_empty()
        && let Some(fields) = spec.as_object_mut()
    {
        fields.remove(list);
    }
}

fn drop_empty(parent: Option<&mut Value>, name: &str) {
    let Some(fields) = parent.and_then(Value::as_object_mut) else { return };
    if fields.get(name).and_then(Value::as_object).is_some_and(Map::is_empty) {
        fields.remove(name);
    }
}
